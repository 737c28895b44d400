# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Classes that are exchanged while an engine runs: row n is label n, or all stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
from bundles import CLASSES, expected, manifest, tiny_bank, tiny_onnx, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Model, open_engine
from rgbx_seg_ros.manifest import ClassInfo, Vocabulary, load_bundle, save_bundle
from rgbx_seg_ros.vocabulary import Bank, choose, save_bank

HEIGHT, WIDTH = 48, 64
both = pytest.mark.parametrize('backend', ['onnxruntime', 'openvino'])
every = pytest.mark.parametrize('backend', ['onnxruntime', 'openvino', 'dummy'])


def pair(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (1, HEIGHT, WIDTH, channels), np.uint8)
                 for channels in (3, 1))


def rows_of(*names):
    return choose(tiny_bank(), names)[1]


def open_tiny(folder, backend, most=6, **settings):
    return open_engine(write_tiny_bundle(folder / 'b', vocabulary=most, **settings), backend)[0]


@both
def test_an_engine_opens_with_the_classes_of_the_manifest(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    for seed in range(2):
        np.testing.assert_array_equal(engine(*pair(seed))[0], expected(*pair(seed)))


@both
def test_rows_in_another_order_permute_the_labels(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    label = engine(*pair())[0].copy()
    names = [info.name for info in CLASSES]
    for order in ([2, 0, 1], [1, 2, 0], [0, 1, 2]):
        engine.set_classes(rows_of(*(names[n] for n in order)))
        np.testing.assert_array_equal(engine(*pair())[0], np.argsort(order)[label])


@both
def test_the_number_of_classes_may_change_from_call_to_call(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    confidence = engine(*pair())[1].copy()
    for names in (('dog',), ('truck', 'unlabeled', 'car', 'road', 'dog', 'person'),
                  ('car', 'person'), ('person', 'car', 'road')):
        rows = rows_of(*names)
        engine.set_classes(rows)
        for seed in range(2):
            label, sure = engine(*pair(seed))
            np.testing.assert_array_equal(label, expected(*pair(seed), rows=rows))
        assert label.shape == sure.shape == (1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(engine(*pair())[1], confidence)


@both
def test_the_answer_stays_in_its_memory_and_the_rows_are_the_engines_own(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    places = set()
    for names in (('car', 'person'), ('dog', 'unlabeled', 'person')):
        rows = rows_of(*names)
        wanted = expected(*pair(), rows=rows)
        engine.set_classes(rows)
        rows[:] = rows[::-1].copy()  # the caller's array again
        label, _ = engine(*pair())
        np.testing.assert_array_equal(label, wanted)
        places.add(label.__array_interface__['data'][0])
    assert len(places) == 1


@both
def test_a_view_of_a_bank_may_be_given(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    rows = np.asfortranarray(tiny_bank().embeddings)[::2]
    rows.setflags(write=False)
    engine.set_classes(rows)
    np.testing.assert_array_equal(engine(*pair())[0], expected(*pair(), rows=rows))


REFUSED = [
    (np.ones((2, 5), np.float32), r'float32 \(2, 5\); expected float32 \(N, 4\)'),
    (np.ones((2, 4)), r'float64 \(2, 4\); expected float32 \(N, 4\)'),
    (np.ones(4, np.float32), r'float32 \(4,\); expected float32 \(N, 4\)'),
    (np.ones((7, 4), np.float32), r'7 classes are asked for; expected 1\.\.6'),
    (np.ones((0, 4), np.float32), r'0 classes are asked for; expected 1\.\.6'),
    (np.diag([1, np.nan, 1, 1]).astype(np.float32)[:2], 'class 1 is no direction'),
    (np.eye(3, 4, -1, dtype=np.float32), 'class 0 is no direction'),
]


@every
@pytest.mark.parametrize(('rows', 'reason'), REFUSED)
def test_rows_that_do_not_fit_are_refused_and_the_old_ones_remain(tmp_path, backend, rows, reason):
    engine = open_tiny(tmp_path, backend)
    engine.set_classes(rows_of('person', 'dog', 'car', 'unlabeled'))
    label = engine(*pair())[0].copy()
    with pytest.raises(RgbxSegError, match=reason) as caught:
        engine.set_classes(rows)
    assert '\n' not in str(caught.value)
    np.testing.assert_array_equal(engine(*pair())[0], label)


@every
def test_a_bundle_without_a_vocabulary_says_how_to_get_one(tmp_path, backend):
    engine, _ = open_engine(write_tiny_bundle(tmp_path / 'b'), backend)
    with pytest.raises(RgbxSegError, match='has no vocabulary.*export it with export.open_classes'):
        engine.set_classes(rows_of('car'))


@every
def test_a_closed_engine_takes_no_classes(tmp_path, backend):
    engine = open_tiny(tmp_path, backend)
    engine.close()
    with pytest.raises(RgbxSegError, match='the engine is closed; open it again'):
        engine.set_classes(rows_of('car'))


@both
def test_the_scene_and_the_classes_go_together(tmp_path, backend):
    engine = open_tiny(tmp_path, backend, scene_width=4)
    first, second = pair(0), (pair(1)[0] // 2, pair(1)[1] // 3)
    rows = rows_of('dog', 'car', 'unlabeled', 'truck')
    engine.set_classes(rows)
    scene = tuple(array.copy() for array in engine.embed(*second))
    np.testing.assert_array_equal(engine(*first, scene)[0], expected(*first, second, rows))
    np.testing.assert_array_equal(engine(*first)[0], expected(*first, first, rows))


def test_the_dummy_draws_a_stripe_for_each_row(tmp_path):
    engine = open_tiny(tmp_path, 'dummy')
    for n in (1, 5, 2):
        engine.set_classes(tiny_bank().embeddings[:n])
        np.testing.assert_array_equal(np.unique(engine(*pair())[0]), range(n))


@both
@pytest.mark.parametrize(('text_width', 'reason'), [
    (0, 'no tensor "classes"'), (5, r'tensor "classes" of the model is float32 \(-1, 5\)')])
def test_a_graph_without_the_input_that_the_manifest_promises_is_refused(
        tmp_path, backend, text_width, reason):
    save_bank(tmp_path / 'classes', tiny_bank())
    save_bundle(tmp_path / 'b', tiny_onnx(text_width=text_width),
                replace(manifest(), vocabulary=Vocabulary(4, 6, '')), bank=tmp_path / 'classes')
    with pytest.raises(RgbxSegError, match=reason):
        open_engine(tmp_path / 'b', backend)


@both
def test_a_graph_with_an_input_that_no_manifest_tells_of_is_refused(tmp_path, backend):
    save_bundle(tmp_path / 'b', tiny_onnx(text_width=4), manifest())
    with pytest.raises(RgbxSegError, match='further input classes'):
        open_engine(tmp_path / 'b', backend)


def write_with(folder, bank, vocabulary, classes=CLASSES):
    save_bank(folder / 'classes', bank)
    save_bundle(folder / 'b', tiny_onnx(text_width=4),
                replace(manifest(), vocabulary=vocabulary, classes=classes),
                bank=folder / 'classes')
    return folder / 'b'


@both
def test_a_bank_without_a_class_of_the_manifest_is_refused(tmp_path, backend):
    classes = (*CLASSES, ClassInfo(3, 'unicorn', (9, 9, 9)))
    bundle = write_with(tmp_path, tiny_bank(), Vocabulary(4, 6, ''), classes)
    with pytest.raises(RgbxSegError, match=r"classes\.npz does not fit .*'unicorn' is not among"):
        open_engine(bundle, backend)


@both
def test_a_bank_of_another_width_than_the_graph_is_refused(tmp_path, backend):
    bank = tiny_bank()
    wide = Bank(bank.names, bank.texts, bank.colors, np.eye(6, dtype=np.float32))
    bundle = write_with(tmp_path, wide, Vocabulary(4, 6, ''))
    with pytest.raises(RgbxSegError, match=r'float32 \(3, 6\); expected float32 \(N, 4\)'):
        open_engine(bundle, backend)


def test_the_rows_of_a_model_are_those_of_its_manifests_classes(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b', vocabulary=6)
    np.testing.assert_array_equal(Model(bundle, load_bundle(bundle)).rows(),
                                  tiny_bank().embeddings[:3])
    plain = write_tiny_bundle(tmp_path / 'plain')
    assert Model(plain, load_bundle(plain)).rows() is None
