# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Weights of others under our names, as tables of patterns.

A foreign name that no rule knows is an error, and so is a tensor of ours that none fills or that
has another shape: nothing is left out in silence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError

Rules = tuple[tuple[str, str], ...]

# The image encoder of SAM 2 and 2.1, as Meta (image_encoder.*) and `transformers`
# (vision_encoder.*) name it, under the names of blocks/hiera.py
SAM2_ENCODER: Rules = (
    (r'^image_encoder\.trunk\.', 'encoder.backbone.'),
    (r'^image_encoder\.neck\.convs\.(\d)\.conv\.', r'encoder.neck.convs.\1.'),
    (r'^vision_encoder\.', 'encoder.'),
    (r'\.patch_embed\.proj\.', '.patch_embed.projection.'),
    (r'(\.blocks\.\d+)\.norm([12])\.', r'\1.layer_norm\2.'),
    (r'(\.blocks\.\d+)\.mlp\.layers\.0\.', r'\1.mlp.proj_in.'),
    (r'(\.blocks\.\d+)\.mlp\.layers\.1\.', r'\1.mlp.proj_out.'),
)
SAM2_MEMORY = (  # what tracks through a video, in both notations
    r'memory_(attention|encoder)\..+|mask_downsample\..+'
    r'|maskmem_tpos_enc|no_mem_(embed|pos_enc)|obj_ptr_(tpos_)?proj\..+|no_obj_(ptr|embed_spatial)'
    r'|no_memory_(embedding|positional_encoding)|no_object_pointer'
    r'|memory_temporal_positional_encoding|object_pointer_proj\..+'
    r'|temporal_positional_encoding_projection_layer\..+|occlusion_spatial_embedding_parameter'
)
SAM2_HEADS = (  # what reads prompts and writes masks
    r'(sam_)?(prompt_encoder|mask_decoder)\..+|shared_image_embedding\..+'
)


def rename(state: Mapping[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Return the tensors under names to which all rules were applied, one after the other."""
    ours = {}
    for name, value in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        ours[name] = value
    return ours


def fill(model: nn.Module, owned: Iterable[str], found: Mapping[str, Tensor],
         what: str) -> dict[str, Tensor]:
    """Return what `owned` names, in the file's types; RgbxSegError if there is more or less."""
    wanted = set(owned)
    expected = {name: tensor for name, tensor in model.state_dict().items() if name in wanted}
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
        if value.shape != tensor.shape:
            raise RgbxSegError(f'{what}: {name} has shape {tuple(value.shape)}, expected '
                               f'{tuple(tensor.shape)}; choose the preset and the number of '
                               'classes that they were made for.')
        filled[name] = value
    return filled


def fill_classes(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return class embeddings, stored as a bare tensor or the only one of its file, as `name`."""
    if len(state) != 1:
        raise RgbxSegError(f'class embeddings: found {len(state)} tensors, expected one alone, '
                           '(classes, text_dim); take the file of the embeddings.')
    return fill(model, [name], {name: next(iter(state.values()))}, 'class embeddings')
