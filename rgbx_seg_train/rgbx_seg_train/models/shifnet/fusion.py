# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SACF, the Semantic-Aware Cross-modal Fusion (SHIFNet, section III-C), and what stood in for it.

From the paper: both streams are projected to the text space, compared with the mean of the class
embeddings, and summed with the softmax of the two scores as weights; ConvNeXt blocks follow.
From the official code, where the paper differs: the two blocks follow one another instead of being
summed, G() is the weighted sum and no concatenation, and the mean embedding keeps its length, which
is below one. Assumed: SACF without text weighs both streams alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, layer norm, linear, GELU, linear, scale, residual (arXiv 2201.03545)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand, self.contract = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))  # (B, H, W, C)
        y = self.scale * self.contract(functional.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class TextProjection(nn.Sequential):
    """Linear, ReLU, linear: from the pyramid's width to that of the text."""

    def __init__(self, width: int, text_dim: int) -> None:
        super().__init__(nn.Linear(width, text_dim), nn.ReLU(), nn.Linear(text_dim, text_dim))


class SemanticFusion(nn.Module):
    """SACF of one level; without text both streams weigh one half."""

    def __init__(self, width: int, text_dim: int, blocks: int, text: bool = True) -> None:
        super().__init__()
        self.project_rgb = TextProjection(width, text_dim) if text else None
        self.project_aux = TextProjection(width, text_dim) if text else None
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width) for _ in range(blocks)))
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, rgb: Tensor, aux: Tensor, classes: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) streams into one, given class embeddings (N, text_dim)."""
        if self.project_rgb is None:
            fused = 0.5 * (rgb + aux)
        else:
            weight_rgb, weight_aux = self.weights(rgb, aux, classes)
            fused = weight_rgb * rgb + weight_aux * aux
        return self.out(self.blocks(fused))

    def weights(self, rgb: Tensor, aux: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        """Return the two weights of each position, each (B, 1, H, W), summing to one."""
        scene = classes.mean(dim=0)  # (text_dim,)
        scores = [_affinity(project, x, scene)
                  for project, x in ((self.project_rgb, rgb), (self.project_aux, aux))]
        return torch.cat(scores, dim=1).softmax(dim=1).chunk(2, dim=1)


def _affinity(project: nn.Module, x: Tensor, scene: Tensor) -> Tensor:
    """Return how close each position of (B, C, H, W) is to the scene embedding, (B, 1, H, W)."""
    projected = functional.normalize(project(x.permute(0, 2, 3, 1)), dim=-1)
    return (projected @ scene)[:, None]


class Add(nn.Module):
    """The ablation "Add": the sum of both streams."""

    def forward(self, rgb: Tensor, aux: Tensor, classes: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) streams into one."""
        return rgb + aux


class Concat(nn.Module):
    """The ablation "Concat": both streams side by side, and a 1x1 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(2 * width, width, 1)

    def forward(self, rgb: Tensor, aux: Tensor, classes: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) streams into one."""
        return self.out(torch.cat([rgb, aux], dim=1))


# Table VI; (width, text_dim, blocks) -> module of one level
FUSIONS: dict[str, Callable[[int, int, int], nn.Module]] = {
    'sacf': SemanticFusion,
    'sacf_no_text': lambda width, text_dim, blocks: SemanticFusion(width, text_dim, blocks, False),
    'add': lambda width, text_dim, blocks: Add(),
    'concat': lambda width, text_dim, blocks: Concat(width),
}
