# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Traces for the tests of pairing, a replay with exact deadlines, and two judges with hindsight."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from rgbx_seg_ros.sync import Pair, Pairer
from rgbx_seg_ros.sync_traces import MS, START, Event, Trace, camera

__all__ = ['MS', 'START', 'Event', 'camera', 'hold_ms', 'mutual_pairs', 'optimal_pairs', 'play',
           'skews_ms', 'stamps']


def play(pairer: Pairer, events: Trace) -> list[tuple[Pair, int]]:
    """Feed the events in order of arrival, polling at the deadlines; return pairs and times."""
    out = []
    now = 0
    for now, stream, stamp in sorted(events):
        while (due := pairer.next_deadline_ns()) is not None and due < now:
            out += [(pair, due) for pair in pairer.poll(due)]
            assert pairer.next_deadline_ns() != due
        out += [(pair, now) for pair in pairer.add(stream, stamp, now, None)]
    return out + [(pair, now) for pair in pairer.flush()]


def stamps(out: list[tuple[Pair, int]]) -> list[tuple[int, int]]:
    return [(pair.rgb.stamp_ns, pair.aux.stamp_ns) for pair, _ in out]


def skews_ms(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array([abs(aux - rgb) for rgb, aux in pairs]) / MS


def hold_ms(out: list[tuple[Pair, int]]) -> np.ndarray:
    return np.array([now - max(pair.rgb.arrival_ns, pair.aux.arrival_ns) for pair, now in out]) / MS


def _streams(events: Trace) -> tuple[np.ndarray, np.ndarray]:
    rgb, aux = (np.unique([e.stamp_ns for e in events if e.stream == name]).astype(np.int64)
                for name in ('rgb', 'aux'))
    return rgb, aux


def mutual_pairs(events: Trace, limit_ms: float = 50) -> list[tuple[int, int]]:
    """Return the frames that are each other's nearest: nobody could wish these apart."""
    rgb, aux = _streams(events)
    if not len(rgb) or not len(aux):
        return []
    distances = np.abs(rgb[:, None] - aux[None, :])
    to_aux, to_rgb = distances.argmin(1), distances.argmin(0)
    return [(int(rgb[i]), int(aux[j])) for i, j in enumerate(to_aux)
            if to_rgb[j] == i and distances[i, j] <= limit_ms * MS]


def optimal_pairs(events: Trace, limit_ms: float = 50) -> list[tuple[int, int]]:
    """Return as many pairs in order as there can be within the limit, of the smallest total skew.

    Dynamic programming over both streams: the best of the first i RGB and j aux frames.
    """
    rgb, aux = (values.tolist() for values in _streams(events))
    score: dict[tuple[int, int], tuple[int, int]] = defaultdict(lambda: (0, 0))
    width = len(aux)
    for i in range(1, len(rgb) + 1):
        for j in range(1, width + 1):
            best = max(score[i - 1, j], score[i, j - 1])
            skew = abs(aux[j - 1] - rgb[i - 1])
            if skew <= limit_ms * MS:
                count, total = score[i - 1, j - 1]
                best = max(best, (count + 1, total - skew))
            score[i, j] = best
    pairs, i, j = [], len(rgb), width
    while i and j:
        if score[i, j] == score[i - 1, j]:
            i -= 1
        elif score[i, j] == score[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((rgb[i], aux[j]))
    return pairs[::-1]
