# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The running score: joining by stamp, bounds, jumps of the clock, and labels of no use."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros import live_score
from rgbx_seg_ros.health import Facts, Health, Level
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.live_score import LiveScore
from rgbx_seg_ros.statuses import Score, scoring

SECOND = 1_000_000_000
SIZE = (48, 64)


@pytest.fixture
def running():
    """A score and the sentences it told, by cause."""
    told = {}
    score = LiveScore(CLASSES, told.__setitem__)
    yield SimpleNamespace(add_label=lambda stamp, label: score.add_label(
        stamp, lambda: label, label.nbytes), score=score, told=told)
    score.close()


def ids(seed, high=3, size=SIZE, unlabeled=True):
    """Return random class ids, a fifth of them 255."""
    numbers = np.random.default_rng(seed)
    label = numbers.integers(0, high, size, np.uint8)
    label[numbers.random(size) < 0.2 * unlabeled] = 255
    return label


def by_hand(pairs, n=3):
    """Return IoU by class of (mask, label) pairs from sets of pixels, over all of them."""
    mask, label = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    mask, label = mask[label != 255], label[label != 255]
    return [np.sum((mask == k) & (label == k)) / np.sum((mask == k) | (label == k))
            for k in range(n)]


def result(running):
    running.score.drain()
    return running.score.score


@pytest.mark.parametrize('label_first', [True, False])
def test_masks_meet_their_labels_whichever_comes_first(running, label_first):
    pairs = [(ids(2 * i), ids(2 * i + 1)) for i in range(3)]
    for i, (mask, label) in enumerate(pairs):
        calls = [lambda i=i, x=label: running.add_label(i * SECOND, x),
                 lambda i=i, x=mask: running.score.add_mask(i * SECOND, x)]
        for call in calls if label_first else calls[::-1]:
            call()
        running.score.drain()
    found, expected = result(running), by_hand(pairs)
    assert list(found.iou) == [info.name for info in CLASSES]
    np.testing.assert_allclose(list(found.iou.values()), expected)
    assert found.miou == found.miou_strict == pytest.approx(np.mean(expected))
    assert (found.labels, found.scored, found.without_mask, found.without_label) == (3, 3, 0, 0)
    assert not running.told


def test_absent_classes_count_zero_in_the_strict_mean_alone(running):
    mask, label = ids(1, 2), ids(2, 2)
    running.add_label(1, label)
    running.score.add_mask(1, mask)
    found, expected = result(running), by_hand([(mask, label)], 2)
    assert found.miou == pytest.approx(np.mean(expected))
    assert found.miou_strict == pytest.approx(np.sum(expected) / 3)
    assert math.isnan(found.iou['person'])


def test_nothing_scored_and_nothing_labeled_are_no_score(running):
    assert math.isnan(running.score.score.miou) and math.isnan(running.score.score.miou_strict)
    running.add_label(1, np.full(SIZE, 255, np.uint8))
    running.score.add_mask(1, np.full(SIZE, 255, np.uint8))
    found = result(running)
    assert found.scored == 1 and math.isnan(found.miou) and math.isnan(found.miou_strict)


def test_neighboring_stamps_do_not_meet(running):
    running.add_label(SECOND, ids(1))
    running.score.add_mask(SECOND + 1, ids(2))
    assert result(running).scored == 0


def test_a_label_that_comes_twice_is_scored_once(running):
    for _ in range(2):
        running.add_label(SECOND, ids(1))
    running.score.add_mask(SECOND, ids(2))
    running.add_label(SECOND, ids(1))
    found = result(running)
    assert (found.labels, found.scored, found.without_mask) == (3, 1, 1)


def test_buffers_are_bounded_in_number_and_the_oldest_go(running):
    for i in range(live_score.KEPT + 5):
        running.add_label(i, ids(0))
    assert result(running).without_mask == 5
    for stamp in (4, 5):  # given up; the oldest one that is left
        running.score.add_mask(stamp, ids(0))
        running.score.drain()
    assert result(running).scored == 1
    for i in range(1000, 1000 + live_score.KEPT + 7):
        running.score.add_mask(i, ids(0))
    assert result(running).without_label == 8


def test_buffers_are_bounded_in_bytes(running, monkeypatch):
    monkeypatch.setattr(live_score, 'KEPT_BYTES', 3 * ids(0).nbytes)
    for i in range(10):
        running.score.add_mask(i, ids(0))
    assert result(running).without_label == 7
    running.add_label(20, np.zeros((100, 100), np.uint8))  # larger than all that may wait
    assert result(running).without_mask == 1


def test_a_looped_bag_scores_its_second_lap_too(running):
    laps = 3
    for _ in range(laps):
        for i in range(4):  # 2 s apart: the lap is over before the bounds are
            running.add_label(i * 2 * SECOND + 1, ids(i))
            if i < 3:  # the lap ends with a label that waits
                running.score.add_mask(i * 2 * SECOND + 1, ids(i))
                running.score.drain()
    found = result(running)
    assert (found.scored, found.without_mask) == (3 * laps, laps - 1)


def test_a_mask_that_is_late_for_its_lap_does_not_cost_the_next_lap_a_label(running):
    running.score.add_mask(100 * SECOND, ids(1))
    running.add_label(101 * SECOND, ids(1))
    running.add_label(SECOND, ids(3))  # the new lap's first label is here
    running.score.add_mask(101 * SECOND, ids(2))  # the old lap's last mask was in work
    running.score.add_mask(SECOND, ids(4))
    found = result(running)
    assert found.scored == 1
    np.testing.assert_allclose(list(found.iou.values()), by_hand([(ids(4), ids(3))]))


def test_labels_that_are_ahead_into_the_next_lap_wait_for_their_masks(running):
    for _ in range(2):
        for i in range(5):
            running.add_label(i * 2 * SECOND, ids(i))
        for i in range(5):
            running.score.add_mask(i * 2 * SECOND, ids(i))
            running.score.drain()
    assert (result(running).scored, result(running).miou) == (10, 1.0)


@pytest.mark.parametrize(('label', 'cause', 'words'), [
    (np.zeros((24, 32), np.uint8), 'size', 'a label is 32x24; expected 64x48 as the RGB image'),
    (np.full(SIZE, 7, np.uint8), 'content', 'target has the id 7; expected 0..2 or 255'),
])
def test_a_label_of_no_use_is_refused_in_one_sentence_and_leaves_the_score(running, label, cause,
                                                                           words):
    running.add_label(1, ids(1))
    running.score.add_mask(1, ids(1))
    running.score.drain()
    running.add_label(2, label)
    running.score.add_mask(2, ids(1))
    found = result(running)
    assert found.refused == {cause: 1}
    assert (found.scored, found.miou) == (1, 1.0)
    assert words in found.fault
    assert running.told[f'label {cause}'] == f'{found.fault} More of this kind are only counted.'
    running.add_label(3, ids(1))
    running.score.add_mask(3, ids(1))
    found = result(running)
    assert (found.scored, found.fault, found.miou) == (2, '', 1.0)


def test_a_wrong_id_in_the_last_row_leaves_nothing_of_the_label(running):
    label = ids(1)
    label[-1, -1] = 9
    running.add_label(1, label)
    running.score.add_mask(1, ids(2))
    assert (result(running).scored, result(running).refused) == (0, {'content': 1})
    running.add_label(2, ids(3))
    running.score.add_mask(2, ids(4))
    np.testing.assert_allclose(list(result(running).iou.values()), by_hand([(ids(4), ids(3))]))


def test_what_cannot_be_read_does_not_end_the_thread(running):
    def broken():
        raise RuntimeError('no memory')

    running.score.add_label(1, broken, 1)
    running.score.add_mask(1, ids(1))
    running.score.refuse(ImageError('encoding', 'the label is a JPEG.'))
    running.add_label(2, ids(1))
    running.score.add_mask(2, ids(1))
    found = result(running)
    assert found.refused == {'decode': 1, 'encoding': 1} and found.scored == 1
    assert found.labels == 3 and running.told['label encoding'].startswith('the label is a JPEG. ')


def test_no_one_waits_for_a_label_that_is_slow_to_read(running):
    go = threading.Event()

    def slow():
        go.wait(10)
        return ids(1)

    for i in range(live_score.QUEUE + 3):
        running.score.add_label(i, slow, 1)
        running.score.add_mask(i, ids(1))  # returns while the first one is being read
    go.set()
    found = result(running)
    assert (found.scored, found.skipped) == (live_score.QUEUE, 3)


def test_after_the_end_nothing_is_counted_and_no_thread_is_left(running):
    running.add_label(1, ids(1))
    running.score.close()
    running.score.add_mask(1, ids(1))
    assert running.score.score.scored == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('score')]


def test_the_status_tells_the_score_by_class_and_what_is_wrong_with_labels():
    assert scoring(None) is None
    assert scoring(Score())[1:3] == (Level.WARN, 'no labels have come')
    status = scoring(Score(labels=5, scored=3, miou=0.5, miou_strict=0.25, accuracy=0.75,
                           iou={'car': 0.5, 'person': float('nan')}, refused={'ids': 2}))
    assert status[:3] == ('scoring', Level.OK, 'mIoU 0.500 over 3 masks')
    expected = {'mIoU': '0.500', 'mIoU strict': '0.250', 'IoU car': '0.500', 'IoU person': 'nan',
                'labels refused: ids': '2', 'masks scored': '3', 'labels received': '5'}
    assert expected.items() <= status.values.items()
    assert scoring(Score(labels=5, fault='a label is a JPEG.'))[1:3] == (Level.WARN,
                                                                        'a label is a JPEG')
    lost = scoring(Score(labels=99, without_mask=30, without_label=30))
    assert lost.level == Level.WARN and 'bit for bit' in lost.message


def test_scoring_is_a_status_of_its_own_only_where_it_is_on():
    def concerns(score):
        return [s.concern for s in Health(0, name='front').statuses(1, {}, Facts(score=score))]

    assert 'front scoring' in concerns(Score())
    assert not [concern for concern in concerns(None) if 'scoring' in concern]
