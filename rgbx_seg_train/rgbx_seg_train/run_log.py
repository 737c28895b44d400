# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a training run writes down as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict

LOG = 'log.jsonl'


class RunLog:
    """Lines of JSON in the run's folder, beside the configuration that made them."""

    def __init__(self, folder: Path, config: Config, resume: bool, writes: bool) -> None:
        """Start or, if `resume`, continue; only the process that `writes` does anything."""
        self.path = folder / LOG if writes else None
        if not writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.path.write_text('', encoding='utf-8')
        text = yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None)
        (folder / 'config.yaml').write_text(text, encoding='utf-8')

    def write(self, **values: Any) -> None:
        """Add one line."""
        if self.path is not None:
            with self.path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(values) + '\n')
