# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration against its definition in floating point, and the bound of the entropy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.metrics_calibration import Calibration, entropy_bound


def by_definition(label, confidence, target, bins=15):
    """Return the expected and the maximum calibration error, over bins (m / M, (m + 1) / M]."""
    known = (target != 255) & (label != 255)
    sure = confidence[known].astype(np.float64) / 255
    right = (label == target)[known]
    gaps, shares = [0.0], [0.0]
    for m in range(bins):
        inside = (sure > m / bins) & (sure <= (m + 1) / bins)
        if m == 0:
            inside |= sure == 0
        if inside.any():
            gaps.append(abs(right[inside].mean() - sure[inside].mean()))
            shares.append(inside.mean())
    return np.dot(gaps, shares), max(gaps)


def images(seed, shape=(20, 30)):
    rng = np.random.default_rng(seed)
    target, label = rng.choice(np.array([0, 1, 2, 255], np.uint8), (2, *shape))
    return label, rng.integers(0, 256, shape).astype(np.uint8), target


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, 4, 7, 15, 16, 20]), st.integers(0, 2**32 - 1))
def test_errors_equal_their_definition(bins, seed):
    label, confidence, target = images(seed)
    calibration = Calibration()
    confidences = calibration.update(label, confidence, target)
    ece, mce = by_definition(label, confidence, target, bins)
    assert calibration.ece(bins) == pytest.approx(ece)
    assert calibration.mce(bins) == pytest.approx(mce)
    assert (confidences == np.bincount(confidence.ravel(), minlength=256)).all()


def test_every_known_pixel_is_counted_once_as_right_or_wrong():
    label, confidence, target = images(1)
    calibration = Calibration()
    calibration.update(label, confidence, target)
    known = (target != 255) & (label != 255)
    assert calibration.counts[:, 1].sum() == (known & (label == target)).sum()
    assert calibration.counts.sum() == known.sum() == sum(
        one.pixels for one in calibration.reliability())


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one():
    calibration = Calibration()
    calibration.update(*np.array([[[1, 1, 1, 1]], [[0, 17, 18, 255]], [[1, 1, 1, 0]]], np.uint8))
    filled = {n: one.pixels for n, one in enumerate(calibration.reliability()) if one.pixels}
    assert filled == {0: 2, 1: 1, 14: 1}  # 17 of 255 is 1 / 15
    assert calibration.mce() == 1.0


def test_a_model_that_is_as_often_right_as_it_says_has_no_error():
    calibration = Calibration()
    calibration.counts[51] = 80, 20
    calibration.counts[204] = 20, 80
    assert calibration.ece() == calibration.mce() == pytest.approx(0)


def test_two_images_apart_equal_both_together():
    first, second, both = Calibration(), Calibration(), Calibration()
    for seed, one in ((2, first), (3, second)):
        one.update(*images(seed))
        both.update(*images(seed))
    first += second
    assert (first.counts == both.counts).all()


def test_nothing_seen_gives_nan_and_not_a_score():
    assert np.isnan(Calibration().ece()) and np.isnan(Calibration().mce())
    assert np.isnan(Calibration().reliability()[0].accuracy)


def test_different_sizes_are_refused():
    with pytest.raises(RgbxSegError, match='same size'):
        Calibration().update(*(np.zeros((2, width), np.uint8) for width in (2, 2, 3)))


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 40), st.integers(0, 255), st.floats(0.1, 8), st.integers(0, 2**32 - 1))
def test_no_entropy_exceeds_its_bound(n_classes, confidence, sharpness, seed):
    chosen = max(confidence / 255, 1 / n_classes)
    others = np.random.default_rng(seed).random(n_classes - 1) ** sharpness + 1e-12
    chances = np.append(others / others.sum() * (1 - chosen), chosen)
    chances = chances[chances > 0]
    entropy = -(chances * np.log2(chances)).sum()
    assert entropy <= entropy_bound(n_classes)[confidence] + 1e-9


def test_the_bound_is_reached_where_the_other_classes_are_alike():
    assert entropy_bound(4)[255] == 0
    assert entropy_bound(5)[51] == pytest.approx(np.log2(5))  # 1 / 5 for each
    assert entropy_bound(2)[128] == pytest.approx(1, abs=1e-4)
    assert entropy_bound(3)[153] == pytest.approx(-0.6 * np.log2(0.6) - 0.4 * np.log2(0.2))
    assert (entropy_bound(1) == 0).all()
    assert (np.diff(entropy_bound(9)) <= 0).all()
