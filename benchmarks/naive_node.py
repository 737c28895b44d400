# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A straightforward segmentation node, as a baseline for `rgbx_benchmark node --baseline`.

Written as most nodes of this kind are: cv_bridge's conversions to BGR, message_filters' greedy
pairing, min-max normalization, a palette indexed by the mask, every result published as bytes.
Nothing in it is slow on purpose, and the engine is the very same.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from rgbx_seg_ros.engine import open_engine

QUEUE, SLOP_S = 10, 0.05


def stamp_s(message: Image) -> float:
    """Return the stamp in seconds."""
    return float(message.header.stamp.sec + message.header.stamp.nanosec * 1e-9)


class GreedySync:
    """Pairs each image with the nearest one of the other topic, at once."""

    def __init__(self, callback: Any) -> None:
        """Call `callback(rgb, aux)` for each pair."""
        self.callback = callback
        self.queues: tuple[dict[float, Image], dict[float, Image]] = ({}, {})

    def add(self, message: Image, topic: int) -> None:
        """Take a message of topic 0 (rgb) or 1 (aux)."""
        mine, others = self.queues[topic], self.queues[1 - topic]
        mine[stamp_s(message)] = message
        while len(mine) > QUEUE:
            del mine[min(mine)]
        if not others:
            return
        stamp = stamp_s(message)
        nearest = min(others, key=lambda other: abs(other - stamp))
        if abs(nearest - stamp) <= SLOP_S:
            pair = (mine.pop(stamp), others.pop(nearest))
            self.callback(*(pair if topic == 0 else pair[::-1]))


class NaiveNode(Node):  # type: ignore[misc]
    """Node `segment` with the topics of the real one."""

    def __init__(self) -> None:
        """Load the bundle, subscribe and advertise."""
        super().__init__('segment')
        bundle = self.declare_parameter('bundle', '').value
        backend = self.declare_parameter('backend', 'auto').value
        self.engine, self.manifest = open_engine(bundle, backend)
        self.palette = np.zeros((256, 3), np.uint8)
        for info in self.manifest.classes:
            self.palette[info.id] = info.color[::-1]
        self.mask = self.create_publisher(Image, '~/mask', 2)
        self.confidence = self.create_publisher(Image, '~/confidence', 2)
        self.overlay = self.create_publisher(Image, '~/overlay', 2)
        topics = ('rgb/image_raw', f'{self.manifest.modality}/image_raw')
        try:
            from message_filters import ApproximateTimeSynchronizer, Subscriber

            self.sync = ApproximateTimeSynchronizer(
                [Subscriber(self, Image, topic, qos_profile=qos_profile_sensor_data)
                 for topic in topics], QUEUE, SLOP_S)
            self.sync.registerCallback(self.on_pair)
        except ImportError:  # not on PyPI
            self.sync = GreedySync(self.on_pair)
            for topic, name in enumerate(topics):
                self.create_subscription(
                    Image, name, lambda message, topic=topic: self.sync.add(message, topic),
                    qos_profile_sensor_data)

    def on_pair(self, rgb_message: Image, aux_message: Image) -> None:
        """Segment one pair and publish everything."""
        image = np.frombuffer(rgb_message.data, np.uint8).reshape(
            rgb_message.height, rgb_message.width, 3)
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        thermal = np.frombuffer(aux_message.data, np.uint16).reshape(
            aux_message.height, aux_message.width)

        thermal = thermal.astype(np.float32)
        thermal = (thermal - thermal.min()) / (thermal.max() - thermal.min() + 1e-6)
        thermal = (thermal * 255).astype(np.uint8)

        size = (self.manifest.width, self.manifest.height)
        rgb = cv2.resize(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), size)
        aux = cv2.resize(thermal, size)
        if self.manifest.aux.channels == 3:
            aux = cv2.cvtColor(aux, cv2.COLOR_GRAY2RGB)
        aux = aux.reshape(size[1], size[0], self.manifest.aux.channels)
        label, confidence = self.engine(rgb[None], aux[None])

        height, width = bgr.shape[:2]
        label = cv2.resize(label[0], (width, height), interpolation=cv2.INTER_NEAREST)
        confidence = cv2.resize(confidence[0], (width, height))
        overlay = cv2.addWeighted(bgr, 0.4, self.palette[label], 0.6, 0)
        for publisher, array, encoding in ((self.mask, label, 'mono8'),
                                           (self.confidence, confidence, 'mono8'),
                                           (self.overlay, overlay, 'bgr8')):
            publisher.publish(self.to_message(array, encoding, rgb_message))

    @staticmethod
    def to_message(array: np.ndarray, encoding: str, source: Image) -> Image:
        """Return an array as an image with the header of another one."""
        message = Image()
        message.header = source.header
        message.height, message.width = array.shape[:2]
        message.encoding = encoding
        message.step = array.strides[0]
        message.data = array.tobytes()
        return message


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    rclpy.init()
    try:
        rclpy.spin(NaiveNode())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
