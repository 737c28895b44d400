# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One thread for the engine, and a place for each camera pair in which its newest work waits."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Generic, TypeVar

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.class_choice import find_classes
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.parameters import Settings
from rgbx_seg_ros.segmenter import Segmenter

Item = TypeVar('Item')
Result = TypeVar('Result')
LOOK_S = 0.1  # how often a caller that may give up looks whether it should


class Worker(Generic[Item]):
    """A thread that opens, runs and closes the engine: CUDA contexts and drivers want only one.

    Each source of work has one place to wait in. Places are served in the order in which they
    were taken, so a busy source cannot starve another one.
    """

    def __init__(self, work: Callable[[Item], None]) -> None:
        """Start the thread; `work` runs on it for each item and must not raise."""
        self._work = work
        self._thread = ThreadPoolExecutor(1, 'engine')
        self._lock = Lock()
        self._waiting: dict[Hashable, Item] = {}  # by source, the longest waiting source first

    def call(self, function: Callable[..., Result], *arguments: object,
             wanted: Callable[[], bool] = lambda: True) -> Result:
        """Run `function` on the thread, after the work in hand, and return what it returns.

        Raises KeyboardInterrupt, and leaves the thread to itself, once `wanted` returns False.
        """
        return _result(self._thread.submit(function, *arguments), wanted)

    def offer(self, item: Item, source: Hashable = None) -> bool:
        """Let `item` wait for the thread; return True if it replaced an older one of `source`."""
        with self._lock:
            replaced = source in self._waiting
            self._waiting[source] = item
        if not replaced:
            self._thread.submit(self._run)
        return replaced

    def drain(self, wanted: Callable[[], bool] = lambda: True) -> None:
        """Forget the waiting items and return when the thread has nothing left to do."""
        self._forget()
        self.call(int, wanted=wanted)

    def stop(self, patience_s: float | None = None, last: Callable[[], object] = int,
             wanted: Callable[[], bool] = lambda: True) -> bool:
        """Drain, run `last` on the thread and end it; return False if `patience_s` is too short.

        Without `patience_s` it waits, as `call` does, for as long as it is `wanted`.
        """
        self._forget()
        future = self._thread.submit(last)
        self._thread.shutdown(wait=False)
        if patience_s is None:
            _result(future, wanted)
            return True
        try:
            future.result(patience_s)
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        with self._lock:
            source = next(iter(self._waiting), self)  # none of that name: forgotten meanwhile
            item = self._waiting.pop(source, None)
        if item is not None:
            self._work(item)

    def _forget(self) -> None:
        with self._lock:
            self._waiting.clear()


def _result(future: Future[Result], wanted: Callable[[], bool]) -> Result:
    """Return what a call returned; KeyboardInterrupt once it is no longer wanted."""
    while True:
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            if future.done():
                return future.result()
            if not wanted():
                raise KeyboardInterrupt from None


def open_segmenter(settings: Settings, tell: Callable[[str], None] = lambda sentence: None,
                   aside: bool = True) -> Segmenter:
    """Return the segmenter of a bundle, warmed up; raises RgbxSegError whatever is wrong.

    `tell` hears, on this thread, of what takes long; `aside` as in Segmenter.
    """
    engine = None
    try:
        engine, manifest = open_engine(settings.bundle, settings.backend, settings.precision,
                                       replace(settings.options, tell=tell))
        segmenter = Segmenter(engine, manifest, aside)
        choice = find_classes(settings.bundle, manifest, settings.classes, settings.classes_file)
        if choice is not None:
            segmenter.set_classes(choice)
        segmenter.warm_up(settings.warmup)
        return segmenter
    except Exception as error:
        if engine is not None:
            with suppress(Exception):  # what failed first is what matters
                engine.close()
        if isinstance(error, RgbxSegError):
            raise
        raise RgbxSegError(f'bundle {settings.bundle}: the engine failed at start '
                           f'({type(error).__name__}: {error}).') from error
