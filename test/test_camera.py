# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Camera models against OpenCV's, and what CameraInfo means against the message's definition."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import FAR, Camera, Transform

K = (500.0, 0.0, 321.5, 0.0, 505.0, 238.25, 0.0, 0.0, 1.0)
LENSES = {
    'pinhole': ((), ''),
    'zeros': ((0.0,) * 5, 'plumb_bob'),
    'four': ((-0.2, 0.05, 0.001, -0.002), 'plumb_bob'),
    'plumb_bob': ((-0.3, 0.11, 0.001, -0.0005, -0.02), 'plumb_bob'),
    'pincushion': ((0.25, 0.1, 0.0, 0.0, 0.02), 'plumb_bob'),
    'rational': ((0.4, 0.05, 0.0003, 0.0004, 0.01, 0.6, 0.1, 0.02), 'rational_polynomial'),
    'padded': ((0.4, 0.05, 0.0003, 0.0004, 0.01, 0.6, 0.1, 0.02, *[0.0] * 6),
               'rational_polynomial'),
    'equidistant': ((-0.03, 0.01, -0.004, 0.0006), 'equidistant'),
}


def info(**fields):
    """Return a CameraInfo as rclpy would give it."""
    roi = {'x_offset': 0, 'y_offset': 0, 'width': 0, 'height': 0, 'do_rectify': False,
           **fields.pop('roi', {})}
    return SimpleNamespace(**{
        'width': 640, 'height': 480, 'k': np.array(K), 'd': [], 'distortion_model': '',
        'binning_x': 0, 'binning_y': 0, 'roi': SimpleNamespace(**roi),
        'header': SimpleNamespace(frame_id='camera_optical'), **fields})


def opencv_pixels(points, d, model):
    k = np.array(K).reshape(3, 3)
    if model == 'equidistant':
        return cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), k,
                                         np.array(d))[0][:, 0]
    return cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), k,
                             np.array(d) if d else None)[0][:, 0]


@pytest.mark.parametrize('dtype, tolerance', [(np.float64, 1e-8), (np.float32, 2e-3)])
@pytest.mark.parametrize('lens', LENSES)
def test_points_project_where_opencv_puts_them(lens, dtype, tolerance):
    d, model = LENSES[lens]
    points = np.random.default_rng(0).uniform([-0.6, -0.5, 1], [0.6, 0.5, 1], (300, 3))
    points *= np.random.default_rng(1).uniform(0.2, 30, (300, 1))
    u, v = Camera(640, 480, K, d, model).project(*(column.astype(dtype) for column in points.T))
    assert u.dtype == v.dtype == dtype
    np.testing.assert_allclose(np.stack([u, v], 1), opencv_pixels(points, d, model), rtol=0,
                               atol=tolerance)


@pytest.mark.parametrize('lens', LENSES)
def test_rays_of_all_pixels_project_back_onto_them(lens):
    d, model = LENSES[lens]
    pixels = np.mgrid[-2:642:20, -2:482:20].reshape(2, -1).T.astype(float)
    x, y = Camera(640, 480, K, d, model).rays(*pixels.T)
    assert np.isfinite(x).all()
    there = opencv_pixels(np.stack([x, y, np.ones_like(x)], 1), d, model)
    np.testing.assert_allclose(there, pixels, atol=1e-6)


def test_a_fisheye_of_170_degrees_has_a_ray_for_all_that_it_sees():
    camera = Camera(640, 480, (215.0, 0, 320, 0, 215, 240, 0, 0, 1), (0.0, 0, 0, 0), 'equidistant')
    x, y = camera.rays(np.array([320.0, 0.0]), np.array([240.0, 240.0]))
    np.testing.assert_allclose(x, [0, -np.tan(320 / 215)], atol=1e-9)  # r = f angle
    x, _ = camera.rays(np.array([320.0 - 215 * np.pi / 2]), np.array([240.0]))
    assert np.isnan(x).all()


def test_points_behind_the_camera_and_beyond_its_model_are_far_outside():
    camera = Camera(640, 480, K, (-0.3, 0.0, 0.0, 0.0, 0.0), 'plumb_bob')
    # r (1 - 0.3 r^2) turns at r = 1.05: at 1.8 OpenCV shows the point near the center again.
    x = np.array([0.0, 0.0, 1.8, 0.3, np.nan])
    z = np.array([-1.0, 0.0, 1.0, 1.0, 1.0])
    u, v = camera.project(x, np.zeros(5), z)
    assert (u == FAR).tolist() == [True, True, True, False, True]
    assert (v == FAR).tolist() == [True, True, True, False, True]


def test_pixels_beyond_the_lens_model_have_no_ray():
    camera = Camera(640, 480, K, (-0.9, 0.0, 0.0, 0.0, 0.0), 'plumb_bob')
    x, y = camera.rays(np.array([321.5, 20.0]), np.array([238.25, 238.25]))
    assert np.isnan(x).tolist() == np.isnan(y).tolist() == [False, True]


def sensor_pixel(roi, binning, pixel):
    """Return where the center of a delivered pixel lies on the sensor, by the message's words."""
    (x0, y0), (bx, by), (x, y) = roi, binning, pixel
    columns, rows = x0 + np.arange(bx * x, bx * (x + 1)), y0 + np.arange(by * y, by * (y + 1))
    return columns.mean(), rows.mean()


@settings(deadline=None)
@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 8), st.integers(1, 8),
       st.integers(0, 49), st.integers(0, 39))
def test_roi_then_binning_sees_what_the_sensor_sees_at_the_same_place(x0, y0, bx, by, x, y):
    camera = Camera.from_info(info(binning_x=bx, binning_y=by, roi={
        'x_offset': x0, 'y_offset': y0, 'width': 500, 'height': 340}))
    assert (camera.width, camera.height) == (500 // bx, 340 // by)
    full = Camera.from_info(info())
    there = full.rays(*(np.array([side]) for side in sensor_pixel((x0, y0), (bx, by), (x, y))))
    here = camera.rays(np.array([float(x)]), np.array([float(y)]))
    np.testing.assert_allclose(here, there, atol=1e-12)


@pytest.mark.parametrize('binning', [0, 1])
@pytest.mark.parametrize('roi', [{}, {'width': 640, 'height': 480}])
def test_no_roi_and_no_binning_is_the_sensor(binning, roi):
    camera = Camera.from_info(info(binning_x=binning, binning_y=binning, roi=roi))
    assert camera == Camera(640, 480, K, (), '', 'camera_optical')
    assert hash(camera) == hash(Camera(640, 480, K, (), '', 'camera_optical'))


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000))
def test_resized_camera_keeps_the_rays_of_the_corners(width, height):
    camera = Camera(640, 480, K)
    small = camera.scaled(width, height)
    for x, y in ((0, 0), (1, 1)):
        np.testing.assert_allclose(
            small.rays(np.array([x * width - 0.5]), np.array([y * height - 0.5])),
            camera.rays(np.array([x * 640 - 0.5]), np.array([y * 480 - 0.5])), atol=1e-12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(5e-324, 1e9), min_size=4, max_size=4), st.integers(1, 8192),
       st.integers(1, 8192), st.integers(1, 8192), st.integers(1, 8192))
def test_a_camera_that_is_accepted_can_be_resized_to_anything(numbers, width, height, wide, tall):
    fx, fy, cx, cy = numbers
    for f in (fx, width * 1.1e-4, width * 0.9e4):
        try:
            camera = Camera(width, height, (f, 0, cx, 0, fy, cy, 0, 0, 1))
        except RgbxSegError:
            continue
        assert camera.scaled(wide, tall).scaled(1, 1).scaled(width, height).k[0] > 0


@pytest.mark.parametrize('fields, words', [
    ({'k': [0.0] * 9}, r'frame "camera_optical" is uncalibrated \(K\[0\] is 0\); expected'),
    ({'k': [0.0] * 9, 'width': 0, 'height': 0}, 'is uncalibrated'),
    ({'k': [float('nan'), *K[1:]]}, 'not of finite numbers'),
    ({'d': [float('inf')] * 5, 'distortion_model': 'plumb_bob'}, 'not of finite numbers'),
    ({'k': [-500.0, *K[1:]]}, r'has K = \[-500.0'),
    ({'k': [500.0, 3.0, *K[2:]]}, r'expected \[fx, 0, cx, 0, fy, cy, 0, 0, 1\]'),
    ({'width': 0}, 'is for 0x480 pixels; expected 1 to 8192 a side'),
    ({'width': 2**32 - 1}, 'expected 1 to 8192 a side'),
    ({'binning_x': 1000}, 'is for 0x480 pixels'),
    ({'d': [0.1] * 5, 'distortion_model': 'thin_prism'},
     'distortion model "thin_prism"; expected plumb_bob or rational_polynomial or equidistant'),
    ({'d': [0.1] * 5}, 'distortion model ""'),
    ({'d': [0.1] * 3, 'distortion_model': 'plumb_bob'}, 'has 3 coefficients D for plumb_bob'),
    ({'d': [0.1] * 5, 'distortion_model': 'rational_polynomial'}, 'expected 8 to 8'),
    ({'d': [0.1] * 12, 'distortion_model': 'rational_polynomial'}, 'has 12 coefficients'),
    ({'roi': {'x_offset': 500, 'width': 200, 'height': 10}}, 'region of interest beyond'),
    ({'roi': {'x_offset': 700}}, 'pixels; expected 1 to 8192'),
])
def test_camera_info_that_cannot_project_is_refused_in_a_sentence(fields, words):
    with pytest.raises(RgbxSegError, match=words):
        Camera.from_info(info(**fields))


numbers = st.floats(width=64)
sides = st.integers(0, 2**32 - 1) | st.integers(0, 4000)


@settings(deadline=None)
@given(st.lists(numbers, min_size=9, max_size=9), st.lists(numbers, max_size=14),
       st.sampled_from(['', 'plumb_bob', 'rational_polynomial', 'equidistant', '\udcff']),
       st.lists(sides, min_size=8, max_size=8), st.booleans())
def test_any_camera_info_is_a_camera_or_a_sentence(k, d, model, s, sane):
    fields = {'k': list(K) if sane else k, 'd': d, 'distortion_model': model, 'width': s[0],
              'height': s[1], 'binning_x': s[2], 'binning_y': s[3],
              'roi': {'x_offset': s[4], 'y_offset': s[5], 'width': s[6], 'height': s[7]}}
    if sane:
        fields = {**fields, 'width': 640, 'height': 480, 'binning_x': 0, 'binning_y': 0, 'roi': {}}
    try:
        camera = Camera.from_info(info(**fields))
    except RgbxSegError as error:
        assert '; expected' in str(error)
        return
    x, y = camera.rays(np.arange(3.0), np.arange(3.0))
    u, v = camera.project(np.float32([0, 1, -2]), np.float32([1, 0, 3]), np.float32([1, 2, -1]))
    assert u[2] == v[2] == FAR


def test_quaternion_is_normalized():
    turn = Transform.from_quaternion((0, 0, 2.0, 2.0), (1, 2, 3))
    np.testing.assert_allclose(turn.rotation, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    assert turn.translation.tolist() == [1, 2, 3]


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_quaternion_turns_as_opencv_turns_by_the_same_angle(vector):
    angle = float(np.linalg.norm(vector))
    axis = np.array(vector) / angle if angle > 1e-9 else np.zeros(3)
    q = (*np.sin(angle / 2) * axis, np.cos(angle / 2))
    np.testing.assert_allclose(Transform.from_quaternion(q, (0, 0, 0)).rotation,
                               cv2.Rodrigues(np.array(vector))[0], atol=1e-8)


@pytest.mark.parametrize('rotation, translation, words', [
    (np.eye(2), (0, 0, 0), 'rotation is'),
    (np.eye(3) * 1.1, (0, 0, 0), 'expected a rotation matrix'),
    (np.diag([1, 1, -1]), (0, 0, 0), 'right-handed'),
    (np.full((3, 3), np.nan), (0, 0, 0), 'expected 3x3 finite numbers'),
    (np.eye(3), (0, 0), 'expected 3 finite numbers, in meters'),
    (np.eye(3), (0, 0, np.inf), 'expected 3 finite numbers, in meters'),
])
def test_what_is_no_rigid_motion_is_refused(rotation, translation, words):
    with pytest.raises(RgbxSegError, match=words):
        Transform(rotation, translation)


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (0, 0, 0), (np.nan, 0, 0, 1)])
def test_what_is_no_turn_is_refused(quaternion):
    with pytest.raises(RgbxSegError, match='quaternion is'):
        Transform.from_quaternion(quaternion, (0, 0, 0))
