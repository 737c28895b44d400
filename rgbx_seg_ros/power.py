# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Energy of a stretch of time, from whatever meter the machine lets us read.

A GPU by NVML, an x86 processor by RAPL (docs.kernel.org/power/powercap/powercap.html; since 2020
root alone may read it), a Jetson by the rails that tegrastats prints. They meter whole devices: all
that runs on them counts, and what idles too.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from rgbx_seg_ros.gpu_monitor import GpuMonitor

POWERCAP = Path('/sys/class/powercap')
SAMPLE_S = 0.05  # between two looks at a meter that knows only the power of the moment
TEGRASTATS_MS = 100
STOP_S = 2.0
# `NAME now/average` in mW, with the unit since JetPack 5; RAM and SWAP end in MB.
RAIL = re.compile(r'(?<![\w.])([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?![\w.])')
# Rails that feed all others of a board: of Orin Nano and NX, Xavier NX; of Nano and TX2; of Thor.
INPUT_RAILS = ('VDD_IN', 'POM_5V_IN', 'VIN')
# AGX boards have none, and there the sum of the others is the module; these are parts of others.
PART_RAILS = ('VDDQ_VDD2_1V8AO', 'NC')


class Meter(Protocol):
    """Something that knows energy."""

    name: str

    def begin(self) -> None:
        """Start a stretch of time."""

    def end(self) -> float | None:
        """Return the joules since `begin`, or None if it cannot tell."""

    def close(self) -> None:
        """Stop reading."""


class Meters:
    """All meters of this machine together; `problems` says why others cannot be read."""

    def __init__(self, powercap: Path = POWERCAP, tegrastats: str = 'tegrastats') -> None:
        """Look for them."""
        self.problems: list[str] = []
        self._meters: list[Meter] = [*self._gpu(), *self._rapl(powercap), *self._jetson(tegrastats)]
        self._began = time.monotonic()

    @property
    def names(self) -> list[str]:
        """Return what is metered."""
        return [meter.name for meter in self._meters]

    def begin(self) -> None:
        """Start a stretch of time."""
        for meter in self._meters:
            meter.begin()
        self._began = time.monotonic()

    def end(self) -> dict[str, Any]:
        """Return joules by meter and in all, and mean watts, since `begin`; nothing without any."""
        seconds = time.monotonic() - self._began
        read = {meter.name: meter.end() for meter in self._meters}
        joules = {name: value for name, value in read.items() if value is not None}
        if not joules or seconds <= 0:
            return {}
        total = sum(joules.values())
        return {'seconds': seconds, 'joules': total, 'watts': total / seconds, 'by_meter': joules}

    def close(self) -> None:
        """Stop reading."""
        for meter in self._meters:
            meter.close()

    def _gpu(self) -> list[Meter]:
        monitor = GpuMonitor()
        if monitor.energy_j() is not None or monitor.power_w() is not None:
            return [NvmlMeter(monitor)]
        if monitor.problem or monitor.name:
            self.problems.append(monitor.problem or f'NVML tells no power of {monitor.name}')
        monitor.close()
        return []

    def _rapl(self, powercap: Path) -> list[Meter]:
        zones = rapl_zones(powercap)
        try:
            return [RaplMeter(zone) for zone in zones]
        except PermissionError:
            self.problems.append('RAPL is there, but root alone may read it')
        except (OSError, ValueError) as error:
            self.problems.append(f'RAPL cannot be read ({error})')
        return []

    def _jetson(self, program: str) -> list[Meter]:
        found = shutil.which(program)
        return [TegrastatsMeter(found)] if found else []


class NvmlMeter:
    """The board of a GPU: its energy counter, or where it has none its power, sampled."""

    def __init__(self, monitor: GpuMonitor) -> None:
        """Take a monitor that answers `energy_j` or `power_w`, and close it in the end."""
        self.name = f'NVML {monitor.name}'.strip()
        self._monitor = monitor
        self._counts = monitor.energy_j() is not None
        self._first: float | None = None
        self._mean = SampledPower()
        if not self._counts:
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()

    def begin(self) -> None:
        """Start a stretch of time."""
        self._first = self._monitor.energy_j()
        self._mean.begin()

    def end(self) -> float | None:
        """Return the joules since `begin`."""
        if not self._counts:
            return self._mean.end()
        last = self._monitor.energy_j()
        return None if self._first is None or last is None else last - self._first

    def close(self) -> None:
        """Stop reading."""
        if not self._counts:
            self._ended.set()
            self._thread.join()
        self._monitor.close()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            watts = self._monitor.power_w()
            if watts is not None:
                self._mean.add(watts)


class RaplMeter:
    """A zone of an x86 processor that counts its microjoules up to a limit, and then from 0."""

    def __init__(self, zone: Path) -> None:
        """Read it once; raises OSError or ValueError if that fails."""
        self.name = f'RAPL {(zone / "name").read_text().strip()}'
        self._file = zone / 'energy_uj'
        self._limit = int((zone / 'max_energy_range_uj').read_text())
        self._first: int | None = int(self._file.read_text())

    def begin(self) -> None:
        """Start a stretch of time."""
        self._first = self._read()

    def end(self) -> float | None:
        """Return the joules since `begin`, if the counter began anew at most once."""
        last = self._read()
        if self._first is None or last is None:
            return None
        return (last - self._first + (self._limit if last < self._first else 0)) / 1e6

    def close(self) -> None:
        """Do nothing: the file is opened for each look."""

    def _read(self) -> int | None:
        try:
            return int(self._file.read_text())
        except (OSError, ValueError):
            return None


class TegrastatsMeter:
    """A Jetson's board, by the program that NVIDIA ships with it."""

    def __init__(self, program: str) -> None:
        """Start the program."""
        self.name = 'tegrastats'
        self._mean = SampledPower()
        self._process = subprocess.Popen(
            [program, '--interval', str(TEGRASTATS_MS)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors='replace')
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Start a stretch of time."""
        self._mean.begin()

    def end(self) -> float | None:
        """Return the joules since `begin`, or None if no line came in between."""
        return self._mean.end()

    def close(self) -> None:
        """End the program."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(STOP_S)
        with suppress(OSError):
            assert self._process.stdout is not None
            self._process.stdout.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            watts, rails = board_power(read_rails(line))
            if rails:
                self.name = f'tegrastats {" + ".join(rails)}'
                self._mean.add(watts)


class SampledPower:
    """The mean of the watts that were seen since `begin`, times the seconds since then."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        with self._lock:
            self._sum, self._count, self._began = 0.0, 0, time.monotonic()

    def add(self, watts: float) -> None:
        """Take one sample."""
        with self._lock:
            self._sum += watts
            self._count += 1

    def end(self) -> float | None:
        """Return the joules since `begin`, or None without any sample."""
        with self._lock:
            if not self._count:
                return None
            return self._sum / self._count * (time.monotonic() - self._began)


def rapl_zones(powercap: Path = POWERCAP) -> list[Path]:
    """Return the zones that add up: processor packages, and memory where it is counted apart."""
    zones = []
    for path in sorted(powercap.glob('intel-rapl:*')):
        with suppress(OSError):
            name = (path / 'name').read_text().strip()
            if name.startswith('package-') or name == 'dram':
                zones.append(path)
    return zones


def read_rails(line: str) -> dict[str, float]:
    """Return the power in watts of each rail in a line of tegrastats, now and not averaged."""
    return {name: int(now) / 1e3 for name, now in RAIL.findall(line)}


def board_power(rails: Mapping[str, float]) -> tuple[float, list[str]]:
    """Return the watts of the whole board, or of the module, and the rails that make them up."""
    for name in INPUT_RAILS:
        if name in rails:
            return rails[name], [name]
    parts = [name for name in rails if name not in PART_RAILS]
    return sum(rails[name] for name in parts), parts
