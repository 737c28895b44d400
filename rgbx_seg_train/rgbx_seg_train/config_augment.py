# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How training samples are changed at random; `data/augment.py` does it.

What is 0 by default is off; `rgbx_train CONFIG --preview` shows each change alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config_sources import choice, number

GEOMETRIES = ('window', 'crop')


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples; p_* are probabilities."""

    # window: a part of the image fills the network's, whatever its shape. crop: resized with its
    # shape kept, then a piece of the network's size is cut out of it.
    geometry: str = choice('window', GEOMETRIES)
    p_flip: float = number(0.5, 0, 1)  # left and right
    zoom_low: float = number(0.8, 0.1, 10)  # zoom is log-uniform; below 1 pads with unlabeled
    zoom_high: float = number(1.6, 0.1, 10)
    resize_low: float = number(0.5, 0.1, 10)  # of crop: the image's short side, over the network's
    resize_high: float = number(2.0, 0.1, 10)

    p_aux_shift: float = number(0.0, 0, 1)  # aux registered badly, within the next three
    aux_shift: float = number(6.0, 0, 256)  # pixels of the network, in x and in y
    aux_rotation: float = number(1.0, 0, 45)  # degrees, about the middle of the image
    aux_scale: float = number(0.02, 0, 0.5)  # size 1 +- this, about the middle

    rgb_gain: float = number(0.3, 0, 1)  # gain 1 +- this
    rgb_gamma: float = number(0.3, 0, 1)  # gamma exp(+- this)
    rgb_noise: float = number(6.0, 0, 64)  # highest standard deviation, gray levels
    p_jitter: float = number(0.0, 0, 1)  # brightness, contrast, saturation; papers: 0.2
    jitter: float = number(0.5, 0, 1)  # each times 1 +- this
    p_blur: float = number(0.0, 0, 1)  # RGB through a Gaussian of 3x3; papers: 0.2
    p_rgb_dark: float = number(0.0, 0, 1)  # night made from day: darker, tinted, noisy …
    p_rgb_lamps: float = number(0.3, 0, 1)  # … and of these, with lamps that dazzle
    p_rgb_overexposed: float = number(0.0, 0, 1)  # most of RGB white, as out of a tunnel
    p_rgb_dropout: float = number(0.0, 0, 1)  # RGB all zero, but never together with aux

    aux_gain: float = number(0.2, 0, 1)  # thermal: gain 1 +- this
    aux_offset: float = number(16.0, 0, 128)  # thermal: offset +- this, gray levels
    p_aux_invert: float = number(0.0, 0, 1)  # thermal: black-hot instead of white-hot
    aux_pattern: float = number(0.0, 0, 64)  # thermal: highest deviation of rows and columns
    aux_noise: float = number(3.0, 0, 64)  # highest standard deviation, gray levels
    p_aux_dropout: float = number(0.0, 0, 1)  # aux all zero: a camera that failed

    def __post_init__(self) -> None:
        """Refuse an empty range of sizes."""
        for name in ('zoom', 'resize'):
            low, high = getattr(self, f'{name}_low'), getattr(self, f'{name}_high')
            if low > high:
                raise RgbxSegError(f'{name}_low is {low}; expected at most {name}_high ({high}).')


STILL = AugmentConfig(p_flip=0, zoom_low=1, zoom_high=1, resize_low=1, resize_high=1, rgb_gain=0,
                      rgb_gamma=0, rgb_noise=0, aux_gain=0, aux_offset=0, aux_noise=0)
