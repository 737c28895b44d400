# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Percentiles of an image, bounds that follow them without flicker, and the scaling to uint8.

Training and robot share these functions; what the robot adds (reused memory) does not change
one bit of the result.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SAMPLES = 20_000  # pixels a percentile is read from: 0.1 % steps, 15 times faster than all of them
SLACK = 4.0  # times a frame's own span: followed bounds further apart would leave no contrast


class Workspace:
    """Arrays that are used again for each frame of one size."""

    def __init__(self) -> None:
        """Start empty."""
        self._arrays: dict[str, Array] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: Any = np.uint8) -> Array:
        """Return the array of this name, a new one only where shape or dtype changed."""
        array = self._arrays.get(name)
        if array is None or array.shape != shape or array.dtype != dtype:
            array = self._arrays[name] = np.empty(shape, dtype)
        return array


def sample_of(raw: Array) -> Array:
    """Return about SAMPLES pixels of `raw` as a vector, without NaN and infinities."""
    step = max(1, int((raw.shape[0] * raw.shape[1] / SAMPLES) ** 0.5))
    sample = raw[::step, ::step].ravel()
    if raw.dtype != np.float32:
        return sample
    with np.errstate(over='ignore', invalid='ignore'):
        clean = np.isfinite(sample.sum())  # far cheaper than a mask, and nearly always true
    return sample if clean else sample[np.isfinite(sample)]


def percentiles(sample: Array, percents: tuple[float, ...]) -> list[float]:
    """Return the values of the nearest ranks; `sample` is a vector, not empty."""
    ranks = [int(p / 100 * (sample.size - 1) + 0.5) for p in percents]
    if sample.dtype == np.float32:
        found = {}
        for rank in sorted(set(ranks), reverse=True):  # NumPy is many times faster with one rank
            sample = np.partition(sample, rank)[:rank + 1]
            found[rank] = float(sample[rank])
        return [found[rank] for rank in ranks]
    # Counting is several times faster than partitioning, and as exact.
    lowest = sample.min()
    above = sample - lowest  # of int16, it may wrap around: the bits are right
    total = np.bincount(above.view(np.uint16) if sample.dtype == np.int16 else above).cumsum()
    return [float(int(lowest) + np.searchsorted(total, rank, side='right')) for rank in ranks]


def scale_to_uint8(raw: Array, low: float, high: float,
                   workspace: Workspace | None = None) -> NDArray[np.uint8]:
    """Map low..high of a uint16, int16 or float32 image to 0..255; NaN and -inf become 0."""
    work = workspace or Workspace()
    out = work.get('out', raw.shape)
    gain = 255.0 / max(high - low, 1e-6)
    if raw.dtype == np.uint16 and low >= 0:
        # Saturating integer subtraction, then saturating scaling: no float image between.
        floor = min(round(low), 65535)
        if raw.shape[:2] == (4, 1):  # as a scalar is for OpenCV, which then refuses it
            above = np.maximum(raw, np.uint16(floor)) - np.uint16(floor)
        else:
            above = work.get('above', raw.shape, np.uint16)
            cv2.subtract(raw, (floor,) * 4, dst=above)
        return cv2.convertScaleAbs(above, dst=out, alpha=gain)
    scaled = work.get('scaled', raw.shape, np.float32)
    with np.errstate(over='ignore', invalid='ignore'):
        if raw.dtype == np.float32:
            np.subtract(raw, low, out=scaled)
        else:
            np.subtract(raw, np.float32(low), out=scaled, dtype=np.float32, casting='unsafe')
        np.multiply(scaled, gain, out=scaled)
    cv2.patchNaNs(scaled, 0.0)
    np.clip(scaled, 0, 255, out=scaled)
    np.add(scaled, 0.5, out=scaled)
    np.copyto(out, scaled, casting='unsafe')
    return out


class Follower:
    """Low-pass of two bounds with a time constant in stamps, so that the rate does not matter."""

    def __init__(self, smoothing_s: float) -> None:
        """Follow with the time constant `smoothing_s`; 0 passes the bounds on."""
        self._smoothing_ns = smoothing_s * 1e9
        self.reset()

    def reset(self) -> None:
        """Take the next bounds as they come."""
        self.bounds: tuple[float, float] | None = None
        self._stamp_ns = 0

    def __call__(self, low: float, high: float, middle: float,
                 stamp_ns: int) -> tuple[float, float]:
        """Return the followed bounds for a frame whose own are low, high and median `middle`.

        At once, not slowly: the first frame, a step back in time, and a scene cut, which is a
        median outside the followed bounds. A hot object that enters thus saturates for a moment
        instead of dimming all else; when it leaves, at most SLACK times the span needed remain.
        """
        elapsed = stamp_ns - self._stamp_ns
        self._stamp_ns = stamp_ns
        old = self.bounds
        if old is None or self._smoothing_ns <= 0 or elapsed < 0:
            self.bounds = low, high
            return low, high
        share = -math.expm1(-elapsed / self._smoothing_ns)
        follows = old[0] + share * (low - old[0]), old[1] + share * (high - old[1])
        if not follows[0] <= middle <= follows[1]:
            follows = low, high
        span, own = follows[1] - follows[0], high - low
        if span > SLACK * own > 0:
            rest = (SLACK - 1) * own / (span - own)
            follows = low + rest * (follows[0] - low), high + rest * (follows[1] - high)
        self.bounds = follows
        return follows
