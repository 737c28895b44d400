# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The smoother against a plain loop over pixels, its lag, and what it does to flicker."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.smoothing import MaskSmoother

S = 1_000_000_000
START = 1_700_000_000 * S


def constant(value: int, shape: tuple[int, int] = (4, 6)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.05, 0.3, 1.0, 10.0)))
def test_each_pixel_follows_the_rule_of_the_docstring(seed, time_constant_s):
    rng = np.random.default_rng(seed)
    smoother, stamp = MaskSmoother(time_constant_s), START
    held: list[tuple[int, float]] = []
    for _ in range(20):
        label = rng.integers(0, 3, (3, 4), np.uint8)
        confidence = rng.integers(0, 256, (3, 4), np.uint8)
        before = stamp
        stamp += int(rng.uniform(0, 0.2) * S)
        # Levels are counted from the epoch, in whole numbers as a clock counts seconds.
        faded = (stamp * 255 // round(time_constant_s * 1e9)
                 - before * 255 // round(time_constant_s * 1e9))
        new = list(zip(label.ravel().tolist(), confidence.ravel().tolist(), strict=True))
        if not held or faded >= 255:
            held = new
        else:
            held = [(ours[0], max(ours[1] - faded, 0)) for ours in held]
            held = [theirs if theirs[1] > ours[1] else ours
                    for ours, theirs in zip(held, new, strict=True)]
        got_label, got_confidence = smoother(label, confidence, stamp)
        assert got_label.ravel().tolist() == [pixel[0] for pixel in held]
        assert got_confidence.ravel().tolist() == [pixel[1] for pixel in held]


@pytest.mark.parametrize('rate', [9, 30, 100])
@pytest.mark.parametrize('time_constant_s', [0.2, 1.0, 5.0])
@pytest.mark.parametrize(('before', 'after'), [(255, 1), (250, 128), (200, 200), (128, 200)])
def test_a_change_shows_within_the_stated_lag_at_any_rate(rate, time_constant_s, before, after):
    smoother = MaskSmoother(time_constant_s)
    for i in range(rate):
        smoother(constant(1), constant(before), START + i * S // rate)
    seen_ns = START + (rate - 1) * S // rate
    lag_s = max(0.0, time_constant_s * (before - after + 1) / 255)
    for i in range(rate, 20 * rate):
        stamp = START + i * S // rate
        label, _ = smoother(constant(2), constant(after), stamp)
        since_s = (stamp - seen_ns) / S
        if since_s >= lag_s:
            assert (label == 2).all()
            break
        # Nor does it come much sooner: a level of 255 is the rounding.
        assert (label == 1).all() or since_s > lag_s - time_constant_s / 255
    else:
        pytest.fail('never switched')


def flips(labels: list[np.ndarray]) -> int:
    return sum(int((a != b).sum()) for a, b in zip(labels, labels[1:], strict=False))


@pytest.mark.parametrize(('time_constant_s', 'factor'), [(0.5, 2.4), (1.0, 4), (3.0, 12)])
def test_flicker_of_a_noisy_border_falls_by_the_stated_factor(time_constant_s, factor):
    rng = np.random.default_rng(1)
    border = np.linspace(-3, 3, 60)[None].repeat(40, 0)  # logit of class 1 against class 0
    smoother, raw, smooth = MaskSmoother(time_constant_s), [], []
    for i in range(90):
        probability = 1 / (1 + np.exp(-(border + rng.normal(0, 0.7, border.shape))))
        label = (probability > 0.5).astype(np.uint8)
        confidence = np.round(255 * np.maximum(probability, 1 - probability)).astype(np.uint8)
        raw.append(label)
        smooth.append(smoother(label, confidence, START + i * S // 30)[0].copy())
    assert flips(raw[10:]) >= factor * flips(smooth[10:]) > 0


def test_the_trail_of_a_moving_object_is_no_longer_than_the_lag():
    time_constant_s, speed, rate = 0.5, 120, 30  # pixels and frames a second
    smoother = MaskSmoother(time_constant_s)
    columns = np.arange(200)[None].repeat(3, 0)
    lag_s = time_constant_s * (240 - 200 + 1) / 255
    for i in range(30):
        front = 60 + i * speed // rate
        inside = (columns >= front - 40) & (columns < front)
        confidence = np.where(inside, 240, 200).astype(np.uint8)
        label, _ = smoother(inside.astype(np.uint8), confidence, START + i * S // rate)
        assert label[inside].all()  # the surer object covers what is before it at once
        trail = int((label.astype(bool) & ~inside).sum(1).max())
        assert trail <= (lag_s + 1 / rate) * speed + 1
    assert trail > 0


@pytest.mark.parametrize('step_ns', [-1 * S, 1 * S, -START + 1])
def test_a_jump_back_and_a_gap_of_a_time_constant_begin_anew(step_ns):
    smoother = MaskSmoother(1.0)
    smoother(constant(1), constant(250), START)
    label, confidence = smoother(constant(2), constant(0), START + step_ns)
    assert (label == 2).all() and (confidence == 0).all()


def test_a_change_of_size_and_a_reset_begin_anew():
    smoother = MaskSmoother(1.0)
    smoother(constant(1), constant(250), START)
    assert (smoother(constant(2, (5, 5)), constant(9, (5, 5)), START + 1)[0] == 2).all()
    smoother.reset()
    assert (smoother(constant(3, (5, 5)), constant(1, (5, 5)), START + 2)[0] == 3).all()


def test_it_writes_to_no_array_that_it_was_given():
    smoother = MaskSmoother(1.0)
    given = [(constant(i), constant(250 - i)) for i in range(3)]
    for i, (label, confidence) in enumerate(given):
        smoother(label, confidence, START + i)
    assert [(int(a.max()), int(b.max())) for a, b in given] == [(0, 250), (1, 249), (2, 248)]


def test_zero_passes_the_arrays_through():
    label, confidence = constant(1), constant(2)
    passed = MaskSmoother(0)(label, confidence, START)
    assert passed[0] is label and passed[1] is confidence


@pytest.mark.parametrize('wrong', [-0.1, float('nan'), float('inf'), 61])
def test_impossible_times_are_refused(wrong):
    with pytest.raises(RgbxSegError, match='mask.smoothing'):
        MaskSmoother(wrong)
