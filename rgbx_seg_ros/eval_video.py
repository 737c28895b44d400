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
HELD = 30  # frames that wait for a first label, which gets a panel of its own
STEP_S = 0.1  # between two frames where the stamps jump back
FONT, SIZE, BASE = cv2.FONT_HERSHEY_SIMPLEX, 0.45, 17  # of captions; the line they stand on
INK, PAPER = (235, 238, 242), (28, 31, 35)


class _Panel(NamedTuple):
    caption: str
    image: Image  # (HEIGHT, w, 3)


class Video:
    """Writes overlay.mp4; a sink that removes it after an exception."""

    def __init__(self, path: Path, classes: Sequence[ClassInfo], bundles: Sequence[str],
                 modality: str, alpha: float) -> None:
        """Remember what to paint; the panels take their widths from the first frames."""
        self.path, self.bundles, self.modality, self.alpha = path, bundles, modality, alpha
        self._table = palette(classes)
        self._writer = VideoWriter(path, 'ultrafast', 25, threads=1)
        self._widths: list[int] = []  # of the panels, even
        self._held: list[tuple[float, list[_Panel]]] | None = []  # None: the layout is settled
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
        panels = self._panels(frame)
        if self._held is None:
            self._write(time_s, panels)
            return
        self._held.append((time_s, panels))
        if len(self._held) == HELD or frame.pair.target is not None:
            self._settle()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish the file, or remove it."""
        try:
            if kind is None:
                self._settle()
            self._writer.__exit__(kind, error, trace)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        if kind is not None:
            self.path.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Fix which panels there are, and write the frames that waited for that."""
        held, self._held = self._held or [], None
        if held:
            self._widths = [panel.image.shape[1] for panel in held[-1][1]]
        for time_s, panels in held:
            self._write(time_s, panels)

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
        if frame.pair.target is not None:
            target = cv2.resize(frame.pair.target, size, interpolation=cv2.INTER_NEAREST)
            panels.append(_Panel('label', colorize(target, self._table)))
        return panels

    def _write(self, time_s: float, panels: Sequence[_Panel]) -> None:
        canvas = np.empty((STRIP + HEIGHT, sum(self._widths), 3), np.uint8)
        canvas[:STRIP] = PAPER
        left = 0
        for index, width in enumerate(self._widths):
            right = left + width
            if index >= len(panels):  # no label of this frame
                canvas[STRIP:, left:right] = 0
            else:
                caption, image = panels[index]
                if image.shape[1] != width:  # a camera changed its size
                    image = cv2.resize(image, (width, HEIGHT))
                canvas[STRIP:, left:right] = image
                cv2.putText(canvas[:STRIP, left:right], _plain(caption), (8, BASE), FONT, SIZE,
                            INK, 1, cv2.LINE_AA)
            left = right
        self._writer.add(time_s, canvas)


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
