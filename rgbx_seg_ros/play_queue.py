# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a player has read and not yet published, between two threads; no ROS in here."""

from __future__ import annotations

from collections import deque
from threading import Condition, Event
from typing import NamedTuple

from rgbx_seg_ros.play_plan import Track

MESSAGE_BYTES = 200  # that a message takes besides its own


class Outgoing(NamedTuple):
    """A message that waits for its time; None if the bag's image cannot be decoded."""

    track: Track
    received_ns: int
    data: bytes | None


class LookAhead:
    """What is read and not yet published, bounded in bytes; None in it ends a lap."""

    def __init__(self, budget: int) -> None:
        """Start empty; the first message is taken, however large it is."""
        self.filled = Event()  # full, or read to the end of a lap
        self._items: deque[tuple[Outgoing | None, int]] = deque()
        self._budget, self._bytes, self._closed = budget, 0, False
        self._changed = Condition()

    def put(self, item: Outgoing | None) -> bool:
        """Wait for room; return False if nobody will ever take it."""
        size = MESSAGE_BYTES + len(item.data or b'') if item else 0
        with self._changed:
            while self._items and self._bytes + size > self._budget and not self._closed:
                self.filled.set()
                self._changed.wait()
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()
            if item is None:
                self.filled.set()
            return not self._closed

    def get(self, patience_s: float) -> Outgoing | None:
        """Return the next one; TimeoutError if it has not been read in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, patience_s):
                raise TimeoutError
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let nobody wait for room any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
