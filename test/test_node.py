# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node in its own process, over real DDS."""

import array
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import expected, manifest, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile
from rgbx_seg.msg import SegmentationInfo, SegmentationStats
from robot import (
    SECOND,
    SIZE,
    STAMPS_NS,
    NodeProcess,
    drops,
    free_domain,
    image,
    normalized,
    pixels,
    robot,
    scene,
)
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.thermal import to_uint8

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with the tiny bundle, whose results are heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    bundle = write_tiny_bundle(folder / 'bundle')
    with NodeProcess(folder / 'log', number, bundle=bundle) as node, robot(number) as peer:
        results = ('mask', 'confidence', 'overlay', 'color_mask', 'aux_preview')
        heard = {name: peer.listen(Image, f'/segment/{name}') for name in results}
        heard['stats'] = peer.listen(SegmentationStats, '/segment/stats')
        heard['camera_info'] = peer.listen(CameraInfo, '/segment/camera_info')
        yield SimpleNamespace(node=node, peer=peer, heard=heard, bundle=bundle)
        assert node.end(signal.SIGTERM) == 0
        assert 'Traceback' not in node.log


def send(running, seed, stamp_ns=None, skew_ns=3_000_000, leave=('camera_info',)):
    """Publish one pair and return the node's messages of it by topic, all but those in `leave`."""
    rgb, thermal = scene(seed)
    stamp_ns = stamp_ns or next(STAMPS_NS)
    stamp = Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)
    running.peer.publish('/rgb/image_raw', image(rgb, 'rgb8', stamp_ns, 'rgb_optical'))
    running.peer.publish('/thermal/image_raw',
                         image(thermal, 'mono16', stamp_ns + skew_ns, 'thermal_optical'))

    def found():
        return {name: message for name, heard in running.heard.items() for message in heard
                if stamp in (message.header.stamp, getattr(message, 'aux_stamp', None))
                or (name == 'aux_preview' and message.header.frame_id == 'thermal_optical')}

    topics = running.heard.keys() - set(leave)
    assert running.peer.until(lambda: topics <= found().keys()), (
        f'only {sorted(found())} of pair {seed}\n{running.node.log}')
    result = found()
    for heard in running.heard.values():
        heard.clear()
    return result


def test_masks_equal_the_segmenter_s_pixel_for_pixel(running):
    engine, model = open_engine(running.bundle)
    segmenter = Segmenter(engine, model)
    for seed in range(5):
        rgb, thermal = scene(seed)
        own = segmenter(rgb, to_uint8(thermal, model.aux))
        made = send(running, seed)
        np.testing.assert_array_equal(pixels(made['mask']), own.label)
        np.testing.assert_array_equal(pixels(made['confidence']), own.confidence)
        assert len(np.unique(own.label)) == 3


def test_mask_is_what_the_model_computes_by_hand(running):
    rgb, thermal = scene(3, (48, 64))
    stamp_ns = next(STAMPS_NS)
    running.peer.publish('/rgb/image_raw', image(rgb, 'rgb8', stamp_ns))
    running.peer.publish('/thermal/image_raw', image(thermal, 'mono16', stamp_ns))
    assert running.peer.until(lambda: running.heard['mask'])
    own = expected(rgb, normalized(thermal))
    np.testing.assert_array_equal(pixels(running.heard['mask'].pop()), own)
    running.peer.spin(0.2)
    for heard in running.heard.values():
        heard.clear()


def test_every_result_has_the_camera_s_size_and_the_rgb_header_bit_for_bit(running):
    second = next(STAMPS_NS) // SECOND
    stamp_ns = second * SECOND + 999_999_999
    made = send(running, 7, stamp_ns)
    for name in ('mask', 'confidence', 'overlay', 'color_mask', 'stats'):
        header = made[name].header
        assert (header.stamp.sec, header.stamp.nanosec) == (second, 999_999_999)
        assert header.frame_id == 'rgb_optical'
    for name in ('mask', 'confidence', 'overlay', 'color_mask'):
        assert (made[name].height, made[name].width) == SIZE
    assert made['mask'].encoding == made['confidence'].encoding == 'mono8'
    assert made['overlay'].encoding == made['color_mask'].encoding == 'rgb8'
    assert made['aux_preview'].header.frame_id == 'thermal_optical'


def test_stats_tell_skew_times_and_what_the_mask_holds(running):
    stamp_ns = next(STAMPS_NS)
    made = send(running, 8, stamp_ns, skew_ns=-4_000_000)
    age_ms = (time.time_ns() - stamp_ns) / 1e6
    stats, mask = made['stats'], pixels(made['mask'])
    assert stats.skew_ms == pytest.approx(-4.0)
    np.testing.assert_allclose(stats.class_fractions, [np.mean(mask == i) for i in range(3)],
                               rtol=1e-5)
    assert stats.engine_ms > 0 and 0 < stats.decode_ms < stats.overhead_ms
    assert age_ms - 10_000 < stats.latency_ms < age_ms and stats.wait_ms >= 0
    assert stats.rgb_received == stats.aux_received >= stats.pairs_published > 0


def test_camera_info_passes_with_the_mask_s_header(running):
    camera = CameraInfo(width=SIZE[1], height=SIZE[0], k=np.arange(9.0))
    camera.header.frame_id = 'rgb_optical'
    running.peer.publish('/rgb/camera_info', camera)
    running.peer.spin(0.3)
    made = send(running, 9, leave=())
    assert made['camera_info'].header == made['mask'].header
    assert list(made['camera_info'].k) == list(range(9))


def test_latched_topics_reach_a_late_listener(running):
    info = running.peer.listen(SegmentationInfo, '/segment/info', LATCHED)
    assert running.peer.until(lambda: info)
    engine = open_engine(running.bundle)[0].info
    assert (info[0].model_name, info[0].modality) == ('tiny', 'thermal')
    assert (info[0].backend, info[0].backend_version, info[0].device, info[0].precision,
            info[0].choice) == (engine.backend, engine.version, engine.device, engine.precision,
                                engine.choice)
    assert list(info[0].class_names) == [c.name for c in manifest().classes]
    assert len(info[0].bundle_sha256) == 64


def test_label_info_is_latched_where_vision_msgs_is_installed(running):
    vision = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    info = running.peer.listen(vision.LabelInfo, '/segment/label_info', LATCHED)
    assert running.peer.until(lambda: info)
    assert {c.class_id: c.class_name for c in info[0].class_map} == {
        c.id: c.name for c in manifest().classes}


def malformed():
    rgb, _ = scene(0)
    now = next(STAMPS_NS)
    yield 'step', image(rgb, 'rgb8', now)
    yield 'size', image(rgb, 'rgb8', now)
    yield 'encoding', image(rgb, 'no such', now)
    yield 'zero_stamp', image(rgb, 'rgb8', 0)


def test_malformed_images_are_counted_and_told_once_while_good_ones_go_on(running):
    before = drops(send(running, 20)['stats'])
    for _ in range(3):
        for cause, message in malformed():
            if cause == 'step':
                message.step = 7
            if cause == 'size':
                message.data = array.array('B', message.data[:-5])
            running.peer.publish('/rgb/image_raw', message)
        send(running, 21)
    after = drops(send(running, 22)['stats'])
    causes = ('step', 'size', 'encoding', 'zero_stamp')
    assert {cause: after[cause] - before.get(cause, 0) for cause in causes} == dict.fromkeys(
        causes, 3)
    running.peer.until(lambda: 'zero header stamp' in running.node.log)
    for words in ('the step is 7 bytes', "the encoding is 'no such'", 'the data holds',
                  'zero header stamp'):
        assert running.node.log.count(words) == 1, running.node.log


def test_diagnostics_come_each_second_with_rates_and_drops(running):
    heard = running.peer.listen(DiagnosticArray, '/diagnostics')
    for seed in range(5):
        send(running, seed)
    heard.clear()
    began = time.monotonic()
    assert running.peer.until(lambda: len(heard) >= 3)
    assert 1.5 < time.monotonic() - began < 4.5
    status = {s.name: s for s in heard[-1].status}
    assert status.keys() == {f'segment: {concern}' for concern in (
        'cameras', 'pairing', 'inference', 'memory')}
    values = {v.key: v.value for v in status['segment: inference'].values}
    assert float(values['latency p95 [ms]']) >= float(values['latency p50 [ms]']) > 0
    engine = open_engine(running.bundle)[0].info
    words = f'{engine.backend} {engine.version} {engine.device}'
    assert status['segment: inference'].hardware_id == words
    assert values['engine'] == f'{words} {engine.precision}'
    assert values['choice'] == engine.choice and engine.backend in engine.choice


def test_disabled_node_drops_pairs_until_enabled(running):
    call = running.peer.call
    assert call(SetBool, '/segment/enable', SetBool.Request(data=False)).success
    rgb, thermal = scene(1)
    stamp_ns = next(STAMPS_NS)
    running.peer.publish('/rgb/image_raw', image(rgb, 'rgb8', stamp_ns))
    running.peer.publish('/thermal/image_raw', image(thermal, 'mono16', stamp_ns))
    running.peer.spin(0.5)
    assert not running.heard['mask']
    assert call(SetBool, '/segment/enable', SetBool.Request(data=True)).success
    assert drops(send(running, 2)['stats'])['disabled'] == 1


def test_running_node_takes_the_opacity_and_refuses_the_rest_with_a_reason(running):
    assert running.peer.set_parameter('overlay.alpha', 1.0) == ''
    made = send(running, 4)
    painted = pixels(made['mask']) > 0
    np.testing.assert_array_equal(pixels(made['overlay'])[painted],
                                  pixels(made['color_mask'])[painted])
    assert 'clean it up first' in running.peer.set_parameter('sync.max_skew', 0.2)
    assert running.peer.set_parameter('overlay.alpha', 1) == ''
    assert send(running, 5)['overlay'].encoding == 'rgb8'
    for wrong, words in ((3.0, 'out of range'), (float('nan'), 'out of range'),
                         (3, 'expected a number from 0.0 to 1.0'),
                         ('half', "is 'half'; expected a number from 0.0 to 1.0")):
        assert words in running.peer.set_parameter('overlay.alpha', wrong)
    assert running.peer.get_parameter('sync.max_skew').double_value == 0.05
