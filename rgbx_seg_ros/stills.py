# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of paired RGB and aux pictures, with labels where there are some: find and read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.images import Array, ImageError, decode_label, to_rgb8

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff')
LABEL_FOLDERS = ('label', 'labels')  # predictions such as pseudo_label/ only when asked for
AUX_FOLDERS = {
    'thermal': ('thermal', 'ir', 'infrared', 'lwir'),
    'depth': ('depth',),
    'event': ('event', 'events'),
    'polarization': ('polarization',),
    'lightfield': ('lightfield',),
}
ONE_CHANNEL = ('thermal', 'depth')
CHROMA_NOISE = 16  # of 255; what JPEG leaves between the channels of a gray picture


class Still(NamedTuple):
    """The files of one pair; an RGBA picture is both its `rgb` and its `aux`."""

    name: str
    rgb: Path
    aux: Path
    label: Path | None


@dataclass(frozen=True)
class Stills:
    """The pairs of a folder in the order of their names, and the folder their labels came from."""

    layout: str
    modality: str
    pairs: tuple[Still, ...]
    labels: Path | None


def find_stills(folder: Path, layout: str = 'auto', modality: str = '',
                labels: str = '') -> Stills:
    """Return the pairs below `folder`; '' for modality or labels means what is found.

    Layouts: 'folders' = rgb/ and <modality>/ with the same names, 'mfnet' = RGBA pictures in
    images/ or in the folder itself; labels in label/ or labels/. RgbxSegError if there are none.
    """
    if not folder.is_dir():
        raise RgbxSegError(f'{folder}: no such folder, expected one that holds images.')
    if layout == 'auto':
        layout = 'folders' if (folder / 'rgb').is_dir() else 'mfnet'
    if layout not in LAYOUTS:
        raise RgbxSegError(f'the layout is {layout!r}, expected auto, {", ".join(LAYOUTS)}.')
    if modality and modality not in AUX_FOLDERS:
        raise RgbxSegError(f'the modality is {modality!r}, expected one of '
                           f'{", ".join(AUX_FOLDERS)}.')
    modality, rgb, aux = LAYOUTS[layout](folder, modality)
    where = _label_folder(folder, labels)
    label = _pictures(where) if where else {}
    pairs = tuple(Still(name, rgb[name], aux[name], label.get(name))
                  for name in sorted(rgb.keys() & aux.keys()))
    if not pairs:
        raise RgbxSegError(f'{folder}: no pairs in layout {layout!r}, found {len(rgb)} RGB and '
                           f'{len(aux)} {modality} images of different names, expected the same '
                           'names in both folders.')
    if where and not any(pair.label for pair in pairs):
        raise RgbxSegError(f'{where}: no label has the name of a pair, found {len(label)} '
                           f'images, expected names such as {pairs[0].name}.png.')
    return Stills(layout, modality, pairs, where)


def _folders(folder: Path, modality: str) -> tuple[str, dict[str, Path], dict[str, Path]]:
    wanted = {modality: AUX_FOLDERS[modality]} if modality else AUX_FOLDERS
    found = [(name, folder / sub) for name, subs in wanted.items() for sub in subs
             if (folder / sub).is_dir()]
    if not (folder / 'rgb').is_dir() or not found:
        raise RgbxSegError(f'{folder}: no pairs, found {_contents(folder)}, expected folders rgb '
                           f'and {modality or "thermal (or another modality)"}, or RGBA PNGs.')
    if len(found) > 1:
        raise RgbxSegError(f'{folder}: found {" and ".join(path.name for _, path in found)}, '
                           'expected one aux folder; choose it by --modality.')
    return found[0][0], _pictures(folder / 'rgb'), _pictures(found[0][1])


def _mfnet(folder: Path, modality: str) -> tuple[str, dict[str, Path], dict[str, Path]]:
    images = folder / 'images' if (folder / 'images').is_dir() else folder
    pictures = {name: path for name, path in _pictures(images).items()
                if path.suffix.lower() == '.png'}
    if not pictures:
        raise RgbxSegError(f'{folder}: no pairs, found {_contents(folder)}, expected folders rgb '
                           'and thermal (or another modality), or RGBA PNGs.')
    return modality or 'thermal', pictures, pictures


LAYOUTS: dict[str, Callable[[Path, str], tuple[str, dict[str, Path], dict[str, Path]]]] = {
    'folders': _folders, 'mfnet': _mfnet}


def _label_folder(folder: Path, labels: str) -> Path | None:
    if labels == 'none':
        return None
    if labels and not (folder / labels).is_dir():
        raise RgbxSegError(f'{folder / labels}: no such folder, found {_contents(folder)}, '
                           'expected the folder of labels.')
    names = (labels,) if labels else LABEL_FOLDERS
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _pictures(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES and not path.name.startswith('.')}


def _contents(folder: Path) -> str:
    names = sorted(path.name + '/' * path.is_dir() for path in folder.iterdir())
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if names[5:] else '') or 'nothing'


def read_rgb(still: Still) -> Array:
    """Return the color picture (H, W, 3) uint8 in RGB order."""
    image = _read(still.rgb)
    try:
        return to_rgb8(image[..., :3][..., ::-1] if image.ndim == 3 else image, str(image.dtype))
    except ImageError as error:
        raise RgbxSegError(f'{still.rgb}: {error}') from None


def read_aux(still: Still, modality: str) -> Array:
    """Return the aux picture as stored: (H, W), or RGB (H, W, 3) if the modality has color."""
    image = _read(still.aux)
    if still.aux == still.rgb:
        if image.ndim == 2 or image.shape[2] != 4:
            raise RgbxSegError(f'{still.aux}: found {1 if image.ndim == 2 else image.shape[2]} '
                               f'channels, expected RGBA with {modality} in the alpha channel.')
        return np.ascontiguousarray(image[..., 3])
    if image.ndim == 2:
        return image
    if modality not in ONE_CHANNEL:
        return np.ascontiguousarray(image[..., 2::-1])
    color = image[..., :3].astype(np.int32)
    if np.ptp(color, axis=2).max() > CHROMA_NOISE:
        raise RgbxSegError(f'{still.aux}: found a color picture, expected gray {modality} values; '
                           'export it without a palette.')
    return np.ascontiguousarray(image[..., 1])


def read_label(still: Still, shape: tuple[int, int]) -> Array:
    """Return the class ids (H, W) uint8 of a still that has a label; `shape` is its RGB's."""
    assert still.label is not None
    try:
        label = decode_label(still.label.suffix, still.label.read_bytes())
    except (ImageError, OSError) as error:
        raise RgbxSegError(f'{still.label}: {error}') from None
    if label.shape != shape or label.max() > 255:
        raise RgbxSegError(f'{still.label}: found {label.shape[1]}x{label.shape[0]} with ids up to '
                           f'{label.max()}, expected {shape[1]}x{shape[0]} like its RGB image, and '
                           'ids up to 255.')
    return label.astype(np.uint8)


def _read(path: Path) -> Array:
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise RgbxSegError(f'{path}: cannot be read, expected an intact PNG, JPEG or TIFF.')
    return image
