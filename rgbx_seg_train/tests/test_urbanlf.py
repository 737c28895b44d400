# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""UrbanLF's light fields, read from miniatures of their files."""

import pickle
from pathlib import Path

import miniature_rgbx as mini
import numpy as np
import pytest
from reading import assert_labels, opened, raises_sentence

from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.config_sources import UrbanLFSource
from rgbx_seg_train.data.sample import CorruptImage
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.data.urbanlf import UrbanLF


class TestUrbanLF:
    @pytest.mark.parametrize('names', [('real', 'Syn'), ('Real', 'syn'),
                                       ('UrbanLF-Real', 'UrbanLF_Syn')])
    def test_colors_and_arrays_become_ids(self, tmp_path, names):
        ids = mini.write_urbanlf(tmp_path)
        for old, new in zip(('real', 'Syn'), names, strict=True):
            (tmp_path / old).rename(tmp_path / new)
        samples = opened(UrbanLFSource(root=str(tmp_path)))
        assert_labels(samples, ids)
        assert {dict(samples[n].conditions)['part'] for n in range(3)} == {'real', 'syn'}

    @pytest.mark.parametrize(('part', 'count', 'official'), [
        ('real', 2, 580), ('syn', 1, 172), ('both', 3, 752)])
    def test_parts_can_be_taken_alone(self, tmp_path, part, count, official):
        mini.write_urbanlf(tmp_path)
        samples = opened(UrbanLFSource(root=str(tmp_path), part=part))
        assert len(samples) == count and samples.expected() == official

    def test_rgb_is_the_center_and_aux_the_view(self, tmp_path):
        mini.write_urbanlf(tmp_path)
        first, other = (opened(UrbanLFSource(root=str(tmp_path), part='syn', view=view))[0]
                        for view in ('1_1', '9_9'))
        np.testing.assert_array_equal(first.rgb, mini.noise(205, 20, 28, 3))
        np.testing.assert_array_equal(first.aux, mini.noise(201, 20, 28, 3))
        np.testing.assert_array_equal(other.aux, mini.noise(209, 20, 28, 3))
        assert first.modality == 'lightfield'

    def test_withheld_labels_are_told(self, tmp_path):
        mini.write_urbanlf(tmp_path, split='test', labels=False)
        with raises_sentence('keeps to itself'):
            opened(UrbanLFSource(root=str(tmp_path), split='test'))

    def test_withheld_labels_are_not_missed_where_nobody_reads_them(self, tmp_path):
        mini.write_urbanlf(tmp_path, split='test', labels=False)
        source = UrbanLFSource(root=str(tmp_path), split='test')
        samples = open_source(source, DataConfig(classes='mfnet'), labeled=False)
        assert [samples[n].rgb.shape[:2] for n in range(3)] == [(18, 26), (18, 26), (20, 28)]
        assert all((samples[n].label == 255).all() for n in range(3))
        (tmp_path / 'Syn' / 'test' / 'Bus1' / '1_1.png').unlink()
        with raises_sentence('Bus1/1_1.png: no such file'):
            open_source(source, DataConfig(), labeled=False)

    def test_the_test_split_is_one_only_with_labels(self, tmp_path):
        source = UrbanLFSource(root=str(tmp_path))
        mini.write_urbanlf(tmp_path, split='test', labels=False)
        assert UrbanLF.splits_of(source) == ('train', 'val')
        mini.write_urbanlf(tmp_path, split='test')
        assert UrbanLF.splits_of(source) == ('train', 'val', 'test')

    def test_a_color_of_no_class_is_named(self, tmp_path):
        mini.write_urbanlf(tmp_path)
        path = tmp_path / 'real' / 'train' / 'Image10' / 'label.png'
        mini.save(path, np.full((18, 26, 3), 7, np.uint8))
        with raises_sentence(r'color \(7, 7, 7\)'):
            opened(UrbanLFSource(root=str(tmp_path)))[0]

    @pytest.mark.parametrize(('array', 'text'), [
        (np.full((20, 28), 15, np.uint8), 'value 15'),
        (np.full((20, 28), -1, np.int64), 'value -1'),
        (np.full((20, 28), 300, np.int64), 'value 300'),
        (np.zeros((20, 28), np.float32), 'float32'),
        (np.zeros(20, np.uint8), 'expected integers'),
        (np.zeros((0, 28), np.uint8), 'expected integers'),
        (np.zeros((1, 9000), np.uint8), 'expected integers'),
    ])
    def test_a_strange_array_is_refused(self, tmp_path, array, text):
        mini.write_urbanlf(tmp_path)
        np.save(tmp_path / 'Syn' / 'train' / 'Bus1' / '5_5_label.npy', array)
        with raises_sentence(text):
            opened(UrbanLFSource(root=str(tmp_path), part='syn'))[0]

    @pytest.mark.parametrize('dtype', [np.uint8, np.int32, np.int64])
    def test_wider_integers_and_a_single_channel_are_read(self, tmp_path, dtype):
        ids = mini.write_urbanlf(tmp_path)
        path = tmp_path / 'Syn' / 'train' / 'Bus1' / '5_5_label.npy'
        np.save(path, np.load(path).astype(dtype)[..., None])
        assert_labels(opened(UrbanLFSource(root=str(tmp_path), part='syn')),
                      {'syn/Bus1': ids['syn/Bus1']})

    def test_a_pickle_is_never_loaded(self, tmp_path):
        mini.write_urbanlf(tmp_path)
        path, told = tmp_path / 'Syn' / 'train' / 'Bus1' / '5_5_label.npy', tmp_path / 'told'
        for write in (lambda: path.write_bytes(pickle.dumps(_Malice(told))),
                      lambda: np.save(path, np.array([_Malice(told)], object), allow_pickle=True)):
            write()
            with pytest.raises(CorruptImage, match='cannot be read as an array'):
                opened(UrbanLFSource(root=str(tmp_path), part='syn'))[0]
        assert not told.exists()

    def test_a_head_that_promises_more_than_the_file_is_refused(self, tmp_path):
        mini.write_urbanlf(tmp_path)
        path = tmp_path / 'Syn' / 'train' / 'Bus1' / '5_5_label.npy'
        with open(path, 'wb') as file:
            np.lib.format.write_array_header_1_0(
                file, {'descr': '|u1', 'fortran_order': False, 'shape': (10**6, 10**7)})
        with pytest.raises(CorruptImage):
            opened(UrbanLFSource(root=str(tmp_path), part='syn'))[0]

    def test_a_missing_part_is_named(self, tmp_path):
        mini.write_urbanlf(tmp_path)
        (tmp_path / 'Syn').rename(tmp_path / 'elsewhere')
        with raises_sentence('expected the scenes of UrbanLF.*part syn'):
            opened(UrbanLFSource(root=str(tmp_path)))


class _Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_undecodable_images_are_corrupt_not_fatal(tmp_path):
    mini.write_urbanlf(tmp_path)
    (tmp_path / 'real' / 'train' / 'Image10' / '5_5.png').write_bytes(b'no image')
    with pytest.raises(CorruptImage):
        opened(UrbanLFSource(root=str(tmp_path)))[0]
