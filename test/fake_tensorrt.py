# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT and TensorRT-RTX without a GPU: what of their Python API this project may call.

`make` returns a module that has the names of one generation and no others, as introspection of the
published bindings showed them. A plan is a header and the ONNX file; its context puts a kernel on
the stream of the fake driver (test/fake_cuda.c), and when that runs, ONNX Runtime reads the inputs
from the device addresses and writes the outputs there.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import itertools
import json
import time
import types
import warnings
import weakref

import numpy as np
import onnx
import onnxruntime

GENERATIONS = {'10.3': ('tensorrt', '10.3.0'), '10.16': ('tensorrt', '10.16.1.11'),
               '11.4': ('tensorrt', '11.4.0.106'), 'rtx': ('tensorrt_rtx', '1.7.1.116')}
# What not all generations have, in the order of GENERATIONS.
PRESENCE = {
    'BuilderFlag.BF16': 'YY--', 'BuilderFlag.FP16': 'YY--', 'BuilderFlag.FP8': 'YY--',
    'BuilderFlag.INT8': 'YY--', 'BuilderFlag.OBEY_PRECISION_CONSTRAINTS': 'YY--',
    'BuilderFlag.EDITABLE_TIMING_CACHE': '-YYY', 'BuilderFlag.STRICT_NANS': '-YYY',
    'BuilderFlag.REQUIRE_USER_ALLOCATION': '---Y', 'DataType.FP4': '-YYY', 'DataType.E8M0': '-YYY',
    'NetworkDefinitionCreationFlag.EXPLICIT_BATCH': 'YY--',
    'HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY': '-YYY', 'ComputeCapability': '---Y',
    'CudaGraphStrategy': '---Y', 'EngineValidity': '---Y', 'EngineInvalidityDiagnostics': '---Y',
    'Builder.build_engine_with_config': '-YY-', 'Builder.platform_has_fast_fp16': 'YY--',
    'IBuilderConfig.int8_calibrator': 'YY--', 'IBuilderConfig.num_compute_capabilities': '---Y',
    'IBuilderConfig.set_compute_capability': '---Y', 'Runtime.get_engine_validity': '---Y',
    'Runtime.engine_header_size': '---Y', 'ICudaEngine.create_runtime_config': '-YYY',
    'ICudaEngine.device_memory_size': 'YY--', 'IRuntimeConfig': '-YYY', 'IRuntimeCache': '---Y',
    'IRuntimeConfig.create_runtime_cache': '---Y', 'IRuntimeConfig.set_runtime_cache': '---Y',
    'IRuntimeConfig.get_runtime_cache': '---Y', 'IRuntimeConfig.cuda_graph_strategy': '---Y',
    'IExecutionContext.is_stream_capturable': '---Y'}
ENUMS = {
    'BuilderFlag': {'FP16': 0, 'INT8': 1, 'DEBUG': 2, 'REFIT': 4, 'DISABLE_TIMING_CACHE': 5,
                    'TF32': 6, 'OBEY_PRECISION_CONSTRAINTS': 10, 'VERSION_COMPATIBLE': 12,
                    'FP8': 14, 'BF16': 16, 'STRIP_PLAN': 18, 'WEIGHT_STREAMING': 20,
                    'STRICT_NANS': 23, 'EDITABLE_TIMING_CACHE': 26, 'REQUIRE_USER_ALLOCATION': 28},
    'ComputeCapability': {'NONE': 0, 'CURRENT': 1, **{f'SM{n}': n for n in
                                                      (75, 80, 86, 89, 120, 121)}},
    'CudaGraphStrategy': {'DISABLED': 0, 'WHOLE_GRAPH_CAPTURE': 1},
    'DataType': {'FLOAT': 0, 'HALF': 1, 'INT8': 2, 'INT32': 3, 'BOOL': 4, 'UINT8': 5, 'FP8': 6,
                 'BF16': 7, 'INT64': 8, 'INT4': 9, 'FP4': 10, 'E8M0': 11},
    'EngineInvalidityDiagnostics': {'VERSION_MISMATCH': 1, 'UNSUPPORTED_CC': 2,
                                    'OLD_CUDA_DRIVER': 4, 'OLD_CUDA_RUNTIME': 8,
                                    'INSUFFICIENT_GPU_MEMORY': 16, 'MALFORMED_ENGINE': 32,
                                    'CUDA_ERROR': 64},
    'EngineValidity': {'VALID': 0, 'SUBOPTIMAL': 1, 'INVALID': 2},
    'HardwareCompatibilityLevel': {'NONE': 0, 'AMPERE_PLUS': 1, 'SAME_COMPUTE_CAPABILITY': 2},
    'MemoryPoolType': {'WORKSPACE': 0, 'TACTIC_DRAM': 4, 'TACTIC_SHARED_MEMORY': 5},
    'NetworkDefinitionCreationFlag': {'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1},
    'ProfilingVerbosity': {'LAYER_NAMES_ONLY': 0, 'NONE': 1, 'DETAILED': 2},
    'Severity': {'INTERNAL_ERROR': 0, 'ERROR': 1, 'WARNING': 2, 'INFO': 3, 'VERBOSE': 4},
    'TensorIOMode': {'NONE': 0, 'INPUT': 1, 'OUTPUT': 2}}
TYPES = {'tensor(uint8)': 'UINT8', 'tensor(float)': 'FLOAT', 'tensor(float16)': 'HALF',
         'tensor(int8)': 'INT8', 'tensor(int32)': 'INT32', 'tensor(int64)': 'INT64',
         'tensor(bool)': 'BOOL'}
NUMPY = {'UINT8': np.uint8, 'FLOAT': np.float32, 'HALF': np.float16, 'INT8': np.int8,
         'INT32': np.int32, 'INT64': np.int64, 'BOOL': np.bool_}
REFUSED = ('DynamicQuantizeLinear', 'MatMulInteger', 'NonZero')  # operators, in every generation
MAX_OPSET = {'10.3': 20}
HEADER_BYTES = 512
MAGIC, TIMING, KERNELS = b'FAKEPLAN', b'FAKETIMING', b'FAKEKERNELS'
LEAST_WORKSPACE = 1 << 20
PHASE_STEPS = 10
NOT_SUPPORTED_BY_RTX = ((8, 7), (9, 0))
OLDEST_DRIVER = {'10.3': 12000, '10.16': 12000, '11.4': 13000, 'rtx': 13000}


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


class ILogger:
    def __init__(self):
        pass


class Logger:
    def __init__(self, min_severity=2):
        self.min_severity = min_severity

    def log(self, severity, message):
        if severity <= self.min_severity:
            print(f'[TRT] {message}')


class IHostMemory(bytes):
    nbytes = property(len)


class IProgressMonitor:
    def __init__(self):
        pass


class ITensor:
    def __init__(self, value):
        kind = value.type.tensor_type
        self.name = value.name
        self.shape = tuple(size.dim_value for size in kind.shape.dim)
        onnx_type = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        self.dtype = next((self.world.module.DataType[name] for name, dtype in NUMPY.items()
                           if dtype == onnx_type), None)


class INetworkDefinition:
    def __init__(self, flags):
        self.flags, self._model, self._raw = flags, None, b''

    num_inputs = property(lambda self: len(self._model.graph.input))
    num_outputs = property(lambda self: len(self._model.graph.output))
    num_layers = property(lambda self: len(self._model.graph.node))

    def get_input(self, index):
        return self.world.module.ITensor(self._model.graph.input[index])

    def get_output(self, index):
        return self.world.module.ITensor(self._model.graph.output[index])


class ParserError:
    def __init__(self, code, desc, node=None, index=-1):
        self._parts = (code, desc, node.name if node else '', node.op_type if node else '')
        self._index = index

    def node(self):
        return self._index

    def code(self):
        return self._parts[0]

    def desc(self):
        return self._parts[1]

    def node_name(self):
        return self._parts[2]

    def node_operator(self):
        return self._parts[3]

    def __str__(self):
        return f'In node {self._parts[2]} ({self._parts[3]}): {self._parts[0]}: {self._parts[1]}'


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def clear_errors(self):
        self._errors.clear()

    def parse_from_file(self, path):
        try:
            with open(path, 'rb') as file:
                return self.parse(file.read())
        except OSError:
            return self._refuse('MODEL_DESERIALIZE_FAILED', f'Failed to open {path}')

    def parse(self, model, path=None):
        try:
            parsed = onnx.load_from_string(bytes(model))
            onnx.checker.check_model(parsed)
        except Exception:
            return self._refuse('MODEL_DESERIALIZE_FAILED', 'Failed to parse the ONNX model.')
        opset = next(own.version for own in parsed.opset_import if own.domain in ('', 'ai.onnx'))
        if opset > MAX_OPSET.get(self.world.generation, 25):
            return self._refuse('INVALID_GRAPH', f'Opset {opset} is not supported.')
        bytes_in = {one.name for one in parsed.graph.input if one.type.tensor_type.elem_type == 2}
        for index, node in enumerate(parsed.graph.node):
            if node.op_type in REFUSED or node.domain not in ('', 'ai.onnx'):
                return self._refuse('UNSUPPORTED_NODE', 'No importer registered for the op.', node,
                                    index)
            if node.op_type == 'Transpose' and node.input[0] in bytes_in:
                return self._refuse('UNSUPPORTED_NODE_DATATYPE', 'UInt8 in Transpose.', node,
                                    index)
        self._network._model, self._network._raw = parsed, bytes(model)
        return True

    def _refuse(self, code, desc, node=None, index=-1):
        error = self.world.module.ParserError(code, desc, node, index)
        self._errors.append(error)
        self.world.error(self._logger, str(error))
        return False


class ITimingCache:
    def __init__(self, blob):
        self._blob = blob or TIMING

    def serialize(self):
        return self.world.module.IHostMemory(self._blob)

    def combine(self, cache, ignore_mismatch):
        self._blob += cache._blob[len(TIMING):]
        return True


class IBuilderConfig:
    settable = ('progress_monitor', 'builder_optimization_level', 'hardware_compatibility_level',
                'profiling_verbosity', 'int8_calibrator', 'num_compute_capabilities',
                'max_aux_streams', 'avg_timing_iterations')

    def __init__(self):
        self.progress_monitor, self.builder_optimization_level = None, 3
        self._pools, self._flags, self._capabilities, self._timing = {}, set(), {}, None

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool):
        return self._pools.get(pool, 8 << 30)

    def set_flag(self, flag):
        self._flags.add(flag)

    def clear_flag(self, flag):
        self._flags.discard(flag)

    def get_flag(self, flag):
        return flag in self._flags

    def set_compute_capability(self, compute_capability, index):
        self._capabilities[index] = int(compute_capability)
        return True

    def create_timing_cache(self, serialized_timing_cache):
        if self.world.is_rtx:
            warnings.warn('timing caches do nothing', DeprecationWarning, stacklevel=2)
        blob = bytes(serialized_timing_cache)
        if blob and not blob.startswith(TIMING):
            return None
        return self.world.module.ITimingCache(blob)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._timing = cache
        return True

    def get_timing_cache(self):
        return self._timing


class Builder:
    def __init__(self, logger):
        self._logger = logger
        if not self.world.is_rtx and self.world.too_old(logger):
            raise TypeError('pybind11::init(): factory function returned nullptr')

    def create_network(self, flags=0):
        return self.world.module.INetworkDefinition(flags)

    def create_builder_config(self):
        return self.world.module.IBuilderConfig()

    def build_serialized_network(self, network, config):
        world, module = self.world, self.world.module
        if world.fails('build_serialized_network', self._logger):
            return None
        if config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE) < LEAST_WORKSPACE:
            world.error(self._logger, 'Error Code 10: could not find any implementation; try '
                        'increasing the workspace size.')
            return None
        if not world.is_rtx and not network.flags & (1 << module.NetworkDefinitionCreationFlag
                                                     .STRONGLY_TYPED):
            world.error(self._logger, 'the network is not strongly typed')
            return None
        if not self._work(config.progress_monitor) or (not world.is_rtx and world.gpu() is None):
            return None
        if config._timing is not None and not world.is_rtx:
            config._timing._blob += hashlib.sha256(network._raw).digest()
        world.built += 1
        return module.IHostMemory(self._header(network._raw, config) + network._raw)

    def _work(self, monitor):
        """Take its time, in steps that a monitor hears of; return False if that cancels."""
        if monitor is not None:
            monitor.phase_start('Building engine', None, PHASE_STEPS)
        for step in range(PHASE_STEPS):
            time.sleep(self.world.build_seconds / PHASE_STEPS)
            if monitor is not None and not monitor.step_complete('Building engine', step):
                return False
        if monitor is not None:
            monitor.phase_finish('Building engine')
        return True

    def _header(self, model, config):
        world = self.world
        target = {'version': world.version, 'sha256': hashlib.sha256(model).hexdigest()}
        if world.is_rtx:
            target['capabilities'] = sorted(config._capabilities.values()) or [80, 86, 89, 120]
        else:
            name, (major, minor), driver = world.gpu()
            target.update(gpu=name, capabilities=[10 * major + minor])
        return (MAGIC + json.dumps(target).encode()).ljust(HEADER_BYTES, b'\0')


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
        return world.module.ICudaEngine(self, model, address) if address else None


class ICudaEngine:
    def __init__(self, runtime, model, address):
        self._runtime, self._logger, self._address = runtime, runtime._logger, address
        self._session = self.world.session(model)
        self._tensors = {one.name: (TYPES[one.type], tuple(one.shape)) for one in
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
        return tuple(shape) == self.engine._tensors[name][1]

    def is_stream_capturable(self, stream):
        return False

    def execute_async_v3(self, stream_handle):
        world, logger, stream = self.world, self.engine._logger, ctypes.c_void_p(stream_handle)
        if world.fails('execute_async_v3', logger):
            return False
        if self._addresses.keys() != self.engine._tensors.keys():
            world.error(logger, 'Error Code 3: API Usage Error (a tensor has no address)')
            return False
        if world.driver.fake_is_capturing(stream) and (world.is_rtx or not self._has_run):
            world.driver.fake_break_capture(stream)  # lazy initialization is no part of a graph
            world.error(logger, 'Error Code 1: Cuda Runtime (cudaError 900)')
            return False
        key = tuple(self._addresses.items())
        if key not in self._numbers:
            self._numbers[key] = world.number()
            world.kernels[self._numbers[key]] = (self.engine._session, dict(key),
                                                 self.engine._tensors)
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


CLASSES = (ILogger, Logger, IHostMemory, IProgressMonitor, ITensor, INetworkDefinition, ParserError,
           OnnxParser, ITimingCache, IBuilderConfig, Builder, Runtime, ICudaEngine, IRuntimeCache,
           IRuntimeConfig, IExecutionContext)


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
