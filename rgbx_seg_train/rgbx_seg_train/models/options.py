# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Changes to a preset by name: what `model.options` of a configuration may say."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from rgbx_seg_ros import RgbxSegError

KINDS = {int: 'an integer', float: 'a number', bool: 'true or false', str: 'a text'}


def override_fields(config: Any, options: Mapping[str, Any], path: str = 'model.options') -> Any:
    """Return a copy of a dataclass with the named fields changed; mappings step into fields.

    A part that is switched off (None) is switched on with its defaults by a mapping.

    Raises:
        RgbxSegError: an unknown field, or a value of another type or that the config refuses.

    """
    if not dataclasses.is_dataclass(config):
        raise RgbxSegError(f'{path} is {dict(options)!r}; expected none: this preset has no '
                           'fields; remove it.')
    hints = typing.get_type_hints(type(config))
    changed = {}
    for name, value in options.items():
        if name not in hints:
            raise RgbxSegError(f'{path}.{name} is an unknown key; expected one of '
                               f'{", ".join(hints)}.')
        changed[name] = _convert(value, hints[name], getattr(config, name), f'{path}.{name}')
    try:
        return dataclasses.replace(config, **changed)
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None


def _convert(value: Any, hint: Any, current: Any, path: str) -> Any:
    """Return `value` as a field of type `hint` takes it."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise RgbxSegError(f'{path} is {value!r}; expected a mapping of keys.')
        return override_fields(hint() if current is None else current, value, path)
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise RgbxSegError(f'{path} is {value!r}; expected a list.')
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(value) != len(kinds):
            raise RgbxSegError(f'{path} is {value!r}; expected a list of {len(kinds)}.')
        return tuple(_convert(item, kind, None, path)
                     for item, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise RgbxSegError(f'{path} is {value!r}; expected {KINDS[hint]}.')
    return value
