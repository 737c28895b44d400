# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which part of a sample is seen, how large and where; and aux that lies beside its place.

Only the part that is seen is resized, so a large image costs what a small one does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.config_augment import AugmentConfig
from rgbx_seg_train.data.sample import Image

Rng = np.random.Generator
Size = tuple[int, int]  # height, width


class View(NamedTuple):
    """A window of a sample, resized to `inner` and placed in an image of `size`."""

    corner: Size  # top and left of the window
    window: Size
    inner: Size
    place: Size  # top and left of `inner` in the result
    size: Size


class Misalignment(NamedTuple):
    """How far aux lies from its place: pixels of the network, radians, and its size."""

    x: float
    y: float
    angle: float  # from x to y, so clockwise as images are looked at
    scale: float


def draw_view(source: Size, size: Size, config: AugmentConfig, rng: Rng) -> View:
    """Return a random view of a sample of the size `source` for a network of another size."""
    window, inner = GEOMETRY[config.geometry](source, size, config, rng)
    spots = rng.random(4)
    rest = (*(full - part for full, part in zip(source, window, strict=True)),
            *(full - part for full, part in zip(size, inner, strict=True)))
    top, left, y, x = (int(spot * (free + 1)) for spot, free in zip(spots, rest, strict=True))
    return View((top, left), window, inner, (y, x), size)


def _window(source: Size, size: Size, config: AugmentConfig, rng: Rng) -> tuple[Size, Size]:
    """A zoom of 1 shows the whole image; below 1 it shrinks and is padded."""
    zoom = math.exp(rng.uniform(math.log(config.zoom_low), math.log(config.zoom_high)))
    return (_scaled(source, 1 / max(zoom, 1.0)), _scaled(size, min(zoom, 1.0)))


def _crop(source: Size, size: Size, config: AugmentConfig, rng: Rng) -> tuple[Size, Size]:
    """Width and height grow alike; the short side becomes the network's times 0.5 to 2, say."""
    scale = rng.uniform(config.resize_low, config.resize_high) * min(size) / min(source)
    inner = tuple(min(part, full) for part, full in
                  zip(_scaled(source, scale), size, strict=True))
    window = tuple(min(part, full) for part, full in
                   zip(_scaled(inner, 1 / scale), source, strict=True))
    return window, inner


GEOMETRY = {'window': _window, 'crop': _crop}


def _scaled(size: Size, scale: float) -> Size:
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def draw_misalignment(config: AugmentConfig, rng: Rng) -> Misalignment | None:
    """Return how far aux is to lie from its place, or None if it stays there."""
    if rng.random() >= config.p_aux_shift:
        return None
    x, y, angle, scale = rng.uniform(-1, 1, 4)
    return Misalignment(x * config.aux_shift, y * config.aux_shift,
                        math.radians(angle * config.aux_rotation), 1 + scale * config.aux_scale)


def take(image: Image, view: View) -> Image:
    """Return the window of an image (H, W, C) at the size `view.inner`."""
    return _resized(image[_slices(view)], view)


def take_ids(label: Image, view: View) -> Image:
    """Return the window of a label (H, W); ids are never blended."""
    part = label[_slices(view)]
    if part.shape == view.inner:
        return part
    return cv2.resize(part, view.inner[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def misaligned(aux: Image, view: View, error: Misalignment, turned: tuple[int, ...] = ()) -> Image:
    """Return the window of an aux image (H, W, C) that lies beside its place in the sample.

    Outside of what the camera saw it is 0, but 255 in channels that a mirror is going to turn.
    """
    height, width = aux.shape[:2]
    step_y, step_x = (part / full for part, full in zip(view.window, view.inner, strict=True))
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    cosine, sine = math.cos(error.angle) / error.scale, math.sin(error.angle) / error.scale
    back = np.array([[cosine, sine], [-sine, cosine]])  # from where a pixel lies to where it was
    corner = np.array([view.corner[1], view.corner[0]])
    shift = np.array([error.x * step_x, error.y * step_y])  # in pixels of the sample
    offset = back @ (corner - shift - middle) + middle
    moved = cv2.warpAffine(aux, np.column_stack([back, offset]), view.window[::-1],
                           flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                           borderValue=[255 * (n in turned) for n in range(aux.shape[2])])
    return _resized(moved.reshape(*view.window, aux.shape[2]), view)


def pad(image: Image, view: View, fill: int) -> Image:
    """Return an image of `view.inner` in its place, with `fill` around it."""
    if view.inner == view.size:
        return np.ascontiguousarray(image)
    padded = np.full((*view.size, *image.shape[2:]), fill, np.uint8)
    (y, x), (height, width) = view.place, view.inner
    padded[y:y + height, x:x + width] = image
    return padded


def _resized(part: Image, view: View) -> Image:
    return resize_to(part, *view.inner).reshape(*view.inner, part.shape[2])  # OpenCV drops a 1


def _slices(view: View) -> tuple[slice, slice]:
    (top, left), (height, width) = view.corner, view.window
    return slice(top, top + height), slice(left, left + width)
