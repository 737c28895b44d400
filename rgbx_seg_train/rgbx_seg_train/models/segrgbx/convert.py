# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: MiT encoders and CMX/CMNeXt fusion modules.

Both functions take and return plain dicts of tensors for `load_state_dict`; a name that none of the
rules knows is an error, so that nothing is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rgbx_seg_ros import RgbxSegError

# `transformers` keeps the first names in its files (`nvidia/mit-b*`), the second in memory.
_MIT_RULES = [
    (r'^(?:segformer\.)?encoder\.patch_embeddings\.(\d)\.', r'stages.\1.patch_embeddings.'),
    (r'^(?:segformer\.)?encoder\.block\.(\d)\.', r'stages.\1.blocks.'),
    (r'^(?:segformer\.)?encoder\.layer_norm\.(\d)\.', r'stages.\1.layer_norm.'),
    (r'attention\.self\.query\.', 'attention.q_proj.'),
    (r'attention\.self\.key\.', 'attention.k_proj.'),
    (r'attention\.self\.value\.', 'attention.v_proj.'),
    (r'attention\.self\.sr\.', 'attention.sequence_reduction.sequence_reduction.'),
    (r'attention\.self\.layer_norm\.', 'attention.sequence_reduction.layer_norm.'),
    (r'attention\.output\.dense\.', 'attention.o_proj.'),
    (r'mlp\.dense(\d)\.', r'mlp.fc\1.'),
    (r'layer_norm_1\.', 'layernorm_before.'),
    (r'layer_norm_2\.', 'layernorm_after.'),
    # from here on: to ours
    (r'patch_embeddings\.proj\.', 'patch.proj.'),
    (r'patch_embeddings\.layer_norm\.', 'patch.norm.'),
    (r'layernorm_before\.', 'norm1.'),
    (r'layernorm_after\.', 'norm2.'),
    (r'attention\.sequence_reduction\.sequence_reduction\.', 'attn.sr.'),
    (r'attention\.sequence_reduction\.layer_norm\.', 'attn.norm.'),
    (r'attention\.q_proj\.', 'attn.q.'),
    (r'attention\.([kv])_proj\.', r'attn.\1.'),
    (r'attention\.o_proj\.', 'attn.proj.'),
    (r'mlp\.dwconv\.dwconv\.', 'mlp.dwconv.'),
    (r'^stages\.(\d)\.layer_norm\.', r'stages.\1.norm.'),
]
_MIT_NAME = re.compile(
    r'stages\.\d\.(patch\.(proj|norm)|norm|blocks\.\d+\.'
    r'(norm[12]|attn\.(q|k|v|proj|sr|norm)|mlp\.(fc[12]|dwconv)))\.(weight|bias)'
)

_FUSION_RULES = [
    (r'^FRMs\.', 'rectify.'),
    (r'^FFMs\.', 'fuse.'),
    (r'channel_weights\.mlp\.', 'channel.'),
    (r'spatial_weights\.mlp\.', 'spatial.'),
    (r'cross\.channel_proj(\d)\.', r'proj\1.'),
    (r'cross\.cross_attn\.kv(\d)\.', r'cross.kv\1.'),
    (r'cross\.end_proj(\d)\.', r'end\1.'),
    (r'cross\.norm(\d)\.', r'norm\1.'),
    (r'channel_emb\.residual\.', 'residual.'),
    (r'channel_emb\.channel_embed\.', 'embed.'),
    (r'channel_emb\.norm\.', 'norm.'),
]
_FUSION_NAME = re.compile(
    r'(?:(rectify|fuse)\.\d\.)?'
    r'(channel|spatial|proj[12]|cross\.kv[12]|end[12]|norm[12]?|residual|embed)\..+'
)


def _rename(name: str, rules: list[tuple[str, str]], valid: re.Pattern[str], source: str) -> str:
    ours = name
    for pattern, replacement in rules:
        ours = re.sub(pattern, replacement, ours)
    if not valid.fullmatch(ours):
        raise RgbxSegError(
            f'{source} weights: found {name!r}, expected only names of that model; '
            'take the weights of the encoder alone.'
        )
    return ours


def convert_mit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a SegformerModel's or SegformerForImageClassification's encoder to `stages.*`.

    Takes the names of hub files and those in memory; a classifier or a decoder is left out. Keys
    and values become one matrix.
    """
    ours = {
        _rename(name, _MIT_RULES, _MIT_NAME, 'MiT'): value
        for name, value in state.items()
        if not name.startswith(('classifier.', 'decode_head.'))
    }
    for name in [name for name in ours if '.attn.k.' in name]:
        joint = name.replace('.attn.k.', '.attn.kv.')
        ours[joint] = torch.cat([ours.pop(name), ours.pop(name.replace('.attn.k.', '.attn.v.'))])
    return ours


def convert_fusion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename FRM and FFM weights of CMX or CMNeXt (`FRMs.*`, `FFMs.*`, or one module's own)."""
    return {
        _rename(name, _FUSION_RULES, _FUSION_NAME, 'CMX'): value for name, value in state.items()
    }
