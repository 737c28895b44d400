# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory the process holds, as a status of its diagnostics."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from rgbx_seg_ros.statuses import Level, Status, Thresholds


def resident_mb() -> float:
    """Return the resident memory of this process; where the system tells only its peak, that."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 1e6
    except (OSError, ValueError, IndexError):
        unit = 1e6 if sys.platform == 'darwin' else 1e3  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Memory:
    """The growth of the process since activation, and the other memories that an engine names."""

    def __init__(self) -> None:
        """Measure where it starts."""
        self._start_mb = resident_mb()
        self._limits = Thresholds()

    def status(self, warn_mb: float, others_mb: Mapping[str, float] | None = None) -> Status:
        """Return the memory now; WARN where the process holds more than `warn_mb`, unless 0."""
        now_mb = resident_mb()
        values = {'resident [MB]': f'{now_mb:.0f}',
                  'growth since activation [MB]': f'{now_mb - self._start_mb:.1f}'}
        values |= {f'{name} [MB]': f'{mb:.0f}' for name, mb in (others_mb or {}).items()}
        if warn_mb and self._limits.above('memory', now_mb, warn_mb):
            return Status('memory', Level.WARN, f'{now_mb:.0f} MB are held, expected at most '
                                                f'{warn_mb:g}', values)
        return Status('memory', Level.OK, f'{now_mb:.0f} MB', values)
