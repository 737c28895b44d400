# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Samples: rendered and cached, read from folders, augmented, drawn by seed."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from loader_images import Images
from small_runs import HEIGHT, WIDTH, small_config, write_folder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.config import AugmentConfig, DataConfig, FolderSource
from rgbx_seg_train.data import rendered
from rgbx_seg_train.data.folder import FolderDataset, is_held_out
from rgbx_seg_train.data.rendered import RenderSettings, SyntheticDataset, render_sample
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.data.sources import CLASS_SETS, Mixture, class_frequencies, open_source
from rgbx_seg_train.data.synthetic import Scene, aux_encoding

CLASSES = CLASS_SETS['mfnet']
MSRS = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'msrs_road'


def same_everywhere(height=40, width=60, seed=0):
    """Return a sample whose three images show the same blocks, so that they must stay together."""
    blocks = np.random.default_rng(seed).integers(0, 9, (height // 10, width // 10))
    label = np.kron(blocks, np.ones((10, 10), int)).astype(np.uint8)
    gray = label * 20 + 10
    return Sample(np.repeat(gray[..., None], 3, 2), gray[..., None], label, 'thermal', 'x')


def test_a_rendered_sample_is_what_the_robot_makes_of_the_sensors_images():
    settings = RenderSettings(7, 1, 'thermal', 60, 80, max_time_s=0.0)
    sample = render_sample(7, settings)
    seen = Scene(7).render(0.0, 480, 640, 'thermal')
    np.testing.assert_array_equal(sample.rgb, resize_to(seen.rgb, 60, 80))
    aux = resize_to(to_uint8(seen.thermal, aux_encoding('thermal')), 60, 80)
    np.testing.assert_array_equal(sample.aux[..., 0], aux)
    assert sample.label.shape == (60, 80)
    assert set(np.unique(sample.label)) <= set(np.unique(seen.label))
    assert sample.night == seen.night


def test_rendered_scenes_are_cached_and_not_rendered_twice(tmp_path, monkeypatch):
    settings = RenderSettings(3, 2, 'thermal', 24, 32)
    first = SyntheticDataset(settings, tmp_path)
    direct = [render_sample(seed, settings) for seed in (3, 4)]
    monkeypatch.setattr(rendered, 'render_sample', lambda *a, **k: pytest.fail('rendered again'))
    again = SyntheticDataset(settings, tmp_path)
    assert len(again) == 2
    for expected, sample, cached in zip(direct, first, again, strict=False):
        for name in ('rgb', 'aux', 'label', 'night', 'name'):
            np.testing.assert_array_equal(getattr(sample, name), getattr(expected, name))
            np.testing.assert_array_equal(getattr(cached, name), getattr(expected, name))
    assert [path.name[0] for path in tmp_path.iterdir()] == ['s']  # nothing temporary is left


def test_share_of_night_is_as_asked():
    settings = RenderSettings(0, 1, 'thermal', 12, 16, night_fraction=1.0)
    assert all(render_sample(seed, settings).night for seed in range(3))
    assert not render_sample(0, replace(settings, night_fraction=0.0)).night


def test_other_settings_make_another_cache():
    settings = RenderSettings(3, 2, 'thermal', 24, 32)
    keys = {rendered._key(settings), rendered._key(replace(settings, night_fraction=0.5)),
            rendered._key(replace(settings, modality='depth'))}
    assert len(keys) == 3


class Numbered:
    """Samples whose label says which source they came from."""

    def __init__(self, number, count=5):
        self.number, self.count = number, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = np.full((40, 60), self.number, np.uint8)
        return replace(same_everywhere(seed=index), label=label, name=str(index))


def mixture(sets, weights, seed=0, **data):
    return Mixture(sets, weights, DataConfig(height=40, width=60, **data), AugmentConfig(), seed)


def test_sample_n_depends_on_seed_and_n_alone():
    one, two = mixture([Numbered(1)], [1]), mixture([Numbered(1)], [1])
    late = two.batch(6, 2)
    for expected, found in zip(one.batch(0, 8), late, strict=True):
        np.testing.assert_array_equal(expected[6:], found)
    other = mixture([Numbered(1)], [1], seed=1).batch(6, 2)
    assert (other[0] != late[0]).any()


def test_sources_are_drawn_by_weight():
    mixed = mixture([Numbered(1), Numbered(2), Numbered(3)], [3, 1, 0])
    drawn = np.array([np.median(mixed[n].label[mixed[n].label != 255]) for n in range(200)])
    assert (drawn == 1).mean() == pytest.approx(0.75, abs=0.08)
    assert not (drawn == 3).any()


def test_concatenated_sources_give_each_sample_once_an_epoch_in_another_order_each_time():
    mixed = mixture([Numbered(1, 3), Numbered(2, 7)], [5, 1], sampling='concatenated')
    everything = sorted([(1, str(n)) for n in range(3)] + [(2, str(n)) for n in range(7)])
    epochs = []
    for first in (0, 10):
        samples = [mixed.original(n)[0] for n in range(first, first + len(mixed))]
        epochs.append([(int(sample.label[0, 0]), sample.name) for sample in samples])
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1] and everything not in epochs


def test_zero_aux_blinds_the_second_camera_alone():
    rgb, aux, label, *_ = mixture([Numbered(1)], [1], zero_aux=True).batch(0, 2)
    assert rgb.any() and label.any() and not aux.any()


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(RgbxSegError, match='data.train'):
        mixture([], [])


def test_class_frequencies_are_shares_and_strange_ids_are_named():
    shares = class_frequencies([Numbered(1, 3), Numbered(2, 1)], DataConfig())
    np.testing.assert_allclose(shares[:4], [0, 0.75, 0.25, 0])
    with pytest.raises(RgbxSegError, match='the id 9'):
        class_frequencies([Numbered(9)], DataConfig())


def test_class_frequencies_leave_out_what_cannot_be_read():
    shares = class_frequencies([Images(3, corrupt=(1,))], DataConfig())
    labels = np.concatenate([Images()[n].label.ravel() for n in (0, 2)])
    np.testing.assert_allclose(shares, np.bincount(labels, minlength=9) / labels.size)


def folder(root, **settings):
    return FolderDataset(FolderSource(root=str(root), **settings), 'thermal', CLASSES)


def names_of(pairs):
    return [entry.name for entry in pairs.entries]


def test_a_folder_gives_its_pairs_by_name(tmp_path):
    write_folder(tmp_path, ['00002N', '00001D'])
    pairs = folder(tmp_path)
    assert names_of(pairs) == ['00001D', '00002N']
    assert [sample.night for sample in (pairs[0], pairs[1])] == [False, True]
    sample = pairs[0]
    assert sample.rgb.shape == (HEIGHT, WIDTH, 3) and sample.aux.shape == (HEIGHT, WIDTH, 1)
    assert set(np.unique(sample.aux[sample.label == 2])) == {200}


def test_colors_come_in_rgb_order(tmp_path):
    write_folder(tmp_path, ['a'])
    cv2.imwrite(str(tmp_path / 'rgb' / 'a.png'), np.full((HEIGHT, WIDTH, 3), (1, 2, 3), np.uint8))
    assert folder(tmp_path)[0].rgb[0, 0].tolist() == [3, 2, 1]


def test_sixteen_bit_thermal_becomes_uint8_as_on_the_robot_before_it_is_resized(tmp_path):
    write_folder(tmp_path, ['a'])
    raw = np.random.default_rng(0).integers(29000, 31000, (24, 30)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / 'thermal' / 'a.png'), raw)
    expected = resize_to(to_uint8(raw, aux_encoding('thermal')), HEIGHT, WIDTH)
    np.testing.assert_array_equal(folder(tmp_path)[0].aux[..., 0], expected)


def test_boxes_serve_where_there_is_no_label(tmp_path):
    write_folder(tmp_path, ['a', 'b'], boxes=True)
    (tmp_path / 'label' / 'a.png').unlink()
    pairs = folder(tmp_path, boxes_dir='boxes')
    assert names_of(pairs) == ['a', 'b']
    assert set(np.unique(pairs[0].label)) <= {0, 2, 255} and (pairs[0].label == 2).any()
    assert len(pairs.boxes(0)) == 1
    assert names_of(folder(tmp_path)) == ['b']


def write_label(root, label):
    cv2.imwrite(str(root / 'label' / 'a.png'), label)


@pytest.mark.parametrize('break_it, words', [
    (lambda root: (root / 'rgb').rename(root / 'colour'), 'rgb: no such folder'),
    (lambda root: (root / 'rgb' / 'a.png').rename(root / 'rgb' / 'z.png'), 'no labeled'),
    (lambda root: (root / 'rgb' / 'a.png').write_bytes(b'no image'), 'cannot be decoded'),
    (lambda root: write_label(root, np.zeros((3, 3), np.uint8)), 'expected'),
    (lambda root: write_label(root, np.full((HEIGHT, WIDTH), 9, np.uint8)), 'the id 9'),
])
def test_bad_folder_is_told_in_a_sentence(tmp_path, break_it, words):
    write_folder(tmp_path, ['a'])
    break_it(tmp_path)
    with pytest.raises(RgbxSegError, match=words):
        folder(tmp_path)[0]


def test_held_out_pairs_are_a_fixed_share_and_neighbors_share_their_side():
    source = FolderSource(root='x', hold_out=0.25, hold_out_block=10)
    names = [f'{number:05d}{time}' for number in range(4000) for time in 'DN']
    sides = {name: is_held_out(name, source) for name in names}
    assert np.mean(list(sides.values())) == pytest.approx(0.25, abs=0.04)
    for first in range(0, 4000, 10):
        for time in 'DN':
            assert len({sides[f'{n:05d}{time}'] for n in range(first, first + 10)}) == 1
    assert sides['00001D'] == is_held_out('00001D', source)


def test_train_and_held_out_parts_are_disjoint_and_complete(tmp_path):
    write_folder(tmp_path, [f'{n:05d}D' for n in range(30)])
    train, held_out, everything = (set(names_of(folder(tmp_path, part=part)))
                                   for part in ('train', 'held_out', 'all'))
    assert not train & held_out
    assert train | held_out == everything
    assert 2 <= len(held_out) <= 14


@pytest.mark.skipif(not MSRS.is_dir(), reason='the real road pairs (shared/data) are not here')
def test_the_split_of_the_real_pairs_is_the_one_the_config_states():
    source = FolderSource(root=str(MSRS), label_dir='pseudo_label', boxes_dir='boxes',
                          part='held_out', hold_out_block=10)
    held_out = FolderDataset(source, 'thermal', CLASSES)
    assert len(held_out) == 46
    assert sum(name.endswith('N') for name in names_of(held_out)) == 21
    train = FolderDataset(replace(source, part='train'), 'thermal', CLASSES)
    assert len(train) == 114 and not set(names_of(train)) & set(names_of(held_out))
    sample = train[0]
    assert sample.rgb.shape == (480, 640, 3) and sample.aux.shape == (480, 640, 1)


def test_a_source_opens_at_the_networks_or_the_sensors_size(tmp_path):
    config = small_config(tmp_path, 'data.train=[{kind: synthetic, count: 1}]')
    source = config.data.train[0]
    assert open_source(source, config.data)[0].label.shape == (HEIGHT, WIDTH)
    assert open_source(source, config.data, native=True)[0].label.shape == (480, 640)
