# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reads image files of data sets: what cannot be decoded is named, never half-read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.data.sample import CorruptImage, Image

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff')


def list_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their stems, sorted."""
    return list_files(folder, SUFFIXES)


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes, by their stems, sorted."""
    if not folder.is_dir():
        raise RgbxSegError(f'{folder}: no such folder; expected one with '
                           f'{", ".join(suffixes)} files; check the root of the source.')
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in suffixes}


def read_color(path: Path) -> Image:
    """Return an image as RGB uint8 (H, W, 3)."""
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_raw(path: Path) -> NDArray[np.generic]:
    """Return an image as it is stored, (H, W) or (H, W, C), colors in the order RGB(A)."""
    image = _read(path, cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        order = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        image = cv2.cvtColor(image, order)
    return image


def _read(path: Path, flags: int) -> NDArray[np.generic]:
    try:
        image = cv2.imread(str(path), flags)
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise CorruptImage(f'{path}: cannot be decoded as an image; replace or remove it.')
    return image
