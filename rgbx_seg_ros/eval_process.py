# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A process of this machine that evaluates bags for another one, and never outlives it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

from rgbx_seg_ros.cli import start_unheard
from rgbx_seg_ros.eval_jobs import Died, News, work
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.eval_tasks import Task

END_S = 5.0  # that it gets to end by itself


class Process:
    """A slot on this machine."""

    def __init__(self, settings: EvalSettings) -> None:
        """Start it; it begins to open the engines."""
        # Spawned, not forked: a copy of a process that has opened engines or threads is unsound.
        context = multiprocessing.get_context('spawn')
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(settings, theirs), daemon=True)
        start_unheard(self._process)
        theirs.close()

    def start(self, task: Task) -> None:
        """Hand it a bag; a process that is gone shows in its news."""
        with suppress(OSError):
            self._connection.send(task)

    def news(self) -> list[News]:
        """Return what came through the pipe."""
        news: list[News] = []
        try:
            while self._connection.poll():
                news.append(self._connection.recv())
        except (EOFError, OSError):
            if not news:
                self._process.join(END_S)
                raise Died(_how_it_ended(self._process.exitcode)) from None
        return news

    def end(self) -> None:
        """End the process and wait for that."""
        self._connection.close()  # which it hears of
        self._process.join(END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _how_it_ended(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return ('the process was killed, as the system does where memory runs out; run it again '
                'with fewer --jobs, what is done already is kept.')
    how = f'by {signal.Signals(-code).name}' if code is not None and code < 0 else f'with {code}'
    return (f'the process ended {how} before the bag did, expected a result; what it printed says '
            'more: run it again, what is done already is kept.')


def _serve(settings: EvalSettings, connection: Connection) -> None:
    """Work for the process at the other end of a pipe; end with it, or when it closes the pipe."""
    os.dup2(sys.stderr.fileno(), 1)  # stdout is for the summary
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                tasks.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    work(settings, tasks.get, connection.send)
