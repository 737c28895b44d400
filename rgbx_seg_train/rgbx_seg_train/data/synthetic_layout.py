# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where things are: draws a road and puts people, vehicles, barriers and buildings on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_train.data import synthetic_roadside as roadside
from rgbx_seg_train.data.synthetic_agents import Agent, car
from rgbx_seg_train.data.synthetic_geometry import NEAR, Array, Camera, Mesh, Raster
from rgbx_seg_train.data.synthetic_materials import Color, Materials, Weather
from rgbx_seg_train.data.synthetic_people import bike, person
from rgbx_seg_train.data.synthetic_road import Road, bump, curb, ground_mesh, shadow, surfaces

CHANCES = {
    'car': 0.8,
    'person': 0.8,
    'bike': 0.7,
    'curve': 0.65,
    'car_stop': 0.5,
    'guardrail': 0.68,
    'color_cone': 0.55,
    'bump': 0.5,
}
CONE_COLORS: tuple[Color, ...] = (
    (0.85, 0.18, 0.03),
    (0.85, 0.18, 0.03),
    (0.8, 0.1, 0.05),
    (0.1, 0.35, 0.15),
    (0.8, 0.6, 0.05),
    (0.08, 0.15, 0.5),
)


@dataclass
class Layout:
    """Everything of a scene that has a place; shadows are (agent, width, length, height)."""

    road: Road
    ego_x: float
    ego_speed: float
    eye_height: float
    yaw: float
    pitch: float
    focal: float  # share of the image width
    still: list[Mesh] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)
    shadows: list[tuple[Agent, float, float, float]] = field(default_factory=list)
    lamps: Array = field(default_factory=lambda: np.zeros((0, 4)))
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def spot(
        self, paint: Materials, near: float, far: float, left: float, right: float, radius: float
    ) -> tuple[float, float] | None:
        """Find a free place in view between two depths and two offsets from the center line."""
        for _ in range(20):
            z = near * (far / near) ** paint.rng.random()
            x = float(self.road.middle(z)) + paint.between(left, right)
            seen = abs(x - self.ego_x - z * np.sin(self.yaw)) < 0.47 / self.focal * z
            free = all(np.hypot(x - a, z - b) > radius + r for a, b, r in self.taken)
            if seen and free:
                self.taken.append((x, z, radius))
                return x, z
        return None


def draw_layout(paint: Materials) -> Layout:
    """Draw the road, the ego camera, and all that stands or moves."""
    rng, u = paint.rng, paint.between
    road = Road(-u(2.6, 6.0), u(2.6, 5.5), u(-1, 1) ** 3 * 0.006)
    lay = Layout(
        road,
        u(max(road.left + 1.5, -2), min(road.right - 1.5, 2)),
        u(0.5, 4) if rng.random() < 0.7 else 0.0,
        u(1.1, 1.8),
        u(-0.1, 0.1),
        u(0.02, 0.16),
        u(0.65, 0.95),
    )
    ground = surfaces(paint, road)
    for name, chance in CHANCES.items():
        if rng.random() < chance:
            PLACERS[name](paint, lay, ground)
    lay.still.insert(0, ground_mesh(ground))
    _surroundings(paint, lay)
    for _ in range(rng.integers(0, 4)):
        at = lay.spot(paint, 5, 20, road.left - 3, road.right + 3, 0.5)
        if at:
            lay.agents.append(roadside.clutter(paint, *at))
    return lay


def _cars(paint: Materials, lay: Layout, ground: list) -> None:
    road, rng = lay.road, paint.rng
    for _ in range(rng.integers(1, 5)):
        oncoming, parked = rng.random() < 0.45, rng.random() < 0.45
        side = rng.integers(2)
        edge = (road.left + 1.1, road.left + 1.3) if side else (road.right - 1.3, road.right - 1.1)
        lane = (road.left + 1.2, -0.8) if oncoming else (0.5, road.right - 1.1)
        at = lay.spot(paint, 6, 35, *(edge if parked else lane), 2.4)
        if at is None:
            continue
        turn = np.pi if oncoming else 0.0
        turn += paint.between(-0.1, 0.1) if rng.random() < 0.8 else paint.between(-1.6, 1.6)
        running = not parked or rng.random() < 0.2
        speed = paint.between(0, 4) if not parked else 0.0
        agent = car(paint, at[0], at[1], road.heading(at[1]) + turn, speed, running)
        lay.agents.append(agent)
        lay.shadows.append((agent, 1.8, 4.2, 1.2))


def _people(paint: Materials, lay: Layout, ground: list) -> None:
    rng, road = paint.rng, lay.road
    for _ in range(rng.integers(1, 6)):
        at = lay.spot(paint, 4, 28, road.left - 2.5, road.right + 2.5, 0.45)
        if at is None:
            continue
        across = rng.random() < 0.4
        heading = (
            paint.between(-0.3, 0.3) + np.pi / 2 * rng.choice([-1, 1])
            if across
            else paint.between(-0.3, 0.3) + np.pi * rng.integers(2)
        )
        pose = 'walk' if rng.random() < 0.92 else 'crouch'
        speed = paint.between(0.6, 1.6) if pose == 'walk' and rng.random() < 0.75 else 0.0
        agent = person(paint, *at, heading, speed, pose)
        lay.agents.append(agent)
        lay.shadows.append((agent, 0.4, 0.4, 1.6))


def _bikes(paint: Materials, lay: Layout, ground: list) -> None:
    rng, road = paint.rng, lay.road
    for _ in range(rng.integers(1, 4)):
        at = lay.spot(paint, 3.5, 15, road.left - 2, road.right + 2, 0.9)
        if at is None:
            continue
        ridden = rng.random() < 0.35
        sideways = np.pi / 2 * rng.choice([-1, 1]) + paint.between(-0.8, 0.8)
        heading = sideways if not ridden or rng.random() < 0.6 else paint.between(-0.4, 0.4)
        speed = paint.between(1.5, 4) if ridden else 0.0
        agent = bike(paint, *at, heading, speed)
        lay.agents.append(agent)
        lay.shadows.append((agent, 0.3, 1.5, 0.8))
        if ridden:
            back = 0.12
            x, z = at[0] - back * np.sin(heading), at[1] - back * np.cos(heading)
            lay.agents.append(person(paint, x, z - 0.01, heading, speed, 'ride', 0.05))


def _curbs(paint: Materials, lay: Layout, ground: list) -> None:
    sides = ((-1,), (1,), (-1, 1), (-1, 1))[paint.rng.integers(4)]
    for side in sides:
        start = -2.0 if paint.rng.random() < 0.7 else paint.between(3, 8)
        ground += curb(paint, lay.road, side, start, start + paint.between(25, 80))


def _stops(paint: Materials, lay: Layout, ground: list) -> None:
    rng, road = paint.rng, lay.road
    colors = roadside.stop_materials(paint)
    side = rng.choice([-1, 1])
    along = rng.random() < 0.5  # a row beside the road, or bars across the view
    for i in range(rng.integers(2, 5)):
        if along:
            offset = (road.right if side > 0 else road.left) + side * paint.between(-0.8, 0.3)
            at = lay.spot(paint, 4, 14, offset, offset + 0.01, 0.7)
            heading = np.pi / 2 + paint.between(-0.1, 0.1) if i % 2 else paint.between(-0.5, 0.5)
        else:
            at = lay.spot(paint, 4, 12, road.left + 0.5, road.right - 0.5, 1.1)
            heading = paint.between(-0.25, 0.25)
        if at:
            lay.agents.append(
                roadside.wheel_stop(paint, *at, road.heading(at[1]) + heading, colors)
            )


def _rails(paint: Materials, lay: Layout, ground: list) -> None:
    side = paint.rng.choice([-1, 1])
    edge = lay.road.right if side > 0 else lay.road.left
    start = paint.between(1, 6)
    lay.still += roadside.guardrail(
        paint, lay.road, edge + side * paint.between(0.3, 1.2), start, start + paint.between(10, 40)
    )


def _cones(paint: Materials, lay: Layout, ground: list) -> None:
    rng, road = paint.rng, lay.road
    style = CONE_COLORS[rng.integers(len(CONE_COLORS))]
    height = paint.between(0.5, 0.95)
    cold = paint.between(-3.5, -0.8) if paint.weather.night else paint.between(-1, 4)
    for _ in range(rng.integers(2, 7)):
        at = lay.spot(paint, 3.5, 15, road.left - 0.5, road.right + 0.5, 0.35)
        if at:
            lay.agents.append(roadside.cone(paint, *at, style, height, cold))


def _bumps(paint: Materials, lay: Layout, ground: list) -> None:
    ground += bump(paint, lay.road, paint.between(3.5, 11))


PLACERS = {
    'car': _cars,
    'person': _people,
    'bike': _bikes,
    'curve': _curbs,
    'car_stop': _stops,
    'guardrail': _rails,
    'color_cone': _cones,
    'bump': _bumps,
}


def _surroundings(paint: Materials, lay: Layout) -> None:
    """Buildings, trees, lamps along both sides, and a backdrop at the end of the view."""
    rng, u, road = paint.rng, paint.between, lay.road
    for side in (-1, 1):
        edge = (road.right if side > 0 else road.left) + side * u(3.5, 12)
        z, built = u(4, 20), rng.random() < 0.7
        while z < 90:
            length = u(8, 25)
            x = float(road.middle(z)) + edge
            if built and rng.random() < 0.8:
                lay.still.append(roadside.building(paint, x, z, side, length, u(6, 15)))
            elif rng.random() < 0.8:
                lay.still += [
                    roadside.tree(paint, x + side * u(-2, 3), z + u(0, length)) for _ in range(3)
                ]
            z += length + u(0, 6)
    lamps = []
    for _ in range(rng.integers(1, 5)):
        side = rng.choice([-1, 1])
        edge = (road.right if side > 0 else road.left) + side * u(0.6, 2)
        z = u(6, 40)
        lit = rng.random() < (0.4 if paint.weather.night else 0.5)
        mesh, tip = roadside.pole(paint, float(road.middle(z)) + edge, z, lit, -side * u(0.3, 1.5))
        lay.still.append(mesh)
        if lit and paint.weather.night:
            lamps.append((*tip, u(0.6, 4.5)))
    lay.lamps = np.array(lamps).reshape(-1, 4)
    lay.still.append(_backdrop(paint))


def _backdrop(paint: Materials) -> Mesh:
    """A ragged band of far trees or houses that covers the horizon."""
    count = 40
    x = np.linspace(-260, 260, count)
    y = paint.rng.uniform(3, 14, count)
    top = np.column_stack([x, y, np.full(count, 140.0)])
    face = np.concatenate([[(-260, -2, 140.0)], top, [(260, -2, 140.0)]])[::-1]
    number = paint.add(0, (0.06, 0.09, 0.05), paint.between(-1, 1.5), grain=0.3)
    return Mesh([face], [number], [0], np.array([0.0, 0, 140]))


def ground_shadows(
    lay: Layout, raster: Raster, camera: Camera, time_s: float, weather: Weather
) -> NDArray[np.float32] | None:
    """Return the share of sun kept from each ground pixel (H, W), or None without sun."""
    if weather.sun < 0.15:
        return None
    mask = np.zeros(raster.face.shape, np.uint8)
    for agent, width, length, height in lay.shadows:
        way = agent.speed * time_s
        center = np.array(
            [agent.x + way * np.sin(agent.heading), 0, agent.z + way * np.cos(agent.heading)]
        )
        polygon = shadow(
            center, width, length, height, np.array(weather.sun_direction), agent.heading
        )
        points = (polygon - camera.position) @ camera.rotation.T
        if points[:, 2].min() < NEAR:
            continue
        pixels = points[:, :2] / points[:, 2:] * camera.focal + (
            camera.width / 2,
            camera.height / 2,
        )
        hull = cv2.convexHull(np.clip(pixels, -4000, 4000).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 1)
    mask &= raster.ground[raster.face]
    return cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0)
