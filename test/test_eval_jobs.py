# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import csv
import importlib.util
import json
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from bags import write_bag
from bundles import write_tiny_bundle

from rgbx_seg_ros import RgbxSegError, __version__, eval_jobs
from rgbx_seg_ros.eval_bag import main
from rgbx_seg_ros.eval_jobs import Died, Opened, open_pool
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_tasks import BAGS, Task, locked

BUNDLES = [{'name': 'tiny', 'backend': 'dummy', 'backend_version': '1', 'device': 'cpu',
            'precision': 'fp32'}]


def never(*_):
    raise AssertionError('nothing was to be told')


class FakeSlot:
    """A slot whose bags end, or which dies, as their names say; `log` has who began what."""

    def __init__(self, log, opened=None):
        self.log, self.task, self.ended = log, None, False
        self.waiting = [('opened', opened or Opened(BUNDLES, 'here', __version__))]

    def start(self, task):
        assert self.task is None and not self.ended
        self.task = task
        self.log.append((id(self), task.name))

    def news(self):
        news, self.waiting = self.waiting, []
        if self.task is not None and not news:
            task, self.task = self.task, None
            if task.name.startswith('deadly'):
                raise Died('gone.')
            reason = 'no pairs.' if task.name.startswith('bad') else ''
            news = [('pairs', task.expected), ('ended', reason)]
        return news

    def end(self):
        self.ended = True


def tasks(*names):
    return [Task(Path('/bags') / name, name, 'key', Path('/out/bags') / name, expected)
            for name, expected in names]


@pytest.fixture
def slots(monkeypatch):
    """Return a pool of two fake slots, and all that were ever started."""
    started, log = [], []

    def start():
        started.append(FakeSlot(log))
        return started[-1]

    monkeypatch.setattr(eval_jobs, 'LOOK_S', 0.0)
    return eval_jobs._Slots(start, 2, never), started, log


def test_the_longest_bag_comes_first_and_every_bag_once(slots):
    pool, started, log = slots
    heard = []
    with pool:
        assert pool.bundles == BUNDLES
        failed = pool.run(tasks(('a', 5), ('b', 50), ('c', 20), ('d', 1)),
                          lambda name, pairs: heard.append((name, pairs)))
    assert failed == {} and [name for _, name in log] == ['b', 'c', 'a', 'd']
    assert set(heard) == {('a', 5), ('b', 50), ('c', 20), ('d', 1)}
    assert len(started) == 2 and all(slot.ended for slot in started)


def test_a_bag_that_fails_or_kills_its_process_does_not_stop_the_others(slots):
    pool, started, log = slots
    heard = []
    with pool:
        failed = pool.run(tasks(('deadly1', 9), ('bad', 8), ('deadly2', 7), ('good', 6)),
                          lambda name, pairs: heard.append((name, pairs)))
    assert failed == {'deadly1': '/bags/deadly1: gone.', 'bad': 'no pairs.',
                      'deadly2': '/bags/deadly2: gone.'}
    assert log[-1][1] == 'good' and 3 <= len(started) <= 4
    assert all(slot.ended for slot in started)
    assert set(heard) == {('deadly1', 9), ('bad', 8), ('deadly2', 7), ('good', 6)}


def test_no_more_slots_are_started_than_there_are_bags(slots):
    pool, started, _ = slots
    with pool:
        pool.run(tasks(('only', 3)), lambda *_: None)
    assert len(started) == 1


@pytest.mark.parametrize('opened, words', [
    (Opened([{**BUNDLES[0], 'backend': 'openvino'}], 'robot7', __version__),
     'robot7 runs tiny by openvino 1 cpu fp32, others by dummy'),
    (Opened(BUNDLES, 'robot7', '0.0.1'), 'robot7 has rgbx_seg 0.0.1')])
def test_a_machine_with_another_engine_or_version_evaluates_nothing(monkeypatch, opened, words):
    monkeypatch.setattr(eval_jobs, 'LOOK_S', 0.0)
    log = []
    slots = iter([FakeSlot(log), FakeSlot(log, opened)])
    with eval_jobs._Slots(lambda: next(slots), 2, never) as pool:
        failed = pool.run(tasks(('a', 2), ('b', 1)), lambda *_: None)
    assert list(failed) == ['b'] and words in failed['b']


def test_engines_that_cannot_be_opened_are_told_before_any_bag(monkeypatch):
    slot = FakeSlot([])
    slot.waiting = [('refused', 'no backend works.')]
    with pytest.raises(RgbxSegError, match='no backend works'), \
            eval_jobs._Slots(lambda: slot, 2, never):
        pass
    assert slot.ended


@pytest.fixture(scope='module')
def bags(tmp_path_factory):
    """Three bags and a bundle."""
    folder = tmp_path_factory.mktemp('jobs')
    for name, pairs in (('a', 8), ('b', 16), ('c', 4)):
        write_bag(folder / 'bags' / name, pairs, labels=True)
    write_tiny_bundle(folder / 'bundle')
    write_tiny_bundle(folder / 'other')
    return folder


def evaluate(bags, out, *more):
    return main([str(bags / 'bags'), '--bundle', str(bags / 'bundle'), '--bundle',
                 str(bags / 'other'), '--out', str(out), '--no-video', '--pictures', '1',
                 '--backend', 'onnxruntime', *more])


def numbers(out):
    """Return what must not depend on the way: report and table without times."""
    report = json.loads((out / 'report.json').read_text())
    with (out / 'frames.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name in ('decode_ms', 'thermal_ms', 'registration_ms', 'resize_ms', 'engine_ms'):
            del row[name]
    return {name: value for name, value in report.items()
            if name not in ('timing', 'versions')}, rows


@pytest.fixture(scope='module')
def alone(bags, tmp_path_factory):
    """Return the numbers of one process."""
    out = tmp_path_factory.mktemp('alone') / 'out'
    assert evaluate(bags, out) == 0
    return numbers(out)


def test_two_processes_give_the_numbers_of_one(bags, alone, tmp_path):
    assert evaluate(bags, tmp_path / 'out', '--jobs', '2') == 0
    report, rows = numbers(tmp_path / 'out')
    assert report == alone[0] and rows == alone[1]
    assert len(rows) == 2 * (8 + 16 + 4) and report['scores'][0]['scored'] == 28


@pytest.mark.skipif(importlib.util.find_spec('ray') is None,
                    reason='Ray is not installed; `pip install ray` brings it.')
def test_ray_gives_the_numbers_of_one_process_and_tells_nobody(bags, alone, tmp_path, capfd):
    assert evaluate(bags, tmp_path / 'out', '--cluster', 'local', '--jobs', '2') == 0
    assert numbers(tmp_path / 'out') == alone
    assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'
    import ray
    from ray._common import usage

    assert not ray.is_initialized()
    assert usage.usage_lib.usage_stats_enabled() is False
    assert 'ashboard' not in capfd.readouterr().err


def test_a_cluster_that_is_not_there_is_one_sentence(bags, tmp_path, capsys):
    if importlib.util.find_spec('ray') is None:
        pytest.skip('Ray is not installed; `pip install ray` brings it.')
    assert evaluate(bags, tmp_path / 'out', '--cluster', 'nonsense://x:1') == 1
    assert 'cannot be reached' in capsys.readouterr().err


def test_a_cluster_without_ray_is_one_sentence(bags, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'ray', None)
    assert evaluate(bags, tmp_path / 'out', '--cluster', 'local') == 1
    assert 'ray[client]' in capsys.readouterr().err


def test_a_process_that_is_killed_fails_its_bag_alone(bags, tmp_path):
    write_bag(tmp_path / 'long', 250)
    settings = EvalSettings((bags / 'bundle',), **node_settings(None, {'backend': 'onnxruntime'}),
                            pictures=0, video=False, ablate_every=0)
    (tmp_path / 'out').mkdir()
    killed = threading.Event()
    with locked(tmp_path / 'out') as token, open_pool(settings, 2, '', print) as pool:
        def done(name, pairs):
            if name == 'long' and not killed.is_set():
                killed.set()
                busy = next(slot for slot, task in pool._busy.items() if task.name == 'long')
                os.kill(busy._process.pid, signal.SIGKILL)

        given = [Task(bag, bag.name, 'key', tmp_path / 'out' / BAGS / bag.name, pairs, token)
                 for bag, pairs in ((tmp_path / 'long', 250), (bags / 'bags/a', 8),
                                    (bags / 'bags/b', 16))]
        failed = pool.run(given, done)
    assert list(failed) == ['long'] and 'killed, as the system does' in failed['long']
    assert 'fewer --jobs' in failed['long'] and '\n' not in failed['long']
    assert sorted(path.name for path in (tmp_path / 'out' / BAGS).iterdir()) == ['a', 'b']


def test_processes_end_with_the_pool_even_while_they_are_busy(bags, tmp_path):
    write_bag(tmp_path / 'long', 250)
    settings = EvalSettings((bags / 'bundle',), **node_settings(None, {'backend': 'onnxruntime'}),
                            pictures=0, video=False)
    (tmp_path / 'out').mkdir()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), locked(tmp_path / 'out') as token, \
            open_pool(settings, 2, '', print) as pool:
        processes = [slot._process for slot in pool._slots]
        pool.run([Task(tmp_path / 'long', 'long', 'key', tmp_path / 'out' / BAGS / 'long', 250,
                       token)], stop)
    assert not any(process.is_alive() for process in processes)
    assert list((tmp_path / 'out' / BAGS).iterdir()) == []


def test_other_storage_is_told_by_the_machine_that_lacks_it(bags, tmp_path):
    (tmp_path / 'out').mkdir()
    with locked(tmp_path / 'out') as token:
        for bag, held, words in ((bags / 'bags/a', 'another', f'not see {tmp_path / "out"}'),
                                 (tmp_path / 'nothing', token, 'not see .*nothing')):
            task = Task(bag, 'a', 'key', tmp_path / 'out' / BAGS / 'a', 8, held)
            with pytest.raises(RgbxSegError, match=words):
                eval_jobs.check_storage(task)


class CountingEvaluator:
    """Stands for engines that count how often they were opened, and bags between."""

    opened, bundles = 0, BUNDLES

    def __init__(self, settings, tell):
        type(self).opened += 1

    def __call__(self, bag, name, key, folder, done):
        return self.opened

    def close(self):
        pass


@pytest.mark.parametrize('backend, opened', [('openvino', [1, 2, 3]), ('onnxruntime', [1, 1, 1])])
def test_engines_that_remember_are_opened_anew_for_each_bag(monkeypatch, backend, opened):
    # OpenVINO on several threads gives other confidences in another call; from the start it gives
    # the same ones again, so that a bag's numbers do not depend on the bags before it.
    monkeypatch.setattr(eval_jobs, 'Evaluator', CountingEvaluator)
    monkeypatch.setattr(CountingEvaluator, 'opened', 0)
    monkeypatch.setattr(CountingEvaluator, 'bundles', [{**BUNDLES[0], 'backend': backend}])
    with eval_jobs.Engines(None, never) as engines:
        assert [engines(task, Path('/out'), never) for task in
                tasks(('a', 1), ('b', 1), ('c', 1))] == opened


@pytest.mark.parametrize('error, words, traces', [
    (OSError(28, 'No space left on device'), 'expected room on the disk', 0),
    (MemoryError(), 'and memory', 0), (KeyError('x'), 'a fault of rgbx_seg', 1),
    (RgbxSegError('the bag is short.'), '^the bag is short.$', 0)])
def test_whatever_breaks_a_bag_becomes_one_sentence(tmp_path, error, words, traces):
    told = []
    (tmp_path / 'out').mkdir()
    (tmp_path / 'bag').mkdir()
    with locked(tmp_path / 'out') as token:
        def broken(*_):
            raise error

        task = Task(tmp_path / 'bag', 'bag', 'k', tmp_path / 'out' / BAGS / 'bag', 1, token)
        reason = eval_jobs.attempt(broken, task, told.append, lambda pairs: None)
        assert list((tmp_path / 'out' / BAGS).iterdir()) == []
    assert re.search(words, reason) and '\n' not in reason and len(told) == traces


def test_news_of_pairs_is_sparing():
    sent = []
    done = eval_jobs._sparing(sent.append)
    began = time.monotonic()
    while time.monotonic() - began < 0.25:
        done(len(sent))
    assert 2 <= len(sent) <= 4
