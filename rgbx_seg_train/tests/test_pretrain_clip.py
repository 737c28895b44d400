# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MA-CLIP's first stage: equation 1, what learns and what stays, resuming, and the probe."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from clip_runs import HEIGHT, SCENES, TINY, WIDTH, clip_config, write_scenes

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import clip_probe, pretrain_clip
from rgbx_seg_train import train as train_module
from rgbx_seg_train.captions import caption_table
from rgbx_seg_train.checkpoint import (
    Progress,
    build_model,
    initialize,
    load_checkpoint,
    save_checkpoint,
)
from rgbx_seg_train.clip_batches import PairBatches
from rgbx_seg_train.clip_loss import contrastive_loss, gather_embeddings
from rgbx_seg_train.clip_probe import probe, probe_checkpoint, retrieval
from rgbx_seg_train.clip_start import build_clip_model, choose_trained
from rgbx_seg_train.config_file import config_to_dict, load_config
from rgbx_seg_train.data.sources import open_all
from rgbx_seg_train.pretrain_clip import learning_rate_factor, pretrain


def random_rows(count, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def numpy_loss(images, texts, captions, scale):
    """Equation 1, one row and one column at a time."""
    images, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, texts))
    total, count = 0.0, len(captions)
    for rows, columns in ((images, texts), (texts, images)):
        for n in range(count):
            logits = scale * columns @ rows[n]
            logs = logits - logits.max()
            logs = logs - np.log(np.exp(logs).sum())
            total -= np.mean([logs[m] for m in range(count) if captions[m] == captions[n]])
    return total / (2 * count)


@pytest.mark.parametrize('captions', [[0, 1, 2, 3], [0, 1, 0, 1], [0, 0, 0, 3], [2, 2, 2, 2]])
def test_the_loss_is_equation_1(captions):
    images, texts = random_rows(4), random_rows(4, seed=1)
    loss, floor = contrastive_loss(images, texts, torch.tensor(captions), 7.0)
    expected = numpy_loss(images.double().numpy(), texts.double().numpy(), captions, 7.0)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(floor) == pytest.approx(np.mean([np.log(captions.count(c)) for c in captions]))


def test_captions_that_all_differ_give_clips_own_loss_of_the_repeated_texts():
    images, text = random_rows(8), random_rows(4, seed=1)
    ids = torch.arange(4).repeat(2)
    loss, floor = contrastive_loss(images, text[ids], ids, 10.0)
    logits = 10.0 * torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(
        text[ids]).T
    paper = (torch.nn.functional.cross_entropy(logits, torch.arange(8))
             + torch.nn.functional.cross_entropy(logits.T, torch.arange(8))) / 2
    torch.testing.assert_close(loss, paper)
    assert float(floor) == pytest.approx(np.log(2))


def test_images_of_one_caption_are_not_pushed_apart():
    texts = torch.eye(4)[[0, 0, 1, 1]]
    captions = torch.tensor([0, 0, 1, 1])
    images = texts.clone().requires_grad_(True)
    loss, floor = contrastive_loss(images, texts, captions, 100.0)
    assert float(loss.detach()) == pytest.approx(float(floor), abs=1e-6)  # as good as can be
    loss.backward()
    assert images.grad.abs().max() < 1e-6
    told_apart, _ = contrastive_loss(images, texts, torch.arange(4), 100.0)
    assert float(told_apart) > 0.69  # were they told apart, two of four would still compete


def fake_process(rank, everyone):
    return SimpleNamespace(num_processes=2, process_index=rank, gather=lambda own: everyone)


def test_two_processes_have_the_gradient_of_one_with_the_doubled_batch():
    weight = torch.randn(3, 5, requires_grad=True)
    inputs, texts, ids = random_rows(8, 3), random_rows(8, seed=2), torch.tensor([0, 1, 2, 1] * 2)
    contrastive_loss(inputs @ weight, texts, ids, 5.0)[0].backward()
    whole, weight.grad = weight.grad, None
    everyone = (inputs @ weight).detach()
    losses = []
    for rank in range(2):
        own = inputs[4 * rank:4 * rank + 4] @ weight
        rows = gather_embeddings(own, fake_process(rank, everyone))
        loss = contrastive_loss(rows, texts, ids, 5.0)[0]
        losses.append(float(loss))
        (loss * 2 / 2).backward()  # times the processes, then the mean over them
    assert losses[0] == losses[1]
    torch.testing.assert_close(weight.grad, whole)


def open_batches(config, world=1):
    sets = open_all(config.data.train, config.data, labeled=False)
    captions = caption_table(config.data.train, sets, config.pretrain.captions)
    return PairBatches(sets, captions, config, world)


def test_each_batch_has_one_modality_and_each_pair_comes_once_a_pass(tmp_path):
    config = clip_config(tmp_path, 'pretrain.epochs=2')
    batches = open_batches(config)
    assert batches.steps == 2 * 2 * SCENES // 2
    seen = {name: Counter() for name in ('thermal', 'event')}
    for step in range(batches.steps):
        batch = batches.batch(step)
        seen[batch.modality].update(batch.captions.tolist())
        assert len(set(batch.captions.tolist())) == len(batch.rgb) == 2
    for counter in seen.values():
        assert counter == Counter({n: 2 for n in range(SCENES)})


@pytest.mark.parametrize(('size', 'whole'), [(4, 1), (5, 1), (2, 3)])
def test_no_pair_comes_twice_in_a_pass_and_what_a_pass_leaves_out_comes_in_another(
        tmp_path, size, whole):
    batches = open_batches(clip_config(tmp_path, f'pretrain.batch_size={size}',
                                       'pretrain.epochs=20'))
    drawn = {name: [] for name in batches.modalities}
    for step in range(batches.steps):
        batch = batches.batch(step)
        drawn[batch.modality].append(batch.captions.tolist())
    for rows in drawn.values():
        passes = [sum(rows[n:n + whole], []) for n in range(0, len(rows), whole)]
        assert all(len(set(seen)) == len(seen) for seen in passes)
        assert {n for seen in passes for n in seen} == set(range(SCENES))


def test_a_pair_that_cannot_be_read_is_replaced_by_another_even_twice_in_a_batch(tmp_path):
    batches = open_batches(clip_config(tmp_path, f'pretrain.batch_size={SCENES}'))
    (tmp_path / 'scenes' / 'rgb' / '003.png').write_bytes(b'no image')
    batch = batches.batch(0)
    assert len(batch.captions) == SCENES and len(batch.corrupt) >= 1
    assert set(batch.captions.tolist()) == set(range(SCENES)) - {3}


def test_a_batch_is_a_function_of_its_step_and_shared_by_the_processes(tmp_path):
    together = open_batches(clip_config(tmp_path, 'pretrain.batch_size=4'))
    shared = open_batches(clip_config(tmp_path), world=2)
    for step in range(min(together.steps, shared.steps)):
        whole, again = together.batch(step), together.batch(step)
        halves = [shared.batch(step, rank) for rank in range(2)]
        assert whole.modality == halves[0].modality == halves[1].modality
        for name in ('rgb', 'aux', 'captions'):
            assert np.array_equal(getattr(whole, name), getattr(again, name))
            assert np.array_equal(getattr(whole, name),
                                  np.concatenate([getattr(half, name) for half in halves]))
    ahead = [batch.captions.tolist() for batch in shared.ahead(1, 1, workers=3)]
    assert ahead == [shared.batch(step, 1).captions.tolist() for step in range(1, shared.steps)]


def test_weights_of_sources_decide_how_often_a_modality_comes(tmp_path):
    config = clip_config(tmp_path, 'data.train.0.weight=3', 'pretrain.epochs=4')
    batches = open_batches(config)
    steps = Counter(batches.batch(step).modality for step in range(batches.steps))
    assert steps == {'thermal': 18, 'event': 6}


def start(config):
    """Write the checkpoint that `train.init` names; return its tensors."""
    torch.manual_seed(11)
    model = build_model(config, len(config.data.class_infos))
    save_checkpoint(Path(config.train.init), config, len(config.data.class_infos), Progress(),
                    {'model': model.state_dict()})
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def log_lines(path):
    lines = (path.parent / 'log.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def changed(before, path):
    after = load_checkpoint(path).group('model')
    assert after.keys() == before.keys()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def test_only_the_pool_changes_and_training_takes_the_checkpoint(tmp_path):
    config = clip_config(tmp_path)
    before = start(config)
    path = pretrain(config)
    names = changed(before, path)
    assert names and all('.lora_' in name for name in names)
    for modality in ('thermal', 'event'):
        assert any(f'.lora_B.{modality}.' in name for name in names)

    model = build_model(config, len(config.data.class_infos))
    assert initialize(model, path, 'segrgbx') == len(before)
    lines = log_lines(path)
    assert [line['step'] for line in lines] == [1, 2, 3, 4]
    assert all(line['loss'] >= line['floor'] - 1e-5 for line in lines)


def test_labels_are_not_read_and_need_not_be_there(tmp_path):
    config = clip_config(tmp_path)
    start(config)
    whole = load_checkpoint(pretrain(config)).tensors
    label = tmp_path / 'scenes' / 'label'
    (label / '000.png').unlink()
    for name in ('001', '002', '003', '004', '005'):  # an id that no class has
        cv2.imwrite(str(label / f'{name}.png'), np.full((HEIGHT, WIDTH), 99, np.uint8))
    tensors = load_checkpoint(pretrain(clip_config(tmp_path, 'name=unlabeled'))).tensors
    assert all(torch.equal(whole[name], tensors[name]) for name in whole)


def test_the_log_tells_the_wait_for_data_from_work_and_counts_no_saving(tmp_path, monkeypatch):
    clock = [0.0]

    def slow(function, seconds):
        def called(*args, **options):
            clock[0] += seconds
            return function(*args, **options)
        return called

    def ahead(self, first, rank, workers):
        for step in range(first, self.steps):
            clock[0] += 2
            yield self.batch(step, rank)

    config = clip_config(tmp_path, 'train.save_every=1', 'train.log_every=2')
    start(config)
    monkeypatch.setattr(pretrain_clip, 'time', SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(PairBatches, 'ahead', ahead)
    monkeypatch.setattr(pretrain_clip, 'save_checkpoint', slow(save_checkpoint, 100))
    monkeypatch.setattr(pretrain_clip, 'contrastive_loss', slow(contrastive_loss, 1))
    lines = log_lines(pretrain(config))
    assert [(line['step'], line['data_ms'], line['step_ms']) for line in lines] == [
        (2, 2000, 1000), (4, 2000, 1000)]
    assert [line['elapsed_s'] for line in lines] == [106, 312]


def test_a_batch_changes_the_lora_of_its_modality_alone(tmp_path):
    config = clip_config(tmp_path, modalities=('event',))
    before = start(config)
    names = changed(before, pretrain(config))
    assert names and all('.event.' in name and '.lora_' in name for name in names)


def test_a_tower_without_pretraining_learns_as_a_whole_but_nothing_else(tmp_path):
    config = clip_config(tmp_path, 'pretrain.trained=tower')
    before = start(config)
    names = changed(before, pretrain(config))
    assert all(name.startswith('clip.tower.') for name in names)
    assert any('.lora_' not in name for name in names)
    model = build_clip_model(config)
    count = len(choose_trained(model, config.pretrain))
    assert count == len(list(model.clip.parameters())) < len(list(model.parameters()))


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    config = clip_config(tmp_path)
    start(config)
    whole = load_checkpoint(pretrain(config)).tensors

    calls = []

    def killed(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return contrastive_loss(*args)

    config = clip_config(tmp_path, 'name=killed')
    monkeypatch.setattr(pretrain_clip, 'contrastive_loss', killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    path = Path(config.out) / 'killed' / pretrain_clip.CLIP
    assert load_checkpoint(path).progress.step == 2
    monkeypatch.setattr(pretrain_clip, 'contrastive_loss', contrastive_loss)
    resumed = load_checkpoint(pretrain(config, resume=True)).tensors
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert [line['step'] for line in log_lines(path)] == [1, 2, 3, 4]

    with pytest.raises(RgbxSegError, match='its pretrain settings differ'):
        pretrain(clip_config(tmp_path, 'name=killed', 'pretrain.lr=1'), resume=True)


def test_the_pairs_are_learned(tmp_path):
    config = clip_config(
        tmp_path, 'pretrain.trained=tower', 'pretrain.epochs=20', 'pretrain.lr=3e-3',
        'pretrain.batch_size=6', 'augment.p_flip=0', 'augment.rgb_gain=0', 'augment.rgb_gamma=0',
        'augment.zoom_low=1', 'augment.zoom_high=1', 'train.log_every=4', 'train.save_every=100')
    start(config)
    lines = log_lines(pretrain(config))
    excess = [line['loss'] - line['floor'] for line in lines]
    assert excess[-1] < 0.8 * excess[0]


@pytest.mark.parametrize(('overrides', 'sentence'), [
    (['model.family=shifnet', 'model.options={}'], 'model.family is shifnet; expected segrgbx'),
    ([f'model.options={json.dumps(TINY | {"clip": None})}'], 'clip is null'),
    (['model.modalities=[thermal, depth]'], 'data.train has a source of event'),
    (['train.init=""'], 'train.init is empty'),
    (['train.precision=fp16'], 'train.precision is fp16'),
    (['train.accumulate=2'], 'train.accumulate is 2; expected 1'),
    (['train.gradient_checkpointing=true'], 'gradient_checkpointing is true; expected false'),
    (['data.train=[]'], 'holds nothing to learn from'),
    (['pretrain.text_model=./nowhere'], 'no such file or folder'),
    (['pretrain.captions=""'], 'no caption for 12 images'),
])
def test_what_does_not_fit_is_refused_before_the_first_step(tmp_path, overrides, sentence):
    config = clip_config(tmp_path)
    start(config)
    with pytest.raises(RgbxSegError, match=sentence) as error:
        pretrain(clip_config(tmp_path, *overrides))
    assert '\n' not in str(error.value)
    assert not (Path(config.out) / 'clip' / pretrain_clip.CLIP).exists()


@pytest.mark.parametrize('command', [pretrain_clip, train_module])
@pytest.mark.parametrize('found', ['clip', 'last'])
def test_neither_command_replaces_the_log_of_a_run_unasked(
        tmp_path, monkeypatch, capsys, command, found):
    config = clip_config(tmp_path)
    file = tmp_path / 'clip.yaml'
    file.write_text(yaml.safe_dump(config_to_dict(config)))
    folder = Path(config.out) / config.name
    folder.mkdir(parents=True)
    (folder / f'{found}.safetensors').write_bytes(b'trained for days')
    (folder / 'log.jsonl').write_text('{"step": 1}\n')
    monkeypatch.setattr('sys.argv', ['the command', str(file)])
    assert command.main() == 1
    assert 'holds a run already' in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f'{found}.safetensors': b'trained for days', 'log.jsonl': b'{"step": 1}\n'}


def test_a_run_that_is_replaced_cannot_be_gone_on_with(tmp_path, monkeypatch):
    config = clip_config(tmp_path)
    start(config)
    path = pretrain(config)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain_clip, 'contrastive_loss', killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    assert not path.exists()


def test_no_configuration_scores_on_labels_that_are_withheld():
    paths = sorted((Path(__file__).parents[1] / 'configs').rglob('*.yaml'))
    sources = [(path.stem, source) for path in paths for data in [load_config(path).data]
               for source in (*data.train, *data.validate, *data.test)
               if source.kind == 'urbanlf']
    assert 'segrgbx_clip' in dict(sources)
    assert [stem for stem, source in sources if source.split == 'test'] == []


def test_a_corrupt_image_is_named_and_skipped_up_to_the_limit(tmp_path, capsys):
    config = clip_config(tmp_path, 'pretrain.epochs=1', 'train.max_corrupt=0.2')
    start(config)
    (tmp_path / 'scenes' / 'rgb' / '003.png').write_bytes(b'no image')
    pretrain(config)
    assert '003.png: cannot be decoded' in capsys.readouterr().out
    with pytest.raises(RgbxSegError, match=r'more than train.max_corrupt \(0.01\) allows'):
        pretrain(clip_config(tmp_path, 'pretrain.epochs=1', 'name=strict'))


def test_the_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(t, 0.2) for t in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert factors == pytest.approx([0.01, 0.505, 1.0, 0.5, 0.0])


def planted(separation, scenes=40, kinds=('depth', 'event', 'thermal')):
    rng = np.random.default_rng(5)
    modality = np.repeat(kinds, scenes)
    scene = np.tile([f'{n:04d}' for n in range(scenes)], len(kinds))
    rows = rng.standard_normal((len(modality), 12)).astype(np.float32)
    rows[:, :3] += separation * np.eye(3)[np.repeat(range(3), scenes)]
    return rows, modality, scene


def test_the_probe_finds_what_is_planted_and_nothing_in_noise():
    found = probe(*planted(12.0))
    assert found.accuracy == 1.0 and set(found.by_modality.values()) == {1.0}
    noise = probe(*planted(0.0))
    assert 0.1 < noise.accuracy < 0.55  # of three modalities
    assert found.silhouette > 0.5 > 0.1 > abs(noise.silhouette)


def test_the_probe_cannot_pass_by_remembering_scenes():
    rows, modality, scene = planted(0.0)
    by_scene = np.random.default_rng(1).standard_normal((40, 12)).astype(np.float32)
    rows = 100 * by_scene[np.tile(range(40), 3)]
    assert probe(rows, modality, scene).accuracy == pytest.approx(1 / 3, abs=0.01)


def test_too_few_scenes_or_one_modality_are_refused():
    rows, modality, scene = planted(1.0, scenes=5)
    with pytest.raises(RgbxSegError, match='5 scenes of depth, event, thermal were given'):
        probe(rows, modality, scene)
    rows, modality, scene = planted(1.0, kinds=('depth', 'depth', 'depth'))
    with pytest.raises(RgbxSegError, match='two or more modalities'):
        probe(rows, modality, scene)


def test_retrieval_counts_the_rows_whose_own_text_is_nearest():
    texts = np.eye(3, dtype=np.float32)
    assert retrieval(texts[[0, 1, 2, 2]], texts, np.array([0, 1, 2, 0])) == 0.75


def test_a_probe_writes_picture_and_scores(tmp_path, monkeypatch, capsys):
    write_scenes(tmp_path / 'scenes', 24)
    config = clip_config(tmp_path)
    start(config)
    (tmp_path / 'scenes' / 'label' / '000.png').unlink()  # no label is needed
    out = tmp_path / 'new' / 'probe.png'
    monkeypatch.setattr('sys.argv', ['rgbx_probe_clip', config.train.init, '--out', str(out)])
    assert clip_probe.main() == 0
    picture = cv2.imread(str(out))
    assert picture is not None and picture.shape[0] > 200 and out.stat().st_size < 200_000
    (result,) = json.loads(out.with_suffix('.json').read_text())
    assert result['pairs'] == {'event': 24, 'thermal': 24} and result['chance'] == 0.5
    rows = {(row['lora'], row['embedding']): row for row in result['rows']}
    assert len(rows) == 6 and result['captions'] == 24
    # Without a LoRA the RGB image says nothing of the other; a new LoRA does nothing yet.
    assert rows['none', 'S^r']['accuracy'] == 0.5
    assert rows['own', 'S^m'] == rows['none', 'S^m'] | {'lora': 'own'}
    assert 'own caption' in capsys.readouterr().out


def test_the_probe_refuses_a_model_without_an_ma_clip(tmp_path):
    config = clip_config(tmp_path, f'model.options={json.dumps(TINY | {"clip": None})}')
    start(config)
    with pytest.raises(RgbxSegError, match='has no MA-CLIP'):
        probe_checkpoint(Path(config.train.init), config, clip_probe.held_out(config))
