# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Random changes of samples: what moves together, what alone, and what never changes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.config_augment import GEOMETRIES, STILL, AugmentConfig
from rgbx_seg_train.data.augment import augment, mirror
from rgbx_seg_train.data.augment_geometry import Misalignment, View, misaligned, pad, take
from rgbx_seg_train.data.augment_photometry import change_aux, change_rgb, jitter
from rgbx_seg_train.data.polarization import ANGLES, angle_of_polarization
from rgbx_seg_train.data.sample import ODD_CHANNELS, Sample

GEOMETRY_ONLY = replace(STILL, p_flip=0.5, zoom_low=0.4, zoom_high=3, resize_low=0.4, resize_high=3)
EVERYTHING = AugmentConfig(
    p_aux_shift=0.5, p_jitter=0.5, p_blur=0.5, p_rgb_dark=0.5, p_rgb_lamps=0.5,
    p_rgb_overexposed=0.3, p_rgb_dropout=0.2, p_aux_invert=0.5, aux_pattern=20, p_aux_dropout=0.2)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(33, 90), st.integers(33, 90))


def rng_of(seed=0):
    return np.random.default_rng(seed)


def same_everywhere(height=40, width=60, seed=0, channels=1):
    """Return a sample whose three images show the same blocks, so that they must stay together."""
    blocks = rng_of(seed).integers(0, 9, (-(-height // 10), -(-width // 10)))
    label = np.kron(blocks, np.ones((10, 10), int)).astype(np.uint8)[:height, :width]
    gray = label * 20 + 10
    return Sample(np.repeat(gray[..., None], 3, 2), np.repeat(gray[..., None], channels, 2), label,
                  'thermal', 'x')


def noisy(height=48, width=64, channels=1, modality='thermal', seed=0):
    images = rng_of(seed).integers(0, 256, (height, width, 3 + channels)).astype(np.uint8)
    return Sample(images[..., :3].copy(), images[..., 3:].copy(), images[..., 0] % 9, modality, 'x')


def assert_equal(found, expected, *names):
    for name in names:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_augmentation_that_is_switched_off_changes_nothing(geometry):
    sample = same_everywhere()
    result = augment(sample, replace(STILL, geometry=geometry), 40, 60, rng_of())
    assert_equal(result, sample, 'rgb', 'aux', 'label')


@given(seeds, sizes, sizes, st.sampled_from(GEOMETRIES), st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_geometry_moves_all_three_images_alike(seed, source, size, geometry, channels):
    sample = same_everywhere(*source, seed=seed, channels=channels)
    result = augment(sample, replace(GEOMETRY_ONLY, geometry=geometry), *size, rng_of(seed))
    assert result.rgb.shape == (*size, 3) and result.aux.shape == (*size, channels)
    assert result.label.shape == size
    assert {image.dtype for image in (result.rgb, result.aux, result.label)} == {np.dtype('uint8')}
    known = result.label != 255
    assert set(np.unique(result.label[known])) <= set(np.unique(sample.label))
    # Colors blend as far from an edge between blocks as one pixel of the sample grew, and edges of
    # the label lie up to half a pixel elsewhere.
    reach = 2 * int(np.ceil(3 * max(np.divide(size, source).max(), 1))) + 1
    kernel = np.ones((reach, reach), np.uint8)
    flat = cv2.erode(result.label, kernel) == cv2.dilate(result.label, kernel)
    expected = result.label.astype(int) * 20 + 10
    for image in (result.rgb[..., 0], result.rgb[..., 2], result.aux[..., -1]):
        assert not (np.abs(image.astype(int) - expected)[known & flat] > 2).any()
        assert not image[~known].any()  # padding is black


@pytest.mark.parametrize('zoom', [0.5, 0.8, 1.0, 1.4, 3.0])
def test_a_zoom_below_one_pads_and_one_above_fills(zoom):
    config = replace(STILL, zoom_low=zoom, zoom_high=zoom)
    result = augment(same_everywhere(), config, 80, 120, rng_of(1))
    assert (result.label != 255).mean() == pytest.approx(min(zoom, 1) ** 2, abs=0.02)


@pytest.mark.parametrize('ratio', [0.5, 1.0, 2.0])
def test_a_crop_keeps_the_shape_of_things(ratio):
    """A square of 20 pixels in an image of 100x200 stays one, at the network's short side."""
    label = np.zeros((100, 200), np.uint8)
    label[40:60, 90:110] = 1
    sample = Sample(np.zeros((100, 200, 3), np.uint8), label[..., None], label, 'thermal', 'x')
    config = replace(STILL, geometry='crop', resize_low=ratio, resize_high=ratio)
    seen = 0
    for seed in range(80):
        found = augment(sample, config, 50, 50, rng_of(seed)).label
        ys, xs = np.nonzero(found == 1)
        inside = xs.size and xs.min() > 0 and xs.max() < 49 and ys.min() > 0 and ys.max() < 49
        if inside:
            seen += 1
            assert np.ptp(xs) + 1 == pytest.approx(10 * ratio, abs=1.01)
            assert np.ptp(ys) + 1 == pytest.approx(10 * ratio, abs=1.01)
    assert seen


def test_a_crop_at_half_size_is_padded_as_far_as_it_is_small():
    config = replace(STILL, geometry='crop', resize_low=0.5, resize_high=0.5)
    known = augment(same_everywhere(80, 80), config, 40, 40, rng_of()).label != 255
    assert known.sum() == 20 * 20
    ys, xs = np.nonzero(known)
    assert np.ptp(ys) == np.ptp(xs) == 19


def test_flip_mirrors_all_images():
    sample = noisy()
    result = augment(sample, replace(STILL, p_flip=1), 48, 64, rng_of())
    np.testing.assert_array_equal(result.rgb, sample.rgb[:, ::-1])
    np.testing.assert_array_equal(result.aux, sample.aux[:, ::-1])
    np.testing.assert_array_equal(result.label, sample.label[:, ::-1])


def through_polarizers(angle):
    """Return what four polarizers let pass of light polarized at `angle`, uint8 (H, W, 1)."""
    images = (127 + 120 * np.cos(2 * (angle - np.radians(degrees))) for degrees in ANGLES)
    return [np.rint(image)[..., None].astype(np.uint8) for image in images]


def test_a_mirror_turns_angles_of_polarization_around():
    """The image of a mirrored scene: its light is polarized at pi - t where t was."""
    angle = rng_of().uniform(0, np.pi, (6, 8))
    image = angle_of_polarization(through_polarizers(angle))
    expected = angle_of_polarization(through_polarizers(np.pi - angle[:, ::-1])).astype(int)
    apart = np.abs(mirror(image, (0,)).astype(int) - expected)
    assert np.minimum(apart, 255 - apart).max() <= 1  # 0 and 255 are one angle
    # As rendered: [DoLP, sin 2t, cos 2t] of -1..1
    def encoded(t):
        return np.rint((np.stack([0.5 + 0 * t, np.sin(2 * t), np.cos(2 * t)], 2) + 1) * 127.5)
    flipped = mirror(encoded(angle).astype(np.uint8), ODD_CHANNELS['polarization'])
    assert np.abs(flipped - encoded(np.pi - angle[:, ::-1])).max() <= 1


def test_a_flipped_sample_has_its_odd_channels_turned_but_not_its_padding():
    config = replace(STILL, p_flip=1, zoom_low=0.5, zoom_high=0.5)
    sample = replace(noisy(channels=3, modality='polarization'), odd_channels=(1,))
    found = augment(sample, config, 48, 64, rng_of())
    plain = augment(replace(sample, odd_channels=()), config, 48, 64, rng_of())
    known = found.label != 255
    np.testing.assert_array_equal(found.aux[..., ::2], plain.aux[..., ::2])
    np.testing.assert_array_equal(found.aux[known][:, 1], 255 - plain.aux[known][:, 1])
    assert not found.aux[~known].any()


def test_a_lost_aux_stays_black_in_a_mirror():
    sample = replace(noisy(channels=3, modality='polarization'), odd_channels=(1,))
    lost = augment(sample, replace(STILL, p_flip=1, p_aux_dropout=1), 48, 64, rng_of())
    assert not lost.aux.any()
    np.testing.assert_array_equal(lost.rgb, sample.rgb[:, ::-1])


def test_an_aux_that_never_was_there_stays_black_and_rgb_is_not_lost_beside_it():
    sample = noisy()
    sample = replace(sample, aux=np.zeros_like(sample.aux))
    config = replace(AugmentConfig(), p_rgb_dropout=1, p_aux_invert=1, aux_pattern=20, p_flip=1)
    for seed in range(8):
        result = augment(sample, config, 48, 64, rng_of(seed))
        assert not result.aux.any() and result.rgb.any()


def test_what_a_misaligned_camera_did_not_see_is_0_also_in_a_mirror():
    sample = replace(noisy(channels=3, modality='polarization'), odd_channels=(1,))
    sample = replace(sample, aux=np.full_like(sample.aux, 200))
    config = replace(STILL, p_flip=1, p_aux_shift=1, aux_shift=10, aux_rotation=0, aux_scale=0)
    aux = augment(sample, config, 48, 64, rng_of(1)).aux
    unseen = aux[..., 0] == 0
    assert unseen.mean() > 0.05 and not aux[unseen].any()
    assert (aux[aux[..., 0] == 200] == (200, 55, 200)).all()


WHOLE = View((0, 0), (48, 64), (48, 64), (0, 0), (48, 64))


@given(st.integers(-20, 20), st.integers(-20, 20))
@settings(max_examples=30, deadline=None)
def test_misaligned_aux_lies_so_many_pixels_to_the_right_and_below(x, y):
    aux = noisy().aux
    found = misaligned(aux, WHOLE, Misalignment(x, y, 0.0, 1.0))
    expected = np.zeros_like(aux)
    expected[max(y, 0):48 + min(y, 0), max(x, 0):64 + min(x, 0)] = \
        aux[max(-y, 0):48 + min(-y, 0), max(-x, 0):64 + min(-x, 0)]
    np.testing.assert_array_equal(found, expected)


def test_the_shift_is_in_pixels_of_the_network():
    """A sample of twice the size is moved by twice as many of its own pixels."""
    large = cv2.resize(noisy().aux, (128, 96), interpolation=cv2.INTER_NEAREST_EXACT)[..., None]
    view = WHOLE._replace(window=(96, 128))
    found = misaligned(large, view, Misalignment(5, 3, 0.0, 1.0))
    np.testing.assert_array_equal(found[3:, 5:], take(large, view)[:-3, :-5])


def test_misalignment_is_the_same_wherever_the_window_lies():
    """What is seen of a moved image is that part of the whole image moved."""
    aux = cv2.GaussianBlur(noisy(96, 128).aux, (5, 5), 0)[..., None]
    error = Misalignment(4.3, -2.7, 0.03, 1.04)
    whole = misaligned(aux, View((0, 0), (96, 128), (96, 128), (0, 0), (96, 128)), error)
    part = misaligned(aux, View((20, 30), (48, 64), (48, 64), (0, 0), (48, 64)), error)
    assert np.abs(part.astype(int) - whole[20:68, 30:94]).max() <= 4  # OpenCV rounds to 1/32 pixel


def test_rotation_and_scale_are_about_the_middle_and_clockwise():
    aux = np.zeros((101, 101, 1), np.uint8)
    aux[49:52, 79:82] = 255  # 30 to the right of the middle
    view = View((0, 0), (101, 101), (101, 101), (0, 0), (101, 101))
    turned = misaligned(aux, view, Misalignment(0, 0, np.pi / 2, 1.2))[..., 0]
    ys, xs = np.nonzero(turned > 127)
    assert (ys.mean(), xs.mean()) == pytest.approx((50 + 36, 50), abs=0.5)


def test_misalignment_moves_aux_alone_and_spreads_over_its_bounds():
    sample = noisy(128, 128)
    sample = replace(sample, aux=cv2.GaussianBlur(sample.aux, (7, 7), 0)[..., None])
    config = replace(STILL, p_aux_shift=1, aux_shift=5, aux_rotation=0, aux_scale=0)
    shifts = []
    for seed in range(30):
        result = augment(sample, config, 128, 128, rng_of(seed))
        assert_equal(result, sample, 'rgb', 'label')
        pair = (np.float32(image.aux[..., 0]) for image in (sample, result))
        shifts.append(cv2.phaseCorrelate(*pair, cv2.createHanningWindow((128, 128), cv2.CV_32F))[0])
    assert 4 < np.abs(shifts).max() < 5.3
    assert (np.min(shifts, 0) < -3).all() and (np.max(shifts, 0) > 3).all()


RGB_ONLY = [{'rgb_gain': 0.3}, {'rgb_gamma': 0.5}, {'rgb_noise': 30.0}, {'p_jitter': 1.0},
            {'p_blur': 1.0}, {'p_rgb_dark': 1.0}, {'p_rgb_overexposed': 1.0},
            {'p_rgb_dropout': 1.0}]
AUX_ONLY = [{'aux_gain': 0.5}, {'aux_offset': 60.0}, {'p_aux_invert': 1.0}, {'aux_pattern': 30.0},
            {'aux_noise': 30.0}, {'p_aux_dropout': 1.0}, {'p_aux_shift': 1.0}]


@pytest.mark.parametrize('change', RGB_ONLY + AUX_ONLY, ids=lambda change: next(iter(change)))
def test_each_change_is_of_one_camera_and_never_of_the_label(change):
    sample = noisy()
    result = augment(sample, replace(STILL, **change), 48, 64, rng_of(3))
    changed, same = ('rgb', 'aux') if change in RGB_ONLY else ('aux', 'rgb')
    assert_equal(result, sample, 'label', same)
    assert (getattr(result, changed) != getattr(sample, changed)).mean() > 0.3


@given(seeds, st.sampled_from(['thermal', 'depth', 'event', 'polarization', 'lightfield']),
       st.sampled_from([1, 3]), st.sampled_from(GEOMETRIES), sizes)
@settings(max_examples=60, deadline=None)
def test_a_seed_gives_the_same_bytes_and_leaves_the_sample_alone(seed, modality, channels, geometry,
                                                                size):
    sample = noisy(channels=channels, modality=modality)
    for image in (sample.rgb, sample.aux, sample.label):
        image.flags.writeable = False  # as images mapped from a file are
    config = replace(EVERYTHING, geometry=geometry)
    one, two = (augment(sample, config, *size, rng_of(seed)) for _ in range(2))
    assert_equal(one, two, 'rgb', 'aux', 'label')
    assert one.rgb.shape == (*size, 3) and one.aux.shape == (*size, channels)
    assert one.rgb.dtype == one.aux.dtype == one.label.dtype == np.uint8
    unlabeled = one.label == 255
    assert not one.rgb[unlabeled].any() and not one.aux[unlabeled].any()
    assert set(np.unique(one.label[~unlabeled])) <= set(range(9))


@pytest.mark.parametrize('modality', ['depth', 'event', 'polarization', 'lightfield'])
def test_gain_offset_polarity_and_pattern_are_of_thermal_cameras_alone(modality):
    config = replace(STILL, aux_gain=0.5, aux_offset=60, p_aux_invert=1, aux_pattern=30)
    aux = noisy().aux
    np.testing.assert_array_equal(change_aux(aux, config, rng_of(), modality), aux)
    assert (change_aux(aux, config, rng_of(), 'thermal') != aux).mean() > 0.9


def test_depth_without_a_reading_stays_without():
    aux = noisy().aux * (rng_of().random((48, 64, 1)) < 0.5)
    noise = replace(STILL, aux_noise=30)
    result = change_aux(aux.astype(np.uint8), noise, rng_of(), 'depth')
    assert not result[aux == 0].any()
    assert (result != aux)[aux > 0].mean() > 0.5


@pytest.mark.parametrize('change', [
    lambda image, sigma, rng: change_rgb(image, replace(STILL, rgb_noise=sigma), rng),
    lambda image, sigma, rng: change_aux(image, replace(STILL, aux_noise=sigma), rng),
    lambda image, sigma, rng: change_aux(image, replace(STILL, aux_pattern=sigma), rng)])
def test_noise_has_the_drawn_strength(change):
    gray = np.full((100, 100, 3), 128, np.uint8)
    drawn = [change(gray, 20, rng_of(seed)).std() for seed in range(160)]
    assert 8 < np.mean(drawn) < 12  # uniform between 0 and 20
    assert max(drawn) < 22


def test_a_fixed_pattern_is_of_rows_and_columns():
    gray = np.full((60, 80, 1), 128, np.uint8)
    pattern = change_aux(gray, replace(STILL, aux_pattern=20), rng_of(1))[..., 0].astype(float)
    lines = pattern.mean(1, keepdims=True) + pattern.mean(0, keepdims=True) - pattern.mean()
    assert np.abs(pattern - lines).max() <= 1  # nothing is left but rounding
    assert pattern.mean(1).std() > 1 and pattern.mean(0).std() > 1


def test_inverted_thermal_is_black_hot():
    aux = np.arange(200, dtype=np.uint8).reshape(10, 20, 1)
    inverted = change_aux(aux, replace(STILL, p_aux_invert=1), rng_of())
    np.testing.assert_array_equal(inverted, 255 - aux)


def test_a_failed_camera_is_black_and_never_both_are():
    lost = [augment(noisy(), replace(STILL, p_aux_dropout=0.5, p_rgb_dropout=0.5), 48, 64,
                    rng_of(seed)) for seed in range(60)]
    black = [(not sample.rgb.any(), not sample.aux.any()) for sample in lost]
    assert (True, True) not in black
    assert {(True, False), (False, True), (False, False)} <= set(black)


def test_a_night_is_at_most_four_tenths_as_bright_and_noisy():
    rgb = np.full((64, 64, 3), 200, np.uint8)
    for seed in range(12):
        dark = change_rgb(rgb, replace(STILL, p_rgb_dark=1, p_rgb_lamps=0), rng_of(seed))
        assert 200 * 0.03 < dark.mean() < 200 * 0.42
        assert dark.std() > 1


def test_lamps_dazzle_in_places():
    rgb = np.full((64, 96, 3), 60, np.uint8)
    for seed in range(12):
        lit, unlit = (change_rgb(rgb, replace(STILL, p_rgb_dark=1, p_rgb_lamps=p), rng_of(seed))
                      for p in (1, 0))
        assert lit.max() > 200 > unlit.max()
        assert np.median(lit) < 120


def test_an_overexposed_image_is_mostly_white():
    rgb = rng_of().integers(90, 256, (48, 64, 3)).astype(np.uint8)
    for seed in range(8):
        found = change_rgb(rgb, replace(STILL, p_rgb_overexposed=1), rng_of(seed))
        assert (found == 255).mean() > 0.75


def jitter_in_floats(rgb, brightness, contrast, saturation):
    weights = np.array([0.299, 0.587, 0.114])
    image = np.clip(rgb * brightness, 0, 255)
    mean = (image @ weights).mean()
    image = np.clip((image - mean) * contrast + mean, 0, 255)
    gray = (image @ weights)[..., None]
    return np.clip(gray + (image - gray) * saturation, 0, 255)


@given(*[st.floats(0.5, 1.5)] * 3)
@settings(max_examples=30, deadline=None)
def test_jitter_is_brightness_contrast_and_saturation(brightness, contrast, saturation):
    rgb = noisy().rgb
    found = jitter(rgb, brightness, contrast, saturation)
    expected = jitter_in_floats(rgb.astype(float), brightness, contrast, saturation)
    assert np.abs(found - expected).max() <= 3


def test_the_blur_is_a_gaussian_of_three_by_three():
    dot = np.zeros((7, 7, 3), np.uint8)
    dot[3, 3] = 160
    found = change_rgb(dot, replace(STILL, p_blur=1), rng_of())[2:5, 2:5, 0]
    np.testing.assert_array_equal(found, [[10, 20, 10], [20, 40, 20], [10, 20, 10]])


def test_a_whole_view_is_resized_as_on_the_robot():
    sample = noisy(96, 128)
    result = augment(sample, STILL, 40, 60, rng_of())
    np.testing.assert_array_equal(result.rgb, resize_to(sample.rgb, 40, 60))


def test_padding_surrounds_an_image_in_its_place():
    view = View((0, 0), (2, 3), (2, 3), (1, 2), (4, 6))
    padded = pad(np.ones((2, 3), np.uint8), view, 255)
    np.testing.assert_array_equal(padded[1:3, 2:5], 1)
    assert (padded == 255).sum() == 24 - 6


@pytest.mark.parametrize('name', ['zoom', 'resize'])
def test_an_empty_range_is_refused(name):
    with pytest.raises(RgbxSegError, match=f'{name}_low is 3'):
        AugmentConfig(**{f'{name}_low': 3.0, f'{name}_high': 2.0})
