# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A node in this process to be fuzzed: under simulated time, its messages handed to it by hand."""

from __future__ import annotations

import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from bundles import write_tiny_bundle
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import ClockType, Time
from robot import free_domain

from rgbx_seg_ros.node import SegmentNode

SECOND = 1_000_000_000
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


class Log:
    """The node's logger, with a memory."""

    def __init__(self, logger: Any) -> None:
        self.lines: list[str] = []
        self._logger = logger

    # rclpy tells its callers by their lines, and allows each one level.
    def info(self, text: str) -> None:
        self.lines.append(text)
        self._logger.info(text)

    def warning(self, text: str) -> None:
        self.lines.append(text)
        self._logger.warning(text)

    def error(self, text: str) -> None:
        self.lines.append(text)
        self._logger.error(text)


class Target:
    """A configured and active node under simulated time, whose every output is listened to."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        bundle = write_tiny_bundle(folder / 'bundle')
        values = {'bundle': str(bundle), 'autostart': False, 'use_sim_time': True, 'warmup': 0}
        for name, value in {**values, **config}.items():
            values[name] = str(folder / value) if name.endswith('file') else value
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=free_domain())
        self.node = SegmentNode(context=self.context, parameter_overrides=[
            Parameter(name, value=value) for name, value in values.items()])
        self.log = Log(self.node.get_logger())
        self.node.get_logger = lambda: self.log
        self.masks = 0
        self.now_ns = 1_700_000_000 * SECOND
        self.advance(0)
        assert self.node.trigger_configure() == self.node.trigger_activate(), self.log.lines
        self.sent: dict[str, list[Any]] = {}
        self.peer = rclpy.create_node('peer', context=self.context)
        for publisher in self.node.publishers:
            if publisher.topic_name.startswith('/segment/'):
                # Best effort and never read: the newest message waits there, no more.
                self.peer.create_subscription(publisher.msg_type, publisher.topic_name, print,
                                              BEST_EFFORT)
                publisher.publish = partial(self._on_publish, publisher.topic_name,
                                            publisher.publish)
        deadline = time.monotonic() + 20
        while not all(publisher.get_subscription_count() for publisher in self.node.publishers
                      if publisher.topic_name in self.topics()):
            assert time.monotonic() < deadline, 'the listener hears nothing'
            time.sleep(0.02)

    def topics(self) -> list[str]:
        return [subscription.topic_name for subscription in self.peer.subscriptions]

    def _on_publish(self, topic: str, publish: Any, message: Any) -> None:
        publish(message)
        self.masks += topic.endswith('/mask')
        kept = topic.endswith(('/mask', '/stats'))  # copied, for the node fills messages anew
        self.sent.setdefault(topic, []).append(copy.deepcopy(message) if kept else None)

    def advance(self, step_ns: int) -> None:
        """Let the node's clock go on, or jump."""
        self.now_ns += step_ns
        self.node.get_clock().set_ros_time_override(
            Time(nanoseconds=self.now_ns, clock_type=ClockType.ROS_TIME))

    def inputs(self) -> dict[str, Any]:
        """Return the callbacks by topic."""
        return {subscription.topic_name: subscription.callback
                for subscription in self.node.subscriptions}

    def hand_over(self, topic: str, message: Any) -> None:
        """Do what the intake does with a message."""
        if topic in (inputs := self.inputs()):
            with self.node._received():
                inputs[topic](message)

    def settle(self, step_ns: int = 150_000_000) -> None:
        """Let time pass, so that what waits is decided, and the worker finish."""
        self.advance(step_ns)
        with self.node._received():
            self.node._poll()
        self.node._loaded.worker.call(int)

    def tick(self) -> None:
        """Run the timers of the node, as its executor would each second."""
        for timer in self.node.timers:
            timer.callback()

    def close(self) -> None:
        self.node.destroy_node()
        self.peer.destroy_node()
        rclpy.shutdown(context=self.context)
