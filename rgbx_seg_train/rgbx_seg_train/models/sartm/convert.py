# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: SAM 2's encoder and mask decoder, the released SARTM checkpoint.

The release has three LoRA sets and adds them all to each image: side by side they are one of three
times the rank, which `compat` has. Where a stage begins they are as wide as the block's input and
reach the first channels of q and the last of v alone: the other rows are zeros here. Its mask
tokens, and the MLPs of its classes, follow the ids of PST900's labels, whatever order its list of
names has: 1 is the fire extinguisher, 2 the backpack, 3 the hand drill, as in ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import Part, Published
from rgbx_seg_train.models.foreign import (
    SAM2_ENCODER,
    SAM2_HEADS,
    SAM2_MEMORY,
    Rules,
    fill,
    fill_classes,
    rename,
)

_LORA = r'encoder\.backbone\.blocks\.\d+\.attn\.qkv\.lora\..+'
_ENCODER = rf'(?!{_LORA})encoder\..+'
_OF_CLASSES = r'decoder\.(class_tokens|masks\..+)'
_GATE = r'decoder\.object_head\..+'
_DECODER = rf'(?!{_OF_CLASSES}|{_GATE})decoder\..+'

_TRUNK_RULES: Rules = (*SAM2_ENCODER, (r'(\.attn\.qkv)\.(weight|bias)$', r'\1.inner.\2'))
# Meta's names, then those of `transformers` where they differ
_DECODER_RULES: Rules = (
    (r'^sam_mask_decoder\.', 'decoder.'),
    (r'^mask_decoder\.', 'decoder.'),
    (r'^decoder\.conv_s([01])\.', r'decoder.narrow.\1.'),
    (r'^decoder\.(obj_score|object_score)_token\.weight$', 'decoder.object_token'),
    (r'^decoder\.iou_token\.weight$', 'decoder.score_token'),
    (r'^decoder\.mask_tokens\.weight$', 'decoder.class_tokens'),
    (r'^decoder\.pred_obj_score_head\.', 'decoder.object_head.'),
    (r'^decoder\.output_upscaling\.0\.', 'decoder.upscale.0.'),
    (r'^decoder\.output_upscaling\.1\.', 'decoder.norm.'),
    (r'^decoder\.output_upscaling\.3\.', 'decoder.upscale.1.'),
    (r'^decoder\.upscale_conv1\.', 'decoder.upscale.0.'),
    (r'^decoder\.upscale_layer_norm\.', 'decoder.norm.'),
    (r'^decoder\.upscale_conv2\.', 'decoder.upscale.1.'),
    (r'^(sam_)?prompt_encoder\.not_a_point_embed\.weight$', 'decoder.empty_token'),
    (r'^(sam_)?prompt_encoder\.no_mask_embed\.weight$', 'decoder.empty_mask'),
    (r'^(sam_)?prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$',
     'decoder.frequencies'),
    (r'^(prompt_encoder\.shared_embedding|shared_image_embedding)\.positional_embedding$',
     'decoder.frequencies'),
    (r'^(decoder\.transformer\..+)\.norm([1234])\.', r'\1.layer_norm\2.'),
    (r'^decoder\.transformer\.norm_final_attn\.', 'decoder.transformer.layer_norm_final_attn.'),
    (r'^(decoder\.transformer\..+)\.out_proj\.', r'\1.o_proj.'),
    (r'^(decoder\.transformer\..+\.mlp)\.layers\.0\.', r'\1.proj_in.'),
    (r'^(decoder\.transformer\..+\.mlp)\.layers\.1\.', r'\1.proj_out.'),
    (r'^(decoder\.object_head)\.layers\.0\.', r'\1.proj_in.'),
    (r'^(decoder\.object_head)\.layers\.1\.', r'\1.layers.0.'),
    (r'^(decoder\.object_head)\.layers\.2\.', r'\1.proj_out.'),
)
_NOT_DECODER = re.compile(  # SAM's three masks, its ratings, and prompts that nobody gives here
    r'(sam_)?mask_decoder\.(mask_tokens|output_hypernetworks_mlps|iou_prediction_head'
    r'|pred_obj_score_head)\..+|(sam_)?prompt_encoder\.(point_embed(dings)?|mask_downscaling'
    r'|mask_embed)\..+'
)

_FUSION_RULES: Rules = (
    (r'^FRMs\.(\d)\.channel_weights\.mlp\.', r'fusion.\1.rectify.channel.'),
    (r'^FRMs\.(\d)\.spatial_weights\.mlp\.', r'fusion.\1.rectify.spatial.'),
    (r'^FFMs\.(\d)\.', r'fusion.\1.fuse.'),
    (r'\.cross\.channel_proj([12])\.', r'.proj\1.'),
    (r'\.cross\.cross_attn\.', '.cross.'),
    (r'\.cross\.end_proj([12])\.', r'.end\1.'),
    (r'\.cross\.norm([12])\.', r'.norm\1.'),
    (r'\.channel_emb\.residual\.', '.residual.'),
    (r'\.channel_emb\.channel_embed\.', '.embed.'),
    (r'\.channel_emb\.norm\.', '.norm.'),
)
_SETS = ('', '2', '3')  # of the released LoRA
_RELEASED_LORA = re.compile(r'(.+\.attn\.qkv)\.linear_([ab])_([qv])([23]?)\.weight')
_RELEASED_MLP = re.compile(r'decoder\.output_hypernetworks_mlps\.(\d+)\.layers\.(\d)\.(.+)')
_LAYERS = ('proj_in', 'layers.0', 'proj_out')
# CLIP, layers that no forward pass of the release reads, SAM's rating of masks
_UNUSED = re.compile(
    r'model_clip\..+|(mlp_src|mlp_feat_s[01]|linear_(fuse|pred))\..+'
    r'|sam\.sam_mask_decoder\.iou_prediction_head\..+'
    r'|sam\.sam_prompt_encoder\.(point_embeddings|mask_downscaling)\..+'
    rf'|sam\.({SAM2_MEMORY})'
)


def convert_trunk(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take trunk and neck of SAM 2; the LoRA in the trunk is not touched."""
    other = re.compile(f'{SAM2_HEADS}|{SAM2_MEMORY}')
    found = {name: value for name, value in state.items() if not other.fullmatch(name)}
    return fill(model, _owned(model, _ENCODER), rename(found, _TRUNK_RULES), 'SAM 2 weights')


def convert_decoder(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take SAM 2's mask decoder and its empty prompt, but for what is one for each mask."""
    found = {name: value for name, value in state.items()
             if re.fullmatch(SAM2_HEADS, name) and not _NOT_DECODER.fullmatch(name)}
    return fill(model, _owned(model, _DECODER), rename(found, _DECODER_RULES), 'SAM 2 weights')


def convert_official(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the released checkpoint; it holds no auxiliary head and no prototypes."""
    if not model.config.compat:
        raise RgbxSegError('official SARTM weights: the model is not as they were trained; '
                           'expected model.options.compat=true; set it.')
    state = {name: value for name, value in state.items() if not _UNUSED.fullmatch(name)}
    found = rename({name.removeprefix('sam.'): value for name, value in state.items()},
                   ((r'\.qkv\.qkv\.', '.qkv.'), *_TRUNK_RULES, *_DECODER_RULES, *_FUSION_RULES))
    owned = _owned(model, r'(encoder|decoder|fusion)\..+')
    return fill(model, owned, _joined(model, _class_heads(found)), 'official SARTM weights')


def convert_classes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take class embeddings (N, text_dim), stored as a bare tensor or the only one of its file."""
    return fill_classes(model, 'distillation.text', state)


def _owned(model: nn.Module, pattern: str) -> list[str]:
    return [name for name in model.state_dict() if re.fullmatch(pattern, name)]


def _class_heads(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the MLPs of classes as ours; that of the single mask, whose output nobody reads, goes.

    A frozen or a trained one: it never had a gradient.
    """
    ours = {}
    for name, value in found.items():
        if match := _RELEASED_MLP.fullmatch(name):
            number, layer, rest = int(match[1]), int(match[2]), match[3]
            if number and layer < len(_LAYERS):
                ours[f'decoder.masks.{number - 1}.{_LAYERS[layer]}.{rest}'] = value
        else:
            ours[name] = value
    return ours


def _joined(model: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the three released LoRA sets side by side, in the full width of q and v."""
    sets: dict[tuple[str, str, str], dict[str, Tensor]] = {}
    ours = {}
    for name, value in found.items():
        if match := _RELEASED_LORA.fullmatch(name):
            sets.setdefault((match[1], match[2], match[3]), {})[match[4]] = value
        else:
            ours[name] = value
    expected = model.state_dict()
    for (layer, side, part), values in sets.items():
        name = f'{layer}.lora.all.{"down" if side == "a" else "up"}_{part}'
        if name not in expected or len(values) != len(_SETS):
            ours[f'{layer}.linear_{side}_{part}'] = next(iter(values.values()))  # has no place
            continue
        joined = torch.cat([values[one] for one in _SETS], dim=0 if side == 'a' else 1)
        ours[name] = joined if side == 'a' else _widened(joined, len(expected[name]), part == 'v')
    return ours


def _widened(up: Tensor, rows: int, last: bool) -> Tensor:
    """Return (rows, R) with `up` as its first or last rows, zeros elsewhere."""
    lacking = up.new_zeros(max(rows - len(up), 0), up.shape[1])
    return torch.cat([lacking, up] if last else [up, lacking])


_FILES = ('model.safetensors', 'sam2_hiera_tiny.pt', 'sam2_hiera_small.pt',
          'sam2_hiera_base_plus.pt', 'sam2_hiera_large.pt')
PARTS: dict[str, Part] = {
    'official': Part('the released checkpoint (*.pth); needs model.options.compat=true',
                     ('model.safetensors', 'SARMT_PST_89.88.pth'), convert_official),
    'trunk': Part('image encoder of SAM 2', _FILES, convert_trunk),
    'decoder': Part('mask decoder of SAM 2, without its masks', _FILES, convert_decoder),
    'classes': Part('class embeddings (classes, text_dim) as one tensor',
                    ('classes.safetensors',), convert_classes),
}
PRETRAINED: dict[str, dict[str, str]] = {
    preset: dict.fromkeys(('trunk', 'decoder'), f'facebook/sam2-hiera-{trunk}')
    for preset, trunk in (('small', 'tiny'), ('base', 'small'), ('full', 'base-plus'),
                          ('large', 'large'))
}

_ANY = (0, 0)
_CODE = 'counted in the official code'
PUBLISHED: dict[str, tuple[Published, ...]] = {
    'full': (
        Published('trainable', 'params_trainable', 8.8e6, 0.05, _ANY,
                  'estimate, the paper tells none'),
        Published('LoRA of RGB and thermal', 'params_lora', 2 * 663_040, 0.0, _ANY,
                  'widths of the trunk, rank 16'),
        Published('FRM and FFM', 'components.fusion.total', 3_050_534, 0.0, _ANY, _CODE),
        Published('trunk', 'components.trunk.total', 68_675_712, 0.0, _ANY, _CODE),
        Published('neck', 'components.neck.total', 431_104, 0.0, _ANY, _CODE),
        Published('PST900 mIoU in %', 'miou', 89.88, math.nan, _ANY, 'paper, abstract'),
    ),
}
