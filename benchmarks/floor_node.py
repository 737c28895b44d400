# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What ROS alone costs: images in, images of the outputs' sizes out, and nothing between them.

A baseline for `rgbx_benchmark node --baseline floor`: no node in Python that receives and publishes
these messages can take less than this one, which looks at no pixel.
"""

from __future__ import annotations

import array
from functools import partial
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from rgbx_seg_ros.allocator import keep_freed_memory
from rgbx_seg_ros.intake import Intake

OUTPUTS = (('mask', 'mono8', 1), ('confidence', 'mono8', 1), ('overlay', 'rgb8', 3))


class FloorNode(Node):  # type: ignore[misc]
    """Node `segment` with the topics of the real one."""

    def __init__(self) -> None:
        """Subscribe and advertise."""
        super().__init__('segment')
        for name in ('bundle', 'backend'):
            self.declare_parameter(name, '')
        self.outputs = [(self.create_publisher(Image, f'~/{name}', 2), Image(encoding=encoding),
                         channels) for name, encoding, channels in OUTPUTS]
        self.intake = Intake(self, lambda: None)
        for stream in ('rgb', 'thermal'):
            self.intake.subscribe(Image, f'{stream}/image_raw', partial(self.on_image, stream),
                                  qos_profile_sensor_data)
        self.intake.start()

    def on_image(self, stream: str, image: Any) -> None:
        """Publish for each RGB image what is listened to."""
        for publisher, message, channels in self.outputs if stream == 'rgb' else ():
            if not publisher.get_subscription_count():
                continue
            size = image.height * image.width * channels
            if len(message.data) != size:
                message.height, message.width = image.height, image.width
                message.step = image.width * channels
                message.data = array.array('B', bytes(size))
            message.header = image.header
            publisher.publish(message)


def main() -> None:
    """Run the node until SIGINT or SIGTERM."""
    keep_freed_memory()
    rclpy.init()
    node = FloorNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.intake.stop()
        rclpy.try_shutdown()


if __name__ == '__main__':
    main()
