# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

from rgbx_seg_ros.health import REMEDIES, Health, Level, Timing

SECOND = 1_000_000_000


def timing(skew_ms=0.0, latency_ms=10.0):
    return Timing(skew_ms, latency_ms, engine_ms=5.0, overhead_ms=2.0, decode_ms=0.5,
                  postprocess_ms=1.0, wait_ms=0.2)


def by_concern(statuses):
    return {status.concern: status for status in statuses}


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
    health = Health(0)
    health.receive('rgb', 0)
    health.receive('aux', 0)
    assert by_concern(health.statuses(SECOND, {}))['cameras'].level == Level.OK
    health.receive('rgb', 3 * SECOND)
    status = by_concern(health.statuses(3 * SECOND, {}))['cameras']
    assert (status.level, status.message) == (Level.STALE, 'no aux images')
    assert status.values['aux age [s]'] == '3.00'


def test_clock_that_stands_still_or_jumps_back_gives_no_rate():
    health = Health(5 * SECOND)
    health.receive('rgb', 5 * SECOND)
    for now_ns in (5 * SECOND, SECOND):
        status = by_concern(health.statuses(now_ns, {}))['cameras']
        assert status.values['rgb rate [Hz]'] == '0.0'


def test_drops_of_node_and_pairer_are_added_and_surplus_frames_are_no_loss():
    health = Health(0)
    health.drop('step')
    health.drop('step', 2)
    status = by_concern(health.statuses(SECOND, {'surplus_rgb': 50}))['pairing']
    assert status.values == {'dropped: step': '3', 'dropped: surplus_rgb': '50'}
    assert (status.level, status.message) == (Level.WARN, '3 dropped since the last report')
    assert by_concern(Health(0).statuses(1, {'surplus_rgb': 50}))['pairing'].level == Level.OK


def test_level_of_pairing_recovers_while_its_counts_stay():
    health = Health(0)
    health.drop('step', 3)
    health.statuses(SECOND, {'late': 2})
    status = by_concern(health.statuses(2 * SECOND, {'late': 2}))['pairing']
    assert status.level == Level.OK
    assert status.values == {'dropped: step': '3', 'dropped: late': '2'}
    status = by_concern(health.statuses(3 * SECOND, {'late': 3}))['pairing']
    assert (status.level, status.message) == (Level.WARN, '1 dropped since the last report')


def test_pairs_that_failed_are_an_error_of_inference():
    health = Health(0)
    health.drop('engine', 2)
    status = by_concern(health.statuses(SECOND, {}))['inference']
    assert (status.level, status.message) == (Level.ERROR, '2 pairs failed; the log tells why')
    assert by_concern(health.statuses(2 * SECOND, {}))['inference'].level == Level.OK


def test_camera_is_stale_after_a_clock_jump_until_its_next_frame():
    health = Health(0)
    health.receive('rgb', 100 * SECOND)
    health.receive('aux', 5 * SECOND)
    assert by_concern(health.statuses(5 * SECOND, {}))['cameras'].message == 'no rgb images'
    health.receive('rgb', 5 * SECOND)
    assert by_concern(health.statuses(5 * SECOND, {}))['cameras'].level == Level.OK


def test_latency_percentiles_and_signed_skew():
    health = Health(0)
    for n in range(101):
        health.publish(timing(skew_ms=-n / 10, latency_ms=n))
    statuses = by_concern(health.statuses(SECOND, {}))
    assert statuses['inference'].values['latency p50 [ms]'] == '50.0'
    assert statuses['inference'].values['latency p95 [ms]'] == '95.0'
    assert statuses['pairing'].values['skew p50 [ms]'] == '-5.00'


def test_each_cause_is_told_once():
    health = Health(0)
    health.drop('replaced')
    assert health.untold({'zero_stamp': 3}) == [REMEDIES['replaced'], REMEDIES['zero_stamp']]
    health.drop('replaced')
    assert health.untold({'zero_stamp': 4}) == []
    assert health.first('step') and not health.first('step')


def test_fault_of_an_idle_node_is_an_error():
    assert Health.idle('unconfigured', '').level == Level.WARN
    status = Health.idle('unconfigured', 'bundle x: no such folder.')
    assert (status.level, status.message) == (Level.ERROR, 'bundle x: no such folder.')
