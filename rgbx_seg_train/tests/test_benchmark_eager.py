# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Eager torch as a row of `rgbx_benchmark engine`: what runs in the row's process."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import HEIGHT, WIDTH, small_config, use_stub

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.benchmark_child import Subject
from rgbx_seg_ros.benchmark_engine import eager_row, summarize
from rgbx_seg_ros.benchmark_inputs import generate
from rgbx_seg_ros.benchmark_runs import Row
from rgbx_seg_ros.manifest import load_bundle, save_bundle
from rgbx_seg_train.checkpoint import Progress, build_model, manifest_of, save_checkpoint
from rgbx_seg_train.torch_engine import open_eager


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A checkpoint with random weights."""
    use_stub(monkeypatch)
    config = small_config(tmp_path)
    torch.manual_seed(5)
    save_checkpoint(tmp_path / 'own.safetensors', config, 9, Progress(),
                    {'ema': build_model(config, 9).state_dict()})
    return tmp_path / 'own.safetensors'


def write_bundle(folder, checkpoint, **changes):
    """Write the bundle of a checkpoint; its graph is never read here."""
    from rgbx_seg_train.checkpoint import load_checkpoint

    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    save_bundle(folder, b'no graph', replace(manifest_of(load_checkpoint(checkpoint)),
                                             checkpoint_sha256=digest, **changes))
    return folder


def test_eager_torch_is_opened_and_timed_and_gives_the_labels_of_its_weights(tmp_path, checkpoint):
    bundle = write_bundle(tmp_path / 'bundle', checkpoint)
    manifest = load_bundle(bundle)
    rgb, aux = generate(manifest, 2)
    np.savez(tmp_path / 'inputs.npz', rgb=rgb, aux=aux)
    subject = Subject({'inputs': str(tmp_path / 'inputs.npz'), 'bundle': str(bundle),
                       'checkpoint': str(checkpoint)}, lambda answer: None)
    opened = subject.open({})
    assert opened['info']['backend'] == 'torch' and opened['info']['precision'] == 'fp32'
    assert opened['built'] is None and opened['open_s'] > 0
    assert subject.label({'file': str(tmp_path / 'labels.npy')}) == {'shape': [2, HEIGHT, WIDTH]}
    engine, _ = open_eager(checkpoint)
    labels = np.load(tmp_path / 'labels.npy')
    assert all((labels[n] == engine(rgb[n:n + 1], aux[n:n + 1])[0]).all() for n in range(2))
    times = subject.round({'seconds': 0.02})
    assert len(times['ms']) >= 3 and min(times['ms']) > 0 and times['cpu_s'] > 0

    own = eager_row(bundle, replace(manifest, checkpoint_sha256=''), checkpoint)
    own.opened, other = {**opened, 'gpu_mb': None}, Row('onnxruntime', 'fp32')
    other.opened = own.opened
    own.rounds, other.rounds = ([{**times, 'ms': [ms] * 3, 'power': {}, 'seconds': 1.0,
                                  'others_cpu_s': 0.0}] for ms in (12.0, 3.0))
    result = summarize([own, other], 0)
    assert result['speed_reference'] == 'torch eager'
    assert [row['ratio']['median'] for row in result['rows']] == [1, 4]


@pytest.mark.parametrize(('changes', 'words'), [
    ({'width': 96}, f'width is {WIDTH}; the bundle expects 96'),
    ({'family': 'shifnet'}, 'family is stub; the bundle expects shifnet')])
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, checkpoint, changes, words):
    from rgbx_seg_ros import engine_torch

    bundle = write_bundle(tmp_path / 'bundle', checkpoint, **changes)
    with pytest.raises(RgbxSegError, match=words):
        engine_torch.open_eager(Path(checkpoint), bundle)
