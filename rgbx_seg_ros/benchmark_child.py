# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One engine in a process of its own, which opens and times it as `rgbx_benchmark engine` asks.

Requests and answers are lines of JSON on stdin and stdout; the first request is the specification
of the row. What libraries print goes to stderr. The process ends with its stdin or its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    BackendUnavailable,
    Engine,
    Options,
    Scene,
    open_engine,
)
from rgbx_seg_ros.memory import resident_mb

WARM_RUNS = 3  # pairs after opening, and
WARM_S = 0.2  # seconds before each round: caches and clocks belong to another row until then
LEAST_PAIRS = 3  # of a round, however long they take
SCENE_SHARE = 0.25  # of a round's time that the scene graph gets
BUILDERS = ('tensorrt', 'tensorrt_rtx')  # whose engines are built once and then cached
SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

Send = Callable[[dict[str, Any]], None]


class Subject:
    """The engine that is timed, and its input pairs."""

    def __init__(self, spec: dict[str, Any], send: Send) -> None:
        """Load the pairs; the engine is opened by `open`."""
        self._spec, self._send = spec, send
        with np.load(spec['inputs']) as file:
            rgb, aux = file['rgb'], file['aux']
        # Tensors of batch size 1 that share the memory of all.
        self.pairs = [(rgb[n:n + 1], aux[n:n + 1]) for n in range(len(rgb))]
        self._kept: Scene | None = None  # what a bundle of two graphs remembers of its scene
        self.engine: Engine | None = None

    def open(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the engine and warm it up; return what it is and what that took."""
        told: list[str] = []

        def tell(sentence: str) -> None:
            told.append(sentence)
            self._send({'tell': sentence})

        before_mb, began = resident_mb(), time.perf_counter()
        self.engine, two_graphs = _open(self._spec, tell)
        opened = time.perf_counter()
        if two_graphs:
            self._kept = tuple(array.copy() for array in self.engine.embed(*self.pairs[0]))
        self._run(0)
        first_ms = (time.perf_counter() - opened) * 1e3
        for number in range(WARM_RUNS):
            self._run(number)
        info = self.engine.info
        # A build is always told of; an engine from the cache is opened without a word about one.
        built = any('is built' in text for text in told) if info.backend in BUILDERS else None
        return {'info': asdict(info), 'open_s': opened - began, 'first_ms': first_ms,
                'built': built, 'told': told, 'rss_mb': resident_mb() - before_mb}

    def label(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the labels of all pairs to the file that is asked for; return their shape."""
        engine = self._opened()
        labels = np.stack([engine(*pair)[0][0].copy() for pair in self.pairs])
        np.save(request['file'], labels)
        return {'shape': list(labels.shape)}

    def round(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run pairs back to back for about `seconds`; return the milliseconds of each one."""
        seconds, engine = request['seconds'], self._opened()
        scene_ms, beside_ms = list[float](), list[float]()
        if self._kept is not None:
            share = seconds * SCENE_SHARE
            scene_ms = _times(lambda n: engine.embed(*self.pairs[n % len(self.pairs)]), share)
            if engine.info.embeds_aside:
                beside_ms = self._beside(engine, share)
            seconds -= share * (1 + engine.info.embeds_aside)
        device: list[float] = []
        _times(self._run, min(WARM_S, seconds))
        cpu, began = time.process_time(), time.perf_counter()
        ms = _times(lambda number: self._run(number, device), seconds)
        wall_s = time.perf_counter() - began
        return {'ms': ms, 'wall_s': wall_s, 'cpu_s': time.process_time() - cpu,
                'device_ms': device, 'scene_ms': scene_ms, 'beside_ms': beside_ms,
                'peak_mb': peak_mb()}

    def _run(self, number: int, device: list[float] | None = None) -> None:
        rgb, aux = self.pairs[number % len(self.pairs)]
        engine = self._opened()
        if self._kept is None:
            engine(rgb, aux)
        else:
            engine(rgb, aux, self._kept)
        device_ms = getattr(engine, 'device_ms', None)  # of the last pair, by events on the GPU
        if device is not None and device_ms is not None:
            device.append(float(device_ms))

    def _beside(self, engine: Any, seconds: float) -> list[float]:
        """Return the milliseconds of pairs that run while the scene graph runs beside them."""
        ms, runs = list[float](), 0
        deadline = time.perf_counter() + seconds
        while runs < LEAST_PAIRS or time.perf_counter() < deadline:
            engine.embed_later(*self.pairs[runs % len(self.pairs)])
            runs += 1
            while engine.embedded() is None:
                began = time.perf_counter()
                self._run(len(ms))
                ms.append((time.perf_counter() - began) * 1e3)
        return ms

    def _opened(self) -> Engine:
        if self.engine is None:
            raise RgbxSegError('the engine is not open; expected the request "open" first.')
        return self.engine


def _times(run: Callable[[int], object], seconds: float) -> list[float]:
    """Call `run(0)`, `run(1)`, ... for about `seconds`; return the milliseconds of each call."""
    ms: list[float] = []
    began = last = time.perf_counter()
    while len(ms) < LEAST_PAIRS or last - began < seconds:
        run(len(ms))
        now = time.perf_counter()
        ms.append((now - last) * 1e3)
        last = now
    return ms


def _open(spec: dict[str, Any], tell: Callable[[str], None]) -> tuple[Engine, bool]:
    """Return the engine of a row, and whether it has two graphs."""
    if spec['checkpoint']:
        from rgbx_seg_ros.engine_torch import open_eager

        engine, manifest = open_eager(Path(spec['checkpoint']), Path(spec['bundle']))
    else:
        engine, manifest = open_engine(Path(spec['bundle']), spec['backend'], spec['precision'],
                                       Options(tell=tell))
    return engine, manifest.scene is not None


def peak_mb() -> float | None:
    """Return the most memory that this process has held; None where the system does not tell."""
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines
                    if line.startswith('VmHWM:'))
    except (OSError, StopIteration, ValueError):
        return None


def _answer(subject: Subject, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one request; whatever a library raises is an answer too."""
    commands = {'open': subject.open, 'label': subject.label, 'round': subject.round}
    try:
        return commands[request['do']](request)
    except BackendUnavailable as error:
        return {'error': str(error), 'unavailable': True}
    except RgbxSegError as error:
        return {'error': str(error)}
    except Exception as error:
        text = ' '.join(str(error).split())[:300]
        return {'error': f'{type(error).__name__}: {text or "no more is said"}'}


def _end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, on Linux."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _own_stdout() -> Send:
    """Return what sends an answer; anything else that is printed goes to stderr from now on."""
    channel = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)

    def send(answer: dict[str, Any]) -> None:
        channel.write(json.dumps(answer) + '\n')
        channel.flush()

    return send


def main(requests: Sequence[str] | None = None) -> int:
    """Serve requests until there are no more; return 0."""
    _end_with_parent()
    send = _own_stdout()
    lines = iter(sys.stdin if requests is None else requests)
    subject = Subject(json.loads(next(lines)), send)
    for line in lines:
        send(_answer(subject, json.loads(line)))
    if subject.engine is not None:
        subject.engine.close()
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
