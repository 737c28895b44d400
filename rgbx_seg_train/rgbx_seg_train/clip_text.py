# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The text side of MA-CLIP's first stage: a frozen CLIP text tower, or a tiny random one.

The random tower makes a fixed vector of each caption in which equal words are equal and nothing
else means anything, so that the stage can be run and tested on rendered scenes alone.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config_pretrain import RANDOM_TEXT
from rgbx_seg_train.text_tower import load_text_tower

BATCH = 64
RANDOM_SEED = 20260401
BUCKETS, LENGTH = 32768, 96  # of the random tower: words, and words of a caption
PAD, BEGIN, END, WORDS = 0, 1, 3, 4  # 2 as the end means something else to transformers


class CaptionTower(NamedTuple):
    """A frozen text tower, and what makes tokens and mask (B, T) of captions for it."""

    model: nn.Module
    tokenize: Callable[[Sequence[str]], tuple[Tensor, Tensor]]
    origin: str

    @torch.no_grad()
    def embed(self, captions: Sequence[str], device: torch.device) -> Tensor:
        """Return S^t, float32 (N, width)."""
        model, parts = self.model.to(device), []
        for first in range(0, len(captions), BATCH):
            ids, mask = self.tokenize(captions[first:first + BATCH])
            parts.append(model(input_ids=ids.to(device),
                               attention_mask=mask.to(device)).text_embeds.float())
        return torch.cat(parts)


def load_caption_tower(where: str, width: int) -> CaptionTower:
    """Return a text tower, the random one or another's; `width` is what the image tower's S has.

    Raises:
        RgbxSegError: not to be had, no CLIP text tower, or of another width.

    """
    tower = random_tower(width) if where == RANDOM_TEXT else _pretrained(where)
    found = tower.model.config.projection_dim
    if found != width:
        raise RgbxSegError(f'pretrain.text_model {where}: its embeddings have {found} values, '
                           f'those of the image tower {width}; expected the two towers of one '
                           'CLIP; name the other text model.')
    tower.model.requires_grad_(False).eval()
    return tower


def _pretrained(where: str) -> CaptionTower:
    tower = load_text_tower(where)
    length = tower.model.config.max_position_embeddings

    def tokenize(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = tower.tokenizer(list(captions), padding=True, truncation=True, max_length=length,
                                 return_tensors='pt')
        return tokens['input_ids'], tokens['attention_mask']

    return CaptionTower(tower.model, tokenize, tower.origin)


def random_tower(width: int) -> CaptionTower:
    """Return the tiny tower: always the same weights, words by their hash."""
    config = CLIPTextConfig(
        vocab_size=BUCKETS, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=width,
        pad_token_id=PAD, bos_token_id=BEGIN, eos_token_id=END)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model = CLIPTextModelWithProjection(config)
        # A caption is read at its end, so that has nothing of its own: else, all would be alike.
        words = model.text_model.embeddings.token_embedding.weight
        nn.init.normal_(words)
        nn.init.zeros_(words[END])
    return CaptionTower(model, _hash_words, RANDOM_TEXT)


def word_id(word: str) -> int:
    """Return the number of a word in the random tower."""
    return WORDS + zlib.crc32(word.encode()) % (BUCKETS - WORDS)


def _hash_words(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    rows = [[BEGIN, *map(word_id, re.findall(r'\w+', caption.lower())[:LENGTH - 2]), END]
            for caption in captions]
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, numbers in zip(ids, rows, strict=True):
        row[:len(numbers)] = torch.tensor(numbers)
    return ids, (ids != PAD).long()
