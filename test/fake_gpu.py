# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A GPU for tests: the fake CUDA driver, built once, and a fake TensorRT in the place of a real.

    with fake_gpu('10.3', capability=(8, 7), integrated=True) as gpu:
        engine = open_tensorrt(...)
        assert gpu.alive() == {...}

`environment` does the same for a process of its own.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import fake_tensorrt
import pytest

from rgbx_seg_ros import cuda, machine

HERE = Path(__file__).parent
ALIVE = ('device', 'pinned', 'streams', 'events', 'graphs', 'execs', 'contexts')
MODULES = ('tensorrt', 'tensorrt_rtx')
OPEN_DRIVERS = {'10.3': 12060, '10.16': 12090, '11.4': 13000, 'rtx': 13000, None: 13000}


@functools.cache
def library_path():
    """Return the fake libcuda.so.1, which is compiled at the first call; skips without compiler."""
    compiler = shutil.which('cc') or shutil.which('gcc')
    if compiler is None:
        pytest.skip('there is no C compiler for the fake CUDA driver; install gcc.')
    folder = Path(tempfile.mkdtemp(prefix='rgbx-fake-cuda-'))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / 'libcuda.so.1'
    subprocess.run([compiler, '-O1', '-shared', '-fPIC', '-fvisibility=hidden', '-o', path,
                    HERE / 'fake_cuda.c', '-lpthread'], check=True, timeout=60)
    return path


class FakeGpu:
    """The switches and counters of the fake driver; `trt` is the fake TensorRT module, or None."""

    def __init__(self, library, trt):
        self.library, self.trt = library, trt

    @property
    def world(self):
        return self.trt.world

    def set(self, **values):
        """Set count, major, minor, integrated, driver, memory, used, patience or init."""
        for key, value in values.items():
            assert self.library.fake_set(key.encode(), ctypes.c_longlong(value)) == 0, key

    def count(self, what):
        value = self.library.fake_count(what.encode())
        assert value >= 0, what
        return value

    def calls(self, function):
        return self.library.fake_calls(function.encode())

    def alive(self):
        """Return what of the driver lives, without what there is none of: {} is all freed."""
        counts = {what: self.count(what) for what in ALIVE}
        return {what: value for what, value in counts.items() if value}

    def fail(self, function, nth=1, code=999):
        """Let the n-th call from now on of a driver function fail; '*' is any of them."""
        self.library.fake_fail(function.encode(), ctypes.c_longlong(nth), code)

    @property
    def failed(self):
        """Name the function that `fail` has struck, or None."""
        name = self.library.fake_failed()
        return name.decode() if name else None

    def priorities(self):
        """Return the priorities of the living streams, the most urgent first."""
        found = (ctypes.c_int * 16)()
        return sorted(found[:self.library.fake_priorities(found, 16)])


def load(path):
    """Return the fake driver library with the types of what tests and fakes call."""
    library = ctypes.CDLL(str(path))
    library.fake_memory.restype = ctypes.c_void_p
    library.fake_failed.restype = ctypes.c_char_p
    for name in ('fake_count', 'fake_calls'):
        getattr(library, name).restype = ctypes.c_longlong
    return library


@contextmanager
def fake_gpu(generation=None, *, name='Fake RTX A2000', capability=(8, 6), **settings):
    """Give this process a GPU, and a TensorRT of a generation of fake_tensorrt, for a while.

    Without a generation no TensorRT can be imported. `settings` are those of FakeGpu.set.
    """
    library = load(library_path())
    library.fake_reset()
    library.fake_set_name(name.encode())
    trt = fake_tensorrt.make(generation, library) if generation else None
    gpu = FakeGpu(library, trt)
    gpu.set(major=capability[0], minor=capability[1],
            **{'driver': OPEN_DRIVERS[generation], **settings})
    kept = {module: sys.modules.get(module, ...) for module in MODULES}
    real, cuda.LIBRARY = cuda.LIBRARY, str(library_path())
    sys.modules.update(dict.fromkeys(MODULES))  # None: the import fails
    if trt is not None:
        sys.modules[trt.__name__] = trt
    machine.this_machine.cache_clear()
    try:
        yield gpu
    finally:
        cuda.LIBRARY = real
        for module, own in kept.items():
            sys.modules.pop(module)
            if own is not ...:
                sys.modules[module] = own
        machine.this_machine.cache_clear()
        library.fake_reset()


def environment(folder, generation=None, *, name='Fake RTX A2000', capability=(8, 6),
                build_seconds=0.0, **settings):
    """Return the environment of a process with a fake GPU and TensorRT, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {'driver': OPEN_DRIVERS[generation], 'major': capability[0], 'minor': capability[1],
              **settings}
    for module in MODULES:
        fake = generation is not None and fake_tensorrt.GENERATIONS[generation][0] == module
        (folder / f'{module}.py').write_text(
            (f'import sys\nimport fake_gpu, fake_tensorrt\n'
             f'trt = fake_tensorrt.make({generation!r}, fake_gpu.load({str(library_path())!r}))\n'
             f'trt.world.build_seconds = {build_seconds}\n'
             f'sys.modules[__name__] = trt\n') if fake else "raise ImportError('hidden')\n")
    paths = [str(folder), str(HERE), *filter(None, [os.environ.get('PYTHONPATH')])]
    libraries = [str(library_path().parent), *filter(None, [os.environ.get('LD_LIBRARY_PATH')])]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths),
            'LD_LIBRARY_PATH': os.pathsep.join(libraries), 'FAKE_GPU_NAME': name,
            **{f'FAKE_GPU_{key.upper()}': str(value) for key, value in values.items()}}
