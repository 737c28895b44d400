# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Mix Transformer (SegFormer's encoder, arXiv 2105.15203) whose attention also reads prompts.

Parameters map one to one to `transformers`' SegformerModel (`segrgbx/convert.py`). Ours: prompts
join keys and values after the spatial reduction, and tokens stay in one memory layout: (B, N, C)
tokens seen as (B, C, H, W) are channels-last, so no step between attention and convolution copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

MIT_DIMS = (64, 128, 320, 512)
MIT_DEPTHS = {
    'b0': (2, 2, 2, 2),
    'b1': (2, 2, 2, 2),
    'b2': (3, 4, 6, 3),
    'b3': (3, 4, 18, 3),
    'b4': (3, 8, 27, 3),
    'b5': (3, 6, 40, 3),
}


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """See (B, H*W, C) tokens as a (B, C, H, W) channels-last map."""
    return tokens.view(tokens.shape[0], height, width, -1).permute(0, 3, 1, 2)


def to_tokens(image: Tensor) -> Tensor:
    """See a (B, C, H, W) map as (B, H*W, C) tokens; copies only if it is not channels-last."""
    return image.permute(0, 2, 3, 1).flatten(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v of (B, heads, N, d) tensors.

    On a CPU, written out: with our few keys the fused kernel's bfloat16 backward is half as fast.
    """
    if not q.is_cpu:
        return functional.scaled_dot_product_attention(q, k, v)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def recompute(module: Callable[..., Any], on: bool, *inputs: Any) -> Any:
    """Call a module; if `on`, keep its inputs alone and compute it again in the backward pass.

    The same random numbers are drawn again. Not for BatchNorm, which would count a batch twice.
    """
    if not on:
        return module(*inputs)
    return checkpoint(module, *inputs, use_reentrant=False)


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution and a layer norm."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> tuple[Tensor, int, int]:
        """Return tokens (B, N, C) and the height and width of their grid."""
        image = self.proj(image)
        return self.norm(to_tokens(image)), image.shape[2], image.shape[3]


class Attention(nn.Module):
    """Attention from all positions to a spatially reduced copy of them and to the prompts."""

    def __init__(self, dim: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, prompts: Tensor | None, height: int, width: int) -> Tensor:
        """Map tokens (B, N, C), seeing prompts (B, P, C), to tokens (B, N, C)."""
        batch, n, dim = x.shape
        reduced = x
        if self.reduction > 1:
            reduced = self.norm(to_tokens(self.sr(to_map(x, height, width))))
        if prompts is not None:
            reduced = torch.cat([reduced, prompts], dim=1)
        head_dim = dim // self.heads
        q = self.q(x).view(batch, n, self.heads, head_dim).transpose(1, 2)
        kv = self.kv(reduced).view(batch, -1, 2, self.heads, head_dim).permute(2, 0, 3, 1, 4)
        x = attend(q, kv[0], kv[1])  # (B, heads, N, C/heads)
        return self.proj(x.transpose(1, 2).reshape(batch, n, dim))


class MixFeedForward(nn.Module):
    """Linear, depthwise 3x3 convolution (the position information of MiT), GELU, linear."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.dwconv = nn.Conv2d(ratio * dim, ratio * dim, 3, padding=1, groups=ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Map tokens (B, N, C) to tokens (B, N, C)."""
        x = to_tokens(self.dwconv(to_map(self.fc1(x), height, width)))
        return self.fc2(functional.gelu(x))


class DropPath(nn.Module):
    """Drop the whole residual branch of a sample with probability `rate` while training."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Scale kept samples so that the expectation stays."""
        if not self.training or self.rate == 0.0:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * keep / (1.0 - self.rate)


class Block(nn.Module):
    """Pre-norm transformer block; prompts pass the same norm as the tokens they stand beside."""

    def __init__(self, dim: int, heads: int, reduction: int, ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MixFeedForward(dim, ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, prompts: Tensor | None, height: int, width: int) -> Tensor:
        """Map tokens (B, N, C); prompts (B, P, C) are read and never written."""
        seen = None if prompts is None else self.norm1(prompts)
        x = x + self.drop_path(self.attn(self.norm1(x), seen, height, width))
        return x + self.drop_path(self.mlp(self.norm2(x), height, width))


class Stage(nn.Module):
    """One of the four stages: patch embedding, blocks, norm."""

    def __init__(
        self, in_channels: int, dim: int, heads: int, reduction: int, ratio: int,
        drop_paths: list[float], first: bool,
    ) -> None:
        super().__init__()
        self.patch = PatchEmbedding(in_channels, dim, *((7, 4) if first else (3, 2)))
        self.blocks = nn.ModuleList(
            Block(dim, heads, reduction, ratio, rate) for rate in drop_paths
        )
        self.norm = nn.LayerNorm(dim)
        self.checkpointing = False

    def forward(self, image: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Map (B, C_in, H, W) and prompts (B, P, C) to (B, C, H/s, W/s), channels-last."""
        x, height, width = self.patch(image)
        for block in self.blocks:
            x = recompute(block, self.checkpointing and self.training, x, prompts, height, width)
        return to_map(self.norm(x), height, width)


def build_stages(
    dims: tuple[int, ...], depths: tuple[int, ...], heads: tuple[int, ...],
    reductions: tuple[int, ...], ratios: tuple[int, ...], drop_path: float,
) -> nn.ModuleList:
    """Build the stages of a Mix Transformer; drop path grows linearly with depth."""
    rates = torch.linspace(0, drop_path, sum(depths), device='cpu').tolist()
    stages = nn.ModuleList()
    for i, dim in enumerate(dims):
        before = sum(depths[:i])
        in_channels = dims[i - 1] if i else 3
        stages.append(
            Stage(in_channels, dim, heads[i], reductions[i], ratios[i],
                  rates[before:before + depths[i]], first=i == 0)
        )
    return stages
