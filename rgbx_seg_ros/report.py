# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A replayed bag in numbers and pictures: report.json and a page that needs nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.metrics import Confusion

Image = NDArray[np.uint8]

FORMAT = 1
REPORT_FILE = 'report.json'
PAGE_FILE = 'index.html'
VIDEO_FILE = 'overlay.mp4'
VIDEO_HEIGHT = 360  # pixels of each panel
TICKS = 1000  # a second of the video is counted in milliseconds: frames keep their true times


class PairRecord(NamedTuple):
    """One published pair; `time_s` is its RGB stamp since the bag's start, the rest as in stats."""

    time_s: float
    skew_ms: float
    latency_ms: float
    camera_ms: float  # the part of the latency until both images had arrived, as in the bag
    engine_ms: float
    overhead_ms: float
    wait_ms: float
    mean_confidence: float  # 0..1


class Sample(NamedTuple):
    """One pair as the page and the video show it."""

    record: PairRecord
    rgb: Image  # (H, W, 3)
    aux: Image  # (h, w) or (h, w, 3), as the network sees it
    label: Image  # (H, W), what the node published
    overlay: Image  # (H, W, 3)
    target: Image | None  # (H, W), the bag's label


@dataclass(frozen=True)
class Run:
    """What one replay measured; names of files are given without their folders."""

    bag: str
    bundle: str
    modality: str
    model: str
    classes: tuple[ClassInfo, ...]
    backend: str  # name of the inference library
    device: str
    precision: str
    rate: float  # of playing; 1 is as recorded
    stamp_shift_s: float  # added to every stamp of the bag
    wall_s: float
    pairs_in_bag: int  # what the pairer finds in the bag without any loss
    pairs_published: int
    frames: Mapping[str, Mapping[str, int]]  # rgb, aux -> published, received
    dropped: Mapping[str, int]  # cause -> frames or pairs
    received: Mapping[str, int]  # the node's topics -> messages recorded
    records: Sequence[PairRecord]
    player_late_ms: Sequence[float]  # how late each frame left the player
    confusion: Confusion | None  # None: the bag has no labels
    scored: int  # masks compared with a label
    versions: Mapping[str, str]


def summarize(run: Run) -> dict[str, Any]:
    """Return the report of a run, ready for JSON: a number that does not exist is None."""
    columns = {name: [getattr(record, name) for record in run.records]
               for name in PairRecord._fields}
    confusion = run.confusion if run.scored else None
    summary = {
        'format': FORMAT, 'bag': run.bag, 'bundle': run.bundle, 'model': run.model,
        'modality': run.modality,
        'pairs_in_bag': run.pairs_in_bag, 'pairs_published': run.pairs_published,
        'dropped': dict(run.dropped),
        'miou': confusion.miou() if confusion else None,
        'miou_strict': confusion.miou(strict=True) if confusion else None,
        'per_class_iou': per_class(run, 'iou'), 'scored_masks': run.scored,
        'latency_ms': spread(columns['latency_ms']),
        'camera_ms': spread(columns['camera_ms']),
        'engine_ms': spread(columns['engine_ms']),
        'overhead_ms': spread(columns['overhead_ms']),
        # Percentiles of the distance; the mean has the sign of aux minus rgb.
        'skew_ms': {**spread([abs(skew) for skew in columns['skew_ms']]),
                    'mean': _mean(columns['skew_ms'])},
        'player_late_ms': spread(run.player_late_ms),
        'mean_confidence': _mean(columns['mean_confidence']),
        'backend': run.backend, 'device': run.device, 'precision': run.precision,
        'rate': run.rate, 'stamp_shift_s': run.stamp_shift_s, 'wall_s': run.wall_s,
        'frames': {name: dict(counts) for name, counts in run.frames.items()},
        'received': dict(run.received), 'versions': dict(run.versions)}
    rounded: dict[str, Any] = _finite(summary)
    return rounded


def per_class(run: Run, score: str) -> dict[str, float | None]:
    """Return 'iou', 'precision' or 'recall' by class name; None where there is nothing to score."""
    if run.confusion is None or not run.scored:
        return {info.name: None for info in run.classes}
    values = getattr(run.confusion, score)()
    return {info.name: float(values[info.id]) for info in run.classes}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return p50, p95 and max of `values`; each None where there are none."""
    if not len(values):
        return {'p50': None, 'p95': None, 'max': None}
    p50, p95 = np.percentile(values, (50, 95))
    return {'p50': float(p50), 'p95': float(p95), 'max': float(max(values))}


def write_report(folder: Path, run: Run, samples: Sequence[Sample]) -> dict[str, Any]:
    """Write report.json and index.html into `folder`; return what report.json holds.

    The page shows the video if `folder` has one already.
    """
    from rgbx_seg_ros.report_page import render

    summary = summarize(run)
    text = json.dumps(summary, indent=1, allow_nan=False) + '\n'
    (folder / REPORT_FILE).write_text(text, encoding='utf-8')
    page = render(run, summary, samples, (folder / VIDEO_FILE).exists())
    (folder / PAGE_FILE).write_text(page, encoding='utf-8')
    return summary


def panels(images: Iterable[Image], height: int) -> Image:
    """Return images side by side at one even `height`, an even width in all, gray ones as RGB."""
    resized = []
    for image in images:
        color = image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        width = 2 * round(image.shape[1] * height / image.shape[0] / 2)
        resized.append(cv2.resize(color, (width, height), interpolation=cv2.INTER_AREA))
    return np.hstack(resized)


class VideoWriter:
    """Writes H.264 in mp4 whose frames keep their times; use as a context manager."""

    def __init__(self, path: Path, preset: str = 'veryfast', crf: int = 23,
                 threads: int = 0) -> None:
        """Remember the place; the file is opened with the first frame, whose size it takes.

        `preset` and `crf` (quality, lower is better) are those of x264, `threads` is how many it
        may use, 0 as many as there are cores.
        """
        self.path, self.threads = path, threads
        self._options = {'preset': preset, 'crf': str(crf)}
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> VideoWriter:
        """Check that PyAV is there."""
        try:
            import av
        except ImportError:
            raise RgbxSegError('PyAV is not installed, which writes the video; '
                               '`pip install av` brings it.') from None
        self._av = av
        return self

    def add(self, time_s: float, frame: Image) -> None:
        """Append an RGB frame (H, W, 3) of even sides; one not later than the last is left out."""
        if self._container is None:
            self._open(frame.shape[1], frame.shape[0])
        pts = round(time_s * TICKS)
        if pts <= self._last:
            return
        self._last = pts
        # OpenCV makes these several times faster than PyAV would.
        planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
        picture = self._av.VideoFrame.from_ndarray(planes, format='yuv420p')
        picture.pts, picture.time_base = pts, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(picture))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the file."""
        if self._container is None:
            return
        if kind is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def _open(self, width: int, height: int) -> None:
        # faststart: the index comes first, so that a browser plays at once.
        self._container = self._av.open(str(self.path), 'w', options={'movflags': 'faststart'})
        self._stream = self._container.add_stream('libx264', rate=30, options=self._options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = 'yuv420p'  # the one format that every browser plays
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.codec_context.thread_count = self.threads


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _finite(value: Any) -> Any:
    """Return `value` with floats rounded to 6 digits, and None for NaN and infinity."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
