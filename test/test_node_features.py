# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Encodings, thermal cameras, threshold, smoothing and warnings in the running node, over real DDS.

One node serves most of it: its camera pairs differ in their parameters and in what they are sent.
"""

import array
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import SECOND, NodeProcess, free_domain, image, normalized, pixels, robot, scene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from rgbx_seg_ros.messages import stamp_ns

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SIZE = (48, 64)  # the network's: no resizing lies between the images and the oracle
PARAMETERS = {  # of the pairs, by name
    'plain': {}, 'packed': {'rgb__transport': 'compressed', 'aux__transport': 'compressed'},
    'tenths': {'aux__camera': 'lepton_tlinear_100mk'},
    'ranged': {'aux__normalize': 'percentile', 'aux__low_percentile': 2.0,
               'aux__high_percentile': 98.0, 'aux__hot_pixels': True},
    'swapped': {}, 'apart': {}, 'past': {}, 'silent': {}}
COLD, WARM = 26315, 32315  # counts of 0.01 K that become 0 and 255


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with a pair of cameras for each group of features, heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    parameters = {f'{pair}__{name}': value for pair, own in PARAMETERS.items()
                  for name, value in own.items()}
    with (NodeProcess(folder / 'log', number, bundle=write_tiny_bundle(folder / 'bundle'),
                      pairs=list(PARAMETERS), **parameters) as node, robot(number) as peer):
        heard = {(pair, name): peer.listen(Image, f'/segment/{pair}/{name}')
                 for pair in PARAMETERS for name in ('mask', 'confidence')}
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in PARAMETERS
                                for stream in ('rgb', 'thermal') if pair not in (
                                    'packed', 'silent')))
        peer.advertise(CompressedImage, '/packed/rgb/image_raw/compressed',
                       '/packed/thermal/image_raw/compressed')
        yield SimpleNamespace(node=node, peer=peer, heard=heard, domain=number, last_ns=0)
        assert node.end() == 0
        assert 'Traceback' not in node.log


def raw(pixels, encoding):
    """Return an Image of an encoding, whose header is still empty."""
    return image(pixels, encoding, 0)


def packed(suffix, pixels, kind='', *options):
    """Return a CompressedImage by OpenCV alone; its header is still empty."""
    data = cv2.imencode(suffix, pixels, options)[1].tobytes()
    return CompressedImage(format=kind or suffix[1:], data=array.array('B', data))


def publish(running, pair, rgb, aux, stamp=None, skew_ns=3_000_000):
    """Publish two messages with stamps of now, 15 ms after the last ones at least; return RGB's."""
    running.last_ns = stamp = stamp or max(time.time_ns(), running.last_ns + 15_000_000)
    for stream, message, at in (('rgb', rgb, stamp), ('thermal', aux, stamp + skew_ns)):
        message.header.stamp = Time(sec=at // SECOND, nanosec=at % SECOND)
        message.header.frame_id = stream
        end = '/compressed' if isinstance(message, CompressedImage) else ''
        running.peer.publish(f'/{pair}/{stream}/image_raw{end}', message)
    return stamp


def segmented(running, pair, rgb, aux, stamp=None):
    """Publish two messages and return the pixels of their mask and confidence."""
    stamp = publish(running, pair, rgb, aux, stamp)

    def found():
        return [message for name in ('mask', 'confidence') for message in running.heard[pair, name]
                if stamp_ns(message.header) == stamp]

    assert running.peer.until(lambda: len(found()) == 2), f'{pair}\n{running.node.log}'
    return [pixels(message) for message in found()]


def check(mask, confidence, rgb, aux, threshold=0.0):
    """Hold the pixels of a result to the tiny model, with `aux` as floats 0..255."""
    assert np.abs(confidence - aux).max() <= 1
    own = expected(rgb, confidence)
    own[confidence < threshold * 255] = 255
    np.testing.assert_array_equal(mask, own)


def two_colors():
    """Return red beside blue, and thermal counts without contrast, cold."""
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[:, :32, 0] = rgb[:, 32:, 2] = 255
    return rgb, np.full(SIZE, COLD + 500, np.uint16)


def tells(running, words, count=1, patience_s=20.0):
    """Wait for words in the log; return whether they stand there as often as expected."""
    running.peer.until(lambda: words in running.node.log, patience_s)
    return running.node.log.count(words) == count


def test_threshold_may_change_at_any_time_and_is_told(running):
    infos = []
    try:
        from vision_msgs.msg import LabelInfo
        infos = running.peer.listen(LabelInfo, '/segment/plain/label_info', LATCHED)
        assert running.peer.until(lambda: infos) and infos[-1].threshold == 0.0
    except ImportError:
        pass
    for seed, threshold in enumerate((0.0, 0.4, 0.8, 0.0)):
        assert running.peer.set_parameter('confidence.threshold', threshold) == ''
        rgb, thermal = scene(seed, SIZE)
        mask, confidence = segmented(running, 'plain', raw(rgb, 'rgb8'), raw(thermal, 'mono16'))
        check(mask, confidence, rgb, normalized(thermal).astype(float), threshold)
        assert (255 in mask) == (threshold > 0)
        if infos:
            assert running.peer.until(lambda t=threshold: infos[-1].threshold == pytest.approx(t))


def test_smoothing_may_change_at_any_time_and_holds_what_was_more_certain(running):
    assert running.peer.set_parameter('mask.smoothing', 1.0) == ''
    try:
        (rgb, thermal), (rgb2, thermal2) = scene(10, SIZE), scene(11, SIZE)
        start = time.time_ns()
        segmented(running, 'plain', raw(rgb, 'rgb8'), raw(thermal, 'mono16'), start)
        mask, confidence = segmented(running, 'plain', raw(rgb2, 'rgb8'), raw(thermal2, 'mono16'),
                                     start + 200_000_000)
        held = normalized(thermal) - 0.2 * 255  # of 255 per second
        new = normalized(thermal2).astype(float)
        sure = (np.abs(new - held) > 2) & (np.abs(new - 127.5) > 2) & (np.abs(
            normalized(thermal) - 127.5) > 2)
        own = np.where(new > held, expected(rgb2, normalized(thermal2)),
                       expected(rgb, normalized(thermal)))
        np.testing.assert_array_equal(mask[sure], own[sure])
        assert np.abs(confidence - np.maximum(new, held)).max() <= 1
    finally:
        assert running.peer.set_parameter('mask.smoothing', 0.0) == ''
    check(*segmented(running, 'plain', raw(rgb2, 'rgb8'), raw(thermal2, 'mono16')), rgb2, new)


def test_jpeg_of_rgb_and_16_bit_png_of_thermal(running):
    rgb, thermal = scene(20, SIZE)
    rgb = cv2.GaussianBlur(rgb, (0, 0), 3)
    photo = packed('.jpg', rgb[..., ::-1], 'rgb8; jpeg compressed bgr8',
                   cv2.IMWRITE_JPEG_QUALITY, 90)
    seen = cv2.imdecode(np.frombuffer(photo.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    mask, confidence = segmented(running, 'packed', photo,
                                 packed('.png', thermal, '16UC1; png compressed '))
    check(mask, confidence, seen, normalized(thermal).astype(float))


def test_a_jpeg_of_thermal_is_used_and_told_once(running):
    rgb, _ = two_colors()
    gray = np.full(SIZE, 77, np.uint8)
    for _ in range(2):
        _, confidence = segmented(running, 'packed', packed('.png', rgb[..., ::-1]),
                                  packed('.jpg', gray, '16UC1; jpeg compressed '))
        assert np.abs(confidence.astype(int) - 77).max() <= 1
    assert tells(running, '/packed/thermal/image_raw/compressed: the aux image is a JPEG')


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'bayer_gbrg16', 'uyvy', 'nv12', 'bgra8'])
def test_colors_of_any_encoding(running, encoding):
    rgb, thermal = two_colors()
    y = np.where(np.arange(64) < 32, 81, 41).astype(np.uint8)  # BT.601: red, blue
    u, v = np.where(np.arange(32) < 16, ((90,), (240,)), ((240,), (110,))).astype(np.uint8)
    height, message = SIZE[0], None
    if encoding.startswith('bayer'):
        mosaic = np.zeros(SIZE, np.uint8)
        row, column = (0, 0) if 'rggb' in encoding else (1, 0)  # of red; blue is across
        mosaic[row::2, column::2] = rgb[row::2, column::2, 0]
        mosaic[1 - row::2, 1 - column::2] = rgb[1 - row::2, 1 - column::2, 2]
        message = raw(mosaic.astype(np.uint16) * 257 if '16' in encoding else mosaic, encoding)
    elif encoding == 'uyvy':
        line = np.stack([u, y[::2], v, y[1::2]], 1).reshape(64, 2)
        message = raw(np.tile(line, (height, 1, 1)), encoding)
    elif encoding == 'nv12':
        chroma = np.stack([u, v], 1).reshape(64)
        message = raw(np.vstack([np.tile(y, (height, 1)), np.tile(chroma, (height // 2, 1))]),
                      encoding)
        message.height = height
    else:
        message = raw(np.dstack([rgb[..., ::-1], np.full(SIZE, 9, np.uint8)]), encoding)
    mask, _ = segmented(running, 'plain', message, raw(thermal, '16UC1'))
    away = np.abs(np.arange(64) - 31.5) > 3  # from the edge, where colors are interpolated
    np.testing.assert_array_equal(mask[2:-2, away], (rgb[2:-2, away, 0] > 127))


def test_a_camera_by_name_gives_the_counts_their_unit(running):
    rgb, thermal = scene(30, SIZE)
    tenths = thermal // 10  # of 0.1 K
    _, confidence = segmented(running, 'tenths', raw(rgb, 'rgb8'), raw(tenths, 'mono16'))
    own = np.clip((tenths / 10 - 263.15) / 60 * 255, 0, 255)
    assert np.abs(confidence - own).max() <= 1
    # The same of a big-endian camera with padded rows.
    padded = np.zeros((SIZE[0], 70), '>u2')
    padded[:, :64] = tenths
    message = raw(padded, 'mono16')
    message.width, message.is_bigendian = 64, True
    _, again = segmented(running, 'tenths', raw(rgb, 'rgb8'), message)
    np.testing.assert_array_equal(again, confidence)


def test_percentiles_and_hot_pixels(running):
    rgb, _ = two_colors()
    numbers = np.random.default_rng(40)
    slope = np.linspace(29000, 31000, SIZE[0] * SIZE[1]).reshape(SIZE)
    for n in range(90):
        thermal = (slope + numbers.normal(0, 5, SIZE)).astype(np.uint16)
        thermal[24, 32] = 31500
        _, confidence = segmented(running, 'ranged', raw(rgb, 'rgb8'), raw(thermal, 'mono16'))
        low, high = np.percentile(thermal, (2, 98))
        own = np.clip((thermal - low) / (high - low) * 255, 0, 255)
        if n >= 79:  # from the 80th frame on, the pixel is known
            own[24, 32] = np.median(own[23:26, 31:34])
        assert np.abs(confidence - own).max() <= 2, n


def test_false_color_becomes_gray_and_is_told_once(running):
    rgb, _ = two_colors()
    gray = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (SIZE[0], 1))
    colored = cv2.applyColorMap(gray, cv2.COLORMAP_JET)
    for _ in range(3):
        _, confidence = segmented(running, 'plain', raw(rgb, 'rgb8'), raw(colored, 'bgr8'))
    assert np.abs(confidence.astype(int) - gray).mean() <= 2
    assert tells(running, 'jet') and 'plain: ' in running.node.log


def test_an_unknown_encoding_is_told_once_by_topic(running):
    rgb, thermal = scene(50, SIZE)
    for _ in range(3):
        publish(running, 'plain', raw(rgb, 'rgb9'), raw(thermal, 'mono16'))
        publish(running, 'plain', raw(rgb, 'rgb8'), raw(thermal, '16UC2'))
    assert tells(running, "/plain/rgb/image_raw: the encoding is 'rgb9'")
    assert tells(running, "/plain/thermal/image_raw: the encoding is '16UC2'")


def test_what_does_not_fit_is_told_once_for_all_of_a_node(running):
    """Swapped topics, clocks apart, stamps in the past, nobody there, other types and QoS."""
    node = running.peer.node
    node.create_subscription(Image, '/segment/plain/mask', print, LATCHED)
    rgb, thermal = scene(60, SIZE)
    with robot(running.domain) as other:  # one of its own, for a topic has one type per process
        other.node.create_publisher(CompressedImage, '/plain/rgb/image_raw', 10)
        # Its name is not always known as soon as its topic is.
        began, other_type = time.monotonic(), 'publishes /plain/rgb/image_raw as sensor_msgs'
        while time.monotonic() < began + 3 or not tells(running, other_type, patience_s=0):
            assert time.monotonic() < began + 10, running.node.log
            now = time.time_ns()
            publish(running, 'swapped', raw(thermal, 'mono16'), raw(rgb, 'rgb8'), now)
            publish(running, 'apart', raw(rgb, 'rgb8'), raw(thermal, 'mono16'), now, 3 * SECOND)
            publish(running, 'past', raw(rgb, 'rgb8'), raw(thermal, 'mono16'), now - 3600 * SECOND)
            running.peer.spin(0.1)
        running.last_ns = 0
    for words in (
            'the two cameras look swapped; exchange the remappings',
            'the stamps of /apart/thermal/image_raw are 3.00 s ahead of those of /apart/rgb/image',
            'the stamps of /past/rgb/image_raw and /past/thermal/image_raw are 3600',
            'nobody publishes /silent/rgb/image_raw', 'nobody publishes /silent/thermal/image_raw',
            'cannot hear /segment/plain/mask: its QoS durability asks for more', other_type):
        assert tells(running, words), f'{words}\n{running.node.log}'
    assert '/swapped/rgb/image_raw holds mono16 and /swapped/thermal/image_raw holds rgb8' in (
        running.node.log)
    assert 'nobody publishes /plain' not in running.node.log


def test_no_warning_comes_twice(running):
    told = [line.partition('[segment]: ')[2] for line in running.node.log.splitlines()
            if line.startswith('[WARN]')]
    assert len(told) == len(set(told)) >= 10, running.node.log


def test_a_looped_bag_on_its_own_clock(tmp_path):
    number = free_domain()
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    with (NodeProcess(tmp_path / 'log', number, bundle=bundle, use_sim_time=True) as node,
          robot(number) as peer):
        masks = peer.listen(Image, '/segment/mask')
        diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
        peer.advertise(Image, '/rgb/image_raw', '/thermal/image_raw')
        peer.advertise(Clock, '/clock')
        rgb, thermal = scene(70, SIZE)
        passes, frames = 2, 50
        for _ in range(passes):
            for frame in range(frames):  # at 20 Hz, played twice as fast
                at = 100 * SECOND + frame * SECOND // 20
                peer.publish('/clock', Clock(clock=Time(sec=at // SECOND, nanosec=at % SECOND)))
                peer.publish('/rgb/image_raw', image(rgb, 'rgb8', at))
                peer.publish('/thermal/image_raw', image(thermal, 'mono16', at + 3_000_000))
                peer.spin(0.025)
            peer.spin(0.3)
        stamps = [stamp_ns(mask.header) for mask in masks]
        assert len(stamps) >= 0.98 * frames * passes, node.log
        assert sum(b < a for a, b in zip(stamps, stamps[1:], strict=False)) == passes - 1
        times = [stamp_ns(message.header) / SECOND for message in diagnostics]
        assert all(100 <= seconds < 103 for seconds in times[-3:]), times
        rates = [float(value.value) for message in diagnostics for status in message.status
                 if status.name == 'segment: cameras' for value in status.values
                 if value.key == 'rgb rate [Hz]']
        assert any(18 < rate < 22 for rate in rates), rates
        assert 'use_sim_time' not in node.log and node.end() == 0
        warnings = [line for line in node.log.splitlines() if '[WARN]' in line
                and 'until its queue was full' not in line]  # a busy machine may serve one late
    assert len(warnings) <= 1, node.log  # that the stamps jumped back
