# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SegRGB-X: what every family must hold, the paper's formulas, and the published counts."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from base import FamilyTester, Pinned, build, component_of, fake_pair
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    CLIPConfig,
    CLIPModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.models.blocks.fusion import FeatureFusion, FeatureRectification
from rgbx_seg_train.models.blocks.mit import Attention
from rgbx_seg_train.models.segrgbx import (
    PARTS,
    PRESETS,
    PRETRAINED,
    PUBLISHED,
    TABLE_IV,
    Embeddings,
    SegRGBX,
    SegRGBXConfig,
)
from rgbx_seg_train.models.segrgbx.convert import convert_fusion, convert_mit
from rgbx_seg_train.models.segrgbx.dsrm import (
    STRUCTURES,
    ChannelAttention,
    CosineChannelAttention,
    DsrmConfig,
)
from rgbx_seg_train.models.segrgbx.ma_clip import (
    CLIP_MEAN,
    CLIP_STD,
    ClipConfig,
    resize_antialiased,
)
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD

TINY = PRESETS['tiny']
MICRO = replace(
    TINY, dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4), prompts=2, head_embed=8,
    clip=ClipConfig(hidden=16, layers=1, heads=2, image_size=32, embed=12, lora_rank=2,
                    frozen=False),
    dsrm=DsrmConfig(layers=2, grid=(2, 3), gate=4, heads=4),
)
PLAIN = replace(MICRO, clip=None, dsrm=None, prompts=0)  # CMX with one encoder for both streams


class TestTiny(FamilyTester):
    family = 'segrgbx'
    config = TINY
    trainable = ('.*',)
    pinned = Pinned(
        'fc262c2a4b2a', (0.8105, 0.05239, 0.67361, 1.06787, 0.21252, 0.81483)
    )
    export_config = None  # test_onnx_of_both_halves_equals_torch exports the same parts


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


def test_the_size_names_are_the_presets_of_the_paper() -> None:
    assert list(PRESETS)[:4] == ['tiny', 'small', 'base', 'full']
    for name, alias in (('small', 'b0'), ('base', 'b1'), ('full', 'b2')):
        assert PRESETS[name] is PRESETS[alias]
    assert PRETRAINED['full'] == {'encoder': 'nvidia/mit-b2',
                                  'clip': 'openai/clip-vit-base-patch16'}
    assert set(PRETRAINED) | {'tiny'} == set(PRESETS)
    assert all(set(parts) <= set(PARTS) for parts in PRETRAINED.values())
    assert set(TABLE_IV) == set(STRUCTURES)


# ---- switches ----

@pytest.mark.parametrize('change', [
    {'clip': None}, {'dsrm': None}, {'prompts': 0}, {'clip': None, 'dsrm': None, 'prompts': 0},
    {'dsrm': replace(MICRO.dsrm, share=False)}, {'head_folded': False}, {'drop_path': 0.2},
    {'dsrm': replace(MICRO.dsrm, query_map=True)},
    {'clip': replace(MICRO.clip, resize='bilinear')},
    *({'dsrm': replace(MICRO.dsrm, structure=name)} for name in STRUCTURES),
], ids=str)
def test_each_switch_trains_and_merges(change: dict) -> None:
    model = build('segrgbx', replace(MICRO, **change))
    rgb, aux = fake_pair(2, 64, 64)
    expected = model(rgb, aux, ['event', 'event']).detach()
    merged = model.merge('event')(rgb, aux).detach()
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    model.train()(rgb, aux, ['event', 'depth']).square().mean().backward()
    silent = [name for name, p in model.named_parameters()
              if not (p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0)]
    # the other modalities' LoRA; a bias before a batch norm, or of keys before a softmax
    assert [n for n in silent if 'lora_' not in n and not n.endswith('bias')] == []


@pytest.mark.parametrize('change', [
    {'pairing': 'best'}, {'dsrm': DsrmConfig(pairing='best')}, {'dsrm': DsrmConfig(structure='z')},
    {'clip': ClipConfig(resize='area')},
])
def test_an_unknown_choice_is_refused(change: dict) -> None:
    with pytest.raises(RgbxSegError, match='expected one of (aligned|a, b|bicubic)'):
        SegRGBXConfig(**change)


@pytest.mark.parametrize(('change', 'words'), [
    ({'heads': (1, 2, 5, 7)}, r'heads is \(1, 2, 5, 7\), expected divisors of .*512'),
    ({'clip': ClipConfig(heads=7)}, r'clip.heads is \(7,\), expected divisors of .*768'),
    ({'dsrm': DsrmConfig(heads=7)}, r'dsrm.heads is \(7,\), expected divisors of .*512'),
    ({'dsrm': DsrmConfig(layers=3, share=False)}, 'dsrm.layers is 3 .*an even number'),
])
def test_sizes_that_do_not_divide_are_refused(change: dict, words: str) -> None:
    with pytest.raises(RgbxSegError, match=words):
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
def test_dsrm_pairings_choose_whose_embedding_a_stream_sees() -> None:
    rgb, aux = fake_pair(1, 64, 64)
    s, other = torch.randn(2, 1, MICRO.clip.embed, generator=torch.Generator().manual_seed(1))

    def logits(pairing: str, s_rgb: Tensor, s_aux: Tensor) -> Tensor:
        config = replace(MICRO, dsrm=replace(MICRO.dsrm, pairing=pairing))
        model = build('segrgbx', config)
        for prompts in model.prompts:  # S reaches the DSRM alone
            prompts.control.weight.zero_()
        return model(rgb, aux, ['depth'], Embeddings(s_rgb, s_aux))

    assert logits('rgb_dominant', s, other).equal(logits('rgb_dominant', s, s))
    assert not logits('rgb_dominant', other, s).equal(logits('rgb_dominant', s, s))
    assert logits('aligned', s, other).equal(logits('cross_modal', other, s))
    assert not logits('aligned', s, other).equal(logits('aligned', s, s))


def test_without_share_each_stream_has_half_of_the_dsrm_modules() -> None:
    model = build('segrgbx', replace(MICRO, dsrm=replace(MICRO.dsrm, layers=4, share=False)))
    assert [len(modules) for modules in model.dsrm] == [2, 2]
    x, s = torch.randn(2, 32, 2, 3), torch.randn(2, MICRO.clip.embed)
    both = model._refine(x, torch.tensor([0, 1]), Embeddings(*s.chunk(2)))
    for i, modules in enumerate(model.dsrm):
        part = x[i:i + 1]
        for module in modules:
            part = module(part, s[i:i + 1])
        torch.testing.assert_close(both[i:i + 1], part)


@torch.inference_mode()
def test_embeddings_may_be_computed_apart() -> None:
    model, (rgb, aux) = build('segrgbx', MICRO), fake_pair(2)
    names = ['thermal', 'event']
    assert model(rgb, aux, names, model.embed(rgb, aux, names)).equal(model(rgb, aux, names))
    merged = model.merge('event')
    s_rgb, s_aux = merged.embed(rgb, aux)
    assert s_rgb.shape == s_aux.shape == (2, merged.scene_width)
    torch.testing.assert_close(s_aux, model.embed(rgb, aux, ['event'] * 2).s_aux)
    assert merged(rgb, aux, s_rgb, s_aux).equal(merged(rgb, aux))


def test_without_clip_there_is_no_scene_to_embed() -> None:
    merged = build('segrgbx', replace(MICRO, clip=None)).merge('event')
    assert merged.scene_width == 0
    with pytest.raises(RgbxSegError, match='without MA-CLIP'):
        merged.embed(*fake_pair(1))


@torch.inference_mode()
def test_onnx_of_both_halves_equals_torch() -> None:
    merged = build('segrgbx', MICRO).merge('thermal')
    pair, other = fake_pair(1), fake_pair(1, seed=1)
    scene = merged.embed(*pair)

    class Scene(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.merged = merged

        def forward(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
            return self.merged.embed(rgb, aux)

    names = ['rgb', 'aux', 's_rgb', 's_aux']
    scene_half = _run_onnx(Scene().eval(), pair, names[:2])
    network_half = _run_onnx(merged, (*pair, *scene), names)
    for images in (pair, other):
        embeddings = scene_half(*images)
        for found, expected in zip(embeddings, merged.embed(*images), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)
        for images2 in (pair, other):  # the other's scene: neither half bakes anything in
            found = network_half(*images2, *map(torch.from_numpy, embeddings))[0]
            expected = merged(*images2, *merged.embed(*images))
            np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def _run_onnx(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str]):
    """Return what runs the module's ONNX graph on tensors."""
    program = torch.onnx.export(
        module, inputs, input_names=names, dynamo=True, opset_version=18, verbose=False,
        optimize=False,
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    assert [item.name for item in session.get_inputs()] == names

    def run(*tensors: Tensor) -> list[np.ndarray]:
        return session.run(None, {n: t.numpy() for n, t in zip(names, tensors, strict=True)})

    return run


def test_a_frozen_clip_stays_frozen() -> None:
    model = build('segrgbx', replace(MICRO, clip=replace(MICRO.clip, frozen=True))).train()
    assert not any(p.requires_grad for p in model.clip.parameters())
    assert all(p.requires_grad for n, p in model.named_parameters() if not n.startswith('clip.'))
    assert not any(module.training for module in model.clip.tower.modules())


# ---- MA-CLIP ----

@pytest.mark.parametrize('size', [(48, 64), (33, 97), (20, 32)])
def test_the_resize_is_the_antialiased_one_of_clip(size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size)
    expected = nn.functional.interpolate(image, (32, 24), mode='bicubic', antialias=True)
    torch.testing.assert_close(resize_antialiased(image, (32, 24)), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_each_sample_passes_its_own_lora() -> None:
    clip = build('segrgbx', MICRO).clip
    rgb, aux = fake_pair(3, 32, 32)
    names = ['event', 'thermal', 'event']
    mixed = clip(rgb, aux, names)
    for name in ('event', 'thermal'):
        mine = [i for i, n in enumerate(names) if n == name]
        alone = clip.merge(name)(rgb, aux, names)
        for found, expected in zip(mixed, alone, strict=True):
            torch.testing.assert_close(found[mine], expected[mine], atol=1e-5, rtol=1e-4)
            others = [i for i in range(3) if i not in mine]
            assert (found[others] - expected[others]).abs().max() > 1e-3


@torch.inference_mode()
def test_ma_clip_before_training_is_clip(tmp_path) -> None:
    text = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1,
            'num_attention_heads': 2, 'vocab_size': 30}
    vision = {'hidden_size': 16, 'intermediate_size': 64, 'num_hidden_layers': 2,
              'num_attention_heads': 2, 'image_size': 32, 'patch_size': 16}
    published = randomize(CLIPModel(CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=12)))
    published.save_pretrained(tmp_path)
    state = load_file(tmp_path / 'model.safetensors')
    assert any(name.startswith('text_model.') for name in state)

    model = SegRGBX(replace(MICRO, clip=replace(MICRO.clip, layers=2)), 2).eval()
    found = PARTS['clip'].convert(model, state)
    assert {n for n in model.state_dict() if n.startswith('clip.') and 'lora_' not in n} == {*found}
    model.load_state_dict(found, strict=False)
    pixels = torch.rand(2, 2, 3, 32, 32)

    def scale(image: Tensor, mean: tuple, std: tuple) -> Tensor:
        return (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    s = model.embed(scale(pixels[0], IMAGENET_MEAN, IMAGENET_STD), pixels[1], ['event', 'depth'])
    for ours, image in zip(s, pixels, strict=True):
        features = published.get_image_features(pixel_values=scale(image, CLIP_MEAN, CLIP_STD))
        torch.testing.assert_close(
            ours, getattr(features, 'pooler_output', features), atol=1e-4, rtol=1e-4)


def test_clip_weights_need_a_model_with_clip() -> None:
    with pytest.raises(RgbxSegError, match='no MA-CLIP'):
        PARTS['clip'].convert(SegRGBX(PLAIN, 2), {'visual_projection.weight': torch.zeros(1)})


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


def test_other_channel_attention_takes_the_mean_of_products_with_one_query() -> None:
    attention = randomize(ChannelAttention(4, heads=1))
    query, context = torch.randn(1, 1, 4), torch.randn(1, 7, 4)
    q, k, v = attention.q(query)[0, 0], attention.k(context)[0], attention.v(context)[0]
    weights = (torch.outer(q, k.mean(0)) * attention.temperature.squeeze()).softmax(-1)
    torch.testing.assert_close(attention(query, context)[0], attention.proj(v @ weights.T))


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


ORIGINAL_NAMES = [
    ('patch_embeddings.proj.', 'patch_embed{}.proj.'),
    ('patch_embeddings.layer_norm.', 'patch_embed{}.norm.'),
    ('blocks.', 'block{}.'), ('layer_norm.', 'norm{}.'),
]
ORIGINAL_BLOCK_NAMES = [
    ('layernorm_before.', 'norm1.'), ('layernorm_after.', 'norm2.'), ('.attention.', '.attn.'),
    ('q_proj.', 'q.'), ('o_proj.', 'proj.'), ('sequence_reduction.layer_norm.', 'norm.'),
    ('sequence_reduction.sequence_reduction.', 'sr.'), ('mlp.dwconv.', 'mlp.dwconv.dwconv.'),
]


def original_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the encoder of `transformers` as the original code, CMX and CMNeXt do."""
    theirs = {}
    for name, value in state.items():
        _, number, rest = re.fullmatch(r'(segformer\.)?stages\.(\d)\.(.*)', name).groups()
        start, form = next(row for row in ORIGINAL_NAMES if rest.startswith(row[0]))
        rest = form.format(int(number) + 1) + rest.removeprefix(start)
        for ours, original in ORIGINAL_BLOCK_NAMES:
            rest = rest.replace(ours, original)
        if 'k_proj.' in rest:
            value = torch.cat([value, state[name.replace('k_proj', 'v_proj')]])
        if 'v_proj.' not in rest:
            theirs[rest.replace('k_proj.', 'kv.').replace('mlp.dwconv.dwconv.dwconv.',
                                                          'mlp.dwconv.dwconv.')] = value
    return theirs


def test_original_names_convert_like_those_of_transformers(segformer: SegformerModel) -> None:
    theirs = original_names(segformer.state_dict())
    assert {'patch_embed1.proj.weight', 'block1.0.attn.sr.bias', 'block2.0.attn.norm.weight',
            'block4.0.mlp.dwconv.dwconv.weight', 'block4.0.attn.kv.weight', 'norm4.bias',
            'block3.0.norm2.weight', 'patch_embed4.norm.weight'} <= set(theirs)
    expected = convert_mit(segformer.state_dict())
    model = SegRGBX(replace(PLAIN, depths=(2, 1, 1, 1)), 2)
    whole = {**{f'backbone.{name}': value for name, value in theirs.items()},
             'backbone.extra_norm1.weight': torch.zeros(8),
             'backbone.FRMs.0.spatial_weights.mlp.0.bias': torch.zeros(8),
             'decode_head.linear_pred.bias': torch.zeros(2)}
    for state in ({**theirs, 'head.weight': torch.zeros(1)}, whole):
        found = PARTS['encoder'].convert(model, state)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)


@pytest.fixture(scope='module')
def whole_segformer() -> SegformerForSemanticSegmentation:
    torch.manual_seed(0)
    return randomize(SegformerForSemanticSegmentation(SegformerConfig(
        hidden_sizes=list(MICRO.dims), depths=[1, 1, 1, 1], num_attention_heads=list(MICRO.heads),
        decoder_hidden_size=MICRO.head_embed, num_labels=3)))


@torch.inference_mode()
@pytest.mark.parametrize('folded', [False, True])
def test_encoder_and_head_of_one_file_equal_transformers(
    whole_segformer: SegformerForSemanticSegmentation, tmp_path, folded: bool
) -> None:
    whole_segformer.save_pretrained(tmp_path)
    model = SegRGBX(replace(PLAIN, head_folded=folded), 3).eval()
    for state in (load_file(tmp_path / 'model.safetensors'), whole_segformer.state_dict()):
        found = (PARTS['encoder'].convert(model, state) | PARTS['head'].convert(model, state))
        model.load_state_dict(found, strict=False)
        x, _ = fake_pair(2, 64, 96)
        expected, maps = whole_segformer(x).logits, []
        for stage in model.stages:
            x = stage(x)
            maps.append(x)
        torch.testing.assert_close(model.head(maps), expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_bias_of_the_head_of_cmx_moves_into_its_norm() -> None:
    model = SegRGBX(PLAIN, 3).eval()
    linears = {f'decode_head.linear_c{i + 1}.proj.{part}': value
               for i, dim in enumerate(MICRO.dims)
               for part, value in (('weight', torch.randn(8, dim)), ('bias', torch.randn(8)))}
    fuse, norm, pred = nn.Conv2d(32, 8, 1), randomize(nn.BatchNorm2d(8)), nn.Conv2d(8, 3, 1)
    layers = {f'decode_head.{name}.{part}': value
              for name, layer in (('linear_fuse.0', fuse), ('linear_fuse.1', norm),
                                  ('linear_pred', pred))
              for part, value in layer.state_dict().items()}
    found = PARTS['head'].convert(model, linears | layers)
    model.load_state_dict(found, strict=False)
    maps = [torch.randn(2, dim, 2, 3) for dim in MICRO.dims]
    levels = [torch.einsum('oc,bchw->bohw', linears[f'decode_head.linear_c{i}.proj.weight'], x)
              + linears[f'decode_head.linear_c{i}.proj.bias'][:, None, None]
              for i, x in enumerate(maps, start=1)]
    expected = pred(norm(fuse(torch.cat(levels[::-1], 1))).relu())
    torch.testing.assert_close(model.head(maps), expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_size_are_refused_with_the_first_that_is_wrong(
    segformer: SegformerModel, whole_segformer: SegformerForSemanticSegmentation
) -> None:
    state = segformer.state_dict()  # depths 2, 1, 1, 1
    with pytest.raises(RgbxSegError, match=r'found shape .* for stages.0.blocks.1.attn.kv.bias, '
                                           'expected nothing'):
        PARTS['encoder'].convert(SegRGBX(PLAIN, 2), state)
    with pytest.raises(RgbxSegError, match=r'found nothing for stages.3.blocks.1.attn.kv.bias'):
        PARTS['encoder'].convert(SegRGBX(replace(PLAIN, depths=(2, 1, 1, 2)), 2), state)
    with pytest.raises(RgbxSegError, match=r'found shape \(3,\) for head.classify.bias, expected '
                                           r'shape \(2,\).*classes'):
        PARTS['head'].convert(SegRGBX(PLAIN, 2), whole_segformer.state_dict())
    with pytest.raises(RgbxSegError, match='found nothing for fuse.0.cross.kv1.weight'):
        PARTS['fusion'].convert(SegRGBX(PLAIN, 2), state)
    with pytest.raises(RgbxSegError, match="encoder weights: found 'neck.weight'"):
        PARTS['encoder'].convert(SegRGBX(PLAIN, 2), state | {'neck.weight': torch.zeros(1)})


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

def test_full_has_the_published_size_and_cost() -> None:
    with torch.device('meta'):
        model = SegRGBX(PRESETS['full'], n_classes=70).eval()
        image = torch.empty(1, 3, 512, 512)
    counts = dict.fromkeys((name for name, _ in SegRGBX.COMPONENTS), 0)
    for name, value in model.named_parameters():
        counts[component_of(name, SegRGBX.COMPONENTS)] += value.numel()
    assert counts == {
        'encoder': 24_196_288, 'prompts': 574_464, 'frm': 10_019_848, 'ffm': 6_572_032,
        'dsrm': 30_198_836, 'head': 1_611_846, 'lora': 1_474_560, 'clip': 86_192_640,
    }
    for total in (count(model), count(model) - counts['lora']):  # LoRA merges away
        assert total == pytest.approx(159.40e6, rel=0.01)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 73_173_314
    with FlopCounterMode(display=False) as flops, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        model(image, image, ['thermal'])
    assert 103e9 < flops.get_total_flops() / 2 < 115e9  # multiply-adds of all matmuls and convs
    assert {row.key for row in PUBLISHED['full']} == {
        'params_total', 'gmac', 'gmac_layers', 'latency_ms'}


def test_replacing_u_by_f_costs_what_the_paper_says() -> None:
    with torch.device('meta'):
        full = SegRGBX(PRESETS['full'], 70)
        without = SegRGBX(replace(PRESETS['full'], dsrm=DsrmConfig(structure='i')), 70)
    published = 1e6 * (TABLE_IV['h'][0] - TABLE_IV['i'][0])
    assert count(full) - count(without) == pytest.approx(published, rel=0.07)


def test_tiny_fits_its_budget() -> None:
    merged = SegRGBX(TINY, n_classes=9).merge('thermal')
    assert count(merged) <= 5.5e6  # 11 MB as float16
    rgb, aux = fake_pair(1, 240, 320)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        merged(rgb, aux)
    assert flops.get_total_flops() / 2 <= 1.4e9
