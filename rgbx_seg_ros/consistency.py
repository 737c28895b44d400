# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Temporal consistency: whether a mask says of a place what the mask before said of it.

Optical flow tells where each place was in the frame before; the share of places that kept their
label needs no target. After Liu et al., "Efficient Semantic Video Segmentation with Per-frame
Inference", ECCV 2020. Flow is not believed because it was computed: it has to explain the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.metrics import Image, value_counts

REFINEMENTS = 2  # rounds; the preset has 5, which take a third of the time and gain nothing here
LONGEST = 256  # pixels of the longer side on which the flow is computed
SHORTEST = 64  # of the other; DISOpticalFlow reads beyond the ends of images of less than 32
MAX_GAP_NS = 500_000_000  # frames further apart show too little of the same
STRUCTURE = 9  # pixels; what differs from its mean over so many is structure
LEAST_STRUCTURE = 1.0  # gray levels, root mean square; below is nothing but rounding
OUTLIER = 4.5  # medians of the residual: three standard deviations if it is normal
NEIGHBORHOOD = 31  # pixels in which a flow has to explain the structure
UNEXPLAINED = 0.5  # of the energy of the structure there, at most; noise alone leaves 1.1 to 2
LEAST_SHARE = 0.4  # of all places, or the flow is of no use: by day 0.8, of lamps in the dark 0.2


class Motion(NamedTuple):
    """Where the places of a regular grid, every `step` pixels, were in the frame before."""

    step: int
    before: NDArray[np.float32]  # (h, w, 2) pixel positions x, y
    trusted: Image  # (h, w) 255 where the flow explains the image, else 0
    source: str  # rgb or aux: the image that it was seen in


class MotionTracker:
    """Follows a camera from frame to frame. Not thread-safe.

    RGB is looked at first. If its flow does not explain it, as in the dark where there is only
    noise, aux is, and stays the first until it fails; if neither does, there is nothing to tell.
    """

    def __init__(self) -> None:
        """Start with no frame before."""
        self._flow: Any = None  # cv2.DISOpticalFlow; the same on any number of threads
        self._before: dict[str, Image] = {}
        self._source = 'rgb'  # what told of the motion last
        self._places: Any = None  # (h, w, 2) float32 x, y of each pixel that the flow is told of
        self._shape: tuple[int, ...] = ()
        self._stamp_ns = 0

    def reset(self) -> None:
        """Forget the frame before, as when a camera is lost."""
        self._before = {}

    def __call__(self, rgb: Image, aux: Image, stamp_ns: int) -> Motion | None:
        """Return the motion since the frame before; None where none can be told.

        Takes rgb uint8 (H, W, 3), or (H, W) of its gray, and aux uint8 (h, w) or (h, w, C) of the
        same field of view.
        There is none after a gap, a jump of the stamps or a change of the size, and none in images
        whose shorter side is below SHORTEST, also once the longer one is reduced to LONGEST.
        """
        step = max(1, -(-max(rgb.shape[:2]) // LONGEST))
        size = max(1, rgb.shape[1] // step), max(1, rgb.shape[0] // step)
        now = {'rgb': _reduced(rgb, size), 'aux': _reduced(aux, size)}
        if rgb.shape[:2] != self._shape:
            self._begin(rgb.shape[:2], size)
        before = self._before if 0 < stamp_ns - self._stamp_ns <= MAX_GAP_NS else {}
        self._before, self._stamp_ns = now, stamp_ns
        if min(size) < SHORTEST:
            return None
        # One image that stands still beside one that does not is frozen, as behind a shutter.
        moving = [name for name in before if not np.array_equal(before[name], now[name])]
        for source in sorted(moving or before, key=lambda name: name != self._source):
            found = self._between(before[source], now[source])
            if found is not None:
                self._source = source
                return Motion(step, found[0] * step + step // 2, found[1], source)
        return None

    def _begin(self, shape: tuple[int, ...], size: tuple[int, int]) -> None:
        """Make ready for images of another size; the buffers of a flow are meant for one."""
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._flow.setVariationalRefinementIterations(REFINEMENTS)
        x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
        self._places = np.stack([x, y], -1).astype(np.float32)
        self._shape, self._before = shape, {}

    def _between(self, before: Image, now: Image) -> tuple[NDArray[np.float32], Image] | None:
        """Return where each pixel was, and where that is to be trusted; None if nowhere."""
        structure = cv2.absdiff(now, cv2.blur(now, (STRUCTURE, STRUCTURE)))
        if cv2.norm(structure, cv2.NORM_L2SQR) < LEAST_STRUCTURE ** 2 * now.size:
            return None
        came = self._flow.calc(now, before, None) + self._places
        inside = cv2.remap(np.full_like(now, 255), came, None, cv2.INTER_NEAREST,
                           borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        residual = _residual(now, cv2.remap(before, came, None, cv2.INTER_LINEAR,
                                            borderMode=cv2.BORDER_REPLICATE))
        # 255, like what differs by so much, is what came from outside.
        residual = cv2.bitwise_or(residual, cv2.bitwise_not(inside))
        ranks = np.cumsum(value_counts(residual)[:255])
        median = int(np.searchsorted(ranks, ranks[-1] / 2))
        most = min(int(OUTLIER * median) + 2, 254)  # 2: of the rounding
        fits = cv2.threshold(residual, most, 255, cv2.THRESH_BINARY_INV)[1]
        trusted = cv2.bitwise_and(fits, _explained(cv2.bitwise_and(residual, fits), structure))
        if cv2.countNonZero(trusted) < LEAST_SHARE * now.size:
            return None
        return came, trusted


def kept(motion: Motion, before: Image, label: Image) -> float:
    """Return the share of trusted places of `label` (H, W) with the id they had in `before`."""
    start, step = motion.step // 2, motion.step
    height, width = motion.trusted.shape
    now = label[start::step, start::step][:height, :width]
    then = cv2.remap(before, motion.before, None, cv2.INTER_NEAREST,
                     borderMode=cv2.BORDER_REPLICATE)
    same = (then == now).view(np.uint8)
    return cv2.countNonZero(cv2.bitwise_and(same, motion.trusted)) / cv2.countNonZero(
        motion.trusted)


def _reduced(image: Image, size: tuple[int, int]) -> Image:
    """Return an image as gray, (height, width) of `size` given as width, height."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
    height, width = image.shape
    times = min(width // size[0], height // size[1])
    if times > 1:  # means of blocks, in a quarter of the time of cv2.INTER_AREA
        start = times // 2
        means = cv2.blur(image, (times, times))[start::times, start::times]
        image = np.ascontiguousarray(means[:height // times, :width // times])
    return image if image.shape == size[::-1] else cv2.resize(image, size)


def _explained(residual: Image, structure: Image) -> Image:
    """Return 255 where a residual (h, w) is small against the structure around, else 0.

    Not over the image as a whole: a few lamps in the dark hold most of the energy, and would vouch
    for a flow that is made up of noise everywhere else.
    """
    window = (NEIGHBORHOOD, NEIGHBORHOOD)
    left, whole = (cv2.sqrBoxFilter(image, cv2.CV_32F, window) for image in (residual, structure))
    return cv2.compare(left, whole * UNEXPLAINED, cv2.CMP_LE)


def _residual(now: Image, then: Image) -> Image:
    """Return |now - then| (h, w) with the brightness and contrast of `then` made those of `now`.

    An automatic exposure is no motion, and neither is the range that a thermal image is shown in.
    """
    (mean, spread), (mean_then, spread_then) = (
        (float(part[0, 0]) for part in cv2.meanStdDev(image)) for image in (now, then))
    gain = spread / spread_then if spread_then > 0 else 1.0
    return cv2.convertScaleAbs(cv2.addWeighted(now, 1, then, -gain, gain * mean_then - mean,
                                               dtype=cv2.CV_32F))
