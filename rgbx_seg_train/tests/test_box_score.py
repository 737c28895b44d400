# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes: read from files, scored by hand, and turned into weak labels."""

import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.box_score import BoxScore
from rgbx_seg_train.data.boxes import BIKE, CAR, PERSON, Box, read_boxes, weak_label
from rgbx_seg_train.data.sources import CLASS_SETS

CLASSES = CLASS_SETS['mfnet']


def filled(*boxes, shape=(40, 60)):
    label = np.zeros(shape, np.uint8)
    for box in boxes:
        box.of(label)[:] = box.class_id
    return label


def test_boxes_are_read_in_pixels_and_cut_to_the_image(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('0 0.5 0.5 0.2 0.5  \n\n2 1.0 0.25 0.5 0.5\n1 0.5 0.5 0 0\n')
    assert read_boxes(path, 40, 60) == (Box(PERSON, 24, 10, 36, 30), Box(CAR, 45, 0, 60, 20))


@pytest.mark.parametrize('line', ['7 0.5 0.5 0.1 0.1', '0 0.5 0.5 0.1', 'person 0 0 1 1',
                                  '0 nan 0.5 0.1 0.1', '\xff'])
def test_bad_box_line_is_named(tmp_path, line):
    path = tmp_path / 'a.txt'
    path.write_text(f'0 0.5 0.5 0.1 0.1\n{line}\n', encoding='latin-1')
    with pytest.raises(RgbxSegError, match='line 2'):
        read_boxes(path, 40, 60)


def test_a_box_is_hit_only_above_a_fifth_of_its_pixels():
    box = Box(PERSON, 10, 10, 20, 20)
    score = BoxScore()
    for rows, night in ((2, False), (3, True)):  # 20 and 30 of 100 pixels
        score.update(filled(Box(PERSON, 10, 10, 20, 10 + rows)), [box], night)
    summary = score.summary(CLASSES)
    assert summary['day']['person'] == {'boxes': 1, 'hit_rate': 0.0, 'inside': 1.0}
    assert summary['night']['person'] == {'boxes': 1, 'hit_rate': 1.0, 'inside': 1.0}
    assert summary['all']['person']['hit_rate'] == 0.5


def test_only_the_boxs_own_class_hits_it_and_pixels_outside_count_against_it():
    score = BoxScore()
    label = filled(Box(CAR, 0, 0, 10, 10), Box(PERSON, 30, 0, 40, 20))
    score.update(label, [Box(CAR, 0, 0, 10, 5), Box(BIKE, 30, 0, 40, 20)], night=False)
    day = score.summary(CLASSES)['day']
    assert day['car'] == {'boxes': 1, 'hit_rate': 1.0, 'inside': 0.5}
    assert day['bike'] == {'boxes': 1, 'hit_rate': 0.0, 'inside': None}
    assert day['person'] == {'boxes': 0, 'hit_rate': None, 'inside': 0.0}


def test_pixels_in_two_boxes_count_once():
    score = BoxScore()
    boxes = [Box(CAR, 0, 0, 10, 10), Box(CAR, 5, 0, 15, 10)]
    score.update(filled(Box(CAR, 0, 0, 30, 10)), boxes, night=False)
    assert score.summary(CLASSES)['day']['car'] == {'boxes': 2, 'hit_rate': 1.0, 'inside': 0.5}


def test_warm_pixels_of_a_persons_box_become_person_and_the_rest_is_ignored():
    box = Box(PERSON, 10, 5, 30, 35)
    body = Box(PERSON, 15, 8, 25, 32)
    thermal = np.full((40, 60), 20, np.uint8)
    body.of(thermal)[:] = 60
    label = weak_label(None, [box], thermal)
    expected = np.zeros((40, 60), np.uint8)
    box.of(expected)[:] = 255
    body.of(expected)[:] = PERSON
    np.testing.assert_array_equal(label, expected)


def test_a_person_as_cold_as_the_street_becomes_an_ellipse():
    label = weak_label(None, [Box(PERSON, 10, 5, 30, 35)], np.full((40, 60), 20, np.uint8))
    assert label[20, 20] == PERSON
    assert label[5, 10] == 255
    assert 0.3 < (label == PERSON).sum() / 600 < 0.6


def test_a_label_that_fills_the_box_is_kept_and_one_outside_all_boxes_is_ignored():
    box = Box(CAR, 10, 10, 30, 20)
    told = filled(Box(CAR, 12, 10, 28, 20), Box(PERSON, 50, 0, 55, 20), Box(5, 0, 30, 10, 40))
    label = weak_label(told, [box], np.zeros((40, 60), np.uint8))
    np.testing.assert_array_equal(box.of(label), box.of(told))
    assert (label[:20, 50:55] == 255).all()
    assert (label[30:, :10] == 5).all()


def test_each_of_two_overlapping_boxes_without_label_gets_its_class():
    boxes = [Box(CAR, 0, 0, 40, 40), Box(CAR, 30, 10, 50, 30)]
    label = weak_label(None, boxes, np.zeros((40, 60), np.uint8))
    assert label[20, 20] == CAR
    assert label[20, 45] == CAR
    assert not (boxes[1].of(label) == 0).any()


def test_the_smaller_of_two_boxes_stands_in_front():
    boxes = [Box(PERSON, 20, 10, 30, 30), Box(CAR, 0, 0, 50, 40)]
    label = weak_label(None, boxes, np.zeros((40, 60), np.uint8))
    assert label[20, 25] == PERSON
    assert label[20, 10] == CAR
