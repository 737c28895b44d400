# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's health as diagnostic_msgs, and in words in the log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import QoSPolicyKind

from rgbx_seg_ros import remedies
from rgbx_seg_ros.connections import Trouble, troubles, type_name
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Facts, Health, Status
from rgbx_seg_ros.memory import Memory

NO_PUBLISHER_S = 5
CONNECTIONS_S = 3  # between two looks at the ROS graph: a tenth of a millisecond per topic


class Opening:
    """An engine that is being opened: for how long, and what is being done."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """Begin now; `log` hears of each step."""
        self._began_s, self._log = time.monotonic(), log
        self._step = 'the engine is being opened'

    def tell(self, sentence: str) -> None:
        """Say what is being done from now on; callable from any thread."""
        self._step = sentence
        self._log(sentence)

    def status(self, health: Health) -> Status:
        """Return the state of a node that waits for its engine."""
        seconds = time.monotonic() - self._began_s
        status = health.idle('configuring', '', {
            'progress': self._step, 'elapsed [s]': f'{seconds:.0f}'})
        return status._replace(message=f'configuring: {self._step}')


class Report(NamedTuple):
    """What the node tells about one camera pair."""

    health: Health
    pairing: Mapping[str, int]  # drops of the pairer by cause
    inputs: list[str]  # topics of the images, RGB and aux; none unless active
    fault: str  # why the last configure failed, or why the pair stopped
    engine: EngineInfo | None  # None unless configured
    facts: Facts = Facts()
    connections: Sequence[Any] = ()  # rclpy subscriptions and publishers whose peers are checked
    memory_mb: Mapping[str, float] = {}  # other memories by name, such as 'GPU'
    opening: Opening | None = None  # while the node is being configured


class Reporter:
    """Publishes a node's /diagnostics each second and logs what was counted for the first time."""

    def __init__(self, node: Any, report: Callable[[], Report | list[Report]]) -> None:
        """Take an rclpy node and how to ask it, for one camera pair or for several."""
        self._node = node
        self._report = report
        self._silent: dict[str, int] = {}  # topic -> seconds without a publisher
        self._told: set[tuple[str, str]] = set()  # cause and topic of what does not connect
        self._refused: list[tuple[str, bool, str]] = []  # topic, publishing, policy of events
        self._seconds = 0
        self._memory: Memory | None = None  # None unless active
        # Not a path below the node: aggregators listen to this one topic.
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)

    def on_second(self) -> None:
        """Publish and log; to be called once a second."""
        asked, now = self._report(), self._node.get_clock().now()
        reports = asked if isinstance(asked, list) else [asked]
        self._seconds += 1
        statuses = [status for report in reports for status in self._of(report, now.nanoseconds)]
        statuses += self._of_process([report for report in reports if report.inputs])
        refused, self._refused = self._refused, []  # other threads add to it
        for topic, publishing, policy in refused:  # what the graph did not tell just now
            sentence = remedies.incompatible_qos(topic, policy, publishing)
            self._tell(topic, [Trouble(policy, sentence)])
        name = self._node.get_fully_qualified_name().lstrip('/')
        engine = next((report.engine for report in reports if report.engine), None)
        self._publisher.publish(to_diagnostics(name, engine, now.to_msg(), statuses))
        topics = [topic for report in reports for topic in report.inputs]
        self._warn(self._unpublished(topics) if topics else [])

    def on_incompatible_qos(self, topic: str, publishing: bool, event: Any) -> None:
        """Note that the middleware refused a peer: the callback `incompatible_qos` of an event.

        It is told at the next second, when the graph may know of whom it is.
        """
        self._refused.append((topic, publishing, policy_name(event.last_policy_kind)))

    def _of(self, report: Report, now_ns: int) -> list[Status]:
        """Return the statuses of one pair, and log what is new about it."""
        engine = report.engine
        if report.opening is not None:
            return [report.opening.status(report.health)]
        if not report.inputs:
            return [report.health.idle('inactive' if engine else 'unconfigured', report.fault)]
        facts = report.facts
        if engine and not facts.engine:
            facts = facts._replace(engine=f'{_words(engine)} {engine.precision}',
                                   choice=engine.choice, warning=engine.warning)
        statuses = report.health.statuses(now_ns, report.pairing, facts)
        self._warn(report.health.untold(
            report.pairing, self._node.get_clock().ros_time_is_active,
            dict(zip(('rgb', 'aux'), report.inputs, strict=False))))
        if self._refused or self._seconds % CONNECTIONS_S == 0:
            for connection in report.connections:
                self._connect(connection)
        return statuses

    def _of_process(self, active: list[Report]) -> list[Status]:
        if not active:
            self._memory = None
            return []
        self._memory = self._memory or Memory()
        others = {name: mb for report in active for name, mb in report.memory_mb.items()}
        return [self._memory.status(active[0].health.config.warn_memory_mb, others)]

    def _connect(self, connection: Any) -> None:
        """Tell once why peers of a subscription or publisher hear or say nothing."""
        topic, publishing = connection.topic_name, hasattr(connection, 'publish')
        peers = (self._node.get_subscriptions_info_by_topic(topic) if publishing
                 else self._node.get_publishers_info_by_topic(topic))
        self._tell(topic, troubles(topic, type_name(connection.msg_type), connection.qos_profile,
                                   publishing, peers))

    def _tell(self, topic: str, found: list[Trouble]) -> None:
        for trouble in found:
            if (trouble.cause, topic) not in self._told:
                self._told.add((trouble.cause, topic))
                self._warn([trouble.sentence])

    def _unpublished(self, topics: list[str]) -> list[str]:
        """Return a sentence for each topic that has just been without publisher for too long."""
        if self._node.get_clock().ros_time_is_active:
            topics = [*topics, '/clock']
        self._silent = {topic: self._silent.get(topic, 0) + 1 for topic in dict.fromkeys(topics)
                        if self._node.count_publishers(topic) == 0}
        return [remedies.no_publisher(topic) for topic, seconds in self._silent.items()
                if seconds == NO_PUBLISHER_S]

    def _warn(self, sentences: Iterable[str]) -> None:
        for sentence in sentences:
            self._node.get_logger().warning(sentence)


def policy_name(kind: Any) -> str:
    """Return the QoS policy of an event in words; a number on Humble, an enum after it."""
    try:
        return QoSPolicyKind(kind).name.lower().replace('_', ' ')
    except ValueError:
        return 'policy'


def _words(engine: EngineInfo) -> str:
    return f'{engine.backend} {engine.version} {engine.device}'


def to_diagnostics(node: str, engine: EngineInfo | None, stamp: Time,
                   statuses: Iterable[Status]) -> DiagnosticArray:
    """Return one DiagnosticStatus per concern of `node`, which runs on `engine`, if any yet."""
    hardware = _words(engine) if engine else 'no engine'
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            level=bytes([status.level]), name=f'{node}: {status.concern}', message=status.message,
            hardware_id=hardware,
            values=[KeyValue(key=key, value=value) for key, value in status.values.items()])
        for status in statuses]
    return message
