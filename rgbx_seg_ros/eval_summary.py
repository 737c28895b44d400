# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One summary of the evaluations of all bags, ready for JSON: the report.json of rgbx_eval_bag.

Counts are added up and only then divided, so that a long bag counts more than a short one. Only
'timing' and 'versions' depend on how, where and when the bags were evaluated.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.eval_compare import MEMBERS, Bootstrap, compare, iou, miou
from rgbx_seg_ros.eval_merge import BagSync, mean, merge_sync, spread
from rgbx_seg_ros.eval_result import TIMES, BagResult, FrameRecord, LaneTotals, finite
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.metrics_boundary import BoundaryIou
from rgbx_seg_ros.metrics_calibration import Calibration

FORMAT = 1
# Conditions by fixed bounds, so that two reports have the same bins. Of real road scenes by day
# and by night, the mean luma of the nights was below 60, that of the days above 49; a third of the
# thermal images had a contrast below 33, a third above 46.
BINS: dict[str, tuple[tuple[str, float, float], ...]] = {
    'brightness': (('dark', 0, 25), ('dim', 25, 55), ('light', 55, 150),
                   ('bright', 150, math.inf)),
    'skew': (('0-5 ms', 0, 5), ('5-15 ms', 5, 15), ('15-30 ms', 15, 30),
             ('>30 ms', 30, math.inf)),
    'aux_contrast': (('low', 0, 30), ('medium', 30, 60), ('high', 60, math.inf))}
COLUMNS = {'brightness': 'brightness', 'skew': 'skew_ms', 'aux_contrast': 'aux_contrast'}
PER_FRAME = ('counts', 'fractions')  # fields of LaneTotals that grow with the bag
ONLY_OF_ALL = ('per_class', 'confusion', 'reliability')  # scores that are not told of each bag


def summarize(results: Sequence[BagResult], settings: EvalSettings,
              failed: Sequence[Mapping[str, str]] = (),
              elapsed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the report of bags that were evaluated alike; a number that does not exist is None.

    `failed` names the other bags: name, bag, reason. `elapsed` is added to the timing.
    """
    _check_alike(results)
    first, lanes = results[0], range(len(results[0].bundles))
    bootstrap = Bootstrap(results)
    summary = {
        'format': FORMAT, 'settings': _plain(asdict(settings)), 'bundles': first.bundles,
        'classes': [asdict(info) for info in first.classes],
        'bags': [_bag(result) for result in results], 'failed': [dict(one) for one in failed],
        'scores': [_scores(results, lane, bootstrap) for lane in lanes],
        'conditions': [_conditions(results, lane) for lane in lanes],
        'comparison': [compare(results, lane, bootstrap) for lane in lanes[1:]],
        'bootstrap': bootstrap.about,
        'sync': merge_sync([BagSync(result.sync, result.duration_s, [
            record.skew_ms for record in result.records[0]]) for result in results]),
        'timing': {**_timing(results), **(elapsed or {})}, 'versions': versions()}
    return finite(summary)


def _check_alike(results: Sequence[BagResult]) -> None:
    if not results:
        raise RgbxSegError('no bag was evaluated, expected one at least for a report.')
    first = results[0]
    for result in results:
        if result.bundles != first.bundles or result.classes != first.classes:
            raise RgbxSegError(f'the bags {first.name} and {result.name} were evaluated by '
                               'different bundles or engines, expected the same ones for one '
                               'report; evaluate all anew by --force.')
        for records, totals in zip(result.records, result.totals, strict=True):
            if len(records) != len(totals.counts):
                raise RgbxSegError(f'the evaluation of {result.name} has {len(records)} frames and '
                                   f'the counts of {len(totals.counts)}, expected as many; '
                                   'evaluate it anew by --force.')


def versions() -> dict[str, str]:
    """Return the versions that numbers could depend on, beside those of the engines."""
    return {'rgbx_seg': __version__, 'Python': platform.python_version(),
            'NumPy': np.__version__, 'OpenCV': cv2.__version__, 'machine': platform.machine()}


def _bag(result: BagResult) -> dict[str, Any]:
    scores = [_scores([result], lane, None) for lane in range(len(result.bundles))]
    return {'name': result.name, 'bag': result.bag, 'start_ns': result.start_ns,
            'duration_s': result.duration_s, 'topics': result.topics,
            'pairs': len(result.records[0]), 'scored': scores[0]['scored'], 'sync': result.sync,
            'scores': [{key: value for key, value in one.items() if key not in ONLY_OF_ALL}
                       for one in scores]}


def _scores(results: Sequence[BagResult], lane: int, bootstrap: Bootstrap | None
            ) -> dict[str, Any]:
    """Return the numbers of one bundle over bags."""
    totals, classes = _added(results, lane), results[0].classes
    confusion, boundary = _confusion(totals), BoundaryIou(len(totals.confusion))
    boundary.counts += totals.boundary
    calibration = Calibration()
    calibration.counts += totals.calibration
    ids = [info.id for info in classes]
    records = [record for result in results for record in result.records[lane]]
    labeled = int(totals.confusion.sum() + totals.abstained.sum())
    return {
        'miou': confusion.miou(),
        'miou_strict': float(np.nan_to_num(confusion.iou()[ids]).mean()) if labeled else None,
        'accuracy': confusion.accuracy(), 'mean_accuracy': mean(confusion.recall()),
        'boundary_miou': boundary.miou(), 'ece': calibration.ece(),
        'labeled_pixels': labeled,
        'scored': sum(record.labeled > 0 for record in records),
        **{name: mean(getattr(record, name) for record in records)
           for name in ('confidence', 'entropy', 'consistency', 'aux_change')},
        'miou_with_aux': _miou_of(totals.with_aux), 'miou_without_aux': _miou_of(
            totals.without_aux),
        'ablated': sum(math.isfinite(record.aux_change) for record in records),
        'agreement': mean(record.agreement for record in records) if lane else None,
        'miou_interval': bootstrap.miou(lane) if bootstrap else None,
        'per_class': _per_class(results, lane, confusion, boundary, bootstrap),
        'confusion': totals.confusion,
        'reliability': [one._asdict() for one in calibration.reliability()]}


def _per_class(results: Sequence[BagResult], lane: int, confusion: Confusion,
               boundary: BoundaryIou, bootstrap: Bootstrap | None) -> list[dict[str, Any]]:
    if bootstrap is None:
        return []
    masks = np.sum([result.totals[lane].fractions.sum(0) for result in results], axis=0)
    true = confusion.matrix.sum(1) + confusion.abstained
    columns = {'iou': confusion.iou(), 'boundary_iou': boundary.iou(),
               'precision': confusion.precision(), 'recall': confusion.recall(),
               'true_share': _share(true), 'predicted_share': _share(masks),
               'interval': bootstrap.per_class(lane)}
    return [{'id': info.id, 'name': info.name,
             **{name: column[info.id] for name, column in columns.items()}}
            for info in results[0].classes]


def _added(results: Sequence[BagResult], lane: int) -> LaneTotals:
    """Return the counts of all bags, without those of single frames."""
    columns = {field.name: [getattr(result.totals[lane], field.name) for result in results]
               for field in fields(LaneTotals)}
    return LaneTotals(**{name: arrays[0][:0] if name in PER_FRAME else np.sum(arrays, axis=0)
                         for name, arrays in columns.items()})


def _confusion(totals: LaneTotals) -> Confusion:
    confusion = Confusion(len(totals.confusion))
    confusion.matrix += totals.confusion
    confusion.abstained += totals.abstained
    return confusion


def _miou_of(counts: Any) -> float:
    """Return the mIoU of counts (K, K + 1) whose last column is 255."""
    confusion = Confusion(len(counts))
    confusion.matrix += counts[:, :-1]
    confusion.abstained += counts[:, -1]
    return confusion.miou()


def _share(counts: Any) -> Any:
    return counts / counts.sum() if counts.sum() else np.full(len(counts), math.nan)


def _conditions(results: Sequence[BagResult], lane: int) -> dict[str, list[dict[str, Any]]]:
    """Return the scores of the frames under each condition; a lost camera's is under none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for condition, bins in BINS.items():
        values = [np.abs([getattr(record, COLUMNS[condition]) for record in result.records[lane]])
                  for result in results]
        found[condition] = [_bin(results, lane, name, low, high, [
            np.flatnonzero((one >= low) & (one < high)) for one in values])
            for name, low, high in bins]
    return found


def _bin(results: Sequence[BagResult], lane: int, name: str, low: float, high: float,
         rows: Sequence[Any]) -> dict[str, Any]:
    records = [result.records[lane][row] for result, some in zip(results, rows, strict=True)
               for row in some]
    counts = np.sum([result.totals[lane].counts[some].sum(0)
                     for result, some in zip(results, rows, strict=True)], axis=0)
    hit, _, true = (int(counts[member].sum()) for member in range(len(MEMBERS)))
    return {'name': name, 'low': low, 'high': high, 'pairs': len(records),
            'scored': sum(record.labeled > 0 for record in records),
            'miou': float(miou(iou(counts))), 'accuracy': hit / true if true else None,
            'confidence': mean(record.confidence for record in records),
            'consistency': mean(record.consistency for record in records)}


def _timing(results: Sequence[BagResult]) -> dict[str, Any]:
    """Return how fast the bags went through, each as one process took it."""
    walls = {name: sum(result.timing.get(name, 0.0) for result in results)
             for result in results for name in result.timing}
    wall_s, bag_s = walls.get('wall_s', 0.0), sum(result.duration_s for result in results)
    pairs = sum(len(result.records[0]) for result in results)
    return {**walls, 'bag_s': bag_s,
            'real_time_factor': bag_s / wall_s if wall_s else None,
            'pairs_per_s': pairs / wall_s if wall_s else None,
            'engine_share': walls.get('engine_s', 0.0) / wall_s if wall_s else None,
            'stages': [_stages([record for result in results for record in result.records[lane]])
                       for lane in range(len(results[0].bundles))],
            'bags': [{'name': result.name, **result.timing} for result in results]}


def _stages(records: Sequence[FrameRecord]) -> dict[str, dict[str, float | None]]:
    return {name.removesuffix('_ms'): spread(getattr(record, name) for record in records)
            for name in TIMES}


def _plain(value: Any) -> Any:
    """Return settings as JSON has them, paths as texts."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
