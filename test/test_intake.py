# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The thread that takes images: real messages between two nodes, an executor beside it."""

import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed; run `make ros`')

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from robot import PATIENCE_S, free_domain
from std_msgs.msg import Int32

from rgbx_seg_ros import intake
from rgbx_seg_ros.intake import Intake

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

BEST_EFFORT = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


class Station:
    """A node with an intake, an executor that spins in a thread, and a publisher of numbers."""

    def __init__(self):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=free_domain())
        self.node = rclpy.create_node('station', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.wakes = 0
        self.spinner = threading.Thread(target=self._spin, daemon=True)
        self.spinner.start()
        self.polls = []
        self.intake = Intake(self.node, lambda: self.polls.append(threading.current_thread()))
        self.publisher = self.node.create_publisher(Int32, 'number', 100)

    def _spin(self):
        while self.context.ok():
            with suppress(ExternalShutdownException):
                self.executor.spin_once(timeout_sec=0.5)
            self.wakes += 1

    def send(self, numbers):
        assert until(self.publisher.get_subscription_count)
        for number in numbers:
            self.publisher.publish(Int32(data=number))
            time.sleep(0.002)

    def close(self):
        self.intake.stop()
        self.context.try_shutdown()
        self.spinner.join()
        self.executor.shutdown()
        self.node.destroy_node()


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def station():
    opened = Station()
    yield opened
    opened.close()


def test_all_messages_come_in_order_on_one_thread_and_the_executor_sleeps(station):
    got, threads = [], set()

    def take(message):
        got.append(message.data)
        threads.add(threading.current_thread())

    station.intake.subscribe(Int32, 'number', take, 100)
    station.intake.start()
    assert until(station.publisher.get_subscription_count)
    time.sleep(0.2)
    before = station.wakes
    station.send(range(200))
    assert until(lambda: len(got) == 200), len(got)
    assert got == list(range(200))
    assert len(threads) == 1 and threads == set(station.polls)
    assert station.wakes - before < 20


def test_polls_go_on_where_nothing_arrives(station):
    station.intake.subscribe(Int32, 'number', print, 10)
    station.intake.start()
    time.sleep(1.0)
    assert 20 < len(station.polls) < 80  # 50 of 20 ms


def test_subscriptions_may_come_and_go_while_it_runs(station):
    first, second = [], []
    station.intake.start()
    one = station.intake.subscribe(Int32, 'number', lambda message: first.append(message.data), 100)
    station.send([1])
    assert until(lambda: first == [1])
    two = station.intake.subscribe(
        Int32, 'number', lambda message: second.append(message.data), 100)
    assert until(lambda: station.publisher.get_subscription_count() == 2)
    station.intake.unsubscribe(one)
    assert until(lambda: station.publisher.get_subscription_count() == 1)
    station.send([2])
    assert until(lambda: second[-1:] == [2])
    assert 2 not in first
    station.intake.unsubscribe(two)
    assert until(lambda: station.publisher.get_subscription_count() == 0)


def test_a_subscription_may_go_at_any_moment_of_the_thread_s_work(station, monkeypatch):
    monkeypatch.setattr(intake, 'EVENTS_S', 0.0)  # looks at events all the time
    station.intake.start()
    for _ in range(60):
        passing = station.intake.subscribe(
            Int32, 'passing', print, 100,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=print, message_lost=print))
        time.sleep(0.001)
        station.intake.unsubscribe(passing)
    got = []
    station.intake.subscribe(Int32, 'number', lambda message: got.append(message.data), 100)
    station.send([1])
    assert until(lambda: got == [1])


def test_a_callback_that_fails_is_logged_and_the_next_message_comes(station, capfd):
    got = []

    def take(message):
        got.append(message.data)
        if message.data == 1:
            raise ValueError('one is too many')

    station.intake.subscribe(Int32, 'number', take, 100)
    station.intake.start()
    station.send([1, 2])
    assert until(lambda: got == [1, 2])
    assert 'ValueError in a callback: one is too many' in capfd.readouterr().err


def test_bytes_that_are_no_message_are_logged_and_the_next_message_comes(station, capfd):
    # Fast DDS drops them by itself; here it is made to hand them on, as others do.
    got = []
    real = station.intake.subscribe(Int32, 'number', lambda message: got.append(message.data), 100)

    def take(*_):
        raise RuntimeError('cannot deserialize')

    station.intake._take(SimpleNamespace(handle=SimpleNamespace(take_message=take), raw=False,
                                         msg_type=Int32, topic_name=real.topic_name))
    station.intake.start()
    station.send([1])
    assert until(lambda: got == [1])
    assert 'RuntimeError in a message on /number: cannot deserialize' in capfd.readouterr().err


def test_events_of_a_subscription_are_served(station):
    mismatches = []
    station.intake.subscribe(
        Int32, 'number', print, QoSProfile(depth=1), event_callbacks=SubscriptionEventCallbacks(
            incompatible_qos=lambda event: mismatches.append(event.total_count)))
    station.intake.start()
    unreliable = station.node.create_publisher(Int32, 'number', BEST_EFFORT)
    assert until(lambda: mismatches)
    station.node.destroy_publisher(unreliable)


def test_under_the_lock_no_callback_runs_and_none_follows_the_withdrawal(station):
    got = []
    subscription = station.intake.subscribe(
        Int32, 'number', lambda message: got.append(message.data), 100)
    station.intake.start()
    station.send([1])
    assert until(lambda: got)
    with station.intake.lock:
        station.send(range(2, 50))
        time.sleep(0.1)
        assert got == [1]
        station.intake.unsubscribe(subscription)
    time.sleep(0.2)
    assert got == [1]


def test_it_stops_at_once_starts_again_and_ends_with_the_context(station):
    got = []
    for round in range(2):
        station.intake.subscribe(Int32, 'number', lambda message: got.append(message.data), 100)
        station.intake.start()
        station.send([round])
        assert until(lambda round=round: got[-1:] == [round])
        began = time.monotonic()
        station.intake.stop()
        assert time.monotonic() - began < 0.5
        assert until(lambda: station.publisher.get_subscription_count() == 0)
    station.intake.subscribe(Int32, 'number', print, 100)
    station.intake.start()
    rclpy.shutdown(context=station.context)
    assert until(lambda: 'intake' not in {thread.name for thread in threading.enumerate()})
