# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels to the bytes of a sensor_msgs/CompressedImage, as image_transport writes them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.images import Array


def _jpeg(image: Array, encoding: str, quality: int) -> tuple[str, Array]:
    if image.dtype != np.uint8:
        raise RgbxSegError(f'a JPEG of {encoding} was asked for, expected 8 bits; use png.')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return f'{encoding}; jpeg compressed {"bgr8" if image.ndim == 3 else ""}', data


def _png(image: Array, encoding: str, _: int) -> tuple[str, Array]:
    if image.dtype not in (np.uint8, np.uint16):
        raise RgbxSegError(f'a PNG of {encoding} was asked for, expected 8 or 16 unsigned bits; '
                           'write it raw, without --compressed.')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    data = cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    return f'{encoding}; png compressed {"bgr8" if image.ndim == 3 else ""}', data


COMPRESSIONS: dict[str, Callable[[Array, str, int], tuple[str, Array]]] = {
    'jpeg': _jpeg, 'png': _png}
