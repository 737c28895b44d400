# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures: the colors of the manifest, and nothing painted where nothing was found."""

import numpy as np
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
