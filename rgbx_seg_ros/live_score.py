# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Masks against labels while the node runs: joined by the stamp of RGB, counted on a thread apart.

Whoever brings a label or a mask only leaves it in a bounded buffer; whichever of the two comes
second sends both to the thread, which decodes the label and adds to the confusion matrix.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError, incoming
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.label_decoder import Decoder
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.statuses import Score
from rgbx_seg_ros.sync import JUMP_NS

KEPT = 64  # labels, and masks, that wait for each other: two seconds of a camera
KEPT_BYTES = 64 << 20  # of each
QUEUE = 4  # joined ones that wait for the thread

Image = NDArray[np.uint8]
Read = Callable[[], Image]  # returns a label's class ids (H, W), or raises RgbxSegError
Item = TypeVar('Item')


@dataclass(frozen=True)
class ScoreConfig:
    """Whether labels are listened to, the parameters score.*."""

    labels: bool = False
    transport: str = 'raw'


class Joined(NamedTuple):
    """A mask and how to read its label."""

    mask: Image
    read: Read


class LiveScore:
    """The running score of one camera pair; every method may be called from any thread."""

    def __init__(self, classes: Sequence[ClassInfo], tell: Callable[[str, str], None],
                 found: Sequence[ClassInfo] | None = None) -> None:
        """Start at zero; `tell` hears, by cause, why a label is refused.

        Labels are of `classes`, masks of the classes `found`, by default the same ones.
        """
        found = classes if found is None else found
        self._names = {info.id: info.name for info in found}
        self._tell = tell
        self._decoder = Decoder(classes, found=found)
        self._confusion = Confusion(max(self._names) + 1)  # the thread's own
        self._lock = Lock()  # of all that follows
        self._labels: _Waiting[Read] = _Waiting()
        self._masks: _Waiting[Image] = _Waiting()
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._queued = 0
        self._score = Score()
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, 'score')

    @property
    def score(self) -> Score:
        """Return the score so far."""
        with self._lock:
            return self._score._replace(
                labels=self._counts['labels'], without_mask=self._labels.lost,
                without_label=self._masks.lost, skipped=self._counts['skipped'],
                refused=dict(self._refused))

    def add_message(self, message: Any) -> None:
        """Take a label as an Image or CompressedImage; it is read when its mask is there."""
        try:
            incoming.check_label(message)
        except ImageError as error:
            self.refuse(error)
            return
        self.add_label(incoming.stamp_ns(message.header),
                       partial(self._decoder.of_message, message, 'a label'), len(message.data))

    def add_label(self, stamp_ns: int, read: Read, size: int) -> None:
        """Take a label of `size` bytes, by the stamp of its RGB frame."""
        with self._lock:
            self._counts['labels'] += 1
            self._labels.note(stamp_ns)
            mask = self._masks.pop(stamp_ns)
            if mask is None:
                self._labels.put(stamp_ns, read, size)
            else:
                self._hand_over(Joined(mask, read))

    def add_mask(self, stamp_ns: int, mask: Image) -> None:
        """Take a published mask, which nobody changes any more."""
        with self._lock:
            self._masks.note(stamp_ns)
            read = self._labels.pop(stamp_ns)
            if read is None:
                self._masks.put(stamp_ns, mask, mask.nbytes)
            else:
                self._hand_over(Joined(mask, read))

    def refuse(self, error: ImageError) -> None:
        """Count a label that is of no use, as could be seen when it came."""
        with self._lock:
            self._counts['labels'] += 1
        self._refuse(error.cause, str(error))

    def drain(self) -> None:
        """Return when all that was joined has been counted."""
        if self._thread is not None:
            self._thread.submit(int).result()

    def close(self) -> None:
        """End the thread; what comes later is not counted."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=True, cancel_futures=True)

    def _hand_over(self, joined: Joined) -> None:
        if self._thread is None:
            return
        if self._queued >= QUEUE:  # large labels on a slow machine: a score of some serves as well
            self._counts['skipped'] += 1
            return
        self._queued += 1
        self._thread.submit(self._count, joined)

    # On the thread

    def _count(self, joined: Joined) -> None:
        try:
            self._confusion += self._counted(joined.mask, joined.read())
            self._publish()
        except ImageError as error:
            self._refuse(error.cause, str(error))
        except RgbxSegError as error:
            self._refuse('content', str(error))
        except Exception as error:  # the thread must go on, and someone must know
            self._refuse('decode', f'a label cannot be read ({type(error).__name__}: {error}).')
        finally:
            with self._lock:
                self._queued -= 1

    def _counted(self, mask: Image, label: Image) -> Confusion:
        """Return the counts of one image, all or none."""
        _check_size(label, mask.shape)
        confusion = Confusion(self._confusion.n_classes)
        confusion.update(mask, label)
        return confusion

    def _publish(self) -> None:
        confusion, scored = self._confusion, self._score.scored + 1
        iou = confusion.iou()
        some = bool(np.isfinite(iou).any())
        score = Score(scored=scored, miou=confusion.miou(),
                      miou_strict=confusion.miou(strict=True) if some else float('nan'),
                      accuracy=confusion.accuracy(),
                      iou={name: float(iou[number]) for number, name in self._names.items()})
        with self._lock:
            self._score = score

    def _refuse(self, cause: str, sentence: str) -> None:
        with self._lock:
            self._refused[cause] += 1
            self._score = self._score._replace(fault=sentence)
        self._tell(f'label {cause}', f'{sentence} More of this kind are only counted.')


def _check_size(label: Image, shape: Sequence[int]) -> None:
    if label.shape != tuple(shape):
        raise ImageError('size', f'a label is {label.shape[1]}x{label.shape[0]}; expected '
                                 f'{shape[1]}x{shape[0]} as the RGB image.')


class _Waiting(Generic[Item]):
    """What waits for its partner, by stamp, bounded in number and in bytes."""

    def __init__(self) -> None:
        self.lost = 0  # that no partner came for in time
        self._items: OrderedDict[int, tuple[Item, int]] = OrderedDict()
        self._bytes = 0
        self._newest_ns = 0

    def note(self, stamp_ns: int) -> None:
        """Give up what waits since the lap of a bag before, if this stamp has jumped back."""
        # Only its own stream's: what waits of the other one may be of the new lap already.
        if stamp_ns < self._newest_ns - JUMP_NS:
            for stamp in [stamp for stamp in self._items if stamp > stamp_ns + JUMP_NS]:
                self._drop(stamp)
            self._newest_ns = stamp_ns
        self._newest_ns = max(stamp_ns, self._newest_ns)

    def put(self, stamp_ns: int, item: Item, size: int) -> None:
        """Let an item wait; the oldest ones go where there are too many."""
        self._drop(stamp_ns)
        self._items[stamp_ns] = (item, size)
        self._bytes += size
        while len(self._items) > KEPT or self._bytes > KEPT_BYTES:
            self._drop(next(iter(self._items)))

    def pop(self, stamp_ns: int) -> Item | None:
        """Return the item with a stamp, which waits no longer, or None."""
        item, size = self._items.pop(stamp_ns, (None, 0))
        self._bytes -= size
        return item

    def _drop(self, stamp_ns: int) -> None:
        self.lost += self.pop(stamp_ns) is not None
