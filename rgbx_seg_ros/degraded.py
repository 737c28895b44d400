# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs also where a camera is lost: the pairer, watched, and what to emit in its place.

A stream is lost when it has been silent for `timeout_s`, or has repeated one image for
`frozen_after_s` if that is to count. While one is lost, its policy decides: emit nothing (`stop`),
each frame of the living stream with the last one of the lost (`hold`), or alone (`rgb_only`,
`aux_only`). The first frame of the lost stream ends it. Losing both is as not having begun.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync import JUMP_NS, OWN_POLICIES, STREAMS, Pair, SyncConfig, open_pairer
from rgbx_seg_ros.sync_stream import Frame

OTHER = {'rgb': 'aux', 'aux': 'rgb'}
AUX_LOST = ('stop', 'hold', 'rgb_only')
RGB_LOST = ('stop', 'hold', 'aux_only')
STATES = ('waiting', 'paired', 'hold_aux', 'rgb_only', 'hold_rgb', 'aux_only', 'stopped')
# Faults of a frame itself; the other causes say only that it found no partner.
OWN_FAULTS = frozenset(('zero_stamp', 'duplicate', 'late', 'backward_jump', 'reset', 'degraded'))
SAMPLES = 32  # bytes that tell most images apart, at a few cache misses
NEVER = 1 << 64  # after any arrival


@dataclass(frozen=True)
class DegradedConfig:
    """What happens when a stream is lost; times in seconds, on the clock of the arrivals."""

    aux_lost: str = 'stop'  # stop | hold | rgb_only
    rgb_lost: str = 'stop'  # stop | hold | aux_only
    timeout_s: float = 1.0  # a stream silent for this long is lost
    max_hold_s: float = 5.0  # policy hold: how long after the loss
    frozen_after_s: float = 1.0  # the same image for longer than this is a frozen camera
    frozen_is_lost: bool = False  # else it is only told

    def __post_init__(self) -> None:
        """Refuse unknown names and impossible times."""
        for name, valid in (('aux_lost', AUX_LOST), ('rgb_lost', RGB_LOST)):
            if getattr(self, name) not in valid:
                raise RgbxSegError(f'degraded.{name} is "{getattr(self, name)}"; expected one of '
                                   f'{", ".join(valid)}.')
        for name, least in (('timeout_s', 0.01), ('max_hold_s', 0), ('frozen_after_s', 0.01)):
            if not least <= getattr(self, name) <= 3600:
                raise RgbxSegError(f'degraded.{name} is {getattr(self, name)}; expected '
                                   f'{least}..3600 s.')


class _Watch:
    """What is known of one stream: its last frames, and whether it lives."""

    def __init__(self) -> None:
        self.last: Frame | None = None  # newest one with a stamp
        self.held: Frame | None = None  # the same, unless the clock has jumped back since
        self.seen_ns: int | None = None  # arrival of the last frame, or since when it is awaited
        self.lost_ns: int | None = None  # since when it is lost
        self.used_ns: int | None = None  # stamp of the last frame that the pairer emitted
        self.floor_ns: int | None = None  # what is not newer must not follow a degraded pair
        self.frozen = False
        self._content: NDArray[np.uint8] | None = None
        self._content_ns = 0  # arrival of the first frame with this content

    def look(self, content: Any, arrival_ns: int, frozen_after_ns: int) -> None:
        """Compare the content of a frame with that of the one before."""
        new = np.frombuffer(content, np.uint8) if len(content) else np.empty(0, np.uint8)
        if self._content is None or not same_bytes(self._content, new):
            self._content_ns = arrival_ns
        self._content_ns = min(self._content_ns, arrival_ns)
        self.frozen = arrival_ns - self._content_ns > frozen_after_ns
        self._content = new


def same_bytes(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Return whether two flat arrays are equal; a sample tells most different images apart."""
    step = first.size // SAMPLES | 1  # odd: both bytes of 16-bit pixels
    if first.size != second.size or first[::step].tobytes() != second[::step].tobytes():
        return False
    words = first.size // 8 * 8  # as words of 8 bytes, in half the time
    return bool((first[:words].view(np.uint64) == second[:words].view(np.uint64)).all()
                and (first[words:] == second[words:]).all())


class Feed:
    """A pairer that goes on when a stream is lost. Not thread-safe, as the pairer is not."""

    def __init__(self, sync: SyncConfig | None = None,
                 degraded: DegradedConfig | None = None) -> None:
        """Start with empty queues and counters at zero."""
        self.config = degraded or DegradedConfig()
        self.pairer = open_pairer(sync)
        self.received: Counter[str] = Counter(dict.fromkeys(STREAMS, 0))
        self._policies = {'aux': self.config.aux_lost, 'rgb': self.config.rgb_lost}
        self._timeout = round(self.config.timeout_s * 1e9)
        self._max_hold = round(self.config.max_hold_s * 1e9)
        self._frozen_after = round(self.config.frozen_after_s * 1e9)
        offsets = self.pairer.config
        self._offset = round((offsets.aux_offset_s - offsets.rgb_offset_s) * 1e9)
        self._now = 0
        self._begin()

    def _begin(self) -> None:
        self._watches = {stream: _Watch() for stream in STREAMS}
        self._paired = False
        self._deadline = NEVER  # before this, no stream's time is over

    @property
    def drops(self) -> Counter[str]:
        """Return how many frames were not used, by cause; 'degraded': for want of a stream."""
        return self.pairer.drops

    @property
    def skew_median_ns(self) -> int | None:
        """Return the pairer's median skew."""
        return self.pairer.skew_median_ns

    @property
    def frozen(self) -> bool:
        """Return whether the aux camera has repeated one image for longer than it should."""
        return self._watches['aux'].frozen

    @property
    def frozen_rgb(self) -> bool:
        """Return whether the RGB camera has."""
        return self._watches['rgb'].frozen

    @property
    def state(self) -> str:
        """Return one of STATES."""
        lost = self._lost()
        if not lost:
            return 'paired' if self._paired else 'waiting'
        return 'stopped' if len(lost) == 2 else self._state_without(lost[0])

    def add(self, stream: str, stamp_ns: int, arrival_ns: int, data: Any,
            content: Any = None) -> list[Pair]:
        """Take one frame ('rgb' or 'aux'); return the pairs that it completes, oldest first.

        `content`, the bytes of the image, is what tells a frozen camera.
        """
        self.received[stream] += 1
        pairs = self._declare(arrival_ns)
        watch, other = self._watches[stream], self._watches[OTHER[stream]]
        if content is not None:
            watch.look(content, arrival_ns, self._frozen_after)
        frame = Frame(stamp_ns, arrival_ns, data)
        if stamp_ns > 0 and (watch.last is None or stamp_ns != watch.last.stamp_ns):
            pairs += self._note(stream, frame)
        if watch.frozen and watch.lost_ns is not None and self.config.frozen_is_lost:
            self.drops['degraded'] += 1
            return pairs
        if watch.floor_ns is not None and 0 < stamp_ns <= watch.floor_ns:
            self.drops['duplicate' if stamp_ns == watch.floor_ns else 'late'] += 1
            return pairs
        if self._is_alone(stream):
            return pairs + self._emit_alone(stream, frame)
        lost = watch.lost_ns is not None or other.lost_ns is not None
        return pairs + self._pass(lost, self.pairer.add, stream, stamp_ns, arrival_ns, data)

    def poll(self, now_ns: int) -> list[Pair]:
        """Return the pairs that are due at `now_ns` (arrival clock), and see who is lost."""
        pairs = self._declare(now_ns)
        return pairs + self._pass(bool(self._lost()), self.pairer.poll, now_ns)

    def flush(self) -> list[Pair]:
        """Return the pairs that are left at the end of a bag; nothing more will arrive."""
        return self._pass(bool(self._lost()), self.pairer.flush)

    def reset(self) -> None:
        """Forget all frames and who is lost, as after a jump of the clock; counters stay."""
        self.pairer.reset()
        self._begin()

    def _lost(self) -> list[str]:
        return [stream for stream in STREAMS if self._watches[stream].lost_ns is not None]

    def _is_alone(self, stream: str) -> bool:
        """Return whether the other stream is lost and the pairer thus left out."""
        lost = OTHER[stream]
        return self._watches[lost].lost_ns is not None and self._policies[lost] != 'stop'

    def _state_without(self, lost: str) -> str:
        policy, watch = self._policies[lost], self._watches[lost]
        if policy == 'hold':
            assert watch.lost_ns is not None
            over = watch.held is None or self._now - watch.lost_ns > self._max_hold
            return 'stopped' if over else f'hold_{lost}'
        if policy == 'aux_only' and watch.last is None:
            return 'waiting'  # no header to answer with
        return 'stopped' if policy == 'stop' else policy

    def _note(self, stream: str, frame: Frame) -> list[Pair]:
        """Take a frame with a new stamp as a sign of life, unless its image is frozen."""
        watch, other = self._watches[stream], self._watches[OTHER[stream]]
        if watch.last is not None and frame.stamp_ns < watch.last.stamp_ns - JUMP_NS:
            self._jump_back(stream, frame.stamp_ns)
        frozen = watch.frozen and self.config.frozen_is_lost
        if watch.held is None or frame.stamp_ns > watch.held.stamp_ns:
            watch.last = watch.held = frame
        watch.seen_ns = frame.arrival_ns
        if other.seen_ns is None:
            other.seen_ns = frame.arrival_ns
        self._deadline = min(self._deadline, frame.arrival_ns + self._timeout)
        if frozen and watch.lost_ns is None:
            watch.lost_ns = frame.arrival_ns
            return [] if other.lost_ns is not None else self._lose(stream)
        if not frozen and watch.lost_ns is not None:
            watch.lost_ns = None
            if other.lost_ns is not None:
                # Both were: perhaps this process slept, and the other's frames are on their way.
                other.lost_ns, other.seen_ns, self._paired = None, frame.arrival_ns, False
        return []

    def _jump_back(self, stream: str, stamp_ns: int) -> None:
        """Hold no frame from before a backward jump of `stream` to `stamp_ns`."""
        for watch in self._watches.values():
            watch.floor_ns = watch.used_ns = None
            if watch.held is not None and watch.held.stamp_ns > stamp_ns + JUMP_NS:
                watch.held = None
        if self._is_alone(stream):  # else the pairer sees it
            self.drops['backward_jump'] += 1
            self.pairer.reset()

    def _declare(self, now_ns: int) -> list[Pair]:
        """See whose time is over; return what is then due."""
        if self._now - JUMP_NS <= now_ns < self._deadline:
            self._now = now_ns
            return []
        if now_ns < self._now - JUMP_NS:
            for watch in self._watches.values():
                watch.seen_ns = None if watch.seen_ns is None else now_ns
                watch.lost_ns = None if watch.lost_ns is None else now_ns
        self._now, self._deadline = now_ns, NEVER
        newly = []
        for stream, watch in self._watches.items():
            if watch.lost_ns is None and watch.seen_ns is not None:
                due = watch.seen_ns + self._timeout
                if now_ns >= due:
                    watch.lost_ns = due
                    newly.append(stream)
                else:
                    self._deadline = min(self._deadline, due)
        if not newly or len(self._lost()) == 2 or self._policies[newly[0]] == 'stop':
            return []
        return self._lose(newly[0])

    def _lose(self, lost: str) -> list[Pair]:
        """Empty the pairer; return its last pairs, and the newest waiting frame by itself."""
        if self.pairer.config.policy not in OWN_POLICIES:
            self.pairer.reset()  # message_filters has nothing due, and tells not what waits
            self._watches[OTHER[lost]].floor_ns = self._watches[OTHER[lost]].used_ns
            return []
        before = dict(self.drops)
        pairs = self._mark(self.pairer.flush())
        waiting = self._blame(before)
        living = OTHER[lost]
        watch = self._watches[living]
        watch.floor_ns = watch.used_ns
        newest = watch.last
        # The pairer names the stream in the cause; nothing waits where it has counted nothing.
        if newest is None or not any(cause.endswith(living) for cause in waiting):
            return pairs
        if watch.floor_ns is not None and newest.stamp_ns <= watch.floor_ns:
            return pairs
        self.drops['degraded'] -= 1  # or else it is counted again
        return pairs + self._emit_alone(living, newest)

    def _emit_alone(self, stream: str, frame: Frame) -> list[Pair]:
        """Return the frame of the living stream, with the held one of the other or without."""
        state = self._state_without(OTHER[stream])
        held = self._watches[OTHER[stream]].held if state.startswith('hold') else None
        if frame.stamp_ns <= 0 or state in ('stopped', 'waiting'):
            self.drops['degraded' if frame.stamp_ns > 0 else 'zero_stamp'] += 1
            return []
        rgb, aux = (frame, held) if stream == 'rgb' else (held, frame)
        skew = 0 if rgb is None or aux is None else aux.stamp_ns - rgb.stamp_ns + self._offset
        self._watches[stream].floor_ns = frame.stamp_ns
        if state == 'aux_only':
            # The mask has this stamp, on the RGB clock or not: later ones must not be older.
            self._watches['rgb'].floor_ns = frame.stamp_ns + min(0, self._offset)
        return [Pair(rgb, aux, skew, state)]

    def _pass(self, lost: bool, call: Callable[..., list[Pair]], *arguments: Any) -> list[Pair]:
        """Return the pairer's pairs; what it drops while a stream is lost, the loss is to blame."""
        if not lost:
            return self._mark(call(*arguments))
        before = dict(self.drops)
        pairs = self._mark(call(*arguments))
        self._blame(before)
        return pairs

    def _blame(self, before: dict[str, int]) -> dict[str, int]:
        """Count as 'degraded' what found no partner since the drops were `before`; return it."""
        drops = self.drops
        if dict.__eq__(drops, before):  # a Counter's own == is 20 times slower
            return {}
        shed = {cause: count - before.get(cause, 0) for cause, count in drops.items()
                if cause not in OWN_FAULTS and count > before.get(cause, 0)}
        for cause, count in shed.items():
            drops['degraded'] += count
            drops[cause] -= count
            if not drops[cause]:
                del drops[cause]
        return shed

    def _mark(self, pairs: list[Pair]) -> list[Pair]:
        if pairs:
            self._paired = True
            for stream, frame in zip(STREAMS, pairs[-1][:2], strict=True):
                self._watches[stream].used_ns = frame.stamp_ns if frame else None
        return pairs
