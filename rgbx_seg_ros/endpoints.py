# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Publishers and subscriptions with events, where the middleware has any, by any rclpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )


def publisher(node: Any, kind: type, topic: str, qos: Any, **events: Callable[[Any], None]) -> Any:
    """Return a publisher of an rclpy node; `events` as in PublisherEventCallbacks.

    They may come on any thread of the executor, one beside another.
    """
    # An event of a publisher that another thread destroys is lost inside the executor, which leaves
    # a group that runs one callback at a time busy for ever.
    group = ReentrantCallbackGroup()
    try:
        return node.create_publisher(kind, topic, qos, callback_group=group,
                                     event_callbacks=PublisherEventCallbacks(**events))
    except UnsupportedEventTypeError:  # this middleware does not tell
        return node.create_publisher(kind, topic, qos, callback_group=group)


def subscription(create: Callable[..., Any], kind: type, topic: str,
                 callback: Callable[[Any], None], qos: Any,
                 **events: Callable[[Any], None]) -> Any:
    """Return a subscription made by `create`, an rclpy node's create_subscription or its like."""
    try:
        return create(kind, topic, callback, qos,
                      event_callbacks=SubscriptionEventCallbacks(**events))
    except UnsupportedEventTypeError:
        return create(kind, topic, callback, qos)
