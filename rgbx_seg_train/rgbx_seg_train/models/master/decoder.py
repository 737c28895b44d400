# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the codebook's states and CLIP's patches to logits: MASTER's C_out head and decoder.

Paper (arXiv 2503.04199): C_out, the language model's states at the codebook's places, meet what
V->D makes of the patches in a "lightweight decoder". The inside is our reading of PixelLM (CVPR
2024, MaverickRen/PixelLM at ebf0792), whose terms these are: two linear layers take a state to the
decoder's width, a learned weighted sum joins the t states of a class, and SAM's decoder makes one
mask per class: a two-way transformer (`transformers`' own), two transposed convolutions and a small
MLP per class token, whose output is compared with every pixel.
Ours: one token per class takes the place of SAM's mask tokens, and its masks are logits of a
softmax. Its MLP reads the code beside the token: the first attention of SAM's transformer has no
skip, so that new tokens are little but their mean. The MLPs begin near their biases, one vector per
class, so that what a class looks for moves slowly while the features of pixels form.
With several layers of CLIP each has a transformer and an embedding of its own, and a learned
weighted sum joins the masks; the masks do not sharpen the next layer's features as in PixelLM,
which would take a copy for each class. `plain` is for small models trained from scratch: batch
norms, and one convolution after a bilinear enlargement instead of two transposed ones, which learn
late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import SamMaskDecoderConfig
from transformers.models.sam.modeling_sam import (
    SamFeedForward,
    SamLayerNorm,
    SamTwoWayTransformer,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.family import check_sizes


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder."""

    dim: int = 256  # channels
    depth: int = 2  # layers of the two-way transformer
    heads: int = 8  # of its attentions
    hidden: int = 2048  # width of its MLPs
    fine: int = 32  # channels of the enlarged features
    own_mlps: bool = True  # an MLP for each class, as SAM's mask tokens have, or one for all
    plain: bool = False  # enlarge by 2 with one convolution, not by 4 with two transposed ones

    def __post_init__(self) -> None:
        """Refuse widths that cannot be halved and dealt out to the heads."""
        check_sizes('master', {f'decoder.{name}': getattr(self, name) for name in
                               ('dim', 'depth', 'heads', 'hidden', 'fine')})
        if self.dim % 2 or self.dim // 2 % self.heads:
            raise RgbxSegError(f'master: decoder has dim {self.dim} and heads {self.heads}, '
                               'expected a multiple of twice the heads; choose others.')


class CodebookHead(nn.Module):
    """From C_out to one vector per class."""

    def __init__(self, width: int, dim: int, tokens: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
        self.weights = nn.Parameter(torch.full((tokens,), 1 / tokens))
        _keep_variance(self.layers[0], self.layers[2])

    def forward(self, states: Tensor) -> Tensor:
        """Map (B, n_classes * tokens, width), a class's tokens in a row, to (B, n_classes, dim)."""
        codes = self.layers(states).unflatten(1, (-1, len(self.weights)))
        return (codes * self.weights[:, None]).sum(2)


class Positions(nn.Module):
    """Where a patch lies: sines and cosines of random directions over the image, as in SAM."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer('directions', torch.randn(2, dim // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Return (1, dim, height, width)."""
        device = self.directions.device
        y, x = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (height, width))
        places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
        # written out, as autocast would round what a product of matrices gives to half precision
        turns = (places[..., None] * self.directions).sum(-2)  # (height, width, dim / 2)
        phases = 2 * math.pi * turns
        return torch.cat([phases.sin(), phases.cos()], -1).permute(2, 0, 1)[None]


class MaskDecoder(nn.Module):
    """SAM's mask decoder for class tokens that come from outside, over one or more scales."""

    def __init__(self, config: DecoderConfig, n_classes: int, scales: int) -> None:
        super().__init__()
        dim, fine = config.dim, config.fine
        self.positions = Positions(dim)
        sam = SamMaskDecoderConfig(
            hidden_size=dim, mlp_dim=config.hidden, num_hidden_layers=config.depth,
            num_attention_heads=config.heads, attn_implementation='sdpa')
        self.transformers = nn.ModuleList(SamTwoWayTransformer(sam) for _ in range(scales))
        self.enlarge = _plain(dim, fine) if config.plain else _transposed(dim, fine)
        self.mlps = nn.ModuleList(SamFeedForward(dim, dim, fine, 3)
                                  for _ in range(n_classes if config.own_mlps else 1))
        for mlp in self.mlps:
            _keep_variance(mlp.proj_in, *mlp.layers)
            nn.init.normal_(mlp.proj_out.weight, std=0.1 * (dim * fine) ** -0.5)
            nn.init.normal_(mlp.proj_out.bias, std=fine ** -0.5)
        several = scales > 1
        self.level_embedding = nn.Parameter(0.02 * torch.randn(scales, dim)) if several else None
        self.scale_weights = nn.Parameter(torch.full((scales,), 1 / scales)) if several else None
        self.checkpointing = False

    def forward(self, maps: Sequence[Tensor], codes: Tensor) -> Tensor:
        """Map features (B, dim, h, w) of each scale and codes (B, N, dim) to (B, N, 4h, 4w).

        If `plain`, to (B, N, 2h, 2w).
        """
        masks = [self._masks(i, image, codes) for i, image in enumerate(maps)]
        if self.scale_weights is None:
            return masks[0]
        return sum(weight * mask for weight, mask in zip(self.scale_weights, masks, strict=True))

    def _masks(self, scale: int, image: Tensor, codes: Tensor) -> Tensor:
        if self.level_embedding is not None:
            codes = codes + self.level_embedding[scale]
        again = self.checkpointing and self.training
        tokens, pixels = recompute(self.transformers[scale], again, codes[:, None], image,
                                   self.positions(*image.shape[2:]), None)
        fine = self.enlarge(pixels[:, 0].transpose(1, 2).unflatten(2, image.shape[2:]))
        return torch.einsum('bnc,bchw->bnhw', self._kernels(tokens[:, 0] + codes), fine)

    def _kernels(self, tokens: Tensor) -> Tensor:
        """Return what each class looks for, (B, N, fine)."""
        if len(self.mlps) == 1:
            return self.mlps[0](tokens)
        return torch.stack([mlp(token) for mlp, token in
                            zip(self.mlps, tokens.unbind(1), strict=True)], 1)


def _transposed(dim: int, fine: int) -> nn.Sequential:
    """Return what makes (B, fine, 4h, 4w) of (B, dim, h, w), as in SAM."""
    first, second = (nn.ConvTranspose2d(dim, 2 * fine, 2, stride=2),
                     nn.ConvTranspose2d(2 * fine, fine, 2, stride=2))
    _keep_variance(first, second)
    return nn.Sequential(first, SamLayerNorm(2 * fine, data_format='channels_first'), nn.GELU(),
                         second, nn.GELU())


def _plain(dim: int, fine: int) -> nn.Sequential:
    """Return what makes (B, fine, 2h, 2w) of (B, dim, h, w)."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode='bilinear'),
                         nn.Conv2d(dim, fine, 3, padding=1, bias=False),
                         nn.BatchNorm2d(fine), nn.ReLU())


def _keep_variance(*layers: nn.Linear | nn.ConvTranspose2d) -> None:
    """Begin with weights whose outputs, after a ReLU, vary as much as the inputs."""
    for layer in layers:
        inputs = layer.weight.shape[isinstance(layer, nn.Linear)]  # each pixel is made once
        nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
        nn.init.zeros_(layer.bias)
