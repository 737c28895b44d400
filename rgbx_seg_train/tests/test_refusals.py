# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a run refuses, before it starts or before it spoils anything, with a two-layer network."""

import math

import cv2
import numpy as np
import pytest
import torch
from small_runs import Stub, log_of, small_config, use_stub, write_folder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import learner
from rgbx_seg_train.checkpoint import load_checkpoint
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.train import train


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


def test_the_batch_behind_a_loss_that_is_no_number_is_kept_and_the_weights_are_not_spoiled(
        tmp_path, monkeypatch):
    config = small_config(tmp_path)
    learn, weights = learner.Learner._learn, []

    def diverge(self, batch, *args):
        loss = learn(self, batch, *args)
        weights.append({k: v.clone() for k, v in self.model.state_dict().items() if 'num' not in k})
        batch.rgb[:] = 7
        return loss * (math.nan if len(weights) == 4 else 1)

    monkeypatch.setattr(learner.Learner, '_learn', diverge)
    monkeypatch.setattr(learner.AveragedWeights, 'update',
                        lambda self, model, step: weights[-1].update(after=step))
    with pytest.raises(RgbxSegError, match=r'loss is nan in step 4.*not_finite\.npz'):
        train(config)
    assert 'after' in weights[2] and 'after' not in weights[3]
    with np.load(tmp_path / 'runs/small/not_finite.npz', allow_pickle=False) as saved:
        assert saved['step'] == 4
        assert (saved['rgb'] == 7).all() and saved['rgb'].shape == (2, 32, 48, 3)
        assert saved['label'].shape == (2, 32, 48) and len(saved['names']) == 2
        assert set(saved['modality']) == {'thermal'}


class NoNumber(torch.autograd.Function):
    """The identity, whose gradient is none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize('clip_norm', [0, 1])
def test_a_gradient_that_is_no_number_ends_the_run_before_it_spoils_a_weight(
        tmp_path, monkeypatch, clip_norm):
    forward, images = Stub.forward, []

    def spoil(self, rgb, *args, **kwargs):
        logits = forward(self, rgb, *args, **kwargs)
        if self.training:
            images.append(rgb)
        return NoNumber.apply(logits) if len(images) == 4 else logits

    monkeypatch.setattr(Stub, 'forward', spoil)
    config = small_config(tmp_path, f'train.clip_norm={clip_norm}', 'train.save_every=1')
    with pytest.raises(RgbxSegError, match=r'gradient is nan in step 4.*not_finite\.npz'):
        train(config)
    assert load_checkpoint(tmp_path / 'runs/small/last.safetensors').progress.step == 3
    assert all('gradient' in line for line in log_of(config) if 'loss' in line)
    with np.load(tmp_path / 'runs/small/not_finite.npz', allow_pickle=False) as saved:
        assert saved['step'] == 4
        rgb, _ = normalize(*(torch.from_numpy(saved[name]) for name in ('rgb', 'aux')))
    assert torch.equal(rgb, images[3])


def test_fp16_without_a_gpu_is_refused_before_anything_loads(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    with pytest.raises(RgbxSegError, match='fp16, but there is no GPU'):
        train(small_config(tmp_path, 'train.precision=fp16', 'data.train.0.root=/nowhere'))


@pytest.mark.parametrize('overrides, told', [
    (('train.schedule=plateau', 'data.validate=[]'), 'plateau, and data.validate names no source'),
    (('data.unlabeled=[{kind: synthetic}]',), 'distill.teacher is empty'),
])
def test_settings_without_effect_are_refused_before_anything_loads(tmp_path, overrides, told):
    config = small_config(tmp_path, *overrides, 'data.train.0.root=/nowhere')  # but it is read
    with pytest.raises(RgbxSegError, match=told):
        train(config)


def test_text_for_a_network_that_reads_none_is_refused(tmp_path):
    with pytest.raises(RgbxSegError, match='class_embeddings .* reads no text'):
        train(small_config(tmp_path, 'train.class_embeddings=x.safetensors'))


def test_a_corrupt_image_in_the_middle_is_named_counted_and_skipped(tmp_path, capsys):
    root = write_folder(tmp_path / 'images', names=[f'{n:05}D' for n in range(12)])
    (root / 'rgb/00004D.png').write_bytes(b'no image')
    config = small_config(tmp_path, 'train.max_corrupt=0.5', 'train.steps=20', 'data.validate=[]')
    train(config)
    told = ''.join(capsys.readouterr())
    assert told.count('00004D.png') == 1 and 'cannot be decoded' in told
    assert log_of(config)[-2]['corrupt'] == 1
    assert '1 corrupt samples skipped' in told


def test_too_many_corrupt_images_end_the_run(tmp_path):
    root = write_folder(tmp_path / 'images', names=[f'{n:05}D' for n in range(12)])
    for n in range(3, 12):
        (root / f'thermal/{n:05}D.png').write_bytes(b'no image')
    with pytest.raises(RgbxSegError, match='at most'):
        train(small_config(tmp_path, 'train.steps=50', 'data.validate=[]'))


def spoiled_validation(tmp_path, count):
    root = write_folder(tmp_path / 'validation', names=[f'{n:05}D' for n in range(6)])
    for n in range(count):
        (root / f'thermal/{n:05}D.png').write_bytes(b'no image')
    return f'data.validate=[{{kind: folder, root: {root}}}]'


def test_corrupt_images_of_the_validation_are_told_and_counted(tmp_path, capsys):
    config = small_config(tmp_path, spoiled_validation(tmp_path, 2))
    train(config)
    assert [line['val_corrupt'] for line in log_of(config) if 'miou' in line] == [2, 2]
    assert '00001D.png' in ''.join(capsys.readouterr())


@pytest.mark.parametrize('count, overrides', [
    (6, ()), (3, ()), (6, ('train.max_corrupt=0.9',)), (1, ('train.max_corrupt=0',))])
def test_too_many_corrupt_images_of_the_validation_end_the_run(tmp_path, count, overrides):
    with pytest.raises(RgbxSegError, match=f'{count} of 6 samples of data.validate .*00000D.png'):
        train(small_config(tmp_path, spoiled_validation(tmp_path, count), *overrides))
    assert not (tmp_path / 'runs/small/best.safetensors').exists()


def test_a_strange_label_ends_the_run_before_the_first_step(tmp_path):
    root = write_folder(tmp_path / 'images', names=[f'{n:05}D' for n in range(12)])
    cv2.imwrite(str(root / 'label/00011D.png'), np.full((32, 48), 77, np.uint8))
    with pytest.raises(RgbxSegError, match='00011D.png.* 77'):
        train(small_config(tmp_path))
    assert not (tmp_path / 'runs').exists()


def test_weights_of_another_family_are_refused_before_the_first_step(tmp_path):
    first = train(small_config(tmp_path, 'name=first'))
    with pytest.raises(RgbxSegError, match='is of the family stub, the model of segrgbx'):
        train(small_config(tmp_path, f'train.init={first}', 'model.family=segrgbx',
                           'model.preset=tiny', 'model.options={clip: null}'))
