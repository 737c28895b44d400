# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The search for a displacement: whole images first, then blocks whose correlations it adds up.

Rotation, scale and shift of whole images give starting points. From each, block-wise correlation
surfaces, summed over the pairs, decide a displacement field by the cross-entropy method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.displacement import (
    LENS,
    Model,
    block_middles,
    displaced,
    displacements,
    half_widths,
    project,
    turned_and_scaled,
)
from rgbx_seg_ros.edge_maps import Level

Array = NDArray[Any]

BLOCKS = (8, 6)
# Displacement at the left and right border, in pixels of the working grid: spread of the search.
PRIOR = np.array([30, 30, 10, 10, 6, 6, 4, 4, 30, 6, 6], np.float64)
START = np.array([1, 1, 1, 1, .7, .7, .5, .5, .5, .3, .3])
PRIOR_WEIGHT = 1.0
FINE = 4  # straight lines between coarser samples would pull every shift to a whole pixel


@dataclass(frozen=True)
class SearchRange:
    """How far from "equal field of view" the aux camera may be."""

    rotation_deg: float = 10.0
    scale: float = 1.13  # and its inverse
    shift: float = 0.15  # of the RGB width


def search_whole_images(level: Level, base: Array, search: SearchRange, keep: int) -> list[Model]:
    """Return the best similarities by correlating whole images, the best one first."""
    width, height = level.size
    reach = max(1, int(search.shift * width))
    side = 2 * reach + 1
    shape = tuple(cv2.getOptimalDFTSize(length + reach + 1) for length in (height, width))
    spectra = [np.fft.rfft2(maps, shape) for maps in level.rgb]
    found: list[tuple[float, Array]] = []
    full = (width / level.scale, height / level.scale)
    turns = np.linspace(-1, 1, 2 * int(np.ceil(search.rotation_deg / 2)) + 1) * search.rotation_deg
    scales = np.exp(np.linspace(-1, 1, 2 * int(np.ceil(np.log(search.scale) / 0.04)) + 1)
                    * np.log(search.scale))
    for turn in turns:
        for scale in scales:
            turned = turned_and_scaled(turn, scale, full) @ base
            total, energy = np.zeros((1,), np.complex128), 1e-9
            for index, spectrum in enumerate(spectra):
                aux, _ = level.warped(index, Model(turned, np.zeros(LENS)))
                total = total + (spectrum * np.conj(np.fft.rfft2(aux, shape))).sum(axis=0)
                energy += float((aux * aux).sum())
            surface = np.roll(np.fft.irfft2(total, shape), (reach, reach), (0, 1))[:side, :side]
            surface = (surface / np.sqrt(energy)).astype(np.float32)
            peaks = np.argwhere(surface == cv2.dilate(surface, np.ones((7, 7), np.uint8)))
            for dy, dx in sorted(peaks, key=lambda at: -surface[at[0], at[1]])[:keep]:
                shift = np.eye(3)
                shift[:2, 2] = (dx - reach) / level.scale, (dy - reach) / level.scale
                found.append((float(surface[dy, dx]), shift @ turned))
    return _distinct(sorted(found, key=lambda item: -item[0]), full, keep)


def _distinct(found: list[tuple[float, Array]], size: tuple[float, float],
              keep: int) -> list[Model]:
    points = block_middles(*size, 9, 7)
    chosen: list[tuple[Array, Array]] = []
    for _, homography in found:
        moved = project(homography, points)
        if all(np.median(np.linalg.norm(moved - other, axis=1)) > 8 for _, other in chosen):
            chosen.append((homography, moved))
        if len(chosen) == keep:
            break
    return [Model(homography, np.zeros(LENS)) for homography, _ in chosen]


def refine(level: Level, model: Model, stages: Sequence[tuple[int, int, float]],
            rng: np.random.Generator) -> tuple[Model, float]:
    """Climb from `model` at one level; the score is in deviations of the surfaces."""
    size = (level.size[0] / level.scale, level.size[1] / level.scale)
    unit = half_widths(block_middles(*size, *BLOCKS), *size)
    score = 0.0
    for radius, count, blur in stages:
        surfaces = normalize(correlate_blocks(level, model, radius).sum(axis=0), blur)
        step, score = maximize(surfaces, displacements(unit, 0, count), radius,
                               PRIOR * level.scale, rng, np.ones(len(surfaces)))
        model = displaced(model, step / level.scale, size)
    return model, score


def correlate_blocks(level: Level, model: Model, radius: int) -> Array:
    """Return what each block's correlation is at each shift (pairs, blocks, 2r+1, 2r+1)."""
    width, height = level.size
    side = 2 * radius + 1
    surfaces = np.zeros((len(level.rgb), BLOCKS[0] * BLOCKS[1], side, side), np.float32)
    for index, maps in enumerate(level.rgb):
        aux, _ = level.warped(index, model)
        wide = np.pad(maps, ((0, 0), (radius, radius), (radius, radius)))
        product, second = np.empty_like(aux)
        for dy in range(side):
            for dx in range(side):
                np.multiply(aux[0], wide[0, dy:dy + height, dx:dx + width], out=product)
                product += np.multiply(aux[1], wide[1, dy:dy + height, dx:dx + width], out=second)
                block = cv2.resize(product, BLOCKS, interpolation=cv2.INTER_AREA)
                surfaces[index, :, dy, dx] = block.ravel()
    return surfaces


def normalize(surfaces: Array, blur: float) -> Array:
    """Return surfaces FINE times finer; their sum deviates by 1, edges count little more in crowds.

    Else the homography would fit where the edges are, and the lens term would take the rest.
    """
    smooth = np.stack([_finer(cv2.GaussianBlur(surface, (0, 0), blur)) for surface in surfaces])
    deviation = smooth.std(axis=(1, 2))
    smooth /= (deviation + 0.3 * deviation.mean() + 1e-9)[:, None, None]
    total = float(np.sqrt(smooth.var(axis=(1, 2)).sum()))
    normalized: Array = smooth / max(total, 1e-9)
    return normalized


def _finer(surface: Array) -> Array:
    x, y = _fine_places(surface.shape[0])
    fine: Array = cv2.remap(surface, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return fine


@lru_cache
def _fine_places(side: int) -> tuple[Array, Array]:
    places = np.arange((side - 1) * FINE + 1, dtype=np.float32) / FINE
    x, y = np.meshgrid(places, places)
    return x, y


def maximize(surfaces: Array, field: Array, radius: float, prior: Array,
             rng: np.random.Generator, weights: Array,
             widths: tuple[float, ...] = (0.5, 0.15, 0.05)) -> tuple[Array, float]:
    """Return the parameters with the greatest sum of heights, by the cross-entropy method.

    It starts again from its best, ever narrower: a peak in eleven dimensions is easily missed.
    """
    count = field.shape[2]
    best, best_height = np.zeros(count), -np.inf
    for width in widths:
        mean, spread = best, np.diag((START[:count] * radius * width) ** 2)
        for _ in range(8):
            root = np.linalg.cholesky(spread + 1e-8 * np.eye(count))
            steps = mean + rng.standard_normal((150, count)) @ root.T
            steps[0] = best
            height = _heights(surfaces, (field.reshape(-1, count) @ steps.T).T.reshape(
                len(steps), -1, 2), weights)
            height -= PRIOR_WEIGHT * ((steps / prior[:count]) ** 2).sum(axis=1)
            order = np.argsort(-height)[:25]
            if height[order[0]] > best_height:
                best, best_height = steps[order[0]], float(height[order[0]])
            mean, spread = steps[order].mean(axis=0), 1.2 * np.cov(steps[order].T)
    return best, best_height


def _heights(surfaces: Array, shifts: Array, weights: Array) -> Array:
    """Return the sums over the blocks (N) of the surfaces (B, D, D) at `shifts` (N, B, 2)."""
    blocks, side, _ = surfaces.shape
    at = np.clip(shifts * FINE + side // 2, 0, side - 1.001)
    whole = at.astype(np.int32)
    fx, fy = np.moveaxis(at - whole, 2, 0)
    flat = surfaces.ravel()
    index = np.arange(blocks) * side * side + whole[..., 1] * side + whole[..., 0]
    heights = ((flat[index] * (1 - fx) + flat[index + 1] * fx) * (1 - fy)
               + (flat[index + side] * (1 - fx) + flat[index + side + 1] * fx) * fy)
    total: Array = (heights * weights).sum(axis=1)
    return total
