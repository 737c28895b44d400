# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Degree and angle of linear polarization from images behind polarizers at 0, 45, 90, 135 degrees.

By the Stokes parameters S0 = (I0 + I45 + I90 + I135) / 2, S1 = I0 - I90, S2 = I45 - I135, of each
color channel alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.sample import Image
from rgbx_seg_train.data.synthetic import aux_encoding

ANGLES = (0, 45, 90, 135)  # degrees
Floats = NDArray[np.float32]


def stokes(images: Sequence[Image]) -> tuple[Floats, Floats, Floats]:
    """Return S0, S1, S2 float32 (H, W, C) of the images uint8 (H, W, C) at `ANGLES`."""
    i0, i45, i90, i135 = (image.astype(np.float32) for image in images)
    return (i0 + i45 + i90 + i135) / 2, i0 - i90, i45 - i135


def degree_of_polarization(images: Sequence[Image]) -> Image:
    """Return DoLP uint8 (H, W, C): sqrt(S1² + S2²) / S0, 255 for 1 and above, 0 if all is black."""
    s0, s1, s2 = stokes(images)
    degree = cv2.magnitude(s1, s2) / np.maximum(s0, 1e-6)
    return np.rint(255 * np.minimum(degree, 1)).astype(np.uint8)


def angle_of_polarization(images: Sequence[Image]) -> Image:
    """Return AoLP uint8 (H, W, C): atan2(S2, S1) / 2 of 0..180 degrees as 0..255.

    0 and 180 degrees are one direction. Light without polarization has the angle 0.
    """
    _, s1, s2 = stokes(images)
    turn = np.arctan2(s2, s1)  # twice the angle, -pi..pi
    return np.rint(np.where(turn < 0, turn + 2 * np.pi, turn) * (255 / (2 * np.pi))
                   ).astype(np.uint8)


def polarization_vector(images: Sequence[Image]) -> Image:
    """Return [DoLP, sin 2AoLP, cos 2AoLP] uint8 (H, W, 3) of the colors' mean, as robots do."""
    s0, s1, s2 = (part.mean(2) for part in stokes(images))
    length = cv2.magnitude(s1, s2)
    unit = np.maximum(length, 1e-6)
    vector = np.stack((length / np.maximum(s0, 1e-6), s2 / unit, s1 / unit), -1)
    return to_uint8(vector.astype(np.float32), aux_encoding('polarization'))


# aux of a source: how it is computed
MEASURES: dict[str, Callable[[Sequence[Image]], Image]] = {
    'aolp': angle_of_polarization,
    'dolp': degree_of_polarization,
    'vector': polarization_vector,
}
# and which of its channels are 255 minus themselves in a mirror
ODD_CHANNELS = {'aolp': (0, 1, 2), 'dolp': (), 'vector': (1,)}
