# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Aux images on the RGB camera's pixel grid, by a homography, a calibration or depth images.

For each RGB pixel the place in the aux image is computed once per sizes and cameras (with depth:
once per frame); a frame then costs one remap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.calibration import (
    Extrinsics,
    Homography,
    load_extrinsics,
    load_homography,
)
from rgbx_seg_ros.camera import FAR, Camera, Transform
from rgbx_seg_ros.places import DepthPlaces, Flat, Grid, Rig

Array = NDArray[Any]
Image = NDArray[np.uint8]
Size = tuple[int, int]  # width, height

MODES = ('none', 'homography', 'calibrated', 'depth')
OVERSAMPLING = 1.5  # places per aux pixel that keep its detail
WORTH_GROWING = 0.7  # of the RGB image's width; remapping all of it costs less above
MIN_COVERAGE = 0.2  # of the RGB image; below, the calibration is wrong rather than the rig odd
MAX_STRETCH = 1.02  # of width against height


@dataclass(frozen=True)
class RegistrationConfig:
    """How aux images come onto the RGB grid."""

    mode: str = 'none'  # none | homography | calibrated | depth
    file: Path | None = None  # homography or extrinsics, see docs/registration.md
    distance_m: float = 5.0  # z of the scene, where neither plane nor depth is known
    aux_name: str = 'aux'  # the modality, as topics are named

    def __post_init__(self) -> None:
        """Refuse unknown modes and impossible distances."""
        if self.mode not in MODES:
            raise RgbxSegError(f'registration.mode is "{self.mode}"; expected one of '
                               f'{", ".join(MODES)}.')
        if self.mode == 'homography' and self.file is None:
            raise RgbxSegError('registration.file is empty; expected the file of a homography; '
                               'estimate one with `rgbx_register`.')
        if not 0.01 <= self.distance_m <= 1e6:
            raise RgbxSegError(f'registration.distance is {self.distance_m}; expected 0.01 to '
                               '1000000 meters.')


class Plan(NamedTuple):
    """What one combination of sizes and cameras needs per frame."""

    maps: tuple[Array, Array]  # float32; their size is grown to that of the RGB image afterwards
    aux_size: Size  # the aux image is shrunk to this first
    coverage: float
    depth: DepthPlaces | None


class Registration:
    """Brings aux images onto the RGB grid; `apply` belongs to one thread.

    The cameras and extrinsics may be set at any time, by another thread too; new values take
    effect with the next frame. What the file says goes before what is set.
    """

    def __init__(self, config: RegistrationConfig) -> None:
        """Read the file that `config` names; raises RgbxSegError."""
        self.config = config
        self.rgb_camera: Camera | None = None
        self.aux_camera: Camera | None = None
        self.extrinsics: Transform | None = None
        self._homography: Homography | None = None
        self._file = Extrinsics(None, None, None, None)
        if config.file is not None and config.mode == 'homography':
            self._homography = load_homography(config.file)
        elif config.file is not None and config.mode != 'none':
            self._file = load_extrinsics(config.file)
        self._key: tuple[Any, ...] = ()
        self._plan: Plan | None = None
        self._stretched = ''
        self._memory: dict[str, Image] = {}

    @property
    def coverage(self) -> float:
        """The share of RGB pixels (0..1) that the aux camera saw in the last frame's setup."""
        return self._plan.coverage if self._plan else 1.0

    @property
    def needs_extrinsics(self) -> bool:
        """Whether `extrinsics` must be set, because no file has them."""
        return self.config.mode in ('calibrated', 'depth') and self._file.motion is None

    def missing(self) -> str:
        """Return what `apply` waits for, in one sentence; '' when it is ready."""
        if self.config.mode in ('none', 'homography'):
            return ''
        rgb, aux, motion = self._setup()
        if rgb is None or aux is None:
            name = 'rgb' if rgb is None else self.config.aux_name
            return f'registration waits for {name}/camera_info.'
        if motion is None:
            return (f'registration waits for a transform from {rgb.frame_id or "(no name)"} to '
                    f'{aux.frame_id or "(no name)"} on /tf_static, or in registration.file.')
        return ''

    def warning(self) -> str:
        """Return what is probably wrong with the calibration, in one sentence; '' if nothing."""
        if self._plan is None or self._plan.coverage >= MIN_COVERAGE:
            return self._stretched
        return (f'the {self.config.aux_name} camera sees {self.coverage:.0%} of the RGB image; '
                f'expected at least {MIN_COVERAGE:.0%}; check the calibration (registration.file, '
                'camera_info, /tf_static).')

    def apply(self, aux: Image, rgb_size: tuple[int, int], depth: Array | None = None,
              size: tuple[int, int] | None = None) -> Image:
        """Return aux uint8 (h, w) or (h, w, C) as (H, W) or (H, W, C), 0 where it sees nothing.

        `rgb_size` is (H, W) of the RGB image. `size`, if given, is the size of the result instead:
        that of the network, to which the RGB image is resized as a whole, saves a resize. `depth`
        is float32 meters on the RGB grid, of any size. The result is valid until the next call:
        consume or copy it. Mode none returns `aux` itself. Raises RgbxSegError while something is
        missing.
        """
        if self.config.mode == 'none':
            return aux
        height, width = size or rgb_size
        plan = self._planned(rgb_size[::-1], (width, height), (aux.shape[1], aux.shape[0]))
        aux = self._resized('aux', aux, plan.aux_size, cv2.INTER_AREA)
        maps = plan.maps if depth is None or plan.depth is None else plan.depth(_checked(depth))
        out = self._reused('out', maps[0].shape, aux)
        cv2.remap(aux, *maps, cv2.INTER_LINEAR, out)
        return self._resized('grown', out, (width, height), cv2.INTER_LINEAR)

    def _setup(self) -> tuple[Camera | None, Camera | None, Transform | None]:
        return (self._file.rgb or self.rgb_camera, self._file.aux or self.aux_camera,
                self._file.motion or self.extrinsics)

    def _planned(self, rgb_size: Size, size: Size, aux_size: Size) -> Plan:
        setup = self._setup()
        key = (rgb_size, size, aux_size, *setup)
        if self._plan is None or key != self._key:
            if missing := self.missing():
                raise RgbxSegError(missing)
            self._stretched = self._find_stretch(rgb_size, aux_size, *setup[:2])
            self._plan = self._make(size, aux_size, *setup)
            self._key = key
        return self._plan

    def _make(self, rgb_size: Size, aux_size: Size, *setup: Any) -> Plan:
        """Compute the maps, at sizes that neither alias nor sample what holds no detail."""
        density = _density(self._model(rgb_size, aux_size, *setup), rgb_size, aux_size)
        if density >= 2:
            aux_size = _scaled(aux_size, 1 / int(density))
        elif OVERSAMPLING * density < WORTH_GROWING:
            rgb_size = _scaled(rgb_size, OVERSAMPLING * density)
        grid = Grid(rgb_size, max(4, rgb_size[0] // 240))  # those between are interpolated
        model = self._model(rgb_size, aux_size, *setup)
        u, v = grid.expand(model.places(grid.x, grid.y))
        seen = np.ones(u.shape, bool)
        for place, side in zip((u, v), aux_size, strict=True):
            seen &= (place >= -0.5) & (place <= side - 0.5)
            # The outer half of a border pixel has its value, not a mixture with what is not seen.
            np.clip(place, 0, side - 1, out=place)
        u[~seen] = FAR
        depth = None
        if self.config.mode == 'depth' and isinstance(model, Rig):
            depth = DepthPlaces(model, rgb_size)
        return Plan((u, v), aux_size, float(seen.mean()), depth)

    def _model(self, rgb_size: Size, aux_size: Size, *setup: Any) -> Flat | Rig:
        if self._homography is not None:
            return Flat(self._homography, rgb_size, aux_size)
        rgb, aux, motion = setup
        plane = self._file.plane or (0.0, 0.0, 1.0, self.config.distance_m)
        return Rig(rgb.scaled(*rgb_size), aux.scaled(*aux_size), motion, plane)

    def _find_stretch(self, rgb_size: Size, aux_size: Size, *cameras: Any) -> str:
        known = ((self._homography.rgb_size, self._homography.aux_size) if self._homography
                 else [(camera.width, camera.height) for camera in cameras])
        for name, size, was in zip(('rgb', self.config.aux_name), (rgb_size, aux_size), known,
                                   strict=True):
            stretch = size[0] * was[1] / (size[1] * was[0])
            if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
                return (f'{name} images are {size[0]}x{size[1]}, but calibrated at '
                        f'{was[0]}x{was[1]}; expected the same shape; if the driver crops them, '
                        'let it fill the roi of camera_info, or calibrate again.')
        return ''

    def _resized(self, use: str, image: Image, size: Size, method: int) -> Image:
        if (image.shape[1], image.shape[0]) == size:
            return image
        out = self._reused(use, (size[1], size[0]), image)
        return cv2.resize(image, size, out, 0, 0, method)

    def _reused(self, use: str, shape: tuple[int, ...], like: Image) -> Image:
        shape = (*shape, *like.shape[2:])
        if use not in self._memory or self._memory[use].shape != shape:
            self._memory[use] = np.empty(shape, np.uint8)
        return self._memory[use]


def _density(model: Flat | Rig, rgb_size: Size, aux_size: Size) -> float:
    """Return the median distance, in aux pixels, of the places of neighboring RGB pixels."""
    step = 1 + max(rgb_size) // 40
    grid = Grid(rgb_size, step)
    u, v = model.places(grid.x, grid.y)
    ux, uy, vx, vy = (np.diff(a, axis=axis)[:a.shape[0] - 1, :a.shape[1] - 1]
                      for a in (u, v) for axis in (1, 0))
    seen = (u >= 0) & (u < aux_size[0]) & (v >= 0) & (v < aux_size[1])
    area = np.abs(ux * vy - uy * vx)[seen[:-1, :-1] & seen[1:, 1:]]
    return math.sqrt(float(np.median(area))) / step if area.size else 1.0


def _scaled(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _checked(depth: Array) -> Array:
    if depth.ndim != 2 or depth.dtype != np.float32 or depth.size == 0:
        raise RgbxSegError(f'depth is {depth.dtype} {depth.shape}; expected float32 (H, W), in '
                           'meters.')
    return depth
