# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One pass over a bag, with a model whose answers a test can compute by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bags import START_NS, frame
from bundles import CLASSES, manifest, tiny_onnx, write_scene_bundle, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError, eval_pass
from rgbx_seg_ros.bag import BagWriter
from rgbx_seg_ros.eval_pass import Evaluator, names_of
from rgbx_seg_ros.eval_result import FrameRecord, load_result
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.manifest import ClassInfo, save_bundle

MS = 1_000_000
PAIRS = 12
WARM, COLD = 32000, 26400  # counts of 0.01 K above and below the middle of the range
TIMES = tuple(name for name in FrameRecord._fields if name.endswith('_ms') and name != 'skew_ms')


def write_bag(path: Path, pairs: int = PAIRS, skew_ms: int = 3, spoiled: int = -1) -> Path:
    """Write pairs at 10 Hz; red and warm change so that each class is seen; labels are class 1."""
    with BagWriter(path) as bag:
        for number in range(pairs):
            stamp = START_NS + 100 * MS * number
            rgb = np.zeros((24, 32, 3), np.uint8)
            rgb[..., 0] = 200 * (number % 2)
            bag.write_image('/rgb/image_raw', rgb, 'rgb8', stamp, stamp + MS, 'camera')
            encoding = 'rgb8' if number == spoiled else 'mono16'
            aux = rgb if number == spoiled else np.full(
                (12, 16), WARM if number % 4 < 2 else COLD, np.uint16)
            bag.write_image('/thermal/image_raw', aux, encoding, stamp + skew_ms * MS,
                            stamp + (skew_ms + 1) * MS, 'thermal')
            bag.write_image('/label/image_raw', frame(1, 24, 32), 'mono8', stamp, stamp + MS,
                            'camera')
    return path


def settings(*bundles: Path, given: dict | None = None, **more) -> EvalSettings:
    return EvalSettings(bundles=bundles, **{
        'video': False, 'pictures': 0, **more,
        **node_settings(None, {'backend': 'onnxruntime', **(given or {})})})


def run(bag: Path, folder: Path, chosen: EvalSettings):
    folder.mkdir(parents=True)
    with Evaluator(chosen) as evaluator:
        result = evaluator(bag, 'name', 'key', folder)
    result.save(folder)
    return result


def answer(number: int) -> int:
    return number % 2 + (number % 4 < 2)


@pytest.fixture
def bag(tmp_path):
    return write_bag(tmp_path / 'bag')


@pytest.fixture
def bundle(tmp_path):
    return write_tiny_bundle(tmp_path / 'bundle')


def test_every_pair_is_scored_against_its_label(bag, bundle, tmp_path):
    result = run(bag, tmp_path / 'out', settings(bundle, ablate_every=2))
    records, totals = result.records[0], result.totals[0]
    assert [record.number for record in records] == list(range(PAIRS))
    assert [record.time_s for record in records] == pytest.approx([n / 10 for n in range(PAIRS)])
    assert {record.skew_ms for record in records} == {3.0}
    expected = np.bincount([answer(number) for number in range(PAIRS)], minlength=3) * 24 * 32
    assert totals.confusion.tolist() == [[0, 0, 0], expected.tolist(), [0, 0, 0]]
    assert [record.accuracy for record in records] == [answer(n) == 1 for n in range(PAIRS)]
    assert result.start_ns == START_NS and result.name == 'name' and result.key == 'key'
    assert result.topics == {'rgb': '/rgb/image_raw', 'aux': '/thermal/image_raw',
                             'label': '/label/image_raw'}


def test_without_aux_is_what_the_model_says_of_a_black_aux_image(bag, bundle, tmp_path):
    result = run(bag, tmp_path / 'out', settings(bundle, ablate_every=2))
    for record in result.records[0]:
        if record.number % 2:
            assert np.isnan(record.aux_change)
        else:  # black aux takes one from the label where it was warm
            assert record.aux_change == (record.number % 4 < 2)
    ablated = [n for n in range(PAIRS) if n % 2 == 0]
    expected = np.bincount([n % 2 for n in ablated], minlength=3) * 24 * 32
    assert result.totals[0].without_aux[1].tolist() == [*expected, 0]


def test_a_pass_without_ablation_gives_the_same_masks(bag, tmp_path):
    bundle = write_scene_bundle(tmp_path / 'scene')  # one that remembers
    often, never = (run(bag, tmp_path / str(every), settings(bundle, ablate_every=every))
                    for every in (1, 0))
    np.testing.assert_array_equal(often.totals[0].counts, never.totals[0].counts)
    assert np.isfinite(often.records[0][0].aux_change)
    assert np.isnan([record.aux_change for record in never.records[0]]).all()


def test_smoothed_masks_are_not_ablated(bag, bundle, tmp_path):
    result = run(bag, tmp_path / 'out', settings(
        bundle, ablate_every=1, given={'mask.smoothing': 0.5}))
    assert np.isnan([record.aux_change for record in result.records[0]]).all()


def test_two_passes_differ_in_nothing_but_time(bag, bundle, tmp_path):
    results = [run(bag, tmp_path / str(number), settings(bundle, pictures=2))
               for number in range(2)]
    first, second = ([tuple(getattr(record, name) for name in FrameRecord._fields
                            if name not in TIMES) for record in result.records[0]]
                     for result in results)
    assert repr(first) == repr(second)  # NaN is not equal to itself
    for field in dataclasses.fields(results[0].totals[0]):
        np.testing.assert_array_equal(*(getattr(result.totals[0], field.name)
                                        for result in results))
    assert results[0].sync == results[1].sync and results[0].pictures == results[1].pictures


def test_a_limit_ends_the_bag_there_and_counts_nothing_behind_it(bag, bundle, tmp_path):
    results = [run(bag, tmp_path / str(n), settings(bundle, limit=4)) for n in range(2)]
    assert [len(result.records[0]) for result in results] == [4, 4]
    assert results[0].sync == results[1].sync
    assert results[0].sync['pairs'] == 4


def test_what_was_saved_comes_back_as_it_was(bag, bundle, tmp_path):
    result = run(bag, tmp_path / 'out', settings(
        bundle, write_tiny_bundle(tmp_path / 'other')))
    loaded = load_result(tmp_path / 'out')
    assert repr(loaded.records) == repr(result.records)
    assert loaded.classes == result.classes == CLASSES
    assert (loaded.sync, loaded.bundles, loaded.topics) == (
        result.sync, result.bundles, result.topics)
    for mine, theirs in zip(result.totals, loaded.totals, strict=True):
        for field in dataclasses.fields(mine):
            np.testing.assert_array_equal(getattr(mine, field.name), getattr(theirs, field.name))


@pytest.mark.parametrize('spoil', ['result.json', 'frames.csv', 'counts.npz'])
def test_a_result_that_is_not_whole_is_refused(bag, bundle, tmp_path, spoil):
    run(bag, tmp_path / 'out', settings(bundle))
    path = tmp_path / 'out' / spoil
    path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])
    with pytest.raises(RgbxSegError, match='no complete evaluation'):
        load_result(tmp_path / 'out')


def test_two_bundles_see_the_same_pairs_and_are_told_apart(bag, bundle, tmp_path):
    other = tmp_path / 'b' / 'bundle'
    save_bundle(other, tiny_onnx(), dataclasses.replace(manifest(), name='other'))
    result = run(bag, tmp_path / 'out', settings(bundle, other))
    names = [found['name'] for found in result.bundles]
    assert len(set(names)) == 2 and names[1] == 'b/bundle'
    assert [found['model'] for found in result.bundles] == ['tiny', 'other']
    np.testing.assert_array_equal(result.totals[0].counts, result.totals[1].counts)
    assert {record.agreement for record in result.records[1]} == {1.0}
    assert np.isnan([record.agreement for record in result.records[0]]).all()


def test_bundles_that_cannot_be_compared_are_refused(bag, bundle, tmp_path):
    save_bundle(tmp_path / 'few', tiny_onnx(), dataclasses.replace(
        manifest(), classes=(*CLASSES[:2], ClassInfo(2, 'dog', (1, 2, 3)))))
    save_bundle(tmp_path / 'depth', tiny_onnx(), manifest(modality='depth'))
    for other, told in (('few', 'different classes'), ('depth', 'expected one modality')):
        with pytest.raises(RgbxSegError, match=told):
            Evaluator(settings(bundle, tmp_path / other))
    with pytest.raises(RgbxSegError, match='twice'):
        names_of([bundle, bundle])


def test_an_aux_image_of_no_use_is_counted_and_costs_only_its_pair(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', spoiled=5)
    result = run(bag, tmp_path / 'out', settings(bundle, given={'aux.false_color': 'refuse'}))
    assert [record.number for record in result.records[0]] == [*range(5), *range(6, PAIRS)]
    assert result.sync['drops']['encoding'] == 1


def test_a_bag_without_pairs_is_an_error_and_not_an_empty_report(tmp_path, bundle):
    bag = write_bag(tmp_path / 'bag', pairs=3, skew_ms=49)
    with pytest.raises(RgbxSegError, match='pairs with one of /thermal/image_raw'):
        run(bag, tmp_path / 'out', settings(bundle, given={'sync.max_skew': 0.01}))


def test_a_registration_without_its_calibration_is_told_before_the_first_pair(
        bag, bundle, tmp_path):
    with pytest.raises(RgbxSegError, match='camera_info'):
        run(bag, tmp_path / 'out', settings(bundle, given={'registration.mode': 'calibrated'}))


def test_a_sink_that_fails_ends_the_pass_with_its_error(bag, bundle, tmp_path, monkeypatch):
    class Full:
        closed = None

        def __enter__(self):
            return self

        def __exit__(self, kind, *_):
            Full.closed = kind

        def add(self, frame):
            if frame.pair.number == 3:
                raise RgbxSegError('the disk is full.')

    monkeypatch.setattr(eval_pass, '_writers', lambda *_: [Full()])
    with pytest.raises(RgbxSegError, match='the disk is full'):
        run(bag, tmp_path / 'out', settings(bundle))
    assert Full.closed is RgbxSegError


def test_what_the_thermal_front_end_notes_is_kept_once(bag, bundle, tmp_path):
    notes = run(bag, tmp_path / 'out', settings(bundle)).sync['notes']
    assert len([note for note in notes if 'aux image is uniform' in note]) == 1


def test_progress_is_told_pair_by_pair(bag, bundle, tmp_path):
    told = []
    (tmp_path / 'out').mkdir()
    with Evaluator(settings(bundle)) as evaluator:
        evaluator(bag, 'name', 'key', tmp_path / 'out', told.append)
    assert told == list(range(1, PAIRS + 1))
