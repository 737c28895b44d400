# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How much memory the build of an engine may take, and whether this machine has that much.

On Jetson processor and GPU share one memory: what TensorRT takes to try kernels in, it takes from
itself, which holds the weights two or three times while it builds.
"""

from __future__ import annotations

from pathlib import Path

MOST_WORKSPACE = 4 << 30  # no kernel of these networks asked for more
LEAST_WORKSPACE = 64 << 20  # below this many convolutions have no kernel at all
MEMINFO = Path('/proc/meminfo')
# Builds of 15 MB to 1.2 GB took 0.4 GB and 3.3 to 4 times the ONNX file.
BASE_BYTES, TIMES_ONNX = 400_000_000, 4


def workspace(free_bytes: int, integrated: bool) -> int:
    """Return the bytes that TensorRT may try kernels in: half of what is free on the GPU.

    A quarter of it where the GPU shares the processor's memory.
    """
    return max(LEAST_WORKSPACE, min(MOST_WORKSPACE, free_bytes // (4 if integrated else 2)))


def short_of_memory(onnx_bytes: int) -> str:
    """Return a warning with a remedy if the build of such a file may run out of memory, or ''."""
    need, free = BASE_BYTES + TIMES_ONNX * onnx_bytes, available()
    if free is None or free >= need:
        return ''
    return (f'{free / 1e9:.1f} GB of memory are free, expected about {need / 1e9:.1f} GB for this '
            'build: if it is ended before its end, add swap, close other programs, or build '
            'elsewhere where the library can (TensorRT-RTX).')


def available() -> int | None:
    """Return the bytes of memory and swap that can be had, or None if the system is silent."""
    try:
        lines = (line.split() for line in MEMINFO.read_text(encoding='ascii').splitlines())
        values = {words[0].rstrip(':'): int(words[1]) * 1024 for words in lines if len(words) > 1}
        return values['MemAvailable'] + values['SwapFree']
    except (OSError, ValueError, KeyError):
        return None
