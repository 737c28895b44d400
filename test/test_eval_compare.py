# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import numpy as np
import pytest
from results import CLASSES, bag_result, confusion, frame_miou, members, totals

from rgbx_seg_ros.eval_compare import (
    Bootstrap,
    apart,
    block_sums,
    compare,
    draws,
    interval,
    iou,
    miou,
    resample,
)


def two_lanes(frames=200, right=(0.8, 0.8), seed=0, name='bag'):
    rng = np.random.default_rng(seed)
    return bag_result([confusion(rng, frames, share) for share in right], name)


def test_iou_and_miou_are_those_of_the_confusion_matrix():
    matrices = confusion(np.random.default_rng(3), 5, 0.7, classes=4)
    matrices[:, 2] = matrices[:, :, 2] = 0
    ours = iou(members(matrices))
    for frame, matrix in enumerate(matrices):
        assert np.isnan(ours[frame, 2])
        assert miou(ours)[frame] == pytest.approx(frame_miou(matrix), rel=1e-12)


def test_blocks_hold_every_scored_frame_once_and_last_equally_long():
    blocks = block_sums([two_lanes(95)], length_s=1.0)
    assert len(blocks.sums) == 10 and blocks.length_s == pytest.approx(0.95)
    result = two_lanes(95)
    assert np.array_equal(blocks.sums.sum(0), np.stack([t.counts.sum(0) for t in result.totals]))
    assert set(blocks.sums[:, 0, 2].sum(1)) <= {9 * 300, 10 * 300}


def test_frames_without_a_target_are_in_no_block():
    rng = np.random.default_rng(0)
    matrices = confusion(rng, 60, 0.8)
    matrices[10:30] = 0
    blocks = block_sums([bag_result([matrices])], length_s=1.0)
    assert blocks.sums[:, 0, 2].sum() == 40 * 300 and (blocks.sums[:, 0, 2].sum(1) > 0).all()


def test_blocks_are_longer_in_long_bags_and_never_shorter_than_a_second():
    assert len(block_sums([two_lanes(20)]).sums) == 2
    assert len(block_sums([two_lanes(1000)]).sums) == 50
    slow = two_lanes(400)
    slow.records[0][:] = [one._replace(time_s=5.0 * n) for n, one in enumerate(slow.records[0])]
    assert block_sums([slow]).length_s == pytest.approx(10)


def test_blocks_of_a_bag_are_exchanged_within_it_and_those_of_short_bags_together():
    results = [two_lanes(100, name='a'), two_lanes(10, name='b'), two_lanes(80, name='c'),
               two_lanes(10, name='d')]
    blocks = block_sums(results, length_s=1.0)
    assert [list(blocks.strata).count(s) for s in np.unique(blocks.strata)] == [10, 8, 2]
    for drawn in draws(blocks.strata, 50):
        assert np.array_equal(blocks.strata[drawn], np.tile(blocks.strata, (len(drawn), 1)))


def test_a_loop_in_the_stamps_begins_a_new_block():
    result = two_lanes(40)
    result.records[0][:] = [record._replace(time_s=n % 20 / 10)
                            for n, record in enumerate(result.records[0])]
    blocks = block_sums([result], length_s=1.0)
    assert [int(total) for total in blocks.sums[:, 0, 2].sum(1)] == [3000] * 4


def test_resamples_equal_those_of_a_plain_loop_with_the_same_draws():
    results = [two_lanes(70, (0.7, 0.8), 1, 'a'), two_lanes(60, (0.9, 0.6), 2, 'b')]
    blocks = block_sums(results, length_s=1.0)
    ours = resample(blocks, 40, seed=5)
    row = 0
    for drawn in draws(blocks.strata, 40, seed=5):
        for indices in drawn:
            for lane in range(2):
                expected = [[sum(int(blocks.sums[b, lane, member, k]) for b in indices)
                             for k in range(3)] for member in range(3)]
                assert np.array_equal(ours[row, lane], expected)
            row += 1
    assert row == 40


def test_interval_of_the_change_equals_that_of_a_plain_loop():
    results = [two_lanes(120, (0.7, 0.75), 1)]
    bootstrap = Bootstrap(results, resamples=100, length_s=1.0)
    changes = []
    for drawn in draws(bootstrap.blocks.strata, 100):
        for indices in drawn:
            scores = []
            for lane in range(2):
                hit, predicted, true = (sum(bootstrap.blocks.sums[b, lane, m] for b in indices)
                                        for m in range(3))
                scores.append(np.mean(hit / (predicted + true - hit)))
            changes.append(scores[1] - scores[0])
    found = bootstrap.change(1)
    assert found['interval'] == pytest.approx(np.percentile(changes, (2.5, 97.5)), abs=1e-12)
    assert found['probability_better'] == np.mean(np.array(changes) > 0)


def test_draws_come_in_pieces_that_bound_the_memory(monkeypatch):
    monkeypatch.setattr('rgbx_seg_ros.eval_compare.MAX_DRAWS', 100)
    strata = np.zeros(30, np.intp)
    pieces = list(draws(strata, 10))
    assert [len(piece) for piece in pieces] == [3, 3, 3, 1]


def correlated(rng, frames, classes=3, pixels=200):
    """Confusion matrices of frames whose difficulty drifts slowly, mean of `right` 0.8."""
    drift = np.empty(frames)
    drift[0] = rng.normal()
    noise = rng.normal(size=frames) * np.sqrt(1 - 0.9**2)
    for n in range(1, frames):
        drift[n] = 0.9 * drift[n - 1] + noise[n]
    return confusion(rng, frames, np.clip(0.8 + 0.1 * drift, 0, 1)[:, None], classes, pixels)


def coverage(length_s):
    truth = float(miou(iou(members(correlated(np.random.default_rng(99), 60000)).sum(0))))
    bag, inside = two_lanes(1000), 0
    for seed in range(100):
        matrices = correlated(np.random.default_rng(seed), 1000)
        result = replace(bag, totals=[totals(matrices)])
        low, high = Bootstrap([result], resamples=300, length_s=length_s).miou(0)
        inside += low <= truth <= high
    return inside / 100


def test_intervals_of_blocks_hold_the_truth_as_often_as_they_say_and_those_of_frames_do_not():
    # Difficulty is forgotten within about a second: 0.9 from one frame to the next, at 10 Hz.
    assert 0.88 <= coverage(4.0) <= 1.0
    assert coverage(0.1) < 0.6


def test_a_true_difference_is_found_with_its_sign():
    found = Bootstrap([two_lanes(300, (0.80, 0.85))]).change(1)
    assert found['miou_change'] > 0 and found['interval'][0] > 0
    assert found['probability_better'] == 1.0
    found = Bootstrap([two_lanes(300, (0.85, 0.80))]).change(1)
    assert found['interval'][1] < 0 and found['probability_better'] == 0.0


def test_identical_bundles_differ_by_exactly_nothing():
    matrices = confusion(np.random.default_rng(0), 100, 0.8)
    result = bag_result([matrices, matrices.copy()])
    found = compare([result], 1, Bootstrap([result]))
    assert found['miou_change'] == 0.0 and found['interval'] == [0.0, 0.0]
    assert found['probability_better'] == 0.5 and found['agreement'] == 1.0
    assert found['regressions'] == [] and found['improvements'] == []
    assert all(row['change'] == 0.0 and row['interval'] == [0.0, 0.0]
               for row in found['per_class'])


@pytest.mark.parametrize('frames', [1, 40])
def test_a_moment_has_a_score_and_no_interval_and_says_why(frames):
    result = two_lanes(frames, (0.7, 0.9))
    bootstrap = Bootstrap([result])
    found = compare([result], 1, bootstrap)
    assert found['miou_change'] > 0 and found['interval'] is None
    assert found['probability_better'] is None and bootstrap.miou(0) is None
    assert 'no interval can be told' in found['caveat']


def test_a_bag_without_labels_has_agreement_alone():
    result = bag_result([np.zeros((20, 3, 3), np.int64)] * 2)
    found = compare([result], 1, Bootstrap([result]))
    assert np.isnan(found['miou_change']) and found['interval'] is None
    assert found['paired_frames'] == 0 and found['agreement'] == 1.0


def test_few_blocks_are_told():
    assert '5 blocks of 1.0 s' in Bootstrap([two_lanes(50)]).about['caveat']
    assert Bootstrap([two_lanes(500)]).about['caveat'] == ''


def test_a_class_that_most_resamples_lack_has_no_interval():
    matrices = confusion(np.random.default_rng(0), 200, 0.8, classes=4)
    matrices[:, 3] = matrices[:, :, 3] = 0
    matrices[7, 3, 3] = 5
    result = bag_result([matrices, matrices])
    bounds = Bootstrap([result]).per_class(0)
    assert bounds[3] == [1.0, 1.0]  # in 63 % of the resamples, and always right
    matrices[7, 3, 3] = 0
    result = bag_result([matrices, matrices])
    assert Bootstrap([result]).per_class(0)[3] is None
    rows = compare([result], 1, Bootstrap([result]))['per_class']
    assert rows[-1]['name'] == CLASSES[3].name and np.isnan(rows[-1]['change'])


def test_interval_needs_half_of_the_resamples():
    assert interval(np.array([1.0, 2.0, np.nan, np.nan])) == pytest.approx([1.025, 1.975])
    assert interval(np.array([1.0, np.nan, np.nan])) is None
    assert interval(np.array([])) is None


def test_regressions_are_different_moments_the_worst_first():
    rng = np.random.default_rng(0)
    base, other = confusion(rng, 100, 0.9), confusion(rng, 100, 0.9)
    other[20:23] = confusion(rng, 3, 0.1)
    other[70] = confusion(rng, 1, 0.4)[0]
    base[50] = confusion(rng, 1, 0.2)[0]
    result = bag_result([base, other])
    found = compare([result], 1, Bootstrap([result]))
    worst = found['regressions'][:2]
    assert 20 <= worst[0]['number'] < 23 and worst[1]['number'] == 70
    assert found['improvements'][0]['number'] == 50
    for moment in worst:
        assert moment['change'] == moment['miou'] - moment['baseline_miou'] < 0


def test_moments_near_each_other_in_one_bag_are_one():
    moments = [{'bag': bag, 'time_s': time_s} for bag, time_s in
               (('a', 1.0), ('a', 1.5), ('b', 1.5), ('a', 2.0), ('a', 0.5))]
    assert apart(moments, 1.0) == [moments[0], moments[2], moments[3]]
    assert apart(moments, 1.0, count=2) == [moments[0], moments[2]]
