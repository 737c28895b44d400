# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node in its own process, over real DDS."""

import array
import itertools
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
from robot import PATIENCE_S, NodeProcess, free_domain, image, robot
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool

from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.thermal import to_uint8

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SIZE = (90, 120)  # of the RGB images: not the network's 48 x 64, not its aspect ratio
SECOND = 1_000_000_000
# Stamps of the pairs that tests send, in the past and ascending: the node is not told the truth
# about when they were taken, so that no test depends on how fast this machine is.
STAMPS_NS = itertools.count(time.time_ns() - 3600 * SECOND, 2 * SECOND)


@pytest.fixture
def domain():
    return free_domain()


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


def scene(seed, size=SIZE):
    """Return an RGB and a 16-bit thermal image with values over the whole range."""
    numbers = np.random.default_rng(seed)
    return (numbers.integers(0, 256, (*size, 3), np.uint8),
            numbers.integers(26315, 32315, size, np.uint16))


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


def pixels(message):
    shape = (message.height, message.width, 3)[:3 if message.encoding == 'rgb8' else 2]
    return np.frombuffer(message.data, np.uint8).reshape(shape)


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
    # 263.15 K..323.15 K to 0..255, in steps of 0.01 K.
    counts = np.floor((thermal - 26315.0) * 255 / 6000 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(pixels(running.heard['mask'].pop()), expected(rgb, counts))
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
    assert (info[0].model_name, info[0].modality, info[0].backend) == (
        'tiny', 'thermal', 'onnxruntime')
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
    before = dict(zip(*_drops(send(running, 20)['stats']), strict=True))
    for _ in range(3):
        for cause, message in malformed():
            if cause == 'step':
                message.step = 7
            if cause == 'size':
                message.data = array.array('B', message.data[:-5])
            running.peer.publish('/rgb/image_raw', message)
        send(running, 21)
    after = dict(zip(*_drops(send(running, 22)['stats']), strict=True))
    causes = ('step', 'size', 'encoding', 'zero_stamp')
    assert {cause: after[cause] - before.get(cause, 0) for cause in causes} == dict.fromkeys(
        causes, 3)
    running.peer.until(lambda: 'zero header stamp' in running.node.log)
    for words in ('the step is 7 bytes', "the encoding is 'no such'", 'the data holds',
                  'zero header stamp'):
        assert running.node.log.count(words) == 1, running.node.log


def _drops(stats):
    return stats.drop_causes, stats.drop_counts


def test_diagnostics_come_each_second_with_rates_and_drops(running):
    heard = running.peer.listen(DiagnosticArray, '/diagnostics')
    for seed in range(5):
        send(running, seed)
    heard.clear()
    began = time.monotonic()
    assert running.peer.until(lambda: len(heard) >= 3)
    assert 1.5 < time.monotonic() - began < 4.5
    status = {s.name: s for s in heard[-1].status}
    assert status.keys() == {'segment: cameras', 'segment: pairing', 'segment: inference'}
    values = {v.key: v.value for v in status['segment: inference'].values}
    assert float(values['latency p95 [ms]']) >= float(values['latency p50 [ms]']) > 0
    assert status['segment: inference'].hardware_id.startswith('onnxruntime')


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
    drops = dict(zip(*_drops(send(running, 2)['stats']), strict=True))
    assert drops['disabled'] == 1


def test_running_node_takes_the_opacity_and_refuses_the_rest_with_a_reason(running):
    assert running.peer.set_parameter('overlay.alpha', 1.0) == ''
    made = send(running, 4)
    painted = pixels(made['mask']) > 0
    np.testing.assert_array_equal(pixels(made['overlay'])[painted],
                                  pixels(made['color_mask'])[painted])
    assert 'clean it up first' in running.peer.set_parameter('sync.max_skew', 0.2)
    assert 'out of range' in running.peer.set_parameter('overlay.alpha', 3.0)
    assert running.peer.get_parameter('sync.max_skew').double_value == 0.05


def test_node_without_bundle_waits_and_can_be_configured_again(tmp_path, domain):
    log, nothing = tmp_path / 'log', tmp_path / 'nothing'
    with NodeProcess(log, domain, bundle=nothing) as node, robot(domain) as peer:
        assert peer.until(lambda: 'cannot configure' in node.log), node.log
        assert node.log.count('\n') == 1 and 'nothing: no such folder' in node.log
        heard = peer.listen(DiagnosticArray, '/diagnostics')
        assert peer.until(lambda: heard)
        assert heard[-1].status[0].level == b'\x02' and 'no such' in heard[-1].status[0].message
        assert peer.state() == 'unconfigured'
        bundle = write_tiny_bundle(tmp_path / 'bundle')
        assert peer.set_parameter('bundle', str(bundle)) == ''
        for _ in range(2):
            assert peer.change('configure') and peer.state() == 'inactive'
            assert peer.change('activate') and peer.state() == 'active'
            assert peer.change('deactivate') and peer.change('cleanup')
        (bundle / 'model.onnx').write_bytes(b'damaged')
        assert not peer.change('configure')
        assert peer.state() == 'unconfigured' and 'SHA-256' in node.log
        assert node.end(signal.SIGINT) == 0
        assert 'Traceback' not in node.log


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('sync__max_screw', 0.1, 'parameter sync.max_screw is unknown; did you mean sync.max_skew?'),
    ('sync__max_skew', -1.0, 'parameter sync.max_skew is -1.0; expected a number from 0.0'),
])
def test_wrong_parameter_at_start_is_one_sentence(tmp_path, domain, name, value, words):
    with NodeProcess(tmp_path / 'log', domain, bundle=tmp_path, **{name: value}) as node:
        deadline = time.monotonic() + PATIENCE_S
        while words not in node.log and time.monotonic() < deadline:
            time.sleep(0.05)
        assert words in node.log and node.log.count('\n') == 1
        assert node.end(signal.SIGTERM) == 0
        assert node.log.count('\n') == 1


def test_simulated_time_rules_waits_and_latencies(tmp_path, domain):
    log, bundle = tmp_path / 'log', write_tiny_bundle(tmp_path / 'bundle')
    with (NodeProcess(log, domain, bundle=bundle, use_sim_time=True) as node,
          robot(domain) as peer):
        stats = peer.listen(SegmentationStats, '/segment/stats')
        rgb, thermal = scene(0)

        def at(stamp_ns):
            stamp = Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND)
            for _ in range(3):  # /clock is best effort
                peer.publish('/clock', Clock(clock=stamp))
                peer.spin(0.05)

        def segmented(rgb_ns, aux_ns):
            stats.clear()
            peer.publish('/rgb/image_raw', image(rgb, 'rgb8', rgb_ns))
            peer.publish('/thermal/image_raw', image(thermal, 'mono16', aux_ns))
            return peer.until(lambda: stats, 0.5)

        at(100 * SECOND)
        # The aux frame may still get a nearer partner: it waits for sync.max_wait, 0.1 s, or for
        # ever while the clock stands still.
        assert not segmented(99_990_000_000, 100 * SECOND)
        at(100 * SECOND + 250_000_000)
        assert peer.until(lambda: stats), node.log
        assert stats[0].latency_ms == pytest.approx(260, abs=1)
        assert stats[0].wait_ms == pytest.approx(250, abs=1)
        assert node.end(signal.SIGTERM) == 0
