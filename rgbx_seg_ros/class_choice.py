# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which classes a bundle with a vocabulary is to find: by names, by a YAML file, by a bank.

A YAML file lists classes; each is a name of a bank, or has a `name` of its own, the `class` of the
bank that it stands for, a `color` and the `description` that a text model read. Names are looked up
in the bank that is given, then in the bundle's. All is checked before anything is changed.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import BANK_FILE, UNLABELED, ClassInfo, Manifest, sha256_of
from rgbx_seg_ros.vocabulary import MAX_NAME, Bank, Rows, Wanted, choose, load_bank

MAX_YAML_BYTES, MAX_VALUES = 1 << 18, 20 * UNLABELED  # PyYAML takes minutes for more of them
MAX_TEXT = 10_000  # characters of a description
BANK_SUFFIX = '.npz'
YAML_SUFFIXES = ('.yaml', '.yml')
KEYS = ('bank', 'classes')
ENTRY_KEYS = ('name', 'class', 'color', 'description')
SAME_MODEL = 0.99  # cosine of two embeddings of one text


class Choice(NamedTuple):
    """Classes of ids 0..N-1, and what an engine finds them by."""

    classes: tuple[ClassInfo, ...]
    rows: Rows  # float32 (N, D)


class Given(NamedTuple):
    """What a file of classes holds."""

    bank: Path | None = None
    wanted: tuple[Wanted, ...] = ()


def find_classes(bundle: Path, manifest: Manifest, names: Sequence[str] = (),
                 file: Path | None = None) -> Choice | None:
    """Return what is asked for of a bundle; None where its classes are fixed and nothing is.

    `names` are looked up in `file`, which lists classes or is a bank, then in the bundle. A file
    without `names` means all that it has, and neither means the classes of `manifest`, as exported.

    Raises:
        RgbxSegError: the classes are fixed, unknown, too many or twice, or the file is of no use.

    """
    vocabulary = manifest.vocabulary
    if vocabulary is None:
        if names or file is not None:
            raise RgbxSegError(
                f'the {len(manifest.classes)} classes of {manifest.name} are fixed, for its bundle '
                'has no vocabulary; expected a model that was exported with export.open_classes: '
                'take such a bundle, or leave classes and classes_file empty.')
        return None
    bank = _colored(_own_bank(Path(bundle) / BANK_FILE, vocabulary.sha256), manifest.classes)
    given = read_file(file) if file is not None else Given()
    wanted: Sequence[str | Wanted] = given.wanted
    if given.bank is not None:
        foreign = load_bank(given.bank)
        _check_foreign(given.bank, foreign, bank)
        bank = _joined(_colored(foreign, manifest.classes), bank)
        wanted = wanted or foreign.names
    if names:
        own = {item.name: item for item in given.wanted}
        wanted = [own.get(name, name) for name in names]
    if len(wanted) > vocabulary.most:
        raise RgbxSegError(f'{len(wanted)} classes were asked for; expected at most '
                           f'{vocabulary.most}, what {manifest.name} was exported for: name fewer, '
                           'or export it with more export.most_classes.')
    if not wanted:
        return Choice(manifest.classes,
                      choose(bank, [info.name for info in manifest.classes])[1])
    return Choice(*choose(bank, wanted, str(file or 'FILE.yaml')))


def _own_bank(path: Path, sha256: str) -> Bank:
    """Return the bank of a bundle, which may have been exchanged since an engine was opened."""
    bank = load_bank(path)
    if sha256_of(path) != sha256:
        raise RgbxSegError(f'bank {path} is not the one that its model was loaded with; expected '
                           'the bundle as it was: open it anew (clean up and configure the node).')
    return bank


def _colored(bank: Bank, classes: Sequence[ClassInfo]) -> Bank:
    """Return a bank in which the classes of a bundle have the colors that they have there."""
    own = {info.name: info.color for info in classes}
    colors = [own.get(name, color) for name, color in
              zip(bank.names, bank.colors.tolist(), strict=True)]
    return replace(bank, colors=np.array(colors, np.uint8))


def _joined(first: Bank, second: Bank) -> Bank:
    """Return all rows of the first bank, and those of the second that it has no name of."""
    known = set(first.names)
    rows = [row for row, name in enumerate(second.names) if name not in known]
    return Bank((*first.names, *(second.names[row] for row in rows)),
                (*first.texts, *(second.texts[row] for row in rows)),
                np.concatenate([first.colors, second.colors[rows]]),
                np.concatenate([first.embeddings, second.embeddings[rows]]))


def _check_foreign(path: Path, bank: Bank, own: Bank) -> None:
    """Raise unless a bank can be of the text model that the bundle's own bank is of.

    Its width tells, and the texts that both models read, if there are any.
    """
    remedy = 'make it with the text model of the bundle by `rgbx_embed_classes --bank`.'
    if bank.width != own.width:
        raise RgbxSegError(f'bank {path}: its embeddings have {bank.width} numbers; expected '
                           f'{own.width}, as those of the bundle: {remedy}')
    places = {text: row for row, text in enumerate(own.texts)}
    shared = [(row, places[text]) for row, text in enumerate(bank.texts) if text in places]
    if not shared:
        return
    rows, others = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (
        bank.embeddings[[row for row, _ in shared]], own.embeddings[[row for _, row in shared]]))
    cosines = (rows * others).sum(1)
    worst = int(cosines.argmin())
    if cosines[worst] < SAME_MODEL:
        raise RgbxSegError(
            f'bank {path}: its embedding of {bank.names[shared[worst][0]]!r} is not that of the '
            f'same text in the bundle (cosine {cosines[worst]:.2f}), so it is of another text '
            f'model; expected one of the bundle\'s: {remedy}')


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads plain values; the merge key `<<` is none, for merges of merges fill any memory."""

    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one value more, if it is not too many."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise ValueError(f'more than {MAX_VALUES} values')
        return super().compose_node(parent, index)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge nothing, so that `<<` is refused."""


def read_file(path: Path) -> Given:
    """Return what a file of classes holds: a bank .npz, or a YAML of classes.

    Raises:
        RgbxSegError: there is none, it is too large, or it is neither.

    """
    path = Path(os.path.expanduser(path)).absolute()  # errors tell where a node looked for it
    if path.suffix.lower() == BANK_SUFFIX:
        return Given(path)
    if path.suffix.lower() not in YAML_SUFFIXES:
        raise RgbxSegError(f'file of classes {path}: its name says nothing; expected one that ends '
                           f'in {", ".join(YAML_SUFFIXES)} (a list of classes) or {BANK_SUFFIX} '
                           '(a bank).')
    try:
        if not path.is_file():
            raise ValueError('no such file')
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ValueError(f'larger than {MAX_YAML_BYTES} bytes')
        content = yaml.load(path.read_text('utf-8'), _Loader)
    except Exception as error:  # what a tag does not fit, such as !!bool x, raises anything
        reason = ' '.join(str(error).split())[:120] or type(error).__name__
        raise RgbxSegError(f'file of classes {path}: it cannot be read ({reason}); expected a YAML '
                           'with a list `classes`.') from None
    try:
        return _parse(content, path.parent)
    except (RgbxSegError, ValueError) as error:  # Python tells no number of thousands of digits
        raise RgbxSegError(f'file of classes {path}: {error}') from None


def _parse(content: Any, folder: Path) -> Given:
    values = _keys(content, KEYS, 'the file')
    bank, entries = values.get('bank'), values.get('classes')
    if bank is not None and not (isinstance(bank, str) and bank.endswith(BANK_SUFFIX)):
        raise RgbxSegError(f'bank is {reprlib.repr(bank)}; expected the path of a {BANK_SUFFIX} '
                           'file, from the folder of this one.')
    if not (isinstance(entries, list) and 0 < len(entries) <= UNLABELED):
        found = f'{len(entries)} entries' if isinstance(entries, list) else reprlib.repr(entries)
        raise RgbxSegError(f'classes is {found}; expected a list of 1..{UNLABELED} names or '
                           'entries with a name.')
    return Given(folder / os.path.expanduser(bank) if bank else None,
                 tuple(_entry(item, number) for number, item in enumerate(entries)))


def _entry(item: Any, number: int) -> Wanted:
    where = f'classes[{number}]'
    if isinstance(item, str):
        return Wanted(_text(item, where, MAX_NAME))
    if not isinstance(item, dict):
        raise RgbxSegError(f'{where} is {reprlib.repr(item)}; expected a name (in quotes, if it '
                           'looks like a number or yes and no), or keys of '
                           f'{", ".join(ENTRY_KEYS)}.')
    values = _keys(item, ENTRY_KEYS, where)
    texts = {key: _text(values[key], f'{where}.{key}', most) for key, most in
             (('name', MAX_NAME), ('class', MAX_NAME), ('description', MAX_TEXT)) if key in values}
    if 'name' not in texts:
        raise RgbxSegError(f'{where} has no name; expected one, as it is to be published.')
    color = _color(values['color'], f'{where}.color') if 'color' in values else None
    return Wanted(texts['name'], texts.get('class', ''), color, texts.get('description', ''))


def _keys(value: Any, known: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RgbxSegError(f'{where} is {reprlib.repr(value)}; expected keys of '
                           f'{", ".join(known)}.')
    for key in value:
        if key not in known:
            raise RgbxSegError(f'{where} has the key {reprlib.repr(key)}; expected '
                               f'{", ".join(known)}.')
    return value


def _text(value: Any, where: str, most: int) -> str:
    good = isinstance(value, str) and 0 < len(value.strip()) <= most
    if not good or (most == MAX_NAME and not value.isprintable()):
        raise RgbxSegError(f'{where} is {reprlib.repr(value)}; expected a text of up to {most} '
                           'characters (in quotes, if it looks like a number or yes and no).')
    return str(value).strip()


def _color(value: Any, where: str) -> tuple[int, int, int]:
    if isinstance(value, list) and len(value) == 3 and all(
            type(channel) is int and 0 <= channel <= 255 for channel in value):
        return value[0], value[1], value[2]
    raise RgbxSegError(f'{where} is {reprlib.repr(value)}; expected [red, green, blue], each '
                       '0..255.')
