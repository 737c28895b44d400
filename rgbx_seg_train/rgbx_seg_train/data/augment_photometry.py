# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Other light, other cameras and broken ones: changes of values that move no pixel.

Gain, offset, polarity and fixed pattern are of thermal cameras. What other sensors measure (a
depth, an angle, a count of events) has no exposure: it gets noise at most, and where depth has no
reading not even that.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_train.config_augment import AugmentConfig
from rgbx_seg_train.data.augment_night import night
from rgbx_seg_train.data.augment_noise import add_noise, normal
from rgbx_seg_train.data.sample import Image

Rng = np.random.Generator

OVEREXPOSED_LOW, OVEREXPOSED_HIGH = 2.0, 6.0  # gain
LUMINANCE = np.array([[0.299, 0.587, 0.114]])


def change_rgb(rgb: Image, config: AugmentConfig, rng: Rng) -> Image:
    """Return `rgb` with another exposure, gamma, tint, sharpness and noise; at times at night."""
    gain = 1 + rng.uniform(-config.rgb_gain, config.rgb_gain)
    tint = 1 + rng.uniform(-0.2, 0.2, 3) * config.rgb_gain
    gamma = math.exp(rng.uniform(-config.rgb_gamma, config.rgb_gamma))
    if rng.random() < config.p_rgb_overexposed:
        gain *= math.exp(rng.uniform(math.log(OVEREXPOSED_LOW), math.log(OVEREXPOSED_HIGH)))
    ramp = (np.arange(256) / 255.0)[:, None] ** gamma * gain * tint * 255.0
    rgb = cv2.LUT(rgb, table(ramp)[None])  # (1, 256, 3)
    if rng.random() < config.p_jitter:
        rgb = jitter(rgb, *(1 + rng.uniform(-config.jitter, config.jitter, 3)))
    if rng.random() < config.p_blur:
        rgb = cv2.GaussianBlur(rgb, (3, 3), 0)
    if rng.random() < config.p_rgb_dark:
        rgb = night(rgb, config.p_rgb_lamps, rng)
    return add_noise(rgb, rng.uniform(0, config.rgb_noise), rng)


def jitter(rgb: Image, brightness: float, contrast: float, saturation: float) -> Image:
    """Return `rgb` times the brightness, farther from its mean, and farther from gray."""
    ramp = np.arange(256) * brightness
    mean = float(np.dot(LUMINANCE[0], cv2.mean(cv2.LUT(rgb, table(ramp)))[:3]))
    rgb = cv2.LUT(rgb, table((ramp.clip(0, 255) - mean) * contrast + mean))
    gray = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(rgb, saturation, gray, 1 - saturation, 0)


def change_aux(aux: Image, config: AugmentConfig, rng: Rng, modality: str = 'thermal') -> Image:
    """Return `aux` (H, W, C) as another camera of its modality may give it."""
    if modality == 'thermal':
        gain = 1 + rng.uniform(-config.aux_gain, config.aux_gain)
        ramp = np.arange(256) * gain + rng.uniform(-config.aux_offset, config.aux_offset)
        if rng.random() < config.p_aux_invert:
            ramp = 255 - ramp
        aux = cv2.LUT(aux, table(ramp)).reshape(aux.shape)
        aux = add_pattern(aux, rng.uniform(0, config.aux_pattern), rng)
    noisy = add_noise(aux, rng.uniform(0, config.aux_noise), rng)
    if modality == 'depth' and noisy is not aux:
        noisy[aux == 0] = 0
    return noisy


def add_pattern(image: Image, sigma: float, rng: Rng) -> Image:
    """Return `image` with rows and columns that are too bright or dark by `sigma` gray levels."""
    if sigma < 0.5:
        return image
    height, width, channels = image.shape
    lines = normal((height + width,), rng) * np.float32(sigma / math.sqrt(2))
    pattern = np.add.outer(lines[:height], lines[height:])
    if channels > 1:
        pattern = np.repeat(pattern[..., None], channels, 2)
    return cv2.add(image, pattern, dtype=cv2.CV_8U).reshape(image.shape)


def table(ramp: NDArray[np.floating]) -> Image:
    """Return what each gray level becomes, rounded, as uint8."""
    return np.clip(ramp + 0.5, 0, 255).astype(np.uint8)
