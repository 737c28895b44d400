# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""DeLiVER, NYUDepthV2, ZJU RGB-P and COCO-Stuff, read from miniatures of their files."""

import os
import pickle

import cv2
import miniature_rgbx as mini
import numpy as np
import pytest
from PIL import Image as Pillow
from reading import assert_labels, opened, raises_sentence

from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.config import AugmentConfig, DataConfig
from rgbx_seg_train.config_sources import (
    CocoStuffSource,
    DeLiVERSource,
    NYUSource,
    UrbanLFSource,
    ZJUSource,
)
from rgbx_seg_train.data import images, nyu, zju
from rgbx_seg_train.data.hha import KINECT, to_hha
from rgbx_seg_train.data.labels import CLASS_SETS, TO_UNION
from rgbx_seg_train.data.polarization import ANGLES, MEASURES
from rgbx_seg_train.data.sample import CorruptImage
from rgbx_seg_train.data.sources import Mixture, open_source
from rgbx_seg_train.data.synthetic import aux_encoding


class TestDeLiVER:
    def test_ids_are_the_first_channel_minus_one(self, tmp_path):
        ids = mini.write_deliver(tmp_path)
        assert_labels(opened(DeLiVERSource(root=str(tmp_path))), ids)

    def test_conditions_tell_time_weather_and_fault(self, tmp_path):
        mini.write_deliver(tmp_path)
        samples = opened(DeLiVERSource(root=str(tmp_path)))
        found = [dict(samples[n].conditions) for n in range(len(samples))]
        assert {'time': 'night', 'weather': 'night'} in found
        assert {'time': 'day', 'weather': 'rain', 'case': 'lidarjitter'} in found
        assert sum('case' in conditions for conditions in found) == 5

    @pytest.mark.parametrize(('choice', 'count'), [
        ({'weather': 'rain'}, 6), ({'weather': 'fog'}, 1), ({'case': 'eventlowres'}, 1)])
    def test_one_weather_or_fault_can_be_taken(self, tmp_path, choice, count):
        mini.write_deliver(tmp_path)
        samples = opened(DeLiVERSource(root=str(tmp_path), **choice))
        assert len(samples) == count and samples.expected() is None

    def test_a_fault_in_the_root_is_none_of_the_scene(self, tmp_path):
        root = tmp_path / 'motionblur'
        mini.write_deliver(root)
        assert len(opened(DeLiVERSource(root=str(root), case='motionblur'))) == 1

    @pytest.mark.parametrize(('aux', 'modality'), [
        ('event', 'event'), ('depth', 'depth'), ('hha', 'depth'), ('lidar', 'depth')])
    def test_each_second_sensor_has_its_modality(self, tmp_path, aux, modality):
        mini.write_deliver(tmp_path)
        samples = opened(DeLiVERSource(root=str(tmp_path), aux=aux))
        assert samples.modality == samples[0].modality == modality

    def test_events_are_repeated_not_blended(self, tmp_path):
        mini.write_deliver(tmp_path)
        sample = opened(DeLiVERSource(root=str(tmp_path)))[0]
        small = mini.noise(80, mini.HEIGHT // 4, mini.WIDTH // 4, 3)
        np.testing.assert_array_equal(sample.aux, small.repeat(4, 0).repeat(4, 1))

    def test_hha_keeps_its_channels(self, tmp_path):
        mini.write_deliver(tmp_path)
        sample = opened(DeLiVERSource(root=str(tmp_path), aux='hha'))[0]
        np.testing.assert_array_equal(sample.aux, mini.noise(40, mini.HEIGHT, mini.WIDTH, 3))

    def test_depth_of_24_bits_is_scaled_as_on_the_robot(self, tmp_path):
        mini.write_deliver(tmp_path)
        sample = opened(DeLiVERSource(root=str(tmp_path), aux='depth'))[0]
        meters = mini.depth_ramp().astype(np.float32)
        expected = to_uint8(meters, aux_encoding('depth')).astype(int)
        assert np.abs(sample.aux[..., 0] - expected).max() <= 1
        assert sample.aux[0, 0, 0] < 10 and sample.aux[0, -1, 0] == 255

    def test_gray_depth_stays(self, tmp_path):
        ids = mini.write_deliver(tmp_path)
        gray = mini.noise(3, mini.HEIGHT, mini.WIDTH)
        name = next(iter(ids))
        mini.save(tmp_path / 'depth' / f'{name}_depth_front.png', np.dstack([gray] * 3))
        sample = opened(DeLiVERSource(root=str(tmp_path), aux='depth'))[0]
        np.testing.assert_array_equal(sample.aux[..., 0], gray)

    def test_an_unknown_id_is_named(self, tmp_path):
        ids = mini.write_deliver(tmp_path)
        name = next(iter(ids))
        mini.save(tmp_path / 'semantic' / f'{name}_semantic_front.png',
                  np.full((mini.HEIGHT, mini.WIDTH, 4), 26, np.uint8))
        with raises_sentence('value 26'):
            opened(DeLiVERSource(root=str(tmp_path)))[0]

    def test_a_missing_file_is_named_before_anything_is_read(self, tmp_path):
        name = next(iter(mini.write_deliver(tmp_path)))
        (tmp_path / 'event' / f'{name}_event_front.png').unlink()
        with raises_sentence('045050_event_front.png: no such file'):
            opened(DeLiVERSource(root=str(tmp_path)))

    def test_another_folder_is_refused(self, tmp_path):
        with raises_sentence('img: no such folder'):
            opened(DeLiVERSource(root=str(tmp_path)))

    def test_a_gray_depth_is_decoded_once(self, tmp_path, monkeypatch):
        name = next(iter(mini.write_deliver(tmp_path)))
        mini.save(tmp_path / 'depth' / f'{name}_depth_front.png',
                  mini.noise(3, mini.HEIGHT, mini.WIDTH))
        read, original = [], images._read
        monkeypatch.setattr(images, '_read', lambda path, *a: read.append(path.parts[-5])
                            or original(path, *a))
        opened(DeLiVERSource(root=str(tmp_path), aux='depth'))[0]
        assert sorted(read) == ['depth', 'img']

    @pytest.mark.parametrize(('choice', 'names'), [
        ({}, ['cloud', 'rain']), ({'weather': 'rain'}, ['rain']), ({'case': 'lidarjitter'}, [])])
    def test_a_label_without_an_image_is_not_forgotten(self, tmp_path, choice, names):
        mini.write_deliver(tmp_path)
        lonely = [tmp_path / 'img' / part / 'train' / 'MAP_1_point2' / f'{number}_rgb_front.png'
                  for part, number in (('cloud', '045050'), ('rain', '045053'))]
        for path in lonely:
            path.unlink()
        samples = opened(DeLiVERSource(root=str(tmp_path), **choice))
        found = [entry for entry in samples.everything() if entry not in samples.entries]
        assert [entry.rgb for entry in found] == [p for p in lonely if p.parts[-4] in names]
        assert all(entry.label.is_file() for entry in found)

    def test_the_official_number_is_known(self, tmp_path):
        mini.write_deliver(tmp_path)
        assert opened(DeLiVERSource(root=str(tmp_path))).expected() == 3983


class TestNYU:
    @pytest.mark.parametrize('palette', [False, True])
    def test_ids_are_the_indices_minus_one(self, tmp_path, palette):
        ids = mini.write_nyu(tmp_path, palette=palette)
        assert_labels(opened(NYUSource(root=str(tmp_path))), {n: ids[n] for n in ('1', '4')})
        assert_labels(opened(NYUSource(root=str(tmp_path), split='test')), {'9': ids['9']})

    def test_hha_that_is_there_is_read_as_it_is(self, tmp_path):
        mini.write_nyu(tmp_path)
        sample = opened(NYUSource(root=str(tmp_path)))[1]
        np.testing.assert_array_equal(sample.aux, mini.noise(54, mini.HEIGHT, mini.WIDTH, 3))
        assert sample.modality == 'depth'

    def test_hha_is_computed_of_depth_and_kept(self, tmp_path, monkeypatch):
        depth = self.room()
        mini.write_nyu(tmp_path / 'nyu', hha=False, depth=depth)
        source = NYUSource(root=str(tmp_path / 'nyu'))
        first = nyu.NYU(source, cache=tmp_path)[0].aux
        np.testing.assert_array_equal(first, to_hha(depth / 1000.0))
        monkeypatch.setattr(nyu, 'to_hha', None)  # a second time it would fail
        np.testing.assert_array_equal(nyu.NYU(source, cache=tmp_path)[0].aux, first)

    def test_a_broken_file_of_the_cache_is_made_anew(self, tmp_path):
        mini.write_nyu(tmp_path / 'nyu', hha=False, depth=self.room())
        source = NYUSource(root=str(tmp_path / 'nyu'))
        first = nyu.NYU(source, cache=tmp_path)[0].aux
        kept, = (tmp_path / 'hha').iterdir()
        kept.write_bytes(kept.read_bytes()[:40])
        np.testing.assert_array_equal(nyu.NYU(source, cache=tmp_path)[0].aux, first)

    def test_hha_is_computed_anew_of_another_depth(self, tmp_path):
        mini.write_nyu(tmp_path / 'nyu', hha=False, depth=self.room())
        source = NYUSource(root=str(tmp_path / 'nyu'))
        first = nyu.NYU(source, cache=tmp_path)[0].aux
        path = tmp_path / 'nyu' / 'Depth' / '1.png'
        mini.save(path, self.room() + np.uint16(500))
        os.utime(path, (1, 1))
        assert (nyu.NYU(source, cache=tmp_path)[0].aux != first).any()

    def test_hha_is_computed_anew_in_another_unit(self, tmp_path):
        mini.write_nyu(tmp_path / 'nyu', hha=False, depth=self.room())
        for scale in (0.001, 0.0012):
            source = NYUSource(root=str(tmp_path / 'nyu'), depth_scale=scale)
            expected = to_hha(self.room().astype(np.float32) * np.float32(scale))
            found = nyu.NYU(source, cache=tmp_path)[0].aux
            np.testing.assert_array_equal(found, expected)

    def test_hha_is_kept_where_the_configuration_keeps_what_is_computed(self, tmp_path):
        mini.write_nyu(tmp_path / 'nyu', hha=False, depth=self.room())
        data = DataConfig(classes='nyu40', cache=str(tmp_path / 'cache'))
        open_source(NYUSource(root=str(tmp_path / 'nyu')), data)[0]
        assert len(list((tmp_path / 'cache' / 'hha').iterdir())) == 1

    def test_another_unit_of_depth_can_be_told_and_is_noticed(self, tmp_path):
        mini.write_nyu(tmp_path, hha=False, depth=self.room() * np.uint16(10))
        tenths = NYUSource(root=str(tmp_path), depth_scale=1e-4)
        np.testing.assert_array_equal(nyu.NYU(tenths)[0].aux, to_hha(self.room() / 1000.0))
        with raises_sentence('median depth is .* correct depth_scale'):
            nyu.NYU(NYUSource(root=str(tmp_path)))[0]

    def test_depth_is_scaled_as_on_the_robot(self, tmp_path):
        mini.write_nyu(tmp_path, depth=self.room())
        sample = opened(NYUSource(root=str(tmp_path), aux='depth'))[0]
        expected = to_uint8(self.room(), aux_encoding('depth')).astype(int)
        assert np.abs(sample.aux[..., 0] - expected).max() <= 1

    @pytest.mark.parametrize('channels', [1, 4])
    def test_depth_of_eight_bits_stays_as_it_is(self, tmp_path, channels):
        mini.write_nyu(tmp_path, depth=self.room())
        gray = mini.noise(3, 120, 160)
        image = gray if channels == 1 else np.dstack([gray, gray, gray, gray // 2])
        mini.save(tmp_path / 'Depth' / '1.png', image)
        sample = opened(NYUSource(root=str(tmp_path), aux='depth'))[0]
        for channel in range(sample.aux.shape[2]):
            np.testing.assert_array_equal(sample.aux[..., channel], gray)

    def test_depth_of_another_shape_is_refused(self, tmp_path):
        mini.write_nyu(tmp_path, hha=False, depth=self.room()[:, :140].copy())
        with raises_sentence('140x120; expected the shape of 640x480'):
            nyu.NYU(NYUSource(root=str(tmp_path)))[0]

    def test_an_unknown_id_is_named(self, tmp_path):
        mini.write_nyu(tmp_path)
        mini.save(tmp_path / 'Label' / '1.png', np.full((mini.HEIGHT, mini.WIDTH), 41, np.uint8))
        with raises_sentence('value 41'):
            opened(NYUSource(root=str(tmp_path)))[0]

    def test_without_depth_and_hha_it_says_so(self, tmp_path):
        mini.write_nyu(tmp_path, hha=False)
        with raises_sentence('Depth: no such folder'):
            opened(NYUSource(root=str(tmp_path)))

    def test_a_missing_list_is_named(self, tmp_path):
        mini.write_nyu(tmp_path)
        (tmp_path / 'test.txt').unlink()
        with raises_sentence('test.txt: no such list'):
            opened(NYUSource(root=str(tmp_path), split='test'))

    @staticmethod
    def room():
        """Return uint16 millimeters (120, 160) of a floor and a wall 5 m away."""
        camera = KINECT.scaled(120, 160)
        y = (np.arange(120) + 1 - camera.cy) / camera.fy
        depth = np.minimum(1.2 / np.maximum(y, 1e-3), 5.0)
        return np.repeat((1000 * depth).astype(np.uint16)[:, None], 160, 1)


class TestZJU:
    @pytest.mark.parametrize('order', ['rgb', 'bgr'])
    def test_ids_are_right_in_both_orders_of_colors(self, tmp_path, order):
        ids = mini.write_zju(tmp_path, order)
        samples = opened(ZJUSource(root=str(tmp_path)))
        assert_labels(samples, {name: ids[name] for name in ('1_day', '2_day', '10_dusk')})
        assert samples.channel_order == order

    def test_a_told_order_is_followed(self, tmp_path):
        mini.write_zju(tmp_path, 'bgr')
        sample = opened(ZJUSource(root=str(tmp_path), channel_order='bgr', split='val'))[0]
        assert sample.label[0, 10] == 5 and sample.label[-1, 0] == 3  # sky, road
        with raises_sentence(r'color \(0, 0, 64\)'):  # bicycle has no counterpart
            opened(ZJUSource(root=str(tmp_path), channel_order='rgb', split='val'))[0]

    def test_an_order_that_nothing_tells_is_asked_for(self, tmp_path):
        mini.write_zju(tmp_path, street=False)
        with raises_sentence('set channel_order to rgb or bgr'):
            opened(ZJUSource(root=str(tmp_path)))[0]

    def test_a_label_that_cannot_be_decoded_has_no_say_in_the_order(self, tmp_path):
        ids = mini.write_zju(tmp_path, 'bgr')
        (tmp_path / 'train' / 'label' / '2_day_image0.png').write_bytes(b'no image')
        samples = opened(ZJUSource(root=str(tmp_path)))
        assert [entry.name for entry in samples.entries] == ['10_dusk', '1_day', '2_day']
        for n, name in enumerate(('10_dusk', '1_day')):
            np.testing.assert_array_equal(samples[n].label, ids[name])
        with pytest.raises(CorruptImage, match='2_day_image0.png: cannot be decoded'):
            samples[2]

    def test_an_order_is_looked_for_once(self, tmp_path, monkeypatch):
        mini.write_zju(tmp_path, street=False)
        read, original = [], zju.read_label
        monkeypatch.setattr(zju, 'read_label', lambda path: read.append(path) or original(path))
        samples = opened(ZJUSource(root=str(tmp_path)))
        for n in range(3):
            with raises_sentence('decides nothing'):
                samples[n]
        assert len(read) == 3 + 3  # to decide, and each label itself

    def test_an_indexed_label_needs_no_order(self, tmp_path):
        ids = mini.write_zju(tmp_path, indexed=True, street=False)
        assert_labels(opened(ZJUSource(root=str(tmp_path), split='val')), {'7_day': ids['7_day']})

    @pytest.mark.parametrize(('aux', 'seed'), [('aolp', 5000), ('dolp', 6000)])
    def test_images_that_are_there_are_read_as_they_are(self, tmp_path, aux, seed):
        mini.write_zju(tmp_path)
        samples = opened(ZJUSource(root=str(tmp_path), aux=aux, split='val'))
        np.testing.assert_array_equal(samples[0].aux, mini.noise(seed, 40, 50, 3))
        assert samples[0].modality == 'polarization'

    @pytest.mark.parametrize('aux', ['aolp', 'dolp', 'vector'])
    def test_they_are_computed_of_four_angles_where_absent(self, tmp_path, aux):
        mini.write_zju(tmp_path, ready=False)
        sample = opened(ZJUSource(root=str(tmp_path), aux=aux, split='val'))[0]
        views = [mini.noise(angle, 40, 50, 3) for angle in ANGLES]
        np.testing.assert_array_equal(sample.aux, MEASURES[aux](views))
        np.testing.assert_array_equal(sample.rgb, views[0])

    def test_a_missing_angle_is_named(self, tmp_path):
        mini.write_zju(tmp_path, ready=False)
        (tmp_path / 'train' / '90' / '2_day_image0_90.png').unlink()
        with raises_sentence('90/2_day_image0_90.png: no such file'):
            opened(ZJUSource(root=str(tmp_path)))

    def test_angles_of_other_sizes_are_refused(self, tmp_path):
        mini.write_zju(tmp_path, ready=False)
        mini.save(tmp_path / 'val' / '45' / '7_day_image0_45.png', mini.noise(1, 20, 25, 3))
        with raises_sentence('is 25x20 and that at 0 degrees 50x40'):
            opened(ZJUSource(root=str(tmp_path), split='val'))[0]


class TestCocoStuff:
    @pytest.mark.parametrize('kind', ['train_ids', 'raw', 'detectron2'])
    def test_ids_in_each_layout(self, tmp_path, kind):
        ids = mini.write_coco_stuff(tmp_path, kind)
        assert_labels(opened(CocoStuffSource(root=str(tmp_path))), ids)

    def test_training_ids_win_over_raw_ones(self, tmp_path):
        ids = mini.write_coco_stuff(tmp_path, 'raw')
        mini.write_coco_stuff(tmp_path, 'train_ids')
        assert_labels(opened(CocoStuffSource(root=str(tmp_path))), ids)

    def test_aux_is_black_and_of_the_modality_named(self, tmp_path):
        mini.write_coco_stuff(tmp_path, split='val')
        source = CocoStuffSource(root=str(tmp_path), split='val', modality='depth')
        sample = opened(source)[0]
        assert not sample.aux.any() and sample.aux.shape == (*sample.label.shape, 1)
        assert sample.modality == 'depth'

    @pytest.mark.parametrize(('kind', 'value'), [('train_ids', 171), ('raw', 182)])
    def test_an_unknown_id_is_named(self, tmp_path, kind, value):
        mini.write_coco_stuff(tmp_path, kind)
        path = next((tmp_path / 'annotations' / 'train2017').iterdir())
        mini.save(path, np.full((mini.HEIGHT, 200), value, np.uint8))
        samples = opened(CocoStuffSource(root=str(tmp_path)))
        with raises_sentence(f'value {value}'):
            samples[[entry.label for entry in samples.entries].index(path)]

    def test_a_missing_label_and_another_size_are_named(self, tmp_path):
        mini.write_coco_stuff(tmp_path, 'raw')
        path = tmp_path / 'annotations' / 'train2017' / '000000000009.png'
        mini.save(path, np.zeros((5, 6), np.uint8))
        with raises_sentence('the label is 6x5 and the RGB image 200x24'):
            opened(CocoStuffSource(root=str(tmp_path)))[0]
        path.unlink()
        with raises_sentence('000000000009.png: no such file'):
            opened(CocoStuffSource(root=str(tmp_path)))

    @pytest.mark.parametrize('kind', ['train_ids', 'raw', 'detectron2'])
    def test_a_label_without_an_image_is_not_forgotten(self, tmp_path, kind):
        mini.write_coco_stuff(tmp_path, kind)
        lonely = tmp_path / 'images' / 'train2017' / '000000000025.jpg'
        lonely.unlink()
        samples = opened(CocoStuffSource(root=str(tmp_path)))
        assert [entry.name for entry in samples.entries] == ['000000000009']
        first, second = samples.everything()
        assert first == samples.entries[0] and second.rgb == lonely and second.label.is_file()

    def test_no_labels_at_all_are_told(self, tmp_path):
        mini.write_coco_stuff(tmp_path)
        with raises_sentence('no label is there'):
            opened(CocoStuffSource(root=str(tmp_path), split='val'))

    def test_171_classes_some_of_which_meet_the_union(self):
        names = [info.name for info in CLASS_SETS['coco_stuff']]
        union = [info.name for info in CLASS_SETS['union70']]
        assert len(names) == len(set(names)) == 171
        # known places: COCO's last thing, first and last stuff
        assert (names[79], names[80], names[170]) == ('toothbrush', 'banner', 'wood')
        there = {'bicycle': 'bike', 'tree': 'vegetation'}
        for name, place in zip(names, TO_UNION['coco_stuff'], strict=True):
            name = there.get(name, name)
            assert place == (union.index(name) if name in union else 255)


def test_all_of_them_make_one_batch_for_a_joint_network(tmp_path):
    for name in ('deliver', 'nyu', 'zju', 'urbanlf', 'coco_stuff'):
        getattr(mini, f'write_{name}')(tmp_path / name)
    kinds = (DeLiVERSource, NYUSource, ZJUSource, UrbanLFSource, CocoStuffSource)
    sources = [kind(root=str(tmp_path / kind.kind)) for kind in kinds]
    data = DataConfig(classes='union70', height=64, width=64, sampling='concatenated')
    sets = pickle.loads(pickle.dumps([open_source(source, data) for source in sources]))
    mixture = Mixture(sets, [1.0] * 5, data, AugmentConfig(), 7)
    batch = mixture.batch(0, len(mixture))
    assert len(mixture) == 10 + 2 + 3 + 3 + 2 and not batch.corrupt
    assert set(zip(batch.classes, batch.modality, strict=True)) == {
        ('deliver', 'event'), ('nyu40', 'depth'), ('zju', 'polarization'),
        ('urbanlf', 'lightfield'), ('coco_stuff', 'thermal')}
    assert (batch.label[batch.label != 255] < 70).all() and (batch.label != 255).any()


@pytest.mark.parametrize(('write', 'source', 'folder'), [
    (mini.write_deliver, DeLiVERSource, 'semantic'), (mini.write_nyu, NYUSource, 'Label'),
    (mini.write_zju, ZJUSource, 'train/label'), (mini.write_coco_stuff, CocoStuffSource,
                                                 'annotations')])
def test_unlabeled_pairs_need_no_labels(tmp_path, write, source, folder):
    ids = write(tmp_path)
    labeled = opened(source(root=str(tmp_path)))
    expected = [labeled[n] for n in range(len(labeled))]
    (tmp_path / folder).rename(tmp_path / 'elsewhere')
    data = DataConfig(classes='own', own_classes={'a': None, 'b': None})
    samples = open_source(source(root=str(tmp_path)), data, labeled=False)
    assert len(samples) == len(expected) <= len(ids)
    for n, sample in enumerate(expected):
        np.testing.assert_array_equal(samples[n].rgb, sample.rgb)
        np.testing.assert_array_equal(samples[n].aux, sample.aux)
        assert (samples[n].label == 255).all() and samples[n].label.shape == sample.label.shape
        assert samples[n].classes == 'own'


def test_pillow_writes_what_opencv_reads(tmp_path):
    # the miniatures are an oracle only if their red is the reader's red
    mini.save(tmp_path / 'red.png', np.full((2, 2, 3), (255, 0, 0), np.uint8))
    assert tuple(cv2.imread(str(tmp_path / 'red.png'))[0, 0]) == (0, 0, 255)
    assert Pillow.open(tmp_path / 'red.png').mode == 'RGB'
