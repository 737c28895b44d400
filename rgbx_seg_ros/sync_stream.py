# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One stream of stamped frames: those pending in order of stamp, its rate, disorder and laps.

A clock that starts anew, or a bag that is looped, begins a new lap. Matching stamps count laps in
front of the nanoseconds, so that whatever compares them finds every frame of a lap after those of
the lap before: a jump back needs no further care, and nothing pending is lost.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from statistics import median
from typing import Any, NamedTuple

LAP = 1 << 64  # more than any difference of two stamps
NEVER = -LAP  # before any stamp
FAR = LAP << 64  # the distance of a frame that is not there
HALF_PERIOD = 0.6  # half a period and some jitter: the neighbor's partner is further off
WINDOW = 31  # frames that the rate and the clock offset look back on
CALM = 64  # frames in order after which a stream counts as orderly again


class Frame(NamedTuple):
    """One image of one stream: header stamp, arrival on the caller's clock, and the message."""

    stamp_ns: int
    arrival_ns: int
    data: Any


class Stream:
    """Frames that wait for their partner, and what the stream has shown of itself."""

    __slots__ = ('_calm', '_deltas', '_sorted', 'base', 'behind', 'decided', 'disorder', 'frames',
                 'heard_ns', 'lags', 'lap', 'lap_began_ns', 'newest', 'offset_ns', 'period',
                 'period_used', 'reach', 'since', 'soonest', 'stamps', 'used')

    def __init__(self, offset_ns: int) -> None:
        """Start without frames; `offset_ns` is added to the stamps for matching."""
        self.offset_ns = offset_ns
        self.period = 0  # ns between two frames, lost ones aside; 0 = not known
        self.period_used = 0  # what the pairer chose the anchor by
        self.soonest = 0  # ns, a frame rarely follows another one sooner; 0 until two are known
        self.reach = FAR  # ns, half a period and a bit; FAR until two are known
        self._deltas: deque[int] = deque()
        self._sorted: list[int] = []
        self.forget()

    def forget(self) -> None:
        """Forget all but the rate."""
        self.stamps: deque[int] = deque()  # matching stamps: lap and offset included, ascending
        self.frames: deque[Frame] = deque()
        self.since: deque[int] = deque()  # arrival, or that of a later frame if it was earlier
        self.behind: list[Frame] = []  # of a new lap perhaps
        # Matching stamps: the newest one, the last one paired, the last one with its fate decided.
        self.newest = self.used = self.decided = NEVER
        self.begin_lap(0, NEVER)
        self.heard_ns = NEVER  # arrival of the last frame, whatever became of it
        self.lags: deque[int] = deque(maxlen=WINDOW)  # stamp minus arrival
        self.disorder = 0  # ns, how far frames came behind a newer one
        self._calm = 0  # frames in order until this is forgotten

    def begin_lap(self, lap: int, now_ns: int) -> None:
        """Put all frames from now on after those that have come."""
        self.lap, self.lap_began_ns = lap, now_ns
        self.base = lap * LAP + self.offset_ns

    @property
    def clock_ns(self) -> float | None:
        """Median of stamp minus arrival."""
        return median(self.lags) if self.lags else None

    def insert(self, frame: Frame) -> str:
        """Queue a frame; return why not, or nothing."""
        stamp = frame.stamp_ns + self.base
        delta = stamp - self.newest
        since = frame.arrival_ns
        if delta > 0:
            self.newest = stamp
            self._learn(delta)
            if self.disorder:
                self._calm -= 1
                self.disorder *= self._calm > 0
            self.stamps.append(stamp)
            self.frames.append(frame)
            self.since.append(since)
            return ''
        if not delta or stamp == self.used:
            return 'duplicate'
        self.disorder = max(self.disorder, -delta)
        self._calm = CALM
        if stamp < self.used:
            return 'late'
        at = bisect_left(self.stamps, stamp)
        if at < len(self.stamps):
            if self.stamps[at] == stamp:
                return 'duplicate'
            since = min(since, self.since[at])
            if at:
                self._relearn(stamp - self.stamps[at - 1], self.stamps[at] - stamp)
        self.stamps.insert(at, stamp)
        self.frames.insert(at, frame)
        self.since.insert(at, since)
        return ''

    def _learn(self, delta: int) -> None:
        """Learn from the difference of two stamps how soon the next frame may come."""
        if delta >= LAP >> 1:
            return
        delta -= delta & 1023  # a microsecond is enough; the rounded stamps of a timer then repeat
        deltas, ordered = self._deltas, self._sorted
        deltas.append(delta)
        if len(deltas) > WINDOW:
            oldest = deltas.popleft()
            if oldest == delta:
                return
            del ordered[bisect_left(ordered, oldest)]
        insort(ordered, delta)
        last = len(ordered) - 1
        # Two thirds: neither a third of the frames lost nor a burst of ten changes it.
        self.period = ordered[2 * last // 3]
        if last:
            self.soonest = ordered[last // 10]
            self.reach = int(HALF_PERIOD * self.period)

    def _relearn(self, *deltas: int) -> None:
        """Correct what was learned before the frame between two others came."""
        whole = sum(deltas)
        whole -= whole & 1023
        if whole in self._deltas:
            self._deltas.remove(whole)
            self._sorted.remove(whole)
        for delta in deltas:
            self._learn(delta)

    def drop_first(self, count: int) -> int:
        """Remove the oldest frames and return how many."""
        stamps, frames, since = self.stamps, self.frames, self.since
        for _ in range(count):
            self.decided = stamps.popleft()
            frames.popleft()
            since.popleft()
        return count
