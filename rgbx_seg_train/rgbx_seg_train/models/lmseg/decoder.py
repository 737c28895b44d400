# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The upsampling decoder: cost maps to logits at four times their size, guided by tokens.

LMSeg says "upsample" alone; this is CAT-Seg's decoder (cvlab-kaist/CAT-Seg at 6d3a188), equal to
it with equal weights. The same guidance goes to all classes, so its share of a convolution is
computed once an image instead of once a class. Ours: the costs themselves may be added to the
logits, times a learned factor, which lets encoders learn that nobody aligned with texts before.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_train.models.blocks.segformer_head import resize

GROUP = 16  # channels that are normalized together


class Guidance(nn.Module):
    """Tokens of two depths, enlarged two and four times and narrowed; a stem's maps are as large.
    """

    def __init__(self, width: int, raw: tuple[int, int], narrow: tuple[int, int],
                 stem: bool) -> None:
        super().__init__()
        if stem:
            raw = width // 2, width // 4
        self.enlarge = nn.ModuleList(
            nn.Identity() if stem else nn.ConvTranspose2d(width, channels, scale, scale)
            for channels, scale in zip(raw, (2, 4), strict=True))
        self.project = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.ReLU())
            for channels, out in zip(raw, narrow, strict=True))

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        """Return (B, narrow[0], 2h, 2w) and (B, narrow[1], 4h, 4w)."""
        return [project(enlarge(x)) for project, enlarge, x in
                zip(self.project, self.enlarge, taps, strict=True)]


class Stage(nn.Module):
    """Twice the size: a transposed convolution beside the guidance, then two convolutions."""

    def __init__(self, width: int, out: int, guidance: int) -> None:
        super().__init__()
        self.split = width - guidance
        self.enlarge = nn.ConvTranspose2d(width, self.split, 2, 2)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        groups = math.gcd(out, max(out // GROUP, 1))
        self.norm1 = nn.GroupNorm(groups, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, out)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Map (B * N, width, h, w), guided by (B, G, 2h, 2w), to (B * N, out, 2h, 2w)."""
        weight = self.conv1.weight
        x = functional.conv2d(self.enlarge(x), weight[:, :self.split], padding=1)
        if guidance is not None:
            shared = functional.conv2d(guidance, weight[:, self.split:], padding=1)
            x = (x.unflatten(0, (len(shared), -1)) + shared[:, None]).flatten(0, 1)
        x = self.norm1(x).relu()
        return self.norm2(self.conv2(x)).relu()


class CostDecoder(nn.Module):
    """Two stages and a head of one channel, the same for all classes."""

    def __init__(self, width: int, widths: tuple[int, int], guidance: tuple[int, int],
                 skip: float = 0.0, prior: float = 0.0) -> None:
        super().__init__()
        self.skip = nn.Parameter(torch.tensor(skip)) if skip else None
        self.stages = nn.ModuleList((Stage(width, widths[0], guidance[0]),
                                     Stage(widths[0], widths[1], guidance[1])))
        self.head = nn.Conv2d(widths[1], 1, 3, padding=1)
        if prior:
            nn.init.constant_(self.head.bias, prior)

    def forward(self, x: Tensor, costs: Tensor, guidance: list[Tensor] | list[None]) -> Tensor:
        """Map embeddings (B, N, h, w, width) of costs (B, N, h, w) to logits (B, N, 4h, 4w)."""
        batch, classes = x.shape[:2]
        x = x.flatten(0, 1).permute(0, 3, 1, 2)
        for stage, shared in zip(self.stages, guidance, strict=True):
            x = stage(x, shared)
        logits = self.head(x).view(batch, classes, *x.shape[2:])
        return logits if self.skip is None else logits + self.skip * resize(costs, x.shape[2:])


def placed(logits: Tensor, chosen: Tensor, classes: int, floor: float) -> Tensor:
    """Return logits (B, classes, H, W): those (B, K, H, W) of the chosen (B, K), else the floor."""
    batch, _, height, width = logits.shape
    whole = torch.full((batch, classes, height, width), floor, dtype=logits.dtype,
                       device=logits.device)
    return whole.scatter(1, chosen[:, :, None, None].expand(-1, -1, height, width), logits)
