# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Labels: every lossless form gives the ids that were drawn, and the rest is one sentence."""

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_labels import FolderLabels, TopicLabels
from rgbx_seg_ros.label_decoder import Decoder, load_palette
from rgbx_seg_ros.manifest import ClassInfo

IDS = np.random.default_rng(0).choice([0, 1, 2, 255], (6, 9)).astype(np.uint8)
COLORS = {0: (0, 0, 0), 1: (64, 0, 128), 2: (64, 64, 0), 255: (200, 100, 50)}
STAMP = 1_700_000_000_123_456_789


def painted(ids):
    """Return the RGB picture of ids, pixel by pixel."""
    return np.array([[COLORS[int(one)] for one in row] for row in ids], np.uint8)


def raw(image, encoding):
    """Return an Image as duck."""
    return SimpleNamespace(height=image.shape[0], width=image.shape[1], encoding=encoding,
                           step=image.nbytes // image.shape[0], is_bigendian=0,
                           data=image.tobytes())


def compressed(image, suffix='.png'):
    """Return a CompressedImage of gray or RGB as duck."""
    bgr = image[..., ::-1] if image.ndim == 3 else image
    return SimpleNamespace(format='png', data=cv2.imencode(suffix, bgr)[1].tobytes())


def indexed_png(ids):
    """Return a PNG with a palette of nonsense, whose indices are the ids."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I',
                                                                        zlib.crc32(kind + data))

    rows = b''.join(b'\0' + row.tobytes() for row in ids)
    return (b'\x89PNG\r\n\x1a\n'
            + chunk(b'IHDR', struct.pack('>IIBBBBB', ids.shape[1], ids.shape[0], 8, 3, 0, 0, 0))
            + chunk(b'PLTE', bytes(range(256)) * 3) + chunk(b'IDAT', zlib.compress(rows))
            + chunk(b'IEND', b''))


@pytest.fixture
def palette(tmp_path):
    """Return a palette as people write it: by name, by id, as text, several colors."""
    file = tmp_path / 'palette.yaml'
    file.write_text("car: [64, 0, 128]\n2: '#404000'\n0: [[0, 0, 0], [1, 1, 1]]\n"
                    '255: [200, 100, 50]\n')
    return file


@pytest.mark.parametrize('message', [
    raw(IDS, 'mono8'), raw(IDS, '8UC1'), raw(IDS.astype(np.uint16), 'mono16'),
    raw(IDS.astype(np.uint16), '16UC1'), compressed(IDS), compressed(IDS.astype(np.uint16)),
    SimpleNamespace(format='x', data=indexed_png(IDS)),
    raw(painted(IDS), 'rgb8'), raw(np.ascontiguousarray(painted(IDS)[..., ::-1]), 'bgr8'),
    compressed(painted(IDS)),
    raw(np.dstack([painted(IDS), IDS]), 'rgba8')],
    ids=['mono8', '8UC1', 'mono16', '16UC1', 'png', 'png16', 'indexed', 'rgb8', 'bgr8', 'color png',
         'rgba8'])
def test_every_lossless_form_gives_the_ids(palette, message):
    np.testing.assert_array_equal(Decoder(CLASSES, palette).of_message(message, 'x'), IDS)


def test_the_colors_of_the_bundle_hold_without_a_palette_and_black_is_unlabeled():
    ids = np.where(IDS == 255, 0, IDS)
    np.testing.assert_array_equal(
        Decoder(CLASSES).of_message(raw(painted(ids), 'rgb8'), 'x'), ids)  # 0 is black here
    others = (ClassInfo(1, 'car', (64, 0, 128)), ClassInfo(2, 'person', (64, 64, 0)))
    np.testing.assert_array_equal(
        Decoder(others).of_message(raw(painted(ids), 'rgb8'), 'x'), np.where(ids == 0, 255, ids))


@pytest.mark.parametrize('message, told', [
    (compressed(IDS, '.jpg'), 'the label is a JPEG, which changes ids'),
    (compressed(painted(IDS), '.jpg'), 'the label is a JPEG'),
    (raw(np.full((2, 3), 7, np.uint8), 'mono8'), r'the label holds the id 7, and 6 pixels in all '
     r'that no class has, expected 0, 1, 2 or 255 \(unlabeled\)'),
    (raw(np.full((2, 3), 300, np.uint16), 'mono16'), 'the label holds the id 300'),
    (raw(painted(np.where(IDS == 0, 255, IDS)), 'rgb8'),
     rf'holds the color \[200, 100, 50\] on {((IDS == 0) | (IDS == 255)).sum()} pixels, expected '
     'those of the bundle'),
    (raw(np.zeros((2, 3), np.float32), '32FC1'), 'the label is 32FC1, expected class ids'),
    (raw(np.zeros((2, 9), np.uint8), '8UC3'), 'the label is 8UC3'),
    (raw(np.zeros((2, 3), np.int16), '16SC1'), 'the label is 16SC1'),
    (SimpleNamespace(format='png', data=b'GIF89a'), 'expected a JPEG or a PNG'),
    (SimpleNamespace(format='png', data=indexed_png(IDS)[:60]), 'truncated'),
    (SimpleNamespace(height=2, width=3, encoding='mono8', step=3, is_bigendian=0, data=b'12'),
     'the data holds 2 bytes')],
    ids=['jpeg', 'color jpeg', 'id', 'id16', 'color', 'float', '8UC3', 'signed', 'gif', 'cut',
         'short'])
def test_what_is_no_label_is_one_sentence_that_names_it(message, told):
    with pytest.raises(RgbxSegError, match=told) as caught:
        Decoder(CLASSES).of_message(message, 'the label')
    assert str(caught.value).startswith('the label') and '\n' not in str(caught.value)


def test_two_classes_of_one_color_are_refused_only_where_labels_are_colors():
    decoder = Decoder((ClassInfo(0, 'a', (9, 9, 9)), ClassInfo(1, 'b', (9, 9, 9))))
    assert decoder.of_message(raw(np.ones((2, 2), np.uint8), 'mono8'), 'x').all()
    with pytest.raises(RgbxSegError, match=r'two classes of the bundle have the color \[9, 9, 9\]'):
        decoder.of_message(raw(np.full((2, 2, 3), 9, np.uint8), 'rgb8'), 'x')


@pytest.mark.parametrize('text, told', [
    ('', 'no classes'), ('[1, 2]', 'no classes'), ('tree: [1, 2, 3]', "the class 'tree' is unkn"),
    ('car: [1, 2]', 'car is .*expected .red, green, blue.'), ('car: [1, 2, 256]', 'car is'),
    ('car: red', 'car is red'), ('car: []', 'car is'), ('{', 'cannot be read'),
    ('car: [1, 2, 3]\nperson: [1, 2, 3]', 'stands for two classes'), ('car: "#12"', 'car is')])
def test_a_palette_that_is_none_is_one_sentence(tmp_path, text, told):
    (tmp_path / 'p.yaml').write_text(text)
    with pytest.raises(RgbxSegError, match=told):
        load_palette(tmp_path / 'p.yaml', CLASSES)


def test_a_palette_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RgbxSegError, match='cannot be read'):
        load_palette(tmp_path / 'p.yaml', CLASSES)


@pytest.mark.parametrize('name, fits, not_fits', [
    ('1700000000123456789', [0], [1, -1]),
    ('1700000000.123456789', [0], [1, -1]),
    ('1700000000_123456789', [0], [1, -1]),
    ('1700000000.123456', [0, -789, 210, -1788], [211, -1789]),  # cut or rounded: one unit
    ('1700000000.123', [0, 543_210], [543_211])])
def test_a_file_belongs_to_the_frame_of_its_stamp(tmp_path, name, fits, not_fits):
    cv2.imwrite(str(tmp_path / f'{name}.png'), IDS)
    (tmp_path / 'README.txt').write_text('x')
    labels = FolderLabels(tmp_path, Decoder(CLASSES))
    for offset in fits:
        np.testing.assert_array_equal(labels.take(STAMP + offset)(), IDS)
    assert [labels.take(STAMP + offset) for offset in not_fits] == [None] * len(not_fits)
    assert labels.take(0) is None and labels.found == 1


def test_nanoseconds_after_an_underscore_need_no_zeros_in_front(tmp_path):
    cv2.imwrite(str(tmp_path / '17_5.png'), IDS)
    assert FolderLabels(tmp_path, Decoder(CLASSES)).take(17 * 10**9 + 5) is not None


def test_the_nearest_of_two_names_wins(tmp_path):
    for name, value in (('5.000', 1), ('5.001', 2)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((2, 2), value, np.uint8))
    labels = FolderLabels(tmp_path, Decoder(CLASSES))
    assert [labels.take(5_000_000_000 + offset)().max() for offset in (
        0, 400_000, 600_000, 1_000_000, 1_400_000)] == [1, 1, 2, 2, 2]


@pytest.mark.parametrize('names, told', [
    ([], 'none of its 0 files is called by a stamp'), (['frame_a.png'], 'none of its 1 files'),
    (['17.5.png'], 'has 1 digits of a fraction')])
def test_a_folder_of_other_names_is_one_sentence(tmp_path, names, told):
    for name in names:
        cv2.imwrite(str(tmp_path / name), IDS)
    with pytest.raises(RgbxSegError, match=told):
        FolderLabels(tmp_path, Decoder(CLASSES))


def test_a_missing_folder_and_a_jpeg_in_it_are_one_sentence(tmp_path):
    with pytest.raises(RgbxSegError, match='no such folder'):
        FolderLabels(tmp_path / 'x', Decoder(CLASSES))
    cv2.imwrite(str(tmp_path / '17.jpg'), IDS)
    labels = FolderLabels(tmp_path, Decoder(CLASSES))
    with pytest.raises(RgbxSegError, match=r'17\.jpg is a JPEG') as caught:
        labels.take(17)()
    assert str(Path(tmp_path) / '17.jpg') in str(caught.value)


def test_labels_of_a_topic_wait_within_bounds():
    labels = TopicLabels('/gt', 4, Decoder(CLASSES))
    for stamp in (10, 20, 30):
        labels.add(stamp, stamp + 1, raw(IDS, 'mono8'))
    assert 20 in labels and not labels.is_over
    np.testing.assert_array_equal(labels.take(20)(), IDS)
    assert labels.take(20) is None  # once
    labels.forget(before_ns=20, most_bytes=1000)
    assert 10 not in labels and 30 in labels and labels.lost == 1
    labels.forget(before_ns=0, most_bytes=IDS.size - 1)
    assert 30 not in labels and labels.lost == 2
    labels.add(40, 41, raw(np.full((2, 2), 9, np.uint8), 'mono8'))
    assert labels.is_over
    with pytest.raises(RgbxSegError, match=r'the label on /gt at 0\.000000040 s holds the id 9'):
        labels.take(40)()


OTHERS = (ClassInfo(0, 'person', (9, 9, 9)), ClassInfo(1, 'drone', (8, 8, 8)),
          ClassInfo(2, 'unlabeled', (7, 7, 7)))


def test_ids_of_labels_become_those_of_the_same_names_where_masks_have_other_classes():
    by_hand = np.array([2, 255, 0, 255], np.uint8)  # unlabeled, car, person, none
    decoder = Decoder(CLASSES, found=OTHERS)
    wanted = by_hand[np.where(IDS == 255, 3, IDS)]
    np.testing.assert_array_equal(decoder.of_message(raw(IDS, 'mono8'), 'x'), wanted)
    ids = np.where(IDS == 255, 1, IDS)
    np.testing.assert_array_equal(
        decoder.of_message(raw(painted(ids), 'rgb8'), 'x'), by_hand[ids])
    with pytest.raises(RgbxSegError, match='holds the id 7'):  # ids are still those of the bundle
        decoder.of_message(raw(np.full((2, 2), 7, np.uint8), 'mono8'), 'x')
    new, lost = decoder.notes()
    assert new.startswith('the labels have no drone, which the masks are told to find')
    assert lost.startswith('the labels have car, which the masks are not told to find')
    assert Decoder(CLASSES).notes() == Decoder(CLASSES, found=CLASSES).notes() == []


def test_a_palette_may_name_what_only_the_masks_have(tmp_path):
    (tmp_path / 'p.yaml').write_text('drone: [1, 2, 3]\ncar: [4, 5, 6]\n2: [7, 7, 8]\n'
                                     'unlabeled: [0, 0, 0]\n')
    decoder = Decoder(CLASSES, tmp_path / 'p.yaml', OTHERS)
    picture = np.array([[[1, 2, 3], [4, 5, 6], [7, 7, 8], [0, 0, 0]]], np.uint8)
    assert decoder.of_message(raw(picture, 'rgb8'), 'x').tolist() == [[1, 255, 0, 2]]
    assert len(decoder.notes()) == 1 and 'have car' in decoder.notes()[0]


def test_many_names_in_a_note_are_cut_short():
    many = tuple(ClassInfo(n, f'n{n}', (n, 0, 0)) for n in range(200))
    assert 'n0, n1, n2, n3, n4, n5, n6, n7 and 192 more' in Decoder(CLASSES, found=many).notes()[0]
