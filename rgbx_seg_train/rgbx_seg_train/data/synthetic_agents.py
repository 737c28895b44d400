# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Things with a place and a speed, and the first of them: cars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rgbx_seg_train.data.synthetic_geometry import (
    ROUND,
    Array,
    Mesh,
    place,
)
from rgbx_seg_train.data.synthetic_materials import Color, Materials

CAR, PERSON, BIKE, CURVE, CAR_STOP, GUARDRAIL, CONE, BUMP = range(1, 9)

PAINTS: tuple[Color, ...] = (
    (0.75, 0.75, 0.76),
    (0.45, 0.46, 0.48),
    (0.03, 0.03, 0.035),
    (0.08, 0.1, 0.3),
    (0.4, 0.03, 0.03),
    (0.2, 0.22, 0.2),
    (0.5, 0.42, 0.1),
    (0.1, 0.25, 0.15),
    (0.9, 0.9, 0.88),
)
# side profiles (share of length, share of height) from the front bumper over the roof to the rear
PROFILES: dict[str, tuple[tuple[float, float], ...]] = {
    'sedan': (
        (0.5, 0.13),
        (0.5, 0.42),
        (0.47, 0.5),
        (0.22, 0.6),
        (0.04, 0.97),
        (-0.2, 1.0),
        (-0.36, 0.64),
        (-0.49, 0.58),
        (-0.5, 0.15),
    ),
    'hatch': (
        (0.5, 0.13),
        (0.5, 0.42),
        (0.46, 0.5),
        (0.24, 0.58),
        (0.06, 0.95),
        (-0.36, 1.0),
        (-0.46, 0.62),
        (-0.5, 0.5),
        (-0.5, 0.15),
    ),
    'van': (
        (0.5, 0.1),
        (0.5, 0.35),
        (0.48, 0.42),
        (0.4, 0.5),
        (0.28, 0.93),
        (-0.46, 1.0),
        (-0.5, 0.55),
        (-0.5, 0.4),
        (-0.5, 0.12),
    ),
}
CAR_SIZES: dict[str, tuple[float, float, float]] = {  # length, width, height
    'sedan': (4.5, 1.8, 1.45),
    'hatch': (3.8, 1.7, 1.5),
    'van': (4.9, 1.95, 2.1),
}


@dataclass(frozen=True)
class Agent:
    """Something at (x, z) with a heading and a speed; `build` makes its mesh."""

    x: float
    z: float
    heading: float
    speed: float
    build: Callable[[float, float, float, Array], Mesh]  # (time, x, z, eye)

    def mesh(self, time_s: float, eye: Array) -> Mesh:
        """Return the mesh at `time_s` as seen from `eye`."""
        way = self.speed * time_s
        return self.build(
            time_s, self.x + way * np.sin(self.heading), self.z + way * np.cos(self.heading), eye
        )


def rigid(
    faces: list[Array],
    materials: list[int],
    layers: list[int],
    x: float,
    z: float,
    heading: float,
    speed: float = 0.0,
    solid: bool = True,
) -> Agent:
    """Make an agent from faces in its own frame (right, up, forward)."""
    middle = np.concatenate(faces).mean(axis=0)

    def build(_time: float, at_x: float, at_z: float, _eye: Array) -> Mesh:
        moved = [place(face, at_x, at_z, heading) for face in faces]
        return Mesh(moved, materials, layers, place(middle, at_x, at_z, heading), solid=solid)

    return Agent(x, z, heading, speed, build)


def car(paint: Materials, x: float, z: float, heading: float, speed: float, running: bool) -> Agent:
    """A car: running, its hood, grille, wheels and exhaust are warm; parked, it follows the sky."""
    kind = str(paint.rng.choice(list(PROFILES)))
    length, width, height = np.array(CAR_SIZES[kind]) * paint.rng.uniform(0.92, 1.08)
    skin = _car_materials(paint, running)
    profile = np.array(PROFILES[kind]) * (length, height)
    half = np.where(profile[:, 1] > 0.7 * height, 0.42, 0.5) * width
    left = np.column_stack([-half, profile[:, 1], profile[:, 0]])
    right = left * (-1, 1, 1)
    faces: list[Array] = [left, right]
    parts = ['body', 'body']
    strip = ['front', 'front', 'hood', 'glass', 'body', 'glass', 'body', 'body', 'under']
    for i, part in enumerate(strip):
        j = (i + 1) % len(profile)
        faces.append(np.array([left[i], right[i], right[j], left[j]]))
        parts.append(part)
    layers = [0] * len(faces)
    for face, part, layer in _car_details(length, width, height, profile):
        faces.append(face)
        parts.append(part)
        layers.append(layer)
    return rigid(faces, [skin[p] for p in parts], layers, x, z, heading, speed)


def _car_details(
    length: float, width: float, height: float, profile: Array
) -> list[tuple[Array, str, int]]:
    """Side windows, wheels, lights, plates and the exhaust, each a little outside the body."""
    found: list[tuple[Array, str, int]] = []
    top, low = profile[4:6, 0] * 0.93, profile[[3, 6], 0] * (0.8, 0.92)
    for side in (-1, 1):
        flat = side * (width / 2 + 0.01)
        slant = side * (width * 0.43)
        middle = (low[0] + low[1]) / 2
        for a in (0, 1):
            edge = middle + (0.05 if a == 0 else -0.05)
            window = [
                (flat, 0.62 * height, low[a]),
                (slant, 0.92 * height, top[a]),
                (slant, 0.92 * height, edge),
                (flat, 0.62 * height, edge),
            ]
            found.append((np.array(window), 'glass', 1))
        radius = 0.21 * height if height < 1.8 else 0.16 * height
        for along in (0.31, -0.31):
            for scale, part, layer in ((1.0, 'tire', 1), (0.6, 'hub', 2)):
                wheel = np.column_stack(
                    [
                        np.full(16, flat * 1.01),
                        radius + radius * scale * np.sin(ROUND),
                        along * length + radius * scale * np.cos(ROUND),
                    ]
                )
                found.append((wheel, part, layer))
    for end, light in ((1, 'headlight'), (-1, 'taillight')):
        z = end * (length / 2 + 0.02)
        for side in (-1, 1):
            found.append((_upright(side * 0.38 * width, 0.42 * height, z, 0.3, 0.16), light, 1))
        found.append((_upright(0, 0.27 * height, z, 0.5, 0.13), 'plate', 1))
    found.append(
        (_upright(0.3 * width, 0.16 * height, -length / 2 - 0.02, 0.14, 0.12), 'exhaust', 2)
    )
    found.append((_upright(0, 0.3 * height, length / 2 + 0.02, 0.55 * width, 0.2), 'grille', 0))
    return found


def _upright(x: float, y: float, z: float, width: float, height: float) -> Array:
    w, h = width / 2, height / 2
    return np.array([(x - w, y - h, z), (x + w, y - h, z), (x + w, y + h, z), (x - w, y + h, z)])


def _car_materials(paint: Materials, running: bool) -> dict[str, int]:
    weather, u = paint.weather, paint.between
    color = PAINTS[paint.rng.integers(len(PAINTS))]
    skin = u(-3.0, -0.5) if weather.night else u(0, 4) + weather.sun * u(3, 14)
    warm = 1.0 if running else 0.0
    lit = 1.0 if weather.night and running else 0.0
    common = {'grain': 0.04, 'grain_k': 0.25}

    def add(
        albedo: Color,
        warmer: float,
        emissivity: float = 0.9,
        gloss: float = 0.3,
        glow: Color = (0, 0, 0),
    ) -> int:
        return paint.add(
            CAR, albedo, warmer, emissivity=emissivity, gloss=gloss, glow=glow, **common
        )

    return {
        'body': add(color, skin + warm * u(0, 2)),
        'hood': add(color, skin + warm * u(5, 18)),
        'front': add(color, skin + warm * u(5, 14)),
        'grille': add((0.02, 0.02, 0.02), skin + warm * u(10, 24), 0.95, 0.1),
        'glass': add((0.04, 0.05, 0.06), skin * 0.5 + warm * u(0, 4), 0.84, 0.6),
        'under': add((0.02, 0.02, 0.02), skin * 0.3 + warm * u(6, 14)),
        'tire': add(
            (0.02, 0.02, 0.02), skin * 0.5 + warm * u(6, 16) + (1 - warm) * u(-1, 1), 0.95, 0.05
        ),
        'hub': add((0.4, 0.4, 0.42), skin * 0.5 + warm * u(10, 26), 0.8, 0.3),
        'headlight': add(
            (0.7, 0.7, 0.7), skin + warm * u(3, 14), 0.9, 0.4, (9 * lit, 8.5 * lit, 7 * lit)
        ),
        'taillight': add(
            (0.35, 0.02, 0.02),
            skin + warm * u(1, 5),
            0.9,
            0.4,
            (u(0.5, 2.0) * lit, 0.03 * lit, 0.02 * lit),
        ),
        'plate': add((0.7, 0.7, 0.65), skin, 0.9, 0.1),
        'exhaust': add((0.1, 0.1, 0.1), skin + warm * u(20, 50), 0.9, 0.1),
    }
