# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the default where there is no GPU. The only file that imports it."""

from __future__ import annotations

from pathlib import Path

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import INPUTS, OUTPUTS, EngineInfo, Tensor, check_tensors
from rgbx_seg_ros.manifest import MODEL_FILE, Manifest

try:
    import onnxruntime as ort
except ImportError:
    raise RgbxSegError('onnxruntime is not installed; run `pip install onnxruntime`.') from None


class OnnxRuntimeEngine:
    """A bundle's model in an ONNX Runtime session; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        """Load the model; RgbxSegError if it cannot be read or breaks the bundle contract."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Spinning worker threads would take the cores that the camera drivers need.
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        path = bundle / MODEL_FILE
        try:
            session = ort.InferenceSession(str(path), options, ['CPUExecutionProvider'])
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = str(error).split('\n')[0]
            raise RgbxSegError(f'{path}: onnxruntime {ort.__version__} cannot load it ({reason}); '
                               'export the bundle again.') from None
        tensors = [*session.get_inputs(), *session.get_outputs()]
        check_tensors({t.name: (t.type[len('tensor('):-1], tuple(t.shape)) for t in tensors},
                      manifest)
        if extra := {t.name for t in session.get_inputs()} - set(INPUTS):
            raise RgbxSegError(f'{path}: has the further input {sorted(extra)[0]}, expected '
                               f'{" and ".join(INPUTS)} alone; export the bundle again.')
        self._session: ort.InferenceSession | None = session
        self.info = EngineInfo('onnxruntime', ort.__version__, 'cpu', 'fp32')

    def __call__(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        if self._session is None:
            raise RgbxSegError('the engine is closed; open it again.')
        label, confidence = self._session.run(list(OUTPUTS), {'rgb': rgb, 'aux': aux})
        return label, confidence

    def close(self) -> None:
        """Free the session."""
        self._session = None
