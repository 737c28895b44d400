# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MFNet, PST900, FMB, MSRS and plain folders: every sample is what was put on disk, or named."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import cv2
import miniature
import numpy as np
import pytest
from PIL import Image
from small_runs import small_config, use_stub, write_folder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.config import DataConfig, FolderSource, SyntheticSource
from rgbx_seg_train.config_file import config_to_dict, parse_config
from rgbx_seg_train.config_sources import FMBSource, MFNetSource, MSRSSource, PST900Source
from rgbx_seg_train.data import images
from rgbx_seg_train.data.check import verify
from rgbx_seg_train.data.images import image_size, read_color
from rgbx_seg_train.data.labels import CLASS_SETS, translation
from rgbx_seg_train.data.msrs import MSRS
from rgbx_seg_train.data.pst900 import fill_holes
from rgbx_seg_train.data.public import time_in_name
from rgbx_seg_train.data.public_sets import PUBLIC_SETS
from rgbx_seg_train.data.sample import CorruptImage
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.data.synthetic import aux_encoding
from rgbx_seg_train.train import main as train_main

WRITERS = {
    'mfnet': (miniature.mfnet, MFNetSource), 'mfnet_split': (miniature.mfnet_split, MFNetSource),
    'pst900': (miniature.pst900, PST900Source), 'fmb': (miniature.fmb, FMBSource),
    'msrs': (miniature.msrs, MSRSSource),
}


def data_of(**settings):
    return DataConfig(**settings)


def opened(source, classes=None, **options):
    kind = PUBLIC_SETS[source.kind]
    return open_source(source, data_of(classes=classes or kind.classes_of(source)), **options)


def assert_is(sample, drawn, label, thermal=None):
    np.testing.assert_array_equal(sample.rgb, drawn.rgb)
    expected = drawn.aux if thermal is None else thermal
    np.testing.assert_array_equal(sample.aux, expected[..., None])
    np.testing.assert_array_equal(sample.label, label)
    assert sample.modality == 'thermal' and sample.label.dtype == sample.aux.dtype == np.uint8


@pytest.mark.parametrize('indexed', [False, True])
def test_mfnet_of_four_channels_gives_its_lists_in_their_order(tmp_path, indexed):
    drawn = miniature.mfnet(tmp_path, indexed)
    for split, names in miniature.MFNET.items():
        samples = opened(MFNetSource(root=str(tmp_path), split=split))
        assert [sample.name for sample in samples] == names  # without the mirrored ones
        for sample in samples:
            assert_is(sample, drawn[sample.name], drawn[sample.name].raw)
            time = 'night' if sample.name.endswith('N') else 'day'
            assert sample.conditions == {'time': time} and sample.classes == 'mfnet'
    night = opened(MFNetSource(root=str(tmp_path), split='train_night'))
    assert [sample.name for sample in night] == ['00003N', '00004N']


def test_an_indexed_label_that_looks_like_colors_to_opencv_still_gives_ids(tmp_path):
    miniature.mfnet(tmp_path, indexed=True)
    path = tmp_path / 'labels' / '00001D.png'
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 3  # why Pillow reads labels
    assert path.read_bytes()[25] == 3  # PNG's color type of indexed images


def test_mfnet_in_two_images_is_the_same_data_set(tmp_path):
    drawn = miniature.mfnet_split(tmp_path / 'png', '.png')
    miniature.mfnet_split(tmp_path / 'jpg', '.jpg')
    exact = opened(MFNetSource(root=str(tmp_path / 'png'), split='test'))
    close = opened(MFNetSource(root=str(tmp_path / 'jpg'), split='test'))
    assert [sample.name for sample in exact] == miniature.MFNET['test']
    for sample, lossy in zip(exact, close, strict=False):
        assert_is(sample, drawn[sample.name], drawn[sample.name].raw)
        assert lossy.name == sample.name and lossy.conditions == sample.conditions
        assert lossy.aux.shape == sample.aux.shape
        for channel in range(3):  # a swap of red and blue would be far off
            difference = np.abs(lossy.rgb[..., channel].astype(int) - sample.rgb[..., channel])
            assert np.median(difference) < 12
        assert np.median(np.abs(lossy.aux.astype(int) - sample.aux)) < 4


def test_thermal_of_sixteen_bits_is_scaled_as_the_robot_scales_it(tmp_path):
    miniature.mfnet_split(tmp_path, '.png')
    raw = np.random.default_rng(0).integers(29000, 31000, (24, 32)).astype(np.uint16)
    miniature.save(raw, tmp_path / 'ther' / '00001D.png')
    sample = opened(MFNetSource(root=str(tmp_path)))[0]
    np.testing.assert_array_equal(sample.aux[..., 0], to_uint8(raw, aux_encoding('thermal')))


def test_pst900_has_its_official_ids_and_splits(tmp_path):
    drawn = miniature.pst900(tmp_path)
    for split, names in miniature.PST900.items():
        samples = opened(PST900Source(root=str(tmp_path), split=split, fill_holes=False))
        assert sorted(sample.name for sample in samples) == sorted(names)
        for sample in samples:
            assert_is(sample, drawn[sample.name], drawn[sample.name].raw)
            assert sample.conditions == {}
    assert [info.name for info in CLASS_SETS['pst900']] == [
        'background', 'fire_extinguisher', 'backpack', 'hand_drill', 'survivor']


def test_holes_of_pst900s_thermal_are_filled_and_nothing_else_changes(tmp_path):
    drawn = miniature.pst900(tmp_path)
    for sample in opened(PST900Source(root=str(tmp_path))):
        raw = drawn[sample.name].aux
        assert (raw == 0).sum() > 100
        np.testing.assert_array_equal(sample.aux[..., 0][raw > 0], raw[raw > 0])
        filled = sample.aux[..., 0][raw == 0]
        assert filled.min() >= raw[raw > 0].min() and filled.max() <= raw.max()


def test_filled_holes_continue_what_is_around_them():
    y, x = np.mgrid[:120, :161]
    smooth = (60 + 0.5 * x + 40 * np.sin(y / 40)).astype(np.uint8)
    broken = smooth.copy()
    broken[:12], broken[50:70, 60:90], broken[:, 155:] = 0, 0, 0
    broken[np.random.default_rng(0).random(broken.shape) < 0.05] = 0
    filled = fill_holes(broken)
    error = np.abs(filled.astype(int) - smooth)
    assert error[broken > 0].max() == 0
    assert error[broken == 0].mean() < 5 and error.max() < 25  # of 120 gray levels
    inpainted = cv2.inpaint(broken, (broken == 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    assert error.mean() < 1.5 * np.abs(inpainted.astype(int) - smooth).mean()


@pytest.mark.parametrize('value', [0, 7, 255])
def test_an_image_that_is_all_hole_or_has_none_stays_as_it_is(value):
    image = np.full((9, 13), value, np.uint8)
    np.testing.assert_array_equal(fill_holes(image), image)


def test_one_measurement_fills_the_whole_image():
    image = np.zeros((37, 50), np.uint8)
    image[30, 3] = 90
    assert set(np.unique(fill_holes(image))) == {90}


@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('colored', [False, True])
def test_fmb_scores_fourteen_classes_or_fifteen(tmp_path, flat, colored):
    drawn = miniature.fmb(tmp_path, flat, colored)
    for split, names in miniature.FMB.items():
        source = FMBSource(root=str(tmp_path), split=split)
        samples, all_classes = opened(source), opened(replace(source, protocol=15))
        assert [sample.name for sample in samples] == names
        for sample, other in zip(samples, all_classes, strict=False):
            raw = drawn[sample.name].raw
            assert set(np.unique(raw)) == set(range(15))
            assert_is(sample, drawn[sample.name], np.where(raw == 0, UNLABELED, raw - 1))
            assert_is(other, drawn[sample.name], raw)
            assert (sample.classes, other.classes) == ('fmb', 'fmb15')


def test_fmbs_fifteen_classes_are_the_fourteen_behind_a_background():
    fourteen, fifteen = CLASS_SETS['fmb'], CLASS_SETS['fmb15']
    assert [info.color for info in fifteen] == miniature.FMB_COLORS
    assert [(info.name, info.color) for info in fifteen[1:]] == [
        (info.name, info.color) for info in fourteen]
    # also the motorcycle, which the union does not have
    assert translation('fmb15', 'fmb')[:15].tolist() == [UNLABELED, *range(14)]
    assert translation('fmb', 'fmb15')[:14].tolist() == [*range(1, 15)]
    assert (fourteen[9].name, fifteen[0].name) == ('truck', 'background')


def test_msrs_has_mfnets_classes_and_tells_day_from_night(tmp_path):
    drawn = miniature.msrs(tmp_path)
    for split, names in miniature.MSRS.items():
        samples = opened(MSRSSource(root=str(tmp_path), split=split))
        assert [sample.name for sample in samples] == names
        for sample in samples:
            assert_is(sample, drawn[sample.name], drawn[sample.name].raw)
            assert sample.night == sample.name.endswith('N') and 'time' in sample.conditions


def test_hidden_files_of_archives_are_no_samples(tmp_path):
    miniature.msrs(tmp_path)
    for folder in ('vi', 'ir', 'Segmentation_labels'):
        (tmp_path / 'train' / folder / '._00001D.png').write_bytes(b'Mac OS X        ')
        (tmp_path / 'train' / folder / 'Thumbs.db').write_bytes(b'')
    names = [sample.name for sample in opened(MSRSSource(root=str(tmp_path)))]
    assert names == miniature.MSRS['train']


def test_official_numbers_add_up_to_the_published_totals():
    counts = {kind: PUBLIC_SETS[kind].COUNTS for kind in ('mfnet', 'pst900', 'fmb', 'msrs')}
    mfnet = counts['mfnet']
    for split in ('train', 'val', 'test'):
        assert mfnet[split] == mfnet[f'{split}_day'] + mfnet[f'{split}_night']
    assert sum(mfnet[split] for split in ('train', 'val', 'test')) == 1569
    assert sum(mfnet[f'{split}_day'] for split in ('train', 'val', 'test')) == 820
    assert sum(mfnet[f'{split}_night'] for split in ('train', 'val', 'test')) == 749
    assert [sum(counts[kind].values()) for kind in ('pst900', 'fmb', 'msrs')] == [894, 1500, 1444]


@pytest.mark.parametrize('name', WRITERS)
def test_a_set_travels_to_another_process_and_reads_the_same(tmp_path, name):
    writer, source = WRITERS[name]
    writer(tmp_path)
    samples = opened(source(root=str(tmp_path)))
    copy = pickle.loads(pickle.dumps(samples))
    for mine, other in zip(samples, copy, strict=True):
        np.testing.assert_array_equal(mine.label, other.label)
        np.testing.assert_array_equal(mine.aux, other.aux)
        assert mine.conditions == other.conditions


@pytest.mark.parametrize('name', WRITERS)
def test_labels_meet_the_union_and_other_sets(tmp_path, name):
    writer, source = WRITERS[name]
    writer(tmp_path)
    own = opened(source(root=str(tmp_path)))[0]
    united = opened(source(root=str(tmp_path)), 'union70')[0]
    np.testing.assert_array_equal(united.label, own.label)  # Eq. 8 needs the set's own ids
    assert united.classes == own.classes
    other = 'msrs' if name == 'pst900' else 'pst900'
    there = opened(source(root=str(tmp_path)), PUBLIC_SETS[other].classes)[0]
    table = translation(own.classes, PUBLIC_SETS[other].classes)
    np.testing.assert_array_equal(there.label, table[own.label])


# --- what bad input gets

BREAKS = [
    ('mfnet', lambda r: (r / 'train.txt').unlink(), RgbxSegError, r'train\.txt: no such list'),
    ('mfnet', lambda r: (r / 'images').rename(r / 'pictures'), RgbxSegError, 'neither images nor'),
    ('mfnet', lambda r: (r / 'labels' / '00001D.png').unlink(), RgbxSegError,
     'labels/00001D.png: no such file, and 0 others'),
    ('mfnet_split', lambda r: [p.unlink() for p in (r / 'ther').glob('*N.jpg')], RgbxSegError,
     'ther/00003N.*no such file, and 1 others'),
    ('mfnet', lambda r: (r / 'train.txt').write_text('\n'), RgbxSegError, 'no sample of the split'),
    ('mfnet', lambda r: miniature.cut(r / 'images' / '00001D.png'), CorruptImage,
     '00001D.png: cannot be decoded'),
    ('mfnet_split', lambda r: miniature.cut(r / 'rgb' / '00001D.jpg'), CorruptImage,
     '00001D.jpg: cannot be decoded'),
    ('mfnet_split', lambda r: miniature.cut(r / 'ther' / '00001D.jpg'), CorruptImage,
     '00001D.jpg: cannot be decoded'),
    ('mfnet', lambda r: miniature.cut(r / 'labels' / '00001D.png'), CorruptImage,
     'labels/00001D.png: cannot be decoded'),
    ('mfnet', lambda r: (r / 'labels' / '00001D.png').write_bytes(b''), CorruptImage, 'decoded'),
    ('mfnet', lambda r: (r / 'images' / '00001D.png').write_bytes(b''), CorruptImage, 'decoded'),
    ('mfnet', lambda r: miniature.save(np.zeros((24, 32, 3), np.uint8), r / 'images/00001D.png'),
     CorruptImage, r'uint8 \(24, 32, 3\); expected uint8 of 4 channels'),
    ('mfnet_split', lambda r: cv2.imwrite(str(r / 'ther/00001D.tif'), np.zeros((24, 32)))
     and (r / 'ther/00001D.jpg').unlink(), CorruptImage, 'ther/00001D.tif: .*float64'),
    ('mfnet', lambda r: miniature.save(np.full((24, 32), 9, np.uint8), r / 'labels/00001D.png'),
     RgbxSegError, 'the value 9'),
    ('mfnet', lambda r: miniature.save(np.full((24, 32), 255, np.uint8), r / 'labels/00001D.png'),
     RgbxSegError, 'the value 255'),  # nothing of MFNet is ignored
    ('mfnet', lambda r: miniature.save(np.zeros((24, 32), np.uint16), r / 'labels/00001D.png'),
     RgbxSegError, 'uint16; expected uint8'),
    ('mfnet', lambda r: miniature.save(np.zeros((12, 16), np.uint8), r / 'labels/00001D.png'),
     RgbxSegError, 'the label is 16x12 and the RGB image 32x24'),
    ('msrs', lambda r: (r / 'train' / 'ir').rename(r / 'train' / 'IR'), RgbxSegError,
     'ir: no such folder'),
    ('msrs', lambda r: miniature.save(np.full((24, 32), 9, np.uint8),
                                      r / 'train/Segmentation_labels/00001D.png'),
     RgbxSegError, 'the value 9'),
    ('pst900', lambda r: miniature.save(np.full((24, 32), 5, np.uint8), next(
        (r / 'train' / 'labels').iterdir())), RgbxSegError, 'the value 5'),
    ('fmb', lambda r: miniature.save(np.full((24, 32), 15, np.uint8),
                                     r / 'train/Label/00001.png'), RgbxSegError, 'the value 15'),
    ('fmb', lambda r: miniature.save(np.full((24, 32, 3), (1, 2, 3), np.uint8),
                                     r / 'train/Label/00001.png'),
     RgbxSegError, r'the color \(1, 2, 3\), which no class has'),
]


@pytest.mark.parametrize('name, break_it, kind, words', BREAKS)
def test_what_is_wrong_is_told_in_a_sentence(tmp_path, name, break_it, kind, words):
    writer, source = WRITERS[name]
    writer(tmp_path)
    break_it(tmp_path)
    with pytest.raises(kind, match=words) as raised:
        list(opened(source(root=str(tmp_path))))
    assert '\n' not in str(raised.value) and str(raised.value).endswith('.')


def test_a_root_that_is_not_there_is_told(tmp_path):
    with pytest.raises(RgbxSegError, match='no such folder'):
        opened(MSRSSource(root=str(tmp_path / 'nowhere')))


@pytest.mark.parametrize('source, words', [
    ({'kind': 'fmb', 'root': 'x', 'protocol': 13}, 'protocol is 13; expected 14..15'),
    ({'kind': 'pst900', 'root': 'x', 'split': 'val'}, "split is 'val'; expected one of train, t"),
    ({'kind': 'msrs', 'root': ''}, 'root is empty'),
])
def test_sources_that_cannot_be_are_refused_before_anything_is_read(source, words):
    with pytest.raises(RgbxSegError, match=words):
        parse_config({'data': {'train': [source]}})


# --- a user's own folder

OWN = {'floor': [10, 20, 30], 'wall': [200, 0, 0], 'dog': None}


def own_folder(root, label):
    write_folder(root, ['a1'])
    label(root / 'label' / 'a1.png')
    return FolderSource(root=str(root), classes='')


IDS = np.kron(np.array([[0, 1, 2, 255]]), np.ones((32, 12), int)).astype(np.uint8)


@pytest.mark.parametrize('form', ['gray', 'indexed', 'color', 'color with alpha'])
def test_own_classes_come_as_ids_or_colors(tmp_path, form):
    data = data_of(classes='own', own_classes=OWN)
    colors = np.zeros((256, 3), np.uint8)  # 255, unlabeled, is black
    colors[:3] = [info.color for info in data.class_infos]
    image = {'gray': IDS, 'indexed': IDS, 'color': colors[IDS]}.get(form)
    if image is None:
        image = np.dstack([colors[IDS], np.full(IDS.shape, 255, np.uint8)])
    palette = [tuple(color) for color in colors.tolist()] if form == 'indexed' else ()
    source = own_folder(tmp_path, lambda path: miniature.save(image, path, palette))
    sample = open_source(source, data)[0]
    np.testing.assert_array_equal(sample.label, IDS)
    assert sample.conditions == {}  # a1 tells nothing of the time


def test_a_black_class_takes_the_black_pixels(tmp_path):
    data = data_of(classes='own', own_classes={'nothing': [0, 0, 0], 'wall': [200, 0, 0]})
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, 20:] = 200, 0, 0
    source = own_folder(tmp_path, lambda path: miniature.save(image, path))
    expected = np.repeat([[0] * 20 + [1] * 28], 32, 0)
    np.testing.assert_array_equal(open_source(source, data)[0].label, expected)


@pytest.mark.parametrize('image, words', [
    (np.full((32, 48, 3), (200, 0, 1), np.uint8), r'the color \(200, 0, 1\), which no class has'),
    (np.full((32, 48), 3, np.uint8), r'the id 3; expected 0\.\.2 or 255'),
    (np.zeros((32, 48), np.uint16), 'uint16; expected uint8'),
    (np.zeros((31, 48), np.uint8), 'expected'),
])
def test_a_strange_label_of_an_own_folder_is_named(tmp_path, image, words):
    source = own_folder(tmp_path, lambda path: miniature.save(image, path))
    with pytest.raises(RgbxSegError, match=words) as raised:
        open_source(source, data_of(classes='own', own_classes=OWN))[0]
    assert 'a1.png' in str(raised.value)


def test_a_folder_has_classes_of_its_own_beside_the_networks(tmp_path):
    write_folder(tmp_path, ['00001D'])
    label = np.full((32, 48), 7, np.uint8)
    miniature.save(label, tmp_path / 'label' / '00001D.png')
    sample = open_source(FolderSource(root=str(tmp_path), classes='fmb'), data_of())[0]
    assert set(np.unique(sample.label)) == {2} and sample.classes == 'mfnet'  # person


def test_unlabeled_pairs_need_no_label(tmp_path):
    write_folder(tmp_path, ['00001D', '00002N'])
    for path in (tmp_path / 'label').iterdir():
        path.unlink()
    (tmp_path / 'label').rmdir()
    source = FolderSource(root=str(tmp_path))
    samples = open_source(source, data_of(), labeled=False)
    assert [sample.name for sample in samples] == ['00001D', '00002N']
    assert {int(value) for sample in samples for value in np.unique(sample.label)} == {UNLABELED}
    with pytest.raises(RgbxSegError, match='label: no such folder'):
        open_source(source, data_of())


@pytest.mark.parametrize('name', WRITERS)
def test_unlabeled_pairs_of_public_sets_need_no_labels_either(tmp_path, name):
    writer, kind = WRITERS[name]
    writer(tmp_path / 'set')
    source = kind(root=str(tmp_path / 'set'))
    expected = list(opened(source))
    for path in sorted((tmp_path / 'set').rglob('*abel*')):
        if path.is_dir():
            path.rename(tmp_path / f'away{len(list(tmp_path.iterdir()))}')
    samples = opened(source, 'zju', labeled=False)
    for sample, known in zip(samples, expected, strict=True):
        np.testing.assert_array_equal(sample.rgb, known.rgb)
        np.testing.assert_array_equal(sample.aux, known.aux)
        assert (sample.label == UNLABELED).all() and sample.classes == 'zju'
    verify([samples], small_config(tmp_path))


def test_rendered_scenes_without_labels_go_to_any_classes(tmp_path):
    data = data_of(classes='own', own_classes=OWN, cache=str(tmp_path), height=24, width=32)
    sample = open_source(SyntheticSource(count=1), data, labeled=False)[0]
    assert (sample.label == UNLABELED).all() and sample.classes == 'own'


# --- what is verified before the first step

def verified(tmp_path, sources, *overrides, **options):
    config = small_config(tmp_path, *overrides)
    verify([open_source(source, config.data, **options) for source in sources], config)


@pytest.mark.parametrize('name', WRITERS)
def test_right_labels_pass_and_are_read_once_and_never_again(tmp_path, name, monkeypatch):
    writer, source = WRITERS[name]
    drawn = writer(tmp_path / 'set')
    sources = [source(root=str(tmp_path / 'set'), split=split) for split in ('train', 'test')]
    kind, read = PUBLIC_SETS[source.kind], []
    original = kind.read_label
    monkeypatch.setattr(kind, 'read_label', lambda self, entry: read.append(entry.name)
                        or original(self, entry))
    verified(tmp_path, sources)
    unused = miniature.MFNET['val'] if name == 'mfnet' else []
    assert sorted(read) == sorted(drawn.keys() - set(unused))
    verified(tmp_path, sources)
    assert len(read) == len(drawn) - len(unused)  # remembered
    changed = next(path for path in sorted((tmp_path / 'set').rglob('*abel*/*.png'))
                   if path.stem not in unused)
    changed.write_bytes(changed.read_bytes() + b' ')
    del read[:]
    verified(tmp_path, sources)
    assert read == [changed.stem]


def test_labels_that_were_right_under_other_code_are_read_again(tmp_path, monkeypatch):
    miniature.msrs(tmp_path / 'set')
    sources, read = [MSRSSource(root=str(tmp_path / 'set'))], []
    original = MSRS.read_label
    monkeypatch.setattr(MSRS, 'read_label', lambda self, entry: read.append(entry.name)
                        or original(self, entry))
    verified(tmp_path, sources)
    code = tmp_path / 'images.py'
    code.write_text('# a reader that was corrected')
    real = inspect.getfile
    monkeypatch.setattr(inspect, 'getfile', lambda module: str(code) if module is images
                        else real(module))
    verified(tmp_path, sources)
    assert sorted(read) == sorted(2 * miniature.MSRS['train'])


@pytest.mark.parametrize('name, time', [
    ('00001D', {'time': 'day'}), ('00002N', {'time': 'night'}), ('STATION', {}), ('D', {}),
    ('00001', {}), ('', {})])
def test_a_name_tells_the_time_by_a_letter_behind_a_number(name, time):
    assert dict(time_in_name(name)) == time


@pytest.mark.parametrize('name', WRITERS)
def test_a_strange_value_stops_before_the_first_step(tmp_path, name):
    writer, source = WRITERS[name]
    writer(tmp_path / 'set')
    labels = sorted(path for path in (tmp_path / 'set').rglob('*abel*/*.png')
                    if 'test' not in path.parts)
    strange = next(path for path in labels if path.stem in (
        *miniature.MFNET['train'], *miniature.PST900['train'], *miniature.FMB['train']))
    label = np.zeros((24, 32), np.uint8)
    label[5, 5] = 99
    miniature.save(label, strange)
    with pytest.raises(RgbxSegError, match=f'{strange.stem}.png: the label has the value 99'):
        verified(tmp_path, [source(root=str(tmp_path / 'set'))])
    with pytest.raises(RgbxSegError, match='the value 99'):  # a wrong label is not remembered
        verified(tmp_path, [source(root=str(tmp_path / 'set'))])


def test_a_label_of_another_size_stops_before_the_first_step(tmp_path):
    miniature.mfnet(tmp_path / 'set')
    miniature.save(np.zeros((20, 32), np.uint8), tmp_path / 'set' / 'labels' / '00003N.png')
    words = '00003N.png: the label is 32x20 and the RGB image 32x24'
    with pytest.raises(RgbxSegError, match=words):
        verified(tmp_path, [MFNetSource(root=str(tmp_path / 'set'))])


def test_a_folders_labels_are_verified_too(tmp_path):
    write_folder(tmp_path / 'own', ['a1', 'a2'])
    source = FolderSource(root=str(tmp_path / 'own'))
    verified(tmp_path, [source])
    miniature.save(np.full((32, 48), 9, np.uint8), tmp_path / 'own' / 'label' / 'a2.png')
    with pytest.raises(RgbxSegError, match='a2.png: holds the id 9'):
        verified(tmp_path, [source])
    verified(tmp_path, [source], 'data.classes=deliver')  # which has that class
    verified(tmp_path, [source], labeled=False)  # nobody looks at it


def test_what_cannot_be_decoded_is_left_to_the_training_to_count(tmp_path):
    miniature.mfnet(tmp_path / 'set')
    miniature.cut(tmp_path / 'set' / 'labels' / '00001D.png')
    (tmp_path / 'set' / 'images' / '00003N.png').write_bytes(b'no image')
    verified(tmp_path, [MFNetSource(root=str(tmp_path / 'set'))])


def test_a_file_that_vanished_since_it_was_listed_is_named(tmp_path):
    miniature.msrs(tmp_path / 'set')
    config = small_config(tmp_path)
    samples = open_source(MSRSSource(root=str(tmp_path / 'set')), config.data)
    (tmp_path / 'set' / 'train' / 'vi' / '00002N.png').unlink()
    with pytest.raises(RgbxSegError, match='vi/00002N.png: no such file'):
        verify([samples], config)


def test_a_modality_the_model_was_not_built_for_is_named(tmp_path):
    miniature.msrs(tmp_path / 'set')
    sources = [MSRSSource(root=str(tmp_path / 'set'))]
    for built_for in ('[]', '[thermal]', '[depth, thermal]'):
        verified(tmp_path, sources, f'model.modalities={built_for}')
    with pytest.raises(RgbxSegError, match='set: the second images are thermal, the model is built '
                                           'for depth, event'):
        verified(tmp_path, sources, 'model.modalities=[depth, event]')


def test_rendered_scenes_have_a_modality_too_and_other_samples_none(tmp_path):
    config = small_config(tmp_path, 'model.modalities=[depth]')
    rendered = SimpleNamespace(settings=SimpleNamespace(modality='event'))
    verify([[]], config)
    with pytest.raises(RgbxSegError, match='rendered scenes: the second images are event'):
        verify([rendered], config)


@pytest.mark.parametrize('content', [b'', b'[1, 2]', b'{"x": ', b'\xff\xfe'])
def test_a_broken_memory_is_made_anew(tmp_path, content):
    miniature.msrs(tmp_path / 'set')
    sources = [MSRSSource(root=str(tmp_path / 'set'))]
    verified(tmp_path, sources)
    memory, = (tmp_path / 'cache').iterdir()
    before = memory.read_bytes()
    memory.write_bytes(content)
    verified(tmp_path, sources)
    assert memory.read_bytes() == before


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
@pytest.mark.parametrize('orientation', [None, 1, 3, 6, 8])
def test_the_size_in_an_images_head_is_that_of_its_pixels_also_of_upright_photos(
        tmp_path, suffix, orientation):
    image, path = Image.fromarray(np.zeros((20, 30, 3), np.uint8)), tmp_path / f'image{suffix}'
    exif = image.getexif()
    if orientation:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    assert image_size(path) == read_color(path).shape[:2]


# --- what the command says

def strange_label(root):
    miniature.save(np.full((24, 32), 99, np.uint8),
                   root / 'train' / 'Segmentation_labels' / '00002N.png')


def small_label(root):
    miniature.save(np.zeros((12, 16), np.uint8),
                   root / 'train' / 'Segmentation_labels' / '00002N.png')


@pytest.mark.parametrize('break_it, override, words', [
    (strange_label, '', '00002N.png: the label has the value 99'),
    (small_label, '', '00002N.png: the label is 16x12 and the RGB image 32x24'),
    (lambda root: (root / 'train' / 'ir' / '00001D.png').unlink(), '', 'ir/00001D.png: no such'),
    (lambda root: (root / 'train').rename(root / 'training'), '', 'train/vi: no such folder'),
    (lambda root: None, 'model.family=segrgbx model.modalities=[depth]',
     'second images are thermal, the model is built for depth'),
])
def test_training_ends_with_a_sentence_before_its_first_step(
        tmp_path, monkeypatch, capsys, break_it, override, words):
    use_stub(monkeypatch)
    miniature.msrs(tmp_path / 'msrs')
    break_it(tmp_path / 'msrs')
    sources = [{'kind': 'msrs', 'root': str(tmp_path / 'msrs')}]
    path = tmp_path / 'config.yaml'
    config = config_to_dict(small_config(tmp_path))
    config['data'].update(train=sources, validate=sources, test=sources)
    path.write_text(json.dumps(config))  # JSON is YAML
    monkeypatch.setattr(sys, 'argv', ['rgbx_train', str(path), *override.split()])
    assert train_main() == 1
    error = capsys.readouterr().err
    assert words in error and error.splitlines()[-1].startswith('rgbx_train: error: ')
    assert sum('error' in line for line in error.splitlines()) == 1
    assert not list(tmp_path.rglob('*.safetensors')) and not list(tmp_path.rglob('log.jsonl'))
