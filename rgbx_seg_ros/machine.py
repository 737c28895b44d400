# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What this machine can compute on: its processor's instructions and its GPU."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rgbx_seg_ros.cuda import Gpu, find_gpu

# Instructions that make a precision faster than fp32, as /proc/cpuinfo names them.
BF16 = {'avx512_bf16', 'amx_bf16', 'bf16'}
INT8 = {'avx512_vnni', 'avx_vnni', 'amx_int8', 'i8mm', 'asimddp'}


class Machine(NamedTuple):
    """A processor, and the GPU of it if there is one."""

    architecture: str  # x86_64, aarch64
    precisions: tuple[str, ...]  # that its processor computes faster than fp32
    gpu: Gpu | None
    problem: str = ''  # why a GPU that seems to be there cannot be used, as a sentence

    @property
    def is_x86(self) -> bool:
        """Return whether the processor is of the x86 family, 64 bits."""
        return self.architecture in ('x86_64', 'AMD64')


@cache
def this_machine() -> Machine:
    """Return the machine that this process runs on; it is looked at once."""
    gpu, problem = find_gpu()
    return Machine(platform.machine(), fast_precisions(_cpu_flags()), gpu, problem)


def fast_precisions(flags: set[str]) -> tuple[str, ...]:
    """Return which of int8 and bf16 a processor of these flags computes faster than fp32."""
    return tuple(name for name, some in (('int8', INT8), ('bf16', BF16)) if flags & some)


def _cpu_flags() -> set[str]:
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
    except OSError:
        return set()
    lines = (line.partition(':') for line in text.splitlines())
    return {flag for key, _, value in lines if key.strip() in ('flags', 'Features')
            for flag in value.split()}
