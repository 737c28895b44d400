# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: SAM 2.1's image encoder, official SHIFNet checkpoints, classes.

A foreign name that no rule knows is an error, and so is a tensor of ours that none fills or that
has another shape: nothing is left out in silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import Part, Published

Rules = tuple[tuple[str, str], ...]

_ADAPTER = r'encoder\.backbone\.blocks\.\d+\.(attn|mlp)\.adapter\..+'
_ENCODER = rf'(?!{_ADAPTER})encoder\..+'

# SAM 2.1 as published by Meta (image_encoder.*) and as `transformers` keeps it (vision_encoder.*)
_TRUNK_RULES: Rules = (
    (r'^image_encoder\.trunk\.', 'encoder.backbone.'),
    (r'^image_encoder\.neck\.convs\.(\d)\.conv\.', r'encoder.neck.convs.\1.'),
    (r'^vision_encoder\.', 'encoder.'),
    (r'\.patch_embed\.proj\.', '.patch_embed.projection.'),
    (r'\.norm([12])\.', r'.layer_norm\1.'),
    (r'\.mlp\.layers\.0\.', '.mlp.proj_in.'),
    (r'\.mlp\.layers\.1\.', '.mlp.proj_out.'),
    (r'(blocks\.\d+\.attn)\.(qkv|proj)\.', r'\1.inner.\2.'),
    (r'(blocks\.\d+\.mlp)\.(proj_in|proj_out)\.', r'\1.inner.\2.'),
)
# the rest of SAM 2.1, which no part of SHIFNet uses, in both notations
_NOT_TRUNK = re.compile(
    r'(sam_)?(prompt_encoder|mask_decoder)\..+|memory_(attention|encoder)\..+|mask_downsample\..+'
    r'|maskmem_tpos_enc|no_mem_(embed|pos_enc)|obj_ptr_(tpos_)?proj\..+|no_obj_(ptr|embed_spatial)'
    r'|shared_image_embedding\..+|no_memory_(embedding|positional_encoding)|no_object_pointer'
    r'|memory_temporal_positional_encoding|object_pointer_proj\..+'
    r'|temporal_positional_encoding_projection_layer\..+|occlusion_spatial_embedding_parameter'
)

_OFFICIAL_RULES: Rules = (
    *_TRUNK_RULES,
    (r'\.Space_Adapter\.', '.attn.adapter.'),
    (r'\.MLP_Adapter\.', '.mlp.adapter.'),
    (r'\.D_fc1\.', '.0.'),
    (r'\.D_fc2\.', '.2.'),
    (r'^fuse_block\.', 'fusion.'),
    (r'^(fusion\.\d\.)layers\.', r'\1blocks.'),
    (r'^(fusion\.\d\.)out_proj\.', r'\1out.'),
    (r'^(fusion\.\d\.)rgb_proj\.', r'\1project_rgb.'),
    (r'^(fusion\.\d\.)x_proj\.', r'\1project_aux.'),
    (r'\.dwconv\.', '.depthwise.'),
    (r'\.pwconv1\.', '.expand.'),
    (r'\.pwconv2\.', '.contract.'),
    (r'\.gamma$', '.scale'),
    (r'^decoder\.ContextModule\.(\d)\.', r'decoder.levels.\1.enhance.'),
    (r'\.enhance\.conv1_1\.', '.enhance.reduce.'),
    (r'\.inception\.branch1x1\.', '.branch1.'),
    (r'\.inception\.branch7x7_1\.', '.branch2.0.'),
    (r'\.inception\.branch7x7_2\.', '.branch2.1.'),
    (r'\.inception\.branch7x7_3\.', '.branch2.2.'),
    (r'\.inception\.branch7x7dbl_1\.', '.branch3.0.'),
    (r'\.inception\.branch7x7dbl_2\.', '.branch3.1.'),
    (r'\.inception\.branch7x7dbl_3\.', '.branch3.2.'),
    (r'\.inception\.branch7x7dbl_4\.', '.branch3.3.'),
    (r'\.inception\.branch7x7dbl_5\.', '.branch3.4.'),
    (r'\.inception\.final_conv\.', '.squeeze.'),
    (r'\.upsample\.conv\.', '.restore.'),
    (r'(\.enhance\..+)\.conv\.', r'\1.0.'),
    (r'(\.enhance\..+)\.bn\.', r'\1.1.'),
    (r'^decoder\.GlobalFeatureConcat2D\.(\d)\.project\.0\.', r'decoder.levels.\1.join.'),
    (r'^decoder\.postprocess1\.(\d)\.project\.0\.proj\.', r'decoder.levels.\1.halve.'),
    (r'^decoder\.linear_fuse\.', 'decoder.merge.'),
    (r'^decoder\.head\.', 'decoder.project.'),
    (r'^decoder\.logit_scale$', 'decoder.temperature'),
    (r'^label_feature$', 'class_embeddings'),
)


def convert_official(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take a whole checkpoint of the official code; class embeddings only if it holds them."""
    owned = [name for name in model.state_dict()
             if name != 'class_embeddings' or 'label_feature' in state]
    return _fill(model, owned, _rename(state, _OFFICIAL_RULES), 'official SHIFNet weights')


def convert_trunk(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take trunk and neck of SAM 2.1; the adapters in the trunk are not touched."""
    owned = [name for name in model.state_dict() if re.fullmatch(_ENCODER, name)]
    encoder = {name: value for name, value in state.items() if not _NOT_TRUNK.fullmatch(name)}
    return _fill(model, owned, _rename(encoder, _TRUNK_RULES), 'SAM 2.1 weights')


def convert_classes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take class embeddings (N, text_dim), stored as a bare tensor or the only one of its file."""
    if len(state) != 1:
        raise RgbxSegError(f'class embeddings: found {len(state)} tensors, expected one alone, '
                           '(classes, text_dim); take the file of the embeddings.')
    return _fill(model, ['class_embeddings'], {'class_embeddings': next(iter(state.values()))},
                 'class embeddings')


def _rename(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    ours = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    return ours


def _fill(model: nn.Module, owned: Iterable[str], found: Mapping[str, Tensor],
          what: str) -> dict[str, Tensor]:
    """Return what `owned` names, in our shapes; RgbxSegError if anything is too much or lacks."""
    expected = {name: tensor for name, tensor in model.state_dict().items() if name in set(owned)}
    if unknown := sorted(found.keys() - expected.keys()):
        raise RgbxSegError(f'{what}: found {len(unknown)} tensors that the model has no '
                           f'place for (such as {unknown[0]!r}); expected those of the same size '
                           'and choices; choose the preset and options that they were made for.')
    if lacking := sorted(expected.keys() - found.keys()):
        raise RgbxSegError(f'{what}: {len(lacking)} tensors are missing (such as what we '
                           f'call {lacking[0]!r}); expected a file that holds them all; choose '
                           'the preset and options that it was made for.')
    filled = {}
    for name, tensor in expected.items():
        value = found[name]
        if name.endswith('.halve.weight') and value.ndim == 2:
            value = value[:, :, None, None]  # a linear layer there, a 1x1 convolution here
        if value.shape != tensor.shape:
            raise RgbxSegError(f'{what}: {name} has shape {tuple(value.shape)}, expected '
                               f'{tuple(tensor.shape)}; choose the preset and the number of '
                               'classes that they were made for.')
        filled[name] = value.to(tensor.dtype) if tensor.dtype != torch.int64 else value
    return filled


PARTS: dict[str, Part] = {
    'official': Part('a whole checkpoint of the official SHIFNet code (*.pth)',
                     ('model.safetensors', 'model.pth'), convert_official),
    'trunk': Part('image encoder of SAM 2.1',
                  ('model.safetensors', 'sam2.1_hiera_tiny.pt', 'sam2.1_hiera_small.pt',
                   'sam2.1_hiera_base_plus.pt', 'sam2.1_hiera_large.pt'), convert_trunk),
    'classes': Part('class embeddings (classes, text_dim) as one tensor',
                    ('classes.safetensors', 'fmb_class_embedding.pt', 'pst_class_embedding.pt'),
                    convert_classes),
}
PRETRAINED: dict[str, dict[str, str]] = {
    'tiny': {'trunk': 'facebook/sam2.1-hiera-tiny'},
    'small': {'trunk': 'facebook/sam2.1-hiera-small'},
    'base': {'trunk': 'facebook/sam2.1-hiera-base-plus'},
    'full': {'trunk': 'facebook/sam2.1-hiera-large'},
}

_ANY = (0, 0)
_CODE = 'counted in the official code'
PUBLISHED: dict[str, tuple[Published, ...]] = {
    'full': (
        Published('trainable parameters', 'params_trainable', 32.27e6, 0.0, _ANY,
                  'paper, abstract'),
        Published('parameters of HPD', 'components.hpd.total', 3.5e6, 0.0, _ANY,
                  'paper, section I'),
        Published('all parameters', 'params_total', 244_971_425, 0.0, _ANY, _CODE),
        Published('adapters', 'components.adapters.total', 17_859_888, 0.0, _ANY, _CODE),
        Published('SACF', 'components.sacf.total', 10_880_000, 0.0, _ANY, _CODE),
        Published('HPD', 'components.hpd.total', 3_528_257, 0.0, _ANY, _CODE),
        Published('trunk', 'components.trunk.total', 212_149_296, 0.0, _ANY, _CODE),
        Published('neck', 'components.neck.total', 553_984, 0.0, _ANY, _CODE),
        Published('GFLOPs', 'gmac', 626.0, 0.05, (480, 640), 'paper, section IV-D'),
        Published('latency, ms, on an RTX A6000', 'latency_ms', 123.0, math.nan, (480, 640),
                  'paper, section IV-D'),
    ),
}
