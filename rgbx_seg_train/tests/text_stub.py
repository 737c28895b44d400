# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A two-layer network that compares pixels with the embeddings of classes, and a bank for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from small_runs import Stub, small_config
from torch import nn

from rgbx_seg_ros.vocabulary import Bank, save_bank
from rgbx_seg_train.checkpoint import Progress, save_checkpoint
from rgbx_seg_train.models import FAMILIES, Family

TEXT_WIDTH = 6
MORE = ('tree', 'dog', 'bus', 'sky', 'river', 'sofa', 'kite', 'lamp')  # beside the trained ones


class TextStub(Stub):
    """Its classes are rows of a buffer."""

    scene_width = 0
    text_width = TEXT_WIDTH

    def __init__(self, config: None, n_classes: int) -> None:
        """Take what a family takes."""
        super().__init__(config, TEXT_WIDTH)
        self.register_buffer('class_rows', directions(n_classes))

    def forward(self, rgb, aux, modality=None, stride=1, classes=None):
        """Return logits (B, N, H/stride, W/stride)."""
        features = nn.functional.normalize(super().forward(rgb, aux, modality, stride), dim=1)
        rows = nn.functional.normalize(self.class_rows if classes is None else classes, dim=1)
        return 8 * (rows @ features.flatten(2)).unflatten(2, features.shape[2:])

    def set_classes(self, rows):
        """Segment into the classes of these embeddings."""
        self.class_rows = rows.clone()


def directions(count: int, seed: int = 0) -> torch.Tensor:
    """Return rows (count, TEXT_WIDTH) of random directions, always the same."""
    rows = np.random.default_rng(seed).normal(size=(count, TEXT_WIDTH))
    return torch.from_numpy(rows.astype(np.float32))


def use_text_stub(monkeypatch) -> None:
    """Let the family "text_stub" be known for one test."""
    monkeypatch.setitem(FAMILIES, 'text_stub', Family(type(None), {'tiny': None}, TextStub))


def write_text_run(tmp_path: Path, *overrides: str, family: str = 'text_stub'
                   ) -> tuple[Path, Path, nn.Module]:
    """Write a checkpoint, and a bank that holds its rows and those of MORE; return both, the model.

    The weights are random.
    """
    config = small_config(tmp_path, f'model.family={family}', *overrides)
    infos = config.data.class_infos
    torch.manual_seed(0)
    model = TextStub(None, len(infos)).eval()
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, config, len(infos), Progress(), {'ema': model.state_dict()})
    return path, write_bank(tmp_path / 'bank.npz', infos), model


def write_bank(path: Path, infos, rows=None) -> Path:
    """Write a bank of classes, of `rows` in place of those they were trained with, and of MORE."""
    names = (*MORE, *(info.name for info in infos))
    own = directions(len(infos)) if rows is None else rows
    colors = np.arange(3 * len(names), dtype=np.uint8).reshape(-1, 3)
    save_bank(path, Bank(names, names, colors, torch.cat([directions(len(MORE), 1), own]).numpy()))
    return path
