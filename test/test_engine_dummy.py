# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The engine that does no work: what it answers, and that nobody gets it unasked."""

import numpy as np
import pytest
from bundles import CLASSES, manifest, write_scene_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.manifest import save_bundle
from rgbx_seg_ros.segmenter import Segmenter


@pytest.fixture
def bundle(tmp_path):
    save_bundle(tmp_path / 'bundle', b'no model', manifest(30, 50))
    return tmp_path / 'bundle'


def test_answer_has_the_network_s_size_all_classes_and_all_confidences(bundle):
    engine, described = open_engine(bundle, 'dummy')
    answers = [engine(np.full((1, 30, 50, 3), value, np.uint8), np.zeros((1, 30, 50, 1), np.uint8))
               for value in (0, 255)]
    label, confidence = answers[0]
    assert label.shape == confidence.shape == (1, described.height, described.width)
    assert label.dtype == confidence.dtype == np.uint8
    assert set(np.unique(label)) == {info.id for info in CLASSES}
    assert (confidence.min(), confidence.max()) == (0, 255)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert engine.info.backend == 'dummy'


def test_it_serves_images_of_any_size_without_a_model(bundle):
    segmenter = Segmenter(*open_engine(bundle, 'dummy'))
    segmenter.warm_up(2)
    result = segmenter(np.zeros((90, 120, 3), np.uint8), np.zeros((64, 80), np.uint8))
    assert result.label.shape == result.confidence.shape == (90, 120)


def test_auto_does_not_take_it_and_a_closed_one_says_so(bundle):
    with pytest.raises(RgbxSegError, match='no backend works on this machine') as error:
        open_engine(bundle, 'auto')
    assert 'dummy' not in str(error.value)
    engine, _ = open_engine(bundle, 'dummy')
    engine.close()
    with pytest.raises(RgbxSegError, match='closed'):
        engine(np.zeros((1, 30, 50, 3), np.uint8), np.zeros((1, 30, 50, 1), np.uint8))


def test_it_embeds_for_a_bundle_of_two_graphs_alone(bundle, tmp_path):
    rgb, aux = np.zeros((1, 48, 64, 3), np.uint8), np.zeros((1, 48, 64, 1), np.uint8)
    engine, _ = open_engine(write_scene_bundle(tmp_path / 'two', scene_width=6), 'dummy')
    scene = engine.embed(rgb, aux)
    assert [(array.shape, array.dtype) for array in scene] == 2 * [((1, 6), np.float32)]
    assert engine(rgb, aux, scene)[0].shape == (1, 48, 64)
    with pytest.raises(RgbxSegError, match='the bundle has no scene.onnx'):
        open_engine(bundle, 'dummy')[0].embed(rgb, aux)
    engine.close()
    with pytest.raises(RgbxSegError, match='closed'):
        engine.embed(rgb, aux)
