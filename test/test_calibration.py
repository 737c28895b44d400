# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Registration's files: what is read as written, and one sentence for everything else."""

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.calibration import MAX_BYTES, load_extrinsics, load_homography

HOMOGRAPHY = {'format': 1, 'rgb_size': [640, 480], 'aux_size': [320, 256],
              'homography': [[2.0, 0.1, 3.0], [0.0, 2.0, 4.0], [0.0, 0.0, 1.0]]}
EXTRINSICS = {'format': 1, 'rotation': np.eye(3).tolist(), 'translation': [0.1, 0, -0.02]}
CAMERA = {'width': 640, 'height': 480, 'k': [500, 0, 320, 0, 500, 240, 0, 0, 1]}


def written(folder, data):
    file = folder / 'file.yaml'
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return file


def test_homography_is_read_as_written(tmp_path):
    found = load_homography(written(tmp_path, {**HOMOGRAPHY, 'residual_px': 0.7, 'pairs': 12}))
    assert found.matrix.tolist() == HOMOGRAPHY['homography']
    assert (found.rgb_size, found.aux_size) == ((640, 480), (320, 256))
    flat = {**HOMOGRAPHY, 'homography': sum(HOMOGRAPHY['homography'], [])}
    assert (load_homography(written(tmp_path, flat)).matrix == found.matrix).all()


def test_extrinsics_are_read_as_written(tmp_path):
    found = load_extrinsics(written(tmp_path, {
        **EXTRINSICS, 'plane': [0, 1, 0, 1.2], 'aux': {**CAMERA, 'd': [0.1, 0, 0, 0, 0]},
        'rgb': {**CAMERA, 'd': [0.1, 0, 0, 0], 'model': 'equidistant'}}))
    assert found.motion.rotation.tolist() == EXTRINSICS['rotation']
    assert found.motion.translation.tolist() == EXTRINSICS['translation']
    assert found.plane == (0, 1, 0, 1.2)
    assert (found.rgb.model, found.aux.model) == ('equidistant', 'plumb_bob')
    assert found.aux.k == tuple(CAMERA['k'])


def test_quaternion_stands_for_a_rotation(tmp_path):
    half = float(np.sqrt(0.5))
    found = load_extrinsics(written(tmp_path, {'format': 1, 'translation': [0, 0, 0],
                                               'quaternion': [0, 0, half, half]}))
    np.testing.assert_allclose(found.motion.rotation @ (1, 0, 0), (0, 1, 0), atol=1e-12)


def test_a_file_of_a_plane_alone_leaves_the_rest_to_topics(tmp_path):
    found = load_extrinsics(written(tmp_path, {'format': 1, 'plane': [0, 1, 0.1, 1.2]}))
    assert found.motion is found.rgb is found.aux is None


@pytest.mark.parametrize('change, words', [
    ({'homography': [[1, 0, 0], [0, 1, 0], [0, 0, 0]]}, 'expected an invertible matrix'),
    ({'homography': [[1, 0, 0], [0, 1, 0], [2, 0, -319]]}, 'center of the aux image somewhere'),
    ({'homography': [[1, 0], [0, 1]]}, 'homography is .*; expected 9 finite numbers'),
    ({'homography': [[1, 0, 0], [0, 1, 0], [0, 0, float('nan')]]}, 'expected 9 finite numbers'),
    ({'homography': [[1, 0, 0], [0, 1, 0], [0, 0, 10**400]]}, 'expected 9 finite numbers'),
    ({'homography': [[1, 0, 0], [0, 1, 0], [0, 0, True]]}, 'expected 9 finite numbers'),
    ({'homography': 'none'}, 'homography is none; expected 9'),
    ({'rgb_size': [640]}, r'rgb_size is \[640\]; expected \[width, height\]'),
    ({'aux_size': [0, 480]}, 'aux_size is'),
    ({'aux_size': [1e9, 480]}, 'aux_size is'),
    ({'format': 2}, 'format is 2; expected 1'),
    ({'homografy': 1}, 'homografy is an unknown key; expected one of format, rgb_size'),
    ({7: 1}, '7 is an unknown key'),
])
def test_homography_that_maps_nothing_is_refused_by_key(tmp_path, change, words):
    with pytest.raises(RgbxSegError, match=f'file.yaml: .*{words}'):
        load_homography(written(tmp_path, {**HOMOGRAPHY, **change}))


@pytest.mark.parametrize('key', HOMOGRAPHY)
def test_homography_without_a_key_is_refused_by_its_name(tmp_path, key):
    with pytest.raises(RgbxSegError, match=f'file.yaml: {key} is missing'):
        load_homography(written(tmp_path, {k: v for k, v in HOMOGRAPHY.items() if k != key}))


@pytest.mark.parametrize('change, words', [
    ({'rotation': (2 * np.eye(3)).tolist()}, 'rotation is .*expected a rotation matrix'),
    ({'rotation': np.diag([1.0, 1, -1]).tolist()}, 'right-handed'),
    ({'quaternion': [0, 0, 0, 1]}, 'the turn is given twice; expected one of rotation and quat'),
    ({'translation': [1, 2]}, 'translation is .*expected 3 finite numbers'),
    ({'plane': [0, 0, 1, 0]}, r'expected \[a, b, c, d\] of a x \+ b y \+ c z = d, not through'),
    ({'plane': [0, 0, 0, 1]}, 'plane is'),
    ({'plane': [0, 0, -1, 2]}, 'plane is .*expected one before the RGB camera'),
    ({'plane': [1, 2, 3]}, 'plane is .*expected 4 finite numbers'),
    ({'rgb': 3}, 'rgb is 3; expected a mapping of keys'),
    ({'rgb': {**CAMERA, 'K': 1}}, 'rgb.K is an unknown key; expected one of width'),
    ({'aux': {'width': 3, 'height': 4}}, 'aux.k is missing'),
    ({'aux': {**CAMERA, 'd': [[[1]]]}}, 'aux.d is'),
    ({'aux': {**CAMERA, 'd': 'no'}}, 'aux.d is'),
    ({'aux': {**CAMERA, 'k': [0] * 9}}, r'of key aux" is uncalibrated'),
    ({'aux': {**CAMERA, 'd': [0.1] * 5, 'model': 3}}, 'aux.model is 3; expected a name'),
    ({'transform': 1}, 'transform is an unknown key'),
])
def test_extrinsics_that_place_nothing_are_refused_by_key(tmp_path, change, words):
    with pytest.raises(RgbxSegError, match=f'file.yaml: .*{words}'):
        load_extrinsics(written(tmp_path, {**EXTRINSICS, **change}))


@pytest.mark.parametrize('change, words', [
    ({'rotation': np.eye(3).tolist()}, 'translation is missing; expected 3 finite numbers'),
    ({'translation': [0, 0, 0]}, 'the turn is missing; expected one of rotation and quaternion'),
    ({'translation': [0, 0, 0], 'quaternion': [0, 0, 0, 0]}, 'no turn is 0, 0, 0, 1'),
])
def test_half_a_motion_is_refused(tmp_path, change, words):
    with pytest.raises(RgbxSegError, match=words):
        load_extrinsics(written(tmp_path, {'format': 1, **change}))


@pytest.mark.parametrize('load', [load_homography, load_extrinsics])
@pytest.mark.parametrize('text', ['', '[' * 600, 'a: [1', '\x00', '2020-13-45', 'just words',
                                  '!!python/object/apply:os.getcwd []', '- 1\n- 2'])
def test_what_is_no_such_yaml_is_refused_in_a_sentence(tmp_path, load, text):
    with pytest.raises(RgbxSegError, match='file.yaml: .*; expected'):
        load(written(tmp_path, text))


@pytest.mark.parametrize('load', [load_homography, load_extrinsics])
def test_missing_unreadable_and_huge_files_are_refused_in_a_sentence(tmp_path, load):
    with pytest.raises(RgbxSegError, match='nowhere.yaml: No such file or directory; expected'):
        load(tmp_path / 'nowhere.yaml')
    with pytest.raises(RgbxSegError, match='Is a directory; expected a file'):
        load(tmp_path)
    with pytest.raises(RgbxSegError, match=f'expected at most {MAX_BYTES}'):
        load(written(tmp_path, ' ' * (MAX_BYTES + 1)))
    (tmp_path / 'file.yaml').write_bytes(b'\xff\xfe\x00\x81')
    with pytest.raises(RgbxSegError, match='not valid YAML; expected'):
        load(tmp_path / 'file.yaml')


def test_nested_aliases_are_told_briefly(tmp_path):
    nest = '[1]'
    for level in range(20):
        nest = f'[&a{level} {nest}, {", ".join([f"*a{level}"] * 9)}]'
    text = yaml.safe_dump({**HOMOGRAPHY, 'homography': 'HERE'}).replace('HERE', nest)
    with pytest.raises(RgbxSegError, match='homography is') as caught:
        load_homography(written(tmp_path, text))
    assert len(str(caught.value)) < 400


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                      lambda v: st.lists(v, max_size=10), max_leaves=12)


@settings(max_examples=50, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(['format', 'rotation', 'translation', 'quaternion', 'plane',
                                        'rgb', 'aux', 'homography', 'rgb_size', 'aux_size']),
                       values, max_size=4), st.booleans())
def test_any_file_is_a_calibration_or_a_sentence(tmp_path, changes, homography):
    load, base = (load_homography, HOMOGRAPHY) if homography else (load_extrinsics, EXTRINSICS)
    try:
        load(written(tmp_path, {**base, **changes}))
    except RgbxSegError as error:
        assert '; expected' in str(error) and len(str(error)) < 500
