# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A text tower of CLIP's shape, from a folder or the hub: CLIP's own, or LanguageBind's.

Both keep it under the same names (`text_model.*`, `text_projection.weight`) beside an image tower,
which is not read. LanguageBind's configuration names a model that `transformers` does not know, so
the tower is built from its `text_config`, and the width of S from the weights. What is read is
named: the hub's commit, or the hash of the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.hub import HubSearch, parse_hub_id
from rgbx_seg_train.weights import read_weights

WEIGHTS = ('model.safetensors', 'pytorch_model.bin')
CONFIG, TOKENIZER, VOCABULARY = 'config.json', ('tokenizer.json',), ('vocab.json', 'merges.txt')
PROJECTION, LAYER = 'text_projection.weight', r'text_model\.encoder\.layers\.(\d+)\..+'
# Of a configuration; names and sizes of the rest are nothing to a text tower.
KEYS = {
    'vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads',
    'max_position_embeddings', 'hidden_act', 'layer_norm_eps', 'pad_token_id', 'bos_token_id',
    'eos_token_id',
}


class TextTower(NamedTuple):
    """A text tower with its tokenizer."""

    model: nn.Module
    tokenizer: CLIPTokenizer
    origin: str  # of the weights: a hub commit, or a file and its hash

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Return unit rows, float32 (N, width); RgbxSegError if a text is too long.

        Each text goes alone, so that none depends on how long the others are.
        """
        return torch.cat([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Tensor:
        tokens = self.tokenizer(text)['input_ids']
        longest = self.model.config.max_position_embeddings
        if len(tokens) > longest:
            raise RgbxSegError(f'"{text[:40]}" has {len(tokens)} tokens; expected at most '
                               f'{longest}; shorten it or the template.')
        if max(tokens) >= self.model.config.vocab_size:
            raise RgbxSegError(f'the tokenizer makes the token {max(tokens)} of "{text[:40]}", '
                               f'the text model knows {self.model.config.vocab_size}; expected '
                               'the two of one model; copy both again.')
        embedding = self.model(input_ids=torch.tensor([tokens])).text_embeds
        return functional.normalize(embedding.float(), dim=1)


def load_text_tower(where: str) -> TextTower:
    """Return the text tower of a folder, or of `OWNER/NAME[@REVISION]` on the hub or in its cache.

    Raises:
        RgbxSegError: nothing there, or no text tower of CLIP's shape.

    """
    state, origin = read_weights(where, WEIGHTS)
    weights = {name: value.float() for name, value in state.items()
               if re.match(r'text_(model|projection)\.', name) and value.is_floating_point()}
    if PROJECTION not in weights or weights[PROJECTION].ndim != 2:
        raise RgbxSegError(f'text model {where}: holds no {PROJECTION}; expected the weights of '
                           'CLIP or LanguageBind, with both towers or the text tower and its '
                           'projection; name their folder.')
    model = _build(where, _config(where), weights)
    return TextTower(model.eval(), load_tokenizer(where), origin)


def _build(where: str, told: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the tower that a configuration tells of, made of these weights and nothing else."""
    layers = {match[1] for name in weights if (match := re.fullmatch(LAYER, name))}
    if told.get('num_hidden_layers') != len(layers):
        raise RgbxSegError(f'text model {where}: its {CONFIG} tells of '
                           f'{told.get("num_hidden_layers")} layers, its weights hold '
                           f'{len(layers)}; expected the two of one model; copy both again.')
    try:
        config = CLIPTextConfig(**told, projection_dim=weights[PROJECTION].shape[0])
        with torch.device('meta'):
            model = CLIPTextModelWithProjection(config)
        model.load_state_dict(weights, assign=True)
        # No file holds this one, so it was never filled.
        positions = torch.arange(config.max_position_embeddings)[None]
        model.text_model.embeddings.register_buffer('position_ids', positions, persistent=False)
    except Exception as error:  # transformers and torch have errors of their own
        reason = ' '.join(str(error).split())[:100]
        raise RgbxSegError(f'text model {where}: its weights and its {CONFIG} do not fit '
                           f'({reason}); expected the two of one model; copy both again.') from None
    return model


def _config(where: str) -> dict[str, Any]:
    path = _files(where, (CONFIG,))[0]
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
        told = data.get('text_config') or data
        return {key: value for key, value in told.items() if key in KEYS}
    except (OSError, ValueError, AttributeError, RecursionError):
        raise RgbxSegError(f'text model {where}: its {CONFIG} is damaged; expected a mapping of '
                           'sizes; copy it again.') from None


def load_tokenizer(where: str) -> CLIPTokenizer:
    """Return the tokenizer of a folder, or of `OWNER/NAME[@REVISION]` on the hub or in its cache.

    Raises:
        RgbxSegError: nothing there, or none of CLIP.

    """
    try:
        folder = _files(where, TOKENIZER)[0].parent
    except RgbxSegError:
        folder = _files(where, VOCABULARY)[0].parent
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # its readers have errors of their own
        reason = ' '.join(str(error).split())[:80]
        raise RgbxSegError(f'text model {where}: its tokenizer cannot be read ({reason}); expected '
                           f'{TOKENIZER[0]} or {" and ".join(VOCABULARY)} of CLIP; copy them '
                           'again.') from None


def _files(where: str, names: Sequence[str]) -> list[Path]:
    """Return files that lie beside the weights; all must be there."""
    path = Path(os.path.expanduser(where))
    if path.exists():
        folder = path if path.is_dir() else path.parent
        found = [folder / name if (folder / name).is_file() else None for name in names]
    else:
        hub = parse_hub_id(where)
        if hub is None:
            raise RgbxSegError(f'text model {where}: no such file or folder; expected one, or a '
                               'hub repository as OWNER/NAME[@REVISION]; correct the path.')
        searches = [HubSearch(hub, (name,)) for name in names]
        found = [search.find(search.names[0]) for search in searches]
        for search, file in zip(searches, found, strict=True):
            if file is None:
                raise search.failure()
    lacking = [name for name, file in zip(names, found, strict=True) if file is None]
    if lacking:
        raise RgbxSegError(f'text model {where}: no {lacking[0]} beside its weights; expected '
                           f'{CONFIG} and {TOKENIZER[0]} or {" and ".join(VOCABULARY)}; copy it '
                           'there.')
    return [file for file in found if file is not None]
