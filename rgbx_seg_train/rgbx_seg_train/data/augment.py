# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of a sample, on uint8 arrays: geometry for all, photometry for each camera.

Only aux can move by itself, as where the registration of a robot's cameras is off.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.config_augment import AugmentConfig
from rgbx_seg_train.data.augment_geometry import (
    draw_misalignment,
    draw_view,
    misaligned,
    pad,
    take,
    take_ids,
)
from rgbx_seg_train.data.augment_photometry import change_aux, change_rgb
from rgbx_seg_train.data.sample import Image, Sample

Rng = np.random.Generator


def augment(sample: Sample, config: AugmentConfig, height: int, width: int, rng: Rng) -> Sample:
    """Return a randomly changed copy at (height, width); the same `rng` gives the same bytes."""
    view = draw_view(sample.label.shape, (height, width), config, rng)
    error = draw_misalignment(config, rng)
    aux_lost = rng.random() < config.p_aux_dropout or not sample.aux.any()  # or never was there
    rgb_lost = rng.random() < config.p_rgb_dropout and not aux_lost
    mirrored = rng.random() < config.p_flip
    turned = sample.odd_channels if mirrored and not aux_lost else ()

    rgb, label = take(sample.rgb, view), take_ids(sample.label, view)
    aux = misaligned(sample.aux, view, error, turned) if error else take(sample.aux, view)
    rgb = np.zeros_like(rgb) if rgb_lost else change_rgb(rgb, config, rng)
    aux = np.zeros_like(aux) if aux_lost else change_aux(aux, config, rng, sample.modality)
    if mirrored:
        rgb, aux, label = mirror(rgb), mirror(aux, turned), mirror(label)
    return replace(sample, rgb=pad(rgb, view, 0), aux=pad(aux, view, 0),
                   label=pad(label, view, UNLABELED))


def mirror(image: Image, odd_channels: tuple[int, ...] = ()) -> Image:
    """Return an image with left and right exchanged; odd channels change their sign, too.

    An angle of polarization that was t is pi - t in a mirror: what encodes it as an odd function
    of t about the middle of 0..255 becomes 255 minus itself.
    """
    result = cv2.flip(image, 1).reshape(image.shape)
    for channel in odd_channels:
        result[..., channel] = 255 - result[..., channel]
    return result
