# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Raw aux images to the uint8 that the network was trained on; robot and training share it.

`to_uint8` is the training's function of one image. `AuxFrontEnd` is the robot's, for a stream:
the same bits by default, and beyond that what real cameras need, see docs/thermal.md. Only
bounds are temperatures, and they are converted to raw values: no image is turned into kelvin.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.aux_presets import PRESETS, Preset
from rgbx_seg_ros.aux_range import Follower, Workspace, scale_to_uint8
from rgbx_seg_ros.false_color import FalseColor, is_gray
from rgbx_seg_ros.hot_pixels import HotPixels
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.manifest import AuxEncoding
from rgbx_seg_ros.radiometry import AuxConfig, Radiometry, Scale, bounds

__all__ = ['PRESETS', 'AuxConfig', 'AuxFrontEnd', 'Preset', 'to_uint8']

Array = NDArray[Any]

CLAHE_LIMIT, CLAHE_TILES = 2.0, (8, 8)


def to_uint8(raw: Array, encoding: AuxEncoding) -> NDArray[np.uint8]:
    """Return `raw` (H, W) or (H, W, 3) as uint8 of the same size with `encoding.channels` channels.

    uint16 and int16 are counts, scaled as `encoding` says; float32 is in `encoding.unit` already.
    NaN, -inf and, where the range begins above it, the 0 of "no reading" become 0. uint8 passes
    unchanged: the camera has normalized it (AGC). Three channels become one by their luminance, one
    becomes three copies.

    Raises:
        RgbxSegError: another dtype or shape.

    """
    raw = _checked(raw)
    if raw.dtype != np.uint8:
        # Floats are in the unit already, as REP-118 has it for depth; integers are counts of it.
        counts = raw.dtype != np.float32
        scale, offset = (encoding.scale, encoding.offset) if counts else (1.0, 0.0)
        low, high, _ = bounds(raw, encoding, Scale(scale, offset, encoding.unit))
        raw = scale_to_uint8(raw, low, high)
    return _with_channels(raw, encoding.channels)


class AuxFrontEnd:
    """The aux images of one stream to uint8.

    `flat` tells whether all pixels of the last image were equal, as behind a closed shutter.
    """

    def __init__(self, encoding: AuxEncoding, config: AuxConfig | None = None) -> None:
        """Prepare for one camera; `encoding` is the bundle's."""
        self.config = config or AuxConfig()
        self.channels = encoding.channels
        self._told: set[str] = set()
        self._notes: list[str] = []
        self._radiometry = Radiometry(encoding, self.config, self._tell)
        self._follower = Follower(self.config.smoothing_s)
        self._hot = HotPixels()
        self._color = FalseColor()
        self._clahe = cv2.createCLAHE(CLAHE_LIMIT, CLAHE_TILES)
        self.reset()

    def reset(self) -> None:
        """Forget the stream, as after a jump of its clock; what was told is not told again."""
        self.flat = False
        self._dtype: Any = None
        self._work = Workspace()  # another dtype needs other arrays, and those may be large
        for part in (self._radiometry, self._follower, self._hot, self._color):
            part.reset()

    def notes(self) -> list[str]:
        """Return the sentences about the stream that have not been returned yet."""
        notes, self._notes = self._notes, []
        return notes

    def __call__(self, raw: Array, encoding: str, stamp_ns: int) -> NDArray[np.uint8]:
        """Return `raw`, as `images.decode` gives it, as uint8; valid until the next call.

        The next call overwrites the result, unless it is `raw` itself. `encoding` is the message's.
        Raises RgbxSegError for another dtype or shape, ImageError for refused false color.
        """
        raw = _checked(raw)
        if raw.dtype != self._dtype:
            self.reset()
            self._dtype = raw.dtype
        self.flat = _is_flat(raw)
        if self.flat:
            self._tell('flat', 'The aux image is uniform, as behind a closed shutter or a covered '
                               f'lens: each value is {raw.flat[0]}.')
        if raw.ndim == 3 and raw.dtype == np.uint8:
            raw = self._gray(raw, encoding)
        if self.config.hot_pixels and raw.ndim == 2:
            self._hot.watch(raw)
        image = (self._passed(raw, encoding) if self._radiometry.is_agc(raw)
                 else self._normalized(raw, stamp_ns))
        return _with_channels(image, self.channels, self._work)

    def _gray(self, raw: Array, encoding: str) -> Array:
        """Return false color (H, W, 3) as the gray (H, W) that it was made of, if that is known."""
        if self.config.false_color == 'keep' or is_gray(raw):
            return raw
        if self.config.false_color == 'refuse':
            raise ImageError('encoding', f'the aux image is false color ({encoding}), which '
                                         'aux.false_color refuses, expected mono16 or mono8; '
                                         'let the driver publish the raw values.')
        gray = self._color(raw, encoding)
        if gray is not None:
            self._tell('color', f'The aux image is false color ({encoding}, palette '
                                f'{self._color.palette}), turned back into gray; let the driver '
                                'publish the raw values instead.')
            return gray
        if self.channels == 1:
            self._tell('color', f'The aux image is color ({encoding}) of no known palette, so its '
                                'luminance is used; let the driver publish the raw values instead.')
        return raw

    def _passed(self, raw: Array, encoding: str) -> Array:
        """Return an 8-bit image as it is, but for its defect pixels."""
        if (self.config.normalize, self.config.camera) != ('manifest', 'manifest'):
            self._tell('agc', f'The aux image is {encoding}, so the camera has normalized it '
                              'already (AGC) and aux.normalize and aux.camera do nothing; let '
                              'the driver publish 16 bits to use them.')
        if raw.ndim == 3 or not (self.config.hot_pixels and self._hot.pixels.size):
            return raw
        image = self._work.get('out', raw.shape)
        np.copyto(image, raw)
        self._hot.repair(image)
        return image

    def _normalized(self, raw: Array, stamp_ns: int) -> Array:
        low, high = self._bounds(raw, stamp_ns)
        if raw.dtype == np.uint8:
            table = scale_to_uint8(np.arange(256, dtype=np.int16)[None], low, high)
            image = cv2.LUT(raw, table, dst=self._work.get('out', raw.shape))
        else:
            image = scale_to_uint8(raw, low, high, self._work)
        if raw.ndim == 2:
            if self.config.hot_pixels:
                # Scaling keeps the order of values, so their median may be taken after it.
                self._hot.repair(image)
            if self.config.normalize == 'clahe':
                image = self._clahe.apply(image, dst=self._work.get('clahe', raw.shape))
        return image

    def _bounds(self, raw: Array, stamp_ns: int) -> tuple[float, float]:
        """Return the raw values that become 0 and 255; those of a frame's own follow slowly."""
        target, scale = self._radiometry(raw, self.flat)
        smooth = target.range == 'percentile' and self.config.smoothing_s > 0
        if smooth and self.flat and self._follower.bounds:
            return self._follower.bounds
        low, high, middle = bounds(raw, target, scale, with_median=smooth)
        return self._follower(low, high, middle, stamp_ns) if smooth else (low, high)

    def _tell(self, topic: str, sentence: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            self._notes.append(sentence)


def _checked(raw: Array) -> Array:
    if raw.ndim not in (2, 3) or (raw.ndim == 3 and raw.shape[2] not in (1, 3)):
        raise RgbxSegError(f'aux image has the shape {raw.shape}; expected (H, W), (H, W, 1) or '
                           '(H, W, 3).')
    if raw.dtype not in (np.uint8, np.uint16, np.int16, np.float32):
        raise RgbxSegError(f'aux image is {raw.dtype}; expected uint8, uint16, int16 or float32.')
    return raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw


def _with_channels(image: Array, channels: int, work: Workspace | None = None) -> Array:
    if image.ndim == 3 and channels == 1:
        out = work.get('gray', image.shape[:2]) if work else None
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY, dst=out)
    if image.ndim == 2 and channels == 3:
        out = work.get('color', (*image.shape, 3)) if work else None
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB, dst=out)
    return image


def _is_flat(raw: Array) -> bool:
    """Tell whether all values are equal or NaN; a few pixels settle it for nearly every image."""
    few = raw[::max(1, raw.shape[0] // 16), ::max(1, raw.shape[1] // 16)]
    for pixels in (few, raw):
        lowest, highest = np.fmin.reduce(pixels, axis=None), np.fmax.reduce(pixels, axis=None)
        if lowest < highest:
            return False
    return True
