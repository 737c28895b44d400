# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The steps from two decoded images to a segmentation; the node and the bag evaluator share them.

aux to uint8 as in training, aux onto the RGB grid, network, threshold and smoothing of the mask. A
pipeline belongs to one camera pair, for it remembers: the range of the thermal image, the maps of
the registration, the mask before, what the scene is like.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.registration import Registration, RegistrationConfig
from rgbx_seg_ros.scene import SceneMemory
from rgbx_seg_ros.segmenter import Segmentation, Segmenter
from rgbx_seg_ros.smoothing import MaskSmoother
from rgbx_seg_ros.thermal import AuxConfig, AuxFrontEnd

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PipelineConfig:
    """What a camera pair does with its images before the network."""

    aux: AuxConfig = field(default_factory=AuxConfig)
    registration: RegistrationConfig = field(default_factory=RegistrationConfig)


class Prepared(NamedTuple):
    """One pair as the network gets it, but for the size of RGB."""

    rgb: Image  # (H, W, 3); zeros where the camera is lost
    aux: Image  # (h, w) or (h, w, C); valid until the next call
    present: tuple[bool, bool]  # whether there was an image of rgb, of aux
    thermal_ms: float
    registration_ms: float


class Processed(NamedTuple):
    """One pair after all steps, and what they took."""

    rgb: Image  # (H, W, 3)
    aux: Image  # what the network sees, (h, w) or (h, w, C); valid until the next call
    result: Segmentation
    thermal_ms: float
    registration_ms: float


class Pipeline:
    """Runs the pairs of two cameras. Not thread-safe: the engine's thread owns it."""

    def __init__(self, segmenter: Segmenter, config: PipelineConfig | None = None) -> None:
        """Take an open segmenter, which other pipelines may share."""
        config, manifest = config or PipelineConfig(), segmenter.manifest
        self.segmenter = segmenter
        self.front_end = AuxFrontEnd(manifest.aux, config.aux)
        self.registration = Registration(
            replace(config.registration, aux_name=manifest.modality))
        self._aux_size = segmenter.aux_size
        self._smoother: MaskSmoother | None = None
        self._every = manifest.scene.every if manifest.scene is not None else 0
        self._scene = SceneMemory(self._every) if self._every else None
        self._present = (True, True)  # which cameras the scene was seen by
        self._unheeded = False
        self._rgb_size = segmenter.rgb_size

    def __call__(self, rgb: Image | None, aux: NDArray[Any] | None, encoding: str, stamp_ns: int,
                 depth: NDArray[np.float32] | None = None, min_confidence: float = 0.0,
                 smoothing_s: float = 0.0, scene_every: int = 0) -> Processed:
        """Segment RGB uint8 (H, W, 3) and raw aux (h, w) or (h, w, 3) as `images.decode` gives it.

        A lost camera is None: the network gets zeros in its place, as training's dropout has them.
        `encoding` is that of the aux message, `depth` float32 (H, W) in meters on the RGB grid.
        The scene graph of a bundle that has one runs every `scene_every` pairs (0: as it says).
        """
        prepared = self.prepare(rgb, aux, encoding, stamp_ns, depth)
        return self.finish(prepared, stamp_ns, min_confidence, smoothing_s, scene_every)

    def prepare(self, rgb: Image | None, aux: NDArray[Any] | None, encoding: str, stamp_ns: int,
                depth: NDArray[np.float32] | None = None) -> Prepared:
        """Do what comes before the network; the next pair may be prepared while this one is in it.

        The arguments are those of a call.
        """
        began = time.perf_counter()
        present = rgb is not None, aux is not None
        if rgb is None:
            rgb = np.zeros((*self._rgb_size, 3), np.uint8)
        self._rgb_size = rgb.shape[:2]
        if aux is None:
            channels = self.segmenter.manifest.aux.channels
            aux = np.zeros((*self._aux_size, channels)[:2 if channels == 1 else 3], np.uint8)
            normalized = registered = time.perf_counter()
        else:
            aux = self.front_end(aux, encoding, stamp_ns)
            normalized = time.perf_counter()
            # Straight to the network's size: three times cheaper than onto the whole RGB grid.
            aux = self.registration.apply(aux, self._rgb_size, depth, self._aux_size)
            registered = time.perf_counter()
        return Prepared(rgb, aux, present, (normalized - began) * 1e3,
                        (registered - normalized) * 1e3)

    def finish(self, prepared: Prepared, stamp_ns: int, min_confidence: float = 0.0,
               smoothing_s: float = 0.0, scene_every: int = 0) -> Processed:
        """Run the network on a pair that was prepared, and what comes after it."""
        scene = self._memory(scene_every, prepared.present)
        rgb, aux, _, thermal_ms, registration_ms = prepared
        result = self.segmenter(rgb, aux, min_confidence, self._smoothing(smoothing_s), stamp_ns,
                                scene)
        return Processed(rgb, aux, result, thermal_ms, registration_ms)

    def notes(self) -> list[str]:
        """Return sentences on what is probably wrong; some are returned once, some each time."""
        notes = [*self.front_end.notes(), self.registration.warning()]
        if self._unheeded:
            notes.append('scene.every has no effect: the bundle is one graph; export it with '
                         'export.scene_every above 0, or set scene.every to 0.')
        return [note for note in notes if note]

    def forget_labels(self) -> None:
        """Forget the masks before, whose ids meant other classes."""
        if self._smoother is not None:
            self._smoother.reset()

    def _memory(self, every: int, present: tuple[bool, bool]) -> SceneMemory | None:
        """Return the memory of the scene, which forgets when a camera is lost or comes back."""
        self._unheeded = every > 0 and self._scene is None
        if self._scene is None:
            return None
        self._scene.every = every or self._every
        # Zeros in place of an image have an embedding of their own, which describes no scene; and
        # the network has never met the one of an image together with zeros for that image.
        if present != self._present:
            self._present = present
            self._scene.reset()
        return self._scene

    def _smoothing(self, time_constant_s: float) -> MaskSmoother | None:
        if time_constant_s <= 0:
            self._smoother = None
        elif self._smoother is None or self._smoother.time_constant_s != time_constant_s:
            self._smoother = MaskSmoother(time_constant_s)
        return self._smoother
