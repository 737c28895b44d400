# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The training loop with a two-layer network: it learns, stops, resumes, refuses."""

import math
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import Stub, log_of, small_config, use_stub

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import learner, optimization, run, validation
from rgbx_seg_train.averaging import AveragedWeights
from rgbx_seg_train.checkpoint import Progress, load_checkpoint, load_model, save_checkpoint
from rgbx_seg_train.config import TrainConfig
from rgbx_seg_train.data.sources import Mixture, open_all
from rgbx_seg_train.optimization import learning_rate_factor
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.train import main, train


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


def test_training_learns_the_person_that_both_cameras_see(tmp_path):
    config = small_config(tmp_path, 'train.steps=60', 'train.eval_every=60', 'train.save_every=60',
                          'train.lr=0.03')
    best = train(config)
    lines = log_of(config)
    losses = [line['loss'] for line in lines if 'loss' in line]
    assert len(losses) == 60
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert lines[-1]['iou']['person'] > 0.8
    assert lines[-1]['iou_night']['person'] > 0.8
    assert load_checkpoint(best).progress.best_miou == pytest.approx(lines[-1]['miou'])


def test_zero_aux_hides_a_person_only_thermal_sees(tmp_path, monkeypatch):
    batches = []
    for module in (learner, validation):
        monkeypatch.setattr(module, 'normalize',
                            lambda rgb, aux: batches.append(aux) or normalize(rgb, aux))
    train(small_config(tmp_path, 'data.zero_aux=true', 'train.steps=2', 'train.eval_every=2'))
    assert len(batches) == 3  # two steps and one validation
    assert not any(aux.any() for aux in batches)


def test_a_resumed_run_ends_with_the_very_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    whole = small_config(tmp_path, 'name=whole')
    train(whole)

    stopped = small_config(tmp_path, 'name=stopped')
    save, saved = run.save_checkpoint, []

    def save_then_die(path, *args):
        save(path, *args)
        saved.append(path.name)
        if path.name == 'last.safetensors' and len(saved) == 2:  # best, then last, in step 3
            raise KeyboardInterrupt

    monkeypatch.setattr(run, 'save_checkpoint', save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(run, 'save_checkpoint', save)
    torch.manual_seed(99)  # a new process starts from another random state
    train(stopped, resume=True)

    expected, found = (load_file(tmp_path / 'runs' / name / 'last.safetensors')
                       for name in ('whole', 'stopped'))
    assert expected.keys() == found.keys()
    assert {key.split('/')[0] for key in found} == {'model', 'ema', 'optimizer', 'rng'}
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    assert [line['step'] for line in log_of(stopped)] == [line['step'] for line in log_of(whole)]


def test_a_run_ends_in_time_with_its_schedule_complete(tmp_path):
    config = small_config(tmp_path, 'train.steps=1000000', 'train.max_minutes=0.05',
                          'train.eval_every=1000000', 'train.save_every=1000000')
    began = time.monotonic()
    train(config)
    assert time.monotonic() - began < 20
    lines = [line for line in log_of(config) if 'lr' in line]
    assert lines[-1]['progress'] > 0.9
    assert lines[-1]['lr'] < 0.2 * max(line['lr'] for line in lines)
    assert load_checkpoint(tmp_path / 'runs/small/last.safetensors').progress.step < 1000000


def test_a_loss_that_is_no_number_ends_the_run_in_a_sentence(tmp_path):
    with pytest.raises(RgbxSegError, match='loss is nan in step .*train.lr'):
        train(small_config(tmp_path, 'train.lr=1e30', 'train.clip_norm=0', 'train.warmup=0',
                           'train.steps=20', 'train.eval_every=20'))


def test_training_starts_from_the_weights_it_is_told(tmp_path):
    first = train(small_config(tmp_path, 'name=first'))
    config = small_config(tmp_path, 'name=second', f'train.init={first}', 'train.lr=0',
                          'train.ema=0', 'train.steps=1', 'train.eval_every=1')
    train(config)
    weights = load_file(tmp_path / 'runs/second/last.safetensors')
    assert torch.equal(weights['model/first.weight'], load_file(first)['ema/first.weight'])


def test_without_validation_the_best_checkpoint_is_the_last(tmp_path):
    config = small_config(tmp_path, 'data.validate=[]')
    best = load_checkpoint(train(config))
    last = load_checkpoint(tmp_path / 'runs/small/last.safetensors')
    assert best.progress.step == last.progress.step == 6
    assert torch.equal(best.weights()['last.bias'], last.weights()['last.bias'])
    assert log_of(config)[-1]['miou'] is None


def test_a_loss_at_a_stride_takes_all_pixels_in_turn(tmp_path, monkeypatch):
    targets = []

    def keep(self, logits, target, *args):
        targets.append(target)
        assert logits.shape[2:] == target.shape[1:]
        return objective(self, logits, target, *args)

    objective = run.Objective.__call__
    monkeypatch.setattr(run.Objective, '__call__', keep)
    config = small_config(tmp_path, 'loss.stride=2', 'train.steps=2')
    train(config)
    mixture = Mixture(open_all(config.data.train, config.data), [1], config.data, config.augment,
                      config.train.seed)
    for step in (0, 1):
        label = mixture.batch(step * 2, 2)[2]
        np.testing.assert_array_equal(targets[step].numpy(), label[:, step::2, step::2])


def test_bf16_trains_too(tmp_path):
    config = small_config(tmp_path, 'train.precision=bf16', 'loss.dice=0.5', 'loss.stride=2',
                          'loss.class_weights=inverse_sqrt')
    train(config)
    assert all(math.isfinite(line['loss']) for line in log_of(config) if 'loss' in line)


def command(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, 'argv', ['rgbx_train', *map(str, args)])
    code = main()
    return code, capsys.readouterr().err


def test_the_command_trains_and_neither_overwrites_nor_resumes_unasked(
        tmp_path, monkeypatch, capsys):
    config = small_config(tmp_path)
    train(config)
    path = tmp_path / 'runs' / 'small' / 'config.yaml'
    code, err = command(monkeypatch, capsys, path)
    assert code == 1 and '--resume' in err and err.count('\n') == 1
    assert command(monkeypatch, capsys, path, 'train.steps=8', '--resume')[0] == 0
    assert log_of(config)[-1]['step'] == 8
    code, err = command(monkeypatch, capsys, path, '--resume', 'data.height=64')
    assert code == 1 and 'data settings differ' in err
    assert command(monkeypatch, capsys, path, '--overwrite')[0] == 0
    code, err = command(monkeypatch, capsys, path, 'train.stesp=3')
    assert code == 1 and 'train.stesp' in err


def test_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(RgbxSegError, match='no such file'):
        train(small_config(tmp_path), resume=True)


def save_stub(tmp_path, n_outputs):
    path, weights = tmp_path / 'c.safetensors', Stub(None, n_outputs).state_dict()
    save_checkpoint(path, small_config(tmp_path), 9, Progress(), {'model': weights})
    return path


@pytest.mark.parametrize('break_it, words', [
    (lambda path: path.write_bytes(path.read_bytes()[:1000]), 'damaged'),
    (lambda path: path.write_bytes(b''), 'damaged'),
    (lambda path: path.unlink(), 'no such file'),
    (lambda path: save_file({'x': torch.zeros(1)}, path), 'no header'),
    (lambda path: save_file({'x': torch.ones(1)}, path, {'rgbx_seg': '{"format": 7}'}), 'format 7'),
    (lambda path: save_file({'x': torch.ones(1)}, path, {'rgbx_seg': '{'}), 'its header is'),
    (lambda path: save_file({'x': torch.ones(1)}, path, {'rgbx_seg': '[1]'}), 'its header is'),
    (lambda path: save_file({'x': torch.ones(1)}, path, {'rgbx_seg': '{"format": 1}'}),
     'its header is'),
])
def test_a_broken_checkpoint_is_told_in_a_sentence(tmp_path, break_it, words):
    path = save_stub(tmp_path, 9)
    break_it(path)
    with pytest.raises(RgbxSegError, match=words) as caught:
        load_checkpoint(path)
    assert '\n' not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    path = save_stub(tmp_path, 7)
    with pytest.raises(RgbxSegError, match='2 tensors do not fit .*last.bias'):
        load_model(path)


def test_a_loaded_model_has_the_averaged_weights(tmp_path):
    path = tmp_path / 'c.safetensors'
    plain, averaged = Stub(None, 9), Stub(None, 9)
    save_checkpoint(path, small_config(tmp_path), 9, Progress(),
                    {'model': plain.state_dict(), 'ema': averaged.state_dict()})
    model, checkpoint = load_model(path)
    assert torch.equal(model.first.weight, averaged.first.weight)
    assert not model.training
    assert checkpoint.config == small_config(tmp_path)


def test_averaged_weights_follow_the_recurrence():
    model = Stub(None, 2)
    averaged = AveragedWeights(model, 0.9)
    expected = model.first.weight.detach().clone()
    for step in range(50, 53):  # past the faster start: (1 + 50) / (10 + 50) = 0.85
        with torch.no_grad():
            model.first.weight.add_(1.0)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.first.weight.detach()
        averaged.update(model, step)
    torch.testing.assert_close(averaged.tensors['first.weight'], expected)
    own = model.first.weight.detach().clone()
    with averaged.applied_to(model):
        torch.testing.assert_close(model.first.weight.detach(), expected)
    assert torch.equal(model.first.weight.detach(), own)


def test_the_learning_rate_rises_then_falls_to_zero():
    for schedule in optimization.SCHEDULES:
        config = TrainConfig(schedule=schedule, warmup=0.1, poly_power=1.0)
        factors = [learning_rate_factor(n / 100, config) for n in range(101)]
        assert factors[10] == pytest.approx(1.0)
        assert factors[0] < 0.02
        assert factors[-1] < 0.001 or schedule in ('constant', 'plateau')
        assert factors[:11] == sorted(factors[:11])
        assert factors[10:] == sorted(factors[10:], reverse=True)
        assert learning_rate_factor(1.7, config) == factors[-1]
    assert learning_rate_factor(0.55, TrainConfig(warmup=0.1, poly_power=1.0)) == pytest.approx(0.5)


def test_images_are_normalized_as_imagenets():
    rgb = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)  # (1, 1, 1, 3)
    out, aux = normalize(rgb, torch.tensor([[[[51]]]], dtype=torch.uint8))
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(out.flatten().numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(aux.numpy(), np.full((1, 3, 1, 1), 0.2), rtol=1e-6)
