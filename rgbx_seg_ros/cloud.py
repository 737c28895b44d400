# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A mask and a depth image to the bytes of an organized sensor_msgs/PointCloud2.

One point per pixel of the mask, in its order, so that nav2's semantic layer finds the point of a
pixel by its index; a pixel without depth is NaN and keeps its label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import Camera
from rgbx_seg_ros.places import Grid

POINT_STEP = 16  # bytes; the last two are padding, so that every x is aligned
# Name, offset and datatype of each sensor_msgs/PointField (FLOAT32 = 7, UINT8 = 2), count 1.
FIELDS = (('x', 0, 7), ('y', 4, 7), ('z', 8, 7), ('label', 12, 2), ('confidence', 13, 2))
POINT = np.dtype({'names': [name for name, _, _ in FIELDS],
                  'formats': [{7: '<f4', 2: 'u1'}[datatype] for _, _, datatype in FIELDS],
                  'offsets': [offset for _, offset, _ in FIELDS], 'itemsize': POINT_STEP})
NODES = 200  # rays along the shorter side that are computed, those between are interpolated
STRIP = 32768  # points worked on at a time: they stay in a core's cache

Floats = NDArray[np.float32]
Image = NDArray[np.uint8]


def depth_to_meters(depth: NDArray[Any], out: Floats | None = None) -> Floats:
    """Return a depth image (H, W) in meters, NaN where there is none; `out` if it is given.

    float32 is meters and uint16 millimeters (REP-118); 0, negative, infinite and NaN are no depth
    (REP-117). Raises RgbxSegError for another dtype or shape.
    """
    if depth.ndim != 2 or depth.dtype not in (np.float32, np.uint16):
        raise RgbxSegError(f'the depth image is {depth.dtype} {depth.shape}; expected float32 '
                           'meters or uint16 millimeters (H, W).')
    meters = np.empty(depth.shape, np.float32) if out is None else out
    if depth.dtype == np.uint16:
        np.copyto(meters, depth)
        meters *= np.float32(0.001)
    else:
        np.copyto(meters, depth)
        cv2.max(meters, 0.0, meters)
    # z / z is 1, but NaN for 0 and infinity: seven times faster than a mask.
    with np.errstate(invalid='ignore'):
        meters *= meters / meters
    return meters


def pinhole_rays(k: Sequence[float], size: tuple[int, int]) -> Floats:
    """Return x/z and y/z (H, W, 2) of each pixel center of an image of `size` = (H, W).

    `k` is the row-major 3x3 matrix of sensor_msgs/CameraInfo; RgbxSegError if it is not filled.
    """
    if len(k) != 9 or not np.isfinite(k).all() or k[0] == 0 or k[4] == 0:
        raise RgbxSegError(f'the camera matrix is {list(k)}; expected 9 numbers with focal lengths '
                           'that are not 0: calibrate the camera.')
    height, width = size
    rays = np.empty((2, height, width), np.float32)  # planes: pack reads them one after the other
    rays[0] = (np.arange(width) - k[2]) / k[0]
    rays[1] = ((np.arange(height) - k[5]) / k[4])[:, None]
    return rays.transpose(1, 2, 0)


def camera_rays(camera: Camera) -> Floats:
    """Return the rays (H, W, 2) of a camera, distorted or not; NaN where a pixel has none."""
    if (step := min(camera.width, camera.height) // NODES) > 1:
        grid = Grid((camera.width, camera.height), step)
        nodes = camera.rays(grid.x, grid.y)
        if all(np.isfinite(rays).all() for rays in nodes):
            # A lens bends little between them: 1e-4 at most, but seconds earlier.
            return np.stack(grid.expand(nodes)).transpose(1, 2, 0)
    planes = np.empty((2, camera.height, camera.width), np.float32)
    columns, height = np.arange(camera.width, dtype=float), max(1, STRIP // camera.width)
    for top in range(0, camera.height, height):
        rows = np.arange(top, min(top + height, camera.height), dtype=float)
        planes[:, top:top + height] = camera.rays(*np.meshgrid(columns, rows))
    return planes.transpose(1, 2, 0)


def pack(depth: NDArray[Any], rays: Floats, label: Image, confidence: Image,
         out: Any = None) -> NDArray[Any]:
    """Return the points (H, W) of dtype POINT: the data of a PointCloud2 with the FIELDS.

    `depth` is what `depth_to_meters` takes; of another size than the mask, it is resized by
    nearest. `rays` (H, W, 2) is of the mask's camera. `out` is a buffer of H * W * 16 bytes to
    write to, such as the message's own array.

    Raises:
        RgbxSegError: the depth's dtype is another, or the rays' size is not the mask's.

    """
    height, width = label.shape
    if rays.shape != (height, width, 2):
        raise RgbxSegError(f'the rays have the shape {rays.shape}; expected {(height, width, 2)} '
                           'as the mask has.')
    if depth.shape[:2] != label.shape:
        # Nearest, never blended: between a person and the wall behind there is nothing.
        depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    if out is None:
        out = np.empty(height * width * POINT_STEP, np.uint8)
    points = np.frombuffer(out, np.int32).reshape(height, width, 4)
    rows = max(1, STRIP // width)
    scratch = np.empty((4, rows, width), np.float32)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        _pack(depth[strip], rays[strip], label[strip], confidence[strip], scratch, points[strip])
    return points.view(POINT)[..., 0]


def _pack(depth: NDArray[Any], rays: Floats, label: Image, confidence: Image, scratch: Floats,
          points: NDArray[np.int32]) -> None:
    """Write the points (h, w, 4) of one strip; `scratch` (4, h or more, w) is overwritten."""
    scratch = scratch[:, :len(depth)]
    x, y, z, _ = scratch
    depth_to_meters(depth, z)
    np.multiply(rays[..., 0], z, out=x)
    np.multiply(rays[..., 1], z, out=y)
    # As integers, because a tail that looks like a signaling NaN must not become a quiet one.
    planes = scratch.view(np.int32)
    planes[3] = cv2.merge([label, confidence]).view('<u2')[..., 0]
    cv2.merge(list(planes), points)
