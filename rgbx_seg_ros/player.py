# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes the messages of a bag at their times, as bytes: what was recorded is what arrives.

One thread reads ahead; the caller's publishes, messages and /clock alike, so that the clock never
stands still where messages go on. Each lap begins some time before its first message and ends some
time after its last one: a clock that jumps back must have arrived before the images do, and what
nodes hold back for a while by the bag's clock must have come out before it jumps.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from rgbx_seg_ros.bag import NS, read_messages
from rgbx_seg_ros.play_plan import CLOCK, LiveClock, Plan, Track, stamp_bias
from rgbx_seg_ros.play_qos import Offer
from rgbx_seg_ros.play_queue import LookAhead, Outgoing
from rgbx_seg_ros.player_messages import Stamps, find_class, to_raw

LOOK_AHEAD_BYTES = 256 << 20
LEAD_S = 0.5  # of a lap before its first message, and of the last one's after it
KEPT = 1 << 20  # latest messages whose lateness is told
BIAS_MESSAGES = 2000  # from which the difference of the clocks is told
ACKNOWLEDGE_S = 1.0


@contextmanager
def open_node(name: str) -> Iterator[Any]:
    """Yield an rclpy node that a thread of its own serves, in a context that ends with it."""
    # Without rclpy's own handlers Ctrl+C is a KeyboardInterrupt, which ends the playing in order.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name)
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = Thread(target=spin, name='executor', daemon=True)
    thread.start()
    try:
        yield node
    finally:
        rclpy.try_shutdown()
        thread.join()


class Player:
    """Plays what a plan says; `play` may be called once."""

    def __init__(self, node: Any, plan: Plan, *, rate: float = 1.0, loop: bool = False,
                 delay_s: float = LEAD_S, clock_hz: float = 0.0, now: bool = False,
                 bias_ns: int | None = None, look_ahead_bytes: int = LOOK_AHEAD_BYTES) -> None:
        """Advertise the topics of the plan and begin to read.

        A lap begins `delay_s` before its first message is due. `clock_hz` above 0 publishes /clock.
        `now` brings the stamps in headers to the present; then `bias_ns` is LiveClock's, None to
        tell it from the bag.
        """
        self.left_out = dict(plan.left_out)
        self.published: Counter[str] = Counter()  # by topic of the bag, like all else here
        self.undecodable: Counter[str] = Counter()
        self.refused: dict[str, str] = {}  # topic -> why a message of it could not be published
        self.late_ms: deque[float] = deque(maxlen=KEPT)
        self.laps = 0
        self._rate, self._loop, self._now = rate, loop, now
        self._delay_ns = round(delay_s * NS)
        self._node = node
        self._publishers: dict[str, Any] = {}
        self._stamps: dict[str, Stamps] = {}
        for track in plan.tracks:
            self._advertise(track)
        self._plan = plan._replace(tracks=tuple(
            track for track in plan.tracks if track.topic in self._publishers))
        self.published.update(dict.fromkeys(self._publishers, 0))
        self._bias_ns = self._find_bias() if now and bias_ns is None else bias_ns or 0
        self._clock = node.create_publisher(Clock, CLOCK, 1) if clock_hz else None
        self._period_ns = round(NS / clock_hz) if clock_hz else NS
        self._tick_ns = 0  # when /clock is due
        self._failure: BaseException | None = None
        self._stopped = False
        self._look_ahead = LookAhead(look_ahead_bytes)
        self._thread = Thread(target=self._read, name='look-ahead', daemon=True)
        if self._publishers:
            self._thread.start()
        else:
            self._look_ahead.put(None)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What is played."""
        return self._plan.tracks

    def listeners(self, *names: str) -> int:
        """Return how many of the topics published under these names, or of all, are heard."""
        return sum(self._publishers[track.topic].get_subscription_count() > 0
                   for track in self.tracks if not names or track.name in names)

    def wait(self, condition: Callable[[], bool] = lambda: True) -> None:
        """Return once a condition holds and as much is read as memory allows.

        The clock is published meanwhile, and stands.
        """
        began_ns = self._plan.start_ns - round(self._delay_ns * self._rate)
        while not (self._look_ahead.filled.is_set() and condition()):
            self._tell_time(began_ns)
            time.sleep(0.02)

    def play(self) -> LiveClock:
        """Publish every message at its time; return the clock that placed those of the last lap."""
        while True:
            clock = LiveClock(self._plan.start_ns, time.time_ns() + self._delay_ns, self._rate,
                              self._bias_ns)
            # No step of the machine's clock shall disturb the playing.
            offset_ns = time.monotonic_ns() - time.time_ns()
            self._tick_ns = 0
            due_ns = clock.began_ns + offset_ns
            for item in self._lap(clock, offset_ns):
                due_ns = max(due_ns, clock.publish_ns(item.received_ns) + offset_ns)
                self._sleep_until(due_ns, clock, offset_ns)
                self._send(item, clock, due_ns)
            self.laps += 1
            if self._clock is not None:
                rest_ns = round(LEAD_S * NS / min(self._rate, 1))
                self._sleep_until(max(due_ns, time.monotonic_ns()) + rest_ns, clock, offset_ns)
            if not self._loop:
                return clock

    def finish(self) -> None:
        """Return when the last messages have arrived, or cannot be waited for any longer."""
        deadline = time.monotonic() + ACKNOWLEDGE_S
        for publisher in self._publishers.values():
            left_s = max(deadline - time.monotonic(), 0.0)
            with suppress(RuntimeError):  # not every middleware tells
                publisher.wait_for_all_acked(Duration(nanoseconds=round(left_s * NS)))

    def stop(self) -> None:
        """End the look-ahead, wherever it is."""
        self._stopped = True
        self._look_ahead.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _advertise(self, track: Track) -> None:
        kind, reason = find_class(track.type, track.fields)
        try:
            if kind is not None:
                self._publishers[track.topic] = self._node.create_publisher(
                    kind, track.name, to_profile(track.offer))
                self._stamps[track.topic] = Stamps(kind)
        except Exception as error:  # a name that ROS does not take, a type without type support
            reason = ' '.join(str(error).split()) or type(error).__name__
        if reason:
            self.left_out[track.topic] = reason

    def _find_bias(self) -> int:
        delays = []
        for track, received_ns, data in self._window():
            stamp_ns = self._stamps[track.topic].first(data or b'')
            if stamp_ns > 0 and not track.latched:
                delays.append(received_ns - stamp_ns)
            if len(delays) == BIAS_MESSAGES:
                break
        return stamp_bias(delays)

    # Reading, on a thread of its own

    def _window(self) -> Iterator[Outgoing]:
        plan, tracks = self._plan, {track.topic: track for track in self._plan.tracks}
        for raw in read_messages(plan.bag, tracks, plan.start_ns, plan.stop_ns + 1):
            yield Outgoing(tracks[raw.channel.topic], raw.received_ns, bytes(raw.data))

    def _latched_before(self) -> Iterator[Outgoing]:
        """Yield what a live subscriber would know by the time at which the playing starts."""
        plan = self._plan
        tracks = {track.topic: track for track in plan.tracks if track.latched}
        if tracks and plan.bag_start_ns < plan.start_ns:
            for raw in read_messages(plan.bag, tracks, plan.bag_start_ns, plan.start_ns):
                yield Outgoing(tracks[raw.channel.topic], plan.start_ns, bytes(raw.data))

    def _read(self) -> None:
        try:
            going_on = all(self._put(item) for item in self._latched_before())
            while going_on:
                going_on = all(self._put(item) for item in self._window())
                going_on = self._look_ahead.put(None) and going_on and self._loop
        except BaseException as error:  # told by play(), in the caller's thread
            self._failure = error
            self._look_ahead.put(None)

    def _put(self, item: Outgoing) -> bool:
        if item.track.decompress and item.data is not None:
            item = item._replace(data=to_raw(item.data))
        return self._look_ahead.put(item) and not self._stopped

    # Publishing, on the caller's thread

    def _lap(self, clock: LiveClock, offset_ns: int) -> Iterator[Outgoing]:
        """Yield what is to be published in this lap, as soon as it has been read."""
        while True:
            try:
                item = self._look_ahead.get(self._period_ns / NS)
            except TimeoutError:
                self._tell_time(clock.bag_ns(time.monotonic_ns() - offset_ns))
                continue
            if item is None:
                break
            yield item
        if self._failure is not None:
            raise self._failure

    def _send(self, item: Outgoing, clock: LiveClock, due_ns: int) -> None:
        topic, data = item.track.topic, item.data
        if data is None:
            self.undecodable[topic] += 1
            return
        if self._now:
            data = self._stamps[topic].move(data, clock.stamp_ns)
        self.late_ms.append((time.monotonic_ns() - due_ns) / 1e6)
        try:
            self._publishers[topic].publish(data)
        except RuntimeError as error:  # bytes that are no message, where the middleware looks
            self.refused.setdefault(topic, ' '.join(str(error).split()))
            return
        self.published[topic] += 1

    def _sleep_until(self, due_ns: int, clock: LiveClock, offset_ns: int) -> None:
        while True:
            now_ns = time.monotonic_ns()
            if now_ns >= self._tick_ns:
                self._tell_time(clock.bag_ns(now_ns - offset_ns))
            if now_ns >= due_ns:
                return
            until_ns = due_ns if self._clock is None else min(due_ns, self._tick_ns)
            time.sleep(max(until_ns - now_ns, 0) / NS)

    def _tell_time(self, bag_ns: int) -> None:
        now_ns = time.monotonic_ns()
        if self._clock is None or now_ns < self._tick_ns:
            return
        # 0 would mean that there is no time yet.
        sec, nanosec = divmod(max(bag_ns, 1), NS)
        self._clock.publish(Clock(clock=Time(sec=sec, nanosec=nanosec)))
        late = now_ns - self._tick_ns > self._period_ns
        self._tick_ns = (now_ns if late else self._tick_ns) + self._period_ns


def to_profile(offer: Offer) -> QoSProfile:
    """Return an offer as rclpy takes it."""
    return QoSProfile(
        history=HistoryPolicy[offer['history'].upper()], depth=offer['depth'],
        reliability=ReliabilityPolicy[offer['reliability'].upper()],
        durability=DurabilityPolicy[offer['durability'].upper()],
        liveliness=LivelinessPolicy[offer['liveliness'].upper()],
        deadline=Duration(nanoseconds=offer['deadline']),
        lifespan=Duration(nanoseconds=offer['lifespan']),
        liveliness_lease_duration=Duration(nanoseconds=offer['liveliness_lease_duration']))
