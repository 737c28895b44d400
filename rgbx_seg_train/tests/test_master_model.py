# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER's parts against `transformers`' CLIP, LLaVA and SAM on equal weights, and its counts."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SamMaskDecoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.modeling_sam import SamMaskDecoder, SamPositionalEmbedding

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import find_config
from rgbx_seg_train.models.master import MASTER, PARTS, PRESETS, PRETRAINED, MASTERConfig
from rgbx_seg_train.models.master.decoder import (
    CodebookHead,
    DecoderConfig,
    MaskDecoder,
    Positions,
)
from rgbx_seg_train.models.master.language import LanguageOptions
from rgbx_seg_train.models.master.vision import OfModalities, Patches, VisionConfig, pooled_tokens
from rgbx_seg_train.models.segrgbx.ma_clip import CLIP_MEAN, CLIP_STD
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rgbx_seg_train.profile_model import profile
from rgbx_seg_train.weights import read_weights

VISION = VisionConfig(hidden=32, layers=3, heads=2, image_size=28, patch_size=14)
SMALL = MASTERConfig(
    VISION,
    LanguageOptions(width=48, layers=2, heads=4, hidden=96, vocabulary=100, lora_rank=2, codes=2),
    DecoderConfig(dim=32, depth=2, heads=4, hidden=64),
)
SHARD = '50KB'


def clip_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(hidden_size=32, intermediate_size=128, num_hidden_layers=3,
                            num_attention_heads=2, image_size=28, patch_size=14, projection_dim=16)


def llama_config(vocabulary: int = 100) -> LlamaConfig:
    return LlamaConfig(vocab_size=vocabulary, hidden_size=48, intermediate_size=96,
                       num_hidden_layers=2, num_attention_heads=4, rms_norm_eps=1e-5)


@pytest.fixture(scope='module')
def llava() -> LlavaForConditionalGeneration:
    """LLaVA with 20 rows for marks after the words, as the published one has some."""
    torch.manual_seed(1)
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=clip_config(), text_config=llama_config(120), image_token_id=119)).eval()


def model(config: MASTERConfig = SMALL, n_classes: int = 3) -> MASTER:
    torch.manual_seed(0)
    return MASTER(config, n_classes, ('thermal', 'depth')).eval()


def converted(part: str, state: dict[str, Tensor]) -> MASTER:
    network = model()
    network.load_state_dict(PARTS[part].convert(network, state), strict=False)
    return network


def images() -> tuple[Tensor, Tensor, Tensor]:
    """Return rgb and aux as our models read them, and both (2, 3, 28, 28) as CLIP does."""
    random = torch.Generator().manual_seed(2)
    raw = torch.rand(2, 3, 28, 28, generator=random)
    mean, std, clip_mean, clip_std = (
        torch.tensor(values).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD, CLIP_MEAN, CLIP_STD))
    return (raw[:1] - mean) / std, raw[1:], (raw - clip_mean) / clip_std


# ---- CLIP and LLaVA ----

@pytest.mark.parametrize('features', [(-2,), (-1, -3), (-3, -2)])
@torch.inference_mode()
def test_patches_are_those_of_clip_and_deeper_layers_are_not_built(
    features: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    whole = CLIPVisionModel(clip_config()).eval()
    ours = Patches(replace(VISION, features=features)).eval()
    assert len(ours.tower.encoder.layers) == 4 + max(features)
    ours.tower.load_state_dict(whole.state_dict(), strict=False)
    rgb, aux, pixels = images()
    states = whole(pixels, output_hidden_states=True).hidden_states
    for found, feature in zip(ours(rgb, aux), features, strict=True):
        assert found.shape == (2, 32, 2, 2)
        torch.testing.assert_close(pooled_tokens(found, 1), states[feature][:, 1:])


@torch.inference_mode()
def test_every_modality_begins_with_the_projector_of_llava(
    llava: LlavaForConditionalGeneration
) -> None:
    network = converted('llava', llava.state_dict())
    rgb, aux, pixels = images()
    patches = pooled_tokens(network.vision(rgb, aux)[0], 1)
    expected = llava.get_image_features(
        pixel_values=pixels, vision_feature_layer=-2,
        vision_feature_select_strategy='default').pooler_output
    for name in ('rgb', 'thermal', 'depth'):
        torch.testing.assert_close(network.to_language[name](patches), torch.stack(expected))


@torch.inference_mode()
def test_c_out_is_what_llava_says_at_the_places_of_the_codebook(
    llava: LlavaForConditionalGeneration
) -> None:
    network = converted('llava', llava.state_dict())
    language, words = network.language, llava.get_input_embeddings().weight
    codes = torch.arange(50, 50 + language.n_codes)
    language.codebook.copy_(words[codes])
    before, between, after = (row[row >= 0] for row in language.prompt)
    image = torch.full((4,), 119)
    ids = torch.cat([before, image, between, image, after, codes])[None]
    rgb, aux, pixels = images()
    expected = llava.model(input_ids=ids, pixel_values=pixels).last_hidden_state[:, -6:]
    seen = []
    network.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(rgb, aux, ['thermal'])
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-4)


def test_files_in_shards_and_in_memory_give_the_same(
    llava: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    llava.save_pretrained(tmp_path, max_shard_size=SHARD)
    state, _ = read_weights(str(tmp_path), PARTS['llava'].files)
    assert len(list(tmp_path.glob('model-*.safetensors'))) > 2
    assert not state.keys() & llava.state_dict().keys()  # in the hub's names
    network = model()
    of_files, of_memory = (PARTS['llava'].convert(network, s) for s in (state, llava.state_dict()))
    assert of_files.keys() == of_memory.keys()
    for name, value in of_memory.items():
        assert value.equal(of_files[name]), name
    frozen = {name for name, value in network.named_parameters() if not value.requires_grad}
    projectors = {name for name in network.state_dict() if name.startswith('to_language.')}
    assert of_files.keys() == frozen | projectors
    assert of_files['language.llm.base_model.model.embed_tokens.weight'].shape == (100, 48)


def test_weights_of_another_precision_are_cast_only_while_they_are_copied() -> None:
    network = model(replace(SMALL, language=replace(SMALL.language, precision='bf16')))
    state = LlamaForCausalLM(llama_config()).half().state_dict()
    filled = PARTS['language'].convert(network, state)
    places = {value.data_ptr() for value in state.values()}
    assert filled and all(value.data_ptr() in places for value in filled.values())
    network.load_state_dict(filled, strict=False)
    name = 'language.llm.base_model.model.norm.weight'
    assert network.state_dict()[name].dtype == torch.bfloat16
    assert network.state_dict()[name].equal(filled[name].bfloat16())


def test_the_tower_comes_from_files_of_clip_and_the_words_from_llama() -> None:
    network = model()
    text = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
            'intermediate_size': 16, 'vocab_size': 9}
    clip = CLIPModel(CLIPConfig(vision_config=clip_config().to_dict(), text_config=text))
    towers = [PARTS['clip'].convert(network, state) for state in (
        clip.state_dict(), clip.vision_model.state_dict(),
        {f'vision_model.{name}': value for name, value in clip.vision_model.state_dict().items()}
        | {'vision_model.embeddings.position_ids': torch.arange(5)})]
    names = {name for name in network.state_dict() if name.startswith('vision.')}
    assert all(tower.keys() == names for tower in towers)
    llama = LlamaForCausalLM(llama_config())
    language = PARTS['language'].convert(network, llama.state_dict())
    assert language.keys() == PARTS['language'].convert(network, llama.model.state_dict()).keys()
    assert {name for name in network.state_dict()
            if name.startswith('language.llm.') and 'lora_' not in name} == language.keys()


def test_weights_of_other_sizes_or_models_are_refused(
    llava: LlavaForConditionalGeneration, tmp_path: Path
) -> None:
    convert, state = PARTS['llava'].convert, llava.state_dict()
    with pytest.raises(RgbxSegError, match="found 'detector.weight', expected only names of CLIP"):
        convert(model(), state | {'detector.weight': torch.zeros(1)})
    with pytest.raises(RgbxSegError, match='projector: 3 tensors are missing'):
        convert(model(), {k: v for k, v in state.items() if 'linear_2.bias' not in k})
    with pytest.raises(RgbxSegError, match=r'embed_tokens.weight has shape \(120, 48\).*\(200, 48'):
        convert(model(replace(SMALL, language=replace(SMALL.language, vocabulary=200))), state)
    with pytest.raises(RgbxSegError, match=r"LLaMA weights: .*'layers\.1\."):
        convert(model(replace(SMALL, language=replace(SMALL.language, layers=1))), state)
    with pytest.raises(RgbxSegError, match='CLIP weights: found 3 layers, expected 4'):
        convert(model(replace(SMALL, vision=replace(VISION, layers=4))), state)
    save_file({'lm_head.weight': torch.zeros(2, 2)}, tmp_path / 'model.safetensors')
    with pytest.raises(RgbxSegError, match='found 0 layers'):
        convert(model(), read_weights(str(tmp_path), PARTS['llava'].files)[0])


# ---- images of any size ----

def test_a_square_is_resized_to_and_a_native_size_is_kept() -> None:
    square = Patches(VISION)
    assert square(*torch.rand(2, 1, 3, 40, 60))[0].shape == (2, 32, 2, 2)
    native = Patches(replace(VISION, fit='native'))
    assert native(*torch.rand(2, 1, 3, 29, 70))[0].shape == (2, 32, 3, 5)
    pair = torch.rand(2, 1, 3, 28, 28)
    native.load_state_dict(square.state_dict())
    torch.testing.assert_close(native(*pair)[0], square(*pair)[0])


@torch.inference_mode()
def test_pooled_tokens_are_averages_of_squares_of_patches() -> None:
    patches = torch.rand(2, 5, 4, 7)
    found = pooled_tokens(patches, 2)
    assert found.shape == (2, 2 * 4, 5)
    torch.testing.assert_close(found[:, 1], patches[:, :, :2, 2:4].mean((2, 3)))
    torch.testing.assert_close(found[:, 7], patches[:, :, 2:, 6:].mean((2, 3)))  # half a square


@torch.inference_mode()
def test_each_sample_passes_through_the_module_of_its_modality() -> None:
    modules = OfModalities(lambda: nn.Linear(4, 4), ('thermal', 'depth'))
    x, names = torch.rand(5, 4), ['depth', 'thermal', 'thermal', 'depth', 'thermal']
    expected = torch.cat([modules[name](row[None]) for row, name in zip(x, names, strict=True)])
    torch.testing.assert_close(modules.aux(x, names), expected)


# ---- head and decoder ----

@torch.inference_mode()
def test_the_head_sums_the_tokens_of_a_class() -> None:
    head, states = CodebookHead(8, 4, 3), torch.rand(2, 6, 8)
    head.weights.copy_(torch.tensor([0.5, -1.0, 2.0]))
    each = head.layers(states)  # class 0 has the tokens 0, 1 and 2
    expected = 0.5 * each[:, 3] - each[:, 4] + 2 * each[:, 5]
    torch.testing.assert_close(head(states)[:, 1], expected)
    assert CodebookHead(8, 4, 3).weights.tolist() == pytest.approx([1 / 3] * 3)


@torch.inference_mode()
def test_positions_are_those_of_sam() -> None:
    ours, theirs = Positions(8), SamPositionalEmbedding(SamVisionConfig(num_pos_feats=4, scale=1))
    theirs.positional_embedding.copy_(ours.directions)
    y, x = torch.meshgrid((torch.arange(3) + 0.5) / 3, (torch.arange(5) + 0.5) / 5, indexing='ij')
    expected = theirs(torch.stack([x, y], -1)[None])
    torch.testing.assert_close(ours(3, 5), expected.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_positions_are_no_coarser_under_autocast() -> None:
    torch.manual_seed(0)
    positions = Positions(256)
    with torch.autocast('cpu', torch.bfloat16):
        found = positions(24, 24)
    torch.testing.assert_close(found, positions(24, 24))


@pytest.mark.parametrize('own_mlps', [False, True])
@torch.inference_mode()
def test_masks_are_those_of_sam_on_equal_weights(own_mlps: bool) -> None:
    """SAM's first token is that of the IoU, whose mask it does not make; ours adds the codes."""
    torch.manual_seed(0)
    config = DecoderConfig(dim=32, depth=2, heads=4, hidden=64, fine=4, own_mlps=own_mlps)
    ours = MaskDecoder(config, 4, 1).eval()
    theirs = SamMaskDecoder(SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=4, num_multimask_outputs=2,
        attn_implementation='eager')).eval()
    theirs.transformer.load_state_dict(ours.transformers[0].state_dict())
    for own, other in zip((0, 1, 3), (theirs.upscale_conv1, theirs.upscale_layer_norm,
                                      theirs.upscale_conv2), strict=True):
        other.load_state_dict(ours.enlarge[own].state_dict())
    codes, image = torch.randn(1, 4, 32), torch.randn(1, 32, 3, 5)
    for n, mlp in enumerate(theirs.output_hypernetworks_mlps, 1):
        mlp.load_state_dict(ours.mlps[n if own_mlps else 0].state_dict())
        mlp.register_forward_pre_hook(lambda _, inputs, n=n: (inputs[0] + codes[:, n],))
    theirs.iou_token.weight.copy_(codes[0, :1])
    theirs.mask_tokens.weight.copy_(codes[0, 1:])
    expected = []
    for multimask, first in ((False, 0), (True, 1)):
        masks, _ = theirs(image, ours.positions(3, 5), None, torch.zeros(1, 32, 1, 1), multimask)
        expected += [masks[:, 0, n] for n in range(masks.shape[2])][:3 - first]
    torch.testing.assert_close(ours([image], codes)[:, 1:], torch.stack(expected, 1),
                               atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_masks_of_several_scales_are_summed_by_learned_weights() -> None:
    torch.manual_seed(0)
    config = DecoderConfig(dim=16, depth=1, heads=2, hidden=8, fine=4)
    decoder = MaskDecoder(config, 3, 2).eval()
    maps, codes = [torch.randn(1, 16, 2, 3) for _ in range(2)], torch.randn(1, 3, 16)
    decoder.scale_weights.copy_(torch.tensor([2.0, -0.5]))
    alone = MaskDecoder(config, 3, 1).eval()
    state = decoder.state_dict()
    masks = []
    for n in range(2):
        alone.load_state_dict({
            name.replace('transformers.1.', 'transformers.0.'): value
            for name, value in state.items() if not re.match(
                rf'level_embedding|scale_weights|transformers\.{1 - n}', name)})
        masks.append(alone([maps[n]], codes + state['level_embedding'][n]))
    torch.testing.assert_close(decoder(maps, codes), 2 * masks[0] - 0.5 * masks[1])


@torch.inference_mode()
def test_codes_may_be_kept_while_images_change() -> None:
    merged, calls = model().merge('depth'), []
    merged.network.language.register_forward_hook(lambda *_: calls.append(1))
    first, second = (torch.rand(2, 1, 3, 40, 60) for _ in range(2))
    (codes,) = merged.embed(*first)
    assert merged.scene_tensors == ('codebook',)
    assert codes.shape == (1, merged.scene_width) == (1, 3 * 32)
    kept = merged(*second, codes)
    assert len(calls) == 1  # the language model ran for the first pair alone
    assert not kept.equal(merged(*first, codes)) and not kept.equal(merged(*second))
    assert set(merged.network.to_language) == {'rgb', 'depth'}


# ---- choices and sizes ----

@pytest.mark.parametrize(('options', 'found'), [
    ({'vision': {'fit': 'crop'}}, "vision.fit is 'crop', expected one of square, native"),
    ({'vision': {'features': [0]}}, r'vision.features is \(0,\), expected layers -24 to -1'),
    ({'vision': {'patch_size': 15}}, 'expected multiples of heads and of patch_size'),
    ({'vision': {'heads': 0}}, 'vision.heads is 0, expected at least 1'),
    ({'decoder': {'heads': 0}}, 'decoder.heads is 0, expected at least 1'),
    ({'decoder': {'heads': 3}}, 'decoder has dim 256 and heads 3, expected a multiple of twice'),
])
def test_choices_that_nothing_can_run_with_are_refused(options: dict, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        find_config('master', 'full', options)


def counts(preset: str, modalities: tuple[str, ...]) -> Counter[str]:
    with torch.device('meta'):
        network = MASTER(PRESETS[preset], 9, modalities)
    found: Counter[str] = Counter()
    for name, value in network.named_parameters():
        part = next(p for p, pattern in network.COMPONENTS if re.fullmatch(pattern, name))
        found[part] += value.numel()
        found['trained' if value.requires_grad else 'frozen'] += value.numel()
    return found


def test_parameters_at_full_size_are_near_the_estimates() -> None:
    found = counts('full', ('thermal',))
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    assert found == {
        'vision': 290_909_184, 'language': 6_607_605_760, 'lora': 32 * 2 * 8 * (4096 + 4096),
        'to_language_rgb': projector, 'to_language_aux': projector, 'codebook': 27 * 4096,
        'head': 4096 * 4096 + 4096 + 4096 * 256 + 256 + 3, 'to_decoder_rgb': 852_992,
        'to_decoder_aux': 852_992, 'decoder': 4_623_488,
        'frozen': 6_898_514_944, 'trained': 70_423_939,
    }
    assert found['frozen'] == pytest.approx(7.04e9, rel=0.025)  # no last layer, no head for words
    assert found['trained'] == pytest.approx(70e6, rel=0.015)
    several = counts('full', ('thermal', 'depth', 'event'))
    assert several['trained'] - found['trained'] == 2 * (projector + 852_992)


def test_a_profile_shows_the_estimates_beside_ours() -> None:
    rows = {row['what']: row for row in profile('master')['published']}
    judged = {what for what, row in rows.items() if row['within'] is not None}
    assert len(judged) == 11 and all(rows[what]['within'] for what in judged), rows


# hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, vocab_size, rms_norm_eps
# of their config.json on the hub; LLaVA's leaves out what `transformers` has for a LLaMA of 7B
LLAMAS = {'JackFram/llama-160m': (768, 12, 12, 3072, 32000, 1e-6),
          'princeton-nlp/Sheared-LLaMA-1.3B': (2048, 24, 16, 5504, 32000, 1e-5),
          'llava-hf/llava-1.5-7b-hf': (4096, 32, 32, 11008, 32064, 1e-5)}
# hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, image_size, patch_size
TOWERS = {'openai/clip-vit-base-patch16': (768, 12, 12, 3072, 224, 16),
          'openai/clip-vit-large-patch14-336': (1024, 24, 16, 4096, 336, 14),
          'llava-hf/llava-1.5-7b-hf': (1024, 24, 16, 4096, 336, 14)}


def test_presets_have_the_sizes_of_the_weights_that_they_name() -> None:
    assert PRETRAINED.keys() | {'tiny'} == PRESETS.keys()
    for preset, parts in PRETRAINED.items():
        language, vision = PRESETS[preset].language, PRESETS[preset].vision
        assert (language.width, language.layers, language.heads, language.hidden,
                language.vocabulary, language.norm_eps) == LLAMAS[
                    parts.get('language') or parts['llava']]
        assert (vision.hidden, vision.layers, vision.heads, vision.ratio * vision.hidden,
                vision.image_size, vision.patch_size) == TOWERS[
                    parts.get('clip') or parts['llava']]
