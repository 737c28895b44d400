# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the public data sets have in common: entries of files, found first and read one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.images import (
    SUFFIXES,
    image_size,
    list_images,
    read_color,
    read_label,
    read_raw,
)
from rgbx_seg_train.data.labels import Color
from rgbx_seg_train.data.sample import CorruptImage, Image, Sample
from rgbx_seg_train.data.synthetic import aux_encoding

NOTHING: Mapping[str, str] = {}  # a plain one: samples go from process to process


class Entry(NamedTuple):
    """The files of one sample."""

    name: str
    rgb: Path
    aux: tuple[Path, ...]  # none where aux lies in the RGB file or does not exist
    label: Path | None  # none where boxes stand for it, or nobody reads it
    conditions: Mapping[str, str] = NOTHING

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files, in the order rgb, aux, label."""
        return (self.rgb, *self.aux, *(() if self.label is None else (self.label,)))


class PublicSet(ABC):
    """One split of a public data set as `sample.Samples`; a subclass finds and reads its files.

    `find` lists what the split should hold, whether or not the files are there; `COUNTS` has the
    official number of samples by split.
    """

    COUNTS: ClassVar[Mapping[str, int]] = {}
    modality: str = 'thermal'
    classes: str
    odd_channels: tuple[int, ...] = ()  # see Sample

    @classmethod
    def classes_of(cls, source: Any) -> str:
        """Return the name of the class set of a source's labels."""
        return cls.classes

    @classmethod
    def splits_of(cls, source: Any) -> tuple[str, ...]:
        """Return the names of the splits that a source's folder should have."""
        return tuple(cls.COUNTS)

    @classmethod
    def modality_of(cls, source: Any) -> str:
        """Return the modality of a source's second image."""
        return cls.modality

    def __init__(self, source: Any, labeled: bool = True, cache: Path | None = None) -> None:
        """Find what the split should hold; RgbxSegError if that is nothing.

        Without `labeled`, labels need not be there and are not read. What takes long to compute is
        kept in `cache`, if there is one.
        """
        self.source, self.root, self.labeled, self.cache = source, Path(source.root), labeled, cache
        if not self.root.is_dir():
            raise RgbxSegError(f'{self.root}: no such folder; expected the {source.kind} data set; '
                               'correct root.')
        self.classes, self.modality = self.classes_of(source), self.modality_of(source)
        self.entries = self.find()
        if not labeled:
            self.entries = [entry._replace(label=None) for entry in self.entries]
        if not self.entries:
            raise RgbxSegError(f'{self.root}: no sample of the split "{source.split}" of '
                               f'{source.kind} is there; see `rgbx_check_data {source.kind} '
                               f'{self.root}`.')

    @abstractmethod
    def find(self) -> list[Entry]:
        """Return the samples of the split, in a fixed order."""

    def read_rgb(self, entry: Entry) -> Image:
        """Return RGB uint8 (H, W, 3)."""
        return read_color(entry.rgb)

    def read_aux(self, entry: Entry) -> Image:
        """Return aux uint8 (h, w) or (h, w, C)."""
        return read_aux_image(entry.aux[0], self.modality)

    @abstractmethod
    def read_label(self, entry: Entry) -> Image:
        """Return training ids uint8 (H, W), 255 ignored; RgbxSegError names a strange value."""

    def read_pair(self, entry: Entry) -> tuple[Image, Image]:
        """Return rgb and aux; a set that keeps both in one file decodes it once."""
        return self.read_rgb(entry), self.read_aux(entry)

    def rgb_size(self, entry: Entry) -> tuple[int, int]:
        """Return height and width of the RGB image without decoding it."""
        return image_size(entry.rgb)

    def expected(self) -> int | None:
        """Return the official number of samples of this split, None where there is none."""
        return self.COUNTS.get(self.source.split)

    def everything(self) -> list[Entry]:
        """Return the samples, and those of which only some files are there."""
        return self.entries

    def label_rule(self) -> str:
        """Return all that decides whether a label image is a right one, for who remembers it."""
        return repr(replace(self.source, root='.', weight=1.0))

    def require_files(self) -> None:
        """Raise RgbxSegError if a file of the split is missing."""
        missing = [path for entry in self.entries for path in entry.files if not path.is_file()]
        if missing:
            raise RgbxSegError(f'{missing[0]}: no such file, and {len(missing) - 1} others are '
                               f'missing; expected all of the split "{self.source.split}"; see '
                               f'`rgbx_check_data {self.source.kind} {self.root}`.')

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample; aux comes at the size of RGB, which the label has."""
        entry = self.entries[index]
        rgb, aux = self.read_pair(entry)
        size = rgb.shape[:2]
        label = self.read_label(entry) if self.labeled else np.full(size, UNLABELED, np.uint8)
        if label.shape != size:
            raise CorruptImage(f'{entry.label}: the label is {label.shape[1]}x{label.shape[0]} and '
                               f'the RGB image {size[1]}x{size[0]}; expected one size; replace '
                               'them.')
        if aux.shape[:2] != size:
            aux = resize_to(aux, *size)
        return Sample(rgb, aux.reshape(*size, -1), label, self.modality, entry.name,
                      entry.conditions, self.classes, self.odd_channels)


def read_aux_image(path: Path, modality: str) -> Image:
    """Return an aux image as the robot makes it from its camera's: uint8 (h, w) or (h, w, C)."""
    return aux_of(path, read_raw(path), modality)


def aux_of(path: Path, raw: NDArray[np.generic], modality: str) -> Image:
    """Return `read_aux_image` of a file that has been read."""
    if raw.ndim == 3 and raw.shape[2] == 4:  # transparency says nothing
        raw = np.ascontiguousarray(raw[..., :3])
    try:
        return to_uint8(raw, aux_encoding(modality))
    except RgbxSegError as error:
        raise CorruptImage(f'{path}: {error}') from None


def pair_up(folders: Sequence[Path], names: Iterable[str] | None = None, labeled: bool = True
            ) -> dict[str, tuple[Path, ...]]:
    """Return name -> file in each folder, whether or not it is there.

    The names are those given, or of all images in any of the folders, sorted. The last folder, that
    of labels, is left alone unless `labeled`.
    """
    found = [list_images(folder) for folder in (folders if labeled else folders[:-1])]
    found += [{}] * (len(folders) - len(found))
    if names is None:
        names = sorted(set().union(*found))
    suffixes = [next(iter(images.values())).suffix if images else '.png' for images in found]
    return {name: tuple(images.get(name, folder / f'{name}{suffix}') for folder, images, suffix
                        in zip(folders, found, suffixes, strict=True)) for name in names}


def read_names(path: Path) -> list[str]:
    """Return the stems in the first column of a split's list, each once, in its order."""
    firsts = (Path(line.split()[0]) for line in read_lines(path))
    return list(dict.fromkeys(
        first.stem if first.suffix.lower() in SUFFIXES else first.name for first in firsts))


def time_in_name(name: str) -> Mapping[str, str]:
    """Return the time of day that names such as MFNet's 00001D and 00002N tell, else nothing."""
    time = {'D': 'day', 'N': 'night'}.get(name[-1:])
    return {'time': time} if time and name[-2:-1].isdigit() else NOTHING


def read_lines(path: Path) -> list[str]:
    """Return the lines of a split's list, without those that are empty and blanks at the ends."""
    if not path.is_file():
        raise RgbxSegError(f'{path}: no such list; expected a name in each line; check the split '
                           'and root.')
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_ids(path: Path, table: Image) -> Image:
    """Return the ids of a label image (H, W) through a table uint8 (256,).

    `table` holds training ids, UNLABELED for what is ignored, and `INVALID` for values that no
    label of the data set may have. Of several channels the first has the ids.
    """
    return ids_of(path, read_label(path), table)


def ids_of(path: Path, raw: NDArray[np.generic], table: Image) -> Image:
    """Return `read_ids` of a file that has been read."""
    if raw.ndim == 3:
        raw = np.ascontiguousarray(raw[..., 0])
    if raw.dtype != np.uint8:
        raise RgbxSegError(f'{path}: the label is {raw.dtype}; expected uint8; replace it.')
    ids = cv2.LUT(raw, table)
    strange = ids == INVALID
    if strange.any():
        raise RgbxSegError(f'{path}: the label has the value {int(raw[strange][0])}, which the '
                           'data set does not know; expected one of its ids; replace the file.')
    return ids


def ids_of_colors(path: Path, image: NDArray[np.generic], colors: Sequence[Color],
                  ignored: Sequence[Color] = ()) -> Image:
    """Return the index (H, W) in `colors` of each RGB(A) pixel, 255 for those of `ignored`."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] < 3:
        raise RgbxSegError(f'{path}: the label is {image.dtype} {image.shape}; expected uint8 of 3 '
                           'channels, the colors of classes; replace it.')
    known = [*colors, *ignored]
    ids = np.array([*range(len(colors)), *[UNLABELED] * len(ignored)], np.uint8)
    codes = np.array([_code(*np.array(color, np.int32)) for color in known])
    order = np.argsort(codes, kind='stable')  # of two classes with one color the first
    pixels = _code(*(image[..., channel].astype(np.int32) for channel in range(3)))
    place = np.minimum(np.searchsorted(codes[order], pixels), len(known) - 1)
    strange = codes[order][place] != pixels
    if strange.any():
        found = tuple(int(value) for value in image[strange][0, :3])
        raise RgbxSegError(f'{path}: the label has the color {found}, which no class has; expected '
                           'those of the classes; replace the file.')
    return ids[order][place]


def _code(red: Any, green: Any, blue: Any) -> Any:
    return (red << 16) + (green << 8) + blue


INVALID = UNLABELED - 1  # in a table of `read_ids`


def id_table(ids: Mapping[int, int]) -> Image:
    """Return the table uint8 (256,) of `read_ids` for raw -> training ids; others are invalid."""
    table = np.full(256, INVALID, np.uint8)
    for raw, own in ids.items():
        table[raw] = own
    return table
