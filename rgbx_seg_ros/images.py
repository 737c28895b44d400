# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image message to an array, or an ImageError that says what is wrong with them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Cause = Literal['encoding', 'step', 'size', 'decode']

MAX_SIDE = 8192  # pixels; a message that claims more is broken or hostile

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_SIGNATURE = b'\xff\xd8\xff'


class ImageError(ValueError):
    """A malformed image; `cause` is the counter it belongs to, the text one sentence."""

    def __init__(self, cause: Cause, sentence: str) -> None:
        """Keep the cause beside the sentence."""
        super().__init__(sentence)
        self.cause = cause


class Layout(NamedTuple):
    """How an encoding lies in memory, and the conversion that makes its color RGB (or None)."""

    dtype: str
    channels: int
    to_rgb: int | None = None


# 8UC3 names no color order, so its channels stay as they are stored.
LAYOUTS: dict[str, Layout] = {
    'rgb8': Layout('u1', 3),
    'bgr8': Layout('u1', 3, cv2.COLOR_BGR2RGB),
    'rgba8': Layout('u1', 4, cv2.COLOR_RGBA2RGB),
    'bgra8': Layout('u1', 4, cv2.COLOR_BGRA2RGB),
    'mono8': Layout('u1', 1),
    '8UC1': Layout('u1', 1),
    '8UC3': Layout('u1', 3),
    'mono16': Layout('u2', 1),
    '16UC1': Layout('u2', 1),
    'rgb16': Layout('u2', 3),
    '16SC1': Layout('i2', 1),
    '32FC1': Layout('f4', 1),
    '32FC3': Layout('f4', 3),
}


def decode(height: int, width: int, encoding: str, step: int, is_bigendian: bool | int,
           data: Any) -> Array:
    """Return the pixels of a sensor_msgs/Image, (H, W) or (H, W, 3), color in RGB order.

    `data` is bytes, array.array('B'), a memoryview or a uint8 array. The result is a read-only
    view of it, except where the color order, the alpha channel, the byte order or the alignment
    forces a copy. Raises ImageError.
    """
    layout = check(height, width, encoding, step, data)
    dtype = np.dtype(layout.dtype).newbyteorder('>' if is_bigendian else '<')
    strides = (step, dtype.itemsize * layout.channels, dtype.itemsize)
    shape = (height, width, layout.channels)[:2 if layout.channels == 1 else 3]
    image: Array = np.ndarray(shape, dtype, data, 0, strides[:len(shape)])
    image.flags.writeable = False  # it is the message's memory
    if layout.to_rgb is not None:
        return cv2.cvtColor(image, layout.to_rgb)
    if image.dtype.isnative and image.flags.aligned:
        return image
    return image.astype(dtype.newbyteorder('='))


def check(height: int, width: int, encoding: str, step: int, data: Any) -> Layout:
    """Return the layout of a sensor_msgs/Image, or raise ImageError; costs microseconds."""
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise ImageError('encoding', f'the encoding is {encoding!r}, expected one of '
                                     f'{", ".join(LAYOUTS)}.')
    check_size(height, width)
    row = width * layout.channels * np.dtype(layout.dtype).itemsize
    if step < row:
        raise ImageError('step', f'the step is {step} bytes, expected at least {row} for a row of '
                                 f'{width} pixels of {encoding}.')
    size = memoryview(data).nbytes
    if size != step * height:  # cv_bridge refuses surplus bytes as well
        raise ImageError('size', f'the data holds {size} bytes, expected {step * height} '
                                 f'({height} rows of {step}).')
    return layout


def check_size(height: int, width: int) -> None:
    """Raise ImageError unless both sides are in 1..MAX_SIDE."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ImageError('size', f'the image is {width}x{height} (width x height), expected 1 to '
                                 f'{MAX_SIDE} a side.')


def decode_compressed(format: str, data: Any, gray: bool | None = None) -> Array:
    """Return the pixels of a sensor_msgs/CompressedImage that holds a JPEG or a PNG.

    `gray` True gives (H, W) of 8 or 16 bits, False 8-bit RGB (H, W, 3), None whichever of the two
    the file holds (alpha is dropped). `format` only explains errors, as drivers fill it at
    will; the bytes decide. Sizes are checked before anything is allocated. Raises ImageError.
    """
    raw = np.frombuffer(data, np.uint8) if memoryview(data).nbytes else np.empty(0, np.uint8)
    head = raw[:8].tobytes()
    name = next((name for name, signature in SIGNATURES.items() if head.startswith(signature)), '')
    if not name:
        raise ImageError('encoding', f'the format is {format!r} and the data starts with '
                                     f'{head.hex() or "nothing"}, expected a JPEG or a PNG.')
    check_size(*READ_SIZE[name](raw.tobytes()))
    color = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    mode = {True: cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE, False: cv2.IMREAD_COLOR, None: color}
    try:
        image = cv2.imdecode(raw, mode[gray] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError('decode', f'the {name} of {raw.size} bytes (format {format!r}) is broken, '
                                   'expected one that OpenCV can read.')
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 33 or data[12:16] != b'IHDR' or data.rfind(b'IEND') < 0:
        raise ImageError('decode', f'the PNG of {len(data)} bytes is truncated, expected IHDR at '
                                   'its start and IEND at its end.')
    width, height = struct.unpack_from('>II', data, 16)
    return height, width


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            # Older OpenCV pads a truncated JPEG with gray, without a word.
            if data.rfind(b'\xff\xd9') < at:
                break
            height, width = struct.unpack_from('>HH', data, at + 5)
            return height, width
        else:
            at += 2 + struct.unpack_from('>H', data, at + 2)[0]
    raise ImageError('decode', f'the JPEG of {len(data)} bytes is truncated, expected a frame '
                               'header and an end-of-image marker.')


SIGNATURES = {'PNG': PNG_SIGNATURE, 'JPEG': JPEG_SIGNATURE}
READ_SIZE: dict[str, Callable[[bytes], tuple[int, int]]] = {'PNG': _png_size, 'JPEG': _jpeg_size}


def decode_label(format: str, data: Any) -> Array:
    """Return the class ids (H, W) of a compressed label: a gray or an indexed PNG.

    JPEG is refused, since it changes ids; so is a color PNG. Raises ImageError.
    """
    raw = bytes(memoryview(data))
    if raw.startswith(JPEG_SIGNATURE):
        raise ImageError('encoding', 'the label is a JPEG, which blurs class ids, expected a PNG.')
    depth, color = raw[24:26] if raw.startswith(PNG_SIGNATURE) and len(raw) > 26 else (8, 0)
    if color == 3 and depth == 8:
        raw = _without_palette(raw)
    elif color != 0 or depth < 8:
        raise ImageError('encoding', f'the label PNG has color type {color} and {depth} bits, '
                                     'expected 8 or 16 bits of gray, or an indexed one of 8 bits.')
    return decode_compressed(format, raw, gray=True)


def _without_palette(png: bytes) -> bytes:
    # An indexed PNG stores its ids exactly as a gray one does; OpenCV would turn them into colors.
    header = b'IHDR' + png[16:25] + b'\x00' + png[26:29]
    parts = [PNG_SIGNATURE, struct.pack('>I', 13), header, struct.pack('>I', zlib.crc32(header))]
    at = 33
    while at + 12 <= len(png):
        length = struct.unpack_from('>I', png, at)[0]
        if png[at + 4:at + 8] in (b'IDAT', b'IEND'):
            parts.append(png[at:at + 12 + length])
        at += 12 + length
    return b''.join(parts)


def to_rgb8(image: Array, encoding: str) -> Array:
    """Return an RGB camera's image as 8-bit RGB (H, W, 3), as the engine expects it.

    Gray is repeated; 16 bits keep their upper 8. `encoding` names the source in the ImageError
    that signed and float images get.
    """
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ImageError('encoding', f'an RGB image in {encoding!r} has {image.dtype} pixels, '
                                     'expected 8 or 16 unsigned bits.')
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
