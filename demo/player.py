# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Publishes the images of a bag as two live cameras would."""

from __future__ import annotations

import array
import time
from collections import Counter
from queue import Queue
from threading import Event, Thread
from typing import Any, NamedTuple

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from demo.timeline import LiveClock, Timeline
from rgbx_seg_ros.bag import COMPRESSED, StampedImage, read_images
from rgbx_seg_ros.images import ImageError

DRIVER = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)  # as camera drivers do
LOOK_AHEAD_BYTES = 512 << 20  # a short bag is ready as a whole before it plays
ENCODINGS = {('uint8', 2): 'mono8', ('uint8', 3): 'rgb8', ('uint16', 2): 'mono16',
             ('uint16', 3): 'rgb16'}


class Outgoing(NamedTuple):
    """A message that waits for its time; None if the bag's image cannot be decoded."""

    topic: str
    stamp_ns: int
    received_ns: int
    message: Image | None


class Player:
    """Plays rgb and aux; compressed topics are decoded, so that the wire carries the true load."""

    def __init__(self, node: Any, timeline: Timeline, space: str) -> None:
        """Start to prepare messages; they will go to the bag's topics within namespace `space`."""
        self.timeline = timeline
        self.topics = {topic: space + topic.removesuffix('/compressed')
                       for topic in timeline.images}
        self._publishers = {topic: node.create_publisher(Image, name, DRIVER)
                            for topic, name in self.topics.items()}
        self.published: Counter[str] = Counter({topic: 0 for topic in self.topics})
        self.undecodable: Counter[str] = Counter()
        self.late_ms: list[float] = []
        self.bag_stamps: dict[int, int] = {}  # live stamp -> stamp in the bag
        self._ready = Event()
        self._failure: BaseException | None = None
        self._stopped = False
        self._queue: Queue[Outgoing | None] = Queue(_room(timeline))
        self._thread = Thread(target=self._prepare, name='look-ahead', daemon=True)
        self._thread.start()

    def listeners(self) -> int:
        """Return how many of the two topics the node listens to."""
        return sum(publisher.get_subscription_count() > 0
                   for publisher in self._publishers.values())

    def wait_ready(self) -> None:
        """Return when the whole bag, or as much as memory allows, is ready to play."""
        self._ready.wait()

    def play(self, rate: float) -> LiveClock:
        """Publish every frame at its time; return the clock that placed them."""
        clock = LiveClock(self.timeline, time.time_ns() + 100_000_000, rate)
        offset_ns = time.monotonic_ns() - time.time_ns()  # no NTP step shall disturb the playing
        while (item := self._queue.get()) is not None:
            if item.message is None:
                self.undecodable[item.topic] += 1
                continue
            stamp_ns = clock.stamp_ns(item.stamp_ns)
            stamp = item.message.header.stamp
            stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
            self.bag_stamps[stamp_ns] = item.stamp_ns
            due_ns = clock.publish_ns(item.received_ns) + offset_ns
            time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
            self.late_ms.append((time.monotonic_ns() - due_ns) / 1e6)
            self._publishers[item.topic].publish(item.message)
            self.published[item.topic] += 1
        if self._failure is not None:
            raise self._failure
        return clock

    def stop(self) -> None:
        """End the look-ahead, wherever it is."""
        self._stopped = True
        while self._thread.is_alive():
            if not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(0.01)

    def _prepare(self) -> None:
        try:
            for image in read_images(self.timeline.bag, self.timeline.images):
                if self._stopped:
                    return
                if self._queue.full():
                    self._ready.set()
                self._queue.put(Outgoing(image.topic, image.stamp_ns, image.received_ns,
                                         to_message(image)))
        except BaseException as error:  # told by play(), in the caller's thread
            self._failure = error
        finally:
            self._ready.set()
            self._queue.put(None)


def to_message(image: StampedImage) -> Image | None:
    """Return a raw Image of the bag's pixels without a stamp; None if they cannot be decoded."""
    source, result = image.message, Image()
    result.header.frame_id = image.frame_id
    if source.__msgtype__ != COMPRESSED:
        for name in ('height', 'width', 'encoding', 'step', 'is_bigendian'):
            setattr(result, name, getattr(source, name))
        result.data = _bytes(source.data)
        return result
    try:
        pixels = image.image()
    except ImageError:
        return None
    result.height, result.width = pixels.shape[:2]
    result.encoding = ENCODINGS[pixels.dtype.name, pixels.ndim]
    result.step = pixels[0].nbytes
    result.data = _bytes(pixels)
    return result


def _bytes(pixels: np.ndarray) -> array.array[int]:
    data = array.array('B')  # what rclpy takes without looking at each element
    data.frombytes(memoryview(np.ascontiguousarray(pixels)).cast('B'))
    return data


def _room(timeline: Timeline) -> int:
    """Return how many messages of the bag's largest kind fit into the look-ahead."""
    sizes = []
    for topic in timeline.images:
        message = to_message(next(read_images(timeline.bag, [topic])))
        sizes.append(1 if message is None else len(message.data))
    return max(8, LOOK_AHEAD_BYTES // max(*sizes, 1))
