# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""JSON files that commands write: refused before the work begins, or written whole at its end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.register import write_atomically


def check_json(path: Path | None) -> None:
    """Raise RgbxSegError if no file can be written at a path that is given."""
    if path is None:
        return
    if path.is_dir():
        raise RgbxSegError(f'{path} is a folder; expected the name of a JSON file; choose another.')
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise RgbxSegError(f'{path}: no file can be written in {place}; expected a folder of '
                           'yours; choose another.')


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_atomically(path, (json.dumps(data, indent=2) + '\n').encode())
