# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on x86 processors. The only file that imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    EMBEDDINGS,
    OUTPUTS,
    BackendUnavailable,
    Found,
    Graph,
    Model,
    Scene,
    Tensor,
    check_tensors,
    no_scene_graph,
)
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE

try:
    import openvino as ov
except ImportError:
    raise BackendUnavailable('openvino is not installed; run `pip install openvino`.') from None

# OpenVINO takes bf16 by default where the processor has it; the bundle's precision decides.
HINTS = {'fp32': 'f32', 'int8': 'f32', 'bf16': 'bf16'}
DTYPES = {'u8': 'uint8', 'f32': 'float32'}


class OpenVinoEngine:
    """A bundle's graphs compiled for the processor; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, model: Model) -> None:
        """Compile the graphs; RgbxSegError if one cannot be read or breaks the contract."""
        if model.precision not in HINTS:
            raise RgbxSegError(f'openvino runs no {model.precision} on a processor; expected one '
                               f'of {", ".join(HINTS)}.')
        core = ov.Core()
        settings = {'PERFORMANCE_HINT': 'LATENCY',
                    'INFERENCE_PRECISION_HINT': HINTS[model.precision]}
        self._requests = {name: _compile(core, model.path(name), graph, settings)
                          for name, graph in model.graphs().items()}
        self._has_scene = model.manifest.scene is not None
        version = ov.__version__.partition('-')[0]
        self.info = model.info('openvino', version, 'cpu')

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        request = self._request(MODEL_FILE)
        inputs = {'rgb': rgb, 'aux': aux}
        if self._has_scene:
            inputs.update((scene or self.embed(rgb, aux))._asdict())
        request.infer(inputs, share_inputs=True)
        label, confidence = (request.get_tensor(name).data for name in OUTPUTS)
        return label, confidence

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair of batch size 1."""
        if not self._has_scene:
            raise no_scene_graph()
        request = self._request(SCENE_FILE)
        request.infer({'rgb': rgb, 'aux': aux}, share_inputs=True)
        return Scene(*(request.get_tensor(name).data for name in EMBEDDINGS))

    def close(self) -> None:
        """Free the compiled graphs."""
        self._requests.clear()

    def _request(self, name: str) -> Any:
        if name not in self._requests:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._requests[name]


def _compile(core: Any, path: Path, graph: Graph, settings: dict[str, str]) -> Any:
    """Return an inference request of a graph that has the tensors of `graph`."""
    try:
        compiled = core.compile_model(core.read_model(str(path)), 'CPU', settings)
    except RuntimeError as error:
        reason = str(error).strip().split('\n')[-1]
        raise BackendUnavailable(  # another library may know an operator that this one does not
            f'{path}: openvino {ov.__version__} cannot load it ({reason}); export the bundle '
            'again.') from None
    try:
        check_tensors(_tensors(compiled.inputs), _tensors(compiled.outputs), graph)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return compiled.create_infer_request()


def _tensors(found: list[Any]) -> Found:
    return {port.any_name: (DTYPES.get(port.element_type.get_type_name(),
                                       port.element_type.get_type_name()), tuple(port.shape))
            for port in found}
