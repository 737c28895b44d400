# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Batches read ahead: the same bytes by any number of workers, sentences for what goes wrong."""

import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from loader_images import CPU, HEIGHT, WIDTH, Images, loader, mixture
from small_runs import small_config

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import AugmentConfig, DataConfig
from rgbx_seg_train.data import loader as loader_module
from rgbx_seg_train.data.loader import fitting_workers
from rgbx_seg_train.data.rendered import RenderSettings, SyntheticDataset
from rgbx_seg_train.data.sources import Mixture, open_source

DATA = DataConfig(height=HEIGHT, width=WIDTH)


def first(batches, count):
    return [next(batches) for _ in range(count)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        for array, wanted in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(array, wanted)
        assert one[3:] == other[3:]


@pytest.mark.filterwarnings('ignore:This DataLoader will create')  # more than there are cores
def test_any_number_of_workers_gives_the_same_batches_in_the_same_order():
    images = Images(corrupt=(3, 7), delay_s=0.01)  # of different speed, so that workers overtake
    expected = [mixture(images).batch(10 + 6 * k, 4) for k in range(8)]
    state = torch.get_rng_state()
    for workers in (0, 1, 3):
        with loader(images, workers=workers, max_corrupt=1.0) as batches:
            found = first(batches.batches(10, 6), 8)
        assert_same(found, expected)
        assert isinstance(found[0].rgb, np.ndarray)
    assert torch.equal(torch.get_rng_state(), state)  # a resumed run draws what it would have drawn
    assert not multiprocessing.active_children()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('loader')]


def test_every_kind_of_source_goes_to_workers_without_its_images(tmp_path):
    config = small_config(tmp_path)
    rendered = SyntheticDataset(RenderSettings(3, 2, 'thermal', HEIGHT, WIDTH), tmp_path)
    pairs = open_source(config.data.train[0], config.data)
    expected = [samples[0] for samples in (pairs, rendered)]
    mixed = Mixture([pairs, rendered], [1, 1], DATA, AugmentConfig(), 0)
    sent = pickle.dumps(mixed)
    assert len(sent) < 3 * HEIGHT * WIDTH * 5 + 4000  # two samples of reading ahead at most
    for samples, sample in zip(pickle.loads(sent)._sets, expected, strict=True):
        np.testing.assert_array_equal(samples[0].rgb, sample.rgb)


def test_a_folder_does_not_keep_its_images(tmp_path):
    config = small_config(tmp_path)
    pairs = open_source(config.data.train[0], config.data)
    assert pairs[0].rgb is not pairs[1].rgb
    before = len(pickle.dumps(pairs))
    for index in range(len(pairs)):
        pairs[index]
    assert len(pickle.dumps(pairs)) <= before + HEIGHT * WIDTH * 5


@pytest.mark.parametrize('workers', [0, 2])
def test_corrupt_samples_are_replaced_told_once_and_counted(workers):
    told = []
    with loader(Images(40, corrupt=(1, 2)), tell=told.append, workers=workers) as batches:
        drawn = first(batches.batches(0, 4), 40)
        assert len(told) == 2 and all('cannot be decoded' in sentence for sentence in told)
        assert set(batches.corrupt) == {'1.png: cannot be decoded.', '2.png: cannot be decoded.'}
        assert batches.corrupt.total() == sum(len(batch.corrupt) for batch in drawn) > 2
        assert batches.drawn == 160 + batches.corrupt.total()
    assert not {'1', '2'} & {name for batch in drawn for name in batch.names}
    assert all(len(batch.names) == 4 for batch in drawn)


def test_too_many_corrupt_samples_end_the_run_in_a_sentence_that_names_some():
    corrupt = tuple(range(0, 40, 5))
    with loader(Images(40, corrupt), tell=lambda _: None, max_corrupt=0.02) as batches, \
            pytest.raises(RgbxSegError, match='0.02') as error:
        first(batches.batches(0, 4), 300)
    assert str(error.value).count('cannot be decoded') == 3
    assert batches.drawn < 150  # as soon as it is certain


@pytest.mark.parametrize('max_corrupt, ends', [(0.0, True), (0.5, False)])
def test_the_limit_is_the_share_that_was_set(max_corrupt, ends):
    images = Images(40, corrupt=tuple(range(0, 40, 5)))
    with loader(images, tell=lambda _: None, max_corrupt=max_corrupt) as batches:
        if not ends:
            first(batches.batches(0, 4), 150)
            return
        with pytest.raises(RgbxSegError, match=r'of [12] files'):
            first(batches.batches(0, 4), 150)


def test_nothing_but_corrupt_samples_is_an_error_too():
    with loader(Images(5, corrupt=range(5)), max_corrupt=1.0) as batches, \
            pytest.raises(RgbxSegError, match='in a row'):
        next(batches.batches(0, 4))


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('error, words', [
    (RgbxSegError('a.png: holds the id 77; expected 0..8.'), r'^a.png: holds the id 77'),
    (KeyError('what'), r"KeyError: 'what'; expected")])
def test_errors_of_workers_are_one_sentence(workers, error, words):
    with loader(Images(error=error), workers=workers) as batches, \
            pytest.raises(RgbxSegError, match=words) as caught:
        next(batches.batches(0, 4))
    assert '\n' not in str(caught.value) and 'Traceback' not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_told_with_the_remedy():
    with loader(Images(error='die'), workers=1) as batches, \
            pytest.raises(RgbxSegError, match='ended: .*lower train.workers') as caught:
        next(batches.batches(0, 4))
    assert '\n' not in str(caught.value)


RUN = '''
import signal, sys, torch
from loader_images import Images, loader
if __name__ == '__main__':
    # A shell that runs the tests in the background has Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print('starts', flush=True)
    with loader(Images(), workers=1) as batches:
        drawn = batches.batches(0, 4)
        next(drawn)
        print('ready', flush=True)
        while True:
            next(drawn)
'''


def group(pgid):
    """Return the processes of a group that live."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            state, _, pgrp = (folder / 'stat').read_text().rpartition(') ')[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == pgid and state != 'Z':
            found.append(int(folder.name))
    return found


def starting(pgid):
    """Return a run's fork server, which imports for its workers, once it is in the middle of it."""
    return [pid for pid in group(pgid)
            if pid != pgid and 'libtorch' in Path(f'/proc/{pid}/maps').read_text()]


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='looks into /proc')
def test_no_process_outlives_the_run_whatever_ends_it(tmp_path, request):
    script = tmp_path / 'run.py'
    script.write_text(RUN)
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent)}
    # what SIGTERM does is the same as SIGKILL: nothing is asked of us
    ways = ('early', 'int', 'kill')
    runs = {way: subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=environment,
                                  start_new_session=True) for way in ways}
    request.addfinalizer(lambda: [os.killpg(run.pid, signal.SIGKILL) for run in runs.values()
                                  if group(run.pid)])
    assert all(run.stdout.readline() == 'starts\n' for run in runs.values())
    while not (servers := starting(runs['early'].pid)):
        assert runs['early'].poll() is None
        time.sleep(0.01)
    for pid in servers:  # most interrupts would hit it, not all
        blocked = re.search(r'SigBlk:\s*(\w+)', Path(f'/proc/{pid}/status').read_text())[1]
        assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
    os.killpg(runs['early'].pid, signal.SIGINT)
    assert all(runs[way].stdout.readline() == 'ready\n' for way in ways[1:])
    os.killpg(runs['int'].pid, signal.SIGINT)  # as a terminal does: to all of them
    runs['kill'].kill()
    errors = {way: run.communicate(timeout=60)[1] for way, run in runs.items()}
    assert all(run.returncode for run in runs.values())
    for way in ('early', 'int'):
        assert errors[way].count('Traceback') == 1  # the run's own; all others are silent
    deadline = time.monotonic() + 20
    while any(group(run.pid) for run in runs.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert {way: group(run.pid) for way, run in runs.items()} == dict.fromkeys(ways, [])


@pytest.mark.parametrize('cores, processes, free, expected', [
    (2, 1, 1 << 34, 1), (16, 1, 1 << 34, 15), (64, 1, 1 << 34, 16), (16, 4, 1 << 34, 3),
    (1, 1, 1 << 34, 0), (16, 1, 64 << 20, 0), (16, 1, 600 << 20, 7)])
def test_beside_a_gpu_cores_and_shared_memory_decide(monkeypatch, cores, processes, free,
                                                     expected):
    monkeypatch.setattr(loader_module.os, 'sched_getaffinity', lambda pid: set(range(cores)))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(free, 0, free))
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(processes))
    batch = 8 * 512 * 512 * 7
    assert fitting_workers(torch.device('cuda'), batch) == expected
    assert fitting_workers(CPU, batch) == 0


def test_settings_that_are_given_decide():
    assert loader(Images(), workers=5).workers == 5
    assert loader(Images()).workers == 0
