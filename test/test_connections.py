# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""QoS and types of two ends of a topic, on records like rclpy's."""

from types import SimpleNamespace

import pytest

from rgbx_seg_ros.connections import FOREVER_NS, mismatches, troubles, type_name

IMAGE = 'sensor_msgs/msg/Image'


def qos(reliability='RELIABLE', durability='VOLATILE', liveliness='AUTOMATIC', deadline_ns=0,
        lease_ns=0):
    return SimpleNamespace(
        reliability=SimpleNamespace(name=reliability), durability=SimpleNamespace(name=durability),
        liveliness=SimpleNamespace(name=liveliness),
        deadline=SimpleNamespace(nanoseconds=deadline_ns),
        liveliness_lease_duration=SimpleNamespace(nanoseconds=lease_ns))


def peer(profile, kind=IMAGE, namespace='/robot'):
    return SimpleNamespace(node_name='camera', node_namespace=namespace, topic_type=kind,
                           qos_profile=profile)


@pytest.mark.parametrize('offered, requested, found', [
    ({}, {}, set()),
    ({}, {'reliability': 'BEST_EFFORT'}, set()),
    ({'reliability': 'BEST_EFFORT'}, {}, {'reliability'}),
    ({}, {'durability': 'TRANSIENT_LOCAL'}, {'durability'}),
    ({'durability': 'TRANSIENT_LOCAL'}, {}, set()),
    ({'reliability': 'SYSTEM_DEFAULT'}, {}, set()),
    ({}, {'deadline_ns': 10**8}, {'deadline'}),
    ({'deadline_ns': 10**8}, {'deadline_ns': 10**9}, set()),
    ({'deadline_ns': FOREVER_NS}, {'deadline_ns': 0}, set()),
    ({}, {'liveliness': 'MANUAL_BY_TOPIC'}, {'liveliness'}),
    ({'lease_ns': 2 * 10**9}, {'lease_ns': 10**9}, {'liveliness lease duration'}),
    ({'reliability': 'BEST_EFFORT'}, {'durability': 'TRANSIENT_LOCAL'},
     {'reliability', 'durability'})])
def test_what_is_offered_must_be_at_least_what_is_requested(offered, requested, found):
    assert set(mismatches(qos(**offered), qos(**requested))) == found


def test_a_camera_that_this_node_cannot_hear_is_named_with_the_remedy():
    peers = [peer(qos('BEST_EFFORT')), peer(qos())]
    trouble, = troubles('/rgb/image_raw', IMAGE, qos(), False, peers)
    assert trouble.cause == 'reliability'
    assert trouble.sentence == (
        '/robot/camera cannot be heard on /rgb/image_raw: its QoS reliability offers less than '
        'this node asks for (best effort is offered, reliable requested); let it publish with '
        'reliability reliable.')


def test_a_listener_that_cannot_hear_this_node_is_named_with_the_remedy():
    late = qos(durability='TRANSIENT_LOCAL')
    trouble, = troubles('/segment/mask', IMAGE, qos(), True, [peer(late, namespace='/')])
    assert trouble.sentence == (
        '/camera cannot hear /segment/mask: its QoS durability asks for more than this node offers '
        '(volatile is offered, transient local requested); let it subscribe with durability '
        'volatile.')


def test_a_peer_that_the_graph_cannot_name_yet_is_a_publisher_or_a_subscriber():
    stranger = peer(qos('BEST_EFFORT', 'TRANSIENT_LOCAL'), namespace='_NODE_NAMESPACE_UNKNOWN_')
    hearing, = troubles('/x', IMAGE, qos(), False, [stranger])
    speaking, = troubles('/x', IMAGE, qos(), True, [stranger])
    assert hearing.sentence.startswith('a publisher cannot be heard')
    assert speaking.sentence.startswith('a subscriber cannot hear')


def test_another_type_is_told_with_the_transport_that_fits():
    compressed = 'sensor_msgs/msg/CompressedImage'
    trouble, = troubles('/x', IMAGE, qos(), False, [peer(qos(), compressed)])
    assert 'set rgb.transport or aux.transport to compressed' in trouble.sentence
    trouble, = troubles('/x', compressed, qos(), False, [peer(qos(), IMAGE)])
    assert 'aux.transport to raw' in trouble.sentence
    trouble, = troubles('/x', IMAGE, qos(), False, [peer(qos(), 'std_msgs/msg/String')])
    assert 'remap to a topic of images' in trouble.sentence
    trouble, = troubles('/x', IMAGE, qos(), True, [peer(qos(), 'std_msgs/msg/String')])
    assert 'gets nothing' in trouble.sentence


def test_message_classes_have_their_ros_name():
    message = pytest.importorskip('sensor_msgs.msg')
    assert type_name(message.CompressedImage) == 'sensor_msgs/msg/CompressedImage'
