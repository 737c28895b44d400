# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What four generations of TensorRT have, as introspection of their published bindings showed."""

import numpy as np

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
OLDEST_DRIVER = {'10.3': 12000, '10.16': 12000, '11.4': 13000, 'rtx': 13000}
