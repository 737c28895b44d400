# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of a bag evaluation: of each frame, and the counts of the whole bag.

Written so that it can run beside an engine: what the bundles have in common is computed once, and
every histogram of a frame serves all the numbers that can be read from it. docs/metrics.md says
what each number means.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.consistency import Motion, MotionTracker, kept
from rgbx_seg_ros.eval_frames import BagPair, Image, LaneResult
from rgbx_seg_ros.eval_result import FrameRecord, LaneTotals
from rgbx_seg_ros.metrics import Confusion, Counts, check_ids, value_counts
from rgbx_seg_ros.metrics_boundary import BoundaryIou, outlines
from rgbx_seg_ros.metrics_calibration import Calibration, entropy_bound

NAN = float('nan')


class _View(NamedTuple):
    """What all bundles have in common of a frame."""

    brightness: float  # mean luma 0..255
    outlines: Image | None  # of the target
    motion: Motion | None  # since the frame before


class Shared:
    """Computes what the scorers of one bag have in common, once for each frame."""

    def __init__(self) -> None:
        """Start before the first frame."""
        self._tracker = MotionTracker()
        self._last: tuple[BagPair, _View] | None = None

    def __call__(self, pair: BagPair, first: LaneResult) -> _View:
        """Return what is common of a pair; `first` is the result of the first bundle."""
        if self._last is None or self._last[0] is not pair:
            self._last = pair, self._look(pair, first)
        return self._last[1]

    def _look(self, pair: BagPair, first: LaneResult) -> _View:
        gray = cv2.cvtColor(first.rgb, cv2.COLOR_RGB2GRAY)  # luma of ITU-R BT.601
        motion = None
        if pair.state == 'paired':
            motion = self._tracker(gray, first.aux, pair.stamp_ns)
        else:
            self._tracker.reset()
        return _View(NAN if pair.rgb is None else cv2.mean(gray)[0],
                     None if pair.target is None else outlines(pair.target), motion)


class Scorer:
    """Scores one bundle on one bag, frame by frame, in order."""

    def __init__(self, n_classes: int, shared: Shared | None = None) -> None:
        """Start at zero; the scorers of several bundles on one bag are given the same `shared`."""
        self._shared = shared or Shared()
        self._confusion = Confusion(n_classes)
        self._boundary = BoundaryIou(n_classes)
        self._calibration = Calibration()
        self._with_aux, self._without_aux = Confusion(n_classes), Confusion(n_classes)
        self._entropy = entropy_bound(n_classes)
        self._counts: list[Counts] = []
        self._fractions: list[Counts] = []
        self._before: Image | None = None

    def add(self, pair: BagPair, lane: LaneResult, first: LaneResult, bundle: str,
            start_ns: int) -> FrameRecord:
        """Count the next pair and return its numbers.

        Raises:
            RgbxSegError: the target has another size than the mask, or one of them an id that is
                neither a class nor 255.

        """
        view = self._shared(pair, first)
        scores, sure = self._score(lane, pair.target, view.outlines)
        consistency = NAN
        if view.motion is not None and self._before is not None:
            consistency = kept(view.motion, self._before, lane.label)
        self._before = lane.label
        lost = pair.rgb is None or pair.aux is None
        pixels = max(1, lane.label.size)
        return FrameRecord(
            bundle, pair.number, pair.stamp_ns, pair.aux_ns, (pair.stamp_ns - start_ns) / 1e9,
            pair.state, NAN if lost else pair.skew_ns / 1e6, view.brightness,
            NAN if pair.aux is None else contrast(lane.aux),
            float(sure @ np.arange(256)) / pixels / 255, float(sure @ self._entropy) / pixels,
            *scores, consistency, self._ablate(lane, pair.target),
            NAN if lane is first else 1 - changed(lane.label, first.label),
            pair.decode_ms, lane.thermal_ms, lane.registration_ms, lane.resize_ms, lane.engine_ms)

    def totals(self) -> LaneTotals:
        """Return the counts of all frames so far."""
        n = self._confusion.n_classes
        return LaneTotals(
            self._confusion.matrix.copy(), self._confusion.abstained.copy(),
            self._boundary.counts.copy(), self._calibration.counts.copy(),
            _with_abstained(self._with_aux), _with_abstained(self._without_aux),
            np.array(self._counts, np.int64).reshape(-1, 3, n),
            np.array(self._fractions, np.int64).reshape(-1, n))

    def _score(self, lane: LaneResult, target: Image | None, true: Image | None
               ) -> tuple[tuple[int, float, float, float], Counts]:
        """Return labeled pixels, accuracy, mIoU and boundary mIoU, and counts of confidences."""
        n = self._confusion.n_classes
        if target is None:
            labels = value_counts(lane.label)
            check_ids(labels, n, 'predicted label')
            self._fractions.append(labels[:n])
            self._counts.append(np.zeros((3, n), np.int64))
            return (0, NAN, NAN, NAN), value_counts(lane.confidence)
        confusion, boundary = Confusion(n), BoundaryIou(n)
        self._fractions.append(confusion.update(lane.label, target).sum(0)[:n])
        boundary.update(lane.label, target, true)
        sure = self._calibration.update(lane.label, lane.confidence, target)
        self._confusion += confusion
        self._boundary += boundary
        self._counts.append(np.stack(
            [np.diag(confusion.matrix), confusion.matrix.sum(0), confusion.true()]))
        return (int(confusion.true().sum()), confusion.accuracy(), confusion.miou(),
                boundary.miou()), sure

    def _ablate(self, lane: LaneResult, target: Image | None) -> float:
        """Return the share of pixels whose label changes without aux; NaN if that was not run."""
        if lane.without_aux is None:
            return NAN
        if target is not None:
            self._with_aux.update(lane.label, target)
            self._without_aux.update(lane.without_aux, target)
        return changed(lane.label, lane.without_aux)


def _with_abstained(confusion: Confusion) -> Counts:
    """Return (K, K + 1) counts, whose last column is of targets that the mask left open."""
    return np.column_stack([confusion.matrix, confusion.abstained])


def contrast(image: Image) -> float:
    """Return the 95th minus the 5th percentile, by nearest rank, of a uint8 image."""
    ranks: NDArray[np.int64] = np.cumsum(value_counts(image))
    low, high = np.searchsorted(ranks, (0.05 * ranks[-1], 0.95 * ranks[-1]))
    return float(high - low)


def changed(label: Image, other: Image) -> float:
    """Return the share of pixels whose ids differ between two label maps of one size."""
    return cv2.countNonZero(cv2.compare(label, other, cv2.CMP_NE)) / label.size
