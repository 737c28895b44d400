# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that answers at once and always the same: for tests and for timing all the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Model, Scene, Tensor, no_scene_graph


class DummyEngine:
    """Vertical stripes of all classes, surer from top to bottom; see `rgbx_seg_ros.engine.Engine`.

    It does not read the model. Only by its name it is chosen, never by `auto`.
    """

    def __init__(self, model: Model) -> None:
        """Draw the answer: every class of the manifest, confidence 0 to 255."""
        manifest, (height, width) = model.manifest, model.rgb_size
        ids = np.array([info.id for info in manifest.classes], np.uint8)
        stripes = ids[np.arange(width) * len(ids) // width]
        rows = np.arange(height) * 255 // max(height - 1, 1)
        self._label: Tensor | None = np.tile(stripes, (1, height, 1))
        self._confidence = np.repeat(rows.astype(np.uint8), width).reshape(1, height, width)
        self._scene: Scene | None = None
        if manifest.scene is not None:
            nothing = np.zeros((1, manifest.scene.width), np.float32)
            self._scene = Scene(nothing, nothing)
        self.info = replace(model.info('dummy', '1', 'cpu'), precision='none')

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Return the same label and confidence for every pair."""
        if self._label is None:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._label, self._confidence

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Return zeros for every pair."""
        if self._label is None:
            raise RgbxSegError('the engine is closed; open it again.')
        if self._scene is None:
            raise no_scene_graph()
        return self._scene

    def close(self) -> None:
        """Free the answer."""
        self._label = None
