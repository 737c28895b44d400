# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles whose classes are an input: the checkpoint with its own classes, and with any others."""

import shutil
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from small_runs import HEIGHT, WIDTH, small_config, use_stub
from text_stub import (
    MORE,
    TEXT_WIDTH,
    TextStub,
    directions,
    use_text_stub,
    write_bank,
    write_text_run,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import FREE, Graph, open_engine
from rgbx_seg_ros.manifest import load_bundle, sha256_of
from rgbx_seg_ros.vocabulary import Bank, choose, load_bank, save_bank
from rgbx_seg_train import parity
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.export import Checks, export
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.export_report import Report
from rgbx_seg_train.frames import Frame
from rgbx_seg_train.losses import probabilities
from rgbx_seg_train.onnx_graph import dynamic_shapes, example_inputs
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.torch_engine import load_graph
from rgbx_seg_train.variant_maker import Pairs, add_variants

ORDERS = (('tree', 'car'), ('person', 'dog', 'car', 'sky', 'tree', 'bus', 'curve', 'lamp', 'kite',
                            'bike', 'river'), ('sofa',))
SETTINGS = ['export.checkpoint=true', 'export.most_classes=20']
RETOLD = 2


class Made(NamedTuple):
    """A bundle `b` and its bank in a folder, its model, and what it was exported by and with."""

    folder: Path
    model: TextStub
    criterion: str
    report: Report


@pytest.fixture(scope='module', autouse=True)
def families():
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        use_text_stub(patch)
        yield


@pytest.fixture(scope='module')
def bundle_of(tmp_path_factory):
    """Export once by each criterion; of `binary` the bank tells one class in other words."""
    @cache
    def run(criterion):
        folder = tmp_path_factory.mktemp(criterion)
        path, bank, model = write_text_run(folder, f'loss.criterion={criterion}')
        if criterion == 'binary':
            write_bank(bank, small_config(folder).data.class_infos, retold(model.class_rows))
        report = export(path, folder / 'b', {}, [f'export.open_classes={bank}', *SETTINGS],
                        checks=Checks(evaluate=''))
        return Made(folder, model, criterion, report)

    return run


@pytest.fixture(params=['cross_entropy', 'binary'])
def made(request, bundle_of):
    return bundle_of(request.param)


def retold(rows):
    """Return rows of which one is another embedding of the same class."""
    rows = rows.clone()
    rows[RETOLD] += 0.3 * directions(1, 8)[0]
    return rows


def images(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), np.uint8),
            rng.integers(0, 256, (1, HEIGHT, WIDTH, 1), np.uint8))


def answer(model, pair, rows, criterion='cross_entropy'):
    """Return label and probability of the model itself for rows."""
    rgb, aux = normalize(*map(torch.from_numpy, pair))
    with torch.inference_mode():
        logits = model(rgb, aux, classes=torch.from_numpy(np.array(rows)))
        best = probabilities(logits, criterion).gather(1, logits.argmax(1, keepdim=True))
    return logits.argmax(1).numpy(), best[:, 0].numpy()


def assert_answers(engine, made, rows):
    label, confidence = engine(*images())
    expected, share = answer(made.model, images(), rows, made.criterion)
    assert (label == expected).mean() > 0.999
    assert np.abs(confidence / 255 - share)[label == expected].max() <= 0.51 / 255 + 1e-4
    assert len(np.unique(expected)) > 1 or len(rows) == 1
    return label.copy()


def own_names(bank):
    return bank.names[len(MORE):]


@pytest.mark.parametrize('backend', ['onnxruntime', 'openvino', 'torch'])
def test_labels_and_probabilities_are_those_of_the_model_for_any_classes(made, backend):
    bank = load_bank(made.folder / 'bank.npz')
    engine, _ = open_engine(made.folder / 'b', backend, 'fp32')
    for names in (None, *ORDERS):
        rows = choose(bank, names or own_names(bank))[1]
        if names:
            engine.set_classes(rows)
        kept = assert_answers(engine, made, rows)
    with pytest.raises(RgbxSegError, match=r'expected float32 \(N, 6\)'):
        engine.set_classes(np.ones((2, 5), np.float32))
    np.testing.assert_array_equal(engine(*images())[0], kept)


def test_the_order_of_rows_is_the_order_of_labels(made):
    bank = load_bank(made.folder / 'bank.npz')
    engine, _ = open_engine(made.folder / 'b', 'onnxruntime', 'fp32')
    label = engine(*images())[0].copy()
    order = np.random.default_rng(3).permutation(len(own_names(bank)))
    engine.set_classes(choose(bank, [own_names(bank)[n] for n in order])[1])
    np.testing.assert_array_equal(engine(*images())[0], np.argsort(order)[label])


def test_the_bundle_holds_the_bank_and_tells_of_it(made):
    folder = made.folder
    manifest = load_bundle(folder / 'b')
    own = manifest.vocabulary
    assert (own.width, own.most) == (TEXT_WIDTH, 20)
    assert own.sha256 == sha256_of(folder / 'b' / 'classes.npz') == sha256_of(folder / 'bank.npz')
    assert tuple(info.name for info in manifest.classes) == own_names(load_bank(
        folder / 'bank.npz'))
    model = onnx.load(folder / 'b' / 'model.onnx')
    shape = model.graph.input[-1].type.tensor_type.shape.dim
    assert model.graph.input[-1].name == 'classes'
    assert (shape[0].dim_param, shape[1].dim_value) == ('n_classes', TEXT_WIDTH)
    for name in ('label', 'confidence'):
        dims = next(t for t in model.graph.output if t.name == name).type.tensor_type.shape.dim
        assert [dim.dim_value for dim in dims] == [1, HEIGHT, WIDTH]


def test_the_same_bytes_come_again_without_the_banks_path_and_other_classes_are_compared(
        bundle_of, tmp_path, monkeypatch):
    counts, folder = [], bundle_of('binary').folder
    add = parity.Sums.add
    monkeypatch.setattr(parity.Sums, 'add', lambda self, label, ours, theirs: (
        counts.append(ours.shape[1]), add(self, label, ours, theirs))[1])
    path, bank = (folder / name for name in ('model.safetensors', 'bank.npz'))
    export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}', *SETTINGS],
           checks=Checks(evaluate=''))
    assert set(counts) == {9, 1, 9 + parity.MORE_CLASSES}
    for file in ('model.onnx', 'manifest.yaml', 'classes.npz', 'model.safetensors'):
        one, two = ((place / 'b' / file).read_bytes() for place in (folder, tmp_path))
        assert one == two and str(bank).encode() not in one


def test_classes_that_one_side_forgets_are_seen(bundle_of, monkeypatch):
    folder = bundle_of('cross_entropy').folder
    graph, _ = load_graph(folder / 'model.safetensors', load_bundle(folder / 'b').vocabulary)
    real = TextStub.forward
    monkeypatch.setattr(TextStub, 'forward', lambda self, rgb, aux, classes: real(self, rgb, aux))
    with pytest.raises(RgbxSegError, match=r'makes logits \(1, 1, .* of what .* \(1, 9, '):
        parity.compare(graph, folder / 'b', [], parity.TIE)


def test_a_scored_bundle_has_the_scores_of_torch(made):
    scores = made.report.scores
    assert scores.onnx.miou == pytest.approx(scores.torch.miou, abs=0.005)
    assert load_bundle(made.folder / 'b').scores['frames'] == 4


def test_a_class_that_the_bank_tells_in_other_words_is_noted(made):
    notes = [note for note in made.report.notes if 'other embeddings of' in note]
    name = small_config(made.folder).data.class_infos[RETOLD].name
    assert len(notes) == (made.criterion == 'binary')
    assert all(f'other embeddings of {name} (0.' in note for note in notes)


def test_a_family_without_text_is_refused_in_one_sentence(tmp_path):
    config = small_config(tmp_path)
    path = tmp_path / 'stub.safetensors'
    save_checkpoint(path, config, 9, Progress(), {'ema': build_model(config, 9).state_dict()})
    bank = write_bank(tmp_path / 'bank.npz', config.data.class_infos)
    with pytest.raises(RgbxSegError, match='stub as it was trained reads none; .* leave '
                       'export.open_classes out') as caught:
        export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}'])
    assert '\n' not in str(caught.value) and not (tmp_path / 'b').exists()


def test_a_bank_that_lacks_a_class_of_the_bundle_is_refused_by_name(tmp_path):
    path, bank, _ = write_text_run(tmp_path)
    infos = small_config(tmp_path).data.class_infos
    write_bank(bank, infos[:-1], directions(len(infos) - 1))
    with pytest.raises(RgbxSegError, match='lacks a class that the bundle is to begin with: class '
                                           f"'{infos[-1].name}' is not among"):
        export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}'])


def test_a_bank_of_another_width_is_refused(tmp_path):
    path, bank, _ = write_text_run(tmp_path)
    own = load_bank(bank)
    save_bank(bank, Bank(own.names, own.texts, own.colors, own.embeddings[:, :-1]))
    with pytest.raises(RgbxSegError, match=f'have {TEXT_WIDTH - 1} numbers each; expected '
                                           f'{TEXT_WIDTH}, as the model'):
        export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}'])


@pytest.mark.parametrize('classes', ['mfnet', 'pst900'])
def test_a_bank_of_another_text_model_is_refused_whatever_is_exported(tmp_path, classes):
    path, bank, _ = write_text_run(tmp_path)
    infos = {info.name: info for info in (*small_config(tmp_path).data.class_infos,
                                          *CLASS_SETS[classes])}.values()
    write_bank(bank, list(infos), directions(len(infos), 7))
    with pytest.raises(RgbxSegError, match='different embeddings of the same classes'):
        export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}',
                                          f'export.classes={classes}'])


def test_fewer_classes_than_the_model_was_trained_with_are_refused(tmp_path):
    path, bank, _ = write_text_run(tmp_path)
    with pytest.raises(RgbxSegError, match=r'9 of them.*at most vocabulary.most \(8\)'):
        export(path, tmp_path / 'b', {}, [f'export.open_classes={bank}', 'export.most_classes=8'])


def test_forms_in_lower_precision_take_other_classes_too(bundle_of, tmp_path):
    pytest.importorskip('nncf')
    shutil.copytree(bundle_of('cross_entropy').folder / 'b', tmp_path / 'b')
    pairs = Pairs(*([Frame(*images(seed), None) for seed in range(first, first + 3)]
                    for first in (100, 0)))
    large = [frame._replace(rgb=frame.rgb.repeat(2, 1).repeat(2, 2)) for frame in pairs.evaluation]
    names = ['fp16', 'int8_tensorrt', 'int8_openvino', 'int8_onnxruntime']
    forms = add_variants(tmp_path / 'b', names, pairs, tell=lambda text: None)
    forms += add_variants(tmp_path / 'b', ['fp32'], pairs._replace(at_camera=((), large)),
                          (2 * HEIGHT, 2 * WIDTH), tell=lambda text: None)
    assert all(one.variant.labels > 0.9 for one in forms)
    rows = choose(load_bank(tmp_path / 'b' / 'classes.npz'), ORDERS[1])[1]
    for backend in ('openvino', 'onnxruntime'):
        label, expected = (_label(tmp_path / 'b', backend, name, rows)
                           for name in ('int8', 'fp32'))
        assert (label == expected).mean() > 0.9
    for name in ('fp16', 'int8_tensorrt'):
        own = onnx.load(tmp_path / 'b' / name / 'model.onnx').graph.input[-1]
        assert own.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert own.type.tensor_type.shape.dim[0].dim_param == 'n_classes'


def _label(bundle, backend, precision, rows):
    engine, _ = open_engine(bundle, backend, precision)
    engine.set_classes(rows)
    return engine(*images())[0].copy()


def test_fixed_classes_have_the_probability_of_their_criterion_too(bundle_of, tmp_path):
    made = bundle_of('binary')
    export(made.folder / 'model.safetensors', tmp_path / 'b', {})
    engine, manifest = open_engine(tmp_path / 'b', 'onnxruntime', 'fp32')
    assert manifest.vocabulary is None
    assert_answers(engine, made, made.model.class_rows.numpy())


def test_a_bundle_may_be_for_one_class_at_a_time():
    graph = Graph({'rgb': ('uint8', (1, HEIGHT, WIDTH, 3)), 'aux': ('uint8', (1, HEIGHT, WIDTH, 1)),
                   'classes': ('float32', (FREE, TEXT_WIDTH))}, {}, 1, 1)
    module = BundleGraph(TextStub(None, 1), reads_classes=True).eval()
    traced = torch.export.export(module, example_inputs(graph), strict=False,
                                 dynamic_shapes=dynamic_shapes(graph)).module()
    assert traced(*map(torch.from_numpy, images()), directions(1))[2].shape[1] == 1
