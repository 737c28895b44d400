# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, its YAML file, and what wrong values get."""

from pathlib import Path

import pytest
import yaml

from rgbx_seg_ros import RgbxSegError, parameters
from rgbx_seg_ros.parameters import PARAMETERS

CONFIG = Path(__file__).parent.parent / 'config' / 'segment.yaml'
DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}


def flatten(tree, prefix=''):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def test_config_file_lists_exactly_the_parameters_with_their_defaults():
    listed = dict(flatten(yaml.safe_load(CONFIG.read_text())['/**']['ros__parameters']))
    assert listed == DEFAULTS
    assert {type(listed[name]) for name in listed} == {bool, int, float, str}
    assert all(type(listed[name]) is type(DEFAULTS[name]) for name in listed)


def test_config_file_comments_every_parameter_and_names_each_choice():
    lines = [line.strip() for line in CONFIG.read_text().splitlines()]
    for parameter in PARAMETERS:
        key = parameter.name.rsplit('.')[-1]
        at = next(n for n, line in enumerate(lines) if line.startswith(f'{key}:'))
        above = lines[at - 1]
        assert above.startswith('#') or ':' in above, parameter.name
    text = CONFIG.read_text()
    assert all(choice in text for parameter in PARAMETERS for choice in parameter.choices)


def test_every_default_is_valid_and_described_with_a_unit():
    for parameter in PARAMETERS:
        assert parameters.check(parameter.name, parameter.default) == parameter.default
        assert parameter.description.endswith('.')
        numeric = type(parameter.default) in (int, float)
        assert ('[' in parameter.description) == numeric


@pytest.mark.parametrize(('name', 'value', 'expected'), [
    ('sync.max_skew', -0.1, 'from 0.0 to 10.0'),
    ('sync.max_skew', float('nan'), 'a number'),
    ('sync.max_skew', '0.1', 'a number'),
    ('sync.max_skew', True, 'a number'),
    ('sync.policy', 'closest', 'nearest, exact, latest'),
    ('backend', 'tensorflow', 'onnxruntime'),
    ('warmup', 2.0, 'a whole number'),
    ('autostart', 1, 'true or false'),
    ('overlay.alpha', 1.01, 'from 0.0 to 1.0'),
    ('bundle', 3, 'a text'),
])
def test_wrong_value_is_refused_with_what_was_found_and_expected(name, value, expected):
    with pytest.raises(RgbxSegError) as refusal:
        parameters.check(name, value)
    assert str(refusal.value).startswith(f'parameter {name} is {value!r}; expected')
    assert expected in str(refusal.value)


def test_whole_number_serves_as_real():
    value = parameters.check('sync.max_skew', 1)
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(('wrong', 'right'), [
    ('sync.max_screw', 'sync.max_skew'), ('max_skew', 'sync.max_skew'), ('bundel', 'bundle'),
    ('overlay_alpha', 'overlay.alpha'),
])
def test_unknown_name_gets_the_nearest_known_one(wrong, right):
    with pytest.raises(RgbxSegError, match=f'parameter {wrong} is unknown; did you mean {right}'):
        parameters.check(wrong, 0.1)


def test_settings_hold_the_values_in_their_places():
    values = DEFAULTS | {'bundle': '/b', 'sync.max_skew': 0.01, 'sync.aux_offset': -0.02,
                         'sync.max_age': 0.3, 'aux.transport': 'compressed', 'warmup': 7}
    settings = parameters.read(values)
    assert settings.bundle == Path('/b')
    assert (settings.sync.max_skew_s, settings.sync.aux_offset_s, settings.sync.max_age_s,
            settings.sync.rgb_offset_s) == (0.01, -0.02, 0.3, 0.0)
    assert (settings.rgb_transport, settings.aux_transport) == ('raw', 'compressed')
    assert settings.warmup == 7


def test_settings_without_a_bundle_say_how_to_give_one():
    with pytest.raises(RgbxSegError, match='bundle is empty.*bundle:=DIR'):
        parameters.read(DEFAULTS)


def test_configured_node_takes_only_the_opacity():
    def why_not(configured=True, **changes):
        names = {name.replace('__', '.'): value for name, value in changes.items()}
        return parameters.why_not(names, configured)

    assert why_not(overlay__alpha=0.3) == why_not(use_sim_time=True) == ''
    assert why_not(configured=False, bundle='/b', overlay__alpha=1.0) == ''
    assert 'expected' in why_not(overlay__alpha=3.0)
    assert 'clean it up first' in why_not(overlay__alpha=0.3, bundle='/b')
