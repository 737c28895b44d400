# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of a sample, on uint8 arrays: geometry for all, photometry for each camera."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.config_augment import AugmentConfig
from rgbx_seg_train.data.sample import Image, Sample

Rng = np.random.Generator

# Drawing normal numbers for each pixel would cost more than all the rest; a random start in a long
# fixed row of them does as well.
_NOISE = np.random.default_rng(0).standard_normal(1 << 21, np.float32)
DARK_LOW, DARK_HIGH = 0.03, 0.4  # gain of an RGB image darkened to night


def augment(sample: Sample, config: AugmentConfig, height: int, width: int, rng: Rng) -> Sample:
    """Return a randomly changed copy at (height, width); the same `rng` gives the same bytes."""
    rgb, aux, label = crop_and_resize(sample, config, height, width, rng)
    if rng.random() < config.p_flip:
        rgb, aux, label = (np.ascontiguousarray(image[:, ::-1]) for image in (rgb, aux, label))
    return replace(sample, rgb=change_rgb(rgb, config, rng), aux=change_aux(aux, config, rng),
                   label=label)


def crop_and_resize(sample: Sample, config: AugmentConfig, height: int, width: int,
                    rng: Rng) -> tuple[Image, Image, Image]:
    """Return rgb, aux and label of a random window of the sample, resized to (height, width).

    A zoom of 1 shows the whole image. Below 1 it shrinks and is padded with black and 255.
    """
    zoom = float(np.exp(rng.uniform(np.log(config.zoom_low), np.log(config.zoom_high))))
    spots = rng.random(2)
    source_height, source_width = sample.label.shape
    window = round(source_height / max(zoom, 1.0)), round(source_width / max(zoom, 1.0))
    inner = round(height * min(zoom, 1.0)), round(width * min(zoom, 1.0))
    top, left = (int(s * (full - part + 1)) for s, full, part in
                 zip(spots, (source_height, source_width), window, strict=True))
    y, x = (int(s * (full - part + 1)) for s, full, part in
            zip(spots, (height, width), inner, strict=True))
    results = []
    for image, fill in ((sample.rgb, 0), (sample.aux, 0), (sample.label, UNLABELED)):
        part = image[top:top + window[0], left:left + window[1]]
        small = _nearest(part, *inner) if fill else resize_to(part, *inner)
        small = small.reshape(*inner, *image.shape[2:])  # OpenCV drops a single channel
        if inner == (height, width):
            results.append(np.ascontiguousarray(small))
            continue
        padded = np.full((height, width, *image.shape[2:]), fill, np.uint8)
        padded[y:y + inner[0], x:x + inner[1]] = small
        results.append(padded)
    return tuple(results)


def change_rgb(rgb: Image, config: AugmentConfig, rng: Rng) -> Image:
    """Return `rgb` with another exposure, gamma, tint and noise; at times as dark as at night."""
    gain = 1 + rng.uniform(-config.rgb_gain, config.rgb_gain)
    if rng.random() < config.p_rgb_dark:
        gain *= float(np.exp(rng.uniform(np.log(DARK_LOW), np.log(DARK_HIGH))))
    tint = 1 + rng.uniform(-0.2, 0.2, 3) * config.rgb_gain
    gamma = np.exp(rng.uniform(-config.rgb_gamma, config.rgb_gamma))
    ramp = (np.arange(256) / 255.0)[:, None] ** gamma * gain * tint * 255.0
    table = np.clip(ramp + 0.5, 0, 255).astype(np.uint8)[None]  # (1, 256, 3)
    return add_noise(cv2.LUT(rgb, table), rng.uniform(0, config.rgb_noise), rng)


def change_aux(aux: Image, config: AugmentConfig, rng: Rng) -> Image:
    """Return `aux` with another gain, offset, polarity and noise, or black as if it had failed."""
    if rng.random() < config.p_aux_dropout:
        return np.zeros_like(aux)
    gain = 1 + rng.uniform(-config.aux_gain, config.aux_gain)
    offset = rng.uniform(-config.aux_offset, config.aux_offset)
    ramp = np.arange(256) * gain + offset
    if rng.random() < config.p_aux_invert:
        ramp = 255 - ramp
    table = np.clip(ramp + 0.5, 0, 255).astype(np.uint8)
    changed = cv2.LUT(aux, table).reshape(aux.shape)
    return add_noise(changed, rng.uniform(0, config.aux_noise), rng)


def add_noise(image: Image, sigma: float, rng: Rng) -> Image:
    """Return `image` plus white noise of standard deviation `sigma` gray levels."""
    if sigma < 0.5:
        return image
    start = rng.integers(_NOISE.size // 2)
    noise = np.resize(_NOISE[start:], image.shape)
    return cv2.add(image, noise * np.float32(sigma), dtype=cv2.CV_8U).reshape(image.shape)


def _nearest(label: Image, height: int, width: int) -> Image:
    return cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
