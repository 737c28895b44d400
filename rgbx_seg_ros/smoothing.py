# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Temporal smoothing of masks: a pixel keeps its class until another one is more certain.

The certainty of the class that a pixel holds fades with the time of the stamps; a network that
wavers between two classes thus no longer flickers, and one that is sure is followed at once.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError

Image = NDArray[np.uint8]
MAX_TIME_CONSTANT_S = 60.0
LEVELS = 255  # that a confidence loses in one time constant


class MaskSmoother:
    """Hysteresis per pixel on labels and confidences uint8 (H, W). Not thread-safe.

    A held confidence falls linearly, by 255 per `time_constant_s`; a frame that confirms the label
    raises it again, and one with another label takes over as soon as it is the more confident.

    Latency: an object that appears with the confidence `c`, where the confidence `h` was last seen
    for something else, shows at the first frame that is at least
    `time_constant_s * (h - c + 1) / 255` later: at once where c > h, after one time constant and
    one frame at the latest.
    """

    def __init__(self, time_constant_s: float) -> None:
        """Start with nothing held; 0 s passes everything through at no cost."""
        if not (math.isfinite(time_constant_s) and 0 <= time_constant_s <= MAX_TIME_CONSTANT_S):
            raise RgbxSegError(f'mask.smoothing is {time_constant_s} s; expected 0 (off) to '
                               f'{MAX_TIME_CONSTANT_S:g} s.')
        self.time_constant_s = time_constant_s
        self._time_constant_ns = round(time_constant_s * 1e9)
        self._level = 0
        self._label: Image | None = None
        self._confidence = self._newer = np.empty((0, 0), np.uint8)

    def __call__(self, label: Image, confidence: Image, stamp_ns: int) -> tuple[Image, Image]:
        """Return the smoothed label and its faded confidence, to be overwritten by the next call.

        Begins anew after a stamp that goes back, a gap of a time constant (by then everything has
        faded) or a change of size.
        """
        if not self._time_constant_ns:
            return label, confidence
        # Whole levels since the epoch: what the rounding of one frame loses, the next one gets.
        level = stamp_ns * LEVELS // self._time_constant_ns
        faded, self._level = level - self._level, level
        if self._label is None or self._label.shape != label.shape or not 0 <= faded < LEVELS:
            self._label, self._confidence = label.copy(), confidence.copy()
            self._newer = np.empty_like(label)
            return self._label, self._confidence
        cv2.subtract(self._confidence, faded, self._confidence)
        cv2.compare(confidence, self._confidence, cv2.CMP_GT, self._newer)
        cv2.copyTo(label, self._newer, self._label)
        cv2.max(confidence, self._confidence, self._confidence)
        return self._label, self._confidence

    def reset(self) -> None:
        """Forget what is held, as after a jump of the clock."""
        self._label = None
