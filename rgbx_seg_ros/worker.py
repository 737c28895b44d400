# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One thread for the engine, and one place in which the newest work waits for it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.parameters import Settings
from rgbx_seg_ros.segmenter import Segmenter

Item = TypeVar('Item')
Result = TypeVar('Result')


class Worker(Generic[Item]):
    """A thread that opens, runs and closes the engine: CUDA contexts and drivers want only one."""

    def __init__(self, work: Callable[[Item], None]) -> None:
        """Start the thread; `work` runs on it for each item and must not raise."""
        self._work = work
        self._thread = ThreadPoolExecutor(1, 'engine')
        self._lock = Lock()
        self._waiting: Item | None = None

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run `function` on the thread, after the work in hand, and return what it returns."""
        return self._thread.submit(function, *arguments).result()

    def offer(self, item: Item) -> bool:
        """Let `item` wait for the thread; return True if it replaced an older one."""
        replaced = self._swap(item) is not None
        if not replaced:
            self._thread.submit(self._run)
        return replaced

    def drain(self) -> None:
        """Forget the waiting item and return when the thread has nothing left to do."""
        self._swap(None)
        self.call(int)

    def stop(self) -> None:
        """Drain and end the thread."""
        self._swap(None)
        self._thread.shutdown()

    def _run(self) -> None:
        item = self._swap(None)
        if item is not None:
            self._work(item)

    def _swap(self, item: Item | None) -> Item | None:
        with self._lock:
            waiting, self._waiting = self._waiting, item
        return waiting


def open_segmenter(settings: Settings) -> Segmenter:
    """Return the segmenter of a bundle, warmed up; raises RgbxSegError whatever is wrong."""
    engine = None
    try:
        engine, manifest = open_engine(settings.bundle, settings.backend)
        segmenter = Segmenter(engine, manifest)
        segmenter.warm_up(settings.warmup)
        return segmenter
    except Exception as error:
        if engine is not None:
            engine.close()
        if isinstance(error, RgbxSegError):
            raise
        raise RgbxSegError(f'bundle {settings.bundle}: the engine failed at start '
                           f'({type(error).__name__}: {error}).') from error
