# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node counts of one camera pair, and when it has something to say: without ROS."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

from rgbx_seg_ros import remedies, statuses
from rgbx_seg_ros.encodings import is_color, is_deep
from rgbx_seg_ros.remedies import REMEDIES
from rgbx_seg_ros.statuses import (
    CLOCK_S,
    Facts,
    HealthConfig,
    Interval,
    Level,
    Score,
    Status,
    Thresholds,
    Timing,
)

__all__ = ['REMEDIES', 'Facts', 'Health', 'HealthConfig', 'Level', 'Score', 'Status', 'Timing']

WINDOW = 300  # pairs that the percentiles look back on: 10 s at 30 Hz
CLOCK_REPORTS = 2  # in a row; one message may be an old one


class _Snapshot(NamedTuple):
    """The counts at one report."""

    now_ns: int
    received: dict[str, int]
    drops: Counter[str]
    published: int


class Health:
    """Counters since activation, fed by the executor's and the engine's thread."""

    def __init__(self, now_ns: int, config: HealthConfig | None = None, name: str = '') -> None:
        """Start at zero; times are those of the node's clock, in nanoseconds.

        `name` is that of the camera pair, where there are several.
        """
        self.config = config or HealthConfig()
        self.name = name
        self._lock = threading.Lock()
        self._received = Counter(rgb=0, aux=0)
        self._last_ns: dict[str, int] = {}
        self._behind_ns: dict[str, int] = {}  # least clock - stamp since the last report
        self._encodings: dict[str, str] = {}
        self._drops: Counter[str] = Counter()
        self._streams: dict[str, set[str]] = {}  # cause -> streams or topics it was counted for
        self._published = 0
        self._timings: deque[Timing] = deque(maxlen=WINDOW)
        self._told: set[tuple[str, str]] = set()
        self._thresholds = Thresholds()
        self._history = deque([_Snapshot(now_ns, dict(self._received), Counter(), 0)],
                              maxlen=statuses.WINDOW_REPORTS)
        self._behind_s: dict[str, float] = {}  # at the last report
        self._clock_reports = 0

    def receive(self, stream: str, now_ns: int, stamp_ns: int | None = None,
                encoding: str = '') -> None:
        """Count one message of stream 'rgb' or 'aux', whatever its content."""
        with self._lock:
            self._received[stream] += 1
            self._last_ns[stream] = now_ns
            if encoding:
                self._encodings[stream] = encoding
            if stamp_ns == 0:
                self._streams.setdefault('zero_stamp', set()).add(stream)
            elif stamp_ns is not None and now_ns > 0:  # simulated time is 0 until it starts
                behind_ns = now_ns - stamp_ns
                self._behind_ns[stream] = min(behind_ns, self._behind_ns.get(stream, behind_ns))

    def drop(self, cause: str, count: int = 1, stream: str = '') -> None:
        """Count what was received and not published, and of which stream, if of one."""
        with self._lock:
            self._drops[cause] += count
            if stream:
                self._streams.setdefault(cause, set()).add(stream)

    def publish(self, timing: Timing) -> None:
        """Count one published pair."""
        with self._lock:
            self._published += 1
            self._timings.append(timing)

    def first(self, cause: str, topic: str = '') -> bool:
        """Return True the first time that `cause` is asked for, of this topic."""
        with self._lock:
            new = (cause, topic) not in self._told
            self._told.add((cause, topic))
            return new

    def counts(self, pairing: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int], int]:
        """Return received by stream, drops by cause with those of the pairer, and published."""
        with self._lock:
            drops = self._drops + Counter(dict(pairing))
            return dict(self._received), dict(drops), self._published

    def untold(self, pairing: Mapping[str, int], simulated: bool = False,
               topics: Mapping[str, str] | None = None) -> list[str]:
        """Return a sentence for each trouble that is new, once per cause and topic.

        `topics` names those of 'rgb' and 'aux'. To be called after `statuses`.
        """
        topics = {'': self.name, 'rgb': 'rgb', 'aux': 'aux', **(topics or {})}
        drops = self.counts(pairing)[1]
        with self._lock:
            streams = {cause: sorted(names) for cause, names in self._streams.items()}
        sentences = self._clock(simulated, topics, 'clock_disagreement' in drops)
        for cause, count in drops.items():
            if cause not in REMEDIES or count < remedies.TELL_FROM.get(cause, 1):
                continue
            for stream in streams.get(cause, ['']):
                if self.first(cause, stream):
                    topic = topics.get(stream, stream)
                    sentences.append(f'{topic}: {REMEDIES[cause]}' if topic else REMEDIES[cause])
        return sentences + self._swapped(topics)

    def _clock(self, simulated: bool, topics: Mapping[str, str], unpaired: bool) -> list[str]:
        behind_s, sentences = self._behind_s, []
        if self._clock_reports < CLOCK_REPORTS and not unpaired:
            return []
        rgb_s, aux_s = behind_s.get('rgb'), behind_s.get('aux')
        if rgb_s is not None and aux_s is not None and (
                abs(rgb_s - aux_s) > CLOCK_S or unpaired):
            if self.first('clock_disagreement'):
                sentences.append(remedies.clocks_apart(topics['rgb'], topics['aux'], rgb_s - aux_s))
            return sentences  # which of the two is off is told with it
        off = [name for name, seconds in behind_s.items() if abs(seconds) > CLOCK_S]
        if off and self.first('clock'):
            both = ' and '.join(topics[name] for name in off)
            sentences.append(remedies.clock_disagrees(both, behind_s[off[0]], simulated))
        return sentences

    def _swapped(self, topics: Mapping[str, str]) -> list[str]:
        rgb, aux = (self._encodings.get(name, '') for name in ('rgb', 'aux'))
        if is_deep(rgb) and is_color(aux) and self.first('swapped'):
            return [remedies.swapped(topics['rgb'], rgb, topics['aux'], aux)]
        return []

    def idle(self, state: str, fault: str, more: Mapping[str, str] | None = None) -> Status:
        """Return the state of a node that is not active; `fault` says why, if it is one.

        `more` holds further values by name.
        """
        level = Level.ERROR if fault else Level.WARN
        return self._named(Status('state', level, fault or state, {'state': state, **(more or {})}))

    def statuses(self, now_ns: int, pairing: Mapping[str, int],
                 facts: Facts | None = None) -> list[Status]:
        """Return the state of each concern of the pair; to be called once a second."""
        facts = facts or Facts()
        interval = self._interval(now_ns, pairing)
        off = {name: behind_s for name, behind_s in interval.behind_s.items()
               if abs(behind_s) > CLOCK_S}
        self._clock_reports = self._clock_reports + 1 if off else 0
        self._behind_s = interval.behind_s
        given = (interval, facts, self.config, self._thresholds)
        found = [statuses.cameras(*given), statuses.pairing(*given),
                 statuses.registration(facts), statuses.inference(*given),
                 statuses.scoring(facts.score)]
        return [self._named(status) for status in found if status is not None]

    def _named(self, status: Status) -> Status:
        return status._replace(concern=f'{self.name} {status.concern}'.lstrip())

    def _interval(self, now_ns: int, pairing: Mapping[str, int]) -> Interval:
        received, drops, published = self.counts(pairing)
        now = _Snapshot(now_ns, received, Counter(drops), published)
        history = self._history
        if now_ns < history[-1].now_ns:  # simulated time jumped back: rates begin anew
            history.clear()
        last, oldest = (history[-1], history[0]) if history else (now, now)
        recent_rates = _rates(oldest, now) if len(history) > 1 else None
        if not history or now_ns > history[-1].now_ns:  # it may also stand still
            history.append(now)
        recent_published = published - oldest.published
        with self._lock:
            timings = list(self._timings)
            behind_s = {name: ns / 1e9 for name, ns in self._behind_ns.items()}
            self._behind_ns.clear()
            ages_s = {name: (now_ns - self._last_ns[name]) / 1e9 if name in self._last_ns else None
                      for name in received}
        return Interval(
            received, published, drops, _rates(last, now), recent_rates, now.drops - oldest.drops,
            recent_published, ages_s, behind_s, timings,
            timings[-recent_published:] if recent_published else [])


def _rates(then: _Snapshot, now: _Snapshot) -> dict[str, float]:
    seconds = (now.now_ns - then.now_ns) / 1e9
    if seconds <= 0:
        return {'rgb': 0.0, 'aux': 0.0, 'published': 0.0}
    rates = {name: (count - then.received[name]) / seconds for name, count in now.received.items()}
    return rates | {'published': (now.published - then.published) / seconds}
