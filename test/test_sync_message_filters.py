# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""message_filters' synchronizers behind our interface, where a ROS installation has them."""

from __future__ import annotations

import importlib.util

import pytest
from traces import MS, START, camera, play, skews_ms, stamps

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync import Pairer, SyncConfig, open_pairer
from rgbx_seg_ros.sync_traces import again

INSTALLED = importlib.util.find_spec('message_filters') is not None
installed = pytest.mark.skipif(not INSTALLED, reason='message_filters is not on PyPI: run on a ROS '
                               'machine, or with its source on PYTHONPATH')
BOTH = sorted(camera('rgb', 30, 20, delay_ms=60) + camera('aux', 9, 20))


@pytest.mark.skipif(INSTALLED, reason='message_filters is installed')
@pytest.mark.parametrize('policy', ['approximate_time', 'exact_time'])
def test_its_absence_is_told_with_the_remedy(policy):
    with pytest.raises(RgbxSegError, match=f'{policy} needs message_filters.*install ros-'):
        open_pairer(SyncConfig(policy))


@installed
def test_it_pairs_as_it_does_in_other_nodes_and_ours_is_nearer():
    theirs = play(open_pairer(SyncConfig('approximate_time', queue_size=10)), BOTH)
    ours = play(Pairer(), BOTH)
    assert len(theirs) == len(ours) == 180
    assert skews_ms(stamps(theirs)).mean() > 4 * skews_ms(stamps(ours)).mean()


@installed
def test_exact_time_equals_our_exact_policy():
    events = sorted(camera('rgb', 30, 20) + camera('aux', 10, 20))
    theirs, ours = (play(open_pairer(SyncConfig(policy)), events) for policy in ('exact_time',
                                                                                  'exact'))
    assert stamps(theirs) == stamps(ours) and len(ours) > 100


@installed
def test_every_frame_is_counted_and_reset_starts_a_new_pass():
    pairer = open_pairer(SyncConfig('approximate_time', queue_size=10))
    first = play(pairer, BOTH)
    assert 2 * len(first) + sum(pairer.drops.values()) == len(BOTH)
    pairer.reset()
    assert len(play(pairer, again(BOTH))) == len(first)
    assert pairer.skew_median_ns is not None and pairer.next_deadline_ns() is None


@installed
def test_offsets_shift_the_matching_alone_and_stamps_it_cannot_hold_are_counted():
    pairer = open_pairer(SyncConfig('approximate_time', aux_offset_s=-0.2))
    pairer.add('rgb', START, START, 'image')
    pair, = pairer.add('aux', START + 200 * MS, START, 'thermal')
    assert (pair.skew_ns, pair.rgb.data, pair.aux.data) == (0, 'image', 'thermal')
    assert pair.aux.stamp_ns == START + 200 * MS
    for stamp_ns in (0, 2**62):
        assert pairer.add('rgb', stamp_ns, START, None) == []
    assert pairer.drops['zero_stamp'] == 2
