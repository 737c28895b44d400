# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The ground: the road, its marks, curbs and speed bumps, and shadows on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rgbx_seg_train.data.synthetic_agents import BUMP, CURVE
from rgbx_seg_train.data.synthetic_geometry import ROUND, Array, Mesh, place
from rgbx_seg_train.data.synthetic_materials import Color, Materials

ORIGIN = np.zeros(3)
STEPS = np.concatenate([np.arange(-2.0, 20.0, 2.0), np.arange(20.0, 60.0, 5.0), [60, 75, 90, 120]])


class Road(NamedTuple):
    """The road: left and right edge from the center line (m), and its bend (1/m)."""

    left: float
    right: float
    bend: float

    def middle(self, z: float | Array) -> float | Array:
        """Return X of the center line at Z."""
        return 0.5 * self.bend * np.square(z)

    def heading(self, z: float) -> float:
        """Return the direction of the road at Z (radians, right positive)."""
        return float(np.arctan(self.bend * z))


def strip(
    road: Road,
    left: float,
    right: float,
    start: float = -2.0,
    end: float = 120.0,
    y_left: float = 0.0,
    y_right: float = 0.0,
) -> list[Array]:
    """Return quads along the road between two offsets, with heights of both borders."""
    inner = STEPS[(start < STEPS) & (end > STEPS)]
    z = np.concatenate([[start], inner, [end]])
    x = np.asarray(road.middle(z))
    a = np.column_stack([x + left, np.full_like(z, y_left), z])
    b = np.column_stack([x + right, np.full_like(z, y_right), z])
    return [np.array([a[i], b[i], b[i + 1], a[i + 1]]) for i in range(len(z) - 1)]


def ground_mesh(parts: list[tuple[list[Array], int]]) -> Mesh:
    """Join (faces, material) into one mesh that is painted first, in the order given."""
    faces = [face for group, _ in parts for face in group]
    materials = [material for group, material in parts for _ in group]
    return Mesh(faces, materials, [0] * len(faces), ORIGIN, ground=True)


def surfaces(paint: Materials, road: Road) -> list[tuple[list[Array], int]]:
    """The land beside the road, the road, its lane marks, patches, manholes and puddles."""
    weather, u = paint.weather, paint.between
    heat = weather.heat_left
    dark = 1 - 0.45 * weather.wet
    asphalt = paint.gray(0.06 * dark, 0.2 * dark, 0.01)
    sides = {
        'grass': (
            (u(0.04, 0.1), u(0.09, 0.18), u(0.02, 0.05)),
            -2.5 if weather.night else 0.25 * heat,
            0.35,
            1.2,
        ),
        'pavement': (paint.gray(0.18, 0.42, 0.04), heat * u(0.5, 0.8), 0.12, 0.4),
        'soil': ((u(0.15, 0.3), u(0.12, 0.2), u(0.06, 0.12)), heat * u(0.3, 0.7), 0.25, 0.8),
    }
    parts: list[tuple[list[Array], int]] = []
    wide = [np.array([(-300, 0, -5), (300, 0, -5), (300, 0, 300), (-300, 0, 300.0)])]
    for side in (-1, 1):
        color, warmer, grain, grain_k = sides[str(paint.rng.choice(list(sides)))]
        number = paint.add(0, color, warmer, grain=grain, grain_k=grain_k)
        if side < 0:
            parts.append((wide, number))
        else:
            parts.append((strip(road, road.right, road.right + 150), number))
    gloss = 0.08 + 0.5 * weather.wet
    tar = paint.add(0, asphalt, heat, gloss=gloss, grain=u(0.1, 0.3), grain_k=u(0.3, 0.8))
    parts.append((strip(road, road.left, road.right), tar))
    white: Color = (
        (u(0.5, 0.8),) * 3 if paint.rng.random() < 0.8 else (u(0.5, 0.7), u(0.4, 0.5), 0.08)
    )
    mark = paint.add(
        0, white, heat - u(0, 0.8) * (2.5 if weather.sun > 0.3 else 1), gloss=gloss, grain=0.2
    )
    if paint.rng.random() < 0.8:
        parts.append((_dashes(paint, road), mark))
    for offset in (road.left + 0.35, road.right - 0.45):
        if paint.rng.random() < 0.45:
            parts.append((strip(road, offset, offset + 0.13), mark))
    if paint.rng.random() < 0.25:
        parts.append((_zebra(paint, road), mark))
    return parts + _patches(paint, road, asphalt, gloss)


def _dashes(paint: Materials, road: Road) -> list[Array]:
    shift, faces = paint.between(0, 6), []
    for start in np.arange(shift - 4, 60, 7.0):
        faces += strip(road, -0.08, 0.08, start, start + 3)
    return faces


def _zebra(paint: Materials, road: Road) -> list[Array]:
    start, faces = paint.between(5, 20), []
    for left in np.arange(road.left + 0.4, road.right - 0.6, 1.0):
        faces += strip(road, left, left + 0.5, start, start + 3)
    return faces


def _patches(
    paint: Materials, road: Road, asphalt: Color, gloss: float
) -> list[tuple[list[Array], int]]:
    u, heat, parts = paint.between, paint.weather.heat_left, []
    for _ in range(paint.rng.integers(0, 4)):
        z, left = u(4, 30), u(road.left, road.right - 1)
        shade = u(0.6, 1.5)
        color: Color = (asphalt[0] * shade, asphalt[1] * shade, asphalt[2] * shade)
        number = paint.add(0, color, heat + u(-0.8, 0.8), gloss=gloss)
        parts.append((strip(road, left, left + u(0.6, 2), z, z + u(1, 5)), number))
    for kind, chance in (('manhole', 0.35), ('puddle', 0.5 * (paint.weather.wet > 0) + 0.05)):
        if paint.rng.random() < chance:
            z, x, radius = u(4, 18), u(road.left + 0.6, road.right - 0.6), u(0.35, 0.45)
            stretch = 1.0 if kind == 'manhole' else u(1.5, 3.5)
            x += float(road.middle(z))
            disc = np.column_stack(
                [
                    x + radius * stretch * np.cos(ROUND),
                    np.zeros(16),
                    z + radius * stretch * np.sin(ROUND),
                ]
            )
            number = (
                paint.add(0, (0.1, 0.1, 0.1), heat + u(-2, 5), emissivity=0.9, gloss=0.15)
                if kind == 'manhole'
                else paint.add(
                    0, (0.05, 0.055, 0.06), heat * 0.2, emissivity=0.9, gloss=0.8, grain=0.02
                )
            )
            parts.append(([disc], number))
    return parts


def curb(
    paint: Materials, road: Road, side: int, start: float, end: float
) -> list[tuple[list[Array], int]]:
    """A raised curb of concrete along an edge: its face sees the street, its top the sky."""
    u, weather = paint.between, paint.weather
    width, height = u(0.22, 0.42), u(0.12, 0.2)
    other = u(2.0, 4.5) * (-1 if weather.night and paint.rng.random() < 0.85 else 1)
    if weather.sun > 0.2:
        other = -u(2, 7)
    color = paint.gray(0.3, 0.6, 0.03)
    face = paint.add(
        CURVE, tuple(c * 0.75 for c in color), weather.heat_left + other + u(0.3, 1), grain=0.15
    )
    top = paint.add(CURVE, color, weather.heat_left + other, emissivity=0.93, grain=0.15)
    edge = road.left if side < 0 else road.right
    a, b = (edge - width, edge) if side < 0 else (edge, edge + width)
    inner = edge
    heights = (height, 0.0) if side < 0 else (0.0, height)
    vertical = strip(road, inner - 0.01, inner + 0.01, start, end, *heights)
    return [(strip(road, a, b, start, end, height, height), top), (vertical, face)]


def bump(paint: Materials, road: Road, z: float) -> list[tuple[list[Array], int]]:
    """A speed bump across the road, plain or striped, of rubber or asphalt."""
    u, weather = paint.between, paint.weather
    deep, height = u(0.7, 1.3), u(0.07, 0.13)
    other = u(1.5, 4.0) * (-1 if weather.night or paint.rng.random() < 0.5 else 1)
    base = paint.gray(0.03, 0.08)
    first = paint.add(BUMP, base, weather.heat_left + other, grain=0.15)
    bright: Color = (
        (u(0.5, 0.75), u(0.4, 0.6), 0.06) if paint.rng.random() < 0.7 else (0.7, 0.7, 0.68)
    )
    second = paint.add(BUMP, bright, weather.heat_left + other + u(-1.2, 0.2), grain=0.15)
    if paint.rng.random() < 0.25:
        second = first
    left, right = road.left + u(0, 0.4), road.right - u(0, 0.4)
    stripe, x0 = u(0.35, 0.7), float(road.middle(z))
    rows = [(0.0, 0.0), (deep * 0.3, height), (deep * 0.7, height), (deep, 0.0)]
    parts: list[tuple[list[Array], int]] = []
    for i, x in enumerate(np.arange(left, right, stripe)):
        end = min(x + stripe, right)
        faces = [
            np.array(
                [
                    (x0 + x, y0, z + d0),
                    (x0 + end, y0, z + d0),
                    (x0 + end, y1, z + d1),
                    (x0 + x, y1, z + d1),
                ]
            )
            for (d0, y0), (d1, y1) in zip(rows[2::-1], rows[:0:-1], strict=True)
        ]
        parts.append((faces, second if i % 2 else first))
    return parts


def shadow(
    center: Array, width: float, length: float, height: float, sun: Array, heading: float
) -> Array:
    """The shadow polygon of a box on the ground for light that comes from `sun`."""
    w, d = width / 2, length / 2
    foot = place(
        np.array([(-w, 0, -d), (w, 0, -d), (w, 0, d), (-w, 0, d)]), center[0], center[2], heading
    )
    reach = height / max(sun[1], 0.2)
    top = foot - np.array([sun[0], 0, sun[2]]) * reach
    return np.concatenate([foot, top])
