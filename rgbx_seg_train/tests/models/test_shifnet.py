# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SHIFNet: what every family must hold, the official code's math and names, published counts."""

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
    foreign,
    onnx_like_torch,
)
from shifnet_oracle import blocks, segment, shapes
from torch import Tensor, nn
from torch.nn import functional
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, Sam2VisionModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.models.blocks.hiera import HIERA, HieraConfig
from rgbx_seg_train.models.shifnet import (
    PARTS,
    PRESETS,
    PRETRAINED,
    PUBLISHED,
    SHIFNet,
    SHIFNetConfig,
)
from rgbx_seg_train.models.shifnet.decoder import DECODERS
from rgbx_seg_train.models.shifnet.fusion import FUSIONS
from rgbx_seg_train.models.shifnet.model import fit, to_raw_range
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.profile_model import profile

TRAINED = (r'encoder\.backbone\.blocks\.\d+\.(attn|mlp)\.adapter\..*', r'fusion\..*',
           r'decoder\..*')
MICRO = replace(  # odd widths, windows that do not fit, a global block, a frozen encoder
    PRESETS['micro'],
    hiera=HieraConfig(dim=8, heads=1, depths=(1, 2, 2, 1), windows=(8, 4, 6, 4),
                      global_blocks=(4,), background=(3, 5)),
    frozen=True, width=32, text_dim=24, squeezed=4, fusion_blocks=2, dropout=0.1,
)
SMALLEST = replace(MICRO, hiera=replace(MICRO.hiera, depths=(1, 1, 1, 1), global_blocks=(0,)),
                   fusion_blocks=1)


class TestMicro(FamilyTester):
    family = 'shifnet'
    config = PRESETS['micro']
    modality_matters = False
    trainable = ('.*',)
    pinned = Pinned(
        '56f3697c5672', (0.13603, 0.1015, 0.07364, 0.12274, 0.12819, -0.16635)
    )
    test_onnx_equals_torch = None  # see the end of this file


class TestFrozen(FamilyTester):
    family = 'shifnet'
    config = MICRO
    modality_matters = False
    trainable = TRAINED
    pinned = Pinned(
        'ea34aa117b45', (0.07387, -0.17074, -0.86049, -0.12664, -0.22552, -0.87443)
    )
    test_onnx_equals_torch = None  # see the end of this file


def official(config: SHIFNetConfig = MICRO, n_classes: int = N_CLASSES) -> dict[str, Tensor]:
    """Return an official checkpoint in which no value is zero, one or equal to another."""
    state = {name: foreign(name, shape) for name, shape in shapes(config, n_classes).items()}
    state['label_feature'] *= torch.linspace(1, 9, n_classes)[:, None]  # lengths that matter
    return state | {'decoder.logit_scale': torch.tensor(2.0)}


def converted(state: dict[str, Tensor], config: SHIFNetConfig = MICRO,
              n_classes: int = N_CLASSES) -> SHIFNet:
    model = SHIFNet(config, n_classes)
    model.load_state_dict(PARTS['official'].convert(model, state))
    return model.eval()


def on_meta(preset: str, n_classes: int = N_CLASSES) -> SHIFNet:
    with torch.device('meta'):
        return SHIFNet(PRESETS[preset], n_classes)


# ---- the official code's math and names ----

@pytest.mark.parametrize('n_classes', [5, 14])
@torch.inference_mode()
def test_an_official_checkpoint_gives_the_logits_of_its_formulas(n_classes: int) -> None:
    state, (rgb, aux) = official(n_classes=n_classes), fake_pair(2)
    expected = segment(state, rgb, aux, MICRO)
    assert expected.std((2, 3)).min() > 0.05
    logits = converted(state, n_classes=n_classes)(rgb, aux, ['thermal'] * 2)
    torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-5)


def test_an_official_checkpoint_must_fit_to_the_last_tensor() -> None:
    model, state = SHIFNet(MICRO, N_CLASSES), official()
    convert = PARTS['official'].convert
    lacking = {k: v for k, v in state.items() if 'x_proj.2.bias' not in k}
    with pytest.raises(RgbxSegError, match='4 tensors are missing.*fusion.0.project_aux.2.bias'):
        convert(model, lacking)
    with pytest.raises(RgbxSegError, match='1 tensors that the model has no place.*decoder.extra'):
        convert(model, state | {'decoder.extra': torch.zeros(1)})
    with pytest.raises(RgbxSegError, match=r'decoder.project.bias has shape \(2,\), expected'):
        convert(model, state | {'decoder.head.bias': torch.zeros(2)})
    with pytest.raises(RgbxSegError, match='no place.*fusion'):
        convert(SHIFNet(replace(MICRO, fusion='add'), N_CLASSES), state)
    del state['label_feature']  # it is no entry of the published files
    assert convert(model, state).keys() == model.state_dict().keys() - {'class_embeddings'}


def test_raw_range_is_what_the_official_pst900_loader_makes() -> None:
    random = np.random.default_rng(0)
    rgb, thermal = (torch.from_numpy(random.integers(0, 256, (1, 6, 7, c), np.uint8))
                    for c in (3, 1))
    raw_rgb, raw_aux = to_raw_range(*normalize(rgb, thermal))
    for c, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (rgb[..., c].float() - mean) / std  # of 0..255
        torch.testing.assert_close(raw_rgb[:, c], expected, atol=1e-3, rtol=1e-6)
    torch.testing.assert_close(raw_aux, thermal.float().permute(0, 3, 1, 2).expand(-1, 3, -1, -1))


@torch.inference_mode()
def test_raw_range_changes_the_images_and_nothing_else() -> None:
    state, (rgb, aux) = official(), fake_pair(1)
    raw = converted(state, replace(MICRO, raw_range=True))(rgb, aux, ['thermal'])
    torch.testing.assert_close(raw, converted(state)(*to_raw_range(rgb, aux), ['thermal']),
                               atol=0, rtol=0)


# ---- published sizes ----

def count(model: nn.Module, preset: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, value in model.named_parameters():
        found[component_of(name, model.COMPONENTS)] += value.numel()
    return {'trainable': sum(p.numel() for p in model.parameters() if p.requires_grad),
            'total': sum(found.values()), **found}


def test_parameters_at_full_size_are_the_published_ones() -> None:
    assert count(on_meta('full'), 'full') == {
        'trainable': 32_268_145, 'total': 244_971_425, 'adapters': 17_859_888,
        'trunk': 212_149_296, 'neck': 553_984, 'sacf': 10_880_000, 'hpd': 3_528_257,
    }
    assert count(on_meta('base'), 'base')['trainable'] == 20_230_465


@pytest.mark.parametrize('preset', ['tiny', 'small', 'base', 'full'])
def test_adapters_fusion_and_decoder_are_trained_and_nothing_else(preset: str) -> None:
    model = on_meta(preset)
    for name, value in model.named_parameters():
        assert value.requires_grad == any(re.fullmatch(p, name) for p in TRAINED), name


def linear_gmac(config: SHIFNetConfig, height: int, width: int) -> float:
    """Return billions of multiply-adds of all convolutions and linear layers, written out."""
    h, w = height // 4, width // 4
    macs = 2 * h * w * 3 * 49 * config.hiera.dim
    for dim, out, _, window, pooled in blocks(config.hiera):
        padded = -(-h // window) * -(-w // window) * window**2 if window else h * w
        after = padded // 4 if pooled else padded
        macs += 2 * padded * dim * 3 * out + 2 * h * w * dim * out * (dim != out)
        h, w = (h // 2, w // 2) if pooled else (h, w)
        macs += 2 * after * (out * out + out * out // 2)  # projection, adapter in the windows
        macs += 2 * h * w * (8 * out * out + out * out // 2)  # MLP, adapter beside it
    c, t, finest = config.width, config.text_dim, height // 4 * width // 4
    for i in range(4):
        n = finest >> 2 * i
        macs += 2 * n * c * config.hiera.dim * 2**i  # neck
        macs += n * (2 * (c * t + t * t + t) + config.fusion_blocks * (49 * c + 8 * c * c) + c * c)
        narrow, wide = c // 4, c // 2
        macs += n * (c * narrow + narrow**2 + 2 * narrow * wide + 7 * wide * (wide + narrow)
                     + 7 * wide * (3 * wide + narrow) + 9 * config.squeezed * (narrow + c))
        macs += n * (2 * c * c + c * c // 2)
    macs += finest * (2 * c * c + c * t + t * N_CLASSES)
    return macs / 1e9


def test_multiply_adds_at_full_size_are_near_the_published_ones() -> None:
    counted = profile('shifnet', 'tiny', size=(96, 160))['gmac']
    assert counted == pytest.approx(linear_gmac(PRESETS['tiny'], 96, 160), rel=1e-9)
    gmac = linear_gmac(PRESETS['full'], 480, 640)
    assert round(gmac) == 645
    (published,) = (row for row in PUBLISHED['full'] if row.key == 'gmac')
    assert published.size == (480, 640)
    assert abs(gmac / published.value - 1) < published.tolerance


# ---- SAM 2.1 ----

def foreign_sam(model_class: type[nn.Module], config: object) -> dict[str, Tensor]:
    config.vision_config.backbone_config.blocks_per_stage = [1, 2, 7, 2]
    with torch.device('meta'):
        return dict(model_class(config).state_dict())


@pytest.mark.parametrize('sam', [(Sam2Model, Sam2Config), (Sam2VideoModel, Sam2VideoConfig)],
                         ids=['image', 'video'])
def test_the_trunk_comes_from_files_of_transformers(sam: tuple) -> None:
    model, state = on_meta('tiny'), foreign_sam(sam[0], sam[1]())
    found = PARTS['trunk'].convert(model, state)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert found.keys() == frozen
    for name, value in found.items():
        theirs = name.replace('.inner.', '.').replace('encoder.', 'vision_encoder.', 1)
        assert value is state[theirs], name


def test_the_trunk_comes_from_files_of_meta() -> None:
    model, state = SHIFNet(MICRO, N_CLASSES), official()
    sam = {name: value for name, value in state.items()
           if name.startswith('image_encoder.') and 'Adapter' not in name}
    rest = ('sam_mask_decoder.iou_token.weight', 'sam_prompt_encoder.no_mask_embed.weight',
            'memory_attention.norm.weight', 'memory_encoder.out_proj.bias', 'maskmem_tpos_enc',
            'no_mem_embed', 'no_mem_pos_enc', 'no_obj_ptr', 'no_obj_embed_spatial',
            'mask_downsample.weight', 'obj_ptr_proj.layers.0.weight', 'obj_ptr_tpos_proj.bias')
    found = PARTS['trunk'].convert(model, sam | dict.fromkeys(rest, torch.zeros(1)))
    whole = PARTS['official'].convert(model, state)
    assert found.keys() == {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(value.equal(whole[name]) for name, value in found.items())


def test_a_trunk_of_another_size_or_model_is_refused() -> None:
    state = foreign_sam(Sam2Model, Sam2Config())
    convert = PARTS['trunk'].convert
    with pytest.raises(RgbxSegError, match='SAM 2.1 weights: found .*choose the preset'):
        convert(on_meta('small'), state)
    with pytest.raises(RgbxSegError, match="no place for.*'detector.weight'"):
        convert(on_meta('tiny'), state | {'detector.weight': torch.zeros(1)})


def test_presets_are_the_published_trunks() -> None:
    trunks = {'tiny': 'tiny', 'small': 'small', 'base': 'base_plus', 'full': 'large'}
    for preset, trunk in trunks.items():
        assert PRESETS[preset].hiera == HIERA[trunk]
        assert PRETRAINED[preset] == {
            'trunk': f'facebook/sam2.1-hiera-{trunk.replace("_", "-")}'
        }
    assert find_config('shifnet') is PRESETS['full']
    default = Sam2Config().vision_config.backbone_config  # Hiera-T
    assert default.blocks_per_stage == list(HIERA['tiny'].depths)
    assert default.global_attention_blocks == list(HIERA['tiny'].global_blocks)
    assert default.window_size_per_stage == list(HIERA['tiny'].windows)


@torch.inference_mode()
def test_without_adapters_the_encoder_is_that_of_transformers() -> None:
    model = build('shifnet', MICRO)
    plain = Sam2VisionModel(model.encoder.config).eval()
    plain.load_state_dict({name.replace('.inner.', '.'): value
                           for name, value in model.encoder.state_dict().items()
                           if 'adapter' not in name})
    for name, value in model.named_parameters():
        if 'adapter' in name:
            value.zero_()
    images, _ = fake_pair(1)
    for ours, theirs in zip(model.encoder(images).fpn_hidden_states,
                            plain(images).fpn_hidden_states, strict=True):
        assert ours.equal(theirs)


@pytest.mark.parametrize('change', [
    {'global_blocks': (1,)}, {'global_blocks': (99,)}, {'windows': (7, 4, 8, 4)},
    {'windows': (8, 4, 7, 7)}, {'windows': (8, 4, 0, 4)}, {'dim': 9, 'heads': 2}, {'heads': 0},
    {'depths': (1, 0, 1, 1)},
])
def test_sizes_that_no_trunk_can_run_with_are_refused(change: dict) -> None:
    with pytest.raises(RgbxSegError, match=f'hiera: {next(iter(change))} (is|holds) .*choose'):
        replace(MICRO.hiera, **change)


# ---- image sizes ----

@torch.inference_mode()
def test_multiples_of_32_pass_as_they_are_and_others_are_scaled_up() -> None:
    image, model = torch.rand(1, 3, 64, 96), build('shifnet', MICRO)
    assert fit(image) is image
    rgb, aux = fake_pair(1, 50, 70)
    larger = [functional.interpolate(x, (64, 96), mode='bilinear') for x in (rgb, aux)]
    coarse = model(*larger, ['thermal'], stride=4)  # (1, N, 16, 24), not resized
    expected = functional.interpolate(coarse, (50, 70), mode='bilinear', align_corners=True)
    torch.testing.assert_close(model(rgb, aux, ['thermal']), expected)


# ---- classes at run time ----

@torch.inference_mode()
def test_classes_may_be_exchanged_and_their_number_too() -> None:
    model, pair = build('shifnet', MICRO), fake_pair(1)
    before, rows = model(*pair, ['thermal']), model.class_embeddings.clone()
    model.set_classes(rows.flip(0))
    # the mean stays, so the fusion does
    torch.testing.assert_close(model(*pair, ['thermal']).flip(1), before)
    model.set_classes(rows[:3])
    assert model(*pair, ['thermal']).shape[1] == model.n_classes == 3
    assert model.merge('thermal')(*pair).shape[1] == 3
    rows.zero_()
    assert model.class_embeddings.any()  # a copy
    assert 'class_embeddings' in model.state_dict()


@torch.inference_mode()
def test_the_length_of_class_embeddings_matters_to_the_fusion_alone() -> None:
    pair = fake_pair(1)
    for fusion, alike in (('sacf', False), ('sacf_no_text', True)):
        model = build('shifnet', replace(MICRO, fusion=fusion))
        before = model(*pair, ['thermal'])
        model.set_classes(20 * model.class_embeddings)
        after = model(*pair, ['thermal'])
        assert torch.allclose(before, after, atol=1e-5) == alike


def test_random_classes_are_the_same_unit_rows_each_time() -> None:
    first, second = SHIFNet(MICRO, 4), SHIFNet(MICRO, 4)
    assert first.class_embeddings.equal(second.class_embeddings)
    torch.testing.assert_close(first.class_embeddings.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize(('rows', 'found'), [
    (torch.ones(24), r'shape \(24,\)'), (torch.ones(3, 7), r'shape \(3, 7\).*24'),
    (torch.ones(0, 24), r'shape \(0, 24\)'), (torch.full((2, 24), torch.nan), 'no numbers'),
    (torch.zeros(2, 24), 'rows of zeros'),
])
def test_what_is_no_class_embedding_is_refused(rows: Tensor, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        SHIFNet(SMALLEST, 3).set_classes(rows)


def test_class_embeddings_come_from_a_bare_tensor_of_the_right_shape() -> None:
    model, rows = SHIFNet(SMALLEST, 3), torch.rand(3, 24)
    convert = PARTS['classes'].convert
    assert convert(model, {'': rows})['class_embeddings'].equal(rows)
    assert convert(model, {'embedding': rows}).keys() == {'class_embeddings'}
    for wrong in (rows[:2], rows[:, :5], rows[0]):
        with pytest.raises(RgbxSegError, match=r'class_embeddings has shape .* expected \(3, 24\)'):
            convert(model, {'': wrong})
    with pytest.raises(RgbxSegError, match='2 tensors, expected one'):
        convert(model, {'a': rows, 'b': rows})


# ---- choices ----

@pytest.mark.parametrize('change', [
    *({'fusion': name} for name in FUSIONS), *({'decoder': name} for name in DECODERS),
    {'frozen': False}, {'raw_range': True},
], ids=str)
def test_each_choice_trains_and_merges(change: dict) -> None:
    model = build('shifnet', replace(SMALLEST, **change))
    pair = fake_pair(2, 32, 64)
    expected = model(*pair, ['event', 'depth']).detach()
    torch.testing.assert_close(model.merge('event')(*pair).detach(), expected)
    model.train()(*pair, ['event', 'depth']).square().mean().backward()
    for name, value in model.named_parameters():
        assert value.requires_grad == (value.grad is not None), name
        assert value.grad is None or value.grad.isfinite().all(), name


def test_ablations_have_the_parameters_that_they_should() -> None:
    def trained(**change: object) -> dict[str, int]:
        with torch.device('meta'):
            return count(SHIFNet(replace(PRESETS['full'], **change), 9), '')

    assert 'sacf' not in trained(fusion='add')
    assert trained(fusion='concat')['sacf'] == 4 * (512 * 256 + 256)
    projections = 2 * (256 * 768 + 768 + 768 * 768 + 768)
    assert trained(fusion='sacf_no_text')['sacf'] == 10_880_000 - 4 * projections
    linears = 4 * (256 * 256 + 256)
    assert trained(decoder='segformer')['hpd'] == (
        linears + 1024 * 256 + 2 * 256 + 9 * 256 + 9)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(RgbxSegError, match="fusion is 'sum', expected one of sacf, "):
        replace(MICRO, fusion='sum')
    with pytest.raises(RgbxSegError, match="decoder is 'fpn', expected one of hpd, "):
        find_config('shifnet', 'micro', {'decoder': 'fpn'})


def test_other_classes_need_a_decoder_that_reads_them() -> None:
    model = SHIFNet(replace(SMALLEST, decoder='segformer'), 3)
    model.set_classes(torch.rand(3, 24))
    with pytest.raises(RgbxSegError, match='found 4 rows, expected 3.*"hpd"'):
        model.set_classes(torch.rand(4, 24))


def gradients(config: SHIFNetConfig, checkpointing: bool = False) -> tuple[dict[str, Tensor], int]:
    """Return the gradients of a model, and how often the first block's MLP ran for them."""
    model, runs = build('shifnet', config).train(), []
    model.set_gradient_checkpointing(checkpointing)
    model.encoder.backbone.blocks[1].mlp.inner.register_forward_hook(lambda *_: runs.append(1))
    logits = model(*fake_pair(2, 32, 64), ['thermal', 'event'])
    logits.square().mean().backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(runs)


@pytest.mark.parametrize('frozen', [True, False])
def test_checkpointing_recomputes_the_same_gradients(frozen: bool) -> None:
    config = replace(MICRO, dropout=0.0, frozen=frozen)
    expected, once = gradients(config)
    found, twice = gradients(config, checkpointing=True)
    assert (once, twice) == (1, 2)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


# ---- export ----

def test_the_exported_graph_is_static_and_holds_nothing_unused() -> None:
    merged = build('shifnet', SMALLEST).merge('thermal')
    operators = Counter(node.op_type for node in onnx_like_torch(merged, 50, 70).node)
    # one per block and fused level: the attention's second softmax, which nothing reads, is gone
    assert operators['Softmax'] == sum(SMALLEST.hiera.depths) + 4
    assert not operators.keys() & {'Sin', 'Cos', 'If', 'Loop', 'NonZero', 'Shape', 'Where', 'Scan'}


def test_every_preset_is_in_the_table() -> None:
    family = find_family('shifnet')
    assert (family.size, family.n_classes) == ((480, 640), 9)
    assert set(PRETRAINED) | {'micro'} == set(family.presets)
