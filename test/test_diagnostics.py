# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node logs of its own accord: with stand-ins for the clock, with rclpy for the rest."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from robot import free_domain
from sensor_msgs.msg import CompressedImage, Image

from rgbx_seg_ros.diagnostics import (
    CONNECTIONS_S,
    NO_PUBLISHER_S,
    Report,
    Reporter,
    policy_name,
)
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Facts, Health, HealthConfig

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
TRANSIENT = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RELIABLE = QoSProfile(depth=1)
TOPICS = ['/rgb/image_raw', '/thermal/image_raw']


def stand_in(published=(), simulated=False):
    """Return a node of these published topics, what it warns of, and its diagnostics."""
    sentences, messages = [], []
    now = SimpleNamespace(nanoseconds=0, to_msg=Time)
    return SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=messages.append),
        get_clock=lambda: SimpleNamespace(ros_time_is_active=simulated, now=lambda: now),
        count_publishers=list(published).count,
        get_logger=lambda: SimpleNamespace(warning=sentences.append),
        get_fully_qualified_name=lambda: '/segment'), sentences, messages


def told(seconds, published, simulated):
    """Return what is logged in so many seconds of a node whose topics have these publishers."""
    node, sentences, _ = stand_in(published, simulated)
    report = Report(Health(0), {}, TOPICS, '', None)
    reporter = Reporter(node, lambda: report)
    for _ in range(seconds):
        reporter.on_second()
    return sentences


def test_silent_topic_is_told_once_after_a_while():
    assert told(NO_PUBLISHER_S - 1, ['/rgb/image_raw'], simulated=False) == []
    sentence, = told(3 * NO_PUBLISHER_S, ['/rgb/image_raw'], simulated=False)
    assert sentence.startswith('nobody publishes /thermal/image_raw; start the camera')


def test_missing_clock_is_told_where_time_is_simulated():
    sentence, = told(NO_PUBLISHER_S, TOPICS, simulated=True)
    assert sentence.startswith('nobody publishes /clock; play the bag with --clock')
    assert told(NO_PUBLISHER_S, [*TOPICS, '/clock'], simulated=True) == []


def names(message):
    return [status.name for status in message.status]


def test_several_pairs_have_their_statuses_and_the_process_one_memory():
    node, sentences, messages = stand_in(TOPICS)
    engine = EngineInfo('dummy', '1', 'CPU', 'fp32')
    front = Report(Health(0, HealthConfig(warn_memory_mb=1.0), 'front'), {'zero_stamp': 1}, TOPICS,
                   '', engine, Facts(engine='tensorrt 10'), memory_mb={'GPU': 12.0})
    rear = Report(Health(0, name='rear'), {}, [], 'the engine failed.', engine)
    Reporter(node, lambda: [front, rear]).on_second()
    message, = messages
    assert names(message) == [f'segment: {concern}' for concern in (
        'front cameras', 'front pairing', 'front inference', 'rear state', 'memory')]
    values = {pair.key: pair.value for status in message.status for pair in status.values}
    assert values['engine'] == 'tensorrt 10' and values['GPU [MB]'] == '12'
    assert message.status[3].level == b'\x02' and message.status[4].level == b'\x01'
    assert message.status[0].hardware_id.startswith('dummy 1')
    assert len(sentences) == 1 and 'zero header stamp' in sentences[0]


def test_memory_grows_since_activation_only():
    node, _, messages = stand_in(TOPICS)
    reports = [Report(Health(0), {}, TOPICS, '', None), Report(Health(0), {}, [], '', None)]
    reporter = Reporter(node, lambda: reports[len(messages) % 2])
    for _ in range(4):
        reporter.on_second()
    assert ['segment: memory' in names(message) for message in messages] == [True, False] * 2


@pytest.fixture
def ros():
    """A node under test and one that is a peer, in a domain of their own."""
    domain, opened = free_domain(), []
    for name in ('segment', 'camera'):  # one participant may not have two types on a topic
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        node, executor = rclpy.create_node(name, context=context), SingleThreadedExecutor(
            context=context)
        executor.add_node(node)
        opened.append((context, node, executor))

    def until(condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            for _, _, executor in opened:
                executor.spin_once(timeout_sec=0.02)

    yield SimpleNamespace(own=opened[0][1], peer=opened[1][1], until=until)
    for context, node, executor in opened:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


def known(peers):
    """Return whether the graph has peers and their names, which come later."""
    return peers and all(peer.node_name == 'camera' for peer in peers)


class Warned(Reporter):
    """A reporter that keeps what it warns of."""

    def __init__(self, node, *connections):
        super().__init__(node, lambda: Report(
            Health(0), {}, ['/rgb', '/ir'], '', None, connections=connections))
        self.sentences = []

    def _warn(self, sentences):
        self.sentences += [text for text in sentences if 'nobody publishes' not in text]

    def look(self):
        for _ in range(2 * CONNECTIONS_S):
            self.on_second()
        return self.sentences


def test_the_graph_tells_a_camera_that_cannot_be_heard_without_any_event(ros):
    subscription = ros.own.create_subscription(Image, '/rgb', print, RELIABLE)
    assert Warned(ros.own, subscription).look() == []
    ros.peer.create_publisher(Image, '/rgb', BEST_EFFORT)
    ros.until(lambda: known(ros.own.get_publishers_info_by_topic('/rgb')))
    sentence, = Warned(ros.own, subscription).look()
    assert sentence.startswith('/camera cannot be heard on /rgb: its QoS reliability')


def test_the_graph_tells_a_listener_that_cannot_hear(ros):
    publisher = ros.own.create_publisher(Image, '/mask', RELIABLE)
    ros.peer.create_subscription(Image, '/mask', print, TRANSIENT)
    ros.until(lambda: known(ros.own.get_subscriptions_info_by_topic('/mask')))
    sentence, = Warned(ros.own, publisher).look()
    assert sentence.startswith('/camera cannot hear /mask: its QoS durability')
    assert 'let it subscribe with durability volatile' in sentence


def test_the_graph_tells_another_type_and_no_fault_where_all_fits(ros):
    ros.peer.create_publisher(CompressedImage, '/rgb', RELIABLE)
    ros.peer.create_publisher(Image, '/ir', RELIABLE)
    ros.until(lambda: all(known(ros.own.get_publishers_info_by_topic(topic))
                          for topic in ('/rgb', '/ir')))
    fitting = ros.own.create_subscription(Image, '/ir', print, BEST_EFFORT)
    assert Warned(ros.own, fitting).look() == []
    wrong = ros.own.create_subscription(Image, '/rgb', print, BEST_EFFORT)
    sentence, = Warned(ros.own, fitting, wrong).look()
    assert '/camera publishes /rgb as sensor_msgs/msg/CompressedImage' in sentence


@pytest.mark.parametrize('publishing', [False, True])
def test_the_event_of_the_middleware_is_told_once_with_the_peer(ros, publishing):
    connections, events = [], []
    callbacks = (PublisherEventCallbacks if publishing else SubscriptionEventCallbacks)(
        incompatible_qos=events.append)
    if publishing:
        connections.append(ros.own.create_publisher(Image, '/x', RELIABLE,
                                                    event_callbacks=callbacks))
        ros.peer.create_subscription(Image, '/x', print, TRANSIENT)
    else:
        connections.append(ros.own.create_subscription(Image, '/x', print, RELIABLE,
                                                       event_callbacks=callbacks))
        ros.peer.create_publisher(Image, '/x', BEST_EFFORT)
    graph = (ros.own.get_subscriptions_info_by_topic if publishing
             else ros.own.get_publishers_info_by_topic)
    ros.until(lambda: events and known(graph('/x')))
    for given in (connections, []):  # the second: a node that does not name its connections
        reporter = Warned(ros.own, *given)
        for _ in range(2):
            reporter.on_incompatible_qos('/x', publishing, events[0])
        sentence, = reporter.look()
        assert f'QoS {"durability" if publishing else "reliability"}' in sentence
        assert sentence.startswith('/camera cannot' if given else 'a ')


def test_policies_of_events_are_named_by_enum_and_by_number():
    assert policy_name(QoSPolicyKind.DURABILITY) == policy_name(2) == 'durability'
    assert policy_name(QoSPolicyKind.LIVELINESS_LEASE_DURATION) == 'liveliness lease duration'
    assert policy_name(3) == 'policy'
