# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The pairer against the best assignment that a look at the whole trace finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from traces import (
    MS,
    START,
    camera,
    hold_ms,
    mutual_pairs,
    optimal_pairs,
    play,
    skews_ms,
    stamps,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.sync import Pairer, SyncConfig, open_pairer
from rgbx_seg_ros.sync_traces import SCENARIOS, again, best_pairs, pause, stall


def both(rgb_rate, aux_rate, seconds=20, **both_streams):
    """Return two cameras; rgb_x and aux_x set x of one of them."""
    def of(stream):
        own = {key.removeprefix(f'{stream}_'): value for key, value in both_streams.items()
               if not key.startswith({'rgb': 'aux_', 'aux': 'rgb_'}[stream])}
        return {'seconds': seconds} | own
    return sorted(camera('rgb', rgb_rate, **of('rgb')) + camera('aux', aux_rate, **of('aux')))


def assert_best(out, events, limit_ms=50.0):
    """Hold pairs against dynamic programming: as near in the mean, as near in the worst case."""
    best, mutual = optimal_pairs(events, limit_ms), mutual_pairs(events, limit_ms)
    got = skews_ms(stamps(out))
    assert got.mean() <= 1.01 * skews_ms(best).mean()
    assert got.max() <= 1.01 * skews_ms(best).max()
    assert len(out) >= 0.99 * len(mutual)


@pytest.mark.parametrize('late', [{}, {'rgb_delay_ms': 60}, {'aux_delay_ms': 60},
                                  {'rgb_delay_ms': 200}, {'aux_delay_ms': 200}])
@pytest.mark.parametrize('rates', [(30, 9), (60, 9), (9, 30), (30, 30), (25, 30)])
def test_pairs_are_the_best_ones_and_leave_without_added_hold(rates, late):
    events = both(*rates, seconds=12, aux_phase_ms=5, **late)
    out = play(Pairer(), events)
    assert_best(out, events, min(50, 600 / min(rates)))
    assert len(out) == len(mutual_pairs(events, min(50, 600 / min(rates))))
    assert hold_ms(out)[2:].max() == 0  # the first frames teach the rates


@pytest.mark.parametrize('delay_ms', [0, 40])
def test_lost_frames_never_pair_a_frame_with_its_neighbors_partner(delay_ms):
    events = both(30, 30, jitter_ms=5, drop=0.1, aux_phase_ms=4, rgb_delay_ms=delay_ms)
    out = play(Pairer(), events)
    whole = ({e.stamp_ns for e in events if e.stream == 'rgb'}
             & {e.stamp_ns - 4 * MS for e in events if e.stream == 'aux'})
    assert {rgb for rgb, _ in stamps(out)} == whole
    assert hold_ms(out).mean() < 0.2


def test_a_slow_camera_takes_the_next_best_frame_where_its_nearest_was_lost():
    events = both(30, 9, rgb_drop=0.2)
    out = play(Pairer(), events)
    assert_best(out, events)
    assert skews_ms(stamps(out)).max() > 0.6 * 1000 / 30  # some took more than half an RGB period


def test_of_two_that_want_one_frame_the_other_takes_its_second_choice():
    # rgb   0         22                  57
    # aux       12         27
    frames = [('rgb', 0), ('aux', 12), ('rgb', 22), ('aux', 27), ('rgb', 57)]
    pairer = Pairer()
    out = [pair for stream, ms in frames for pair in pairer.add(stream, START + ms * MS, ms, None)]
    assert [pair.skew_ns // MS for pair in out + pairer.flush()] == [12, 5]


@pytest.mark.parametrize('aux_rate', [29.97, 30.03, 29.5])
def test_rates_that_differ_a_little_drift_through_every_phase(aux_rate):
    events = both(30, aux_rate, seconds=40)
    out = play(Pairer(), events)
    best = best_pairs(events, 0.05)
    assert abs(len(out) - len(best)) <= 1
    assert skews_ms(stamps(out)).mean() == pytest.approx(skews_ms(best).mean(), rel=0.01)
    assert skews_ms(stamps(out)).max() <= 1.01 * 1000 / 30 / 2
    assert hold_ms(out)[2:].mean() < 0.1


@pytest.mark.parametrize('phase_ms', [16.0, 16.666, 16.667, 17.3])
def test_half_a_period_of_phase_neither_holds_nor_alternates(phase_ms):
    out = play(Pairer(), both(30, 30, aux_phase_ms=phase_ms))
    assert len(set(np.sign([pair.skew_ns for pair, _ in out[2:]]))) == 1
    assert hold_ms(out)[2:].max() == 0


def test_stamps_that_jitter_cost_no_pairs():
    events = both(10, 10, seconds=60, stamp_jitter_ms=12, aux_phase_ms=20)
    out = play(Pairer(SyncConfig(max_skew_s=0.06)), events)
    assert_best(out, events, 60)
    assert len(out) >= 0.99 * len(best_pairs(events, 0.06))


def test_frames_that_overtake_each_other_are_waited_for():
    events = both(30, 9, rgb_jitter_ms=60)
    assert [e.stamp_ns for e in events if e.stream == 'rgb'] != sorted(
        e.stamp_ns for e in events if e.stream == 'rgb')
    out = play(Pairer(), events)
    assert set(stamps(out[3:])) <= set(best_pairs(events, 0.05))
    assert len(out) == 180
    assert hold_ms(out).mean() < 5


def test_a_camera_that_pauses_pairs_again_with_its_first_frame():
    events = pause(both(30, 30, aux_phase_ms=7), 'aux', 5, 1.5)
    out = play(Pairer(), events)
    assert stamps(out) == mutual_pairs(events, 20)
    assert hold_ms(out)[2:].max() == 0


def test_frames_held_back_and_delivered_at_once_find_their_partners():
    events = stall(both(30, 30, aux_phase_ms=7), 'rgb', 5, 1 / 3)
    out = play(Pairer(), events)
    assert stamps(out) == mutual_pairs(events, 20)
    assert hold_ms(out)[2:].max() == 0


def test_a_camera_that_halves_its_rate_in_the_dark_keeps_the_best_pairs():
    rgb = [e for i, e in enumerate(camera('rgb', 30, 40)) if i < 600 or i % 2]
    events = sorted(rgb + camera('aux', 30, 40, phase_ms=4))
    out = play(Pairer(), events)
    assert len(out) == len(rgb)
    assert skews_ms(stamps(out)).max() == pytest.approx(4, abs=0.01)
    assert hold_ms(out)[2:].max() == 0


def test_a_stream_back_from_the_dead_pairs_at_once():
    aux = [e for e in camera('aux', 9, 60) if not 10e9 < e.stamp_ns - START < 50e9]
    events = sorted(camera('rgb', 30, 60) + aux)
    out = play(Pairer(), events)
    assert len(out) == len(aux)
    assert skews_ms(stamps(out)).max() < 11.2


@pytest.mark.parametrize('scenario', SCENARIOS)
def test_every_scenario_of_the_benchmark_is_paired_as_in_hindsight(scenario):
    passes = [events[:1500] for events in SCENARIOS[scenario]()]
    out = play(Pairer(), sum(passes, []))
    best = sum((best_pairs(events, 0.05) for events in passes), [])
    assert len(out) >= 0.99 * len(best)
    assert hold_ms(out).max() <= 100
    if scenario != 'rgb_bursts':  # there the better partner comes after max_wait
        assert skews_ms(stamps(out)).mean() <= 1.01 * skews_ms(best).mean()
        assert skews_ms(stamps(out)).max() <= 1.01 * skews_ms(best).max()


def test_a_longer_wait_pairs_bursts_as_in_hindsight():
    events = SCENARIOS['rgb_bursts']()[0]
    out = play(Pairer(SyncConfig(max_wait_s=0.4)), events)
    assert stamps(out) == mutual_pairs(events)
    assert hold_ms(out).max() == 0


# Jumps of the clocks


@pytest.mark.parametrize('seconds', [0.4, 0.9, 3, 20])
@pytest.mark.parametrize('phase_ms', [7, -7])
@pytest.mark.parametrize('delay', [{}, {'rgb_delay_ms': 100}, {'aux_delay_ms': 60}])
def test_a_looped_bag_pairs_every_pass_as_the_first(seconds, phase_ms, delay):
    first = both(30, 9, seconds=seconds, aux_phase_ms=phase_ms, **delay)
    second = again(first)
    third = again(second)
    pairer = Pairer()
    out = play(pairer, first + second + third)
    best = mutual_pairs(first)
    assert len(out) == 3 * len(best)
    assert set(stamps(out)) == set(best)
    assert pairer.drops['backward_jump'] == 2
    assert hold_ms(out).max() <= 100


@pytest.mark.parametrize('stream', ['rgb', 'aux'])
@pytest.mark.parametrize('jump_s', [-3600, -2, -0.6, 3600])
def test_a_clock_that_is_set_pairs_again_where_the_other_follows(stream, jump_s):
    jump = round(jump_s * 1e9)
    other_s = {'rgb': 5.0, 'aux': 5.3}  # one is set first, the other one 0.3 s later
    events = [e._replace(stamp_ns=e.stamp_ns + jump)
              if e.arrival_ns - START > other_s[e.stream if stream == 'rgb' else
                                                {'rgb': 'aux', 'aux': 'rgb'}[e.stream]] * 1e9
              else e for e in both(30, 9, 12, aux_phase_ms=7)]
    out = play(Pairer(), events)
    assert len(out) >= 108 - 4
    assert skews_ms(stamps(out)).max() < 20


@pytest.mark.parametrize('wrong_s', [-100, -0.7, 100])
def test_a_single_wrong_stamp_costs_a_few_pairs_at_most(wrong_s):
    events = both(30, 30, 8, aux_phase_ms=4)
    events[240] = events[240]._replace(stamp_ns=events[240].stamp_ns + round(wrong_s * 1e9))
    out = play(Pairer(), events)
    assert len(out) >= 240 - 5
    assert skews_ms(stamps(out)).max() < 5


@pytest.mark.parametrize('wrong_s', [-1e9, -100, 3, 1e9])
@pytest.mark.parametrize('stream', ['rgb', 'aux'])
@pytest.mark.parametrize('first', ['rgb', 'aux'])
def test_a_stamp_of_nonsense_costs_no_other_frame_its_partner(wrong_s, stream, first):
    pairer, out = Pairer(), []
    for second in range(6):
        now = START + second * 1000 * MS
        if second == 3:
            out += pairer.add(stream, now - 500 * MS + int(wrong_s * 1000) * MS, now - 500 * MS, 0)
        for name in (first, 'aux' if first == 'rgb' else 'rgb'):
            out += pairer.add(name, now, now, None)
        out += pairer.poll(now + 150 * MS)
    assert [(pair.rgb.stamp_ns, pair.aux.stamp_ns) for pair in out] == [
        (START + second * 1000 * MS,) * 2 for second in range(6)]


def test_a_clock_that_was_wrong_and_is_set_right_starts_to_pair():
    for stream in ('rgb', 'aux'):
        events = [e._replace(stamp_ns=e.stamp_ns + 3_000_000_000)
                  if e.stream == stream and e.arrival_ns < START + 5e9 else e
                  for e in both(30, 9, 10, aux_phase_ms=7)]
        out = play(Pairer(), events)
        assert 42 <= len(out) <= 46
        assert skews_ms(stamps(out))[1:].max() < 16


def test_clocks_apart_are_told_from_frames_without_a_partner():
    for offset_s in (-5, -1.2, 1.2, 5):
        events = both(30, 9, 10)
        apart = [e._replace(stamp_ns=e.stamp_ns + round(offset_s * 1e9)) if e.stream == 'aux' else e
                 for e in events]
        pairer = Pairer()
        assert play(pairer, apart) == []
        assert pairer.drops['clock_disagreement'] > 50
        assert pairer.clock_offset_ns == pytest.approx(offset_s * 1e9, abs=MS)


@pytest.mark.parametrize('events', [
    both(30, 9, 10, aux_delay_ms=200), pause(both(30, 30, 20), 'aux', 5, 2),
    camera('rgb', 30, 10), camera('aux', 30, 10), both(30, 30, 10, drop=0.5)])
def test_late_pausing_dead_or_lossy_cameras_are_no_clock_disagreement(events):
    pairer = Pairer()
    play(pairer, events)
    assert pairer.drops['clock_disagreement'] == 0


def test_reset_forgets_the_frames_and_keeps_the_counters():
    first = both(30, 9, 5)
    pairer = Pairer()
    count = len(play(pairer, first))
    pairer.add('rgb', START + 10_000 * MS, START + 10_000 * MS, None)
    pairer.reset()
    assert pairer.drops['reset'] == 1
    assert pairer.next_deadline_ns() is None and pairer.poll(START * 2) == []
    assert len(play(pairer, again(first, 10**10))) == count
    assert pairer.drops['backward_jump'] == 0


# Whatever arrives


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_arrives_pairs_are_monotone_within_the_skew_and_use_each_frame_once(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    events = (camera('rgb', data.draw(st.sampled_from([5, 15, 30, 60])), 3, 0, 0,
                     data.draw(st.floats(0, 200)), data.draw(st.floats(0, 0.5)))
              + camera('aux', data.draw(st.sampled_from([5, 9, 30])), 3, rng.uniform(0, 50),
                       data.draw(st.floats(0, 150)), data.draw(st.floats(0, 100))))
    pairer = Pairer()
    out = play(pairer, events)
    for own in zip(*stamps(out), strict=True):
        assert list(own) == sorted(set(own)) or pairer.drops['backward_jump']
    assert all(abs(pair.skew_ns) <= 50 * MS for pair, _ in out)
    assert not out or hold_ms(out).min() >= 0 and hold_ms(out).max() <= 100
    lost = sum(n for cause, n in pairer.drops.items() if cause != 'backward_jump')
    assert 2 * len(out) + lost == len(events) == sum(pairer.received.values())


STAMPS = st.one_of(st.integers(0, 60), st.integers(0, 3000), st.sampled_from([0, 10**6, 2**62]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(['rgb', 'aux']), STAMPS, st.integers(0, 300))),
       st.sampled_from(['nearest', 'exact', 'latest']), st.sampled_from(['auto', 'rgb']),
       st.integers(2, 5))
def test_nonsense_is_counted_and_breaks_nothing(frames, policy, anchor, queue_size):
    pairer = open_pairer(SyncConfig(policy, anchor, queue_size=queue_size))
    now, out = 0, []
    for number, (stream, stamp_ms, wait_ms) in enumerate(frames):
        now += wait_ms * MS
        out += pairer.poll(now)
        out += pairer.add(stream, stamp_ms * MS, now, number)
    out += pairer.flush()
    for used in ([pair.rgb.data for pair in out], [pair.aux.data for pair in out]):
        assert len(set(used)) == len(used) or policy == 'latest'
    limit = {'nearest': 50, 'exact': 0, 'latest': 200}[policy] * MS
    assert all(abs(pair.skew_ns) <= limit for pair in out)
    if policy != 'latest':
        lost = sum(n for cause, n in pairer.drops.items() if cause != 'backward_jump')
        assert 2 * len(out) + lost == len(frames)


@settings(max_examples=40, deadline=None)
@given(st.tuples(*2 * [st.fixed_dictionaries({
    'rate': st.sampled_from([5, 9, 10, 15, 25, 30, 60]), 'phase_ms': st.floats(0, 100),
    'delay_ms': st.sampled_from([0, 60, 200]), 'drop': st.sampled_from([0, 0.1]),
    'jitter_ms': st.sampled_from([0, 5]), 'stamp_jitter_ms': st.sampled_from([0, 0.5]),
    'seed': st.integers(0, 999)})]))
@example((dict(rate=60, phase_ms=0.0, delay_ms=0, drop=0, jitter_ms=0, stamp_jitter_ms=0.5, seed=0),
          dict(rate=60, phase_ms=91.5, delay_ms=0, drop=0, jitter_ms=0, stamp_jitter_ms=0, seed=0)))
def test_two_ordinary_cameras_are_paired_as_in_hindsight(cameras):
    events = camera('rgb', seconds=6, **cameras[0]) + camera('aux', seconds=6, **cameras[1])
    out = play(Pairer(), events)
    best = best_pairs(events, 0.05)
    nearest = skews_ms(best).sum() if best else 0
    # The rates are learned from the first frames. There may be more than in hindsight, where of two
    # partners neither is nearer.
    assert len(out) >= len(best) - 3
    assert skews_ms(stamps(out)).sum() <= nearest + 0.03 * 50 * len(best) + 150
    assert not out or hold_ms(out).max() <= 100


# Deadlines, offsets, policies, counters


def test_a_possible_pair_waits_no_longer_than_max_wait_for_a_better_one():
    pairer = Pairer(SyncConfig(anchor='aux', max_wait_s=0.1))
    assert pairer.add('rgb', START, START, None) == []
    assert pairer.next_deadline_ns() is None
    assert pairer.add('aux', START + 10 * MS, START + 10 * MS, None) == []
    assert pairer.next_deadline_ns() == START + 110 * MS
    assert pairer.poll(START + 110 * MS - 1) == []
    assert [p.skew_ns for p in pairer.poll(START + 110 * MS)] == [10 * MS]
    assert pairer.next_deadline_ns() is None


def test_a_frame_alone_waits_for_its_late_partner_for_a_second():
    for wait_ms, count in ((900, 1), (1100, 0)):
        pairer = Pairer()
        pairer.add('aux', START, START, None)
        assert pairer.poll(START + wait_ms * MS) == []
        pairer.add('aux', START + 1000 * MS, START + wait_ms * MS, None)
        assert len(pairer.add('rgb', START, START + wait_ms * MS, None)) == count


def test_a_constant_offset_shifts_the_matching_and_not_the_stamps():
    pairer = Pairer(SyncConfig(aux_offset_s=-0.2))
    out = play(pairer, both(30, 30, aux_phase_ms=200))
    assert len(out) == 600
    assert {pair.skew_ns for pair, _ in out} == {0}
    assert {aux - rgb for rgb, aux in stamps(out)} == {200 * MS}
    assert pairer.skew_median_ns == 200 * MS


def test_the_median_skew_is_the_offset_that_would_undo_it():
    pairer = Pairer()
    assert pairer.skew_median_ns is None and pairer.clock_offset_ns is None
    play(pairer, both(30, 30, aux_phase_ms=-12, aux_delay_ms=30))
    assert pairer.skew_median_ns == pytest.approx(-12 * MS, abs=1)
    assert pairer.clock_offset_ns == pytest.approx(-30 * MS, abs=500)
    undone = Pairer(SyncConfig(aux_offset_s=-pairer.skew_median_ns / 1e9))
    out = play(undone, both(30, 30, aux_phase_ms=-12))
    assert max(abs(pair.skew_ns) for pair, _ in out) <= 1


def test_exact_pairs_equal_stamps_alone_and_at_once():
    rgb, aux = camera('rgb', 30, 20), camera('aux', 10, 20)
    near = [e._replace(stamp_ns=e.stamp_ns + 1) for e in aux[::2]]
    out = play(Pairer(SyncConfig(policy='exact')), rgb + aux[1::2] + near)
    assert {pair.skew_ns for pair, _ in out} == {0}
    assert [stamp for _, stamp in stamps(out)] == [
        e.stamp_ns for e in aux[1::2] if e.stamp_ns in {r.stamp_ns for r in rgb}]
    assert hold_ms(out).max() == 0


def test_latest_runs_at_the_rgb_rate_with_the_last_aux_frame_until_it_is_too_old():
    rgb, aux = camera('rgb', 30, 2), camera('aux', 9, 1, delay_ms=1)
    out = play(Pairer(SyncConfig(policy='latest', max_age_s=0.2)), rgb + aux)
    for pair, now in out:
        newest = max(e.stamp_ns for e in aux if e.arrival_ns <= now)
        assert pair.aux.stamp_ns == newest and pair.rgb.stamp_ns - newest <= 200 * MS
    assert len(out) == sum(1 for e in rgb if START < e.stamp_ns <= aux[-1].stamp_ns + 200 * MS)


def test_latest_goes_on_in_the_second_pass_of_a_looped_bag():
    first = both(30, 9, 10)
    out = play(Pairer(SyncConfig(policy='latest')), first + again(first))
    assert len(out) >= 2 * 300 - 3
    assert all(-1 < skew <= 200 for skew in skews_ms(stamps(out)))


def test_frames_without_a_stamp_doubled_or_late_are_counted_and_not_used():
    pairer = Pairer(SyncConfig(anchor='aux'))
    pairer.add('rgb', 0, START, None)
    pairer.add('rgb', START, START, None)
    pairer.add('rgb', START, START, None)
    assert len(pairer.add('aux', START, START, None)) == 1
    pairer.add('aux', START - 5 * MS, START + MS, None)
    assert pairer.drops == {'zero_stamp': 1, 'duplicate': 1, 'late': 1}


def test_two_publishers_on_one_topic_change_nothing_but_a_counter():
    events = both(30, 9, 10, aux_phase_ms=7)
    doubled = sorted(events + [e._replace(arrival_ns=e.arrival_ns + 50 * MS) for e in events])
    pairer = Pairer()
    assert set(stamps(play(pairer, doubled))) == set(stamps(play(Pairer(), events)))
    assert pairer.drops['duplicate'] + pairer.drops['late'] == len(events)


@pytest.mark.parametrize('size', [8, 1000])
def test_a_lost_stream_fills_no_memory(size):
    for stream in ('rgb', 'aux'):
        pairer = Pairer(SyncConfig(queue_size=size))
        for event in camera(stream, 3000, 1):
            pairer.add(*event[1:], event.arrival_ns, None)
        assert 3000 - sum(pairer.drops.values()) == size
        pairer.add(stream, START + 10**10, START + 10**10, None)
        assert sum(pairer.drops.values()) == 3000  # whatever the size, none is kept for long


@pytest.mark.parametrize('wrong', [{'policy': 'best'}, {'anchor': 'left'}, {'max_skew_s': -1},
                                   {'max_wait_s': float('nan')}, {'queue_size': 1},
                                   {'rgb_offset_s': float('inf')}])
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(RgbxSegError, match=f'sync.{next(iter(wrong))}'):
        SyncConfig(**wrong)
