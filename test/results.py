# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluations of bags made by functions, for the tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rgbx_seg_ros.eval_result import BagResult, FrameRecord, LaneTotals
from rgbx_seg_ros.manifest import ClassInfo

CLASSES = tuple(ClassInfo(n, name, (n, 10 * n, 20 * n)) for n, name in enumerate(
    ('unlabeled', 'car', 'person', 'bike', 'curve', 'cone', 'bump')))
START_NS = 1_700_000_000_000_000_000
SYNC = {'rates_hz': {'rgb': 30.0, 'aux': 10.0}, 'frames': {'rgb': 300, 'aux': 100},
        'gaps': {'rgb': {'longest_s': 0.1, 'count': 1}, 'aux': {'longest_s': 0.3, 'count': 2}},
        'jitter_ms': {'rgb': 2.0, 'aux': 3.0}, 'camera_ms': {'rgb': {'p50': 20.0, 'p95': 30.0}},
        'clock_offset_ms': 1.5, 'pairs': 100, 'drops': {'rgb_unmatched': 200},
        'states': {'ok': 100}, 'undecodable': {'rgb': 0},
        'skew_ms': {'p50': 5.0, 'p95': 9.0, 'max': 10.0, 'mean': 4.0}}


def record(bundle: str, number: int, **values: object) -> FrameRecord:
    """Return a row of frames.csv at 10 Hz; what is not given is NaN, or 0 of whole numbers."""
    known = {'bundle': bundle, 'number': number, 'stamp_ns': START_NS + number * 100_000_000,
             'aux_ns': START_NS + number * 100_000_000, 'time_s': number / 10, 'state': 'ok',
             'skew_ms': 0.0, 'labeled': 0, **values}
    return FrameRecord(*(known.get(name, float('nan')) for name in FrameRecord._fields))


def confusion(rng: np.random.Generator, frames: int, right: float, classes: int = 3,
              pixels: int = 300) -> np.ndarray:
    """Return confusion matrices (F, K, K) of frames whose pixels are right with `right`."""
    true = rng.multinomial(pixels, [1 / classes] * classes, frames)
    hit = rng.binomial(true, right)
    matrices = np.zeros((frames, classes, classes), np.int64)
    every = np.arange(classes)
    matrices[:, every, every] = hit
    # What is missed is taken for the next class.
    matrices[:, every, (every + 1) % classes] += true - hit
    return matrices


def members(matrices: np.ndarray) -> np.ndarray:
    """Return (F, 3, K) hit, predicted, true of confusion matrices (F, K, K)."""
    return np.stack([matrices.diagonal(axis1=1, axis2=2), matrices.sum(1), matrices.sum(2)], 1)


def totals(matrices: np.ndarray, **values: np.ndarray) -> LaneTotals:
    """Return the counts of frames with these confusion matrices; what is not given is 0."""
    classes = matrices.shape[-1]
    known = {'confusion': matrices.sum(0), 'abstained': np.zeros(classes, np.int64),
             'boundary': np.zeros((3, classes), np.int64),
             'calibration': np.zeros((256, 2), np.int64),
             'with_aux': np.zeros((classes, classes + 1), np.int64),
             'without_aux': np.zeros((classes, classes + 1), np.int64),
             'counts': members(matrices), 'fractions': matrices.sum(1), **values}
    return LaneTotals(**known)


def frame_miou(matrix: np.ndarray) -> float:
    """Return the mIoU of one confusion matrix, over the classes that are there."""
    scores = [matrix[k, k] / union for k in range(len(matrix))
              if (union := matrix[k].sum() + matrix[:, k].sum() - matrix[k, k])]
    return float(np.mean(scores)) if scores else float('nan')


def bag_result(lanes: Sequence[np.ndarray], name: str = 'bag', **values: object) -> BagResult:
    """Return a bag at 10 Hz, the confusion matrices (F, K, K) of each bundle given."""
    bundles = [{'name': f'b{n}', 'model': 'm', 'family': 'f', 'modality': 'thermal',
                'sha256': f'{n:064x}', 'backend': 'dummy', 'backend_version': '1',
                'device': 'cpu', 'precision': 'fp32', 'width': 64, 'height': 48}
               for n in range(len(lanes))]
    records = [[record(f'b{n}', row, labeled=int(matrix.sum()), miou=frame_miou(matrix),
                       accuracy=float(np.trace(matrix) / max(matrix.sum(), 1)),
                       agreement=1.0, brightness=100.0, aux_contrast=40.0, confidence=0.9,
                       entropy=0.1, consistency=0.5, decode_ms=1.0, thermal_ms=1.0,
                       registration_ms=0.0, resize_ms=1.0, engine_ms=10.0)
                for row, matrix in enumerate(matrices)] for n, matrices in enumerate(lanes)]
    known = {'name': name, 'bag': f'/bags/{name}', 'key': 'k' * 64, 'start_ns': START_NS,
             'duration_s': len(lanes[0]) / 10, 'topics': {'rgb': '/rgb', 'aux': '/t', 'label': ''},
             'bundles': bundles, 'classes': CLASSES[:lanes[0].shape[-1]], 'sync': SYNC,
             'records': records, 'totals': [totals(matrices) for matrices in lanes],
             'timing': {'wall_s': 2.0, 'reading_s': 1.0, 'engine_s': 1.5, 'scoring_s': 0.5},
             'pictures': [], **values}
    return BagResult(**known)
