# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rgbx_export of joint networks, its scores through ONNX, and its forms in the same command."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from small_runs import HEIGHT, WIDTH, small_config, use_stub, write_folder
from test_variants import write_bag
from tiny_graphs import manifest as tiny_manifest
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import EngineInfo, Model, Options, open_engine
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train import evaluate as evaluate_module
from rgbx_seg_train import export as export_module
from rgbx_seg_train import export_scores, quantize
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.config import SOURCES, Config, DataConfig
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.data.labels import CLASS_SETS, TO_UNION, translation
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.export import Checks, export
from rgbx_seg_train.export_graph import BundleGraph, bundle_graph, exported_channels
from rgbx_seg_train.export_report import camera_notes
from rgbx_seg_train.export_scores import score
from rgbx_seg_train.frames import record
from rgbx_seg_train.models.blocks.segformer_head import SegformerHead
from rgbx_seg_train.pairs import Use, open_pairs
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.torch_engine import open_checkpoint

JOINT = ('data.classes=union70', 'data.test.0.classes=mfnet', 'data.train.0.classes=mfnet',
         'data.validate.0.classes=mfnet')


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


def write_checkpoint(folder, *overrides):
    """Write a checkpoint whose random weights prefer each class somewhere; test images are new."""
    config = small_config(folder, *overrides)
    held_out = write_folder(folder / 'held_out', ('00005D', '00006N', '00007N'))
    rng = np.random.default_rng(3)
    for path in sorted((held_out / 'rgb').iterdir()):
        cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
        label = rng.integers(0, 9, (HEIGHT, WIDTH)).astype(np.uint8)
        cv2.imwrite(str(held_out / 'label' / path.name), label)
    config = parse_config(override(config_to_dict(config), [f'data.test.0.root={held_out}']))
    torch.manual_seed(0)
    model = build_model(config, len(config.data.class_infos))
    with torch.no_grad():
        model.last.weight.mul_(8)
    path = folder / 'model.safetensors'
    save_checkpoint(path, config, len(config.data.class_infos), Progress(),
                    {'ema': model.state_dict()})
    return path, model.eval(), config


@pytest.fixture(scope='module')
def joint(tmp_path_factory):
    """Return a checkpoint of the union's classes, its model, and its bundle for MFNet's."""
    folder = tmp_path_factory.mktemp('joint')
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        path, model, config = write_checkpoint(folder, *JOINT)
        report = export(path, folder / 'bundle', {}, ['export.classes=mfnet',
                                                      'export.checkpoint=true'],
                        checks=Checks(evaluate=''))
    return path, model, config, folder / 'bundle', report


def images(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, HEIGHT, WIDTH, 3)).astype(np.uint8),
            rng.integers(0, 256, (1, HEIGHT, WIDTH, 1)).astype(np.uint8))


def logits_of(model, pair):
    with torch.inference_mode():
        return model(*normalize(*map(torch.from_numpy, pair))).numpy()[0]


def nothing_is_left(folder):
    return not [path for path in folder.iterdir() if path.name.startswith('.')
                or path.name == 'bundle']


def test_a_bundle_of_a_joint_network_chooses_among_one_data_sets_channels(joint):
    _, model, _, bundle, report = joint
    engine, manifest = open_engine(bundle, 'onnxruntime', 'fp32')
    assert [info.name for info in manifest.classes] == [c.name for c in CLASS_SETS['mfnet']]
    assert report.parity.labels >= 0.999 and report.parity.logits < 1e-5
    for seed in range(2):
        label, confidence = (array[0].copy() for array in engine(*images(seed)))
        rows = logits_of(model, images(seed))[list(TO_UNION['mfnet'])].astype(np.float64)
        assert (label == rows.argmax(0)).mean() > 0.999
        assert len(np.unique(rows.argmax(0))) >= 4
        among = np.exp(rows.max(0)) / np.exp(rows).sum(0)
        assert np.abs(confidence / 255.0 - among).max() <= 0.51 / 255 + 1e-4


def test_without_a_choice_a_joint_bundle_has_all_classes(joint, tmp_path):
    path, model, _, _, _ = joint
    export(path, tmp_path / 'all', {})
    engine, manifest = open_engine(tmp_path / 'all', 'onnxruntime', 'fp32')
    assert len(manifest.classes) == 70
    assert (engine(*images())[0][0] == logits_of(model, images()).argmax(0)).mean() > 0.999


def test_torch_answers_as_the_bundle_from_the_checkpoint_inside(joint):
    _, _, _, bundle, _ = joint
    ours, manifest = open_engine(bundle, 'onnxruntime', 'fp32')
    inside = open_checkpoint(bundle / 'model.safetensors', Model(bundle, manifest),
                             Options(asked_for=True))
    assert (inside(*images())[0] == ours(*images())[0]).mean() > 0.999


class Headed(nn.Module):
    """A network that ends in SegFormer's head."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(6, 8, 3, 2, 1)
        self.head = SegformerHead((8,), 16, 70, 0.1, folded=False)

    def forward(self, rgb, aux):
        logits = self.head([self.first(torch.cat([rgb, aux.expand_as(rgb)], 1))])
        return nn.functional.interpolate(logits, rgb.shape[2:], mode='bilinear')


def test_classes_that_are_left_out_are_not_computed():
    torch.manual_seed(0)
    model = Headed().eval()
    pair = tuple(map(torch.from_numpy, images()))
    chosen = TO_UNION['zju']
    with torch.inference_mode():
        expected = BundleGraph(model)(*pair)[2][:, list(chosen)]
        graph = BundleGraph(model, chosen=chosen)
        assert model.head.classify.weight.shape[0] == len(chosen) and graph.chosen == ()
        np.testing.assert_allclose(graph(*pair)[2], expected, atol=1e-5)


class Decoded(nn.Module):
    """A network whose decoder's logits are enlarged, as SHIFNet's."""

    def __init__(self):
        super().__init__()
        self.network = nn.Module()
        self.network.decoder = nn.Conv2d(6, 70, 3, 2, 1)

    def forward(self, rgb, aux):
        logits = self.network.decoder(torch.cat([rgb, aux.expand_as(rgb)], 1))
        return nn.functional.interpolate(logits, rgb.shape[2:], mode='bilinear')


def test_a_decoders_channels_are_chosen_before_they_are_enlarged():
    torch.manual_seed(0)
    model, pair = Decoded().eval(), tuple(map(torch.from_numpy, images()))
    with torch.inference_mode():
        expected = BundleGraph(model)(*pair)[2][:, list(TO_UNION['mfnet'])]
        found = BundleGraph(model, chosen=TO_UNION['mfnet'])
        assert found.chosen == ()
        torch.testing.assert_close(found(*pair)[2], expected)


@pytest.mark.parametrize('name', ['mfnet', 'deliver', 'nyu40', 'zju', 'urbanlf', 'union70'])
def test_the_channels_of_a_data_set_lead_back_to_its_ids(name):
    config = parse_config({'data': {'classes': 'union70'}, 'export': {'classes': name}})
    chosen = exported_channels(config) or tuple(range(70))
    ids = np.arange(len(CLASS_SETS[name]), dtype=np.uint8)
    assert tuple(translation(name, 'union70')[ids]) == chosen


@pytest.mark.parametrize(('own', 'wanted', 'sentence'), [
    ('union70', 'pst900', 'gives no fire_extinguisher, backpack, hand_drill; expected one of'),
    ('union70', 'fmb', 'gives no motorcycle; expected one of mfnet'),
    ('mfnet', 'nyu40', 'gives no wall, floor, cabinet, bed, chair …; expected one of mfnet;')])
def test_classes_that_a_network_has_no_channel_for_are_refused(own, wanted, sentence, tmp_path):
    path, _, _ = write_checkpoint(tmp_path, *(JOINT if own == 'union70' else ()))
    with pytest.raises(RgbxSegError, match=sentence):
        export(path, tmp_path / 'bundle', {}, [f'export.classes={wanted}'])
    assert nothing_is_left(tmp_path)


def test_a_modality_that_the_model_was_not_built_for_is_refused():
    model = nn.Identity()
    model.modalities = ('thermal', 'event')
    config = parse_config({'export': {'modality': 'depth'}})
    with pytest.raises(RgbxSegError, match='RGB and depth, but the model was built for thermal, e'):
        bundle_graph(model, config, replace(tiny_manifest(), modality='depth'))


def write_aux(folder, scale):
    """Replace the aux images of a folder by noise, at a scale of RGB's size; return them."""
    rng, found = np.random.default_rng(4), {}
    for path in sorted(folder.iterdir()):
        size = (round(HEIGHT * scale), round(WIDTH * scale))
        found[path.stem] = rng.integers(0, 256, size).astype(np.uint8)
        cv2.imwrite(str(path), found[path.stem])
    return found


@pytest.mark.parametrize('aux_scale', [1, 0.5])
def test_the_score_is_that_of_rgbx_evaluate_on_the_same_frames(tmp_path, monkeypatch, aux_scale):
    path, _, config = write_checkpoint(tmp_path, 'data.height=64', 'data.width=96')
    aux_of = write_aux(Path(config.data.test[0].root) / 'thermal', aux_scale)
    report = export(path, tmp_path / 'bundle', {'other_miou': 0.25},
                    checks=Checks(evaluate=''))
    found = report.scores.onnx
    manifest = load_bundle(tmp_path / 'bundle')
    # By hand, through the robot's segmenter.
    engine, _ = open_engine(tmp_path / 'bundle', 'onnxruntime', 'fp32')
    segmenter = Segmenter(engine, manifest)
    samples = open_source(config.data.test[0], config.data, native=True)
    parts = {name: Confusion(9) for name in ('all', 'day', 'night')}
    for sample in (samples[n] for n in range(len(samples))):
        label = segmenter(sample.rgb, aux_of[sample.name]).label
        for part in ('all', 'night' if sample.name.endswith('N') else 'day'):
            parts[part].update(label, sample.label)
    assert found.frames == 3 and found.miou == parts['all'].miou(strict=True) > 0
    assert found.miou_present == parts['all'].miou()
    assert (found.miou_day, found.miou_night) == (parts['day'].miou(strict=True),
                                                  parts['night'].miou(strict=True))
    assert abs(found.miou - report.scores.torch.miou) < export_scores.MOST_CHANGE
    # By the other command.
    (tmp_path / 'c.yaml').write_text(yaml.safe_dump(config_to_dict(config)))
    monkeypatch.setattr(sys, 'argv', [
        'rgbx_evaluate', str(tmp_path / 'bundle'), '--config', str(tmp_path / 'c.yaml'),
        '--backend', 'onnxruntime', '--precision', 'fp32', '--out', str(tmp_path / 's.json')])
    assert evaluate_module.main() == 0
    scores = json.loads((tmp_path / 's.json').read_text())
    assert (scores['miou'], scores['miou_present']) == (found.miou, found.miou_present)
    assert manifest.scored_on == 'test of small'
    assert manifest.scores['miou'] == round(found.miou, 6) and manifest.scores['frames'] == 3
    assert manifest.scores['other_miou'] == 0.25


def test_a_bundle_that_scores_otherwise_than_torch_is_not_written(tmp_path, monkeypatch):
    path, _, _ = write_checkpoint(tmp_path)
    measure = export_module.measure

    def half(*arguments):
        found = measure(*arguments)
        return replace(found, torch=replace(found.torch, miou=found.torch.miou + 0.006))

    monkeypatch.setattr(export_module, 'measure', half)
    with pytest.raises(RgbxSegError, match='has -0.[56]. points of mIoU against torch on test'):
        export(path, tmp_path / 'bundle', {}, checks=Checks(evaluate=''))
    assert nothing_is_left(tmp_path)


def mixed(tmp_path, **data):
    """Return a configuration of two modalities and three class sets."""
    sources = []
    for name, modality, classes in (('one', 'thermal', 'mfnet'), ('two', 'thermal', 'pst900'),
                                    ('three', 'depth', 'mfnet')):
        root = write_folder(tmp_path / name, ('00001D', '00002N'))
        if modality != 'thermal':
            (root / 'thermal').rename(root / modality)
        sources.append({'kind': 'folder', 'root': str(root), 'modality': modality,
                        'classes': classes})
    return parse_config({'name': 'mixed', 'data': {
        'height': HEIGHT, 'width': WIDTH, 'classes': 'union70', 'test': sources, 'train': sources,
        **data}})


def test_of_a_joint_configuration_those_of_the_bundle_are_taken(tmp_path):
    config, own = mixed(tmp_path), tiny_manifest()
    frames = record(open_pairs(config, own, Use('evaluate', 9)), own)
    assert len(frames) == 2 and {int(v) for f in frames for v in np.unique(f.target)} == {0, 2}
    union = replace(own, classes=CLASS_SETS['union70'])
    targets = [f.target for f in record(open_pairs(config, union, Use('evaluate', 9)), union)]
    # MFNet's unlabeled and person; PST900's background, and its backpack, which has no channel.
    assert [set(np.unique(t).tolist()) for t in targets] == [{25, 3}] * 2 + [{25, 255}] * 2
    zju = replace(own, classes=CLASS_SETS['zju'])
    with pytest.raises(RgbxSegError, match='labeled with the classes mfnet, pst900, the bundle kn'):
        open_pairs(config, zju, Use('evaluate', 9))
    assert len(open_pairs(config, zju, Use('calibrate', 9))) == 4  # ranges need no labels
    with pytest.raises(RgbxSegError, match='RGB and depth, thermal, the bundle takes'):
        open_pairs(config, replace(own, modality='event'), Use('evaluate', 9))


def test_a_bag_for_both_uses_is_halved(tmp_path):
    write_bag(tmp_path / 'bag')
    own = tiny_manifest()
    first, second = ([int(frame.target[0, 0]) for frame in record(
        open_pairs(str(tmp_path / 'bag'), own, Use(kind, 9, shared=True)), own)]
        for kind in ('calibrate', 'evaluate'))
    assert (first, second) == ([0, 1, 2], [3, 4, 5])


class Constant:
    """An engine that sees class 2 everywhere."""

    info = EngineInfo('constant', '', 'cpu', 'fp32')

    def __call__(self, rgb, aux, scene=None):
        return np.full(rgb.shape[:3], 2, np.uint8), np.zeros(rgb.shape[:3], np.uint8)

    def close(self):
        pass


def test_a_bag_is_scored_by_its_labels(tmp_path):
    write_bag(tmp_path / 'bag')
    own = tiny_manifest()
    pairs = open_pairs(str(tmp_path / 'bag'), own, Use('evaluate', 9))
    found = score(Constant(), own, pairs)  # frame n is all of class n
    assert found.frames == 6 and found.miou == pytest.approx(1 / 6 / 9)
    assert found.miou_present == pytest.approx(1 / 6 / 6)
    assert found.miou_day is None and found.miou_night is None


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['rgbx_export', *map(str, arguments)])
    code = export_module.main()
    return code, capsys.readouterr()


def test_one_command_exports_scores_and_adds_forms(tmp_path, monkeypatch, capsys):
    path, _, config = write_checkpoint(tmp_path)
    asked = []

    def keep(graph, feeds, kinds):
        asked.extend(feeds)
        return graph

    monkeypatch.setattr(quantize, 'for_onnxruntime', keep)
    code, said = command(monkeypatch, capsys, path, tmp_path / 'bundle', '--evaluate', '--variants',
                         'fp16,int8_onnxruntime', '--json', tmp_path / 'r.json')
    assert code == 0, said.err
    report = json.loads((tmp_path / 'r.json').read_text())
    manifest = load_bundle(tmp_path / 'bundle')
    assert [one.name for one in manifest.variants] == ['fp16', 'int8_onnxruntime']
    rows = {line.split()[0]: line.split() for line in said.out.splitlines()
            if line.startswith(('fp32 ', 'fp16 ', 'int8_onnxruntime ')) and '.' in line.split()[1]}
    miou = f'{100 * report["scores"]["onnx"]["miou"]:.2f}'
    assert rows['fp32'][2:] == ['100.000', miou, '3']
    assert rows['int8_onnxruntime'][2:5] == ['100.000', miou, '+0.00']
    assert rows['fp16'][5] == '3' and f'mIoU {miou} % ' in said.out.replace(',', ' ')
    # Calibrated on the images of data.train alone.
    training = open_source(config.data.train[0], config.data)
    known = {training[n].rgb.tobytes() for n in range(len(training))}
    assert len(asked) == 4 and {feed['rgb'][0].tobytes() for feed in asked} == known


def test_forms_that_fail_leave_no_bundle(tmp_path, monkeypatch, capsys):
    path, _, _ = write_checkpoint(tmp_path)

    def fail(*arguments, **more):
        raise RgbxSegError('found this; expected that; do so.')

    monkeypatch.setattr(export_module, 'add_variants', fail)
    code, said = command(monkeypatch, capsys, path, tmp_path / 'bundle', '--variants', 'fp16')
    assert code == 1 and 'found this' in said.err
    assert nothing_is_left(tmp_path)


@pytest.mark.parametrize(('arguments', 'sentence'), [
    (('--evaluate', 'nowhere'), 'no such bag'),
    (('--evaluate', 'nowhere.yaml'), 'no such configuration'),
    (('--evaluate', 'synthetic:none'), 'expected synthetic:COUNT'),
    (('--evaluate', 'export.classes=mfnet'), 'put settings before the options'),
    (('--evaluate', '--evaluation-pairs', '0'), '--evaluation-pairs is 0'),
    (('--variants', 'fp8'), 'form fp8: expected one of'),
    (('data.test=[]', '--evaluate'), 'data.test is empty'),
    (('data.test.0.modality=depth', '--evaluate'), 'its pairs are RGB and depth, the bundle'),
    (('data.classes=union70', 'export.classes=mfnet', '--evaluate'),
     'the network has 9 classes, but data.classes is union70 with 70')])
def test_bad_input_gets_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments,
                                                        sentence):
    path, _, _ = write_checkpoint(tmp_path)
    code, said = command(monkeypatch, capsys, path, tmp_path / 'bundle', *arguments)
    assert code == 1
    assert sentence in said.err and said.err.count('\n') == 1
    assert nothing_is_left(tmp_path)


def test_a_checkpoint_of_another_family_is_refused_in_one_sentence(tmp_path, monkeypatch, capsys):
    _, model, config = write_checkpoint(tmp_path)
    other = replace(config, model=replace(config.model, family='shifnet', preset='tiny'))
    save_checkpoint(tmp_path / 'other.safetensors', other, 9, Progress(),
                    {'ema': model.state_dict()})
    code, said = command(monkeypatch, capsys, tmp_path / 'other.safetensors', tmp_path / 'bundle')
    assert code == 1 and 'another version, family or size' in said.err and said.err.count('\n') == 1
    assert nothing_is_left(tmp_path)


def test_pairs_without_labels_are_no_score(tmp_path):
    write_bag(tmp_path / 'bag')
    pairs = open_pairs(str(tmp_path / 'bag'), tiny_manifest(), Use('evaluate', 9))
    unlabeled = type('Unlabeled', (), {
        'name': 'bag', '__len__': lambda self: len(pairs),
        'run': lambda self, segmenter: (seen._replace(target=None)
                                        for seen in pairs.run(segmenter))})()
    with pytest.raises(RgbxSegError, match='none of its 6 pairs has a label'):
        score(Constant(), tiny_manifest(), unlabeled)


def test_rendered_scenes_are_scored_for_the_classes_they_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tiny_manifest()
    found = record(open_pairs('synthetic:2', own, Use('evaluate', 9)), own)
    scenes = open_source(parse_config({'data': {'test': [
        {'kind': 'synthetic', 'first_seed': 2_000_000, 'count': 2}]}}).data.test[0], DataConfig(),
        native=True)
    assert [(f.target == scenes[n].label).all() for n, f in enumerate(found)] == [True, True]


@pytest.mark.parametrize('kind, aux, told', [('nyu', 'hha', 'HHA'), ('nyu', 'depth', ''),
                                             ('zju', 'aolp', 'angle-of-polarization'),
                                             ('zju', 'vector', '')])
def test_a_bundle_that_no_camera_can_feed_says_so(kind, aux, told):
    source = SOURCES[kind](root='x', aux=aux)
    config = Config(data=DataConfig(train=(source,)))
    modality = {'nyu': 'depth', 'zju': 'polarization'}[kind]
    notes = camera_notes(config, modality)
    assert [note.split(' images')[0] for note in notes] == [f'it learned from {told}'] * bool(told)
    assert camera_notes(config, 'thermal') == ()
