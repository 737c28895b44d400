# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Two streams of stamped frames in, pairs out: each anchor frame with its nearest partner.

The slower stream is the anchor. An anchor is decided as soon as its best partner is known to be
the best: the other stream has passed it, or the other stream's next frame is expected further
away, or `max_wait_s` is over. A partner more than about half an anchor's period away belongs to
the neighboring anchor (its own was lost) and is left to it. No lock, no callback, no clock: time
is what the caller passes in, so a bag replays exactly as a live camera pair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError

STREAMS = ('rgb', 'aux')
POLICIES = ('nearest', 'exact', 'latest')
ANCHORS = ('auto', *STREAMS)
JUMP_NS = 1_000_000_000  # a stamp this far back is a restarted clock or a looped bag, not disorder
HALF_PERIOD = 0.6  # half an anchor's period and some jitter: the neighbor's partner is further off
SKEWS = 101  # pairs of which the median skew is told
EXPECTED = 0.8  # of a period after the last frame, the next one may arrive


class Frame(NamedTuple):
    """One image of one stream: header stamp, arrival on the caller's clock, and the message."""

    stamp_ns: int
    arrival_ns: int
    data: Any


class Pair(NamedTuple):
    """An RGB frame and its aux frame; `skew_ns` = aux - rgb stamp, offsets included.

    The pairers here fill in both; in other states than 'paired' one of them may be missing.
    """

    rgb: Frame | None
    aux: Frame | None
    skew_ns: int
    state: str = 'paired'


@dataclass(frozen=True)
class SyncConfig:
    """How frames are paired; times in seconds."""

    policy: str = 'nearest'  # nearest | exact | latest (RGB with the last aux frame)
    anchor: str = 'auto'  # auto = the slower stream
    max_skew_s: float = 0.05  # largest distance of the two stamps
    max_wait_s: float = 0.1  # longest an anchor waits for a better partner
    max_age_s: float = 0.2  # policy latest: oldest aux frame still used
    rgb_offset_s: float = 0.0  # added to the stamps for matching only; headers stay as they are
    aux_offset_s: float = 0.0
    queue_size: int = 32  # frames kept per stream

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible times."""
        for name, valid in (('policy', POLICIES), ('anchor', ANCHORS)):
            if getattr(self, name) not in valid:
                raise RgbxSegError(f'sync.{name} is "{getattr(self, name)}"; expected one of '
                                   f'{", ".join(valid)}.')
        for name in ('max_skew_s', 'max_wait_s', 'max_age_s'):
            if not 0 <= getattr(self, name) <= 60:
                raise RgbxSegError(f'sync.{name} is {getattr(self, name)}; expected 0..60 s.')
        if self.queue_size < 2:
            raise RgbxSegError(f'sync.queue_size is {self.queue_size}; expected at least 2.')


class _Stream:
    """Pending frames in order of their matching stamp, and what is known of the stream's rate."""

    def __init__(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns
        self.forget()

    def forget(self) -> None:
        self.stamps: list[int] = []  # matching stamps (offset included), ascending
        self.frames: list[Frame] = []
        self.newest: int | None = None
        self.used: int | None = None  # matching stamp of the last frame emitted
        self.deltas: deque[int] = deque(maxlen=15)
        self.period: float | None = None

    def learn(self, stamp: int) -> None:
        """Update the newest stamp and the period (median of the last stamp differences)."""
        if self.newest is not None and stamp > self.newest:
            self.deltas.append(stamp - self.newest)
            if len(self.deltas) >= 3:
                self.period = median(self.deltas)
        self.newest = stamp if self.newest is None else max(self.newest, stamp)

    def insert(self, stamp: int, frame: Frame) -> None:
        at = bisect_left(self.stamps, stamp)
        self.stamps.insert(at, stamp)
        self.frames.insert(at, frame)

    def drop_first(self, count: int) -> int:
        del self.stamps[:count], self.frames[:count]
        return count


class Pairer:
    """Pairs two streams. Not thread-safe; the caller serializes `add` and `poll`."""

    def __init__(self, config: SyncConfig | None = None) -> None:
        """Start with empty queues and counters at zero."""
        self.config = config or SyncConfig()
        self.received: Counter[str] = Counter(dict.fromkeys(STREAMS, 0))
        self.drops: Counter[str] = Counter()
        self._skews: deque[int] = deque(maxlen=SKEWS)
        offsets = (self.config.rgb_offset_s, self.config.aux_offset_s)
        self._streams = {name: _Stream(round(offset * 1e9))
                         for name, offset in zip(STREAMS, offsets, strict=True)}
        exact = self.config.policy == 'exact'
        self._max_skew = 0 if exact else round(self.config.max_skew_s * 1e9)
        self._max_wait = round(self.config.max_wait_s * 1e9)
        self._anchor = 'aux' if self.config.anchor == 'auto' else self.config.anchor

    def add(self, stream: str, stamp_ns: int, arrival_ns: int, data: Any) -> list[Pair]:
        """Take one frame ('rgb' or 'aux'); return the pairs that it completes, oldest first."""
        self.received[stream] += 1
        queue = self._streams[stream]
        stamp = stamp_ns + queue.offset_ns
        if stamp_ns <= 0:
            return self._drop('zero_stamp')
        if queue.newest is not None and stamp < queue.newest - JUMP_NS:
            self._jump_back(stamp)
        if queue.used is not None and stamp <= queue.used:
            return self._drop('duplicate' if stamp == queue.used else 'late')
        at = bisect_left(queue.stamps, stamp)
        if at < len(queue.stamps) and queue.stamps[at] == stamp:
            return self._drop('duplicate')
        queue.learn(stamp)
        queue.insert(stamp, Frame(stamp_ns, arrival_ns, data))
        if self.config.policy == 'latest':
            return self._pair_with_latest(stream)
        self._choose_anchor()
        pairs = self._decide(arrival_ns)
        self._bound()
        return pairs

    def poll(self, now_ns: int) -> list[Pair]:
        """Return the pairs whose anchor has waited `max_wait_s` by `now_ns` (arrival clock)."""
        return [] if self.config.policy == 'latest' else self._decide(now_ns)

    def flush(self) -> list[Pair]:
        """Return the pairs that are left at the end of a bag; nothing more will arrive."""
        if self.config.policy == 'latest':
            return []
        pairs = self._decide(None)
        for name, queue in self._streams.items():
            self._discard(name, queue.drop_first(len(queue.stamps)))
        return pairs

    def reset(self) -> None:
        """Forget all frames and rates, as after a jump of the clock; counters stay."""
        self.drops['reset'] += sum(len(queue.stamps) for queue in self._streams.values())
        for queue in self._streams.values():
            queue.forget()

    @property
    def skew_median_ns(self) -> int | None:
        """Return the median aux - rgb stamp of the last pairs, offsets not included."""
        return round(median(self._skews)) if self._skews else None

    def _drop(self, cause: str) -> list[Pair]:
        self.drops[cause] += 1
        return []

    def _discard(self, stream: str, count: int) -> None:
        # Of the faster stream most frames have no partner by nature; that is no fault.
        if count:
            kind = 'unpaired' if stream == self._anchor else 'surplus'
            self.drops[f'{kind}_{stream}'] += count

    def _jump_back(self, stamp: int) -> None:
        """Forget what lies after a backward jump to `stamp`, in both streams.

        The other stream keeps what it has of the new pass: it need not jump at the same moment.
        """
        self.drops['backward_jump'] += 1
        for queue in self._streams.values():
            keep = bisect_left(queue.stamps, stamp + JUMP_NS)
            self.drops['reset'] += len(queue.stamps) - keep
            del queue.stamps[keep:], queue.frames[keep:]
            queue.used = None
            if queue.newest is not None and queue.newest >= stamp + JUMP_NS:
                queue.newest = None

    def _choose_anchor(self) -> None:
        rgb, aux = (self._streams[name].period for name in STREAMS)
        if self.config.anchor != 'auto' or rgb is None or aux is None:
            return
        # A clear difference only: streams of one rate would swap roles with every jitter.
        if rgb > 1.25 * aux:
            self._anchor = 'rgb'
        elif aux > 1.25 * rgb:
            self._anchor = 'aux'

    def _decide(self, now_ns: int | None) -> list[Pair]:
        """Emit the decided anchors in order; `now_ns` None means that nothing more will come."""
        anchors = self._streams[self._anchor]
        others = self._streams['rgb' if self._anchor == 'aux' else 'aux']
        pairs: list[Pair] = []
        while anchors.stamps:
            anchor = anchors.stamps[0]
            best = self._nearest(others, anchor)
            if not self._is_decided(anchors.frames[0], anchor, others, best, now_ns):
                break
            if best is None or not self._fits(anchor, best, anchors, others):
                self._discard(self._anchor, anchors.drop_first(1))
                continue
            pairs.append(self._emit(anchors, others, best))
        return pairs

    @staticmethod
    def _nearest(others: _Stream, anchor: int) -> int | None:
        """Return the index of the pending frame nearest to the anchor; the older one of two."""
        at = bisect_left(others.stamps, anchor)
        near = [i for i in (at - 1, at) if 0 <= i < len(others.stamps)]
        return min(near, key=lambda i: abs(others.stamps[i] - anchor), default=None)

    def _is_decided(self, frame: Frame, anchor: int, others: _Stream, best: int | None,
                    now_ns: int | None) -> bool:
        if now_ns is None or now_ns >= frame.arrival_ns + self._max_wait:
            return True
        if others.newest is None:
            return False
        if others.newest >= anchor:
            return True
        if best is None or others.period is None:
            return False
        expected = others.newest + EXPECTED * others.period
        return expected - anchor > abs(others.stamps[best] - anchor)

    def _fits(self, anchor: int, best: int, anchors: _Stream, others: _Stream) -> bool:
        partner = others.stamps[best]
        distance = abs(partner - anchor)
        if distance > self._max_skew:
            return False
        if anchors.period is not None and distance > HALF_PERIOD * anchors.period:
            return False
        # The next anchor, if here already, may be nearer to this partner.
        return len(anchors.stamps) < 2 or abs(partner - anchors.stamps[1]) >= distance

    def _emit(self, anchors: _Stream, others: _Stream, best: int) -> Pair:
        anchors.used, others.used = anchors.stamps[0], others.stamps[best]
        first, second = anchors.frames[0], others.frames[best]
        anchors.drop_first(1)
        others.drop_first(best + 1)
        if best:
            self._discard('rgb' if self._anchor == 'aux' else 'aux', best)
        rgb, aux = (first, second) if self._anchor == 'rgb' else (second, first)
        return self._pair(rgb, aux)

    def _pair(self, rgb: Frame, aux: Frame) -> Pair:
        offset = self._streams['aux'].offset_ns - self._streams['rgb'].offset_ns
        self._skews.append(aux.stamp_ns - rgb.stamp_ns)
        return Pair(rgb, aux, self._skews[-1] + offset)

    def _pair_with_latest(self, stream: str) -> list[Pair]:
        """Pair each RGB frame with the newest aux frame not older than `max_age_s`."""
        rgb, aux = (self._streams[name] for name in STREAMS)
        if stream == 'aux':
            aux.drop_first(len(aux.stamps) - 1)
            return []
        frame, stamp = rgb.frames[-1], rgb.stamps[-1]
        rgb.used = stamp
        rgb.drop_first(len(rgb.stamps))
        if not aux.stamps or abs(stamp - aux.stamps[0]) > self.config.max_age_s * 1e9:
            return self._drop('unpaired_rgb')
        return [self._pair(frame, aux.frames[0])]

    def _bound(self) -> None:
        """Discard the frames that no anchor can use any more, then the oldest of a full queue."""
        anchors = self._streams[self._anchor]
        name = 'rgb' if self._anchor == 'aux' else 'aux'
        others = self._streams[name]
        oldest = anchors.stamps[0] if anchors.stamps else anchors.newest
        if oldest is not None:
            useless = bisect_left(others.stamps, oldest - self._max_skew)
            self._discard(name, others.drop_first(useless))
        for queue in self._streams.values():
            excess = len(queue.stamps) - self.config.queue_size
            if excess > 0:
                self.drops['overflow'] += queue.drop_first(excess)
