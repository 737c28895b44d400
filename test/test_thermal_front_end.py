# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The robot's aux front end against the training's function, and against made-up cameras."""

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from bags import DATA
from bundles import THERMAL

from rgbx_seg_ros import RgbxSegError, images
from rgbx_seg_ros.manifest import AuxEncoding
from rgbx_seg_ros.thermal import PRESETS, AuxConfig, AuxFrontEnd, to_uint8

PERCENTILE = replace(THERMAL, range='percentile', low=1.0, high=99.0, min_span=5.0)
TENTH_NS = 100_000_000


def scene(seed: int = 0, shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """Return temperatures in kelvin of an ambient scene with a warm object."""
    rng = np.random.default_rng(seed)
    kelvin = 288 + rng.normal(0, 0.05, shape) + np.linspace(-4, 4, shape[1])
    kelvin[40:60, 60:80] = 305
    return kelvin


def counts(kelvin: np.ndarray, scale: float = 0.01, offset: float = 0.0) -> np.ndarray:
    return np.round((kelvin - offset) / scale).astype(np.uint16)


def show(raw: np.ndarray, bundle: AuxEncoding = THERMAL, encoding: str = 'mono16',
         **config: object) -> tuple[np.ndarray, list[str]]:
    """Return a new front end's image of `raw`, and what it had to say."""
    front = AuxFrontEnd(bundle, AuxConfig(**config))
    return front(raw, encoding, 1).copy(), front.notes()


def ideal(kelvin: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((kelvin - low) / (high - low) * 255, 0, 255)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int16, np.float32])
def test_by_default_one_image_has_the_bits_of_the_training(dtype, channels):
    rng = np.random.default_rng(0)
    for bundle in (THERMAL, PERCENTILE, replace(PERCENTILE, unit='counts', scale=1.0)):
        bundle = replace(bundle, channels=channels)
        for shape in ((4, 1), (1, 1), (33, 47), (33, 47, 3), (300, 400)):
            values = rng.normal(128 if dtype == np.uint8 else 300, 50, shape)
            if dtype in (np.uint16, np.int16):
                values = values * 100 - 5000
            raw = np.clip(values, 0, 32767 if dtype != np.uint8 else 255).astype(dtype)
            found = AuxFrontEnd(bundle)(raw, 'any', 1)
            np.testing.assert_array_equal(found, to_uint8(raw, bundle))
            assert found.dtype == np.uint8


def test_one_large_image_of_another_type_leaves_no_arrays_behind():
    front = AuxFrontEnd(THERMAL)
    tracemalloc.start()
    front(np.full((2000, 2000), 300, np.float32), '32FC1', 1)
    front(counts(scene()), 'mono16', 2)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1_000_000  # of 20 MB


def test_the_next_image_may_overwrite_the_last_result():
    front = AuxFrontEnd(THERMAL)
    first = front(counts(scene()), 'mono16', 1)
    second = front(counts(scene() + 9), 'mono16', 2)
    assert np.shares_memory(first, second)
    assert not np.shares_memory(to_uint8(counts(scene()), THERMAL), second)


@pytest.mark.parametrize('name', [n for n, p in PRESETS.items() if p.unit != 'counts'])
def test_each_camera_shows_one_scene_alike(name):
    preset = PRESETS[name]
    kelvin = scene()
    value = kelvin - (273.15 if preset.unit == 'C' else 0)
    raw = (value - preset.offset) / preset.scale
    if name == 'seek_float':
        raw = raw.astype(np.float32)
    else:
        raw = np.round(raw).astype(np.uint8 if preset.bits == 8 else np.uint16)
    found, notes = show(raw, camera=name)
    error = np.abs(found - ideal(kelvin, THERMAL.low, THERMAL.high)).max()
    # Half a count by the camera's own rounding, and half by that of the range's lower end.
    assert error <= 0.6 + preset.scale / (THERMAL.high - THERMAL.low) * 255
    assert not [note for note in notes if 'percentiles' in note]
    assert any('thermometer' in note for note in notes) == (not preset.confirmed)


def test_every_preset_names_its_source_and_what_was_not_confirmed():
    for preset in PRESETS.values():
        assert preset.source and preset.cameras and preset.unit in ('K', 'C', 'counts')
    unconfirmed = {name for name, preset in PRESETS.items() if not preset.confirmed}
    assert {'optris', 'boson_tlinear', 'infiray_k64'} <= unconfirmed
    assert not {'lepton_tlinear', 'duo_pro_r_high', 'ax5_tlinear_high'} & unconfirmed


@pytest.mark.parametrize('unit', ['K', 'C'])
@pytest.mark.parametrize('bundle_unit', ['K', 'C'])
def test_a_fixed_range_means_the_same_temperatures_in_any_unit(unit, bundle_unit):
    shift = 273.15 if bundle_unit == 'C' else 0
    bundle = replace(THERMAL, unit=bundle_unit, low=THERMAL.low - shift, high=THERMAL.high - shift,
                     offset=-shift)
    kelvin = scene()
    raw = (kelvin - (273.15 if unit == 'C' else 0)).astype(np.float32)
    raw[0, 0] = np.nan
    found, notes = show(raw, bundle, '32FC1')
    want = ideal(kelvin, THERMAL.low, THERMAL.high)
    want[0, 0] = 0
    assert np.abs(found - want).max() <= 0.52
    assert len(notes) == 1 and {'K': 'kelvin', 'C': 'Celsius'}[unit] in notes[0]
    named, _ = show(raw, bundle, '32FC1', unit=unit)
    assert (named == found).all()


def test_a_doubtful_first_frame_does_not_fix_the_unit_but_a_clear_one_does():
    front = AuxFrontEnd(THERMAL)
    ramp = np.linspace(-20, 20, 100, dtype=np.float32).reshape(10, 10)
    front(ramp + 130, '32FC1', 1)  # a furnace in Celsius, or a sky in kelvin?
    assert not front.notes()
    front(ramp + 290, '32FC1', 2)
    assert 'kelvin' in front.notes()[0]
    cold = front(ramp + 90, '32FC1', 3).copy()  # now only cold, not suddenly Celsius
    assert not cold.any() and not front.notes()
    front.reset()
    assert front(ramp + 25, '32FC1', 4).any()


def test_depth_in_meters_is_never_taken_for_a_temperature():
    depth = replace(THERMAL, unit='m', low=0.0, high=40.0, scale=0.001)
    raw = np.linspace(0, 50, 300, dtype=np.float32).reshape(15, 20)
    found, notes = show(raw, depth, '32FC1')
    np.testing.assert_array_equal(found, to_uint8(raw, depth))
    assert not notes


def test_custom_counts_use_scale_and_offset():
    kelvin = scene()
    raw = counts(kelvin, 0.05, 200.0)
    found, _ = show(raw, camera='custom', scale=0.05, offset=200.0)
    assert np.abs(found - ideal(kelvin, THERMAL.low, THERMAL.high)).max() <= 0.7
    celsius, notes = show(raw, camera='custom', scale=0.05, offset=200.0 - 273.15)
    assert (celsius == found).all() and 'Celsius' in notes[0]


def test_the_range_in_kelvin_of_the_parameters_replaces_the_bundles():
    kelvin = scene()
    found, notes = show(counts(kelvin), PERCENTILE, normalize='fixed', low=280.0, high=310.0)
    assert np.abs(found - ideal(kelvin, 280, 310)).max() <= 0.6 and not notes


def test_percentiles_of_the_parameters_replace_the_bundles_range():
    kelvin = scene()
    found, _ = show(counts(kelvin), normalize='percentile', low_percentile=5.0,
                    high_percentile=90.0)
    low, high = np.percentile(kelvin, [5, 90])
    assert np.abs(found - ideal(kelvin, low, high)).max() <= 4


def test_clahe_raises_local_contrast_and_equals_opencv_on_the_percentile_image():
    raw = counts(scene())
    plain, _ = show(raw, normalize='percentile')
    found, _ = show(raw, normalize='clahe')
    want = cv2.createCLAHE(2.0, (8, 8)).apply(plain)
    np.testing.assert_array_equal(found, want)
    assert found[5:15, 5:15].std() > 1.3 * plain[5:15, 5:15].std()


@pytest.mark.parametrize(('bundle', 'config'), [
    (THERMAL, {'camera': 'boson_raw'}),
    (replace(THERMAL, unit='counts'), {'normalize': 'fixed'}),
    (replace(THERMAL, unit='counts'), {'camera': 'lepton_tlinear'}),
])
def test_without_common_units_percentiles_replace_a_fixed_range_and_it_is_said(bundle, config):
    raw = (20000 + (scene() - 288) * 30).astype(np.uint16)
    found, notes = show(raw, bundle, **config)
    assert found.std() > 20 and found.max() == 255 and len(notes) == 1
    assert 'percentiles 1 and 99' in notes[0] and 'aux.camera' in notes[0]


def test_impossible_temperatures_end_a_black_image_and_name_the_likely_camera():
    raw = counts(scene(), 0.04)
    front = AuxFrontEnd(THERMAL)
    brightest = [front(raw, 'mono16', i).max() for i in range(12)]
    assert brightest[:9] == [0] * 9 and brightest[9:] == [255] * 3
    [note] = front.notes()
    assert '72' in note and 'ax5_tlinear_high' in note and 'lepton' not in note
    assert front(counts(scene()), 'mono16', 20).max() < 255  # one good frame: the range again


def test_an_odd_frame_now_and_then_does_not_change_the_range():
    front = AuxFrontEnd(THERMAL)
    for i in range(30):
        raw = counts(scene(), 0.04) if i % 5 == 4 else counts(scene())
        np.testing.assert_array_equal(front(raw, 'mono16', i), to_uint8(raw, THERMAL))
    assert not front.notes()


def test_big_endian_rows_with_padding_give_the_same_picture():
    raw = counts(scene(shape=(30, 41)))
    want = to_uint8(raw, THERMAL)
    for order in '<>':
        rows = raw.astype(f'{order}u2').tobytes()
        data = b''.join(rows[i * 82:(i + 1) * 82] + b'\xff' * 7 for i in range(30))
        decoded = images.decode(30, 41, 'mono16', 89, order == '>', data)
        np.testing.assert_array_equal(AuxFrontEnd(THERMAL)(decoded, 'mono16', 1), want)


def test_invalid_pixels_are_black_whatever_the_range():
    raw = scene().astype(np.float32)
    raw[:8], raw[8:12], raw[12:14] = np.nan, -np.inf, np.inf
    for normalize in ('manifest', 'fixed', 'percentile', 'clahe'):
        found, _ = show(raw, PERCENTILE, '32FC1', normalize=normalize)
        if normalize != 'clahe':
            assert not found[:12].any() and (found[12:14] == 255).all()
        assert found[14:].std() > 10
    nothing, notes = show(np.full((9, 9), np.nan, np.float32), PERCENTILE, '32FC1')
    assert not nothing.any() and 'uniform' in notes[0]


def test_a_closed_shutter_is_seen_and_does_not_move_the_range():
    front = AuxFrontEnd(PERCENTILE, AuxConfig(smoothing_s=1.0))
    before = front(counts(scene()), 'mono16', TENTH_NS).copy()
    assert not front.flat
    front(np.full((120, 160), 29900, np.uint16), 'mono16', 2 * TENTH_NS)
    assert front.flat and 'shutter' in front.notes()[0]
    after = front(counts(scene()), 'mono16', 3 * TENTH_NS)
    assert not front.flat and (after == before).all()
    almost = np.full((120, 160), 29900, np.uint16)
    almost[3, 5] += 1
    front(almost, 'mono16', 4 * TENTH_NS)
    assert not front.flat and not front.notes()


def flicker(smoothing_s: float, rate_hz: int) -> int:
    """Return the largest step of a pixel of constant 289 K while a hot object comes and goes."""
    front = AuxFrontEnd(PERCENTILE, AuxConfig(smoothing_s=smoothing_s))
    values = []
    for i in range(10 * rate_hz):
        kelvin = scene(i) if 3 <= i / rate_hz < 6 else np.minimum(scene(i), 292)
        kelvin[5, 5] = 289
        values.append(int(front(counts(kelvin), 'mono16', i * 10**9 // rate_hz)[5, 5]))
    return int(np.abs(np.diff(values)).max())


def test_smoothing_takes_most_of_the_flicker_from_constant_temperatures():
    assert flicker(0.0, 10) > 60
    assert flicker(1.0, 10) * 3 < flicker(0.0, 10)
    assert flicker(2.0, 10) * 5 < flicker(0.0, 10)
    assert flicker(1.0, 30) * 8 < flicker(0.0, 30)


def test_smoothing_depends_on_stamps_and_not_on_the_rate():
    ends = []
    for rate in (10, 40):
        front = AuxFrontEnd(PERCENTILE, AuxConfig(smoothing_s=1.0))
        front(counts(scene()), 'mono16', 0)
        for i in range(1, rate + 1):
            image = front(counts(scene() * 1.01), 'mono16', i * 10**9 // rate)
        ends.append(float(image.mean()))
    assert abs(ends[0] - ends[1]) < 1.5


def test_cuts_and_steps_back_in_time_take_effect_at_once():
    for second, stamp in ((scene() + 60, 2 * TENTH_NS), (scene() + 2, TENTH_NS // 2)):
        front = AuxFrontEnd(PERCENTILE, AuxConfig(smoothing_s=10.0))
        front(counts(scene()), 'mono16', TENTH_NS)
        found = front(counts(second), 'mono16', stamp)
        assert np.abs(found.astype(int) - to_uint8(counts(second), PERCENTILE)).max() == 0


def test_after_something_very_hot_has_left_some_contrast_is_there_at_once():
    front = AuxFrontEnd(PERCENTILE, AuxConfig(smoothing_s=30.0))
    fire = scene()
    fire[:60] = 600
    front(counts(fire), 'mono16', 0)
    found = front(counts(scene()), 'mono16', TENTH_NS)
    own = np.subtract(*np.percentile(scene(), [99, 1]))
    assert found.max() >= 0.9 * 255 / 4 * 17 / own


@pytest.mark.parametrize('dtype', [np.uint16, np.uint8, np.int16, np.float32])
def test_hot_pixels_are_found_and_replaced_but_moving_targets_are_kept(dtype):
    rng = np.random.default_rng(0)
    bundle = replace(THERMAL, range='fixed', low=0.0, high=255.0, scale=1.0, unit='counts')
    front = AuxFrontEnd(bundle, AuxConfig(hot_pixels=True))
    dead = [(0, 0), (20, 30), (59, 79)]
    for i in range(120):
        clean = 100 + 20 * np.sin(np.arange(80) / 9 + i / 5) + rng.normal(0, 1, (60, 80))
        clean[30:, 40] += 60  # a wire: bright, thin, and at rest
        target = (10 + i // 4 % 40, 10 + i // 3 % 60)
        clean[target] += 120
        raw = clean.copy()
        for at, value in zip(dead, (250, 5, 240), strict=True):
            raw[at] = value
        found = front(raw.astype(dtype), 'mono8', i).copy()
    for at in dead:
        assert abs(int(found[at]) - clean[at]) < 12, at
    assert abs(int(found[target]) - clean[target]) <= 1
    touched = np.abs(found - np.floor(raw)) > 1.01
    assert touched.sum() == len(dead)
    assert front._hot.pixels.size == 3


def test_a_defect_that_ends_is_forgotten_and_texture_is_no_defect():
    rng = np.random.default_rng(0)
    front = AuxFrontEnd(THERMAL, AuxConfig(hot_pixels=True))
    stamp = 0

    def play(count: int, hot: bool) -> np.ndarray:
        nonlocal stamp
        for _ in range(count):
            raw = counts(288 + rng.normal(0, 0.05, (60, 80)))
            raw[7, 9] += 2000 * hot
            stamp += 1
            image = front(raw, 'mono16', stamp)
        return image

    assert play(79, True)[7, 9] > 150
    assert play(1, True)[7, 9] < 120
    play(60, False)
    assert front._hot.pixels.size == 0
    checkered = AuxFrontEnd(THERMAL, AuxConfig(hot_pixels=True))
    board = np.full((60, 80), 28800, np.uint16)
    board[::4, ::4] = 31000  # 300 lone pixels
    for i in range(120):
        found = checkered(board, 'mono16', i)
    assert (found[::4, ::4] > 150).all()


def test_agc_images_pass_and_it_is_said_where_a_parameter_has_no_effect():
    gray = np.random.default_rng(0).integers(0, 256, (9, 9), np.uint8)
    front = AuxFrontEnd(THERMAL)
    assert front(gray, 'mono8', 1) is gray and not front.notes()
    found, notes = show(gray, encoding='mono8', normalize='clahe')
    assert (found == gray).all() and 'AGC' in notes[0]


def test_each_thing_is_told_once_even_after_a_reset():
    front = AuxFrontEnd(THERMAL, AuxConfig(camera='boson_raw'))
    for i in range(3):
        front(counts(scene()), 'mono16', i)
        front.reset()
    assert len(front.notes()) == 1 and not front.notes()


@pytest.mark.parametrize(('name', 'config'), [
    ('camera', {'camera': 'flir'}), ('normalize', {'normalize': 'auto'}), ('unit', {'unit': 'F'}),
    ('false_color', {'false_color': 'no'}), ('low', {'low': 400.0}), ('high', {'high': np.inf}),
    ('low_percentile', {'low_percentile': 99.5}), ('scale', {'scale': 0.0}),
    ('smoothing', {'smoothing_s': -1.0}), ('offset', {'offset': np.nan})])
def test_parameters_that_no_camera_has_are_refused_by_name(name, config):
    with pytest.raises(RgbxSegError, match=f'^aux.{name} is .*expected'):
        AuxConfig(**config)


@pytest.mark.skipif(not (DATA / 'thermal16').is_dir(),
                    reason='shared/data is not beside the project')
def test_a_real_duo_pro_r_image_is_recognized_by_its_counts():
    raw = cv2.imread(str(DATA / 'thermal16' / 'example_radiometric.tiff'), cv2.IMREAD_UNCHANGED)
    front = AuxFrontEnd(THERMAL)
    for i in range(10):
        front(raw, 'mono16', i)
    assert 'duo_pro_r_high or ax5_tlinear_high' in front.notes()[0]
    found, notes = show(raw, camera='duo_pro_r_high')
    want = ideal(raw * 0.04, THERMAL.low, THERMAL.high)  # -3..10 degrees Celsius
    assert np.abs(found - want).max() <= 0.6 and not notes
