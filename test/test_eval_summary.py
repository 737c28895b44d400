# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from results import CLASSES, SYNC, bag_result, confusion, record, totals

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_merge import BagSync, merge_sync, merged_rows
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_summary import BINS, summarize
from rgbx_seg_ros.manifest import ClassInfo

SETTINGS = EvalSettings((Path('/b0'), Path('/b1')), **node_settings(None, {}))
UNEQUAL = ('timing', 'versions')  # what may differ between two runs


def two_bags(frames=(60, 90)):
    rng = np.random.default_rng(0)
    return [bag_result([confusion(rng, n, 0.8), confusion(rng, n, 0.9)], name)
            for n, name in zip(frames, 'ab', strict=True)]


def plain_iou(matrix):
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return [matrix[k, k] / union[k] if union[k] else None for k in range(len(matrix))]


def test_scores_are_those_of_all_pixels_of_all_bags():
    bags = two_bags()
    summary = summarize(bags, SETTINGS)
    for lane, scores in enumerate(summary['scores']):
        matrix = sum(bag.totals[lane].confusion for bag in bags)
        assert scores['confusion'] == matrix.tolist()
        assert [row['iou'] for row in scores['per_class']] == pytest.approx(plain_iou(matrix))
        assert scores['miou'] == pytest.approx(np.mean(plain_iou(matrix)))
        assert scores['accuracy'] == pytest.approx(np.trace(matrix) / matrix.sum())
        assert scores['mean_accuracy'] == pytest.approx(np.mean(np.diag(matrix) / matrix.sum(1)))
        assert scores['labeled_pixels'] == matrix.sum() and scores['scored'] == 150
        low, high = scores['miou_interval']
        assert low < scores['miou'] < high
        shares = [row['true_share'] for row in scores['per_class']]
        assert shares == pytest.approx(matrix.sum(1) / matrix.sum())
    assert summary['scores'][0]['agreement'] is None and summary['scores'][1]['agreement'] == 1.0


def test_the_summary_is_json_and_says_the_same_again():
    text = json.dumps(summarize(two_bags(), SETTINGS), allow_nan=False)
    assert text == json.dumps(summarize(two_bags(), SETTINGS), allow_nan=False)


def test_a_class_id_that_is_no_class_does_not_count_in_the_strict_score():
    matrices = np.zeros((4, 5, 5), np.int64)
    matrices[:, 0, 0] = matrices[:, 4, 4] = 10
    classes = tuple(ClassInfo(n, f'c{n}', (n, 0, 0)) for n in (0, 1, 4))
    scores = summarize([bag_result([matrices], classes=classes)], SETTINGS)['scores'][0]
    assert scores['miou'] == 1.0 and scores['miou_strict'] == pytest.approx(2 / 3)
    assert [row['id'] for row in scores['per_class']] == [0, 1, 4]
    assert scores['per_class'][1]['iou'] is None


def test_abstained_pixels_lower_the_recall_and_not_the_precision():
    matrices = np.zeros((2, 2, 2), np.int64)
    matrices[:, 0, 0] = matrices[:, 1, 1] = 10
    bag = bag_result([matrices])
    bag = replace(bag, totals=[replace(bag.totals[0], abstained=np.array([20, 0]))])
    scores = summarize([bag], SETTINGS)['scores'][0]
    assert [row['recall'] for row in scores['per_class']] == [0.5, 1.0]
    assert [row['precision'] for row in scores['per_class']] == [1.0, 1.0]
    assert scores['labeled_pixels'] == 60 and scores['accuracy'] == pytest.approx(40 / 60)


def test_boundary_calibration_and_ablation_come_from_their_counts():
    matrices = confusion(np.random.default_rng(0), 10, 0.9)
    calibration = np.zeros((256, 2), np.int64)
    calibration[255] = (1, 3)  # sure, and right three times of four
    bag = bag_result([matrices])
    bag = replace(bag, totals=[replace(
        bag.totals[0], boundary=np.array([[1, 2, 0], [2, 2, 0], [2, 4, 0]]),
        calibration=calibration, with_aux=np.eye(3, 4, dtype=np.int64) * 5,
        # Of the last class, half is left open, which is missed as well.
        without_aux=np.array([[5, 0, 0, 0], [5, 0, 0, 0], [0, 0, 5, 5]]))])
    scores = summarize([bag], SETTINGS)['scores'][0]
    assert scores['boundary_miou'] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert [row['boundary_iou'] for row in scores['per_class']] == [
        pytest.approx(1 / 3), 0.5, None]
    assert scores['ece'] == pytest.approx(0.25)
    assert scores['reliability'][-1] == {'confidence': 1.0, 'accuracy': 0.75, 'pixels': 4}
    assert len(scores['reliability']) == 15
    assert scores['miou_with_aux'] == 1.0
    assert scores['miou_without_aux'] == pytest.approx((0.5 + 0 + 0.5) / 3)


def test_conditions_divide_the_frames_and_score_each_part():
    rng = np.random.default_rng(0)
    matrices = confusion(rng, 8, 0.8)
    bag = bag_result([matrices])
    bag.records[0][:] = [record._replace(brightness=brightness, skew_ms=skew) for
                         record, brightness, skew in zip(
                             bag.records[0], (10, 30, 60, 200, 24.9, 25, 55, math.nan),
                             (-4, 5, -15, 31, 0, 0, 0, math.nan), strict=True)]
    found = summarize([bag], SETTINGS)['conditions'][0]
    pairs = {name: [one['pairs'] for one in bins] for name, bins in found.items()}
    assert pairs == {'brightness': [2, 2, 2, 1], 'skew': [4, 1, 1, 1], 'aux_contrast': [0, 8, 0]}
    dark = matrices[0] + matrices[4]
    assert found['brightness'][0]['name'] == 'dark'
    assert found['brightness'][0]['miou'] == pytest.approx(np.mean(plain_iou(dark)))
    assert found['brightness'][0]['accuracy'] == pytest.approx(np.trace(dark) / dark.sum())
    empty = found['aux_contrast'][0]
    assert empty['miou'] is None and empty['accuracy'] is None and empty['confidence'] is None


def test_the_bins_of_a_condition_leave_no_gap():
    for bins in BINS.values():
        assert bins[0][1] == 0 and bins[-1][2] == math.inf
        assert all(one[2] == other[1] for one, other in zip(bins, bins[1:], strict=False))


def test_means_are_over_frames_and_leave_out_what_is_not_there():
    bag = bag_result([confusion(np.random.default_rng(0), 4, 0.8)])
    bag.records[0][:] = [record._replace(consistency=value, aux_change=change)
                         for record, value, change in zip(
                             bag.records[0], (math.nan, 0.5, 0.7, 0.9),
                             (0.2, math.nan, math.nan, 0.4), strict=True)]
    scores = summarize([bag], SETTINGS)['scores'][0]
    assert scores['consistency'] == pytest.approx(0.7)
    assert scores['aux_change'] == pytest.approx(0.3) and scores['ablated'] == 2


def test_without_labels_there_are_no_scores_but_all_else():
    bag = bag_result([np.zeros((30, 3, 3), np.int64)] * 2)
    summary = summarize([bag], SETTINGS)
    for scores in summary['scores']:
        assert {scores[name] for name in ('miou', 'accuracy', 'boundary_miou', 'ece',
                                          'miou_interval')} == {None}
        assert scores['scored'] == 0 and scores['confidence'] == pytest.approx(0.9)
    assert summary['comparison'][0]['miou_change'] is None
    assert summary['comparison'][0]['agreement'] == 1.0


def test_of_each_bag_there_are_scores_without_the_tables():
    bags = summarize(two_bags(), SETTINGS)['bags']
    assert [bag['name'] for bag in bags] == ['a', 'b'] and [bag['pairs'] for bag in bags] == [
        60, 90]
    assert not {'per_class', 'confusion', 'reliability'} & bags[0]['scores'][0].keys()
    alone = summarize(two_bags()[:1], SETTINGS)['scores'][0]['miou']
    assert bags[0]['scores'][0]['miou'] == alone


def test_only_timing_and_versions_know_how_long_it_took():
    bags = two_bags()
    slow = [replace(bag, timing={name: 7 * value for name, value in bag.timing.items()})
            for bag in bags]
    for bag in slow:
        for records in bag.records:
            records[:] = [record._replace(engine_ms=99.0) for record in records]
    one, other = (summarize(given, SETTINGS, elapsed={'command_s': seconds})
                  for given, seconds in ((bags, 1.0), (slow, 9.0)))
    assert one['timing'] != other['timing']
    assert {name: one[name] for name in one.keys() - set(UNEQUAL)} == {
        name: other[name] for name in other.keys() - set(UNEQUAL)}


def test_timing_tells_speed_and_the_share_of_the_engine():
    timing = summarize(two_bags(), SETTINGS)['timing']
    assert timing['wall_s'] == 4.0 and timing['bag_s'] == 15.0
    assert timing['real_time_factor'] == 3.75 and timing['engine_share'] == 0.75
    assert timing['pairs_per_s'] == 150 / 4
    assert timing['stages'][0]['engine'] == {'p50': 10.0, 'p95': 10.0, 'max': 10.0}


def test_bags_of_different_engines_make_no_report():
    one, other = two_bags()
    bundles = [{**bundle, 'backend': 'other'} for bundle in other.bundles]
    with pytest.raises(RgbxSegError, match='a and b were evaluated by different'):
        summarize([one, replace(other, bundles=bundles)], SETTINGS)
    with pytest.raises(RgbxSegError, match='no bag was evaluated'):
        summarize([], SETTINGS)
    with pytest.raises(RgbxSegError, match='60 frames and the counts of 3'):
        summarize([replace(one, totals=[totals(np.zeros((3, 3, 3), np.int64))] * 2)], SETTINGS)


def test_failed_bags_are_named():
    failed = [{'name': 'c', 'bag': '/bags/c', 'reason': 'cut off.'}]
    assert summarize(two_bags(), SETTINGS, failed)['failed'] == failed


def test_reports_of_synchronization_are_merged_by_what_their_values_are():
    other = {**SYNC, 'rates_hz': {'rgb': 10.0, 'aux': None}, 'pairs': 50,
             'gaps': {'rgb': {'longest_s': 0.7, 'count': 3}}, 'states': {'held': 50},
             'drops': {'rgb_unmatched': 3, 'late': 4}, 'notes': ['dark', 'short']}
    merged = merge_sync([BagSync({**SYNC, 'notes': ['dark']}, 30.0, [-4.0, 2.0]),
                         BagSync(other, 10.0, [9.0, math.nan])])
    assert merged['rates_hz'] == {'rgb': 25.0, 'aux': 10.0}
    assert merged['gaps'] == {'rgb': {'longest_s': 0.7, 'count': 4},
                              'aux': {'longest_s': 0.3, 'count': 2}}
    assert merged['pairs'] == 150 and merged['states'] == {'ok': 100, 'held': 50}
    assert merged['drops'] == {'rgb_unmatched': 203, 'late': 4}
    assert merged['skew_ms'] == {'p50': 4.0, 'p95': pytest.approx(8.5), 'max': 9.0,
                                 'mean': pytest.approx(7 / 3)}


def test_one_report_of_synchronization_stays_as_it_is():
    assert merge_sync([BagSync(SYNC, 30.0, [1.0])]) == SYNC


def test_tables_of_frames_are_joined_with_the_bag_in_front(tmp_path):
    for bag in two_bags((2, 1)):
        (tmp_path / bag.name).mkdir()
        bag.save(tmp_path / bag.name)
    lines = list(merged_rows({name: tmp_path / name for name in 'ab'}))
    assert lines[0].startswith('bag,bundle,number,') and len(lines) == 1 + 2 * 2 + 2 * 1
    assert [line[:4] for line in lines[1:]] == ['a,b0', 'a,b0', 'a,b1', 'a,b1', 'b,b0', 'b,b1']


def test_helper_of_these_tests_counts_as_the_runtime_does():
    bag = two_bags()[0]
    assert np.array_equal(bag.totals[0].counts.sum(0)[0], np.diag(bag.totals[0].confusion))
    assert record('b', 3).time_s == 0.3 and len(CLASSES) == 7
