# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Small folders, configurations and a two-layer network, so that a training run takes a second."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import override, parse_config
from rgbx_seg_train.models import FAMILIES, Family

HEIGHT, WIDTH = 32, 48


class Stub(nn.Module):
    """A network with the interface of a family: BatchNorm and dropout, but next to no size."""

    def __init__(self, config: None, n_classes: int) -> None:
        """Take what a family takes."""
        super().__init__()
        self.first = nn.Conv2d(6, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, n_classes, 1)

    def forward(self, rgb, aux, modality=None, stride=1):
        """Return logits (B, N, H/stride, W/stride)."""
        hidden = torch.relu(self.norm(self.first(torch.cat([rgb, aux], 1))))
        hidden = nn.functional.dropout(hidden, 0.1, self.training)
        return self.last(hidden)[:, :, ::stride, ::stride]

    def merge(self, modality):
        """Return the model for one modality."""
        return self.eval()


def use_stub(monkeypatch):
    """Let the family "stub" be known for one test."""
    monkeypatch.setitem(FAMILIES, 'stub', Family(type(None), {'tiny': None}, Stub))


def log_of(config: Config) -> list[dict]:
    """Return the lines that a run has written down."""
    text = (Path(config.out) / config.name / 'log.jsonl').read_text(encoding='utf-8')
    return [json.loads(line) for line in text.splitlines()]


def write_folder(root: Path, names=('00001D', '00002N', '00003D', '00004N'), boxes=False) -> Path:
    """Write pairs whose classes show in both cameras: a bright, warm person on the left half."""
    rng = np.random.default_rng(0)
    for folder in ('rgb', 'thermal', 'label'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        label = np.zeros((HEIGHT, WIDTH), np.uint8)
        label[8:24, 4:20] = 2
        rgb = rng.integers(0, 60, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        rgb[label == 2] += 120
        thermal = np.where(label == 2, 200, 40).astype(np.uint8)
        cv2.imwrite(str(root / 'rgb' / f'{name}.png'), rgb)
        cv2.imwrite(str(root / 'thermal' / f'{name}.png'), thermal)
        cv2.imwrite(str(root / 'label' / f'{name}.png'), label)
        if boxes:
            (root / 'boxes').mkdir(exist_ok=True)
            (root / 'boxes' / f'{name}.txt').write_text(f'0 {12 / 48} {16 / 32} {16 / 48} 0.5\n')
    return root


def small_config(tmp_path: Path, *overrides: str) -> Config:
    """Return a run of six steps of the stub on `write_folder`'s images."""
    root = tmp_path / 'images'
    if not root.exists():
        write_folder(root)
    source = {'kind': 'folder', 'root': str(root)}
    data = {
        'name': 'small', 'out': str(tmp_path / 'runs'),
        'model': {'family': 'stub'},
        'data': {'height': HEIGHT, 'width': WIDTH, 'cache': str(tmp_path / 'cache'),
                 'train': [source], 'validate': [source], 'test': [source]},
        'train': {'steps': 6, 'batch_size': 2, 'lr': 0.01, 'ema': 0.5, 'eval_every': 3,
                  'save_every': 3, 'log_every': 1, 'seed': 5},
    }
    return parse_config(override(data, overrides))
