# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark runs the real node and the baseline for a moment, and counts what they did."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rgbx_seg_ros import benchmark_node
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.middleware import LARGE_IMAGES, set_private_middleware

ROOT = Path(__file__).parent.parent
SECONDS = 1.5
needs_ros = pytest.mark.skipif(
    subprocess.run([sys.executable, '-c', 'import rgbx_seg.msg'], capture_output=True,
                   check=False).returncode != 0,
    reason='the ROS package is not built; run `make ros`')


def run(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'rgbx_seg_ros.benchmark_node', *arguments], cwd=ROOT,
        capture_output=True, text=True, timeout=120, check=False)


@needs_ros
def test_it_counts_pairs_cpu_stages_and_memory_of_the_node_and_the_baseline():
    outputs = 'mask,overlay'
    done = run('--seconds', str(SECONDS), '--rate', '20', '--size', '160x120', '--aux-size',
               '80x60', '--outputs', outputs, '--baseline', '--rounds', '1', '--json')
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result['load'] == {
        'size': [160, 120], 'aux_size': [80, 60], 'rate': 20.0, 'seconds': SECONDS,
        'outputs': outputs.split(','), 'modality': 'thermal'}
    (node,), (baseline,) = result['runs'].values()
    for trial in (node, baseline):
        assert abs(trial['pairs_in'] - 20 * SECONDS) <= 5
        assert 0 < trial['pairs_out'] <= trial['pairs_in'] + 5
        assert trial['received'].keys() == {'mask', 'overlay'}
        assert 0 < trial['cpu_ms_per_pair'] < 1000 and trial['rss_mib'] > 20
        assert trial['cpu_percent'] == pytest.approx(
            trial['cpu_ms_per_pair'] * trial['pairs_out'] / SECONDS / 10)
        assert 0 < trial['latency_ms']['p50'] <= trial['latency_ms']['p95']
    assert result['cpu_ratio'] == baseline['cpu_ms_per_pair'] / node['cpu_ms_per_pair']
    stages = node['stages']
    assert {'latency_ms', 'engine_ms', 'overhead_ms', 'decode_ms', 'wait_ms'} <= stages.keys()
    assert all(times['p50'] <= times['p95'] for times in stages.values())
    assert stages['engine_ms']['p50'] < 1
    assert 'stages' not in baseline


@needs_ros
def test_usage_is_that_of_the_process():
    from rgbx_seg_ros.benchmark_robot import Usage

    before, began = Usage(os.getpid()), time.process_time()
    while time.process_time() - began < 0.3:
        pass
    after = Usage(os.getpid())
    assert after.cpu_ms - before.cpu_ms == pytest.approx(300, abs=60)
    block = bytearray(os.urandom(1)) * (64 << 20)
    assert Usage(os.getpid()).rss_mib - after.rss_mib == pytest.approx(64, abs=8)
    assert Usage(os.getpid()).faults > after.faults
    assert len(block) == 64 << 20


@needs_ros
def test_a_node_that_cannot_begin_is_told_with_its_own_words():
    done = run('--bundle', str(ROOT / 'sample' / 'bundle'), '--backend', 'abacus')
    assert done.returncode == 1 and done.stdout == '' and done.stderr.count('\n') == 1
    assert 'parameter backend is \'abacus\'' in done.stderr, done.stderr


@pytest.mark.parametrize(('arguments', 'words'), [
    (('--rate', '0'), '--rate is 0; expected 1 to 1000'),
    (('--seconds', 'nan'), '--seconds is nan; expected 1 to 3600'),
    (('--size', '640'), 'a size is "640"; expected WIDTHxHEIGHT'),
    (('--outputs', 'mask,picture'), '--outputs names "picture"; expected some of mask,'),
    (('--baseline', 'nowhere'), 'expects a checkout'),
    (('--fast',), '--help` lists the arguments'),
])
def test_wrong_arguments_are_one_sentence(arguments, words, capsys):
    assert benchmark_node.main(list(arguments)) == 1
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


def test_dummy_bundle_is_valid_and_has_the_size_asked_for(tmp_path):
    manifest = load_bundle(benchmark_node.write_dummy_bundle(tmp_path / 'bundle', (64, 48)))
    assert (manifest.width, manifest.height, len(manifest.classes)) == (64, 48, 9)


def test_private_middleware_keeps_what_the_user_chose(monkeypatch):
    for name in ('ROS_DOMAIN_ID', 'ROS_LOCALHOST_ONLY', 'FASTDDS_BUILTIN_TRANSPORTS'):
        monkeypatch.setenv(name, '')
    monkeypatch.delenv('RMW_IMPLEMENTATION', raising=False)
    set_private_middleware()
    assert 1 <= int(os.environ['ROS_DOMAIN_ID']) < 100
    assert os.environ['FASTDDS_BUILTIN_TRANSPORTS'] == LARGE_IMAGES
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4')
    set_private_middleware()
    assert os.environ['FASTDDS_BUILTIN_TRANSPORTS'] == 'UDPv4'
    assert 'ROS_LOCALHOST_ONLY' not in os.environ
