# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node counts, and what it makes of the counts: diagnostics without ROS."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from enum import IntEnum
from statistics import median
from typing import NamedTuple

import numpy as np

STALE_S = 2.0  # without a frame for this long, a camera is gone rather than slow
WINDOW = 300  # pairs that the percentiles look back on: 10 s at 30 Hz

# Causes that someone can do something about: logged once, the first time they are counted.
REMEDIES = {
    'zero_stamp': 'a message came with a zero header stamp and cannot be paired; let the camera '
                  'driver stamp its frames.',
    'lost_on_wire': 'the middleware lost images on the way to this node; enlarge its buffers, for '
                    'Fast DDS FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA on both sides.',
    'replaced': 'a pair waited while the model was busy and was replaced by a newer one: the model '
                'is slower than the cameras; the mask is as fresh as it can be.',
    'late': 'a frame came after its turn and was skipped; if this goes on, look at the network.',
    'duplicate': 'a frame came twice with one stamp; look for two publishers on one topic.',
    'unpaired_rgb': 'an RGB frame found no aux frame within sync.max_skew; if the aux camera did '
                    'not pause, compare the stamps of both and set sync.aux_offset.',
    'unpaired_aux': 'an aux frame found no RGB frame within sync.max_skew; if the RGB camera did '
                    'not pause, compare the stamps of both and set sync.aux_offset.',
    'overflow': 'one stream came without the other until its queue was full; is the other camera '
                'running?',
    'backward_jump': 'the stamps jumped back (a looped bag or a restarted clock); pairing started '
                     'anew.',
}
# Drops that are neither a fault nor a loss of masks.
HARMLESS = ('surplus_rgb', 'surplus_aux', 'no_listener', 'disabled')


class Level(IntEnum):
    """The levels of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


class Status(NamedTuple):
    """One concern: how it is, in a sentence, and the values behind it."""

    concern: str
    level: Level
    message: str
    values: dict[str, str]


class Timing(NamedTuple):
    """One published pair in milliseconds, see SegmentationStats.msg."""

    skew_ms: float
    latency_ms: float
    engine_ms: float
    overhead_ms: float
    decode_ms: float
    postprocess_ms: float
    wait_ms: float


class Health:
    """Counters since activation, fed by the executor's and the engine's thread."""

    def __init__(self, now_ns: int) -> None:
        """Start at zero; times are those of the node's clock, in nanoseconds."""
        self._lock = threading.Lock()
        self._received = Counter(rgb=0, aux=0)
        self._last_ns: dict[str, int] = {}
        self._drops: Counter[str] = Counter()
        self._published = 0
        self._timings: deque[Timing] = deque(maxlen=WINDOW)
        self._told: set[str] = set()
        self._before = (now_ns, Counter(self._received), Counter[str](), 0)

    def receive(self, stream: str, now_ns: int) -> None:
        """Count one message of stream 'rgb' or 'aux', whatever its content."""
        with self._lock:
            self._received[stream] += 1
            self._last_ns[stream] = now_ns

    def drop(self, cause: str, count: int = 1) -> None:
        """Count what was received and not published."""
        with self._lock:
            self._drops[cause] += count

    def publish(self, timing: Timing) -> None:
        """Count one published pair."""
        with self._lock:
            self._published += 1
            self._timings.append(timing)

    def first(self, cause: str) -> bool:
        """Return True the first time that `cause` is asked for."""
        with self._lock:
            new = cause not in self._told
            self._told.add(cause)
            return new

    def counts(self, pairing: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int], int]:
        """Return received by stream, drops by cause with those of the pairer, and published."""
        with self._lock:
            drops = self._drops + Counter(dict(pairing))
            return dict(self._received), dict(drops), self._published

    def untold(self, pairing: Mapping[str, int]) -> list[str]:
        """Return a sentence for each known cause counted for the first time."""
        counted = self.counts(pairing)[1]
        return [REMEDIES[cause] for cause in counted if cause in REMEDIES and self.first(cause)]

    @staticmethod
    def idle(state: str, fault: str) -> Status:
        """Return the state of a node that is not active; `fault` says why, if it is one."""
        level = Level.ERROR if fault else Level.WARN
        return Status('state', level, fault or state, {'state': state})

    def statuses(self, now_ns: int, pairing: Mapping[str, int]) -> list[Status]:
        """Return the state of cameras, pairing and inference; rates, levels since the last call."""
        received, drops, published = self.counts(pairing)
        then_ns, received_then, drops_then, published_then = self._before
        seconds = (now_ns - then_ns) / 1e9
        self._before = (now_ns, Counter(received), Counter(drops), published)
        fresh = Counter(drops) - drops_then
        # Under simulated time the clock may stand still or jump back; then there is no rate.
        rates = {name: (count - received_then[name]) / seconds if seconds > 0 else 0.0
                 for name, count in received.items()}
        rate = (published - published_then) / seconds if seconds > 0 else 0.0
        with self._lock:
            timings = list(self._timings)
            ages = {name: (now_ns - self._last_ns[name]) / 1e9 if name in self._last_ns else None
                    for name in received}
        return [_cameras(received, rates, ages), _pairing(timings, drops, fresh),
                _inference(timings, rate, published, fresh['engine'])]


def _cameras(received: dict[str, int], rates: dict[str, float],
             ages: dict[str, float | None]) -> Status:
    values = {}
    for name in received:
        age = ages[name]
        values[f'{name} rate [Hz]'] = f'{rates[name]:.1f}'
        values[f'{name} received'] = str(received[name])
        values[f'{name} age [s]'] = 'never' if age is None else f'{age:.2f}'
    # An age below zero: the clock jumped back, and nothing has come since.
    gone = [name for name, age in ages.items() if age is None or not 0 <= age <= STALE_S]
    if gone:
        return Status('cameras', Level.STALE, f'no {" and no ".join(gone)} images', values)
    return Status('cameras', Level.OK, 'both cameras deliver', values)


def _pairing(timings: list[Timing], drops: dict[str, int], fresh: Counter[str]) -> Status:
    values = {f'dropped: {cause}': str(count) for cause, count in sorted(drops.items())}
    if timings:
        values['skew p50 [ms]'] = f'{median(timing.skew_ms for timing in timings):.2f}'
    # Of the whole time since activation, one frame lost at the start would warn for ever.
    lost = sum(count for cause, count in fresh.items() if cause not in HARMLESS)
    if lost:
        return Status('pairing', Level.WARN, f'{lost} dropped since the last report', values)
    return Status('pairing', Level.OK, 'nothing lost since the last report', values)


def _inference(timings: list[Timing], rate: float, published: int, failed: int) -> Status:
    values = {'rate [Hz]': f'{rate:.1f}', 'published': str(published)}
    for name in ('latency', 'engine', 'overhead'):
        times = [getattr(timing, f'{name}_ms') for timing in timings]
        for percent in (50, 95) if times else ():
            values[f'{name} p{percent} [ms]'] = f'{np.percentile(times, percent):.1f}'
    if failed:
        return Status('inference', Level.ERROR, f'{failed} pairs failed; the log tells why', values)
    return Status('inference', Level.OK, f'{rate:.1f} masks a second', values)
