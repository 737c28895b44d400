# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Work in a row on threads of its own: what reads ahead, and what takes results away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, Full, Queue
from threading import Thread
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar('Item')
LOOK_S = 0.1  # how often a thread that waits looks whether it is still wanted
DEPTH = 8  # items between two threads


class _End:
    """Follows the last item."""


class ReadAhead(Generic[Item]):
    """Iterates over `source` on a thread of its own, at most `depth` items ahead of the reader."""

    def __init__(self, source: Iterable[Item], depth: int = DEPTH) -> None:
        """Remember the source, which `__enter__` begins to read."""
        self.busy_s = 0.0
        self._source = source
        self._queue: Queue[Item | _End] = Queue(depth)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = Thread(target=self._run, name='read-ahead', daemon=True)

    def __enter__(self) -> ReadAhead[Item]:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End the reading, wherever it is."""
        self._stopped = True
        self._thread.join()

    def __iter__(self) -> Iterator[Item]:
        """Yield what the source yields, and raise what it raises."""
        while not isinstance(item := self._queue.get(), _End):
            yield item
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            items = iter(self._source)
            while not self._stopped:
                began = time.perf_counter()
                item = next(items, _End())
                self.busy_s += time.perf_counter() - began
                if isinstance(item, _End):
                    return
                self._put(item)
        except BaseException as error:  # raised again where the items are wanted
            self._failure = error
        finally:
            self._put(_End())

    def _put(self, item: Item | _End) -> None:
        while not self._stopped:
            try:
                return self._queue.put(item, timeout=LOOK_S)
            except Full:
                continue


class Stage(Generic[Item]):
    """Calls `work` for each item on a thread of its own, in order; a context manager.

    What `work` raises is raised by the next `put`, or at the end, and nothing more is done.
    """

    def __init__(self, work: Callable[[Item], None], name: str, depth: int = DEPTH) -> None:
        """Remember the work, which `__enter__` makes ready."""
        self.busy_s = 0.0
        self._work = work
        self._queue: Queue[Item | _End] = Queue(depth)
        self._failure: BaseException | None = None
        self._stopped = False
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Stage[Item]:
        """Begin to wait for items."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish what was put; after an exception, leave it."""
        self._stopped = kind is not None
        if kind is None:
            self._put(_End())
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, item: Item) -> None:
        """Hand an item over; waits while the stage is behind."""
        self._raise()
        self._put(item)

    def _put(self, item: Item | _End) -> None:
        while self._thread.is_alive():
            try:
                return self._queue.put(item, timeout=LOOK_S)
            except Full:
                continue

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._stopped:
                try:
                    item = self._queue.get(timeout=LOOK_S)
                except Empty:
                    continue
                if isinstance(item, _End):
                    return
                began = time.perf_counter()
                self._work(item)
                self.busy_s += time.perf_counter() - began
        except BaseException as error:  # raised again where the items come from
            self._failure = error
