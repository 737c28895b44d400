# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation: the robot's numbers are those of its bags, and each data set has its own classes."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from small_runs import HEIGHT, WIDTH, Stub, small_config, use_stub, write_folder

from rgbx_seg_ros import RgbxSegError, eval_bag, make_bag
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train import evaluate as evaluate_module
from rgbx_seg_train import evaluate_run
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.config import DataConfig, FolderSource
from rgbx_seg_train.config_file import config_to_dict
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.labels import CLASS_SETS, channels
from rgbx_seg_train.evaluate_model import (
    Answer,
    BundleModel,
    CheckpointModel,
    kind_of,
    open_subject,
)
from rgbx_seg_train.evaluate_run import Options, evaluate_sets, open_sets
from rgbx_seg_train.export import export
from rgbx_seg_train.preprocess import normalize


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    """Return the bundle of a checkpoint, with the checkpoint and a configuration beside it."""
    folder = tmp_path_factory.mktemp('bundle')
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch)
        path, _, config = checkpoint(folder)
        export(path, folder / 'bundle', {})
    (folder / 'c.yaml').write_text(yaml.safe_dump(config_to_dict(config)))
    return folder / 'bundle'


def checkpoint(tmp_path, *overrides, name='model.safetensors', n_classes=9):
    """Write a checkpoint with random weights large enough to prefer each class somewhere."""
    config = small_config(tmp_path, *overrides)
    torch.manual_seed(0)
    model = build_model(config, n_classes)
    if isinstance(model, Stub):
        with torch.no_grad():
            model.last.weight.mul_(8)
    path = tmp_path / name
    save_checkpoint(path, config, n_classes, Progress(), {'ema': model.state_dict()})
    return path, model.eval(), config


def write_scenes(root, aux='thermal', ids=9, aux_size=(60, 88), count=6, size=(60, 88)):
    """Write pairs of noise with labels of rectangles and unlabeled rows; half are of the night."""
    rng = np.random.default_rng(1)
    for folder in ('rgb', aux, 'label'):
        (root / folder).mkdir(parents=True)
    for n in range(count):
        name = f'{n:05d}{"DN"[n % 2]}.png'
        label = np.kron(rng.integers(0, ids, (6, 8)), np.ones((10, 11))).astype(np.uint8)
        label[:7] = 255
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        rgb = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        other = rng.integers(0, 256, aux_size).astype(np.uint8)
        for folder, image in (('rgb', rgb), (aux, other), ('label', label)):
            cv2.imwrite(str(root / folder / name), image)
    return root


def command(monkeypatch, *args, module=evaluate_module):
    """Run a command; return its exit code."""
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, args)])
    return module.main()


@pytest.mark.parametrize('aux_size', [(60, 88), (30, 44)])
def test_a_bundle_has_the_numbers_of_a_bag_of_the_same_frames_exactly(
        tmp_path, monkeypatch, bundle, aux_size):
    root = write_scenes(tmp_path / 'scenes', aux_size=aux_size)
    assert command(monkeypatch, root, tmp_path / 'bag', '--rgb-rate', 10, '--aux-rate', 10,
                   module=make_bag) == 0
    assert eval_bag.main([str(tmp_path / 'bag'), '--bundle', str(bundle), '--out',
                          str(tmp_path / 'bags'), '--backend', 'onnxruntime', '--no-video']) == 0
    of_bag = np.load(tmp_path / 'bags' / 'bags' / 'bag' / 'counts.npz')
    report = json.loads((tmp_path / 'bags' / 'report.json').read_text())['scores'][0]

    data = DataConfig(test=(FolderSource(root=str(root)),))
    model = BundleModel(bundle, 'onnxruntime')
    found = evaluate_sets(model, open_sets(data.test, data), data, Options())
    totals = found.results[0].totals[0]
    assert totals.confusion.sum() == 6 * 53 * 88 and np.diag(totals.confusion).sum() > 500
    assert len(np.unique(of_bag['0_fractions'])) > 20 and totals.calibration.any(1).sum() > 50
    for name in ('confusion', 'abstained', 'boundary', 'calibration', 'counts', 'fractions'):
        assert np.array_equal(getattr(totals, name), of_bag[f'0_{name}']), name
    row = found.summary['sets']['scenes thermal']
    for ours, theirs in (('miou_present', 'miou'), ('miou', 'miou_strict'), ('ece', 'ece'),
                         ('accuracy', 'accuracy'), ('mean_accuracy', 'mean_accuracy'),
                         ('boundary_miou', 'boundary_miou'), ('confusion', 'confusion'),
                         ('reliability', 'reliability')):
        assert row[ours] == report[theirs], ours
        assert ours in ('confusion', 'reliability') or found.summary[ours] == report[theirs]


def test_a_checkpoint_has_the_masks_of_its_bundle(tmp_path, bundle):
    path = bundle.parent / 'model.safetensors'
    root = write_scenes(tmp_path / 'scenes', aux_size=(30, 44))
    data = DataConfig(test=(FolderSource(root=str(root)),))
    tables = [evaluate_sets(model, open_sets(data.test, data), data, Options()).results[0]
              .totals[0].confusion for model in (CheckpointModel(path),
                                                 BundleModel(bundle, 'onnxruntime'))]
    assert np.abs(tables[0] - tables[1]).sum() <= 4  # ties of rounding


def test_a_joint_network_is_scored_on_each_set_among_its_own_classes(tmp_path):
    sources = [{'kind': 'folder', 'root': str(write_scenes(tmp_path / 'a', 'thermal', 9)),
                'modality': 'thermal', 'classes': 'mfnet'},
               {'kind': 'folder', 'root': str(write_scenes(tmp_path / 'b', 'depth', 14)),
                'modality': 'depth', 'classes': 'fmb'}]
    path, network, config = checkpoint(
        tmp_path, 'data.classes=union70', f'data.test={yaml.safe_dump(sources)}',
        f'data.train={yaml.safe_dump(sources)}', n_classes=70)
    model = CheckpointModel(path)
    found = evaluate_sets(model, open_sets(config.data.test, config.data), config.data, Options())
    assert set(found.summary['sets']) == {'a thermal', 'b depth'}
    for (name, samples), own in zip(open_sets(config.data.test, config.data), ('mfnet', 'fmb'),
                                    strict=True):
        expected = Confusion(len(CLASS_SETS[own]))
        for sample in (samples[n] for n in range(len(samples))):
            expected.update(by_hand(network, sample, own), sample.label)
        row = found.summary['sets'][name]
        assert row['classes'] == own and row['miou'] == expected.miou(strict=True)
        assert np.array_equal(row['confusion'], expected.matrix)
        assert list(row['iou']) == [info.name for info in CLASS_SETS[own]]
    rows = found.summary['sets'].values()
    assert found.summary['miou'] == pytest.approx(np.mean([row['miou'] for row in rows]))
    assert 'iou' not in found.summary  # the sets have no classes in common


def by_hand(network, sample, own):
    """Return the ids that a network of the union gives a sample, computed step by step."""
    size = (WIDTH, HEIGHT)
    rgb, aux = (cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).reshape(HEIGHT, WIDTH, -1)
                for image in (sample.rgb, sample.aux))
    with torch.no_grad():
        logits = network(*normalize(*(torch.from_numpy(image[None]) for image in (rgb, aux))))[0]
    known = [(own_id, channel) for own_id, channel in enumerate(channels(own, 'union70'))
             if channel != 255]
    best = logits[[channel for _, channel in known]].argmax(0).numpy()
    label = np.array([own_id for own_id, _ in known], np.uint8)[best]
    return cv2.resize(label, sample.label.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def test_settings_of_the_model_change_what_a_checkpoint_answers_or_are_refused(tmp_path):
    own = ('model.family=sartm', 'model.preset=tiny', 'model.modalities=[thermal]')
    path, model, _ = checkpoint(tmp_path, *own)
    rgb, aux = torch.rand(2, 1, 3, 64, 64)
    answers = [open_subject(path, overrides=[f'model.options.branch={branch}'])._model(
        rgb, aux, ['thermal']) for branch in ('aux', 'sam')]
    torch.testing.assert_close(answers[0], model(rgb, aux, ['thermal']))
    assert (answers[1] - answers[0]).abs().max() > 1e-3
    with pytest.raises(RgbxSegError, match='do not fit the model .* leave out settings'):
        open_subject(path, overrides=['model.options.rank=3'])
    with pytest.raises(RgbxSegError, match='is as it was exported; expected a checkpoint with'):
        open_subject(tmp_path, overrides=['model.options.rank=3'])


def test_checkpoint_and_bundle_are_scored_alike_at_the_images_own_size(tmp_path):
    path, _, config = checkpoint(tmp_path, 'data.height=64', 'data.width=96')
    export(path, tmp_path / 'bundle', {})
    results = [evaluate_sets(open_subject(model), open_sets(config.data.test, config.data),
                             config.data, Options()).summary
               for model in (path, tmp_path / 'bundle')]
    assert results[0]['miou'] == pytest.approx(results[1]['miou'], abs=2e-3)
    assert results[0]['frames'] == 4
    segmenter, confusion = Segmenter(*open_engine(tmp_path / 'bundle')), Confusion(9)  # by hand
    samples = FolderDataset(config.data.test[0], 'thermal', CLASS_SETS['mfnet'])
    for sample in (samples[n] for n in range(4)):
        label = segmenter(sample.rgb, sample.aux).label
        assert label.shape == (HEIGHT, WIDTH)
        confusion.update(label, sample.label)
    assert results[1]['miou'] == confusion.miou(strict=True)
    assert results[1]['miou_present'] == confusion.miou()


class Oracle:
    """Stands for a model that knows the truth: the person is bright."""

    as_robot = True

    def check(self, kind, data):
        """Fit everything."""

    def predictor(self, kind, data):
        """Return how it answers."""
        return self.answer

    def answer(self, sample):
        label = np.where(cv2.cvtColor(sample.rgb, cv2.COLOR_RGB2GRAY) > 100, 2, 0).astype(np.uint8)
        label = np.where(sample.aux[..., 0] > 100, label, 0).astype(np.uint8)
        return Answer(label, np.full_like(label, 255))


def test_a_perfect_model_scores_one_and_a_blind_one_misses(tmp_path):
    write_folder(tmp_path / 'boxed', boxes=True)
    data = DataConfig(test=(FolderSource(root=str(tmp_path / 'boxed'), boxes_dir='boxes'),))
    result, blind = (evaluate_sets(Oracle(), open_sets(data.test, data), data,
                                   Options(zero_aux)).summary for zero_aux in (False, True))
    assert result['miou_present'] == 1 and result['miou'] == pytest.approx(2 / 9)
    assert result['miou_present_night'] == result['mean_accuracy'] == result['boundary_miou'] == 1
    assert result['ece'] == 0
    assert result['box_score']['night']['person'] == {'boxes': 2, 'hit_rate': 1.0, 'inside': 1.0}
    assert blind['box_score']['all']['person']['hit_rate'] == 0
    assert blind['iou']['person'] == 0
    assert blind['mean_accuracy'] == 0.5 and blind['conditions']['time']['day']['frames'] == 2


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    path, _, _ = checkpoint(tmp_path)
    out = tmp_path / 'scores.json'
    assert command(monkeypatch, path, '--out', out) == 0
    result = json.loads(out.read_text())
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith('miou '))
    assert f'{100 * result["miou"]:.1f}' in line
    assert result['split'] == 'test' and result['model'] == 'small'
    assert result['protocol'] == 'robot' and 'robustness' not in result


def test_a_report_is_a_folder_that_holds_everything(tmp_path, monkeypatch):
    path, _, _ = checkpoint(tmp_path)
    out = tmp_path / 'deep' / 'report'
    for _ in range(2):  # the second takes the place of the first
        assert command(monkeypatch, path, '--out', out, '--pictures', 1) == 0
    assert {one.name for one in out.iterdir()} == {'index.html', 'report.json', 'frames.csv',
                                                  'pictures'}
    assert [one.name for one in out.parent.iterdir()] == ['report']
    result = json.loads((out / 'report.json').read_text())
    faults = [row['fault'] for row in result['robustness']]
    assert faults[:3] == ['none', 'aux_missing', 'rgb_black'] and len(faults) == 10
    page = (out / 'index.html').read_text()
    for words in ('Worst frames', 'Can confidence be believed?', 'Thermal missing', 'boundary IoU',
                  'By condition', 'Confusion', '00001D'):
        assert words in page
    assert len((out / 'frames.csv').read_text().splitlines()) == 5
    assert list((out / 'pictures' / '00').glob('*_0_error.png'))


def test_a_report_that_fails_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    path, _, _ = checkpoint(tmp_path)
    out = tmp_path / 'report'
    assert command(monkeypatch, path, '--out', out) == 0
    before = (out / 'report.json').read_bytes()

    def fail(*_):
        raise RgbxSegError('the disk is gone, expected one.')

    monkeypatch.setattr(evaluate_run.SetRun, 'result', fail)
    assert command(monkeypatch, path, '--out', out) == 1
    assert (out / 'report.json').read_bytes() == before
    assert not [one for one in tmp_path.iterdir() if one.name.startswith('.')]


def test_a_folder_of_something_else_is_not_replaced(tmp_path, monkeypatch, capsys):
    path, _, _ = checkpoint(tmp_path)
    out = tmp_path / 'mine'
    out.mkdir()
    (out / 'report.json').write_text('{"bags": []}')
    assert command(monkeypatch, path, '--out', out) == 1
    assert 'which rgbx_evaluate did not write' in capsys.readouterr().err
    (out / 'thesis.txt').write_text('years')
    assert command(monkeypatch, path, '--out', out) == 1
    assert (out / 'thesis.txt').read_text() == 'years'


@pytest.mark.parametrize(('place', 'words'), [
    ('folder.json', 'folder.json is a folder; expected the name of a JSON file'),
    ('file/scores.json', 'no file can be written in'),
])
def test_a_place_that_takes_no_scores_is_refused_before_anything_runs(
        tmp_path, monkeypatch, capsys, place, words):
    (tmp_path / 'folder.json').mkdir()
    (tmp_path / 'file').write_text('')
    assert command(monkeypatch, tmp_path / 'no.safetensors', '--out', tmp_path / place) == 1
    assert words in capsys.readouterr().err  # and not of the checkpoint, which is not there


def test_scores_that_cannot_be_written_are_told_nevertheless(tmp_path, monkeypatch, capsys):
    path, _, _ = checkpoint(tmp_path)
    out = tmp_path / 'scores' / 's.json'

    def fill(*arguments):
        (out / 'taken').mkdir(parents=True)
        return evaluate_sets(*arguments)

    monkeypatch.setattr(evaluate_module, 'evaluate_sets', fill)
    assert command(monkeypatch, path, '--out', out) == 1
    said = capsys.readouterr()
    assert 'miou ' in said.out and 's.json' in said.err
    assert [one.name for one in out.parent.iterdir()] == ['s.json']


@pytest.mark.parametrize(('given', 'words'), [
    ((), '--config'),
    (('data.test=[]',), 'data.test is empty'),
    (('data.modality=depth',), 'depth'),  # which the folder has not
    (('data.classes=fmb',), 'knows the classes unlabeled, car'),
    (('--protocol', 'paper'), 'expected a checkpoint for --protocol paper'),
    (('--flip',), 'are of --protocol paper'),
    (('--robustness', '-1'), '--robustness is -1'),
])
def test_what_does_not_fit_a_bundle_is_one_sentence(monkeypatch, capsys, bundle, given, words):
    settings = ('--config', bundle.parent / 'c.yaml') if given else ()
    assert command(monkeypatch, bundle, *given, *settings) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count('\n') == 1


def test_a_bundle_of_another_modality_than_the_datas_is_not_scored(tmp_path, bundle):
    source = FolderSource(root=str(write_scenes(tmp_path / 'd', 'depth')), modality='depth')
    data = DataConfig(test=(source,))
    with pytest.raises(RgbxSegError, match='is for thermal, the data are depth'):
        evaluate_sets(BundleModel(bundle), open_sets(data.test, data), data,
                      Options())


def test_a_checkpoint_of_another_family_or_modality_is_not_scored(tmp_path, monkeypatch, capsys):
    path, _, config = checkpoint(tmp_path)
    other = config_to_dict(config)
    other['model'] = {'family': 'shifnet'}
    (tmp_path / 'other.yaml').write_text(yaml.safe_dump(other))
    assert command(monkeypatch, path, '--config', tmp_path / 'other.yaml') == 1
    assert 'of the family stub' in capsys.readouterr().err
    assert command(monkeypatch, path, '--config', tmp_path / 'other.yaml',
                   'model.family=stub') == 0
    write_scenes(tmp_path / 'd', 'depth')
    assert command(monkeypatch, path, f'data.test.0.root={tmp_path / "d"}',
                   'data.test.0.modality=depth') == 1
    assert 'was trained with thermal, the data are depth' in capsys.readouterr().err
    assert command(monkeypatch, path, 'data.test.0.root=/nowhere') == 1
    assert command(monkeypatch, tmp_path / 'none.safetensors') == 1


def test_samples_of_one_name_count_together_and_others_apart(tmp_path):
    for name in ('x/set', 'y/set', 'other'):
        write_scenes(tmp_path / name, count=2)
    sources = [FolderSource(root=str(tmp_path / name)) for name in ('x/set', 'y/set', 'other')]
    data = DataConfig(test=(*sources, sources[2]))
    names = [one.name for one in open_sets(data.test, data)]
    assert names == [f'{tmp_path / "x/set"} thermal', f'{tmp_path / "y/set"} thermal',
                     'other thermal', 'other thermal']
    path, _, _ = checkpoint(tmp_path)
    found = evaluate_sets(CheckpointModel(path), open_sets(data.test, data), data, Options())
    assert found.summary['sets']['other thermal']['frames'] == 4
    assert found.summary['frames'] == 8


def test_the_same_weights_serve_all_samples_of_a_kind(tmp_path):
    path, _, config = checkpoint(tmp_path)
    model, sample = CheckpointModel(path), FolderDataset(
        config.data.test[0], 'thermal', CLASS_SETS['mfnet'])[0]
    kind = kind_of(sample, config.data)
    assert model.predictor(kind, config.data) is model.predictor(kind, config.data)
