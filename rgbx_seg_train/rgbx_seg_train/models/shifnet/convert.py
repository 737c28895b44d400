# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: SAM 2.1's encoder, official SHIFNet checkpoints, classes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

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

_ADAPTER = r'encoder\.backbone\.blocks\.\d+\.(attn|mlp)\.adapter\..+'
_ENCODER = rf'(?!{_ADAPTER})encoder\..+'

_TRUNK_RULES: Rules = (
    *SAM2_ENCODER,
    (r'(blocks\.\d+\.attn)\.(qkv|proj)\.', r'\1.inner.\2.'),
    (r'(blocks\.\d+\.mlp)\.(proj_in|proj_out)\.', r'\1.inner.\2.'),
)
_NOT_TRUNK = re.compile(f'{SAM2_HEADS}|{SAM2_MEMORY}')  # no part of SHIFNet uses it

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
    found = {name: value[:, :, None, None] if name.endswith('.halve.weight') and value.ndim == 2
             else value  # a linear layer there, a 1x1 convolution here
             for name, value in rename(state, _OFFICIAL_RULES).items()}
    return fill(model, owned, found, 'official SHIFNet weights')


def convert_trunk(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take trunk and neck of SAM 2.1; the adapters in the trunk are not touched."""
    owned = [name for name in model.state_dict() if re.fullmatch(_ENCODER, name)]
    encoder = {name: value for name, value in state.items() if not _NOT_TRUNK.fullmatch(name)}
    return fill(model, owned, rename(encoder, _TRUNK_RULES), 'SAM 2.1 weights')


def convert_classes(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take class embeddings (N, text_dim), stored as a bare tensor or the only one of its file."""
    return fill_classes(model, 'class_embeddings', state)


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
