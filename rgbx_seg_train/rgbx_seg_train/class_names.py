# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Classes as commands are told them: a label set, a file that lists them, or names alone.

A file is a configuration, whose network's classes are meant, or the list that the node takes
(`class_choice`): names, with a color and a description of one's own where wanted. A name that is
told several times is one class, and what is told of it first counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.class_choice import YAML_SUFFIXES, read_file
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.labels import CLASS_SETS, Color
from rgbx_seg_train.data.open_sets import OPEN_SETS, open_set, short_names

SETS = (*CLASS_SETS, *OPEN_SETS)
MAX_PEEK = 1 << 20  # bytes of a file that are looked at
LISTS_CLASSES = re.compile(r'^(\{\s*)?["\']?(bank|classes)["\']?\s*:', re.MULTILINE)


class Named(NamedTuple):
    """One class, as far as it was told."""

    name: str  # by which it is chosen
    whole: str  # name with further words for the same, by which a description is found
    color: Color | None = None
    text: str = ''  # told with it, which a text model reads as it is


def read_classes(sources: Sequence[str], names: Sequence[str] = ()) -> tuple[Named, ...]:
    """Return the classes of label sets and files, then those of bare names.

    Raises:
        RgbxSegError: no class, a name that is empty, or a source that is none.

    """
    found = [named for source in sources for named in _of_source(source)]
    for name in names:
        if not name.strip() or not name.isprintable():
            raise RgbxSegError(f'the name {name!r} of a class is none; expected some letters; '
                               'correct it.')
        found.append(Named(name.strip(), name.strip()))
    if not found:
        raise RgbxSegError('no class is named; expected a label set '
                           f'({", ".join(SETS)}), a file (.yaml) or names; name one.')
    first: dict[str, Named] = {}
    for named in found:
        first.setdefault(named.name, named)
    return tuple(first.values())


def fixed_classes(source: str) -> tuple[ClassInfo, ...]:
    """Return the classes of a network: those of a data set or of a configuration, with ids."""
    if source in CLASS_SETS:
        return CLASS_SETS[source]
    if Path(source).suffix in YAML_SUFFIXES:
        return load_config(Path(source)).data.class_infos
    raise RgbxSegError(f'classes {source!r}: unknown; expected one of {", ".join(CLASS_SETS)}, or '
                       'a configuration (.yaml) with the classes.')


def _of_source(source: str) -> list[Named]:
    if source in OPEN_SETS:
        names = open_set(source)
        return [Named(short, name) for short, name in zip(short_names(names), names, strict=True)]
    if source not in CLASS_SETS and Path(source).suffix not in YAML_SUFFIXES:
        raise RgbxSegError(f'classes {source!r}: unknown; expected one of {", ".join(SETS)}, or a '
                           'file (.yaml) that lists classes or is a configuration; give single '
                           'names with --names.')
    if source not in CLASS_SETS and _lists_classes(Path(source)):
        return [Named(item.of or item.name, item.of or item.name, item.color, item.description)
                for item in read_file(Path(source)).wanted]
    return [Named(info.name, info.name, info.color) for info in fixed_classes(source)]


def _lists_classes(path: Path) -> bool:
    """Return whether a file is a list of classes rather than a configuration."""
    if not path.is_file():
        return False
    with path.open(encoding='utf-8', errors='replace') as file:
        return LISTS_CLASSES.search(file.read(MAX_PEEK)) is not None
