# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The video of a bag, decoded again."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from bundles import CLASSES
from test_eval_pictures import frame, record

from rgbx_seg_ros.eval_video import HEIGHT, STEP_S, STRIP, Video
from rgbx_seg_ros.overlay import palette

SIZE = (96, 128)
PANEL = 352  # pixels: 4:3 at HEIGHT


def decoded(path: Path) -> list[tuple[float, np.ndarray]]:
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format='rgb24'))
                for frame in container.decode(video=0)]


def write(path: Path, frames: list, bundles: tuple[str, ...] = ('one',),
          labeled: bool = False) -> None:
    with Video(path, CLASSES, bundles, 'thermal', 0.5, labeled) as video:
        for one in frames:
            video.add(one)


def middle(picture: np.ndarray, panel: int) -> np.ndarray:
    return picture[STRIP + 50:-50, panel * PANEL + 50:(panel + 1) * PANEL - 50].mean((0, 1))


def test_panels_show_rgb_aux_overlay_and_label_at_the_bags_times(tmp_path: Path):
    target = np.full(SIZE, 2, np.uint8)
    times = [0.0, 0.1, 0.45]
    write(tmp_path / 'v.mp4', [frame(record(n, time, miou=0.5), target=target, size=SIZE)
                               for n, time in enumerate(times)])
    shown = decoded(tmp_path / 'v.mp4')
    assert [time for time, _ in shown] == pytest.approx(times)
    picture = shown[1][1]
    assert picture.shape == (STRIP + HEIGHT, 4 * PANEL, 3)
    table = palette(CLASSES).astype(float)
    rgb = np.array([200, 100, 50.0])
    for panel, color in enumerate([rgb, np.full(3, 90.0), (rgb + table[1]) / 2, table[2]]):
        assert np.abs(middle(picture, panel) - color).max() < 12


def test_every_bundle_has_its_panel_and_captions_stand_above(tmp_path: Path):
    write(tmp_path / 'v.mp4', [frame(record(0, 0.0), record(0, 0.0, 'two'), size=SIZE)] * 2,
          ('one', 'two'))
    picture = decoded(tmp_path / 'v.mp4')[0][1]
    assert picture.shape[1] == 4 * PANEL
    assert picture[:STRIP, :PANEL].max() > 150 and np.median(picture[:STRIP]) < 60


def test_labels_that_come_later_have_their_panel(tmp_path: Path):
    target = np.full(SIZE, 2, np.uint8)
    write(tmp_path / 'v.mp4', [frame(record(n, n / 10), target=target if n == 3 else None,
                                     size=SIZE) for n in range(6)], labeled=True)
    shown = decoded(tmp_path / 'v.mp4')
    assert len(shown) == 6 and shown[0][1].shape[1] == 4 * PANEL
    assert middle(shown[5][1], 3).max() < 12  # no label: black


def test_frames_after_a_jump_back_are_kept(tmp_path: Path):
    write(tmp_path / 'v.mp4', [frame(record(n, time), size=SIZE) for n, time in
                               enumerate([0.0, 1.0, 2.0, 0.0, 1.0, 2.0])])
    assert [time for time, _ in decoded(tmp_path / 'v.mp4')] == pytest.approx(
        [0, 1, 2, 2 + STEP_S, 3 + STEP_S, 4 + STEP_S])


def test_a_camera_that_changes_its_size_keeps_its_panel(tmp_path: Path):
    write(tmp_path / 'v.mp4', [frame(record(0, 0.0), size=SIZE)] * 2 + [
        frame(record(1, 1.0), size=(100, 100))])
    assert {picture.shape for _, picture in decoded(tmp_path / 'v.mp4')} == {
        (STRIP + HEIGHT, 3 * PANEL, 3)}


def test_an_exception_leaves_no_file(tmp_path: Path):
    with pytest.raises(KeyError), Video(tmp_path / 'v.mp4', CLASSES, ['one'], 'thermal', 0.5) as v:
        for number in range(40):
            v.add(frame(record(number, number / 10), size=SIZE))
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_names_of_any_letters_can_be_drawn(tmp_path: Path):
    write(tmp_path / 'v.mp4', [frame(record(0, 0.0), record(0, 0.0), size=SIZE)], ('é≥', 'ü' * 99))
    assert len(decoded(tmp_path / 'v.mp4')) == 1
