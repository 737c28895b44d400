# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Segmenter and engine on the tiny model whose answer is known."""

from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from bundles import THERMAL, expected, manifest, tiny_onnx, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import EngineInfo, open_engine
from rgbx_seg_ros.manifest import save_bundle
from rgbx_seg_ros.segmenter import Enlarger, Segmenter, resize_to
from rgbx_seg_ros.smoothing import MaskSmoother

INFO = EngineInfo('test', '1', 'cpu', 'fp32')


def blocks(height: int, width: int, scale: int, seed: int, channels: int = 3) -> np.ndarray:
    """Return an image of constant blocks, so that resizing by `scale` loses nothing."""
    small = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return small.repeat(scale, 0).repeat(scale, 1)


def test_the_label_at_camera_size_is_the_networks_label_enlarged_by_nearest(tmp_path):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    rgb, aux = blocks(48, 64, 4, 0), blocks(48, 64, 2, 1)[..., 0]
    result = segmenter(rgb, aux)
    small = expected(rgb[::4, ::4], aux[::2, ::2])
    assert set(np.unique(small)) == {0, 1, 2}
    assert (result.label == small.repeat(4, 0).repeat(4, 1)).all()
    assert (result.confidence == aux[::2, ::2].repeat(4, 0).repeat(4, 1)).all()
    assert 0 < result.engine_ms <= result.total_ms


@pytest.mark.parametrize('size', [(48, 64), (37, 53), (480, 640), (1, 1)])
def test_any_camera_size_gives_a_mask_of_that_size(tmp_path, size):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    result = segmenter(np.zeros((*size, 3), np.uint8), np.zeros((30, 40), np.uint8))
    assert result.label.shape == result.confidence.shape == size


def test_a_result_is_not_overwritten_by_the_next_frame(tmp_path):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    first = segmenter(np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8))
    segmenter(np.full((48, 64, 3), 255, np.uint8), np.full((48, 64), 255, np.uint8))
    assert not first.label.any()


def test_shrinking_averages_and_equal_size_is_no_copy():
    image = np.array([[0, 100], [100, 200]], np.uint8)
    assert resize_to(image, 1, 1).tolist() == [[100]]
    assert resize_to(image, 2, 2) is image


@pytest.mark.parametrize(('height', 'width', 'size'), [(30, 40, (48, 64)), (96, 128, (48, 64)),
                                                       (48, 64, (48, 64)), (50, 70, (48, 64))])
def test_the_engine_sees_what_training_resized_from_any_layout_and_of_every_frame(
        height, width, size):
    seen = []

    def engine(rgb, aux):
        seen.append((rgb.copy(), aux.copy()))
        return np.zeros((1, 48, 64), np.uint8), np.zeros((1, 48, 64), np.uint8)

    engine.info = INFO
    segmenter = Segmenter(engine, manifest())
    rng = np.random.default_rng(3)
    for _ in range(2):
        padded = rng.integers(0, 256, (height, width + 5, 3), np.uint8)
        padded.flags.writeable = False
        rgb, aux = padded[:, :width], padded[:, :width, 1]
        segmenter(rgb, aux[..., None])
        got_rgb, got_aux = seen.pop()
        assert (got_rgb[0] == resize_to(rgb.copy(), *size)).all()
        assert (got_aux[0, ..., 0] == resize_to(aux.copy(), *size)).all()


def test_enlarging_equals_opencvs_exact_nearest_at_any_size():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width, tall, wide = rng.integers(1, 120, 4).tolist()
        if rng.random() < 0.3:
            tall, wide = height * int(rng.integers(1, 6)), width * int(rng.integers(1, 6))
        array = rng.integers(0, 256, (height, width), np.uint8)
        exact = cv2.resize(array, (wide, tall), interpolation=cv2.INTER_NEAREST_EXACT)
        assert (Enlarger((height, width), (tall, wide))(array) == exact).all()


@pytest.mark.parametrize('min_confidence', [0.0, 0.2, 0.5, 0.6, 1.0])
def test_pixels_below_the_threshold_are_unlabeled_and_keep_their_confidence(
        tmp_path, min_confidence):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    rgb = blocks(48, 64, 2, 0)
    aux = np.arange(48 * 64).reshape(48, 64).astype(np.uint8)
    result = segmenter(rgb, aux, min_confidence)
    small = expected(rgb[::2, ::2], aux)
    small[aux / 255 < min_confidence] = 255
    assert (result.label[::2, ::2] == small).all()
    assert (result.confidence[::2, ::2] == aux).all()
    assert (segmenter(rgb, aux).label[::2, ::2] == expected(rgb[::2, ::2], aux)).all()


def test_the_threshold_holds_for_the_smoothed_confidence_and_leaves_the_smoother_alone():
    frames = iter([(1, 200), (2, 100), (2, 90)])

    def engine(rgb, aux):
        label, confidence = next(frames)
        return np.full((1, 48, 64), label, np.uint8), np.full((1, 48, 64), confidence, np.uint8)

    engine.info = INFO
    segmenter, smoother = Segmenter(engine, manifest()), MaskSmoother(2.55)  # 100 levels a second
    rgb, aux = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
    results = [segmenter(rgb, aux, 0.6, smoother, 10**18 + second * 10**9)
               for second in range(3)]
    assert [int(r.confidence.max()) for r in results] == [200, 100, 90]
    assert [int(r.label.max()) for r in results] == [1, 255, 255]
    assert results[0].label.max() == 1  # its array is its own
    assert (smoother(results[0].label * 0, results[0].confidence * 0, 10**18 + 2 * 10**9)[0]
            == 2).all()


@pytest.mark.parametrize(('rgb', 'aux', 'says'), [
    (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), 'rgb is uint8'),
    (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), 'rgb is float32'),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), 'aux is uint16'),
    (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8), '1 channels'),
])
def test_images_of_another_kind_are_refused(tmp_path, rgb, aux, says):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    with pytest.raises(RgbxSegError, match=says):
        segmenter(rgb, aux)


def test_a_model_that_breaks_the_contract_is_refused_with_the_tensor_named(tmp_path):
    save_bundle(tmp_path / 'size', tiny_onnx(32, 64), manifest(48, 64))
    with pytest.raises(RgbxSegError, match=r'tensor "rgb".*\(1, 32, 64, 3\).*\(1, 48, 64, 3\)'):
        open_engine(tmp_path / 'size', 'onnxruntime')
    model = onnx.load_from_string(tiny_onnx())
    model.graph.output[0].name = model.graph.node[-2].output[0] = 'classes'
    save_bundle(tmp_path / 'name', model.SerializeToString(), manifest())
    with pytest.raises(RgbxSegError, match='no tensor "label"'):
        open_engine(tmp_path / 'name', 'onnxruntime')


def test_a_model_with_a_further_input_is_refused(tmp_path):
    model = onnx.load_from_string(tiny_onnx())
    model.graph.input.append(onnx.helper.make_tensor_value_info('gain', 1, [1]))
    save_bundle(tmp_path / 'b', model.SerializeToString(), manifest())
    with pytest.raises(RgbxSegError, match='further input gain'):
        open_engine(tmp_path / 'b', 'onnxruntime')


def test_a_file_that_is_no_model_and_an_unknown_backend_are_named(tmp_path):
    save_bundle(tmp_path / 'b', b'no model', manifest())
    with pytest.raises(RgbxSegError, match='onnxruntime .* cannot load it'):
        open_engine(tmp_path / 'b', 'onnxruntime')
    with pytest.raises(RgbxSegError, match='no backend works on this machine: .*onnxruntime:'):
        open_engine(tmp_path / 'b')
    with pytest.raises(RgbxSegError, match='"tensorflow" is unknown; expected auto, tensorrt'):
        open_engine(tmp_path / 'b', 'tensorflow')


def test_a_closed_engine_says_so(tmp_path):
    engine, _ = open_engine(write_tiny_bundle(tmp_path / 'b', aux=THERMAL))
    engine.close()
    with pytest.raises(RgbxSegError, match='closed'):
        engine(np.zeros((1, 48, 64, 3), np.uint8), np.zeros((1, 48, 64, 1), np.uint8))


def test_an_engine_of_a_camera_s_size_gets_its_images_as_they_are_and_others_resized():
    seen = []

    def engine(rgb, aux):
        seen.append((rgb, aux))
        return rgb[..., 0], rgb[..., 1]

    engine.info = replace(INFO, rgb_size=(96, 128), aux_size=(60, 80))
    segmenter = Segmenter(engine, manifest())  # whose network has 48x64
    rgb, aux = np.random.default_rng(1).integers(0, 256, (2, 96, 128, 3), np.uint8)
    aux = aux[:60, :80, :1].copy()
    result = segmenter(rgb, aux)
    assert np.shares_memory(seen[0][0], rgb) and np.shares_memory(seen[0][1], aux)
    assert (result.label == rgb[..., 0]).all() and (result.confidence == rgb[..., 1]).all()
    result = segmenter(np.full((192, 256, 3), 7, np.uint8), np.full((120, 160), 9, np.uint8))
    assert [tensor.shape for tensor in seen[1]] == [(1, 96, 128, 3), (1, 60, 80, 1)]
    assert result.label.shape == (192, 256) and (result.label == 7).all()
