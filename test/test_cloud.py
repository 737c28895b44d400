# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of the semantic cloud against a loop over pixels, and against sensor_msgs_py."""

from __future__ import annotations

import array
import math
import struct

import cv2
import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import Camera
from rgbx_seg_ros.cloud import (
    FIELDS,
    POINT,
    POINT_STEP,
    camera_rays,
    depth_to_meters,
    pack,
    pinhole_rays,
)

K = (50.0, 0, 20.0, 0, 60.0, 10.0, 0, 0, 1)


def scene(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a depth image with all kinds of missing values, a label and a confidence."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.1, 80, (height, width)).astype(np.float32)
    missing = rng.random((height, width)) < 0.4
    depth[missing] = rng.choice([0, -0.0, -1, math.nan, math.inf, -math.inf], missing.sum())
    label, confidence = rng.integers(0, 256, (2, height, width), np.uint8)
    return depth, label, confidence


def assert_point(point: bytes, z: float, u: int, v: int, label: int, confidence: int) -> None:
    *xyz, found_label, found_confidence = struct.unpack_from('<fffBB', point)
    assert (found_label, found_confidence) == (label, confidence)
    if not (0 < z < math.inf):
        assert all(math.isnan(value) for value in xyz)
    else:
        assert xyz == pytest.approx([(u - K[2]) / K[0] * z, (v - K[5]) / K[4] * z, z], rel=1e-6)


@pytest.mark.parametrize('size', [(12, 20), (1, 1), (7, 5), (70, 1000)])
def test_each_point_is_its_pixels_ray_times_depth_with_label_and_confidence(size):
    depth, label, confidence = scene(*size)
    data = pack(depth, pinhole_rays(K, size), label, confidence).tobytes()
    assert len(data) == label.size * POINT_STEP
    rng = np.random.default_rng(1)
    for at in rng.choice(label.size, min(label.size, 400), replace=False).tolist():
        v, u = divmod(at, size[1])
        assert_point(data[at * POINT_STEP:], float(depth[v, u]), u, v, int(label[v, u]),
                     int(confidence[v, u]))
        assert data[at * POINT_STEP + 14:(at + 1) * POINT_STEP] == b'\0\0'


def test_millimeters_give_the_points_of_the_same_depth_in_meters():
    _, label, confidence = scene(12, 20)
    millimeters = np.arange(240, dtype=np.uint16).reshape(12, 20) * 270
    points = pack(millimeters, pinhole_rays(K, (12, 20)), label, confidence)
    assert math.isnan(points['z'][0, 0])
    assert points['z'].ravel()[1:] == pytest.approx(np.arange(1, 240) * 0.27, rel=1e-6)
    assert (points['label'] == label).all() and (points['confidence'] == confidence).all()


def test_depth_of_another_size_is_taken_from_the_nearest_pixel():
    depth, label, confidence = scene(24, 40)
    small = depth[::2, ::2]
    points = pack(small, pinhole_rays(K, (24, 40)), label, confidence)
    expected = depth_to_meters(small).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(points['z'], expected, equal_nan=True)


def test_the_points_are_written_into_the_given_buffer():
    depth, label, confidence = scene(12, 20)
    rays = pinhole_rays(K, (12, 20))
    data = array.array('B', b'\xff') * (12 * 20 * POINT_STEP)
    points = pack(depth, rays, label, confidence, out=data)
    assert data.tobytes() == points.tobytes() == pack(depth, rays, label, confidence).tobytes()


@pytest.mark.parametrize(('model', 'd'), [
    ('plumb_bob', (-0.2, 0.05, 0.001, -0.002, 0.01)),
    ('rational_polynomial', (0.1, -0.1, 0.0, 0.0, 0.01, 0.2, -0.05, 0.01)),
    ('equidistant', (0.05, -0.01, 0.002, 0.0)), ('plumb_bob', (0.0,) * 5), ('', ())])
def test_a_distorted_cameras_rays_project_back_to_their_pixels(model, d):
    k = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    rays = camera_rays(Camera(64, 48, tuple(k.ravel()), d, model)).astype(float)
    assert rays.shape == (48, 64, 2) and np.isfinite(rays).all()
    points = np.dstack([rays, np.ones((48, 64))]).reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    pixels = project(points, np.zeros(3), np.zeros(3), k, np.array(d or (0.0,) * 5))[0]
    v, u = np.mgrid[:48, :64]
    assert np.abs(pixels.reshape(48, 64, 2) - np.dstack([u, v])).max() < 0.02


@pytest.mark.parametrize('model, d', [('plumb_bob', (-0.3, 0.11, 0.001, -0.0005, -0.02)),
                                      ('equidistant', (-0.02, 0.004, -0.003, 0.0007)),
                                      ('plumb_bob', (-0.9, 0.1, 0.0, 0.0, 0.0))])  # blind corners
def test_rays_of_large_images_are_those_of_each_pixel(model, d):
    camera = Camera(640, 480, (400, 0, 320, 0, 400, 240, 0, 0, 1), d, model)
    x, y = np.meshgrid(np.arange(640.0), np.arange(480.0))
    np.testing.assert_allclose(camera_rays(camera), np.dstack(camera.rays(x, y)), atol=1e-4)


@pytest.mark.parametrize(('call', 'says'), [
    (lambda: pinhole_rays((0,) * 9, (4, 4)), 'calibrate the camera'),
    (lambda: pinhole_rays((math.nan,) * 9, (4, 4)), 'calibrate the camera'),
    (lambda: depth_to_meters(np.zeros((4, 4), np.float64)), 'float64'),
    (lambda: depth_to_meters(np.zeros((4, 4, 3), np.float32)), r'\(4, 4, 3\)'),
    (lambda: pack(np.zeros((4, 4), np.int16), pinhole_rays(K, (4, 4)),
                  *np.zeros((2, 4, 4), np.uint8)), 'int16'),
    (lambda: pack(np.zeros((4, 4), np.float32), pinhole_rays(K, (4, 5)),
                  *np.zeros((2, 4, 4), np.uint8)), r'rays have the shape \(4, 5, 2\)'),
])
def test_what_cannot_be_packed_is_refused(call, says):
    with pytest.raises(RgbxSegError, match=says):
        call()


def test_the_bytes_are_those_of_sensor_msgs_py():
    point_cloud2 = pytest.importorskip('sensor_msgs_py.point_cloud2',
                                       reason='sensor_msgs_py is not installed')
    from sensor_msgs.msg import PointField
    from std_msgs.msg import Header

    depth, label, confidence = scene(12, 20)
    points = pack(depth, pinhole_rays(K, (12, 20)), label, confidence)
    fields = [PointField(name=name, offset=offset, datatype=datatype, count=1)
              for name, offset, datatype in FIELDS]
    theirs = np.zeros((12, 20), point_cloud2.dtype_from_fields(fields, POINT_STEP))
    for name in POINT.names:
        theirs[name] = points[name]
    message = point_cloud2.create_cloud(Header(), fields, theirs, point_step=POINT_STEP)
    assert bytes(message.data) == points.tobytes()
    back = point_cloud2.read_points(message)
    assert (back['label'] == label.ravel()).all()
    assert (back['confidence'] == confidence.ravel()).all()
    assert np.array_equal(back['z'], points['z'].ravel(), equal_nan=True)
