# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Weather of a scene, and what its surfaces are made of: color, temperature, emissivity, gloss."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Color = tuple[float, float, float]
BLACK: Color = (0.0, 0.0, 0.0)
SKIN_K = 306.0

Generator = np.random.Generator


class Weather(NamedTuple):
    """What holds for the whole scene; temperatures in kelvin, light relative to a clear noon."""

    night: bool
    ambient: float
    cloud: float  # 0 clear, 1 overcast
    sun: float  # direct light
    sun_direction: tuple[float, float, float]
    sky_light: float
    fog: float  # extinction per meter in the visible
    wet: float  # 0 dry, 1 wet road
    exposure: float  # stops off the right exposure
    headlights: float  # of the ego car
    sky_drop: float  # kelvin that the zenith is below ambient
    heat_left: float  # kelvin that asphalt is above ambient


class Material(NamedTuple):
    """One surface; `glow` is emitted light, `grain` the relative texture, `grain_k` in kelvin."""

    label: int
    albedo: Color
    kelvin: float
    emissivity: float = 0.95
    gloss: float = 0.03
    glow: Color = BLACK
    grain: float = 0.12
    grain_k: float = 0.3
    visible: bool = True  # False: counts in the label only (the gaps of a bicycle)


class MaterialTable(NamedTuple):
    """The materials of a scene as arrays by material number."""

    label: NDArray[np.int64]
    albedo: NDArray[np.float32]
    kelvin: NDArray[np.float64]
    emissivity: NDArray[np.float64]
    gloss: NDArray[np.float64]
    glow: NDArray[np.float32]
    grain: NDArray[np.float32]
    grain_k: NDArray[np.float32]
    visible: NDArray[np.bool_]


class Materials:
    """Collects the materials of a scene; `add` returns the number to paint with."""

    def __init__(self, weather: Weather, rng: Generator) -> None:
        """Start empty; `rng` varies what `add` is given by the caller."""
        self.weather = weather
        self.rng = rng
        self._items: list[Material] = [Material(0, BLACK, weather.ambient)]

    def add(self, label: int, albedo: Color, warmer: float, **others: object) -> int:
        """Add a surface that is `warmer` kelvin above the air."""
        self._items.append(Material(label, albedo, self.weather.ambient + warmer, **others))  # type: ignore[arg-type]
        return len(self._items) - 1

    def between(self, low: float, high: float) -> float:
        """Return a random number of this scene."""
        return float(self.rng.uniform(low, high))

    def gray(self, low: float, high: float, tint: float = 0.02) -> Color:
        """Return a random near-gray color."""
        level = self.rng.uniform(low, high)
        red, green, blue = np.clip(level + self.rng.uniform(-tint, tint, 3), 0.01, 0.95)
        return float(red), float(green), float(blue)

    def table(self) -> MaterialTable:
        """Return all materials as arrays."""
        columns = list(zip(*self._items, strict=True))
        kinds = (
            np.int64,
            np.float32,
            np.float64,
            np.float64,
            np.float64,
            np.float32,
            np.float32,
            np.float32,
            np.bool_,
        )
        return MaterialTable(*(np.array(c, dtype=k) for c, k in zip(columns, kinds, strict=True)))


def draw_weather(rng: Generator, night: bool) -> Weather:
    """Draw the weather; at night the road still holds the heat of the day, the sky is cold."""
    cloud = float(rng.uniform(0, 1) ** 1.3)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1.2)
    direction = (
        float(np.cos(elevation) * np.sin(azimuth)),
        float(np.sin(elevation)),
        float(np.cos(elevation) * np.cos(azimuth)),
    )
    sun = 0.0 if night else float(rng.uniform(0.5, 1.0) * (1 - cloud) ** 0.7)
    foggy = rng.random() < (0.2 if night else 0.15)
    wet = float(rng.uniform(0.4, 1.0)) if rng.random() < 0.2 else 0.0
    return Weather(
        night=night,
        ambient=float(rng.uniform(258, 300) if night else rng.uniform(263, 306)),
        cloud=cloud,
        sun=sun,
        sun_direction=direction,
        sky_light=float(10 ** rng.uniform(-4.2, -3.2)) if night else float(rng.uniform(0.3, 0.6)),
        fog=float(rng.uniform(0.01, 0.04)) if foggy else float(rng.uniform(0, 0.002)),
        wet=wet,
        exposure=float(rng.uniform(-0.5, 0.5))
        if night or rng.random() > 0.15
        else float(rng.uniform(0.7, 1.5)),
        headlights=float(rng.uniform(0.3, 1.0)) if night and rng.random() < 0.3 else 0.0,
        sky_drop=float(6 + 24 * (1 - cloud)),
        heat_left=float(rng.uniform(1.5, 6.0) * (1 - 0.6 * wet))
        if night
        else 2 + float(sun * rng.uniform(8, 22) * (1 - 0.8 * wet)),
    )
