# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Times a network as it would run on a robot: one pair, random weights, several ways to run it."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.memory import resident_mb

DEVICES = ('cpu', 'cuda')
WARM_UP = 3  # runs


class Mode(NamedTuple):
    """One way to run a network."""

    dtype: torch.dtype | None  # of autocast
    compiled: bool


MODES = {
    'eager float32': Mode(None, False),
    'autocast bfloat16': Mode(torch.bfloat16, False),
    'autocast float16': Mode(torch.float16, False),
    'compile float32': Mode(None, True),
    'compile bfloat16': Mode(torch.bfloat16, True),
    'compile float16': Mode(torch.float16, True),
}
ON_CPU = ('eager float32', 'autocast bfloat16', 'compile float32')  # float16 is slow there


def check_device(device: str) -> None:
    """Raise unless torch can run on the device."""
    if device == 'cuda' and not torch.cuda.is_available():
        raise RgbxSegError('--device cuda: torch finds no CUDA device; expected a GPU and a torch '
                           'built for CUDA: install one or use --device cpu.')


def measure_latency(build: Callable[[], nn.Module], size: tuple[int, int], device: str,
                    repeat: int) -> dict[str, Any]:
    """Return times and peak memory of a network on pairs of `size` (H, W), by way to run it.

    A way that fails has an `error` in the place of its figures.
    """
    torch.manual_seed(0)
    network = build().eval().to(device)
    gc.collect()
    pair = torch.randn(1, 3, *size).to(device), torch.rand(1, 3, *size).to(device)
    modes = MODES if device == 'cuda' else {name: MODES[name] for name in ON_CPU}
    peak = ('tensors on the GPU (max_memory_allocated)' if device == 'cuda' else
            'resident memory of the process')
    measured = {}
    for name, mode in modes.items():
        measured[name] = _measure(network, pair, mode, device, repeat)
        # at once: the next may compile for minutes
        print(f'{name}: {_brief(measured[name])}', file=sys.stderr, flush=True)
    return {
        'device': device_name(device), 'threads': torch.get_num_threads(), 'batch': 1,
        'repeat': repeat, 'warm_up': WARM_UP, 'peak': peak, 'modes': measured,
    }


def _brief(result: dict[str, Any]) -> str:
    return result.get('error') or f'{result["median_ms"]:.1f} ms, peak {result["peak_mb"]:.0f} MB'


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        return next(line.partition(':')[2].strip() for line in lines if 'model name' in line)
    except (OSError, StopIteration):
        return 'cpu'


def _measure(network: nn.Module, pair: tuple[Tensor, Tensor], mode: Mode, device: str,
             repeat: int) -> dict[str, Any]:
    run = torch.compile(network) if mode.compiled else network
    casting: AbstractContextManager = (
        nullcontext() if mode.dtype is None else torch.autocast(device, mode.dtype))
    _reset_peak(device)
    try:
        with torch.no_grad(), casting:
            start = time.perf_counter()
            for _ in range(WARM_UP):
                run(*pair)
            _wait(device)
            warm_up_s = time.perf_counter() - start
            times = _times(partial(run, *pair), device, repeat)
    # A compiler may lack anything: the mode is a line of the report, not the end of it.
    except Exception as error:
        return {'error': f'{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}'
                if str(error).strip() else type(error).__name__}
    finally:
        torch.compiler.reset()
    return {'median_ms': statistics.median(times), 'p95_ms': float(np.percentile(times, 95)),
            'warm_up_s': warm_up_s, 'peak_mb': _peak_mb(device)}


def _times(run: Callable[[], Any], device: str, repeat: int) -> list[float]:
    """Return the milliseconds of each run."""
    if device == 'cuda':
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
                  for _ in range(repeat)]
        for start, end in events:
            start.record()
            run()
            end.record()
            _wait(device)
        return [start.elapsed_time(end) for start, end in events]
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def _wait(device: str) -> None:
    if device == 'cuda':
        torch.cuda.synchronize()


def _reset_peak(device: str) -> None:
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')  # VmHWM starts anew


def _peak_mb(device: str) -> float:
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        lines = Path('/proc/self/status').read_text(encoding='ascii').splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) * 1.024e-3
    except (OSError, StopIteration):
        return resident_mb()
