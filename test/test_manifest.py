# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is written is read back, and whatever is wrong is named in one sentence."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from bundles import (
    THERMAL,
    manifest,
    scene_onnx,
    tiny_bank,
    tiny_onnx,
    write_scene_bundle,
    write_tiny_bundle,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import (
    ClassInfo,
    Manifest,
    SceneGraph,
    Variant,
    Vocabulary,
    load_bundle,
    save_bundle,
    sha256_of,
)
from rgbx_seg_ros.vocabulary import load_bank


def edit(bundle: Path, change) -> None:
    path = bundle / 'manifest.yaml'
    data = yaml.safe_load(path.read_text())
    change(data)
    path.write_text(yaml.safe_dump(data))


def test_a_saved_bundle_loads_equal_and_names_the_sha_of_its_model(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    loaded = load_bundle(bundle)
    assert loaded == replace(manifest(), onnx_sha256=sha256_of(bundle / 'model.onnx'))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b']


def test_saving_over_a_bundle_replaces_it_and_over_anything_else_is_refused(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    write_tiny_bundle(bundle, height=32)
    assert load_bundle(bundle).height == 32
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('keep')
    with pytest.raises(RgbxSegError, match='not what would be replaced'):
        save_bundle(tmp_path / 'mine', tiny_onnx(), manifest())
    assert (tmp_path / 'mine' / 'thesis.txt').read_text() == 'keep'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['b', 'mine']


@pytest.mark.parametrize(('change', 'says'), [
    (lambda d: d.update(modalty='thermal'), 'modalty'),
    (lambda d: d.pop('height'), 'height is "no such key"'),
    (lambda d: d.update(modality='sonar'), 'modality is "sonar"; expected thermal'),
    (lambda d: d.update(width=0), 'width is 0'),
    (lambda d: d.update(width=10**9), 'width is 1000000000'),
    (lambda d: d.update(width=True), 'width is True'),
    (lambda d: d.update(format=2), 'format is 2; expected 1'),
    (lambda d: d['aux'].update(range='minmax'), 'range is "minmax"'),
    (lambda d: d['aux'].update(low=400.0), 'low is 400.0'),
    (lambda d: d['aux'].update(low='cold'), 'low is "cold"'),
    (lambda d: d['aux'].update(scale=float('nan')), 'scale is nan'),
    (lambda d: d['aux'].update(channels=2), 'channels is 2'),
    (lambda d: d['aux'].update(channels=1.0), 'channels is 1.0'),
    (lambda d: d['aux'].update(channels=True), 'channels is True'),
    (lambda d: d['aux'].update(low=-10**400), 'low is -1000'),
    (lambda d: d.update(format=True), 'format is True'),
    (lambda d: d['classes'][1].update(id=0), 'no value twice'),
    (lambda d: d['classes'][1].update(color=[64, 64, 0]), 'no value twice'),
    (lambda d: d['classes'][1].update(color='red'), r'classes\[1\].color'),
    (lambda d: d['classes'][1].update(id=255), 'id is 255'),
    (lambda d: d.update(classes=[]), 'at least one class'),
    (lambda d: d.update(scores=[1]), 'scores'),
    (lambda d: d['scores'].update(miou='good'), 'scores.miou'),
    (lambda d: d.update(aux_dropout=1.5), 'aux_dropout is 1.5'),
])
def test_a_wrong_manifest_is_refused_by_a_sentence_that_names_the_key(tmp_path, change, says):
    bundle = write_tiny_bundle(tmp_path / 'b')
    edit(bundle, change)
    with pytest.raises(RgbxSegError, match=says) as caught:
        load_bundle(bundle)
    assert 'manifest.yaml' in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('content', [b'', b'[1, 2]', b'a: [', b'\xff\xfe', b'a: !!python/none x',
                                     b'x' * (2 << 20), b'name: 2026-13-45',
                                     b'[' * 3000, b'format: ' + b'9' * 5000])
def test_a_manifest_that_is_no_manifest_is_refused(tmp_path, content):
    bundle = write_tiny_bundle(tmp_path / 'b')
    (bundle / 'manifest.yaml').write_bytes(content)
    with pytest.raises(RgbxSegError, match='manifest.yaml'):
        load_bundle(bundle)


def test_a_manifest_of_nested_aliases_is_refused_before_it_is_unfolded(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    lines = ['- &a0 [x]', *(f'- &a{n} [' + f'*a{n - 1},' * 9 + ']' for n in range(1, 40))]
    (bundle / 'manifest.yaml').write_text('\n'.join(lines))
    with pytest.raises(RgbxSegError, match='a mapping of keys'):
        load_bundle(bundle)


def test_an_exchanged_model_is_refused_with_both_digests(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    with (bundle / 'model.onnx').open('ab') as file:
        file.write(b'!')
    with pytest.raises(RgbxSegError, match='SHA-256 is [0-9a-f]{12}…, but .* expects'):
        load_bundle(bundle)


@pytest.mark.parametrize('missing', ['manifest.yaml', 'model.onnx', None])
def test_a_missing_bundle_or_file_is_named(tmp_path, missing):
    bundle = write_tiny_bundle(tmp_path / 'b')
    if missing:
        (bundle / missing).unlink()
    with pytest.raises(RgbxSegError, match=missing or 'no such folder'):
        load_bundle(bundle if missing else tmp_path / 'nowhere')


def test_values_made_in_code_are_checked_like_values_from_a_file():
    with pytest.raises(RgbxSegError, match='percentiles 0..100'):
        replace(THERMAL, range='percentile', low=1.0, high=101.0)
    with pytest.raises(RgbxSegError, match='color'):
        ClassInfo(1, 'car', (0, 0, 300))


def test_a_bundle_of_two_graphs_names_the_sha_of_both(tmp_path):
    bundle = write_scene_bundle(tmp_path / 'b', every=7)
    loaded = load_bundle(bundle)
    assert loaded.scene == SceneGraph(sha256_of(bundle / 'scene.onnx'), 4, 7)
    assert loaded.onnx_sha256 == sha256_of(bundle / 'model.onnx')


# left out where there is none
OPTIONAL = ('scene', 'variants', 'checkpoint_sha256', 'scored_on', 'vocabulary')


def test_a_bundle_of_one_graph_says_nothing_of_a_scene(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    keys = list(yaml.safe_load((bundle / 'manifest.yaml').read_text()))
    assert keys == [field.name for field in fields(Manifest) if field.name not in OPTIONAL]
    assert load_bundle(bundle).scene is None
    assert sorted(path.name for path in bundle.iterdir()) == ['manifest.yaml', 'model.onnx']


@pytest.mark.parametrize(('change', 'says'), [
    (lambda d: d.update(scene=None), 'scene is None; expected a mapping'),
    (lambda d: d['scene'].update(each=3), 'scene.each is "an unknown key"'),
    (lambda d: d['scene'].pop('every'), 'scene.every is "no such key"'),
    (lambda d: d['scene'].update(every=0), 'scene.every is 0; expected an integer 1..100000'),
    (lambda d: d['scene'].update(every=100_001), 'scene.every is 100001'),
    (lambda d: d['scene'].update(every=True), 'scene.every is True'),
    (lambda d: d['scene'].update(width=0), 'scene.width is 0; expected an integer 1..65536'),
    (lambda d: d['scene'].update(width=65537), 'scene.width is 65537'),
    (lambda d: d['scene'].update(width=512.0), 'scene.width is 512.0'),
    (lambda d: d['scene'].update(onnx_sha256='0xyz'), 'scene.onnx_sha256 is "0xyz"; expected 64'),
    (lambda d: d['scene'].update(onnx_sha256=12), 'scene.onnx_sha256 is 12'),
    (lambda d: d['scene'].update(tensors='s'), 'scene.tensors is "s"; expected a list'),
    (lambda d: d['scene'].update(tensors=[]), r'scene.tensors is \[\]; expected 1..8 different'),
    (lambda d: d['scene'].update(tensors=['s', 's']), r"scene.tensors is \['s', 's'\]"),
    (lambda d: d['scene'].update(tensors=[3]), r'scene.tensors is \[3\]'),
    (lambda d: d['scene'].update(tensors=['rgb']), r"scene.tensors is \['rgb'\]"),
    (lambda d: d['scene'].update(tensors=['../s']), r"scene.tensors is \['../s'\]"),
    (lambda d: d['scene'].update(tensors=[f's{n}' for n in range(9)]), 'scene.tensors is '),
])
def test_a_wrong_scene_is_refused_by_a_sentence_that_names_the_key(tmp_path, change, says):
    bundle = write_scene_bundle(tmp_path / 'b')
    edit(bundle, change)
    with pytest.raises(RgbxSegError, match=says) as caught:
        load_bundle(bundle)
    assert 'manifest.yaml' in str(caught.value) and '\n' not in str(caught.value)


def test_a_missing_and_an_exchanged_scene_graph_are_refused(tmp_path):
    bundle = write_scene_bundle(tmp_path / 'b')
    (bundle / 'scene.onnx').write_bytes(scene_onnx(scene_width=8))
    with pytest.raises(RgbxSegError, match='scene.onnx: SHA-256 is [0-9a-f]{12}…, but .* expects'):
        load_bundle(bundle)
    (bundle / 'scene.onnx').unlink()
    with pytest.raises(RgbxSegError, match='scene.onnx is missing'):
        load_bundle(bundle)


def test_a_scene_graph_is_saved_with_its_manifest_or_not_at_all(tmp_path):
    both = replace(manifest(), scene=SceneGraph('', 4, 3))
    with pytest.raises(RgbxSegError, match='scene.onnx is not given, but manifest.scene is Scene'):
        save_bundle(tmp_path / 'b', tiny_onnx(scene_width=4), both)
    with pytest.raises(RgbxSegError, match='scene.onnx is given, but manifest.scene is None'):
        save_bundle(tmp_path / 'b', tiny_onnx(), manifest(), scene_onnx())
    assert not list(tmp_path.iterdir())
    write_tiny_bundle(write_scene_bundle(tmp_path / 'b'))
    assert not (tmp_path / 'b' / 'scene.onnx').exists()


VARIANT = Variant('fp16', 'fp16', ('tensorrt', 'torch'), {'model.onnx': 'ab' * 32}, 0.9993, -0.0004,
                  40, (480, 640), (512, 640))


def test_variants_survive_saving_and_loading(tmp_path):
    bare = replace(VARIANT, name='bf16_openvino', precision='bf16', backends=('openvino',),
                   files={}, miou_change=None, rgb_size=None, aux_size=None)
    given = replace(manifest(), variants=(VARIANT, bare))
    save_bundle(tmp_path / 'b', tiny_onnx(), given)
    assert load_bundle(tmp_path / 'b').variants == (VARIANT, bare)


@pytest.mark.parametrize(('change', 'says'), [
    (lambda v: v.update(name='../evil'), 'variants.name is "../evil"; expected lower-case'),
    (lambda v: v.update(name='.'), 'variants.name is "."'),
    (lambda v: v.update(files={'/etc/passwd': 'ab' * 32}), 'variants.name is "/etc/passwd"'),
    (lambda v: v.update(files={'model.onnx': 'x'}), 'variants.fp16.files.model.onnx is "x"'),
    (lambda v: v.update(files=['model.onnx']), r'variants\[0\].files is .*expected a mapping'),
    (lambda v: v.update(precision='fp8'), 'variants.fp16.precision is "fp8"; expected fp32, fp16'),
    (lambda v: v.update(backends=[]), 'variants.fp16.backends is'),
    (lambda v: v.update(backends='tensorrt'), r'variants\[0\].backends is "tensorrt"; expected a'),
    (lambda v: v.update(labels=1.2), 'variants.fp16.labels is 1.2; expected a number 0..1'),
    (lambda v: v.update(labels=float('nan')), 'variants.fp16.labels is nan'),
    (lambda v: v.update(miou_change=-3), 'variants.fp16.miou_change is -3'),
    (lambda v: v.update(pairs=0), 'variants.fp16.pairs is 0'),
    (lambda v: v.update(rgb_size=[480]), 'variants.fp16.rgb_size is'),
    (lambda v: v.update(rgb_size=[480, 99999]), 'variants.fp16.rgb_size is'),
    (lambda v: v.update(aux_size=640), r'variants\[0\].aux_size is 640; expected a list'),
    (lambda v: v.update(speed=2), r'variants\[0\].speed is "an unknown key"'),
    (lambda v: v.pop('labels'), r'variants\[0\].labels is "no such key"')])
def test_a_wrong_variant_is_refused_by_a_sentence_that_names_the_key(tmp_path, change, says):
    save_bundle(tmp_path / 'b', tiny_onnx(), replace(manifest(), variants=(VARIANT,)))
    edit(tmp_path / 'b', lambda data: change(data['variants'][0]))
    with pytest.raises(RgbxSegError, match=says):
        load_bundle(tmp_path / 'b')


def test_two_variants_of_one_name_are_refused(tmp_path):
    with pytest.raises(RgbxSegError, match='variants.name is .*expected no value twice'):
        replace(manifest(), variants=(VARIANT, VARIANT))


def test_the_tensors_of_a_scene_are_told_where_they_are_not_the_two_embeddings(tmp_path):
    bundle = write_scene_bundle(tmp_path / 'b')
    assert 'tensors' not in yaml.safe_load((bundle / 'manifest.yaml').read_text())['scene']
    own = replace(load_bundle(bundle).scene, tensors=('codebook',))
    save_bundle(tmp_path / 'c', tiny_onnx(), replace(manifest(), scene=own), scene_onnx())
    data = yaml.safe_load((tmp_path / 'c' / 'manifest.yaml').read_text())
    assert data['scene']['tensors'] == ['codebook']
    assert load_bundle(tmp_path / 'c').scene.tensors == ('codebook',)


def test_a_bundle_with_a_vocabulary_names_the_sha_of_its_bank(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b', vocabulary=200)
    own = load_bundle(bundle).vocabulary
    assert own == Vocabulary(4, 200, sha256_of(bundle / 'classes.npz'))
    np.testing.assert_array_equal(load_bank(bundle / 'classes.npz').embeddings,
                                  tiny_bank().embeddings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['b']


@pytest.mark.parametrize(('change', 'says'), [
    (lambda d: d.update(vocabulary=None), 'vocabulary is None; expected a mapping'),
    (lambda d: d['vocabulary'].update(file='/etc/passwd'), 'vocabulary.file is "an unknown key"'),
    (lambda d: d['vocabulary'].pop('most'), 'vocabulary.most is "no such key"'),
    (lambda d: d['vocabulary'].update(most=256), 'vocabulary.most is 256; expected .* 1..255'),
    (lambda d: d['vocabulary'].update(most=0), 'vocabulary.most is 0'),
    (lambda d: d['vocabulary'].update(most=True), 'vocabulary.most is True'),
    (lambda d: d['vocabulary'].update(width=0), 'vocabulary.width is 0; expected .* 1..65536'),
    (lambda d: d['vocabulary'].update(width=65537), 'vocabulary.width is 65537'),
    (lambda d: d['vocabulary'].update(width='4'), 'vocabulary.width is "4"'),
    (lambda d: d['vocabulary'].update(sha256='0xyz'), 'vocabulary.sha256 is "0xyz"; expected 64'),
    (lambda d: d['vocabulary'].update(most=2), r'classes is "3 of them"; expected at most .*\(2\)'),
    (lambda d: d['classes'].reverse(), r'classes.id is \[2, 1, 0\]; expected 0, 1, 2'),
    (lambda d: d['classes'].pop(1), r'classes.id is \[0, 2\]; expected 0, 1, 2'),
])
def test_a_wrong_vocabulary_is_refused_by_a_sentence_that_names_the_key(tmp_path, change, says):
    bundle = write_tiny_bundle(tmp_path / 'b', vocabulary=6)
    edit(bundle, change)
    with pytest.raises(RgbxSegError, match=says) as caught:
        load_bundle(bundle)
    assert 'manifest.yaml' in str(caught.value) and '\n' not in str(caught.value)


def test_a_missing_and_an_exchanged_bank_are_refused(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b', vocabulary=6)
    raw = bytearray((bundle / 'classes.npz').read_bytes())
    raw[len(raw) // 2] ^= 1
    (bundle / 'classes.npz').write_bytes(raw)
    with pytest.raises(RgbxSegError, match='classes.npz: SHA-256 is [0-9a-f]{12}…, but .* expects'):
        load_bundle(bundle)
    (bundle / 'classes.npz').unlink()
    with pytest.raises(RgbxSegError, match='classes.npz is missing'):
        load_bundle(bundle)


def test_a_bank_is_saved_with_its_manifest_or_not_at_all(tmp_path):
    own = replace(manifest(), vocabulary=Vocabulary(4, 6, ''))
    with pytest.raises(RgbxSegError, match='classes.npz is not given, but manifest.vocabulary is'):
        save_bundle(tmp_path / 'b', tiny_onnx(text_width=4), own)
    with pytest.raises(RgbxSegError, match='classes.npz is given, but .*vocabulary is None'):
        save_bundle(tmp_path / 'b', tiny_onnx(), manifest(), bank=tmp_path / 'classes')
    assert not list(tmp_path.iterdir())
