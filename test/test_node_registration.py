# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Registration and the point cloud in the running node, over real DDS.

One node serves all: its camera pairs differ in their registration. The thermal images are ramps,
whose value at any place is known, and places are computed here from the cameras alone.
"""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')
pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not installed')

from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rgbx_seg.msg import SegmentationStats
from robot import STAMPS_NS, NodeProcess, drops, free_domain, image, pixels, robot
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage

from rgbx_seg_ros.messages import stamp_ns

LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PAIRS = ('plain', 'flat', 'live', 'filed', 'deep')
RGB_SIZE, AUX_SIZE, NET_SIZE = (96, 128), (60, 80), (48, 64)  # height, width
RGB_K, AUX_K = (110.0, 63.5, 47.5), (60.0, 39.5, 29.5)  # f, cx, cy
DISTANCE_M = 4.0
ANGLE = 0.05  # rad, the aux camera looks to the right
TURN = np.array([[np.cos(ANGLE), 0, -np.sin(ANGLE)], [0, 1, 0], [np.sin(ANGLE), 0, np.cos(ANGLE)]])
SHIFT = np.array([-0.3, 0.1, 0.02])  # aux point = TURN @ RGB point + SHIFT
HOMOGRAPHY = np.array([[1.7, 0.05, -4.0], [-0.04, 1.6, 3.0], [0.0002, -0.0001, 1.0]])


def matrix(f, cx, cy):
    """Return K as CameraInfo has it."""
    return [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]


def camera_info(size, k, frame_id):
    """Return the message of a pinhole camera."""
    info = CameraInfo(height=size[0], width=size[1], k=matrix(*k))
    info.header.frame_id = frame_id
    return info


def write_files(folder):
    """Write a homography and extrinsics; return their paths."""
    flat = {'format': 1, 'rgb_size': [128, 96], 'aux_size': [80, 60],
            'homography': HOMOGRAPHY.tolist()}
    stereo = {'format': 1, 'rotation': TURN.tolist(), 'translation': SHIFT.tolist(),
              'rgb': {'width': 128, 'height': 96, 'k': matrix(*RGB_K)},
              'aux': {'width': 80, 'height': 60, 'k': matrix(*AUX_K)}}
    for name, content in (('flat', flat), ('stereo', stereo)):
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(content))
    return folder / 'flat.yaml', folder / 'stereo.yaml'


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with a pair of cameras for each mode, heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    flat, stereo = write_files(folder)
    parameters = {
        'bundle': write_tiny_bundle(folder / 'bundle'), 'pairs': list(PAIRS),
        'registration__distance': DISTANCE_M, 'flat__registration__mode': 'homography',
        'flat__registration__file': flat, 'live__registration__mode': 'calibrated',
        'filed__registration__mode': 'calibrated', 'filed__registration__file': stereo,
        'deep__registration__mode': 'depth', 'deep__registration__file': stereo}
    with NodeProcess(folder / 'log', number, **parameters) as node, robot(number) as peer:
        kinds = {'mask': Image, 'confidence': Image, 'aux_preview': Image,
                 'stats': SegmentationStats}
        heard = {(pair, name): peer.listen(kind, f'/segment/{pair}/{name}')
                 for pair in PAIRS for name, kind in kinds.items()}
        diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in PAIRS
                                for stream in ('rgb', 'thermal')))
        yield SimpleNamespace(node=node, peer=peer, heard=heard, diagnostics=diagnostics,
                              domain=number)
        assert node.end() == 0
        assert 'Traceback' not in node.log and 'Error' not in node.log


def ramp(axis):
    """Return thermal counts that rise along the columns (0) or the rows (1), as `value` does."""
    rows, columns = np.mgrid[:AUX_SIZE[0], :AUX_SIZE[1]]
    return np.rint(26315 + value(axis, columns, rows) * 6000 / 255).astype(np.uint16)


def value(axis, u, v):
    """Return what the network gets of a place (u, v) of the aux image."""
    return 40.0 + (2.5 * u if axis == 0 else 3.0 * v)


def send(running, pair, axis, depth=None, encoding='32FC1', wait=('mask', 'aux_preview', 'stats')):
    """Publish one pair with a black RGB image; return the results by name."""
    stamp = next(STAMPS_NS)
    if depth is not None:
        running.peer.publish(f'/{pair}/depth_registered/image_rect',
                             image(depth, encoding, stamp, 'rgb_optical'))
        running.peer.spin(0.1)
    black = np.zeros((*RGB_SIZE, 3), np.uint8)
    running.peer.publish(f'/{pair}/rgb/image_raw', image(black, 'rgb8', stamp, 'rgb_optical'))
    running.peer.publish(f'/{pair}/thermal/image_raw',
                         image(ramp(axis), 'mono16', stamp + 3_000_000, 'aux_optical'))

    def found():
        return {name: message for (owner, name), messages in running.heard.items()
                for message in messages if owner == pair and stamp_ns(message.header) in (
                    stamp, *([stamp + 3_000_000] if name == 'aux_preview' else []))}

    assert running.peer.until(lambda: set(wait) <= found().keys()), (
        f'{pair}: only {sorted(found())}\n{running.node.log}')
    return found()


def network_grid():
    """Return the RGB coordinates x and y of the network's pixels."""
    y, x = np.mgrid[:NET_SIZE[0], :NET_SIZE[1]]
    return (x + 0.5) * 2 - 0.5, (y + 0.5) * 2 - 0.5


def by_homography(x, y):
    """Return the places in the aux image of RGB pixels."""
    points = np.linalg.inv(HOMOGRAPHY) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    return (points[:2] / points[2]).reshape(2, *x.shape)


def by_cameras(x, y, z):
    """Return the same for two pinhole cameras and points at depth z."""
    f, cx, cy = RGB_K
    points = np.stack([(x - cx) / f * z, (y - cy) / f * z, np.broadcast_to(z, x.shape)])
    points = np.tensordot(TURN, points, 1) + SHIFT[:, None, None]
    f, cx, cy = AUX_K
    return points[0] / points[2] * f + cx, points[1] / points[2] * f + cy


def check(made, axis, places, tolerance=1.5):
    """Hold preview and mask of a pair to the places that the aux camera is seen at."""
    u, v = places
    height, width = AUX_SIZE
    inside = (u > 0) & (u < width - 1) & (v > 0) & (v < height - 1)
    outside = (u < -1.5) | (u > width + 0.5) | (v < -1.5) | (v > height + 0.5)
    assert inside.mean() > 0.5
    preview = pixels(made['aux_preview'])
    assert preview.shape == NET_SIZE
    error = np.abs(preview - value(axis, u, v))
    assert error[inside].max() <= tolerance, error[inside].max()
    assert not preview[outside].any()
    assert made['aux_preview'].header == made['mask'].header
    black = np.zeros((*NET_SIZE, 3), np.uint8)
    own = expected(black, preview).repeat(2, 0).repeat(2, 1)
    assert np.mean(pixels(made['mask']) == own) > 0.97  # edges are enlarged more finely
    assert made['stats'].registration_ms > 0


def registration(running, pair):
    """Return level and message of the registration in the newest diagnostics."""
    return next(((status.level, status.message) for message in running.diagnostics[::-1]
                 for status in message.status if status.name == f'segment: {pair} registration'),
                (b'', ''))


def test_without_registration_the_preview_is_the_aux_camera_s(running):
    made = send(running, 'plain', 0)
    assert made['aux_preview'].header.frame_id == 'aux_optical'
    assert stamp_ns(made['aux_preview'].header) == stamp_ns(made['mask'].header) + 3_000_000
    assert pixels(made['aux_preview']).shape == AUX_SIZE
    running.peer.until(lambda: running.diagnostics)
    assert registration(running, 'plain') == (b'', '')


@pytest.mark.parametrize('axis', [0, 1])
def test_homography_from_a_file(running, axis):
    check(send(running, 'flat', axis), axis, by_homography(*network_grid()))


@pytest.mark.parametrize('axis', [0, 1])
def test_calibrated_from_a_file(running, axis):
    check(send(running, 'filed', axis), axis, by_cameras(*network_grid(), DISTANCE_M))


def test_calibrated_from_camera_info_and_tf_static_says_what_it_waits_for(running):
    def says(words):
        return running.peer.until(lambda: words in registration(running, 'live')[1], 5)

    assert says('registration waits for rgb/camera_info')
    assert registration(running, 'live')[0] == b'\x01'
    told = 'live: registration waits for rgb/camera_info'
    assert running.peer.until(lambda: told in running.node.log, 5), running.node.log
    send(running, 'live', 0, wait=())
    for stream, size, k in (('rgb', RGB_SIZE, RGB_K), ('thermal', AUX_SIZE, AUX_K)):
        name = f'{"rgb" if stream == "rgb" else "aux"}_optical'
        running.peer.publish(f'/live/{stream}/camera_info', camera_info(size, k, name))
    assert says('registration waits for a transform from rgb_optical to aux_optical')
    send(running, 'live', 0, wait=())
    back = TURN.T  # of the aux camera in the frame of the RGB one
    stamped = TransformStamped(child_frame_id='rgb_optical')
    stamped.header.frame_id = 'base'
    stamped.transform.translation.z = 1.0
    aux = TransformStamped(child_frame_id='aux_optical')
    aux.header.frame_id = 'base'
    position = -back @ SHIFT + (0, 0, 1)
    (aux.transform.translation.x, aux.transform.translation.y,
     aux.transform.translation.z) = position.tolist()
    aux.transform.rotation.y, aux.transform.rotation.w = np.sin(ANGLE / 2), np.cos(ANGLE / 2)
    publisher = running.peer.node.create_publisher(TFMessage, '/tf_static', LATCHED)
    publisher.publish(TFMessage(transforms=[stamped, aux]))
    assert says('aux lies on RGB')
    for axis in (0, 1):
        made = send(running, 'live', axis)
        check(made, axis, by_cameras(*network_grid(), DISTANCE_M))
    assert drops(made['stats'])['registration'] == 2
    running.peer.node.destroy_publisher(publisher)
    assert running.node.log.count(told) == 1
    assert 'flat: ' not in running.node.log and 'filed: ' not in running.node.log


def test_depth_images_move_what_is_near(running):
    x, y = network_grid()
    made = send(running, 'deep', 0)
    check(made, 0, by_cameras(x, y, DISTANCE_M))  # without depth, the distance holds
    columns = np.arange(RGB_SIZE[1]) / RGB_SIZE[1]
    depth = np.tile((2.0 + 6.0 * columns).astype(np.float32), (RGB_SIZE[0], 1))
    depth[:20] = 0.0  # a hole
    depth[-20:] = np.inf  # beyond range
    z = np.interp(x, np.arange(RGB_SIZE[1]), depth[40])
    z = np.where(y < 20, DISTANCE_M, np.where(y > RGB_SIZE[0] - 21, 1e9, z))
    sure = (np.abs(y - 20) > 5) & (np.abs(y - RGB_SIZE[0] + 21) > 5)  # edges are interpolated
    for axis in (0, 1):
        made = send(running, 'deep', axis, depth)
        u, v = by_cameras(x, y, z)
        check(made, axis, (np.where(sure, u, -0.7), v), 2.5)
    assert np.abs(u - by_cameras(x, y, DISTANCE_M)[0])[sure].max() > 4  # pixels: it matters


def test_points_are_the_mask_s_pixels_in_space(running):
    topic = '/plain/depth_registered/image_rect'
    assert running.peer.node.count_subscribers(topic) == 0  # nobody needs it yet
    points = running.peer.listen(PointCloud2, '/segment/plain/points')
    assert running.peer.until(lambda: running.peer.node.count_subscribers(topic) == 1)
    running.peer.publish('/plain/rgb/camera_info', camera_info(RGB_SIZE, RGB_K, 'rgb_optical'))
    depth = np.random.default_rng(1).integers(0, 5000, RGB_SIZE, np.uint16)
    depth[depth < 1000] = 0
    made = send(running, 'plain', 0, depth, '16UC1', wait=('mask', 'confidence'))
    assert running.peer.until(lambda: points), running.node.log
    cloud = points[0]
    assert cloud.header == made['mask'].header
    assert (cloud.height, cloud.width, cloud.is_bigendian, cloud.is_dense) == (
        *RGB_SIZE, False, False)
    kinds = {7: '<f4', 2: 'u1'}
    dtype = np.dtype({'names': [field.name for field in cloud.fields],
                      'formats': [kinds[field.datatype] for field in cloud.fields],
                      'offsets': [field.offset for field in cloud.fields],
                      'itemsize': cloud.point_step})
    assert dtype.names == ('x', 'y', 'z', 'label', 'confidence')
    assert cloud.row_step == cloud.point_step * cloud.width
    found = np.frombuffer(cloud.data, dtype).reshape(RGB_SIZE)
    np.testing.assert_array_equal(found['label'], pixels(made['mask']))
    np.testing.assert_array_equal(found['confidence'], pixels(made['confidence']))
    z = np.where(depth, depth / 1000, np.nan)
    y, x = np.mgrid[:RGB_SIZE[0], :RGB_SIZE[1]]
    f, cx, cy = RGB_K
    for name, own in (('x', (x - cx) / f * z), ('y', (y - cy) / f * z), ('z', z)):
        np.testing.assert_allclose(found[name], own, rtol=1e-5, atol=1e-6)
    # A depth camera that delivers something else costs the cloud, told once, and no mask.
    points.clear()
    for _ in range(2):
        send(running, 'plain', 0, np.zeros((*RGB_SIZE, 3), np.uint8), 'rgb8', wait=('mask',))
    running.peer.spin(0.2)
    assert not points
    assert running.node.log.count(f'{topic}: the depth image is uint8') == 1
    assert 'plain/points waits' not in running.node.log


def test_points_without_depth_or_camera_info_are_told_once(running):
    points = running.peer.listen(PointCloud2, '/segment/flat/points')
    words = 'points waits for flat/depth_registered/image_rect and flat/rgb/camera_info'
    deadline = time.monotonic() + 10
    while words not in running.node.log and time.monotonic() < deadline:
        send(running, 'flat', 0, wait=('mask',))
        running.peer.spin(0.2)
    assert running.node.log.count(words) == 1, running.node.log
    assert not points


def test_a_publisher_of_tf_static_that_cannot_be_heard_is_named_once(running):
    words = 'cannot be heard on /tf_static: its QoS durability offers less'
    with robot(running.domain) as other:
        other.node.create_publisher(TFMessage, '/tf_static', 10)
        assert running.peer.until(lambda: words in running.node.log, 6), running.node.log
        running.peer.spin(3.2)  # the ROS graph is looked at once more
    assert running.node.log.count('cannot be heard on /tf_static') == 1
    assert 'incompatible QoS' not in running.node.log  # rclpy's own words
