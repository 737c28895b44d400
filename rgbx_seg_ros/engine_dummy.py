# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An engine that answers at once and always the same: for tests and for timing all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Model, Rows, Scene, Tensor, check_rows, no_scene_graph


class DummyEngine:
    """Vertical stripes of all classes, surer from top to bottom; see `rgbx_seg_ros.engine.Engine`.

    It does not read the model. Only by its name it is chosen, never by `auto`.
    """

    def __init__(self, model: Model) -> None:
        """Draw the answer: every class of the manifest, confidence 0 to 255."""
        manifest, (height, width) = model.manifest, model.rgb_size
        self._size, self._vocabulary = (height, width), manifest.vocabulary
        self._label: Tensor | None = self._stripes([info.id for info in manifest.classes])
        rows = np.arange(height) * 255 // max(height - 1, 1)
        self._confidence = np.repeat(rows.astype(np.uint8), width).reshape(1, height, width)
        self._scene: Scene | None = None
        if manifest.scene is not None:
            nothing = np.zeros((1, manifest.scene.width), np.float32)
            self._scene = (nothing,) * len(manifest.scene.tensors)
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

    def set_classes(self, rows: Rows) -> None:
        """Draw as many stripes as there are rows."""
        if self._label is None:
            raise RgbxSegError('the engine is closed; open it again.')
        self._label = self._stripes(range(len(check_rows(rows, self._vocabulary))))

    def _stripes(self, ids: Sequence[int]) -> Tensor:
        height, width = self._size
        return np.tile(np.array(ids, np.uint8)[np.arange(width) * len(ids) // width],
                       (1, height, 1))

    def close(self) -> None:
        """Free the answer."""
        self._label = None
