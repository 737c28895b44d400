# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SARTM: what every family must hold, what the official modules computed, the published counts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from base import (
    N_CLASSES,
    FamilyTester,
    Pinned,
    build,
    component_of,
    fake_pair,
    fill,
    onnx_like_torch,
)
from sartm_release import release
from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.models.blocks.hiera import HIERA, HieraConfig
from rgbx_seg_train.models.sartm import PARTS, PRESETS, PRETRAINED, PUBLISHED, SARTM, SARTMConfig
from rgbx_seg_train.models.sartm.model import pad
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.profile_model import compare, profile

SMALL = HieraConfig(dim=8, heads=1, depths=(1, 2, 2, 1), windows=(8, 4, 6, 4), global_blocks=(4,),
                    background=(3, 5))  # windows that do not fit, a global block
MICRO = replace(PRESETS['tiny'], hiera=SMALL, frozen=True, width=32, rank=2, decoder_heads=2,
                decoder_hidden=32, text_dim=24, branch='both')
LEARNS = (r'encoder\.backbone\.blocks\.\d+\.attn\.qkv\.lora\..*', r'fusion\..*', r'aux_head\..*',
          r'decoder\.(?!empty_).*')


class TestTiny(FamilyTester):
    family = 'sartm'
    config = replace(PRESETS['tiny'], branch='both')
    trainable = ('.*',)
    pinned = Pinned('b174b534b01c', (-1.63011, -0.53854, -1.20519, -2.57584, -0.65244, -1.73107))
    test_onnx_equals_torch = None  # see the end of this file


class TestFrozen(FamilyTester):
    family = 'sartm'
    config = MICRO
    trainable = LEARNS
    pinned = Pinned('7ecd761a8e23', (-1.076, -2.01039, -1.93392, -1.03102, -1.89363, -1.99624))
    test_onnx_equals_torch = None  # see the end of this file


def on_meta(preset: str = 'full', n_classes: int = N_CLASSES,
            modalities: tuple[str, ...] = ('thermal',), **change: object) -> SARTM:
    with torch.device('meta'):
        return SARTM(replace(PRESETS[preset], **change), n_classes, modalities)


def count(model: nn.Module, trained: bool = False) -> Counter[str]:
    """Return the parameters by component, of all or of those that learn."""
    found: Counter[str] = Counter()
    for name, value in model.named_parameters():
        if value.requires_grad or not trained:
            found[component_of(name, model.COMPONENTS)] += value.numel()
    return found


# ---- the official code ----

RELEASED = SARTMConfig(hiera=replace(SMALL, dim=16), rank=4, compat=True)
PLACES = (..., (13, 70, 127), (7, 90, 127))
# of the official modules at 5327908, given `release(RELEASED)` and fake_pair(2, 128, 128)
THEIRS = (-0.04558, -1.07169, 5.6, -0.64785, -2.01249, 3.53577)
THEIR_FUSED = (-1.56185, 0.2661, 2.09868, -1.19764, -1.26614, 0.25115)


def released(object_bias: float = 9.0) -> SARTM:
    model = SARTM(RELEASED, 5, ('thermal',))
    state = PARTS['official'].convert(model, release(RELEASED, 5, object_bias))
    assert model.load_state_dict(state, strict=False).missing_keys == [
        name for name in model.state_dict() if name.startswith(('aux_head', 'distillation'))]
    return model.eval()


@torch.inference_mode()
def test_the_released_weights_give_what_the_official_modules_give() -> None:
    model, pair = released(), fake_pair(2, 128, 128)
    logits = model(*pair, ['thermal'] * 2)
    found = logits[:, (0, 2, 4), (13, 70, 127), (7, 90, 127)].flatten()
    np.testing.assert_allclose(found, THEIRS, atol=3e-5)
    torch.testing.assert_close(model.merge('thermal')(*pair), logits, atol=3e-5, rtol=1e-5)
    levels = model.decoder.project(model.encoder(pad(*pair, 0)).fpn_hidden_states[:3])
    fused = model._fuse(levels)
    found = [x[:, (1, -1), 3, -1].flatten()[i].item() for x in fused for i in (0, 3)]
    np.testing.assert_allclose(found, THEIR_FUSED, atol=3e-5)


@torch.inference_mode()
def test_where_the_frozen_score_sees_nothing_the_released_masks_are_shut() -> None:
    assert released(-9.0)(*fake_pair(1, 64, 64), ['thermal']).eq(-1024).all()


@torch.inference_mode()
def test_the_release_never_fuses_the_thermal_image_and_ours_does() -> None:
    rgb, aux = fake_pair(1, 64, 64)
    for model, sees in ((released(), False), (build('sartm', MICRO), True)):
        fused = []
        for second in (aux, 1 - aux):
            model._streams.set(['all'] * 2 if not sees else ['rgb', 'thermal'])
            levels = model.decoder.project(model.encoder(torch.cat([rgb, second]))
                                           .fpn_hidden_states[:3])
            fused.append(model._fuse(levels))
        differences = [(x - y).abs().max() > 1e-2 for x, y in zip(*fused, strict=True)]
        assert differences == [sees] * 3


def test_released_weights_must_fit_to_the_last_tensor() -> None:
    state, convert = release(RELEASED), PARTS['official'].convert
    model = SARTM(RELEASED, 5, ('thermal',))
    with pytest.raises(RgbxSegError, match='expected model.options.compat=true'):
        convert(SARTM(replace(RELEASED, compat=False), 5), state)
    with pytest.raises(RgbxSegError, match="no place for .*decoder.extra"):
        convert(model, state | {'sam.sam_mask_decoder.extra': torch.zeros(1)})
    third = {n: v for n, v in state.items() if 'blocks.1.attn.qkv.linear_a_q3' not in n}
    with pytest.raises(RgbxSegError, match='no place for .*blocks.1.attn.qkv.linear_a_q'):
        convert(model, third)
    lacking = {n: v for n, v in state.items() if n != 'FFMs.1.channel_emb.norm.running_var'}
    with pytest.raises(RgbxSegError, match='1 tensors are missing.*fusion.1.fuse.norm.running_var'):
        convert(model, lacking)
    with pytest.raises(RgbxSegError, match='class_tokens has shape'):
        convert(SARTM(RELEASED, 4, ('thermal',)), release(RELEASED, 4) | {
            'sam.sam_mask_decoder.mask_tokens.weight': torch.zeros(6, 256)})


# ---- published sizes ----

@pytest.mark.parametrize(('rank', 'expected'), [
    (4, 165_760), (8, 331_520), (16, 663_040), (32, 1_326_080)])
def test_each_modality_has_a_lora_of_the_published_size(rank: int, expected: int) -> None:
    assert count(on_meta(rank=rank))['lora'] == 2 * expected  # RGB and thermal
    several = on_meta(rank=rank, modalities=('thermal', 'depth', 'event'))
    assert count(several)['lora'] == 4 * expected


def test_parameters_at_full_size_are_those_of_the_official_code() -> None:
    model = on_meta(n_classes=5)
    found, trained = count(model), count(model, trained=True)
    assert (found['trunk'], found['neck'], found['fusion']) == (68_675_712, 431_104, 3_050_534)
    # of the code's 4,495,751 without both ratings and the single mask's MLP, plus the empty prompt
    assert found['mask_decoder'] - 512 == 4_495_751 - 133_126 - 131_841 - 139_808
    assert trained == {'lora': 1_326_080, 'fusion': 3_050_534, 'aux_head': 36_613,
                       'mask_decoder': found['mask_decoder'] - 512}
    assert sum(trained.values()) == 8_504_203
    assert sum(count(on_meta(n_classes=9), trained=True).values()) == 9_073_679  # MFNet


def test_a_profile_stands_beside_what_was_counted() -> None:
    model = on_meta(n_classes=5)
    found = {'components': {name: {'total': n} for name, n in count(model).items()},
             'params_trainable': sum(count(model, trained=True).values()),
             'params_lora': count(model)['lora'], 'options': {}, 'size': [1280, 1280]}
    rows = compare(found, PUBLISHED['full'])
    assert [row['within'] for row in rows] == [True] * 5 + [None]
    small = profile('sartm', 'tiny', size=(96, 128), n_classes=9)
    assert small['modalities'] == ['thermal']
    assert small['components'].keys() == {'lora', 'trunk', 'neck', 'mask_decoder', 'fusion',
                                          'aux_head'}
    assert small['components']['lora']['gmac'] == 0  # merged


# ---- SAM 2 ----

@pytest.mark.parametrize('sam', [(Sam2Model, Sam2Config), (Sam2VideoModel, Sam2VideoConfig)],
                         ids=['image', 'video'])
def test_trunk_and_decoder_come_from_files_of_transformers(sam: tuple) -> None:
    model, config = on_meta('small'), sam[1]()
    config.vision_config.backbone_config.blocks_per_stage = [1, 2, 7, 2]
    with torch.device('meta'):
        state = sam[0](config).state_dict()
    trunk, decoder = (PARTS[part].convert(model, state) for part in ('trunk', 'decoder'))
    own = set(model.state_dict())
    assert trunk.keys() == {n for n in own if n.startswith('encoder') and '.lora.' not in n}
    assert own - trunk.keys() - decoder.keys() == {
        n for n in own if re.match(r'fusion|aux_head|distillation|.*\.lora\.'
                                   r'|decoder\.(class_tokens|masks)', n)}
    for name, value in decoder.items():  # a spot that tells q from k, and the layers of an MLP
        if re.search(r'transformer.*(q_proj|k_proj|proj_in|layer_norm3)', name):
            assert value is state[name.replace('decoder.', 'mask_decoder.', 1)]


def test_trunk_and_decoder_come_from_files_of_meta() -> None:
    state = {name.removeprefix('sam.').replace('.qkv.qkv.', '.qkv.'): value
             for name, value in release(RELEASED).items()
             if name.startswith('sam.') and 'linear_' not in name}
    model = SARTM(replace(RELEASED, compat=False), 9)
    trunk, decoder = (PARTS[part].convert(model, state) for part in ('trunk', 'decoder'))
    whole = PARTS['official'].convert(SARTM(RELEASED, 5), release(RELEASED))
    assert len(trunk) >= 90 and len(decoder) > 70
    assert all(value.equal(whole[name]) for name, value in (trunk | decoder).items())
    assert 'decoder.class_tokens' not in decoder  # SAM's tell parts of an object apart
    with pytest.raises(RgbxSegError, match='SAM 2 weights: .*choose the preset'):
        PARTS['trunk'].convert(on_meta('small'), state)


def test_presets_are_the_published_trunks() -> None:
    trunks = {'small': 'tiny', 'base': 'small', 'full': 'base_plus', 'large': 'large'}
    for preset, trunk in trunks.items():
        assert PRESETS[preset].hiera == HIERA[trunk]
        hub = f'facebook/sam2-hiera-{trunk.replace("_", "-")}'
        assert PRETRAINED[preset] == {'trunk': hub, 'decoder': hub}
    family = find_family('sartm')
    assert set(PRETRAINED) | {'tiny'} == set(family.presets)
    assert (family.size, family.n_classes) == ((1280, 1280), 5)


def test_class_embeddings_come_from_a_file_of_one_tensor() -> None:
    model, rows = SARTM(MICRO, 3), torch.rand(3, 24)
    assert PARTS['classes'].convert(model, {'': rows})['distillation.text'].equal(rows)
    with pytest.raises(RgbxSegError, match=r'shape \(2, 24\), expected \(3, 24\)'):
        PARTS['classes'].convert(model, {'': rows[:2]})


# ---- LoRA ----

@torch.inference_mode()
def test_an_image_passes_the_lora_of_its_own_modality_alone() -> None:
    model, (rgb, aux) = build('sartm', MICRO), fake_pair(2)
    before = model(rgb, aux, ['thermal', 'event'])
    for name, value in model.named_parameters():
        if '.lora.event.' in name:
            value.zero_()
    after = model(rgb, aux, ['thermal', 'event'])
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-2
    for name, value in model.named_parameters():
        if '.lora.rgb.' in name:
            value.zero_()
    assert (model(rgb, aux, ['thermal', 'event'])[0] - before[0]).abs().max() > 1e-2


def test_lora_adds_to_all_of_q_and_v_and_to_nothing_of_k() -> None:
    model = build('sartm', MICRO)
    qkv = model.encoder.backbone.blocks[1].attn.qkv  # a stage begins: wider than its input
    in_dim, out_dim = qkv.inner.in_features, qkv.inner.out_features // 3
    assert out_dim == 2 * in_dim
    change = qkv.fold('rgb', 'thermal').aux - qkv.inner.weight
    q, k, v = change.split(out_dim)
    assert k.abs().max() == 0
    assert torch.linalg.matrix_rank(q) == torch.linalg.matrix_rank(v) == MICRO.rank
    assert q.abs().amax(1).min() > 0 and v.abs().amax(1).min() > 0


def test_a_new_lora_changes_nothing() -> None:
    torch.manual_seed(0)
    model = SARTM(MICRO, N_CLASSES).eval()
    pair = fake_pair(1)
    with torch.inference_mode():
        torch.testing.assert_close(model(*pair, ['thermal']), model(*pair, ['depth']))
        qkv = model.encoder.backbone.blocks[0].attn.qkv
        assert qkv.lora['depth'].delta().abs().max() == 0
        assert qkv.lora['depth'].down_q.abs().max() > 0.1


# ---- choices ----

@pytest.mark.parametrize('change', [
    {'branch': 'sam'}, {'branch': 'aux'}, {'branch': 'both'}, {'aux_head': False, 'branch': 'sam'},
    {'prototype_weight': 0.0, 'text_weight': 0.0}, {'compat': True, 'branch': 'sam'},
    {'aux_head': False, 'branch': 'sam', 'prototype_weight': 0.0, 'text_weight': 0.0},
], ids=str)
def test_each_choice_trains_and_merges(change: dict) -> None:
    model, pair = build('sartm', replace(MICRO, **change)), fake_pair(2, 32, 64)
    with torch.inference_mode():
        expected = model(*pair, ['event'] * 2)
        torch.testing.assert_close(model.merge('event')(*pair), expected, atol=2e-5, rtol=1e-5)
    target = torch.arange(2 * 16 * 32).view(2, 16, 32) // 7 % N_CLASSES
    out = model.train()(*pair, ['event', 'depth'], stride=2, target=target)
    config = model.config
    assert out.auxiliary.keys() == ({'aux'} if config.aux_head else set())
    assert out.terms.keys() == {name for name, on in (('prototype', config.prototype_weight),
                                                      ('text', config.text_weight)) if on}
    parts = [out.logits, *out.auxiliary.values()]
    assert all(part.shape == (2, N_CLASSES, 16, 32) for part in parts)
    (sum(part.square().mean() for part in parts) + 1e4 * sum(out.terms.values())).backward()
    absent = ('thermal', 'polarization', 'lightfield')  # no image of these was there
    for name, value in model.named_parameters():
        there = value.requires_grad and not any(f'.lora.{one}.' in name for one in absent)
        assert there == (value.grad is not None), name


@torch.inference_mode()
def test_both_branches_are_the_mean_of_their_probabilities() -> None:
    pair, size = fake_pair(1), (16, 24)
    logits = {}
    for branch in ('sam', 'aux', 'both'):
        model = build('sartm', replace(MICRO, branch=branch))
        logits[branch] = model(*pair, ['thermal'], stride=4)
        assert logits[branch].shape[2:] == size
    mean = (logits['sam'].softmax(1) + logits['aux'].softmax(1)) / 2
    torch.testing.assert_close(logits['both'].softmax(1), mean)


def test_what_cannot_be_built_is_refused() -> None:
    for options, found in (({'branch': 'mask'}, "branch is 'mask', expected one of sam, aux"),
                           ({'aux_head': False}, "branch is 'both' without aux_head"),
                           ({'canvas': 800 + 1}, 'canvas is 801; expected 0 or a multiple of 32'),
                           ({'rank': 0}, 'rank is 0'),
                           ({'width': 100}, 'width is 100, .*expected a multiple of 8'),
                           ({'decoder_heads': 3}, 'decoder_heads 3, .*whose half decoder_heads'),
                           ({'fusion_heads': [3, 2, 4]}, r'fusion_heads \[3, 2, 4\]'),
                           ({'decoder_heads': 0}, 'decoder_heads is 0, expected at least 1'),
                           ({'momentum': 1.0}, 'momentum is 1.0'),
                           ({'prototype_weight': -1}, 'prototype_weight is -1.0; expected a'),
                           ({'text_weight': float('nan')}, 'text_weight is nan')):
        with pytest.raises(RgbxSegError, match=found):
            find_config('sartm', 'tiny', {'branch': 'both'} | options)
    with pytest.raises(RgbxSegError, match='9 classes, expected 8 or fewer'):
        SARTM(replace(MICRO, text_dim=8), N_CLASSES)


# ---- image sizes ----

@torch.inference_mode()
def test_images_are_padded_by_black_on_the_right_and_below() -> None:
    rgb, aux = fake_pair(1, 50, 70)
    both = pad(rgb, aux, 0)
    assert both.shape == (2, 3, 64, 96) and both[:, :, :50, :70].equal(torch.cat([rgb, aux]))
    black = torch.cat(normalize(*(torch.zeros(1, 1, 1, 3, dtype=torch.uint8),) * 2))
    for part in (both[:, :, 50:], both[:, :, :, 70:]):
        torch.testing.assert_close(part, black.expand_as(part))
    model = build('sartm', MICRO)
    whole = model(both[:1], both[1:], ['thermal'])
    torch.testing.assert_close(model(rgb, aux, ['thermal']), whole[..., :50, :70])
    square = build('sartm', replace(MICRO, canvas=128))
    assert pad(rgb, aux, 128).shape == (2, 3, 128, 128)
    assert square(rgb, aux, ['thermal']).shape == (1, N_CLASSES, 50, 70)
    assert not square(rgb, aux, ['thermal']).allclose(model(rgb, aux, ['thermal']), atol=1e-3)
    with pytest.raises(RgbxSegError, match='images of 50x200, expected at most 128x128'):
        square(*fake_pair(1, 50, 200), ['thermal'])


def test_what_was_padded_has_no_label() -> None:
    model = build('sartm', MICRO).train()
    pair, target = fake_pair(1, 50, 70), torch.ones(1, 25, 35, dtype=torch.int64)
    seen = []
    model.distillation.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model(*pair, ['thermal'], stride=2, target=target)
    expected = functional.pad(target, (0, 13, 0, 7), value=255)
    assert seen[0].equal(expected)


# ---- checkpointing and export ----

def gradients(checkpointing: bool) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a model, and how often the first block's MLP ran for them."""
    model, runs = build('sartm', MICRO).train(), []
    model.set_gradient_checkpointing(checkpointing)
    model.encoder.backbone.blocks[1].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    model(*fake_pair(2, 32, 64), ['thermal', 'event']).square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(runs)


def test_checkpointing_recomputes_the_same_gradients() -> None:
    (expected, once), (found, twice) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2) and found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_the_exported_graph_holds_nothing_of_training_or_prompts() -> None:
    model = fill(SARTM(replace(MICRO, branch='sam', decoder_layers=1, hiera=replace(
        SMALL, depths=(1, 1, 1, 1), global_blocks=(0,))), 2)).eval()
    merged = model.merge('thermal')
    names = [name for name, _ in merged.named_parameters()]
    assert not [name for name in names if re.search('lora|fusion|aux_head|distill', name)]
    operators = {node.op_type for node in onnx_like_torch(merged, 50, 70).node}
    assert not operators & {'Sin', 'Cos', 'If', 'Loop', 'NonZero', 'Shape', 'Where', 'Scan',
                            'Embedding', 'ScatterND', 'Expand'}
