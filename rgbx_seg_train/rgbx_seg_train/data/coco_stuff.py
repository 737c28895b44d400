# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff and what is laid out like it: RGB images of 171 classes, without a second camera.

`images/{train,val}2017/NAME.jpg`, 118287 and 5000 of them. Labels are, as the first of these is
there: `annotations/SPLIT2017/NAME_labelTrainIds.png` or `annotations_detectron2/SPLIT2017/NAME.png`
with 0..170, or `annotations/SPLIT2017/NAME.png` with COCO-Stuff's own 0..181; 255 is ignored. Aux
is black, as of a robot whose second camera is missing: a network learns from these RGB alone.
"""

from __future__ import annotations

from pathlib import Path
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
        marked, ids = self._labels()
        if self.labeled and not marked and not ids:
            raise RgbxSegError(f'{self._folder("annotations")}: no label is there; expected '
                               f'NAME{TRAIN_IDS_SUFFIX}.png or NAME.png; correct root or split.')
        entries = []
        for name, rgb in list_images(self._folder('images')).items():
            found = (marked.get(name + TRAIN_IDS_SUFFIX) or ids.get(name)
                     or marked.get(name, self._folder('annotations') / f'{name}.png'))
            entries.append(Entry(name, rgb, (), found))
        return entries

    def everything(self) -> list[Entry]:
        """Return the samples, and those of which there is a label alone."""
        if not self.labeled:
            return self.entries
        marked, ids = self._labels()
        labels = {**marked, **ids, **{name.removesuffix(TRAIN_IDS_SUFFIX): path
                                      for name, path in marked.items()}}
        lonely = labels.keys() - {entry.name for entry in self.entries}
        images = self._folder('images')
        return [*self.entries, *(Entry(name, images / f'{name}.jpg', (), labels[name])
                                 for name in sorted(lonely)
                                 if not name.endswith(TRAIN_IDS_SUFFIX))]

    def _labels(self) -> list[dict[str, Path]]:
        folders = (self._folder('annotations'), self._folder(TRAIN_IDS_FOLDER))
        return [list_images(folder) if folder.is_dir() else {} for folder in folders]

    def _folder(self, name: str) -> Path:
        return self.root / name / f'{self.source.split}2017'

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
