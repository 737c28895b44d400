# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of two modalities, their captions, and an MA-CLIP so small that a run takes a second."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import override, parse_config

HEIGHT, WIDTH, SCENES = 32, 48, 6
TINY = {'dims': [8, 16, 24, 40], 'depths': [1, 1, 1, 1], 'prompts': 1, 'head_embed': 8,
        'dsrm': None,
        'clip': {'hidden': 16, 'layers': 1, 'heads': 2, 'image_size': 32, 'embed': 8,
                 'lora_rank': 2, 'frozen': True}}


def write_scenes(root: Path, count: int = SCENES) -> Path:
    """Write RGB, thermal, event and label images, and captions.jsonl: each scene has a gray."""
    rng = np.random.default_rng(0)
    for name in ('rgb', 'thermal', 'event', 'label'):
        (root / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for n in range(count):
        gray = 20 + 200 * n // count
        noise = rng.integers(0, 30, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        images = {'rgb': noise + np.uint8(gray), 'thermal': noise[..., 0] + np.uint8(gray // 2),
                  'event': np.where(noise[..., 1] > 20, 255, 0).astype(np.uint8),
                  'label': np.zeros((HEIGHT, WIDTH), np.uint8)}
        for name, image in images.items():
            cv2.imwrite(str(root / name / f'{n:03d}.png'), image)
        lines.append(json.dumps({'name': f'{n:03d}', 'caption': f'a wall, gray number {n}'}))
    (root / 'captions.jsonl').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return root


def clip_config(tmp_path: Path, *overrides: str, modalities=('thermal', 'event')) -> Config:
    """Return a run of 4 steps, 2 pairs each, on `write_scenes`' images."""
    root = tmp_path / 'scenes'
    if not root.exists():
        write_scenes(root)
    sources = [{'kind': 'folder', 'root': str(root), 'modality': name} for name in modalities]
    data = {
        'name': 'clip', 'out': str(tmp_path / 'runs'),
        'model': {'family': 'segrgbx', 'preset': 'tiny', 'options': TINY},
        'data': {'height': HEIGHT, 'width': WIDTH, 'cache': str(tmp_path / 'cache'),
                 'train': sources, 'test': sources},
        'pretrain': {'captions': str(root / 'captions.jsonl'), 'text_model': 'random',
                     'batch_size': 2, 'epochs': 8 / (SCENES * len(modalities)), 'lr': 0.01,
                     'logit_scale': 10, 'warmup': 0.0, 'trained': 'lora'},
        'train': {'init': str(tmp_path / 'start.safetensors'), 'save_every': 2, 'log_every': 1,
                  'seed': 3, 'workers': 1},
    }
    return parse_config(override(data, overrides))
