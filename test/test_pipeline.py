# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The steps between two decoded images and a mask, against the steps done by hand."""

import numpy as np
import pytest
import yaml
from bundles import expected, write_tiny_bundle

from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.pipeline import Pipeline, PipelineConfig
from rgbx_seg_ros.registration import RegistrationConfig
from rgbx_seg_ros.segmenter import Segmenter, resize_to
from rgbx_seg_ros.thermal import to_uint8

HEIGHT, WIDTH = 48, 64  # of the tiny network; the images have it too, unless a test says otherwise


@pytest.fixture(scope='module')
def segmenter(tmp_path_factory):
    engine, manifest = open_engine(write_tiny_bundle(tmp_path_factory.mktemp('b') / 'bundle'))
    return Segmenter(engine, manifest)


def pair(seed, height=HEIGHT, width=WIDTH):
    numbers = np.random.default_rng(seed)
    return (numbers.integers(0, 256, (height, width, 3), np.uint8),
            numbers.integers(26315, 32315, (height, width), np.uint16))


def test_by_default_it_is_training_s_normalization_and_the_segmenter(segmenter):
    run = Pipeline(segmenter)
    for seed, size in enumerate([(HEIGHT, WIDTH), (90, 120), (77, 101)]):
        rgb, raw = pair(seed, *size)
        aux = to_uint8(raw, segmenter.manifest.aux)
        done = run(rgb, raw, 'mono16', seed)
        np.testing.assert_array_equal(done.aux, aux)
        np.testing.assert_array_equal(done.result.label, segmenter(rgb, aux).label)
        assert done.rgb is rgb and done.thermal_ms > 0


def test_lost_aux_camera_is_a_black_image_for_the_network(segmenter):
    rgb, _ = pair(1)
    done = Pipeline(segmenter)(rgb, None, '', 1)
    np.testing.assert_array_equal(done.result.label, expected(rgb, np.zeros_like(rgb)))
    assert not done.aux.any() and not done.result.confidence.any()


def test_lost_rgb_camera_is_a_black_image_of_the_last_size(segmenter):
    run = Pipeline(segmenter)
    rgb, raw = pair(1, 2 * HEIGHT, 2 * WIDTH)
    assert run(None, raw, 'mono16', 1).result.label.shape == (HEIGHT, WIDTH)  # none came yet
    run(rgb, raw, 'mono16', 2)
    done = run(None, raw, 'mono16', 3)
    assert done.rgb.shape == rgb.shape and not done.rgb.any()
    small = resize_to(to_uint8(raw, segmenter.manifest.aux), HEIGHT, WIDTH)
    np.testing.assert_array_equal(done.result.label[::2, ::2],
                                  expected(np.zeros((HEIGHT, WIDTH, 3)), small))


def test_registered_aux_is_moved_as_the_homography_says(segmenter, tmp_path):
    file = tmp_path / 'h.yaml'
    file.write_text(yaml.safe_dump({
        'format': 1, 'rgb_size': [WIDTH, HEIGHT], 'aux_size': [WIDTH, HEIGHT],
        'homography': [1, 0, 8, 0, 1, -4, 0, 0, 1]}))
    run = Pipeline(segmenter, PipelineConfig(registration=RegistrationConfig('homography', file)))
    rgb, raw = pair(1)
    done = run(rgb, raw, 'mono16', 1)
    moved = np.zeros((HEIGHT, WIDTH), np.uint8)
    moved[:-4, 8:] = to_uint8(raw, segmenter.manifest.aux)[4:, :-8]
    np.testing.assert_array_equal(done.aux, moved)
    np.testing.assert_array_equal(done.result.label, expected(rgb, moved))


def test_unsure_pixels_become_unlabeled(segmenter):
    rgb, raw = pair(1)
    done = Pipeline(segmenter)(rgb, raw, 'mono16', 1, None, 0.5)
    unsure = to_uint8(raw, segmenter.manifest.aux) < 128  # the tiny network's confidence is its aux
    np.testing.assert_array_equal(done.result.label == 255, unsure)


def test_smoothed_mask_remembers_its_pair_of_cameras_alone_and_until_time_runs_back(segmenter):
    smoothed, other = Pipeline(segmenter), Pipeline(segmenter)
    (rgb, _), (changed, _) = pair(1), pair(2)
    sure = np.full((HEIGHT, WIDTH), 32000, np.uint16)
    less = np.full((HEIGHT, WIDTH), 30000, np.uint16)  # still warm: the same class

    def label(run, image, raw, stamp_ns):
        return run(image, raw, 'mono16', stamp_ns, None, 0.0, 1.0).result.label

    before = label(smoothed, rgb, sure, 1_000_000_000)
    np.testing.assert_array_equal(label(smoothed, changed, less, 1_010_000_000), before)
    assert (label(other, changed, less, 1_010_000_000) != before).any()
    assert (label(smoothed, changed, less, 900_000_000) != before).any()
