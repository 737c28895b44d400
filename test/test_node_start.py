# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How the node starts, fails and ends: each test has a node of its own."""

import array
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rgbx_seg.msg import SegmentationStats
from robot import (
    PATIENCE_S,
    ROOT,
    SECOND,
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
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from rgbx_seg_ros import camera_pair, endpoints
from rgbx_seg_ros.parameters import PARAMETERS, read
from rgbx_seg_ros.worker import open_segmenter


@pytest.fixture
def domain():
    return free_domain()


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
        time.sleep(0.2)  # what is on the terminal is not yet on /rosout
        assert node.end(signal.SIGTERM) == 0
        assert node.log.count('\n') == 1


def test_signal_while_the_model_loads_ends_without_a_word(tmp_path, domain):
    bundle = write_tiny_bundle(tmp_path / 'bundle', 2400, 3200)  # seconds of warming up
    with (NodeProcess(tmp_path / 'log', domain, bundle=bundle, backend='onnxruntime',
                      warmup=100) as node,
          robot(domain) as peer):
        assert peer.until(lambda: peer.node.count_publishers('/diagnostics'))
        assert node.end(signal.SIGTERM) == 0
        assert node.log == ''


def test_missing_parameter_file_ends_with_one_sentence():
    run = subprocess.run(
        [sys.executable, '-m', 'rgbx_seg_ros.node', '--ros-args', '--params-file', 'no.yaml'],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    own = [line for line in run.stderr.splitlines() if '[rcl]' not in line]
    assert run.returncode == 1 and len(own) == 1
    assert 'error: the ROS arguments cannot be used' in own[0] and 'no.yaml' in own[0]


def test_compressed_images_are_segmented_and_a_broken_one_is_counted(tmp_path, domain):
    log, bundle = tmp_path / 'log', write_tiny_bundle(tmp_path / 'bundle')
    transports = {'rgb__transport': 'compressed', 'aux__transport': 'compressed'}
    with (NodeProcess(log, domain, bundle=bundle, **transports) as node, robot(domain) as peer):
        masks = peer.listen(Image, '/segment/mask')
        stats = peer.listen(SegmentationStats, '/segment/stats')
        rgb, thermal = scene(0, (48, 64))

        def publish(color):
            stamp_ns = next(STAMPS_NS)
            header = image(rgb, 'rgb8', stamp_ns).header
            for topic, data in (('rgb', color), ('thermal', cv2.imencode('.png', thermal)[1])):
                peer.publish(f'/{topic}/image_raw/compressed', CompressedImage(
                    header=header, format='png', data=array.array('B', bytes(data))))

        png = cv2.imencode('.png', rgb[..., ::-1])[1].tobytes()
        publish(png[:-50])
        assert peer.until(lambda: 'truncated' in node.log), node.log
        publish(png)
        assert peer.until(lambda: masks and stats), node.log
        own = expected(rgb, normalized(thermal))
        np.testing.assert_array_equal(pixels(masks[0]), own)
        assert drops(stats[0]) == {'decode': 1}
        assert node.log.count('truncated') == 1


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


def test_a_middleware_that_counts_no_losses_is_subscribed_to_all_the_same(tmp_path):
    made = {}

    def create(kind, topic, *_, event_callbacks=None, callback_group=None):
        if event_callbacks is not None:
            raise endpoints.UnsupportedEventTypeError('no such event')
        made[topic] = kind
        return SimpleNamespace(publish=print, topic_name=topic)

    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0, to_msg=Time),
                            ros_time_is_active=False)
    node = SimpleNamespace(create_subscription=create, create_publisher=create,
                           get_clock=lambda: clock)
    bundle = write_tiny_bundle(tmp_path / 'bundle', modality='depth')
    values = {p.name: p.default for p in PARAMETERS} | {
        'bundle': str(bundle), 'backend': 'dummy', 'aux.transport': 'compressed'}
    settings = read(values)
    segmenter = open_segmenter(settings)
    cameras = camera_pair.CameraPair(node, settings.pairs[0], segmenter.manifest, values.get, None,
                                     None)
    cameras.use(segmenter)
    cameras.activate(SimpleNamespace(subscribe=create))
    assert made['~/mask'] is made['rgb/image_raw'] is Image
    assert made['depth/image_raw/compressed'] is CompressedImage
