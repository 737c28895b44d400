# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: one dataclass per kind of source, with its defaults and bounds.

`data/<kind>.py` reads each kind; its docstring shows the layout of the files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.data.labels import CLASS_SETS

PARTS = ('all', 'train', 'held_out')
OWN = ''  # of a source's modality or classes: those of the section data


def number(default: float | None, low: float, high: float = math.inf) -> Any:
    """Return a field with bounds."""
    return field(default=default, metadata={'low': low, 'high': high})


def choice(default: str, choices: Sequence[str]) -> Any:
    """Return a field that takes one of some names."""
    return field(default=default, metadata={'choices': tuple(choices)})


@dataclass(frozen=True)
class SyntheticSource:
    """Scenes of `data/synthetic.py`, one image per seed."""

    kind: str = 'synthetic'
    first_seed: int = number(0, 0)
    count: int = number(1000, 1, 1_000_000)  # seeds first_seed .. first_seed + count - 1
    night_fraction: float | None = number(None, 0, 1)  # share of night; None = as the seeds draw
    max_time_s: float = number(3.0, 0)  # each scene is seen at a time drawn from 0..max_time_s
    modality: str = choice(OWN, (OWN, *MODALITIES))  # empty = data.modality
    weight: float = number(1.0, 0)  # how often this source is drawn, relative to the others


class _Rooted:
    """A source that lies in a folder."""

    root: str

    def __post_init__(self) -> None:
        """Refuse a source without a folder."""
        if not self.root:
            raise RgbxSegError('root is empty; expected the folder of the images; name it.')


@dataclass(frozen=True)
class FolderSource(_Rooted):
    """A folder of images: DIR/rgb, DIR/<modality>, DIR/<label_dir>, and weak labels in boxes."""

    kind: str = 'folder'
    root: str = ''  # the folder
    label_dir: str = 'label'  # folder of ids, or of the classes' colors
    boxes_dir: str = ''  # folder of human boxes (YOLO), used as weak labels; empty = none
    part: str = choice('all', PARTS)  # which side of the fixed split to take
    hold_out: float = number(0.25, 0, 1)  # share held out by the hash of the name
    hold_out_block: int = number(1, 1)  # neighboring frame numbers that go to the same side
    modality: str = choice(OWN, (OWN, *MODALITIES))  # empty = data.modality
    classes: str = choice(OWN, (OWN, *CLASS_SETS))  # the labels' ids; empty = data.classes
    weight: float = number(1.0, 0)  # how often this source is drawn, relative to the others


@dataclass(frozen=True)
class MFNetSource(_Rooted):
    """MFNet: 1569 RGB-thermal street scenes by day and night."""

    kind: str = 'mfnet'
    root: str = ''  # holds images/ (4 channels) or rgb/ and ther/, labels/ and the lists
    split: str = 'train'  # name of a list: train, val, test, test_day, test_night …
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class PST900Source(_Rooted):
    """PST900: 894 RGB-thermal pairs of a subterranean robot."""

    kind: str = 'pst900'
    root: str = ''  # holds train/ and test/
    split: str = choice('train', ('train', 'test'))
    fill_holes: bool = True  # inpaint the thermal pixels that its projection left empty
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class FMBSource(_Rooted):
    """FMB: 1500 RGB-thermal street scenes."""

    kind: str = 'fmb'
    root: str = ''  # holds train/ and test/, or Visible/, Infrared/, Label/ and the lists
    split: str = choice('train', ('train', 'test'))
    protocol: int = number(14, 14, 15)  # classes scored; 15 counts the background too
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class MSRSSource(_Rooted):
    """MSRS: 1444 aligned RGB-thermal street scenes by day and night, MFNet's classes."""

    kind: str = 'msrs'
    root: str = ''  # holds train/ and test/ with vi/, ir/, Segmentation_labels/
    split: str = choice('train', ('train', 'test'))
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class DeLiVERSource(_Rooted):
    """DeLiVER: rendered driving in five weathers, with broken sensors."""

    kind: str = 'deliver'
    root: str = ''  # holds img/, depth/, hha/, event/, lidar/, semantic/
    split: str = choice('train', ('train', 'val', 'test'))
    aux: str = choice('event', ('event', 'depth', 'hha', 'lidar'))  # lidar counts as depth
    weather: str = choice('', ('', 'cloud', 'fog', 'night', 'rain', 'sun'))  # only this one
    case: str = choice('', ('', 'motionblur', 'overexposure', 'underexposure', 'lidarjitter',
                            'eventlowres'))  # only scenes with this fault
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class NYUSource(_Rooted):
    """NYUDepthV2: 1449 rooms with depth, 40 classes."""

    kind: str = 'nyu'
    root: str = ''  # holds RGB/, HHA/ or Depth/, Label/ and the lists
    split: str = choice('train', ('train', 'test'))
    aux: str = choice('hha', ('hha', 'depth'))  # hha is computed from Depth/ where absent
    depth_scale: float = number(0.001, 1e-6, 1)  # meters of one count of Depth/
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class ZJUSource(_Rooted):
    """ZJU RGB-P: 394 street scenes through four polarizers."""

    kind: str = 'zju'
    root: str = ''  # holds train/ and val/
    split: str = choice('train', ('train', 'val'))
    # of each color, computed from the four angles where absent; or [DoLP, sin 2AoLP, cos 2AoLP]
    # of all colors, as the robot and rendered scenes have it: vector
    aux: str = choice('aolp', ('aolp', 'dolp', 'vector'))
    channel_order: str = choice('auto', ('auto', 'rgb', 'bgr'))  # of the label's colors on disk
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class UrbanLFSource(_Rooted):
    """UrbanLF: light fields of 9x9 views, 824 real and 250 rendered."""

    kind: str = 'urbanlf'
    root: str = ''  # holds real/ and Syn/
    split: str = choice('train', ('train', 'val', 'test'))
    part: str = choice('both', ('both', 'real', 'syn'))
    view: str = '1_1'  # the sub-aperture image that is aux: row_column, each 1..9
    weight: float = number(1.0, 0)


@dataclass(frozen=True)
class CocoStuffSource(_Rooted):
    """COCO-Stuff's layout: RGB images and label images of 171 classes, without a second camera."""

    kind: str = 'coco_stuff'
    root: str = ''  # holds images/ and annotations/, each with train2017/ and val2017/
    split: str = choice('train', ('train', 'val'))
    modality: str = choice('thermal', MODALITIES)  # of the second camera, whose image is black
    weight: float = number(1.0, 0)


SOURCES: dict[str, type] = {source.kind: source for source in (
    SyntheticSource, FolderSource, MFNetSource, PST900Source, FMBSource, MSRSSource, DeLiVERSource,
    NYUSource, ZJUSource, UrbanLFSource, CocoStuffSource,
)}
Source = (SyntheticSource | FolderSource | MFNetSource | PST900Source | FMBSource | MSRSSource
          | DeLiVERSource | NYUSource | ZJUSource | UrbanLFSource | CocoStuffSource)
