# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Polygons in the world, a pinhole camera, and the painter that turns them into pixel maps.

World axes: X right, Y up, Z forward, meters. Camera axes: X right, Y down, Z forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

NEAR = 0.4  # meters; nothing nearer than this is painted
SUBPIXEL_BITS = 4
FAR_PIXEL = 30000.0  # keeps fixed-point coordinates inside int32
ROUND = np.linspace(0.0, 2.0 * np.pi, 16, endpoint=False)

Array = NDArray[np.float64]


class Camera(NamedTuple):
    """A pinhole camera: where it is, how it looks (rows: right, down, forward), and its size."""

    position: Array
    rotation: Array
    focal: float
    height: int
    width: int


class Mesh(NamedTuple):
    """Planar faces painted together: vertices (k, 3) each, a material and a layer per face."""

    faces: list[Array]
    materials: list[int]
    layers: list[int]
    center: Array
    ground: bool = False  # painted in the order given, before everything that stands
    solid: bool = False  # back faces are culled


class Raster(NamedTuple):
    """What the painter leaves: a face number per pixel (0 is sky), labels, and tables by face."""

    face: NDArray[np.uint16]
    label: NDArray[np.uint8]
    material: NDArray[np.int64]  # (n,) material by face number
    normal: Array  # (n, 3) unit, toward the camera
    plane: Array  # (n, 3): 1/z = plane . (x, y, 1) in normalized image coordinates
    ground: NDArray[np.bool_]  # (n,) face lies on the ground


def look(
    position: Array, yaw: float, pitch: float, focal: float, height: int, width: int
) -> Camera:
    """Make a camera at `position` turned right by `yaw` and down by `pitch` (radians)."""
    sin_y, cos_y, sin_p, cos_p = np.sin(yaw), np.cos(yaw), np.sin(pitch), np.cos(pitch)
    right = np.array([cos_y, 0.0, -sin_y])
    forward = np.array([sin_y * cos_p, -sin_p, cos_y * cos_p])
    return Camera(
        position, np.stack([right, np.cross(right, forward), forward]), focal, height, width
    )


def image_rays(camera: Camera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return normalized image coordinates: x of the columns (W,) and y of the rows (H,)."""
    x = (np.arange(camera.width, dtype=np.float32) + 0.5 - camera.width / 2) / camera.focal
    y = (np.arange(camera.height, dtype=np.float32) + 0.5 - camera.height / 2) / camera.focal
    return x.astype(np.float32), y.astype(np.float32)


def place(points: Array, x: float, z: float, heading: float, y: float = 0.0) -> Array:
    """Turn local points (right, up, forward) by `heading` about the vertical and move them."""
    sin_h, cos_h = np.sin(heading), np.cos(heading)
    out = np.empty_like(points)
    out[..., 0] = points[..., 0] * cos_h + points[..., 2] * sin_h + x
    out[..., 1] = points[..., 1] + y
    out[..., 2] = points[..., 2] * cos_h - points[..., 0] * sin_h + z
    return out


def capsules(start: Array, end: Array, start_radius: Array, end_radius: Array, eye: Array) -> Array:
    """Return rounded limbs (n, 10, 3) between points (n, 3) that face the camera at `eye`."""
    axis = end - start
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-6)
    side = np.cross(axis, (start + end) / 2 - eye)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-6)
    first, last = [], []
    for angle in np.linspace(-np.pi / 2, np.pi / 2, 5):
        across, along = np.sin(angle), np.cos(angle)
        last.append(end + end_radius[:, None] * (across * side + along * axis))
        first.append(start - start_radius[:, None] * (across * side + along * axis))
    return np.stack(last + first, axis=1)


def blob(
    center: Array, radius_x: float, radius_y: float, eye: Array, bumps: Array | None = None
) -> Array:
    """Return an upright ellipse (k, 3) that faces `eye`; `bumps` (k,) scales its radii."""
    toward = center - eye
    flat = np.hypot(toward[0], toward[2]) + 1e-6
    right = np.array([toward[2] / flat, 0.0, -toward[0] / flat])
    angle = ROUND if bumps is None else np.linspace(0, 2 * np.pi, len(bumps), endpoint=False)
    scale = np.ones(len(angle)) if bumps is None else bumps
    rise = (np.sin(angle) * scale * radius_y)[:, None] * np.array([0.0, 1.0, 0.0])
    return center + (np.cos(angle) * scale * radius_x)[:, None] * right + rise


def box(
    width: float, height: float, length: float, base: float = 0.0, top: float = 1.0
) -> list[Array]:
    """Return five faces of a box (left, right, front, back, top) whose top is scaled by `top`."""
    w, d, y0, y1 = width / 2, length / 2, base, base + height
    low = [(-w, y0, -d), (w, y0, -d), (w, y0, d), (-w, y0, d)]
    high = [
        (-w * top, y1, -d * top),
        (w * top, y1, -d * top),
        (w * top, y1, d * top),
        (-w * top, y1, d * top),
    ]
    sides = [(3, 0), (1, 2), (2, 3), (0, 1)]
    faces = [np.array([low[a], low[b], high[b], high[a]], dtype=float) for a, b in sides]
    return [*faces, np.array(high, dtype=float)]


def rasterize(
    meshes: Sequence[Mesh],
    camera: Camera,
    materials_label: NDArray[np.int64],
    visible: NDArray[np.bool_],
) -> Raster:
    """Paint the meshes from far to near; `visible` says which materials show beside their label."""
    faces = [face for mesh in meshes for face in mesh.faces]
    material = np.array([m for mesh in meshes for m in mesh.materials])
    size = np.array([len(mesh.faces) for mesh in meshes])
    ends = np.cumsum([len(face) for face in faces])
    starts = np.concatenate([[0], ends[:-1]])
    points = (np.concatenate(faces) - camera.position) @ camera.rotation.T
    center = np.stack([mesh.center for mesh in meshes])[np.repeat(np.arange(len(meshes)), size)]
    center = (center - camera.position) @ camera.rotation.T
    middle = np.add.reduceat(points, starts) / (ends - starts)[:, None]
    normal, hidden = _normals(
        points, starts, middle, center, np.repeat([m.solid for m in meshes], size)
    )
    ground = np.repeat([mesh.ground for mesh in meshes], size)
    order = _painting_order(meshes, size, center, middle, ground)
    pixels, box_out = _project(points, starts, camera)
    face_map = np.zeros((camera.height, camera.width), np.uint16)
    label_map = np.zeros((camera.height, camera.width), np.uint8)
    labels, shown = materials_label[material].tolist(), visible[material].tolist()
    near = np.minimum.reduceat(points[:, 2], starts) < NEAR
    for i in order[~(hidden | box_out)[order]].tolist():
        polygon = pixels[starts[i] : ends[i]]
        if near[i]:
            polygon = _pixels(_clip_near(points[starts[i] : ends[i]]), camera)
            if len(polygon) < 3:
                continue
        if shown[i]:
            cv2.fillPoly(face_map, [polygon], i + 1, cv2.LINE_8, SUBPIXEL_BITS)
        cv2.fillPoly(label_map, [polygon], labels[i], cv2.LINE_8, SUBPIXEL_BITS)
    offset = np.einsum('ij,ij->i', normal, points[starts])
    plane = normal / np.where(np.abs(offset) < 1e-4, 1e-4, offset)[:, None]
    pad = np.zeros((1, 3))
    return Raster(
        face_map,
        label_map,
        np.concatenate([[0], material]),
        np.concatenate([pad, normal @ camera.rotation]),
        np.concatenate([pad, plane]),
        np.concatenate([[False], ground]),
    )


def _normals(
    points: Array, starts: NDArray[np.int64], middle: Array, center: Array, solid: NDArray[np.bool_]
) -> tuple[Array, NDArray[np.bool_]]:
    """Unit normals toward the camera, and which faces of solids look away from it."""
    corner = points[starts]
    normal = np.cross(points[starts + 1] - corner, points[starts + 2] - corner)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    outward = np.sign(np.einsum('ij,ij->i', normal, middle - center))
    toward = np.sign(-np.einsum('ij,ij->i', normal, middle))
    toward[toward == 0] = 1
    return normal * toward[:, None], solid & (outward * toward < 0)


def _painting_order(
    meshes: Sequence[Mesh],
    size: NDArray[np.int64],
    center: Array,
    middle: Array,
    ground: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Ground as given, then meshes from far to near, inside a mesh by layer and distance."""
    layer = np.array([value for mesh in meshes for value in mesh.layers])
    number = np.repeat(np.arange(len(meshes)), size)
    far = np.where(ground, -1e6 + number, -np.hypot(center[:, 0], center[:, 2]))
    inner = np.where(ground, 0.0, -np.linalg.norm(middle, axis=1))
    return np.lexsort((inner, layer, number, far))


def _project(
    points: Array, starts: NDArray[np.int64], camera: Camera
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Fixed-point pixels of all points, and which faces lie wholly outside the picture."""
    pixels = _pixels(points, camera)
    low = np.minimum.reduceat(pixels, starts) >> SUBPIXEL_BITS
    high = np.maximum.reduceat(pixels, starts) >> SUBPIXEL_BITS
    outside = (high < 0).any(1) | (low[:, 0] >= camera.width) | (low[:, 1] >= camera.height)
    behind = points[:, 2] < NEAR
    some = np.logical_or.reduceat(behind, starts)
    return pixels, np.where(some, np.logical_and.reduceat(behind, starts), outside)


def _pixels(points: Array, camera: Camera) -> NDArray[np.int32]:
    scale = camera.focal / np.maximum(points[:, 2:], 1e-3)
    pixel = points[:, :2] * scale + np.array([camera.width / 2, camera.height / 2]) - 0.5
    return np.round(np.clip(pixel, -FAR_PIXEL, FAR_PIXEL) * (1 << SUBPIXEL_BITS)).astype(np.int32)


def _clip_near(polygon: Array) -> Array:
    """Cut a polygon (k, 3) at the near plane (Sutherland-Hodgman against one plane)."""
    kept: list[Array] = []
    for current, following in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside, next_inside = current[2] >= NEAR, following[2] >= NEAR
        if inside:
            kept.append(current)
        if inside != next_inside:
            share = (NEAR - current[2]) / (following[2] - current[2])
            kept.append(current + share * (following - current))
    return np.array(kept).reshape(-1, 3)
