# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The all-MLP decoder of SegFormer (arXiv 2105.15203)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) bilinearly, the way every block here does."""
    return functional.interpolate(image, size=size, mode='bilinear', align_corners=False)


class SegformerHead(nn.Module):
    """Four maps to one width, to stride 4, concatenated, fused, classified.

    `folded` computes the same function cheaper: nothing nonlinear stands between the four linear
    layers and the fusing convolution, and bilinear resizing commutes with both, so their weights
    are multiplied and applied before the resize.
    """

    def __init__(
        self, dims: tuple[int, ...], embed: int, n_classes: int, dropout: float, folded: bool
    ) -> None:
        super().__init__()
        self.folded = folded
        self.linears = nn.ModuleList(nn.Linear(dim, embed) for dim in dims)
        self.fuse = nn.Conv2d(len(dims) * embed, embed, 1, bias=False)
        self.norm = nn.BatchNorm2d(embed)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(embed, n_classes, 1)

    def _fuse(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        levels = [
            resize(functional.conv2d(x, linear.weight[:, :, None, None], linear.bias), size)
            for x, linear in zip(maps, self.linears, strict=True)
        ]
        return self.fuse(torch.cat(levels[::-1], dim=1))  # deepest first, as published

    def _fuse_folded(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        slices = self.fuse.weight.flatten(1).chunk(len(maps), dim=1)[::-1]
        total: Tensor | None = None
        for x, linear, part in zip(maps, self.linears, slices, strict=True):
            weight, bias = part @ linear.weight, part @ linear.bias
            level = resize(functional.conv2d(x, weight[:, :, None, None], bias), size)
            total = level if total is None else total + level
        assert total is not None
        return total

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Map (B, C_i, H_i, W_i), finest first, to logits (B, n_classes, H_0, W_0)."""
        fuse = self._fuse_folded if self.folded else self._fuse
        x = fuse(maps, tuple(maps[0].shape[2:]))
        return self.classify(self.dropout(self.norm(x).relu()))
