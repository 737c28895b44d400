# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a player does to serialized messages: find their class, move their stamps, decompress."""

from __future__ import annotations

import array
import importlib
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image

from rgbx_seg_ros.bag import NS
from rgbx_seg_ros.images import Array, ImageError, decode_compressed

HEADER = 'std_msgs/Header'
ENCODINGS = {('uint8', 2): 'mono8', ('uint8', 3): 'rgb8', ('uint16', 2): 'mono16',
             ('uint16', 3): 'rgb16', ('float32', 2): '32FC1'}
STAMP_AT = 4  # of a message that begins with a header: behind the four bytes that tell the encoding


def find_class(kind: str, fields: tuple[str, ...] | None = None) -> tuple[Any, str]:
    """Return the class of a type such as sensor_msgs/msg/Image; or None, and why.

    `fields` are the names that the type had when it was recorded, None if nobody knows.
    """
    package, group, name = (*kind.split('/'), '', '', '')[:3]
    if group != 'msg':
        return None, f'{kind} is no type of messages'
    try:
        found = getattr(importlib.import_module(f'{package}.msg'), name)
    except ImportError:
        return None, f'{package} is not installed here'
    except AttributeError:
        return None, f'{package} has no {name} here'
    own = tuple(found.get_fields_and_field_types())
    # ROS gives a message without fields one of its own.
    if fields and own != fields:
        return None, f'{kind} was recorded with other fields than it has here'
    return found, ''


class Stamps:
    """The stamps in the headers of one class of messages."""

    def __init__(self, kind: Any) -> None:
        """Look where the headers are."""
        self._kind = kind
        fields = list(kind.get_fields_and_field_types().values())
        self._leading = fields[:1] == [HEADER]
        self._nested = any(_has_header(field, set()) for field in fields[self._leading:])

    def first(self, data: bytes) -> int:
        """Return the stamp of a leading header in nanoseconds, 0 if there is none."""
        if not self._leading or len(data) < STAMP_AT + 8:
            return 0
        sec, nanosec = struct.unpack_from(_order(data), data, STAMP_AT)
        return int(sec) * NS + int(nanosec)

    def move(self, data: bytes, to: Callable[[int], int]) -> bytes:
        """Return the message with other stamps; `to` gives the new one of an old one."""
        if self._nested:
            message = deserialize_message(data, self._kind)
            _move(message, to)
            return bytes(serialize_message(message))
        if not self._leading or len(data) < STAMP_AT + 8:
            return data
        stamp = struct.pack(_order(data), *divmod(to(self.first(data)), NS))
        return b''.join((data[:STAMP_AT], stamp, memoryview(data)[STAMP_AT + 8:]))


def _order(data: bytes) -> str:
    return '<iI' if data[1] & 1 else '>iI'


def _has_header(field: str, seen: set[str]) -> bool:
    """Return whether a field of this type holds a header somewhere."""
    found = re.search(r'(\w+)/(\w+)', field)
    if not found or found[0] in seen:
        return False
    seen.add(found[0])
    kind, _ = find_class(f'{found[1]}/msg/{found[2]}')
    return found[0] == HEADER or kind is not None and any(
        _has_header(own, seen) for own in kind.get_fields_and_field_types().values())


def _move(message: Any, to: Callable[[int], int]) -> None:
    for name, kind in message.get_fields_and_field_types().items():
        if '/' not in kind:
            continue
        value = getattr(message, name)
        if kind == HEADER:
            old = value.stamp
            old.sec, old.nanosec = divmod(to(old.sec * NS + old.nanosec), NS)
        else:
            for part in value if isinstance(value, (list, tuple)) else [value]:
                _move(part, to)


def to_raw(data: bytes) -> bytes | None:
    """Return a serialized CompressedImage as a serialized Image; None if it cannot be decoded."""
    source = deserialize_message(data, CompressedImage)
    try:
        pixels = decode_compressed(source.format, source.data)
    except ImageError:
        return None
    encoding = ENCODINGS.get((pixels.dtype.name, pixels.ndim))
    if encoding is None:
        return None
    result = Image(header=source.header, encoding=encoding, step=pixels[0].nbytes)
    result.height, result.width = pixels.shape[:2]
    result.data = _bytes(pixels)
    return bytes(serialize_message(result))


def _bytes(pixels: Array) -> array.array[int]:
    data = array.array('B')  # what rclpy takes without looking at each element
    data.frombytes(np.ascontiguousarray(pixels).data.cast('B'))
    return data
