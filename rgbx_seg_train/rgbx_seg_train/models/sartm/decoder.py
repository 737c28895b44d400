# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SAM 2's mask decoder turned into a head of N classes, and SARTM's auxiliary head.

Mask decoder, from the official code: a mask token and a small MLP for each class in the place of
SAM's three masks, the prompt is empty. SAM 2 stands for "no prompt" by two tokens "not a point" and
one vector added to the whole map; a token of the score, one of the object and the single mask's
take part in the attention, though nothing is read from them. The two-way transformer is
`transformers`'. The heads that rate SAM's masks are left out: nothing here asks for a rating.
The official code keeps one of them, frozen, and replaces all masks of an image by -1024 where it
says that there is no object; `gate` brings it back for the weights that were trained with it.
Auxiliary head, equations 7 to 9: the three fused levels, merged from coarse to fine as in a feature
pyramid. The official code makes its convolutions anew, with random weights, at every call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.sam2.configuration_sam2 import Sam2MaskDecoderConfig
from transformers.models.sam2.modeling_sam2 import (
    Sam2FeedForward,
    Sam2LayerNorm,
    Sam2TwoWayTransformer,
)

from rgbx_seg_train.models.blocks.segformer_head import resize

NO_OBJECT = -1024.0
EMPTY = 2  # tokens of an empty prompt


class MaskDecoder(nn.Module):
    """A mask of logits for each class, from the three levels of one image."""

    def __init__(self, width: int, n_classes: int, layers: int, heads: int, hidden: int,
                 gate: bool = False) -> None:
        super().__init__()
        self.narrow = nn.ModuleList([nn.Conv2d(width, width // 8, 1),
                                     nn.Conv2d(width, width // 4, 1)])
        self.object_token = nn.Parameter(torch.randn(1, width))
        self.score_token = nn.Parameter(torch.randn(1, width))
        self.class_tokens = nn.Parameter(torch.randn(1 + n_classes, width))  # first: no class
        self.empty_token = nn.Parameter(torch.randn(1, width))
        self.empty_mask = nn.Parameter(torch.randn(1, width))
        self.register_buffer('frequencies', torch.randn(2, width // 2))
        self.transformer = Sam2TwoWayTransformer(Sam2MaskDecoderConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            mlp_dim=hidden, attention_downsample_rate=2, hidden_act='relu',
            attn_implementation='sdpa'))
        self.upscale = nn.ModuleList([nn.ConvTranspose2d(width, width // 4, 2, 2),
                                      nn.ConvTranspose2d(width // 4, width // 8, 2, 2)])
        self.norm = Sam2LayerNorm(width // 4, data_format='channels_first')
        self.masks = nn.ModuleList(Sam2FeedForward(width, width, width // 8, 3)
                                   for _ in range(n_classes))
        self.object_head = Sam2FeedForward(width, width, 1, 3) if gate else None

    def project(self, levels: list[Tensor]) -> list[Tensor]:
        """Narrow the two finer of three maps (B, width, H/s, W/s), s = 4, 8, 16."""
        fine, middle, coarse = levels
        return [self.narrow[0](fine), self.narrow[1](middle), coarse]

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map what `project` returns to logits (B, N, H/4, W/4)."""
        fine, middle, coarse = levels
        batch, width, height, columns = coarse.shape
        tokens = torch.cat([self.object_token, self.score_token, self.class_tokens,
                            *[self.empty_token] * EMPTY])
        tokens, image = self.transformer(
            point_embeddings=tokens[None, None].expand(batch, -1, -1, -1),
            image_embeddings=coarse + self.empty_mask[:, :, None, None],
            image_positional_embeddings=self.position(height, columns).expand(batch, -1, -1, -1),
            attention_similarity=None)  # (B, 1, tokens, width), (B, 1, H/16 * W/16, width)
        image = image[:, 0].transpose(1, 2).reshape(batch, width, height, columns)
        x = functional.gelu(self.norm(self.upscale[0](image) + middle))
        x = functional.gelu(self.upscale[1](x) + fine)
        rows = tokens[:, 0, 3:3 + len(self.masks)].unbind(1)
        kernels = torch.stack([mlp(row) for mlp, row in zip(self.masks, rows, strict=True)], 1)
        logits = (kernels @ x.flatten(2)).view(batch, -1, *x.shape[2:])
        if self.object_head is None:
            return logits
        seen = self.object_head(tokens[:, 0, 0])[:, :, None, None] > 0
        return logits.where(seen, NO_OBJECT)

    def position(self, height: int, width: int) -> Tensor:
        """Return SAM's random Fourier features of a grid, (1, C, height, width)."""
        like = {'device': self.frequencies.device, 'dtype': torch.float32}
        y, x = (2 * (torch.arange(n, **like) + 0.5) / n - 1 for n in (height, width))
        by_x, by_y = self.frequencies.float()
        phase = 2 * math.pi * (x[None, :, None] * by_x + y[:, None, None] * by_y)
        return torch.cat([phase.sin(), phase.cos()], dim=-1).permute(2, 0, 1)[None]


class AuxiliaryHead(nn.Module):
    """The pyramid of the three fused levels."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(width // 8, width, 1),
                                      nn.Conv2d(width // 4, width, 1)])
        self.classify = nn.Conv2d(width, n_classes, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Map fused (B, C_i, H/s, W/s), s = 4, 8, 16, to logits (B, N, H/4, W/4)."""
        fine, middle, x = levels
        for lateral, level in ((self.lateral[1], middle), (self.lateral[0], fine)):
            x = lateral(level) + resize(x, tuple(level.shape[2:]))
        return self.classify(x)
