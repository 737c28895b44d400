# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The names and shapes of a released SARTM checkpoint, and values that follow from the names.

What the official modules (wahaha-debug/SARTM at 5327908) make of such a checkpoint is pinned by
numbers in test_sartm.py: they were run once, outside of this repository.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from base import foreign
from shifnet_oracle import Shapes, blocks
from torch import Tensor

from rgbx_seg_train.models.sartm import SARTMConfig

WIDTH, TRANSFORMER = 256, 'sam.sam_mask_decoder.transformer'  # the code has no other width


def shapes(config: SARTMConfig, n_classes: int) -> dict[str, tuple[int, ...]]:
    """Return every tensor that a forward pass of the release reads, and some that none does."""
    found = Shapes()
    found.encoder('sam.image_encoder', config.hiera, WIDTH)
    for i, (dim, out, _, _, _) in enumerate(blocks(config.hiera)):
        qkv = f'sam.image_encoder.trunk.blocks.{i}.attn.qkv'
        found.layer(f'{qkv}.qkv', 3 * out, dim)
        for number in ('', '2', '3'):
            for part in 'qv':
                found.layer(f'{qkv}.linear_a_{part}{number}', config.rank, dim, bias=False)
                found.layer(f'{qkv}.linear_b_{part}{number}', dim, config.rank, bias=False)
    _decoder(found, n_classes)
    for i, dim in enumerate((WIDTH // 8, WIDTH // 4, WIDTH)):
        for j, (first, second) in enumerate(((4 * dim, 4 * dim), (4 * dim, 2 * dim))):
            found.layer(f'FRMs.{i}.channel_weights.mlp.{2 * j}', second, first)
        found.layer(f'FRMs.{i}.spatial_weights.mlp.0', dim, 2 * dim, 1, 1)
        found.layer(f'FRMs.{i}.spatial_weights.mlp.2', 2, dim, 1, 1)
        cross, mix = f'FFMs.{i}.cross', f'FFMs.{i}.channel_emb'
        for stream in '12':
            found.layer(f'{cross}.channel_proj{stream}', 2 * dim, dim)
            found.layer(f'{cross}.cross_attn.kv{stream}', 2 * dim, dim, bias=False)
            found.layer(f'{cross}.end_proj{stream}', dim, 2 * dim)
            found.layer(f'{cross}.norm{stream}', dim)
        found.layer(f'{mix}.residual', dim, 2 * dim, 1, 1, bias=False)
        found.layer(f'{mix}.channel_embed.0', dim, 2 * dim, 1, 1)
        found.layer(f'{mix}.channel_embed.1', dim, 1, 3, 3)
        found.layer(f'{mix}.channel_embed.3', dim, dim, 1, 1)
        for norm in ('channel_embed.4', 'norm'):
            found.layer(f'{mix}.{norm}', dim)
            found[f'{mix}.{norm}.running_mean'] = found[f'{mix}.{norm}.running_var'] = (dim,)
            found[f'{mix}.{norm}.num_batches_tracked'] = ()
    return found


def _decoder(found: Shapes, n_classes: int) -> None:
    decoder, prompt = 'sam.sam_mask_decoder', 'sam.sam_prompt_encoder'
    for name, rows in (('obj_score_token', 1), ('iou_token', 1), ('mask_tokens', 1 + n_classes)):
        found.layer(f'{decoder}.{name}', rows, WIDTH, bias=False)
    for name in ('not_a_point_embed', 'no_mask_embed', 'point_embeddings.0'):
        found.layer(f'{prompt}.{name}', 1, WIDTH, bias=False)
    found[f'{prompt}.pe_layer.positional_encoding_gaussian_matrix'] = (2, WIDTH // 2)
    found['sam.no_mem_embed'] = (1, 1, WIDTH)
    found.layer(f'{decoder}.conv_s0', WIDTH // 8, WIDTH, 1, 1)
    found.layer(f'{decoder}.conv_s1', WIDTH // 4, WIDTH, 1, 1)
    for at, name, inner in (*((f'layers.{i}', 'self_attn', WIDTH) for i in range(2)),
                            *((f'layers.{i}', f'cross_attn_{way}', WIDTH // 2) for i in range(2)
                              for way in ('token_to_image', 'image_to_token')),
                            ('', 'final_attn_token_to_image', WIDTH // 2)):
        attention = '.'.join(part for part in (TRANSFORMER, at, name) if part)
        for part in 'qkv':
            found.layer(f'{attention}.{part}_proj', inner, WIDTH)
        found.layer(f'{attention}.out_proj', WIDTH, inner)
    for i in range(2):
        found.mlp(f'{TRANSFORMER}.layers.{i}.mlp', WIDTH, 2048, WIDTH)
        for j in range(1, 5):
            found.layer(f'{TRANSFORMER}.layers.{i}.norm{j}', WIDTH)
    found.layer(f'{TRANSFORMER}.norm_final_attn', WIDTH)
    found[f'{decoder}.output_upscaling.0.weight'] = (WIDTH, WIDTH // 4, 2, 2)
    found[f'{decoder}.output_upscaling.0.bias'] = (WIDTH // 4,)
    found.layer(f'{decoder}.output_upscaling.1', WIDTH // 4)
    found[f'{decoder}.output_upscaling.3.weight'] = (WIDTH // 4, WIDTH // 8, 2, 2)
    found[f'{decoder}.output_upscaling.3.bias'] = (WIDTH // 8,)
    for i in range(1 + n_classes):
        found.mlp(f'{decoder}.output_hypernetworks_mlps.{i}', WIDTH, WIDTH, WIDTH, WIDTH // 8)
    found.mlp(f'{decoder}.iou_prediction_head', WIDTH, WIDTH, WIDTH, 1 + n_classes)
    found.mlp(f'{decoder}.pred_obj_score_head', WIDTH, WIDTH, WIDTH, 1)
    found.layer('linear_pred', 9, WIDTH // 8, 1, 1)


def release(config: SARTMConfig, n_classes: int = 5, object_bias: float = 9.0
            ) -> dict[str, Tensor]:
    """Return a checkpoint in which no value is zero, one or equal to another.

    `object_bias` is what decides whether SAM's frozen score sees an object.
    """
    return _values(config, n_classes) | {
        'sam.sam_mask_decoder.pred_obj_score_head.layers.2.bias': torch.tensor([object_bias])}


@lru_cache
def _values(config: SARTMConfig, n_classes: int) -> dict[str, Tensor]:
    return {name: foreign(name, shape) for name, shape in shapes(config, n_classes).items()}
