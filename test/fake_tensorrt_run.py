# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The classes by which TensorRT runs; fake_tensorrt.py makes those of each generation of them.

`self.world` is what the classes of one module share.
"""

from __future__ import annotations

import ctypes
import hashlib
import json

from fake_tensorrt_build import HEADER_BYTES, MAGIC
from fake_tensorrt_tables import ENUMS, OLDEST_DRIVER, TYPES

KERNELS = b'FAKEKERNELS'
NOT_SUPPORTED_BY_RTX = ((8, 7), (9, 0))


class Runtime:
    engine_header_size = HEADER_BYTES

    def __init__(self, logger):
        self._logger = logger
        self.world.alive.add(self)

    def _diagnose(self, header):
        """Return why an engine of this header cannot run here, as a flag, or 0, and its target."""
        world, flag = self.world, ENUMS['EngineInvalidityDiagnostics']
        if header[:len(MAGIC)] != MAGIC:
            return flag['MALFORMED_ENGINE'], {}
        target = json.loads(header[len(MAGIC):HEADER_BYTES].rstrip(b'\0'))
        if target['version'] != world.version:
            return flag['VERSION_MISMATCH'], target
        gpu = world.gpu()
        if gpu is None:
            return flag['CUDA_ERROR'], target
        if gpu[2] < OLDEST_DRIVER[world.generation]:
            return flag['OLD_CUDA_DRIVER'], target
        known = 10 * gpu[1][0] + gpu[1][1] in target['capabilities']
        if not known or (world.is_rtx and tuple(gpu[1]) in NOT_SUPPORTED_BY_RTX):
            return flag['UNSUPPORTED_CC'], target
        return 0, target

    def get_engine_validity(self, buffer):
        if self.world.gpu() is None:
            return self.world.module.EngineValidity.INVALID, 0
        found = self._diagnose(bytes(buffer))[0]
        return self.world.module.EngineValidity.INVALID if found else (
            self.world.module.EngineValidity.VALID), found

    def deserialize_cuda_engine(self, serialized_engine):
        world, plan = self.world, bytes(serialized_engine)
        if world.fails('deserialize_cuda_engine', self._logger) or world.too_old(self._logger):
            return None
        found, target = self._diagnose(plan[:HEADER_BYTES])
        model = plan[HEADER_BYTES:]
        if found or hashlib.sha256(model).hexdigest() != target['sha256']:
            reasons = {1: 'version tag does not match', 2: 'compute capability does not match',
                       4: 'cudaError 35', 32: 'header.magicTag is wrong', 64: 'cudaError 999'}
            world.error(self._logger, 'IRuntime::deserializeCudaEngine: Error Code 1: Serialization'
                        f' ({reasons.get(found, "the checksum is wrong")})')
            return None
        address = world.allocate(self._logger, max(len(model), 1))
        shapes = {name: [tuple(shape) for shape in own] for name, own in target['shapes'].items()}
        return world.module.ICudaEngine(self, model, address, shapes) if address else None


class ICudaEngine:
    def __init__(self, runtime, model, address, profile):
        self._profile = profile
        self._runtime, self._logger, self._address = runtime, runtime._logger, address
        self._session = self.world.session(model)
        self._tensors = {one.name: (TYPES[one.type],
                                    tuple(n if isinstance(n, int) else -1 for n in one.shape))
                         for one in
                         (*self._session.get_inputs(), *self._session.get_outputs())}
        self.world.alive.add(self)

    num_io_tensors = property(lambda self: len(self._tensors))
    device_memory_size = 4096
    device_memory_size_v2 = 4096

    def get_tensor_name(self, index):
        return list(self._tensors)[index]

    def get_tensor_mode(self, name):
        modes = self.world.module.TensorIOMode
        inputs = [one.name for one in self._session.get_inputs()]
        return modes.INPUT if name in inputs else (
            modes.OUTPUT if name in self._tensors else modes.NONE)

    def get_tensor_dtype(self, name):
        return self.world.module.DataType[self._tensors[name][0]]

    def get_tensor_shape(self, name):
        return self._tensors[name][1]

    def get_tensor_profile_shape(self, name, profile_index):
        return self._profile.get(name, [self._tensors[name][1]] * 3)

    def create_runtime_config(self):
        return self.world.module.IRuntimeConfig()

    def create_execution_context(self, runtime_config=None):
        if self.world.fails('create_execution_context', self._logger):
            return None
        address = self.world.allocate(self._logger, 4096)
        context = self.world.module.IExecutionContext(self, runtime_config, address)
        return context if address else None

    def __del__(self):
        if self._address:
            self.world.driver.cuMemFree_v2(ctypes.c_uint64(self._address))


class IRuntimeCache:
    def __init__(self):
        self._blob = b''

    def deserialize(self, blob):
        if not bytes(blob).startswith(KERNELS + self.world.version.encode()):
            return False
        self._blob = bytes(blob)
        return True

    def serialize(self):
        return self.world.module.IHostMemory(self._blob)


class IRuntimeConfig:
    settable = ('cuda_graph_strategy',)

    def __init__(self):
        self._cache = None
        if self.world.is_rtx:
            self.cuda_graph_strategy = self.world.module.CudaGraphStrategy.DISABLED

    def create_runtime_cache(self):
        return self.world.module.IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True

    def get_runtime_cache(self):
        return self._cache


class IExecutionContext:
    def __init__(self, engine, config, address):
        self.engine, self._config, self._memory = engine, config, address
        self._addresses, self._numbers, self._has_run = {}, {}, False
        self._shapes = {}  # of the inputs whose shape is free
        self.world.graph_strategies.append(getattr(config, 'cuda_graph_strategy', None))
        self.world.alive.add(self)

    def set_tensor_address(self, name, memory):
        if name not in self.engine._tensors or self.world.fails('set_tensor_address',
                                                                self.engine._logger):
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name):
        return self._addresses.get(name, 0)

    def set_input_shape(self, name, shape):
        shape, own = tuple(shape), self.engine._tensors[name][1]
        if self.world.fails('set_input_shape', self.engine._logger):
            return False
        if -1 not in own:
            return shape == own
        low, _, high = self.engine._profile[name]
        if len(shape) != len(own) or any(not least <= n <= most for least, n, most in
                                         zip(low, shape, high, strict=True)):
            self.world.error(self.engine._logger, 'Error Code 3: API Usage Error (Set dimension '
                             f'{list(shape)} for tensor {name} does not satisfy any optimization '
                             'profiles.)')
            return False
        self._has_run &= self._shapes.get(name) == shape  # what follows is set up anew at a run
        self._shapes[name] = shape
        return True

    def is_stream_capturable(self, stream):
        return False

    def execute_async_v3(self, stream_handle):
        world, logger, stream = self.world, self.engine._logger, ctypes.c_void_p(stream_handle)
        if world.fails('execute_async_v3', logger):
            return False
        if self._addresses.keys() != self.engine._tensors.keys():
            world.error(logger, 'Error Code 3: API Usage Error (a tensor has no address)')
            return False
        tensors = {name: (dtype, self._shapes.get(name, shape))
                   for name, (dtype, shape) in self.engine._tensors.items()}
        if any(-1 in shape for _, shape in tensors.values()):
            world.error(logger, 'Error Code 3: API Usage Error (an input shape is not specified)')
            return False
        if world.driver.fake_is_capturing(stream) and (world.is_rtx or not self._has_run):
            world.driver.fake_break_capture(stream)  # lazy initialization is no part of a graph
            world.error(logger, 'Error Code 1: Cuda Runtime (cudaError 900)')
            return False
        key = tuple(self._addresses.items()), tuple(self._shapes.items())
        if key not in self._numbers:
            self._numbers[key] = world.number()
            world.kernels[self._numbers[key]] = (self.engine._session, dict(key[0]), tensors)
        code = world.driver.fake_enqueue_kernel(stream, world.callback,
                                                ctypes.c_uint64(self._numbers[key]))
        self._has_run = True
        if world.is_rtx and self._config is not None and self._config._cache is not None:
            self._config._cache._blob = KERNELS + world.version.encode()
        if code:
            world.error(logger, f'Error Code 1: Cuda Runtime (cudaError {code})')
        return not code

    def __del__(self):
        for number in self._numbers.values():
            self.world.kernels.pop(number, None)
        if self._memory:
            self.world.driver.cuMemFree_v2(ctypes.c_uint64(self._memory))
