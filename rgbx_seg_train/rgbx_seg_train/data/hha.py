# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Depth to HHA: horizontal disparity, height above the ground, angle with gravity.

S. Gupta, R. Girshick, P. Arbelaez, J. Malik: Learning rich features from RGB-D images (ECCV 2014);
gravity as in their CVPR 2013 paper. Normals are planes fitted to inverse depth in square windows;
gravity is the direction that most normals are parallel or perpendicular to, found by iteration.
Constants, clipping and the order of channels are those of the authors' published images.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError

Array = NDArray[Any]

DISPARITY_M = 310.0  # disparity is 310 over the depth in meters …
NEAREST_M = 1.0  # … which counts as at least this: nearer is 255 anyway
ANGLE_OFFSET = 128 - 90  # a wall is 128
MISSING_ANGLE = 180.0  # where no plane can be fitted, in degrees
LOWEST_M, ASSUMED_M = 0.9, 1.3  # no floor nearer than 0.9 m below the camera: it is 1.3 m below
FINE, COARSE = 3, 10  # half windows of normals in pixels: of the image, of the search for gravity
# of that search: normals so near to an axis in degrees count, and how often the axis is refined
GRAVITY_STEPS = ((45.0, 5), (15.0, 5))
TIE = 1e-9  # share of the normals: where one wall is all that is seen, the axis stays as it was


class Camera(NamedTuple):
    """Intrinsics in pixels; the center of the first pixel is (1, 1), as in MATLAB."""

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def scaled(self, height: int, width: int) -> Camera:
        """Return the intrinsics of the image at another size of the same shape."""
        x, y = width / self.width, height / self.height
        if x != y:
            raise RgbxSegError(f'a depth image is {width}x{height}; expected the shape of '
                               f'{self.width}x{self.height}, whose camera is known; HHA of another '
                               'needs its intrinsics.')
        return Camera(self.fx * x, self.fy * y, self.cx * x, self.cy * y, width, height)


# of the color camera of NYUDepthV2, which its labeled depth is projected to
KINECT = Camera(518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465,
                640, 480)


def to_hha(depth: Array) -> Array:
    """Return HHA uint8 (H, W, 3) of depth in meters (H, W), 0 missing, as `KINECT` sees it.

    Disparity, height in centimeters and angle in degrees, 255 at most.
    """
    depth = np.asarray(depth, np.float64)
    rays = _rays(KINECT.scaled(*depth.shape))
    sums = _Planes(depth, rays)
    gravity = find_gravity(sums.normals(COARSE))
    angle = np.degrees(np.arccos(np.clip(sums.normals(FINE) @ gravity, -1, 1)))
    hha = np.empty((*depth.shape, 3))
    hha[..., 0] = DISPARITY_M / np.maximum(depth, NEAREST_M)
    hha[..., 1] = 100 * height_above_ground(depth, rays, gravity)
    hha[..., 2] = np.nan_to_num(angle, nan=MISSING_ANGLE) + ANGLE_OFFSET
    return np.clip(np.rint(hha), 0, 255).astype(np.uint8)


def height_above_ground(depth: Array, rays: Array, gravity: Array) -> Array:
    """Return meters (H, W) above the lowest point, or above a floor 1.3 m below the camera.

    The latter where all points lie less than 0.9 m below the camera: then no floor is seen.
    """
    height = -depth * (rays @ gravity)
    lowest = float(height.min())
    return height - (lowest if lowest <= -LOWEST_M else -ASSUMED_M)


def find_gravity(normals: Array) -> Array:
    """Return the unit vector (3,) of gravity in the camera's frame (x right, y down, z ahead).

    `normals` (..., 3) point away from the camera; NaN where there is none. Each step takes the
    normals near the axis and those near its plane, and the axis that the former are most parallel
    and the latter most perpendicular to: an eigenvector of the difference of their scatters. Other
    than the authors', an axis that turned by more than the step's angle is not believed.
    """
    normals = normals.reshape(-1, 3)
    normals = normals[~np.isnan(normals[:, 0])]
    rows, columns = np.triu_indices(3)
    squares = normals[:, rows] * normals[:, columns]  # the scatters are sums of these
    tie = TIE * max(len(normals), 1)
    gravity, scatter = np.array([0.0, 1.0, 0.0]), np.empty((3, 3))
    for threshold, rounds in GRAVITY_STEPS:
        near, far = np.cos(np.radians(threshold)), np.sin(np.radians(threshold))
        for _ in range(rounds):
            along = np.abs(normals @ gravity)
            sign = (along < far).astype(np.float64) - (along > near)
            scatter[rows, columns] = scatter[columns, rows] = sign @ squares
            axis = np.linalg.eigh(scatter - tie * np.outer(gravity, gravity))[1][:, 0]
            if abs(axis @ gravity) > near:  # else it is a wall's: too little of a floor is seen
                gravity = axis if axis @ gravity >= 0 else -axis
    return gravity


def _rays(camera: Camera) -> Array:
    """Return the point (H, W, 3) at the depth 1 that each pixel sees."""
    x = (np.arange(camera.width) + 1 - camera.cx) / camera.fx
    y = (np.arange(camera.height) + 1 - camera.cy) / camera.fy
    rays = np.ones((camera.height, camera.width, 3))
    rays[..., 0], rays[..., 1] = x, y[:, None]
    return rays


class _Planes:
    """The least squares of planes n·p = 1 over windows: for a ray r at the depth z, n·r = 1/z."""

    def __init__(self, depth: Array, rays: Array) -> None:
        """Take depth in meters (H, W), 0 missing, and the rays (H, W, 3)."""
        seen = (depth > 0).astype(np.float64)
        inverse = seen / np.where(seen > 0, depth, 1)
        x, y = rays[..., 0], rays[..., 1]
        self._rays = rays
        self._terms = [x * x * seen, x * y * seen, x * seen, y * y * seen, y * seen, seen,
                       x * inverse, y * inverse, inverse]

    def normals(self, half: int) -> Array:
        """Return unit normals (H, W, 3) that point away from the camera; NaN where there is none.

        Each is of the window of 2 * half + 1 pixels around its pixel. The 3x3 system is solved by
        its adjugate: the determinant only scales the normal.
        """
        size = (2 * half + 1, 2 * half + 1)
        xx, xy, x, yy, y, n, bx, by, b = (
            cv2.boxFilter(term, cv2.CV_64F, size, normalize=False, borderType=cv2.BORDER_CONSTANT)
            for term in self._terms)
        xy_n, x_y, yy_x = x * y - xy * n, xy * y - x * yy, xy * x - xx * y
        normals = np.stack((
            (yy * n - y * y) * bx + xy_n * by + x_y * b,
            xy_n * bx + (xx * n - x * x) * by + yy_x * b,
            x_y * bx + yy_x * by + (xx * yy - xy * xy) * b,
        ), -1)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        # running sums over nothing leave round-off, but counts are exact
        normals /= np.where((length > 0) & (n[..., None] > 2), length, np.nan)
        towards = np.einsum('hwc,hwc->hw', normals, self._rays) < 0
        normals[towards] *= -1
        return normals
