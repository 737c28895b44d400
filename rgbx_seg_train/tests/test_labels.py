# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The class sets: their tables agree with one another, with the rule, and with the sources."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from small_runs import HEIGHT, WIDTH, small_config, write_folder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.checkpoint import manifest_of
from rgbx_seg_train.config import DataConfig, FolderSource, SyntheticSource
from rgbx_seg_train.data.labels import CLASS_SETS, TO_UNION, translation, voc_color
from rgbx_seg_train.data.sources import open_source, stack
from rgbx_seg_train.data.synthetic import CLASSES

SIZES = {'mfnet': 9, 'pst900': 5, 'fmb': 14, 'fmb15': 15, 'deliver': 25, 'nyu40': 40, 'zju': 8,
         'urbanlf': 14, 'coco_stuff': 171, 'union70': 70}
UNITED = ('deliver', 'mfnet', 'nyu40', 'zju', 'urbanlf')  # in the order in which ids are given
SYNONYMS = [{'pedestrian', 'person'}, {'cars', 'car', 'vehicle'},
            {'twowheeler', 'bike', 'bicycle'}, {'groundrail', 'guardrail'}, {'other', 'others'},
            {'tree', 'vegetation'}]


def plain(name: str) -> str:
    return name.replace('_', '')


def kind(name: str) -> frozenset[str]:
    """Return all plain names of what a class shows."""
    return frozenset(next((words for words in SYNONYMS if plain(name) in words), {plain(name)}))


@pytest.mark.parametrize('name', SIZES)
def test_a_set_has_its_size_and_neither_name_nor_color_twice(name):
    classes = CLASS_SETS[name]
    assert [info.id for info in classes] == list(range(SIZES[name]))
    assert len({info.name for info in classes}) == len({info.color for info in classes}) \
        == SIZES[name] == len(TO_UNION[name])


def test_there_are_no_other_sets():
    assert CLASS_SETS.keys() == SIZES.keys() == TO_UNION.keys()
    assert CLASS_SETS['mfnet'] is CLASSES


@pytest.mark.parametrize('name', SIZES)
def test_classes_go_to_those_of_the_same_kind_each_to_its_own(name):
    union = CLASS_SETS['union70']
    ids = [i for i in TO_UNION[name] if i != UNLABELED]
    assert len(set(ids)) == len(ids)
    for info, target in zip(CLASS_SETS[name], TO_UNION[name], strict=True):
        known = {'survivor': 'person', 'background': 'unlabeled'}.get(info.name, info.name)
        twins = [other.id for other in union if kind(other.name) == kind(known)]
        assert twins == ([] if target == UNLABELED else [target]), info.name


def test_the_union_is_what_its_rule_makes_of_five_sets():
    names = [info.name for name in UNITED for info in CLASS_SETS[name]]
    assert len(names) == 96
    assert len(set(map(plain, names))) == 78
    seen = dict.fromkeys(map(kind, names))  # in order of appearance
    assert [kind(info.name) for info in CLASS_SETS['union70']] == list(seen)
    assert {i for name in UNITED for i in TO_UNION[name]} == set(range(70))


def test_the_united_maps_are_the_published_ones_at_a_glance():
    """Names, not ids: what a reader of the data sets would point at."""
    union = [info.name for info in CLASS_SETS['union70']]
    assert [union[i] for i in TO_UNION['mfnet']] == [
        'unlabeled', 'car', 'person', 'bike', 'curve', 'car_stop', 'guardrail', 'color_cone',
        'bump']
    assert [union[i] for i in TO_UNION['zju']] == [
        'building', 'glass', 'car', 'road', 'vegetation', 'sky', 'person', 'bike']
    assert [union[i] for i in (25, 30, 40, 50, 60, 69)] == [
        'unlabeled', 'floor', 'counter', 'ceiling', 'toilet', 'rider']


def test_colors_are_the_data_sets_own():
    union = CLASS_SETS['union70']
    assert [info.color for info in union[:25]] == [info.color for info in CLASS_SETS['deliver']]
    color = {name: {info.name: info.color for info in CLASS_SETS[name]} for name in CLASS_SETS}
    assert color['deliver']['road'] == (128, 64, 128)
    assert color['zju']['bicycle'] == (64, 0, 0)
    assert color['urbanlf']['rider'] == (156, 200, 26)
    assert color['fmb']['pole'] == (90, 113, 135)
    # PASCAL VOC: aeroplane, person, train, tv monitor
    assert [voc_color(i) for i in (1, 15, 19, 20)] == [
        (128, 0, 0), (192, 128, 128), (128, 192, 0), (0, 64, 128)]


@pytest.mark.parametrize('target', SIZES)
@pytest.mark.parametrize('source', SIZES)
def test_a_translation_keeps_equal_names_and_never_joins_classes(source, target):
    table = translation(source, target)[:SIZES[source]]
    found = [i for i in table if i != UNLABELED]
    assert len(set(found)) == len(found)
    there = {info.name: info.id for info in CLASS_SETS[target]}
    for info in CLASS_SETS[source]:
        assert table[info.id] == there.get(info.name, table[info.id]), info.name


def test_a_translation_goes_through_the_union():
    table = translation('mfnet', 'fmb')
    fmb = [info.name for info in CLASS_SETS['fmb']]
    assert table[0] == UNLABELED  # MFNet's unlabeled is road, sky and much else
    assert [fmb[i] for i in table[1:4]] == ['car', 'person', 'bicycle']
    assert set(table[4:]) == {UNLABELED}
    assert translation('deliver', 'union70')[:26].tolist() == [*range(25), UNLABELED]
    assert translation('fmb', 'fmb').tolist() == list(range(256))
    for name in UNITED:
        there, back = translation(name, 'union70'), translation('union70', name)
        assert back[there[:SIZES[name]]].tolist() == list(range(SIZES[name]))
        assert there[UNLABELED] == back[UNLABELED] == UNLABELED


@pytest.mark.parametrize('name', SIZES)
def test_a_set_makes_a_manifest(tmp_path, name):
    class Checkpoint:
        config = small_config(tmp_path, f'data.classes={name}')

    assert manifest_of(Checkpoint).n_classes == SIZES[name]


def test_rendered_scenes_come_under_any_set_and_are_rendered_once(tmp_path):
    source = SyntheticSource(count=2)
    data = {name: DataConfig(classes=name, height=HEIGHT, width=WIDTH, cache=str(tmp_path))
            for name in SIZES}
    own = open_source(source, data['mfnet'])
    for name in SIZES:
        samples = open_source(source, data[name])
        assert len(samples) == 2
        for mine, sample in zip(own, samples, strict=False):
            expected = np.full_like(mine.label, UNLABELED)
            for ours, theirs in enumerate(translation('mfnet', name)[:9]):
                expected[mine.label == ours] = theirs
            np.testing.assert_array_equal(stack([sample], data[name]).label[0], expected)
            assert sample.classes == ('mfnet' if name == 'union70' else name)
            np.testing.assert_array_equal(sample.rgb, mine.rgb)
    assert len(list(tmp_path.iterdir())) == 1


def test_ids_of_a_folder_are_checked_against_the_set(tmp_path):
    root = write_folder(tmp_path / 'images', names=('1D',))
    source = FolderSource(root=str(root))
    cv2.imwrite(str(root / 'label' / '1D.png'), np.full((HEIGHT, WIDTH), 69, np.uint8))
    assert open_source(source, DataConfig(classes='union70'))[0].label.max() == 69
    with pytest.raises(RgbxSegError, match='holds the id 69; expected 0..24 or 255'):
        open_source(source, DataConfig(classes='deliver'))[0]


def test_boxes_are_refused_where_their_classes_have_other_ids(tmp_path):
    source = FolderSource(root=str(write_folder(tmp_path, boxes=True)), boxes_dir='boxes')
    open_source(source, DataConfig())
    with pytest.raises(RgbxSegError, match='boxes_dir .* only of the classes mfnet, not zju'):
        open_source(source, DataConfig(classes='zju'))
