# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes of the papers as files: what they build, what they train, and how they differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import log_of

from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.checkpoint import build_model, load_checkpoint
from rgbx_seg_train.config_augment import STILL
from rgbx_seg_train.config_file import config_to_dict, load_config
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.models import find_config
from rgbx_seg_train.models.segrgbx import TABLE_IV
from rgbx_seg_train.optimization import make_optimizer
from rgbx_seg_train.train import train

CONFIGS = Path(__file__).parents[1] / 'configs'
ABLATIONS = sorted((CONFIGS / 'ablations').glob('*.yaml'))
SETS = {'deliver': 'deliver', 'mfnet': 'mfnet', 'nyu': 'nyu40', 'zju': 'zju', 'urbanlf': 'urbanlf'}
SHIFNET = {'shifnet_fmb': (14, (1024, 1024), 4), 'shifnet_pst900': (5, (960, 960), 4),
           'shifnet_mfnet': (9, (480, 640), 8)}
SARTM = {'sartm_pst900': (5, (720, 1280), 1280, 8_504_203),
         'sartm_fmb': (15, (600, 800), 800, 9_927_893),
         'sartm_mfnet': (9, (480, 640), 800, 9_073_679)}
TABLES = ('segrgbx', 'shifnet', 'sartm')  # families whose tables of ablations are held here
JOINT = ('segrgbx_tiny_synthetic', 'segrgbx_small_synthetic')
# the one field that an ablation changes, besides its name
CHANGES: dict[str, dict[str, Any]] = {
    **{f'segrgbx_dsrm_{row}': {'dsrm': {'structure': row}} for row in 'abcdefgi'},  # Table IV
    'segrgbx_no_ma_clip': {'clip': None},  # Table VI
    'segrgbx_no_aligned_prompts': {'prompts': 0},
    'segrgbx_no_dsrm': {'dsrm': None},
    'segrgbx_no_components': {'clip': None, 'prompts': 0, 'dsrm': None},
    'segrgbx_pairing_aligned': {'pairing': 'aligned'},  # Table VII
    'segrgbx_pairing_cross_modal': {'pairing': 'cross_modal'},
    'segrgbx_dsrm_pairing_cross_modal': {'dsrm': {'pairing': 'cross_modal'}},  # Table VIII
    'segrgbx_dsrm_pairing_rgb_dominant': {'dsrm': {'pairing': 'rgb_dominant'}},
    'segrgbx_dsrm_unshared': {'dsrm': {'share': False}},
    'shifnet_add_segformer': {'fusion': 'add', 'decoder': 'segformer'},
    'shifnet_segformer': {'decoder': 'segformer'},
    'shifnet_fmb_segformer': {'decoder': 'segformer'},
    'shifnet_add': {'fusion': 'add'},
    'shifnet_concat': {'fusion': 'concat'},
    'shifnet_fmb_no_text': {'fusion': 'sacf_no_text'},
    'shifnet_no_sem': {'decoder': 'hpd_no_sem'},
    **{f'sartm_rank{rank}': {'rank': rank} for rank in (4, 8, 32)},
    **{f'sartm_{w}_1': {f'{term}_weight': 1}
       for w, term in (('w1', 'aux'), ('w2', 'prototype'), ('w3', 'text'))},
    'sartm_no_language': {'prototype_weight': 0, 'text_weight': 0},
    'sartm_no_prototype': {'prototype_weight': 0},
    'sartm_no_text': {'text_weight': 0},
    'sartm_no_aux_head': {'aux_head': False},
    'sartm_both': {'branch': 'both'},
}


def load(name: str, *overrides: str):
    """Return a shipped configuration."""
    return load_config(next(CONFIGS.rglob(f'{name}.yaml')), overrides)


def built(config) -> torch.nn.Module:
    """Return the model of a configuration without memory for its weights."""
    with torch.device('meta'):
        return build_model(config, len(config.data.class_infos))


def size(model: torch.nn.Module, trained: bool = False) -> int:
    """Return the number of parameters, of all or of those that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def leaves(data: Any, path: str = '') -> dict[str, Any]:
    """Return every value of nested mappings by its dotted path; `model.options` is one value."""
    if not isinstance(data, dict) or path == 'model.options':
        return {path: data}
    return {key: value for name, item in data.items()
            for key, value in leaves(item, f'{path}.{name}' if path else name).items()}


def differences(one: str, other: str) -> dict[str, Any]:
    """Return what the second configuration says otherwise."""
    first, second = (leaves(config_to_dict(load(name))) for name in (one, other))
    return {key: value for key, value in second.items() if first[key] != value}


@pytest.mark.parametrize('path', ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_is_one_line_beside_its_base_and_changes_nothing_else(path: Path) -> None:
    written = yaml.safe_load(path.read_text())
    assert list(written)[:2] == ['base', 'name'] and written['name'] == path.stem
    assert {'model', 'train', 'text', 'loss'} >= set(list(written)[2:]) != set()
    found = differences(Path(written['base']).stem, path.stem)
    assert found.pop('name') == path.stem and found
    model, base = (load(name).model for name in (path.stem, Path(written['base']).stem))
    find_config(model.family, model.preset, model.options)  # every option is the family's
    if path.stem in CHANGES:
        assert found == {'model.options': {**base.options, **CHANGES[path.stem]}}
    elif path.stem.startswith(TABLES):
        assert path.stem == 'shifnet_fmb_poly' and found == {'train.schedule': 'poly'}


def test_every_row_of_the_ablation_tables_has_a_file() -> None:
    files = {path.stem for path in ABLATIONS if path.stem.startswith(TABLES)}
    assert files == {*CHANGES, 'shifnet_fmb_poly'}
    rows = {name[-1] for name in CHANGES if name[:-1] == 'segrgbx_dsrm_'}
    assert rows | {'h'} == TABLE_IV.keys()  # (h) is the recipe itself


def test_the_joint_recipe_builds_the_published_network_for_all_classes_and_modalities() -> None:
    config = load('segrgbx_joint')
    model = built(config)
    assert model.n_classes == 70 and model.modalities == MODALITIES
    assert abs(size(model) / (TABLE_IV['h'][0] * 1e6) - 1) < 0.01
    frozen = {name.split('.')[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'clip'}
    without = size(model) - size(built(load('segrgbx_dsrm_i')))  # U
    assert abs(without / ((TABLE_IV['h'][0] - TABLE_IV['i'][0]) * 1e6) - 1) < 0.1


def test_the_joint_recipe_is_the_papers() -> None:
    config = load('segrgbx_joint')
    kinds = [(source.kind, getattr(source, 'aux', '')) for source in config.data.train]
    assert kinds == [('deliver', 'event'), ('mfnet', ''), ('nyu', 'hha'), ('zju', 'aolp'),
                     ('urbanlf', '')]
    run, augment = config.train, config.augment
    assert (config.data.height, config.data.width) == (512, 512)
    assert (run.epochs, run.batch_size, run.lr, run.weight_decay) == (200, 8, 1e-4, 0.01)
    assert (run.schedule, run.poly_power, run.optimizer) == ('poly', 0.9, 'adamw')
    assert (run.warmup * run.epochs, run.warmup_ratio) == (10, 0.1)
    assert (config.loss.own_term, config.loss.class_weights, config.loss.dice) == (1, 'none', 0)
    assert (augment.geometry, augment.resize_low, augment.resize_high) == ('crop', 0.5, 2.0)
    assert (augment.p_flip, augment.p_jitter, augment.p_blur) == (0.5, 0.2, 0.2)
    assert differences('segrgbx_joint', 'segrgbx_joint_balanced') == {
        'name': 'segrgbx_joint_balanced', 'data.sampling': 'weighted'}
    assert len({source.weight for source in config.data.train}) == 1  # weighted = balanced


@pytest.mark.parametrize('name', SETS)
def test_each_data_set_has_a_fine_tuning_and_a_specialist(name: str) -> None:
    joint, tuned, alone = (load(f'segrgbx_{key}') for key in ('joint', f'{name}_finetuned', name))
    for config in (tuned, alone):
        assert [source.kind for source in config.data.train] == [name]
        assert config.data.train[0] in joint.data.train
        assert list(config.data.test) == [s for s in joint.data.test if s.kind == name]
    assert (tuned.train.epochs, tuned.train.lr, tuned.data.classes) == (50, 1e-5, 'union70')
    assert tuned.train.init == f'{joint.out}/{joint.name}/best.safetensors'
    assert tuned.model == joint.model and tuned.export.classes == SETS[name]
    assert (alone.data.classes, alone.train) == (SETS[name], joint.train)
    assert alone.model.modalities == (alone.data.modality,)
    assert built(alone).n_classes == len(CLASS_SETS[SETS[name]])


@pytest.mark.parametrize('name', SHIFNET)
def test_shifnet_trains_exactly_the_published_parameters(name: str) -> None:
    config = load(name)
    n_classes, image, batch = SHIFNET[name]
    model = built(config)
    assert model.n_classes == n_classes
    assert (config.data.height, config.data.width) == image
    assert size(model) == 244_971_425
    optimizer = make_optimizer(model, config.train)
    moved = sum(p.numel() for group in optimizer.param_groups for p in group['params'])
    assert moved == size(model, trained=True) == 32_268_145  # 32.27 M
    run = config.train
    assert (run.batch_size, run.epochs, run.lr, run.optimizer) == (batch, 150, 1e-4, 'adamw')
    assert (run.schedule, run.plateau_factor, run.plateau_patience) == ('plateau', 0.8, 4)
    assert (run.precision, run.gradient_checkpointing) == ('fp16', True)
    assert config.data.validate  # a plateau is one of validations
    assert run.class_embeddings == f'runs/classes_{config.data.classes}.safetensors'
    assert config.augment == load('segrgbx_joint').augment


@pytest.mark.parametrize('name', SARTM)
def test_sartm_trains_as_the_official_script_does(name: str) -> None:
    config = load(name)
    n_classes, image, canvas, trained = SARTM[name]
    model, run = built(config), config.train
    assert (model.n_classes, model.config.canvas) == (n_classes, canvas)
    assert (config.data.height, config.data.width) == image
    moved = sum(p.numel() for group in make_optimizer(model, run).param_groups
                for p in group['params'])
    assert moved == size(model, trained=True) == trained
    assert (model.config.rank, model.config.aux_weight, model.config.prototype_weight,
            model.config.text_weight) == (16, 0.008, 1e4, 100)
    assert (run.batch_size, run.epochs, run.lr, run.weight_decay) == (8, 500, 1e-4, 0.01)
    assert (run.warmup * run.epochs, run.warmup_ratio, run.poly_power) == (10, 0.1, 0.9)
    assert (run.precision, run.seed, run.clip_norm) == ('fp32', 3407, 0)
    assert run.class_embeddings == f'runs/classes_{config.data.classes}_clip.safetensors'
    assert config.augment == load('shifnet_pst900').augment


@pytest.mark.parametrize('prefix', JOINT)
def test_joint_and_specialists_see_the_same_scenes_equally_often(prefix: str) -> None:
    joint = load(f'{prefix}_joint')
    scenes = {s.modality: (s.first_seed, s.count) for s in joint.data.train}
    assert set(scenes) == set(MODALITIES)
    assert len({first for first, _ in scenes.values()}) == 5  # of its own for each
    steps = 0.0
    for modality in MODALITIES:
        alone = load(f'{prefix}_{modality}')
        (source,) = alone.data.train
        assert (source.first_seed, source.count) == scenes[modality]
        assert [s.count for s in joint.data.test if s.modality == modality] == [
            alone.data.test[0].count]
        for part in ('train', 'loss', 'augment'):
            assert getattr(alone, part) == getattr(joint, part)
        assert (alone.model.preset, alone.model.options) == (joint.model.preset,
                                                             joint.model.options)
        steps += alone.train.epochs * source.count / alone.train.batch_size
    total = sum(count for _, count in scenes.values())
    assert steps == joint.train.epochs * total / joint.train.batch_size
    assert size(built(joint)) < 1.2 * size(built(load(f'{prefix}_thermal')))


def test_shifnet_in_miniature_learns_by_all_that_its_recipe_asks_for(tmp_path: Path) -> None:
    config = load('shifnet_micro_synthetic', f'out={tmp_path}', f'data.cache={tmp_path}/cache',
                  'data.height=32', 'data.width=64', 'data.train.0.count=4',
                  'data.validate.0.count=1', 'train.steps=24', 'train.batch_size=4',
                  'train.lr=1e-3', 'train.log_every=1',
                  'train.eval_every=24', 'train.save_every=24', 'train.schedule=plateau',
                  'train.warmup=0', 'train.gradient_checkpointing=true', 'train.precision=bf16',
                  'train.workers=0', 'train.threads=1', 'train.ema=0')
    config = replace(config, augment=STILL)  # its random changes would drown what 24 steps teach
    checkpoint = load_checkpoint(train(config))
    assert checkpoint.weights().keys() == build_model(config, 9).state_dict().keys()
    losses = [row['loss'] for row in log_of(config) if 'loss' in row]
    assert len(losses) == 24
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
