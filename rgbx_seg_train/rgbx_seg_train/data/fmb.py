# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""FMB: 1500 street scenes, 800x600, 14 classes, and a background that one protocol scores too.

`{train,test}/{Visible,Infrared,Label}/NAME.png`, 1220 and 280 of them; as others pass it on, the
three folders lie together, beside `train.txt` and `test.txt`. Labels hold 0 background and 1..14,
or the colors of these. The protocol of 14 classes ignores the background, that of 15 scores it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.data.images import read_label
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.public import (
    Entry,
    PublicSet,
    id_table,
    ids_of,
    ids_of_colors,
    pair_up,
    read_names,
)
from rgbx_seg_train.data.sample import Image

FOLDERS = ('Visible', 'Infrared', 'Label')
_COLORS = tuple(info.color for info in CLASS_SETS['fmb15'])
_IDS = {
    14: id_table({0: UNLABELED, UNLABELED: UNLABELED, **{raw: raw - 1 for raw in range(1, 15)}}),
    15: id_table({UNLABELED: UNLABELED, **{raw: raw for raw in range(15)}}),
}


class FMB(PublicSet):
    """One split of FMB, in either layout and protocol."""

    COUNTS = MappingProxyType({'train': 1220, 'test': 280})
    classes = 'fmb'

    @classmethod
    def classes_of(cls, source: Any) -> str:
        """Return fmb or fmb15, as the protocol has it."""
        return 'fmb15' if source.protocol == 15 else 'fmb'

    def find(self) -> list[Entry]:
        """Return the samples of the split, by name or as listed."""
        folder, names = self.root / self.source.split, None
        if (self.root / FOLDERS[0]).is_dir():
            folder, names = self.root, read_names(self.root / f'{self.source.split}.txt')
        files = pair_up([folder / name for name in FOLDERS], names, self.labeled)
        return [Entry(name, rgb, (aux,), label) for name, (rgb, aux, label) in files.items()]

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..13, or 0..14 in the protocol of 15, from ids or colors."""
        raw = read_label(entry.label)
        if raw.ndim == 3 and np.ptp(raw[..., :3], axis=2).any():
            raw = ids_of_colors(entry.label, raw, _COLORS)
        return ids_of(entry.label, raw, _IDS[self.source.protocol])
