# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SegRGB-X: what every family must hold, the paper's formulas, and the published counts."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from base import FamilyTester, Pinned, build, fake_pair
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import SegformerConfig, SegformerModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import FAMILIES, find_config, find_family
from rgbx_seg_train.models.blocks.fusion import FeatureFusion, FeatureRectification
from rgbx_seg_train.models.blocks.mit import Attention
from rgbx_seg_train.models.segrgbx import PRESETS, Embeddings, SegRGBX, SegRGBXConfig
from rgbx_seg_train.models.segrgbx.convert import convert_fusion, convert_mit
from rgbx_seg_train.models.segrgbx.dsrm import STRUCTURES, CosineChannelAttention, DsrmConfig
from rgbx_seg_train.models.segrgbx.ma_clip import ClipConfig

TINY = PRESETS['tiny']
MICRO = replace(
    TINY, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4), prompts=2, head_embed=8,
    clip=ClipConfig(hidden=16, layers=1, heads=2, image_size=32, embed=12, lora_rank=2,
                    frozen=False),
    dsrm=DsrmConfig(layers=2, grid=(2, 3), gate=4, heads=4),
)


class TestTiny(FamilyTester):
    family = 'segrgbx'
    config = TINY
    trainable = ('.*',)
    pinned = Pinned(
        'fc262c2a4b2a', (0.8105, 0.05239, 0.67361, 1.06787, 0.21252, 0.81483)
    )
    export_config = replace(TINY, depths=(1, 1, 1, 1), clip=replace(TINY.clip, layers=1))


class TestFrozen(FamilyTester):
    family = 'segrgbx'
    config = replace(MICRO, clip=replace(MICRO.clip, frozen=True, resize='bicubic'), drop_path=0.2,
                     head_folded=False, head_dropout=0.1)
    trainable = (r'(?!clip\.).*',)
    pinned = Pinned(
        'cff39af3e4d7', (0.04633, -0.09758, 0.76059, 0.7518, 0.16322, 0.69302)
    )
    export_config = None


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def randomize(module: nn.Module) -> nn.Module:
    """Give every weight, and every running statistic, a value that would show a mix-up."""
    torch.manual_seed(3)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            low, high = (0.5, 2.0) if name.endswith('running_var') else (-0.5, 0.5)
            value.uniform_(low, high)
    return module.eval()


# ---- the table of families ----

def test_an_unknown_family_or_preset_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(RgbxSegError, match='segformer.*segrgbx'):
        find_family('segformer')
    with pytest.raises(RgbxSegError, match='huge.*tiny.*b5'):
        find_config('segrgbx', 'huge')


def test_every_preset_builds_on_the_meta_device() -> None:
    for preset in FAMILIES['segrgbx'].presets.values():
        with torch.device('meta'):
            FAMILIES['segrgbx'].build(preset, 9)


# ---- switches ----

@pytest.mark.parametrize('change', [
    {'clip': None}, {'dsrm': None}, {'prompts': 0}, {'clip': None, 'dsrm': None, 'prompts': 0},
    {'dsrm': replace(MICRO.dsrm, share=False)}, {'head_folded': False}, {'drop_path': 0.2},
    *({'dsrm': replace(MICRO.dsrm, structure=name)} for name in STRUCTURES),
], ids=str)
def test_each_switch_trains_and_merges(change: dict) -> None:
    model = build('segrgbx', replace(MICRO, **change))
    rgb, aux = fake_pair(2, 64, 64)
    expected = model(rgb, aux, ['event', 'event']).detach()
    merged = model.merge('event')(rgb, aux).detach()
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    model.train()(rgb, aux, ['event', 'depth']).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('change', [
    {'pairing': 'best'}, {'dsrm': DsrmConfig(pairing='best')}, {'dsrm': DsrmConfig(structure='z')},
])
def test_an_unknown_choice_is_refused(change: dict) -> None:
    with pytest.raises(RgbxSegError, match='expected one of (aligned|a, b)'):
        SegRGBXConfig(**change)


@torch.inference_mode()
def test_pairings_choose_whose_embedding_a_stream_sees() -> None:
    rgb, aux = fake_pair(1, 64, 64)
    s, other = torch.randn(2, 1, MICRO.clip.embed, generator=torch.Generator().manual_seed(1))

    def logits(pairing: str, s_rgb: Tensor, s_aux: Tensor) -> Tensor:
        model = build('segrgbx', replace(MICRO, pairing=pairing, dsrm=None))
        return model(rgb, aux, ['depth'], Embeddings(s_rgb, s_aux))

    assert logits('rgb_dominant', s, other).equal(logits('rgb_dominant', s, s))
    assert not logits('rgb_dominant', other, s).equal(logits('rgb_dominant', s, s))
    assert logits('aligned', s, other).equal(logits('cross_modal', other, s))
    assert not logits('aligned', s, other).equal(logits('aligned', s, s))


@torch.inference_mode()
def test_embeddings_may_be_computed_apart() -> None:
    model, (rgb, aux) = build('segrgbx', MICRO), fake_pair(2)
    names = ['thermal', 'event']
    assert model(rgb, aux, names, model.embed(rgb, aux, names)).equal(model(rgb, aux, names))
    assert model(rgb, aux, names, stride=2).shape[2:] == (32, 48)


def test_a_frozen_clip_stays_frozen() -> None:
    model = build('segrgbx', replace(MICRO, clip=replace(MICRO.clip, frozen=True))).train()
    assert not any(p.requires_grad for p in model.clip.parameters())
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith('clip.'))


# ---- blocks against the paper ----

def test_prompts_in_keys_and_values_equal_full_attention_with_their_outputs_dropped() -> None:
    attention = randomize(Attention(16, heads=2, reduction=1))
    x, prompts = torch.randn(2, 12, 16), torch.randn(2, 3, 16)
    full = attention(torch.cat([x, prompts], dim=1), None, 1, 15)
    torch.testing.assert_close(attention(x, prompts, 3, 4), full[:, :12])


def test_frm_is_the_published_formula() -> None:
    frm = randomize(FeatureRectification(6))
    x1, x2 = torch.randn(2, 2, 6, 4, 5)
    y1, y2 = frm(x1, x2)
    both = torch.cat([x1, x2], 1)
    hidden = (frm.channel[0](torch.cat([both.flatten(2).mean(2), both.flatten(2).amax(2)], 1)))
    gates = frm.channel[2](hidden.clamp(min=0)).sigmoid()
    maps = frm.spatial[2](frm.spatial[0](both).clamp(min=0)).sigmoid()
    c1, c2, s1, s2 = gates[:, :6, None, None], gates[:, 6:, None, None], maps[:, :1], maps[:, 1:]
    torch.testing.assert_close(y1, x1 + 0.5 * c2 * x2 + 0.5 * s2 * x2)
    torch.testing.assert_close(y2, x2 + 0.5 * c1 * x1 + 0.5 * s1 * x1)


def test_ffm_is_the_published_formula() -> None:
    ffm = randomize(FeatureFusion(8, heads=2))
    x1, x2 = torch.randn(2, 1, 8, 3, 5)
    tokens = [x.flatten(2).mT for x in (x1, x2)]
    ys, us = zip(*(proj(x).relu().chunk(2, -1)
                   for proj, x in zip((ffm.proj1, ffm.proj2), tokens, strict=True)), strict=True)

    def read(u: Tensor, kv: Tensor) -> Tensor:
        """One head after the other: rows of k^T v / sqrt(d) compete for each value channel."""
        k, v = kv.chunk(2, -1)
        heads = [slice(0, 4), slice(4, 8)]
        return torch.cat([
            u[..., h] @ (k[..., h].mT @ v[..., h] / 2.0).softmax(-2) for h in heads
        ], -1)

    v1, v2 = read(us[0], ffm.cross.kv2(us[1])), read(us[1], ffm.cross.kv1(us[0]))
    o1 = ffm.norm1(tokens[0] + ffm.end1(torch.cat([ys[0], v1], -1)))
    o2 = ffm.norm2(tokens[1] + ffm.end2(torch.cat([ys[1], v2], -1)))
    both = torch.cat([o1, o2], -1).mT.reshape(1, 16, 3, 5)
    torch.testing.assert_close(ffm(x1, x2), ffm.norm(ffm.residual(both) + ffm.embed(both)))


@pytest.mark.parametrize('dim', [8, 64, 320])
def test_frm_and_ffm_have_the_published_counts(dim: int) -> None:
    assert count(FeatureRectification(dim)) == 26 * dim**2 + 9 * dim + 2
    assert count(FeatureFusion(dim, heads=1)) == 17 * dim**2 + 26 * dim


def test_channel_attention_compares_channels_by_cosine() -> None:
    attention = randomize(CosineChannelAttention(4, heads=1))
    query, context = torch.randn(2, 1, 7, 4)
    q, k, v = attention.q(query)[0], attention.k(context)[0], attention.v(context)[0]
    cosine = torch.cosine_similarity(q.T[:, None], k.T[None], dim=-1)  # (4, 4)
    weights = (cosine * attention.temperature.squeeze()).softmax(-1)
    torch.testing.assert_close(
        attention(query, context)[0], attention.proj(v @ weights.T)
    )


@torch.inference_mode()
def test_the_folded_head_is_the_same_function() -> None:
    model, (rgb, aux) = build('segrgbx', MICRO), fake_pair(1)
    folded = model(rgb, aux, ['depth'])
    model.head.folded = False
    torch.testing.assert_close(model(rgb, aux, ['depth']), folded, atol=1e-5, rtol=1e-5)


# ---- foreign weights ----

@pytest.fixture(scope='module')
def segformer() -> SegformerModel:
    torch.manual_seed(0)
    config = SegformerConfig(
        hidden_sizes=list(MICRO.dims), depths=[2, 1, 1, 1], num_attention_heads=list(MICRO.heads),
        output_hidden_states=True,
    )
    return randomize(SegformerModel(config))


@torch.inference_mode()
def test_the_encoder_equals_transformers_segformer(segformer: SegformerModel) -> None:
    config = replace(MICRO, depths=(2, 1, 1, 1), clip=None, dsrm=None, prompts=0)
    model = SegRGBX(config, 2).eval()
    state = convert_mit(segformer.state_dict())
    model.stages.load_state_dict({k.removeprefix('stages.'): v for k, v in state.items()})
    rgb, _ = fake_pair(2, 64, 96)
    expected, x = segformer(rgb).hidden_states, rgb
    for stage, hidden in zip(model.stages, expected[-4:], strict=True):
        x = stage(x)
        torch.testing.assert_close(x, hidden, atol=1e-4, rtol=1e-4)


def test_names_of_hub_files_convert_like_names_in_memory(
    segformer: SegformerModel, tmp_path
) -> None:
    segformer.save_pretrained(tmp_path)
    from_file = convert_mit(load_file(tmp_path / 'model.safetensors'))
    in_memory = convert_mit(segformer.state_dict())
    assert from_file.keys() == in_memory.keys()
    assert all(from_file[name].equal(in_memory[name]) for name in in_memory)


def test_published_fusion_names_convert() -> None:
    ours = {'rectify.0.channel.0.weight', 'rectify.3.spatial.2.bias', 'fuse.1.proj2.bias',
            'fuse.0.cross.kv1.weight', 'fuse.0.end1.weight', 'fuse.2.norm1.bias',
            'fuse.2.norm.running_var', 'fuse.0.embed.4.num_batches_tracked',
            'fuse.0.residual.weight'}
    theirs = ['FRMs.0.channel_weights.mlp.0.weight', 'FRMs.3.spatial_weights.mlp.2.bias',
              'FFMs.1.cross.channel_proj2.bias', 'FFMs.0.cross.cross_attn.kv1.weight',
              'FFMs.0.cross.end_proj1.weight', 'FFMs.2.cross.norm1.bias',
              'FFMs.2.channel_emb.norm.running_var',
              'FFMs.0.channel_emb.channel_embed.4.num_batches_tracked',
              'FFMs.0.channel_emb.residual.weight']
    assert set(convert_fusion({name: torch.zeros(1) for name in theirs})) == ours
    assert ours <= set(SegRGBX(MICRO, 2).state_dict())


def test_foreign_names_that_no_rule_knows_are_refused() -> None:
    with pytest.raises(RgbxSegError, match='backbone.weight'):
        convert_mit({'backbone.weight': torch.zeros(1)})
    with pytest.raises(RgbxSegError, match='decode.bias'):
        convert_fusion({'decode.bias': torch.zeros(1)})


# ---- published counts ----

def test_b2_has_the_published_size_and_cost() -> None:
    with torch.device('meta'):
        model = SegRGBX(PRESETS['b2'], n_classes=70).eval()
        image = torch.empty(1, 3, 512, 512)
    lora = sum(p.numel() for name, p in model.named_parameters() if 'lora_' in name)
    assert count(model) - lora == pytest.approx(159.40e6, rel=0.01)  # LoRA merges away
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 73_173_314
    assert [count(part) for part in (model.stages, model.head)] == [24_196_288, 1_611_846]
    assert count(model.dsrm) == pytest.approx(30.2e6, rel=0.001)
    with FlopCounterMode(display=False) as flops, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model(image, image, ['thermal'])
    assert 103e9 < flops.get_total_flops() / 2 < 115e9  # multiply-adds of all matmuls and convs


def test_tiny_fits_its_budget() -> None:
    merged = SegRGBX(TINY, n_classes=9).merge('thermal')
    assert count(merged) <= 5.5e6  # 11 MB as float16
    rgb, aux = fake_pair(1, 240, 320)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        merged(rgb, aux)
    assert flops.get_total_flops() / 2 <= 1.4e9
