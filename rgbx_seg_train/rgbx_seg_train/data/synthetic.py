# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Procedural road scenes with the nine MFNet classes, seen by RGB and five other sensors.

A seed gives one scene: its layout, weather, materials and cameras. `Scene.render` paints it at a
time, so that clips move. The same arguments give the same bytes on the same machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES, AuxEncoding, ClassInfo
from rgbx_seg_train.data import synthetic_sensors as sensors
from rgbx_seg_train.data.synthetic_geometry import Array, Camera, look, rasterize
from rgbx_seg_train.data.synthetic_layout import Layout, draw_layout, ground_shadows
from rgbx_seg_train.data.synthetic_materials import Materials, draw_weather

CLASSES: tuple[ClassInfo, ...] = tuple(
    ClassInfo(number, name, color)
    for number, (name, color) in enumerate(
        (
            ('unlabeled', (0, 0, 0)),
            ('car', (64, 0, 128)),
            ('person', (64, 64, 0)),
            ('bike', (0, 128, 192)),
            ('curve', (0, 0, 192)),
            ('car_stop', (128, 128, 0)),
            ('guardrail', (64, 64, 128)),
            ('color_cone', (192, 128, 128)),
            ('bump', (192, 64, 0)),
        )
    )
)  # ids, names and palette of MFNet

ENCODINGS = {
    'thermal': AuxEncoding(1, 'percentile', 5.0, 99.7, 5.0, 'K', 0.01, 0.0),
    'depth': AuxEncoding(1, 'fixed', 0.0, 40.0, 0.0, 'm', 0.001, 0.0),  # integers: mm, REP-118
    'event': AuxEncoding(1, 'fixed', -4.0, 4.0, 0.0, 'counts', 1.0, 0.0),
    'polarization': AuxEncoding(3, 'fixed', -1.0, 1.0, 0.0, '1', 1.0, 0.0),
    'lightfield': AuxEncoding(3, 'fixed', 0.0, 255.0, 0.0, 'counts', 1.0, 0.0),
}
EVENT_WINDOW_S = 0.033
LIGHTFIELD_BASELINE_M = 0.15
STREAMS = {
    'layout': 1,
    'weather': 2,
    'cameras': 3,
    'rgb': 4,
    'thermal': 5,
    'pattern': 6,
    'depth': 7,
    'event': 8,
    'polarization': 9,
    'lightfield': 10,
}


@dataclass(frozen=True)
class Rendered:
    """One instant of a scene; a sensor that was not asked for is None.

    rgb uint8 (H, W, 3); thermal uint16 (H, W), 0.01 K per count; depth float32 (H, W) in meters,
    0 invalid; event float32 (H, W), signed counts over the last 33 ms; polarization float32
    (H, W, 3), [DoLP, sin 2AoLP, cos 2AoLP]; lightfield uint8 (H, W, 3), the view 0.15 m to the
    right; label uint8 (H, W), MFNet ids.
    """

    rgb: NDArray[np.uint8]
    label: NDArray[np.uint8]
    night: bool
    seed: int
    thermal: NDArray[np.uint16] | None = None
    depth: NDArray[np.float32] | None = None
    event: NDArray[np.float32] | None = None
    polarization: NDArray[np.float32] | None = None
    lightfield: NDArray[np.uint8] | None = None


def aux_encoding(modality: str) -> AuxEncoding:
    """Return how the raw images of a modality become the uint8 that a network reads."""
    return _lookup(ENCODINGS, modality)


def _lookup(table: dict[str, Any], modality: str) -> Any:
    if modality not in table:
        raise RgbxSegError(
            f'modality is {modality!r}, expected one of {", ".join(MODALITIES)}; pick one of these'
        )
    return table[modality]


class Scene:
    """The scene of a seed; `night` overrules the half of the seeds that are night."""

    def __init__(self, seed: int, night: bool | None = None) -> None:
        """Draw layout, weather and cameras from the seed (an integer of at least 0)."""
        if seed < 0:
            raise RgbxSegError(f'seed is {seed}, expected an integer of at least 0; pick another')
        self.seed = int(seed)
        rng = self._stream('weather')
        drawn = bool(rng.random() < 0.5)
        self.night = drawn if night is None else bool(night)
        self.weather = draw_weather(rng, self.night)
        self.cameras = sensors.draw_cameras(self._stream('cameras'))
        paint = Materials(self.weather, self._stream('layout'))
        self.layout: Layout = draw_layout(paint)
        self.materials = paint.table()
        calibration = self._stream('pattern')
        self._shutter = calibration.uniform(
            (2.0, 0.25, 0.5), (6.0, 0.5, 2.0)
        )  # period, hold, first

    def thermal_time(self, time_s: float) -> float:
        """Return when the thermal image shown at `time_s` was taken: a shutter freezes it."""
        period, hold, first = self._shutter
        since = (time_s - first) % period
        return time_s - since if time_s >= first and since < hold else time_s

    def render(
        self, time_s: float = 0.0, height: int = 480, width: int = 640, modality: str | None = None
    ) -> Rendered:
        """Render RGB, label and one modality (all five where it is None) at a time in seconds."""
        wanted = MODALITIES if modality is None else (modality,)
        painters = {name: _lookup(PAINTERS, name) for name in wanted}
        view = self._view(time_s, height, width)
        light = sensors.luminance(view)
        images = {name: paint(self, view, light, time_s) for name, paint in painters.items()}
        rgb = sensors.rgb_image(view, light, self._stream('rgb', time_s))
        return Rendered(
            rgb=rgb, label=view.raster.label, night=self.night, seed=self.seed, **images
        )

    def _stream(self, name: str, time_s: float | None = None) -> np.random.Generator:
        tick = [] if time_s is None else [round(time_s * 1e6) & 0xFFFFFFFF]
        return np.random.Generator(np.random.SFC64([self.seed, STREAMS[name], *tick]))

    def _camera(self, time_s: float, height: int, width: int, shift: float) -> Camera:
        lay = self.layout
        z = lay.ego_speed * time_s
        x = lay.ego_x + float(lay.road.middle(z)) + shift
        bob = 0.015 * np.sin(7.0 * time_s) * min(lay.ego_speed, 1.0)
        return look(
            np.array([x, lay.eye_height + bob, z]),
            lay.yaw + lay.road.heading(z),
            lay.pitch + 0.2 * bob,
            lay.focal * width,
            height,
            width,
        )

    def _view(self, time_s: float, height: int, width: int, shift: float = 0.0) -> sensors.View:
        camera = self._camera(time_s, height, width, shift)
        meshes = [
            *self.layout.still,
            *(a.mesh(time_s, camera.position) for a in self.layout.agents),
        ]
        raster = rasterize(meshes, camera, self.materials.label, self.materials.visible)
        inverse = sensors.inverse_depth(raster, camera)
        detail = sensors.world_detail(camera, inverse, self.cameras.detail)
        shadow = ground_shadows(self.layout, raster, camera, time_s, self.weather)
        return sensors.View(
            camera,
            raster,
            self.materials,
            self.weather,
            self.cameras,
            inverse,
            detail,
            shadow,
            self.layout.lamps,
        )


def _thermal(scene: Scene, view: sensors.View, _light: Array, time_s: float) -> NDArray[np.uint16]:
    frozen = scene.thermal_time(time_s)
    if frozen != time_s:
        view = scene._view(frozen, view.camera.height, view.camera.width)
    return sensors.thermal_image(view, scene._stream('thermal', frozen), scene._stream('pattern'))


def _depth(scene: Scene, view: sensors.View, _light: Array, time_s: float) -> NDArray[np.float32]:
    return sensors.depth_image(view, scene._stream('depth', time_s))


def _event(scene: Scene, view: sensors.View, light: Array, time_s: float) -> NDArray[np.float32]:
    before = scene._view(time_s - EVENT_WINDOW_S, view.camera.height, view.camera.width)
    return sensors.event_image(
        sensors.luminance(before), light, scene.weather.exposure, scene._stream('event', time_s)
    )


def _polarization(
    scene: Scene, view: sensors.View, _light: Array, time_s: float
) -> NDArray[np.float32]:
    return sensors.polarization_image(view, scene._stream('polarization', time_s))


def _lightfield(
    scene: Scene, view: sensors.View, _light: Array, time_s: float
) -> NDArray[np.uint8]:
    side = scene._view(time_s, view.camera.height, view.camera.width, LIGHTFIELD_BASELINE_M)
    return sensors.rgb_image(side, sensors.luminance(side), scene._stream('lightfield', time_s))


PAINTERS: dict[str, Callable] = {
    'thermal': _thermal,
    'depth': _depth,
    'event': _event,
    'polarization': _polarization,
    'lightfield': _lightfield,
}
