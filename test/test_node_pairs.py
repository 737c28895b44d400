# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Several camera pairs on one engine, in a node of its own process, over real DDS."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rgbx_seg.msg import SegmentationStats
from robot import (
    STAMPS_NS,
    SlowNodeProcess,
    drops,
    free_domain,
    image,
    normalized,
    pixels,
    robot,
    scene,
)
from sensor_msgs.msg import CameraInfo, Image

from rgbx_seg_ros.messages import stamp_ns

PAIRS = ('front', 'rear')
SIZE = (48, 64)  # the network's: no resizing lies between the images and the oracle


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with two pairs of cameras, whose results are heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    bundle = write_tiny_bundle(folder / 'bundle')
    parameters = {'pairs': list(PAIRS), 'degraded__timeout': 0.3, 'rear__sync__max_skew': 0.02,
                  'rear__confidence__threshold': 0.0,
                  'rear__degraded__aux_lost': 'rgb_only'}
    with (SlowNodeProcess(folder / 'log', number, bundle=bundle, **parameters) as node,
          robot(number) as peer):
        heard = {(pair, name): peer.listen(kind, f'/segment/{pair}/{name}')
                 for pair in PAIRS for name, kind in (
                     ('mask', Image), ('stats', SegmentationStats), ('camera_info', CameraInfo))}
        diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in PAIRS
                                for stream in ('rgb', 'thermal')))
        yield SimpleNamespace(node=node, peer=peer, heard=heard, delay=bundle / 'delay',
                              diagnostics=diagnostics)
        assert node.end() == 0
        assert 'Traceback' not in node.log


def send(running, pair, seed, stamp, skew_ns=3_000_000, streams=('rgb', 'thermal')):
    """Publish one pair of images and return them."""
    rgb, thermal = scene(seed, SIZE)
    if 'rgb' in streams:
        running.peer.publish(f'/{pair}/rgb/image_raw', image(rgb, 'rgb8', stamp, f'{pair}_rgb'))
    if 'thermal' in streams:
        running.peer.publish(f'/{pair}/thermal/image_raw',
                             image(thermal, 'mono16', stamp + skew_ns, f'{pair}_thermal'))
    return rgb, thermal


def wait(running, pair, name, stamp, patience_s=20.0):
    """Return the message of a stamp, or None."""
    heard = running.heard[pair, name]

    def found():
        return [message for message in heard if stamp_ns(message.header) == stamp]

    running.peer.until(found, patience_s)
    return next(iter(found()), None)


def statuses(running, wanted):
    """Return the statuses by name of the first diagnostics from now on that `wanted` accepts."""
    running.diagnostics.clear()

    def last():
        return ({status.name: status for status in running.diagnostics[-1].status}
                if running.diagnostics else {})

    assert running.peer.until(lambda: last() and wanted(last())), last()
    return last()


def test_each_pair_gets_its_own_masks_from_one_engine(running):
    for seed in range(3):
        stamp = next(STAMPS_NS)  # of both: only the topics tell the pairs apart
        sent = {pair: send(running, pair, 10 * seed + n, stamp) for n, pair in enumerate(PAIRS)}
        for pair, (rgb, thermal) in sent.items():
            mask = wait(running, pair, 'mask', stamp)
            assert mask is not None, running.node.log
            np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(thermal)))
            assert mask.header.frame_id == f'{pair}_rgb'
    assert running.node.log.count('runs on onnxruntime') == 1


def test_parameters_hold_for_one_pair(running):
    stamp = next(STAMPS_NS)
    for pair in PAIRS:  # 30 ms: within sync.max_skew, but not within rear.sync.max_skew
        send(running, pair, 1, stamp, 30_000_000)
    assert wait(running, 'front', 'mask', stamp)
    assert wait(running, 'rear', 'mask', stamp, 0.5) is None
    assert running.peer.set_parameter('confidence.threshold', 0.5) == ''
    assert running.peer.set_parameter('rear.confidence.threshold', 0.25) == ''
    try:
        stamp = next(STAMPS_NS)
        for pair, least in zip(PAIRS, (127.5, 63.75), strict=True):
            _, thermal = send(running, pair, 2, stamp)
            unsure = normalized(thermal) < least
            np.testing.assert_array_equal(pixels(wait(running, pair, 'mask', stamp)) == 255, unsure)
    finally:
        assert running.peer.set_parameter('confidence.threshold', 0.0) == ''
        assert running.peer.set_parameter('rear.confidence.threshold', 0.0) == ''
    assert 'clean it up first' in running.peer.set_parameter('rear.sync.max_skew', 0.05)


def test_camera_info_passes_within_its_pair(running):
    for n, pair in enumerate(PAIRS):
        running.peer.publish(f'/{pair}/rgb/camera_info', CameraInfo(width=64, height=48,
                                                                    k=np.full(9, n + 1.0)))
    running.peer.spin(0.3)
    stamp = next(STAMPS_NS)
    for n, pair in enumerate(PAIRS):
        send(running, pair, 3, stamp)
        info = wait(running, pair, 'camera_info', stamp)
        assert list(info.k) == [n + 1.0] * 9 and info.header.frame_id == f'{pair}_rgb'


def test_diagnostics_name_the_pairs(running):
    stamp = next(STAMPS_NS)
    for pair in PAIRS:
        send(running, pair, 4, stamp)
    found = statuses(running, lambda _: True)
    assert found.keys() == {f'segment: {pair} {concern}' for pair in PAIRS
                            for concern in ('cameras', 'pairing', 'inference')} | {
                                'segment: memory'}
    received = [value.value for pair in PAIRS
                for value in found[f'segment: {pair} cameras'].values
                if value.key == 'rgb received']
    assert min(map(int, received)) > 3


def test_a_broken_camera_leaves_the_other_pair_alone(running):
    before = drops(running.heard['front', 'stats'][-1])
    for _ in range(3):
        stamp = next(STAMPS_NS)
        broken = image(scene(0, SIZE)[0], 'no such', stamp)
        running.peer.publish('/rear/rgb/image_raw', broken)
        rgb, thermal = send(running, 'front', 5, stamp)
        mask = wait(running, 'front', 'mask', stamp)
        np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(thermal)))
    assert running.peer.until(lambda: "'no such'" in running.node.log)
    assert running.node.log.count('/rear/rgb/image_raw: the encoding is') == 1
    stamp = next(STAMPS_NS)
    send(running, 'rear', 5, stamp)
    assert drops(wait(running, 'rear', 'stats', stamp))['encoding'] == 3
    stamp = next(STAMPS_NS)
    send(running, 'front', 5, stamp)
    assert drops(wait(running, 'front', 'stats', stamp)) == before


def test_a_lost_camera_degrades_its_own_pair_only(running):
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:
        stamp = next(STAMPS_NS)
        send(running, 'front', 6, stamp)
        rgb, _ = send(running, 'rear', 6, stamp, streams=('rgb',))
        running.peer.spin(0.05)
    mask = wait(running, 'rear', 'mask', stamp)
    np.testing.assert_array_equal(pixels(mask), expected(rgb, np.zeros(SIZE, np.uint8)))
    assert running.heard['rear', 'stats'][-1].state == 'rgb_only'
    assert wait(running, 'front', 'stats', stamp).state == 'paired'
    send(running, 'rear', 6, next(STAMPS_NS))  # its RGB frame is still taken alone
    running.peer.spin(0.1)
    stamp = next(STAMPS_NS)
    send(running, 'rear', 6, stamp)
    assert wait(running, 'rear', 'stats', stamp).state == 'paired'


def test_a_busy_pair_does_not_starve_a_slow_one(running):
    running.delay.write_text('0.12')
    for heard in running.heard.values():
        heard.clear()
    period_s = {'front': 1 / 30, 'rear': 1 / 5}
    began = time.monotonic()
    due = dict.fromkeys(PAIRS, began)
    start = next(STAMPS_NS)
    while time.monotonic() < began + 3:
        for pair in PAIRS:
            if time.monotonic() >= due[pair]:
                send(running, pair, 7, start + round((due[pair] - began) * 1e9))
                due[pair] += period_s[pair]
        running.peer.spin(0.005)
    running.delay.write_text('0')
    running.peer.spin(0.3)
    stats = {pair: running.heard[pair, 'stats'] for pair in PAIRS}
    share = len(stats['rear']) / (len(stats['front']) + len(stats['rear']))
    assert 0.25 < share < 0.6, {pair: len(found) for pair, found in stats.items()}
    assert max(s.wait_ms for s in stats['rear']) < 2.5 * 120  # own turn, and one of the other's
    assert drops(stats['front'][-1])['replaced'] > 30
    assert running.peer.until(lambda: 'slower than the cameras' in running.node.log)
    assert running.node.log.count('front: pairs waited while the model was busy') == 1
    assert 'rear: pairs waited' not in running.node.log
