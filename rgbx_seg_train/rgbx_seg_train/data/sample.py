# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One labeled pair of images, and what every source of them offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One pair: all three images have the same height and width."""

    rgb: Image  # (H, W, 3)
    aux: Image  # (H, W, C), already through rgbx_seg_ros.thermal.to_uint8
    label: Image  # (H, W) class ids, 255 unlabeled
    modality: str
    name: str
    night: bool


class Samples(Protocol):
    """A finite, ordered set of samples; samples may differ in size."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int) -> Sample:
        """Return one of them; its arrays must not be written to."""


def night_of(name: str) -> bool:
    """Return whether a file name tells of night, as MFNet's do by their last letter."""
    return name.endswith('N')
