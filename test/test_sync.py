# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The pairer against the best assignment that a look at the whole trace finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync import Pair, Pairer, SyncConfig

MS = 1_000_000
START = 1_700_000_000_000_000_000


class Event(NamedTuple):
    arrival_ns: int
    stream: str
    stamp_ns: int


def camera(stream: str, rate: float, seconds: float = 20, phase_ms: float = 0, delay_ms: float = 0,
           jitter_ms: float = 0, drop: float = 0, seed: int = 0) -> list[Event]:
    """Return the frames of one camera: exact stamps, arrival = stamp + delay + jitter."""
    rng = np.random.default_rng([seed, stream == 'aux'])
    stamps = START + round(phase_ms * MS) + np.round(np.arange(seconds * rate) / rate * 1e9)
    return [Event(int(stamp + (delay_ms + jitter_ms * rng.random()) * MS), stream, int(stamp))
            for stamp in stamps if rng.random() >= drop]


def play(pairer: Pairer, events: list[Event]) -> list[tuple[Pair, int]]:
    """Feed the events in order of arrival, polling at each; return pairs and emission times."""
    out = []
    for event in sorted(events):
        out += [(pair, event.arrival_ns) for pair in pairer.poll(event.arrival_ns)]
        out += [(pair, event.arrival_ns) for pair in pairer.add(
            event.stream, event.stamp_ns, event.arrival_ns, event)]
    return out + [(pair, max(events).arrival_ns) for pair in pairer.flush()]


def skews_ms(out: list[tuple[Pair, int]]) -> np.ndarray:
    return np.abs([pair.skew_ns for pair, _ in out]) / MS


def nearest_skews_ms(anchors: list[Event], others: list[Event]) -> np.ndarray:
    """Return each anchor's distance to the nearest frame of the other stream, seen offline."""
    other = np.array([event.stamp_ns for event in others])
    return np.array([np.abs(other - event.stamp_ns).min() for event in anchors]) / MS


@pytest.mark.parametrize('late', [{}, {'rgb': 60}, {'aux': 60}])
def test_pairs_of_30_and_9_hz_are_the_nearest_ones_and_leave_without_added_hold(late):
    rgb = camera('rgb', 30, delay_ms=late.get('rgb', 0))
    aux = camera('aux', 9, delay_ms=late.get('aux', 0))
    out = play(Pairer(), rgb + aux)
    assert len(out) == len(aux)
    assert np.allclose(sorted(skews_ms(out)), sorted(nearest_skews_ms(aux, rgb)))
    hold = [now - max(pair.rgb.arrival_ns, pair.aux.arrival_ns) for pair, now in out]
    assert max(hold[4:]) == 0  # the first frames teach the rate


@pytest.mark.parametrize('delay_ms', [0, 40])
def test_lost_frames_never_pair_a_frame_with_its_neighbors_partner(delay_ms):
    rgb = camera('rgb', 30, delay_ms=delay_ms, jitter_ms=5, drop=0.1)
    aux = camera('aux', 30, phase_ms=4, jitter_ms=5, drop=0.1)
    out = play(Pairer(), rgb + aux)
    whole = {e.stamp_ns for e in rgb} & {e.stamp_ns - 4 * MS for e in aux}
    assert {pair.rgb.stamp_ns for pair, _ in out[5:]} <= whole
    assert len(out) >= 0.99 * len(whole)


def test_a_slow_camera_takes_the_next_best_frame_where_its_nearest_was_lost():
    rgb, aux = camera('rgb', 30, drop=0.2), camera('aux', 9)
    out = play(Pairer(), rgb + aux)
    best = nearest_skews_ms(aux, rgb)
    assert len(out) == (best <= 50).sum() > 170
    assert np.allclose(sorted(skews_ms(out)), sorted(best[best <= 50]))
    assert skews_ms(out).max() > 0.6 * 1000 / 30  # some took more than half an RGB period


@pytest.mark.parametrize('phase_ms', [7, -7])
def test_a_looped_bag_pairs_the_second_pass_as_the_first(phase_ms):
    events = camera('rgb', 30) + camera('aux', 9, phase_ms=phase_ms)
    again = [e._replace(arrival_ns=e.arrival_ns + 21_000 * MS) for e in events]
    out = play(Pairer(), events + again)
    second = [pair for pair, now in out if now >= min(again).arrival_ns]
    assert len(second) == 180
    assert skews_ms(out).max() <= nearest_skews_ms(events[600:], events[:600]).max()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_arrives_pairs_are_monotone_within_the_skew_and_use_each_frame_once(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    events = (camera('rgb', data.draw(st.sampled_from([5, 15, 30, 60])), 3, 0, 0,
                     data.draw(st.floats(0, 200)), data.draw(st.floats(0, 0.5)))
              + camera('aux', data.draw(st.sampled_from([5, 9, 30])), 3, rng.uniform(0, 50),
                       data.draw(st.floats(0, 150)), data.draw(st.floats(0, 100))))
    pairer = Pairer(SyncConfig(max_skew_s=0.05))
    pairs = [pair for pair, _ in play(pairer, events)]
    for attribute in ('rgb', 'aux'):
        stamps = [getattr(pair, attribute).stamp_ns for pair in pairs]
        assert stamps == sorted(set(stamps))
    assert all(abs(pair.skew_ns) <= 50 * MS for pair in pairs)
    lost = sum(n for cause, n in pairer.drops.items() if cause != 'backward_jump')
    assert 2 * len(pairs) + lost == len(events) == sum(pairer.received.values())


def test_an_anchor_waits_no_longer_than_max_wait():
    pairer = Pairer(SyncConfig(anchor='aux', max_wait_s=0.1))
    assert pairer.add('rgb', START, START, None) == []
    assert pairer.add('aux', START + 10 * MS, START + 10 * MS, None) == []
    assert pairer.poll(START + 109 * MS) == []
    assert [p.skew_ns for p in pairer.poll(START + 110 * MS)] == [10 * MS]


def test_a_constant_offset_shifts_the_matching_and_not_the_stamps():
    rgb, aux = camera('rgb', 30), camera('aux', 30, phase_ms=200)
    out = play(Pairer(SyncConfig(aux_offset_s=-0.2)), rgb + aux)
    assert len(out) == 600
    assert {pair.skew_ns for pair, _ in out} == {0}
    assert {pair.aux.stamp_ns - pair.rgb.stamp_ns for pair, _ in out} == {200 * MS}


def test_exact_pairs_equal_stamps_alone():
    rgb, aux = camera('rgb', 30), camera('aux', 10)
    near = [e._replace(stamp_ns=e.stamp_ns + 1) for e in camera('aux', 10)[::2]]
    out = play(Pairer(SyncConfig(policy='exact')), rgb + aux[1::2] + near)
    assert {pair.skew_ns for pair, _ in out} == {0}
    assert [pair.aux.stamp_ns for pair, _ in out] == [
        e.stamp_ns for e in aux[1::2] if e.stamp_ns in {r.stamp_ns for r in rgb}]


def test_latest_runs_at_the_rgb_rate_with_the_last_aux_frame_until_it_is_too_old():
    rgb, aux = camera('rgb', 30, 2), camera('aux', 9, 1, delay_ms=1)
    out = play(Pairer(SyncConfig(policy='latest', max_age_s=0.2)), rgb + aux)
    for pair, now in out:
        newest = max(e.stamp_ns for e in aux if e.arrival_ns <= now)
        assert pair.aux.stamp_ns == newest and pair.rgb.stamp_ns - newest <= 200 * MS
    assert len(out) == sum(1 for e in rgb if START < e.stamp_ns <= aux[-1].stamp_ns + 200 * MS)


def test_frames_without_a_stamp_doubled_or_late_are_counted_and_not_used():
    pairer = Pairer(SyncConfig(anchor='aux'))
    pairer.add('rgb', 0, START, None)
    pairer.add('rgb', START, START, None)
    pairer.add('rgb', START, START, None)
    assert len(pairer.add('aux', START, START, None)) == 1
    pairer.add('aux', START - 5 * MS, START + MS, None)
    assert pairer.drops == {'zero_stamp': 1, 'duplicate': 1, 'late': 1}


def test_a_lost_stream_fills_no_memory():
    pairer = Pairer(SyncConfig(queue_size=8))
    for event in camera('rgb', 30):
        pairer.add(*event[1:], event.arrival_ns, None)
    assert pairer.drops['overflow'] == 600 - 8


@pytest.mark.parametrize('wrong', [{'policy': 'best'}, {'anchor': 'left'}, {'max_skew_s': -1},
                                   {'max_wait_s': float('nan')}, {'queue_size': 1}])
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(RgbxSegError, match=f'sync.{next(iter(wrong))}'):
        SyncConfig(**wrong)
