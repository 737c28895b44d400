# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MSRS: 1444 aligned pairs made of MFNet's, 640x480, with MFNet's 9 classes, nothing ignored.

`{train,test}/{vi,ir,Segmentation_labels}/NAME.png`; names end with D or N. The official splits of
1083 and 361 are of common knowledge, not counted by us.
"""

from __future__ import annotations

from types import MappingProxyType

from rgbx_seg_train.data.public import (
    Entry,
    PublicSet,
    id_table,
    pair_up,
    read_ids,
    time_in_name,
)
from rgbx_seg_train.data.sample import Image

_IDS = id_table({raw: raw for raw in range(9)})


class MSRS(PublicSet):
    """One split of MSRS."""

    COUNTS = MappingProxyType({'train': 1083, 'test': 361})
    classes = 'mfnet'

    def find(self) -> list[Entry]:
        """Return the samples of the split, by name."""
        folder = self.root / self.source.split
        files = pair_up([folder / name for name in ('vi', 'ir', 'Segmentation_labels')],
                        labeled=self.labeled)
        return [Entry(name, rgb, (aux,), label, time_in_name(name))
                for name, (rgb, aux, label) in files.items()]

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..8."""
        return read_ids(entry.label, _IDS)
