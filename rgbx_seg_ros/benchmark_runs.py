# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The rows of `rgbx_benchmark engine`: a process each, all alive, and only one of them computes.

They take turns in rounds, so that whatever else the machine does meets all of them alike. A row
whose process dies, is silent for too long or refuses keeps the reason and drops out.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.gpu_monitor import GpuMonitor
from rgbx_seg_ros.machine import this_machine
from rgbx_seg_ros.power import Meters

ROOT = Path(__file__).resolve().parents[1]
CHILD = 'rgbx_seg_ros.benchmark_child'
LEAST_LIMIT_S = 60.0  # of a round, beside ten times what it was to take
TICK_S = 1 / os.sysconf('SC_CLK_TCK')

Tell = Callable[[str], None]


@dataclass
class Row:
    """One backend in one precision, and what was found out about it."""

    backend: str
    precision: str  # as asked for
    checkpoint: Path | None = None  # torch eager runs this file in place of the bundle's graphs
    same_weights: bool = True  # its labels may be compared
    reason: str = ''  # why it has no figures, as a sentence
    unavailable: bool = False  # this machine, not the bundle, is why
    opened: dict[str, Any] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    labels: Path | None = None

    @property
    def name(self) -> str:
        """Return what the row is called."""
        return 'torch eager' if self.checkpoint else self.backend


class ChildError(RgbxSegError):
    """A row's process did not answer a request as it should."""


class Child:
    """A row's process and the pipe to it."""

    def __init__(self, row: Row, bundle: Path, inputs: Path, log: Path, threads: int,
                 tell: Tell, module: str) -> None:
        """Start it; it waits for its first request."""
        self.row, self._log, self._tell = row, log, tell
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
        environment = {**os.environ, 'PYTHONPATH': path, 'OMP_NUM_THREADS': str(threads)}
        with log.open('wb') as errors, _bound_to(threads):
            # A session of its own: Ctrl+C reaches the parent alone, which then ends all of them.
            self._process = subprocess.Popen(
                [sys.executable, '-m', module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors, env=environment, start_new_session=True)
        self.pid = self._process.pid
        self._unread = b''
        self._write({'bundle': str(bundle.resolve()), 'backend': row.backend,
                     'precision': row.precision, 'inputs': str(inputs),
                     'checkpoint': str(row.checkpoint.resolve()) if row.checkpoint else ''})

    def ask(self, request: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """Return the answer to a request.

        Raises:
            ChildError: it refused, ended, or did not answer in `limit_s`.

        """
        self._write(request)
        deadline = time.monotonic() + limit_s
        while True:
            answer = self._read(deadline, f'no answer to "{request["do"]}" in {limit_s:g} s; it '
                                          'was ended, --limit allows more.')
            if 'tell' in answer:
                self._tell(f'{self.row.name} {self.row.precision}: {answer["tell"]}')
                continue
            if 'error' in answer:
                self.row.unavailable = bool(answer.get('unavailable'))
                raise ChildError(answer['error'])
            return answer

    def kill(self) -> None:
        """End it and whatever it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _write(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the next read tells how it ended
            self._process.stdin.write(json.dumps(request).encode() + b'\n')
            self._process.stdin.flush()

    def _read(self, deadline: float, too_late: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b'\n' not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.kill()
                raise ChildError(too_late)
            block = os.read(pipe, 1 << 16)
            if not block:
                self._process.wait()
                raise ChildError(self._ending())
            self._unread += block
        line, _, self._unread = self._unread.partition(b'\n')
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ending(self) -> str:
        """Return how the process ended, as a sentence."""
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return 'its process was killed (SIGKILL), as the kernel does when memory runs out.'
        how = (f'was ended by {signal.Signals(-code).name}' if code < 0
               else f'ended with exit code {code}')
        lines = self._log.read_text('utf-8', 'replace').splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), '')
        return f'its process {how}' + (f'; it last said: {last[:200]}' if last else '.')


class Bench:
    """All rows of a run; use as a context manager, which leaves no process behind."""

    def __init__(self, bundle: Path, inputs: Path, folder: Path, threads: int, limit_s: float,
                 tell: Tell, module: str = CHILD) -> None:
        """Take the bundle, the file of the input pairs and a folder for logs and labels."""
        self._bundle, self._inputs, self._folder = bundle, inputs, folder
        self._threads, self._limit_s, self._tell = threads, limit_s, tell
        self._module = module
        self._gpu, self.meters = GpuMonitor(), Meters()
        self._children: list[Child] = []
        self.idle_w: float | None = None

    def __enter__(self) -> Bench:
        """Start nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for child in self._children:
            child.kill()
        self.meters.close()
        self._gpu.close()

    def open(self, rows: Sequence[Row]) -> None:
        """Open one row after the other; a backend that this machine lacks is tried once."""
        missing: dict[str, str] = {}
        for number, row in enumerate(rows):
            if row.reason:
                continue
            if row.backend in missing and not row.checkpoint:
                row.reason, row.unavailable = missing[row.backend], True
                continue
            self._tell(f'opening {row.name} {row.precision} ...')
            child = Child(row, self._bundle, self._inputs, self._folder / f'{number}.log',
                          self._threads, self._tell, self._module)
            self._children.append(child)
            self._attempt(child, self._open_one, self._folder / f'{number}.npy')
            if row.unavailable and not row.checkpoint:
                missing[row.backend] = row.reason

    def measure(self, rounds: int, seconds: float) -> None:
        """Let the rows take turns; each round begins with another one."""
        if self.meters.names:
            self.meters.begin()
            time.sleep(min(1.0, seconds))
            self.idle_w = self.meters.end().get('watts')
        for number in range(rounds):
            alive = [child for child in self._children if not child.row.reason]
            if not alive:
                return
            self._tell(f'round {number + 1} of {rounds}, {len(alive)} rows ...')
            first = number % len(alive)
            for child in alive[first:] + alive[:first]:
                self._attempt(child, self._measure_one, seconds)

    def _attempt(self, child: Child, work: Callable[..., None], *arguments: Any) -> None:
        """Do something with a row; if that fails, it drops out with the reason."""
        try:
            work(child, *arguments)
        except ChildError as error:
            child.row.reason = str(error)
            child.kill()  # it may be in any state, and hold memory that the others need

    def _open_one(self, child: Child, labels: Path) -> None:
        row, before = child.row, self._gpu_mb()
        row.opened = child.ask({'do': 'open'}, self._limit_s)
        if row.same_weights:
            child.ask({'do': 'label', 'file': str(labels)}, self._limit_s)
            row.labels = labels
        after = self._gpu_mb()
        on_gpu = row.opened['info']['device'] != 'cpu'
        row.opened['gpu_mb'] = (after - before if on_gpu and after is not None
                                and before is not None else None)

    def _gpu_mb(self) -> float | None:
        """Return the memory in use of the GPU: of the whole machine where the two share it."""
        gpu = this_machine().gpu
        return memory_in_use_mb() if gpu is not None and gpu.integrated else self._gpu.used_mb()

    def _measure_one(self, child: Child, seconds: float) -> None:
        limit_s = min(self._limit_s, LEAST_LIMIT_S + 10 * seconds)
        busy_s, cpu_s, began = _machine_busy_s(), _cpu_s(child.pid), time.monotonic()
        self.meters.begin()
        answer = child.ask({'do': 'round', 'seconds': seconds}, limit_s)
        power, seconds = self.meters.end(), time.monotonic() - began
        others = (_machine_busy_s() - busy_s) - (_cpu_s(child.pid) - cpu_s)
        child.row.rounds.append({**answer, 'power': power, 'seconds': seconds,
                                 'others_cpu_s': max(others, 0.0)})


@contextmanager
def _bound_to(threads: int) -> Iterator[None]:
    """Let processes that are started meanwhile use so many CPUs, on Linux."""
    if sys.platform != 'linux':
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def memory_in_use_mb() -> float | None:
    """Return the memory of the machine that is not available; None where it does not tell."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
    except OSError:
        return None
    kib = {line.partition(':')[0]: int(line.split()[1]) for line in lines}
    return (kib['MemTotal'] - kib['MemAvailable']) * 1024 / 1e6


def _machine_busy_s() -> float:
    """Return the CPU time that all processes have taken, 0 where the system does not tell."""
    try:
        fields = Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) * TICK_S


def _cpu_s(pid: int) -> float:
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return 0.0
    fields = stat[stat.rindex(')') + 2:].split()  # the name may hold anything
    return (int(fields[11]) + int(fields[12])) * TICK_S
