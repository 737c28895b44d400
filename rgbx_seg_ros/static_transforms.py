# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The extrinsics that /tf_static tells, for camera pairs that no file gives them to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile

from rgbx_seg_ros import RgbxSegError, endpoints, messages
from rgbx_seg_ros.transforms import Transforms

TOPIC = '/tf_static'
QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MAX_TOLD = 20  # warnings of a kind whose subject may be anything


class StaticTransforms:
    """The transforms heard since `listen` was called for the first time."""

    def __init__(self, node: Any, on_incompatible_qos: Callable[[str, bool, Any], None]) -> None:
        """Take an rclpy node, and what hears the middleware's complaints: topic, False, event."""
        self.found = Transforms()
        self.subscription: Any = None  # until someone listens
        self._node, self._on_incompatible_qos = node, on_incompatible_qos
        self._bad_frames: set[str] = set()  # each is told once

    def listen(self) -> None:
        """Subscribe, once and for all."""
        if self.subscription is not None:
            return
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError:
            self._node.get_logger().warning(
                f'tf2_msgs is not installed: no extrinsics from {TOPIC}; install '
                'ros-$ROS_DISTRO-tf2-msgs or set registration.file.')
            return
        self.subscription = endpoints.subscription(
            self._node.create_subscription, TFMessage, TOPIC, self._on_message, QOS,
            incompatible_qos=partial(self._on_incompatible_qos, TOPIC, False))

    def _on_message(self, message: Any) -> None:
        for stamped in message.transforms:
            try:
                self.found.add(*messages.to_transform(stamped))
            except RgbxSegError as error:
                frame_id = stamped.child_frame_id
                if len(self._bad_frames) < MAX_TOLD and frame_id not in self._bad_frames:
                    self._bad_frames.add(frame_id)
                    self._node.get_logger().warning(f'{TOPIC}: {error}')
