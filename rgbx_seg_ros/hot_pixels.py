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

from rgbx_seg_ros.aux_range import percentiles

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
        self._suspects: NDArray[np.intp] = np.empty(0, np.intp)
        self._scores: NDArray[np.intp] = np.empty(0, np.intp)
        self._shape: tuple[int, ...] = ()
        self._frames = 0

    def watch(self, raw: Array) -> None:
        """Look at a frame (H, W) as the camera gave it."""
        if self._shape != raw.shape:
            self.reset()
            self._shape = raw.shape
        self._frames += 1
        if self._frames % CHECK_EVERY or min(raw.shape) < 3:
            return
        outstanding = np.flatnonzero(_outstanding(raw))
        if outstanding.size <= WORST_SHARE * raw.size:
            self._judge(outstanding)

    def _judge(self, outstanding: NDArray[np.intp]) -> None:
        """Update the scores of all suspects, and with them the list of defects."""
        suspects = np.union1d(self._suspects, outstanding)
        scores = np.zeros(suspects.size, np.intp)
        scores[np.searchsorted(suspects, self._suspects)] = self._scores
        # Up by one, down by two: what flickers never gets there, what has moved on is forgotten.
        scores -= 2
        scores[np.searchsorted(suspects, outstanding)] += 3
        left = scores > 0
        self._suspects, self._scores = suspects[left], scores[left].clip(max=FOUND_AFTER + 2)
        found = self._suspects[self._scores >= FOUND_AFTER]
        pixels = np.union1d(found, np.intersect1d(self.pixels, self._suspects))
        if not np.array_equal(pixels, self.pixels):
            self.pixels = pixels
            self._neighbors = _neighborhoods(pixels, self._shape)

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
    noise = percentiles(steps.ravel(), (50.0,))[0] * 1.4826 / 2 ** 0.5
    above = cv2.subtract(raw, cv2.dilate(raw, RING))
    below = cv2.subtract(cv2.erode(raw, RING), raw)
    if raw.dtype == np.float32:
        return cv2.max(above, below) > np.float32(SIGMAS * max(noise, 1e-6))
    limit = min(SIGMAS * max(noise, 0.5), np.iinfo(raw.dtype).max)
    return cv2.max(above, below) > raw.dtype.type(limit)  # a float would turn the image into one


def _neighborhoods(pixels: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the flat indices (n, 9) of the 3x3 around each pixel, edges repeated."""
    height, width = shape
    rows, columns = np.divmod(pixels, width)
    step = np.array([-1, 0, 1])
    rows = np.clip(rows[:, None] + np.repeat(step, 3), 0, height - 1)
    columns = np.clip(columns[:, None] + np.tile(step, 3), 0, width - 1)
    return rows * width + columns
