# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures: the colors of the manifest, and nothing painted where nothing was found."""

import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros.overlay import blend, colorize, palette

LABEL = np.array([[0, 1], [2, 255]], np.uint8)


def test_a_color_mask_shows_each_class_in_its_color_and_unlabeled_black():
    picture = colorize(LABEL, palette(CLASSES))
    assert picture.tolist() == [[[0, 0, 0], [64, 0, 128]], [[64, 64, 0], [0, 0, 0]]]


def test_an_overlay_mixes_colors_at_alpha_and_leaves_background_pixels_untouched():
    rgb = np.full((2, 2, 3), 100, np.uint8)
    mixed = blend(rgb, LABEL, palette(CLASSES), 0.25)
    assert mixed[0, 0].tolist() == mixed[1, 1].tolist() == [100, 100, 100]
    assert np.abs(mixed[0, 1] - np.array([91, 75, 107])).max() <= 1
    assert (rgb == 100).all()


@pytest.mark.parametrize('ids', [(1, 2), (1, 7, 254), (), (0, 255), range(256)])
def test_pictures_follow_the_formula_for_any_palette_and_into_given_memory(ids):
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (37, 50, 3), np.uint8)
    label = rng.integers(0, 256, (37, 50), np.uint8)
    table = np.zeros((256, 3), np.uint8)
    table[list(ids)] = rng.integers(1, 256, (len(ids), 3))
    out = np.empty_like(rgb)
    assert np.shares_memory(colorize(label, table, out), out)
    np.testing.assert_array_equal(out, table[label])
    assert np.shares_memory(blend(rgb, label, table, 0.6, out), out)
    mixed = 0.4 * rgb + 0.6 * table[label]
    mixed[~table[label].any(axis=2)] = rgb[~table[label].any(axis=2)]
    assert np.abs(out - mixed).max() <= 1
    np.testing.assert_array_equal(blend(rgb, label, table, 0.6), out)
