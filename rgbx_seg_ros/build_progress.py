# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a build that takes minutes says meanwhile: every few seconds how long it takes already.

TensorRT and TensorRT-RTX tell their phases to an object of their own class; where a library has
none, the time alone is told. Both leave Python's lock while they build, so a thread can speak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

Tell = Callable[[str], None]

TICK_S = 5.0


class Phases:
    """The phases that a build is in, outermost first."""

    def __init__(self) -> None:
        """Start in none."""
        self._open: dict[str, tuple[int, int]] = {}  # name -> steps done, steps in all

    def start(self, name: str, steps: int) -> None:
        """Enter a phase."""
        self._open[name] = (0, steps)

    def step(self, name: str, number: int) -> None:
        """Note that step `number`, counted from 0, of a phase is done."""
        if name in self._open:
            self._open[name] = (number + 1, self._open[name][1])

    def finish(self, name: str) -> None:
        """Leave a phase."""
        self._open.pop(name, None)

    def __str__(self) -> str:
        """Return the innermost phase and how far the outermost is; '' while in none."""
        now = list(self._open.items())  # a copy: the library steps on while it is read
        if not now:
            return ''
        done, steps = now[0][1]
        return f', {now[-1][0].lower()} (step {min(done + 1, steps)} of {steps})'


def monitor(trt: Any, phases: Phases) -> Any:
    """Return an object that a library tells its phases to, or None if it knows none."""
    if not hasattr(trt, 'IProgressMonitor'):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """It only takes notes: an exception would end the process inside the library."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Enter a phase."""
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Return True: the build is to go on."""
            phases.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Leave a phase."""
            phases.finish(phase_name)

    return Monitor()


@contextmanager
def ticking(what: str, phases: Phases, tell: Tell) -> Iterator[None]:
    """Tell every TICK_S, from a thread, for how long `what` goes on and in which phase it is."""
    done, begun = Event(), time.monotonic()

    def tick() -> None:
        while not done.wait(TICK_S):
            tell(f'{what}: {time.monotonic() - begun:.0f} s so far{phases}.')

    thread = Thread(target=tick, name='build progress', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
