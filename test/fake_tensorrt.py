# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT-RTX without a GPU: what of their Python API this project may call.

`make` returns a module that has the names of one generation and no others. A plan is a header and
the ONNX file; its context puts a kernel on the stream of the fake driver (test/fake_cuda.c), and
when that runs, ONNX Runtime reads the inputs at the device addresses and writes the outputs there.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import itertools
import types
import weakref

import fake_tensorrt_build as build
import fake_tensorrt_run as run
import numpy as np
import onnxruntime
from fake_tensorrt_tables import ENUMS, GENERATIONS, NUMPY, OLDEST_DRIVER, PRESENCE

CLASSES = (
    build.ILogger, build.Logger, build.IHostMemory, build.IProgressMonitor, build.ITensor,
    build.INetworkDefinition, build.ParserError, build.OnnxParser, build.ITimingCache,
    build.IOptimizationProfile, build.IBuilderConfig, build.Builder, run.Runtime,
    run.ICudaEngine, run.IRuntimeCache, run.IRuntimeConfig, run.IExecutionContext)


class World:
    """What the classes of one module share; a test makes calls fail through it and looks at it."""

    def __init__(self, generation, driver):
        self.generation, self.driver = generation, driver
        self.is_rtx = generation == 'rtx'
        self.version = GENERATIONS[generation][1]
        self.build_seconds = 0.0
        self.built = 0  # plans, since the module was made
        self.graph_strategies = []  # of the contexts that RTX was asked for
        self.kernels = {}
        self.alive = weakref.WeakSet()  # runtimes, engines, contexts
        self._numbers = itertools.count(1)
        self._faults = {}
        self._sessions = {}
        self.callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)(self._run)

    def fail(self, what, nth=1, how=''):
        """Let the n-th call of a method from now on fail, or 'kernel'; `how` is what it logs."""
        self._faults[what] = [nth, how or f'the test lets {what} fail']

    def fails(self, what, logger=None):
        fault = self._faults.get(what)
        if fault is None:
            return False
        fault[0] -= 1
        if fault[0] != 0:
            return False
        if logger is not None:
            self.error(logger, fault[1])
        return True

    def error(self, logger, text, severity=1):
        logger.log(self.module.Logger.Severity(severity), text)

    def gpu(self):
        """Return name, capability and driver of the GPU, or None; as TensorRT it asks itself."""
        value, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(128), []
        if self.driver.cuInit(0):
            return None
        for attribute in (75, 76):
            if self.driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0):
                return None
            numbers.append(value.value)
        if self.driver.cuDeviceGetName(name, 128, 0) or self.driver.cuDriverGetVersion(
                ctypes.byref(value)):
            return None
        return name.value.decode(), numbers, value.value

    def too_old(self, logger):
        gpu = self.gpu()
        if gpu is not None and gpu[2] >= OLDEST_DRIVER[self.generation]:
            return False
        self.error(logger, 'CUDA initialization failure with error: 35. (cudaError 35: CUDA driver '
                   'version is insufficient for CUDA runtime version)')
        return True

    def allocate(self, logger, n_bytes):
        """Return an address of device memory, or 0, as the library allocates for itself."""
        address = ctypes.c_uint64()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(n_bytes))
        if code == 2:
            self.error(logger, f'Error Code 2: OutOfMemory (Requested size was {n_bytes} bytes.)')
        elif code:
            self.error(logger, f'Error Code 1: Cuda Runtime (cudaError {code})')
        return 0 if code else address.value

    def session(self, model):
        key = hashlib.sha256(model).digest()
        if key not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            self._sessions[key] = onnxruntime.InferenceSession(model, options,
                                                               ['CPUExecutionProvider'])
        return self._sessions[key]

    def number(self):
        return next(self._numbers)

    def _run(self, number):
        """Run as a kernel of the fake driver; what it returns other than 0 is a failed launch."""
        try:
            if self.fails('kernel'):
                return 1
            session, addresses, tensors = self.kernels[number]
            arrays = {name: self._array(addresses[name], *tensors[name]) for name in addresses}
            inputs = {one.name: arrays[one.name] for one in session.get_inputs()}
            names = [one.name for one in session.get_outputs()]
            for name, value in zip(names, session.run(names, inputs), strict=True):
                arrays[name][...] = value
        except Exception as error:  # a callback of C must not raise
            print(f'fake TensorRT: {error!r}')
            return 1
        return 0

    def _array(self, address, dtype, shape):
        n_bytes = int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize
        place = self.driver.fake_memory(ctypes.c_uint64(address), ctypes.c_size_t(n_bytes))
        if not place:
            raise ValueError(f'{n_bytes} bytes at {address:#x} are not allocated')
        raw = (ctypes.c_byte * n_bytes).from_address(place)
        return np.frombuffer(raw, NUMPY[dtype]).reshape(shape)


def make(generation, driver):
    """Return the module of a generation; `driver` is the fake CUDA library, see fake_gpu.py.

    `module.world` is the World of it.
    """
    position = list(GENERATIONS).index(generation)
    missing = {name for name, presence in PRESENCE.items() if presence[position] == '-'}
    world = World(generation, driver)
    name, version = GENERATIONS[generation]
    module = types.ModuleType(name)
    module.__version__, module.world, world.module = version, world, module
    module.nptype = lambda dtype: NUMPY[dtype.name]
    for own, values in ENUMS.items():
        if own not in missing:
            members = {key: value for key, value in values.items() if f'{own}.{key}' not in missing}
            if generation == 'rtx' and own == 'NetworkDefinitionCreationFlag':
                members = {'STRONGLY_TYPED': 0}
            setattr(module, own, enum.IntEnum(own, members))
    for own in CLASSES:
        if own.__name__ not in missing:
            setattr(module, own.__name__, _of_generation(own, missing, world))
    for logger in (module.Logger, module.ILogger):
        logger.Severity = module.Severity
        for severity in module.Severity:
            setattr(logger, severity.name, severity)
    del module.Severity
    return module


def _of_generation(own, missing, world):
    """Return a class without what a generation lacks; public names it does not have are refused."""
    gone = {name.partition('.')[2] for name in missing if name.partition('.')[0] == own.__name__}
    namespace = {key: value for key, value in vars(own).items()
                 if key not in gone | {'__dict__', '__weakref__'}}
    settable = set(namespace.pop('settable', ())) - gone

    def refuse(self, name, value):
        if settable and not name.startswith('_') and name not in settable:
            raise AttributeError(f'{own.__name__} has no attribute {name}')
        object.__setattr__(self, name, value)

    namespace.update(world=world, __setattr__=refuse)
    return type(own.__name__, own.__bases__, namespace)
