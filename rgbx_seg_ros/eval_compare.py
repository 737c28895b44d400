# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How sure a score of a bag is, and whether one bundle is better than another on the same frames.

A bootstrap: what would the score have been, had the robot seen other seconds of the same kind? The
frames of a bag are no independent draws, each is nearly the one before. So blocks of consecutive
frames are drawn, of a second or longer, within each bag. All bundles get the same draws: what is
hard for both cancels out in the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_result import BagResult, Counts, FrameRecord
from rgbx_seg_ros.manifest import ClassInfo

Floats = NDArray[np.float64]

RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
LEAST_BLOCK_S, MOST_BLOCK_S = 1.0, 10.0  # what moves past a robot stays in sight for seconds
WANTED_BLOCKS = 50  # blocks grow longer than the least only while so many remain
FEW_BLOCKS = 20  # below it the intervals come out too narrow, and
LEAST_BLOCKS = 5  # below it there are none: a handful of blocks says nothing of their spread
LEAST_OF_A_BAG = 5  # blocks; bags of fewer are drawn from together
MAX_DRAWS = 1 << 22  # held at a time
MOMENTS = 12  # shown of each kind

MEMBERS = ('hit', 'predicted', 'true')  # the middle axis of all counts


class Blocks(NamedTuple):
    """The scored frames of all bags, added up over blocks of time: B blocks, L bundles."""

    sums: Counts  # (B, L, 3, K)
    strata: NDArray[np.intp]  # (B,), ascending: blocks of one number are exchanged for each other
    length_s: float  # of a block, on the average


def iou(counts: NDArray[Any]) -> Floats:
    """Return (..., K) of counts (..., 3, K); NaN for a class neither true nor predicted."""
    hit, predicted, true = (counts[..., member, :] for member in range(3))
    union = predicted + true - hit
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(union > 0, hit / union, np.nan)


def miou(ious: Floats) -> Floats:
    """Return the mean over the last axis of what is no NaN; NaN where there is nothing else."""
    there = np.isfinite(ious)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(there, ious, 0.0).sum(-1) / there.sum(-1)


def block_sums(results: Sequence[BagResult], length_s: float | None = None) -> Blocks:
    """Return the frames that have a target in blocks of about `length_s`.

    By default a block takes a second, and up to ten in long bags.
    """
    scored = [(number, rows, times) for number, (rows, times) in enumerate(
        _scored(result.records[0]) for result in results) if len(rows)]
    spans = [_span(times) for _, _, times in scored]
    if length_s is None:
        length_s = min(max(sum(spans) / WANTED_BLOCKS, LEAST_BLOCK_S), MOST_BLOCK_S)
    sums, strata = [], []
    for (number, rows, times), span in zip(scored, spans, strict=True):
        starts = _starts(times, span, length_s)
        counts = np.stack([totals.counts[rows] for totals in results[number].totals], axis=1)
        sums.append(np.add.reduceat(counts, starts, axis=0))
        # Of a handful of blocks no spread can be told; such bags are themselves the blocks.
        strata += [number if len(starts) >= LEAST_OF_A_BAG else len(results)] * len(starts)
    if not sums:
        classes = results[0].totals[0].confusion.shape[0] if results else 0
        lanes = len(results[0].totals) if results else 0
        return Blocks(np.zeros((0, lanes, 3, classes), np.int64), np.zeros(0, np.intp), length_s)
    order = np.argsort(strata, kind='stable')
    return Blocks(np.concatenate(sums)[order], np.array(strata, np.intp)[order],
                  sum(spans) / len(strata))


def _scored(records: Sequence[FrameRecord]) -> tuple[NDArray[np.intp], Floats]:
    rows = [row for row, record in enumerate(records) if record.labeled > 0]
    return np.array(rows, np.intp), np.array([records[row].time_s for row in rows], np.float64)


def _span(times: Floats) -> float:
    """Return the seconds that frames stand for: to the last one, and a usual distance more."""
    steps = np.diff(times)
    return float(np.ptp(times) + np.median(steps.clip(0))) if len(steps) else 0.0


def _starts(times: Floats, span: float, length_s: float) -> NDArray[np.intp]:
    """Return the first row of each block; all blocks of a bag last equally long."""
    count = max(round(span / length_s), 1)
    number = ((times - times[0]) * count / max(span, 1e-9)).astype(np.int64)
    # Where stamps jump back, as in a bag played in a loop, a new block begins as well.
    return np.flatnonzero(np.diff(number, prepend=number[0] - 1))


def draws(strata: NDArray[np.intp], resamples: int, seed: int = SEED
          ) -> Iterator[NDArray[np.intp]]:
    """Yield resamples as rows of indices of blocks (n, B), some rows at a time."""
    rng = np.random.default_rng(seed)
    _, firsts, sizes = np.unique(strata, return_index=True, return_counts=True)
    step = max(MAX_DRAWS // max(len(strata), 1), 1)
    for begin in range(0, resamples, step):
        count = min(step, resamples - begin)
        yield np.concatenate([rng.integers(first, first + size, (count, size))
                              for first, size in zip(firsts, sizes, strict=True)], axis=1)


def resample(blocks: Blocks, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Return the counts of each resample, (resamples, L, 3, K); whole numbers, as floats.

    A resample is a vector of how often it holds each block, so all of them are one product of
    matrices; below 2**53 floats add whole numbers exactly, in whatever order.
    """
    count, shape = len(blocks.sums), blocks.sums.shape[1:]
    flat = blocks.sums.reshape(count, math.prod(shape)).astype(np.float64)
    parts = []
    for drawn in draws(blocks.strata, resamples, seed):
        places = drawn + count * np.arange(len(drawn))[:, None]
        often = np.bincount(places.ravel(), minlength=count * len(drawn))
        parts.append(often.reshape(len(drawn), count).astype(np.float64) @ flat)
    return np.concatenate(parts).reshape(resamples, *shape)


def interval(values: Floats) -> list[float] | None:
    """Return the bounds of the middle 95 %, of what is no NaN; None if that is less than half."""
    there = values[np.isfinite(values)]
    if 2 * len(there) < len(values) or not len(there):
        return None
    low, high = np.percentile(there, (50 * (1 - LEVEL), 50 * (1 + LEVEL)))
    return [float(low), float(high)]


class Bootstrap:
    """The IoU of all resamples, from which every interval of a report is read."""

    def __init__(self, results: Sequence[BagResult], resamples: int = RESAMPLES,
                 seed: int = SEED, length_s: float | None = None) -> None:
        """Draw; with too few blocks there is nothing to draw from, and no interval."""
        self.blocks = block_sums(results, length_s)
        self.whole = iou(self.blocks.sums.sum(0))  # (L, K)
        self._drawn: Floats | None = None  # (resamples, L, K)
        if len(self.blocks.sums) >= LEAST_BLOCKS:
            self._drawn = iou(resample(self.blocks, resamples, seed))
        self.about = {'resamples': resamples, 'level': LEVEL, 'blocks': len(self.blocks.sums),
                      'block_s': self.blocks.length_s, 'caveat': self._caveat()}

    def miou(self, lane: int) -> list[float] | None:
        """Return the interval of the mIoU of a bundle."""
        return None if self._drawn is None else interval(miou(self._drawn[:, lane]))

    def per_class(self, lane: int) -> list[list[float] | None]:
        """Return the interval of the IoU of each class id."""
        if self._drawn is None:
            return [None] * self.whole.shape[-1]
        return [interval(column) for column in self._drawn[:, lane].T]

    def change(self, lane: int) -> dict[str, Any]:
        """Return the change of mIoU from the first bundle to another, and how sure it is."""
        found = float(miou(self.whole[lane]) - miou(self.whole[0]))
        bounds = better = None
        if self._drawn is not None:
            changes = miou(self._drawn[:, lane]) - miou(self._drawn[:, 0])
            there = changes[np.isfinite(changes)]
            bounds = interval(changes)
            better = float(np.mean((there > 0) + 0.5 * (there == 0))) if len(there) else None
        return {'miou_change': found, 'interval': bounds, 'probability_better': better}

    def class_changes(self, lane: int, classes: Sequence[ClassInfo]) -> list[dict[str, Any]]:
        """Return the change of IoU of each class, those that lose most first."""
        changes = self.whole[lane] - self.whole[0]
        drawn = None if self._drawn is None else self._drawn[:, lane] - self._drawn[:, 0]
        rows = [{'id': info.id, 'name': info.name, 'change': float(changes[info.id]),
                 'interval': None if drawn is None or not np.isfinite(changes[info.id])
                 else interval(drawn[:, info.id])} for info in classes]
        return sorted(rows, key=lambda row: np.inf if math.isnan(row['change']) else row['change'])

    def _caveat(self) -> str:
        count = len(self.blocks.sums)
        if count < LEAST_BLOCKS:
            return (f'no interval can be told of {count} block{"s" * (count != 1)} of about a '
                    f'second; label {LEAST_BLOCKS} seconds at least, or evaluate several bags.')
        if count < FEW_BLOCKS:
            return (f'the intervals stand on {count} blocks of {self.blocks.length_s:.1f} s and '
                    f'are narrower than they should be; from {FEW_BLOCKS} on they can be relied '
                    'on: label more of the bag, or evaluate more bags.')
        return ''


def compare(results: Sequence[BagResult], lane: int, bootstrap: Bootstrap) -> dict[str, Any]:
    """Return what differs between the first bundle and another one on the frames of all bags."""
    names = [bundle['name'] for bundle in results[0].bundles]
    agreement = [record.agreement for result in results for record in result.records[lane]]
    moments = [moment for result in results for moment in _changes(result, lane)]
    gap_s = max(bootstrap.blocks.length_s, LEAST_BLOCK_S)
    return {'bundle': names[lane], 'baseline': names[0], 'paired_frames': sum(
                record.labeled > 0 for result in results for record in result.records[0]),
            **bootstrap.change(lane),
            'per_class': bootstrap.class_changes(lane, results[0].classes),
            'regressions': apart(sorted((m for m in moments if m['change'] < 0),
                                        key=lambda m: m['change']), gap_s),
            'improvements': apart(sorted((m for m in moments if m['change'] > 0),
                                         key=lambda m: -m['change']), gap_s),
            'agreement': float(np.nanmean(agreement)) if np.isfinite(agreement).any() else None,
            **bootstrap.about}


def _changes(result: BagResult, lane: int) -> Iterator[dict[str, Any]]:
    """Yield the frames of a bag that have a target, with the mIoU of both bundles."""
    for base, own in zip(result.records[0], result.records[lane], strict=True):
        if base.labeled > 0 and math.isfinite(own.miou - base.miou):
            yield {'bag': result.name, 'number': own.number, 'time_s': own.time_s,
                   'miou': own.miou, 'baseline_miou': base.miou, 'change': own.miou - base.miou}


def apart(moments: Sequence[dict[str, Any]], gap_s: float, count: int = MOMENTS
          ) -> list[dict[str, Any]]:
    """Return the first `count` moments that are not within `gap_s` of one before in its bag.

    The frames around the worst one show the same; a list of them would hide the other failures.
    """
    chosen: list[dict[str, Any]] = []
    for moment in moments:
        if len(chosen) == count:
            break
        if all(other['bag'] != moment['bag'] or abs(other['time_s'] - moment['time_s']) >= gap_s
               for other in chosen):
            chosen.append(moment)
    return chosen
