# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An RGB image of the day as a camera might see the place at night.

The light that is left comes from lamps, so it is uneven, tinted and pale; the gain of the camera is
high, so it is noisy. Displayed values are about the root of the light, which makes shot noise even:
its deviation is the same for bright and for dark pixels.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_train.data.augment_noise import add_noise, normal
from rgbx_seg_train.data.sample import Image

Rng = np.random.Generator
Floats = NDArray[np.float32]

DARK_LOW, DARK_HIGH = 0.1, 0.4  # of the displayed values of the day
PALE_LOW, PALE_HIGH = 0.3, 1.0  # of the saturation of the day
UNLIT_LOW, UNLIT_HIGH = 0.4, 1.0  # of places that no lamp lights
TINTS = np.array([[1.2, 1.0, 0.7], [0.85, 1.0, 1.2], [1.0, 1.05, 0.9]])  # sodium, LED, fluorescent
NOISE_LOW, NOISE_HIGH = 2.0, 9.0  # gray levels
BLOTCHES = 4  # pixels: noise of colors survives a camera's smoothing in patches
COLUMNS = 128  # light is computed on so coarse a grid
MAX_LAMPS = 5
LAMP_LOW, LAMP_HIGH = 0.006, 0.025  # radius, in widths of the image
LAMP_COLORS = np.array([[255, 240, 215], [255, 200, 130], [235, 242, 255], [255, 60, 40]])


def night(rgb: Image, p_lamps: float, rng: Rng) -> Image:
    """Return `rgb` darkened, tinted, pale, unevenly lit and noisy; at times with lamps in it."""
    height, width = rgb.shape[:2]
    gain = math.exp(rng.uniform(math.log(DARK_LOW), math.log(DARK_HIGH)))
    pale = rng.uniform(PALE_LOW, PALE_HIGH)
    tint = 1 + rng.random() * (TINTS[rng.integers(len(TINTS))] - 1)
    noise = rng.uniform(NOISE_LOW, NOISE_HIGH)
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    rgb = cv2.addWeighted(rgb, pale, gray, 1 - pale, 0)
    light = cv2.resize(_light(height, width, rng), (width, height))
    rgb = cv2.multiply(rgb, cv2.cvtColor(light, cv2.COLOR_GRAY2RGB), scale=1 / 255)
    ramp = np.arange(256)[:, None] * np.minimum(gain * tint, DARK_HIGH)
    rgb = cv2.LUT(rgb, (ramp + 0.5).astype(np.uint8)[None])
    if rng.random() < p_lamps:
        rgb = cv2.add(rgb, cv2.resize(_lamps(height, width, rng), (width, height)))
    blotches = normal((-(-height // BLOTCHES), -(-width // BLOTCHES), 3), rng)
    rgb = cv2.addWeighted(rgb, 1, cv2.resize(blotches, (width, height)), noise / 3, 0,
                          dtype=cv2.CV_8U)
    return add_noise(rgb, noise, rng)


def _grid(height: int, width: int, columns: int) -> tuple[Floats, Floats]:
    """Return y (h, 1) and x (1, w) of a coarse grid, each in widths of the image."""
    columns = min(width, columns)
    rows = max(round(columns * height / width), 1)
    x = (np.arange(columns, dtype=np.float32) + 0.5) / columns
    y = (np.arange(rows, dtype=np.float32) + 0.5) * (height / width / rows)
    return y[:, None], x[None]


def _light(height: int, width: int, rng: Rng) -> Image:
    """Return how well each place is lit, uint8 (h, w): all around, and by one lamp of one's own."""
    y, x = _grid(height, width, COLUMNS // 2)
    unlit, (middle, reach) = rng.uniform(UNLIT_LOW, UNLIT_HIGH), rng.uniform(0.3, 0.7, 2)
    low = rng.uniform(0.5, 0.9) * height / width
    lit = np.exp(-np.square((x - middle) / reach) - np.square((y - low) / (0.6 * reach)))
    return ((unlit + (1 - unlit) * lit) * 255).astype(np.uint8)


def _lamps(height: int, width: int, rng: Rng) -> Image:
    """Return the light of lamps in the picture, uint8 (h, w, 3): a core and a wide glow."""
    y, x = _grid(height, width, COLUMNS)
    glow = np.zeros((y.size, x.size, 3), np.float32)
    for _ in range(rng.integers(1, MAX_LAMPS + 1)):
        center_x, center_y = rng.random(), rng.uniform(0.05, 0.75) * height / width
        radius = math.exp(rng.uniform(math.log(LAMP_LOW), math.log(LAMP_HIGH)))
        square = (np.square(x - center_x) + np.square(y - center_y)) / radius**2
        shape = 1.5 / (1 + square) + np.exp(-square)
        glow += shape[..., None] * LAMP_COLORS[rng.integers(len(LAMP_COLORS))].astype(np.float32)
    return np.minimum(glow, 255).astype(np.uint8)
