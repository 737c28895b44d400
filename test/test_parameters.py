# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of parameters, its YAML file, and what wrong values get."""

from array import array
from pathlib import Path

import pytest
import yaml

from rgbx_seg_ros import RgbxSegError, parameters
from rgbx_seg_ros.degraded import DegradedConfig
from rgbx_seg_ros.engine import Options
from rgbx_seg_ros.health import HealthConfig
from rgbx_seg_ros.parameters import PARAMETERS
from rgbx_seg_ros.pipeline import PipelineConfig
from rgbx_seg_ros.sync import SyncConfig

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
    assert {type(listed[name]) for name in listed} == {bool, int, float, str, list}
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
    ('precision', 'fp8', 'one of auto, fp32, fp16, bf16, int8'),
    ('engine.rgb_size', '640', 'WIDTHxHEIGHT, such as 640x480'),
    ('engine.rgb_size', '640x480 ', 'WIDTHxHEIGHT'),
    ('engine.rgb_size', '0x480', 'WIDTHxHEIGHT'),
    ('engine.rgb_size', '640x8193', 'up to 8192 each'),
    ('engine.rgb_size', '99999x480', 'up to 8192 each'),
    ('engine.file', 3, 'a text'),
    ('warmup', 2.0, 'a whole number'),
    ('autostart', 1, 'true or false'),
    ('overlay.alpha', 1.01, 'from 0.0 to 1.0'),
    ('scene.every', -1, 'a whole number from 0 to 100000'),
    ('scene.every', 2.5, 'a whole number'),
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
    assert (settings.bundle, settings.warmup) == (Path('/b'), 7)
    (pair,) = settings.pairs
    assert (pair.name, pair.rgb_transport, pair.aux_transport) == ('', 'raw', 'compressed')
    assert (pair.sync.max_skew_s, pair.sync.aux_offset_s, pair.sync.max_age_s,
            pair.sync.rgb_offset_s) == (0.01, -0.02, 0.3, 0.0)


def test_settings_hold_how_the_engine_is_to_be_opened():
    assert parameters.read(DEFAULTS | {'bundle': '/b'}).precision == 'auto'
    assert parameters.read(DEFAULTS | {'bundle': '/b'}).options == Options()
    settings = parameters.read(DEFAULTS | {
        'bundle': '/b', 'backend': 'tensorrt', 'precision': 'fp16', 'engine.file': '~/e.engine',
        'engine.rgb_size': '1280x720'})
    assert (settings.backend, settings.precision) == ('tensorrt', 'fp16')
    assert settings.options.rgb_size == (720, 1280)
    assert settings.options.engine_file == Path('~/e.engine').expanduser()


def test_a_home_that_there_is_none_of_is_a_name_like_any_other():
    settings = parameters.read(DEFAULTS | {'bundle': '~nobody-of-that-name/b'})
    assert settings.bundle == Path('~nobody-of-that-name/b')
    assert parameters.read(DEFAULTS | {'bundle': '~/b'}).bundle == Path('~/b').expanduser()


@pytest.mark.parametrize('backend', ['auto', 'openvino', 'onnxruntime', 'torch'])
def test_an_engine_file_for_a_backend_that_runs_none_is_refused(backend):
    with pytest.raises(RgbxSegError, match=f"engine.file is '/e.engine', but backend is {backend}; "
                       'expected backend tensorrt or tensorrt_rtx'):
        parameters.read(DEFAULTS | {'bundle': '/b', 'backend': backend,
                                    'engine.file': '/e.engine'})


def test_defaults_are_those_of_the_records():
    (pair,) = parameters.read(DEFAULTS | {'bundle': '/b'}).pairs
    assert pair.sync == SyncConfig()
    assert pair.degraded == DegradedConfig()
    assert pair.pipeline == PipelineConfig()
    assert pair.health == HealthConfig()


def test_every_parameter_of_a_pair_reaches_its_record():
    def changed(parameter):
        default = parameter.default
        if parameter.choices:
            return next(choice for choice in reversed(parameter.choices) if choice != default)
        if isinstance(default, bool):
            return not default
        return 'f' if default == '' else default * 0.9 + 0.01 if default else 0.5

    general = [p for p in PARAMETERS if p.name not in parameters.NODE_WIDE and p.read_only]
    before = parameters.read(DEFAULTS | {'bundle': '/b'}).pairs[0]
    for parameter in general:
        values = DEFAULTS | {'bundle': '/b', 'registration.file': '/f'}
        values |= {'diagnostics.error_latency': 9.0} if parameter.name.endswith('latency') else {}
        after = parameters.read(values | {parameter.name: changed(parameter)}).pairs[0]
        assert after != parameters.read(values).pairs[0] or after != before, parameter.name


def test_a_pair_s_own_parameter_goes_before_the_general_one():
    values = DEFAULTS | {'bundle': '/b', 'pairs': ['front', 'rear'], 'sync.max_skew': 0.02,
                         'front.sync.max_skew': 0.01, 'rear.aux.transport': 'compressed'}
    front, rear = parameters.read(values).pairs
    assert (front.name, front.sync.max_skew_s, front.aux_transport) == ('front', 0.01, 'raw')
    assert (rear.name, rear.sync.max_skew_s, rear.aux_transport) == ('rear', 0.02, 'compressed')


def test_parameters_of_a_pair_that_is_none_are_refused_by_name():
    with pytest.raises(RgbxSegError, match='front.sync.max_skew .*"front".*rear'):
        parameters.read(DEFAULTS | {'bundle': '/b', 'pairs': ['rear'],
                                    'front.sync.max_skew': 0.01})
    for name in ('bundle', 'precision', 'engine.file'):
        with pytest.raises(RgbxSegError, match=f'front.{name} is unknown'):
            parameters.check(f'front.{name}', '/b')
    with pytest.raises(RgbxSegError, match='camera pair rear: .*max_wait'):
        parameters.read(DEFAULTS | {'bundle': '/b', 'pairs': ['rear'], 'rear.sync.max_wait': 1e3})


@pytest.mark.parametrize('names', [
    [], ['front', 'front'], ['Front'], ['a/b'], [''] * 2, ['sync'], ['x'] * 17, 'front', [1]])
def test_names_of_pairs_that_cannot_be_topics_are_refused(names):
    with pytest.raises(RgbxSegError, match='pairs is .*expected at most 16'):
        parameters.check('pairs', names)


def test_settings_without_a_bundle_say_how_to_give_one():
    with pytest.raises(RgbxSegError, match='bundle is empty.*bundle:=DIR'):
        parameters.read(DEFAULTS)


def test_configured_node_takes_only_what_changes_pictures_and_masks():
    def why_not(configured=True, **changes):
        names = {name.replace('__', '.'): value for name, value in changes.items()}
        return parameters.why_not(names, configured)

    assert why_not(overlay__alpha=0.3) == why_not(use_sim_time=True) == ''
    assert why_not(confidence__threshold=0.3, mask__smoothing=0.1, front__overlay__alpha=0) == ''
    assert why_not(scene__every=10, front__scene__every=0) == ''
    assert why_not(configured=False, bundle='/b', overlay__alpha=1.0) == ''
    assert 'expected' in why_not(overlay__alpha=3.0)
    assert 'clean it up first' in why_not(overlay__alpha=0.3, bundle='/b')


@pytest.mark.parametrize('name, value, told', [
    ('classes', ['name'] * 300, r"\['name', .*… \(300 in all\); expected at most 255 names"),
    ('classes', array('q', [1, 2]), r'is \[1, 2\]; expected at most 255 names'),
    ('backend', 'x' * 5000, r"'xxx.*… \(5000 in all\); expected one of"),
    ('warmup', 10**300, '10000.*…; expected a whole number from 0 to 100')])
def test_a_long_value_is_not_told_at_length(name, value, told):
    with pytest.raises(RgbxSegError, match=told) as caught:
        parameters.check(name, value)
    assert len(str(caught.value)) < 400
