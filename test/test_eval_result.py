# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
from results import bag_result, confusion, record, totals

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_result import (
    COUNTS_FILE,
    FRAMES_FILE,
    RESULT_FILE,
    FrameRecord,
    LaneTotals,
    finite,
    load_result,
)


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    return bag_result([confusion(rng, 5, 0.8), confusion(rng, 5, 0.9)])


def equal(one, other):
    """Tell whether two records are equal, NaN equal to NaN."""
    return all(a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
               for a, b in zip(one, other, strict=True))


def test_what_is_saved_is_loaded_to_the_last_bit(result, tmp_path):
    odd = result.records[0][2]._replace(miou=0.1 + 0.2, accuracy=1 / 3, entropy=5e-324,
                                        state='a "state", of words')
    result.records[0][2] = odd
    result.save(tmp_path)
    loaded = load_result(tmp_path)
    for own, theirs in zip(result.records, loaded.records, strict=True):
        assert all(equal(*pair) for pair in zip(own, theirs, strict=True))
        assert [[type(value) for value in one] for one in own] == [
            [type(value) for value in one] for one in theirs]
    for own, theirs in zip(result.totals, loaded.totals, strict=True):
        for field in fields(LaneTotals):
            array = getattr(theirs, field.name)
            assert array.dtype == np.int64 and np.array_equal(getattr(own, field.name), array)
    for field in fields(result):
        if field.name not in ('records', 'totals'):
            assert getattr(loaded, field.name) == getattr(result, field.name), field.name


def test_saving_twice_writes_the_same_table(result, tmp_path):
    for name in 'ab':
        (tmp_path / name).mkdir()
        result.save(tmp_path / name)
    for file in (FRAMES_FILE, RESULT_FILE):
        assert (tmp_path / 'a' / file).read_bytes() == (tmp_path / 'b' / file).read_bytes()


def test_a_number_that_does_not_exist_is_an_empty_cell(result, tmp_path):
    result.records[0][0] = record('b0', 0)
    result.save(tmp_path)
    rows = (tmp_path / FRAMES_FILE).read_text().splitlines()
    cells = dict(zip(FrameRecord._fields, rows[1].split(','), strict=True))
    assert cells['miou'] == cells['engine_ms'] == '' and cells['labeled'] == '0'
    assert 'nan' not in rows[1]


@pytest.mark.parametrize('name', [RESULT_FILE, FRAMES_FILE, COUNTS_FILE])
def test_a_folder_that_lacks_a_file_or_holds_half_of_it_is_refused(result, tmp_path, name):
    result.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(RgbxSegError, match='no complete evaluation'):
        load_result(tmp_path)
    if name != FRAMES_FILE:  # a table may end anywhere; its length is checked with the counts
        (tmp_path / name).write_bytes(whole[:len(whole) // 2])
        with pytest.raises(RgbxSegError, match='no complete evaluation'):
            load_result(tmp_path)


def test_a_table_of_other_columns_or_bundles_is_refused(result, tmp_path):
    result.save(tmp_path)
    text = (tmp_path / FRAMES_FILE).read_text()
    for damaged in (text.replace('bundle,', 'model,', 1), text.replace('\nb1,', '\nb7,'),
                    text.replace('ok', 'ok,ok', 1)):
        (tmp_path / FRAMES_FILE).write_text(damaged)
        with pytest.raises(RgbxSegError, match='no complete evaluation'):
            load_result(tmp_path)


def test_counts_that_are_pickled_objects_are_refused(result, tmp_path):
    result.save(tmp_path)
    with np.load(tmp_path / COUNTS_FILE) as arrays:
        content = dict(arrays)
    content['0_confusion'] = np.array([{'a': 1}], dtype=object)
    np.savez(tmp_path / COUNTS_FILE, **content)
    with pytest.raises(RgbxSegError, match='no complete evaluation'):
        load_result(tmp_path)


def test_another_format_is_refused(result, tmp_path):
    result.save(tmp_path)
    head = json.loads((tmp_path / RESULT_FILE).read_text())
    (tmp_path / RESULT_FILE).write_text(json.dumps({**head, 'format': 2}))
    with pytest.raises(RgbxSegError, match='another format'):
        load_result(tmp_path)


def test_totals_add_up_in_any_order_but_for_the_frames():
    rng = np.random.default_rng(0)
    parts = [totals(confusion(rng, n, 0.8), abstained=rng.integers(0, 9, 3)) for n in (2, 3, 4)]
    one, other = parts[0] + parts[1] + parts[2], parts[2] + (parts[1] + parts[0])
    assert np.array_equal(one.confusion, other.confusion)
    assert np.array_equal(one.abstained, sum(part.abstained for part in parts))
    assert one.counts.shape == (9, 3, 3) and np.array_equal(one.counts[:2], parts[0].counts)
    assert np.array_equal(other.fractions[:4], parts[2].fractions)


def test_finite_makes_json_of_anything():
    value = {'a': np.float32(0.5), 'b': (math.nan, math.inf, 1), 'c': np.array([1.5, np.nan]),
             3: np.int64(7), 'd': True, 'e': None}
    assert finite(value) == {'a': 0.5, 'b': [None, None, 1], 'c': [1.5, None], '3': 7, 'd': True,
                             'e': None}


def test_a_result_without_frames_can_be_kept(tmp_path):
    empty = replace(bag_result([np.zeros((1, 3, 3), np.int64)]), records=[[]],
                    totals=[totals(np.zeros((0, 3, 3), np.int64))])
    empty.save(tmp_path)
    assert load_result(tmp_path).records == [[]]
