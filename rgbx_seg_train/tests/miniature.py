# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Public data sets in miniature: the folders, names and kinds of files that are distributed.

Each function writes a data set and returns what its samples hold, by name, as it drew them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 24, 32
VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
       (0, 128, 128), (128, 128, 128), (64, 0, 0)]
FMB_COLORS = [(0, 0, 0), (228, 228, 179), (133, 57, 181), (177, 162, 67), (50, 178, 200),
              (199, 45, 132), (84, 172, 66), (79, 73, 179), (166, 99, 76), (253, 121, 66),
              (91, 165, 137), (152, 97, 155), (140, 153, 105), (158, 215, 222), (90, 113, 135)]


class Drawn(NamedTuple):
    """One sample as it was drawn."""

    rgb: np.ndarray  # (H, W, 3)
    aux: np.ndarray  # (H, W)
    raw: np.ndarray  # (H, W) ids as the data set stores them


def draw(number: int, n_ids: int, height: int = HEIGHT, width: int = WIDTH) -> Drawn:
    """Return random blocks that hold every id, and images without a 0."""
    rng = np.random.default_rng(number)
    blocks = rng.permutation(np.arange(height // 4 * (width // 4)) % n_ids)
    raw = np.kron(blocks.reshape(height // 4, -1), np.ones((4, 4), int)).astype(np.uint8)
    coarse = rng.integers(20, 240, (height // 8, width // 8, 4)).astype(np.uint8)
    images = np.kron(coarse, np.ones((8, 8, 1), int)).astype(np.uint8)
    return Drawn(images[..., :3].copy(), images[..., 3].copy(), raw)


def save(array: np.ndarray, path: Path, palette: Sequence[tuple[int, int, int]] = ()) -> None:
    """Write an image; with a palette as an indexed PNG, whose bytes are the ids."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        indexed = Image.new('P', image.size)
        indexed.putpalette([value for color in palette for value in color])
        indexed.frombytes(array.tobytes())
        image = indexed
    image.save(path, quality=95) if path.suffix == '.jpg' else image.save(path)


def write_list(path: Path, names: Sequence[str]) -> None:
    """Write the names of a split, one a line."""
    path.write_text(''.join(f'{name}\n' for name in names))


MFNET = {'train': ['00001D', '00003N', '00004N'], 'val': ['00005D', '00006N'],
         'test': ['00008D', '00007N']}


def mfnet(root: Path, indexed: bool = False) -> dict[str, Drawn]:
    """MFNet as distributed: four channels in one PNG, and nine lists."""
    drawn = {}
    for name in sum(MFNET.values(), []):
        sample = drawn[name] = draw(int(name[:5]), 9)
        save(np.dstack([sample.rgb, sample.aux]), root / 'images' / f'{name}.png')
        save(sample.raw, root / 'labels' / f'{name}.png', VOC if indexed else ())
    for split, names in MFNET.items():
        mirrored = [f'{name}_flip' for name in names] if split == 'train' else []
        write_list(root / f'{split}.txt', [*names, *mirrored])
        for suffix, letter in (('day', 'D'), ('night', 'N')):
            chosen = [name for name in names if name.endswith(letter)]
            write_list(root / f'{split}_{suffix}.txt', chosen)
    return drawn


def mfnet_split(root: Path, suffix: str = '.jpg') -> dict[str, Drawn]:
    """MFNet as others pass it on: RGB and thermal apart, two lists."""
    drawn = {}
    for name in (*MFNET['train'], *MFNET['test']):
        sample = drawn[name] = draw(int(name[:5]), 9)
        save(sample.rgb, root / 'rgb' / f'{name}{suffix}')
        save(sample.aux, root / 'ther' / f'{name}{suffix}')
        save(sample.raw, root / 'labels' / f'{name}.png')
    for split in ('train', 'test'):
        write_list(root / f'{split}.txt', MFNET[split])
    return drawn


PST900 = {'train': ['7_bag21_rect_rgb_frame0000000001', '9_bag21_rect_rgb_frame0000000002'],
          'test': ['12_bag1_rect_rgb_frame0000000003']}


def pst900(root: Path) -> dict[str, Drawn]:
    """PST900: gray ids, 8-bit thermal with holes of 0, and two folders that nobody reads here."""
    drawn = {}
    for split, names in PST900.items():
        for number, name in enumerate(names):
            sample = drawn[name] = draw(number, 5)
            sample.aux[:3], sample.aux[10:16, 9:17], sample.aux[20, 20] = 0, 0, 0
            save(sample.rgb, root / split / 'rgb' / f'{name}.png')
            save(sample.aux, root / split / 'thermal' / f'{name}.png')
            raw16 = sample.aux.astype(np.uint16) * 40
            save(raw16, root / split / 'thermal_raw' / f'{name}.png')
            save(raw16, root / split / 'depth' / f'{name}.png')
            save(sample.raw, root / split / 'labels' / f'{name}.png')
    return drawn


FMB = {'train': ['00001', '00002', '00004'], 'test': ['00003']}


def fmb(root: Path, flat: bool = False, colored: bool = False) -> dict[str, Drawn]:
    """FMB: gray ids 0..14 or their colors; thermal has three equal channels."""
    drawn = {}
    for split, names in FMB.items():
        folder = root if flat else root / split
        for name in names:
            sample = drawn[name] = draw(int(name), 15)
            label = np.array(FMB_COLORS, np.uint8)[sample.raw] if colored else sample.raw
            save(sample.rgb, folder / 'Visible' / f'{name}.png')
            save(np.dstack([sample.aux] * 3), folder / 'Infrared' / f'{name}.png')
            save(label, folder / 'Label' / f'{name}.png')
        if flat:
            write_list(root / f'{split}.txt', names)
    return drawn


MSRS = {'train': ['00001D', '00002N'], 'test': ['00004N']}


def msrs(root: Path) -> dict[str, Drawn]:
    """MSRS: three folders for each split, gray ids."""
    drawn = {}
    for split, names in MSRS.items():
        for name in names:
            sample = drawn[name] = draw(int(name[:5]), 9)
            save(sample.rgb, root / split / 'vi' / f'{name}.png')
            save(sample.aux, root / split / 'ir' / f'{name}.png')
            save(sample.raw, root / split / 'Segmentation_labels' / f'{name}.png')
    return drawn


def cut(path: Path) -> None:
    """Break a file off in its middle, as a full disk does."""
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
