# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The classes by which TensorRT builds; fake_tensorrt.py makes those of each generation of them.

`self.world` is what the classes of one module share.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings

import onnx
from fake_tensorrt_tables import NUMPY

REFUSED = ('DynamicQuantizeLinear', 'MatMulInteger', 'NonZero')  # operators, in every generation
MAX_OPSET = {'10.3': 20}
HEADER_BYTES = 512
MAGIC, TIMING = b'FAKEPLAN', b'FAKETIMING'
LEAST_WORKSPACE = 1 << 20
PHASE_STEPS = 10


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
        self.shape = tuple(size.dim_value if size.HasField('dim_value') else -1
                           for size in kind.shape.dim)
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


class IOptimizationProfile:
    def __init__(self):
        self._shapes = {}

    def set_shape(self, input, min, opt, max):  # noqa: A002 - the names of the library
        shapes = [tuple(shape) for shape in (min, opt, max)]
        if len({len(shape) for shape in shapes}) > 1 or any(
                not low <= usual <= high for low, usual, high in zip(*shapes, strict=True)):
            raise ValueError('Shape provided for min is inconsistent with other shapes.')
        self._shapes[input] = shapes

    def get_shape(self, input):  # noqa: A002
        return self._shapes.get(input, [])


class IBuilderConfig:
    settable = ('progress_monitor', 'builder_optimization_level', 'hardware_compatibility_level',
                'profiling_verbosity', 'int8_calibrator', 'num_compute_capabilities',
                'max_aux_streams', 'avg_timing_iterations')

    def __init__(self):
        self.progress_monitor, self.builder_optimization_level = None, 3
        self._pools, self._flags, self._capabilities, self._timing = {}, set(), {}, None
        self._profiles = []

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool):
        return self._pools.get(pool, 8 << 30)

    def add_optimization_profile(self, profile):
        if self.world.fails('add_optimization_profile'):
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

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

    def create_optimization_profile(self):
        return self.world.module.IOptimizationProfile()

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
        inputs = map(network.get_input, range(network.num_inputs))
        free = {one.name for one in inputs if -1 in one.shape}
        shapes = config._profiles[0]._shapes if config._profiles else {}
        if not free <= shapes.keys():
            world.error(self._logger, 'Error Code 4: API Usage Error (Network has dynamic or shape '
                        'inputs, but no optimization profile has been defined.)')
            return None
        if not self._work(config.progress_monitor) or (not world.is_rtx and world.gpu() is None):
            return None
        if config._timing is not None and not world.is_rtx:
            config._timing._blob += hashlib.sha256(network._raw).digest()
        world.built += 1
        return module.IHostMemory(self._header(network._raw, config, shapes) + network._raw)

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

    def _header(self, model, config, shapes):
        world = self.world
        target = {'version': world.version, 'sha256': hashlib.sha256(model).hexdigest(),
                  'shapes': shapes}
        if world.is_rtx:
            target['capabilities'] = sorted(config._capabilities.values()) or [80, 86, 89, 120]
        else:
            name, (major, minor), driver = world.gpu()
            target.update(gpu=name, capabilities=[10 * major + minor])
        return (MAGIC + json.dumps(target).encode()).ljust(HEADER_BYTES, b'\0')
