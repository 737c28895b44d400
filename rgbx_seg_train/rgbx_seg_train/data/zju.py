# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""ZJU RGB-P: 394 street scenes through four polarizers, 1224x1024, 8 classes.

`{train,val}/{0,45,90,135}/NAME_image0_ANGLE.png`, `{train,val}/{aolp2,dolp2}/NAME_aolp.png` (or
_dolp), `{train,val}/label/NAME_image0.png`; 344 and 50 of them. RGB is the image at 0 degrees. AoLP
and DoLP are computed of the four angles where their folder is absent. Labels have PASCAL VOC's
colors of 0 background, which is ignored, and 1..8; published readers take red for blue in them.
That changes building with road and car with sky, so the order is decided by where sky and road lie.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.data.images import list_images, read_color, read_label
from rgbx_seg_train.data.labels import voc_color
from rgbx_seg_train.data.polarization import ANGLES, MEASURES, ODD_CHANNELS
from rgbx_seg_train.data.public import Entry, PublicSet, id_table, ids_of, ids_of_colors
from rgbx_seg_train.data.sample import CorruptImage, Image

MARK = '_image0'  # ends a scene's name in the names of its files
ROAD, CAR, SKY, BUILDING = 4, 3, 6, 1  # raw ids
LOOKED_AT = 12  # labels that the order of colors is decided by
TOP, BOTTOM = 0.2, 0.2  # shares of a label's height where sky and road are looked for
SURE = 0.75  # share of the deciding pixels that must agree

_DECIDING = Lock()  # labels are checked by threads, which all ask for the order at first
_COLORS = tuple(voc_color(raw) for raw in range(9))
_IDS = id_table({0: UNLABELED, UNLABELED: UNLABELED, **{raw: raw - 1 for raw in range(1, 9)}})


class ZJU(PublicSet):
    """One split of ZJU RGB-P."""

    COUNTS = MappingProxyType({'train': 344, 'val': 50})
    classes = 'zju'
    modality = 'polarization'

    def find(self) -> list[Entry]:
        """Return the scenes of the split, by name."""
        folder = self.root / self.source.split
        images = {angle: _by_scene(folder / str(angle)) for angle in ANGLES}
        labels = _by_scene(folder / 'label')
        entries = []
        ready = self._ready(folder)
        for name in sorted(images[0].keys() | labels.keys()):
            views = [images[angle].get(name, folder / f'{angle}' / f'{name}{MARK}_{angle}.png')
                     for angle in ANGLES]
            aux = tuple(views) if ready is None else (
                ready.get(name, folder / f'{self.source.aux}2' / f'{name}_{self.source.aux}.png'),)
            label = labels.get(name, folder / 'label' / f'{name}{MARK}.png')
            entries.append(Entry(name, views[0], aux, label))
        return entries

    def _ready(self, folder: Path) -> dict[str, Path] | None:
        """Return the computed images by scene; None where the data set comes without."""
        for name in (f'{self.source.aux}2', self.source.aux):
            if (folder / name).is_dir():
                return _by_scene(folder / name, f'_{self.source.aux}')
        return None

    @property
    def odd_channels(self) -> tuple[int, ...]:
        """Return the channels that are angles, which a mirror turns around; see Sample."""
        return ODD_CHANNELS[self.source.aux]

    def read_aux(self, entry: Entry) -> Image:
        """Return AoLP or DoLP of each color, or the robot's measures, uint8 (H, W, 3)."""
        return read_color(entry.aux[0]) if len(entry.aux) == 1 else self.read_pair(entry)[1]

    def read_pair(self, entry: Entry) -> tuple[Image, Image]:
        """Return rgb and aux; the image at 0 degrees, which is both, is decoded once."""
        if len(entry.aux) == 1:
            return super().read_pair(entry)
        images = [read_color(path) for path in entry.aux]
        for image, path in zip(images, entry.aux, strict=True):
            if image.shape != images[0].shape:
                raise CorruptImage(f'{path}: the image is {image.shape[1]}x{image.shape[0]} and '
                                   f'that at 0 degrees {images[0].shape[1]}x{images[0].shape[0]}; '
                                   'expected one size; replace them.')
        return images[0], MEASURES[self.source.aux](images)

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..7, of colors or of an indexed image."""
        label = read_label(entry.label)
        if label.ndim == 3:
            if self.channel_order == 'bgr':
                label = label[..., 2::-1]
            label = ids_of_colors(entry.label, label, _COLORS)
        return ids_of(entry.label, label, _IDS)

    @property
    def channel_order(self) -> str:
        """Return rgb or bgr, as the source says or its labels show."""
        if self.source.channel_order != 'auto':
            return self.source.channel_order
        with _DECIDING:
            votes = self._votes
        if votes.max() < SURE * max(votes.sum(), 1) or not votes.any():
            raise RgbxSegError(f'{self.root}: of the pixels in the labels\' top and bottom rows '
                               f'{votes[0]} are sky and road if colors are RGB, and {votes[1]} if '
                               'they are BGR, which decides nothing; expected a clear majority; '
                               'look at a label and set channel_order to rgb or bgr.')
        return 'rgb' if votes[0] > votes[1] else 'bgr'

    @cached_property
    def _votes(self) -> Image:
        """Return `sky_and_road` of some labels; those that cannot be decoded have no say."""
        step = max(1, len(self.entries) // LOOKED_AT)
        votes = np.zeros(2, np.int64)
        for entry in self.entries[::step]:
            with suppress(CorruptImage):
                if entry.label.is_file() and (label := read_label(entry.label)).ndim == 3:
                    votes += sky_and_road(label)
        return votes


def sky_and_road(label: Image) -> Image:
    """Return how many pixels of a label are sky at the top or road at the bottom: [if RGB, if BGR].

    In the other order the sky is called car and the road building, neither of which fills the
    bottom or top of a street.
    """
    height = label.shape[0]
    top, bottom = label[:round(height * TOP)], label[height - round(height * BOTTOM):]
    return np.array([
        _count(top, SKY) + _count(bottom, ROAD),
        _count(top, CAR) + _count(bottom, BUILDING),
    ])


def _count(image: Image, raw: int) -> int:
    return int((image[..., :3] == _COLORS[raw]).all(2).sum())


def _by_scene(folder: Path, suffix: str = '') -> dict[str, Path]:
    """Return the images of a folder by the scene that their names begin with, if there is one."""
    images = list_images(folder) if folder.is_dir() else {}
    return {stem.split(MARK)[0].removesuffix(suffix): path for stem, path in images.items()}
