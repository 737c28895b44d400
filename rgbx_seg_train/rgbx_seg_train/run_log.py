# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run writes down as it goes: lines of JSON, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict
from rgbx_seg_train.data.sample import Image

LOG = 'log.jsonl'


class RunLog:
    """The log in a run's folder, beside the configuration that made it."""

    def __init__(self, folder: Path, config: Config, resume_at: int | None, writes: bool) -> None:
        """Start, or continue after the step `resume_at`; only the process that `writes` does."""
        self.path, self._board = folder / LOG, None
        if not writes:
            self.path = None
            return
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob('.*.safetensors-*'):  # of a run that was killed while saving
            leftover.unlink()
        _write(self.path, self._kept(resume_at))
        text = yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None)
        _write(folder / 'config.yaml', text)
        from torch.utils.tensorboard import SummaryWriter  # slow, and of no use elsewhere

        board = folder / 'tensorboard'
        if resume_at is None and board.is_dir():
            for events in board.glob('events.out.tfevents.*'):
                events.unlink()
        self._board = SummaryWriter(str(board), purge_step=resume_at and resume_at + 1)

    def _kept(self, resume_at: int | None) -> str:
        """Return the lines up to a step: what came after it will happen again."""
        if resume_at is None or not self.path.is_file():
            return ''
        lines = self.path.read_text(encoding='utf-8').splitlines()
        return ''.join(f'{line}\n' for line in lines if _step(line) <= resume_at)

    def write(self, step: int, **values: Any) -> None:
        """Add one line; nested values appear in TensorBoard as groups."""
        if self.path is None:
            return
        with self.path.open('a', encoding='utf-8') as file:
            file.write(json.dumps({'step': step, **values}) + '\n')
        for name, value in _scalars(values):
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image) -> None:
        """Add a picture uint8 (H, W, 3) to TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats='HWC')

    def close(self) -> None:
        """Write out what waits."""
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)['step']
    except (ValueError, KeyError, TypeError):  # the line a kill cut off
        return float('inf')


def _scalars(values: Mapping[str, Any], above: str = '') -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(value, f'{above}{name}/')
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((above + name, value))
    return found


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
