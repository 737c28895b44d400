# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What an export takes: seconds and memory by phase, told on a terminal while it goes on."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Times named phases; a name that comes again (the second graph's) adds to its time."""

    def __init__(self, tell: bool = False) -> None:
        """Take whether to print a line for each phase; only a terminal gets any."""
        self.seconds: dict[str, float] = {}
        self.peak_bytes: dict[str, int] = {}  # of the process, from its start to the phase's end
        self._tell = tell and sys.stderr.isatty()
        self._prefix = ''

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began = time.perf_counter()
        if self._tell:
            print(f'{name} …', file=sys.stderr, flush=True)
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self.peak_bytes[name] = peak_bytes()
            if self._tell:
                print(f'{name}: {seconds:.1f} s, peak {self.peak_bytes[name] / 1e9:.2f} GB',
                      file=sys.stderr, flush=True)


def peak_bytes() -> int:
    """Return the most memory that this process has had resident so far."""
    unit = 1 if sys.platform == 'darwin' else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
