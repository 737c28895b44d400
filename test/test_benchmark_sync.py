# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_benchmark sync` as a user runs it: traces in, JSON or a table or one sentence out."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import camera, mutual_pairs, optimal_pairs

from rgbx_seg_ros import benchmark, benchmark_sync
from rgbx_seg_ros.sync_traces import START, best_pairs


def write(path, events):
    path.write_text(json.dumps([{'stream': e.stream, 'stamp_ns': e.stamp_ns,
                                 'arrival_ns': e.arrival_ns} for e in sorted(events)]))
    return str(path)


def run(capsys, *args):
    code = benchmark_sync.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_holds_every_pair_and_the_figures_that_follow_from_it(tmp_path, capsys):
    events = camera('rgb', 30, 10, delay_ms=60) + camera('aux', 9, 10, phase_ms=5)
    code, out, _ = run(capsys, write(tmp_path / 'trace.json', events), '--json')
    assert code == 0
    result = json.loads(out)
    assert [(rgb, aux) for rgb, aux, _ in result['pairs']] == mutual_pairs(events)
    arrivals = {(e.stream, e.stamp_ns): e.arrival_ns for e in events}
    skews = [abs(aux - rgb) / 1e6 for rgb, aux, _ in result['pairs']]
    holds = [(emit - max(arrivals['rgb', rgb], arrivals['aux', aux])) / 1e6
             for rgb, aux, emit in result['pairs']]
    for key, values in (('skew_ms', skews), ('hold_ms', holds)):
        assert result[key]['mean'] == pytest.approx(mean(values))
        assert result[key]['max'] == max(values)
        assert min(values) <= result[key]['p50'] <= result[key]['p95'] <= max(values)
    assert min(holds) >= 0
    assert sum(result['drops'].values()) == len(events) - 2 * len(result['pairs'])
    assert 0 < result['us_per_message'] < 1000
    assert result['clock_offset_ms'] == pytest.approx(60, abs=0.01)


def test_a_pair_leaves_exactly_when_max_wait_is_over(tmp_path, capsys):
    events = (camera('rgb', 30, 1 / 30) + camera('aux', 9, 1 / 9, phase_ms=20)
              + camera('rgb', 30, 1 / 30, phase_ms=10_000))
    path = write(tmp_path / 'trace.json', events)
    _, out, _ = run(capsys, path, '--json', '--max-wait', '0.07')
    assert json.loads(out)['pairs'] == [[START, START + 20_000_000, START + 90_000_000]]


def test_options_reach_the_pairer(tmp_path, capsys):
    path = write(tmp_path / 'trace.json', camera('rgb', 30, 5) + camera('aux', 30, 5, phase_ms=12))
    def count(*args):
        return len(json.loads(run(capsys, path, '--json', *args)[1])['pairs'])
    assert count() == 150
    assert count('--max-skew', '0.011') == count('--policy', 'exact') == 0
    assert count('--policy', 'exact', '--rgb-offset', '0.012') > 100
    assert count('--policy', 'latest', '--max-age', '0.03') == 149


def test_without_json_a_table_for_people_is_printed(tmp_path, capsys):
    path = write(tmp_path / 'trace.json', camera('rgb', 30, 5) + camera('aux', 30, 5, phase_ms=12))
    code, out, _ = run(capsys, path)
    assert code == 0
    assert '150 pairs' in out and '| skew | 12.00 | 12.00 | 12.00 | 12.00 |' in out
    assert 'median skew 12.00 ms' in out


def test_a_scenario_shows_the_best_pairs_beside_ours(capsys):
    code, out, _ = run(capsys, '--scenario', 'looped_bag')
    assert code == 0
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines()]
    hindsight, ours = rows[2:4]
    assert hindsight[1] == 'in hindsight' and ours[1] == 'nearest'
    assert hindsight[2:5] == ours[2:5] and hindsight[7] == ours[7] == '180'


def test_an_empty_trace_has_no_pairs_and_no_figures(tmp_path, capsys):
    code, out, _ = run(capsys, write(tmp_path / 'trace.json', []), '--json')
    result = json.loads(out)
    assert code == 0 and result['pairs'] == [] and result['drops'] == {}
    assert set(result['skew_ms'].values()) == {None}
    assert run(capsys, str(tmp_path / 'trace.json'))[0] == 0


GOOD = {'stream': 'rgb', 'stamp_ns': 1, 'arrival_ns': 1}


@pytest.mark.parametrize('text, words', [
    ('', 'not JSON'), ('{"a": ', 'not JSON'), ('[' * 100_000, 'not JSON'), ('\xff\xfe', 'not JSON'),
    ('[{"stream": "rgb", "stamp_ns": ' + '9' * 5000 + ', "arrival_ns": 1}]', 'not JSON'),
    ('{}', 'found a dict'), ('7', 'found a int'), ('[7]', 'event 0 is 7'),
    (json.dumps([GOOD, {'stream': 'aux', 'stamp_ns': 1}]), "event 1 is {'stream': 'aux'"),
    (json.dumps([GOOD | {'stream': 'depth'}]), 'stream depth, expected rgb or aux'),
    (json.dumps([GOOD | {'stream': ['rgb']}]), 'expected rgb or aux'),
    *((json.dumps([GOOD | {key: value}]), f'event 0 has {key} ')
      for key in ('stamp_ns', 'arrival_ns')
      for value in (-1, 1.5, '1', None, True, 2**63, 10**400, float('nan'), float('inf'), [])),
    (json.dumps([GOOD | {'arrival_ns': 2}, GOOD]), 'event 1 arrives before event 0'),
])
def test_a_bad_trace_ends_in_one_sentence(tmp_path, capsys, text, words):
    path = tmp_path / 'trace.json'
    path.write_text(text, encoding='latin-1')
    code, out, err = run(capsys, str(path), '--json')
    assert (code, out) == (1, '')
    assert words in err and 'expected' in err and err.count('\n') == 1


def test_files_without_end_or_absent_end_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark_sync, 'LARGEST', 1000)
    write(tmp_path / 'trace.json', camera('rgb', 30, 5))
    for path in ('/dev/zero', str(tmp_path / 'trace.json'), str(tmp_path), str(tmp_path / 'none')):
        code, _, err = run(capsys, path)
        assert code == 1 and err.count('\n') == 1


@pytest.mark.parametrize('args', [
    [], ['a.json', '--scenario', 'drift'], ['--scenario', 'none'], ['a.json', '--policy', 'best'],
    ['a.json', '--max-skew', 'wide'], ['a.json', '--max-skew', '-1'],
    ['a.json', '--queue-size', '0'], ['a.json', '--max-wait', 'nan']])
def test_wrong_arguments_end_in_one_sentence(capsys, args):
    code, out, err = run(capsys, *args)
    assert (code, out) == (1, '') and err.count('\n') == 1


@pytest.mark.parametrize('args, words', [
    ([], 'expected one of sync, node'), (['what'], 'found what'), (['sync'], 'found no trace')])
def test_the_command_names_its_benchmarks(monkeypatch, capsys, args, words):
    monkeypatch.setattr(sys, 'argv', ['rgbx_benchmark', *args])
    assert benchmark.main() == 1
    assert words in capsys.readouterr().err
    monkeypatch.setattr(sys, 'argv', ['rgbx_benchmark', '--help'])
    assert benchmark.main() == 0
    assert 'sync' in capsys.readouterr().out


def test_the_command_loads_neither_ros_nor_an_image_library(tmp_path):
    path = write(tmp_path / 'trace.json', camera('rgb', 30, 1) + camera('aux', 9, 1))
    program = ('import sys; from rgbx_seg_ros import benchmark\n'
               f'sys.argv[1:] = ["sync", {path!r}]\n'
               'benchmark.main(); print({"rclpy", "cv2", "message_filters"} & set(sys.modules))')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True,
                          timeout=60, check=True)
    assert done.stdout.endswith('set()\n')


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9999), st.sampled_from([9, 30]), st.sampled_from([0, 0.2]),
       st.sampled_from([0, 3]))
def test_the_best_pairs_of_the_table_are_the_mutual_ones_and_most_others(seed, rate, drop, jitter):
    events = (camera('rgb', 30, 3, 0, drop=drop, seed=seed, stamp_jitter_ms=jitter)
              + camera('aux', rate, 3, seed / 200, drop=drop, seed=seed, stamp_jitter_ms=jitter))
    best, optimal = best_pairs(events, 0.05), optimal_pairs(events, min(50, 700 / rate))
    assert set(mutual_pairs(events, min(50, 500 / rate))) <= set(best)
    assert 0.7 * len(optimal) <= len(best) <= len(optimal)  # fewest at half a period with jitter
