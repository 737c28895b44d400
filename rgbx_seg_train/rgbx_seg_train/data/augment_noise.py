# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Noise for augmentation, cheaply: drawing a number for each pixel costs more than all the rest.

A random start in a long fixed row of normal numbers does as well.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_train.data.sample import Image

Rng = np.random.Generator

_NORMAL = np.random.default_rng(0).standard_normal(1 << 21, np.float32)


def normal(shape: tuple[int, ...], rng: Rng) -> NDArray[np.float32]:
    """Return numbers of mean 0 and deviation 1; read only, and repeated in large arrays."""
    start, size = int(rng.integers(_NORMAL.size // 2)), math.prod(shape)
    if start + size <= _NORMAL.size:
        return _NORMAL[start:start + size].reshape(shape)
    return np.resize(_NORMAL[start:], shape)


def add_noise(image: Image, sigma: float, rng: Rng) -> Image:
    """Return `image` plus white noise of standard deviation `sigma` gray levels."""
    if sigma < 0.5:
        return image
    noisy = cv2.addWeighted(image, 1, normal(image.shape, rng), sigma, 0, dtype=cv2.CV_8U)
    return noisy.reshape(image.shape)
