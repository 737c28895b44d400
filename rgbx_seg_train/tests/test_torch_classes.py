# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Classes that are exchanged in a graph that a GPU has captured; a processor stands for the GPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import HEIGHT, WIDTH
from test_torch_engine import HostStream, uncompiled
from text_stub import use_text_stub, write_text_run

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Model, Options, open_engine
from rgbx_seg_ros.manifest import CHECKPOINT_FILE, load_bundle
from rgbx_seg_ros.vocabulary import load_bank
from rgbx_seg_train.export import export
from rgbx_seg_train.torch_cuda import CudaEngine
from rgbx_seg_train.torch_engine import load_graph


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp('open')
    with pytest.MonkeyPatch.context() as patch:
        use_text_stub(patch)
        path, bank, _ = write_text_run(folder)
        export(path, folder / 'b', {}, [f'export.open_classes={bank}', 'export.checkpoint=true'])
        yield folder / 'b'


@pytest.fixture
def streams(monkeypatch):
    found = []
    monkeypatch.setattr(HostStream, 'streams', found)
    return found


def gpu_engine(folder, stream=HostStream, compiler=uncompiled, **options):
    manifest = load_bundle(folder)
    graph, _ = load_graph(folder / CHECKPOINT_FILE, manifest.vocabulary)
    return CudaEngine(graph, Model(folder, manifest), Options(**options), stream, compiler)


def images(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8),
            rng.integers(0, 256, (1, HEIGHT, WIDTH, 1), np.uint8))


def assert_like(engine, reference, rows=None):
    if rows is not None:
        reference.set_classes(rows)
    for seed in range(2):
        label, expected = engine(*images(seed))[0], reference(*images(seed))[0]
        assert (label == expected).mean() >= 0.999


def test_labels_are_those_of_onnxruntime_and_only_another_number_is_captured_anew(bundle, streams):
    engine, (reference, _) = gpu_engine(bundle), open_engine(bundle, 'onnxruntime', 'fp32')
    rows = load_bank(bundle / 'classes.npz').embeddings
    assert_like(engine, reference)
    for number, captured in ((9, 1), (1, 2), (17, 3), (17, 3), (2, 4)):
        own = rows[:number] if captured % 2 else rows[-number:].copy()
        engine.set_classes(own)
        assert streams[0].captured == captured
        assert_like(engine, reference, own)


def test_what_does_not_fit_leaves_the_old_classes(bundle, streams):
    engine, (reference, _) = gpu_engine(bundle), open_engine(bundle, 'onnxruntime', 'fp32')
    rows = load_bank(bundle / 'classes.npz').embeddings[:4]
    engine.set_classes(rows)
    with pytest.raises(RgbxSegError, match='expected float32'):
        engine.set_classes(np.ones((2, 5), np.float32))
    assert_like(engine, reference, rows)


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory. Tried'),
                                   RuntimeError('CUDA error: nothing doing')])
def test_a_gpu_that_fails_at_new_classes_goes_on_with_the_old_ones(bundle, streams, error):
    class Failing(HostStream):
        fails = False

        def record(self, work):
            if self.fails:
                raise error
            return super().record(work)

    engine = gpu_engine(bundle, Failing)
    reference, _ = open_engine(bundle, 'onnxruntime', 'fp32')
    rows = load_bank(bundle / 'classes.npz').embeddings
    engine.set_classes(rows[:4])
    Failing.fails = True
    with pytest.raises(RgbxSegError, match='cannot take 5 classes on the GPU'):
        engine.set_classes(rows[:5])
    assert_like(engine, reference, rows[:4])


def test_a_compiler_that_fails_at_another_number_is_told_of_until_it_does_not(bundle, streams):
    rows = load_bank(bundle / 'classes.npz').embeddings
    told, failing = [], []

    def compiler(program):
        if failing:
            raise ValueError('no space left on device')
        return program

    engine = gpu_engine(bundle, compiler=compiler, tell=told.append)
    reference, _ = open_engine(bundle, 'onnxruntime', 'fp32')
    engine.info, opened = replace(engine.info, warning='The GPU is hot.'), len(told)
    failing.append(True)
    for number in (4, 4, 5):
        engine.set_classes(rows[:number])
        assert_like(engine, reference, rows[:number])
        assert engine.info.warning == (
            'The GPU is hot. torch runs the model uncompiled, which is slower (no space left on '
            'device).')
    assert told[opened:] == [engine.info.warning.removeprefix('The GPU is hot. ')]
    failing.clear()
    engine.set_classes(rows[:3])
    assert_like(engine, reference, rows[:3])
    assert engine.info.warning == 'The GPU is hot.' and len(told) == opened + 1
