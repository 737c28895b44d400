# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of all backends: its arithmetic, real runs over tiny bundles, and rows that fail."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fake_gpu
import numpy as np
import pytest
from bundles import manifest, write_scene_bundle, write_tiny_bundle

from rgbx_seg_ros import benchmark_engine, benchmark_table
from rgbx_seg_ros.benchmark_engine import eager_row, plan, summarize
from rgbx_seg_ros.benchmark_figures import agreement, of_row, percentiles, ratio
from rgbx_seg_ros.benchmark_inputs import from_bag, generate
from rgbx_seg_ros.benchmark_runs import Bench, Row
from rgbx_seg_ros.images import to_rgb8
from rgbx_seg_ros.manifest import Variant, load_bundle
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.thermal import to_uint8

ROOT = Path(__file__).parent.parent
QUICK = ('--rounds', '2', '--seconds', '0.05', '--pairs', '3')


def a_round(ms, scene_ms=(), **more):
    return {'ms': list(ms), 'wall_s': sum(ms) / 1e3 + 0.001, 'cpu_s': 2 * sum(ms) / 1e3,
            'device_ms': [], 'scene_ms': list(scene_ms), 'beside_ms': [], 'peak_mb': 90.0,
            'seconds': 2.0, 'power': {}, 'others_cpu_s': 0.5, **more}


def rounds_of(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return [a_round(scale * rng.gamma(9, 1.3, n)) for n in (40, 31, 57)]


# Arithmetic

def test_percentiles_are_those_of_numpy():
    ms = np.random.default_rng(1).gamma(4, 2, 101)
    ordered = np.sort(ms)
    assert percentiles(list(ms)) == pytest.approx(
        {'p50': ordered[50], 'p95': ordered[95], 'p99': ordered[99]})


def test_a_row_has_medians_of_its_rounds_and_tails_of_all_pairs():
    rounds = rounds_of(2)
    figures = of_row(rounds, every=0)
    each = [np.array(one['ms']) for one in rounds]
    assert figures['p50'] == pytest.approx(np.median([np.median(ms) for ms in each]))
    assert figures['p99'] == pytest.approx(np.percentile(np.concatenate(each), 99))
    assert figures['pairs'] == 128
    assert figures['pairs_per_s'] == pytest.approx(
        np.median([len(ms) / (ms.sum() / 1e3 + 0.001) for ms in each]))
    assert figures['cpu_ms'] == pytest.approx(np.median([2 * ms.mean() for ms in each]))
    assert figures['others_cpu_percent'] == pytest.approx(25)
    assert figures['watts'] is figures['device_ms'] is figures['joules_per_pair'] is None
    assert [one['pairs'] for one in figures['rounds']] == [40, 31, 57]


def test_energy_per_pair_is_power_over_rate():
    one = a_round([10] * 50, power={'watts': 24.0, 'joules': 48.0, 'seconds': 2.0})
    figures = of_row([{**one, 'wall_s': 0.5}], every=0)
    assert figures['watts'] == 24 and figures['joules_per_pair'] == pytest.approx(24 / 100)


def test_the_scene_graph_costs_its_share():
    figures = of_row([a_round([10, 12, 14], scene_ms=[60, 50, 70])], every=5)
    assert figures['cost_ms'] == pytest.approx(12 + 60 / 5)
    assert figures['pairs_per_s'] == pytest.approx(1e3 / 24)
    assert (figures['p50'], figures['scene_ms']) == (12, 60)


def test_ratio_is_taken_round_by_round_so_that_a_slow_minute_hits_both():
    slow = [1.0, 3.0, 1.5]  # the machine, from round to round
    own = [a_round([5 * factor] * 9) for factor in slow]
    reference = [a_round([20 * factor] * 9) for factor in slow]
    found = ratio(own, reference, every=0)
    assert found['rounds'] == pytest.approx([4, 4, 4])
    assert (found['low'], found['median'], found['high']) == pytest.approx((4, 4, 4))
    assert ratio(own[:2], [a_round([10] * 9)] * 3, 0)['rounds'] == pytest.approx([2, 2 / 3])
    assert ratio([], reference, 0) is None


def test_agreement_is_the_share_of_equal_labels(tmp_path):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 9, (4, 30, 40)).astype(np.uint8)
    other = labels.copy()
    other[0, :3] += 1
    np.save(tmp_path / 'a.npy', labels)
    np.save(tmp_path / 'b.npy', other)
    assert agreement(tmp_path / 'a.npy', tmp_path / 'b.npy') == pytest.approx(1 - 120 / 4800)
    assert agreement(None, tmp_path / 'a.npy') is None


# Which rows there are

def variant(name, precision, backends, **more):
    return Variant(name, precision, backends, {}, 0.999, None, 5, **more)


def test_rows_are_what_the_bundle_has_for_each_backend():
    bundle = replace(manifest(), variants=(
        variant('fp16', 'fp16', ('tensorrt', 'onnxruntime_cuda')),
        variant('int8_openvino', 'int8', ('openvino',)),
        variant('int8_openvino_96x64', 'int8', ('onnxruntime',), rgb_size=(64, 96))))
    rows = plan(bundle, ['tensorrt', 'openvino', 'onnxruntime'], [], Row('torch', 'fp32'))
    assert [(row.backend, row.precision) for row in rows] == [
        ('torch', 'fp32'), ('onnxruntime', 'fp32'), ('tensorrt', 'fp32'), ('tensorrt', 'fp16'),
        ('openvino', 'fp32'), ('openvino', 'bf16'), ('openvino', 'int8')]
    named = plan(bundle, ['onnxruntime'], ['bf16'], Row('torch', 'fp32'))
    assert [(row.backend, row.precision, row.reason) for row in named[1:]] == [
        ('onnxruntime', 'fp32', ''), ('onnxruntime', 'bf16', '')]


def test_labels_of_other_weights_are_not_compared(tmp_path):
    own, other = tmp_path / 'model.safetensors', tmp_path / 'other.safetensors'
    own.write_bytes(b'weights')
    other.write_bytes(b'random weights')
    bundle = replace(manifest(), checkpoint_sha256=hashlib.sha256(b'weights').hexdigest())
    rows = [eager_row(tmp_path, bundle, None), eager_row(tmp_path, bundle, other)]
    assert [(row.checkpoint, row.same_weights, row.reason) for row in rows] == [
        (own, True, ''), (other, False, '')]
    assert 'holds no model.safetensors' in eager_row(tmp_path, manifest(), None).reason


# Inputs

def test_made_up_pairs_are_the_same_again_and_no_noise():
    bundle = manifest(height=60, width=80)
    rgb, aux = generate(bundle, 4)
    assert rgb.shape == (4, 60, 80, 3) and aux.shape == (4, 60, 80, 1)
    assert (generate(bundle, 4)[0] == rgb).all() and (rgb[0] != rgb[1]).mean() > 0.9
    values = rgb.astype(float)
    apart = np.abs(np.diff(values, axis=2)).mean()  # of noise it would be 85 at full contrast
    assert values.std() > 30 and 2 < apart < 15


def test_pairs_of_a_bag_are_what_the_network_of_the_node_gets():
    from rgbx_seg_ros.bag import read_images

    bundle = load_bundle(ROOT / 'sample' / 'bundle')
    rgb, aux = from_bag(ROOT / 'sample' / 'bag', bundle, 2)
    assert rgb.shape == (2, 240, 320, 3) and aux.shape == (2, 240, 320, 1)
    first = {}
    topics = [f'/{name}/image_raw/compressed' for name in ('rgb', 'thermal')]
    for image in read_images(ROOT / 'sample' / 'bag', topics):
        first.setdefault(image.topic, image)
        if len(first) == 2:
            break
    by_hand = to_rgb8(first[topics[0]].image(gray=False), 'rgb8')
    assert (rgb[0] == resize_to(by_hand, 240, 320)).all()
    thermal = to_uint8(first[topics[1]].image(), bundle.aux)
    assert (aux[0, ..., 0] == resize_to(thermal, 240, 320)).all()


# Real runs

@pytest.fixture(scope='module')
def result(tmp_path_factory):
    """The JSON of a run over a tiny bundle, and what was told meanwhile."""
    bundle = write_tiny_bundle(tmp_path_factory.mktemp('run') / 'bundle')
    done = run(bundle, '--backends', 'openvino,dummy,onnxruntime_cuda', '--json')
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(bundle, *arguments, env=None):
    return subprocess.run(
        [sys.executable, '-m', 'rgbx_seg_ros.benchmark', 'engine', str(bundle), *QUICK,
         *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False, env=env)


def rows_by_name(result):
    return {(row['name'], row['asked']): row for row in result['rows']}


def test_real_rows_have_all_figures_and_their_rounds(result):
    rows = rows_by_name(result)
    for name in ('onnxruntime', 'openvino', 'dummy'):
        row = rows[name, 'fp32']
        figures = row['figures']
        assert row['reason'] == '' and row['open_s'] > 0 and row['info']['device'] == 'cpu'
        assert 0 < figures['p50'] <= figures['p95'] <= figures['p99'] < 1000
        assert len(figures['rounds']) == len(row['latencies_ms']) == 2
        assert figures['pairs'] == sum(map(len, row['latencies_ms'])) >= 6
        assert figures['p95'] == pytest.approx(
            np.percentile(np.concatenate(row['latencies_ms']), 95))
        assert figures['cpu_ms'] > 0 and 10 < figures['peak_mb'] < 2000
    assert rows['onnxruntime', 'fp32']['rss_mb'] > rows['dummy', 'fp32']['rss_mb']


def test_real_rows_are_compared_with_the_reference(result):
    rows = rows_by_name(result)
    assert result['speed_reference'] == 'onnxruntime'  # the tiny bundle has no checkpoint
    assert result['label_reference'] == 'onnxruntime fp32'
    assert rows['onnxruntime', 'fp32']['ratio']['rounds'] == [1, 1]
    assert rows['openvino', 'fp32']['labels_equal'] == 1
    assert 0 < rows['dummy', 'fp32']['labels_equal'] < 0.9


def test_what_cannot_run_here_is_a_row_with_the_reason(result):
    rows = rows_by_name(result)
    assert 'has no CUDAExecutionProvider' in rows['onnxruntime_cuda', 'fp32']['reason']
    assert rows['onnxruntime_cuda', 'fp32']['unavailable']
    assert '--checkpoint FILE' in rows['torch eager', 'fp32']['reason']
    assert 'figures' not in rows['onnxruntime_cuda', 'fp32']


def test_the_table_of_a_real_run_is_readable(result):
    text = benchmark_table.render(result)
    assert max(map(len, text.splitlines())) <= benchmark_table.WIDTH
    table = benchmark_table.table(result)
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert {'onnxruntime', 'openvino', 'dummy'} <= lines.keys()
    assert 'W' not in lines['backend'].split() and 'scene' not in table and 'GPU' not in table
    assert lines['onnxruntime'].split()[-3:] == ['100', '1.00', '1.00-1.00']
    assert 'not measured: onnxruntime_cuda fp32: onnxruntime' in text
    assert f'governor {result["machine"]["governor"] or "unknown"}' in text


def test_two_graphs_are_timed_apart_and_together(tmp_path):
    bundle = write_scene_bundle(tmp_path / 'bundle', every=3)
    done = run(bundle, '--backends', 'onnxruntime', '--json')
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = rows_by_name(result)['onnxruntime', 'fp32']['figures']
    for one in figures['rounds']:
        assert one['cost_ms'] == pytest.approx(one['p50'] + one['scene_ms'] / 3, rel=0.5)
        assert one['cost_ms'] > one['p50'] > 0
    assert result['every'] == 3 and 'at 3' in benchmark_table.render(result)


def test_the_widest_figures_fit(result):
    row = json.loads(json.dumps(rows_by_name(result)['onnxruntime', 'fp32']))
    row['name'], row['info']['precision'], row['built'] = 'onnxruntime_cuda', 'int8', True
    row |= {'open_s': 1234.5, 'gpu_mb': 12345.6, 'rss_mb': 12345.6, 'labels_equal': 0.99821}
    row['figures'] |= {'p50': 123.4, 'p95': 1234.5, 'p99': 1234.5, 'pairs_per_s': 999.9,
                       'cpu_ms': 123.4, 'device_ms': 123.4, 'peak_mb': 12345.6, 'watts': 123.4,
                       'joules_per_pair': 12.34}
    row['ratio'] = {'median': 12.34, 'low': 11.11, 'high': 13.33}
    wide = {**result, 'rows': [row], 'speed_reference': 'torch eager'}
    text = benchmark_table.table(wide)
    assert max(map(len, text.splitlines())) <= benchmark_table.WIDTH, text
    assert '99.821' in text and '1234 b' in text and '12.3 11.1-13.3' in text
    assert 'peak' in text and 'pair' in text
    row['figures'] |= {'scene_ms': 123.4, 'beside_ms': 123.4, 'cost_ms': 123.4}
    text = benchmark_table.render({**wide, 'every': 100_000})
    assert max(map(len, text.splitlines())) <= benchmark_table.WIDTH, text
    assert 'beside' in text and 'at 100000' in text and 'peak' not in text


@pytest.mark.parametrize('percent', [5.0, 120.0])
def test_a_busy_machine_is_told_above_the_method(result, percent):
    busy = json.loads(json.dumps(result))
    for row in busy['rows']:
        if not row['reason']:
            row['figures']['others_cpu_percent'] = percent
    assert ('NOT QUIET' in benchmark_table.render(busy)) == (percent == 120)


@pytest.mark.parametrize(('share', 'text'), [(1.0, '100'), (0.9999999, '99.999'),
                                             (0.99821, '99.821'), (None, '-')])
def test_labels_that_differ_anywhere_are_not_called_equal(share, text):
    assert benchmark_table.percent(share) == text


# Rows that fail

# The backend's name, which no engine reads here, says how the row misbehaves.
WAYWARD = """
import os, signal, sys, time
from dataclasses import replace
from rgbx_seg_ros import benchmark_child
from rgbx_seg_ros.benchmark_child import Subject

measure = Subject.round


def wayward(self, request):
    manner = self._spec['backend']
    if manner == 'dies':
        print('out of luck', file=sys.stderr, flush=True)
        os._exit(3)
    if manner == 'is killed':
        os.kill(os.getpid(), signal.SIGKILL)
    if manner == 'hangs':
        time.sleep(60)
    if manner == 'raises':
        raise MemoryError('9 TB')
    print('a library greets')
    os.system('echo a program greets')
    return measure(self, request)


def open_dummy(spec, tell):
    engine, two_graphs = opener({**spec, 'backend': 'dummy'}, tell)
    if 'engine' in spec['backend']:
        engine.device_ms = 0.25
        engine.info = replace(engine.info, backend='tensorrt', device='cuda')
    if spec['backend'] == 'new engine':
        tell('the engine of model.onnx is built: 9 s.')
    return engine, two_graphs


opener, benchmark_child._open, Subject.round = benchmark_child._open, open_dummy, wayward
raise SystemExit(benchmark_child.main())
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench over a tiny bundle whose rows misbehave in their rounds, by the backend's name."""
    write_tiny_bundle(tmp_path / 'bundle')
    rgb, aux = generate(manifest(), 2)
    np.savez(tmp_path / 'inputs.npz', rgb=rgb, aux=aux)
    (tmp_path / 'wayward_child.py').write_text(WAYWARD)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    with Bench(tmp_path / 'bundle', tmp_path / 'inputs.npz', tmp_path, 1, 30, lambda text: None,
               'wayward_child') as bench:
        yield bench


def test_rows_that_die_hang_or_run_out_of_memory_do_not_end_the_others(bench, monkeypatch):
    monkeypatch.setattr('rgbx_seg_ros.benchmark_runs.LEAST_LIMIT_S', 1.0)
    rows = [Row(name, 'fp32') for name in ('dies', 'is killed', 'hangs', 'raises', 'works')]
    bench.open(rows)
    assert [row.reason for row in rows] == [''] * 5
    bench.measure(2, 0.02)
    reasons = {row.backend: row.reason for row in rows}
    assert reasons['works'] == '' and len(rows[-1].rounds) == 2
    assert reasons['dies'] == 'its process ended with exit code 3; it last said: out of luck'
    assert 'SIGKILL' in reasons['is killed'] and 'memory' in reasons['is killed']
    assert reasons['hangs'].startswith('no answer to "round" in 1.2 s')
    assert reasons['raises'] == 'MemoryError: 9 TB'
    summary = summarize(rows, 0)
    assert [bool(row['reason']) for row in summary['rows']] == [True] * 4 + [False]
    assert summary['speed_reference'] == 'works'


def test_engines_on_a_gpu_tell_their_time_and_whether_they_were_built(bench):
    told = []
    bench._tell = told.append
    rows = [Row(name, 'fp16') for name in ('new engine', 'old engine', 'works')]
    bench.open(rows)
    bench.measure(2, 0.02)
    records = summarize(rows, 0)['rows']
    assert [row['built'] for row in records] == [True, False, None]
    assert [row['figures']['device_ms'] for row in records] == [0.25, 0.25, None]
    assert 'new engine fp16: the engine of model.onnx is built: 9 s.' in told


def test_a_row_on_a_gpu_builds_its_engine_once_and_times_the_scene_beside_the_pairs(tmp_path):
    bundle = write_scene_bundle(tmp_path / 'bundle')
    environment = {**fake_gpu.environment(tmp_path / 'gpu', '10.3'),
                   'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    runs = [run(bundle, '--backends', 'tensorrt', '--json', env=environment) for _ in range(2)]
    assert [done.returncode for done in runs] == [0, 0], runs[0].stderr
    first, second = (rows_by_name(json.loads(done.stdout))['tensorrt', 'fp32'] for done in runs)
    assert (first['built'], second['built']) == (True, False), first
    assert first['info']['embeds_aside'] and first['labels_equal'] == 1
    assert all(one['beside_ms'] > 0 for one in first['figures']['rounds'])
    assert first['figures']['device_ms'] == 1.0  # the fake driver's events are a millisecond apart
    assert 'tensorrt fp32: the engine of scene.onnx is built' in runs[0].stderr
    assert 'built' not in runs[1].stderr
    assert json.loads(runs[0].stdout)['machine']['gpu'] == 'Fake RTX A2000'


def children_of(pid):
    found = []
    for path in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = path.read_text().rpartition(')')[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != 'Z':
            found.append(int(path.parent.name))
    return found


def is_alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.mark.parametrize(('number', 'code'), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_no_process_is_left_behind(tmp_path, number, code):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    command = subprocess.Popen(
        [sys.executable, '-m', 'rgbx_seg_ros.benchmark', 'engine', str(bundle), '--backends',
         'dummy', '--seconds', '60'], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, 'TMPDIR': str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # not for jobs
    for line in command.stderr:
        if line.startswith('round 1'):
            break
    children = children_of(command.pid)
    assert len(children) == 2
    command.send_signal(number)
    output, errors = command.communicate(timeout=20)
    assert (command.returncode, output) == (code, ''), errors
    assert 'Traceback' not in errors
    deadline = time.monotonic() + 10
    while any(map(is_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_alive, children))


# Wrong input

@pytest.mark.parametrize(('arguments', 'words'), [
    (('--backends', 'abacus'), '--backends names "abacus"; expected some of tensorrt,'),
    (('--precisions', 'fp64'), '--precisions names "fp64"; expected some of fp32,'),
    (('--rounds', '0'), '--rounds is 0; expected 1 to 1000'),
    (('--seconds', 'nan'), '--seconds is nan; expected 0.01 to 3600'),
    (('--threads', '5000'), '--threads is 5000; expected 0 to '),
    (('--checkpoint', 'nowhere.safetensors'), 'nowhere.safetensors: no such file'),
    (('--bag', 'nowhere'), 'nowhere: no such bag'),
])
def test_wrong_arguments_are_one_sentence(arguments, words, tmp_path, capsys):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    assert benchmark_engine.main([str(bundle), *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


def test_a_bundle_without_any_row_is_an_error(tmp_path, capsys):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    (bundle / 'model.onnx').write_bytes(b'no graph')
    assert benchmark_engine.main([str(bundle)]) == 1
    assert 'SHA-256' in capsys.readouterr().err
