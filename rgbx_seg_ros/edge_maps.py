# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Images as maps of edge orientation, which hot-is-dark and dark-is-hot leave alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.displacement import (
    HOMOGRAPHY,
    Model,
    displacements,
    half_widths,
    project,
)

Array = NDArray[Any]

WIDTH = 640  # of the working grid; errors are decided on it and told in RGB pixels


def prepare(rgb: Array, aux: Array) -> tuple[Array, Array, Array]:
    """Return both images as logarithms (float32) of the working size, and the aux mask."""
    size = (WIDTH, round(rgb.shape[0] * WIDTH / rgb.shape[1]))
    gray = rgb.max(axis=2) if rgb.ndim == 3 else rgb
    light = np.log(cv2.resize(gray.astype(np.float32), size, interpolation=cv2.INTER_AREA) + 10)
    gray = (aux if aux.ndim == 2 else aux.max(axis=2)).astype(np.float32)
    mask = seen(gray)
    gray = np.nan_to_num(gray, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = map(float, np.percentile(gray[mask], (1, 99.5)) if mask.any() else (0, 1))
    heat = np.log(np.clip((gray - low) / max(high - low, 1e-6), 0, 1.2) + 0.05, dtype=np.float32)
    heat[~mask] = np.median(heat[mask]) if mask.any() else 0
    shape = (WIDTH, round(aux.shape[0] * WIDTH / aux.shape[1]))
    return (light, cv2.resize(heat, shape, interpolation=cv2.INTER_AREA),
            cv2.resize(mask.astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST))


def seen(aux: Array) -> Array:
    """Return where an aux image (H, W) holds a picture: not the black that borders it, not NaN."""
    empty = (~np.isfinite(aux) | (aux == 0)).astype(np.uint8)
    framed = cv2.copyMakeBorder(empty, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    labels = cv2.connectedComponents(framed, connectivity=4)[1]
    outside: Array = labels[1:-1, 1:-1] == labels[0, 0]
    return ~outside


def edge_maps(image: Array, mask: Array, sigma: float, window: int) -> tuple[Array, Array]:
    """Return saliency times (cos 2t, sin 2t) of the edges (2, H, W), and where they hold (H, W).

    t is the direction of the gradient; saliency is its magnitude against that of the
    neighborhood and of the image, so that a dim wall counts as a bright window does.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), sigma)
    gx, gy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    margin = 2 * int(np.ceil(2 * sigma + 1)) + 1
    inside = cv2.erode(mask, np.ones((margin, margin), np.uint8), borderType=cv2.BORDER_CONSTANT,
                       borderValue=0).astype(np.float32)
    magnitude = cv2.magnitude(gx, gy) * inside
    area = max(float(inside.sum()), 1.0)
    near = cv2.blur(magnitude, (window, window)) / (cv2.blur(inside, (window, window)) + 1e-3)
    everywhere = float(magnitude.sum()) / area
    weight = magnitude / (magnitude + near + everywhere + 1e-6) / (magnitude**2 + 1e-12)
    maps = np.stack([weight * (gx * gx - gy * gy), weight * (2 * gx * gy)]) * inside
    maps -= (maps.sum(axis=(1, 2)) / area)[:, None, None]  # else any two streets agree anywhere
    return maps * inside, inside


class Level:
    """The pairs of one pyramid level: maps of the RGB images, aux images still to be warped."""

    def __init__(self, pairs: Sequence[tuple[Array, Array, Array]], scale: float) -> None:
        """Take what `prepare` returns of each pair, at `scale` of its size."""
        height, width = pairs[0][0].shape[:2]
        self.scale = scale
        self.size = (round(width * scale), round(height * scale))
        self.sigma = 1.2 if scale < 0.4 else 1.5
        self.window = int(122 * scale) | 1
        whole = np.ones(self.size[::-1], np.uint8)
        self.rgb = [edge_maps(cv2.resize(rgb, self.size, interpolation=cv2.INTER_AREA), whole,
                              self.sigma, self.window)[0] for rgb, _, _ in pairs]
        self.aux = [self._shrink(aux, mask) for _, aux, mask in pairs]

    def _shrink(self, aux: Array, mask: Array) -> tuple[Array, Array]:
        size = (round(aux.shape[1] * self.scale), round(aux.shape[0] * self.scale))
        return (cv2.resize(aux, size, interpolation=cv2.INTER_AREA),
                cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))

    def warped(self, index: int, model: Model) -> tuple[Array, Array]:
        """Return the orientation maps of an aux image on the RGB grid, and where they hold."""
        aux, mask = self.aux[index]
        width, height = self.size
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        points = np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)
        shift = (self.scale - 1) / 2
        full = (points - shift) / self.scale
        undone = full
        if model.lens.any():
            unit = half_widths(full, width / self.scale, height / self.scale)
            undone = full - displacements(unit, HOMOGRAPHY) @ model.lens
        source = project(np.linalg.inv(model.homography), undone) * self.scale + shift
        maps = source.T.reshape(2, height, width).astype(np.float32)
        return edge_maps(
            cv2.remap(aux, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
            cv2.remap(mask, maps[0], maps[1], cv2.INTER_NEAREST), self.sigma, self.window)
