# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Banks of classes for robots that have no text model: `rgbx_embed_classes … --bank OUT.npz`.

The text model is CLIP's or LanguageBind's, whichever SHIFNet was trained with, or that of an LMSeg
checkpoint, which training may have changed. The texts are by default those of training: for LMSeg
what its configuration says, for SHIFNet the bare names. Each sentence gives a unit row, and several
of one class their mean, made a unit row again.
"""

from __future__ import annotations

import colorsys
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.vocabulary import Bank, save_bank
from rgbx_seg_train.checkpoint import HEADER, load_model
from rgbx_seg_train.class_names import Named
from rgbx_seg_train.config import TextConfig
from rgbx_seg_train.data.labels import Color
from rgbx_seg_train.prompts import NAME, name_texts
from rgbx_seg_train.text_tower import load_text_tower

AT_ONCE = 32  # classes
BARE = TextConfig(mode='template', template=NAME)

Embed = Callable[[Sequence[str], Sequence[Sequence[str]]], Tensor]


class TextModel(NamedTuple):
    """What makes rows of texts, and how it was told classes in training."""

    embed: Embed  # names and sentences of N classes -> unit rows, float32 (N, D)
    settings: TextConfig
    origin: str  # of the weights


def load_text_model(where: str) -> TextModel:
    """Return the text model of a checkpoint of ours, of a folder or of the hub.

    Raises:
        RgbxSegError: none there.

    """
    path = Path(os.path.expanduser(where))  # Path's own fails where there is no such user
    if not _is_checkpoint(path):
        tower = load_text_tower(where)

        def embed(names: Sequence[str], texts: Sequence[Sequence[str]]) -> Tensor:
            rows = [tower.embed(own).mean(dim=0) for own in texts]
            return functional.normalize(torch.stack(rows), dim=1)

        return TextModel(embed, BARE, tower.origin)
    model, checkpoint = load_model(path)
    text, family = getattr(model, 'text', None), checkpoint.config.model.family
    if not hasattr(text, 'embed'):
        raise RgbxSegError(f'checkpoint {path}: the family {family} has no text model of its own; '
                           'expected that whose rows it was trained with; name its folder.')
    return TextModel(text.embed, checkpoint.config.text,
                     f'{family} at step {checkpoint.progress.step}')


def _is_checkpoint(path: Path) -> bool:
    """Return whether a file is of rgbx_train."""
    if path.suffix != '.safetensors' or not path.is_file():
        return False
    try:
        with safe_open(path, 'pt') as file:
            return HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def make_bank(classes: Sequence[Named], model: TextModel, settings: TextConfig) -> Bank:
    """Return the bank of classes: their texts by `settings`, and what the model makes of them.

    Raises:
        RgbxSegError: nothing describes a class, or a text is too long.

    """
    told = iter(name_texts([named.whole for named in classes if not named.text], settings))
    texts = [(named.text,) if named.text else next(told) for named in classes]
    names = [named.name for named in classes]
    parts = range(0, len(names), AT_ONCE)
    with torch.inference_mode():
        rows = [model.embed(names[first:first + AT_ONCE], texts[first:first + AT_ONCE])
                for first in tqdm(parts, 'embedding', unit=f'{AT_ONCE} classes', disable=None)]
    return Bank(tuple(names), tuple('\n'.join(own) for own in texts),
                np.array(choose_colors(classes), np.uint8), torch.cat(rows).float().cpu().numpy())


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_bank(path, bank)


def choose_colors(classes: Sequence[Named]) -> list[Color]:
    """Return a color for each class, no two of them equal: its own, or one that its name gives.

    So a name has the same color in every bank, unless it is taken there.
    """
    taken: set[Color] = set()
    colors: dict[int, Color] = {}
    for number in sorted(range(len(classes)), key=lambda n: classes[n].color is None):
        color = classes[number].color
        start = zlib.crc32(classes[number].name.encode())
        while color is None or color in taken:
            color, start = _color(start), start + 1
        taken.add(color)
        colors[number] = color
    return [colors[number] for number in range(len(classes))]


def _color(number: int) -> Color:
    """Return one of many colors that are neither dark nor pale; neighbors differ much."""
    hue, saturation, value = (number * step % 1 for step in (0.618034, 0.380, 0.7549))
    red, green, blue = (round(255 * c) for c in
                        colorsys.hsv_to_rgb(hue, 0.45 + 0.55 * saturation, 0.5 + 0.5 * value))
    return red, green, blue
