# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The synchronization reports and the tables of frames of several bags as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgbx_seg_ros.eval_result import FRAMES_FILE


class BagSync(NamedTuple):
    """The synchronization report of a bag, how long it lasts, and the skew of each pair [ms]."""

    sync: Mapping[str, Any]
    duration_s: float
    skews: Sequence[float]


def merge_sync(bags: Sequence[BagSync]) -> dict[str, Any]:
    """Return one report of all: counts added up, rates and delays averaged over the time.

    The longest gap is that of all, the skew is of all pairs; percentiles of a delay, of which only
    the report is left, are averaged like the delay.
    """
    if len(bags) == 1:
        return dict(bags[0].sync)
    merged: dict[str, Any] = _merge('', [(bag.sync, bag.duration_s) for bag in bags])
    skews = [skew for bag in bags for skew in bag.skews]
    # As in the report of a bag: percentiles are of the size, only the mean has the sign.
    merged['skew_ms'] = {**spread(map(abs, skews)), 'mean': mean(skews)}
    return merged


def _merge(name: str, given: Sequence[tuple[Any, float]]) -> Any:
    """Return one value of values and their weights, by what they are."""
    given = [(value, weight) for value, weight in given if value is not None]
    values = [value for value, _ in given]
    if not values:
        return None
    if all(isinstance(value, Mapping) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        return {key: _merge(key, [(value[key], weight) for value, weight in given if key in value])
                for key in keys}
    if all(isinstance(value, list) for value in values):
        return list(dict.fromkeys(item for value in values for item in value))
    if not all(isinstance(value, (int, float)) for value in values):
        return values[0] if all(value == values[0] for value in values) else None
    if name.startswith(('longest', 'max')):
        return max(values)
    if all(isinstance(value, int) for value in values):
        return sum(values)
    total = math.fsum(weight for _, weight in given)
    if not total > 0:
        return mean(values)
    return math.fsum(value * weight for value, weight in given) / total


def mean(values: Iterable[float]) -> float | None:
    """Return the mean of what is no NaN; None where there is nothing."""
    there = [value for value in values if math.isfinite(value)]
    return float(np.mean(there)) if there else None


def spread(values: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p95 and max of what is no NaN; each None where there is nothing."""
    there = np.array([value for value in values if math.isfinite(value)])
    if not len(there):
        return {'p50': None, 'p95': None, 'max': None}
    p50, p95 = np.percentile(there, (50, 95))
    return {'p50': float(p50), 'p95': float(p95), 'max': float(there.max())}


def merged_rows(folders: Mapping[str, Path]) -> Iterator[str]:
    """Yield the lines of the frames.csv of all bags, name -> folder, the name in front."""
    for position, (name, folder) in enumerate(folders.items()):
        with (folder / FRAMES_FILE).open(encoding='utf-8', newline='') as lines:
            head = next(lines)
            if not position:
                yield f'bag,{head}'
            yield from (f'{name},{line}' for line in lines)
