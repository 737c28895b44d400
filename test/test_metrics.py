# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix against a count pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.metrics import EXACT, Confusion, joint_counts, value_counts


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 254), st.integers(0, 2**32 - 1))
def test_counts_and_iou_equal_a_count_pixel_by_pixel(n, seed):
    rng = np.random.default_rng(seed)
    ids = np.append(rng.integers(0, n, 5), 255).astype(np.uint8)
    label, target = rng.choice(ids, (2, 7, 9))
    confusion = Confusion(n)
    confusion.update(label, target)
    known = target != 255
    for c in set(ids.tolist()) - {255}:
        hit = (known & (label == c) & (target == c)).sum()
        union = (known & ((label == c) | (target == c))).sum()
        iou = confusion.iou()[c]
        assert np.isnan(iou) if union == 0 else iou == hit / union
        true, found = (known & (target == c)).sum(), (known & (label == c)).sum()
        assert np.isnan(confusion.recall()[c]) if not true else confusion.recall()[c] == hit / true
        precision = confusion.precision()[c]
        assert np.isnan(precision) if not found else precision == hit / found
    if known.any():
        assert confusion.accuracy() == ((label == target) & known).sum() / known.sum()


def test_an_absent_class_is_left_out_of_the_mean_or_counts_zero_if_strict():
    confusion = Confusion(3)
    confusion.update(np.array([0, 1, 1], np.uint8), np.array([0, 1, 0], np.uint8))
    assert np.allclose(confusion.iou(), [0.5, 0.5, np.nan], equal_nan=True)
    assert confusion.miou() == 0.5
    assert confusion.miou(strict=True) == pytest.approx(1 / 3)


def test_an_unlabeled_prediction_misses_its_class_and_blames_no_other():
    confusion = Confusion(2)
    confusion.update(np.array([255, 1, 0], np.uint8), np.array([1, 1, 0], np.uint8))
    assert confusion.iou().tolist() == [1.0, 0.5]
    assert confusion.precision().tolist() == [1.0, 1.0]


def test_two_halves_added_equal_the_whole():
    label, target = np.random.default_rng(0).integers(0, 4, (2, 10, 10)).astype(np.uint8)
    whole, first, second = Confusion(4), Confusion(4), Confusion(4)
    whole.update(label, target)
    first.update(label[:3], target[:3])
    second.update(label[3:], target[3:])
    first += second
    assert (first.matrix == whole.matrix).all()


def test_nothing_seen_gives_nan_and_not_a_score():
    assert np.isnan(Confusion(2).miou())


def test_foreign_ids_and_sizes_are_refused():
    with pytest.raises(RgbxSegError, match='target has the id 7'):
        Confusion(3).update(np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8))
    with pytest.raises(RgbxSegError, match='predicted label has the id 3'):
        Confusion(3).update(np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(RgbxSegError, match='same size'):
        Confusion(3).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_counts_of_pairs_and_values_equal_a_count_pixel_by_pixel():
    first, second = np.random.default_rng(0).integers(0, 256, (2, 30, 40)).astype(np.uint8)
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (first, second), 1)
    assert (joint_counts(first, second) == expected).all()
    assert (value_counts(first[:, ::3]) == np.bincount(first[:, ::3].ravel(), minlength=256)).all()
    assert value_counts(first[:0]).sum() == 0


def test_counts_beyond_what_a_float_holds_are_exact():
    image = np.zeros((EXACT + 3,), np.uint8)
    assert value_counts(image)[0] == joint_counts(image, image)[0, 0] == EXACT + 3


def test_an_image_that_is_not_of_bytes_is_refused():
    with pytest.raises(RgbxSegError, match='int64'):
        Confusion(3).update(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64))
