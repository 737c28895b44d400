# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node while its engine is opened, which may take minutes, and what it says of that engine."""

import signal
import time
from functools import partial

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

import rclpy
from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from fake_gpu import environment
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.qos import DurabilityPolicy, QoSProfile
from rgbx_seg.msg import SegmentationInfo
from robot import (
    PATIENCE_S,
    ROOT,
    STAMPS_NS,
    NodeProcess,
    SlowNodeProcess,
    free_domain,
    image,
    normalized,
    pixels,
    robot,
    scene,
)
from sensor_msgs.msg import Image

from rgbx_seg_ros import endpoints
from rgbx_seg_ros.health import Facts, Health, Level
from rgbx_seg_ros.remedies import BROKEN

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
OK, WARN, ERROR = (bytes([level]) for level in range(3))
END_S = 2.0  # as in test_engine_failure.py
FIRST, SECOND = 'the engine is being built, 5 s.', 'the engine is being built, 10 s.'


class FailingNodeProcess(NodeProcess):
    """The node with an engine that fails as bundle/fault says."""

    program = (str(ROOT / 'test' / 'failing_node.py'),)


@pytest.fixture
def domain():
    return free_domain()


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose engine, on a slow node, is not opened until the file `opening` is gone."""
    folder = write_tiny_bundle(tmp_path / 'bundle')
    (folder / 'opening').write_text(FIRST)
    return folder


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Give the processes that are started a GPU that computes on the processor, and a TensorRT."""
    def give(generation, **settings):
        for name, value in environment(tmp_path / 'gpu', generation, **settings).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    return give


def status(peer, heard, name):
    """Return level, message and values of a concern, from a report that is still to come."""
    def found():
        return [one for message in heard for one in message.status
                if one.name == f'segment: {name}']

    heard.clear()
    assert peer.until(found), [one.name for message in heard for one in message.status]
    last = found()[-1]
    return last.level, last.message, {value.key: value.value for value in last.values}


def test_while_an_engine_is_opened_all_the_rest_answers(tmp_path, domain, bundle):
    with (SlowNodeProcess(tmp_path / 'log', domain, bundle=bundle) as node,
          robot(domain) as peer):
        info = peer.listen(SegmentationInfo, '/segment/info', LATCHED)
        heard = peer.listen(DiagnosticArray, '/diagnostics')
        assert peer.until(lambda: peer.node.count_publishers('/segment/mask'))
        assert peer.state() == 'configuring'
        names = peer.call(ListParameters, '/segment/list_parameters', ListParameters.Request())
        assert {'bundle', 'precision', 'engine.file'} <= set(names.result.names)
        assert 'clean it up first' in peer.set_parameter('sync.max_skew', 0.2)
        assert peer.set_parameter('overlay.alpha', 0.5) == ''
        level, message, values = status(peer, heard, 'state')
        assert (level, message) == (WARN, f'configuring: {FIRST}')
        assert values['state'] == 'configuring' and values['progress'] == FIRST
        (bundle / 'opening').write_text(SECOND)
        assert peer.until(lambda: SECOND in node.log)
        later = status(peer, heard, 'state')[2]
        assert later['progress'] == SECOND
        assert int(later['elapsed [s]']) > int(values['elapsed [s]'])
        assert not info and node.log.count(FIRST) == node.log.count(SECOND) == 1
        (bundle / 'opening').unlink()
        assert peer.until(lambda: info)
        assert peer.until(lambda: peer.state() == 'active')
        assert info[0].choice and f'runs on {info[0].backend}' in node.log
        assert info[0].choice in node.log
        level, _, values = status(peer, heard, 'inference')
        assert (level, values['choice']) == (OK, info[0].choice)
        assert node.end() == 0


def test_an_engine_that_cannot_be_opened_takes_its_topics_back(tmp_path, domain, bundle):
    with (SlowNodeProcess(tmp_path / 'log', domain, bundle=bundle) as node,
          robot(domain) as peer):
        assert peer.until(lambda: peer.node.count_publishers('/segment/mask'))
        (bundle / 'refusal').write_text('the GPU has 4 MB, expected 8.')
        (bundle / 'opening').unlink()
        assert peer.until(lambda: 'cannot configure' in node.log)
        assert peer.until(lambda: not peer.node.count_publishers('/segment/mask'))
        assert peer.until(lambda: not peer.node.count_publishers('/segment/info'))
        heard = peer.listen(DiagnosticArray, '/diagnostics')
        level, message, values = status(peer, heard, 'state')
        assert (level, message) == (ERROR, 'the GPU has 4 MB, expected 8.')
        assert values == {'state': 'unconfigured'} and peer.state() == 'unconfigured'
        assert node.log.count('expected 8.') == 1 and 'Traceback' not in node.log
        assert peer.set_parameter('sync.max_skew', 0.2) == ''
        (bundle / 'refusal').unlink()
        assert peer.change('configure') and peer.state() == 'inactive'
        assert peer.until(lambda: peer.node.count_publishers('/segment/info'))


def test_a_signal_ends_a_configure_that_a_manager_waits_for(tmp_path, domain, bundle):
    with (SlowNodeProcess(tmp_path / 'log', domain, bundle=bundle, autostart=False) as node,
          robot(domain) as peer):
        client = peer.node.create_client(ChangeState, '/segment/change_state')
        assert peer.until(client.service_is_ready)
        client.call_async(ChangeState.Request(
            transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        assert peer.until(lambda: FIRST in node.log)
        began = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(PATIENCE_S) == 0
        assert time.monotonic() - began < END_S
        assert 'Traceback' not in node.log and 'rror' not in node.log


def test_a_precision_that_the_bundle_lacks_is_one_sentence_and_no_topic(tmp_path, domain, bundle):
    with (NodeProcess(tmp_path / 'log', domain, bundle=bundle, backend='onnxruntime',
                      precision='int8') as node, robot(domain) as peer):
        assert peer.until(lambda: 'cannot configure' in node.log)
        assert 'precision int8 for onnxruntime: the bundle tiny has' in node.log
        assert node.log.count('\n') == 1 and peer.state() == 'unconfigured'
        assert peer.until(lambda: not peer.node.count_publishers('/segment/mask'))


def test_a_gpu_that_is_not_used_is_a_warning(tmp_path, domain, gpu):
    gpu(None)
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    with NodeProcess(tmp_path / 'log', domain, bundle=bundle) as node, robot(domain) as peer:
        heard = peer.listen(DiagnosticArray, '/diagnostics')
        level, message, _ = status(peer, heard, 'inference')
        sentence = 'the GPU Fake RTX A2000 is not used'
        assert level == WARN and sentence in message
        status(peer, heard, 'inference')
        told = [line for line in node.log.splitlines() if sentence in line]
        assert len(told) == 1 and 'WARN' in told[0]


def tells(heard, words):
    return any(words in own.message for report in heard for own in report.status)


def test_the_first_start_builds_the_engine_in_sight_the_next_one_finds_it(tmp_path, domain, gpu):
    gpu('10.3', build_seconds=3.0)
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    rgb, thermal = scene(1, (48, 64))
    for is_first in (True, False):
        with (NodeProcess(tmp_path / 'log', domain, bundle=bundle, backend='tensorrt') as node,
              robot(domain) as peer):
            masks = peer.listen(Image, '/segment/mask')
            heard = peer.listen(DiagnosticArray, '/diagnostics')
            if is_first:
                assert peer.until(partial(tells, heard, 'building the engine of model.onnx'))
                assert peer.state() == 'configuring'
            stamp_ns = next(STAMPS_NS)
            peer.publish('/rgb/image_raw', image(rgb, 'rgb8', stamp_ns))
            peer.publish('/thermal/image_raw', image(thermal, 'mono16', stamp_ns))
            assert peer.until(masks.__len__), node.log
            np.testing.assert_array_equal(pixels(masks[0]), expected(rgb, normalized(thermal)))
            assert ('building the engine' in node.log) is is_first
            assert node.end() == 0 and 'Traceback' not in node.log


def test_an_engine_that_will_not_recover_says_what_to_do_and_says_it_once(tmp_path, domain, bundle):
    (bundle / 'fault').write_text('call lose')
    with (FailingNodeProcess(tmp_path / 'log', domain, bundle=bundle, warmup=0) as node,
          robot(domain) as peer):
        peer.listen(Image, '/segment/mask')
        heard = peer.listen(DiagnosticArray, '/diagnostics')
        rgb, thermal = scene(1)
        for _ in range(3):
            stamp_ns = next(STAMPS_NS)
            peer.publish('/rgb/image_raw', image(rgb, 'rgb8', stamp_ns))
            peer.publish('/thermal/image_raw', image(thermal, 'mono16', stamp_ns))
            peer.spin(0.2)
        assert peer.until(lambda: 'fallen off the bus' in node.log)
        level, message, _ = status(peer, heard, 'inference')
        assert level == ERROR and 'restart the node: the GPU has fallen off the bus.' in message
        assert node.log.count('fallen off the bus') == 1


def test_an_engine_that_will_not_recover_stays_an_error_while_no_pair_comes():
    health, facts = Health(0), Facts(broken=True, failure='the GPU is gone.', warning='it is slow.')
    for report in range(1, 9):
        found = {one.concern: one for one in health.statuses(report * 10**9, {}, facts)}
    assert found['inference'].level == Level.ERROR
    assert found['inference'].message == f'{BROKEN}: the GPU is gone.; it is slow.'


def test_an_event_of_a_topic_that_is_withdrawn_meanwhile_blocks_nothing(domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node, peer = (rclpy.create_node(name, context=context) for name in ('node', 'peer'))
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        timer = node.create_timer(0.01, lambda: None)
        publisher = endpoints.publisher(node, Image, 'mask', QoSProfile(depth=1),
                                        incompatible_qos=lambda event: None)
        peer.create_subscription(Image, 'mask', print, LATCHED)  # which it cannot serve
        deadline, entity = time.monotonic() + PATIENCE_S, None
        while entity not in publisher.event_handlers:
            assert time.monotonic() < deadline
            handler, entity, _ = executor.wait_for_ready_callbacks(PATIENCE_S)
            if entity not in publisher.event_handlers:
                handler()
        node.destroy_publisher(publisher)
        handler()
        assert isinstance(handler.exception(), rclpy_implementation.InvalidHandle)
        assert executor.can_execute(timer)
    finally:
        executor.shutdown()
        node.destroy_node()
        peer.destroy_node()
        rclpy.shutdown(context=context)
