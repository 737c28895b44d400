# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The classes of the public data sets, and the one set that unites them.

Ids are training ids: contiguous from 0, 255 ignored. Palettes are the data sets' own where they
have one, else PASCAL VOC's bit-interleaved colors. SegRGB-X trains on five sets at once, but its
paper gives neither the size of the united set nor its rule. Ours: classes of equal name are one,
and so are pedestrian and person; cars, car and vehicle; two-wheeler, bike and bicycle; ground rail
and guardrail; other and others; tree and vegetation. That makes 70, and no data set has two classes
in one of them, so that going back to a data set is a choice of channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_train.data.coco_classes import NAMES as COCO_STUFF_NAMES
from rgbx_seg_train.data.synthetic import CLASSES

Color = tuple[int, int, int]


def voc_color(number: int) -> Color:
    """Return the color of an id in PASCAL VOC: each channel takes every third bit, mirrored."""
    red, green, blue = (
        sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for channel in range(3)
    )
    return red, green, blue


def _classes(*rows: tuple[str, Color]) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(number, name, color) for number, (name, color) in enumerate(rows))


_PST900 = _classes(
    ('background', (0, 0, 0)), ('fire_extinguisher', (0, 0, 255)), ('backpack', (0, 255, 0)),
    ('hand_drill', (255, 0, 0)), ('survivor', (255, 255, 255)),
)

_FMB = _classes(  # the protocol of 14: its background, raw id 0, is ignored
    ('road', (228, 228, 179)), ('sidewalk', (133, 57, 181)), ('building', (177, 162, 67)),
    ('traffic_light', (50, 178, 200)), ('traffic_sign', (199, 45, 132)),
    ('vegetation', (84, 172, 66)), ('sky', (79, 73, 179)), ('person', (166, 99, 76)),
    ('car', (253, 121, 66)), ('truck', (91, 165, 137)), ('bus', (152, 97, 155)),
    ('motorcycle', (140, 153, 105)), ('bicycle', (158, 215, 222)), ('pole', (90, 113, 135)),
)

_FMB15 = _classes(('background', (0, 0, 0)), *((info.name, info.color) for info in _FMB))

_DELIVER = _classes(
    ('building', (70, 70, 70)), ('fence', (100, 40, 40)), ('other', (55, 90, 80)),
    ('pedestrian', (220, 20, 60)), ('pole', (153, 153, 153)), ('road_line', (157, 234, 50)),
    ('road', (128, 64, 128)), ('sidewalk', (244, 35, 232)), ('vegetation', (107, 142, 35)),
    ('cars', (0, 0, 142)), ('wall', (102, 102, 156)), ('traffic_sign', (220, 220, 0)),
    ('sky', (70, 130, 180)), ('ground', (81, 0, 81)), ('bridge', (150, 100, 100)),
    ('rail_track', (230, 150, 140)), ('ground_rail', (180, 165, 180)),
    ('traffic_light', (250, 170, 30)), ('static', (110, 190, 160)), ('dynamic', (170, 120, 50)),
    ('water', (45, 60, 150)), ('terrain', (145, 170, 100)), ('two_wheeler', (0, 0, 230)),
    ('bus', (0, 60, 100)), ('truck', (0, 0, 70)),
)

_NYU40_NAMES = (
    'wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf',
    'picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain', 'dresser', 'pillow', 'mirror',
    'floor_mat', 'clothes', 'ceiling', 'books', 'refrigerator', 'television', 'paper', 'towel',
    'shower_curtain', 'box', 'whiteboard', 'person', 'night_stand', 'toilet', 'sink', 'lamp',
    'bathtub', 'bag', 'otherstructure', 'otherfurniture', 'otherprop',
)
_NYU40 = _classes(*((name, voc_color(raw)) for raw, name in enumerate(_NYU40_NAMES, 1)))

_ZJU_NAMES = ('building', 'glass', 'car', 'road', 'tree', 'sky', 'pedestrian', 'bicycle')
_ZJU = _classes(*((name, voc_color(raw)) for raw, name in enumerate(_ZJU_NAMES, 1)))

_URBANLF = _classes(
    ('bike', (168, 198, 168)), ('building', (198, 0, 0)), ('fence', (202, 154, 198)),
    ('others', (0, 0, 0)), ('person', (100, 198, 198)), ('pole', (198, 100, 0)),
    ('road', (52, 42, 198)), ('sidewalk', (154, 52, 192)), ('traffic_sign', (198, 0, 168)),
    ('vegetation', (0, 198, 0)), ('vehicle', (198, 186, 90)), ('bridge', (108, 107, 161)),
    ('rider', (156, 200, 26)), ('sky', (158, 179, 202)),
)

_COCO_STUFF = _classes(*((name, voc_color(raw)) for raw, name in enumerate(COCO_STUFF_NAMES, 1)))

_UNION70_NAMES = (
    'building', 'fence', 'other', 'person', 'pole', 'road_line', 'road', 'sidewalk', 'vegetation',
    'car', 'wall', 'traffic_sign', 'sky', 'ground', 'bridge', 'rail_track', 'guardrail',
    'traffic_light', 'static', 'dynamic', 'water', 'terrain', 'bike', 'bus', 'truck',  # DeLiVER
    'unlabeled', 'curve', 'car_stop', 'color_cone', 'bump',  # 25: MFNet
    'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf',  # 30: NYU
    'picture', 'counter', 'blinds', 'desk', 'shelves', 'curtain', 'dresser', 'pillow', 'mirror',
    'floor_mat', 'clothes', 'ceiling', 'books', 'refrigerator', 'television', 'paper', 'towel',
    'shower_curtain', 'box', 'whiteboard', 'night_stand', 'toilet', 'sink', 'lamp', 'bathtub',
    'bag', 'otherstructure', 'otherfurniture', 'otherprop',
    'glass', 'rider',  # 68: ZJU, UrbanLF
)


def _union_colors() -> list[Color]:
    """Return DeLiVER's colors, then those of PASCAL VOC that are not taken."""
    colors = [info.color for info in _DELIVER]
    free = (color for color in map(voc_color, range(256)) if color not in colors)
    return [*colors, *(next(free) for _ in _UNION70_NAMES[len(colors):])]


CLASS_SETS: dict[str, tuple[ClassInfo, ...]] = {
    'mfnet': CLASSES,
    'pst900': _PST900,
    'fmb': _FMB,
    'fmb15': _FMB15,
    'deliver': _DELIVER,
    'nyu40': _NYU40,
    'zju': _ZJU,
    'urbanlf': _URBANLF,
    'coco_stuff': _COCO_STUFF,
    'union70': _classes(*zip(_UNION70_NAMES, _union_colors(), strict=True)),
}

_NONE = UNLABELED


def _in_union(name: str) -> int:
    name = {'bicycle': 'bike', 'tree': 'vegetation'}.get(name, name)
    return _UNION70_NAMES.index(name) if name in _UNION70_NAMES else _NONE


# The union's id of each class. PST900, FMB and COCO-Stuff are no part of the union and only meet
# it; the background of the first two is what MFNet calls unlabeled.
TO_UNION: dict[str, tuple[int, ...]] = {
    'mfnet': (25, 9, 3, 22, 26, 27, 16, 28, 29),
    'pst900': (25, _NONE, _NONE, _NONE, 3),
    'fmb': (6, 7, 0, 17, 11, 8, 12, 3, 9, 24, 23, _NONE, 22, 4),
    'fmb15': (25, 6, 7, 0, 17, 11, 8, 12, 3, 9, 24, 23, _NONE, 22, 4),
    'deliver': tuple(range(25)),
    'nyu40': (10, *range(30, 59), 3, *range(59, 68)),
    'zju': (0, 68, 9, 6, 8, 12, 3, 22),
    'urbanlf': (22, 0, 1, 2, 3, 4, 6, 7, 11, 8, 9, 14, 69, 12),
    'coco_stuff': tuple(map(_in_union, COCO_STUFF_NAMES)),
    'union70': tuple(range(70)),
}


def own_classes(names: Mapping[str, Any]) -> tuple[ClassInfo, ...]:
    """Return the classes of a mapping name -> color [r, g, b] or None, ids in its order."""
    if len(names) > UNLABELED:
        raise RgbxSegError(f'own_classes names {len(names)} classes; expected at most {UNLABELED}; '
                           'leave some out.')
    infos = []
    for number, (name, color) in enumerate(names.items()):
        if not isinstance(name, str) or not name:
            raise RgbxSegError(f'own_classes has the name {name!r}; expected a text; quote it.')
        if color is None:
            color = voc_color(number)
        good = isinstance(color, (list, tuple)) and len(color) == 3 and all(
            type(value) is int and 0 <= value <= 255 for value in color)
        if not good:
            raise RgbxSegError(f'own_classes.{name} is {color!r}; expected [red, green, blue] of '
                               '0..255, or null for a color of our choice.')
        infos.append(ClassInfo(number, name, tuple(color)))
    return tuple(infos)


def translation(source: str, target: str) -> NDArray[np.uint8]:
    """Return the table uint8 (256,) that turns ids of one set into ids of another.

    Classes of equal name are one, others meet in the union; what the target does not have becomes
    255.
    """
    if source == target:
        return np.arange(256, dtype=np.uint8)
    there = {union: own for own, union in enumerate(TO_UNION[target]) if union != UNLABELED}
    named = {info.name: info.id for info in CLASS_SETS[target]}
    table = np.full(256, UNLABELED, np.uint8)
    for info, union in zip(CLASS_SETS[source], TO_UNION[source], strict=True):
        table[info.id] = named.get(info.name, there.get(union, UNLABELED))
    return table


def channels(source: str, target: str) -> tuple[int, ...]:
    """Return for each class of a data set the channel of a network with the classes `target`.

    255 stands where the network has none. Eq. 8's remap() is the choice of these channels.
    """
    if source == target:
        return tuple(range(len(CLASS_SETS[source]))) if source in CLASS_SETS else ()
    return tuple(int(c) for c in translation(source, target)[:len(TO_UNION[source])])
