# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which opset an ONNX file is of, read without a library for ONNX.

A file is a protocol buffer: fields of (number, kind), of which `opset_import` is number 8 and the
graph, number 7, is leapt over.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

OPSET_IMPORT, DOMAIN, VERSION = 8, 1, 2
VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
MAX_OPSET_BYTES = 1024  # of one opset_import: a domain and a number


def opset_of(path: Path) -> int | None:
    """Return the opset of ONNX's own operators in a file, or None if it tells none."""
    with path.open('rb') as file:
        try:
            return _find(file)
        except (EOFError, ValueError):
            return None


def _find(file: BinaryIO) -> int | None:
    while (tag := _varint(file, may_end=True)) is not None:
        field, kind = tag >> 3, tag & 7
        if kind == BYTES:
            length = _varint(file) or 0
            if field == OPSET_IMPORT and length <= MAX_OPSET_BYTES:
                domain, version = _opset(file, file.tell() + length)
                if domain in (b'', b'ai.onnx'):
                    return version
            else:
                file.seek(length, 1)
        else:
            _skip(file, kind)
    return None


def _opset(file: BinaryIO, end: int) -> tuple[bytes, int]:
    """Return domain and version of one opset_import."""
    domain, version = b'', 0
    while file.tell() < end:
        tag = _varint(file) or 0
        if tag == DOMAIN << 3 | BYTES:
            domain = file.read(_varint(file) or 0)
        elif tag == VERSION << 3 | VARINT:
            version = _varint(file) or 0
        else:
            raise ValueError
    return domain, version


def _skip(file: BinaryIO, kind: int) -> None:
    if kind == VARINT:
        _varint(file)
    elif kind in (FIXED_64, FIXED_32):
        file.seek(8 if kind == FIXED_64 else 4, 1)
    else:
        raise ValueError


def _varint(file: BinaryIO, may_end: bool = False) -> int | None:
    """Return an integer of 7 bits a byte; None at the end of the file if it may be there."""
    value = 0
    for position in range(10):
        byte = file.read(1)
        if not byte:
            if may_end and position == 0:
                return None
            raise EOFError
        value |= (byte[0] & 127) << 7 * position
        if byte[0] < 128:
            return value
    raise ValueError
