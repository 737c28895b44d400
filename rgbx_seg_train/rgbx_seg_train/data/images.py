# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reads image files of data sets: what cannot be decoded is named, never half-read.

Label images are read by Pillow: OpenCV turns the ids of an indexed PNG into the colors of its
palette.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.data.sample import CorruptImage, Image

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff')
JPEG = ('.jpg', '.jpeg')
START_OF_SCAN, END_OF_IMAGE = b'\xff\xda', b'\xff\xd9'
EXIF_ORIENTATION, TRANSPOSED = 0x0112, (5, 6, 7, 8)  # a camera that was held upright
# What Pillow raises for bytes that are no image, or one of more pixels than it allows.
BROKEN = (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError)


def list_images(folder: Path) -> dict[str, Path]:
    """Return the images of a folder by their stems, sorted."""
    return list_files(folder, SUFFIXES)


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Return the files of a folder with one of the suffixes, by their stems, sorted.

    Hidden ones are none of the data set's: archives made on macOS have one beside each file.
    """
    if not folder.is_dir():
        raise RgbxSegError(f'{folder}: no such folder; expected one with '
                           f'{", ".join(suffixes)} files; check the root of the source.')
    return {path.stem: path for path in sorted(folder.iterdir())
            if path.suffix.lower() in suffixes and not path.name.startswith('.')}


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


def read_label(path: Path) -> NDArray[np.generic]:
    """Return a label image as it is stored: ids (H, W), also of an indexed PNG, or RGB(A)."""
    try:
        with Pillow.open(path) as image:
            label = np.asarray(image)
    except BROKEN:
        raise _corrupt(path) from None
    return label.astype(np.uint8) if label.dtype == np.bool_ else label  # PNG of 1 bit


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width from the head of an image, as `read_color` will give it."""
    try:
        with Pillow.open(path) as image:
            # Asked for what a PNG does not have, Pillow would decode it to its end.
            exif = image.getexif() if 'exif' in image.info else {}
            turned = exif.get(EXIF_ORIENTATION) in TRANSPOSED
            return image.size if turned else image.size[::-1]
    except BROKEN:
        raise _corrupt(path) from None


def _read(path: Path, flags: int) -> NDArray[np.generic]:
    try:
        data = np.fromfile(path, np.uint8)
        whole = path.suffix.lower() not in JPEG or _ends(data.tobytes())
        image = cv2.imdecode(data, flags) if whole and data.size else None
    except (OSError, cv2.error):  # not there; more pixels than OpenCV allows
        image = None
    if image is None:
        raise _corrupt(path)
    return image


def _ends(data: bytes) -> bool:
    """Return whether a JPEG was written to its end: decoders fill what is missing with gray."""
    return data.rfind(END_OF_IMAGE) > data.rfind(START_OF_SCAN)


def _corrupt(path: Path) -> CorruptImage:
    return CorruptImage(f'{path}: cannot be decoded as an image; replace or remove it.')
