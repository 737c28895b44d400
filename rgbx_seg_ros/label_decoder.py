# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Label pictures to class ids: gray or indexed ids, or the colors of a palette; never a JPEG.

The ids in labels are those of the classes that a bundle was exported with. Where masks have other
ones, chosen at run time, labels are turned into theirs by the names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.images import (
    JPEG_SIGNATURE,
    PNG_SIGNATURE,
    ImageError,
    decode,
    decode_compressed,
    decode_label,
)
from rgbx_seg_ros.incoming import is_compressed
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo

Image = NDArray[np.uint8]

PNG_COLOR = (2, 6)  # color types of RGB and RGBA
RAW_IDS = ('mono8', 'mono16', '8UC1', '16UC1')
RAW_COLORS = ('rgb8', 'bgr8', 'rgba8', 'bgra8')  # 8UC3 names no order of its channels
MAX_YAML_BYTES = 1 << 20
MOST_NAMES = 8  # of classes in a sentence
HEX_COLOR = re.compile('#([0-9a-fA-F]{6})')


class Decoder:
    """Turns label pictures into class ids of a bundle, uint8 (H, W), 255 = not labeled.

    Several threads may use one.
    """

    def __init__(self, classes: Iterable[ClassInfo], palette: Path | None = None,
                 found: Iterable[ClassInfo] | None = None) -> None:
        """Take the colors of `palette`, a YAML of class name or id -> color, or the classes' own.

        The ids in labels are those of `classes`; where the masks to judge have other classes,
        `found`, the ids are turned into those of the same name there, or into 255.

        Raises:
            RgbxSegError: the file is no palette of these classes.

        """
        self._classes = tuple(classes)
        self._found = found = self._classes if found is None else tuple(found)
        self._turned: Image | None = None  # id of a label -> id of a mask, if they differ
        if [(info.id, info.name) for info in found] != [
                (info.id, info.name) for info in self._classes]:
            self._turned = _by_name(self._classes, found)
        self._palette = palette
        self._keys: NDArray[np.uint32] | None = None  # packed colors, ascending, and their ids
        self._ids: Image
        self._known = np.zeros(256, np.uint8)
        self._known[[info.id for info in self._classes] + [UNLABELED]] = 1
        if palette is not None:
            self._set_colors(self._of_palette(palette))

    def of_message(self, message: Any, where: str) -> Image:
        """Return the ids of an Image or CompressedImage; `where` names it in an RgbxSegError."""
        try:
            if is_compressed(message):
                return self._of_png(message.format, message.data, where)
            if message.encoding not in (*RAW_IDS, *RAW_COLORS):
                raise RgbxSegError(f'{where} is {message.encoding}, expected class ids as '
                                   f'{", ".join(RAW_IDS)}, or colors as rgb8 or bgr8.')
            return self._finish(decode(message.height, message.width, message.encoding,
                                       message.step, message.is_bigendian, message.data), where)
        except ImageError as error:
            raise RgbxSegError(f'{where}: {error}') from None

    def of_file(self, path: Path) -> Image:
        """Return the ids of a PNG."""
        try:
            return self._of_png(path.suffix, path.read_bytes(), str(path))
        except (ImageError, OSError) as error:
            raise RgbxSegError(f'{path}: {error}') from None

    def _of_png(self, format: str, data: Any, where: str) -> Image:
        head = bytes(memoryview(data)[:26])
        if head.startswith(JPEG_SIGNATURE):
            raise RgbxSegError(f'{where} is a JPEG, which changes ids and colors, expected a PNG; '
                               'label anew without loss.')
        is_color = (head.startswith(PNG_SIGNATURE) and len(head) == 26 and head[24] == 8
                    and head[25] in PNG_COLOR)
        return self._finish(decode_compressed(format, data) if is_color
                            else decode_label(format, data), where)

    def _finish(self, picture: NDArray[Any], where: str) -> Image:
        if picture.ndim == 3:
            return self._of_colors(picture, where)
        if picture.dtype != np.uint8:
            if picture.max(initial=0) > UNLABELED:
                raise RgbxSegError(f'{where} holds the id {picture.max()}, expected 0 to '
                                   f'{UNLABELED}, which is unlabeled.')
            picture = picture.astype(np.uint8)
        known = cv2.LUT(picture, self._known)
        if missing := picture.size - cv2.countNonZero(known):
            strange = int(picture[known == 0].min())
            raise RgbxSegError(
                f'{where} holds the id {strange}, and {missing} pixels in all that no class has, '
                f'expected {", ".join(str(info.id) for info in self._classes)} or {UNLABELED} '
                '(unlabeled); choose a bundle of these classes, or label anew.')
        return picture if self._turned is None else cv2.LUT(picture, self._turned)

    def notes(self) -> list[str]:
        """Return sentences on classes that only labels have, or only masks."""
        if self._turned is None:
            return []
        labeled = {info.name for info in self._classes}
        if self._palette is not None:
            labeled |= {info.name for info in self._found if info.id in self._ids}
        masked = {info.name for info in self._found}
        new = [info.name for info in self._found if info.name not in labeled]
        lost = [info.name for info in self._classes if info.name not in masked]
        notes = []
        if new:
            notes.append(f'the labels have no {_listed(new)}, which the masks are told to find: '
                         'wherever they do, it counts as wrong; leave it out, or name its color '
                         'in a palette (--palette).')
        if lost:
            notes.append(f'the labels have {_listed(lost)}, which the masks are not told to find: '
                         'these pixels are not scored.')
        return notes

    def _of_palette(self, palette: Path) -> dict[int, int]:
        """Return the ids of masks by packed color; a palette may name classes of either kind."""
        if self._turned is None:
            return load_palette(palette, self._classes)
        ids = {info.name: int(self._turned[info.id]) for info in self._classes}
        names = {info.id: ids[info.name] for info in self._classes}
        return load_palette(palette, (), {**ids, **names,
                                          **{one.name: one.id for one in self._found}})

    def _of_colors(self, picture: Image, where: str) -> Image:
        if self._keys is None:
            colors = _own_colors(self._classes)
            if self._turned is not None:
                colors = {key: int(self._turned[id]) for key, id in colors.items()}
            self._set_colors(colors)
        assert self._keys is not None
        packed = _pack(picture)
        at = np.searchsorted(self._keys, packed).clip(max=len(self._keys) - 1)
        unknown = self._keys[at] != packed
        if unknown.any():
            key = int(packed[unknown][0])
            count = int((packed == key).sum())
            raise RgbxSegError(
                f'{where} holds the color {[key >> 16, key >> 8 & 255, key & 255]} on {count} '
                f'pixels, expected those of {self._palette or "the bundle"}; name its class, or '
                'unlabeled, in a palette (--palette).')
        return self._ids[at]

    def _set_colors(self, colors: Mapping[int, int]) -> None:
        self._ids = np.array([colors[key] for key in sorted(colors)], np.uint8)
        self._keys = np.array(sorted(colors), np.uint32)  # last: other threads look for them


def _listed(names: list[str]) -> str:
    """Return names as part of a sentence, the first of them if they are many."""
    more = f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''
    return ', '.join(names[:MOST_NAMES]) + more


def _by_name(classes: Iterable[ClassInfo], found: Iterable[ClassInfo]) -> Image:
    """Return the id in `found` of each id in `classes` by name, uint8 (256,); 255 without one."""
    own = {info.name: info.id for info in found}
    table = np.full(256, UNLABELED, np.uint8)
    for info in classes:
        table[info.id] = own.get(info.name, UNLABELED)
    return table


def _pack(picture: Image) -> NDArray[np.uint32]:
    wide = picture.astype(np.uint32)
    packed: NDArray[np.uint32] = wide @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    return packed


def _own_colors(classes: tuple[ClassInfo, ...]) -> dict[int, int]:
    """Return the ids of the classes by packed color; what is black is not labeled, or its class."""
    colors = {0: UNLABELED}
    for info in classes:
        key = info.color[0] << 16 | info.color[1] << 8 | info.color[2]
        if colors.get(key, UNLABELED) != UNLABELED:
            raise RgbxSegError(f'two classes of the bundle have the color {list(info.color)}, '
                               'expected one color for each where labels are colors; name others '
                               'in a palette (--palette).')
        colors[key] = info.id
    return colors


def load_palette(file: Path, classes: Iterable[ClassInfo],
                 more: Mapping[Any, int] | None = None) -> dict[int, int]:
    """Return the ids by packed color, 0xRRGGBB, of a YAML: class name or id -> color or colors.

    A color is [red, green, blue] or '#rrggbb'; `unlabeled` or 255 is no class; `more` are further
    names or ids and what they become. RgbxSegError for a file that is none, a class that is not
    known, or one color of two classes.
    """
    try:
        if file.stat().st_size > MAX_YAML_BYTES:
            raise ValueError(f'larger than {MAX_YAML_BYTES} bytes')
        content = yaml.safe_load(file.read_text('utf-8'))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).split('\n')[0]
        raise RgbxSegError(f'{file}: cannot be read ({reason}), expected a YAML of class: [red, '
                           'green, blue].') from None
    names: dict[Any, int] = {'unlabeled': UNLABELED, UNLABELED: UNLABELED}
    for info in classes:
        names.update({info.id: info.id, info.name: info.id})
    names.update(more or {})
    if not isinstance(content, dict) or not content:
        raise RgbxSegError(f'{file}: no classes, expected a YAML of class: [red, green, blue].')
    colors: dict[int, int] = {}
    for name, value in content.items():
        if name not in names:
            raise RgbxSegError(f'{file}: the class {name!r} is unknown, expected one of '
                               f'{", ".join(str(key) for key in names)}.')
        several = isinstance(value, list) and value and not _is_byte(value[0])
        for color in value if several else [value]:
            key = _color(file, name, color)
            if colors.setdefault(key, names[name]) != names[name]:
                raise RgbxSegError(f'{file}: the color {color} stands for two classes, expected '
                                   'one.')
    return colors


def _color(file: Path, name: Any, value: Any) -> int:
    if isinstance(value, str) and (found := HEX_COLOR.fullmatch(value)):
        return int(found[1], 16)
    if not (isinstance(value, list) and len(value) == 3 and all(map(_is_byte, value))):
        raise RgbxSegError(f'{file}: {name} is {str(value)[:80]}, expected [red, green, blue] of '
                           "0..255, or '#rrggbb'.")
    return int(value[0] << 16 | value[1] << 8 | value[2])


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255
