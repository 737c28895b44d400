# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One homography from aux to RGB pixels, estimated from image pairs of a rigid rig.

Both images become maps of edge orientation, which hot-is-dark and dark-is-hot leave alone. A
search over rotation, scale and shift at a quarter of the size gives starting points; block-wise
correlation surfaces at half the size, summed over the pairs, then decide a displacement field: a
homography and the difference of the two lenses. What the field does when blocks are drawn at
random with replacement is the estimate of its own error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDTH = 640  # of the working grid; errors are decided on it and told in RGB pixels
BLOCKS = (8, 6)
HOMOGRAPHY, LENS = 8, 3  # parameters: translation, affine, projective; radial, two tangential
# Displacement at the left and right border, in pixels of the working grid: spread of the search.
PRIOR = np.array([30, 30, 10, 10, 6, 6, 4, 4, 30, 6, 6], np.float64)
START = np.array([1, 1, 1, 1, .7, .7, .5, .5, .5, .3, .3])
# Stages: search radius in pixels of the level, number of parameters, blur of the surfaces.
QUARTER = ((5, 4, 1.0), (4, 6, 0.7))
HALF = ((5, 6, 1.0),)
FINAL = ((6, 9, 0.9), (4, 11, 0.9), (4, 11, 0.9))
PRIOR_WEIGHT = 1.0
FINE = 4  # straight lines between coarser samples would pull every shift to a whole pixel
REACH = 6  # pixels of the level, for the estimate of the error
BOOTSTRAPS = 24
STARTS = 6  # alignments of the first search that are followed further
ENOUGH_PAIRS = 3  # to be drawn with replacement as well
# Measured on road scenes with known warps, see docs/benchmarks/registration.md.
SPREAD_FACTOR, FLOOR_PX = 0.7, 0.9
SCENE_PX = 2.3  # what one scene's own depths do; drawing pairs shows it only from three on
MARGIN = 1.45  # the error that few exceed, as a multiple of the expected one
MIN_SUPPORT, MIN_SCORE, MAX_RIVAL = 13.0, 15.0, 0.85


@dataclass(frozen=True)
class SearchRange:
    """How far from "equal field of view" the aux camera may be."""

    rotation_deg: float = 10.0
    scale: float = 1.13  # and its inverse
    shift: float = 0.15  # of the RGB width


class Alignment(NamedTuple):
    """What was found, in RGB pixels; see Model for the lens."""

    homography: Array  # 3x3, aux pixel -> RGB pixel
    lens: tuple[float, float, float]
    error_px: float  # expected error of the homography: median over the image
    error_p90_px: float  # and 90th percentile
    spread_px: float  # of the homography, when blocks are drawn with replacement
    score: float  # height of the correlation, in standard deviations of its surface
    rival: float  # score of the best other alignment, as a share
    support: tuple[float, ...]  # score of each pair alone, at the common alignment


class Model(NamedTuple):
    """RGB pixel = lens(homography(aux pixel)) on the working grid.

    The lens moves (x, y), in half widths from the middle, by k (x, y) (r^2 - 1) and by the two
    tangential terms of Brown (1971): it leaves the circle through the left and right border where
    it is, so that the homography alone keeps the field of view.
    """

    homography: Array
    lens: Array


class _Level:
    """The pairs of one pyramid level: maps of the RGB images, aux images still to be warped."""

    def __init__(self, pairs: Sequence[tuple[Array, Array, Array]], scale: float) -> None:
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
            unit = _unit(full, width / self.scale, height / self.scale)
            undone = full - _field(unit, HOMOGRAPHY) @ model.lens
        source = _project(np.linalg.inv(model.homography), undone) * self.scale + shift
        maps = source.T.reshape(2, height, width).astype(np.float32)
        return edge_maps(
            cv2.remap(aux, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
            cv2.remap(mask, maps[0], maps[1], cv2.INTER_NEAREST), self.sigma, self.window)


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


def _unit(points: Array, width: float, height: float) -> Array:
    """Return pixel positions (N, 2) in half widths from the middle."""
    unit: Array = (points + 0.5 - np.array([width, height]) / 2) * (2 / width)
    return unit


def _field(unit: Array, first: int = 0, last: int = HOMOGRAPHY + LENS) -> Array:
    """Return the displacement (N, 2, last - first) that each parameter makes."""
    x, y = unit.T
    one, zero, r2 = np.ones_like(x), np.zeros_like(x), x * x + y * y
    columns = ((one, zero), (zero, one), (x, y), (-y, x), (x, -y), (y, x), (x * x, x * y),
               (x * y, y * y), (x * (r2 - 1), y * (r2 - 1)), (r2 + 2 * x * x - 1, 2 * x * y),
               (2 * x * y, r2 + 2 * y * y - 1))
    return np.stack([np.stack(column, 1) for column in columns[first:last]], 2)


def _project(homography: Array, points: Array) -> Array:
    image = points @ homography[:, :2].T + homography[:, 2]
    projected: Array = image[:, :2] / image[:, 2:]
    return projected


def _grid(width: float, height: float, columns: int, rows: int) -> Array:
    """Return the middles of the blocks of an image, row by row (N, 2)."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns - 0.5,
                       (np.arange(rows) + 0.5) * height / rows - 0.5)
    return np.stack([x.ravel(), y.ravel()], 1)


def _moved(model: Model, step: Array, size: tuple[int, int]) -> Model:
    """Return the model after a displacement given by parameters, to first order in them."""
    points = _grid(*size, 5, 5)
    step = np.pad(step, (0, HOMOGRAPHY + LENS - len(step)))
    target = points + _field(_unit(points, *size), 0, HOMOGRAPHY) @ step[:HOMOGRAPHY]
    homography = cv2.findHomography(points, target, 0)[0] @ model.homography
    return Model(homography / homography[2, 2], model.lens + step[HOMOGRAPHY:])


def _surfaces(level: _Level, model: Model, radius: int) -> Array:
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


def _maximize(surfaces: Array, field: Array, radius: float, prior: Array,
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


def _refine(level: _Level, model: Model, stages: Sequence[tuple[int, int, float]],
            rng: np.random.Generator) -> tuple[Model, float]:
    """Climb from `model` at one level; the score is in deviations of the surfaces."""
    size = (level.size[0] / level.scale, level.size[1] / level.scale)
    unit = _unit(_grid(*size, *BLOCKS), *size)
    score = 0.0
    for radius, count, blur in stages:
        surfaces = _normalized(_surfaces(level, model, radius).sum(axis=0), blur)
        step, score = _maximize(surfaces, _field(unit, 0, count), radius, PRIOR * level.scale, rng,
                                np.ones(len(surfaces)))
        model = _moved(model, step / level.scale, size)
    return model, score


def _finer(surface: Array) -> Array:
    x, y = _fine_places(surface.shape[0])
    fine: Array = cv2.remap(surface, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return fine


@lru_cache
def _fine_places(side: int) -> tuple[Array, Array]:
    places = np.arange((side - 1) * FINE + 1, dtype=np.float32) / FINE
    x, y = np.meshgrid(places, places)
    return x, y


def _normalized(surfaces: Array, blur: float) -> Array:
    """Return surfaces FINE times finer; their sum deviates by 1, edges count little more in crowds.

    Else the homography would fit where the edges are, and the lens term would take the rest.
    """
    smooth = np.stack([_finer(cv2.GaussianBlur(surface, (0, 0), blur)) for surface in surfaces])
    deviation = smooth.std(axis=(1, 2))
    smooth /= (deviation + 0.3 * deviation.mean() + 1e-9)[:, None, None]
    total = float(np.sqrt(smooth.var(axis=(1, 2)).sum()))
    normalized: Array = smooth / max(total, 1e-9)
    return normalized


def _coarse(level: _Level, base: Array, search: SearchRange, keep: int) -> list[Model]:
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
            turned = _similarity(turn, scale, full) @ base
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
    points = _grid(*size, 9, 7)
    chosen: list[tuple[Array, Array]] = []
    for _, homography in found:
        moved = _project(homography, points)
        if all(np.median(np.linalg.norm(moved - other, axis=1)) > 8 for _, other in chosen):
            chosen.append((homography, moved))
        if len(chosen) == keep:
            break
    return [Model(homography, np.zeros(LENS)) for homography, _ in chosen]


def _similarity(turn_deg: float, scale: float, size: tuple[float, float]) -> Array:
    homography = np.eye(3)
    homography[:2] = cv2.getRotationMatrix2D(((size[0] - 1) / 2, (size[1] - 1) / 2), turn_deg,
                                             scale)
    return homography


def _prepare(rgb: Array, aux: Array) -> tuple[Array, Array, Array]:
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


def _resizing(source: tuple[int, int], target: tuple[int, int]) -> Array:
    """Return the homography of a resize between two sizes (width, height)."""
    fx, fy = target[0] / source[0], target[1] / source[1]
    return np.array([[fx, 0, (fx - 1) / 2], [0, fy, (fy - 1) / 2], [0, 0, 1]])


def estimate(pairs: Sequence[tuple[Array, Array]],
             search: SearchRange | None = None) -> Alignment:
    """Return the one alignment that fits all pairs of RGB (H, W, 3) and aux images best.

    All RGB images have one size, so have all aux images; aux may have any real dtype.
    """
    rng = np.random.default_rng(0)
    ready = [_prepare(rgb, aux) for rgb, aux in pairs]
    height, width = ready[0][0].shape
    aux_size = ready[0][1].shape[::-1]
    quarter, half = _Level(ready, 0.25), _Level(ready, 0.5)
    base = _resizing(aux_size, (width, height))
    ends = []
    for start in _coarse(quarter, base, search or SearchRange(), STARTS):
        model, _ = _refine(quarter, start, QUARTER, rng)
        model, score = _refine(half, model, HALF, rng)
        ends.append((score, model))
    ends.sort(key=lambda end: -end[0])
    model, _ = _refine(half, ends[0][1], FINAL, rng)
    surfaces = _surfaces(half, model, REACH)
    spread, score = _bootstrap(surfaces, half, rng)
    middle = REACH * FINE
    support = tuple(float(_normalized(own, 0.7)[:, middle, middle].sum()) for own in surfaces)
    rgb_shape, aux_shape = pairs[0][0].shape, pairs[0][1].shape
    rgb_px = rgb_shape[1] / width
    total = (_resizing((width, height), (rgb_shape[1], rgb_shape[0])) @ model.homography
             @ _resizing((aux_shape[1], aux_shape[0]), aux_size))
    scene = SCENE_PX / np.sqrt(len(pairs)) if len(pairs) < ENOUGH_PAIRS else 0.0
    errors = np.sqrt((SPREAD_FACTOR * spread) ** 2 + FLOOR_PX**2 + scene**2)
    k, p, q = (float(value) * rgb_px for value in model.lens)
    return Alignment(total / total[2, 2], (k, p, q), float(np.median(errors)) * rgb_px,
                     float(np.percentile(errors, 90)) * rgb_px, float(np.median(spread)) * rgb_px,
                     score, _rival(ends, (width, height)), support)


def doubt(alignment: Alignment, limit_px: float) -> str:
    """Return why the alignment should not be used, in one sentence; '' if it may be."""
    weak = sum(value < MIN_SUPPORT for value in alignment.support)
    if alignment.score < MIN_SCORE or (alignment.rival > MAX_RIVAL and not weak):
        return ('no alignment stands out from the others, expected edges that both cameras see; '
                'add pairs, of structures that are warm and visible, or widen --max-shift, '
                '--max-rotation and --max-scale.')
    if weak and len(alignment.support) > 1:
        return (f'{weak} of {len(alignment.support)} pairs do not fit the homography of all, '
                'expected one rig and one moment per pair; pass --per-pair if they are of several, '
                'or leave out pairs of bad light.')
    if MARGIN * alignment.error_px > limit_px:
        return (f'the homography is known to about {alignment.error_px:.1f} px and perhaps only to '
                f'{MARGIN * alignment.error_px:.1f} px, expected {limit_px:.1f} px; add pairs of '
                'other scenes seen by the same rig (six or more), or raise --max-error.')
    return ''


def _bootstrap(surfaces: Array, level: _Level,
               rng: np.random.Generator) -> tuple[Array, float]:
    """Return how far the homography moves at points of the image (N), root mean square; the score.

    Blocks are drawn with replacement (Efron 1979) by weights that are multinomial, and so are
    pairs where there are three or more.
    """
    size = (level.size[0] / level.scale, level.size[1] / level.scale)
    field = _field(_unit(_grid(*size, *BLOCKS), *size))
    at = _field(_unit(_grid(*size, 9, 7), *size), 0, HOMOGRAPHY)
    prior = PRIOR * level.scale
    pairs, blocks = surfaces.shape[:2]
    center, score = _maximize(_normalized(surfaces.sum(axis=0), 0.7), field, REACH, prior, rng,
                              np.ones(blocks))
    moves = []
    for _ in range(BOOTSTRAPS):
        drawn = (rng.multinomial(pairs, np.full(pairs, 1 / pairs)) if pairs >= ENOUGH_PAIRS
                 else np.ones(pairs)).astype(np.float32)
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks)).astype(np.float64)
        summed = _normalized(np.tensordot(drawn, surfaces, 1), 0.7)
        step, _ = _maximize(summed, field, REACH, prior, rng, weights, (0.25, 0.08))
        moves.append(at @ (step - center)[:HOMOGRAPHY] / level.scale)
    return np.sqrt((np.stack(moves) ** 2).sum(axis=2).mean(axis=0)), score


def _rival(ends: list[tuple[float, Model]], size: tuple[int, int]) -> float:
    """Return the score of the best end that is elsewhere, as a share of the best score."""
    points = _grid(*size, 9, 7)
    best_score, best = ends[0]
    for score, model in ends[1:]:
        distance = np.median(np.linalg.norm(_project(model.homography, points)
                                            - _project(best.homography, points), axis=1))
        if distance > 6:
            return max(score, 0.0) / max(best_score, 1e-9)
    return 0.0
