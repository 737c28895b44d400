# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""message_filters' own two Python synchronizers behind the interface of `sync.Pairer`.

For comparison, and for those who want exactly what their other nodes do. They pair at an arrival or
never: there is no deadline, and a looped bag needs `reset`. Imports message_filters and rclpy.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync import STREAMS, Pair, Pairer, SyncConfig
from rgbx_seg_ros.sync_stream import Frame

LAST_NS = (1 << 31) * 1_000_000_000  # builtin_interfaces/Time holds 32 bits of seconds


class MessageFiltersPairer(Pairer):
    """Feeds an ApproximateTimeSynchronizer or a TimeSynchronizer; slop = `max_skew_s`."""

    def __init__(self, config: SyncConfig) -> None:
        """Import message_filters; RgbxSegError where it is not installed."""
        try:
            import message_filters
            from builtin_interfaces.msg import Time
        except ImportError as error:
            raise RgbxSegError(f'sync.policy {config.policy} needs message_filters, found none '
                               f'({error}); install ros-<distro>-message-filters and source ROS, '
                               'or take another policy.') from error
        super().__init__(config)
        self._library, self._time = message_filters, Time
        self._offsets = {'rgb': self._rgb.offset_ns, 'aux': self._aux.offset_ns}
        self._paired = 0
        self._connect()

    def _connect(self) -> None:
        self._inputs = {name: self._library.SimpleFilter() for name in STREAMS}
        inputs, size = list(self._inputs.values()), self.config.queue_size
        if self.config.policy == 'exact_time':
            self._filter = self._library.TimeSynchronizer(inputs, size)
        else:
            self._filter = self._library.ApproximateTimeSynchronizer(
                inputs, size, self.config.max_skew_s)
        self._pairs: list[Pair] = []
        self._filter.registerCallback(self._on_pair)

    def _on_pair(self, rgb: Any, aux: Any) -> None:
        self._paired += 1
        self._pairs.append(self._pair(rgb.frame, aux.frame))

    def add(self, stream: str, stamp_ns: int, arrival_ns: int, data: Any) -> list[Pair]:
        """Take one frame ('rgb' or 'aux'); return the pair that it completes."""
        self.received[stream] += 1
        stamp = stamp_ns + self._offsets[stream]
        if stamp_ns <= 0 or not 0 <= stamp < LAST_NS:
            self.drops['zero_stamp'] += 1
            return []
        frame = Frame(stamp_ns, arrival_ns, data)
        (self._rgb if stream == 'rgb' else self._aux).lags.append(stamp_ns - arrival_ns)
        sec, nanosec = divmod(stamp, 1_000_000_000)
        header = SimpleNamespace(stamp=self._time(sec=sec, nanosec=nanosec))
        self._inputs[stream].signalMessage(SimpleNamespace(header=header, frame=frame))
        pairs, self._pairs = self._pairs, []
        return pairs

    def flush(self) -> list[Pair]:
        """Count what found no partner; there are no pairs left to return."""
        unusable = self.drops['zero_stamp'] + self.drops['reset']
        lost = sum(self.received.values()) - 2 * self._paired - unusable
        self.drops['unpaired'] = lost
        self.drops += type(self.drops)()  # forget the causes that never came
        return []

    def reset(self) -> None:
        """Start with empty queues."""
        self.drops['reset'] += sum(len(queue) for queue in self._filter.queues)
        self._connect()
