# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff and what is laid out like it: RGB images of 171 classes, without a second camera.

`images/{train,val}2017/NAME.jpg`, 118287 and 5000 of them. Labels are, as the first of these is
there: `annotations/SPLIT2017/NAME_labelTrainIds.png` or `annotations_detectron2/SPLIT2017/NAME.png`
with 0..170, or `annotations/SPLIT2017/NAME.png` with COCO-Stuff's own 0..181; 255 is ignored. Aux
is black, as of a robot whose second camera is missing: a network learns from these RGB alone.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.data.coco_classes import NAMES, RAW_IDS, UNUSED
from rgbx_seg_train.data.images import list_images
from rgbx_seg_train.data.public import Entry, PublicSet, id_table, read_ids
from rgbx_seg_train.data.sample import Image

TRAIN_IDS_SUFFIX, TRAIN_IDS_FOLDER = '_labelTrainIds', 'annotations_detectron2'

_TRAIN_IDS = id_table({UNLABELED: UNLABELED, **{own: own for own in range(len(NAMES))}})
_RAW_IDS = id_table({UNLABELED: UNLABELED, **dict.fromkeys(UNUSED, UNLABELED),
                     **{raw: own for own, raw in enumerate(RAW_IDS)}})


class CocoStuff(PublicSet):
    """One split of COCO-Stuff; its aux is black and of the modality that the source names."""

    COUNTS = MappingProxyType({'train': 118287, 'val': 5000})
    classes = 'coco_stuff'

    @classmethod
    def modality_of(cls, source: Any) -> str:
        """Return what the missing second camera would be."""
        return source.modality

    def find(self) -> list[Entry]:
        """Return the samples of the split, by name."""
        split = f'{self.source.split}2017'
        marked = self.root / 'annotations' / split
        folders = (marked, self.root / TRAIN_IDS_FOLDER / split)
        labels = [list_images(folder) if folder.is_dir() else {} for folder in folders]
        if not any(labels):
            raise RgbxSegError(f'{marked}: no label is there; expected NAME{TRAIN_IDS_SUFFIX}.png '
                               'or NAME.png; correct root or split.')
        entries = []
        for name, rgb in list_images(self.root / 'images' / split).items():
            found = (labels[0].get(name + TRAIN_IDS_SUFFIX) or labels[1].get(name)
                     or labels[0].get(name, marked / f'{name}.png'))
            entries.append(Entry(name, rgb, (), found))
        return entries

    def read_aux(self, entry: Entry) -> Image:
        """Return black uint8 (H, W)."""
        return np.zeros(self.rgb_size(entry), np.uint8)

    def read_pair(self, entry: Entry) -> tuple[Image, Image]:
        """Return rgb and black."""
        rgb = self.read_rgb(entry)
        return rgb, np.zeros(rgb.shape[:2], np.uint8)

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..170."""
        own = (entry.label.stem.endswith(TRAIN_IDS_SUFFIX)
               or entry.label.parent.parent.name == TRAIN_IDS_FOLDER)
        return read_ids(entry.label, _TRAIN_IDS if own else _RAW_IDS)
