# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of images as samples: DIR/rgb, DIR/<modality>, DIR/label, and weak labels in boxes.

Images belong together by name. Thermal PNGs of 16 bits hold 0.01 K per count, those of 8 bits have
been normalized by the camera.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.config_sources import FolderSource
from rgbx_seg_train.data.boxes import Box, read_boxes, weak_label
from rgbx_seg_train.data.images import list_files, list_images, read_color, read_raw
from rgbx_seg_train.data.sample import Image, Sample, night_of, time_of
from rgbx_seg_train.data.synthetic import aux_encoding


class FolderDataset:
    """Pairs of a folder that have a label or boxes, read when asked for; see `sample.Samples`."""

    def __init__(self, source: FolderSource, modality: str,
                 classes: Sequence[ClassInfo], own: str = '') -> None:
        """Find the pairs; RgbxSegError if there are none. `own` names the set of the classes."""
        root = Path(source.root)
        self._own = own
        self.modality, self._n_classes = modality, len(classes)
        self._rgb, self._aux = (_images(root / name) for name in ('rgb', modality))
        self._labels = _images(root / source.label_dir, needed=not source.boxes_dir)
        boxes = list_files(root / source.boxes_dir, ('.txt',)) if source.boxes_dir else {}
        self._boxes = boxes
        names = sorted((self._rgb.keys() & self._aux.keys())
                       & (self._labels.keys() | boxes.keys()))
        self.names = [name for name in names if _chosen(name, source)]
        self._latest: tuple[str, Sample] | None = None  # whoever scores asks for its boxes, too
        if not self.names:
            raise RgbxSegError(
                f'{root}: {len(self._rgb)} RGB and {len(self._aux)} {modality} images hold no '
                f'labeled pair of the part "{source.part}"; expected files of equal names in rgb, '
                f'{modality} and {source.label_dir}.')

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Return one pair at the size of its RGB image."""
        name = self.names[index]
        latest = self._latest  # read once: another thread may replace it
        if latest is None or latest[0] != name:
            latest = self._latest = name, self._load(name)
        return latest[1]

    def boxes(self, index: int) -> tuple[Box, ...]:
        """Return the human boxes of one pair, in pixels of its RGB image."""
        path = self._boxes.get(self.names[index])
        return read_boxes(path, *self[index].label.shape) if path else ()

    def _load(self, name: str) -> Sample:
        rgb, raw = read_color(self._rgb[name]), read_raw(self._aux[name])
        aux = to_uint8(raw, aux_encoding(self.modality))
        size = rgb.shape[:2]
        if aux.shape[:2] != size:
            aux = resize_to(aux, *size)
        label = self._read_label(name, size)
        if name in self._boxes:
            gray = aux if aux.ndim == 2 else aux.max(2)
            label = weak_label(label, read_boxes(self._boxes[name], *size), gray)
        return Sample(rgb, aux.reshape(*size, -1), label, self.modality, name,
                      time_of(night_of(name)), self._own)

    def _read_label(self, name: str, size: tuple[int, int]) -> Image | None:
        if name not in self._labels:
            return None
        label = read_raw(self._labels[name])
        if label.shape != size or label.dtype != np.uint8:
            raise RgbxSegError(f'{self._labels[name]}: {label.dtype} {label.shape}; expected uint8 '
                               f'{size}, one id for each pixel of the RGB image.')
        strange = np.setdiff1d(label, [*range(self._n_classes), UNLABELED])
        if strange.size:
            raise RgbxSegError(f'{self._labels[name]}: holds the id {strange[0]}; expected '
                               f'0..{self._n_classes - 1} or {UNLABELED}.')
        return label


def is_held_out(name: str, source: FolderSource) -> bool:
    """Return whether an image is held out: decided by a hash, so more images move no old ones.

    Frames of a drive resemble their neighbors; `hold_out_block` consecutive numbers of one time of
    day stay together. Day and night are held out alike.
    """
    digits = ''.join(c for c in name if c.isdigit())
    block = f'{int(digits) // source.hold_out_block}{"N" if night_of(name) else "D"}' if digits \
        else name
    return int(hashlib.sha256(block.encode()).hexdigest()[:8], 16) / 2**32 < source.hold_out


def _chosen(name: str, source: FolderSource) -> bool:
    wanted = {'all': (True, False), 'train': (False,), 'held_out': (True,)}[source.part]
    return is_held_out(name, source) in wanted


def _images(folder: Path, needed: bool = True) -> dict[str, Path]:
    return list_images(folder) if needed or folder.is_dir() else {}
