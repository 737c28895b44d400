# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Defect pixels of a thermal detector: found over many frames, replaced in each.

A defect stands alone against all eight neighbors, and stays at its place while the scene moves;
a lamp far away does the first, but not the second. The search runs on every 8th frame, the
replacement touches only the pixels found.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CHECK_EVERY = 8  # frames
FOUND_AFTER = 10  # checks in which the pixel stood out: 80 frames
WORST_SHARE = 0.002  # of all pixels; more of them are texture or noise, no defects
SIGMAS = 8.0  # of the noise between neighbors
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)


class HotPixels:
    """The defect pixels of one stream."""

    def __init__(self) -> None:
        """Start with none."""
        self.reset()

    def reset(self) -> None:
        """Forget all of them."""
        self.pixels: NDArray[np.intp] = np.empty(0, np.intp)  # flat indices
        self._neighbors: NDArray[np.intp] = np.empty((0, 9), np.intp)
        self._score: NDArray[np.int8] | None = None
        self._frames = 0

    def watch(self, raw: Array) -> None:
        """Look at a frame (H, W) as the camera gave it."""
        if self._score is None or self._score.shape != raw.shape:
            self.reset()
            self._score = np.zeros(raw.shape, np.int8)
        self._frames += 1
        if self._frames % CHECK_EVERY or min(raw.shape) < 3:
            return
        outstanding = _outstanding(raw)
        if np.count_nonzero(outstanding) > WORST_SHARE * raw.size:
            return
        # Up by one, down by two: what flickers never gets there, what has moved on is forgotten.
        score = self._score
        score += outstanding.view(np.int8) * np.int8(3) - np.int8(2)
        np.clip(score, 0, FOUND_AFTER + 2, out=score)
        found = np.flatnonzero(score >= FOUND_AFTER)
        kept = self.pixels[score.ravel()[self.pixels] > 0]
        pixels = np.union1d(found, kept)
        if not np.array_equal(pixels, self.pixels):
            self.pixels = pixels
            self._neighbors = _neighborhoods(pixels, raw.shape)

    def repair(self, image: Array) -> None:
        """Put the median of their 3x3 neighborhoods (H, W) into the defect pixels, in place."""
        if self.pixels.size:
            around = image.ravel()[self._neighbors]
            image.ravel()[self.pixels] = np.partition(around, 4, axis=1)[:, 4]


def _outstanding(raw: Array) -> NDArray[np.bool_]:
    """Return where a pixel exceeds, or falls below, all its neighbors by far more than noise."""
    if raw.dtype == np.int16:
        raw = raw.view(np.uint16) ^ np.uint16(0x8000)  # same order; OpenCV has no int16 here
    elif raw.dtype == np.float32:
        raw = np.nan_to_num(raw, posinf=0.0, neginf=0.0)
    rows = raw[::8]
    right, left = (np.ascontiguousarray(rows[:, at:raw.shape[1] - 1 + at:3]) for at in (1, 0))
    steps = cv2.absdiff(right, left)
    noise = float(np.median(steps)) * 1.4826 / 2 ** 0.5
    least = SIGMAS * max(noise, 1e-6 if raw.dtype == np.float32 else 0.5)
    above = cv2.subtract(raw, cv2.dilate(raw, RING))
    below = cv2.subtract(cv2.erode(raw, RING), raw)
    return cv2.max(above, below) > least


def _neighborhoods(pixels: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the flat indices (n, 9) of the 3x3 around each pixel, edges repeated."""
    height, width = shape
    rows, columns = np.divmod(pixels, width)
    step = np.array([-1, 0, 1])
    rows = np.clip(rows[:, None] + np.repeat(step, 3), 0, height - 1)
    columns = np.clip(columns[:, None] + np.tile(step, 3), 0, width - 1)
    return rows * width + columns
