# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""LMSeg beside CAT-Seg's code, published counts, and classes at run time.

Numbers of CAT-Seg are what cvlab-kaist/CAT-Seg at 6d3a188 made of the same weights and inputs, all
of which `uniform` gives by name; that code was run once, apart from this project.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent / 'models'))
from base import build, component_of, fake_pair, fill, uniform
from small_runs import HEIGHT, WIDTH, small_config
from test_lmseg import MICRO

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.vocabulary import Bank, save_bank
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.export import export
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.losses import summed
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.models.lmseg import PARTS, PRESETS, PUBLISHED, LMSeg
from rgbx_seg_train.models.lmseg.cost import Aggregator, CostOptions, cut, window_mask
from rgbx_seg_train.models.lmseg.decoder import CostDecoder, Guidance, placed
from rgbx_seg_train.models.lmseg.vision import CLIP_MEAN, CLIP_STD, ClipOptions, DenseClip
from rgbx_seg_train.preprocess import normalize

SMALL = CostOptions(width=32, heads=4, window=4, guidance=12, longest=6, decoder=(32, 16),
                    decoder_raw=(10, 9), decoder_guidance=(8, 4))


class CatSeg(nn.Module):
    """What of LMSeg is CAT-Seg's."""

    def __init__(self) -> None:
        super().__init__()
        self.aggregator = Aggregator(SMALL, 24)
        self.guidance = Guidance(20, SMALL.decoder_raw, SMALL.decoder_guidance, stem=False)
        self.decoder = CostDecoder(32, SMALL.decoder, SMALL.decoder_guidance)

    def forward(self, n: int) -> Tensor:
        fused, guide = uniform('fused', (2, 24, 8, 8)), uniform('guide', (2, 24, 8, 8))
        rows = functional.normalize(uniform('rows', (n, 24)), dim=1)
        costs = self.aggregator(fused, guide, rows)
        taps = [uniform(f'tap {i}', (2, 20, 8, 8)) for i in (0, 1)]
        logits = self.decoder(costs.embeddings, costs.cosines, self.guidance(taps))
        return logits if costs.chosen is None else placed(logits, costs.chosen, n, -100.0)


# ---- CAT-Seg's math ----

@pytest.mark.parametrize(('training', 'n', 'expected'), [
    (False, 5, [-0.10601, 0.17586, 0.13709, -0.12971, 0.10689, 0.2047]),
    (False, 9, [-0.0358, 0.12755, 0.12352, -0.21507, -100.0, -100.0]),
    (True, 5, [-0.29567, 0.20471, 0.11146, 0.31078, 0.20059, -0.14016]),
    (True, 9, [-0.04531, 0.18836, 0.0785, 0.23496, -100.0, -100.0]),
])
@torch.inference_mode()
def test_costs_are_enhanced_and_decoded_as_by_cat_seg(
    training: bool, n: int, expected: list[float]
) -> None:
    logits = fill(CatSeg()).train(training)(n)
    found = logits[:, (0, 3, 4), (5, 31, 12), (17, 2, 30)].flatten()
    torch.testing.assert_close(found, torch.tensor(expected), atol=3e-5, rtol=1e-4)
    left_out = (logits == -100).all((2, 3)).sum(1)
    assert left_out.tolist() == [max(n - 6, 0)] * 2


@torch.inference_mode()
def test_clip_is_read_densely_as_by_cat_seg() -> None:
    clip = fill(DenseClip(ClipOptions(width=64, layers=3, heads=1, patch=4, positions=4,
                                      taps=(1, 2)), 24)).eval()
    images = uniform('image', (2, 3, 24, 24))
    found, taps = clip(images)
    torch.testing.assert_close(
        found[:, (0, 11, 23), (0, 5, 2), (3, 1, 5)].flatten(),
        torch.tensor([1.17231, 1.70896, -0.27882, 0.9447, -0.01404, -0.37419]),
        atol=3e-5, rtol=1e-4)
    hidden = clip.model.vision_model(images, interpolate_pos_encoding=True,
                                     output_hidden_states=True).hidden_states
    for tap, tokens in zip(taps, hidden[1:3], strict=True):
        torch.testing.assert_close(tap.flatten(2), tokens[:, 1:].transpose(1, 2))


# ---- windows of any grid ----

@pytest.mark.parametrize(('tokens', 'windows', 'side', 'shift'), [
    (24, 2, 12, 6), (12, 1, 12, 0), (7, 1, 7, 0), (30, 3, 10, 5), (15, 2, 8, 4), (25, 3, 9, 4),
])
def test_windows_are_the_fewest_of_equal_sides(
    tokens: int, windows: int, side: int, shift: int
) -> None:
    assert cut(tokens, 12) == (windows, side, shift)


@pytest.mark.parametrize(('height', 'width', 'shifted'), [
    (5, 7, False), (5, 7, True), (8, 4, True), (6, 9, True), (3, 4, False),
])
def test_tokens_see_their_neighbors_in_the_image_alone(
    height: int, width: int, shifted: bool
) -> None:
    rows, columns = cut(height, 4), cut(width, 4)
    shifts = (rows.shift, columns.shift) if shifted else (0, 0)
    mask = window_mask(height, width, 4, shifted)
    if mask is None:
        assert (rows.padded, columns.padded, *shifts) == (height, width, 0, 0)
        return

    def place(window: int, inside: int) -> tuple[int, int, bool]:
        """Return where in the image a token of a window lies, and whether it was padded."""
        y = window // columns.windows * rows.side + inside // columns.side
        x = window % columns.windows * columns.side + inside % columns.side
        y, x = (y + shifts[0]) % rows.padded, (x + shifts[1]) % columns.padded
        return y, x, y >= height or x >= width

    tokens = rows.side * columns.side
    for window in range(rows.windows * columns.windows):
        places = [place(window, inside) for inside in range(tokens)]
        for a, (y, x, a_padded) in enumerate(places):
            for b, (v, u, b_padded) in enumerate(places):
                near = abs(y - v) < rows.side and abs(x - u) < columns.side
                seen = near if not (a_padded or b_padded) else a_padded and b_padded
                assert (mask[window, a, b] == 0) == seen, (window, a, b)


# ---- published sizes ----

def on_meta(preset: str, **change: object) -> LMSeg:
    with torch.device('meta'):
        return LMSeg(replace(PRESETS[preset], **change), 171)


def count(model: nn.Module) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, value in model.named_parameters():
        found[component_of(name, model.COMPONENTS)] += value.numel()
        found['trained'] += value.numel() * value.requires_grad
    return found


@pytest.mark.parametrize(('preset', 'costs', 'total', 'trained', 'idle'), [
    ('base', 4_668_641, 244_091_874, 46_927_074, 590_592),
    ('full', 5_782_753, 742_202_594, 146_559_714, 1_049_600),
])
def test_parameters_at_full_size_are_those_of_the_parts(
    preset: str, costs: int, total: int, trained: int, idle: int
) -> None:
    model = on_meta(preset)
    found = count(model)
    assert found['aggregator'] + found['decoder'] == costs
    learned = found.pop('trained')
    assert (found.total(), learned) == (total, trained)
    of = {row.key: row.value for row in PUBLISHED[preset]}
    assert of['components.clip.total'] == found['clip']
    # q of the last block, which the dense reading never asks, is in the sum of the parts
    assert idle == sum(p.numel() for p in model.clip.idle()[0].parameters())
    assert of['params_trainable'] == pytest.approx(trained + idle, rel=0.002)


def test_what_learns_is_chosen_by_a_pattern() -> None:
    nothing = count(on_meta('base', trainable=''))
    assert nothing['trained'] == nothing['fusion'] + nothing['aggregator'] + nothing['decoder']
    cat_seg = count(on_meta('full', sam=None, trainable=r'.*\.[qv]_proj\.weight'))
    # CAT-Seg's code tunes the weights alone, and the q that nothing asks among them
    assert cat_seg['trained'] + 1024 * 1024 == 70_270_177
    everything = on_meta('tiny')
    assert {name for name, p in everything.named_parameters() if not p.requires_grad} == {
        f'clip.model.vision_model.encoder.layers.3.self_attn.{x}_proj.{kind}'
        for x in 'qk' for kind in ('weight', 'bias')}
    with pytest.raises(RgbxSegError, match=r'trainable is .*no regular expression'):
        replace(PRESETS['tiny'], trainable='(')


@pytest.mark.parametrize(('change', 'found'), [
    ({'fusion': 'sum'}, "fusion is 'sum', expected one of scalar"),
    ({'aux': 'both'}, "aux is 'both', expected one of none"),
    ({'sam': None, 'aux': 'sam'}, 'sam is off'),
    ({'fusion': 'fixed', 'fixed_weight': 1.5}, 'fixed_weight is 1.5'),
    ({'grid': (-1, 4)}, 'grid is .-1, 4.'),
])
def test_choices_that_are_none_are_refused(change: dict, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        replace(MICRO, **change)


@pytest.mark.parametrize(('part', 'change', 'found'), [
    ('clip', {'taps': [0, 1]}, 'clip.taps is .0, 1.'), ('sam', {'heads': 0}, 'sam.heads is 0'),
    ('text', {'heads': 3}, 'text.heads is 3, expected a divisor'),
    ('cost', {'kernel': 4}, 'cost.kernel is 4, expected an odd'),
    ('cost', {'decoder': [0, 8]}, 'cost.decoder is .0, 8., expected at least 1'),
    ('cost', {'decoder_guidance': [8, 32]}, 'expected less than'),
])
def test_sizes_that_nothing_can_have_are_refused(part: str, change: dict, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        find_config('lmseg', 'tiny', {part: change})


# ---- fusion ----

def shared(model: LMSeg, other: LMSeg) -> LMSeg:
    """Return `model` with the weights of `other` that it has a place for."""
    own = model.state_dict()
    model.load_state_dict({name: value for name, value in other.state_dict().items()
                           if name in own}, strict=True)
    return model


@torch.inference_mode()
def test_with_w_of_1_clip_stands_alone_and_with_0_sam_alone() -> None:
    pair = fake_pair(1)
    config = replace(MICRO, grid=(4, 6), fusion='fixed', fixed_weight=1.0)
    both = build('lmseg', config)
    alone = shared(build('lmseg', replace(config, sam=None)), both)
    torch.testing.assert_close(both(*pair, ['depth']), alone(*pair, ['depth']), atol=0, rtol=0)
    both.fusion.fixed = 0.5
    assert (both(*pair, ['depth']) - alone(*pair, ['depth'])).abs().max() > 1e-3
    both.fusion.fixed = 0.0
    for part in both.fusion.project.parameters():
        part.zero_()
    assert not both.fusion(torch.ones(1, 20, 2, 2), torch.ones(1, 12, 2, 2)).any()


def test_w_starts_at_the_sigmoid_of_2() -> None:
    for fusion, shape in (('scalar', ()), ('channel', (20, 1, 1))):
        weight = LMSeg(replace(MICRO, fusion=fusion), 3).fusion.weight
        assert weight.shape == shape
        torch.testing.assert_close(weight, torch.full(shape, 0.8807970))


# ---- the second image ----

@torch.inference_mode()
def test_aux_is_ignored_by_lmseg_itself() -> None:
    rgb, aux = fake_pair(1)
    model = build('lmseg', MICRO)
    assert model(rgb, aux, ['depth']).equal(model(rgb, 1 - aux, ['thermal']))


@pytest.mark.parametrize('branch', ['clip', 'sam'])
@torch.inference_mode()
def test_both_images_count_alike_at_first(branch: str) -> None:
    config = replace(MICRO, aux=branch, decoder_guidance=branch)
    model, mixed = LMSeg(config, 3).eval(), []
    for gate in model.gates:
        gate.register_forward_hook(lambda part, inputs, output: mixed.append(
            (*inputs[0].chunk(2), output)))
    model(*fake_pair(1), ['event'])
    assert len(mixed) == 3  # the map of the branch, and both that guide the decoder
    for rgb, aux, both in mixed:
        assert (rgb - aux).abs().max() > 1e-3
        torch.testing.assert_close(both, (rgb + aux) / 2)


@torch.inference_mode()
def test_a_gate_can_close_for_an_image_that_says_nothing() -> None:
    model = build('lmseg', replace(MICRO, aux='sam', decoder_guidance='sam'))
    rgb, aux = fake_pair(1)
    for gate in model.gates:
        gate.prior.fill_(-30.0)
    closed = model(rgb, aux, ['depth'])
    torch.testing.assert_close(closed, model(rgb, 0 * aux, ['depth']))
    assert (closed - build('lmseg', model.config)(rgb, aux, ['depth'])).abs().max() > 1e-3


# ---- classes at run time ----

@torch.inference_mode()
def test_classes_may_be_exchanged_and_their_number_too() -> None:
    model, pair = build('lmseg', MICRO), fake_pair(1)
    names, before = set(model.state_dict()), model(*pair, ['thermal'])
    rows = model.rows().clone()
    model.set_classes(7 * rows.flip(0))  # lengths do not count
    torch.testing.assert_close(model(*pair, ['thermal']).flip(1), before, atol=1e-5, rtol=1e-4)
    model.set_classes(rows[:3])
    assert model(*pair, ['thermal']).shape[1] == model.n_classes == 3
    merged = model.merge('thermal')
    assert merged(*pair).shape[1] == 3 and merged.text_width == 20
    torch.testing.assert_close(merged(*pair, classes=rows), before, atol=1e-5, rtol=1e-4)
    assert not [name for name, _ in merged.named_parameters() if 'text.' in name]
    assert set(model.state_dict()) == names
    for wrong, found in ((torch.ones(3, 7), r'shape \(3, 7\).*20'), (torch.zeros(2, 20), 'zeros'),
                         (torch.full((2, 20), torch.nan), 'no numbers')):
        with pytest.raises(RgbxSegError, match=found):
            model.set_classes(wrong)


def test_rows_follow_the_texts_and_the_weights_of_their_tower() -> None:
    model = build('lmseg', MICRO)
    assert model.train().rows().requires_grad and not model.eval().rows().requires_grad
    first = model.rows()
    assert model.rows() is first
    model.read_classes(['cat', 'dog'], [('a cat', 'a small cat'), ('a dog',)])
    assert model.rows().shape == (2, 20) and model.n_classes == 2
    torch.testing.assert_close(model.rows(), model.text().detach())
    state = {name: 1.5 * value if value.is_floating_point() else value
             for name, value in model.state_dict().items()}
    before = model.rows()
    model.load_state_dict(state)
    torch.testing.assert_close(model.rows(), model.text().detach())
    assert (model.rows() - before).abs().max() > 1e-3


@torch.inference_mode()
def test_300_classes_are_told_apart_of_which_256_attend_to_each_other() -> None:
    model = build('lmseg', replace(MICRO, cost=replace(MICRO.cost, longest=256)))
    pair, rows = fake_pair(1, 32, 32), uniform('many', (300, 20))
    model.set_classes(rows)
    logits = model(*pair, ['depth'])
    assert logits.shape == (1, 300, 32, 32)
    left = (logits == -100).all(dim=3).all(dim=2)[0]
    assert left.sum() == 44
    model.set_classes(rows[~left])  # those alone, in which nothing is left out
    torch.testing.assert_close(model(*pair, ['depth']), logits[:, ~left], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('longest', [9, 5])
@torch.inference_mode()
def test_some_of_the_classes_may_be_chosen_whether_or_not_others_are_left_out(longest: int) -> None:
    """As of a data set's among the union's, by `rgbx_evaluate` and by export.classes."""
    model = build('lmseg', replace(MICRO, cost=replace(MICRO.cost, longest=longest)))
    pair, chosen = fake_pair(1), (3, 8, 5)
    found = BundleGraph(model.merge('depth'), chosen=chosen, criterion='binary').logits(*pair)
    torch.testing.assert_close(found, model(*pair, ['depth'])[:, chosen])


def test_300_classes_learn_from_the_256_that_are_kept() -> None:
    model = build('lmseg', replace(MICRO, cost=replace(MICRO.cost, longest=256))).train()
    model.set_gradient_checkpointing(True)
    names = [f'thing {n}' for n in range(300)]
    model.read_classes(names, [(name,) for name in names])
    label = torch.arange(1024).remainder(255).view(1, 32, 32)  # 255 is unlabeled
    logits = model(*fake_pair(1, 32, 32), ['depth'])
    (summed(logits, label, 'binary') / label.numel()).backward()
    left = (logits == -100).all(dim=3).all(dim=2)[0]
    assert logits.shape[1] == 300 and left.sum() == 44
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    moved = {name.partition('.')[0] for name, p in model.named_parameters()
             if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == {'clip', 'sam', 'text', 'fusion', 'aggregator', 'guidance', 'decoder'}


def test_a_bundle_takes_any_classes_of_its_bank_and_leaves_out_the_same(tmp_path: Path) -> None:
    """`rgbx_export` compares graph and network for the classes of the training and for others."""
    narrow = {'clip': {'width': 16, 'layers': 2, 'heads': 2, 'taps': [1, 1], 'patch': 16},
              'sam': {'width': 16, 'layers': 2, 'heads': 2, 'taps': [1, 1], 'patch': 16,
                      'global_blocks': [1], 'neck': 8},
              'cost': {'width': 8, 'layers': 1, 'heads': 2, 'guidance': 8, 'longest': 4,
                       'decoder': [8, 8], 'decoder_guidance': [4, 4]}, 'embed': 16}
    config = small_config(tmp_path, 'model.family=lmseg', 'model.preset=tiny',
                          f'model.options={narrow}', 'loss.criterion=binary')
    infos = config.data.class_infos
    model = fill(build_model(config, len(infos))).eval()
    path, bank = tmp_path / 'model.safetensors', tmp_path / 'bank.npz'
    save_checkpoint(path, config, len(infos), Progress(), {'ema': model.state_dict()})
    names = (*(info.name for info in infos), *(f'thing {n}' for n in range(31)))
    colors = np.arange(120, dtype=np.uint8).reshape(-1, 3)
    rows = torch.cat([model.rows(), uniform('more', (31, 16))]).numpy()
    save_bank(bank, Bank(names, names, colors, -rows))
    options = [f'export.open_classes={bank}', 'export.most_classes=40']
    with pytest.raises(RgbxSegError, match='different embeddings of the same classes'):
        export(path, tmp_path / 'b', {}, options)
    save_bank(bank, Bank(names, names, colors, rows))
    assert not [note for note in export(path, tmp_path / 'b', {}, options).notes if 'bank' in note]
    session = onnxruntime.InferenceSession(tmp_path / 'b/model.onnx',
                                           providers=['CPUExecutionProvider'])
    merged = model.merge('thermal')
    draw = np.random.default_rng(0)
    pair = [draw.integers(0, 256, (1, HEIGHT, WIDTH, c), np.uint8) for c in (3, 1)]
    for n in (1, 4, 5, 40):
        label, confidence = session.run(['label', 'confidence'], {
            'rgb': pair[0], 'aux': pair[1], 'classes': rows[:n]})
        with torch.inference_mode():
            logits = merged(*normalize(*map(torch.from_numpy, pair)),
                            classes=torch.from_numpy(rows[:n]))
        assert (logits == -100).all(3).all(2).sum() == max(n - 4, 0)
        best, expected = logits.max(1)
        assert (label == expected.numpy()).mean() > 0.999
        assert np.abs(confidence / 255 - best.sigmoid().numpy()).max() < 0.51 / 255 + 1e-4


# ---- weights of others ----

def hub_clip(model: LMSeg) -> dict[str, Tensor]:
    """Return a CLIP as the hub has it, with weights that tell them apart."""
    state = {}
    for name, value in model.state_dict().items():
        theirs = re.sub(r'^(clip\.model|text\.tower)\.', '', name)
        if theirs != name:
            state[theirs] = uniform(theirs, value.shape)
    return state | {'logit_scale': torch.tensor(4.6),
                    'vision_model.embeddings.position_ids': torch.arange(10)[None],
                    'text_model.embeddings.position_ids': torch.arange(77)[None]}


META = {'layers.': 'blocks.', 'layer_norm1.': 'norm1.', 'layer_norm2.': 'norm2.',
        'patch_embed.projection.': 'patch_embed.proj.'}
META_NECK = {'conv1': '0', 'layer_norm1': '1', 'conv2': '2', 'layer_norm2': '3'}


def sam(model: LMSeg, meta: bool) -> dict[str, Tensor]:
    """Return a SAM in the names of Meta's files or of the hub's."""
    state: dict[str, Tensor] = {'mask_decoder.iou_token.weight': torch.zeros(1, 4)}
    for name, value in model.sam.model.state_dict().items():
        if meta and name.startswith('neck.'):
            _, part, kind = name.split('.')
            name = f'neck.{META_NECK[part]}.{kind}'
        elif meta:
            for ours, theirs in META.items():
                name = name.replace(ours, theirs)
        state[f'{"image" if meta else "vision"}_encoder.{name}'] = value
    return state


def test_clip_comes_from_the_hubs_files() -> None:
    model = LMSeg(MICRO, 3)
    state = hub_clip(model)
    found = PARTS['clip'].convert(model, state)
    assert found.keys() == {name for name in model.state_dict()
                            if name.startswith(('clip.', 'text.tower.'))}
    assert found['text.tower.text_projection.weight'] is state['text_projection.weight']
    with pytest.raises(RgbxSegError, match='1 tensors that the model has no place'):
        PARTS['clip'].convert(model, state | {'extra': torch.zeros(1)})
    del state['visual_projection.weight']
    with pytest.raises(RgbxSegError, match='CLIP weights: 1 tensors are missing'):
        PARTS['clip'].convert(model, state)


@pytest.mark.parametrize('meta', [True, False])
def test_sam_comes_from_files_of_meta_and_of_the_hub(meta: bool) -> None:
    model = fill(LMSeg(MICRO, 3))
    found = PARTS['sam'].convert(model, sam(model, meta))
    expected: Mapping[str, Tensor] = {name: value for name, value in model.state_dict().items()
                                      if name.startswith('sam.')}
    assert found.keys() == expected.keys()
    assert all(found[name].equal(value) for name, value in expected.items())
    with pytest.raises(RgbxSegError, match='no place'):
        PARTS['sam'].convert(LMSeg(replace(MICRO, sam=None), 3), sam(model, meta))


def test_presets_have_the_sizes_of_their_weights() -> None:
    assert find_config('lmseg') is PRESETS['large'] is PRESETS['full']
    assert set(find_family('lmseg').pretrained) | {'tiny'} == set(PRESETS)
    assert CLIP_MEAN == (0.48145466, 0.4578275, 0.40821073)
    assert CLIP_STD == (0.26862954, 0.26130258, 0.27577711)
    for preset, patches in (('base', 16), ('full', 14)):
        model = on_meta(preset)
        assert model.clip.options.patch == patches
        assert model.sam.options.patch == 16  # 384x384 makes 24x24 of both
