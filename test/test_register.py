# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The command writes a homography that a rig may use, or says why it does not."""

import json
import shutil
import sys

import cv2
import numpy as np
import pytest
import yaml
from bags import START_NS
from rig import error_px, homography, hurry, scene, seen_through

from rgbx_seg_ros import alignment, register
from rgbx_seg_ros.bag import BagWriter
from rgbx_seg_ros.register import main
from rgbx_seg_ros.registration import Registration, RegistrationConfig

WARP = homography(4, 1.02, (15, -9))
NEAR = ('--max-rotation', '4', '--max-scale', '1.04', '--max-shift', '0.05')


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Hurry, and estimate only once from the same pixels, however they were stored."""
    known = {}

    def once(pairs, search):
        key = b''.join(np.ascontiguousarray(image).tobytes() for pair in pairs for image in pair)
        if (key, search) not in known:
            known[key, search] = alignment.estimate(pairs, search)
        return known[key, search]

    with pytest.MonkeyPatch.context() as patch:
        hurry(patch, 480)
        patch.setattr(register, 'estimate', once)
        yield


def run(monkeypatch, *arguments):
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, 'argv', ['rgbx_register', *map(str, arguments), *NEAR])
    return main()


def write_folder(folder, count, warp=WARP, aux='thermal'):
    for sub in ('rgb', aux):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        rgb, thermal = scene(seed)
        cv2.imwrite(str(folder / 'rgb' / f'{seed:03d}.png'), rgb[..., ::-1])
        cv2.imwrite(str(folder / aux / f'{seed:03d}.png'), seen_through(thermal, warp))
    return folder


def test_a_folder_gives_a_file_that_the_registration_takes(tmp_path, monkeypatch, capsys):
    folder, out = write_folder(tmp_path / 'in', 3), tmp_path / 'new' / 'registration.yaml'
    assert run(monkeypatch, folder, '--out', out) == 0
    data = yaml.safe_load(out.read_text())
    assert error_px(np.array(data['homography']), WARP) < 0.7
    assert data['rgb_size'] == data['aux_size'] == [640, 480]
    assert data['pairs'] == ['000', '001', '002']
    assert 0 < data['residual_px']['median'] < 2
    registration = Registration(RegistrationConfig('homography', out))
    thermal = scene(0)[1]
    moved = registration.apply(seen_through(thermal, WARP), (480, 640))
    inside = np.s_[100:380, 120:520]
    assert np.abs(moved[inside].astype(int) - thermal[inside]).mean() < 8
    assert sorted(path.name for path in out.parent.iterdir()) == ['registration.png', out.name]
    assert cv2.imread(str(out.with_suffix('.png'))).shape[1] == 3 * 480
    assert str(out) in capsys.readouterr().out


def test_two_folders_and_json(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 3, aux='warped')
    picture = tmp_path / 'judge.png'
    assert run(monkeypatch, '--rgb', folder / 'rgb', '--aux', folder / 'warped', '--json', '--out',
               tmp_path / 'r.yaml', '--picture', picture) == 0
    result = json.loads(capsys.readouterr().out)['results'][0]
    assert result['confident'] and result['picture'] == str(picture) and picture.exists()
    assert error_px(np.array(result['homography']), WARP) < 0.7


def test_a_bag_is_paired_by_its_stamps(tmp_path, monkeypatch, capsys):
    with BagWriter(tmp_path / 'bag') as writer:
        for index in range(3):
            rgb, thermal = scene(index)
            stamp = START_NS + index * 100_000_000
            writer.write_image('/rgb/image_raw', rgb, 'rgb8', stamp, stamp + 1000, 'rgb')
            writer.write_image('/thermal/image_raw', seen_through(thermal, WARP), 'mono8',
                               stamp + 8_000_000, stamp + 9_000_000, 'thermal')
    assert run(monkeypatch, tmp_path / 'bag', '--out', tmp_path / 'r.yaml', '--json') == 0
    result = json.loads(capsys.readouterr().out)['results'][0]
    assert result['pairs'] == '3 pairs'
    assert error_px(np.array(result['homography']), WARP) < 0.7


def test_what_cannot_be_aligned_leaves_a_picture_and_no_file(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 1)
    for path in (folder / 'thermal').iterdir():
        cv2.imwrite(str(path), np.random.default_rng(0).integers(1, 255, (480, 640), np.uint8))
    assert run(monkeypatch, folder, '--out', tmp_path / 'r.yaml') == 1
    assert not (tmp_path / 'r.yaml').exists() and (tmp_path / 'r.png').exists()
    error = capsys.readouterr().err
    assert error.startswith('rgbx_register: error: ') and error.count('\n') == 1


def test_pairs_in_the_dark_can_be_left_out(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 4)
    noise = np.random.default_rng(0).integers(0, 9, (480, 640, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / 'rgb' / '003.png'), noise)
    out = tmp_path / 'r.yaml'
    assert run(monkeypatch, folder, '--out', out, '--drop-unfit') == 1
    assert '1 of 4 pairs do not fit' in capsys.readouterr().err
    monkeypatch.setattr(register, 'LEFT_PAIRS', 3)
    assert run(monkeypatch, folder, '--out', out, '--drop-unfit') == 0
    assert yaml.safe_load(out.read_text())['pairs'] == ['000', '001', '002']


def test_each_pair_alone_has_its_own_file(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 1)
    for sub in ('rgb', 'thermal'):
        shutil.copy(folder / sub / '000.png', folder / sub / '001.png')
    assert run(monkeypatch, folder, '--out', tmp_path / 'r.yaml', '--per-pair',
               '--max-error', 5) == 0
    assert sorted(path.name for path in tmp_path.glob('r_*')) == [
        'r_000.png', 'r_000.yaml', 'r_001.png', 'r_001.yaml']


@pytest.mark.parametrize('arguments, expected', [
    (['--rgb', 'a'], 'neither INPUT alone nor --rgb with --aux'),
    (['missing'], 'no such folder'),
    (['in', '--pairs', '0'], '--pairs is 0'),
    (['in', '--max-error', '-1'], '--max-error is -1')])
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, expected):
    (tmp_path / 'in').mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments, '--out', 'r.yaml') == 1
    assert expected in capsys.readouterr().err


def test_one_scene_is_not_enough_for_the_usual_limit(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 1)
    assert run(monkeypatch, folder, '--out', tmp_path / 'r.yaml') == 1
    assert 'add pairs' in capsys.readouterr().err and not (tmp_path / 'r.yaml').exists()


def test_images_of_several_sizes_are_refused(tmp_path, monkeypatch, capsys):
    folder = write_folder(tmp_path / 'in', 2)
    cv2.imwrite(str(folder / 'thermal' / '001.png'), np.ones((240, 320), np.uint8))
    assert run(monkeypatch, folder, '--out', tmp_path / 'r.yaml') == 1
    assert 'one size per camera' in capsys.readouterr().err
