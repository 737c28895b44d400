# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Who is on the other end of a topic and cannot talk to us: QoS and types, compared, without ROS.

The middleware reports incompatible QoS by an event, but not all do, not for all policies, and none
says by whom; what a node can ask of the ROS graph tells all of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from rgbx_seg_ros.remedies import incompatible_qos, wrong_type

# DDS: what is offered must be at least what is requested, in this order.
RELIABILITY = ('BEST_EFFORT', 'RELIABLE')
DURABILITY = ('VOLATILE', 'TRANSIENT_LOCAL')
LIVELINESS = ('AUTOMATIC', 'MANUAL_BY_TOPIC')
FOREVER_NS = 2**63 - 1
UNKNOWN = '_UNKNOWN_'  # in the names that rmw gives to what it does not know


class Trouble(NamedTuple):
    """One reason why one topic does not connect; `cause` and the topic make it unique."""

    cause: str
    sentence: str


def troubles(topic: str, own_type: str, own_qos: Any, publishing: bool,
             peers: Iterable[Any]) -> list[Trouble]:
    """Return why peers on a topic cannot talk to this node's end of it.

    `own_qos` is an rclpy QoSProfile, `peers` are rclpy TopicEndpointInfo of the other side.
    """
    found = []
    for peer in peers:
        name = f'{peer.node_namespace.rstrip("/")}/{peer.node_name}'
        if UNKNOWN in name:  # its node is discovered after its topics
            name = 'a subscriber' if publishing else 'a publisher'
        if peer.topic_type != own_type:
            found.append(Trouble('type', wrong_type(topic, publishing, name, peer.topic_type,
                                                    own_type)))
            continue
        offered, requested = own_qos, peer.qos_profile
        if not publishing:
            offered, requested = requested, offered
        for policy, values in mismatches(offered, requested).items():
            found.append(Trouble(policy, incompatible_qos(topic, policy, publishing, name,
                                                          *values)))
    return found


def mismatches(offered: Any, requested: Any) -> dict[str, tuple[str, str]]:
    """Return the policies by which DDS keeps a publisher and a subscription apart, and values.

    Values that are left to the middleware (system default, unknown) are taken to fit.
    """
    found = {}
    for policy, order in (('reliability', RELIABILITY), ('durability', DURABILITY),
                          ('liveliness', LIVELINESS)):
        names = getattr(offered, policy).name, getattr(requested, policy).name
        if set(names) <= set(order) and order.index(names[0]) < order.index(names[1]):
            found[policy] = names
    for policy in ('deadline', 'liveliness_lease_duration'):
        times = [getattr(side, policy).nanoseconds or FOREVER_NS for side in (offered, requested)]
        if times[0] > times[1]:
            found[policy.replace('_', ' ')] = (_seconds(times[0]), _seconds(times[1]))
    return found


def _seconds(nanoseconds: int) -> str:
    return 'none' if nanoseconds >= FOREVER_NS - 10**9 else f'{nanoseconds / 1e9:g} s'


def type_name(message_type: type) -> str:
    """Return the ROS name of a message class, such as sensor_msgs/msg/Image."""
    return f'{message_type.__module__.partition(".")[0]}/msg/{message_type.__name__}'
