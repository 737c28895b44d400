# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Patches by convolutions, for image towers that are trained from scratch.

"Early Convolutions Help Transformers See Better" (Xiao et al., arXiv 2106.14881): a tower learns
faster from 3x3 convolutions with batch norms than from one wide convolution.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Stem(nn.Module):
    """3x3 convolutions that halve the image until a patch is one place."""

    def __init__(self, width: int, patch: int) -> None:
        """Take the channels of the patches and the side of one in pixels, a power of two."""
        super().__init__()
        widths = [3, *(width >> i for i in reversed(range(patch.bit_length() - 1)))]
        *finer, last = [nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
                        for narrow, wide in pairwise(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.GELU()) for conv in finer)
        self.last = last

    @property
    def weight(self) -> Tensor:
        """Return the last weights: towers ask for the type of those that make patches."""
        return self.last.weight

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return patches (B, width, h, w), then (B, width / 2, 2h, 2w), (B, width / 4, 4h, 4w) …"""
        found = [images]
        for stage in (*self.stages, self.last):
            found.append(stage(found[-1]))
        return found[:0:-1]

    def forward(self, images: Tensor) -> Tensor:
        """Return patches (B, width, h, w)."""
        return self.maps(images)[0]
