# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate bags one by one, in several processes, or on a Ray cluster.

Wherever a bag is evaluated, the same code does it with as many threads as an engine takes by
itself (given fewer, OpenVINO rounds differently), and with engines that remember nothing of other
bags. So the numbers do not depend on the way.
"""

from __future__ import annotations

import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.eval_pass import Evaluator
from rgbx_seg_ros.eval_result import BagResult
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.eval_tasks import Task, check_storage, new_folder

LOOK_S = 0.05  # how often the dispatcher looks for news
TELL_S = 0.1  # how often a process tells how far it is

Done = Callable[[str, int], None]  # hears of a bag's name and how many of its pairs are done
Tell = Callable[[str], None]
Evaluate = Callable[[Task, Path, Callable[[int], None]], BagResult]
News = tuple[str, Any]  # opened: Opened; tell: sentence; pairs: count; ended: reason or ''; refused


# On several threads OpenVINO rounds differently from call to call, by 1 of 255 in one confidence of
# some ten thousands, in an order that begins anew with each engine.
REMEMBERING = ('openvino',)


class Opened(NamedTuple):
    """What the engines of a process are."""

    bundles: list[dict[str, Any]]
    machine: str
    version: str


class Died(Exception):
    """A process is gone; one sentence says how."""


class Pool(Protocol):
    """What evaluates bags; `bundles` tells of its engines."""

    bundles: list[dict[str, Any]]

    def run(self, tasks: Sequence[Task], done: Done) -> dict[str, str]:
        """Evaluate bags; return the reasons of those that failed, by name.

        At the end of each bag `done` hears of all its expected pairs, be they there or not.
        """


@contextmanager
def open_pool(settings: EvalSettings, jobs: int, cluster: str, tell: Tell) -> Iterator[Pool]:
    """Open engines and yield what evaluates bags with them, all processes ended in the end.

    `jobs` processes (0: one, of a cluster one of each machine), of Ray where `cluster` is its
    address, 'auto' or 'local'. RgbxSegError if the engines cannot be opened.
    """
    if cluster:
        from rgbx_seg_ros.eval_ray import open_cluster

        with (open_cluster(settings, cluster, jobs) as (start_actor, count),
              _Slots(start_actor, count, tell) as slots):
            yield slots
    elif jobs > 1:
        from rgbx_seg_ros.eval_process import Process

        with _Slots(partial(Process, settings), jobs, tell) as slots:
            yield slots
    else:
        with Engines(settings, tell) as engines:
            yield _Here(engines, tell)


class Engines:
    """The engines of one process, in the same state before each bag; a context manager."""

    def __init__(self, settings: EvalSettings, tell: Tell) -> None:
        """Open them; RgbxSegError if they do not suit."""
        self._settings, self._tell = settings, tell
        self._evaluator = Evaluator(settings, tell)
        self.bundles = self._evaluator.bundles
        self._used = False

    def __enter__(self) -> Engines:
        """Return self, ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the engines."""
        self._evaluator.close()

    def __call__(self, task: Task, folder: Path, done: Callable[[int], None]) -> BagResult:
        """Evaluate a bag; see Evaluator."""
        if self._used and any(bundle['backend'] in REMEMBERING for bundle in self.bundles):
            self._evaluator.close()
            self._evaluator = Evaluator(self._settings, self._tell)
        self._used = True
        return self._evaluator(task.bag, task.name, task.key, folder, done)


class _Here:
    """Evaluates in this process, one bag after the other."""

    def __init__(self, engines: Engines, tell: Tell) -> None:
        self._engines, self._tell = engines, tell
        self.bundles = engines.bundles

    def run(self, tasks: Sequence[Task], done: Done) -> dict[str, str]:
        """Evaluate the bags in this order."""
        reasons: dict[str, str] = {}
        for task in tasks:
            if reason := attempt(self._engines, task, self._tell, partial(done, task.name)):
                reasons[task.name] = reason
            done(task.name, task.expected)
        return reasons


def attempt(engines: Evaluate, task: Task, tell: Tell, done: Callable[[int], None]) -> str:
    """Evaluate a bag into its folder; return why that failed, or ''."""
    try:
        check_storage(task)
        with new_folder(task.folder) as folder:
            engines(task, folder, done).save(folder)
    except RgbxSegError as error:
        return str(error)
    except (OSError, MemoryError) as error:
        return (f'{task.bag}: the evaluation broke off ({_reason(error)}), expected room on the '
                'disk of --out, and memory; make some, and run it again.')
    except Exception as error:  # a fault of ours must not stop the other bags
        tell(traceback.format_exc())
        return (f'{task.bag}: the evaluation broke off ({_reason(error)}), which is a fault of '
                'rgbx_seg; please report it with the lines that were printed.')
    return ''


def _reason(error: Exception) -> str:
    return ': '.join(filter(None, (type(error).__name__, str(error).split('\n')[0].rstrip('.'))))


def work(settings: EvalSettings, receive: Callable[[], Task | None],
         send: Callable[[News], None]) -> None:
    """Open the engines, then evaluate what is received until there is None."""
    def tell(sentence: str) -> None:
        send(('tell', sentence))

    try:
        engines = Engines(settings, tell)
    except RgbxSegError as error:
        send(('refused', str(error)))
        return
    except Exception as error:
        tell(traceback.format_exc())
        send(('refused', f'the engines could not be opened ({type(error).__name__}), expected '
                         'working ones; choose others by --backend.'))
        return
    with engines:
        send(('opened', Opened(engines.bundles, socket.gethostname(), __version__)))
        while (task := receive()) is not None:
            send(('ended', attempt(engines, task, tell, _sparing(send))))


def _sparing(send: Callable[[News], None]) -> Callable[[int], None]:
    """Return what tells of pairs now and then."""
    last = 0.0

    def done(pairs: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= TELL_S:
            last = now
            send(('pairs', pairs))

    return done


class Slot(Protocol):
    """A process that evaluates one bag after the other."""

    def start(self, task: Task) -> None:
        """Hand it a bag, once it is free."""

    def news(self) -> list[News]:
        """Return what it has told since; raises Died if it is gone."""

    def end(self) -> None:
        """End it, at once where it is busy."""


class _Slots:
    """Hands bags to slots, the longest first; slots that die are replaced."""

    def __init__(self, start: Callable[[], Slot], count: int, tell: Tell) -> None:
        self._start, self._count, self._tell = start, count, tell
        self._slots: list[Slot] = []
        self._busy: dict[Slot, Task] = {}
        self.bundles: list[dict[str, Any]] = []

    def __enter__(self) -> _Slots:
        """Start a first slot, for what its engines are."""
        slot = self._start()
        self._slots.append(slot)
        try:
            while not self.bundles:
                self._take(slot, lambda name, pairs: None, {})
                time.sleep(LOOK_S)
        except Died as error:
            self.__exit__()
            raise RgbxSegError(str(error)) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End all slots."""
        for slot in self._slots:
            slot.end()
        self._slots.clear()

    def run(self, tasks: Sequence[Task], done: Done) -> dict[str, str]:
        """Evaluate bags, as many at a time as there are slots."""
        waiting = sorted(tasks, key=lambda task: -task.expected)
        reasons: dict[str, str] = {}
        while waiting or self._busy:
            for slot in self._free(len(waiting)):
                self._busy[slot] = task = waiting.pop(0)
                slot.start(task)
            told = False
            for slot in list(self._slots):
                try:
                    told |= self._take(slot, done, reasons)
                except Died as error:
                    self._slots.remove(slot)
                    slot.end()
                    if lost := self._busy.pop(slot, None):
                        reasons[lost.name] = f'{lost.bag}: {error}'
                        done(lost.name, lost.expected)
            if not told:
                time.sleep(LOOK_S)
        return {name: reason for name, reason in reasons.items() if reason}

    def _free(self, wanted: int) -> list[Slot]:
        """Return up to `wanted` slots that have no bag, some of them new."""
        free = [slot for slot in self._slots if slot not in self._busy]
        while len(free) < wanted and len(self._slots) < self._count:
            self._slots.append(self._start())
            free.append(self._slots[-1])
        return free[:wanted]

    def _take(self, slot: Slot, done: Done, reasons: dict[str, str]) -> bool:
        """Act on the news of a slot; return whether there were any."""
        news = slot.news()
        for kind, value in news:
            if kind == 'tell':
                self._tell(value)
            elif kind == 'pairs':
                done(self._busy[slot].name, value)
            elif kind == 'ended':
                task = self._busy.pop(slot)
                reasons[task.name] = value
                done(task.name, task.expected)
            elif kind == 'refused':
                raise Died(value)
            else:
                self._compare(Opened(*value))
        return bool(news)

    def _compare(self, opened: Opened) -> None:
        """Keep what the first slot's engines are; raises Died if this one's are others."""
        if opened.version != __version__:
            raise Died(f'{opened.machine} has rgbx_seg {opened.version}, expected {__version__} as '
                       'here; install the same version on all machines of the cluster.')
        self.bundles = self.bundles or opened.bundles
        for own, first in zip(opened.bundles, self.bundles, strict=True):
            if own != first:
                found, other = (' '.join(str(one[key]) for key in (
                    'backend', 'backend_version', 'device', 'precision')) for one in (own, first))
                raise Died(f'{opened.machine} runs {own["name"]} by {found}, others by {other}, '
                           'expected the same engine everywhere; name one that all machines have '
                           'by --backend and --precision.')
