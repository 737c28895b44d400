# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image message to an array, or an ImageError that says what is wrong with them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np

from rgbx_seg_ros.encodings import LAYOUTS, Array, Layout, is_deep, refusal

__all__ = ['Array', 'ImageError', 'check', 'check_size', 'decode', 'decode_compressed',
           'decode_label', 'lossy', 'to_rgb8']

Cause = Literal['encoding', 'step', 'size', 'decode']

MAX_SIDE = 8192  # pixels; a message that claims more is broken or hostile

PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
JPEG_SIGNATURE = b'\xff\xd8\xff'
GRAY_WITH_ALPHA = 4  # PNG's color type, which OpenCV would read as color


class ImageError(ValueError):
    """A malformed image; `cause` is the counter it belongs to, the text one sentence."""

    def __init__(self, cause: Cause, sentence: str) -> None:
        """Keep the cause beside the sentence."""
        super().__init__(sentence)
        self.cause = cause


def decode(height: int, width: int, encoding: str, step: int, is_bigendian: bool | int,
           data: Any) -> Array:
    """Return the pixels of a sensor_msgs/Image, (H, W) or (H, W, 3), color in RGB order.

    `data` is bytes, array.array('B'), a memoryview or a uint8 array. The result is a read-only
    view of it, except where the color order, the alpha channel, Bayer, YUV, the byte order or the
    alignment forces a copy. 64-bit floats come as 32-bit ones. Raises ImageError.
    """
    layout = check(height, width, encoding, step, data)
    dtype = np.dtype(layout.dtype).newbyteorder('>' if is_bigendian else '<')
    strides = (step, dtype.itemsize * layout.channels, dtype.itemsize)
    shape = (int(height * layout.rows), width, layout.channels)[:2 if layout.channels == 1 else 3]
    image: Array = np.ndarray(shape, dtype, data, 0, strides[:len(shape)])
    image.flags.writeable = False  # it is the message's memory
    if not (image.dtype.isnative and image.flags.aligned):
        image = image.astype(dtype.newbyteorder('='))
    return image if layout.to_rgb is None else layout.to_rgb(image)


def check(height: int, width: int, encoding: str, step: int, data: Any) -> Layout:
    """Return the layout of a sensor_msgs/Image, or raise ImageError; costs microseconds."""
    layout = LAYOUTS.get(encoding)
    if layout is None:
        raise ImageError('encoding', refusal(encoding))
    check_size(height, width)
    if layout.to_rgb is not None:
        _check_shape(height, width, encoding, layout)
    row = width * layout.channels * np.dtype(layout.dtype).itemsize
    if step < row:
        raise ImageError('step', f'the step is {step} bytes, expected at least {row} for a row of '
                                 f'{width} pixels of {encoding}.')
    size, rows = memoryview(data).nbytes, int(height * layout.rows)
    if size != step * rows:  # cv_bridge refuses surplus bytes as well
        raise ImageError('size', f'the data holds {size} bytes, expected {step * rows} '
                                 f'({rows} rows of {step}).')
    return layout


def _check_shape(height: int, width: int, encoding: str, layout: Layout) -> None:
    for side, name, even in ((height, 'height', layout.even[0]), (width, 'width', layout.even[1])):
        if side < layout.least or (even and side % 2):
            kind = 'an even one' if even else f'at least {layout.least}'
            raise ImageError('size', f'the {name} of an image in {encoding!r} is {side}, expected '
                                     f'{kind}.')


def check_size(height: int, width: int) -> None:
    """Raise ImageError unless both sides are in 1..MAX_SIDE."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ImageError('size', f'the image is {width}x{height} (width x height), expected 1 to '
                                 f'{MAX_SIDE} a side.')


def decode_compressed(format: str, data: Any, gray: bool | None = None) -> Array:
    """Return the pixels of a sensor_msgs/CompressedImage that holds a JPEG or a PNG.

    `gray` True gives (H, W) of 8 or 16 bits, False 8-bit RGB (H, W, 3), None whichever of the two
    the file holds, color of 16 bits included (alpha is dropped). The bytes decide what it is, as
    drivers fill `format` at will; only a Bayer mosaic, which image_transport puts into a PNG as it
    is, can be told by nothing else. Sizes are checked before anything is allocated. Raises
    ImageError.
    """
    raw = np.frombuffer(data, np.uint8) if memoryview(data).nbytes else np.empty(0, np.uint8)
    name = _container(format, raw)
    check_size(*READ_SIZE[name](raw.tobytes()))
    mosaic = LAYOUTS.get(format.partition(';')[0].strip()) if name == 'PNG' else None
    if gray is None and name == 'PNG' and raw[25] == GRAY_WITH_ALPHA:
        gray = True
    color = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    mode = {True: cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE, False: cv2.IMREAD_COLOR, None: color}
    try:
        image = cv2.imdecode(raw, mode[gray] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ImageError('decode', f'the {name} of {raw.size} bytes (format {format!r}) is broken, '
                                   'expected one that OpenCV can read.')
    if image.ndim == 3:
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if gray is None and mosaic is not None and mosaic.least > 1 and mosaic.to_rgb is not None:
        _check_shape(image.shape[0], image.shape[1], format, mosaic)
        return mosaic.to_rgb(image)
    return image


def _container(format: str, raw: Array) -> str:
    head = raw[:8].tobytes()
    for name, signature in SIGNATURES.items():
        if head.startswith(signature):
            return name
    found = f'the format is {format!r} and the data starts with {head.hex() or "nothing"}'
    if 'compressedDepth' in format:
        raise ImageError('encoding', f'{found}, expected a JPEG or a PNG; compressedDepth is '
                                     'another transport: remap to the topic that ends in '
                                     '/compressed, with its parameter format set to png.')
    if not raw.size:  # what image_transport publishes when it fails, as for a JPEG of 16UC1
        raise ImageError('encoding', f'{found}, expected a JPEG or a PNG; look at the log of the '
                                     'publisher, and set its parameter format to png for 16 bits.')
    raise ImageError('encoding', f'{found}, expected a JPEG or a PNG; set the parameter format of '
                                 'the publisher to one of them.')


def lossy(format: str, data: Any) -> str:
    """Return what a compressed aux image has lost by being a JPEG, as a sentence, or ''."""
    if bytes(memoryview(data)[:3]) != JPEG_SIGNATURE:
        return ''
    encoding = format.partition(';')[0].strip()
    lost = (f'its {encoding} values became 8 bits' if is_deep(encoding)
            else 'its values are blurred, and temperatures or ids are lost')
    return (f'the aux image is a JPEG (format {format!r}): {lost}; set the parameter format of the '
            'publisher to png, or aux.transport to raw.')


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

    Gray is repeated; 16 bits are divided by 257 and rounded, as cv_bridge does. `encoding` names
    the source in the ImageError that signed and float images get.
    """
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    if image.dtype != np.uint8:
        raise ImageError('encoding', f'an RGB image in {encoding!r} has {image.dtype} pixels, '
                                     'expected 8 or 16 unsigned bits.')
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
