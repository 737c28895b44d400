# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reads a configuration from YAML and from `key=value` on the command line, and checks it.

Everything is checked before anything loads. A file may name another as its `base`; its own keys
win. Paths are relative to the working folder, except `base`, which is relative to its file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import SOURCES, Config, Source

# ValueError: not UTF-8, or a date with a 13th month; RecursionError: [[[[…
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a YAML file, with `key.key=value` overrides applied.

    Raises:
        RgbxSegError: no such file, not YAML, an unknown key, or a bad value.

    """
    return parse_config(override(_read(Path(path), ()), overrides), str(path))


def parse_config(data: Mapping[str, Any], origin: str = 'the configuration') -> Config:
    """Return the configuration that nested mappings hold, as `config_to_dict` gives them."""
    try:
        return _build(Config, data, '')
    except RgbxSegError as error:
        raise RgbxSegError(f'{origin}: {error}') from None


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as plain mappings, lists and scalars."""
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    return plain(dataclasses.asdict(config))


def override(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with each `key.key=value` set; a number steps into a list."""
    result = yaml.safe_load(yaml.safe_dump(dict(data), sort_keys=False))
    for text in overrides:
        key, equals, value = text.partition('=')
        if not equals or not key:
            raise RgbxSegError(f'override "{text}": expected key=value, such as train.steps=100.')
        node, *names = result, *key.split('.')
        for name in names[:-1]:
            node = _step(node, name, key)
        _set(node, names[-1], _parse_value(value, key), key)
    return result


def _step(node: Any, name: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, key)]
    if not isinstance(node, dict):
        raise RgbxSegError(f'override "{key}": {name} has nothing below it; check the key.')
    if node.get(name) is None:  # absent, or a section whose keys are all commented out
        node[name] = {}
    return node[name]


def _set(node: Any, name: str, value: Any, key: str) -> None:
    if isinstance(node, list):
        node[_index(node, name, key)] = value
    elif isinstance(node, dict):
        node[name] = value
    else:
        raise RgbxSegError(f'override "{key}": nothing can be set below a value; check the key.')


def _index(node: list[Any], name: str, key: str) -> int:
    if not name.isdecimal() or int(name) >= len(node):
        raise RgbxSegError(f'override "{key}": found {name}, expected a number below {len(node)}.')
    return int(name)


def _parse_value(text: str, key: str) -> Any:
    try:
        return yaml.safe_load(text)
    except NOT_YAML:
        raise RgbxSegError(f'override "{key}": "{text[:40]}" is not valid YAML; quote it.'
                           ) from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise RgbxSegError(f'{path}: it is its own base; remove one of the base keys.')
    if not path.is_file():
        raise RgbxSegError(f'{path}: no such configuration; expected a YAML file such as those in '
                           'rgbx_seg_train/configs.')
    try:
        data = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    except NOT_YAML as error:
        mark = getattr(error, 'problem_mark', None)
        where = f' in line {mark.line + 1}' if mark else ''
        raise RgbxSegError(f'{path}: not valid YAML{where}; correct it.') from None
    if not isinstance(data, dict):
        raise RgbxSegError(f'{path}: holds {type(data).__name__}; expected a mapping of keys.')
    base = data.pop('base', None)
    if base is None:
        return data
    return _merge(_read(path.parent / str(base), (*seen, path.resolve())), data)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = _merge(below, value) if both else value
    return merged


def _build(record: type, data: Any, path: str) -> Any:
    """Return a dataclass filled from a mapping; unknown keys and bad values are errors."""
    if not isinstance(data, Mapping):
        raise RgbxSegError(f'{path or "the file"} is {data!r}; expected a mapping of keys.')
    hints = typing.get_type_hints(record)
    known = [f.name for f in fields(record)]
    prefix = f'{path}.' if path else ''
    values = {}
    for key, value in data.items():
        if key not in known:
            raise RgbxSegError(f'{prefix}{key} is an unknown key; expected one of '
                               f'{", ".join(known)}.')
        values[key] = _convert(value, hints[key], f'{prefix}{key}')
    for item in fields(record):
        if item.name in values and item.metadata:
            _check(values[item.name], item.metadata, f'{prefix}{item.name}')
    try:
        return record(**values)
    except RgbxSegError as error:
        raise RgbxSegError(f'{prefix}{error}') from None


def _convert(value: Any, hint: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise RgbxSegError(f'{path} is {value!r}; expected a list.')
        kind = typing.get_args(hint)[0]
        convert = _scalar_of(kind) if kind in (str, int, float) else _source
        return tuple(convert(item, f'{path}.{n}') for n, item in enumerate(value))
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise RgbxSegError(f'{path} is {value!r}; expected a mapping of keys.')
        return dict(value)  # whoever reads it checks its keys
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional and value is None:
        return None
    return _scalar(value, typing.get_args(hint)[0] if optional else hint, path)


def _scalar_of(kind: type) -> Callable[[Any, str], Any]:
    return lambda value, path: _scalar(value, kind, path)


def _source(value: Any, path: str) -> Source:
    kind = value.get('kind') if isinstance(value, dict) else value
    if not isinstance(kind, str) or kind not in SOURCES:
        raise RgbxSegError(f'{path}.kind is {kind!r}; expected one of {", ".join(SOURCES)}.')
    return _build(SOURCES[kind], value, path)


def _scalar(value: Any, kind: type, path: str) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 1e-3 for a text
        with contextlib.suppress(ValueError):
            return float(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        names = {int: 'an integer', float: 'a number', bool: 'true or false', str: 'a text'}
        raise RgbxSegError(f'{path} is {value!r}; expected {names[kind]}.')
    return value


def _check(value: Any, limits: Mapping[str, Any], path: str) -> None:
    if value is None:
        return
    if 'choices' in limits and value not in limits['choices']:
        raise RgbxSegError(f'{path} is {value!r}; expected one of {", ".join(limits["choices"])}.')
    if 'low' in limits and not limits['low'] <= value <= limits['high']:
        raise RgbxSegError(f'{path} is {value!r}; expected {limits["low"]}..{limits["high"]}.')
