# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Counts to levels and sentences, on a clock of the test's own."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rgbx_seg_ros import RgbxSegError, remedies
from rgbx_seg_ros.health import REMEDIES, Facts, Health, HealthConfig, Level, Timing
from rgbx_seg_ros.memory import Memory, resident_mb
from rgbx_seg_ros.statuses import WINDOW_REPORTS, Thresholds

SECOND = 1_000_000_000
DOCS = Path(__file__).parent.parent / 'docs' / 'diagnostics.md'


def timing(skew_ms=0.0, latency_ms=10.0):
    return Timing(**dict.fromkeys(Timing._fields, 1.0))._replace(
        skew_ms=skew_ms, latency_ms=latency_ms)


GOOD = timing()


def by_concern(statuses):
    return {status.concern: status for status in statuses}


class Clocked:
    """A Health that is asked each second while both cameras deliver."""

    def __init__(self, config=None):
        self.health, self.now_ns = Health(0, config), 0
        self.drops = {}

    def second(self, facts=None, rgb=30, aux=10, published=10, timing=GOOD, **drops):
        """Let a second pass, with so many frames and drops, and return the statuses."""
        for stream, count in (('rgb', rgb), ('aux', aux)):
            for n in range(count):
                self.health.receive(stream, self.now_ns + SECOND * (n + 1) // count)
        for _ in range(published):
            self.health.publish(timing)
        for cause, count in drops.items():
            self.drops[cause] = self.drops.get(cause, 0) + count
        self.now_ns += SECOND
        return by_concern(self.health.statuses(self.now_ns, self.drops, facts))


def test_rates_are_since_the_last_report():
    health = Health(0)
    for n in range(30):
        health.receive('rgb', n * SECOND // 30)
    for n in range(10):
        health.receive('aux', n * SECOND // 10)
    health.publish(timing())
    first = by_concern(health.statuses(SECOND, {}))
    assert first['cameras'].values['rgb rate [Hz]'] == '30.0'
    assert first['cameras'].values['aux rate [Hz]'] == '10.0'
    assert first['inference'].values['rate [Hz]'] == '1.0'
    second = by_concern(health.statuses(2 * SECOND, {}))
    assert second['cameras'].values['rgb rate [Hz]'] == '0.0'
    assert second['cameras'].values['rgb received'] == '30'


def test_camera_that_stopped_is_stale_and_named():
    health = Health(0, HealthConfig(stale_after_s=2.5))
    health.receive('rgb', 0)
    health.receive('aux', 0)
    assert by_concern(health.statuses(SECOND, {}))['cameras'].level == Level.OK
    health.receive('rgb', 3 * SECOND)
    status = by_concern(health.statuses(3 * SECOND, {}))['cameras']
    assert (status.level, status.message) == (Level.STALE, 'no aux images')
    assert status.values['aux age [s]'] == '3.00'


def test_clock_that_stands_still_or_jumps_back_gives_no_rate_and_a_new_start():
    health = Health(5 * SECOND)
    health.receive('rgb', 5 * SECOND)
    for now_ns in (5 * SECOND, 5 * SECOND, SECOND):
        status = by_concern(health.statuses(now_ns, {}))['cameras']
        assert status.values['rgb rate [Hz]'] == '0.0'
    health.receive('rgb', 2 * SECOND)
    status = by_concern(health.statuses(2 * SECOND, {}))['cameras']
    assert status.values['rgb rate [Hz]'] == '1.0'


def test_camera_is_stale_after_a_clock_jump_until_its_next_frame():
    health = Health(0)
    health.receive('rgb', 100 * SECOND)
    health.receive('aux', 5 * SECOND)
    assert by_concern(health.statuses(5 * SECOND, {}))['cameras'].message == 'no rgb images'
    health.receive('rgb', 5 * SECOND)
    assert by_concern(health.statuses(5 * SECOND, {}))['cameras'].level == Level.OK


def test_camera_below_its_minimum_rate_warns_and_one_at_it_does_not():
    clocked = Clocked(HealthConfig(min_rgb_rate_hz=30, min_aux_rate_hz=9))
    levels = [clocked.second(rgb=30 - n % 2, aux=9)['cameras'].level for n in range(12)]
    assert set(levels) == {Level.OK}  # 29.5 Hz: jitter of the count
    slow = [clocked.second(rgb=15, aux=9)['cameras'] for n in range(6)]
    assert slow[-1].level == Level.WARN
    assert slow[-1].message == 'rgb comes at 15.0 Hz, expected 30'
    assert [clocked.second(aux=9)['cameras'].level for n in range(6)][-1] == Level.OK


def test_drops_are_judged_by_their_share_of_the_last_reports():
    clocked = Clocked()
    assert clocked.second(published=30, late=1)['pairing'].level == Level.OK
    for _ in range(WINDOW_REPORTS):
        status = clocked.second(published=27, late=1, step=2)['pairing']
    assert (status.level, status.message) == (Level.WARN, '10% lost, most by "step"')
    assert status.values['dropped: step'] == str(2 * WINDOW_REPORTS)
    for _ in range(WINDOW_REPORTS):
        status = clocked.second(published=5, late=25)['pairing']
    assert status.level == Level.ERROR
    for _ in range(WINDOW_REPORTS):
        status = clocked.second(published=30)['pairing']
    assert (status.level, status.message) == (Level.OK, 'pairs are complete')
    assert status.values['dropped: late'] == str(1 + 26 * WINDOW_REPORTS)  # the counts stay


def test_drops_of_node_and_pairer_are_added_and_surplus_frames_are_no_loss():
    health = Health(0)
    health.drop('step')
    health.drop('step', 2)
    status = by_concern(health.statuses(SECOND, {'surplus_rgb': 50, 'step': 1}))['pairing']
    assert status.values == {'state': 'paired', 'dropped: step': '4', 'dropped: surplus_rgb': '50'}
    for harmless in ('surplus_aux', 'no_listener', 'disabled'):
        assert by_concern(Health(0).statuses(1, {harmless: 50}))['pairing'].level == Level.OK


def test_a_share_at_the_threshold_does_not_flap():
    clocked = Clocked(HealthConfig(warn_drops=0.1))
    levels = [clocked.second(published=100, late=10 + n % 3)['pairing'].level for n in range(30)]
    assert sum(a != b for a, b in zip(levels, levels[1:], strict=False)) <= 1
    limits = Thresholds()
    assert [limits.above('x', value, 1.0) for value in (1.0, 1.1, 0.9, 0.81, 0.79, 0.9)] \
        == [False, True, True, True, False, False]


def test_pairs_that_failed_are_an_error_of_inference_until_they_are_past():
    clocked = Clocked()
    status = clocked.second(engine=2)['inference']
    assert (status.level, status.message) == (Level.ERROR, '2 pairs failed; the log tells why')
    status = clocked.second(facts=Facts(failure='out of memory'))['inference']
    assert status.message == '2 pairs failed, the last one: out of memory'
    levels = [clocked.second()['inference'].level for _ in range(WINDOW_REPORTS)]
    assert levels[0] == Level.ERROR and levels[-1] == Level.OK
    assert clocked.second()['pairing'].level == Level.OK  # told once is enough


def test_model_slower_than_the_cameras_is_a_warning_of_inference_alone():
    statuses = Clocked().second(published=10, replaced=20)
    assert statuses['inference'].level == Level.WARN
    assert 'slower than the cameras: 67% of the pairs' in statuses['inference'].message
    assert statuses['pairing'].level == Level.OK


@pytest.mark.parametrize('latency_ms, level', [(150, Level.OK), (300, Level.WARN),
                                               (1200, Level.ERROR)])
def test_latency_has_two_thresholds(latency_ms, level):
    status = Clocked().second(timing=timing(latency_ms=latency_ms))['inference']
    assert status.level == level
    assert level == Level.OK or f'{latency_ms} ms old' in status.message


def test_percentiles_of_every_stage_and_signed_skew():
    health = Health(0)
    for n in range(101):
        health.publish(timing(skew_ms=-n / 10, latency_ms=n))
    statuses = by_concern(health.statuses(SECOND, {}))
    assert statuses['inference'].values['latency p50 [ms]'] == '50.0'
    assert statuses['inference'].values['latency p95 [ms]'] == '95.0'
    for stage in set(Timing._fields) - {'skew_ms'}:
        assert f'{stage[:-3]} p95 [ms]' in statuses['inference'].values
    assert statuses['pairing'].values['skew p50 [ms]'] == '-5.00'
    assert statuses['pairing'].values['skew p95 [ms]'] == '9.50'


def test_large_and_steady_skew_names_the_offset_that_ends_it():
    facts = Facts(skew_median_ns=42_000_000)
    status = Clocked().second(facts, timing=timing(skew_ms=42.0))['pairing']
    assert status.level == Level.WARN
    assert '42.0 ms after RGB' in status.message and 'sync.aux_offset: -0.042' in status.message
    wandering = Clocked()
    for skew_ms in (-45, 40, -38, 47, -41, 44, 33):
        wandering.health.publish(timing(skew_ms=skew_ms))
    status = wandering.second(facts, published=0)['pairing']
    assert status.level == Level.WARN and 'aux_offset' not in status.message
    assert Clocked().second(facts, timing=timing(skew_ms=20))['pairing'].level == Level.OK


@pytest.mark.parametrize('state, level', [
    ('paired', Level.OK), ('hold_aux', Level.WARN), ('rgb_only', Level.WARN),
    ('hold_rgb', Level.WARN), ('aux_only', Level.WARN), ('stopped', Level.ERROR)])
def test_degraded_state_is_told(state, level):
    status = Clocked().second(Facts(state=state), degraded=100)['pairing']
    assert (status.level, status.values['state']) == (level, state)
    assert state == 'paired' or status.message == remedies.STATES[state]


def test_waiting_is_fine_until_both_cameras_deliver_without_a_pair():
    clocked = Clocked()
    assert clocked.second(Facts(state='waiting'), aux=0, published=0)['pairing'].level == Level.OK
    for _ in range(2):
        status = clocked.second(Facts(state='waiting'), published=0)['pairing']
    assert (status.level, status.message) == (Level.WARN, remedies.UNPAIRED)


def test_frozen_rgb_image_is_a_warning():
    status = Clocked().second(Facts(frozen_rgb=True))['pairing']
    assert (status.level, status.message) == (Level.WARN, remedies.FROZEN_RGB)


def test_frozen_aux_image_is_a_warning_and_the_worst_comes_first():
    status = Clocked().second(Facts(frozen=True))['pairing']
    assert (status.level, status.message) == (Level.WARN, remedies.FROZEN)
    status = Clocked().second(Facts(frozen=True, state='stopped'))['pairing']
    assert status.level == Level.ERROR
    assert status.message == f'{remedies.STATES["stopped"]}; {remedies.FROZEN}'


def test_registration_is_told_only_where_it_is_asked_for():
    assert 'registration' not in Clocked().second()
    cases = ((Facts(registration='depth', missing='no depth yet'), Level.WARN),
             (Facts(registration='depth', coverage=0.6), Level.OK),
             (Facts(registration='depth', coverage=0.05), Level.WARN),
             (Facts(registration='depth', coverage=0.0), Level.ERROR))
    for facts, level in cases:
        status = Clocked().second(facts)['registration']
        assert (status.level, status.values['mode']) == (level, 'depth')


def test_each_cause_is_told_once_and_passing_ones_only_when_they_go_on():
    health = Health(0)
    health.drop('replaced', 9)
    assert health.untold({'zero_stamp': 3}) == [REMEDIES['zero_stamp']]
    health.drop('replaced')
    assert health.untold({'zero_stamp': 4}) == [REMEDIES['replaced']]
    assert health.untold({'zero_stamp': 5}) == []


def test_each_topic_is_told_for_itself():
    health = Health(0)
    assert health.first('step', '/rgb') and health.first('step', '/thermal')
    assert not health.first('step', '/rgb') and health.first('step')
    topics = {'rgb': '/rgb', 'aux': '/thermal'}
    health.receive('rgb', SECOND, 0)
    assert health.untold({'zero_stamp': 1}, topics=topics) == [f'/rgb: {REMEDIES["zero_stamp"]}']
    health.receive('aux', SECOND, 0)
    health.drop('lost_on_wire', 3, 'aux')
    assert sorted(health.untold({'zero_stamp': 2}, topics=topics)) == [
        f'/thermal: {REMEDIES["zero_stamp"]}', f'/thermal: {REMEDIES["lost_on_wire"]}']


def stamped(rgb_s, aux_s, simulated=False, reports=3, drops=None):
    """Return sentences and the last camera status when stamps lag the clock by these seconds."""
    health, sentences, start_ns = Health(0), [], 10_000 * SECOND
    for report in range(reports):
        now_ns = start_ns + report * SECOND
        for stream, behind_s in (('rgb', rgb_s), ('aux', aux_s)):
            health.receive(stream, now_ns, now_ns - round(behind_s * SECOND))
        status = by_concern(health.statuses(now_ns, drops or {}))
        sentences += health.untold(drops or {}, simulated, {'rgb': '/rgb', 'aux': '/ir'})
    return sentences, status


@pytest.mark.parametrize('behind_s, simulated, part', [
    (3600, False, 'replaying a bag? start with use_sim_time:=true'),
    (-5, False, 'synchronize the clocks'), (-5, True, 'let the bag alone publish /clock'),
    (20, True, 'second publisher of /clock')])
def test_stamps_of_another_clock_are_told_once_with_the_remedy(behind_s, simulated, part):
    (sentence,), statuses = stamped(behind_s, behind_s, simulated)
    assert part in sentence and f'{abs(behind_s)}.0 s' in sentence and '/rgb and /ir' in sentence
    assert statuses['cameras'].level == Level.WARN
    assert f'{abs(behind_s)}.0 s' in statuses['cameras'].message


def test_stamps_of_this_clock_and_a_single_old_message_are_no_disagreement():
    assert stamped(0.1, 0.3)[0] == []
    assert stamped(3600, 3600, reports=1)[0] == []
    health = Health(0)
    health.receive('rgb', 0, 1_700_000_000 * SECOND)  # before simulated time begins
    health.statuses(0, {})
    assert health.untold({}, True) == []


def test_cameras_on_different_clocks_are_told_with_the_offset():
    (sentence,), _ = stamped(0.1, 8.1)
    assert '/ir are 8.00 s behind those of /rgb' in sentence and 'about 8.000' in sentence
    (sentence,), _ = stamped(0.1, 0.4, drops={'clock_disagreement': 3})  # too far to pair
    assert '0.30 s behind' in sentence and 'about 0.300' in sentence
    assert Health(0).untold({'clock_disagreement': 3}) == [REMEDIES['clock_disagreement']]


def test_latency_is_not_judged_by_clocks_that_disagree():
    health = Health(0)
    for report in (1, 2):
        health.receive('rgb', report * SECOND, report * SECOND - 3600 * SECOND)
        health.publish(timing(latency_ms=3.6e6))
        status = by_concern(health.statuses(report * SECOND, {}))['inference']
    assert status.level == Level.OK


def test_swapped_topics_are_told_once():
    health = Health(0)
    health.receive('rgb', 1, 1, 'mono16')
    assert health.untold({}) == []
    health.receive('aux', 1, 1, 'bgr8')
    sentence, = health.untold({}, topics={'rgb': '/a', 'aux': '/b'})
    assert '/a holds mono16 and /b holds bgr8' in sentence
    assert health.untold({}) == []


def test_statuses_of_several_pairs_carry_their_name():
    statuses = Health(0, name='front').statuses(SECOND, {}, Facts(registration='file'))
    assert [status.concern for status in statuses] == [
        'front cameras', 'front pairing', 'front registration', 'front inference']
    assert Health(0, name='rear').idle('inactive', '').concern == 'rear state'


def test_fault_of_an_idle_node_is_an_error():
    assert Health(0).idle('unconfigured', '').level == Level.WARN
    status = Health(0).idle('unconfigured', 'bundle x: no such folder.')
    assert (status.level, status.message) == (Level.ERROR, 'bundle x: no such folder.')


@pytest.mark.parametrize('change, named', [
    ({'warn_latency_s': -1}, 'diagnostics.warn_latency '), ({'warn_drops': 1.1}, 'warn_drops'),
    ({'error_latency_s': math.inf}, 'diagnostics.error_latency '),
    ({'warn_skew_s': math.nan}, 'warn_skew'), ({'stale_after_s': 0}, 'stale_after '),
    ({'warn_latency_s': 2.0}, 'diagnostics.error_latency, which is 1.0'),
    ({'error_drops': 0.01}, 'warn_drops'), ({'min_aux_rate_hz': -1}, 'min_aux_rate '),
    ({'warn_memory_mb': -1}, 'diagnostics.warn_memory ')])
def test_impossible_thresholds_are_refused_by_name(change, named):
    with pytest.raises(RgbxSegError, match='expected') as caught:
        replace(HealthConfig(), **change)
    assert named in str(caught.value)


def test_memory_tells_growth_and_warns_beyond_its_threshold():
    memory = Memory()
    ballast = bytearray(b'x') * 60_000_000
    status = memory.status(0, {'GPU': 812.0})
    assert 50 < float(status.values['growth since activation [MB]']) < 120
    assert status.level == Level.OK and status.values['GPU [MB]'] == '812'
    assert memory.status(resident_mb() / 2).level == Level.WARN
    assert len(ballast) == 60_000_000


def test_every_cause_and_state_is_documented():
    text = ' '.join(DOCS.read_text().split())
    for name in (*REMEDIES, *remedies.STATES, *remedies.HARMLESS, *remedies.TOLD_ELSEWHERE):
        assert f'`{name}`' in text, name
    for sentence in (*REMEDIES.values(), *remedies.STATES.values(), remedies.FROZEN,
                     remedies.FROZEN_RGB, remedies.UNPAIRED):
        assert sentence.rstrip('.') in text, sentence
