# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA on q and v of Hiera's fused qkv, one set for each modality (SARTM).

As published: x A B is added to q and to v, without bias and without a scale, A drawn as a linear
layer's weight, B zero. `peft` adapts a linear layer as a whole and cannot leave k out of a fused
qkv, so the module is ours. The released code has three sets and adds all of them to every image,
and its B has the width of the block's input, which leaves half of q and v as they are where a stage
begins; here, as the paper has it, an image passes the set of its own modality, and B has the width
of the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Streams:
    """Whose images a batch holds: runs of (modality, images), set before the trunk is called."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []

    def set(self, names: Sequence[str]) -> None:
        """Take the modality of each image of the next batch."""
        self.runs = []
        for name in names:
            if self.runs and self.runs[-1][0] == name:
                self.runs[-1] = name, self.runs[-1][1] + 1
            else:
                self.runs.append((name, 1))


class LowRank(nn.Module):
    """The two low-rank terms of one modality in one block."""

    def __init__(self, in_dim: int, out_dim: int, rank: int) -> None:
        super().__init__()
        self.down_q, self.down_v = (nn.Parameter(torch.empty(rank, in_dim)) for _ in range(2))
        self.up_q, self.up_v = (nn.Parameter(torch.zeros(out_dim, rank)) for _ in range(2))
        for down in (self.down_q, self.down_v):
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map tokens (..., in_dim) to what is added to q and v, each (..., out_dim)."""
        return (functional.linear(functional.linear(x, self.down_q), self.up_q),
                functional.linear(functional.linear(x, self.down_v), self.up_v))

    def delta(self) -> Tensor:
        """Return what is added to the weight of qkv, (3 out_dim, in_dim)."""
        q, v = self.up_q @ self.down_q, self.up_v @ self.down_v
        return torch.cat([q, torch.zeros_like(q), v])


class AdaptedQKV(nn.Module):
    """A fused qkv layer, and the LoRA of each modality beside it."""

    def __init__(self, inner: nn.Linear, rank: int, names: Sequence[str], streams: Streams) -> None:
        super().__init__()
        self.inner, self.streams = inner, streams
        self.lora = nn.ModuleDict({
            name: LowRank(inner.in_features, inner.out_features // 3, rank) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B', h, w, C), the same number of windows for each image, to their qkv."""
        runs = self.streams.runs
        windows = x.shape[0] // sum(n for _, n in runs)
        parts = [self.lora[name](part) for (name, _), part in
                 zip(runs, x.split([n * windows for _, n in runs]), strict=True)]
        q, v = (torch.cat(terms) for terms in zip(*parts, strict=True))
        return self.inner(x) + torch.cat([q, torch.zeros_like(q), v], dim=-1)

    def fold(self, first: str, second: str) -> nn.Module:
        """Return the layer for batches whose halves are of these two modalities."""
        rgb, aux = ((self.inner.weight + self.lora[name].delta()).detach()
                    for name in (first, second))
        bias = self.inner.bias.detach().clone()
        return PairQKV(rgb, aux, bias)


class PairQKV(nn.Module):
    """A fused qkv layer of two weights: the first half of a batch is rgb, the second aux."""

    def __init__(self, rgb: Tensor, aux: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.rgb, self.aux, self.bias = nn.Parameter(rgb), nn.Parameter(aux), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B', h, w, C) to their qkv."""
        rgb, aux = x.chunk(2)
        return torch.cat([functional.linear(rgb, self.rgb, self.bias),
                          functional.linear(aux, self.aux, self.bias)])
