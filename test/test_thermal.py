# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Raw aux values to uint8 against the formula in double precision."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import THERMAL

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.thermal import to_uint8

PERCENTILE = replace(THERMAL, range='percentile', low=1.0, high=99.0, min_span=5.0)
DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'thermal16'


def formula(raw: np.ndarray, low: float, high: float) -> np.ndarray:
    value = raw.astype(np.float64) * THERMAL.scale + THERMAL.offset
    return np.clip((value - low) / (high - low) * 255, 0, 255)


@pytest.mark.parametrize('encoding', [THERMAL, PERCENTILE])
def test_a_float_image_in_kelvin_gives_the_picture_of_the_same_scene_in_counts(encoding):
    counts = np.random.default_rng(0).normal(29000, 800, (48, 64)).astype(np.uint16)
    kelvin = (counts * 0.01).astype(np.float32)
    difference = to_uint8(kelvin, encoding).astype(int) - to_uint8(counts, encoding)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize('dtype', [np.uint16, np.int16])
def test_a_fixed_range_follows_the_formula_within_rounding(dtype):
    raw = np.random.default_rng(0).integers(20000, 32700, (50, 60)).astype(dtype)
    difference = to_uint8(raw, THERMAL) - formula(raw, THERMAL.low, THERMAL.high)
    assert np.abs(difference).max() <= 0.51


def test_a_percentile_range_spans_the_frames_own_percentiles():
    raw = np.random.default_rng(0).normal(29000, 800, (480, 640)).astype(np.uint16)
    low, high = np.percentile(raw * 0.01, [1, 99])
    assert np.abs(to_uint8(raw, PERCENTILE) - formula(raw, low, high)).max() < 4


def test_noise_of_a_flat_scene_is_not_stretched_beyond_the_smallest_span():
    raw = np.random.default_rng(0).normal(29000, 5, (480, 640)).astype(np.uint16)  # 0.05 K noise
    assert to_uint8(raw, PERCENTILE).std() < 0.06 / 5.0 * 255
    assert abs(float(to_uint8(raw, PERCENTILE).mean()) - 127.5) < 3


def test_a_shift_of_the_ambient_temperature_leaves_a_percentile_image_as_it_was():
    raw = np.random.default_rng(0).normal(29000, 800, (48, 64)).astype(np.uint16)
    assert (to_uint8(raw, PERCENTILE) == to_uint8(raw + np.uint16(1500), PERCENTILE)).all()


def test_no_reading_becomes_zero_and_never_a_percentile():
    raw = np.random.default_rng(0).normal(290, 8, (48, 64)).astype(np.float32)
    clean = to_uint8(raw, PERCENTILE)
    raw[::7, ::5] = np.nan
    raw[1::7, ::5] = -np.inf
    broken = to_uint8(raw, PERCENTILE)
    assert (broken[::7, ::5] == 0).all() and (broken[1::7, ::5] == 0).all()
    rest = np.isfinite(raw)
    assert np.abs(broken[rest].astype(int) - clean[rest]).max() <= 6
    assert not to_uint8(np.full((4, 4), np.nan, np.float32), PERCENTILE).any()


def test_eight_bit_images_pass_unchanged_and_channels_are_made_to_fit():
    gray = np.random.default_rng(0).integers(0, 256, (4, 5), np.uint8)
    assert to_uint8(gray, THERMAL) is gray
    assert (to_uint8(gray[..., None], THERMAL) == gray).all()
    three = to_uint8(gray, replace(THERMAL, channels=3))
    assert (three == gray[..., None]).all() and three.shape == (4, 5, 3)
    assert (to_uint8(three, THERMAL) == gray).all()


@pytest.mark.parametrize('raw', [np.zeros((2, 2), np.float64), np.zeros((2, 2, 2), np.uint8),
                                 np.zeros(4, np.uint8)])
def test_other_kinds_of_arrays_are_refused(raw):
    with pytest.raises(RgbxSegError, match='aux image'):
        to_uint8(raw, THERMAL)


@pytest.mark.skipif(not DATA.is_dir(), reason='shared/data/thermal16 is not beside the project')
def test_a_real_radiometric_image_of_few_kelvin_shows_contrast():
    raw = cv2.imread(str(DATA / 'example_radiometric.tiff'), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    counts = replace(PERCENTILE, unit='counts', scale=1.0, min_span=100.0)
    picture = to_uint8(raw, counts)
    assert picture.std() > 30 and picture.min() == 0 and picture.max() == 255
