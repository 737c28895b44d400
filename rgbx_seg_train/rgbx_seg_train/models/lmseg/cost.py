# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Cost maps and their enhancement in space and over classes (LMSeg, sections 3.4 and 3.5).

From the paper: the cost of a class is the cosine of each place of F and the row of the class; Swin
blocks enhance it in space, linear transformers over the classes of each place. The rest is
CAT-Seg's (cvlab-kaist/CAT-Seg at 6d3a188), to which this is equal with equal weights on a grid of
24x24: widths, guidance, two layers, and an axis of 256 classes that fewer are padded to with a
learned token and of more the 256 of the largest cosine in the image are kept.
Ours: any grid (windows of equal sides, none above the given one, padded where they do not fit, and
what was padded is masked). All padding tokens are equal, so their share of the sums of a linear
attention is that of one, times their number: no token is stored, and N may be dynamic in a graph.
What guides is the same for all classes, or for all places, and is projected once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.family import check_sizes, choose

FORBIDDEN = -100.0  # added to the logit of a key that is not to be seen, as in Swin
EPSILON = 1e-6  # of the linear attention
ENHANCEMENTS = ('both', 'spatial', 'class', 'none')


@dataclass(frozen=True)
class CostOptions:
    """Sizes of the aggregator and its decoder; the defaults are CAT-Seg's."""

    width: int = 128  # channels of a cost embedding
    kernel: int = 7  # of the cost embedding
    layers: int = 2
    enhance: str = 'both'  # of a layer: both its parts, spatial or class alone, or none
    heads: int = 4
    ratio: int = 4  # MLP width over token width
    window: int = 12  # largest side of the attention windows
    guidance: int = 128  # channels of what guides, from the image and from the text
    longest: int = 256  # classes that attend to each other
    pool: int = 2  # side of the cells over which classes attend to each other in training
    pool_test: int = 1  # … and else
    decoder: tuple[int, int] = (64, 32)  # channels of the decoder's stages
    decoder_raw: tuple[int, int] = (256, 128)  # channels of the enlarged tokens that guide them
    decoder_guidance: tuple[int, int] = (32, 16)  # … after their projection
    skip: float = 0.0  # first factor of the costs that the logits get added; 0 = none, CAT-Seg
    prior: float = 0.0  # first bias of the logits; below 0, most places are of most classes not

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        choose('lmseg', 'cost.enhance', self.enhance, ENHANCEMENTS)
        check_sizes('lmseg', {f'cost.{key}': value for key, value in vars(self).items()
                              if type(value) in (int, tuple)})
        if self.width % self.heads:
            raise RgbxSegError(f'lmseg: cost.heads is {self.heads}, expected a divisor of '
                               f'cost.width, {self.width}; choose another.')
        if self.kernel % 2 == 0:
            raise RgbxSegError(f'lmseg: cost.kernel is {self.kernel}, expected an odd number; '
                               'choose one.')
        if any(narrow >= width for narrow, width in
               zip(self.decoder_guidance, (self.width, self.decoder[0]), strict=True)):
            raise RgbxSegError(f'lmseg: cost.decoder_guidance is {list(self.decoder_guidance)}, '
                               f'expected less than cost.width, {self.width}, and than the first '
                               f'of cost.decoder, {self.decoder[0]}; choose such.')


class Cut(NamedTuple):
    """How an axis of tokens is cut into windows."""

    windows: int
    side: int  # of a window
    shift: int  # of the second block of a pair

    @property
    def padded(self) -> int:
        """Tokens that the windows hold."""
        return self.windows * self.side


def cut(tokens: int, largest: int) -> Cut:
    """Return the fewest windows of equal sides, none above `largest`, that hold an axis."""
    windows = -(-tokens // largest)
    side = -(-tokens // windows)
    return Cut(windows, side, side // 2 if windows > 1 else 0)


@lru_cache(maxsize=32)
def window_mask(height: int, width: int, largest: int, shifted: bool) -> np.ndarray | None:
    """Return what is added to attention logits, float32 (windows, L, L); None: all may be seen.

    Tokens see those of their window that are also their neighbors in the image, which those at
    opposite edges are not after a shift, and no padding.
    """
    cuts = cut(height, largest), cut(width, largest)
    regions = []
    for tokens, axis in zip((height, width), cuts, strict=True):
        place = np.arange(axis.padded)
        if shifted and axis.shift:
            place = np.roll(place, -axis.shift)
        region = np.where(np.arange(axis.padded) >= axis.padded - axis.shift * shifted, 1, 0)
        regions.append(np.where(place < tokens, region, -1))
    rows, columns = (region.reshape(axis.windows, axis.side)
                     for region, axis in zip(regions, cuts, strict=True))
    real = (rows >= 0)[:, None, :, None] & (columns >= 0)[None, :, None, :]
    ids = np.where(real, 2 * rows[:, None, :, None] + columns[None, :, None, :], -1)
    ids = ids.reshape(cuts[0].windows * cuts[1].windows, -1)
    mask = np.where(ids[:, :, None] == ids[:, None, :], 0.0, FORBIDDEN).astype(np.float32)
    return mask if mask.any() else None


class WindowAttention(nn.Module):
    """Attention within windows; q and k also see the guidance, v does not."""

    def __init__(self, options: CostOptions) -> None:
        super().__init__()
        self.options, width = options, options.width
        self.q = nn.Linear(width + options.guidance, width)
        self.k = nn.Linear(width + options.guidance, width)
        self.v = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, guide: Tensor, shifted: bool) -> Tensor:
        """Map (B, N, h, w, C), guided by (B, 1, h, w, G), to (B, N, h, w, C)."""
        batch, classes, h, w, dim = x.shape
        largest, heads = self.options.window, self.options.heads
        rows, columns = cut(h, largest), cut(w, largest)
        shift = (rows.shift, columns.shift) if shifted else (0, 0)

        def windows(tokens: Tensor) -> Tensor:
            if rows.padded > h or columns.padded > w:
                tokens = functional.pad(tokens, (0, 0, 0, columns.padded - w, 0, rows.padded - h))
            if any(shift):
                tokens = tokens.roll((-shift[0], -shift[1]), (2, 3))
            tokens = tokens.reshape(batch * classes, rows.windows, rows.side, columns.windows,
                                    columns.side, heads, dim // heads).permute(0, 1, 3, 5, 2, 4, 6)
            return tokens.reshape(batch * classes, -1, rows.side * columns.side, dim // heads)

        q, k = (windows(functional.linear(x, part.weight[:, :dim])
                        + functional.linear(guide, part.weight[:, dim:], part.bias))
                for part in (self.q, self.k))
        mask = window_mask(h, w, largest, shifted)
        if mask is not None:  # (1, windows * heads, L, L)
            mask = torch.from_numpy(np.repeat(mask, heads, axis=0))[None].to(q)
        x = attend(q, k, windows(self.v(x)), mask)
        x = x.view(batch * classes, rows.windows, columns.windows, heads, rows.side, columns.side,
                   dim // heads).permute(0, 1, 4, 2, 5, 3, 6)
        x = x.reshape(batch, classes, rows.padded, columns.padded, dim)
        if any(shift):
            x = x.roll(shift, (2, 3))
        return self.proj(x[:, :, :h, :w])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(q k^T / sqrt(d) + mask) v of (B, heads, L, d); on a CPU written out."""
    if not q.is_cpu:
        return functional.scaled_dot_product_attention(q, k, v, mask)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    return (logits if mask is None else logits + mask).softmax(dim=-1) @ v


class SpatialBlock(nn.Module):
    """One Swin block over the cost embeddings of each class."""

    def __init__(self, options: CostOptions, shifted: bool) -> None:
        super().__init__()
        width = options.width
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(width)
        self.attention = WindowAttention(options)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, options.ratio * width), nn.GELU(),
                                 nn.Linear(options.ratio * width, width))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Map (B, N, h, w, C), guided by (B, 1, h, w, G), to (B, N, h, w, C)."""
        x = x + self.attention(self.norm1(x), guide, self.shifted)
        return x + self.mlp(self.norm2(x))


class SpatialEnhancement(nn.Module):
    """A Swin pair: windows, then windows shifted by half."""

    def __init__(self, options: CostOptions) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(options.guidance)
        self.blocks = nn.ModuleList(SpatialBlock(options, shifted) for shifted in (False, True))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Map (B, N, h, w, C), guided by (B, G, h, w), to (B, N, h, w, C)."""
        guide = self.norm(guide.permute(0, 2, 3, 1))[:, None]
        for block in self.blocks:
            x = block(x, guide)
        return x


class ClassAttention(nn.Module):
    """Linear attention over the classes of each place, and `missing` padding tokens."""

    def __init__(self, options: CostOptions) -> None:
        super().__init__()
        self.options, width = options, options.width
        self.q = nn.Linear(width + options.guidance, width)
        self.k = nn.Linear(width + options.guidance, width)
        self.v = nn.Linear(width, width)

    def forward(self, x: Tensor, guide: Tensor, token: Tensor, token_guide: Tensor,
                missing: int) -> Tensor:
        """Map (B, N, P, C), guided by (1 or B, N, G), to (B, N, P, C).

        token (C,) and token_guide (G,) are the padding's.
        """
        heads, dim, total = self.options.heads, x.shape[-1], self.options.longest
        q, k = (functional.linear(x, part.weight[:, :dim]) + functional.linear(
            guide, part.weight[:, dim:], part.bias)[:, :, None] for part in (self.q, self.k))
        q, k = (1 + functional.elu(part.unflatten(3, (heads, -1))) for part in (q, k))
        v = self.v(x).unflatten(3, (heads, -1))  # (B, N, P, heads, d)
        pad_k = 1 + functional.elu(self.k(torch.cat([token, token_guide]))).view(heads, -1)
        pad_v = self.v(token).view(heads, -1)
        share = missing / total
        # the axis of classes is summed over; means instead of sums, which float16 could not hold
        k, v = k.permute(0, 2, 3, 4, 1), v.permute(0, 2, 3, 1, 4)  # (B, P, heads, d, N), (…, N, d)
        context = k @ v / total + share * pad_k[:, :, None] * pad_v[:, None]
        keys = k.sum(-1) / total + share * pad_k  # (B, P, heads, d)
        q = q.permute(0, 2, 3, 1, 4)  # (B, P, heads, N, d)
        x = (q @ context) / (q @ keys[..., None] + EPSILON / total)
        return x.permute(0, 3, 1, 2, 4).flatten(3)


class ClassEnhancement(nn.Module):
    """The linear transformer over classes, on cells of places; its output is added to its input."""

    def __init__(self, options: CostOptions) -> None:
        super().__init__()
        self.options, width = options, options.width
        self.token = nn.Parameter(torch.zeros(width))  # what the axis of classes is padded with
        self.token_guide = nn.Parameter(torch.zeros(options.guidance))
        self.norm1 = nn.LayerNorm(width)
        self.attention = ClassAttention(options)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, options.ratio * width), nn.ReLU(),
                                 nn.Linear(options.ratio * width, width))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Map (B, N, h, w, C), guided by (1 or B, N, G), to (B, N, h, w, C)."""
        batch, classes, h, w, _ = x.shape
        side = self.options.pool if self.training else self.options.pool_test
        cells = x.flatten(0, 1).permute(0, 3, 1, 2)  # (BN, C, h, w)
        if side > 1:
            cells = functional.avg_pool2d(cells, side, ceil_mode=True, count_include_pad=False)
        size = tuple(cells.shape[2:])
        y = cells.permute(0, 2, 3, 1).reshape(batch, classes, size[0] * size[1], -1)
        y = y + self.attention(self.norm1(y), guide, self.norm1(self.token), self.token_guide,
                               self.options.longest - classes)
        y = y + self.mlp(self.norm2(y))
        if size == (h, w):
            return x + y.view_as(x)
        y = y.view(batch * classes, *size, -1).permute(0, 3, 1, 2)
        y = functional.interpolate(y, (h, w), mode='bilinear', align_corners=True)
        return x + y.permute(0, 2, 3, 1).view_as(x)


class Costs(NamedTuple):
    """What the aggregator makes of K of the N classes."""

    embeddings: Tensor  # (B, K, h, w, width)
    cosines: Tensor  # (B, K, h, w)
    chosen: Tensor | None  # (B, K): the classes of the largest cosine in each image; None: all


class Aggregator(nn.Module):
    """From F and the rows of the classes to enhanced cost embeddings."""

    def __init__(self, options: CostOptions, embed: int) -> None:
        super().__init__()
        self.options, self.checkpointing = options, False
        self.embed = nn.Conv2d(1, options.width, options.kernel, padding=options.kernel // 2)
        self.guide = self.text_guide = None
        if options.enhance in ('both', 'spatial'):
            self.guide = nn.Sequential(nn.Conv2d(embed, options.guidance, 3, padding=1), nn.ReLU())
            self.spatial = nn.ModuleList(SpatialEnhancement(options) for _ in range(options.layers))
        if options.enhance in ('both', 'class'):
            self.text_guide = nn.Sequential(nn.Linear(embed, options.guidance), nn.ReLU())
            self.between = nn.ModuleList(ClassEnhancement(options) for _ in range(options.layers))

    def forward(self, fused: Tensor, guide: Tensor, rows: Tensor) -> Costs:
        """Compare F with unit rows (N, embed), guided by a map; both maps are (B, embed, h, w)."""
        batch, _, h, w = fused.shape
        # not as a convolution: TensorRT takes no weights of one from an input
        costs = (rows @ functional.normalize(fused, dim=1).flatten(2)).unflatten(2, (h, w))
        kept, chosen = rows[None], None
        if exceeds(rows.shape[0], self.options.longest):
            number = torch.sym_min(rows.shape[0], self.options.longest)
            chosen = costs.amax((2, 3)).topk(number, dim=1).indices
            costs = costs.gather(1, chosen[:, :, None, None].expand(-1, -1, h, w))
            kept = rows[chosen]  # (B, K, embed)
        x = self.embed(costs.reshape(-1, 1, h, w)).permute(0, 2, 3, 1)
        x = x.unflatten(0, (batch, -1))
        guide = None if self.guide is None else self.guide(guide)
        text_guide = None if self.text_guide is None else self.text_guide(kept)
        again = self.checkpointing and self.training
        for layer in range(self.options.layers):
            if guide is not None:
                x = recompute(self.spatial[layer], again, x, guide)
            if text_guide is not None:
                x = recompute(self.between[layer], again, x, text_guide)
        return Costs(x, costs, chosen)


def exceeds(classes: int, longest: int) -> bool:
    """Return whether there may be more classes than attend to each other.

    While a graph with a dynamic number is traced, its bound decides; without one there may be.
    """
    if isinstance(classes, int):
        return classes > longest
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return not statically_known_true(classes <= longest)
