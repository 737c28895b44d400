# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How pixels move between aux and RGB: a homography, then the difference of the two lenses.

Parameters of a displacement are pixels at the left and right border of the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

HOMOGRAPHY, LENS = 8, 3  # parameters: translation, affine, projective; radial, two tangential


class Model(NamedTuple):
    """RGB pixel = lens(homography(aux pixel)) on the working grid.

    The lens moves (x, y), in half widths from the middle, by k (x, y) (r^2 - 1) and by the two
    tangential terms of Brown (1971): it leaves the circle through the left and right border where
    it is, so that the homography alone keeps the field of view.
    """

    homography: Array
    lens: Array


def half_widths(points: Array, width: float, height: float) -> Array:
    """Return pixel positions (N, 2) in half widths from the middle."""
    unit: Array = (points + 0.5 - np.array([width, height]) / 2) * (2 / width)
    return unit


def displacements(unit: Array, first: int = 0, last: int = HOMOGRAPHY + LENS) -> Array:
    """Return the displacement (N, 2, last - first) that each parameter makes."""
    x, y = unit.T
    one, zero, r2 = np.ones_like(x), np.zeros_like(x), x * x + y * y
    columns = ((one, zero), (zero, one), (x, y), (-y, x), (x, -y), (y, x), (x * x, x * y),
               (x * y, y * y), (x * (r2 - 1), y * (r2 - 1)), (r2 + 2 * x * x - 1, 2 * x * y),
               (2 * x * y, r2 + 2 * y * y - 1))
    return np.stack([np.stack(column, 1) for column in columns[first:last]], 2)


def project(homography: Array, points: Array) -> Array:
    """Return where a homography sends points (N, 2)."""
    image = points @ homography[:, :2].T + homography[:, 2]
    projected: Array = image[:, :2] / image[:, 2:]
    return projected


def block_middles(width: float, height: float, columns: int, rows: int) -> Array:
    """Return the middles of the blocks of an image, row by row (N, 2)."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns - 0.5,
                       (np.arange(rows) + 0.5) * height / rows - 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def displaced(model: Model, step: Array, size: tuple[int, int]) -> Model:
    """Return the model after a displacement given by parameters, to first order in them."""
    points = block_middles(*size, 5, 5)
    step = np.pad(step, (0, HOMOGRAPHY + LENS - len(step)))
    target = points + displacements(half_widths(points, *size), 0, HOMOGRAPHY) @ step[:HOMOGRAPHY]
    homography = cv2.findHomography(points, target, 0)[0] @ model.homography
    return Model(homography / homography[2, 2], model.lens + step[HOMOGRAPHY:])


def turned_and_scaled(turn_deg: float, scale: float, size: tuple[float, float]) -> Array:
    """Return the homography of a turn and a scale about the middle of an image."""
    homography = np.eye(3)
    homography[:2] = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), turn_deg,
                                             scale)
    return homography


def resizing(source: tuple[int, int], target: tuple[int, int]) -> Array:
    """Return the homography of a resize between two sizes (width, height)."""
    fx, fy = target[0] / source[0], target[1] / source[1]
    return np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])
