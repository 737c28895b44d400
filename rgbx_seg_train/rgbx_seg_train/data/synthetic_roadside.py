# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What stands beside the road: barriers, cones, buildings, trees, lamps and clutter."""

from __future__ import annotations

import numpy as np

from rgbx_seg_train.data.synthetic_agents import (
    CAR_STOP,
    CONE,
    GUARDRAIL,
    Agent,
    rigid,
)
from rgbx_seg_train.data.synthetic_geometry import ROUND, Array, Mesh, blob, box, capsules
from rgbx_seg_train.data.synthetic_materials import Color, Materials
from rgbx_seg_train.data.synthetic_road import Road


def guardrail(paint: Materials, road: Road, offset: float, start: float, end: float) -> list[Mesh]:
    """A steel barrier: bare metal of low emissivity mirrors the cold sky."""
    u, weather = paint.between, paint.weather
    warmer = u(-3, -1) if weather.night else u(0, 3) + weather.sun * u(2, 8)
    color = paint.gray(0.4, 0.7, 0.03) if paint.rng.random() < 0.8 else (0.75, 0.75, 0.72)
    steel = paint.add(GUARDRAIL, color, warmer, emissivity=u(0.35, 0.65), gloss=0.4, grain=0.08)
    shade = paint.add(
        GUARDRAIL, tuple(c * 0.55 for c in color), warmer, emissivity=u(0.45, 0.7), gloss=0.4
    )
    beams = (
        [(0.42, 0.52, shade), (0.52, 0.66, steel), (0.66, 0.72, shade), (0.72, 0.84, steel)]
        if paint.rng.random() < 0.6
        else [(0.28, 0.36, steel), (0.55, 0.63, steel), (0.86, 0.97, steel)]
    )
    gap, meshes = u(1.6, 2.4), []
    for z in np.arange(start, end, gap):
        x, nx = float(road.middle(z)) + offset, float(road.middle(z + gap)) + offset
        post = np.array(
            [(x - 0.07, 0, z), (x + 0.07, 0, z), (x + 0.07, 0.8, z), (x - 0.07, 0.8, z)]
        )
        faces, kinds, layers = [post], [shade], [0]
        for low, high, kind in beams:
            faces.append(
                np.array([(x, low, z), (nx, low, z + gap), (nx, high, z + gap), (x, high, z)])
            )
            kinds.append(kind)
            layers.append(1)
        meshes.append(Mesh(faces, kinds, layers, np.array([x, 0, z + gap / 2])))
    return meshes


def cone(paint: Materials, x: float, z: float, style: Color, height: float, cold: float) -> Agent:
    """A traffic cone: a light plastic shell that follows the air and the cold sky."""
    color = paint.add(CONE, style, cold, emissivity=0.93, grain=0.06)
    band = paint.add(CONE, (0.8, 0.8, 0.78), cold - 0.6, emissivity=0.9, grain=0.04)
    base = paint.add(CONE, tuple(c * 0.7 for c in style), cold + 0.4)
    foot, radius = height * 0.46, height * 0.17
    faces = box(foot, height * 0.06, foot)
    kinds, layers = [base] * 5, [0] * 5
    cuts = [(0.06, color), (0.38, band), (0.55, color), (0.7, band), (0.82, color), (1.0, color)]
    around = ROUND[::2]
    for (low, kind), (high, _) in zip(cuts[:-1], cuts[1:], strict=True):
        wide, slim = (radius * (1 - 0.85 * low), radius * (1 - 0.85 * high))
        for i in range(8):
            a, b = around[i], around[(i + 1) % 8]
            faces.append(
                np.array(
                    [
                        (wide * np.cos(a), low * height, wide * np.sin(a)),
                        (wide * np.cos(b), low * height, wide * np.sin(b)),
                        (slim * np.cos(b), high * height, slim * np.sin(b)),
                        (slim * np.cos(a), high * height, slim * np.sin(a)),
                    ]
                )
            )
            kinds.append(kind)
            layers.append(1)
    return rigid(faces, kinds, layers, x, z, 0.0)


def wheel_stop(
    paint: Materials, x: float, z: float, heading: float, colors: tuple[int, int]
) -> Agent:
    """A parking wheel stop: a low bar with slanted sides, often with bright ends."""
    length = paint.between(1.6, 2.1)
    faces, kinds = [], []
    height, width = paint.between(0.16, 0.24), paint.between(0.24, 0.34)
    for i, share in enumerate((-0.36, 0.0, 0.36)):
        part = 0.28 if i != 1 else 0.44
        for face in box(length * part, height, width, 0.0, 1.0):
            moved = face + (share * length, 0, 0)
            moved[:, 2] = np.where(face[:, 1] > 0.01, moved[:, 2] * 0.6, moved[:, 2])
            faces.append(moved)
            kinds.append(colors[i % 2])
    return rigid(faces, kinds, [0] * len(faces), x, z, heading)


def stop_materials(paint: Materials) -> tuple[int, int]:
    """Concrete or rubber of a row of wheel stops: (ends, middle)."""
    u, weather = paint.between, paint.weather
    other = u(1.5, 4.5) * (-1 if weather.night or paint.rng.random() < 0.6 else 1)
    rubber = paint.rng.random() < 0.4
    middle = paint.gray(0.03, 0.07) if rubber else paint.gray(0.4, 0.65, 0.03)
    ends: Color = (0.65, 0.5, 0.06) if paint.rng.random() < 0.5 else middle
    heat = weather.heat_left + other
    return (
        paint.add(CAR_STOP, ends, heat + u(-0.4, 0.4), emissivity=0.93, grain=0.1),
        paint.add(CAR_STOP, middle, heat, emissivity=0.93, grain=0.1),
    )


def building(paint: Materials, x: float, z: float, side: int, length: float, depth: float) -> Mesh:
    """A block with windows: glass mirrors the sky, some are lit, some walls leak warmth."""
    u, weather = paint.between, paint.weather
    height = u(4, 22)
    color: Color = paint.gray(0.15, 0.55, 0.06)
    walls = [
        paint.add(
            0,
            color,
            (u(0.5, 5) if weather.night else u(0, 4) + weather.sun * u(0, 12)),
            grain=0.12,
            grain_k=0.8,
        )
        for _ in range(2)
    ]
    glass = paint.add(0, (0.05, 0.06, 0.07), u(-2, 1), emissivity=0.84, gloss=0.6, grain=0.3)
    bright = u(0.05, 0.5)
    lit = paint.add(
        0,
        (0.1, 0.1, 0.1),
        u(1, 7),
        emissivity=0.85,
        gloss=0.5,
        grain=0.2,
        glow=(bright, bright * 0.9, bright * u(0.5, 1)) if weather.night else (0, 0, 0),
    )
    leak = paint.add(0, color, u(6, 18), grain=0.2)
    front = np.array([(x, 0, z), (x, 0, z + length), (x, height, z + length), (x, height, z)])
    end = np.array(
        [(x, 0, z), (x + side * depth, 0, z), (x + side * depth, height, z), (x, height, z)]
    )
    faces, kinds, layers = [front, end], [walls[0], walls[1]], [0, 0]
    share = u(0, 0.35) if weather.night else 0.0
    floor, pitch = u(2.8, 3.6), u(2.2, 4.5)
    for wall, along in ((front, length), (end, depth)):
        rise, run = wall[3] - wall[0], (wall[1] - wall[0]) / along
        for y in np.arange(1.0, min(height, 14) - 1.8, floor):
            for a in np.arange(0.8, along - 1.5, pitch):
                low = wall[0] + rise * (y / height) + run * a
                quad = np.array(
                    [low, low + run * 1.3, low + run * 1.3 + (0, 1.5, 0), low + (0, 1.5, 0)]
                )
                faces.append(quad)
                kinds.append(lit if paint.rng.random() < share else glass)
                layers.append(1)
    if paint.rng.random() < 0.4:
        low = front[0] + (front[1] - front[0]) * u(0.1, 0.6) + (0, u(0.3, 2), 0)
        faces.append(np.array([low, low + (0, 0, 1.2), low + (0, 0.9, 1.2), low + (0, 0.9, 0)]))
        kinds.append(leak)
        layers.append(2)
    return Mesh(faces, kinds, layers, (front.mean(0) * 0.5 + end[0] * 0.5) * (1, 0, 1))


def tree(paint: Materials, x: float, z: float) -> Mesh:
    """A tree or bush of ragged leaf blobs near air temperature."""
    u, weather = paint.between, paint.weather
    green = u(0.5, 1.4)
    leaf = [
        paint.add(
            0,
            (0.05 * green * f, 0.1 * green * f, 0.03 * green * f),
            u(-1, 1) + weather.sun * u(0, 3),
            emissivity=0.97,
            grain=0.45,
            grain_k=1.0,
        )
        for f in (0.7, 1, 1.3)
    ]
    bark = paint.add(0, (0.1, 0.075, 0.05), u(0, 2), grain=0.3)
    eye = np.array([0.0, 1.5, 0.0])
    bush = paint.rng.random() < 0.3
    height = u(0.8, 1.6) if bush else u(4, 9)
    foot = np.array([[x, 0, z]])
    faces = list(
        capsules(foot, foot + (0, height * 0.7, 0), np.array([0.2]), np.array([0.12]), eye)
    )
    kinds, layers = [bark], [0]
    for i in range(5):
        spread = height * (0.5 if bush else 0.3)
        center = np.array(
            [x + u(-1, 1) * spread, height * u(0.35 if bush else 0.6, 0.95), z + 0.01 * i]
        )
        bumps = paint.rng.uniform(0.75, 1.2, 18)
        faces.append(blob(center, height * u(0.2, 0.32), height * u(0.18, 0.3), eye, bumps))
        kinds.append(leaf[i % 3])
        layers.append(1 + i)
    return Mesh(faces, kinds, layers, np.array([x, 0, z]))


def pole(paint: Materials, x: float, z: float, lamp: bool, arm: float) -> tuple[Mesh, Array]:
    """A lamp post or sign; returns the mesh and where its light is."""
    u, night = paint.between, paint.weather.night
    height = u(4.5, 7.5) if lamp else u(2.2, 3.2)
    metal = paint.add(0, paint.gray(0.2, 0.5), u(-2, 1), emissivity=u(0.6, 0.9), gloss=0.2)
    power = u(4, 14) if night and lamp else 0.0
    head = paint.add(
        0, (0.6, 0.6, 0.6), u(4, 20) if power else 0.0, glow=(power, power * 0.95, power * 0.8)
    )
    sign = paint.add(
        0, (u(0.1, 0.7), u(0.1, 0.3), u(0.1, 0.7)), u(-2, 0), emissivity=0.85, gloss=0.15
    )
    eye = np.array([0.0, 1.5, 0.0])
    foot, top = np.array([x, 0, z]), np.array([x, height, z])
    tip = top + (arm, 0.2, 0)
    ends = (np.stack([foot, top]), np.stack([top, tip]))
    radius = np.array([0.09, 0.05])
    faces = list(capsules(*ends, radius, radius * 0.8, eye))
    faces.append(blob(tip, 0.25, 0.12, eye) if lamp else blob(top - (0, 0.2, 0), 0.35, 0.35, eye))
    return Mesh(faces, [metal, metal, head if lamp else sign], [0, 1, 2], foot), tip


def clutter(paint: Materials, x: float, z: float) -> Agent:
    """An unlabeled thing that could be mistaken: a bin, a crate, a bollard or an animal."""
    u = paint.between
    kind = paint.rng.integers(4)
    if kind == 3:  # a dog or cat: warm, low and long
        warm = paint.add(
            0,
            (u(0.05, 0.3), u(0.05, 0.2), 0.06),
            (303 - paint.weather.ambient) * u(0.5, 0.8),
            grain=0.3,
        )
        sizes = [box(0.2, 0.25, 0.6, 0.25), box(0.18, 0.2, 0.22, 0.45)]
        sizes[1] = [face + (0, 0, 0.35) for face in sizes[1]]
        legs = [
            [f + (dx, 0, dz) for f in box(0.06, 0.27, 0.06)]
            for dx in (-0.06, 0.06)
            for dz in (-0.22, 0.22)
        ]
        faces = [face for group in [*legs, *sizes] for face in group]
        return rigid(faces, [warm] * len(faces), [0] * len(faces), x, z, u(-3, 3))
    size = (
        (u(0.5, 0.8), u(0.8, 1.2), 0.6),
        (u(0.4, 0.9), u(0.3, 0.7), 0.6),
        (0.16, u(0.7, 1.0), 0.16),
    )[kind]
    number = paint.add(0, (u(0.05, 0.6), u(0.05, 0.5), u(0.05, 0.5)), u(-2, 3), grain=0.15)
    faces = box(*size, 0.0, u(0.85, 1.0))
    return rigid(faces, [number] * 5, [0] * 5, x, z, u(-1, 1))
