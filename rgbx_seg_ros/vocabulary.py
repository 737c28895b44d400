# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bank of a bundle whose classes are chosen at run time: names, and what a text model made.

The robot has no text model. `classes.npz` holds an embedding for each name that it may be told,
made offline by `rgbx_embed_classes --bank`; to choose classes is to look up rows. A name that is
not in the bank is refused with the nearest ones that are, for a wrong guess would be found in every
picture.
"""

from __future__ import annotations

import difflib
import io
import math
import os
import re
import shlex
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo

Rows = NDArray[np.float32]
ARRAYS = {'names': (1, 'U'), 'texts': (1, 'U'), 'colors': (2, 'u1'), 'embeddings': (2, 'f4')}
MAX_NAMES = 100_000
MAX_NAME = 200  # characters
MAX_WIDTH = 65536
MAX_ARRAY_BYTES = 1 << 28
NEAREST = 3  # names that a refusal tells
REMEDY = 'make the bank anew with `rgbx_embed_classes --bank`'


@dataclass(frozen=True)
class Bank:
    """What a text model made of the names that may become classes, row by row.

    `texts` holds what it read of a name; several sentences of one name are one line each.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    colors: NDArray[np.uint8]  # (M, 3)
    embeddings: Rows  # (M, D)

    def __post_init__(self) -> None:
        """Take any sequences; refuse what cannot be looked up."""
        for key in ('names', 'texts'):
            object.__setattr__(self, key, tuple(str(text) for text in getattr(self, key)))
        for key, dtype in (('colors', np.uint8), ('embeddings', np.float32)):
            object.__setattr__(self, key, np.ascontiguousarray(getattr(self, key), dtype))
        count = len(self.names)
        _expect(0 < count <= MAX_NAMES, f'{count} names', f'1..{MAX_NAMES}')
        _expect(len(self.texts) == count, f'{len(self.texts)} texts', f'{count}, one a name')
        _expect(self.colors.shape == (count, 3), f'colors {self.colors.shape}', f'({count}, 3)')
        rows = self.embeddings
        good = rows.ndim == 2 and len(rows) == count and 0 < rows.shape[1] <= MAX_WIDTH
        _expect(good, f'embeddings {rows.shape}', f'({count}, D), D from 1 to {MAX_WIDTH}')
        bad_names = [name for name in self.names if not (0 < len(name) <= MAX_NAME and
                     name.strip() == name and name.isprintable())]
        _expect(not bad_names, f'the name {bad_names[0][:MAX_NAME] if bad_names else ""!r}',
                f'1..{MAX_NAME} printable characters without spaces around them')
        twice = sorted(name for name, times in Counter(self.names).items() if times > 1)
        _expect(not twice, f'{", ".join(twice[:NEAREST])} twice', 'each name once')
        lengths = np.linalg.norm(rows, axis=1)
        bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
        _expect(not bad.size, f'an embedding of {self.names[bad[0]] if bad.size else ""!r} without '
                'a direction', 'finite numbers, not all of them 0')

    @property
    def width(self) -> int:
        """Return D, the length of an embedding."""
        return int(self.embeddings.shape[1])


class Wanted(NamedTuple):
    """One class that somebody asks for."""

    name: str  # under which it is published
    of: str = ''  # its name in the bank; '' is the same one
    color: tuple[int, int, int] | None = None  # None: that of the bank
    description: str = ''  # what the text model must have read of it; '': anything


def choose(bank: Bank, names: Sequence[str | Wanted], file: str = 'FILE.yaml'
           ) -> tuple[tuple[ClassInfo, ...], Rows]:
    """Return the classes of ids 0..N-1, in the order of `names`, and their rows float32 (N, D).

    A color that is taken already, for one bank may know a thousand names, becomes a free one.
    `file` is what refusals call the list that descriptions come from.

    Raises:
        RgbxSegError: no names, one of them twice or not in the bank, or more than ids go to.

    """
    wanted = [Wanted(name) if isinstance(name, str) else name for name in names]
    if not 0 < len(wanted) <= UNLABELED:
        raise RgbxSegError(f'{len(wanted)} classes were asked for; expected 1..{UNLABELED}, as '
                           'many as a mask has ids: name fewer, or more, of the bank.')
    asked: set[str] = set()
    for item in wanted:
        if item.name in asked:
            raise RgbxSegError(f'class {item.name!r} was asked for twice; expected each name once: '
                               'remove one of them.')
        asked.add(item.name)
    places = {name: row for row, name in enumerate(bank.names)}
    told: dict[str, int] = {}  # what was read of a name -> its row
    if any(item.description for item in wanted):
        for row, text in enumerate(bank.texts):
            for part in _parts(text):
                told.setdefault(part, row)
    rows = [_row(bank, places, told, item, file) for item in wanted]
    colors = _colors(wanted, bank.colors[rows])
    classes = tuple(ClassInfo(id, item.name, color)
                    for id, (item, color) in enumerate(zip(wanted, colors, strict=True)))
    return classes, bank.embeddings[rows]


def _row(bank: Bank, places: dict[str, int], told: dict[str, int], item: Wanted, file: str) -> int:
    """Return the row of one class; an own description is looked for in all texts."""
    name = item.of or item.name
    row = places.get(name)
    if item.description:
        description = _plain(item.description)
        if row is not None and description in _parts(bank.texts[row]):
            return row
        if not item.of and description in told:
            return told[description]
        raise RgbxSegError(f'the description of class {item.name!r} is not in the bank, and the '
                           'robot has no text model; expected a text of the bank: leave it out, or '
                           f'make a bank elsewhere by {_command(shlex.quote(file), file)} and name '
                           'it as `bank` in the file.')
    if row is None:
        name = name[:MAX_NAME]
        raise RgbxSegError(f'class {name!r} is not among the {len(bank.names)} names of the bank; '
                           f'{_hint(name, bank.names)}: choose one of the bank, or make another '
                           f'one elsewhere by {_command(f"--names {shlex.quote(name)}")}.')
    return row


def _command(classes: str, file: str = 'FILE.yaml') -> str:
    """Return the command that embeds classes; MODEL is the text model of the bundle's training."""
    bank = shlex.quote(str(Path(file).with_suffix('.npz')))
    return f'`rgbx_embed_classes {classes} --bank {bank} --model MODEL`'


def _parts(text: str) -> set[str]:
    """Return what finds a text that a text model read: the whole of it, or a line."""
    return {_plain(part) for part in (text, *text.splitlines())}


def _plain(text: str) -> str:
    return ' '.join(re.sub(r'[_\W]+', ' ', text).casefold().split())


def _hint(name: str, known: Sequence[str]) -> str:
    if near := nearest(name, known):
        return f'the nearest {"is" if len(near) == 1 else "are"} {", ".join(map(repr, near))}'
    more = ', …' if len(known) > NEAREST else ''
    return f'it has {", ".join(map(repr, known[:NEAREST]))}{more}'


def nearest(name: str, known: Sequence[str], most: int = NEAREST) -> list[str]:
    """Return the names that `name` may have meant, the best first.

    Case, underscores, hyphens and spaces do not count; names of which it is a word come last.
    """
    plain: dict[str, list[str]] = {}
    for other in known:
        plain.setdefault(_plain(other), []).append(other)
    own = _plain(name[:MAX_NAME])
    close = difflib.get_close_matches(own, plain, most, 0.7) if own else []
    words = set(own.split())
    close += [other for other in plain if other not in close
              and words and (words <= set(other.split()) or set(other.split()) <= words)]
    return [given for other in close for given in plain[other]][:most]


def _colors(wanted: Sequence[Wanted], own: NDArray[np.uint8]) -> list[tuple[int, int, int]]:
    """Return a color for each class, no two of them equal."""
    taken: dict[tuple[int, ...], str] = {}
    for item in wanted:
        if item.color is None:
            continue
        if item.color in taken:
            raise RgbxSegError(f'classes {taken[item.color]!r} and {item.name!r} have the same '
                               f'color {list(item.color)}; expected different ones: change one.')
        taken[item.color] = item.name
    spare, colors = _spare_colors(), []
    for item, row in zip(wanted, own.tolist(), strict=True):
        color = item.color or tuple(row)
        while item.color is None and color in taken:
            color = next(spare)
        taken[color] = item.name
        colors.append(color)
    return colors


def _spare_colors() -> Iterator[tuple[int, int, int]]:
    """Yield different colors, unlike ones first: the bits of 1, 2, … spread over the channels."""
    for number in range(1, 1 << 24):
        channels = [0, 0, 0]
        for bit in range(24):
            channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        yield channels[0], channels[1], channels[2]


def save_bank(path: Path, bank: Bank) -> None:
    """Write a bank whole or not at all; the same bank gives the same bytes."""
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}-', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(to_bytes(bank))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def to_bytes(bank: Bank) -> bytes:
    """Return the content of the file of a bank."""
    file = io.BytesIO()
    np.savez_compressed(file, names=np.array(bank.names, np.str_),
                        texts=np.array(bank.texts, np.str_), colors=bank.colors,
                        embeddings=bank.embeddings)
    return file.getvalue()


def load_bank(path: Path) -> Bank:
    """Return the bank of a file.

    Raises:
        RgbxSegError: there is none, or it is damaged, too large or of another kind.

    """
    path = Path(path)
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long
        raise RgbxSegError(f'bank {path}: no such file; expected one that `rgbx_embed_classes '
                           '--bank` wrote.')
    try:
        with zipfile.ZipFile(path) as archive:
            arrays: dict[str, Any] = {name: _read_array(archive, name, *kind)
                                      for name, kind in ARRAYS.items()}
        return Bank(**arrays)
    except RgbxSegError as error:
        raise RgbxSegError(f'bank {path}: {error}') from None
    except Exception as error:  # readers of .zip and of NumPy's headers raise anything
        reason = ' '.join(str(error).split())[:120] or type(error).__name__
        raise RgbxSegError(f'bank {path}: it cannot be read ({reason}); expected an .npz file with '
                           f'{", ".join(ARRAYS)}; {REMEDY}.') from None


def _read_array(archive: zipfile.ZipFile, name: str, axes: int, kind: str) -> NDArray[Any]:
    """Return one array of a bank; its size is known, and bounded, before anything is unpacked."""
    with archive.open(f'{name}.npy') as file:
        version = np.lib.format.read_magic(file)
        _expect(version == (1, 0), f'{name} in format {version}', 'format (1, 0)')
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)  # of up to 64 KiB
        good = dtype.kind == 'U' if kind == 'U' else dtype == np.dtype(f'<{kind}')
        _expect(good and len(shape) == axes and not by_columns, f'{name} as {dtype} {shape}',
                f'{"text" if kind == "U" else np.dtype(kind)} with {axes} axes')
        count = math.prod(shape)
        size = count * dtype.itemsize
        good = 0 < size <= MAX_ARRAY_BYTES and shape[0] <= MAX_NAMES
        _expect(good, f'{name} {shape} of {size} bytes', f'1..{MAX_NAMES} rows, up to '
                f'{MAX_ARRAY_BYTES >> 20} MiB')
        content = file.read(size)
        _expect(len(content) == size and not file.read(1), f'{name} of another length than it says',
                f'{size} bytes')
    return np.frombuffer(content, dtype).reshape(shape)


def _expect(good: bool, found: str, expected: str) -> None:
    if not good:
        raise RgbxSegError(f'it has {found}; expected {expected}; {REMEDY}.')
