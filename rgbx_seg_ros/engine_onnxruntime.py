# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the default where there is no GPU. The only file that imports it."""

from __future__ import annotations

from pathlib import Path

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    EMBEDDINGS,
    OUTPUTS,
    EngineInfo,
    Found,
    Graph,
    Scene,
    Tensor,
    check_tensors,
    graphs,
    no_scene_graph,
)
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE, Manifest

try:
    import onnxruntime as ort
except ImportError:
    raise RgbxSegError('onnxruntime is not installed; run `pip install onnxruntime`.') from None


DTYPES = {'tensor(uint8)': 'uint8', 'tensor(float)': 'float32'}


class OnnxRuntimeEngine:
    """A bundle's graphs in ONNX Runtime sessions; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Load the graphs; RgbxSegError if one cannot be read or breaks the bundle contract."""
        self._sessions: dict[str, ort.InferenceSession] = {
            name: _open(bundle / name, graph) for name, graph in graphs(manifest).items()}
        self._has_scene = manifest.scene is not None
        self.info = EngineInfo('onnxruntime', ort.__version__, 'cpu', 'fp32')

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


def _open(path: Path, graph: Graph) -> ort.InferenceSession:
    """Return the session of an ONNX file that has the tensors of `graph`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Spinning worker threads would take the cores that the camera drivers need.
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    try:
        session = ort.InferenceSession(str(path), options, ['CPUExecutionProvider'])
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = str(error).split('\n')[0]
        raise RgbxSegError(f'{path}: onnxruntime {ort.__version__} cannot load it ({reason}); '
                           'export the bundle again.') from None
    try:
        check_tensors(_tensors(session.get_inputs()), _tensors(session.get_outputs()), graph)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return session


def _tensors(found: list[ort.NodeArg]) -> Found:
    return {t.name: (DTYPES.get(t.type, t.type), tuple(t.shape)) for t in found}
