# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""HPD, the Heterogeneous Prompting Decoder (SHIFNet, section III-D), with its SEM.

From the paper: each level of the pyramid is enhanced by SEM and joined with itself; the levels are
merged at stride 4 and projected to the text space, where the class embeddings score every pixel.
From the official code, which alone gives the published 3.5 M parameters: SEM's "global average
pooling" is the identity, its third branch runs 7x1, 1x7, 7x1, 1x7, each level is halved before the
merge (512 channels instead of 1024), and the similarity is a cosine with a learned temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_train.models.blocks.segformer_head import SegformerHead, resize


class BatchNormReLU(nn.Sequential):
    """The paper's BCR: convolution without bias that keeps the size, batch norm, ReLU."""

    def __init__(self, in_dim: int, out_dim: int, kernel: tuple[int, int] = (1, 1)) -> None:
        height, width = kernel
        super().__init__(
            nn.Conv2d(in_dim, out_dim, kernel, padding=(height // 2, width // 2), bias=False),
            nn.BatchNorm2d(out_dim, eps=1e-3),
            nn.ReLU(),
        )


class SemanticEnhancement(nn.Module):
    """SEM: three branches of growing reach, summed and squeezed."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        narrow, wide = width // 4, width // 2
        row, column = (1, 7), (7, 1)
        self.reduce = BatchNormReLU(width, narrow)
        self.branch1 = BatchNormReLU(narrow, narrow)
        self.branch2 = nn.Sequential(
            BatchNormReLU(narrow, wide),
            BatchNormReLU(wide, wide, row),
            BatchNormReLU(wide, narrow, column),
        )
        self.branch3 = nn.Sequential(
            BatchNormReLU(narrow, wide),
            BatchNormReLU(wide, wide, column),
            BatchNormReLU(wide, wide, row),
            BatchNormReLU(wide, wide, column),
            BatchNormReLU(wide, narrow, row),
        )
        self.squeeze = BatchNormReLU(narrow, squeezed, (3, 3))
        self.restore = nn.Conv2d(squeezed, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        x = self.reduce(x)
        x = self.branch1(x) + self.branch2(x) + self.branch3(x)
        return self.restore(self.squeeze(x))


class Level(nn.Module):
    """One level on its way to the merge: SEM, joined with its input, halved."""

    def __init__(self, width: int, squeezed: int, enhance: bool) -> None:
        super().__init__()
        self.enhance = SemanticEnhancement(width, squeezed) if enhance else None
        self.join = nn.Conv2d(2 * width, width, 1) if enhance else None
        self.halve = nn.Conv2d(width, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C/2, H, W)."""
        if self.enhance is not None:
            x = self.join(torch.cat([x, self.enhance(x)], dim=1))
        return self.halve(x)


class PromptingDecoder(nn.Module):
    """HPD; `enhance` False leaves SEM out, with the join that has nothing to join (Table VIII)."""

    def __init__(
        self, width: int, text_dim: int, squeezed: int, dropout: float, enhance: bool = True
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(width, squeezed, enhance) for _ in range(4))
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.project = nn.Conv2d(width, text_dim, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.temperature = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # its logarithm

    def forward(self, maps: list[Tensor], classes: Tensor) -> Tensor:
        """Map four (B, C, H_i, W_i), finest first, and (N, text_dim) to (B, N, H_0, W_0)."""
        size = tuple(maps[0].shape[2:])
        finest, *others = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        others = [resize(x, size) for x in others]
        x = self.merge(torch.cat([*others[::-1], finest], dim=1))  # deepest first, as trained
        x = functional.normalize(self.dropout(self.project(x)), dim=1)  # (B, text_dim, H/4, W/4)
        prompts = self.temperature.exp() * functional.normalize(classes, dim=1)
        # not as a convolution: where classes are an input, libraries take no weights from there
        return (prompts @ x.flatten(2)).unflatten(2, size)


class PlainDecoder(SegformerHead):
    """The ablation "SegFormer head": its classes are weights, so it reads no embeddings."""

    def forward(self, maps: list[Tensor], classes: Tensor) -> Tensor:
        """Map four (B, C, H_i, W_i), finest first, to logits (B, N, H_0, W_0)."""
        return super().forward(maps)


# Tables VII and VIII; (width, text_dim, squeezed, dropout, n_classes) -> decoder
DECODERS: dict[str, Callable[[int, int, int, float, int], nn.Module]] = {
    'hpd': lambda width, text, squeezed, dropout, n: (
        PromptingDecoder(width, text, squeezed, dropout)
    ),
    'hpd_no_sem': lambda width, text, squeezed, dropout, n: (
        PromptingDecoder(width, text, squeezed, dropout, enhance=False)
    ),
    'segformer': lambda width, text, squeezed, dropout, n: (
        PlainDecoder((width,) * 4, width, n, dropout, folded=False)
    ),
}
