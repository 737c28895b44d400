# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One labeled pair of images, and what every source of them offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError

Image = NDArray[np.uint8]

# Sample.odd_channels of modalities as the robot encodes them: [DoLP, sin 2AoLP, cos 2AoLP]
ODD_CHANNELS: Mapping[str, tuple[int, ...]] = {'polarization': (1,)}


class CorruptImage(RgbxSegError):
    """A file that should hold an image and cannot be decoded: training may go on without it."""


@dataclass(frozen=True)
class Sample:
    """One pair: all three images have the same height and width."""

    rgb: Image  # (H, W, 3)
    aux: Image  # (H, W, C), already through rgbx_seg_ros.thermal.to_uint8
    label: Image  # (H, W) class ids, 255 unlabeled
    modality: str
    name: str
    # what scores are told apart by: {'time': 'night', 'weather': 'fog', 'case': 'motionblur'}
    conditions: Mapping[str, str] = field(default_factory=dict)
    classes: str = ''  # the class set of the ids; empty = the network's
    # channels of aux that are 255 minus themselves in a mirror, such as angles of polarization
    odd_channels: tuple[int, ...] = ()

    @property
    def night(self) -> bool:
        """Return whether it was taken at night, as far as is known."""
        return self.conditions.get('time') == 'night'


class Samples(Protocol):
    """A finite, ordered set of samples; samples may differ in size."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int) -> Sample:
        """Return one of them; its arrays must not be written to.

        Raises:
            CorruptImage: a file of this sample cannot be decoded.

        """


class Batch(NamedTuple):
    """Samples of one size."""

    rgb: Image  # (B, H, W, 3)
    aux: Image  # (B, H, W, C), C = 3 where any sample has 3
    label: Image  # (B, H, W) ids of the network's classes, 255 unlabeled
    modality: tuple[str, ...]
    classes: tuple[str, ...]  # class set of each sample; the network's own name where it is that
    names: tuple[str, ...]
    corrupt: tuple[str, ...] = ()  # sentences about samples that could not be read


def night_of(name: str) -> bool:
    """Return whether a file name tells of night, as MFNet's do by their last letter."""
    return name.endswith('N')


def time_of(night: bool) -> dict[str, str]:
    """Return the conditions of a sample of which only the time of day is known."""
    return {'time': 'night' if night else 'day'}
