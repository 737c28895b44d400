# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""NYUDepthV2: 1449 rooms, 640x480, 40 classes.

`RGB/NAME`, `Label/NAME`, `HHA/NAME` or `Depth/NAME`, beside `train.txt` and `test.txt`, 795 and
654 of them. HHA is computed from depth where its folder is absent, and kept. Labels hold 1..40; 0
and 255 are ignored.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.register import write_atomically
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.hha import to_hha
from rgbx_seg_train.data.images import read_color, read_raw
from rgbx_seg_train.data.public import (
    Entry,
    PublicSet,
    aux_of,
    id_table,
    pair_up,
    read_ids,
    read_names,
)
from rgbx_seg_train.data.sample import CorruptImage, Image
from rgbx_seg_train.data.synthetic import aux_encoding

VERSION = 1  # of the computed HHA
ROOM_M = (0.3, 15.0)  # where the median depth of a room lies

_IDS = id_table({0: UNLABELED, UNLABELED: UNLABELED, **{raw: raw - 1 for raw in range(1, 41)}})


class NYU(PublicSet):
    """One split of NYUDepthV2 with HHA or depth, both of the modality depth."""

    COUNTS = MappingProxyType({'train': 795, 'test': 654})
    classes = 'nyu40'
    modality = 'depth'

    def find(self) -> list[Entry]:
        """Return the samples that the split lists."""
        self.computes = self.source.aux == 'hha' and not (self.root / 'HHA').is_dir()
        aux = 'HHA' if self.source.aux == 'hha' and not self.computes else 'Depth'
        if not (self.root / aux).is_dir():
            raise RgbxSegError(f'{self.root / aux}: no such folder; expected NYUDepthV2\'s depth '
                               'images, or HHA/ beside RGB/; add one of them.')
        names = read_names(self.root / f'{self.source.split}.txt')
        files = pair_up([self.root / name for name in ('RGB', aux, 'Label')], names,
                        self.labeled)
        return [Entry(name, rgb, (depth,), label) for name, (rgb, depth, label) in files.items()]

    def read_aux(self, entry: Entry) -> Image:
        """Return HHA uint8 (H, W, 3) or depth uint8 (H, W)."""
        path = entry.aux[0]
        if self.computes:
            return self._hha(path)
        if self.source.aux == 'hha':
            return read_color(path)
        raw = read_raw(path)
        if raw.dtype == np.uint8:  # scaled by whoever made the files, as others pass them on
            return aux_of(path, raw, self.modality)
        return to_uint8(self._depth(path, raw), aux_encoding('depth'))

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..39."""
        return read_ids(entry.label, _IDS)

    def _depth(self, path: Path, raw: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return meters (H, W), 0 missing."""
        if raw.ndim != 2 or raw.dtype != np.uint16:
            raise RgbxSegError(f'{path}: the depth is {raw.dtype} {raw.shape}; expected uint16 '
                               '(H, W), whose unit is depth_scale; replace the file.')
        depth = raw.astype(np.float32) * np.float32(self.source.depth_scale)
        known = depth[depth > 0]
        if known.size and not ROOM_M[0] < np.median(known) < ROOM_M[1]:
            raise RgbxSegError(f'{path}: its median depth is {np.median(known):.3g} m; expected '
                               f'{ROOM_M[0]}..{ROOM_M[1]:.0f} m, as rooms have; correct '
                               'depth_scale, the meters of one count.')
        return depth

    def _hha(self, path: Path) -> Image:
        """Return HHA of a depth image, from the cache if it is there."""
        try:
            changed = path.stat()
        except OSError:
            raise CorruptImage(f'{path}: no such file; expected a depth image; add it.') from None
        state = (VERSION, str(path.resolve()), changed.st_size, changed.st_mtime_ns,
                 self.source.depth_scale)
        key = hashlib.sha256(repr(state).encode()).hexdigest()[:32]
        kept = self.cache / 'hha' / f'{key}.png' if self.cache else None
        if kept and kept.is_file():
            with suppress(CorruptImage):  # a broken one is made anew
                return read_color(kept)
        hha = to_hha(self._depth(path, read_raw(path)))
        if kept:
            write_atomically(kept, cv2.imencode('.png', hha[..., ::-1])[1].tobytes())
        return hha
