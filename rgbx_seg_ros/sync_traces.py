# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Stamps and arrivals of two cameras that do what cameras do, and the best pairs in hindsight."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from rgbx_seg_ros.sync_stream import HALF_PERIOD

MS = 1_000_000
START = 1_700_000_000_000_000_000


class Event(NamedTuple):
    """A frame of stream 'rgb' or 'aux' arrives; sorted by arrival."""

    arrival_ns: int
    stream: str
    stamp_ns: int


Trace = list[Event]


def camera(stream: str, rate: float, seconds: float = 60, phase_ms: float = 0, delay_ms: float = 0,
           jitter_ms: float = 0, drop: float = 0, stamp_jitter_ms: float = 0,
           seed: int = 0) -> Trace:
    """Return one camera's frames: arrival = stamp + delay + 0..jitter; stamps jitter by sigma."""
    rng = np.random.default_rng([seed, stream == 'aux'])
    times = phase_ms * MS + np.arange(round(seconds * rate)) / rate * 1e9
    times += np.clip(rng.normal(0, 1, len(times)), -3, 3) * stamp_jitter_ms * MS
    stamps = [START + round(time) for time in times]
    return [Event(int(stamp + (delay_ms + jitter_ms * rng.random()) * MS), stream, stamp)
            for stamp in stamps if rng.random() >= drop]


def pair(rgb: dict[str, Any], aux: dict[str, Any]) -> Trace:
    """Return the frames of both cameras in order of arrival."""
    return sorted(camera('rgb', **rgb) + camera('aux', **aux))


def pause(events: Iterable[Event], stream: str, every_s: float, length_s: float) -> Trace:
    """Take the frames out during which the stream's camera closes its shutter (FFC)."""
    return [e for e in events if e.stream != stream
            or (e.stamp_ns - START) / 1e9 % every_s < every_s - length_s]


def stall(events: Iterable[Event], stream: str, every_s: float, length_s: float) -> Trace:
    """Hold the stream's frames back now and then, and deliver them in one burst."""
    every, length = round(every_s * 1e9), round(length_s * 1e9)

    def arrival(event: Event) -> int:
        cycle, position = divmod(event.arrival_ns - START, every)
        held = event.stream == stream and position >= every - length
        return START + (cycle + 1) * every if held else event.arrival_ns

    return sorted(event._replace(arrival_ns=arrival(event)) for event in events)


def again(events: Trace, gap_ns: int = 100 * MS) -> Trace:
    """Return the same frames once more, as a looped bag delivers them."""
    later = events[-1].arrival_ns - events[0].arrival_ns + gap_ns
    return [event._replace(arrival_ns=event.arrival_ns + later) for event in events]


def _lossy(**rgb: float) -> Trace:
    lossy = {'rate': 30, 'jitter_ms': 5, 'drop': 0.1}
    return pair(lossy | rgb, lossy | {'phase_ms': 4})


SCENARIOS: dict[str, Callable[[], list[Trace]]] = {  # each a list of passes over one bag
    'rgb30_aux9': lambda: [pair({'rate': 30}, {'rate': 9})],
    'rgb30_aux9_rgb_late': lambda: [pair({'rate': 30, 'delay_ms': 60}, {'rate': 9})],
    'rgb30_aux9_aux_late': lambda: [pair({'rate': 30}, {'rate': 9, 'delay_ms': 60})],
    'rgb30_aux30_phase12': lambda: [pair({'rate': 30}, {'rate': 30, 'phase_ms': 12})],
    'rgb30_aux30_lossy': lambda: [_lossy()],
    'rgb30_aux30_lossy_rgb_late': lambda: [_lossy(delay_ms=40)],
    'looped_bag': lambda: [once := pair({'rate': 30, 'seconds': 20}, {'rate': 9, 'seconds': 20}),
                           again(once)],
    'rgb60_aux9': lambda: [pair({'rate': 60}, {'rate': 9, 'phase_ms': 5})],
    'rgb9_aux30': lambda: [pair({'rate': 9}, {'rate': 30, 'phase_ms': 5})],
    'drift': lambda: [pair({'rate': 30}, {'rate': 29.97})],
    'stamp_jitter': lambda: [pair({'rate': 10, 'stamp_jitter_ms': 15},
                                  {'rate': 10, 'stamp_jitter_ms': 15, 'phase_ms': 20})],
    'reordered': lambda: [pair({'rate': 30, 'jitter_ms': 60}, {'rate': 9})],
    'aux_pauses': lambda: [pause(pair({'rate': 30}, {'rate': 30, 'phase_ms': 7}), 'aux', 10, 1.5)],
    'rgb_bursts': lambda: [stall(pair({'rate': 30}, {'rate': 9}), 'rgb', 5, 1 / 3)],
    'rgb_200ms_late': lambda: [pair({'rate': 30, 'delay_ms': 200}, {'rate': 9})],
    'short_loop': lambda: [once := pair({'rate': 30, 'seconds': 0.9}, {'rate': 9, 'seconds': 0.9}),
                           second := again(once, 33 * MS), again(second, 33 * MS)],
}


def best_pairs(events: Trace, max_skew_s: float) -> list[tuple[int, int]]:
    """Return the best pairs of RGB and aux stamps of one pass, with the whole trace in view.

    Nearest first; each frame once, both streams in order, none further apart than `max_skew_s` or
    than HALF_PERIOD of the slower stream's period (its median: the neighbors of a lost frame).
    """
    stamps = {name: sorted({e.stamp_ns for e in events if e.stream == name and e.stamp_ns > 0})
              for name in ('rgb', 'aux')}
    periods = [float(np.median(np.diff(s))) for s in stamps.values() if len(s) > 1]
    limit = min([max_skew_s * 1e9, *(HALF_PERIOD * max(periods) for _ in periods[:1])])
    aux = stamps['aux']
    near = sorted((abs(other - rgb), rgb + other, rgb, other) for rgb in stamps['rgb']
                  for other in aux[bisect_left(aux, rgb - limit):bisect_left(aux, rgb + limit + 1)])
    chosen: list[tuple[int, int]] = []
    for _, _, rgb, other in near:
        at = bisect_left(chosen, (rgb, other))
        if (at and (chosen[at - 1][0] >= rgb or chosen[at - 1][1] >= other)) or (
                at < len(chosen) and (chosen[at][0] <= rgb or chosen[at][1] <= other)):
            continue
        insort(chosen, (rgb, other))
    return chosen
