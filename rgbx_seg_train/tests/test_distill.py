# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The teacher's two terms against NumPy, and what a student, a teacher and bad settings do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import HEIGHT, WIDTH, Stub, small_config, write_folder
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import run
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import override, parse_config
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.sample import Batch
from rgbx_seg_train.distill import Teacher, cosines, dissimilarity, divergence, pooled
from rgbx_seg_train.losses import Objective
from rgbx_seg_train.models import FAMILIES, Family
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.train import train

TINY = {
    'segrgbx': ('tiny', {'dims': [8, 8, 8, 8], 'depths': [1, 1, 1, 1], 'heads': [1, 1, 2, 2],
                         'clip': None, 'dsrm': None, 'head_embed': 16}),
    'shifnet': ('micro', {'width': 16, 'text_dim': 24}),
    **{name: ('tiny', {}) for name in ('sartm', 'master', 'lmseg')},
    'stub': ('tiny', {}),
}


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    monkeypatch.setitem(FAMILIES, 'stub', Family(type(None), {'tiny': None}, Stub,
                                                 features='first'))


def config_of(tmp_path: Path, family: str = 'stub', *overrides: str) -> Config:
    preset, options = TINY[family]
    return parse_config(override({
        'name': 'student', 'out': str(tmp_path / 'runs'),
        'model': {'family': family, 'preset': preset, 'options': options},
        'data': {'height': HEIGHT, 'width': WIDTH, 'train': [{'kind': 'synthetic'}]},
        'distill': {'teacher': str(tmp_path / 'teacher.safetensors')},
    }, overrides))


def write_teacher(tmp_path: Path, config: Config) -> Path:
    """Write a checkpoint with random weights, as good a teacher as any for what is tested here."""
    torch.manual_seed(1)
    path, n_classes = tmp_path / 'teacher.safetensors', len(config.data.class_infos)
    model = built(config)
    save_checkpoint(path, replace(config, name='teacher'), n_classes, Progress(),
                    {'model': model.state_dict()})
    return path


def batch_of(label: np.ndarray | None = None, n: int = 2) -> Batch:
    rng = np.random.default_rng(3)
    rgb = rng.integers(0, 256, (n, HEIGHT, WIDTH, 3)).astype(np.uint8)
    aux = rng.integers(0, 256, (n, HEIGHT, WIDTH, 1)).astype(np.uint8)
    if label is None:
        label = rng.integers(0, 9, (n, HEIGHT, WIDTH)).astype(np.uint8)
    return Batch(rgb, aux, label, ('thermal',) * n, ('mfnet',) * n, ('',) * n)


def images_of(batch: Batch):
    return normalize(torch.from_numpy(batch.rgb), torch.from_numpy(batch.aux))


def student_of(config: Config, seed: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return built(config).train()


def built(config: Config) -> nn.Module:
    classes = config.data.class_infos
    model = build_model(config, len(classes))
    if hasattr(model, 'read_classes'):
        names = [info.name for info in classes]
        model.read_classes(names, [(name,) for name in names])
    return model


def oracle(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """KL(teacher || student) of each pixel in float64, logits (B, C, H, W), from its definition."""
    p, q = (np.exp(x / temperature - (x / temperature).max(1, keepdims=True))
            for x in (teacher.astype(np.float64), student.astype(np.float64)))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    return (p * np.log(p / q)).sum(1)


@pytest.mark.parametrize('temperature', (0.5, 1.0, 4.0))
def test_divergence_is_the_definition_times_the_square_of_the_temperature(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 2, 5, 4, 6)).astype(np.float32)
    weight = rng.random((2, 4, 6)).astype(np.float32).clip(0.5) - 0.5  # half of them 0
    pixels = temperature ** 2 * oracle(student, teacher, temperature)
    given = [torch.from_numpy(x) for x in (student, teacher)]
    equal = divergence(*given, temperature, torch.ones(2, 4, 6))
    assert equal.item() == pytest.approx(pixels.mean(), rel=1e-5)
    weighted = divergence(*given, temperature, torch.from_numpy(weight))
    assert weighted.item() == pytest.approx(np.average(pixels, weights=weight), rel=1e-5)
    assert divergence(*given, temperature, torch.zeros(2, 4, 6)) == 0


def binary_oracle(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """The same of C yes-or-no questions, their mean, from its definition in float64."""
    p, q = (1 / (1 + np.exp(-x.astype(np.float64) / temperature)) for x in (teacher, student))
    return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(1)


@pytest.mark.parametrize('temperature', (0.5, 1.0, 4.0))
def test_divergence_of_a_binary_student_is_that_of_each_class_by_itself(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 2, 5, 4, 6)).astype(np.float32)
    weight = rng.random((2, 4, 6)).astype(np.float32)
    expected = temperature ** 2 * np.average(binary_oracle(student, teacher, temperature),
                                             weights=weight)
    given = [torch.from_numpy(x) for x in (student, teacher, weight)]
    found = divergence(*given[:2], temperature, given[2], 'binary')
    assert found.item() == pytest.approx(expected, rel=1e-5)
    shifted = divergence(given[0] + 3, given[1], temperature, given[2], 'binary')
    assert shifted > 1.1 * found  # a softmax would not see it
    far = divergence(torch.full((1, 2, 1, 1), 200.0), torch.full((1, 2, 1, 1), -200.0), 1.0,
                     torch.ones(1, 1, 1), 'binary')
    assert far.item() == pytest.approx(200)


def test_divergence_of_equal_logits_is_zero_and_has_no_gradient():
    logits = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = divergence(logits, logits.detach() + 7, 2.0,  # softmax does not see a constant
                      torch.ones(1, 3, 3))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


def test_dissimilarity_sees_neither_channels_nor_width_nor_scale():
    maps = torch.randn(2, 6, 4, 5)
    other = torch.randn(2, 6, 4, 5)
    rotation = torch.linalg.qr(torch.randn(6, 6))[0]
    rotated = torch.einsum('dc,bchw->bdhw', rotation, maps)
    wide = torch.cat([maps, maps], 1)  # twice the channels, the same cosines
    for same in (maps, maps[:, torch.randperm(6)], rotated, wide, 3 * maps):
        assert dissimilarity(maps, same).item() == pytest.approx(0, abs=1e-10)
        assert dissimilarity(same, other).item() == pytest.approx(
            dissimilarity(maps, other).item(), rel=1e-4)
    assert dissimilarity(maps, other) > 0.01


def test_dissimilarity_does_not_see_what_all_places_of_an_image_share():
    maps, other = torch.randn(2, 6, 4, 5), torch.randn(2, 6, 4, 5)
    positive = maps - maps.amin((2, 3), keepdim=True)  # as a ReLU gives: no cosine below 0
    assert dissimilarity(maps, positive).item() == pytest.approx(0, abs=1e-10)
    assert dissimilarity(other, maps + 5).item() == pytest.approx(
        dissimilarity(other, maps).item(), rel=1e-4)
    assert torch.isfinite(cosines(torch.ones(1, 6, 4, 5))).all()
    assert not cosines(torch.ones(1, 6, 1, 1)).any()


def test_dissimilarity_is_the_mean_over_all_pairs_of_places():
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 5, 2, 2)
    places = [x[0].flatten(1).numpy() for x in (student, teacher)]
    places = [x - x.mean(1, keepdims=True) for x in places]
    total = 0.0
    for i in range(4):
        for j in range(4):
            cosine = [float(np.dot(a[:, i], a[:, j]) / np.linalg.norm(a[:, i])
                            / np.linalg.norm(a[:, j]))
                      for a in places]
            total += (cosine[0] - cosine[1]) ** 2
    assert dissimilarity(student, teacher).item() == pytest.approx(total / 16, rel=1e-5)
    assert cosines(student).shape == (1, 4, 4)


def test_maps_meet_on_the_coarser_grid_as_in_adaptive_pooling():
    fine = torch.randn(2, 3, 7, 9)
    for grid in ((7, 9), (3, 4), (1, 2)):
        torch.testing.assert_close(
            pooled(fine, grid), nn.functional.adaptive_avg_pool2d(fine, grid))
    coarse = torch.randn(2, 8, 3, 4)
    assert dissimilarity(fine, coarse).item() == pytest.approx(
        dissimilarity(pooled(fine, (3, 4)), coarse).item())


def taught(teacher, *given):
    """Return what a teacher adds to the loss of a student."""
    return teacher.weigh(teacher.terms(*given))


def test_teacher_keeps_weights_and_statistics_and_file_while_the_student_learns(tmp_path):
    config = config_of(tmp_path)
    path = write_teacher(tmp_path, config)
    file, student = path.read_bytes(), student_of(config)
    teacher = Teacher(config, student, 'cpu')
    before = {name: value.clone() for name, value in teacher._model.state_dict().items()}
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    losses = []
    for _ in range(8):
        batch = batch_of()
        rgb, aux = images_of(batch)
        loss = taught(teacher, student(rgb, aux, batch.modality), rgb, aux, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for name, value in teacher._model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in teacher._model.parameters())
    assert path.read_bytes() == file
    assert not teacher._model.training


def test_a_student_that_is_the_teacher_has_nothing_to_learn(tmp_path):
    config = config_of(tmp_path)
    write_teacher(tmp_path, config)
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    student.load_state_dict(teacher._model.state_dict())
    batch = batch_of()
    rgb, aux = images_of(batch)
    loss = taught(teacher, student.eval()(rgb, aux), rgb, aux, batch)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_pairs_without_labels_teach_through_the_teacher_alone(tmp_path):
    config = config_of(tmp_path)
    write_teacher(tmp_path, config)
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    batch = batch_of(np.full((2, HEIGHT, WIDTH), 255, np.uint8))
    rgb, aux = images_of(batch)
    logits = student(rgb, aux)
    objective = Objective(config.data, config.loss)
    target = objective.target(torch.from_numpy(batch.label))
    own = objective(logits, target, batch.classes, objective.weight(target, batch.classes))
    own.backward(retain_graph=True)
    assert all(not p.grad.any() for p in student.parameters() if p.grad is not None)
    taught(teacher, logits, rgb, aux, batch).backward()
    assert all(p.grad.any() for name, p in student.named_parameters() if name != 'first.bias')


def test_a_teacher_of_the_union_is_asked_only_about_the_students_classes(tmp_path):
    union = config_of(tmp_path, 'stub', 'data.classes=union70', 'distill.features=0')
    write_teacher(tmp_path, union)
    config = config_of(tmp_path, 'stub', 'data.classes=pst900', 'distill.features=0',
                       'distill.temperature=3')
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    label = np.random.default_rng(0).integers(0, 5, (2, HEIGHT, WIDTH)).astype(np.uint8)
    label[0, :9] = 255
    batch = batch_of(label)
    rgb, aux = images_of(batch)
    logits = student(rgb, aux)
    names = {info.name: info.id for info in CLASS_SETS['union70']}
    given = teacher._model(rgb, aux).numpy()[:, [names['unlabeled'], names['person']]]
    mine = logits.detach().numpy()[:, [0, 4]]  # PST900's background and survivor
    say = np.isin(label, (0, 4, 255))  # of a backpack the union knows nothing
    expected = 9 * oracle(mine, given, 3.0)[say].mean()
    loss = taught(teacher, logits, rgb, aux, batch)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert not student.last.bias.grad[1:4].any()
    assert student.last.bias.grad[[0, 4]].all()


def test_a_pixel_counts_by_the_weight_of_the_class_that_the_teacher_sees(tmp_path):
    config = config_of(tmp_path, 'stub', 'distill.features=0')
    write_teacher(tmp_path, config)
    student = student_of(config)
    weights = torch.linspace(1, 5, 9)
    teacher = Teacher(config, student, 'cpu', weights)
    batch = batch_of()
    rgb, aux = images_of(batch)
    logits = student(rgb, aux)
    given = teacher._model(rgb, aux).numpy()
    seen = np.exp(given) / np.exp(given).sum(1, keepdims=True)
    expected = np.average(4 * oracle(logits.detach().numpy(), given, 2.0),
                          weights=(seen * weights.numpy()[:, None, None]).sum(1))
    assert taught(teacher, logits, rgb, aux, batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('of_teacher', ('cross_entropy', 'binary'))
@pytest.mark.parametrize('of_student', ('cross_entropy', 'binary'))
def test_probabilities_are_those_of_the_criterion_that_each_was_trained_by(
        tmp_path, of_teacher, of_student):
    write_teacher(tmp_path, config_of(tmp_path, 'stub', f'loss.criterion={of_teacher}'))
    config = config_of(tmp_path, 'stub', f'loss.criterion={of_student}', 'distill.features=0',
                       'distill.temperature=3')
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    batch = batch_of()
    rgb, aux = images_of(batch)
    logits = student(rgb, aux)
    mine, given = logits.detach().numpy(), teacher._model(rgb, aux).numpy().astype(np.float64)
    if of_student == 'cross_entropy':
        pixels = oracle(mine, given, 3.0)
    elif of_teacher == 'binary':
        pixels = binary_oracle(mine, given, 3.0)
    else:
        others = np.stack([np.log(np.exp(np.delete(given, n, 1)).sum(1)) for n in range(9)], 1)
        pixels = binary_oracle(mine, given - others, 3.0)
    loss = taught(teacher, logits, rgb, aux, batch)
    assert loss.item() == pytest.approx(9 * pixels.mean(), rel=1e-4)


@pytest.mark.parametrize(('of_teacher', 'of_student'),
                         (('segrgbx', 'shifnet'), ('shifnet', 'segrgbx'), ('master', 'segrgbx'),
                          ('lmseg', 'shifnet'), ('sartm', 'lmseg')))
def test_each_family_teaches_another(tmp_path, of_teacher, of_student):
    write_teacher(tmp_path, config_of(tmp_path, of_teacher, 'data.height=64', 'data.width=64'))
    config = config_of(tmp_path, of_student, 'distill.own_size=true', 'train.precision=bf16')
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    batch = batch_of()
    rgb, aux = images_of(batch)
    optimizer = torch.optim.AdamW(student.parameters(), 3e-3)
    losses = []
    for _ in range(6):
        logits = student(rgb, aux, batch.modality, stride=2)
        loss = taught(teacher, logits, rgb, aux, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[1:]) < losses[0]
    assert np.isfinite(losses).all()


def test_features_alone_reach_the_student_below_its_head(tmp_path):
    config = config_of(tmp_path, 'segrgbx', 'distill.logits=0')
    write_teacher(tmp_path, config)
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    batch = batch_of()
    rgb, aux = images_of(batch)
    taught(teacher, student(rgb, aux, batch.modality), rgb, aux, batch).backward()
    assert all(p.grad is None or not p.grad.any() for p in student.head.parameters())
    assert student.stages[0].parameters().__next__().grad.any()


def test_closing_leaves_no_hook_in_the_student(tmp_path):
    config = config_of(tmp_path)
    write_teacher(tmp_path, config)
    student = student_of(config)
    teacher = Teacher(config, student, 'cpu')
    assert student.first._forward_hooks
    teacher.close()
    assert not student.first._forward_hooks


@pytest.mark.parametrize(('overrides', 'told'), (
    (['distill.teacher=absent.safetensors'], 'no such file'),
    (['data.train.0.modality=event'], 'has the modality event'),
    (['data.unlabeled=[{kind: synthetic, modality: depth}]'], 'has the modality depth'),
    (['data.classes=fmb'], 'expected the same classes'),
    (['data.classes=own', 'data.own_classes={grass: null, soil: null}'], 'the 2 of own'),
    (['model.family=plain'], 'names no feature map'),
))
def test_what_does_not_fit_is_one_sentence_before_the_first_step(
        tmp_path, monkeypatch, overrides, told):
    monkeypatch.setitem(FAMILIES, 'plain', Family(type(None), {'tiny': None}, Stub))
    monkeypatch.setattr(Stub, 'modalities', ('thermal',), raising=False)
    write_teacher(tmp_path, config_of(tmp_path))
    config = config_of(tmp_path, 'stub', *overrides)
    with pytest.raises(RgbxSegError, match=told) as caught:
        Teacher(config, student_of(config), 'cpu')
    assert '\n' not in str(caught.value)


def test_a_run_never_writes_over_its_teacher(tmp_path):
    config = config_of(tmp_path)
    path = write_teacher(tmp_path, config)
    folder = tmp_path / 'runs' / 'student'
    folder.mkdir(parents=True)
    path.rename(folder / 'best.safetensors')
    config = config_of(tmp_path, 'stub', f'distill.teacher={folder / "best.safetensors"}')
    with pytest.raises(RgbxSegError, match='in the folder that this run writes to'):
        Teacher(config, student_of(config), 'cpu')


def test_a_taught_run_resumes_to_the_very_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    write_teacher(tmp_path, config_of(tmp_path))
    extra = write_folder(tmp_path / 'extra', ('00005D', '00006D', '00007N'))
    overrides = (f'distill.teacher={tmp_path / "teacher.safetensors"}', 'train.workers=0',
                 f'data.unlabeled=[{{kind: folder, root: {extra}}}]')
    whole = small_config(tmp_path, 'name=whole', *overrides)
    train(whole)
    stopped = small_config(tmp_path, 'name=stopped', *overrides)
    save = run.save_checkpoint

    def save_then_die(path, *args):
        save(path, *args)
        if path.name == 'last.safetensors':
            raise KeyboardInterrupt

    monkeypatch.setattr(run, 'save_checkpoint', save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(run, 'save_checkpoint', save)
    torch.manual_seed(99)
    train(stopped, resume=True)
    untaught = small_config(tmp_path, 'name=untaught', *overrides, 'distill.logits=0',
                            'distill.features=0')
    train(untaught)
    expected, found, other = (load_file(tmp_path / 'runs' / name / 'last.safetensors')
                              for name in ('whole', 'stopped', 'untaught'))
    assert expected.keys() == found.keys()
    for key in expected:
        assert torch.equal(expected[key], found[key]), key
    assert not torch.equal(expected['model/last.weight'], other['model/last.weight'])
    text = (tmp_path / 'runs' / 'whole' / 'config.yaml').read_text(encoding='utf-8')
    assert 'teacher.safetensors' in text


def test_the_log_tells_each_term_of_the_teacher_before_it_is_weighted(tmp_path):
    write_teacher(tmp_path, config_of(tmp_path))
    for weight in (0, 2):
        train(small_config(tmp_path, f'name=w{weight}', 'train.workers=0', 'train.steps=1',
                           f'distill.teacher={tmp_path / "teacher.safetensors"}',
                           f'distill.logits={weight}', 'distill.features=0.5'))
    rows = [next(row for row in map(json.loads, (tmp_path / 'runs' / name / 'log.jsonl').open())
                 if 'loss' in row) for name in ('w0', 'w2')]
    assert all(row['loss_teacher_features'] > 0 for row in rows)
    assert rows[0]['loss_teacher_logits'] == pytest.approx(rows[1]['loss_teacher_logits'])
    assert rows[1]['loss'] - rows[0]['loss'] == pytest.approx(
        2 * rows[0]['loss_teacher_logits'], rel=1e-4)
