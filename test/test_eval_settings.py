# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[1]


def written(folder: Path, text: str) -> Path:
    path = folder / 'robot.yaml'
    path.write_text(text)
    return path


def test_defaults_are_those_of_the_node():
    found = EvalSettings(bundles=(Path('b'),), **node_settings(None, {}))
    defaults = {parameter.name: parameter.default for parameter in PARAMETERS}
    assert found.pair.sync.max_skew_s == defaults['sync.max_skew']
    assert (found.backend, found.precision, found.warmup) == (
        defaults['backend'], defaults['precision'], defaults['warmup'])
    assert (found.threshold, found.smoothing_s, found.scene_every, found.alpha) == (
        defaults['confidence.threshold'], defaults['mask.smoothing'], defaults['scene.every'],
        defaults['overlay.alpha'])


def test_the_parameter_file_of_the_package_is_taken_as_it_is():
    assert node_settings(ROOT / 'config' / 'segment.yaml', {}) == node_settings(None, {})


def test_a_file_is_read_as_rcl_reads_it_and_the_command_line_wins(tmp_path):
    file = written(tmp_path, '''
/**:
  ros__parameters:
    sync: {max_skew: 0.01, max_wait: 0.2}
    overlay.alpha: 0.25
front:
  segment:
    ros__parameters: {sync: {max_skew: 0.02}, bundle: /robot/bundle, use_sim_time: true}
  camera_driver:
    ros__parameters: {exposure: 7}
''')
    found = node_settings(file, {'sync.max_wait': 0.3})
    assert found['pair'].sync.max_skew_s == 0.02
    assert found['pair'].sync.max_wait_s == 0.3
    assert found['alpha'] == 0.25


def test_one_node_of_any_name_will_do(tmp_path):
    file = written(tmp_path, 'eyes:\n  ros__parameters:\n    mask: {smoothing: 0.5}\n')
    assert node_settings(file, {})['smoothing_s'] == 0.5


def test_of_several_camera_pairs_one_must_be_chosen_and_brings_its_own_values(tmp_path):
    file = written(tmp_path, '''
segment:
  ros__parameters:
    pairs: [front, rear]
    confidence.threshold: 0.1
    rear: {confidence: {threshold: 0.4}, sync: {max_skew: 0.007}}
''')
    with pytest.raises(RgbxSegError, match='names the camera pairs front, rear.* by --pair'):
        node_settings(file, {})
    assert node_settings(file, {}, 'front')['threshold'] == 0.1
    rear = node_settings(file, {}, 'rear')
    assert (rear['threshold'], rear['pair'].sync.max_skew_s) == (0.4, 0.007)
    with pytest.raises(RgbxSegError, match='--pair is side, expected one of front, rear'):
        node_settings(file, {}, 'side')


@pytest.mark.parametrize(('text', 'told'), [
    ('[1, 2]', 'parameters of 0 nodes'), ('segment: {a: 1}', 'parameters of 0 nodes'),
    ('a:\n ros__parameters: {}\nb:\n ros__parameters: {}', 'parameters of 2 nodes'),
    ('a: [', 'cannot be read'), ('!!python/object:os.system {}', 'cannot be read'),
    ('segment:\n ros__parameters: {sync: {max_skw: 1.0}}', 'sync.max_skw is unknown; did you mean '
                                                           'sync.max_skew'),
    ('segment:\n ros__parameters: {sync.max_skew: fast}', "sync.max_skew is 'fast'; expected a "
                                                          'number')])
def test_a_wrong_file_is_told_in_one_sentence(tmp_path, text, told):
    with pytest.raises(RgbxSegError, match=told):
        node_settings(written(tmp_path, text), {})
    with pytest.raises(RgbxSegError, match='cannot be read'):
        node_settings(tmp_path / 'absent.yaml', {})


def test_settings_can_travel_to_another_process():
    settings = EvalSettings(bundles=(Path('b'),), **node_settings(None, {
        'engine.rgb_size': '640x480', 'registration.distance': 3.0}))
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert copy.for_bundle(Path('b')).options.rgb_size == (480, 640)
