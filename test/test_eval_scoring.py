# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The numbers of a frame and of a bag against counts by plain NumPy."""

import math

import cv2
import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_frames import BagPair, LaneResult
from rgbx_seg_ros.eval_result import FrameRecord
from rgbx_seg_ros.eval_scoring import Scorer, Shared
from rgbx_seg_ros.metrics_boundary import BoundaryIou
from rgbx_seg_ros.metrics_calibration import entropy_bound

N, SHAPE = 4, (66, 90)
START_NS, FRAME_NS = 7_000_000_000, 100_000_000


def blobs(rng, ids):
    field = cv2.GaussianBlur(rng.normal(size=SHAPE).astype(np.float32), (0, 0), 4)
    edges = np.quantile(field, np.arange(1, len(ids)) / len(ids))
    return np.asarray(ids, np.uint8)[np.digitize(field, edges)]


def frame(number, labeled=True, ablated=False, **changes):
    """Return pair `number` of a still, textured scene, and the results of two bundles on it."""
    still, rng = np.random.default_rng(0), np.random.default_rng(number + 1)
    rgb, aux = (still.integers(0, 256, (*SHAPE, c)).astype(np.uint8) for c in (3, 1))
    target = blobs(rng, [0, 1, 3, 255]) if labeled else None
    pair = BagPair(number, rgb, aux[..., 0], 'mono8', None, target, START_NS + number * FRAME_NS,
                   'camera', START_NS + number * FRAME_NS, START_NS + number * FRAME_NS + 5,
                   START_NS, 2_500_000, 'paired', 1.5)
    lanes = tuple(LaneResult(
        blobs(rng, [0, 1, 3, 255]), rng.integers(60, 256, SHAPE).astype(np.uint8), rgb, aux, 0.1,
        0.2, 0.3, 0.4, blobs(rng, [0, 1, 3]) if ablated else None) for _ in range(2))
    return pair._replace(**changes), lanes


def score(frames, shared=None):
    """Return the records and the totals of both bundles."""
    shared = shared or [Shared()] * 2
    scorers = [Scorer(N, one) for one in shared]
    records = [[scorer.add(pair, lane, lanes[0], name, START_NS) for scorer, lane, name in
                zip(scorers, lanes, 'ab', strict=True)] for pair, lanes in frames]
    return records, [scorer.totals() for scorer in scorers]


def confusion(label, target):
    matrix = np.zeros((256, 256), np.int64)
    np.add.at(matrix, (target, label), 1)
    return matrix


def same(one, other):
    return all(a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
               for a, b in zip(one, other, strict=True))


def test_a_record_holds_what_plain_numpy_counts():
    pair, lanes = frame(3, ablated=True)
    record = score([(pair, lanes)])[0][0][1]
    label, known = lanes[1].label, pair.target != 255
    right = known & (label == pair.target)
    iou = [(right & (label == c)).sum() / (known & ((label == c) | (pair.target == c))).sum()
           for c in (0, 1, 3)]
    boundary = BoundaryIou(N)
    boundary.update(label, pair.target)
    aux = np.sort(lanes[1].aux, None)
    low, high = (float(aux[math.ceil(share * aux.size) - 1]) for share in (0.05, 0.95))
    luma = pair.rgb @ np.array([0.299, 0.587, 0.114])
    assert record.brightness == pytest.approx(luma.mean(), abs=0.05)  # each pixel is rounded
    expected = FrameRecord(
        'b', 3, pair.stamp_ns, pair.aux_ns, 0.3, 'paired', 2.5, record.brightness,
        high - low, lanes[1].confidence.mean() / 255, entropy_bound(N)[lanes[1].confidence].mean(),
        known.sum(), right.sum() / known.sum(), np.mean(iou), boundary.miou(), math.nan,
        (label != lanes[1].without_aux).mean(), (label == lanes[0].label).mean(),
        1.5, 0.1, 0.2, 0.3, 0.4)
    assert record._fields == expected._fields
    for name, found, value in zip(record._fields, record, expected, strict=True):
        assert found == (value if isinstance(value, str) else pytest.approx(value, nan_ok=True)
                         ), name
    assert all(type(value) in (str, int, float) for value in record)


def test_totals_are_the_sums_of_the_frames():
    frames = [frame(number, labeled=number != 2, ablated=number in (0, 2, 3))
              for number in range(5)]
    for lane, totals in enumerate(score(frames)[1]):
        whole, with_aux, without_aux = (np.zeros((256, 256), np.int64) for _ in range(3))
        for number, (pair, lanes) in enumerate(frames):
            result = lanes[lane]
            label = result.label
            assert (totals.fractions[number] == np.bincount(label.ravel(), None, 256)[:N]).all()
            if pair.target is None:
                assert not totals.counts[number].any()
                continue
            one = confusion(label, pair.target)
            assert (totals.counts[number] == (
                np.diag(one)[:N], one[:N, :N].sum(0), one[:N].sum(1))).all()
            whole += one
            if result.without_aux is not None:
                with_aux += one
                without_aux += confusion(result.without_aux, pair.target)
        assert (totals.confusion == whole[:N, :N]).all()
        assert (totals.abstained == whole[:N, 255]).all()
        for found, expected in ((totals.with_aux, with_aux), (totals.without_aux, without_aux)):
            assert (found == expected[:N, [*range(N), 255]]).all()
        assert (totals.calibration.sum(0) == (
            whole[:N, :N].sum() - np.diag(whole)[:N].sum(), np.diag(whole)[:N].sum())).all()
        assert all(array.dtype == np.int64 for array in vars(totals).values())


def test_boundary_and_calibration_of_a_bag_are_those_of_its_frames_together():
    frames = [frame(number) for number in range(3)]
    alone = [score([one])[1][0] for one in frames]
    together = score(frames)[1][0]
    for name in ('boundary', 'calibration', 'confusion', 'abstained'):
        assert (sum(getattr(one, name) for one in alone) == getattr(together, name)).all(), name
    added = alone[0] + alone[1] + alone[2]
    assert (added.counts == together.counts).all() and added.fractions.shape == (3, N)


def test_two_bundles_score_alike_together_and_apart():
    frames = [frame(number, ablated=True) for number in range(4)]
    together, apart = score(frames), score(frames, [Shared(), Shared()])
    for one, other in zip(together[0], apart[0], strict=True):
        assert all(map(same, one, other))
    for one, other in zip(together[1], apart[1], strict=True):
        assert all((vars(one)[name] == vars(other)[name]).all() for name in vars(one))


def test_a_still_scene_keeps_the_share_of_labels_that_did_not_change():
    frames = [frame(number) for number in range(2)]
    records = score(frames)[0]
    for lane in range(2):
        before, label = (frames[number][1][lane].label for number in range(2))
        assert math.isnan(records[0][lane].consistency)
        assert records[1][lane].consistency == pytest.approx((before == label).mean(), abs=0.03)


def test_frames_of_a_lost_camera_are_not_compared_with_their_neighbors():
    frames = [frame(0), frame(1, state='hold_aux'), frame(2), frame(3)]
    told = [not math.isnan(both[0].consistency) for both in score(frames)[0]]
    assert told == [False, False, False, True]


def test_a_lost_camera_has_no_brightness_no_contrast_and_no_skew():
    without_rgb, without_aux = (both[0] for both in score([
        frame(0, rgb=None, state='aux_only'), frame(1, aux=None, state='rgb_only')])[0])
    assert math.isnan(without_rgb.brightness) and without_rgb.aux_contrast > 0
    assert math.isnan(without_aux.aux_contrast) and without_aux.brightness > 0
    assert math.isnan(without_rgb.skew_ms) and math.isnan(without_aux.skew_ms)


def test_without_a_target_only_what_needs_one_is_missing():
    pair, lanes = frame(0, labeled=False, ablated=True)
    record = score([(pair, lanes)])[0][0][1]
    missing = {name for name, value in zip(record._fields, record, strict=True)
               if isinstance(value, float) and math.isnan(value)}
    assert missing == {'accuracy', 'miou', 'boundary_miou', 'consistency'}
    assert record.labeled == 0
    assert record.confidence == pytest.approx(lanes[1].confidence.mean() / 255)


def test_the_first_bundle_does_not_agree_with_itself_but_has_no_agreement():
    first, second = score([frame(0)])[0][0]
    assert math.isnan(first.agreement) and 0 < second.agreement < 1


def test_a_target_without_any_label_scores_nothing():
    pair, lanes = frame(0)
    record = score([(pair._replace(target=np.full(SHAPE, 255, np.uint8)), lanes)])[0][0][0]
    assert record.labeled == 0 and math.isnan(record.miou) and math.isnan(record.boundary_miou)


def test_no_frame_at_all_gives_empty_totals():
    totals = Scorer(N).totals()
    assert totals.counts.shape == (0, 3, N) and totals.fractions.shape == (0, N)


@pytest.mark.parametrize('labeled', [True, False])
def test_an_id_that_is_no_class_is_refused(labeled):
    pair, lanes = frame(0, labeled=labeled)
    strange = lanes[0]._replace(label=np.full(SHAPE, N, np.uint8))
    with pytest.raises(RgbxSegError, match=f'predicted label has the id {N}'):
        score([(pair, (strange, lanes[1]))])
