# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a run keeps, counts and writes down, with a two-layer network."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import Stub, log_of, small_config, use_stub
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import learner, run
from rgbx_seg_train.checkpoint import load_checkpoint
from rgbx_seg_train.config import TrainConfig
from rgbx_seg_train.models import FAMILIES, Family
from rgbx_seg_train.models.family import Outputs
from rgbx_seg_train.optimization import Plateau, make_optimizer
from rgbx_seg_train.train import train


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


def test_a_checkpoint_tells_configuration_step_versions_and_scores(tmp_path):
    config = small_config(tmp_path)
    train(config)
    path = tmp_path / 'runs/small/last.safetensors'
    checkpoint = load_checkpoint(path)
    assert checkpoint.config == config
    assert (checkpoint.progress.step, checkpoint.progress.samples) == (6, 12)
    assert checkpoint.metrics['miou'] == log_of(config)[-1]['miou']
    header = json.loads(_metadata(path)['rgbx_seg'])
    assert header['versions']['torch'] == torch.__version__
    assert {'rgbx_seg_train', 'numpy', 'transformers', 'python'} <= header['versions'].keys()


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, 'pt') as file:
        return file.metadata()


def test_as_many_of_the_latest_checkpoints_are_kept_as_asked(tmp_path):
    train(small_config(tmp_path, 'train.keep_last=2', 'train.save_every=1'))
    folder = tmp_path / 'runs/small'
    kept = sorted(path.name for path in folder.glob('*.safetensors'))
    assert kept == ['best.safetensors', 'last.safetensors', 'step_00000005.safetensors',
                    'step_00000006.safetensors']
    last, sixth = (load_file(folder / name) for name in (kept[1], kept[3]))
    assert all(torch.equal(last[key], sixth[key]) for key in last)


def test_a_run_that_replaces_another_leaves_nothing_of_it(tmp_path, monkeypatch):
    train(small_config(tmp_path, 'train.keep_last=2', 'train.save_every=2', 'train.steps=8'))
    folder = tmp_path / 'runs/small'
    (folder / learner.DIVERGED).write_bytes(b'of the earlier run')
    (folder / 'start.safetensors').write_bytes(b'of nobody')
    step, config = run.Run.step, small_config(tmp_path, 'train.lr=0.5')
    monkeypatch.setattr(run.Run, 'step', lambda self, batches: step(self, batches) or interrupt())
    with pytest.raises(KeyboardInterrupt):
        train(config)
    left = [path.name for path in folder.iterdir() if path.suffix in ('.safetensors', '.npz')]
    assert left == ['start.safetensors']
    with pytest.raises(RgbxSegError, match='no such file'):  # nothing of this run was saved yet
        train(config, resume=True)


def interrupt():
    raise KeyboardInterrupt


def test_data_that_cannot_be_opened_leave_the_run_that_was_to_be_replaced(tmp_path):
    best = train(small_config(tmp_path))
    with pytest.raises(RgbxSegError):
        train(small_config(tmp_path, 'data.train.0.root=/nowhere'))
    assert load_checkpoint(best).progress.step


def test_time_that_is_up_during_a_save_does_not_skip_the_last_validation(tmp_path, monkeypatch):
    save, late_s = run.Run.save, []
    monkeypatch.setattr(run, 'time', SimpleNamespace(
        monotonic=lambda: time.monotonic() + sum(late_s)))
    monkeypatch.setattr(run.Run, 'save', lambda self: (save(self), late_s.append(61)))
    config = small_config(tmp_path, 'train.max_minutes=1', 'train.steps=1000',
                          'train.eval_every=1000', 'train.save_every=2')
    assert load_checkpoint(train(config)).progress.step == 3
    assert [line['step'] for line in log_of(config) if 'miou' in line] == [3]


def test_epochs_count_passes_over_all_samples(tmp_path):
    config = small_config(tmp_path, 'train.epochs=2.5', 'train.eval_every=0',
                          'train.save_every=0', 'data.sampling=concatenated')
    train(config)  # 4 samples, 2 a step
    lines = log_of(config)
    assert [line['step'] for line in lines if 'miou' in line] == [2, 4, 5]


def test_accumulated_batches_take_the_samples_of_one_large_batch(tmp_path, monkeypatch):
    names = {}
    learn = learner.Learner._learn

    def keep(self, batch, *args):
        names.setdefault(self.config.name, []).extend(batch.names)
        return learn(self, batch, *args)

    monkeypatch.setattr(learner.Learner, '_learn', keep)
    for name, size, parts in (('large', 4, 1), ('parts', 2, 2), ('single', 1, 4)):
        train(small_config(tmp_path, f'name={name}', f'train.batch_size={size}',
                           f'train.accumulate={parts}', 'train.steps=3'))
    assert names['large'] == names['parts'] == names['single']
    assert len(names['large']) == 12


def test_a_resumed_run_goes_on_with_the_next_samples_when_its_batches_change(tmp_path, monkeypatch):
    names = []
    learn = learner.Learner._learn
    monkeypatch.setattr(learner.Learner, '_learn', lambda self, batch, *args: (
        names.extend(batch.names), learn(self, batch, *args))[1])
    train(small_config(tmp_path, 'name=through', 'train.steps=6'))
    through, names[:] = list(names), []
    train(small_config(tmp_path, 'train.steps=3'))
    train(small_config(tmp_path, 'train.steps=5', 'train.batch_size=3'), resume=True)
    assert names == through


def test_tensorboard_shows_what_the_log_holds_and_pictures(tmp_path):
    config = small_config(tmp_path)
    train(config)
    board = EventAccumulator(str(tmp_path / 'runs/small/tensorboard'))
    board.Reload()
    losses = [line['loss'] for line in log_of(config) if 'loss' in line]
    assert [event.value for event in board.Scalars('loss')] == pytest.approx(losses)
    assert [event.step for event in board.Scalars('miou')] == [3, 6]
    assert board.Scalars('iou/person')
    assert board.Images('validation/0')[0].width > 4 * 48 - 8


def test_the_rate_falls_on_a_plateau_as_torchs_own_scheduler_has_it():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.8, patience=4)
    plateau, config = Plateau(), TrainConfig(plateau_factor=0.8, plateau_patience=4)
    rng = np.random.default_rng(0)
    for step in range(200):
        loss = math.nan if step == 50 else 1 / (1 + min(step, 20)) + 0.3 * rng.random()
        plateau.update(loss, config)
        oracle.step(loss)
        assert plateau.factor == pytest.approx(optimizer.param_groups[0]['lr'])
    assert plateau.factor < 0.1


def test_a_run_on_a_plateau_remembers_it_when_it_resumes(tmp_path):
    overrides = ('train.schedule=plateau', 'train.plateau_patience=0', 'train.lr=0',
                 'train.eval_every=1', 'train.save_every=2', 'train.warmup=0', 'train.ema=0')
    train(small_config(tmp_path, *overrides, 'train.steps=4'))
    found = load_checkpoint(tmp_path / 'runs/small/last.safetensors').progress.plateau
    # BatchNorm's statistics still move, so the loss may fall a little for a while.
    assert found['factor'] in [pytest.approx(0.8 ** n) for n in range(5)]
    config = small_config(tmp_path, *overrides, 'train.steps=6')
    train(config, resume=True)
    whole = small_config(tmp_path, *overrides, 'train.steps=6', 'name=whole')
    train(whole)
    expected = load_checkpoint(tmp_path / 'runs/whole/last.safetensors').progress.plateau
    assert load_checkpoint(tmp_path / 'runs/small/last.safetensors').progress.plateau == expected


def test_vectors_do_not_decay_and_a_frozen_model_is_refused():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    decay = [group['weight_decay'] for group in make_optimizer(model, TrainConfig()).param_groups]
    assert decay == [0.01, 0.0]
    assert make_optimizer(model, TrainConfig(optimizer='adam')).__class__ is torch.optim.Adam
    with pytest.raises(RgbxSegError, match='no weights that are trained'):
        make_optimizer(model.requires_grad_(False), TrainConfig())


def test_only_algorithms_that_repeat_are_used_where_that_is_asked(tmp_path):
    assert not torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        train(small_config(tmp_path, 'train.deterministic=true', 'train.steps=1'))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


COMPILED = '''
import sys
from pathlib import Path
import torch
from accelerate.state import AcceleratorState
from small_runs import Stub, small_config
from rgbx_seg_train.models import FAMILIES, Family
from rgbx_seg_train.train import train
FAMILIES['stub'] = Family(type(None), {'tiny': None}, Stub)
torch.nn.functional.dropout = lambda x, *args: x  # compiled code draws its own random numbers
for name in ('plain', 'compiled'):
    train(small_config(Path(sys.argv[1]), f'name={name}', f'train.compile={name == "compiled"}',
                       'train.steps=2', 'train.eval_every=2'))
    AcceleratorState._reset_state(True)
assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 0
'''


def test_a_compiled_network_learns_the_same(tmp_path):
    # In a process of its own: torch's compiler starts others, which disturb those of the tests.
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent), 'OMP_NUM_THREADS': '1'}
    subprocess.run([sys.executable, '-c', COMPILED, str(tmp_path)], check=True, timeout=250,
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    plain, compiled = (load_file(tmp_path / f'runs/{name}/last.safetensors')
                       for name in ('plain', 'compiled'))
    assert plain.keys() == compiled.keys()
    losses = [[line['loss'] for line in map(json.loads, (
        tmp_path / f'runs/{name}/log.jsonl').read_text().splitlines()) if 'loss' in line]
        for name in ('plain', 'compiled')]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


class Advised(Stub):
    """A network with a second head and a further term, as some families have them."""

    sees_target = True
    loss_weights = {'second': 0.5, 'size': 0.25}

    def __init__(self, config, n_classes):
        super().__init__(config, n_classes)
        self.second = torch.nn.Conv2d(6, n_classes, 1)

    def forward(self, rgb, aux, modality=None, stride=1, target=None):
        logits = super().forward(rgb, aux, modality, stride)
        if target is None:
            return logits
        assert target.shape == (len(rgb), *logits.shape[2:]) and target.dtype == torch.int64
        other = self.second(torch.cat([rgb, aux], 1))[:, :, ::stride, ::stride]
        return Outputs(logits, {'second': other}, {'size': logits.square().mean()})


def test_the_further_losses_of_a_family_are_weighted_added_and_logged(tmp_path, monkeypatch):
    monkeypatch.setitem(FAMILIES, 'stub', Family(type(None), {'tiny': None}, Advised))
    totals = {}
    for second, size in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.25), (0.5, 0.25)):
        monkeypatch.setattr(Advised, 'loss_weights', {'second': second, 'size': size})
        config = small_config(tmp_path, 'train.steps=1', 'train.log_every=1', 'loss.stride=2',
                              f'name=run{second}_{size}')
        train(config)
        row = next(row for row in log_of(config) if 'loss' in row)
        totals[second, size] = row['loss']
        assert row['loss'] == pytest.approx(
            totals[0.0, 0.0] + second * row['loss_second'] + size * row['loss_size'], rel=1e-5)
    assert len(set(totals.values())) == 4


def test_a_pattern_of_names_has_a_learning_rate_of_its_own():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1))
    settings = TrainConfig(lr_factors={r'0\.weight': 0.01, r'0\..+': 0.5}, betas=(0.9, 0.95))
    groups = make_optimizer(model, settings).param_groups
    found = {id(p): group for group in groups for p in group['params']}
    factors = {name: found[id(p)]['factor'] for name, p in model.named_parameters()}
    assert factors == {'0.weight': 0.01, '0.bias': 0.5, '1.weight': 1.0, '1.bias': 1.0}
    assert {group['betas'] for group in groups} == {(0.9, 0.95)}
    with pytest.raises(RgbxSegError, match="'clip.+' matches no parameter that is trained"):
        make_optimizer(model, TrainConfig(lr_factors={'clip.+': 0.1}))


def test_a_factor_of_the_learning_rate_is_kept_through_the_schedule(tmp_path):
    still = small_config(tmp_path, 'train.steps=3', 'train.weight_decay=0', 'name=still',
                         'train.lr_factors={"first.+": 0}')
    train(still)
    moved = load_checkpoint(tmp_path / 'runs/still/last.safetensors').group('model')
    train(small_config(tmp_path, 'train.steps=1', 'train.weight_decay=0', 'name=again',
                       'train.lr_factors={"first.+": 0}'))
    once = load_checkpoint(tmp_path / 'runs/again/last.safetensors').group('model')
    assert moved['first.weight'].equal(once['first.weight'])
    assert not moved['last.weight'].equal(once['last.weight'])
