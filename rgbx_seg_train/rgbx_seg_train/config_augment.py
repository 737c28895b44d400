# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How training samples are changed at random; `data/augment.py` does it."""

from __future__ import annotations

from dataclasses import dataclass

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config_sources import number


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples; p_* are probabilities."""

    p_flip: float = number(0.5, 0, 1)
    zoom_low: float = number(0.8, 0.1, 10)  # zoom is log-uniform; below 1 pads with unlabeled
    zoom_high: float = number(1.6, 0.1, 10)
    rgb_gain: float = number(0.3, 0, 1)  # gain 1 +- this
    rgb_gamma: float = number(0.3, 0, 1)  # gamma exp(+- this)
    rgb_noise: float = number(6.0, 0, 64)  # highest standard deviation, gray levels
    aux_gain: float = number(0.2, 0, 1)  # gain 1 +- this
    aux_offset: float = number(16.0, 0, 128)  # offset +- this, gray levels
    aux_noise: float = number(3.0, 0, 64)  # highest standard deviation, gray levels
    p_aux_invert: float = number(0.0, 0, 1)  # black-hot instead of white-hot
    p_aux_dropout: float = number(0.0, 0, 1)  # aux all zero: a camera that failed
    p_rgb_dark: float = number(0.0, 0, 1)  # RGB darkened to a tenth: night made from day

    def __post_init__(self) -> None:
        """Refuse an empty range of zooms."""
        if self.zoom_low > self.zoom_high:
            raise RgbxSegError(f'zoom_low is {self.zoom_low}; expected at most zoom_high '
                               f'({self.zoom_high}).')
