# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Records what the node publishes; pictures go to a file, so that a long bag needs no memory."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rgbx_seg.msg import SegmentationInfo, SegmentationStats
from sensor_msgs.msg import Image

from rgbx_seg_ros.messages import stamp_ns, to_array

RESULT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)
OVERLAY_BYTES = 2 << 30  # of disk; later overlays are counted, but not kept
PICTURES = ('mask', 'confidence', 'overlay')


class Recorder:
    """Subscribes to the node's topics below `name`, its own full name."""

    def __init__(self, node: Any, name: str, spool: BinaryIO) -> None:
        """Subscribe; pictures go to the file `spool`, open for reading and writing."""
        self.counts: Counter[str] = Counter()
        self.stats: list[SegmentationStats] = []
        self.info: SegmentationInfo | None = None
        self.infos: dict[int, SegmentationInfo] = {}  # by the version of their classes
        self.fault = ''  # why the node cannot start
        self.received: dict[str, int] = {}  # by the node, last told in diagnostics
        self.drops: dict[str, int] = {}
        self.last_s = time.monotonic()  # of the last stats
        self._places: dict[str, list[tuple[int, int]]] = {name: [] for name in PICTURES}
        self._spool = spool
        self._name = name
        # Pictures stay serialized until the bag has ended: the player needs the processor.
        for topic in PICTURES:
            node.create_subscription(Image, f'{name}/{topic}', partial(self._on_picture, topic),
                                     RESULT, raw=True)
        node.create_subscription(SegmentationStats, f'{name}/stats', self._on_stats, RESULT)
        node.create_subscription(SegmentationInfo, f'{name}/info', self._on_info, LATCHED)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, RESULT)
        try:
            from vision_msgs.msg import LabelInfo
        except ImportError:
            return
        node.create_subscription(LabelInfo, f'{name}/label_info',
                                 lambda _: self.counts.update(['label_info']), LATCHED)

    def pictures(self, topic: str) -> Callable[[int], NDArray[np.uint8] | None]:
        """Return a function from the live stamp to the pixels of mask or overlay.

        Only when recording has ended: the file is then read in any order.
        """
        index = {stamp_ns(self._read(place).header): place for place in self._places[topic]}

        def read(stamp: int) -> NDArray[np.uint8] | None:
            place = index.get(stamp)
            return None if place is None else to_array(self._read(place))

        return read

    def _read(self, place: tuple[int, int]) -> Image:
        self._spool.seek(place[0])
        return deserialize_message(self._spool.read(place[1]), Image)

    def _on_picture(self, topic: str, data: bytes) -> None:
        self.counts[topic] += 1
        start = self._spool.tell()
        if topic == 'confidence' or (topic == 'overlay' and start > OVERLAY_BYTES):
            return  # the mean confidence is in the stats
        self._spool.write(data)
        self._places[topic].append((start, len(data)))

    def _on_stats(self, message: SegmentationStats) -> None:
        self.counts['stats'] += 1
        self.last_s = time.monotonic()
        self.stats.append(message)

    def _on_info(self, message: SegmentationInfo) -> None:
        self.counts['info'] += 1
        self.info = self.infos[message.classes_version] = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        values: dict[str, str] = {}
        for status in message.status:
            if not status.name.startswith(f'{self._name.lstrip("/")}: '):
                continue
            if status.name.endswith(': state') and status.level == b'\x02':
                self.fault = status.message
            values.update({item.key: item.value for item in status.values})
        self.received = {key.removesuffix(' received'): int(value)
                         for key, value in values.items() if key.endswith(' received')}
        self.drops = {key.removeprefix('dropped: '): int(value)
                      for key, value in values.items() if key.startswith('dropped: ')}
        self.counts['diagnostics'] += 1
