# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of `rgbx_benchmark engine`, from what its rounds have measured.

A round is compared with the same round of the reference, never with another: what slows the
machine for a while then slows both, and the ratio stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

PERCENTILES = (50, 95, 99)
Round = Mapping[str, Any]  # the answer of a row's process, see `benchmark_child.Subject.round`


def percentiles(ms: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, linearly interpolated."""
    values = np.percentile(ms, PERCENTILES)
    return {f'p{name}': float(value) for name, value in zip(PERCENTILES, values, strict=True)}


def cost_ms(one: Round, every: int) -> float:
    """Return the milliseconds per pair of a round: the median, and a share of the scene graph's.

    `every` is after how many pairs the scene graph runs, 0 for a bundle of one graph.
    """
    model = float(np.median(one['ms']))
    return model + float(np.median(one['scene_ms'])) / every if every else model


def of_round(one: Round, every: int) -> dict[str, Any]:
    """Return the figures of one round."""
    pairs, seconds = len(one['ms']), one['seconds']
    # A bundle of two graphs was timed by its parts; one graph's rate holds the gaps between too.
    rate = 1e3 / cost_ms(one, every) if every else pairs / one['wall_s']
    watts = one['power'].get('watts')
    return {'pairs': pairs, **percentiles(one['ms']), 'mean': float(np.mean(one['ms'])),
            'max': max(one['ms']), 'cost_ms': cost_ms(one, every), 'pairs_per_s': rate,
            'cpu_ms': one['cpu_s'] * 1e3 / pairs,
            'device_ms': _median(one['device_ms']), 'scene_ms': _median(one['scene_ms']),
            'beside_ms': _median(one['beside_ms']),
            'watts': watts, 'joules_per_pair': None if watts is None else watts / rate,
            'power': one['power'], 'peak_mb': one['peak_mb'],
            'others_cpu_percent': 100 * one['others_cpu_s'] / seconds if seconds else 0.0}


def of_row(rounds: Sequence[Round], every: int) -> dict[str, Any]:
    """Return the figures of all rounds: medians of the rounds, but p95 and p99 of all pairs."""
    figures = [of_round(one, every) for one in rounds]
    pooled = percentiles([ms for one in rounds for ms in one['ms']])
    result = {key: _median([one[key] for one in figures if one[key] is not None])
              for key in ('p50', 'cost_ms', 'pairs_per_s', 'cpu_ms', 'device_ms', 'scene_ms',
                          'beside_ms', 'watts', 'joules_per_pair', 'others_cpu_percent')}
    return {**result, 'p95': pooled['p95'], 'p99': pooled['p99'],
            'pairs': sum(one['pairs'] for one in figures),
            'peak_mb': figures[-1]['peak_mb'], 'rounds': figures}


def ratio(rounds: Sequence[Round], reference: Sequence[Round], every: int
          ) -> dict[str, Any] | None:
    """Return how many times faster than the reference a row is: round by round, and the median."""
    each = [cost_ms(other, every) / cost_ms(own, every)
            for own, other in zip(rounds, reference, strict=False)]
    if not each:
        return None
    return {'median': median(each), 'low': min(each), 'high': max(each), 'rounds': each}


def agreement(labels: Path | None, reference: Path | None) -> float | None:
    """Return the share of labels that are equal in two files, in 0..1."""
    if labels is None or reference is None:
        return None
    own, other = np.load(labels), np.load(reference)
    return float((own == other).mean()) if own.shape == other.shape else None


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None
