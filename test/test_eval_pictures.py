# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The worst and best frames, held against a search over all frames at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros.eval_frames import BagPair, EvalFrame, LaneResult
from rgbx_seg_ros.eval_pictures import RIGHT, UNKNOWN, WRONG, Gallery, error_map, viewable
from rgbx_seg_ros.eval_result import FrameRecord

NAN = math.nan


def record(number: int, time_s: float, bundle: str = 'one', **numbers: float) -> FrameRecord:
    values: dict[str, Any] = dict.fromkeys(FrameRecord._fields, NAN)
    values.update(bundle=bundle, number=number, stamp_ns=number, aux_ns=number, time_s=time_s,
                  state='paired', skew_ms=0.0, labeled=0)
    values.update(numbers)
    return FrameRecord(**values)


def frame(*records: FrameRecord, target: np.ndarray | None = None, label: int = 1,
          size: tuple[int, int] = (24, 32), aux: np.ndarray | None = None) -> EvalFrame:
    rgb = np.full((*size, 3), (200, 100, 50), np.uint8)
    pair = BagPair(records[0].number, rgb, None, 'mono8', None, target, 0, 'camera', 0, 0, 0, 0,
                   'paired', 0.0)
    lanes = tuple(LaneResult(np.full(size, label + lane, np.uint8), np.full(size, 200, np.uint8),
                             rgb, np.full(size, 90, np.uint8) if aux is None else aux,
                             0.0, 0.0, 0.0, 0.0, None) for lane in range(len(records)))
    return EvalFrame(pair, lanes, records)


def stream(folder: Path, frames: list[EvalFrame], count: int) -> Gallery:
    names = [one.bundle for one in frames[0].records]
    with Gallery(folder, CLASSES, names, count) as gallery:
        for one in frames:
            gallery.add(one)
    return gallery


def numbers(gallery: Gallery, kind: str, bundle: str = 'one') -> list[int]:
    entries = [entry for entry in gallery.pictures()
               if entry['kind'] == kind and entry['bundle'] == bundle]
    assert [entry['rank'] for entry in entries] == list(range(len(entries)))
    return [entry['number'] for entry in entries]


def offline(times: list[float], values: list[float], count: int, sign: int) -> list[int]:
    """Return what a search over everything finds: the extreme of each moment, then greedily."""
    step = 1 / 64
    while step < 1 and len({math.floor(time / step) for time in times}) > 6 * count:
        step *= 2
    moments: dict[int, int] = {}
    for number in sorted(range(len(times)), key=lambda n: (sign * values[n], n)):
        moments.setdefault(math.floor(times[number] / step), number)
    chosen: list[int] = []
    for number in sorted(moments.values(), key=lambda n: (sign * values[n], n)):
        if len(chosen) < count and all(abs(times[number] - times[n]) >= step for n in chosen):
            chosen.append(number)
    return chosen


@pytest.mark.parametrize('kind', ['noise', 'walk', 'rising', 'falling', 'equal'])
@pytest.mark.parametrize('length', [40, 400, 3000])
def test_a_stream_gives_what_a_search_over_all_frames_gives(
        tmp_path: Path, kind: str, length: int):
    rng = np.random.default_rng(length)
    times = (np.cumsum(rng.uniform(0.01, 0.09, length)) - 0.05).tolist()
    values = {'noise': rng.random(length), 'walk': np.cumsum(rng.normal(0, 1, length)),
              'rising': np.arange(length), 'falling': -np.arange(length),
              'equal': np.zeros(length)}[kind].tolist()
    gallery = stream(tmp_path, [frame(record(n, time, miou=value), size=(4, 4)) for n, (time, value)
                                in enumerate(zip(times, values, strict=True))], 5)
    worst, best = offline(times, values, 5, 1), offline(times, values, 5, -1)
    assert numbers(gallery, 'worst') == worst
    assert numbers(gallery, 'best') == [number for number in best if number not in worst]
    if length == 3000:
        shown = [times[number] for number in worst]
        assert len(shown) == 5
        assert min(abs(a - b) for a in shown for b in shown if a != b) >= 1.0


def test_few_frames_are_shared_out_between_both_ends(tmp_path: Path):
    frames = [frame(record(n, n / 10, miou=value)) for n, value in
              enumerate([0.5, 0.1, 0.9, 0.7, 0.3])]
    gallery = stream(tmp_path, frames, 6)
    assert (numbers(gallery, 'worst'), numbers(gallery, 'best')) == ([1, 4, 0], [2, 3])


def test_labels_that_come_late_rank_alone(tmp_path: Path):
    frames = [frame(record(0, 0.0, confidence=0.1)),
              frame(record(1, 1.0, confidence=0.2, consistency=0.5)),
              frame(record(2, 2.0, confidence=0.9, consistency=0.9, miou=0.6)),
              frame(record(3, 3.0, confidence=0.3, consistency=0.1))]
    gallery = stream(tmp_path, frames, 2)
    assert [(entry['number'], entry['measure'], entry['value']) for entry in gallery.pictures()
            ] == [(2, 'miou', 0.6)]
    without = stream(tmp_path, frames[:2] + frames[3:], 2)
    assert {entry['measure'] for entry in without.pictures()} == {'consistency'}


def test_a_further_bundle_is_shown_where_it_lost_and_gained(tmp_path: Path):
    scores = [(0.5, 0.2), (0.5, 0.9), (0.5, 0.5), (0.5, 0.4), (0.2, NAN)]
    target = np.zeros((24, 32), np.uint8)
    gallery = stream(tmp_path, [
        frame(record(n, float(n), 'one', miou=first), record(n, float(n), 'two', miou=second),
              target=target) for n, (first, second) in enumerate(scores)], 4)
    assert numbers(gallery, 'regression', 'two') == [0, 3]
    assert numbers(gallery, 'improvement', 'two') == [1]
    entry = next(one for one in gallery.pictures() if one['kind'] == 'regression')
    assert {'mask', 'baseline_mask', 'error', 'baseline_error', 'target'} <= set(entry['files'])
    assert entry['value'] == pytest.approx(-0.3)
    mask, base = (cv2.imread(str(tmp_path / entry['files'][key]))[0, 0, ::-1].tolist()
                  for key in ('mask', 'baseline_mask'))
    assert (mask, base) == (list(CLASSES[2].color), list(CLASSES[1].color))


def test_without_labels_a_further_bundle_is_shown_where_both_differ(tmp_path: Path):
    gallery = stream(tmp_path, [
        frame(record(n, float(n), 'one', confidence=0.5, agreement=1.0),
              record(n, float(n), 'two', confidence=0.5, agreement=share))
        for n, share in enumerate([1.0, 0.7, 0.9, 1.0])], 4)
    assert numbers(gallery, 'difference', 'two') == [1, 2]


def test_all_files_exist_and_no_others(tmp_path: Path):
    target = np.full((24, 32), 1, np.uint8)
    frames = [frame(record(n, float(n), miou=n / 50), target=target if n % 2 else None)
              for n in range(50)]
    gallery = stream(tmp_path / 'pictures', frames, 3)
    named = {name for entry in gallery.pictures() for name in entry['files'].values()}
    assert {file.name for file in (tmp_path / 'pictures').iterdir()} == named
    assert all(cv2.imread(str(tmp_path / 'pictures' / name)) is not None for name in named)


def test_nothing_is_written_after_an_exception_or_when_none_is_wanted(tmp_path: Path):
    gallery = Gallery(tmp_path / 'pictures', CLASSES, ['one'], 3)
    with pytest.raises(KeyError), gallery:
        gallery.add(frame(record(0, 0.0, miou=0.5)))
        raise KeyError
    with Gallery(tmp_path / 'pictures', CLASSES, ['one'], 0) as none:
        none.add(frame(record(0, 0.0, miou=0.5)))
    assert none.pictures() == [] and not (tmp_path / 'pictures').exists()


def test_raw_frames_are_not_kept(tmp_path: Path):
    with Gallery(tmp_path, CLASSES, ['one'], 2) as gallery:
        for number in range(500):
            gallery.add(frame(record(number, number / 10, miou=math.sin(number))))
        shots = [shot for ranking in gallery._rankings for end in ranking.ends
                 for shot in [*end._kept.values(), end._open]]
    assert len(shots) <= 2 * (6 + 1)
    assert sum(shot._frame is not None for shot in shots) <= 2


def test_error_map_tells_right_wrong_and_unlabeled():
    shown = error_map(np.array([[0, 1, 2, 255]], np.uint8), np.array([[0, 2, 255, 1]], np.uint8))
    assert shown.tolist() == [[list(RIGHT), list(WRONG), list(UNKNOWN), list(WRONG)]]


@pytest.mark.parametrize(('channels', 'shape'), [(1, (5, 7)), (2, (5, 7, 3)), (3, (5, 7, 3)),
                                                 (6, (5, 7, 3))])
def test_aux_of_any_channels_can_be_shown(channels: int, shape: tuple[int, ...]):
    assert viewable(np.zeros((5, 7, channels), np.uint8)).shape == shape


def test_wide_pictures_are_shrunk_without_mixing_classes(tmp_path: Path):
    ids = np.tile(np.array([0, 2], np.uint8), (100, 500))
    one = frame(record(0, 0.0, miou=0.5), size=(100, 1000), target=ids)
    gallery = stream(tmp_path, [one], 1)
    shown = cv2.imread(str(tmp_path / gallery.pictures()[0]['files']['target']))
    assert shown.shape == (64, 640, 3)
    assert {tuple(color) for color in shown[..., ::-1].reshape(-1, 3).tolist()} <= {
        CLASSES[0].color, CLASSES[2].color}
