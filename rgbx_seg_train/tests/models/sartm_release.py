# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The names and shapes of a released SARTM checkpoint, and values that follow from the names.

What the official modules (wahaha-debug/SARTM at 5327908) make of such a checkpoint is pinned by
numbers in test_sartm.py: they were run once, outside of this repository.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from base import uniform
from shifnet_oracle import blocks
from torch import Tensor

from rgbx_seg_train.models.sartm import SARTMConfig

WIDTH, TRANSFORMER = 256, 'sam.sam_mask_decoder.transformer'  # the code has no other width


def shapes(config: SARTMConfig, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a forward pass of the release reads, and some that none does."""
    found: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        found[f'{name}.weight'] = shape
        if bias:
            found[f'{name}.bias'] = shape[:1]

    def mlp(name: str, *dims: int) -> None:
        for i, (dim, out) in enumerate(zip(dims, dims[1:], strict=False)):
            layer(f'{name}.layers.{i}', out, dim)

    hiera, trunk = config.hiera, 'sam.image_encoder.trunk'
    found[f'{trunk}.pos_embed'] = (1, hiera.dim, *hiera.background)
    found[f'{trunk}.pos_embed_window'] = (1, hiera.dim, hiera.windows[0], hiera.windows[0])
    layer(f'{trunk}.patch_embed.proj', hiera.dim, 3, 7, 7)
    for i, (dim, out, _, _, _) in enumerate(blocks(config)):
        block = f'{trunk}.blocks.{i}'
        layer(f'{block}.norm1', dim)
        layer(f'{block}.norm2', out)
        layer(f'{block}.attn.qkv.qkv', 3 * out, dim)
        for number in ('', '2', '3'):
            for part in 'qv':
                layer(f'{block}.attn.qkv.linear_a_{part}{number}', config.rank, dim, bias=False)
                layer(f'{block}.attn.qkv.linear_b_{part}{number}', dim, config.rank, bias=False)
        layer(f'{block}.attn.proj', out, out)
        mlp(f'{block}.mlp', out, 4 * out, out)
        if dim != out:
            layer(f'{block}.proj', out, dim)
    for i in range(4):
        layer(f'sam.image_encoder.neck.convs.{i}.conv', WIDTH, hiera.dim * 2**(3 - i), 1, 1)
    _decoder(found, layer, mlp, n_classes)
    for i, dim in enumerate((WIDTH // 8, WIDTH // 4, WIDTH)):
        for j, (first, second) in enumerate(((4 * dim, 4 * dim), (4 * dim, 2 * dim))):
            layer(f'FRMs.{i}.channel_weights.mlp.{2 * j}', second, first)
        layer(f'FRMs.{i}.spatial_weights.mlp.0', dim, 2 * dim, 1, 1)
        layer(f'FRMs.{i}.spatial_weights.mlp.2', 2, dim, 1, 1)
        cross, mix = f'FFMs.{i}.cross', f'FFMs.{i}.channel_emb'
        for stream in '12':
            layer(f'{cross}.channel_proj{stream}', 2 * dim, dim)
            layer(f'{cross}.cross_attn.kv{stream}', 2 * dim, dim, bias=False)
            layer(f'{cross}.end_proj{stream}', dim, 2 * dim)
            layer(f'{cross}.norm{stream}', dim)
        layer(f'{mix}.residual', dim, 2 * dim, 1, 1, bias=False)
        layer(f'{mix}.channel_embed.0', dim, 2 * dim, 1, 1)
        layer(f'{mix}.channel_embed.1', dim, 1, 3, 3)
        layer(f'{mix}.channel_embed.3', dim, dim, 1, 1)
        for norm in ('channel_embed.4', 'norm'):
            layer(f'{mix}.{norm}', dim)
            found[f'{mix}.{norm}.running_mean'] = found[f'{mix}.{norm}.running_var'] = (dim,)
            found[f'{mix}.{norm}.num_batches_tracked'] = ()
    return found


def _decoder(found: dict[str, tuple[int, ...]], layer, mlp, n_classes: int) -> None:
    decoder, prompt = 'sam.sam_mask_decoder', 'sam.sam_prompt_encoder'
    for name, rows in (('obj_score_token', 1), ('iou_token', 1), ('mask_tokens', 1 + n_classes)):
        layer(f'{decoder}.{name}', rows, WIDTH, bias=False)
    for name in ('not_a_point_embed', 'no_mask_embed', 'point_embeddings.0'):
        layer(f'{prompt}.{name}', 1, WIDTH, bias=False)
    found[f'{prompt}.pe_layer.positional_encoding_gaussian_matrix'] = (2, WIDTH // 2)
    found['sam.no_mem_embed'] = (1, 1, WIDTH)
    layer(f'{decoder}.conv_s0', WIDTH // 8, WIDTH, 1, 1)
    layer(f'{decoder}.conv_s1', WIDTH // 4, WIDTH, 1, 1)
    for at, name, inner in (*((f'layers.{i}', 'self_attn', WIDTH) for i in range(2)),
                            *((f'layers.{i}', f'cross_attn_{way}', WIDTH // 2) for i in range(2)
                              for way in ('token_to_image', 'image_to_token')),
                            ('', 'final_attn_token_to_image', WIDTH // 2)):
        attention = '.'.join(part for part in (TRANSFORMER, at, name) if part)
        for part in 'qkv':
            layer(f'{attention}.{part}_proj', inner, WIDTH)
        layer(f'{attention}.out_proj', WIDTH, inner)
    for i in range(2):
        mlp(f'{TRANSFORMER}.layers.{i}.mlp', WIDTH, 2048, WIDTH)
        for j in range(1, 5):
            layer(f'{TRANSFORMER}.layers.{i}.norm{j}', WIDTH)
    layer(f'{TRANSFORMER}.norm_final_attn', WIDTH)
    found[f'{decoder}.output_upscaling.0.weight'] = (WIDTH, WIDTH // 4, 2, 2)
    found[f'{decoder}.output_upscaling.0.bias'] = (WIDTH // 4,)
    layer(f'{decoder}.output_upscaling.1', WIDTH // 4)
    found[f'{decoder}.output_upscaling.3.weight'] = (WIDTH // 4, WIDTH // 8, 2, 2)
    found[f'{decoder}.output_upscaling.3.bias'] = (WIDTH // 8,)
    for i in range(1 + n_classes):
        mlp(f'{decoder}.output_hypernetworks_mlps.{i}', WIDTH, WIDTH, WIDTH, WIDTH // 8)
    mlp(f'{decoder}.iou_prediction_head', WIDTH, WIDTH, WIDTH, 1 + n_classes)
    mlp(f'{decoder}.pred_obj_score_head', WIDTH, WIDTH, WIDTH, 1)
    layer('linear_pred', 9, WIDTH // 8, 1, 1)


def release(config: SARTMConfig, n_classes: int = 5, object_bias: float = 9.0
            ) -> dict[str, Tensor]:
    """Return a checkpoint in which no value is zero, one or equal to another.

    `object_bias` is what decides whether SAM's frozen score sees an object.
    """
    return _values(config, n_classes) | {
        'sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias': torch.tensor([object_bias])}


@lru_cache
def _values(config: SARTMConfig, n_classes: int) -> dict[str, Tensor]:
    state = {}
    for name, shape in shapes(config, n_classes).items():
        numbers = uniform(name, shape)
        if name.endswith('num_batches_tracked'):
            numbers = torch.tensor(7)
        elif name.endswith('running_var') or (len(shape) == 1 and name.endswith('weight')):
            numbers = 1 + 0.4 * numbers
        elif len(shape) > 1 and name.endswith('weight') and shape[0] > 1:
            numbers = numbers * (3 * shape[0] / numbers.numel()) ** 0.5
        else:
            numbers = 0.3 * numbers
        state[name] = numbers
    return state
