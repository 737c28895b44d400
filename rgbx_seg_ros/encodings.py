# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The encodings of sensor_msgs/image_encodings: how each lies in memory and how it becomes RGB.

Names of color filters differ: ROS names the top left 2x2 pixels, OpenCV the 2x2 from (1, 1) on, so
bayer_rggb8 is COLOR_BayerBG. YUV is BT.601 of limited range (16..235), as OpenCV reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]

# RGB from (Y, U, V, 1): BT.601, the integers of OpenCV's fixed-point table for the other formats.
BT601 = np.array([[1220542, 0, 1673527, -1220542 * 16 - 1673527 * 128],
                  [1220542, -409993, -852492, -1220542 * 16 + (409993 + 852492) * 128],
                  [1220542, 2116026, 0, -1220542 * 16 - 2116026 * 128]]) / 2**20


class Layout(NamedTuple):
    """How an encoding lies in memory, and the conversion that makes its color RGB (or None)."""

    dtype: str
    channels: int
    to_rgb: Callable[[Array], Array] | None = None
    rows: float = 1.0  # rows of memory by rows of the picture: above 1 where planes follow
    even: tuple[bool, bool] = (False, False)  # height, width: chroma is shared by two pixels
    least: int = 1  # pixels a side


def nv24_to_rgb(planes: Array) -> Array:
    """Return RGB (H, W, 3) of a Y plane and, in rows twice as long, an interleaved UV plane.

    `planes` is (3 H, W), rows at one step, as V4L2 lays out NV24. OpenCV has no code for it.
    """
    height, width = planes.shape[0] // 3, planes.shape[1]
    step = planes.strides[0]
    chroma = as_strided(planes[height:], (height, width, 2), (2 * step, 2, 1), writeable=False)
    luma = np.maximum(planes[:height], 16)  # as OpenCV does: blacker than black stays black
    return cv2.transform(cv2.merge((luma, *cv2.split(chroma))), BT601)


def _narrowed(image: Array) -> Array:
    with np.errstate(over='ignore', invalid='ignore'):  # infinity is what a value too large becomes
        return image.astype(np.float32)


def _converted(code: int) -> Callable[[Array], Array]:
    return partial(cv2.cvtColor, code=code)


_RGBA, _BGR, _BGRA = (_converted(code) for code in (
    cv2.COLOR_RGBA2RGB, cv2.COLOR_BGR2RGB, cv2.COLOR_BGRA2RGB))
_UYVY, _YUYV = (Layout('u1', 2, _converted(code), even=(False, True))
                for code in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2))
_BAYER = {'rggb': cv2.COLOR_BayerBG2RGB, 'bggr': cv2.COLOR_BayerRG2RGB,
          'gbrg': cv2.COLOR_BayerGR2RGB, 'grbg': cv2.COLOR_BayerGB2RGB}

# 8UC3 and the like name no color order, so their channels stay as they are stored.
LAYOUTS: dict[str, Layout] = {
    'rgb8': Layout('u1', 3),
    'bgr8': Layout('u1', 3, _BGR),
    'rgba8': Layout('u1', 4, _RGBA),
    'bgra8': Layout('u1', 4, _BGRA),
    'rgb16': Layout('u2', 3),
    'bgr16': Layout('u2', 3, _BGR),
    'rgba16': Layout('u2', 4, _RGBA),
    'bgra16': Layout('u2', 4, _BGRA),
    'mono8': Layout('u1', 1),
    'mono16': Layout('u2', 1),
    '8UC1': Layout('u1', 1),
    '8UC3': Layout('u1', 3),
    '8UC4': Layout('u1', 4, _RGBA),
    '8SC1': Layout('i1', 1),
    '16UC1': Layout('u2', 1),
    '16UC3': Layout('u2', 3),
    '16UC4': Layout('u2', 4, _RGBA),
    '16SC1': Layout('i2', 1),
    '32SC1': Layout('i4', 1),
    '32FC1': Layout('f4', 1),
    '32FC3': Layout('f4', 3),
    '32FC4': Layout('f4', 4, _RGBA),
    '64FC1': Layout('f8', 1, _narrowed),
    # OpenCV leaves a mosaic of less than 3x3 black.
    **{f'bayer_{order}{bits}': Layout(f'u{bits // 8}', 1, _converted(code), least=3)
       for order, code in _BAYER.items() for bits in (8, 16)},
    'uyvy': _UYVY,
    'yuv422': _UYVY,
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,
    'nv12': Layout('u1', 1, _converted(cv2.COLOR_YUV2RGB_NV12), 1.5, (True, True)),
    'nv21': Layout('u1', 1, _converted(cv2.COLOR_YUV2RGB_NV21), 1.5, (True, True)),
    'nv24': Layout('u1', 1, nv24_to_rgb, 3.0),
}
EXPECTED = ('expected mono8, mono16, rgb8, bgr8, rgba8, bgra8, their 16-bit kin, bayer_*8, '
            'bayer_*16, uyvy, yuyv, nv12, nv21, nv24, 8UC1, 16UC1, 16SC1, 32FC1 or one like these')
GENERIC = re.compile(r'(8|16|32|64)(U|S|F)C?(\d*)')
# What each input can use; the rest is refused with a sentence as soon as a message names it.
SUITED = {
    'rgb': {name for name, layout in LAYOUTS.items() if layout.dtype in ('u1', 'u2')},
    'aux': {name for name, layout in LAYOUTS.items()
            if layout.dtype in ('u1', 'u2', 'i2', 'f4', 'f8')},
}


def refusal(encoding: str) -> str:
    """Return why an encoding that is not in LAYOUTS is refused, and what to do, as a sentence."""
    found = f'the encoding is {encoding!r}'
    if encoding.lower() in LAYOUTS:
        return f'{found}, expected {encoding.lower()!r}; let the driver write it in lower case.'
    if any(word in encoding.lower() for word in ('jp', 'png', 'h264', 'h265', 'hevc')):
        return (f'{found}, which is compressed, {EXPECTED}; publish it as CompressedImage (JPEG or '
                'PNG) and set rgb.transport or aux.transport to compressed.')
    generic = GENERIC.fullmatch(encoding)
    if generic and generic[3] in ('1', '3', '4'):
        return (f'{found}, several channels of signed or double values, {EXPECTED}; publish the '
                'channel that the model was trained on as 16UC1 or 32FC1.')
    if generic and generic[3]:
        return (f'{found}, {generic[3]} channels, which is neither gray nor color, {EXPECTED}; '
                'publish the channels one by one.')
    return f'{found}, {EXPECTED}; set the pixel format of the camera driver.'


@lru_cache(maxsize=64)
def unsuited(stream: str, encoding: str) -> str:
    """Return why stream 'rgb' or 'aux' cannot use an encoding, or '' where it can.

    Unknown encodings are none of its business: images.check refuses them.
    """
    if encoding not in LAYOUTS or encoding in SUITED[stream]:
        return ''
    if stream == 'rgb':
        return (f'the RGB encoding is {encoding!r}, which is no picture, expected 8 or 16 unsigned '
                'bits; remap rgb/image_raw to the color camera.')
    return (f'the aux encoding is {encoding!r}, whose values have no agreed unit, expected 8 or 16 '
            'bits or floats; publish 16UC1, or 32FC1 in the unit of the manifest.')


@lru_cache(maxsize=64)
def is_color(encoding: str) -> bool:
    """Return whether an encoding names colors: RGB, BGR, YUV or a Bayer mosaic."""
    return encoding.startswith(('rgb', 'bgr', 'bayer_', 'yuv', 'nv', 'uyvy', 'yuyv'))


@lru_cache(maxsize=64)
def is_deep(encoding: str) -> bool:
    """Return whether an encoding has one channel of more than 8 bits, as a measuring camera's."""
    layout = LAYOUTS.get(encoding)
    return layout is not None and not is_color(encoding) and (
        layout.channels == 1 and layout.dtype not in ('u1', 'i1'))
