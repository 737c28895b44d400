# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Homographies are found from outlines alone; where they cannot be, that is said."""

import cv2
import numpy as np
import pytest
from bags import DATA
from rig import error_px, homography, hurry, scene, seen_through

from rgbx_seg_ros.alignment import doubt, estimate
from rgbx_seg_ros.alignment_search import SearchRange
from rgbx_seg_ros.edge_maps import edge_maps, seen

WARPS = {
    'none': homography(0, 1, (0, 0)),
    'shift': homography(0, 1, (31, -17)),
    'turn': homography(4, 1.03, (-12, 20)),
    'tilt': homography(-3, 0.97, (8, 9), (2e-5, -3e-5)),
}
NEAR = SearchRange(4.0, 1.04, 0.06)


@pytest.fixture(scope='module', autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield


@pytest.fixture
def coarse(monkeypatch):
    """Work on a grid of half the width, where the question is not how exact."""
    hurry(monkeypatch, 320)


@pytest.fixture(scope='module')
def shifted(quick):
    """Return what one pair says."""
    return estimate(pairs(WARPS['shift'], 1), NEAR)


def pairs(warp, count, first=0):
    made = []
    for seed in range(first, first + count):
        rgb, thermal = scene(seed)
        made.append((rgb, seen_through(thermal, warp)))
    return made


def test_one_pair_is_aligned_although_its_brightness_says_nothing(shifted):
    assert error_px(shifted.homography, WARPS['shift']) < 1.0
    assert np.abs(shifted.lens).max() < 3.0


def test_enough_pairs_leave_no_doubt():
    found = estimate(pairs(WARPS['turn'], 3), NEAR)
    assert doubt(found, 2.0) == ''
    assert error_px(found.homography, WARPS['turn']) < 0.5


def test_the_aux_image_may_have_another_size_depth_and_polarity():
    size = (320, 256)
    to_rgb = WARPS['tilt'] @ np.diag([2.0, 480 / 256, 1.0])
    rgb, thermal = scene(3)
    aux = seen_through(30000 - 20 * thermal.astype(np.uint16), to_rgb, size)
    assert aux.dtype == np.uint16
    found = estimate([(rgb, aux)], NEAR)
    assert error_px(found.homography, to_rgb, *size) < 1.5


def test_errors_are_told_in_rgb_pixels(shifted):
    rgb, aux = pairs(WARPS['shift'], 1)[0]
    large = estimate([(cv2.resize(rgb, (1280, 960), interpolation=cv2.INTER_CUBIC), aux)],
                     NEAR)
    assert large.error_px == pytest.approx(2 * shifted.error_px, rel=0.5)
    assert error_px(large.homography, np.diag([2.0, 2.0, 1.0]) @ WARPS['shift']) < 2.5


@pytest.mark.parametrize('what', ['other scene', 'noise', 'constant', 'black'])
def test_images_of_nothing_in_common_are_doubted(what, coarse):
    rgb, thermal = scene(0)
    aux = {'other scene': scene(50)[1],
           'noise': np.random.default_rng(0).integers(1, 255, thermal.shape).astype(np.uint8),
           'constant': np.full_like(thermal, 80),
           'black': np.zeros_like(thermal)}[what]
    assert 'stands out' in doubt(estimate([(rgb, aux)], NEAR), 2.0)


def test_a_rival_and_a_pair_that_does_not_fit_are_doubted(shifted):
    sure = shifted._replace(rival=0.8, error_px=1.0)
    assert doubt(sure, 2.0) == ''
    assert 'stands out' in doubt(sure._replace(rival=0.9), 2.0)
    assert 'do not fit' in doubt(sure._replace(support=(30.0, 5.0)), 2.0)
    assert 'add pairs' in doubt(sure._replace(error_px=1.5), 2.0)


def test_pairs_of_different_rigs_are_doubted(coarse):
    mixed = pairs(WARPS['turn'], 1) + pairs(WARPS['shift'], 1, 10)
    assert doubt(estimate(mixed, NEAR), 2.0)


def test_a_shift_beyond_the_search_is_doubted_and_found_by_a_wider_one(coarse):
    far = homography(0, 1, (170, 0))
    made = pairs(far, 1)
    assert 'stands out' in doubt(estimate(made, NEAR), 2.0)
    found = estimate(made, SearchRange(0.0, 1.0, 0.3))
    assert error_px(found.homography, far) < 1.5


def test_cameras_that_are_aligned_stay_so_and_are_told_so_each_time(coarse):
    first, second = (estimate(pairs(WARPS['none'], 1), NEAR) for _ in range(2))
    np.testing.assert_allclose(first.homography, second.homography, rtol=1e-9)
    assert error_px(first.homography, WARPS['none']) < 2.0


def test_black_at_the_border_is_no_picture_but_black_inside_is():
    aux = np.full((40, 60), 9, np.uint8)
    aux[:5], aux[20:30, 20:30] = 0, 0
    mask = seen(aux)
    assert not mask[:5].any() and mask[5:].all()


def test_edge_maps_are_blind_to_polarity_and_unmoved_by_the_mask():
    rgb, _ = scene(1, 160, 120)
    gray = rgb[..., 1].astype(np.float32)
    whole = np.ones(gray.shape, np.uint8)
    maps, _ = edge_maps(gray, whole, 1.5, 31)
    inverted, _ = edge_maps(255 - gray, whole, 1.5, 31)
    np.testing.assert_allclose(maps, inverted, atol=1e-4)
    half = whole.copy()
    half[:, :80] = 0
    assert not edge_maps(gray, half, 1.5, 31)[0][..., :80].any()


@pytest.mark.skipif(not DATA.exists(), reason='../shared/data is absent')
def test_real_road_scenes_with_one_warp_come_close_to_their_alignment(monkeypatch):
    hurry(monkeypatch, 480)
    folder = DATA / 'msrs_road'
    made = []
    for rgb in sorted((folder / 'rgb').iterdir())[5:160:70]:
        thermal = cv2.imread(str(folder / 'thermal' / f'{rgb.stem}.png'), cv2.IMREAD_GRAYSCALE)
        made.append((cv2.imread(str(rgb))[..., ::-1], seen_through(thermal, WARPS['turn'])))
    found = estimate(made, NEAR)
    # The pairs themselves are 3 px apart between the middle of the image and its border.
    assert error_px(found.homography, WARPS['turn']) < 2.5
