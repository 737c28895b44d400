# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bank of names and embeddings: files, damaged ones, and what a name finds in it."""

import io
import re
import zipfile

import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError, vocabulary
from rgbx_seg_ros.vocabulary import (
    Bank,
    Wanted,
    choose,
    load_bank,
    nearest,
    save_bank,
    to_bytes,
)

NAMES = ('car', 'traffic light', 'traffic_sign', 'fire hydrant', 'person', 'Pedestrian, walker')


def bank(names=NAMES, width=3, colors=None):
    rows = np.random.default_rng(len(names)).normal(size=(len(names), width))
    colors = [(n, n, n) for n in range(len(names))] if colors is None else colors
    return Bank(names, [f'a photo of a {name}.\nthe {name}' for name in names], colors, rows)


def test_a_bank_comes_back_from_its_file_bit_for_bit_and_writes_the_same_bytes(tmp_path):
    own = bank()
    save_bank(tmp_path / 'b.npz', own)
    found = load_bank(tmp_path / 'b.npz')
    assert (found.names, found.texts, found.width) == (own.names, own.texts, 3)
    for name in ('colors', 'embeddings'):
        np.testing.assert_array_equal(getattr(found, name), getattr(own, name))
    assert found.embeddings.dtype == np.float32 and found.colors.dtype == np.uint8
    assert to_bytes(found) == (tmp_path / 'b.npz').read_bytes() == to_bytes(own)
    assert [path.name for path in tmp_path.iterdir()] == ['b.npz']


def test_numpy_alone_can_read_the_file_without_pickles(tmp_path):
    save_bank(tmp_path / 'b.npz', bank())
    with np.load(tmp_path / 'b.npz', allow_pickle=False) as arrays:
        assert sorted(arrays) == ['colors', 'embeddings', 'names', 'texts']
        assert arrays['names'].tolist() == list(NAMES)


def test_a_chosen_class_has_the_row_of_its_name_and_the_id_of_its_place():
    own = bank()
    classes, rows = choose(own, ['person', 'car'])
    assert [(info.id, info.name, info.color) for info in classes] == [
        (0, 'person', (4, 4, 4)), (1, 'car', (0, 0, 0))]
    np.testing.assert_array_equal(rows, own.embeddings[[4, 0]])


def test_a_class_may_have_another_name_a_color_and_be_known_by_what_was_read_of_it():
    own = bank()
    classes, rows = choose(own, [
        Wanted('walker', of='person', color=(1, 1, 1)), Wanted('lamp', of='traffic light'),
        Wanted('red thing', description='A photo of a fire_hydrant'),
        Wanted('car', description='the car')])
    assert [info.name for info in classes] == ['walker', 'lamp', 'red thing', 'car']
    np.testing.assert_array_equal(rows, own.embeddings[[4, 1, 3, 0]])
    assert classes[0].color == (1, 1, 1)
    colors = [info.color for info in classes]
    assert len(set(colors)) == 4  # that of the lamp was taken


def test_equal_colors_of_a_bank_become_different_ones_for_as_many_classes_as_there_are_ids():
    names = tuple(f'n{number}' for number in range(255))
    classes, _ = choose(bank(names, colors=np.full((255, 3), 7)), names)
    assert classes[0].color == (7, 7, 7) and len({info.color for info in classes}) == 255


@pytest.mark.parametrize('names, told', [
    ([], '0 classes were asked for; expected 1..255'),
    ([f'x{n}' for n in range(256)], '256 classes'),
    (['car', 'car'], "'car' was asked for twice"),
    (['Traffic-Light'], "among the 6 names of the bank; the nearest are 'traffic light'"),
    (['trafic sign'], "the nearest are 'traffic_sign', 'traffic light'"),
    (['hydrant'], "the nearest is 'fire hydrant'"),
    (['walker'], "the nearest is 'Pedestrian, walker'"),
    (['zebra'], "it has 'car', 'traffic light', 'traffic_sign', …"),
    ([Wanted('person', of='persn')], "class 'persn' is not among .* 'person'"),
    ([Wanted('car', description='a blue car')], 'the robot has no text model; .*elsewhere by '
     '`rgbx_embed_classes FILE.yaml --bank FILE.npz --model MODEL` and name it as `bank`'),
    (["cat's eye"], 'by `rgbx_embed_classes --names \'cat\'"\'"\'s eye\' --bank FILE.npz'),
    ([Wanted('a', of='car', color=(1, 2, 3)), Wanted('b', of='person', color=(1, 2, 3))],
     r"'a' and 'b' have the same color \[1, 2, 3\]")])
def test_what_cannot_be_found_is_refused_in_a_sentence_with_the_nearest(names, told):
    with pytest.raises(RgbxSegError, match=told) as caught:
        choose(bank(), names)
    assert '\n' not in str(caught.value)


def test_the_nearest_of_many_are_found_at_once_whatever_is_asked():
    many = [f'class number {n}' for n in range(20_000)] + ['café table']
    assert nearest('CAFÉ_TABLE', many)[0] == 'café table'
    assert nearest('x' * 10_000_000, many) == [] and nearest('', many) == []
    assert nearest('\N{ZERO WIDTH SPACE}', many) == []


def test_a_bank_of_many_names_is_searched_once_whatever_is_asked(monkeypatch):
    names = [f'n{number}' for number in range(2000)]
    own = bank(names, colors=np.zeros((2000, 3)))
    read = []
    monkeypatch.setattr(vocabulary, '_plain', lambda text: read.append(text) or text)
    _, rows = choose(own, [Wanted(f'own {name}', description=f'the {name}')
                           for name in names[:255]])
    np.testing.assert_array_equal(rows, own.embeddings[:255])
    assert len(read) <= 3 * 2000 + 255  # the whole text and its lines, and what is asked for


@pytest.mark.parametrize('change, told', [
    ({'names': ('a',)}, '6 texts|colors'), ({'names': ('a',) * 6}, 'a twice'),
    ({'names': ('a\n', *NAMES[1:])}, 'the name'), ({'names': ('', *NAMES[1:])}, 'the name'),
    ({'texts': ('a',)}, '1 texts'), ({'colors': np.zeros((6, 4))}, r'colors \(6, 4\)'),
    ({'embeddings': np.zeros((6, 3))}, "embedding of 'car' without a direction"),
    ({'embeddings': np.full((6, 3), np.nan)}, 'without a direction'),
    ({'embeddings': np.ones(6)}, r'embeddings \(6,\)'),
    ({'names': (), 'texts': (), 'colors': np.zeros((0, 3)), 'embeddings': np.ones((0, 3))},
     '0 names')])
def test_what_is_no_bank_cannot_be_made(change, told):
    values = dict(zip(('names', 'texts', 'colors', 'embeddings'), (
        NAMES, NAMES, np.zeros((6, 3)), np.ones((6, 3))), strict=True))
    with pytest.raises(RgbxSegError, match=told):
        Bank(**(values | change))


def zipped(**arrays):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in arrays.items():
            archive.writestr(f'{name}.npy', content)
    return file.getvalue()


def npy(array, **header):
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    for old, new in header.items():
        content = content.replace(old.encode(), new.encode())
    return content


def parts(**changes):
    own = bank()
    arrays = {'names': np.array(own.names), 'texts': np.array(own.texts), 'colors': own.colors,
              'embeddings': own.embeddings}
    return zipped(**({name: npy(array) for name, array in arrays.items()} | changes))


HUGE = {'descr': '<f4', 'fortran_order': False, 'shape': (90_000, 60_000)}


def header(described, content=b''):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue() + content


def written(text):
    """Return an array whose header is any text."""
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text.encode()


@pytest.mark.parametrize('content, told', [
    (b'', 'not a zip file'), (b'PK' * 50, 'not a zip file'), (parts()[:-40], 'cannot be read'),
    (zipped(names=npy(np.array(['a']))), "no item named 'texts.npy'"),
    (parts(embeddings=b'x' * 99), 'magic string'),
    (parts(embeddings=npy(np.ones((6, 3)))), 'embeddings as float64'),
    (parts(names=npy(np.array(NAMES, object))), r'names as object'),
    (parts(names=npy(np.array([n.encode() for n in NAMES]))), r'names as \|S'),
    (parts(embeddings=npy(np.asfortranarray(np.ones((6, 3), np.float32)))), 'embeddings as'),
    (parts(embeddings=header(HUGE)), r'embeddings \(90000, 60000\) of 21600000000 bytes'),
    (parts(embeddings=header(HUGE | {'shape': (2**40, 3)})), 'bytes; expected 1'),
    (parts(embeddings=header(HUGE | {'shape': (6, 3)}, b'1234')), 'another length'),
    (parts(embeddings=npy(np.ones((6, 3), np.float32)) + b'1'), 'another length'),
    (parts(embeddings=header(HUGE | {'shape': (-6, 3)})), 'embeddings'),
    (parts(embeddings=written('{(')), 'cannot be read'),
    (parts(embeddings=written('-' * 9000 + '1')), 'cannot be read'),
    (parts(embeddings=written('{[]: 1}')), 'cannot be read'),
    (parts(embeddings=header(HUGE | {'shape': (True, True)}, b'1234')), 'cannot be read'),
    (parts(embeddings=npy(np.ones((5, 3), np.float32))), r'embeddings \(5, 3\)')],
    ids=range(19))
def test_a_file_of_no_use_is_refused_in_a_sentence_before_it_fills_the_memory(
        tmp_path, content, told):
    (tmp_path / 'b.npz').write_bytes(content)
    with pytest.raises(RgbxSegError) as caught:
        load_bank(tmp_path / 'b.npz')
    text = str(caught.value)
    assert text.startswith(f'bank {tmp_path / "b.npz"}: ') and '\n' not in text
    assert re.search(told, text), text


def test_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / 'none.npz', tmp_path / ('a' * 5000 + '.npz')):
        with pytest.raises(RgbxSegError, match='no such file; expected one that'):
            load_bank(path)


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / 'b.npz').write_text('old')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError('full')))
    with pytest.raises(OSError, match='full'):
        save_bank(tmp_path / 'b.npz', bank())
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old']
