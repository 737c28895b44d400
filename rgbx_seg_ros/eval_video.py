# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The video of a bag: RGB, aux and what each bundle saw in them, side by side at the bag's times.

It is written beside an engine that needs the processor, hence small panels, a quick preset, and
everything painted at the size of a panel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_frames import EvalFrame
from rgbx_seg_ros.eval_pictures import viewable
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.overlay import blend, colorize, palette
from rgbx_seg_ros.report import VideoWriter

Image = NDArray[np.uint8]

HEIGHT, STRIP = 264, 24  # pixels of panels and captions; 4:3 makes them whole blocks of H.264
STEP_S = 0.1  # between two frames where the stamps jump back
FONT, SIZE, BASE = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 17  # of captions; the line they stand on
INK, PAPER = (235, 238, 242), (28, 31, 35)


class _Panel(NamedTuple):
    caption: str
    image: Image  # (HEIGHT, w, 3)


class Video:
    """Writes overlay.mp4; a sink that removes it after an exception."""

    def __init__(self, path: Path, classes: Sequence[ClassInfo], bundles: Sequence[str],
                 modality: str, alpha: float, labeled: bool = False) -> None:
        """Remember what to paint; the panels take their widths from the first frame.

        `labeled` reserves a panel for labels, which may come with a later frame.
        """
        self.path, self.bundles, self.modality, self.alpha = path, bundles, modality, alpha
        self.labeled = labeled
        self._table = palette(classes)
        self._writer = VideoWriter(path, 'ultrafast', 25, threads=1)
        self._widths: list[int] = []  # of the panels, even
        self._last, self._shift = -math.inf, 0.0

    def __enter__(self) -> Video:
        """Check that PyAV is there."""
        self._writer.__enter__()
        return self

    def add(self, frame: EvalFrame) -> None:
        """Append a frame; where the stamps jump back, the video goes on."""
        time_s = frame.records[0].time_s + self._shift
        if time_s < self._last:
            self._shift += self._last + STEP_S - time_s
            time_s = self._last + STEP_S
        self._last = time_s
        self._writer.add(time_s, self._paint(self._panels(frame)))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the file, or remove it."""
        try:
            self._writer.__exit__(kind, error, trace)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def _panels(self, frame: EvalFrame) -> list[_Panel]:
        record, lane = frame.records[0], frame.lanes[0]
        rgb = _fitted(lane.rgb)
        state = '' if record.state == 'paired' else f'  {record.state}'
        panels = [_Panel(f'RGB  {record.time_s:.2f} s', rgb),
                  _Panel(f'{self.modality}{_told("  skew {:+.1f} ms", record.skew_ms)}{state}',
                         _colored(_fitted(viewable(lane.aux))))]
        size = rgb.shape[1], HEIGHT
        for name, own, scores in zip(self.bundles, frame.lanes, frame.records, strict=True):
            label = cv2.resize(own.label, size, interpolation=cv2.INTER_NEAREST)
            title = f'{name[-16:]}  ' if len(self.bundles) > 1 else ''
            panels.append(_Panel(
                f'{title}{_told("mIoU {:.0%}  ", scores.miou)}'
                f'{_told("confidence {:.0%}", scores.confidence)}',
                blend(rgb, label, self._table, self.alpha)))
        target = frame.pair.target
        if target is not None:
            small = cv2.resize(target, size, interpolation=cv2.INTER_NEAREST)
            panels.append(_Panel('label', colorize(small, self._table)))
        elif self.labeled:
            panels.append(_Panel('no label', np.zeros_like(rgb)))
        return panels

    def _paint(self, panels: Sequence[_Panel]) -> Image:
        """Return the panels side by side under their captions, (STRIP + HEIGHT, W, 3)."""
        if not self._widths:
            self._widths = [panel.image.shape[1] for panel in panels]
        canvas = np.zeros((STRIP + HEIGHT, sum(self._widths), 3), np.uint8)
        canvas[:STRIP] = PAPER
        left = 0
        for (caption, image), width in zip(panels, self._widths, strict=False):
            right = left + width
            if image.shape[1] != width:  # a camera changed its size
                image = cv2.resize(image, (width, HEIGHT))
            canvas[STRIP:, left:right] = image
            cv2.putText(canvas[:STRIP, left:right], _plain(caption), (8, BASE), FONT, SIZE, INK, 1,
                        cv2.LINE_AA)
            left = right
        return canvas


def _fitted(image: Image) -> Image:
    """Return an image at the height of the panels, with an even width."""
    width = max(2, 2 * round(image.shape[1] * HEIGHT / image.shape[0] / 2))
    # Averaging the area costs ten times as much, unless it is a whole number of pixels.
    shrink = image.shape[0] / HEIGHT
    method = cv2.INTER_AREA if shrink.is_integer() or shrink > 2 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, HEIGHT), interpolation=method)


def _colored(image: Image) -> Image:
    return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)


def _told(words: str, value: float) -> str:
    return words.format(value) if math.isfinite(value) else ''


def _plain(text: str) -> str:
    """Return text in the characters that OpenCV draws."""
    return text.encode('ascii', 'replace').decode('ascii')
