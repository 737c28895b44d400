# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's health as diagnostic_msgs, and in words in the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Health, Status

NO_PUBLISHER_S = 5


class Report(NamedTuple):
    """What the node tells about itself."""

    health: Health
    pairing: Mapping[str, int]  # drops of the pairer by cause
    inputs: list[str]  # topics of the images; none unless active
    fault: str  # why the last configure failed
    engine: EngineInfo | None  # None unless configured


class Reporter:
    """Publishes a node's /diagnostics each second and logs what was counted for the first time."""

    def __init__(self, node: Any, report: Callable[[], Report]) -> None:
        """Take an rclpy node and how to ask it."""
        self._node = node
        self._report = report
        self._silent: dict[str, int] = {}  # topic -> seconds without a publisher
        # Not a path below the node: aggregators listen to this one topic.
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def on_second(self) -> None:
        """Publish and log; to be called once a second."""
        report, now = self._report(), self._node.get_clock().now()
        if report.inputs:
            statuses = report.health.statuses(now.nanoseconds, report.pairing)
            for sentence in report.health.untold(report.pairing) + self._unpublished(report.inputs):
                self._node.get_logger().warning(sentence)
        else:
            state = 'inactive' if report.engine else 'unconfigured'
            statuses = [report.health.idle(state, report.fault)]
        name = self._node.get_fully_qualified_name().lstrip('/')
        self._publisher.publish(to_diagnostics(name, report.engine, now.to_msg(), statuses))

    def _unpublished(self, topics: list[str]) -> list[str]:
        """Return a sentence for each topic that has just been without publisher for too long."""
        remedies = dict.fromkeys(topics, 'start the camera, or remap the topic to its name.')
        if self._node.get_clock().ros_time_is_active:
            remedies['/clock'] = 'play the bag with --clock, or set use_sim_time to false.'
        self._silent = {topic: self._silent.get(topic, 0) + 1 for topic in remedies
                        if self._node.count_publishers(topic) == 0}
        return [f'nobody publishes {topic}; {remedies[topic]}'
                for topic, seconds in self._silent.items() if seconds == NO_PUBLISHER_S]


def to_diagnostics(node: str, engine: EngineInfo | None, stamp: Time,
                   statuses: Iterable[Status]) -> DiagnosticArray:
    """Return one DiagnosticStatus per concern of `node`, which runs on `engine`, if any yet."""
    hardware = f'{engine.backend} {engine.version} {engine.device}' if engine else 'no engine'
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]), name=f'{node}: {status.concern}', message=status.message,
            hardware_id=hardware,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()])
        for status in statuses]
    return message
