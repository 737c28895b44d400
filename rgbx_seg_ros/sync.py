# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Two streams of stamped frames in, pairs out: two frames, each the nearest that the other can get.

Frames of the slower stream, the anchor, are decided one after the other, as soon as what has
arrived, and the rate of what has not, leave no doubt; or when a possible pair has waited
`max_wait_s`. A partner more than about half an anchor's period away belongs to a neighbor whose
own was lost, and is left to it. No lock, no callback, no clock: time is what the caller passes in,
so a bag replays exactly as a live camera pair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync_nearest import WAIT, choose
from rgbx_seg_ros.sync_stream import LAP, Frame, Stream

__all__ = ['ANCHORS', 'POLICIES', 'STREAMS', 'Frame', 'Pair', 'Pairer', 'SyncConfig', 'open_pairer']

STREAMS = ('rgb', 'aux')
OWN_POLICIES = ('nearest', 'exact', 'latest')
POLICIES = (*OWN_POLICIES, 'approximate_time', 'exact_time')  # the last two: message_filters
ANCHORS = ('auto', *STREAMS)
JUMP_NS = 1_000_000_000  # a stamp this far back is a restarted clock or a looped bag, not disorder
PATIENCE_NS = 1_000_000_000  # a frame alone waits for a stream that is later than its own
JOIN_NS = 500_000_000  # after a jump of one stream, the other one's must have come
BEHIND = 3  # frames in a row behind the newest one are a jump, too
SPARE = 8  # of the faster stream's frames, more are searched for useless ones
SKEWS = 101  # pairs of which the median skew is told
APART = 10  # anchors in a row without a partner let doubt the clocks


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

    policy: str = 'nearest'  # POLICIES; latest: every RGB frame with the last aux frame
    anchor: str = 'auto'  # auto = the slower stream
    max_skew_s: float = 0.05  # largest distance of the two stamps
    max_wait_s: float = 0.1  # longest a possible pair waits for a better one
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
        for name in ('rgb_offset_s', 'aux_offset_s'):
            if not abs(getattr(self, name)) <= 1e9:
                raise RgbxSegError(f'sync.{name} is {getattr(self, name)}; expected a time in s.')
        if self.queue_size < 2:
            raise RgbxSegError(f'sync.queue_size is {self.queue_size}; expected at least 2.')


def open_pairer(config: SyncConfig | None = None) -> Pairer:
    """Return the pairer of the policy; two policies need message_filters installed."""
    config = config or SyncConfig()
    if config.policy in OWN_POLICIES:
        return Pairer(config)
    from rgbx_seg_ros.sync_message_filters import MessageFiltersPairer
    return MessageFiltersPairer(config)


class Pairer:
    """Pairs two streams. Not thread-safe; the caller serializes `add` and `poll`."""

    def __init__(self, config: SyncConfig | None = None) -> None:
        """Start with empty queues and counters at zero."""
        self.config = config or SyncConfig()
        self.received: Counter[str] = Counter(dict.fromkeys(STREAMS, 0))
        self.drops: Counter[str] = Counter()
        self._rgb = Stream(round(self.config.rgb_offset_s * 1e9))
        self._aux = Stream(round(self.config.aux_offset_s * 1e9))
        self._skew_near = round(self.config.max_skew_s * 1e9)
        self._max_skew = 0 if self.config.policy == 'exact' else self._skew_near
        self._max_wait = round(self.config.max_wait_s * 1e9)
        self._horizon = min(JUMP_NS, self._skew_near + self._max_wait)
        self._latest = self.config.policy == 'latest'
        self._set_anchor('rgb' if self.config.anchor == 'rgb' else 'aux')
        self._deadline: int | None = None
        self._alone = 0  # anchors without a partner since the last pair
        self._skews: deque[int] = deque(maxlen=SKEWS)

    @property
    def skew_median_ns(self) -> int | None:
        """Median aux - rgb stamp of the last pairs, offsets not included."""
        return round(median(self._skews)) if self._skews else None

    @property
    def clock_offset_ns(self) -> int | None:
        """How far aux stamps are ahead of RGB stamps of frames that arrive at the same time.

        That is the difference of the two clocks, less that of the two cameras' latencies.
        """
        rgb, aux = self._rgb.clock_ns, self._aux.clock_ns
        return None if rgb is None or aux is None else round(aux - rgb)

    def add(self, stream: str, stamp_ns: int, arrival_ns: int, data: Any) -> list[Pair]:
        """Take one frame ('rgb' or 'aux'); return the pairs that it completes, oldest first."""
        self.received[stream] += 1
        if stamp_ns <= 0:
            self.drops['zero_stamp'] += 1
            return []
        own, other = (self._rgb, self._aux) if stream == 'rgb' else (self._aux, self._rgb)
        frame = Frame(stamp_ns, arrival_ns, data)
        own.heard_ns = arrival_ns
        own.lags.append(stamp_ns - arrival_ns)
        if own.lap < other.lap:
            self._join(own, other, frame)
        if own.newest - stamp_ns - own.base > self._horizon:
            self._go_back(own, other, frame)
        else:
            if own.behind:
                self._count('late', len(own.behind))
                own.behind.clear()
            refused = own.insert(frame)
            if refused:
                self.drops[refused] += 1
        if own.lap > other.lap:
            self._pull(own, other, frame)
        if self._latest:
            return self._pair_with_latest()
        if own.period != own.period_used:
            own.period_used = own.period
            self._choose_anchor()
        pairs = self._decide(arrival_ns) if self._anchors.stamps else []
        self._bound(arrival_ns)
        return pairs

    def next_deadline_ns(self) -> int | None:
        """Return when, on the arrival clock, `poll` will have something to decide."""
        return self._deadline

    def poll(self, now_ns: int) -> list[Pair]:
        """Return the pairs that have waited `max_wait_s` by `now_ns` (arrival clock)."""
        if self._deadline is None or now_ns < self._deadline:
            return []
        return self._decide(now_ns)

    def flush(self) -> list[Pair]:
        """Return the pairs that are left at the end of a bag; nothing more will arrive."""
        pairs = [] if self._latest else self._decide(None)
        for name, queue in (('rgb', self._rgb), ('aux', self._aux)):
            self._count('late', len(queue.behind))
            queue.behind.clear()
            self._discard(name, queue.drop_first(len(queue.stamps)))
        return pairs

    def reset(self) -> None:
        """Forget all frames, as after a jump of the clock; counters and rates stay."""
        for queue in (self._rgb, self._aux):
            self._count('reset', len(queue.stamps) + len(queue.behind))
            queue.forget()
        self._deadline = None

    def _count(self, cause: str, count: int) -> None:
        if count:
            self.drops[cause] += count

    def _discard(self, stream: str, count: int) -> None:
        # Of the faster stream most frames have no partner by nature; that is no fault.
        if stream == self._anchor:
            self._fail(f'unpaired_{stream}', count)
        else:
            self._count(f'surplus_{stream}', count)

    def _fail(self, cause: str, count: int) -> None:
        """Count frames that should have found a partner.

        Where frames arrive together, do not pair, and are far apart in stamp, the clocks differ.
        """
        self._alone += count
        rgb, aux = self._rgb, self._aux
        if (self._alone >= APART and abs(rgb.heard_ns - aux.heard_ns) < JOIN_NS
                and abs(rgb.lags[-1] + rgb.offset_ns - aux.lags[-1] - aux.offset_ns)
                > self._skew_near):
            cause = 'clock_disagreement'
        self._count(cause, count)

    def _join(self, own: Stream, other: Stream, frame: Frame) -> None:
        """Follow the other stream into its lap where this one has not jumped and will not."""
        distance = abs(frame.stamp_ns + own.offset_ns - (other.newest - other.lap * LAP))
        if distance <= self._skew_near or frame.arrival_ns > other.lap_began_ns + JOIN_NS:
            own.begin_lap(other.lap, frame.arrival_ns)

    def _pull(self, own: Stream, other: Stream, frame: Frame) -> None:
        """Let the other stream follow where its newest frame is near this one, the jump over.

        So one frame with a stamp of nonsense, that made its stream jump there and back, costs no
        other frame its partner.
        """
        near = self._skew_near
        stamp = frame.stamp_ns + own.offset_ns + other.lap * LAP
        if abs(stamp - other.newest) <= near:
            first = bisect_left(other.stamps, stamp - near)
            frames = list(other.frames)[first:]
            for queue in (other.stamps, other.frames, other.since):
                for _ in frames:
                    queue.pop()
            other.begin_lap(own.lap, frame.arrival_ns)
            for pending in frames:
                other.insert(pending)

    def _go_back(self, own: Stream, other: Stream, frame: Frame) -> None:
        """Take a frame far behind the newest one: a straggler, or the first of a new lap.

        It is one of a new lap if the other stream began one, if both streams went back, if it went
        back far, or if it is not the only one.
        """
        if own.behind and frame.stamp_ns <= own.behind[-1].stamp_ns:
            self._count('late', len(own.behind))
            own.behind.clear()
        own.behind.append(frame)
        back = own.newest - frame.stamp_ns - own.base
        if (back > JUMP_NS or own.lap < other.lap or other.behind or len(own.behind) >= BEHIND):
            self.drops['backward_jump'] += own.lap >= other.lap
            lap = max(own.lap + 1, other.lap)
            for queue in (own, other):
                if queue.behind:
                    self._begin_lap(queue, lap, frame.arrival_ns)

    def _begin_lap(self, queue: Stream, lap: int, now: int) -> None:
        queue.begin_lap(lap, now)
        for frame in queue.behind:
            refused = queue.insert(frame)
            self._count(refused, bool(refused))
        queue.behind.clear()

    def _choose_anchor(self) -> None:
        rgb, aux = self._rgb.period, self._aux.period
        if self.config.anchor != 'auto':
            return
        # A clear difference only: streams of one rate would swap roles with every jitter.
        if 4 * rgb > 5 * aux > 0:
            self._set_anchor('rgb')
        elif 4 * aux > 5 * rgb > 0:
            self._set_anchor('aux')

    def _set_anchor(self, name: str) -> None:
        self._anchor = name
        self._anchors, self._others, self._other = (
            (self._rgb, self._aux, 'aux') if name == 'rgb' else (self._aux, self._rgb, 'rgb'))

    def _decide(self, now_ns: int | None) -> list[Pair]:
        """Emit the decided anchors in order; `now_ns` None means that nothing more will come."""
        anchors, others = self._anchors, self._others
        pairs: list[Pair] = []
        self._deadline = None
        while anchors.stamps:
            best, deadline = choose(anchors, others, self._max_skew, self._max_wait, now_ns)
            if best == WAIT:
                self._deadline = deadline
                break
            if best < 0:
                self._discard(self._anchor, anchors.drop_first(1))
                continue
            anchors.used, others.used = anchors.stamps[0], others.stamps[best]
            first, second = anchors.frames[0], others.frames[best]
            anchors.drop_first(1)
            others.drop_first(best + 1)
            if best:
                self._discard(self._other, best)
            pairs.append(self._pair(second, first) if self._other == 'rgb' else
                         self._pair(first, second))
        return pairs

    def _pair(self, rgb: Frame, aux: Frame) -> Pair:
        self._alone = 0
        skew = aux.stamp_ns - rgb.stamp_ns
        self._skews.append(skew)
        return Pair(rgb, aux, skew + self._aux.offset_ns - self._rgb.offset_ns)

    def _pair_with_latest(self) -> list[Pair]:
        """Pair each RGB frame with the newest aux frame not older than `max_age_s`."""
        rgb, aux = self._rgb, self._aux
        aux.drop_first(max(0, len(aux.stamps) - 1))
        pairs = []
        for stamp, frame in zip(rgb.stamps, rgb.frames, strict=True):
            rgb.used = stamp
            if aux.stamps and abs(stamp - aux.stamps[0]) <= self.config.max_age_s * 1e9:
                pairs.append(self._pair(frame, aux.frames[0]))
            else:
                self.drops['unpaired_rgb'] += 1
        rgb.drop_first(len(rgb.stamps))
        return pairs

    def _bound(self, now: int) -> None:
        """Discard the frames that no anchor can use any more, then the oldest if too many wait."""
        anchors, others = self._anchors, self._others
        if len(others.stamps) > SPARE:
            oldest = (anchors.stamps[0] if anchors.stamps else
                      anchors.newest - anchors.disorder) - self._max_skew
            self._discard(self._other, others.drop_first(bisect_left(others.stamps, oldest)))
        for queue in (anchors, others):
            if queue.since:
                excess = len(queue.since) - self.config.queue_size
                if excess > 0 or queue.since[0] < now - PATIENCE_NS:
                    stale = bisect_left(queue.since, now - PATIENCE_NS)
                    self._fail('overflow', queue.drop_first(max(stale, excess)))
