# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The pairs of a bag as the node would get them, decoded, with their labels and their depth.

Frames go through the node's Feed in the order of their reception, which is what counts as time; it
is polled in between as the node polls it. So nothing depends on a clock, and no pair is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError, incoming
from rgbx_seg_ros.bag import MessageError, RawMessage, read_messages, to_image
from rgbx_seg_ros.degraded import Feed
from rgbx_seg_ros.depth_images import DepthImages
from rgbx_seg_ros.eval_calibration import Calibration, Kinds
from rgbx_seg_ros.eval_decoding import Decoded, Waiting, decode, rgb_stamp
from rgbx_seg_ros.eval_frames import BagPair
from rgbx_seg_ros.eval_labels import FolderLabels, TopicLabels
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.eval_sync import SyncReport
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.label_decoder import Decoder
from rgbx_seg_ros.manifest import ClassInfo, Manifest
from rgbx_seg_ros.registration import Registration
from rgbx_seg_ros.sync import STREAMS, Pair

Floats = NDArray[np.float32]

POLL_NS = 20_000_000  # as the node's intake, where nothing arrives
PATIENCE_NS = 1_000_000_000  # longest wait within the pairer
LABEL_WAIT_NS = 5_000_000_000  # how much later than its frame a label may come in the bag
DECODERS = 3  # threads; OpenCV decodes beside Python, and a GPU waits for one alone
MAX_WAITING_BYTES = 1 << 28  # of images that wait for their labels, and of labels for their images


def open_source(bag: Path, settings: EvalSettings, manifest: Manifest,
                labeled: Sequence[ClassInfo] | None = None) -> BagSource:
    """Return the pairs of a bag, to be iterated once.

    The ids in labels are of the classes `labeled`, by default those of `manifest`, whose ids they
    become.

    Raises:
        RgbxSegError: the bag cannot be read, its topics cannot be told, or it lacks what the
            registration needs; iterating raises it as well, for what shows later.

    """
    return BagSource(bag, settings, manifest, labeled)


class BagSource:
    """Iterates the pairs of a bag, reading on the thread that asks and decoding on others."""

    def __init__(self, bag: Path, settings: EvalSettings, manifest: Manifest,
                 labeled: Sequence[ClassInfo] | None = None) -> None:
        """Find the topics and what the registration needs; raises RgbxSegError."""
        self.bag = bag
        kinds = Kinds(bag)
        self.topics = kinds.choose(settings, manifest.modality)
        self.expected = min(kinds.count(self.topics.rgb), kinds.count(self.topics.aux))
        self.notes: list[str] = []  # what the reader of the report should know
        self._pair_settings = settings.pair
        self.calibration = Calibration(bag, kinds, self.topics, settings.pair, manifest.modality)
        decoder = Decoder(manifest.classes if labeled is None else labeled, settings.palette,
                          manifest.classes)
        self._labels: FolderLabels | TopicLabels | None = None
        if settings.labels is not None:
            self._labels = FolderLabels(settings.labels, decoder)
        elif self.topics.label:
            self._labels = TopicLabels(self.topics.label, kinds.count(self.topics.label), decoder)
        if self._labels is not None:
            self.notes += decoder.notes()
        self._restart()

    def _restart(self) -> None:
        self._feed = Feed(self._pair_settings.sync, self._pair_settings.degraded)
        self._depths = DepthImages(self._pair_settings.sync.max_skew_s)
        self._sync = SyncReport()
        self._waiting: deque[Waiting] = deque()
        self._bytes = 0  # of what waits
        self._rgb_frame_id = ''
        self._number = self.labeled = 0
        self._last_ns: int | None = None  # arrival of the last image

    @property
    def duration_s(self) -> float:
        """The time from the first reception of an image to the last, as far as it was read."""
        return self._sync.duration_s

    def calibrate(self, registration: Registration) -> None:
        """Give a registration what the bag knows of the cameras."""
        self.calibration.give(registration)

    def __iter__(self) -> Iterator[BagPair]:
        """Yield the pairs in the node's order; RgbxSegError for what cannot be read or used."""
        self._restart()
        rgb, aux, label = self.topics
        takes: dict[str, Callable[[RawMessage], None]] = {
            rgb: partial(self._take_image, 'rgb'),
            aux: partial(self._take_image, 'aux')}
        if isinstance(self._labels, TopicLabels):
            takes[label or ''] = self._take_label
        if self.calibration.depth_topic:
            takes[self.calibration.depth_topic] = self._take_depth
        takes.update(dict.fromkeys(self.calibration.watched, self._take_info))
        with ThreadPoolExecutor(DECODERS, 'decode') as pool:
            yield from self._decode_ahead(pool, self._read(takes))
        self._tell_labels()

    def _read(self, takes: Mapping[str, Callable[[RawMessage], None]]) -> Iterator[Waiting]:
        for raw in read_messages(self.bag, takes.keys()):
            try:
                takes[raw.channel.topic](raw)
            except MessageError as error:
                raise RgbxSegError(f'{self.bag}: {error}') from None
            yield from self._ready(raw.received_ns)
        self._hold(self._feed.flush())
        yield from self._ready(None)

    def _decode_ahead(self, pool: ThreadPoolExecutor, found: Iterator[Waiting]
                      ) -> Iterator[BagPair]:
        """Yield the pairs in order, while those that follow are being decoded."""
        ahead: deque[tuple[Waiting, Future[Decoded]]] = deque()
        for waiting in found:
            ahead.append((waiting, pool.submit(decode, waiting)))
            if len(ahead) > DECODERS:
                first, future = ahead.popleft()
                yield from self._finish(first, future.result())
        for first, future in ahead:
            yield from self._finish(first, future.result())

    def sync(self) -> dict[str, Any]:
        """Return how the two streams fit, of what was iterated, for the report."""
        labels = {} if self._labels is None else {
            'labels': {'found': self._labels.found, 'used': self.labeled}}
        return {**self._sync.summary(self._feed.drops), **labels,
                'notes': [*self.notes, *self.calibration.notes]}

    # What the messages of a topic do

    def _take_image(self, stream: str, raw: RawMessage) -> None:
        """Hand one image over to the feed, as the node's intake does."""
        now = raw.received_ns
        self._poll_until(now)
        try:
            image = to_image(raw)
            self._sync.receive(stream, image.stamp_ns, now)
            lost = incoming.check(stream, image.message)
        except (ImageError, MessageError) as error:
            self._skip(stream, error)
            return
        if lost:
            self._note(lost)
        self._hold(self._feed.add(stream, image.stamp_ns, now, image, image.message.data))
        self._hold(self._feed.poll(now))

    def _poll_until(self, now: int) -> None:
        """Poll as often as the node would have since the last image; in the end nothing is due."""
        if self._last_ns is not None and now > self._last_ns + POLL_NS:
            config = self._feed.config
            longest = round((config.timeout_s + self._feed.pairer.config.max_wait_s) * 1e9)
            end = min(now, self._last_ns + longest + PATIENCE_NS)
            for at in range(self._last_ns + POLL_NS, end, POLL_NS):
                self._hold(self._feed.poll(at))
        self._last_ns = now

    def _take_label(self, raw: RawMessage) -> None:
        assert isinstance(self._labels, TopicLabels)
        label = to_image(raw)
        self._sync.receive('label', label.stamp_ns, label.received_ns)
        self._labels.add(label.stamp_ns, label.received_ns, label.message)
        self._labels.forget(label.received_ns - LABEL_WAIT_NS, MAX_WAITING_BYTES)
        if self._sync.in_order('label'):
            for waiting in self._waiting:
                waiting.passed |= rgb_stamp(waiting.pair) < label.stamp_ns

    def _take_depth(self, raw: RawMessage) -> None:
        self._depths.add(to_image(raw).message)

    def _take_info(self, raw: RawMessage) -> None:
        self.calibration.watch(raw)

    # Pairs on their way out

    def _hold(self, pairs: list[Pair]) -> None:
        """Queue pairs with the depth that the node would find for them now."""
        for pair in pairs:
            images = [frame.data for frame in pair[:2] if frame]
            size = sum(memoryview(image.message.data).nbytes for image in images)
            stamp_ns, frame_id = self._header(pair)
            depth = self._depth(stamp_ns) if self.calibration.depth_topic else None
            self._waiting.append(Waiting(pair, stamp_ns, frame_id, depth,
                                          max(image.received_ns for image in images), size))
            self._bytes += size

    def _ready(self, now: int | None) -> Iterator[Waiting]:
        """Yield the pairs whose labels are there or will not come; all if `now` is None."""
        while self._waiting and (now is None or self._is_settled(self._waiting[0], now)):
            waiting = self._waiting.popleft()
            self._bytes -= waiting.size
            if self._labels is not None and (stamp_ns := rgb_stamp(waiting.pair)) > 0:
                waiting.read_target = self._labels.take(stamp_ns)
            yield waiting

    def _is_settled(self, waiting: Waiting, now: int) -> bool:
        labels = self._labels
        if not isinstance(labels, TopicLabels) or rgb_stamp(waiting.pair) <= 0:
            return True
        return (rgb_stamp(waiting.pair) in labels or labels.is_over or waiting.passed
                or now > waiting.received_ns + LABEL_WAIT_NS or self._bytes > MAX_WAITING_BYTES)

    def _finish(self, waiting: Waiting, decoded: Decoded) -> Iterator[BagPair]:
        """Yield the pair with its pixels; nothing, but count it, where the node would skip it."""
        if decoded.fault is not None:
            self._skip(*decoded.fault)
            return
        pair = waiting.pair
        rgb, aux = (frame.data if frame else None for frame in pair[:2])
        self._check_target(decoded, rgb_stamp(pair))
        done = BagPair(
            self._number, decoded.rgb, decoded.aux, aux.encoding if aux else '', waiting.depth,
            decoded.target, waiting.stamp_ns, waiting.frame_id, rgb.stamp_ns if rgb else 0,
            aux.stamp_ns if aux else 0, waiting.received_ns, pair.skew_ns, pair.state,
            decoded.decode_ms)
        self._sync.pair(done)
        self._number += 1
        yield done

    def _header(self, pair: Pair) -> tuple[int, str]:
        """Return stamp and frame of the mask, as the node's CameraPair writes its header."""
        if pair.rgb is not None:
            self._rgb_frame_id = pair.rgb.data.frame_id
            if pair.aux is None or pair.state != 'hold_rgb':
                return pair.rgb.stamp_ns, self._rgb_frame_id
        assert pair.aux is not None
        return pair.aux.stamp_ns, self._rgb_frame_id

    def _check_target(self, decoded: Decoded, stamp_ns: int) -> None:
        if decoded.target is None or decoded.rgb is None or self._labels is None:
            return
        target, shape = decoded.target, decoded.rgb.shape
        if target.shape != shape[:2]:
            raise RgbxSegError(
                f'{self.bag}: {self._labels.where(stamp_ns)} is {target.shape[1]}x'
                f'{target.shape[0]}, expected {shape[1]}x{shape[0]} as the frame on '
                f'{self.topics.rgb} has; resize it by nearest neighbor.')
        self.labeled += 1

    def _depth(self, stamp_ns: int) -> Floats | None:
        """Return the depth at a stamp in meters; None, told, if there is none."""
        try:
            return self._depths.meters(stamp_ns)
        except (ImageError, RgbxSegError) as error:  # masks go on without, as the node's do
            self._note(f'{self.calibration.depth_topic}: {error}')
            return None

    def _skip(self, stream: str, error: Exception) -> None:
        """Count an image that cannot be used, and keep why of the first."""
        self._sync.undecodable[stream] += 1
        if self._sync.undecodable[stream] == 1:
            topic = self.topics[STREAMS.index(stream)]
            self._note(f'{topic}: {error} Skipped; more of this kind are only counted.')

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes and len(self.notes) < 20:
            self.notes.append(sentence)

    def _tell_labels(self) -> None:
        if self._labels is not None and not self.labeled:
            self._note(f'none of the {self._labels.found} labels has the stamp of an RGB frame in '
                       f'a pair; expected the header of {self.topics.rgb}, to the nanosecond.')
