# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate bags on the machines of a Ray cluster. The only file that imports Ray.

Bags, bundles and results stay where they are, on storage that all machines see. Ray is asked not
to send statistics of its use to anyone.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_jobs import Died, News, Slot, work
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.eval_tasks import Task

THREADS = 'OMP_NUM_THREADS'
QUIET = {'RAY_USAGE_STATS_ENABLED': '0', 'RAY_USAGE_STATS_PROMPT_ENABLED': '0'}


class Worker:
    """An actor that works in a thread, so that it can be asked for news meanwhile."""

    def __init__(self, settings: EvalSettings, threads: str | None) -> None:
        """Begin to open the engines, with the number of OpenMP threads of who asks."""
        # Ray sets one, with which some libraries round differently.
        os.environ.pop(THREADS, None)
        if threads is not None:
            os.environ[THREADS] = threads
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        threading.Thread(target=work, args=(settings, self._tasks.get, self._news.put),
                         daemon=True).start()

    def start(self, task: Task) -> None:
        """Take a bag."""
        self._tasks.put(task)

    def news(self) -> list[News]:
        """Return what there is to tell."""
        return [self._news.get() for _ in range(self._news.qsize())]


@contextmanager
def open_cluster(settings: EvalSettings, address: str, jobs: int
                 ) -> Iterator[tuple[Callable[[], Slot], int]]:
    """Yield what starts an actor, and how many: `jobs`, or one for each machine if that is 0.

    `address` is ray://host:port, host:port, 'auto' (the cluster that this machine is part of) or
    'local' (a cluster of this machine alone, which ends afterwards).
    """
    ray = _import()
    try:
        options: dict[str, Any] = {'address': address}
        if address == 'local':
            options |= {'num_cpus': max(jobs, 1), 'include_dashboard': False}
        ended_by = signal.getsignal(signal.SIGTERM)
        ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
        signal.signal(signal.SIGTERM, ended_by)  # Ray's own prints pages of addresses
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, its own
        reason = _line(error, 0)
        raise RgbxSegError(f'--cluster {address} cannot be reached ({reason}), expected '
                           'ray://host:port of a cluster with this version of Ray, auto or local; '
                           'see `ray status` there.') from None
    try:
        alive = [node for node in ray.nodes() if node['Alive']]
        free = int(ray.available_resources().get('CPU', 0))
        if free < 1:
            raise RgbxSegError(f'--cluster {address} has no free CPU, expected one for each job; '
                               'wait for the others, or add machines.')
        count = min(jobs or len(alive), free)
        gpus = ray.cluster_resources().get('GPU', 0)
        share = min(1.0, 1 / math.ceil(count / gpus)) if gpus else 0
        actor = ray.remote(num_cpus=1, num_gpus=share, scheduling_strategy='SPREAD')(Worker)
        yield lambda: _Actor(ray, actor.remote(settings, os.environ.get(THREADS))), count
    finally:
        ray.shutdown()


def _import() -> Any:
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError:
        raise RgbxSegError('--cluster needs Ray, which is not installed; `pip install '
                           '"ray[client]"` brings it, in the version of the cluster.') from None
    return ray


class _Actor:
    """A slot on some machine of the cluster."""

    def __init__(self, ray: Any, handle: Any) -> None:
        self._ray, self._handle, self._asked = ray, handle, handle.news.remote()

    def start(self, task: Task) -> None:
        """Hand it a bag."""
        self._handle.start.remote(task)

    def news(self) -> list[News]:
        """Return the answer to the last question, if there is one, and ask again."""
        try:
            if not self._ray.wait([self._asked], timeout=0)[0]:
                return []
            news: list[News] = self._ray.get(self._asked)
        except self._ray.exceptions.RayError as error:
            raise Died(f'its process in the cluster is gone ({_line(error, -1)}), expected a '
                       'result; see that rgbx_seg_ros is installed there and memory suffices, and '
                       'run it again: what is done already is kept.') from None
        self._asked = self._handle.news.remote()
        return news

    def end(self) -> None:
        """End the actor."""
        self._ray.kill(self._handle)


def _line(error: Exception, index: int) -> str:
    """Return a line of what may be a whole page, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[index].rstrip('.') if lines else type(error).__name__
