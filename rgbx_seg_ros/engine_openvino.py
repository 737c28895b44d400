# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on x86 processors. The only file that imports it.

It takes as many threads as the process may use cores; `taskset` or systemd's CPUAffinity leave
some to the cameras.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    CLASSES,
    FREE,
    OUTPUTS,
    BackendMissing,
    BackendUnavailable,
    Found,
    Graph,
    Model,
    Rows,
    Scene,
    Tensor,
    check_rows,
    check_tensors,
    no_scene_graph,
)
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE

# Where this can be imported, `import openvino` tells Intel of it and writes to ~/intel.
TELEMETRY = 'openvino_telemetry'
telemetry = sys.modules.get(TELEMETRY)
sys.modules[TELEMETRY] = None  # type: ignore[assignment]
try:
    import openvino as ov
except ImportError:
    raise BackendMissing('openvino is not installed; run `pip install openvino`.') from None
finally:
    del sys.modules[TELEMETRY]
    if telemetry is not None:
        sys.modules[TELEMETRY] = telemetry

# OpenVINO takes bf16 by default where the processor has it; the bundle's precision decides.
HINTS = {'fp32': 'f32', 'int8': 'f32', 'bf16': 'bf16'}
DTYPES = {'u8': 'uint8', 'f32': 'float32'}
DEVICE = 'CPU'
VERSION = ov.__version__.partition('-')[0]


class OpenVinoEngine:
    """A bundle's graphs compiled for the processor; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, model: Model) -> None:
        """Compile the graphs; RgbxSegError if one cannot be read or breaks the contract."""
        if model.precision not in HINTS:
            raise RgbxSegError(f'openvino runs no {model.precision} on a processor; expected one '
                               f'of {", ".join(HINTS)}.')
        core = _start(model.precision)
        settings = {'PERFORMANCE_HINT': 'LATENCY',
                    'INFERENCE_PRECISION_HINT': HINTS[model.precision],
                    # Threads tied to cores would wait for what else runs there, such as a second
                    # engine's, with another core idle.
                    'ENABLE_CPU_PINNING': False}
        self._requests = {name: _compile(core, model.path(name), graph, settings)
                          for name, graph in model.graphs().items()}
        scene = model.manifest.scene
        self._scene, self._vocabulary = scene.tensors if scene else (), model.manifest.vocabulary
        self._held: dict[str, Any] = {}  # inputs of model.onnx that stay from pair to pair
        if (rows := model.rows()) is not None:
            self.set_classes(rows)
        self.info = model.info('openvino', VERSION, 'cpu')

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        inputs = {'rgb': rgb, 'aux': aux, **self._held}
        if self._scene:
            inputs.update(zip(self._scene, scene or self.embed(rgb, aux), strict=True))
        label, confidence = self._run(MODEL_FILE, inputs, OUTPUTS)
        return label, confidence

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair of batch size 1."""
        if not self._scene:
            raise no_scene_graph()
        return tuple(self._run(SCENE_FILE, {'rgb': rgb, 'aux': aux}, self._scene))

    def set_classes(self, rows: Rows) -> None:
        """Take rows that the graph reads in place, pair by pair."""
        self._request(MODEL_FILE)
        self._held = {CLASSES: ov.Tensor(check_rows(rows, self._vocabulary), shared_memory=True)}

    def close(self) -> None:
        """Free the compiled graphs."""
        self._requests.clear()

    def _request(self, graph: str) -> Any:
        if graph not in self._requests:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._requests[graph]

    def _run(self, graph: str, inputs: Mapping[str, Any], outputs: tuple[str, ...]) -> list[Any]:
        """Return views of the outputs, which the next run of the same graph overwrites."""
        request = self._request(graph)
        try:
            request.infer(inputs, share_inputs=True)
        except RuntimeError as error:
            raise RgbxSegError(f'openvino {VERSION} could not run {graph} ({_reason(error)}); '
                               'expected images as the manifest has them, and enough memory.'
                               ) from None
        return [request.get_tensor(name).data for name in outputs]


def _start(precision: str) -> Any:
    """Return OpenVINO's entry; BackendUnavailable if this processor is not for it."""
    core = ov.Core()
    if DEVICE not in core.available_devices:
        raise BackendUnavailable(f'openvino {VERSION} cannot use this processor; expected one of '
                                 'the x86 family with SSE4.2: choose backend onnxruntime.')
    capabilities = core.get_property(DEVICE, 'OPTIMIZATION_CAPABILITIES')
    if precision == 'bf16' and 'BF16' not in capabilities:
        raise BackendUnavailable('this processor does not compute in bf16 (openvino names '
                                 f'{", ".join(capabilities)}); expected AVX512_BF16 or AMX: choose '
                                 'precision fp32 or int8.')
    return core


def _compile(core: Any, path: Path, graph: Graph, settings: Mapping[str, object]) -> Any:
    """Return an inference request of a graph that has the tensors of `graph`."""
    try:
        compiled = core.compile_model(core.read_model(str(path)), DEVICE, settings)
    except (RuntimeError, MemoryError) as error:
        raise BackendUnavailable(  # another library may know an operator that this one does not
            f'{path}: openvino {VERSION} cannot load it ({_reason(error)}); export the bundle '
            'again.') from None
    try:
        check_tensors(_tensors(compiled.inputs), _tensors(compiled.outputs), graph)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return compiled.create_infer_request()


def _reason(error: Exception) -> str:
    """Return the line of OpenVINO's message that says what is wrong; others are its source."""
    lines = [line.strip() for line in str(error).split('\n') if line.strip()]
    said = [line for line in lines if not line.startswith(('Exception from', 'Check '))]
    return (said or lines or ['out of memory'])[-1][:200].rstrip(' .:')


def _tensors(found: list[Any]) -> Found:
    return {port.any_name: (DTYPES.get(port.element_type.get_type_name(),
                                       port.element_type.get_type_name()), _shape(port))
            for port in found}


def _shape(port: Any) -> tuple[int, ...]:
    return tuple(FREE if n.is_dynamic else n.get_length() for n in port.get_partial_shape())
