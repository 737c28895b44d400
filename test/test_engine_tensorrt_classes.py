# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Classes that are exchanged while TensorRT runs, on a GPU that is not there; see fake_tensorrt.py.

The oracle is ONNX Runtime on the same bundle.
"""

import numpy as np
import pytest
from bundles import tiny_bank, write_tiny_bundle
from fake_gpu import fake_gpu
from fake_tensorrt import GENERATIONS
from tensorrt_rig import assert_equal, assert_sentence, model_of, open_on, opened, pair

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import BackendUnavailable
from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine
from rgbx_seg_ros.vocabulary import choose

CHOICES = (('dog',), ('truck', 'unlabeled', 'car', 'road', 'dog', 'person'), ('person', 'car'))


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp('open')
    return {width: model_of(write_tiny_bundle(place / f'b{width}', vocabulary=6,
                                              scene_width=width)) for width in (0, 4)}


@pytest.fixture(scope='module')
def oracles(models):
    return {width: OnnxRuntimeEngine(model) for width, model in models.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep engines in a folder of these tests, where a second one finds them built."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'tensorrt'))


def rows_of(*names):
    return choose(tiny_bank(), names)[1]


def assert_answers(engine, oracle, rows):
    oracle.set_classes(rows)
    for seed in range(2):
        assert_equal(engine(*pair(seed)), oracle(*pair(seed)))


@pytest.mark.parametrize('scene_width', [0, 4], ids=['one graph', 'two graphs'])
@pytest.mark.parametrize('integrated', [0, 1], ids=['copied', 'mapped'])
@pytest.mark.parametrize('generation', GENERATIONS)
def test_labels_are_those_of_onnxruntime_for_any_classes(models, oracles, generation, integrated,
                                                         scene_width):
    oracle = oracles[scene_width]
    with fake_gpu(generation, integrated=integrated) as gpu, opened(
            gpu, models[scene_width]) as engine:
        assert_answers(engine, oracle, models[scene_width].rows())
        for names in CHOICES:
            engine.set_classes(rows_of(*names))
            assert_answers(engine, oracle, rows_of(*names))


def test_a_frame_is_one_launch_that_copies_no_rows(models, oracles):
    with fake_gpu('10.3') as gpu, opened(gpu, models[0]) as engine:
        for names in (('car', 'person', 'dog'), ('road', 'car')):
            rows = rows_of(*names)
            engine.set_classes(rows)
            engine(*pair(0))
            before = {what: gpu.count(what) for what in ('launches', 'calls', 'kernels', 'copies')}
            alive = gpu.alive()
            for _ in range(5):
                engine(*pair(1))
            grown = {what: gpu.count(what) - value for what, value in before.items()}
            # rgb and aux in, label and confidence out
            assert grown == {'launches': 5, 'kernels': 5, 'calls': 15, 'copies': 20}
            assert gpu.alive() == alive and gpu.count('graphs') == 0
            assert_answers(engine, oracles[0], rows)


def test_as_many_classes_as_before_need_no_new_graph(models, oracles):
    with fake_gpu('11.4') as gpu, opened(gpu, models[0]) as engine:
        captured = gpu.calls('cuStreamBeginCapture_v2')
        for names in (('road', 'truck', 'dog'), ('dog', 'car', 'unlabeled')):
            engine.set_classes(rows_of(*names))
            assert_answers(engine, oracles[0], rows_of(*names))
        assert gpu.calls('cuStreamBeginCapture_v2') == captured
        alive = gpu.alive()
        engine.set_classes(rows_of('dog'))
        assert gpu.calls('cuStreamBeginCapture_v2') == captured + 1 and gpu.alive() == alive


@pytest.mark.parametrize('rows', [np.ones((7, 4), np.float32), np.ones((2, 5), np.float32)])
def test_rows_that_do_not_fit_leave_the_old_ones(models, oracles, rows):
    with fake_gpu('10.3') as gpu, opened(gpu, models[0]) as engine:
        old = rows_of('dog', 'person')
        engine.set_classes(old)
        with pytest.raises(RgbxSegError, match='expected'):
            engine.set_classes(rows)
        assert_answers(engine, oracles[0], old)


@pytest.mark.parametrize('fault', ['set_input_shape', 'execute_async_v3'])
def test_a_library_that_fails_at_new_classes_goes_on_with_the_old_ones(models, oracles, fault):
    with fake_gpu('10.3') as gpu, opened(gpu, models[0]) as engine:
        old = rows_of('dog', 'person')
        engine.set_classes(old)
        gpu.world.fail(fault, how='Error Code 3: nothing doing')
        with pytest.raises(BackendUnavailable, match='nothing doing') as caught:
            engine.set_classes(rows_of('car', 'person', 'unlabeled'))
        assert_sentence(caught.value)
        assert_answers(engine, oracles[0], old)


def test_a_capture_that_fails_at_new_classes_is_told_of(models, oracles):
    told = []
    with fake_gpu('10.3') as gpu, opened(gpu, models[0], tell=told.append) as engine:
        opening = len(told)
        for names in (('dog', 'person'), ('car', 'dog')):
            gpu.fail('cuStreamBeginCapture_v2', code=900)
            engine.set_classes(rows_of(*names))  # the second time nothing is captured
            assert_answers(engine, oracles[0], rows_of(*names))
        assert len(told) == opening + 1 and 'without a CUDA graph, which is slower' in told[-1]


def test_another_most_or_usual_number_of_classes_is_another_engine(tmp_path, monkeypatch, models):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    more = model_of(write_tiny_bundle(tmp_path / 'more', vocabulary=7))
    with fake_gpu('10.3') as gpu:
        for model, built in ((models[0], 1), (models[0], 1), (more, 2)):
            with opened(gpu, model):
                assert gpu.world.built == built


def test_a_library_that_refuses_the_profile_says_what_to_change(tmp_path, monkeypatch, models):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    with fake_gpu('10.3') as gpu:
        gpu.world.fail('add_optimization_profile')
        with pytest.raises(BackendUnavailable, match=r'refuses 1\.\.6 classes; .*most_classes'):
            open_on(gpu, models[0])
