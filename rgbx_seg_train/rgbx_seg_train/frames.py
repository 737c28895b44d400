# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of images exactly as the network gets them on the robot, to calibrate and to compare on.

They go through the robot's own segmenter or pipeline, with a recorder where the network would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import EngineInfo, Scene, Size, Tensor
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.data.sample import Image
from rgbx_seg_train.pairs import PairSet


class Frame(NamedTuple):
    """One pair as the network gets it, and what it should answer."""

    rgb: Tensor  # (1, H, W, 3)
    aux: Tensor  # (1, h, w, C)
    target: Image | None  # ids at the camera's size; None where there is no ground truth


class _Recorder:
    """Stands where the engine would and keeps what it is given."""

    def __init__(self, manifest: Manifest, rgb_size: Size | None) -> None:
        own = manifest.height, manifest.width
        self._size = rgb_size or own
        scene = manifest.scene
        self._scene: Scene = () if scene is None else (
            np.zeros((1, scene.width), np.float32),) * len(scene.tensors)
        self.info = EngineInfo('recorder', '', 'cpu', 'fp32', rgb_size, own)
        self.pair: tuple[Tensor, Tensor]

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        self.pair = rgb.copy(), aux.copy()
        return (np.zeros((1, *self._size), np.uint8),) * 2

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        return self._scene

    def close(self) -> None:
        pass


def record(pairs: PairSet, manifest: Manifest, rgb_size: Size | None = None) -> list[Frame]:
    """Return pairs as a bundle's network gets them, at its size or RGB at `rgb_size`."""
    recorder = _Recorder(manifest, rgb_size)
    return [Frame(*recorder.pair, seen.target)
            for seen in pairs.run(Segmenter(recorder, manifest))]


def refuse_shared(calibration: Sequence[Frame], evaluation: Sequence[Frame]) -> None:
    """Raise if a pair serves both uses: what was calibrated on agrees better than what comes."""
    known = {(frame.rgb.tobytes(), frame.aux.tobytes()) for frame in calibration}
    shared = sum((frame.rgb.tobytes(), frame.aux.tobytes()) in known for frame in evaluation)
    if shared:
        raise RgbxSegError(f'{shared} of the {len(evaluation)} pairs of --evaluate are among those '
                           'of --calibrate; expected others; name another source for one of them.')
