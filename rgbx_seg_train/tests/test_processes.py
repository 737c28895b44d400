# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Training in processes of its own: two do what one does, and a killed one goes on to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rgbx_seg_train.config_file import config_to_dict, parse_config
from rgbx_seg_train.train import train

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2',
            '--master_port', '0', '--rdzv_backend', 'c10d', '--rdzv_endpoint', 'localhost:0']
pytestmark = pytest.mark.timeout(400)
MODULE = ['-m', 'rgbx_seg_train.train']
SHARDED = [str(Path(__file__).with_name('sharded_train.py'))]


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
    """A run of SegRGB-X with everything that looks at more than one sample at a time."""
    folder = tmp_path_factory.mktemp('processes')
    return folder, {
        'name': 'one', 'out': str(folder / 'runs'),
        'model': {'family': 'segrgbx', 'preset': 'tiny',
                  'options': {'depths': [1, 1, 1, 1], 'clip': {'layers': 1, 'image_size': 32}}},
        'data': {'height': 32, 'width': 64, 'cache': str(folder / 'cache'),
                 'train': [{'kind': 'synthetic', 'count': 6},
                           {'kind': 'synthetic', 'first_seed': 6, 'count': 6, 'modality': 'event'}],
                 'validate': [{'kind': 'synthetic', 'first_seed': 100, 'count': 3}]},
        'loss': {'class_weights': 'inverse_sqrt', 'dice': 0.5},
        'train': {'steps': 4, 'batch_size': 4, 'lr': 3e-4, 'ema': 0.9, 'log_every': 1,
                  'eval_every': 4, 'save_every': 2, 'threads': 1, 'warmup': 0.0},
    }


@pytest.fixture(scope='module')
def one(settings):
    """What one process with the whole batch does."""
    folder, data = settings
    train(parse_config(data))
    return lines(folder, 'one'), load_file(folder / 'runs/one/last.safetensors')


def lines(folder, name):
    text = (folder / 'runs' / name / 'log.jsonl').read_text(encoding='utf-8')
    return [json.loads(line) for line in text.splitlines()]


def launch(settings, launcher, name, *overrides):
    folder, data = settings
    path = folder / 'config.yaml'
    path.write_text(yaml.safe_dump(config_to_dict(parse_config(data))))
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    done = subprocess.run([*launcher, str(path), f'name={name}', *overrides], timeout=300,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return lines(folder, name), load_file(folder / 'runs' / name / 'last.safetensors')


def assert_same_losses(found, expected):
    for one, other in zip(expected, found, strict=True):
        assert one['step'] == other['step']
        for name in one:
            if name == 'gradient' or name.startswith('loss'):
                assert other[name] == pytest.approx(one[name], rel=1e-5 if name == 'loss' else 1e-4)
    assert found[-1]['miou'] == pytest.approx(expected[-1]['miou'], abs=1e-3)


def test_two_processes_have_the_loss_of_one_with_the_doubled_batch(settings, one):
    found, _ = launch(settings, [*TORCHRUN, *MODULE], 'two', 'train.batch_size=2')
    assert_same_losses(found, one[0])


def test_two_processes_distill_as_one_does_and_remember_the_same_prototypes(settings):
    folder, data = settings
    hiera = {'dim': 8, 'depths': [1, 1, 2, 1], 'global_blocks': [3]}
    options = {'hiera': hiera, 'width': 32, 'rank': 2, 'decoder_hidden': 32, 'decoder_layers': 1}
    run = {**data, 'name': 'distilled', 'train': {**data['train'], 'steps': 2, 'eval_every': 2},
           'model': {'family': 'sartm', 'preset': 'tiny', 'options': options}}
    train(parse_config(run))
    expected = lines(folder, 'distilled')
    assert {'loss_aux', 'loss_prototype', 'loss_text'} < expected[0].keys()
    found, weights = launch((folder, run), [*TORCHRUN, *MODULE], 'two_distilled',
                            'train.batch_size=2')
    assert_same_losses(found, expected)
    prototypes, remembered = (file['model/distillation.prototypes'] for file in (
        load_file(folder / 'runs/distilled/last.safetensors'), weights))
    assert prototypes.ne(0).any(1).sum() > 3
    torch.testing.assert_close(remembered, prototypes, atol=1e-4, rtol=1e-3)


def test_accumulated_batches_have_the_loss_of_one_large_batch_where_no_norm_looks_at_it(settings):
    folder, data = settings
    losses = []
    for name, batch, parts in (('large', 4, 1), ('parts', 2, 2)):
        config = parse_config({**data, 'name': name, 'loss': {'class_weights': 'inverse_sqrt'},
                               'train': {**data['train'], 'steps': 1, 'batch_size': batch,
                                         'accumulate': parts}})
        with_frozen_norms(config)
        losses.append([(line['loss'], line['gradient']) for line in lines(folder, name)
                       if 'gradient' in line])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def with_frozen_norms(config):
    from rgbx_seg_train import run as module

    build = module.build_model

    def frozen(*args):
        model = build(*args)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.eval()
                part.train = lambda mode=True, part=part: part
        return model

    module.build_model = frozen
    try:
        train(config)
    finally:
        module.build_model = build


def test_weights_dealt_out_by_fsdp_learn_the_same_and_resume(settings):
    folder, data = settings
    options = data['model']['options']
    # FSDP wants gradients of the same weights in all processes: no LoRA of some samples' modality.
    model = {**data['model'], 'options': {**options, 'clip': {**options['clip'], 'frozen': True}}}
    constant = {**data, 'model': model, 'train': {**data['train'], 'schedule': 'constant'}}
    train(parse_config({**constant, 'name': 'frozen'}))
    shards, launcher = (folder, constant), [*TORCHRUN, *SHARDED]
    launch(shards, launcher, 'sharded', 'train.batch_size=2', 'train.steps=2')
    found, weights = launch(shards, launcher, 'sharded', 'train.batch_size=2', '--resume')
    assert_same_losses(found[:2] + found[3:], lines(folder, 'frozen'))
    expected = load_file(folder / 'runs/frozen/last.safetensors')
    assert {key: tensor.shape for key, tensor in weights.items() if key[:3] != 'rng'} == {
        key: tensor.shape for key, tensor in expected.items() if key[:3] != 'rng'}


def test_a_run_killed_at_any_moment_ends_with_the_very_weights_of_an_uninterrupted_one(settings):
    folder, data = settings
    longer = {**data, 'train': {**data['train'], 'steps': 9, 'save_every': 3, 'eval_every': 4}}
    train(parse_config({**longer, 'name': 'whole'}))
    path = folder / 'killed.yaml'
    path.write_text(yaml.safe_dump({**longer, 'name': 'killed'}))
    command = [sys.executable, *MODULE, str(path)]
    log = folder / 'runs/killed/log.jsonl'
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, 'OMP_NUM_THREADS': '1'})
    deadline = time.monotonic() + 120
    while not (log.is_file() and '"step": 5' in log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert max(line['step'] for line in lines(folder, 'killed')) < 9
    subprocess.run([*command, '--resume'], check=True, timeout=200, capture_output=True,
                   env={**os.environ, 'OMP_NUM_THREADS': '1'})
    expected, found = (load_file(folder / f'runs/{name}/last.safetensors')
                       for name in ('whole', 'killed'))
    assert expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    of = [[(line['step'], line.get('loss'), line.get('miou')) for line in lines(folder, name)]
          for name in ('whole', 'killed')]
    assert of[0] == of[1]
    assert not list((folder / 'runs/killed').glob('.*'))
