# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The two YAML files of registration: a homography, or how the aux camera stands to the RGB one."""

from __future__ import annotations

import reprlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import MAX_SIDE, Camera, Transform

FORMAT = 1
MAX_BYTES = 1 << 16
WIDE = 1.73  # tan 60 degrees: how far off its axis a camera may look for the plane

HOMOGRAPHY_KEYS = ('format', 'rgb_size', 'aux_size', 'homography')
# What `rgbx_register` adds for people to judge by.
NOTES = ('residual', 'pairs', 'method', 'comment')
EXTRINSICS_KEYS = ('format', 'translation', 'rotation', 'quaternion', 'plane', 'rgb', 'aux',
                   'comment')
CAMERA_KEYS = ('width', 'height', 'k', 'd', 'model')


class Homography(NamedTuple):
    """Where aux pixels (x, y, 1) lie in the RGB image, float64 (3, 3), and for which sizes."""

    matrix: NDArray[np.float64]
    rgb_size: tuple[int, int]  # width, height
    aux_size: tuple[int, int]


class Extrinsics(NamedTuple):
    """Aux point = motion applied to RGB point; a plane a x + b y + c z = d in the RGB frame."""

    motion: Transform | None  # None: /tf_static tells it
    plane: tuple[float, float, float, float] | None
    rgb: Camera | None
    aux: Camera | None


def load_homography(path: Path) -> Homography:
    """Return the homography of a file that `rgbx_register` wrote; raises RgbxSegError."""
    data = _read(path, 'rgbx_register')
    try:
        _check_keys(data, HOMOGRAPHY_KEYS, HOMOGRAPHY_KEYS, '', NOTES)
        matrix = _numbers(data['homography'], 'homography', 9).reshape(3, 3)
        sizes = [_size(data[key], key) for key in ('rgb_size', 'aux_size')]
        _expect(np.linalg.cond(matrix) < 1e12, 'homography', matrix.tolist(),
                'an invertible matrix')
        width, height = sizes[1]
        center = matrix @ ((width - 1) / 2, (height - 1) / 2, 1)
        _expect(abs(center[2]) > 1e-9 * np.abs(matrix).max(), 'homography', matrix.tolist(),
                'one that puts the center of the aux image somewhere')
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None
    return Homography(matrix, *sizes)


def load_extrinsics(path: Path) -> Extrinsics:
    """Return the extrinsics, plane and cameras of a file; raises RgbxSegError."""
    data = _read(path, 'docs/registration.md')
    try:
        _check_keys(data, EXTRINSICS_KEYS, ('format',), '')
        return Extrinsics(_motion(data), _plane(data.get('plane')), _camera(data, 'rgb'),
                          _camera(data, 'aux'))
    except RgbxSegError as error:
        raise RgbxSegError(f'{path}: {error}') from None


def _motion(data: dict[str, Any]) -> Transform | None:
    if not data.keys() & {'rotation', 'quaternion', 'translation'}:
        return None
    _expect('translation' in data, 'translation', 'missing', '3 finite numbers, in meters')
    _expect(('rotation' in data) != ('quaternion' in data), 'the turn',
            'given twice' if 'rotation' in data else 'missing', 'one of rotation and quaternion')
    translation = _numbers(data['translation'], 'translation', 3)
    if 'rotation' in data:
        return Transform(_numbers(data['rotation'], 'rotation', 9).reshape(3, 3), translation)
    return Transform.from_quaternion(_numbers(data['quaternion'], 'quaternion', 4), translation)


def _plane(value: Any) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    a, b, c, d = (float(number) for number in _numbers(value, 'plane', 4))
    _expect(d != 0 and (a, b, c) != (0, 0, 0), 'plane', value,
            '[a, b, c, d] of a x + b y + c z = d, not through the RGB camera (d = 0)')
    nearest = (c * np.sign(d) + WIDE * (abs(a) + abs(b))) / abs(d)
    _expect(nearest > 0, 'plane', value, 'one before the RGB camera (z > 0)')
    return a, b, c, d


def _camera(data: dict[str, Any], name: str) -> Camera | None:
    if name not in data:
        return None
    values = data[name]
    _check_keys(values, CAMERA_KEYS, ('width', 'height', 'k'), f'{name}.')
    width, height = _size([values['width'], values['height']], f'{name}.width, height')
    d = values.get('d', [])
    d = _numbers(d, f'{name}.d', len(d) if isinstance(d, list) else 5)
    _expect(isinstance(values.get('model', ''), str), f'{name}.model', values.get('model'),
            'a name')
    return Camera(width, height, tuple(_numbers(values['k'], f'{name}.k', 9)), tuple(d),
                  values.get('model', 'plumb_bob'), f'of key {name}')


def _read(path: Path, writer: str) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RgbxSegError(f'{path}: {path.stat().st_size} bytes; expected at most '
                               f'{MAX_BYTES}; name a file as {writer} has it.')
        data = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise RgbxSegError(f'registration.file {path}: {error.strerror}; expected a file as '
                           f'{writer} has it.') from None
    except (yaml.YAMLError, ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise RgbxSegError(f'{path}: not valid YAML; expected a file as {writer} has it.') from None
    return data


def _check_keys(data: Any, known: tuple[str, ...], required: tuple[str, ...], prefix: str,
                notes: tuple[str, ...] = ()) -> None:
    _expect(isinstance(data, dict), prefix.rstrip('.') or 'the file', data, 'a mapping of keys')
    for key in data:
        good = key in known or (isinstance(key, str) and key.split('_')[0] in notes)
        _expect(good, f'{prefix}{key}'[:80], 'an unknown key', 'one of ' + ', '.join(known))
    for key in required:
        _expect(key in data, f'{prefix}{key}', 'missing', 'a value')
    if 'format' in required:
        _expect(data['format'] == FORMAT, 'format', data['format'], f'{FORMAT}')


def _numbers(value: Any, key: str, count: int) -> NDArray[np.float64]:
    """Return a list of numbers, or a list of lists of them, as one flat array."""
    rows = value if isinstance(value, list) and len(value) <= 16 else [None]
    flat = [item for row in rows for item in (row if isinstance(row, list) else [row])]
    good = all(isinstance(v, (int, float)) and not isinstance(v, bool)
               and abs(v) <= sys.float_info.max for v in flat)
    _expect(good and len(flat) == count, key, value, f'{count} finite numbers')
    return np.array(flat, np.float64)


def _size(value: Any, key: str) -> tuple[int, int]:
    good = isinstance(value, list) and len(value) == 2 and all(
        isinstance(side, int) and 0 < side <= MAX_SIDE for side in value)
    _expect(good, key, value, f'[width, height], 1 to {MAX_SIDE} pixels each')
    return value[0], value[1]


def _expect(good: bool, key: str, found: object, expected: str) -> None:
    if not good:
        # Of nested aliases in a small file, repr() alone could fill the memory.
        text = found if isinstance(found, str) else reprlib.repr(found)
        raise RgbxSegError(f'{key} is {text[:80]}; expected {expected}.')
