# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""FRM and FFM, the rectification and fusion of two streams (CMX, arXiv 2203.04838).

Equal to the published modules of CMX and CMNeXt when given their weights: 26 d^2 + 9 d + 2 and
17 d^2 + 26 d parameters at width d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rgbx_seg_train.models.blocks.mit import to_map, to_tokens


class FeatureRectification(nn.Module):
    """FRM: each stream takes from the other what channel and spatial gates let through."""

    def __init__(self, dim: int, channel_weight: float = 0.5, spatial_weight: float = 0.5) -> None:
        super().__init__()
        self.weights = (channel_weight, spatial_weight)
        self.channel = nn.Sequential(
            nn.Linear(4 * dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 2 * dim), nn.Sigmoid()
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1), nn.ReLU(), nn.Conv2d(dim, 2, 1), nn.Sigmoid()
        )

    def forward(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        """Map two (B, C, H, W) streams to their rectified forms."""
        both = torch.cat([x1, x2], dim=1)
        pooled = torch.cat([both.mean((2, 3)), both.amax((2, 3))], dim=1)  # (B, 4C)
        channel1, channel2 = self.channel(pooled)[:, :, None, None].chunk(2, dim=1)
        spatial1, spatial2 = self.spatial(both).chunk(2, dim=1)
        by_channel, by_space = self.weights
        y1 = x1 + (by_channel * channel2 + by_space * spatial2) * x2
        y2 = x2 + (by_channel * channel1 + by_space * spatial1) * x1
        return y1, y2


class CrossContext(nn.Module):
    """Linear-cost attention in which each stream is read through the other's context matrix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv1 = nn.Linear(dim, 2 * dim, bias=False)
        self.kv2 = nn.Linear(dim, 2 * dim, bias=False)

    def _context(self, kv: Tensor) -> Tensor:
        """Softmax over the key axis of k^T v / sqrt(d), (B, heads, d, d), from (B, N, 2C)."""
        batch, n, width = kv.shape
        head_dim = width // 2 // self.heads
        k, v = kv.view(batch, n, 2, self.heads, head_dim).permute(2, 0, 3, 1, 4)
        return ((k.transpose(-2, -1) @ v) * head_dim**-0.5).softmax(dim=-2)

    def _split(self, u: Tensor) -> Tensor:
        return u.view(*u.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, N, d)

    def forward(self, u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
        """Map two (B, N, C) streams to two (B, N, C) streams."""
        context1, context2 = self._context(self.kv1(u1)), self._context(self.kv2(u2))
        v1 = (self._split(u1) @ context2).transpose(1, 2).reshape(u1.shape)
        v2 = (self._split(u2) @ context1).transpose(1, 2).reshape(u2.shape)
        return v1, v2


class FeatureFusion(nn.Module):
    """FFM: cross-attend the two streams, then mix them into one."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.proj1, self.proj2 = nn.Linear(dim, 2 * dim), nn.Linear(dim, 2 * dim)
        self.cross = CrossContext(dim, heads)
        self.end1, self.end2 = nn.Linear(2 * dim, dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.residual = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1),
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
            nn.BatchNorm2d(dim),
        )
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) streams into one (B, C, H, W)."""
        height, width = x1.shape[2:]
        x1, x2 = to_tokens(x1), to_tokens(x2)
        y1, u1 = self.proj1(x1).relu().chunk(2, dim=-1)
        y2, u2 = self.proj2(x2).relu().chunk(2, dim=-1)
        v1, v2 = self.cross(u1, u2)
        x1 = self.norm1(x1 + self.end1(torch.cat([y1, v1], dim=-1)))
        x2 = self.norm2(x2 + self.end2(torch.cat([y2, v2], dim=-1)))
        both = to_map(torch.cat([x1, x2], dim=-1), height, width)
        return self.norm(self.residual(both) + self.embed(both))
