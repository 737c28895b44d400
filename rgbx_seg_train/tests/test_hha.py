# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""HHA of rooms whose geometry is known: a floor and a wall before a tilted camera."""

import cv2
import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.data.hha import COARSE, KINECT, _Planes, _rays, find_gravity, to_hha

HEIGHT, WIDTH = 240, 320
CAMERA = KINECT.scaled(HEIGHT, WIDTH)
EYE_M, WALL_M, SIDE_M = 1.2, 4.0, 1.5  # from the camera down, ahead and to the left
POSES = [(0, 0), (15, 0), (25, -5), (10, 8), (5, 12)]  # degrees: looking down, rolled


def rays():
    """Return (H, W, 3) by the pinhole's formula, the first pixel at 1."""
    x, y = np.meshgrid(np.arange(1, WIDTH + 1), np.arange(1, HEIGHT + 1))
    return np.dstack([(x - CAMERA.cx) / CAMERA.fx, (y - CAMERA.cy) / CAMERA.fy, np.ones(x.shape)])


def room(down, roll):
    """Return depth (H, W), gravity (3,), which pixels see only floor, and which only one wall."""
    rotation = cv2.Rodrigues(np.radians([-down, 0.0, 0.0]))[0] \
        @ cv2.Rodrigues(np.radians([0.0, 0.0, roll]))[0]
    right, gravity, ahead = rotation  # the room's axes in the camera's frame
    depths = np.stack([distance / np.maximum(rays() @ normal, 1e-6) for normal, distance in (
        (gravity, EYE_M), (ahead, WALL_M), (-right, SIDE_M))])
    nearest = depths.argmin(0)
    floor, front, side = (cv2.erode((nearest == n).astype(np.uint8), np.ones((9, 9))) > 0
                          for n in range(3))
    return depths.min(0), gravity, floor, front | side


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(a @ b, -1, 1)))


def gravity_of(depth):
    return find_gravity(_Planes(depth, _rays(CAMERA)).normals(COARSE))


@pytest.mark.parametrize(('down', 'roll'), POSES)
def test_gravity_is_found_within_a_degree(down, roll):
    depth, gravity, floor, _ = room(down, roll)
    assert floor.mean() > 0.05
    assert degrees_between(gravity_of(depth), gravity) < 1


@pytest.mark.parametrize(('down', 'roll'), POSES)
def test_gravity_is_found_within_two_degrees_of_noisy_depth(down, roll):
    depth, gravity, *_ = room(down, roll)
    noise = np.random.default_rng(1).normal(0, 0.005, depth.shape) * depth
    assert degrees_between(gravity_of(depth + noise), gravity) < 2


@pytest.mark.parametrize(('down', 'roll'), POSES)
def test_floor_is_at_zero_and_points_have_their_height(down, roll):
    depth, gravity, floor, wall = room(down, roll)
    height = to_hha(depth)[..., 1].astype(float)
    assert height[floor].max() <= 1.5  # cm
    meant = 100 * (EYE_M - depth * (rays() @ gravity))
    low = wall & (meant < 254)
    assert low.any() and np.abs(height - meant)[low].max() < 1.5


@pytest.mark.parametrize(('down', 'roll'), POSES)
def test_floors_are_parallel_and_walls_perpendicular_to_gravity(down, roll):
    depth, _, floor, wall = room(down, roll)
    angle = to_hha(depth)[..., 2].astype(float) - 38
    assert np.abs(angle[floor]).max() <= 1
    assert np.abs(angle[wall] - 90).max() <= 1


def test_a_ceiling_points_against_gravity():
    depth = np.minimum(1.0 / np.maximum(-(rays() @ (0, 1, 0)), 1e-6), WALL_M)
    assert to_hha(depth)[5, WIDTH // 2, 2] == 180 + 38


def test_disparity_is_310_over_depth_and_at_most_255():
    depth = np.full((HEIGHT, WIDTH), 2.0)
    depth[:, :80] = np.linspace(0.5, 10, 80)
    expected = [min(255, round(310 / max(value, 1.0))) for value in depth[5]]
    np.testing.assert_array_equal(to_hha(depth)[5, :, 0], expected)


def test_one_wall_alone_leaves_gravity_down_and_the_floor_at_130_cm():
    depth = np.full((HEIGHT, WIDTH), 2.0)  # whose lowest point is 0.87 m below the camera
    hha = to_hha(depth)
    row = round(CAMERA.cy) - 1  # of the camera's own height
    assert abs(int(hha[row, 160, 1]) - 130) <= 3
    assert (hha[..., 2] == 90 + 38).all()


@pytest.mark.parametrize('near', [0.7, 0.75])
def test_a_strip_of_floor_before_one_wall_does_not_turn_gravity_aside(near):
    """Of the nearer wall so little floor is seen that its own normals would make the axis."""
    depth = np.minimum(EYE_M / np.maximum(rays()[..., 1], 1e-6), WALL_M * near)
    assert degrees_between(gravity_of(depth), np.array([0.0, 1.0, 0.0])) < 10


def test_one_wall_that_is_tilted_leaves_gravity_at_right_angles_to_it_and_nearest_to_down():
    """About the wall's normal nothing is known: what was assumed stays, and is no random axis."""
    wall = np.array([0.19, 0.03, 1.0])
    wall /= np.linalg.norm(wall)
    depth = 2 / np.maximum(rays() @ wall, 1e-6)
    down = np.array([0.0, 1.0, 0.0])
    expected = down - (down @ wall) * wall
    expected /= np.linalg.norm(expected)
    assert degrees_between(gravity_of(depth), expected) < 0.5


def test_missing_depth_disturbs_no_neighbor():
    depth, gravity, floor, wall = room(15, 0)
    missing = depth.copy()
    missing[80:160, 120:240] = 0
    assert degrees_between(gravity_of(missing), gravity) < 1
    angle = to_hha(missing)[..., 2].astype(float) - 38
    seen = missing > 0
    assert np.abs(angle[floor & seen]).max() <= 1
    assert np.abs(angle[wall & seen] - 90).max() <= 1
    assert (angle[90:150, 130:230] == 180).all()


def test_nothing_seen_is_no_error():
    hha = to_hha(np.zeros((HEIGHT, WIDTH)))
    assert (hha[..., 0] == 255).all() and (hha[..., 2] == 218).all()


def test_normals_equal_those_of_each_windows_own_least_squares():
    depth = room(15, 5)[0] + np.random.default_rng(3).normal(0, 0.01, (HEIGHT, WIDTH))
    normals = _Planes(depth, _rays(CAMERA)).normals(3)
    for row, column in ((30, 40), (60, 80), (100, 120), (0, 0), (119, 159)):
        window = np.s_[max(row - 3, 0):row + 4, max(column - 3, 0):column + 4]
        normal = np.linalg.lstsq(rays()[window].reshape(-1, 3), 1 / depth[window].ravel(),
                                 rcond=None)[0]
        normal /= np.linalg.norm(normal)
        normal *= np.sign(normal @ rays()[row, column])
        np.testing.assert_allclose(normals[row, column], normal, atol=1e-6)


def test_an_image_of_another_shape_is_refused():
    with pytest.raises(RgbxSegError, match='425x560; expected the shape of 640x480'):
        to_hha(np.ones((560, 425)))
