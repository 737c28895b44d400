# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations: files, bases, overrides, and what is refused."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import (
    CLASS_SETS,
    CLASS_WEIGHTS,
    OPTIMIZERS,
    SCHEDULES,
    Config,
    FolderSource,
    SyntheticSource,
)
from rgbx_seg_train.config_file import config_to_dict, load_config, override, parse_config
from rgbx_seg_train.data import sources
from rgbx_seg_train.losses import WEIGHTINGS
from rgbx_seg_train.models import find_config
from rgbx_seg_train.optimization import OPTIMIZERS as OPTIMIZER_TABLE
from rgbx_seg_train.optimization import SCHEDULES as SCHEDULE_TABLE

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('*.yaml'))


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_is_named_as_its_file_and_never_trains_on_its_test(path):
    config = load_config(path)
    config.check_training()
    assert config.name == path.stem
    find_config(config.model.family, config.model.preset, config.model.options)
    ranges = {part: [range(s.first_seed, s.first_seed + s.count) for s in getattr(config.data, part)
                     if isinstance(s, SyntheticSource)] for part in ('train', 'validate', 'test')}
    for seen in ranges['train']:
        for unseen in (*ranges['validate'], *ranges['test']):
            assert seen.stop <= unseen.start or unseen.stop <= seen.start
    split = {part: {s.part for s in getattr(config.data, part) if isinstance(s, FolderSource)}
             for part in ('train', 'test')}
    assert split in ({'train': set(), 'test': set()}, {'train': {'train'}, 'test': {'held_out'}})


def test_rgb_only_config_differs_from_its_base_by_name_and_blind_aux_alone():
    both, blind = (config_to_dict(load_config(path)) for path in CONFIGS
                   if path.stem in ('segrgbx_tiny_synthetic', 'segrgbx_tiny_synthetic_rgb_only'))
    blind['name'], blind['data']['zero_aux'] = both['name'], False
    assert blind == both


def test_names_a_config_may_use_are_those_of_the_tables():
    assert set(SCHEDULES) == set(SCHEDULE_TABLE)
    assert set(OPTIMIZERS) == set(OPTIMIZER_TABLE)
    assert set(CLASS_WEIGHTS) == {'none', *WEIGHTINGS}
    assert set(CLASS_SETS) == set(sources.CLASS_SETS)


def test_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path):
    write(tmp_path / 'base.yaml', 'train: {steps: 7, lr: 0.5}\n'
          'data: {train: [{kind: synthetic, count: 3}, {kind: synthetic, count: 4}]}\n')
    top = write(tmp_path / 'top.yaml', 'base: base.yaml\ntrain: {lr: 0.25}\n'
                'data: {train: [{kind: synthetic, count: 9}]}\n')
    config = load_config(top)
    assert (config.train.steps, config.train.lr) == (7, 0.25)
    assert [source.count for source in config.data.train] == [9]


def test_overrides_reach_into_mappings_and_lists(tmp_path):
    path = write(tmp_path / 'c.yaml', 'data: {train: [{kind: synthetic, count: 3}]}')
    config = load_config(path, ['data.train.0.count=5', 'train.lr=1e-3', 'name=x',
                                'train.max_minutes=null', 'data.zero_aux=true'])
    assert config.data.train[0].count == 5
    assert config.train.lr == 0.001  # YAML 1.1 reads 1e-3 as a text
    assert (config.name, config.train.max_minutes, config.data.zero_aux) == ('x', None, True)


def test_overrides_fill_a_section_that_the_file_leaves_empty(tmp_path):
    path = write(tmp_path / 'c.yaml', 'train:\n')
    assert load_config(path, ['train.steps=5']).train.steps == 5


def test_plain_form_gives_back_the_same_config():
    for path in CONFIGS:
        config = load_config(path)
        assert parse_config(config_to_dict(config)) == config


@pytest.mark.parametrize('text, words', [
    ('trian.steps=3', ['trian', 'unknown key', 'train']),
    ('train.stesp=3', ['train.stesp', 'unknown key', 'steps']),
    ('train.steps=many', ['train.steps', "'many'", 'an integer']),
    ('train.steps=0', ['train.steps', '0', '1..']),
    ('train.steps=true', ['train.steps', 'True', 'an integer']),
    ('train.schedule=linear', ['train.schedule', 'linear', 'poly, cosine']),
    ('train=3', ['train', '3', 'a mapping']),
    ('data.modality=sonar', ['data.modality', 'sonar', 'thermal']),
    ('data.train=[{kind: lake}]', ['data.train.0.kind', 'lake', 'synthetic, folder']),
    ('data.train=[{kind: folder}]', ['data.train.0.root', 'empty']),
    ('data.train=[{kind: synthetic, seed: 1}]', ['data.train.0.seed', 'first_seed']),
    ('data.train.0.count=1', ['data.train.0.count', 'a number below 0']),
    ('loss.stride=3', ['data.width', '320', 'multiple of loss.stride (3)']),
    ('augment.zoom_low=3', ['augment.zoom_low', '3.0', '1.6']),
    ('train.steps', ['train.steps', 'key=value']),
    ('name.first=3', ['name.first']),
    ('name=[', ['name', 'not valid YAML']),
    ('name=2026-13-45', ['name', 'not valid YAML']),
    ('name=""', ['name', 'a folder']),
    ('name=a/b', ['name', 'a folder']),
    ('data.train=[[1]]', ['data.train.0.kind', 'synthetic, folder']),
    ('data.train.²=1', ['data.train.²', 'a number below 0']),
])
def test_bad_setting_is_refused_in_one_sentence(tmp_path, text, words):
    path = write(tmp_path / 'c.yaml', 'name: x\ndata: {train: []}\n')
    with pytest.raises(RgbxSegError) as caught:
        load_config(path, [text])
    for word in words:
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text, words', [
    ('a: [', 'not valid YAML in line'),
    ('- 1', 'a mapping of keys'),
    ('[' * 3000, 'not valid YAML'),
    ('base: c.yaml', 'its own base'),
    ('base: missing.yaml', 'no such configuration'),
    ('!!python/object/apply:os.system ["true"]', 'not valid YAML'),
])
def test_bad_file_is_refused_with_its_name(tmp_path, text, words):
    path = write(tmp_path / 'c.yaml', text)
    with pytest.raises(RgbxSegError, match=words) as caught:
        load_config(path)
    assert '.yaml' in str(caught.value)


def test_override_leaves_its_input_alone():
    data = {'train': {'steps': 3}}
    override(data, ['train.steps=4'])
    assert data == {'train': {'steps': 3}}


def test_every_section_is_a_frozen_dataclass():
    for item in fields(Config):
        value = getattr(Config(), item.name)
        if is_dataclass(value):
            assert type(value).__dataclass_params__.frozen
