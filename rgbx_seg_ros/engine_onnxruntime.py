# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on processors and on CUDA GPUs. The only file that imports it."""

from __future__ import annotations

from pathlib import Path

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
    import onnxruntime as ort
except ImportError:
    raise BackendUnavailable('onnxruntime is not installed; run `pip install onnxruntime`.'
                             ) from None


CPU, CUDA = 'CPUExecutionProvider', 'CUDAExecutionProvider'
DTYPES = {'tensor(uint8)': 'uint8', 'tensor(float)': 'float32'}


class OnnxRuntimeEngine:
    """A bundle's graphs in ONNX Runtime sessions; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, model: Model, cuda: bool = False) -> None:
        """Load the graphs; RgbxSegError if one cannot be read or breaks the bundle contract."""
        if cuda and CUDA not in ort.get_available_providers():
            raise BackendUnavailable(f'onnxruntime {ort.__version__} has no {CUDA} here; run `pip '
                                     'install onnxruntime-gpu` in its place.')
        self._sessions: dict[str, ort.InferenceSession] = {
            name: _open(model.path(name), graph, CUDA if cuda else CPU)
            for name, graph in model.graphs().items()}
        self._has_scene = model.manifest.scene is not None
        self.info = model.info('onnxruntime_cuda' if cuda else 'onnxruntime', ort.__version__,
                               'cuda' if cuda else 'cpu')

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        session = self._session(MODEL_FILE)
        inputs = {'rgb': rgb, 'aux': aux}
        if self._has_scene:
            inputs.update((scene or self.embed(rgb, aux))._asdict())
        label, confidence = session.run(OUTPUTS, inputs)
        return label, confidence

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair of batch size 1."""
        if not self._has_scene:
            raise no_scene_graph()
        return Scene(*self._session(SCENE_FILE).run(EMBEDDINGS, {'rgb': rgb, 'aux': aux}))

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()

    def _session(self, name: str) -> ort.InferenceSession:
        if name not in self._sessions:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._sessions[name]


def _open(path: Path, graph: Graph, provider: str) -> ort.InferenceSession:
    """Return the session of an ONNX file that has the tensors of `graph`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Spinning worker threads would take the cores that the camera drivers need.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        session = ort.InferenceSession(str(path), options, [provider])
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error).split('\n')[0]
        raise BackendUnavailable(  # another library may know an operator that this one does not
            f'{path}: onnxruntime {ort.__version__} cannot load it ({reason}); export the bundle '
            'again.') from None
    if provider not in session.get_providers():  # it falls back to the processor without a word
        raise BackendUnavailable(f'onnxruntime {ort.__version__} cannot start {provider}; check '
                                 'that the CUDA and cuDNN libraries it wants are installed.')
    try:
        check_tensors(_tensors(session.get_inputs()), _tensors(session.get_outputs()), graph)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return session


def _tensors(found: list[ort.NodeArg]) -> Found:
    return {t.name: (DTYPES.get(t.type, t.type), tuple(t.shape)) for t in found}
