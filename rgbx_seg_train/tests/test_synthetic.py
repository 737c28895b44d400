# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train import synthesize
from rgbx_seg_train.data.synthetic import (
    CLASSES,
    LIGHTFIELD_BASELINE_M,
    Rendered,
    Scene,
    aux_encoding,
)

SIZE = (120, 160)
PERSON = 2
FIELDS = ('rgb', 'label', *MODALITIES)


@pytest.fixture(scope='module')
def scenes() -> list[Rendered]:
    return [Scene(seed).render(0.0, *SIZE, modality='thermal') for seed in range(80)]


def first_night() -> Scene:
    return next(scene for scene in map(Scene, range(20)) if scene.night)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_scene():
    first, again, other = (Scene(seed).render(0.3, *SIZE) for seed in (5, 5, 6))
    for name in FIELDS:
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
        assert not np.array_equal(getattr(first, name), getattr(other, name)), name


def test_what_else_is_rendered_does_not_change_an_image():
    scene = Scene(8)
    alone, together = scene.render(0.2, *SIZE, modality='depth'), scene.render(0.2, *SIZE)
    assert np.array_equal(alone.depth, together.depth)
    assert np.array_equal(alone.rgb, together.rgb)
    assert alone.thermal is None


def test_images_have_the_promised_shapes_types_and_ranges():
    picture = Scene(3).render(0.0, *SIZE)
    assert (picture.rgb.shape, picture.rgb.dtype) == ((*SIZE, 3), np.uint8)
    assert (picture.lightfield.shape, picture.lightfield.dtype) == ((*SIZE, 3), np.uint8)
    assert (picture.label.shape, picture.label.dtype) == (SIZE, np.uint8)
    assert (picture.thermal.shape, picture.thermal.dtype) == (SIZE, np.uint16)
    for image, shape in (
        (picture.depth, SIZE),
        (picture.event, SIZE),
        (picture.polarization, (*SIZE, 3)),
    ):
        assert (image.shape, image.dtype) == (shape, np.float32)
        assert np.isfinite(image).all()
    assert picture.depth.min() == 0 and 20 < picture.depth.max() <= 80
    assert np.array_equal(picture.event, np.round(picture.event))
    assert picture.event.min() < 0 < picture.event.max()
    dolp, sine, cosine = np.moveaxis(picture.polarization, -1, 0)
    assert dolp.min() >= 0 and dolp.max() <= 1 and min(sine.min(), cosine.min()) >= -1


def test_every_modality_fills_the_bytes_that_the_network_reads():
    picture = Scene(3).render(0.5, *SIZE)
    for modality in MODALITIES:
        image = to_uint8(getattr(picture, modality), aux_encoding(modality))
        assert image.dtype == np.uint8 and image.std() > 1, modality


def test_depth_in_meters_and_in_millimeters_reads_the_same():
    depth = Scene(3).render(0.0, *SIZE, modality='depth').depth
    millimeters = np.rint(depth * 1000).clip(0, 65535).astype(np.uint16)
    encoding = aux_encoding('depth')
    difference = to_uint8(depth, encoding).astype(int) - to_uint8(millimeters, encoding)
    assert np.abs(difference).max() <= 1 and depth.max() > 20


def test_an_unknown_modality_is_refused_with_the_list_of_known_ones():
    with pytest.raises(RgbxSegError, match='radar.*thermal, depth, event'):
        aux_encoding('radar')
    with pytest.raises(RgbxSegError, match='radar.*thermal, depth, event'):
        Scene(0).render(modality='radar')


def test_the_classes_are_the_nine_of_mfnet():
    assert [info.id for info in CLASSES] == list(range(9))
    assert CLASSES[4].name == 'curve' and CLASSES[8].color == (192, 64, 0)


def test_each_class_is_in_a_good_share_of_the_scenes(scenes):
    counts = np.array([np.bincount(s.label.ravel(), minlength=9) for s in scenes])
    assert counts.shape[1] == 9
    assert ((counts > 10).mean(axis=0) > 0.25).all(), (counts > 10).mean(axis=0)
    assert counts[:, 0].sum() > 0.6 * counts.sum()


def test_thermal_counts_are_hundredths_of_a_kelvin(scenes):
    kelvin = np.array([np.median(s.thermal) for s in scenes]) * 0.01
    assert 250 < kelvin.min() < 275 < 290 < kelvin.max() < 335


def test_at_night_people_are_warmer_than_what_surrounds_them(scenes):
    gaps = [
        np.median(s.thermal[s.label == PERSON]) - np.median(s.thermal[s.label == 0])
        for s in scenes
        if s.night and (s.label == PERSON).sum() > 30
    ]
    assert len(gaps) > 10
    assert np.mean(np.array(gaps) > 200) > 0.95


def test_people_stay_within_what_a_body_can_radiate(scenes):
    warmest = [
        np.percentile(s.thermal[s.label == PERSON], 90) * 0.01
        for s in scenes
        if s.night and (s.label == PERSON).sum() > 60
    ]
    assert 285 < np.mean(warmest) < 308 and max(warmest) < 314


def test_the_sky_is_colder_than_the_air():
    for seed in range(12):
        scene = Scene(seed)
        picture = scene.render(0.0, *SIZE, modality='thermal')
        sky = scene._view(0.0, *SIZE).raster.face == 0
        if sky.sum() > 100:
            assert np.median(picture.thermal[sky]) < 100 * scene.weather.ambient


def test_each_class_stands_out_in_thermal_at_night(scenes):
    # contrast against the unlabeled ring around it, in kelvin; the noise is below 0.1 K
    for number in range(1, 9):
        gaps = [gap for s in scenes if s.night and (gap := ring_contrast(s, number)) is not None]
        assert len(gaps) >= 5 and np.median(gaps) > 0.7, (number, np.median(gaps))


def ring_contrast(picture: Rendered, number: int) -> float | None:
    inside = (picture.label == number).astype(np.uint8)
    if inside.sum() < 40:
        return None
    ring = (cv2.dilate(inside, np.ones((7, 7), np.uint8)) > 0) & (picture.label == 0)
    if ring.sum() < 10:
        return None
    return (
        abs(float(np.median(picture.thermal[inside > 0])) - float(np.median(picture.thermal[ring])))
        / 100
    )


def test_night_is_darker_than_day(scenes):
    night = [s.rgb.mean() for s in scenes if s.night]
    day = [s.rgb.mean() for s in scenes if not s.night]
    assert len(night) > 20 and len(day) > 20
    assert np.mean(night) < 0.3 * np.mean(day) and np.median(night) < np.min(day)


def test_night_or_day_can_be_asked_for():
    assert Scene(4, night=True).render(0, *SIZE, 'thermal').night
    assert not Scene(4, night=False).render(0, *SIZE, 'thermal').night


def test_a_clip_moves():
    scene = next(s for s in map(Scene, range(20)) if s.layout.ego_speed > 1)
    early, late = (scene.render(t, *SIZE, modality='thermal') for t in (0.0, 0.4))
    assert (early.label != late.label).mean() > 0.002
    assert np.abs(early.thermal.astype(int) - late.thermal).mean() > 10


def test_the_shutter_repeats_a_thermal_frame_bit_for_bit_while_rgb_goes_on():
    scene = first_night()
    times = np.arange(0, 8, 0.02)
    frozen = [t for t in times if scene.thermal_time(t) < t - 0.1]
    assert 0.01 < len(frozen) / len(times) < 0.3
    start = scene.thermal_time(frozen[0])
    held = scene.render(frozen[0], *SIZE, modality='thermal')
    shot = scene.render(start, *SIZE, modality='thermal')
    live = scene.render(start - 0.1, *SIZE, modality='thermal')
    assert np.array_equal(held.thermal, shot.thermal)
    assert not np.array_equal(held.rgb, shot.rgb)
    assert not np.array_equal(live.thermal, shot.thermal)


def test_the_depth_of_the_road_is_that_of_a_plane_below_the_camera():
    scene = Scene(11)
    view, depth = scene._view(0.0, *SIZE), scene.render(0.0, *SIZE, modality='depth').depth
    lay, focal = scene.layout, scene.layout.focal * SIZE[1]
    row = SIZE[0] - 4
    slope = np.arctan((row + 0.5 - SIZE[0] / 2) / focal) + lay.pitch
    expected = lay.eye_height / np.sin(slope) * np.cos(slope - lay.pitch)
    flat = view.raster.ground[view.raster.face[row]] & (view.raster.label[row] == 0)
    assert flat.sum() > 20
    assert np.median(depth[row][flat]) == pytest.approx(expected, rel=0.02)


def test_the_side_view_is_shifted_by_baseline_times_focal_over_depth():
    scene, size = Scene(next(s for s in range(30) if not Scene(s).night)), (240, 320)
    picture = scene.render(0.0, *size)
    side = scene._view(0.0, *size, LIGHTFIELD_BASELINE_M).inverse_depth
    disparity = LIGHTFIELD_BASELINE_M * scene.layout.focal * size[1] * side
    columns, rows = np.meshgrid(
        np.arange(size[1], dtype=np.float32), np.arange(size[0], dtype=np.float32)
    )
    moved = cv2.remap(picture.rgb, columns + disparity.astype(np.float32), rows, cv2.INTER_LINEAR)
    near = disparity > 3
    error = np.abs(moved.astype(int) - picture.lightfield)[near].mean()
    still = np.abs(picture.rgb.astype(int) - picture.lightfield)[near].mean()
    assert error < 0.7 * still


def run(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['rgbx_synthesize', *map(str, arguments)])
    return synthesize.main()


def test_the_command_writes_folders_that_read_back_as_rendered(tmp_path, monkeypatch):
    out, sheet = tmp_path / 'out', tmp_path / 'sheet.png'
    code = run(
        monkeypatch,
        out,
        '--seeds',
        '4:6',
        '--steps',
        2,
        '--height',
        120,
        '--width',
        160,
        '--night-fraction',
        1,
        '--sheet',
        sheet,
    )
    assert code == 0
    names = sorted(path.stem for path in (out / 'rgb').iterdir())
    assert names == ['000004_0000N', '000004_0001N', '000005_0000N', '000005_0001N']
    expected = Scene(4, night=True).render(0.1, *SIZE, modality='thermal')
    thermal = cv2.imread(str(out / 'thermal' / '000004_0001N.png'), cv2.IMREAD_UNCHANGED)
    label = cv2.imread(str(out / 'label' / '000004_0001N.png'), cv2.IMREAD_UNCHANGED)
    assert thermal.dtype == np.uint16 and np.array_equal(thermal, expected.thermal)
    assert np.array_equal(label, expected.label)
    assert cv2.imread(str(sheet)).shape[0] == 480
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'sheet.png']


@pytest.mark.parametrize(
    'bad',
    [
        ('--seeds', '5:5'),
        ('--seeds', 'x'),
        ('--night-fraction', 2),
        ('--steps', 0),
        ('--dt', 'nan'),
        ('--dt', -1),
        ('--aux-scale', 'nan'),
        ('--height', 10**9),
        ('--sheet', 'scenes.txt'),
    ],
)
def test_a_bad_argument_ends_in_one_sentence_and_no_folder(tmp_path, monkeypatch, capsys, bad):
    assert run(monkeypatch, tmp_path / 'out', *bad) == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(tmp_path, monkeypatch, capsys):
    (tmp_path / 'mine.txt').write_text('keep')
    assert run(monkeypatch, tmp_path, '--seeds', '0:1') == 1
    assert 'not empty' in capsys.readouterr().err
    assert (tmp_path / 'mine.txt').read_text() == 'keep'
