# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The worst and the best frames of a bag as pictures, chosen while the bag passes by.

A bag is divided into moments of one second (shorter ones where it is short), each stands for its
worst frame, and of these the worst are shown that are a moment apart: neighbors look all the same.
The choice is that of a search over the whole bag, although only a few frames are ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_frames import EvalFrame
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_ros.overlay import blend, colorize, palette

Image = NDArray[np.uint8]

WIDTH = 640  # pixels; wider pictures are shrunk
QUALITY = 88  # of JPEG
FINEST = 1 / 64  # seconds; moments of a short bag begin here and double until they are few
APART = 1.0  # seconds; moments do not grow longer
RIGHT, WRONG, UNKNOWN = (205, 213, 222), (226, 84, 44), (58, 62, 68)  # colors of the error map


class End(NamedTuple):
    """The lowest values of a ranking (sign 1) or the highest (-1); sign * value is < `limit`."""

    kind: str
    sign: int
    limit: float = math.inf


# By what frames are ranked: the first that a bag turns out to have. A further bundle is also held
# against the first one: by what it loses and gains, or by how much both agree.
BOTH_ENDS = (End('worst', 1), End('best', -1))
OWN = {'miou': BOTH_ENDS, 'consistency': BOTH_ENDS, 'confidence': BOTH_ENDS}
AGAINST_FIRST = {'miou_change': (End('regression', 1, 0.0), End('improvement', -1, 0.0)),
                 'agreement': (End('difference', 1, 1.0),)}


class Packed(NamedTuple):
    """What the pictures of a frame are made of, in little memory; ids are PNGs."""

    number: int
    rgb: bytes  # a JPEG
    aux: bytes  # a JPEG
    label: bytes
    base: bytes  # label of the first bundle, for the others
    target: bytes


class Shot:
    """One bundle on one frame, rated; `pack` frees the frame and keeps what is needed of it."""

    def __init__(self, gallery: Gallery, frame: EvalFrame, lane: int, value: float) -> None:
        """Keep the frame as it is; packing most frames would be in vain."""
        self.record = frame.records[lane]
        self.lane, self.value = lane, value
        self.time_s = self.record.time_s
        self._frame: EvalFrame | None = frame
        self._packed: Packed | None = None
        self._gallery = gallery

    def pack(self) -> None:
        """Let go of the frame."""
        if self._frame is not None:
            self._packed = _pack(self._frame, self.lane)
            self._frame = None

    @cached_property
    def files(self) -> dict[str, tuple[str, bytes]]:
        """Return what is shown -> name of the file, content; of the few that are chosen."""
        assert self._packed is not None
        return self._gallery.encode(self._packed, self.lane)


class Extremes:
    """The `count` most extreme of a stream of shots, a moment apart from each other."""

    def __init__(self, end: End, count: int) -> None:
        """Start empty."""
        self.end, self.count, self.step = end, count, FINEST
        self._open: Shot | None = None  # the extreme of the present moment, not encoded yet
        self._kept: dict[int, Shot] = {}  # moment -> its extreme

    def add(self, shot: Shot) -> None:
        """Take the next shot, in the order of the bag."""
        if self.end.sign * shot.value >= self.end.limit:
            return
        if self._open is not None and self._moment(shot) != self._moment(self._open):
            self._close()
        if self._open is None or self._rank(shot) < self._rank(self._open):
            self._open = shot

    @property
    def moments(self) -> int:
        """How many moments are kept: all of a short bag."""
        return len(self._kept)

    def chosen(self) -> list[Shot]:
        """Return the shots, the most extreme first."""
        self._close()
        chosen: list[Shot] = []
        for shot in sorted(self._kept.values(), key=self._rank):
            if len(chosen) < self.count and all(
                    abs(shot.time_s - other.time_s) >= self.step for other in chosen):
                chosen.append(shot)
        return chosen

    def _rank(self, shot: Shot) -> tuple[float, int]:
        return self.end.sign * shot.value, shot.record.number

    def _moment(self, shot: Shot) -> int:
        return math.floor(shot.time_s / self.step)

    def _close(self) -> None:
        """Let the open moment in if it belongs to the extreme ones."""
        shot, self._open = self._open, None
        if shot is None:
            return
        # A chosen shot hides at most one of each moment beside its own, so that three times as
        # many moments hold all that can be chosen. Shorter than a second they are all kept.
        full = self.step == APART and len(self._kept) >= 3 * self.count
        if full and self._rank(shot) > max(map(self._rank, self._kept.values())):
            return
        self._put(shot)
        while len(self._kept) > 6 * self.count and self.step < APART:
            self.step *= 2
            shots, self._kept = list(self._kept.values()), {}
            for other in shots:
                self._put(other)
        if self.step == APART:
            ranked = sorted(self._kept.items(), key=lambda item: self._rank(item[1]))
            self._kept = dict(ranked[:3 * self.count])

    def _put(self, shot: Shot) -> None:
        moment = self._moment(shot)
        other = self._kept.get(moment)
        if other is None or self._rank(shot) < self._rank(other):
            shot.pack()
            self._kept[moment] = shot


class Ranking:
    """The ends of one bundle's frames by the first measure that the bag turns out to have."""

    def __init__(self, gallery: Gallery, lane: int, measures: Mapping[str, Sequence[End]]) -> None:
        """Start without a measure."""
        self.gallery, self.lane, self.measures = gallery, lane, measures
        self.measure = ''
        self.ends: list[Extremes] = []

    def add(self, frame: EvalFrame) -> None:
        """Rate the frame; a better measure than before makes all frames before it void."""
        for measure, ends in self.measures.items():
            value = _rate(frame, self.lane, measure)
            if math.isfinite(value):
                if measure != self.measure:
                    self.measure = measure
                    self.ends = [Extremes(end, self.gallery.count) for end in ends]
                shot = Shot(self.gallery, frame, self.lane, value)
                for extremes in self.ends:
                    extremes.add(shot)
            if measure == self.measure:  # those behind it do not count any more
                return

    def pictures(self) -> Iterator[tuple[dict[str, Any], Shot]]:
        """Yield an entry of BagResult.pictures and its shot; no frame stands at two ends."""
        lists = [extremes.chosen() for extremes in self.ends]
        if self.ends and self.ends[0].end in BOTH_ENDS:
            moments = self.ends[0].moments
            if moments < 2 * self.gallery.count:  # a short bag is shared out
                lists[0] = lists[0][:(moments + 1) // 2]
        taken: set[int] = set()
        for extremes, shots in zip(self.ends, lists, strict=True):
            fresh = [shot for shot in shots if shot.record.number not in taken]
            taken |= {shot.record.number for shot in fresh}
            for rank, shot in enumerate(fresh):
                yield {'bundle': shot.record.bundle, 'kind': extremes.end.kind, 'rank': rank,
                       'number': shot.record.number, 'measure': self.measure,
                       'value': shot.value,
                       'files': {key: name for key, (name, _) in shot.files.items()}}, shot


class Gallery:
    """Keeps the worst and best frames of each bundle, and where it differs from the first one."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo], bundles: Sequence[str],
                 count: int, alpha: float = 0.6) -> None:
        """Remember the place; `count` frames of each kind, 0 for none, are written at the end."""
        self.folder, self.count, self.alpha = folder, count, alpha
        self.table = palette(classes)
        lanes = range(len(bundles) if count else 0)
        self._rankings = [Ranking(self, lane, OWN) for lane in lanes]
        self._rankings += [Ranking(self, lane, AGAINST_FIRST) for lane in lanes if lane]

    def __enter__(self) -> Gallery:
        """Begin."""
        return self

    def add(self, frame: EvalFrame) -> None:
        """Take the next frame, in order."""
        for ranking in self._rankings:
            ranking.add(frame)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Write the pictures; nothing after an exception."""
        if kind is not None:
            return
        for ranking in self._rankings:
            for _, shot in ranking.pictures():
                self.folder.mkdir(exist_ok=True)
                for name, content in shot.files.values():
                    (self.folder / name).write_bytes(content)

    def pictures(self) -> list[dict[str, Any]]:
        """Return what was chosen, as BagResult has it.

        `measure` is what the frame was ranked by and `value` what it has there; `files` are names
        in the folder: rgb, aux, mask, overlay, target, error, baseline_mask, baseline_error.
        """
        return [entry for ranking in self._rankings for entry, _ in ranking.pictures()]

    def encode(self, packed: Packed, lane: int) -> dict[str, tuple[str, bytes]]:
        """Return what is shown of a frame -> name and content of its file."""
        label = _unpack(packed.label)
        rgb = cv2.cvtColor(_unpack(packed.rgb), cv2.COLOR_BGR2RGB)
        shown = {'mask': (f'{lane}_mask.png', colorize(label, self.table)),
                 'overlay': (f'{lane}_overlay.jpg', blend(rgb, label, self.table, self.alpha))}
        against = {'': (lane, label)}
        if packed.base:
            base = _unpack(packed.base)
            against['baseline_'] = (0, base)
            shown['baseline_mask'] = ('0_mask.png', colorize(base, self.table))
        if packed.target:
            target = _unpack(packed.target)
            shown['target'] = ('target.png', colorize(target, self.table))
            for prefix, (number, ids) in against.items():
                shown[f'{prefix}error'] = (f'{number}_error.png', error_map(ids, target))
        made = {'rgb': ('rgb.jpg', packed.rgb), 'aux': (f'{lane}_aux.jpg', packed.aux),
                **{key: (name, _encode(image, name)) for key, (name, image) in shown.items()}}
        return {key: (f'{packed.number:06d}_{name}', content)
                for key, (name, content) in made.items()}


def _pack(frame: EvalFrame, lane: int) -> Packed:
    """Return a frame at the size of the pictures: a third of the time that all of them take."""
    pair, own, first = frame.pair, frame.lanes[lane], frame.lanes[0]
    return Packed(pair.number, _encode(_shrunk(own.rgb), 'rgb.jpg'),
                  _encode(_shrunk(viewable(own.aux)), 'aux.jpg'), _pack_ids(own.label),
                  _pack_ids(first.label) if lane else b'',
                  b'' if pair.target is None else _pack_ids(pair.target))


def _pack_ids(ids: Image) -> bytes:
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return cv2.imencode('.png', _shrunk(ids, cv2.INTER_NEAREST), fast)[1].tobytes()


def _unpack(picture: bytes) -> Image:
    return cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_UNCHANGED)


def error_map(label: Image, target: Image) -> Image:
    """Return RIGHT, WRONG or UNKNOWN (no target) for each pixel, uint8 (H, W, 3)."""
    table = np.array([UNKNOWN, RIGHT, WRONG], np.uint8)
    return table[np.where(target == UNLABELED, 0, np.where(label == target, 1, 2))]


def viewable(aux: Image) -> Image:
    """Return an aux image of any number of channels as gray (h, w) or RGB (h, w, 3)."""
    if aux.ndim == 2 or aux.shape[2] == 3:
        return aux
    if aux.shape[2] == 1:
        return aux[..., 0]
    if aux.shape[2] == 2:
        return np.dstack([aux, np.zeros_like(aux[..., :1])])
    return np.ascontiguousarray(aux[..., :3])


def _rate(frame: EvalFrame, lane: int, measure: str) -> float:
    record = frame.records[lane]
    if measure == 'miou_change':
        return record.miou - frame.records[0].miou
    return float(getattr(record, measure))


def _shrunk(image: Image, method: int = cv2.INTER_AREA) -> Image:
    if image.shape[1] <= WIDTH:
        return image
    size = (WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))
    return cv2.resize(image, size, interpolation=method)


def _encode(image: Image, name: str) -> bytes:
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if name.endswith('.jpg') else []
    return cv2.imencode(Path(name).suffix, image, options)[1].tobytes()
