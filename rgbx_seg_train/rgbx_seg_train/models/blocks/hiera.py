# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The image encoder of SAM 2.1 (arXiv 2408.00714): the Hiera trunk and its feature pyramid.

It is `transformers`' Sam2VisionModel as it stands; only sizes are kept here. A trunk needs images
whose sides are multiples of `STRIDE`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import check_sizes

STRIDE = 32  # of the coarsest level, and of the window of the position embedding


@dataclass(frozen=True)
class HieraConfig:
    """Sizes of the trunk; channels and heads double from stage to stage."""

    dim: int = 144  # channels of the first stage
    heads: int = 2  # attention heads of the first stage
    depths: tuple[int, int, int, int] = (2, 6, 36, 4)  # blocks of the four stages
    windows: tuple[int, int, int, int] = (8, 4, 16, 8)  # side of the attention windows, tokens
    global_blocks: tuple[int, ...] = (23, 33, 43)  # blocks that attend to the whole image
    background: tuple[int, int] = (7, 7)  # grid of the position embedding that is resized

    def __post_init__(self) -> None:
        """Refuse sizes that the trunk cannot run with."""
        check_sizes('hiera', {name: getattr(self, name) for name in (
            'dim', 'heads', 'depths', 'windows', 'background')})
        if self.dim % self.heads:
            raise RgbxSegError(f'hiera: dim is {self.dim}, heads {self.heads}; expected a multiple '
                               'of heads; choose such as 112 and 2.')
        if outside := set(self.global_blocks) - set(range(sum(self.depths))):
            raise RgbxSegError(f'hiera: global_blocks holds {min(outside)}; expected numbers '
                               f'0..{sum(self.depths) - 1}, of the blocks that depths makes; '
                               'choose one of them.')
        first_blocks = {sum(self.depths[:i]) for i in (1, 2, 3)}
        if pooling := first_blocks & set(self.global_blocks):
            raise RgbxSegError(f'hiera: global_blocks holds {min(pooling)}, the first block of a '
                               'stage; expected others: the first one pools within windows; '
                               'choose the next block.')
        if 8 % self.windows[0] or any(side % 2 for side in self.windows[:3]):
            raise RgbxSegError(f'hiera: windows is {list(self.windows)}; expected even sides, the '
                               'last one aside, of which the first divides 8; choose such as '
                               '[8, 4, 14, 7].')

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of the four stages."""
        return tuple(self.dim << i for i in range(4))


_SMALL = HieraConfig(dim=96, heads=1, depths=(1, 2, 11, 2), windows=(8, 4, 14, 7),
                     global_blocks=(7, 10, 13))
HIERA: dict[str, HieraConfig] = {
    'tiny': replace(_SMALL, depths=(1, 2, 7, 2), global_blocks=(5, 7, 9)),
    'small': _SMALL,
    'base_plus': HieraConfig(dim=112, heads=2, depths=(2, 3, 16, 3), windows=(8, 4, 14, 7),
                             global_blocks=(12, 16, 20), background=(14, 14)),
    'large': HieraConfig(),
}


class NoPosition(nn.Module):
    """Stands for the neck's position encodings, which only SAM's memory reads."""

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return nothing, as a tensor."""
        return torch.empty(0, device=device, dtype=dtype)


def build_hiera(config: HieraConfig, width: int) -> Sam2VisionModel:
    """Build the encoder with random weights.

    Its `fpn_hidden_states` are four maps (B, width, H/s, W/s) at strides s of 4, 8, 16 and 32.
    """
    backbone = Sam2HieraDetConfig(
        hidden_size=config.dim,
        num_attention_heads=config.heads,
        blocks_per_stage=list(config.depths),
        embed_dim_per_stage=list(config.dims),
        num_attention_heads_per_stage=[config.heads << i for i in range(4)],
        window_size_per_stage=list(config.windows),
        global_attention_blocks=list(config.global_blocks),
        window_positional_embedding_background_size=list(config.background),
    )
    encoder = Sam2VisionModel(Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=list(config.dims[::-1]),
        fpn_hidden_size=width,
        fpn_top_down_levels=[2, 3],
        num_feature_levels=4,
    ))
    encoder.neck.position_encoding = NoPosition()
    return encoder
