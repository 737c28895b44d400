# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""DSRM, the Domain-Specific Refinement Module (SegRGB-X, section III-D, figures 4 and 6).

The paper's: chi = softmax(MLP(GAP(F))) mixes K universal prompts U; the first attention relates
chi U and F (equations 2-4), the second MLP(S) and the first one's output (5-7); in (a)-(d) of Table
IV F queries the prompt, in (e)-(i) the prompt queries F; both streams pass the same modules, four
of them in stage 4, the RGB stream with S^r and the other with S^m ("aligned").
Ours, where the paper is silent (the parameter count of (h) and (i) agrees): K = 5, U as maps on a
grid that is resized to the input's, 1x1 projections with bias, 8 heads, residuals, pre-norm
feed-forward networks of ratio 4. "Reweighted by the cosine similarity" is read as channel attention
between chi U and F that compares by cosine, with a learned temperature. "Reshape(MLP(S))" is read
as one query for all positions, computed once and broadcast: a map of its own for each S would take
67 M parameters a module. `query_map` adds a learned map to it, the same for every S. A cosine over
positions would see no more than the sign of such a query, so that channel attention takes the mean
of products there. In (a)-(d), too, S queries: the text speaks of the first attention only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_train.models.blocks.mit import attend, to_map, to_tokens
from rgbx_seg_train.models.blocks.segformer_head import resize


class Structure(NamedTuple):
    """One row of Table IV."""

    first: str  # attention between the universal prompt and F
    second: str  # attention between MLP(S) and the first one's output
    prompt_queries: bool  # in the first attention the prompt is the query, else key and value
    universal: bool = True  # False replaces U by F


STRUCTURES = {
    'a': Structure('spatial', 'spatial', False),
    'b': Structure('channel', 'channel', False),
    'c': Structure('spatial', 'channel', False),
    'd': Structure('channel', 'spatial', False),
    'e': Structure('spatial', 'spatial', True),
    'f': Structure('channel', 'channel', True),
    'g': Structure('spatial', 'channel', True),
    'h': Structure('channel', 'spatial', True),
    'i': Structure('channel', 'spatial', True, universal=False),
}


@dataclass(frozen=True)
class DsrmConfig:
    """Sizes and choices of the DSRM."""

    layers: int = 4  # modules in stage 4
    share: bool = True  # both streams pass the same modules; else half of them each
    structure: str = 'h'  # row of Table IV
    pairing: str = 'aligned'  # whose S each stream sees (Table VIII)
    prompts: int = 5  # K universal prompts
    grid: tuple[int, int] = (16, 16)  # height and width of a universal prompt, tokens
    gate: int = 128  # hidden width of the gate
    heads: int = 8  # attention heads
    ratio: int = 4  # width of the feed-forward networks over the channels
    query_map: bool = False  # add a learned map to MLP(S), which is the same at all positions


class CrossAttention(nn.Module):
    """Project, attend, project; subclasses say along which axis."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, N, C/heads)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Map query (B, Nq, C) and context (B, N, C) to (B, Nq or N, C)."""
        q, k, v = self._split(self.q(query)), self._split(self.k(context)), self.v(context)
        x = self._attend(q, k, self._split(v)).transpose(1, 2)
        return self.proj(x.flatten(2))


class SpatialAttention(CrossAttention):
    """Positions attend to positions."""

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v)


class ChannelAttention(CrossAttention):
    """Channels attend to channels, compared by the mean of products over the positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__(dim, heads)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def _compare(self, q: Tensor, k: Tensor) -> Tensor:
        return q.transpose(-2, -1) @ (k / k.shape[2])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.expand(-1, -1, k.shape[2], -1)  # one query for all positions, or one for each
        weights = (self._compare(q, k) * self.temperature).softmax(dim=-1)  # (B, heads, d, d)
        return (weights @ v.transpose(-2, -1)).transpose(-2, -1)


class CosineChannelAttention(ChannelAttention):
    """Channels attend to channels, compared by cosine over the positions."""

    def _compare(self, q: Tensor, k: Tensor) -> Tensor:
        q, k = functional.normalize(q, dim=2), functional.normalize(k, dim=2)
        return q.transpose(-2, -1) @ k


# by place, then by the name in `Structure`
ATTENTIONS = {
    'first': {'spatial': SpatialAttention, 'channel': CosineChannelAttention},
    'second': {'spatial': SpatialAttention, 'channel': ChannelAttention},
}


class FeedForward(nn.Sequential):
    """Layer norm, linear, GELU, linear."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__(
            nn.LayerNorm(dim), nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim)
        )


def _grid_tokens(maps: Tensor, height: int, width: int) -> Tensor:
    """See learned maps (K, C, h, w), resized if they must be, as tokens (K, N, C)."""
    if maps.shape[2:] != (height, width):
        maps = resize(maps, (height, width))
    return to_tokens(maps)


class UniversalPrompt(nn.Module):
    """U and its gate: chi(F) U."""

    def __init__(self, dim: int, config: DsrmConfig) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Linear(dim, config.gate), nn.ReLU(), nn.Linear(config.gate, config.prompts)
        )
        self.prompts = nn.Parameter(torch.empty(config.prompts, dim, *config.grid))
        nn.init.trunc_normal_(self.prompts, std=0.02)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Map features (B, N, C) to their mix of prompts (B, N, C)."""
        weights = self.gate(tokens.mean(dim=1)).softmax(dim=-1)  # (B, K)
        prompts = _grid_tokens(self.prompts, height, width)  # (K, N, C)
        return (weights @ prompts.flatten(1)).view(-1, *prompts.shape[1:])


class DomainRefinement(nn.Module):
    """One DSRM."""

    def __init__(self, dim: int, embed: int, config: DsrmConfig) -> None:
        super().__init__()
        self.structure = STRUCTURES[config.structure]
        if self.structure.universal:
            self.universal = UniversalPrompt(dim, config)
        self.first = ATTENTIONS['first'][self.structure.first](dim, config.heads)
        self.ffn1 = FeedForward(dim, config.ratio)
        self.semantic = nn.Sequential(nn.Linear(embed, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.query_map = None
        if config.query_map:
            self.query_map = nn.Parameter(torch.zeros(1, dim, *config.grid))
        self.second = ATTENTIONS['second'][self.structure.second](dim, config.heads)
        self.ffn2 = FeedForward(dim, config.ratio)

    def forward(self, features: Tensor, s: Tensor) -> Tensor:
        """Refine features (B, C, H, W) by U and by the embedding S (B, embed)."""
        height, width = features.shape[2:]
        x = to_tokens(features)
        prompt = self.universal(x, height, width) if self.structure.universal else x
        pair = (prompt, x) if self.structure.prompt_queries else (x, prompt)
        x = x + self.first(*pair)
        x = x + self.ffn1(x)
        query = self.semantic(s)[:, None]  # (B, 1, C)
        if self.query_map is not None:
            query = query + _grid_tokens(self.query_map, height, width)
        x = x + self.second(query, x)
        x = x + self.ffn2(x)
        return to_map(x, height, width)
