# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where the scene of each RGB pixel lies in the aux image.

With two calibrated cameras everything is one formula: with the ray r = (x, y, 1) of the undistorted
RGB pixel and its inverse depth q = 1 / z, the aux camera sees the point in the direction R r + q t.
A plane n p = d has q = n r / d, a constant distance is the plane z = d, infinity has q = 0.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.calibration import Homography
from rgbx_seg_ros.camera import FAR, Camera, Transform

Array = NDArray[Any]
Size = tuple[int, int]  # width, height

DEPTH_COLUMNS = 214  # places computed per row and frame with depth: every third of 640 pixels


class Flat:
    """Places in the aux image by a homography."""

    def __init__(self, homography: Homography, rgb_size: Size, aux_size: Size) -> None:
        """Take a homography and the sizes that the images have now."""
        matrix = (_rescale(homography.rgb_size, rgb_size) @ homography.matrix
                  @ _rescale(aux_size, homography.aux_size))
        center = matrix @ ((aux_size[0] - 1) / 2, (aux_size[1] - 1) / 2, 1)
        # A homography has no sign; the center of the aux image is what lies before the camera.
        self._back = np.linalg.inv(matrix) * np.sign(center[2])

    def places(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the aux pixels (u, v) of RGB pixels; FAR for those of no place."""
        u, v, w = (row[0] * x + row[1] * y + row[2] for row in self._back)
        hidden = ~(w > 1e-9 * np.abs(self._back).max())
        with np.errstate(all='ignore'):
            u, v = u / w, v / w
        u[hidden] = FAR
        v[hidden] = FAR
        return u, v


class Rig:
    """Places in the aux image by two cameras and the depth of the scene."""

    def __init__(self, rgb: Camera, aux: Camera, motion: Transform,
                 plane: tuple[float, ...]) -> None:
        """Take cameras of the sizes that the images have now, and a plane (a, b, c, d)."""
        self._rgb, self._aux, self._motion = rgb, aux, motion
        self._plane = np.array(plane[:3]) / plane[3]

    def rays(self, x: Array, y: Array) -> tuple[tuple[Array, ...], Array]:
        """Return R r in three planes and the plane's inverse depth of RGB pixels."""
        x, y = self._rgb.rays(x, y)
        turned = tuple(row[0] * x + row[1] * y + row[2] for row in self._motion.rotation)
        a, b, c = self._plane
        # Where a ray leaves the plane behind (the sky over a ground), the scene is far away.
        return turned, np.maximum(a * x + b * y + c, 0.0)

    def project(self, turned: tuple[Array, ...], nearness: Array) -> tuple[Array, Array]:
        """Return the aux pixels (u, v) of turned rays at an inverse depth, in their dtype."""
        offset = (float(value) for value in self._motion.translation)
        with np.errstate(all='ignore'):  # a depth of next to nothing
            x, y, z = (plane + nearness * t for plane, t in zip(turned, offset, strict=True))
        return self._aux.project(x, y, z)

    def places(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Return the aux pixels (u, v) of RGB pixels, on the plane."""
        return self.project(*self.rays(x, y))


class Grid:
    """Every `step`-th pixel of an image and a ring around it, and the way back to all pixels."""

    def __init__(self, size: Size, step: int) -> None:
        """Lay the grid over an image of `size` (width, height)."""
        self._size, self._step = size, step
        self._nodes = tuple(-(-side // step) + 2 for side in size)
        columns, rows = ((np.arange(n) - 0.5) * step - 0.5 for n in self._nodes)
        self.x, self.y = np.meshgrid(columns, rows)
        self._full: list[Array] = []

    def expand(self, places: tuple[Array, Array]) -> tuple[Array, Array]:
        """Return values at the nodes interpolated at all pixels, float32, in reused memory."""
        step, (width, height) = self._step, self._size
        columns, rows = (n * step for n in self._nodes)
        if not self._full:
            self._full = [np.empty((rows, columns), np.float32) for _ in places]
        for full, values in zip(self._full, places, strict=True):
            cv2.resize(values.astype(np.float32, copy=False), (columns, rows), full)
        u, v = (full[step:step + height, step:step + width] for full in self._full)
        return u, v


class DepthPlaces:
    """Places in the aux image by a rig and one depth image a frame, in reused memory."""

    def __init__(self, rig: Rig, size: Size) -> None:
        """Compute once what no depth changes; `size` (width, height) is that of the maps."""
        self._rig, self._size = rig, size
        self._grid = Grid(size, -(-size[0] // DEPTH_COLUMNS))
        turned, nearness = rig.rays(self._grid.x, self._grid.y)
        self._turned = tuple(plane.astype(np.float32) for plane in turned)
        self._elsewhere = nearness.astype(np.float32)
        self._nearness = np.empty_like(self._elsewhere)
        self._cells: tuple[Size, Array] = ((0, 0), np.empty(0, np.intp))

    def __call__(self, depth: Array) -> tuple[Array, Array]:
        """Return the maps for a depth image in meters; NaN, 0 and less lie on the plane."""
        nearness = self._nearness
        depth.take(self._cells_of(depth.shape[1], depth.shape[0]), out=nearness, mode='clip')
        unknown = ~(nearness > 0)
        with np.errstate(all='ignore'):
            np.divide(np.float32(1.0), nearness, out=nearness)
        np.copyto(nearness, self._elsewhere, where=unknown)
        return self._grid.expand(self._rig.project(self._turned, nearness))

    def _cells_of(self, width: int, height: int) -> Array:
        """Return the index of the depth pixel nearest to each node."""
        if self._cells[0] != (width, height):
            x, y = (np.clip(np.rint((nodes + 0.5) * side / own - 0.5), 0, side - 1).astype(np.intp)
                    for nodes, side, own in zip((self._grid.x, self._grid.y), (width, height),
                                                self._size, strict=True))
            self._cells = (width, height), y * width + x
        return self._cells[1]


def _rescale(old: Size, new: Size) -> Array:
    """Return the matrix from pixels of an image of size `old` to those of the same one at `new`."""
    sx, sy = new[0] / old[0], new[1] / old[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
