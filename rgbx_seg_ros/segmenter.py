# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Images in, mask at camera size out: what the node, the bag evaluator and training share."""

from __future__ import annotations

import time
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Engine
from rgbx_seg_ros.manifest import Manifest

Image = NDArray[np.uint8]


class Segmentation(NamedTuple):
    """One result at the size of the RGB image; the arrays are the receiver's to keep."""

    label: Image  # (H, W) class ids
    confidence: Image  # (H, W) 0..255 = probability of the chosen class
    engine_ms: float
    total_ms: float


class Segmenter:
    """Runs an engine on images of any size. Not thread-safe: the engine's thread owns it."""

    def __init__(self, engine: Engine, manifest: Manifest) -> None:
        """Take an open engine and the manifest of its bundle."""
        self.engine = engine
        self.manifest = manifest

    def __call__(self, rgb: Image, aux: Image) -> Segmentation:
        """Segment rgb uint8 (H, W, 3) with aux uint8 (h, w) or (h, w, C), as the manifest says.

        Both show the same field of view; their sizes may differ.
        """
        began = time.perf_counter()
        height, width = self.manifest.height, self.manifest.width
        channels = self.manifest.aux.channels
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise RgbxSegError(f'rgb is {rgb.dtype} {rgb.shape}; expected uint8 (H, W, 3).')
        if aux.dtype != np.uint8 or (aux.shape[2] if aux.ndim == 3 else 1) != channels:
            raise RgbxSegError(f'aux is {aux.dtype} {aux.shape}; expected uint8 with {channels} '
                               'channels, as `thermal.to_uint8` gives it.')
        small_rgb = np.ascontiguousarray(resize_to(rgb, height, width))[None]
        small_aux = np.ascontiguousarray(resize_to(aux, height, width))
        small_aux = small_aux.reshape(1, height, width, channels)
        started = time.perf_counter()
        label, confidence = self.engine(small_rgb, small_aux)
        ended = time.perf_counter()
        size = (rgb.shape[1], rgb.shape[0])
        mask, sure = (_enlarge(array[0], size) for array in (label, confidence))
        return Segmentation(mask, sure, (ended - started) * 1e3,
                            (time.perf_counter() - began) * 1e3)

    def warm_up(self, runs: int) -> float:
        """Run `runs` black pairs; return the milliseconds of the last one."""
        height, width = self.manifest.height, self.manifest.width
        rgb = np.zeros((height, width, 3), np.uint8)
        aux = np.zeros((height, width, self.manifest.aux.channels), np.uint8)
        return [self(rgb, aux).total_ms for _ in range(runs)][-1] if runs else 0.0


def resize_to(image: Image, height: int, width: int) -> Image:
    """Return `image` at the network's size: by area when it shrinks, else bilinear.

    Training resizes with this function too, so that the robot sees what the network learned.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def _enlarge(array: Image, size: tuple[int, int]) -> Image:
    # Nearest, never blended: an id between two ids is a third class.
    if (array.shape[1], array.shape[0]) == size:
        return array.copy()
    return cv2.resize(array, size, interpolation=cv2.INTER_NEAREST_EXACT)
