# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on processors and on CUDA GPUs. The only file that imports it.

Inputs are read where the caller has them, and outputs written to arrays that are kept: on a GPU
one copy in and one out, on a processor none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

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

try:
    import onnxruntime as ort
except ImportError:
    raise BackendMissing('onnxruntime is not installed; run `pip install onnxruntime`.') from None


CPU, CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'
# By default the arena doubles with each request that it cannot serve, up to the whole GPU, and
# cuDNN tries every algorithm, each with a workspace of its own.
PROVIDERS: dict[str, dict[str, str]] = {
    CPU: {},
    CUDA: {'arena_extend_strategy': 'kSameAsRequested', 'cudnn_conv_algo_search': 'HEURISTIC',
           'cudnn_conv_use_max_workspace': '0'}}
DTYPES = {'tensor(uint8)': 'uint8', 'tensor(float)': 'float32'}


class OnnxRuntimeEngine:
    """A bundle's graphs in ONNX Runtime sessions; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, model: Model, cuda: bool = False) -> None:
        """Load the graphs; RgbxSegError if one cannot be read or breaks the bundle contract."""
        if cuda and CUDA not in ort.get_available_providers():
            raise BackendMissing(f'onnxruntime {ort.__version__} has no {CUDA} here; run `pip '
                                 'install onnxruntime-gpu` in its place.')
        self._graphs = {name: _Bound(model.path(name), graph, CUDA if cuda else CPU)
                        for name, graph in model.graphs().items()}
        scene = model.manifest.scene
        self._scene, self._vocabulary = scene.tensors if scene else (), model.manifest.vocabulary
        self._device = 'cuda' if cuda else 'cpu'
        if (rows := model.rows()) is not None:
            self.set_classes(rows)
        self.info = model.info('onnxruntime_cuda' if cuda else 'onnxruntime', ort.__version__,
                               self._device)
        if cuda:
            self._try(model)

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        inputs: dict[str, Any] = {'rgb': rgb, 'aux': aux}
        if self._scene:
            inputs.update(zip(self._scene, scene or self.embed(rgb, aux), strict=True))
        outputs = self._run(MODEL_FILE, inputs)
        return outputs[OUTPUTS[0]], outputs[OUTPUTS[1]]

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair of batch size 1."""
        if not self._scene:
            raise no_scene_graph()
        outputs = self._run(SCENE_FILE, {'rgb': rgb, 'aux': aux})
        return tuple(outputs[name] for name in self._scene)

    def set_classes(self, rows: Rows) -> None:
        """Copy the rows to the device, where they stay."""
        graph, own = self._graph(MODEL_FILE), check_rows(rows, self._vocabulary)
        try:
            graph.hold(CLASSES, own, self._device)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BackendUnavailable(
                f'onnxruntime {ort.__version__} cannot keep {len(own)} classes on {self._device} '
                f'({_reason(error)}); expected free memory there.') from None

    def close(self) -> None:
        """Free the sessions."""
        self._graphs.clear()

    def _graph(self, name: str) -> _Bound:
        if name not in self._graphs:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._graphs[name]

    def _run(self, graph: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        bound = self._graph(graph)
        try:
            return bound.run(inputs)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RgbxSegError(f'onnxruntime {ort.__version__} could not run {graph} '
                               f'({_reason(error)}); expected images as the manifest has them, '
                               'and enough memory.') from None

    def _try(self, model: Model) -> None:
        """Run every graph once: kernels that the GPU lacks are missed no sooner."""
        for name, graph in model.graphs().items():
            try:
                self._graphs[name].run(_arrays({key: tensor for key, tensor in graph.inputs.items()
                                                if key != CLASSES}))
            except Exception as error:
                self.close()
                raise BackendUnavailable(
                    f'onnxruntime {ort.__version__} cannot run {name} on this GPU '
                    f'({_reason(error)}); expected a GPU that its build has kernels for, and free '
                    'memory on it.') from None


class _Bound:
    """A graph in a session, its outputs bound to arrays."""

    def __init__(self, path: Path, graph: Graph, provider: str) -> None:
        """Load an ONNX file that has the tensors of `graph`."""
        self._session = _open(path, graph, provider)
        self._binding = self._session.io_binding()
        self._outputs = _arrays(graph.outputs)
        self._held: dict[str, Any] = {}
        for name, array in self._outputs.items():
            self._binding.bind_output(name, 'cpu', 0, array.dtype, array.shape, array.ctypes.data)

    def hold(self, name: str, array: NDArray[Any], device: str) -> None:
        """Keep an input on the device: it serves all runs to come."""
        self._held[name] = ort.OrtValue.ortvalue_from_numpy(array, device, 0)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs, which the next run overwrites."""
        for name, value in self._held.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        try:
            self._session.run_with_iobinding(self._binding)
        finally:
            self._binding.clear_binding_inputs()  # the arrays are the caller's
        return self._outputs


def _open(path: Path, graph: Graph, provider: str) -> ort.InferenceSession:
    """Return the session of an ONNX file that has the tensors of `graph`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Spinning worker threads would take the cores that the camera drivers need.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        session = ort.InferenceSession(str(path), options, [(provider, PROVIDERS[provider])])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise BackendUnavailable(  # another library may know an operator that this one does not
            f'{path}: onnxruntime {ort.__version__} cannot load it ({_reason(error)}); export the '
            'bundle again.') from None
    if provider not in session.get_providers():  # it falls back to the processor without a word
        raise BackendUnavailable(f'onnxruntime {ort.__version__} cannot start {provider}; check '
                                 'that the CUDA and cuDNN libraries it wants are installed.')
    try:
        check_tensors(_tensors(session.get_inputs()), _tensors(session.get_outputs()), graph)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return session


def _arrays(tensors: Found) -> dict[str, NDArray[Any]]:
    return {name: np.zeros(cast('tuple[int, ...]', shape), dtype)
            for name, (dtype, shape) in tensors.items()}


def _reason(error: Exception) -> str:
    return str(error).strip().partition('\n')[0][:200].rstrip(' .:') or 'out of memory'


def _tensors(found: list[ort.NodeArg]) -> Found:
    return {t.name: (DTYPES.get(t.type, t.type),
                     tuple(n if isinstance(n, int) else FREE for n in t.shape)) for t in found}
