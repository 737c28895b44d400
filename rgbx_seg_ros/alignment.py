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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.alignment_search import (
    BLOCKS,
    FINE,
    PRIOR,
    SearchRange,
    correlate_blocks,
    maximize,
    normalize,
    refine,
    search_whole_images,
)
from rgbx_seg_ros.displacement import (
    HOMOGRAPHY,
    Model,
    block_middles,
    displacements,
    half_widths,
    project,
    resizing,
)
from rgbx_seg_ros.edge_maps import Level, prepare

Array = NDArray[Any]

# Stages: search radius in pixels of the level, number of parameters, blur of the surfaces.
QUARTER = ((5, 4, 1.0), (4, 6, 0.7))
HALF = ((5, 6, 1.0),)
FINAL = ((6, 9, 0.9), (4, 11, 0.9), (4, 11, 0.9))
REACH = 6  # pixels of the level, for the estimate of the error
BOOTSTRAPS = 24
STARTS = 6  # alignments of the first search that are followed further
ENOUGH_PAIRS = 3  # to be drawn with replacement as well
# Measured on road scenes with known warps, see docs/benchmarks/registration.md.
SPREAD_FACTOR, FLOOR_PX = 0.7, 0.9
SCENE_PX = 2.3  # what one scene's own depths do; drawing pairs shows it only from three on
MARGIN = 1.45  # the error that few exceed, as a multiple of the expected one
MIN_SUPPORT, MIN_SCORE, MAX_RIVAL = 13.0, 15.0, 0.85


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


def estimate(pairs: Sequence[tuple[Array, Array]],
             search: SearchRange | None = None) -> Alignment:
    """Return the one alignment that fits all pairs of RGB (H, W, 3) and aux images best.

    All RGB images have one size, so have all aux images; aux may have any real dtype.
    """
    rng = np.random.default_rng(0)
    ready = [prepare(rgb, aux) for rgb, aux in pairs]
    height, width = ready[0][0].shape
    aux_size = ready[0][1].shape[::-1]
    quarter, half = Level(ready, 0.25), Level(ready, 0.5)
    base = resizing(aux_size, (width, height))
    ends = []
    for start in search_whole_images(quarter, base, search or SearchRange(), STARTS):
        model, _ = refine(quarter, start, QUARTER, rng)
        model, score = refine(half, model, HALF, rng)
        ends.append((score, model))
    ends.sort(key=lambda end: -end[0])
    model, _ = refine(half, ends[0][1], FINAL, rng)
    surfaces = correlate_blocks(half, model, REACH)
    spread, score = _bootstrap(surfaces, half, rng)
    middle = REACH * FINE
    support = tuple(float(normalize(own, 0.7)[:, middle, middle].sum()) for own in surfaces)
    rgb_shape, aux_shape = pairs[0][0].shape, pairs[0][1].shape
    rgb_px = rgb_shape[1] / width
    total = (resizing((width, height), (rgb_shape[1], rgb_shape[0])) @ model.homography
             @ resizing((aux_shape[1], aux_shape[0]), aux_size))
    scene = SCENE_PX / np.sqrt(len(pairs)) if len(pairs) < ENOUGH_PAIRS else 0.0
    errors = np.sqrt((SPREAD_FACTOR * spread) ** 2 + FLOOR_PX**2 + scene**2)
    k, p, q = (float(value) * rgb_px for value in model.lens)
    return Alignment(total / total[2, 2], (k, p, q), float(np.median(errors)) * rgb_px,
                     float(np.percentile(errors, 90)) * rgb_px, float(np.median(spread)) * rgb_px,
                     score, _rival(ends, (width, height)), support)


def doubt(alignment: Alignment, limit_px: float) -> str:
    """Return why the alignment should not be used, in one sentence; '' if it may be."""
    weak = len(unfit(alignment))
    if alignment.score < MIN_SCORE or (alignment.rival > MAX_RIVAL and not weak):
        return ('no alignment stands out from the others, expected edges that both cameras see; '
                'add pairs, of structures that are warm and visible, or widen --max-shift, '
                '--max-rotation and --max-scale.')
    if weak and len(alignment.support) > 1:
        return (f'{weak} of {len(alignment.support)} pairs do not fit the homography of all, '
                'expected one rig and light enough for edges; pass --drop-unfit to leave them out '
                '(six must remain), or --per-pair if they are of several rigs.')
    if MARGIN * alignment.error_px > limit_px:
        return (f'the homography is known to about {alignment.error_px:.1f} px and perhaps only to '
                f'{MARGIN * alignment.error_px:.1f} px, expected {limit_px:.1f} px; add pairs of '
                'other scenes seen by the same rig (six or more), or raise --max-error.')
    return ''


def unfit(alignment: Alignment) -> list[int]:
    """Return which pairs do not show the edges that the common alignment would bring together."""
    return [index for index, value in enumerate(alignment.support) if value < MIN_SUPPORT]


def _bootstrap(surfaces: Array, level: Level, rng: np.random.Generator) -> tuple[Array, float]:
    """Return how far the homography moves at points of the image (N), root mean square; the score.

    Blocks are drawn with replacement (Efron 1979) by weights that are multinomial, and so are
    pairs where there are three or more.
    """
    size = (level.size[0] / level.scale, level.size[1] / level.scale)
    field = displacements(half_widths(block_middles(*size, *BLOCKS), *size))
    at = displacements(half_widths(block_middles(*size, 9, 7), *size), 0, HOMOGRAPHY)
    prior = PRIOR * level.scale
    pairs, blocks = surfaces.shape[:2]
    center, score = maximize(normalize(surfaces.sum(axis=0), 0.7), field, REACH, prior, rng,
                             np.ones(blocks))
    moves = []
    for _ in range(BOOTSTRAPS):
        drawn = (rng.multinomial(pairs, np.full(pairs, 1 / pairs)) if pairs >= ENOUGH_PAIRS
                 else np.ones(pairs)).astype(np.float32)
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks)).astype(np.float64)
        summed = normalize(np.tensordot(drawn, surfaces, 1), 0.7)
        step, _ = maximize(summed, field, REACH, prior, rng, weights, (0.25, 0.08))
        moves.append(at @ (step - center)[:HOMOGRAPHY] / level.scale)
    return np.sqrt((np.stack(moves) ** 2).sum(axis=2).mean(axis=0)), score


def _rival(ends: list[tuple[float, Model]], size: tuple[int, int]) -> float:
    """Return the score of the best end that is elsewhere, as a share of the best score."""
    points = block_middles(*size, 9, 7)
    best_score, best = ends[0]
    for score, model in ends[1:]:
        distance = np.median(np.linalg.norm(project(model.homography, points)
                                            - project(best.homography, points), axis=1))
        if distance > 6:
            return max(score, 0.0) / max(best_score, 1e-9)
    return 0.0
