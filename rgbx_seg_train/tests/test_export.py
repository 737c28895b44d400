# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Export: the bundle is the checkpoint, and both are scored as the robot sees."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_runs import HEIGHT, WIDTH, Stub, small_config, use_stub

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Graph, open_engine
from rgbx_seg_ros.manifest import MODALITIES, load_bundle
from rgbx_seg_train import export as export_module
from rgbx_seg_train import onnx_graph, parity
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.config_file import parse_config
from rgbx_seg_train.data.rendered import RenderSettings, render_sample
from rgbx_seg_train.data.sources import stack
from rgbx_seg_train.data.synthetic import aux_encoding
from rgbx_seg_train.evaluate_model import BundleModel
from rgbx_seg_train.evaluate_run import Options, evaluate_sets, open_sets
from rgbx_seg_train.export import export
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.export_phases import Phases
from rgbx_seg_train.export_scores import read_scores
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.train import train


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


def checkpoint(tmp_path, *overrides, name='model.safetensors'):
    """Write a checkpoint with random weights large enough to prefer each class somewhere."""
    config = small_config(tmp_path, *overrides)
    torch.manual_seed(0)
    model = build_model(config, 9)
    if isinstance(model, Stub):
        with torch.no_grad():
            model.last.weight.mul_(8)
    path = tmp_path / name
    save_checkpoint(path, config, 9, Progress(), {'ema': model.state_dict()})
    return path, model.eval(), config


def images(seed=0, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, height, width, 3)).astype(np.uint8),
            rng.integers(0, 256, (1, height, width, 1)).astype(np.uint8))


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Return a checkpoint of the stub, its model, its bundle and the report of the export."""
    folder = tmp_path_factory.mktemp('made')
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        path, model, _ = checkpoint(folder)
        return path, model, folder / 'bundle', export(path, folder / 'bundle', {})


def test_a_bundle_gives_the_label_and_the_probability_of_the_model(made):
    _, model, bundle, report = made
    assert report.parity.labels >= 0.999
    engine, manifest = open_engine(bundle)
    assert (manifest.height, manifest.width) == (HEIGHT, WIDTH)
    for seed in range(3):
        rgb, aux = images(seed)
        with torch.inference_mode():
            logits = model(*normalize(torch.from_numpy(rgb), torch.from_numpy(aux)))
        probabilities = logits.softmax(1)
        label, confidence = engine(rgb, aux)
        expected = probabilities.argmax(1).numpy()
        assert (label == expected).mean() > 0.999
        assert len(np.unique(expected)) >= 4
        found = confidence.astype(float) / 255
        assert np.abs(found - probabilities.amax(1).numpy()).max() <= 0.51 / 255 + 1e-4


# SegRGB-X with all of its parts, but one layer of each.
NARROW = ('model.family=segrgbx', 'model.options.dims=[8,16,16,32]',
          'model.options.depths=[1,1,1,1]', 'model.options.heads=[1,2,2,4]',
          'model.options.clip.hidden=32', 'model.options.clip.layers=1',
          'model.options.clip.heads=2', 'model.options.clip.embed=24',
          'model.options.dsrm.heads=4', 'data.height=64', 'data.width=96')


def test_the_real_model_exports_and_agrees(tmp_path):
    path, _, _ = checkpoint(tmp_path, *NARROW, 'export.fp16_weights=true')
    report = export(path, tmp_path / 'bundle', {})
    assert report.parity.labels >= 0.999
    assert report.bytes['model.onnx'] < 2 * report.parameters + 500_000
    model = onnx.load(tmp_path / 'bundle' / 'model.onnx')
    kinds = {node.op_type for node in model.graph.node}
    for name in ('rgb', 'aux'):  # TensorRT takes uint8 at the input, but only to cast it
        assert {n.op_type for n in model.graph.node if name in n.input} == {'Cast'}
    assert not kinds & {'If', 'Loop', 'Shape', 'GridSample', 'Einsum'}
    assert model.opset_import[0].version == 18


def test_the_same_checkpoint_gives_the_same_bytes_without_traces_of_the_machine(made, tmp_path):
    path, _, bundle, _ = made
    export(path, tmp_path / 'again', {})
    one, two = ((folder / 'model.onnx').read_bytes() for folder in (bundle, tmp_path / 'again'))
    assert one == two
    for trace in (str(tmp_path.parent).encode(), b'.py', b'site-packages', b'Traceback', b'torch'):
        assert trace not in one


def test_halved_weights_give_a_smaller_file_and_the_same_labels(made, tmp_path):
    path, _, bundle, _ = made
    export(path, tmp_path / 'half', {}, ['export.fp16_weights=true'])
    full, half = (folder / 'model.onnx' for folder in (bundle, tmp_path / 'half'))
    assert half.stat().st_size < full.stat().st_size
    labels = [open_engine(path.parent)[0](*images())[0] for path in (full, half)]
    assert (labels[0] == labels[1]).mean() > 0.995


def test_zero_aux_is_part_of_the_exported_graph(tmp_path):
    path, _, _ = checkpoint(tmp_path, 'data.zero_aux=true')
    export(path, tmp_path / 'bundle', {})
    engine, _ = open_engine(tmp_path / 'bundle')
    rgb, aux = images()
    np.testing.assert_array_equal(engine(rgb, aux)[0].copy(), engine(rgb, aux * 0)[0])


def test_the_manifest_holds_names_licenses_and_scores(tmp_path):
    path, _, _ = checkpoint(tmp_path, 'export.training_data=three lakes')
    export(path, tmp_path / 'bundle', {'miou': 0.5}, ['name=lake', 'export.data_license=CC0-1.0'])
    manifest = load_bundle(tmp_path / 'bundle')
    assert (manifest.name, manifest.training_data, manifest.data_license) == (
        'lake', 'three lakes', 'CC0-1.0')
    assert dict(manifest.scores) == {'miou': 0.5}
    assert [info.name for info in manifest.classes][:3] == ['unlabeled', 'car', 'person']


def nothing_is_left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir()) == ['images', 'model.safetensors']


def test_a_bundle_that_disagrees_is_not_written(tmp_path, monkeypatch):
    path, _, _ = checkpoint(tmp_path)
    to_onnx = export_module.to_onnx

    def another_model(graph, *args):
        torch.manual_seed(7)
        graph.merged.last.reset_parameters()
        model = to_onnx(graph, *args)
        torch.manual_seed(8)
        graph.merged.last.reset_parameters()
        return model

    monkeypatch.setattr(export_module, 'to_onnx', another_model)
    with pytest.raises(RgbxSegError, match='of the labels .* expected at least 99.9'):
        export(path, tmp_path / 'bundle', {})
    assert nothing_is_left(tmp_path)


def test_a_broken_checkpoint_writes_nothing(tmp_path, monkeypatch, capsys):
    path, _, _ = checkpoint(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(sys, 'argv', ['rgbx_export', str(path), str(tmp_path / 'bundle')])
    assert export_module.main() == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert nothing_is_left(tmp_path)


def test_another_folder_is_not_replaced_and_an_old_bundle_is(tmp_path):
    path, _, _ = checkpoint(tmp_path)
    with pytest.raises(RgbxSegError, match='remove it or choose another'):
        export(path, tmp_path / 'images', {})
    assert (tmp_path / 'images' / 'rgb').is_dir()
    for score in (0.1, 0.2):
        export(path, tmp_path / 'bundle', {'miou': score})
    assert dict(load_bundle(tmp_path / 'bundle').scores) == {'miou': 0.2}


def test_scores_of_several_files_are_told_apart_by_name(tmp_path):
    path = tmp_path / 's.json'
    row = {'boxes': 3, 'hit_rate': 0.5, 'inside': None}
    path.write_text(json.dumps({'miou': 0.61234, 'miou_night': None, 'iou': {'car': 0.5},
                                'box_score': {'night': {'person': row}}}))
    assert read_scores([str(path), f'rgb_only={path}']) == {
        'miou': 0.6123, 'hit_rate_person_night': 0.5,
        'rgb_only_miou': 0.6123, 'rgb_only_hit_rate_person_night': 0.5}
    with pytest.raises(RgbxSegError, match='rgbx_evaluate --out'):
        read_scores([str(tmp_path / 'missing.json')])


@pytest.mark.parametrize('text', ['[1]', '{"miou": "good"}', '{"box_score": [1]}', '{'])
def test_scores_that_rgbx_evaluate_did_not_write_are_refused(tmp_path, text):
    path = tmp_path / 's.json'
    path.write_text(text)
    with pytest.raises(RgbxSegError, match='rgbx_evaluate --out'):
        read_scores([str(path)])


def test_without_data_a_bundle_is_compared_on_noise(tmp_path):
    path, _, _ = checkpoint(tmp_path)
    empty = ['data.test=[]', 'data.validate=[]', 'data.train=[]']
    found = export(path, tmp_path / 'bundle', {}, empty).parity
    assert (found.samples, found.noise_pairs) == (0, 2)
    assert found.classes >= 4 and found.labels >= 0.999 and 0 < found.logits < 1e-5


def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path):
    _, model, config = checkpoint(tmp_path)
    with torch.no_grad():
        model.first.weight[0, 0, 0, 0] = float('nan')
    path = tmp_path / 'nan.safetensors'
    save_checkpoint(path, config, 9, Progress(), {'ema': model.state_dict()})
    with pytest.raises(RgbxSegError, match='nan.safetensors: first.weight holds'):
        export(path, tmp_path / 'bundle', {})
    assert not (tmp_path / 'bundle').exists()


@pytest.mark.parametrize('modality', MODALITIES)
def test_each_modality_trains_and_reaches_a_bundle_with_nothing_downloaded(tmp_path, modality):
    config = parse_config({
        'name': modality, 'out': str(tmp_path / 'runs'), 'model': {'family': 'stub'},
        'data': {'modality': modality, 'height': 48, 'width': 64, 'cache': str(tmp_path / 'cache'),
                 'train': [{'kind': 'synthetic', 'first_seed': 0, 'count': 4}],
                 'test': [{'kind': 'synthetic', 'first_seed': 100, 'count': 1}]},
        'train': {'steps': 2, 'batch_size': 2}})
    export(train(config), tmp_path / 'bundle', {})
    manifest = load_bundle(tmp_path / 'bundle')
    assert (manifest.modality, manifest.aux) == (modality, aux_encoding(modality))
    result = evaluate_sets(BundleModel(tmp_path / 'bundle'),
                           open_sets(config.data.test, config.data), config.data,
                           Options()).summary
    assert result['frames'] == 1 and 0 <= result['miou'] <= 1


@pytest.mark.parametrize('modality', ['polarization', 'event'])
def test_the_tiny_network_learns_from_another_modality_than_thermal(modality):
    torch.manual_seed(0)
    settings = RenderSettings(0, 2, modality, 96, 128)
    scenes = stack([render_sample(seed, settings) for seed in (0, 1)], DataConfig())[:3]
    rgb, aux, label = map(torch.from_numpy, scenes)
    model = find_family('segrgbx').build(find_config('segrgbx', 'tiny'), 9)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        logits = model(*normalize(rgb, aux), [modality] * 2)
        loss = torch.nn.functional.cross_entropy(logits, label.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


class MergedWithScene(torch.nn.Module):
    """The stub, and an embedding of each image that scales what its classes score."""

    scene_width = 3

    def __init__(self, stub):
        super().__init__()
        self.stub = stub

    def embed(self, rgb, aux):
        return rgb.mean((2, 3)), aux.mean((2, 3)) * 2

    def forward(self, rgb, aux, s_rgb=None, s_aux=None):
        if s_rgb is None:
            s_rgb, s_aux = self.embed(rgb, aux)
        return self.stub(rgb, aux) * (1 + s_rgb - s_aux).repeat(1, 3)[:, :, None, None]


def use_scene(monkeypatch):
    monkeypatch.setattr(Stub, 'merge', lambda self, modality: MergedWithScene(self).eval())


def test_two_graphs_give_what_one_gives(tmp_path, monkeypatch):
    use_scene(monkeypatch)
    path, _, _ = checkpoint(tmp_path)
    export(path, tmp_path / 'one', {})
    report = export(path, tmp_path / 'two', {}, ['export.scene_every=5'])
    assert report.parity.labels >= 0.999 and 0 < report.parity.logits <= 1e-5
    assert report.nodes['scene.onnx'] and report.bytes['scene.onnx'] < report.bytes['model.onnx']
    (one, _), (two, manifest) = (open_engine(tmp_path / name) for name in ('one', 'two'))
    assert (manifest.scene.width, manifest.scene.every) == (3, 5)
    for seed in range(2):
        pair = images(seed)
        scene = two.embed(*pair)
        expected = normalize(*map(torch.from_numpy, pair))[0].mean((2, 3)).numpy()
        np.testing.assert_allclose(scene[0], expected, atol=1e-5)
        for ours, theirs in zip(one(*pair), two(*pair, scene), strict=True):
            assert (np.abs(ours.astype(int) - theirs) <= 1).mean() > 0.999
    another = (-scene[0] - 3, scene[1])  # the scene that is given is the one used
    assert (two(*pair, another)[0] == one(*pair)[0]).mean() < 0.5


def test_an_input_that_the_model_does_not_read_stays_one(tmp_path, monkeypatch):
    use_scene(monkeypatch)
    monkeypatch.setattr(MergedWithScene, 'forward', lambda self, rgb, aux, s_rgb=None, s_aux=None:
                        self.stub(rgb, aux) * (1 + s_rgb.mean() if s_rgb is not None else 1))
    path, _, _ = checkpoint(tmp_path)
    module = BundleGraph(MergedWithScene(Stub(None, 9)))
    tensors = Graph({'rgb': ('uint8', (1, 8, 8, 3)), 'aux': ('uint8', (1, 8, 8, 1)),
                     's_rgb': ('float32', (1, 3)), 's_aux': ('float32', (1, 3))},
                    {name: ('uint8', (1, 8, 8)) for name in ('label', 'confidence')})
    model = onnx_graph.to_onnx(module, tensors, Phases(), named=('logits',))
    assert [tensor.name for tensor in model.graph.input] == ['rgb', 'aux', 's_rgb', 's_aux']
    assert [tensor.name for tensor in model.graph.output] == ['label', 'confidence']
    assert any('logits' in node.output for node in model.graph.node)


class Broadcasting(torch.nn.Module):
    """A large weight, a normalization, whose norms torch expands, and a resize to the same size."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(128, 130)
        self.rows = torch.nn.Parameter(torch.randn(130, 128))  # reads no data: is folded

    def forward(self, x):
        joint = self.linear.weight @ self.rows.T
        x = torch.nn.functional.normalize(self.linear(x), dim=-1) @ joint
        return torch.nn.functional.interpolate(x[None], x.shape[1:], mode='bilinear')[0] * 2


def test_a_graph_holds_each_weight_once_and_nothing_that_broadcasting_does():
    torch.manual_seed(0)
    module = Broadcasting().eval()
    shape = (1, 7, 128), (1, 7, 130)
    tensors = Graph({'x': ('float32', shape[0])}, {'y': ('float32', shape[1])})
    model = onnx_graph.to_onnx(module, tensors, Phases())
    onnx.checker.check_model(model, full_check=True)
    counts = onnx_graph.node_counts(model)
    assert not counts.keys() & {'Expand', 'Resize'} and counts['MatMul'] == 2
    assert sorted(tuple(t.dims) for t in model.graph.initializer if len(t.dims) == 2) == [
        (128, 130), (130, 130)]
    x = torch.randn(*shape[0])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    y = session.run(None, {'x': x.numpy()})[0]
    np.testing.assert_allclose(y, module(x).detach().numpy(), atol=1e-5)


def test_two_graphs_of_a_model_without_a_scene_are_refused(tmp_path):
    path, _, _ = checkpoint(tmp_path)
    with pytest.raises(RgbxSegError, match='export.scene_every is 3, but the model embeds no'):
        export(path, tmp_path / 'bundle', {}, ['export.scene_every=3'])
    assert nothing_is_left(tmp_path)


def test_logits_that_differ_are_refused_where_labels_do_not(tmp_path, monkeypatch):
    path, _, _ = checkpoint(tmp_path)
    to_onnx = export_module.to_onnx

    def scaled(*args):
        model = to_onnx(*args)
        for tensor in model.graph.initializer:
            if tensor.dims[:1] == [9]:  # weight and bias of the last layer
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(export_module, 'to_onnx', scaled)
    with pytest.raises(RgbxSegError, match='logits .* by (1.0e-02|9.9e-03) of the'):
        export(path, tmp_path / 'bundle', {})
    assert nothing_is_left(tmp_path)


def test_a_model_larger_than_an_onnx_file_is_refused_before_it_is_traced(tmp_path, monkeypatch):
    path, model, _ = checkpoint(tmp_path)
    monkeypatch.setattr(onnx_graph, 'MAX_BYTES', 2000)
    with pytest.raises(RgbxSegError, match='GB of weights; expected at most 0.00 GB'):
        export(path, tmp_path / 'bundle', {})
    assert nothing_is_left(tmp_path)


def test_weights_that_fit_as_halves_are_traced_and_otherwise_halving_is_told(monkeypatch):
    traced = []
    monkeypatch.setattr(onnx_graph, 'MAX_BYTES', 20)
    monkeypatch.setattr(onnx_graph, '_trace', lambda *args: traced.append(args) or 1 / 0)
    module, tensors = torch.nn.Linear(2, 4, bias=False), Graph({}, {})  # 32 bytes
    with pytest.raises(RgbxSegError, match='set export.fp16_weights=true or choose a smaller'):
        onnx_graph.to_onnx(module, tensors, Phases())
    assert not traced
    with pytest.raises(ZeroDivisionError):
        onnx_graph.to_onnx(module, tensors, Phases(), fp16_weights=True)
    with pytest.raises(RgbxSegError, match='file holds; choose a smaller'):
        onnx_graph.to_onnx(torch.nn.Linear(3, 4), tensors, Phases(), fp16_weights=True)


def test_weights_of_half_precision_are_refused_before_they_are_traced():
    module, tensors = torch.nn.Linear(2, 2, dtype=torch.bfloat16), Graph({}, {})
    with pytest.raises(RgbxSegError, match=r'weights in torch.bfloat16; expected torch.float32'):
        onnx_graph.to_onnx(module, tensors, Phases())


def test_the_command_reports_what_it_took(tmp_path, monkeypatch, capsys):
    path, model, _ = checkpoint(tmp_path)
    args = [str(path), str(tmp_path / 'bundle'), '--json', str(tmp_path / 'r.json'), '--nodes']
    monkeypatch.setattr(sys, 'argv', ['rgbx_export', *args])
    assert export_module.main() == 0
    printed = capsys.readouterr()
    report = json.loads((tmp_path / 'r.json').read_text())
    assert list(report['seconds']) == ['load', 'trace', 'slim', 'write', 'check', 'parity']
    assert report['peak_bytes'].keys() == report['seconds'].keys()
    assert 100e6 < report['peak_bytes']['load'] <= report['peak_bytes']['parity'] < 24e9
    found = report['parity']
    assert found.keys() == {'labels', 'ties', 'classes', 'logits', 'samples', 'noise_pairs'}
    assert found['samples'] == 4 and 0 < found['logits'] < 1e-5 and found['ties'] < 0.01
    assert report['bytes'] == {file.name: file.stat().st_size
                               for file in (tmp_path / 'bundle').iterdir()}
    assert report['parameters'] == sum(p.numel() for p in model.parameters())
    assert report['nodes']['model.onnx']['Conv'] == 2 and report['opset'] == 18
    assert '2 Conv' in printed.out and 'peak memory' in printed.out
    assert printed.err == ''  # progress is for terminals


def labels_and_logits():
    """Return logits (1, 3, 8, 8) whose classes all show, and the labels they give."""
    logits = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    return logits.argmax(1).astype(np.uint8), logits


def test_equal_logits_decide_no_label():
    label, logits = labels_and_logits()
    logits[0, :, :2] = 1.0  # a quarter of the pixels: every class is as good
    label[0, :2] = 2
    sums = parity.Sums()
    sums.add(label, logits, logits)
    result = sums.result(1, 0)
    assert (result.labels, result.ties, result.logits, result.classes) == (1.0, 0.25, 0.0, 3)


def test_labels_and_logits_that_differ_are_counted():
    label, logits = labels_and_logits()
    wrong = (label + (np.arange(64).reshape(1, 8, 8) < 16)) % 3
    sums = parity.Sums()
    sums.add(wrong.astype(np.uint8), logits, logits)
    sums.add(label, logits, logits + 0.1)
    result = sums.result(2, 0)
    assert result.labels == 1 - 16 / 128
    assert result.logits == pytest.approx(0.1 / np.abs(logits).max(), rel=1e-5)


def test_logits_that_are_no_numbers_differ():
    label, logits = labels_and_logits()
    sums = parity.Sums()
    broken = logits.copy()
    broken[0, 0, 0, 0] = np.nan
    sums.add(label, logits, broken)
    sums.add(label, logits, logits)
    assert sums.result(2, 0).logits == np.inf
    with pytest.raises(RgbxSegError, match='differ .* by inf of the largest'):
        sums.result(2, 0).refuse('x', logits_too=True)
