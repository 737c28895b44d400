# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""People of jointed limbs, and the bicycles they ride or park."""

from __future__ import annotations

import numpy as np

from rgbx_seg_train.data.synthetic_agents import BIKE, PAINTS, PERSON, Agent
from rgbx_seg_train.data.synthetic_geometry import ROUND, Array, Mesh, blob, capsules, place
from rgbx_seg_train.data.synthetic_materials import SKIN_K, Color, Materials

CLOTHES: tuple[Color, ...] = (
    (0.03, 0.03, 0.04),
    (0.1, 0.1, 0.12),
    (0.05, 0.08, 0.2),
    (0.4, 0.05, 0.05),
    (0.6, 0.6, 0.58),
    (0.15, 0.2, 0.1),
    (0.3, 0.22, 0.12),
    (0.5, 0.4, 0.1),
    (0.1, 0.3, 0.4),
)


def _person_materials(paint: Materials) -> dict[str, int]:
    """Clothes lie between air and skin by their insulation; head and hands are bare."""
    air, u = paint.weather.ambient, paint.between
    sun = paint.weather.sun * 4

    def cloth(albedo: Color, share: float) -> int:
        return paint.add(
            PERSON,
            albedo,
            (SKIN_K - air) * share + sun * u(0, 1),
            emissivity=0.97,
            grain=0.15,
            grain_k=0.8,
        )

    tone = u(0.12, 0.5)
    pick = paint.rng.integers(len(CLOTHES), size=3)
    share = u(0.5, 0.8)
    return {
        'head': cloth((tone, tone * 0.7, tone * 0.55), u(0.92, 1.0)),
        'hair': cloth((0.04, 0.03, 0.025), u(0.65, 0.9)),
        'torso': cloth(CLOTHES[pick[0]], share),
        'legs': cloth(CLOTHES[pick[1]], share * u(0.85, 1.1)),
        'shoes': cloth(CLOTHES[pick[2]], share * 0.6),
        'bag': cloth(CLOTHES[pick[2]], u(0.1, 0.4)),
    }


# limbs: part, start joint, end joint, radii as shares of body height
LIMBS = (
    ('shoes', 'foot_l', 'toe_l', 0.026, 0.02),
    ('shoes', 'foot_r', 'toe_r', 0.026, 0.02),
    ('torso', 'shoulder_l', 'elbow_l', 0.036, 0.03),
    ('legs', 'hip_l', 'knee_l', 0.058, 0.04),
    ('legs', 'hip_r', 'knee_r', 0.058, 0.04),
    ('legs', 'knee_l', 'foot_l', 0.04, 0.028),
    ('legs', 'knee_r', 'foot_r', 0.04, 0.028),
    ('head', 'elbow_l', 'hand_l', 0.026, 0.022),
    ('torso', 'hip', 'chest', 0.085, 0.1),
    ('torso', 'chest', 'neck', 0.1, 0.05),
    ('torso', 'shoulder_r', 'elbow_r', 0.036, 0.03),
    ('torso', 'elbow_r', 'wrist_r', 0.028, 0.022),
    ('head', 'wrist_r', 'hand_r', 0.022, 0.024),
    ('head', 'neck', 'head', 0.034, 0.034),
)


def _joints(
    height: float, phase: float, swing: float, pose: str
) -> dict[str, tuple[float, float, float]]:
    """Joint positions (right, up, forward) of a walker, a stander or a rider."""
    hip, lean = {'walk': (0.53, 0.0), 'ride': (0.52, 0.16), 'crouch': (0.3, 0.18)}[pose]
    joints = {
        'hip': (0.0, hip, 0.0),
        'chest': (0.0, hip + 0.22, lean * 0.7),
        'neck': (0.0, hip + 0.29, lean),
        'head': (0.0, hip + 0.39, lean * 1.15),
    }
    for side, name in ((-1, 'l'), (1, 'r')):
        angle = side * swing * np.sin(phase)
        bend = max(0.0, side * np.cos(phase)) * swing * 1.2
        if pose == 'ride':
            angle, bend = 0.75 + 0.35 * side * np.sin(phase), 0.9 + 0.3 * side * np.sin(phase)
        if pose == 'crouch':
            angle, bend = 1.5, 1.75
        knee = (side * 0.055, hip - 0.245 * np.cos(angle), 0.245 * np.sin(angle))
        foot = (
            side * 0.05,
            knee[1] - 0.25 * np.cos(angle - bend),
            knee[2] + 0.25 * np.sin(angle - bend),
        )
        reach = 0.8 if pose != 'walk' else -angle * 0.9
        shoulder = (side * 0.105, hip + 0.275, lean)
        elbow = (side * 0.12, shoulder[1] - 0.17 * np.cos(reach), lean + 0.17 * np.sin(reach))
        hand = (
            side * 0.11,
            elbow[1] - 0.17 * np.cos(reach + 0.3),
            elbow[2] + 0.17 * np.sin(reach + 0.3),
        )
        wrist = (side * 0.112, elbow[1] * 0.3 + hand[1] * 0.7, elbow[2] * 0.3 + hand[2] * 0.7)
        new = {
            'hip': (side * 0.05, hip, 0.0),
            'knee': knee,
            'foot': foot,
            'toe': (foot[0], foot[1] - 0.01, foot[2] + 0.08),
            'shoulder': shoulder,
            'elbow': elbow,
            'wrist': wrist,
            'hand': hand,
        }
        joints.update({f'{key}_{name}': value for key, value in new.items()})
    return {key: (r * height, u * height, f * height) for key, (r, u, f) in joints.items()}


def person(
    paint: Materials,
    x: float,
    z: float,
    heading: float,
    speed: float,
    pose: str = 'walk',
    seat: float = 0.0,
) -> Agent:
    """A person of jointed limbs who walks, stands, crouches or rides (`seat` is the lift, m)."""
    height = paint.between(1.5, 1.9) if paint.rng.random() < 0.88 else paint.between(1.0, 1.35)
    skin = _person_materials(paint)
    start = paint.between(0, 2 * np.pi)
    swing = paint.between(0.35, 0.6) if speed > 0.2 else paint.between(0.0, 0.12)
    bag = paint.rng.random() < 0.3
    parts = [part for part, *_ in LIMBS]
    radii = np.array([limb[3:] for limb in LIMBS]) * height * paint.between(0.95, 1.2)

    def build(time_s: float, at_x: float, at_z: float, eye: Array) -> Mesh:
        joints = _joints(height, start + 2 * np.pi * 0.9 * time_s * (speed > 0.2), swing, pose)
        points = {k: place(np.array(v), at_x, at_z, heading, seat) for k, v in joints.items()}
        ends = [np.stack([points[limb[i]] for limb in LIMBS]) for i in (1, 2)]
        faces = list(capsules(ends[0], ends[1], radii[:, 0], radii[:, 1], eye))
        faces.append(blob(points['head'], 0.056 * height, 0.075 * height, eye))
        faces.append(
            blob(points['head'] + (0, 0.035 * height, 0), 0.058 * height, 0.045 * height, eye)
        )
        layers = list(range(len(faces)))
        kinds = [*parts, 'head', 'hair']
        if bag:
            back = place(
                np.array(joints['chest']) + (0, 0, -0.12 * height), at_x, at_z, heading, seat
            )
            faces.append(blob(back, 0.085 * height, 0.12 * height, eye))
            kinds.append('bag')
            away = np.dot(back - points['chest'], eye - points['chest']) > 0
            layers.append(50 if away else -1)
        return Mesh(faces, [skin[k] for k in kinds], layers, points['hip'])

    return Agent(x, z, heading, speed, build)


def bike(paint: Materials, x: float, z: float, heading: float, speed: float) -> Agent:
    """A bicycle of tires, spokes and tubes; its label fills the wheels and the frame."""
    weather, u = paint.weather, paint.between
    cold = u(-4.0, -1.5) if weather.night else u(-2, 2) + weather.sun * u(2, 8)
    color = PAINTS[paint.rng.integers(len(PAINTS))]
    tube = paint.add(BIKE, color, cold, emissivity=u(0.7, 0.9), gloss=0.25, grain=0.05)
    tire = paint.add(
        BIKE, (0.02, 0.02, 0.02), cold * 0.6 + (u(1, 4) if speed > 0 else 0), grain=0.05
    )
    spoke = paint.add(BIKE, (0.5, 0.5, 0.5), cold, emissivity=0.6, gloss=0.3)
    filled = paint.add(BIKE, (0, 0, 0), 0, visible=False)
    radius, base = u(0.31, 0.36), u(0.5, 0.56)
    flat: list[tuple[Array, int, int]] = []
    for end in (-base, base):
        disc = np.column_stack(
            [np.zeros(16), radius + radius * np.sin(ROUND), end + radius * np.cos(ROUND)]
        )
        hub = np.array([0, radius, end])
        inner = hub + (disc - hub) * 0.8
        ring = np.concatenate([disc, disc[:1], inner[:1], inner[::-1]])
        flat += [(disc, filled, 0), (ring, tire, 3)]
    triangle = np.array([(0, 0.35, 0), (0, 0.9, -0.2), (0, 0.98, 0.42), (0, 0.75, 0.45)])
    flat.append((triangle * (1, radius / 0.34, 1), filled, 0))
    ends, sizes, kinds = _bike_tubes(radius, base)

    def build(_time: float, at_x: float, at_z: float, eye: Array) -> Mesh:
        world = [place(face, at_x, at_z, heading) for face, _, _ in flat]
        a, b = place(ends[0], at_x, at_z, heading), place(ends[1], at_x, at_z, heading)
        limbs = list(capsules(a, b, sizes, sizes, eye))
        mats = [m for _, m, _ in flat] + [tube if k else spoke for k in kinds]
        layers = [n for _, _, n in flat] + [4 if k else 2 for k in kinds]
        return Mesh(world + limbs, mats, layers, place(np.array([0, 0.5, 0]), at_x, at_z, heading))

    return Agent(x, z, heading, speed, build)


def _bike_tubes(radius: float, base: float) -> tuple[tuple[Array, Array], Array, list[bool]]:
    """Tubes (start, end), their radii, and which are frame rather than spokes."""
    pedal, seat, bar = (0, 0.32, -0.02), (0, 0.92, -0.2), (0, 1.0, 0.42)
    rear, front = (0, radius, -base), (0, radius, base)
    tubes = [
        (pedal, seat),
        (seat, rear),
        (pedal, rear),
        (pedal, (0, 0.8, 0.4)),
        ((0, 0.78, -0.16), (0, 0.82, 0.4)),
        (front, bar),
        ((-0.28, 1.0, 0.38), (0.28, 1.0, 0.38)),
        ((0, 0.93, -0.3), (0, 0.93, -0.08)),
        ((0.1, 0.2, -0.02), (-0.1, 0.44, -0.02)),
    ]
    radii = [0.03, 0.024, 0.022, 0.034, 0.03, 0.028, 0.025, 0.045, 0.03]
    spokes = []
    for hub in (rear, front):
        for angle in (0.3, 1.35, 2.4):
            turn = np.array([0, np.sin(angle), np.cos(angle)]) * radius * 0.85
            spokes.append((tuple(np.array(hub) - turn), tuple(np.array(hub) + turn)))
    both = np.array(tubes + spokes, dtype=float)
    sizes = np.array(radii + [0.008] * len(spokes))
    return (both[:, 0], both[:, 1]), sizes, [True] * len(tubes) + [False] * len(spokes)
