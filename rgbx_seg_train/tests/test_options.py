# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`model.options`: each field of a preset can be changed by name, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.checkpoint import build_model
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.models import find_config
from rgbx_seg_train.models.segrgbx.dsrm import DsrmConfig


def test_named_fields_change_and_the_others_stay():
    tiny = find_config('segrgbx', 'tiny')
    found = find_config('segrgbx', 'tiny', {
        'pairing': 'aligned', 'dsrm': {'structure': 'a', 'grid': [4, 6]}, 'clip': None,
        'drop_path': 0})
    dsrm = replace(tiny.dsrm, structure='a', grid=(4, 6))
    assert found == replace(tiny, pairing='aligned', dsrm=dsrm, clip=None, drop_path=0.0)
    assert type(found.drop_path) is float


def test_a_part_that_is_off_is_switched_on_with_its_defaults():
    off = find_config('segrgbx', 'tiny', {'dsrm': None})
    assert off.dsrm is None
    from rgbx_seg_train.models.options import override_fields
    assert override_fields(off, {'dsrm': {'layers': 2}}).dsrm == DsrmConfig(layers=2)


@pytest.mark.parametrize(('options', 'words'), [
    ({'pairring': 'aligned'}, r'model\.options\.pairring is an unknown key.*pairing'),
    ({'dsrm': {'structur': 'a'}}, r'model\.options\.dsrm\.structur is an unknown key.*structure'),
    ({'dsrm': {'structure': 'z'}}, r'model\.options.*structure.*a, b'),
    ({'dsrm': 'a'}, r'dsrm is \'a\'; expected a mapping'),
    ({'prompts': '8'}, r'prompts is \'8\'; expected an integer'),
    ({'prompts': True}, 'prompts is True; expected an integer'),
    ({'prompts': None}, 'prompts is None; expected an integer'),
    ({'dims': [1, 2]}, r'dims is \[1, 2\]; expected a list of 4'),
    ({'dims': [1, 2, 3, 'x']}, r"dims is 'x'; expected an integer"),
    ({'dims': 3}, 'dims is 3; expected a list'),
])
def test_an_option_that_does_not_fit_is_refused_by_name(options, words):
    with pytest.raises(RgbxSegError, match=words):
        find_config('segrgbx', 'tiny', options)


def test_an_ablation_is_one_line_of_a_configuration_or_of_the_command_line():
    data = {'model': {'family': 'segrgbx', 'preset': 'tiny'}}
    config = parse_config(override(data, ['model.options.dsrm.structure=i',
                                          'model.options.prompts=0']))
    model = build_model(config, 9)
    assert model.config.dsrm.structure == 'i'
    assert model.config.prompts == 0
    assert parse_config(config_to_dict(config)) == config  # as a checkpoint keeps it


def test_options_that_are_no_mapping_are_refused():
    with pytest.raises(RgbxSegError, match=r'model\.options is 3; expected a mapping'):
        parse_config({'model': {'options': 3}})
