# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""UrbanLF: 1074 light fields of 9x9 views, 824 photographed (623x432), 250 rendered (640x480).

`{real,Syn}/{train,val,test}/SCENE/1_1.png … 9_9.png`, where 5_5 is the RGB image and another view
is aux. The label of a real scene is `label.png` in the exact colors of the 14 classes; that of a
rendered one is `5_5_label.npy` with 1..14, 0 and 255 ignored. The benchmark keeps the labels of
test to itself, so scores are those of val.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MAX_SIDE, UNLABELED
from rgbx_seg_train.data.images import read_color, read_label
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.public import Entry, PublicSet, id_table, ids_of, ids_of_colors
from rgbx_seg_train.data.sample import CorruptImage, Image

CENTER = '5_5'
LABELS = {'real': 'label.png', 'syn': f'{CENTER}_label.npy'}
PART_COUNTS = {'real': {'train': 580, 'val': 80, 'test': 164},
               'syn': {'train': 172, 'val': 28, 'test': 50}}

_COLORS = tuple(info.color for info in CLASS_SETS['urbanlf'])
_IDS = id_table({0: UNLABELED, UNLABELED: UNLABELED, **{raw: raw - 1 for raw in range(1, 15)}})


class UrbanLF(PublicSet):
    """One split of the real scenes, the rendered ones, or both."""

    COUNTS = MappingProxyType({split: sum(PART_COUNTS[part][split] for part in PART_COUNTS)
                               for split in ('train', 'val', 'test')})
    classes = 'urbanlf'
    modality = 'lightfield'

    @classmethod
    def splits_of(cls, source: Any) -> tuple[str, ...]:
        """Return train and val, and test where the folder has labels of it."""
        labels = (path for name in LABELS.values()
                  for path in Path(source.root).glob(f'*/test/*/{name}'))
        return ('train', 'val', 'test') if any(labels) else ('train', 'val')

    def expected(self) -> int | None:
        """Return the official number of scenes of the parts that are read."""
        return sum(PART_COUNTS[part][self.source.split] for part in self._parts())

    def find(self) -> list[Entry]:
        """Return the scenes of the split by name, the real ones first."""
        return [self._entry(part, scene) for part in self._parts()
                for scene in sorted(self._folder(part).iterdir()) if scene.is_dir()]

    def require_files(self) -> None:
        """Raise RgbxSegError if a file is missing, and say so where no label is there at all."""
        labels = [entry.label for entry in self.entries if entry.label]
        if self.source.split == 'test' and labels and not any(map(Path.is_file, labels)):
            raise RgbxSegError(f'{self.root}: the split "test" has no labels, which the benchmark '
                               'keeps to itself; expected labeled scenes; use the split val.')
        super().require_files()

    def _parts(self) -> tuple[str, ...]:
        return tuple(LABELS) if self.source.part == 'both' else (self.source.part,)

    def _folder(self, part: str) -> Path:
        """Return the folder of a part's split, however the part is written."""
        names = (part, f'urbanlf-{part}', f'urbanlf_{part}')
        found = [path for path in sorted(self.root.iterdir()) if path.name.lower() in names]
        folder = (found[0] if found else self.root / part) / self.source.split
        if not folder.is_dir():
            raise RgbxSegError(f'{folder}: no such folder; expected the scenes of UrbanLF\'s part '
                               f'{part}; correct root, or set part to what is there.')
        return folder

    def _entry(self, part: str, scene: Path) -> Entry:
        rgb, aux = scene / f'{CENTER}.png', scene / f'{self.source.view}.png'
        return Entry(f'{part}/{scene.name}', rgb, (aux,), scene / LABELS[part], {'part': part})

    def read_aux(self, entry: Entry) -> Image:
        """Return the other view as RGB uint8 (H, W, 3)."""
        return read_color(entry.aux[0])

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..13."""
        if entry.label.suffix == '.npy':
            return ids_of(entry.label, _read_array(entry.label), _IDS)
        return ids_of_colors(entry.label, read_label(entry.label), _COLORS)


def _read_array(path: Path) -> Image:
    """Return ids uint8 (H, W) of a NumPy file; nothing is read before its size is known."""
    try:
        ids = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError):
        ids = None
    if not isinstance(ids, np.ndarray):
        raise CorruptImage(f'{path}: cannot be read as an array; replace or remove it.')
    if ids.ndim == 3 and 1 in (ids.shape[0], ids.shape[2]):
        ids = ids.reshape([side for side in ids.shape if side > 1])
    small = ids.ndim == 2 and min(ids.shape) > 0 and max(ids.shape) <= MAX_SIDE
    if not small or not np.issubdtype(ids.dtype, np.integer):
        raise RgbxSegError(f'{path}: the label is {ids.dtype} {ids.shape}; expected integers '
                           '(H, W); replace it.')
    if ids.min() < 0 or ids.max() > UNLABELED:
        value = int(ids.min() if ids.min() < 0 else ids.max())
        raise RgbxSegError(f'{path}: the label has the value {value}, which the data set does not '
                           'know; expected one of its ids; replace the file.')
    return np.ascontiguousarray(ids, np.uint8)
