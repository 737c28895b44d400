# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU against the paper's own definition: binary masks, eroded step by step."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.metrics_boundary import BoundaryIou, outlines


def near_own_boundary(mask, ratio=0.02):
    """Return the pixels of a binary mask within `ratio` of the diagonal of its boundary."""
    height, width = mask.shape
    steps = max(1, int(round(ratio * np.sqrt(height ** 2 + width ** 2))))
    padded = np.pad(mask.astype(np.uint8), 1)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=steps)
    return mask & (inner[1:-1, 1:-1] == 0)


def by_definition(label, target, n):
    """Return counts (3, n), class by class."""
    known = target != 255
    counts = np.zeros((3, n), np.int64)
    for c in range(n):
        true = near_own_boundary((target == c) & known)
        predicted = near_own_boundary((label == c) & known)
        counts[:, c] = (true & predicted).sum(), predicted.sum(), true.sum()
    return counts


def blobs(rng, ids, shape, scale):
    """Return a map of the ids in regions about `scale` pixels wide."""
    field = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), scale)
    order = np.argsort(np.argsort(field, axis=None)).reshape(shape)
    return np.asarray(ids, np.uint8)[order * len(ids) // order.size]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 120), st.sampled_from([1, 3, 8]), st.booleans(),
       st.integers(0, 2**32 - 1))
def test_counts_equal_the_definition_of_the_paper(height, width, scale, ignored, seed):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(5)
    target = blobs(rng, [*ids, 255] if ignored else ids, (height, width), scale)
    label = blobs(rng, [0, 1, 2, 3, 255], (height, width), scale)
    label[:height // 2] = np.where(target == 255, 1, target)[:height // 2]
    boundary = BoundaryIou(5)
    boundary.update(label, target)
    assert (boundary.counts == by_definition(label, target, 5)).all()


def test_a_camera_image_counts_as_the_definition_says():
    rng = np.random.default_rng(3)
    target, label = (blobs(rng, [0, 1, 2, 255], (480, 640), 30) for _ in range(2))
    boundary = BoundaryIou(3)
    boundary.update(label, target)
    assert (boundary.counts == by_definition(label, target, 3)).all()
    given = BoundaryIou(3)
    given.update(label, target, outlines(target))
    assert (given.counts == boundary.counts).all()


def test_a_mask_that_is_right_wherever_there_is_a_target_scores_one():
    rng = np.random.default_rng(1)
    target = blobs(rng, [0, 1, 255, 2, 255], (60, 80), 5)
    boundary = BoundaryIou(3)
    boundary.update(np.where(target == 255, 2, target).astype(np.uint8), target)
    assert boundary.iou().tolist() == [1.0, 1.0, 1.0] and boundary.miou() == 1.0


def test_a_shift_costs_more_at_the_boundary_than_in_the_whole():
    target = np.zeros((200, 200), np.uint8)
    target[50:150, 50:150] = 1
    boundary = BoundaryIou(2)
    boundary.update(np.roll(target, 3, 1), target)
    assert boundary.iou()[1] == pytest.approx(0.6, abs=0.01)  # plain IoU: 97 / 103


def test_absent_classes_are_left_out_or_count_zero_if_strict():
    boundary = BoundaryIou(4)
    assert np.isnan(boundary.miou())
    boundary.update(np.ones((9, 9), np.uint8), np.ones((9, 9), np.uint8))
    assert boundary.miou() == 1.0 and boundary.miou(strict=True) == 0.25


def test_two_images_apart_equal_both_together():
    rng = np.random.default_rng(2)
    first, second, both = BoundaryIou(3), BoundaryIou(3), BoundaryIou(3)
    for one in (first, second):
        label, target = (blobs(rng, [0, 1, 2], (40, 50), 4) for _ in range(2))
        one.update(label, target)
        both.update(label, target)
    first += second
    assert (first.counts == both.counts).all()


def test_foreign_ids_and_sizes_are_refused():
    with pytest.raises(RgbxSegError, match='target has the id 7'):
        BoundaryIou(3).update(np.zeros((2, 2), np.uint8), np.full((2, 2), 7, np.uint8))
    with pytest.raises(RgbxSegError, match='predicted label has the id 3'):
        BoundaryIou(3).update(np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8))
    with pytest.raises(RgbxSegError, match='same size'):
        BoundaryIou(3).update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
