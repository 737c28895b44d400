# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the running node does when a camera is lost, is back, or repeats one image, over real DDS.

One node serves all: its camera pairs differ in their policies and see the same images.
"""

import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from bundles import expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rgbx_seg.msg import SegmentationStats
from robot import NodeProcess, free_domain, image, normalized, pixels, robot, scene
from sensor_msgs.msg import Image

from rgbx_seg_ros.messages import stamp_ns

SIZE = (48, 64)  # the network's: no resizing lies between the images and the oracle
PERIOD_S = 0.05
SKEW_NS = 3_000_000
TIMEOUT_S, MAX_HOLD_S = 0.4, 0.8
# Name of the pair -> aux_lost, rgb_lost.
POLICIES = {'halting': ('stop', 'stop'), 'holding': ('hold', 'hold'),
            'single': ('rgb_only', 'aux_only'), 'wary': ('rgb_only', 'stop')}
BLACK = np.zeros(SIZE, np.uint8)


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with a pair of cameras for each policy, heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    bundle = write_tiny_bundle(folder / 'bundle')
    parameters = {'pairs': list(POLICIES), 'degraded__timeout': TIMEOUT_S,
                  'degraded__max_hold': MAX_HOLD_S, 'degraded__frozen_after': 0.3,
                  'wary__degraded__frozen_is_lost': True}
    for pair, (aux_lost, rgb_lost) in POLICIES.items():
        parameters |= {f'{pair}__degraded__aux_lost': aux_lost,
                       f'{pair}__degraded__rgb_lost': rgb_lost}
    with (NodeProcess(folder / 'log', number, bundle=bundle, **parameters) as node,
          robot(number) as peer):
        own = SimpleNamespace(
            node=node, peer=peer, seed=0, sent={'rgb': {}, 'thermal': {}}, last={},
            masks={pair: peer.listen(Image, f'/segment/{pair}/mask') for pair in POLICIES},
            stats={pair: peer.listen(SegmentationStats, f'/segment/{pair}/stats')
                   for pair in POLICIES},
            diagnostics=peer.listen(DiagnosticArray, '/diagnostics'))
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in POLICIES
                                for stream in ('rgb', 'thermal')))
        yield own
        assert node.end() == 0
        assert 'Traceback' not in node.log


def drive(running, seconds, streams=('rgb', 'thermal'), repeat=False, until=lambda: True):
    """Let the cameras run for a time, and on until a condition holds; `repeat` freezes thermal.

    What was heard and sent before is forgotten, but for the last image of each stream.
    """
    for heard in (*running.masks.values(), *running.stats.values(), running.diagnostics):
        heard.clear()
    running.last = {stream: max(sent.items()) for stream, sent in running.sent.items() if sent}
    for sent in running.sent.values():
        sent.clear()
    began = time.monotonic()
    while (ran_s := time.monotonic() - began) < seconds or not until():
        assert ran_s < 20, running.node.log
        running.seed += 1
        rgb, thermal = scene(running.seed, SIZE)
        if repeat:
            thermal = scene(0, SIZE)[1]
        now = time.time_ns()
        if 'rgb' in streams:
            running.sent['rgb'][now] = rgb
        if 'thermal' in streams:
            running.sent['thermal'][now + SKEW_NS] = thermal
        for pair in POLICIES:
            if 'rgb' in streams:
                running.peer.publish(f'/{pair}/rgb/image_raw', image(rgb, 'rgb8', now, 'rgb'))
            if 'thermal' in streams:
                running.peer.publish(f'/{pair}/thermal/image_raw',
                                     image(thermal, 'mono16', now + SKEW_NS, 'thermal'))
        running.peer.spin(PERIOD_S)
    running.peer.spin(0.2)


def results(running, pair):
    """Return (stamp, state, mask, stats) of each mask of a pair, in the order of arrival."""
    stats = {stamp_ns(message.header): message for message in running.stats[pair]}
    return [(stamp, stats[stamp].state, mask, stats[stamp])
            for mask in running.masks[pair] if (stamp := stamp_ns(mask.header)) in stats]


def pairing(running, pair):
    """Return the newest status of the pairing of a pair, or None."""
    name = f'segment: {pair} pairing'
    return next((status for message in running.diagnostics[::-1] for status in message.status
                 if status.name == name), None)


def says(running, states):
    """Return whether the diagnostics name the state of each pair as given."""
    found = [pairing(running, pair) for pair in states]
    return all(found) and [{value.key: value.value for value in status.values}['state']
                           for status in found] == list(states.values())


def all_paired(running):
    """Let both cameras run until all pairs are complete again; hold the masks to the oracle."""
    drive(running, 0.6, until=lambda: says(running, dict.fromkeys(POLICIES, 'paired')))
    for pair in POLICIES:
        found = [result for result in results(running, pair) if result[1] == 'paired']
        assert len(found) >= 5, (pair, running.node.log)
        for stamp, _, mask, stats in found:
            rgb, thermal = running.sent['rgb'][stamp], running.sent['thermal'][stamp + SKEW_NS]
            np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(thermal)))
            assert stamp_ns(SimpleNamespace(stamp=stats.aux_stamp)) == stamp + SKEW_NS
        assert 'camera is lost' not in pairing(running, pair).message


def test_without_aux_each_pair_follows_its_policy_and_recovers(running):
    all_paired(running)
    states = {'halting': 'stopped', 'holding': 'stopped', 'single': 'rgb_only'}
    drive(running, 1.6, ('rgb',), until=lambda: says(running, states))
    held_ns, held = running.last['thermal']
    assert not results(running, 'halting')
    assert {state for _, state, _, _ in results(running, 'single')} == {'rgb_only'}
    for stamp, _, mask, stats in results(running, 'single'):
        np.testing.assert_array_equal(pixels(mask), expected(running.sent['rgb'][stamp], BLACK))
        assert (mask.header.frame_id, stats.skew_ms) == ('rgb', 0.0)
    holding = results(running, 'holding')
    assert {state for _, state, _, _ in holding} == {'hold_aux'}
    for stamp, _, mask, stats in holding:
        assert stamp_ns(SimpleNamespace(stamp=stats.aux_stamp)) == held_ns
        assert stats.skew_ms == pytest.approx((held_ns - stamp) / 1e6, rel=1e-5)
        rgb = running.sent['rgb'][stamp]
        np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(held)))
    last_s = (holding[-1][0] - held_ns) / 1e9
    assert TIMEOUT_S < last_s < TIMEOUT_S + MAX_HOLD_S + 0.3
    assert pairing(running, 'halting').level == pairing(running, 'holding').level == b'\x02'
    assert pairing(running, 'single').level == b'\x01'
    assert 'masks are from RGB alone' in pairing(running, 'single').message
    all_paired(running)


def test_without_rgb_each_pair_follows_its_policy_and_recovers(running):
    all_paired(running)
    states = {'halting': 'stopped', 'holding': 'stopped', 'single': 'aux_only'}
    drive(running, 1.6, ('thermal',), until=lambda: says(running, states))
    held = running.last['rgb'][1]
    assert not results(running, 'halting')
    for pair, state, rgb in (('single', 'aux_only', np.zeros((*SIZE, 3), np.uint8)),
                             ('holding', 'hold_rgb', held)):
        found = results(running, pair)
        assert len(found) >= 5 and {state for _, state, _, _ in found} == {state}
        for stamp, _, mask, _ in found:
            thermal = running.sent['thermal'][stamp]  # the mask has the stamp of the new image
            np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(thermal)))
            assert mask.header.frame_id == 'rgb'
    stamps = [stamp for stamp, _, _, _ in results(running, 'holding')]
    assert stamps == sorted(set(stamps))
    all_paired(running)


def test_a_frozen_aux_camera_is_told_and_lost_only_if_that_is_asked_for(running):
    all_paired(running)
    states = dict.fromkeys(POLICIES, 'paired') | {'wary': 'rgb_only'}
    drive(running, 1.0, repeat=True, until=lambda: says(running, states) and 'does not change' in
          pairing(running, 'single').message)
    assert pairing(running, 'single').level == b'\x01'
    wary = results(running, 'wary')
    alone = [result for result in wary if result[1] == 'rgb_only']
    assert alone and wary[-1][1] == 'rgb_only'
    for stamp, _, mask, _ in alone:
        np.testing.assert_array_equal(pixels(mask), expected(running.sent['rgb'][stamp], BLACK))
    all_paired(running)
    drive(running, 0.2, until=lambda: pairing(running, 'single') is not None)
    assert 'does not change' not in pairing(running, 'single').message


def test_both_lost_is_as_not_having_begun(running):
    all_paired(running)
    drive(running, 0, (), until=lambda: running.peer.spin(1.0) is None and says(
        running, dict.fromkeys(POLICIES, 'stopped')))
    assert not any(running.masks.values())
    all_paired(running)
