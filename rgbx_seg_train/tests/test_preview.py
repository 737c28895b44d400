# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of training samples: all rows and columns, and each change by itself."""

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from small_runs import HEIGHT, WIDTH, small_config, write_folder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config_augment import STILL, AugmentConfig
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.sources import Mixture, open_all, open_source
from rgbx_seg_train.preview import (
    CHANGES,
    GAP,
    HEAD,
    NAME,
    TILE,
    UNKNOWN,
    VERSIONS,
    alone,
    is_on,
    write_preview,
)

TALL = round(TILE * HEIGHT / WIDTH)
COLUMNS = 3 * (1 + VERSIONS) + len(CHANGES)


def tile(picture, row, column):
    top, left = HEAD + row * (NAME + TALL + GAP) + NAME, column * (TILE + GAP)
    return picture[top:top + TALL, left:left + TILE, ::-1]


def enlarged(image):
    return cv2.resize(image, (TILE, TALL), interpolation=cv2.INTER_NEAREST)


def test_a_row_shows_the_sample_as_it_was_read_with_the_colors_of_its_classes(tmp_path):
    config = small_config(tmp_path)
    path = tmp_path / 'new' / 'preview.png'
    write_preview(config, path, 3)
    picture = cv2.imread(str(path))
    assert picture.shape == (HEAD + 3 * (NAME + TALL + GAP), COLUMNS * (TILE + GAP), 3)
    samples = open_source(config.data.train[0], config.data)
    colors = np.array([info.color for info in config.data.class_infos], np.uint8)
    wanted = [enlarged(samples[n].rgb) for n in range(len(samples))]
    for row in range(3):
        assert any(np.array_equal(tile(picture, row, 0), rgb) for rgb in wanted)
        np.testing.assert_array_equal(tile(picture, row, 2), enlarged(colors[samples[0].label]))
    assert [item.name for item in path.parent.iterdir()] == ['preview.png']
    again = tmp_path / 'again.png'
    write_preview(config, again, 3)
    assert again.read_bytes() == path.read_bytes()


def test_each_column_shows_what_its_title_says(tmp_path):
    config = small_config(tmp_path)
    path = tmp_path / 'preview.png'
    write_preview(config, path, 1)
    picture = cv2.imread(str(path))
    rgb, aux = tile(picture, 0, 0), tile(picture, 0, 1)
    shown = {change.title: tile(picture, 0, 3 * (1 + VERSIONS) + n)
             for n, change in enumerate(CHANGES)}
    assert not shown['RGB lost'].any() and not shown['aux lost'].any()
    assert (shown['overexposed'] == 255).mean() > 0.15 > (rgb == 255).mean()
    assert shown['night'].mean() < 0.5 * rgb.mean()
    np.testing.assert_array_equal(shown['aux polarity'], 255 - aux)
    green = (shown['flip'] == (80, 255, 80)).all(2)
    assert green.any()
    samples = open_source(config.data.train[0], config.data)
    assert any(np.array_equal(shown['flip'][~green], enlarged(samples[n].rgb[:, ::-1])[~green])
               for n in range(len(samples)))


def mixture_of(config):
    data = config.data
    sets = [*open_all(data.train, data), *open_all(data.unlabeled, data, labeled=False)]
    weights = [source.weight for source in (*data.train, *data.unlabeled)]
    return Mixture(sets, weights, data, config.augment, config.train.seed)


def test_a_row_shows_what_the_run_draws_also_of_unlabeled_sources(tmp_path):
    other = write_folder(tmp_path / 'other', [f'{n:05d}N' for n in range(9)])
    for path in (other / 'label').iterdir():
        path.unlink()
    config = small_config(tmp_path, f'data.unlabeled=[{{kind: folder, root: {other}}}]')
    write_preview(config, tmp_path / 'preview.png', 8)
    picture, mixture = cv2.imread(str(tmp_path / 'preview.png')), mixture_of(config)
    colors = np.full((256, 3), UNKNOWN, np.uint8)
    colors[:9] = [info.color for info in config.data.class_infos]
    unlabeled = 0
    for row in range(8):
        drawn, original = mixture[row], mixture.original(row)[0]
        for column, sample in ((0, original), (3, drawn)):
            shown = (sample.rgb, np.repeat(sample.aux, 3, 2), colors[sample.label])
            for number, image in enumerate(shown):
                np.testing.assert_array_equal(tile(picture, row, column + number), enlarged(image))
        versions = [tile(picture, row, 3 * version).tobytes() for version in range(VERSIONS + 1)]
        assert len(set(versions)) == VERSIONS + 1  # each differs
        unlabeled += (original.label == 255).all()
    assert 0 < unlabeled < 8


def test_every_setting_of_augmentation_has_a_column():
    shown = {name for change in CHANGES for name in change.fields}
    assert shown == {field.name for field in fields(AugmentConfig)}


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.title)
def test_a_change_alone_does_something_even_where_the_run_has_it_off(tmp_path, change):
    config = small_config(tmp_path)
    sample = open_source(config.data.train[0], config.data)[0]
    settings = alone(change, AugmentConfig())
    differs = False
    for seed in range(3):
        one = augment(sample, settings, HEIGHT, WIDTH, np.random.default_rng(seed))
        differs |= any((getattr(one, name) != getattr(sample, name)).any()
                       for name in ('rgb', 'aux', 'label'))
    assert differs


def test_strengths_are_those_of_the_run():
    night = next(change for change in CHANGES if change.title == 'night')
    noise = next(change for change in CHANGES if change.title == 'noise')
    config = AugmentConfig(rgb_noise=33)
    assert alone(noise, config) == replace(STILL, rgb_noise=33)
    assert is_on(noise, config) and not is_on(night, config)
    assert is_on(night, AugmentConfig(p_rgb_dark=0.1))


@pytest.mark.parametrize('name, count, words', [
    ('x.gif', 1, '.gif'), ('x', 1, 'of no format'), ('x.png', 0, 'expected 1..')])
def test_a_preview_that_cannot_be_is_told_and_leaves_nothing(tmp_path, name, count, words):
    config = small_config(tmp_path)
    with pytest.raises(RgbxSegError, match=words):
        write_preview(config, tmp_path / 'out' / name, count)
    assert not (tmp_path / 'out').exists()


def test_corrupt_samples_are_left_out(tmp_path):
    config = small_config(tmp_path)
    (tmp_path / 'images' / 'rgb' / '00001D.png').write_bytes(b'no image')
    write_preview(config, tmp_path / 'x.jpg', 4)
    assert cv2.imread(str(tmp_path / 'x.jpg')).shape[0] == HEAD + 4 * (NAME + TALL + GAP)
    for path in (tmp_path / 'images' / 'rgb').iterdir():
        path.write_bytes(b'no image')
    with pytest.raises(RgbxSegError, match='cannot be decoded'):
        write_preview(config, tmp_path / 'y.jpg', 4)
