# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MFNet: 1569 street scenes by day (820) and night (749), 640x480, 9 classes, nothing ignored.

As distributed: `images/NAME.png` of four channels, the fourth thermal; `labels/NAME.png`; and the
lists `train.txt`, `val.txt`, `test.txt`, also of day and night alone (`test_day.txt`). As others
pass it on: `rgb/NAME.jpg`, `ther/NAME.jpg`, `labels/NAME.png`, `train.txt`, `test.txt`. Names end
with D or N. Mirrored copies that a script of its authors adds to the list (`NAME_flip`) are left
out: augmentation mirrors.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.data.images import read_raw
from rgbx_seg_train.data.public import (
    Entry,
    PublicSet,
    id_table,
    pair_up,
    read_ids,
    read_names,
    time_in_name,
)
from rgbx_seg_train.data.sample import CorruptImage, Image

_IDS = id_table({raw: raw for raw in range(9)})
MIRRORED = '_flip'


class MFNet(PublicSet):
    """One list of MFNet, in either layout."""

    COUNTS = MappingProxyType({
        'train': 784, 'val': 392, 'test': 393, 'train_day': 410, 'train_night': 374,
        'val_day': 205, 'val_night': 187, 'test_day': 205, 'test_night': 188})
    classes = 'mfnet'

    @classmethod
    def splits_of(cls, source: Any) -> tuple[str, ...]:
        """Return train and test, and every other list that is there."""
        lists = ('train', 'val', 'test') if (Path(source.root) / 'images').is_dir() else (
            'train', 'test')
        return tuple(split for split in cls.COUNTS
                     if split in lists or (Path(source.root) / f'{split}.txt').is_file())

    def find(self) -> list[Entry]:
        """Return the samples of the list."""
        folders = [self.root / name for name in ('images', 'labels')]
        if not folders[0].is_dir():
            folders = [self.root / name for name in ('rgb', 'ther', 'labels')]
        if not folders[0].is_dir():
            raise RgbxSegError(f'{self.root}: neither images nor rgb is there; expected MFNet with '
                               'images of 4 channels, or with rgb and ther; correct root.')
        names = [name for name in read_names(self.root / f'{self.source.split}.txt')
                 if not name.endswith(MIRRORED)]
        return [Entry(name, rgb, tuple(aux), label, time_in_name(name))
                for name, (rgb, *aux, label) in pair_up(
                    folders, names, self.labeled).items()]

    def read_pair(self, entry: Entry) -> tuple[Image, Image]:
        """Return rgb and aux; of one file with four channels where aux has none of its own."""
        if entry.aux:
            return super().read_pair(entry)
        both = read_raw(entry.rgb)
        if both.shape[2:] != (4,) or both.dtype != np.uint8:
            raise CorruptImage(f'{entry.rgb}: {both.dtype} {both.shape}; expected uint8 of 4 '
                               'channels, thermal the fourth; replace it.')
        return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3])

    def read_rgb(self, entry: Entry) -> Image:
        """Return RGB uint8 (H, W, 3)."""
        return super().read_rgb(entry) if entry.aux else self.read_pair(entry)[0]

    def read_aux(self, entry: Entry) -> Image:
        """Return thermal uint8 (h, w)."""
        return super().read_aux(entry) if entry.aux else self.read_pair(entry)[1]

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..8."""
        return read_ids(entry.label, _IDS)
