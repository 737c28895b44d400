# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Raw aux images to the uint8 that the network was trained on; robot and training share it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import AuxEncoding

SAMPLES = 20_000  # pixels a percentile is read from: 0.1 % steps, 15 times faster than all of them


def to_uint8(raw: NDArray[Any], encoding: AuxEncoding) -> NDArray[np.uint8]:
    """Return `raw` (H, W) or (H, W, 3) as uint8 of the same size with `encoding.channels` channels.

    uint16 and int16 are counts, scaled as `encoding` says; float32 is in `encoding.unit` already.
    NaN, -inf and, where the range begins above it, the 0 of "no reading" become 0. uint8 passes
    unchanged: the camera has normalized it (AGC). Three channels become one by their luminance, one
    becomes three copies.

    Raises:
        RgbxSegError: another dtype or shape.

    """
    if raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)):
        raise RgbxSegError(f'aux image has the shape {raw.shape}; expected (H, W), (H, W, 1) or '
                           '(H, W, 3).')
    if raw.ndim == 3 and raw.shape[2] == 1:
        raw = raw[..., 0]
    if raw.dtype != np.uint8:
        raw = _normalize(raw, encoding)
    if raw.ndim == 3 and encoding.channels == 1:
        return cv2.cvtColor(raw, cv2.COLOR_RGB2GRAY)
    if raw.ndim == 2 and encoding.channels == 3:
        return cv2.cvtColor(raw, cv2.COLOR_GRAY2RGB)
    return raw


def _normalize(raw: NDArray[Any], encoding: AuxEncoding) -> NDArray[np.uint8]:
    if raw.dtype not in (np.uint16, np.int16, np.float32):
        raise RgbxSegError(f'aux image is {raw.dtype}; expected uint8, uint16, int16 or float32.')
    low, high = _bounds(raw, encoding)
    gain = 255.0 / max(high - low, 1e-6)
    if raw.dtype == np.uint16 and low >= 0:
        # Integer subtraction, then saturating scaling: vectorized, with no float image between.
        floor = np.uint16(min(round(low), 65535))
        return cv2.convertScaleAbs(np.maximum(raw, floor) - floor, alpha=gain)
    scaled = np.nan_to_num((raw.astype(np.float32) - low) * gain, nan=0.0)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)


def _bounds(raw: NDArray[Any], encoding: AuxEncoding) -> tuple[float, float]:
    """Return the raw values that become 0 and 255."""
    # Floats are in the unit already, as REP-118 has it for depth; integers are counts of it.
    real = raw.dtype == np.float32
    scale, offset = (1.0, 0.0) if real else (encoding.scale, encoding.offset)
    if encoding.range == 'fixed':
        return (encoding.low - offset) / scale, (encoding.high - offset) / scale
    step = max(1, int((raw.shape[0] * raw.shape[1] / SAMPLES) ** 0.5))
    sample = raw[::step, ::step].ravel()
    if real:
        sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    ranks = [int(p / 100 * (sample.size - 1) + 0.5) for p in (encoding.low, encoding.high)]
    ordered = np.partition(sample, ranks)
    low, high = float(ordered[ranks[0]]), float(ordered[ranks[1]])
    missing = encoding.min_span / scale - (high - low)
    if missing > 0:
        low, high = low - missing / 2, high + missing / 2
    return low, high
