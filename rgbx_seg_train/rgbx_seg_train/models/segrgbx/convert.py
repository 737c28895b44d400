# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under our names: MiT encoders, CMX/CMNeXt fusion, SegFormer heads, CLIP towers.

Whole checkpoints are accepted: every name in a file is known to belong to the part that is asked
for or to another one, and a name that no rule knows is an error, so that nothing is left out in
silence. What a part gives is complete and fits, or RgbxSegError names the first tensor that is not.

MiT weights are read as `transformers` and CMNeXt run them, with 1e-5 in every layer norm; the
original code has 1e-6 in the norms of blocks and stages, which moves CMX's logits by some 3e-5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import Part

_Rules = list[tuple[str, str | Callable[[re.Match[str]], str]]]


def _count_from_zero(ours: str) -> Callable[[re.Match[str]], str]:
    """Return a replacement that puts a stage's number, less one, into `ours`."""
    return lambda match: ours.format(int(match[1]) - 1, *match.groups()[1:])


# Three spellings: `transformers`' files (`nvidia/mit-b*`), what it makes of them in memory, and
# the original ones, which CMX and CMNeXt keep.
_MIT_RULES: _Rules = [
    (r'^(?:backbone|segformer)\.', ''),
    (r'^encoder\.patch_embeddings\.(\d)\.', r'stages.\1.patch_embeddings.'),
    (r'^encoder\.block\.(\d)\.', r'stages.\1.blocks.'),
    (r'^encoder\.layer_norm\.(\d)\.', r'stages.\1.layer_norm.'),
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
    (r'^stages\.(\d)\.layer_norm\.', r'stages.\1.norm.'),
    (r'^patch_embed([1-4])\.', _count_from_zero('stages.{}.patch.')),
    (r'^block([1-4])\.', _count_from_zero('stages.{}.blocks.')),
    (r'^norm([1-4])\.', _count_from_zero('stages.{}.norm.')),
    (r'mlp\.dwconv\.dwconv\.', 'mlp.dwconv.'),
]
_MIT_NAME = re.compile(
    r'stages\.\d\.(patch\.(proj|norm)|norm|blocks\.\d+\.'
    r'(norm[12]|attn\.(q|k|v|kv|proj|sr|norm)|mlp\.(fc[12]|dwconv)))\.(weight|bias)'
)

_FUSION_RULES: _Rules = [
    (r'^(?:backbone\.)?FRMs\.', 'rectify.'),
    (r'^(?:backbone\.)?FFMs\.', 'fuse.'),
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

_HEAD_RULES: _Rules = [
    (r'^decode_head\.', ''),
    (r'^linear_c([1-4])\.proj\.', _count_from_zero('linears.{}.')),
    (r'^linear_(?:c|projections)\.(\d)\.proj\.', r'linears.\1.'),
    (r'^linear_fuse\.(?:1|bn)\.', 'norm.'),  # CMX, CMNeXt
    (r'^linear_fuse\.(?:(?:0|conv)\.)?', 'fuse.'),
    (r'^batch_norm\.', 'norm.'),
    (r'^(?:linear_pred|classifier)\.', 'classify.'),
    (r'^', 'head.'),
]
_HEAD_NAME = re.compile(
    r'head\.(linears\.\d\.(weight|bias)|(fuse|classify)\.(weight|bias)|norm\.\w+)'
)

# What a name in a whole checkpoint belongs to; of CMX's two encoders, `extra_` is the other's.
_KINDS = {
    'encoder': r'(backbone\.|segformer\.)?(encoder|stages|patch_embed[1-4]|block[1-4]|norm[1-4])\.',
    'fusion': r'(backbone\.)?(FRMs|FFMs)\.',
    'head': r'decode_head\.(?!conv_seg\.)',
    'clip': r'(vision_model\.(?!embeddings\.position_ids)|visual_projection\.)',
    'other': r'(backbone\.)?(extra_\w+|head|classifier|aux_head|auxiliary_head)\.|'
             r'decode_head\.conv_seg\.|'
             r'(text_model|text_projection)\.|logit_scale|vision_model\.embeddings\.position_ids',
}
_TOWER = 'clip.tower.base_model.model.'  # where peft keeps it


def _rename(name: str, rules: _Rules, valid: re.Pattern[str], source: str) -> str:
    ours = name
    for pattern, replacement in rules:
        ours = re.sub(pattern, replacement, ours)
    if not valid.fullmatch(ours):
        raise RgbxSegError(
            f'{source} weights: found {name!r}, expected only names of that model; '
            'take a file of that model.'
        )
    return ours


def convert_mit(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Mix Transformer to `stages.*`; a classifier or a decoder is left out.

    Takes `transformers`' names, of files and in memory, and the original ones (`patch_embed1.*`,
    `block1.*`, `norm1.*`). Keys and values become one matrix.
    """
    ours = {
        _rename(name, _MIT_RULES, _MIT_NAME, 'MiT'): value
        for name, value in state.items()
        if not name.startswith(('classifier.', 'head.', 'decode_head.'))
    }
    for key in [name for name in ours if '.attn.k.' in name]:
        value = key.replace('.attn.k.', '.attn.v.')
        if value in ours:
            joint = key.replace('.attn.k.', '.attn.kv.')
            ours[joint] = torch.cat([ours.pop(key), ours.pop(value)])
    return ours


def convert_fusion(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename FRM and FFM weights of CMX or CMNeXt (`FRMs.*`, `FFMs.*`, or one module's own)."""
    return {
        _rename(name, _FUSION_RULES, _FUSION_NAME, 'CMX'): value for name, value in state.items()
    }


def convert_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a SegFormer decoder of `transformers`, CMX or CMNeXt to `head.*`.

    CMX's fusing convolution has a bias; ours has none, as a batch norm follows, so the bias is
    taken off that norm's running mean: the same function.
    """
    ours = {
        _rename(name, _HEAD_RULES, _HEAD_NAME, 'head'): value for name, value in state.items()
    }
    bias = ours.pop('head.fuse.bias', None)
    if bias is not None and 'head.norm.running_mean' in ours:
        ours['head.norm.running_mean'] = ours['head.norm.running_mean'] - bias
    return ours


def _select(state: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the entries of one kind; refuse a file with a name of no kind."""
    for name in state:
        if not any(re.match(pattern, name) for pattern in _KINDS.values()):
            raise RgbxSegError(
                f'{kind} weights: found {name!r}, expected only names of MiT, SegFormer, CMX, '
                'CMNeXt or CLIP; name a file of one of them.'
            )
    return {name: value for name, value in state.items() if re.match(_KINDS[kind], name)}


def _fit(part: str, model: nn.Module, owned: str, ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return exactly the entries of the model's state whose names match `owned`."""
    expected = {
        name: value for name, value in model.state_dict().items() if re.match(owned, name)
    }
    counters = {name: value for name, value in expected.items() if name.endswith('_tracked')}
    ours = counters | ours  # old files lack them
    for name in sorted(ours.keys() | expected.keys()):
        found, wanted = ours.get(name), expected.get(name)
        if found is None or wanted is None or found.shape != wanted.shape:
            raise RgbxSegError(
                f'{part} weights: found {_describe(found)} for {name}, expected '
                f'{_describe(wanted)}; take a file of the size (and classes) of the model, or '
                'another preset.'
            )
    return ours


def _describe(value: Tensor | None) -> str:
    return 'nothing' if value is None else f'shape {tuple(value.shape)}'


def _encoder(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _fit('encoder', model, r'stages\.', convert_mit(_select(state, 'encoder')))


def _fusion(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _fit('fusion', model, r'(rectify|fuse)\.', convert_fusion(_select(state, 'fusion')))


def _head(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _fit('head', model, r'head\.', convert_head(_select(state, 'head')))


def _cmx(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return _encoder(model, state) | _fusion(model, state) | _head(model, state)


def _clip(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    owned = rf'{re.escape(_TOWER)}(?!.*\.lora_)'
    names = {
        name.removeprefix(_TOWER).replace('.base_layer.', '.'): name
        for name in model.state_dict() if re.match(owned, name)
    }
    if not names:
        raise RgbxSegError(
            'clip weights: the model has no MA-CLIP, expected one; leave the weights or the '
            'option clip=null away.'
        )
    ours = {names.get(name, name): value for name, value in _select(state, 'clip').items()}
    return _fit('clip', model, owned, ours)


_HUB_FILES = ('model.safetensors', 'pytorch_model.bin')
_CMX_FILES = ('model.safetensors', 'model.pth')
PARTS = {
    'encoder': Part(
        "MiT encoder: nvidia/mit-b*, nvidia/segformer-b*, mit_b*.pth, or CMX's for RGB",
        _HUB_FILES, _encoder,
    ),
    'clip': Part(
        'image tower of MA-CLIP: openai/clip-vit-base-patch16; no LoRA is touched',
        _HUB_FILES, _clip,
    ),
    'fusion': Part('FRM and FFM of a CMX or CMNeXt checkpoint', _CMX_FILES, _fusion),
    'head': Part(
        'decoder of a SegFormer, CMX or CMNeXt with the same classes', _HUB_FILES, _head
    ),
    'cmx': Part(
        "encoder, fusion and head of one CMX checkpoint; of its two encoders RGB's",
        _CMX_FILES, _cmx,
    ),
}
PRETRAINED = {
    preset: {'encoder': f'nvidia/mit-{size}', 'clip': 'openai/clip-vit-base-patch16'}
    for preset, size in (
        ('small', 'b0'), ('base', 'b1'), ('full', 'b2'),
        *((f'b{i}', f'b{i}') for i in range(6)),
    )
}
