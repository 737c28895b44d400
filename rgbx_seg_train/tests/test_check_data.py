# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rgbx_check_data: its figures are those counted by hand, and everything wrong is named."""

from __future__ import annotations

import json
import sys

import miniature
import miniature_rgbx
import numpy as np
import pytest
import yaml
from small_runs import write_folder

from rgbx_seg_train.check_data import KINDS, main
from rgbx_seg_train.data.labels import CLASS_SETS


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs the command: exit code, table by row, problems, JSON."""
    def run(*arguments):
        file = tmp_path / 'found.json'
        monkeypatch.setattr(sys, 'argv', ['rgbx_check_data', *map(str, arguments), '--json',
                                          str(file)])
        code = main()
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        problems = [line for line in lines if line.startswith('- ')]
        table = {line[:25].strip(): line[25:].split() for line in lines if line not in problems}
        found = json.loads(file.read_text())['splits'] if file.exists() else []
        return code, table, problems, {split['split']: split for split in found}, captured.err
    return run


def official(monkeypatch, kind, **counts):
    """Let the miniature's numbers be the official ones."""
    from rgbx_seg_train.data.public_sets import PUBLIC_SETS

    monkeypatch.setattr(PUBLIC_SETS[kind], 'COUNTS', counts)


def small_msrs(monkeypatch, root):
    official(monkeypatch, 'msrs', train=2, test=1)
    return miniature.msrs(root)


def test_a_whole_data_set_passes_with_its_shares_of_pixels(command, tmp_path, monkeypatch):
    drawn = small_msrs(monkeypatch, tmp_path)
    code, table, problems, found, error = command('msrs', tmp_path)
    assert (code, problems, error) == (0, [], '')
    assert table[''] == ['msrs', 'train', 'msrs', 'test']
    for row, values in {'samples': '2 1', 'officially': '2 1', 'rgb missing': '0 0',
                        'aux missing': '0 0', 'label missing': '0 0', 'unreadable': '0 0',
                        'wrong values': '0 0', 'label of another size': '0 0',
                        'aux of another size': '0 0', 'ignored pixels (255), %': '0.00 0.00',
                        }.items():
        assert table[row] == values.split(), row
    for split, names in miniature.MSRS.items():
        raw = np.stack([drawn[name].raw for name in names])
        for info in CLASS_SETS['mfnet']:
            share = (raw == info.id).mean()
            assert found[f'msrs {split}']['class_shares'][info.name] == pytest.approx(share)
            assert f'{100 * share:.2f}' in table[f'{info.name}, %']


def test_ignored_pixels_are_of_all_and_classes_of_the_labeled(command, tmp_path, monkeypatch):
    official(monkeypatch, 'fmb', train=3, test=1)
    drawn = miniature.fmb(tmp_path)
    code, _, _, found, _ = command('fmb', tmp_path, 'split=test')
    raw = drawn['00003'].raw
    assert code == 0 and list(found) == ['fmb test']
    assert found['fmb test']['unlabeled_share'] == pytest.approx((raw == 0).mean())
    assert found['fmb test']['class_shares']['road'] == pytest.approx(
        (raw == 1).sum() / (raw > 0).sum())
    assert sum(found['fmb test']['class_shares'].values()) == pytest.approx(1)


def test_too_few_samples_are_told_beside_the_official_number(command, tmp_path):
    miniature.pst900(tmp_path)
    code, table, problems, _, error = command('pst900', tmp_path)
    assert code == 1 and table['officially'] == ['597', '297']
    assert problems == ['- pst900 train: 2 samples, officially 597',
                        '- pst900 test: 1 samples, officially 297']
    assert '2 problems' in error and error.count('\n') == 1


def damage(root):
    """Break MSRS's training split in every way; of a third pair only the label is there."""
    train = root / 'train'
    (train / 'vi' / '00001D.png').unlink()
    miniature.cut(train / 'ir' / '00001D.png')
    label = np.zeros((20, 32), np.uint8)
    miniature.save(label, train / 'Segmentation_labels' / '00002N.png')
    label[3, 4] = 77
    miniature.save(label, train / 'Segmentation_labels' / '00001D.png')
    miniature.save(label[:8], train / 'Segmentation_labels' / '00009D.png')
    miniature.save(np.full((12, 16), 9, np.uint8), train / 'ir' / '00002N.png')


def test_everything_wrong_is_counted_and_named(command, tmp_path, monkeypatch):
    small_msrs(monkeypatch, tmp_path)
    damage(tmp_path)
    code, table, problems, found, error = command('msrs', tmp_path)
    assert code == 1 and 'problems, listed above' in error
    for row, values in {'samples': '3 1', 'rgb missing': '2 0', 'aux missing': '1 0',
                        'label missing': '0 0', 'unreadable': '1 0', 'wrong values': '2 0',
                        'label of another size': '1 0', 'aux of another size': '1 0'}.items():
        assert table[row] == values.split(), row
    told = '\n'.join(problems)
    for words in ('3 samples, officially 2', '2 rgb missing: ', 'vi/00001D.png', 'vi/00009D.png',
                  '1 aux missing: ', 'ir/00009D.png', '1 unreadable: ', 'ir/00001D.png: cannot be',
                  '2 with wrong values: ', '00001D.png: the label has the value 77',
                  '1 of differing sizes: ',
                  '00002N.png: the label is 32x20 and the RGB image 32x24'):
        assert words in told, words
    assert all(line.startswith('- msrs train: ') for line in problems)
    assert found['msrs train']['missing']['aux'] == [str(tmp_path / 'train' / 'ir' / '00009D.png')]
    assert found['msrs test']['problems'] == []


def test_of_many_files_some_are_named_and_the_rest_counted(command, tmp_path, monkeypatch):
    official(monkeypatch, 'mfnet', train=20, test=0)
    names = [f'{number:05d}D' for number in range(20)]
    miniature.mfnet_split(tmp_path)
    miniature.write_list(tmp_path / 'train.txt', names)
    code, table, problems, found, _ = command('mfnet', tmp_path, 'split=train')
    assert code == 1 and table['label missing'] == ['18']  # all but 00001D and 00008D
    line = next(line for line in problems if '18 label missing' in line)
    assert line.count('.png') == 5 and line.endswith('and 13 more')
    assert len(found['mfnet train']['missing']['label']) == 18


def test_mfnet_has_a_column_for_each_list_and_each_file_is_read_once(command, tmp_path,
                                                                     monkeypatch):
    from rgbx_seg_train.data.mfnet import MFNet

    miniature.mfnet(tmp_path)
    read, original = [], MFNet.read_label
    monkeypatch.setattr(MFNet, 'read_label', lambda self, entry: read.append(entry.name)
                        or original(self, entry))
    _, table, problems, found, _ = command('mfnet', tmp_path)
    assert table['samples'] == ['3', '2', '2', '1', '2', '1', '1', '1', '1']
    assert sorted(read) == sorted(sum(miniature.MFNET.values(), []))
    assert list(found)[:3] == ['mfnet train', 'mfnet val', 'mfnet test']
    assert len(problems) == 9 and all('officially' in line for line in problems)
    (tmp_path / 'val.txt').unlink()
    (tmp_path / 'val_day.txt').unlink()  # of these few people keep all
    _, _, problems, found, _ = command('mfnet', tmp_path)
    assert 'mfnet val_day' not in found
    assert any('mfnet val: ' in line and 'val.txt: no such list' in line for line in problems)


def test_mfnet_in_two_images_has_two_lists(command, tmp_path):
    miniature.mfnet_split(tmp_path)
    _, table, _, found, _ = command('mfnet', tmp_path)
    assert list(found) == ['mfnet train', 'mfnet test'] and table['samples'] == ['3', '2']


def test_a_folder_that_is_not_there_is_a_problem_of_each_split(command, tmp_path):
    code, _, problems, found, _ = command('fmb', tmp_path / 'nowhere')
    assert code == 1 and len(problems) == 2 and 'no such folder' in problems[0]
    assert found['fmb train']['failure']


def test_an_own_folder_may_have_images_without_labels_but_no_lonely_ones(command, tmp_path):
    root = write_folder(tmp_path / 'images')
    (root / 'label' / '00001D.png').unlink()
    code, table, problems, _, _ = command('folder', root)
    assert (code, problems) == (0, []) and table['label missing'] == ['1']
    (root / 'thermal' / '00002N.png').rename(root / 'thermal' / '2N.png')
    code, table, problems, _, _ = command('folder', root)
    assert code == 1 and table['rgb missing'] == ['1'] and table['aux missing'] == ['1']
    assert 'rgb/2N.png' in problems[0] and 'thermal/00002N.png' in problems[1]


def write_config(tmp_path, **data):
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump({'data': data, 'model': {'modalities': ['thermal']}}))
    return path


def test_a_configuration_has_a_column_for_each_source_once(command, tmp_path, monkeypatch):
    small_msrs(monkeypatch, tmp_path / 'msrs')
    root = str(write_folder(tmp_path / 'images'))
    ours = {'kind': 'msrs', 'root': str(tmp_path / 'msrs')}
    config = write_config(
        tmp_path, train=[{'kind': 'synthetic'}, {**ours, 'weight': 2.0}, ours],
        validate=[{**ours, 'split': 'test'}], unlabeled=[{'kind': 'folder', 'root': root}])
    code, table, problems, found, _ = command(config)
    assert (code, problems) == (0, [])
    assert list(found) == ['msrs train', 'msrs test', 'images all']
    assert table['samples'] == ['2', '1', '4']
    code, _, problems, _, _ = command(config, 'data.unlabeled.0.modality=depth')
    assert code == 1 and 'images/depth: no such folder' in problems[0]
    code, _, problems, _, _ = command(config, 'model.modalities=[event]')
    assert code == 1 and len(problems) == 3
    assert all('the model is built for event' in line for line in problems)


def test_one_folder_under_other_settings_is_looked_at_again(command, tmp_path):
    miniature_rgbx.write_zju(tmp_path / 'zju', 'bgr')
    ours = {'kind': 'zju', 'root': str(tmp_path / 'zju'), 'split': 'val'}
    config = write_config(tmp_path, train=[{**ours, 'channel_order': 'bgr'}],
                          test=[{**ours, 'channel_order': 'rgb'}])
    _, table, problems, _, _ = command(config, 'model.modalities=[polarization]')
    assert table['wrong values'] == ['0', '1']
    assert any('color (0, 0, 64), which no class has' in line for line in problems)


def test_depth_that_is_no_depth_is_told_beside_what_can_be_read_of_it(command, tmp_path):
    miniature_rgbx.write_nyu(tmp_path / 'nyu', hha=False, depth=np.full((24, 32), 9, np.uint16))
    for name in '14':
        miniature.save(np.full((24, 32), 90, np.uint8), tmp_path / 'nyu' / 'Depth' / f'{name}.png')
    ours = {'kind': 'nyu', 'root': str(tmp_path / 'nyu')}
    config = write_config(tmp_path, train=[{**ours, 'aux': 'depth'}, {**ours, 'aux': 'hha'}])
    _, table, _, _, _ = command(config, 'model.modalities=[depth]')
    assert table['wrong values'] == ['0', '2']


def test_what_is_wrong_with_all_files_alike_is_told_once(command, tmp_path):
    miniature_rgbx.write_zju(tmp_path, street=False)
    code, table, problems, _, _ = command('zju', tmp_path, 'split=train')
    assert code == 1 and table['wrong values'] == ['3']
    line = next(line for line in problems if '3 with wrong values: ' in line)
    assert line.count('set channel_order to rgb or bgr') == 1 and 'more' not in line


@pytest.mark.parametrize('kind, image', [
    ('deliver', 'img/fog/train/MAP_1_point2/045051_rgb_front.png'),
    ('coco_stuff', 'images/train2017/000000000009.jpg')])
def test_an_image_that_only_its_label_tells_of_is_named(command, tmp_path, kind, image):
    getattr(miniature_rgbx, f'write_{kind}')(tmp_path)
    (tmp_path / image).unlink()
    _, table, problems, _, _ = command(kind, tmp_path, 'split=train')
    assert table['rgb missing'] == ['1'] and any(line.endswith(image) for line in problems)


def test_labels_that_are_not_read_are_not_looked_at(command, tmp_path):
    root = write_folder(tmp_path / 'images')
    miniature.save(np.full((32, 48), 99, np.uint8), root / 'label' / '00001D.png')
    miniature_rgbx.write_urbanlf(tmp_path / 'urbanlf', split='test', labels=False)
    config = write_config(tmp_path, unlabeled=[
        {'kind': 'folder', 'root': str(root)},
        {'kind': 'urbanlf', 'root': str(tmp_path / 'urbanlf'), 'split': 'test'}])
    _, table, problems, _, _ = command(config, 'model.modalities=[]')
    assert table['wrong values'] == table['label missing'] == ['0', '0']
    assert problems == ['- urbanlf test: 3 samples, officially 214']


def test_own_classes_are_checked_by_their_configuration(command, tmp_path):
    root = write_folder(tmp_path / 'images')  # with the ids 0 and 2
    data = {'classes': 'own', 'train': [{'kind': 'folder', 'root': str(root)}]}
    config = write_config(tmp_path, own_classes={'a': None, 'b': None, 'c': None}, **data)
    code, table, _, _, _ = command(config)
    assert code == 0 and table['b, %'] == ['0.00'] and table['c, %'] != ['0.00']
    config = write_config(tmp_path, own_classes={'a': None, 'b': None}, **data)
    code, table, problems, _, _ = command(config)
    assert code == 1 and table['wrong values'] == ['4'] and 'holds the id 2' in problems[0]


@pytest.mark.parametrize('arguments, words', [
    (['nosuch', 'x'], 'nosuch is no kind of data set; expected folder, mfnet'),
    (['msrs'], 'no folder is given'),
    (['msrs', 'split=test'], 'no folder is given'),
    (['msrs', 'x', 'splat=test'], 'splat is an unknown key'),
    (['msrs', 'x', 'split=val'], "split is 'val'; expected one of train, test"),
    (['msrs', 'x', 'test'], 'expected key=value'),
    (['no.yaml'], 'no.yaml: no such configuration'),
    ([], '--help'),
])
def test_arguments_that_cannot_be_are_one_sentence(command, arguments, words):
    code, _, _, found, error = command(*arguments)
    assert code == 1 and found == {} and words in error and error.count('\n') == 1


def test_a_configuration_without_files_says_so(command, tmp_path):
    code, _, _, _, error = command(write_config(tmp_path, train=[{'kind': 'synthetic'}]))
    assert code == 1 and 'names no data set that has files' in error


def test_rendered_scenes_are_no_kind_to_check():
    assert 'synthetic' not in KINDS and len(KINDS) == 10
