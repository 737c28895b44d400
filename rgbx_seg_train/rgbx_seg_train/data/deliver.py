# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""DeLiVER: 7885 rendered street scenes, 1042x1042, five weathers, five faults of sensors.

`{img,depth,hha,event,lidar,semantic}/WEATHER/{train,val,test}/PLACE/NUMBER_WHAT_front.png`, where
WHAT is rgb, depth (also in hha), event, lidar or semantic. A fault is a part of the path, such as
motionblur; a scene without one has no condition `case`. Depth in colors has the simulator's 24 bits
and is scaled as on the robot, 40 m being white; gray depth of 8 bits stays as it is. Labels hold
1..25 in their first channel, 0 and 255 are ignored. Published scores are mostly those of val.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.images import read_color, read_raw
from rgbx_seg_train.data.public import Entry, PublicSet, aux_of, id_table, read_ids
from rgbx_seg_train.data.sample import Image
from rgbx_seg_train.data.synthetic import aux_encoding

WEATHERS = ('cloud', 'fog', 'night', 'rain', 'sun')
CASES = ('motionblur', 'overexposure', 'underexposure', 'lidarjitter', 'eventlowres')
SUFFIX, LABEL_SUFFIX = '_rgb_front.png', '_semantic_front.png'
# aux: the part of the file's name; its folder has the name of the aux
NAMES = {'event': 'event', 'depth': 'depth', 'hha': 'depth', 'lidar': 'lidar'}
CARLA_RANGE_M, CARLA_COUNTS = 1000.0, (1 << 24) - 1  # of depth in three channels

_IDS = id_table({0: UNLABELED, UNLABELED: UNLABELED, **{raw: raw - 1 for raw in range(1, 26)}})


class DeLiVER(PublicSet):
    """One split of DeLiVER's front views with one of its second sensors.

    Event images are of the modality event; depth, HHA and LiDAR, which is projected into the image,
    are all of the modality depth.
    """

    COUNTS = MappingProxyType({'train': 3983, 'val': 2005, 'test': 1897})
    classes = 'deliver'

    @classmethod
    def modality_of(cls, source: Any) -> str:
        """Return event or depth."""
        return 'event' if source.aux == 'event' else 'depth'

    def expected(self) -> int | None:
        """Return the official number of samples, None for one weather or fault alone."""
        part = self.source.weather or self.source.case
        return None if part else super().expected()

    def find(self) -> list[Entry]:
        """Return the samples of the split, by weather, place and number."""
        images = self.root / 'img'
        if not images.is_dir():
            raise RgbxSegError(f'{images}: no such folder; expected DeLiVER\'s RGB images; correct '
                               'root.')
        return self._entries(self._names('img', SUFFIX))

    def everything(self) -> list[Entry]:
        """Return the samples, and those of which there is a label alone."""
        if not self.labeled:
            return self.entries
        return self._entries(self._names('img', SUFFIX) | self._names('semantic', LABEL_SUFFIX))

    def _names(self, folder: str, suffix: str) -> set[Path]:
        """Return WEATHER/SPLIT/PLACE/NUMBER of the files in a folder of the root."""
        weathers = [self.source.weather] if self.source.weather else WEATHERS
        return {path.relative_to(self.root / folder).with_name(path.name.removesuffix(suffix))
                for weather in weathers for path in
                (self.root / folder / weather / self.source.split).glob(f'*/*{suffix}')}

    def _entries(self, names: set[Path]) -> list[Entry]:
        entries = (self._entry(name.parent, name.name) for name in sorted(names))
        return [entry for entry in entries
                if self.source.case in ('', entry.conditions.get('case'))]

    def _entry(self, place: Path, number: str) -> Entry:
        aux = place / f'{number}_{NAMES[self.source.aux]}_front.png'
        case = next((case for case in CASES if case in str(place / number)), None)
        weather = place.parts[0]
        conditions = {'time': 'night' if weather == 'night' else 'day', 'weather': weather,
                      **({'case': case} if case else {})}
        return Entry(str(place / number), self.root / 'img' / place / f'{number}{SUFFIX}',
                     (self.root / self.source.aux / aux,),
                     self.root / 'semantic' / place / f'{number}{LABEL_SUFFIX}', conditions)

    def read_aux(self, entry: Entry) -> Image:
        """Return aux uint8 (h, w) or (h, w, 3) at its own size."""
        if self.source.aux != 'depth':
            return read_color(entry.aux[0])
        raw = read_raw(entry.aux[0])
        if raw.dtype == np.uint8 and raw.ndim == 3 and np.ptp(raw[..., :3], axis=2).any():
            return to_uint8(carla_depth(raw), aux_encoding('depth'))
        return aux_of(entry.aux[0], raw, self.modality)

    def read_pair(self, entry: Entry) -> tuple[Image, Image]:
        """Return rgb and aux of one size: an event image is smaller, and each event stays one."""
        rgb, aux = super().read_pair(entry)
        if self.modality == 'event' and aux.shape[:2] != rgb.shape[:2]:
            aux = cv2.resize(aux, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return rgb, aux

    def read_label(self, entry: Entry) -> Image:
        """Return ids 0..24."""
        return read_ids(entry.label, _IDS)


def carla_depth(image: Image) -> NDArray[np.float32]:
    """Return meters (H, W) of the simulator's depth RGB(A): 24 bits up to 1 km, red is lowest."""
    counts = image[..., :3].astype(np.float64) @ (1.0, 256.0, 65536.0)
    return (counts * (CARLA_RANGE_M / CARLA_COUNTS)).astype(np.float32)
