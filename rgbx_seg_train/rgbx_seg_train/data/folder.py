# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of images as samples: DIR/rgb, DIR/<modality>, DIR/label, and weak labels in boxes.

Images belong together by name. Thermal PNGs of 16 bits hold 0.01 K per count, those of 8 bits have
been normalized by the camera. Labels hold ids (8 bits, or an indexed PNG), or the classes' colors,
where black is unlabeled if no class is black. A name that ends with a number and D or N tells day
from night.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.config_sources import FolderSource
from rgbx_seg_train.data.boxes import Box, read_boxes, weak_label
from rgbx_seg_train.data.images import list_files, list_images, read_label
from rgbx_seg_train.data.public import (
    Entry,
    PublicSet,
    ids_of_colors,
    time_in_name,
)
from rgbx_seg_train.data.sample import ODD_CHANNELS, Image, Sample, night_of

BLACK = (0, 0, 0)


class FolderDataset(PublicSet):
    """Pairs of a folder that have a label or boxes, read when asked for; see `sample.Samples`.

    Pairs that need no label are all there are.
    """

    def __init__(self, source: FolderSource, modality: str, classes: Sequence[ClassInfo],
                 own: str = '', labeled: bool = True) -> None:
        """Find the pairs; RgbxSegError if there are none. `own` names the set of the classes."""
        self.source, self.root = source, Path(source.root)
        self.modality, self.classes, self._infos = modality, own, tuple(classes)
        self._rgb, self._aux = (list_images(self.root / name) for name in ('rgb', modality))
        self.labeled, boxes = labeled, labeled and source.boxes_dir
        folder = self.root / source.label_dir
        self._labels = list_images(folder) if labeled and (not boxes or folder.is_dir()) else {}
        self._boxes = list_files(self.root / boxes, ('.txt',)) if boxes else {}
        self.entries = self.find()
        self._latest: tuple[str, Sample] | None = None  # whoever scores asks for its boxes, too
        if not self.entries:
            raise RgbxSegError(
                f'{self.root}: {len(self._rgb)} RGB and {len(self._aux)} {modality} images hold no '
                f'labeled pair of the part "{source.part}"; expected files of equal names in rgb, '
                f'{modality} and {source.label_dir}.')

    def find(self) -> list[Entry]:
        """Return the pairs, by name."""
        names = self._rgb.keys() & self._aux.keys()
        if self.labeled:
            names &= self._labels.keys() | self._boxes.keys()
        return self._entries(names)

    def everything(self) -> list[Entry]:
        """Return the pairs, and what lacks an image or a label."""
        return self._entries(set().union(self._rgb, self._aux, self._labels, self._boxes))

    def expected(self) -> None:
        """Return nothing: nobody says how many there should be."""

    def label_rule(self) -> str:
        """Return all that decides whether a label image is a right one."""
        return repr(self._infos)

    def __getitem__(self, index: int) -> Sample:
        """Return one pair at the size of its RGB image."""
        entry = self.entries[index]
        latest = self._latest  # read once: another thread may replace it
        if latest is None or latest[0] != entry.name:
            latest = self._latest = entry.name, self._load(entry)
        return latest[1]

    def boxes(self, index: int) -> tuple[Box, ...]:
        """Return the human boxes of one pair, in pixels of its RGB image."""
        path = self._boxes.get(self.entries[index].name)
        return read_boxes(path, *self[index].label.shape) if path else ()

    def read_label(self, entry: Entry) -> Image:
        """Return ids uint8 (H, W), 255 unlabeled; RgbxSegError names a strange id or color."""
        label = read_label(entry.label)
        if label.ndim == 3:
            colors = [info.color for info in self._infos]
            return ids_of_colors(entry.label, label, colors, (BLACK,))
        if label.dtype != np.uint8:
            raise RgbxSegError(f'{entry.label}: the label is {label.dtype}; expected uint8; store '
                               'it with 8 bits.')
        strange = (label >= len(self._infos)) & (label != UNLABELED)
        if strange.any():
            raise RgbxSegError(f'{entry.label}: holds the id {label[strange][0]}; expected '
                               f'0..{len(self._infos) - 1} or {UNLABELED}; correct the label or '
                               'the classes of the source.')
        return label

    def _entries(self, names: Iterable[str]) -> list[Entry]:
        chosen = (name for name in sorted(names) if _chosen(name, self.source))
        return [Entry(name, self._path(self._rgb, 'rgb', name),
                      (self._path(self._aux, self.modality, name),), self._label_path(name),
                      time_in_name(name)) for name in chosen]

    def _path(self, images: dict[str, Path], folder: str, name: str) -> Path:
        return images.get(name) or self.root / folder / f'{name}.png'

    def _label_path(self, name: str) -> Path | None:
        if name not in self._labels and (name in self._boxes or not self.labeled):
            return None
        return self._path(self._labels, self.source.label_dir, name)

    def _load(self, entry: Entry) -> Sample:
        rgb, aux = self.read_pair(entry)
        size = rgb.shape[:2]
        if aux.shape[:2] != size:
            aux = resize_to(aux, *size)
        label = self.read_label(entry) if entry.label else None
        if label is not None and label.shape != size:
            raise RgbxSegError(f'{entry.label}: {label.shape}; expected {size}, one id for each '
                               'pixel of the RGB image.')
        if not self.labeled:
            label = np.full(size, UNLABELED, np.uint8)
        elif entry.name in self._boxes:
            gray = aux if aux.ndim == 2 else aux.max(2)
            label = weak_label(label, read_boxes(self._boxes[entry.name], *size), gray)
        return Sample(rgb, aux.reshape(*size, -1), label, self.modality, entry.name,
                      entry.conditions, self.classes, ODD_CHANNELS.get(self.modality, ()))


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
