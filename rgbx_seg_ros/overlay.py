# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures for people: color masks and overlays from label ids."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.manifest import ClassInfo

Image = NDArray[np.uint8]


def palette(classes: Iterable[ClassInfo]) -> Image:
    """Return the look-up table uint8 (256, 3) from class id to RGB; ids of no class are black."""
    table = np.zeros((256, 3), np.uint8)
    for info in classes:
        table[info.id] = info.color
    return table


def colorize(label: Image, table: Image, out: Image | None = None) -> Image:
    """Return the RGB picture uint8 (H, W, 3) of ids uint8 (H, W); `out` if it is given."""
    # Two to three times faster than cv2.LUT on three copies, which it is in older OpenCV.
    return cv2.applyColorMap(label, table[:, None], out)


def blend(rgb: Image, label: Image, table: Image, alpha: float, out: Image | None = None) -> Image:
    """Return `rgb` with the classes painted over it at opacity `alpha` (0..1); `out` if given.

    Pixels whose class is black in the palette (unlabeled, background) keep the camera's color, so
    that a night scene is not darkened where nothing was found.
    """
    mixed = colorize(label, table, out)
    cv2.addWeighted(rgb, 1.0 - alpha, mixed, alpha, 0.0, mixed)
    cv2.copyTo(rgb, _unpainted(label, table), mixed)
    return mixed


def _unpainted(label: Image, table: Image) -> Image:
    """Return 255 where the class is black, else 0."""
    painted = np.flatnonzero(table.any(axis=1))
    if painted.size and painted[-1] - painted[0] + 1 == painted.size:
        # One range of ids, as in most palettes: four times faster than a look-up.
        mask = cv2.inRange(label, int(painted[0]), int(painted[-1]))
        return cv2.bitwise_not(mask, mask)
    black = np.full(256, 255, np.uint8)
    black[painted] = 0
    return cv2.LUT(label, black)
