# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Palettes undone: OpenCV applies them, the front end must give the gray back."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from bags import DATA
from bundles import THERMAL

from rgbx_seg_ros import false_color
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.thermal import AuxConfig, AuxFrontEnd, to_uint8


def gray_scene() -> np.ndarray:
    across, down = np.meshgrid(np.linspace(0, 1, 160), np.linspace(0, 1, 120))
    gray = 60 + 120 * across + 40 * np.sin(9 * down)
    gray[40:60, 60:80] = 250
    return np.clip(gray, 0, 255).astype(np.uint8)


def painted(gray: np.ndarray, name: str, quality: int | None = None) -> np.ndarray:
    """Return the RGB picture of `gray` in a palette, after JPEG if a quality is given."""
    bgr = cv2.applyColorMap(gray, false_color.PALETTES[name])
    if quality is not None:
        bgr = cv2.imdecode(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize('name', false_color.PALETTES)
def test_a_palette_is_recognized_and_undone(name):
    gray = gray_scene()
    for quality, limit in ((None, 1.0), (90, 4.0)):
        front = AuxFrontEnd(THERMAL)
        found = front(painted(gray, name, quality), 'rgb8', 1)
        assert np.abs(found.astype(int) - gray).mean() < limit
        [note] = front.notes()
        assert f'palette {name}' in note and 'rgb8' in note


def test_the_luminance_of_a_rainbow_is_no_temperature_but_its_inverse_is():
    gray = gray_scene()
    luminance = to_uint8(painted(gray, 'jet'), THERMAL)
    found = AuxFrontEnd(THERMAL)(painted(gray, 'jet'), 'rgb8', 1)
    assert np.corrcoef(gray.ravel(), luminance.ravel())[0, 1] < 0.5
    assert np.corrcoef(gray.ravel(), found.ravel())[0, 1] > 0.999


def test_an_unnamed_color_order_is_found_out():
    gray = gray_scene()
    stored = np.ascontiguousarray(painted(gray, 'inferno')[..., ::-1])
    found = AuxFrontEnd(THERMAL)(stored, '8UC3', 1)
    assert np.abs(found.astype(int) - gray).mean() < 1


def test_gray_in_three_channels_is_gray_and_nothing_is_told():
    gray = np.random.default_rng(0).integers(0, 256, (50, 60), np.uint8)
    three = np.repeat(gray[..., None], 3, axis=2)
    for mode in ('convert', 'keep', 'refuse'):
        front = AuxFrontEnd(THERMAL, AuxConfig(false_color=mode))
        assert (front(three, 'bgr8', 1) == gray).all() and not front.notes()
    _, jpeg = cv2.imencode('.jpg', three)
    AuxFrontEnd(THERMAL, AuxConfig(false_color='refuse'))(cv2.imdecode(jpeg, 1), 'rgb8', 1)


def test_other_color_becomes_its_luminance_and_that_is_told_once():
    rng = np.random.default_rng(0)
    front = AuxFrontEnd(THERMAL)
    for i in range(40):
        color = rng.integers(0, 256, (50, 60, 3), np.uint8)
        np.testing.assert_array_equal(front(color, 'bgr8', i), to_uint8(color, THERMAL))
    [note] = front.notes()
    assert 'luminance' in note and 'bgr8' in note


def test_false_color_is_refused_or_kept_by_parameter():
    picture = painted(gray_scene(), 'jet')
    with pytest.raises(ImageError, match='false color .rgb8') as caught:
        AuxFrontEnd(THERMAL, AuxConfig(false_color='refuse'))(picture, 'rgb8', 1)
    assert caught.value.cause == 'encoding'
    kept = AuxFrontEnd(THERMAL, AuxConfig(false_color='keep'))
    assert (kept(picture, 'rgb8', 1) == to_uint8(picture, THERMAL)).all() and not kept.notes()


def test_a_network_of_three_channels_gets_the_gray_three_times_but_other_color_unchanged():
    three = replace(THERMAL, channels=3)
    gray = gray_scene()
    found = AuxFrontEnd(three)(painted(gray, 'turbo'), 'rgb8', 1)
    assert found.shape == (*gray.shape, 3)
    assert np.abs(found.astype(int) - gray[..., None]).mean() < 1
    events = np.full((50, 60, 3), 255, np.uint8)
    events[10:20, 10:30], events[30:40, 20:50] = (255, 0, 0), (0, 0, 255)
    front = AuxFrontEnd(three)
    assert front(events, 'rgb8', 1) is events and not front.notes()


def test_a_palette_changed_at_the_camera_is_followed():
    gray = gray_scene()
    front = AuxFrontEnd(THERMAL)
    for i, name in enumerate(('jet', 'jet', 'inferno', 'inferno', 'hot')):
        found = front(painted(gray, name), 'rgb8', i)
        assert np.abs(found.astype(int) - gray).mean() < 1.5, name


def test_text_and_crosshairs_do_not_hide_the_palette():
    picture = painted(gray_scene(), 'jet')
    cv2.putText(picture, '23.4 C', (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    cv2.line(picture, (70, 60), (90, 60), (0, 255, 0), 1)
    found = AuxFrontEnd(THERMAL)(picture, 'rgb8', 1)
    assert np.median(np.abs(found.astype(int) - gray_scene())) < 1


@pytest.mark.skipif(not (DATA / 'msrs_road').is_dir(),
                    reason='shared/data is not beside the project')
def test_no_real_color_image_is_taken_for_false_color():
    for path in sorted((DATA / 'msrs_road' / 'rgb').glob('*.jpg'))[::4]:
        picture = cv2.imread(str(path))
        assert false_color.recognize(picture) == '', path
        assert false_color.recognize(np.ascontiguousarray(picture[..., ::-1])) == '', path
