# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Temporal consistency on scenes that move in a known way, by day and in the dark."""

import cv2
import numpy as np
import pytest

from rgbx_seg_ros.consistency import MotionTracker, kept

HEIGHT, WIDTH = 240, 320
FRAME_NS = 100_000_000


def scene(seed, height=HEIGHT + 80, width=WIDTH + 80):
    """Return a textured gray picture and regions of 5 ids, larger than a frame."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(height, width)).astype(np.float32)
    picture = sum(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), scale), None, 0, 85,
                                cv2.NORM_MINMAX) for scale in (2, 5, 15))
    field = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 25)
    ids = np.digitize(field, np.quantile(field, (0.2, 0.4, 0.6, 0.8)))
    return picture, ids.astype(np.uint8)


def crop(image, x, y):
    return np.ascontiguousarray(image[40 + y:40 + y + HEIGHT, 40 + x:40 + x + WIDTH])


def camera(gray, rng, noise=2.0):
    """Return what a camera with noise makes of a gray picture, as RGB."""
    seen = gray[..., None] + rng.normal(0, noise, (*gray.shape, 3))
    return np.clip(seen, 0, 255).astype(np.uint8)


def dark(rng):
    return camera(np.full((HEIGHT, WIDTH), 6.0), rng)


def two_frames(move, seed=0, gain=1.0):
    """Return images and regions of one place before and after the view moved by (x, y)."""
    rng = np.random.default_rng(seed)
    picture, ids = scene(seed)
    return ((camera(crop(picture, 0, 0), rng), crop(ids, 0, 0)),
            (camera(crop(picture, *move) * gain, rng), crop(ids, *move)))


def follow(first, second, aux=None, tracker=None, step_ns=FRAME_NS):
    tracker = tracker or MotionTracker()
    assert tracker(first, first if aux is None else aux[0], 5 * FRAME_NS) is None
    return tracker(second, second if aux is None else aux[1], 5 * FRAME_NS + step_ns)


@pytest.mark.parametrize('move', [(0, 0), (12, -5), (-20, 3)])
def test_the_flow_is_the_motion_of_the_view(move):
    (first, _), (second, _) = two_frames(move)
    motion = follow(first, second)
    start, step = motion.step // 2, motion.step
    y, x = np.indices(motion.trusted.shape) * step + start
    found = motion.before - np.stack([x, y], -1)
    trusted = motion.trusted > 0
    assert motion.source == 'rgb' and trusted.mean() > 0.7
    assert np.abs(np.median(found[trusted], 0) - move).max() < 0.5
    came = np.stack([x + move[0], y + move[1]], -1)[trusted]  # places new to the view have no past
    out = (came < -2).any(1) | (came[:, 0] > WIDTH + 1) | (came[:, 1] > HEIGHT + 1)
    assert out.mean() < 0.01


def test_labels_that_move_with_the_scene_are_kept_and_those_that_stand_still_are_not():
    (first, before), (second, label) = two_frames((18, 6))
    motion = follow(first, second)
    assert kept(motion, before, label) > 0.98
    assert kept(motion, before, before) < 0.95


def test_a_region_that_changes_its_label_is_missed_by_its_share():
    (first, before), (second, label) = two_frames((0, 0))
    motion = follow(first, second)
    label = label.copy()
    label[60:180, 100:200] = 9
    trusted = motion.trusted > 0
    start, step = motion.step // 2, motion.step
    changed = (label == 9)[start::step, start::step][:trusted.shape[0], :trusted.shape[1]]
    assert kept(motion, before, label) == pytest.approx(1 - changed[trusted].mean(), abs=0.01)


def test_an_exposure_that_changes_is_no_change_of_the_scene():
    (first, before), (second, label) = two_frames((9, 4), gain=0.6)
    motion = follow(first, second)
    assert motion.source == 'rgb' and kept(motion, before, label) > 0.98


def test_in_the_dark_the_aux_image_tells_the_motion():
    rng = np.random.default_rng(1)
    (first, before), (second, label) = two_frames((15, -6))
    aux = (first[..., 0], second[..., 0])
    motion = follow(dark(rng), dark(rng), aux)
    assert motion.source == 'aux' and kept(motion, before, label) > 0.98


def test_what_told_the_motion_last_is_looked_at_first():
    rng, picture = np.random.default_rng(1), crop(scene(0)[0], 0, 0)
    show = {'lit': lambda: camera(picture, rng), 'dark': lambda: dark(rng)}
    tracker, told = MotionTracker(), []
    for number, both in enumerate([('lit', 'lit'), ('lit', 'lit'), ('dark', 'lit'), ('dark', 'lit'),
                                   ('lit', 'lit'), ('lit', 'lit'), ('lit', 'dark'),
                                   ('lit', 'dark'), ('lit', 'lit'), ('lit', 'lit')]):
        rgb, aux = (show[name]() for name in both)
        motion = tracker(rgb, aux, (number + 1) * FRAME_NS)
        told.append(motion and motion.source)
    assert told == [None, 'rgb', *['aux'] * 4, *['rgb'] * 4]


@pytest.mark.parametrize('frozen', ['rgb', 'aux'])
def test_an_image_that_is_frozen_does_not_stand_for_a_scene_that_moves(frozen):
    (first, before), (second, label) = two_frames((15, -6))
    pairs = {'rgb': ((first, first), (first, second)), 'aux': ((first, first), (second, first))}
    (rgb, aux), (next_rgb, next_aux) = pairs[frozen]
    found = follow(rgb, next_rgb, (aux, next_aux))
    assert found.source != frozen and kept(found, before, label) > 0.98


def test_a_scene_that_does_not_change_at_all_is_followed():
    (first, _), _ = two_frames((0, 0))
    assert follow(first, first).trusted.all()


def test_a_few_lamps_in_the_dark_do_not_vouch_for_the_flow_of_noise_around_them():
    rng = np.random.default_rng(5)
    (first, before), (second, label) = two_frames((15, -6))
    lamps = np.full((HEIGHT + 80, WIDTH + 80), 6.0)
    for x, y in rng.integers(60, 260, (6, 2)):
        lamps[y:y + 7, x:x + 5] = 250
    night = [camera(crop(lamps, *move), rng) for move in ((0, 0), (15, -6))]
    motion = follow(*night, (first[..., 0], second[..., 0]))
    assert motion.source == 'aux' and kept(motion, before, label) > 0.98
    assert follow(*night, [dark(rng)[..., :1] for _ in range(2)]) is None


def test_an_aux_image_of_another_size_tells_the_same():
    rng = np.random.default_rng(1)
    (first, before), (second, label) = two_frames((16, -8))
    aux = [cv2.resize(image, (400, 300)) for image in (first, second)]
    motion = follow(dark(rng), dark(rng), aux)
    assert motion.source == 'aux' and kept(motion, before, label) > 0.98


@pytest.mark.parametrize('level', [0.0, 1.0, 4.0])
def test_where_both_images_show_only_noise_nothing_is_told(level):
    rng = np.random.default_rng(2)
    images = [camera(np.full((HEIGHT, WIDTH), 8.0), rng, level) for _ in range(4)]
    assert follow(*images[:2], [image[..., :1] for image in images[2:]]) is None


def test_a_cut_to_another_scene_tells_nothing():
    (first, _), _ = two_frames((0, 0), seed=3)
    (second, _), _ = two_frames((0, 0), seed=4)
    assert follow(first, second) is None


@pytest.mark.parametrize('step_ns', [0, -FRAME_NS, 500_000_001])
def test_nothing_is_told_over_a_gap_or_a_jump(step_ns):
    (first, _), (second, _) = two_frames((0, 0))
    assert follow(first, second, step_ns=step_ns) is None
    assert follow(first, second, step_ns=500_000_000) is not None


def test_nothing_is_told_after_a_reset_or_a_change_of_size():
    (first, _), (second, _) = two_frames((0, 0))
    tracker = MotionTracker()
    tracker(first, first, FRAME_NS)
    tracker.reset()
    assert tracker(second, second, 2 * FRAME_NS) is None
    assert tracker(second[:-8], second, 3 * FRAME_NS) is None
    assert tracker(first[:-8], second, 4 * FRAME_NS) is not None


@pytest.mark.parametrize('shape, followed', [
    ((1, 1), False), ((11, 13), False), ((31, 40), False), ((30, 300), False), ((64, 64), True),
    ((301, 699), True), ((1000, 257), True)])
def test_images_of_any_size_are_followed_or_left(shape, followed):
    picture = cv2.resize(camera(crop(scene(0)[0], 0, 0), np.random.default_rng(0)), shape[::-1])
    label = np.zeros(shape, np.uint8)
    motion = follow(picture, picture)
    assert (motion is not None) == followed
    assert motion is None or kept(motion, label, label) == 1


def test_the_same_frames_give_the_same_bits_on_any_number_of_threads():
    (first, _), (second, _) = two_frames((14, 3))
    threads, results = cv2.getNumThreads(), []
    try:
        for count in (1, 2, 3, 8):
            cv2.setNumThreads(count)
            motion = follow(first, second)
            results.append(motion.before.tobytes() + motion.trusted.tobytes())
    finally:
        cv2.setNumThreads(threads)
    assert len(set(results)) == 1
