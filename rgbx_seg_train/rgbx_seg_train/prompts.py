# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What text models are told of each class: its name in a template, and how it looks.

LMSeg (arXiv 2412.00364) has a language model describe the color, the shape and size, and the
texture and material of every class, once and offline, and reports that all three together do better
than one of them, and one better than the name alone; its wording is not published. Ours is the
template with the name, then what is told: "A photo of a car in the scene, usually white, …, a low
closed body on four wheels, …, glossy painted metal …." The bank of the package was written by hand
for all our sets of classes; a bank of `rgbx_describe_classes` or by hand goes over it, and may give
whole texts (`full`) of its own. Of a name such as "car, auto, motorcar" the first word is shown,
as CAT-Seg does (arXiv 2303.11797), and each of them finds the description.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.vocabulary import nearest
from rgbx_seg_train.config import TextConfig

ATTRIBUTES = ('color', 'shape', 'texture')
NAME, SYNONYM = '{}', ', '  # in a template, between the words of a class
MAX_BYTES, MAX_CHARACTERS = 1 << 24, 400  # of a bank, of a text in it
MAX_TOKENS = 77  # that CLIP reads


class Description(NamedTuple):
    """How a class looks; what is empty is not told."""

    color: str = ''
    shape: str = ''
    texture: str = ''
    full: str = ''  # a whole text, instead of the template and all three


class Descriptions(NamedTuple):
    """The descriptions of a bank, found by `name_key`."""

    names: tuple[str, ...]
    by_key: Mapping[str, Description]

    @classmethod
    def of(cls, entries: Mapping[str, Description]) -> Descriptions:
        """Index descriptions by whole names, else by first words, else by the further ones."""
        words = [(name.split(SYNONYM), told) for name, told in entries.items()]
        ranked = [*entries.items(), *((first, told) for (first, *_), told in words),
                  *((word, told) for (_, *further), told in words for word in further)]
        by_key: dict[str, Description] = {}
        for word, told in ranked:
            by_key.setdefault(name_key(word), told)
        return cls(tuple(entries), by_key)

    def over(self, other: Descriptions) -> Descriptions:
        """Return these and, where they have none, the other's."""
        names = dict.fromkeys((*self.names, *other.names))
        return Descriptions(tuple(names), {**other.by_key, **self.by_key})

    def lenders(self, names: Sequence[str]) -> dict[str, str]:
        """Return whose description is found for those names that are a further word alone."""
        own = {name_key(word) for entry in self.names for word in (entry, entry.split(SYNONYM)[0])}
        further: dict[str, str] = {}
        for entry in self.names:
            for word in entry.split(SYNONYM)[1:]:
                further.setdefault(name_key(word), entry)
        return {name: further[key] for name in names
                if (key := name_key(name)) in further and key not in own}

    def find(self, name: str) -> Description:
        """Return how a class looks; RgbxSegError names those described that are nearest."""
        for word in (name, *name.split(SYNONYM)):
            if (told := self.by_key.get(name_key(word))) is not None:
                return told
        near = nearest(name, self.names)
        hint = f', such as {" or ".join(map(repr, near))}' if near else ''
        raise RgbxSegError(f'class {name!r}: nothing describes it; expected a class of the bank'
                           f'{hint}; have it described by `rgbx_describe_classes` (text.bank or '
                           '--descriptions), or tell its name alone (text.mode=template or --mode '
                           'template).')


def plain_name(name: str) -> str:
    """Return a name as a text tells it: "traffic light" of TrafficLight and of traffic_light."""
    words = re.sub(r'(?<=[a-z])(?=[A-Z])|_', ' ', name.split(SYNONYM)[0])
    return ' '.join(words.split()).lower()


def name_key(name: str) -> str:
    """Return what names have in common that differ in case, spaces, hyphens and underscores."""
    return re.sub(r'[\W_]+', '', name).casefold()


def most_tokens(text: str) -> int:
    """Return more tokens than CLIP's tokenizer makes of plain English, without its vocabulary.

    Counted are begin, end, signs, and four letters as one token. Of the texts of this package's
    bank, whose longest has 49 tokens, that is 7 to 22 too many.
    """
    words = re.findall(r'[a-z]+|[0-9]|[^\sa-z0-9]', text.lower())
    return 2 + sum(-(-len(word) // 4) for word in words)


def class_texts(classes: Sequence[ClassInfo], settings: TextConfig) -> tuple[tuple[str, ...], ...]:
    """Return the sentences of each class.

    Raises:
        RgbxSegError: the bank has no description of a class, or cannot be read.

    """
    return name_texts([info.name for info in classes], settings)


def name_texts(names: Sequence[str], settings: TextConfig) -> tuple[tuple[str, ...], ...]:
    """Return the sentences of each class by its name."""
    if NAME not in settings.template:
        raise RgbxSegError(f'text.template {settings.template!r} has no {NAME}; expected a text '
                           f'with {NAME} where the name of the class goes, such as "a photo of a '
                           f'{NAME}".')
    if settings.mode == 'template':
        return tuple((_shown(name, settings),) for name in names)
    bank = load_descriptions(settings.bank)
    return tuple((described(name, bank.find(name), settings),) for name in names)


def described(name: str, told: Description, settings: TextConfig) -> str:
    """Return what a mode tells of a class, the template's excepted; RgbxSegError if it cannot."""
    if settings.mode == 'full' and told.full:
        return told.full
    asked = ATTRIBUTES if settings.mode == 'full' else (settings.mode,)
    lacking = [attribute for attribute in asked if not getattr(told, attribute)]
    if lacking:
        raise RgbxSegError(f'class {name!r}: its description tells no {lacking[0]}; expected one '
                           f'for text.mode {settings.mode}; add it to the bank.')
    parts = [getattr(told, attribute) for attribute in asked]
    return ', '.join([_shown(name, settings).rstrip('. '), *parts]) + '.'


def _shown(name: str, settings: TextConfig) -> str:
    return settings.template.replace(NAME, plain_name(name))


def load_descriptions(path: str = '') -> Descriptions:
    """Return the descriptions of a file, and those of this package of what it does not have."""
    packaged = _packaged()
    return Descriptions.of(read_descriptions(Path(path))).over(packaged) if path else packaged


@functools.cache
def _packaged() -> Descriptions:
    file = resources.files('rgbx_seg_train.data') / 'descriptions.json'
    return Descriptions.of(_parse(file.read_bytes(), 'the bank of this package'))


def read_descriptions(path: Path) -> dict[str, Description]:
    """Return the descriptions of a file by the names in it; RgbxSegError says what is wrong."""
    if not path.is_file():
        raise RgbxSegError(f'bank {path}: no such file; expected one of `rgbx_describe_classes`; '
                           'make it or correct the path.')
    if path.stat().st_size > MAX_BYTES:
        raise RgbxSegError(f'bank {path}: has {path.stat().st_size} bytes; expected at most '
                           f'{MAX_BYTES}; name another file.')
    return _parse(path.read_bytes(), f'bank {path}')


def _parse(data: bytes, what: str) -> dict[str, Description]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        first: dict[str, str] = {}
        for name, _ in pairs:
            if name_key(name) in first:
                raise RgbxSegError(f'{what}: {first[name_key(name)]!r} and {name!r} are one name; '
                                   'expected each once; delete one of them.')
            first[name_key(name)] = name
        return dict(pairs)

    try:
        entries = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise RgbxSegError(f'{what}: no JSON ({" ".join(str(error).split())[:80]}); expected '
                           '{name: {color, shape, texture}, …}; correct it.') from None
    if not isinstance(entries, dict):
        raise RgbxSegError(f'{what}: holds no mapping; expected {{name: {{color, shape, texture}}, '
                           '…}; correct it.')
    return {name: parse_description(entry, f'{what}: {name!r}') for name, entry in entries.items()}


def parse_description(entry: Any, what: str) -> Description:
    """Return an entry of a bank; RgbxSegError, which begins with `what`, if it is none."""
    if not isinstance(entry, dict) or not entry or set(entry) - set(Description._fields):
        raise RgbxSegError(f'{what} is {str(entry)[:60]!r}; expected a mapping with some of '
                           f'{", ".join(Description._fields)}; correct it.')
    for key, text in entry.items():
        if not isinstance(text, str) or not text.strip() or not text.isprintable():
            raise RgbxSegError(f'{what} has the {key} {str(text)[:60]!r}; expected one line of '
                               'text; correct it.')
        if len(text) > MAX_CHARACTERS:
            raise RgbxSegError(f'{what} has a {key} of {len(text)} characters; expected at most '
                               f'{MAX_CHARACTERS}; shorten it.')
    return Description(**{key: text.strip() for key, text in entry.items()})
