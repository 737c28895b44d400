# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The newest depth images of a camera pair, and which of them belongs to an RGB frame."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rgbx_seg_ros import incoming
from rgbx_seg_ros.cloud import Floats, depth_to_meters

KEPT = 8  # images that wait for their RGB frame


class DepthImages:
    """One thread adds, another one asks."""

    def __init__(self, max_skew_s: float) -> None:
        """Start with none; one further than `max_skew_s` from an RGB frame is not its depth."""
        self.found = True  # what was asked for last; nothing is amiss before
        self._max_skew_ns = round(max_skew_s * 1e9)
        self._images: deque[Any] = deque(maxlen=KEPT)

    def add(self, message: Any) -> None:
        """Take a depth image on the RGB grid."""
        self._images.append(message)

    def clear(self) -> None:
        """Forget them."""
        self._images.clear()

    def meters(self, stamp_ns: int) -> Floats | None:
        """Return the depth nearest to a stamp as float32 meters (h, w), or None if none is near.

        Floats come as they are, for their infinity is far away (REP-117). Raises
        images.ImageError and RgbxSegError for what is no depth image.
        """
        def skew_ns(message: Any) -> int:
            return abs(incoming.stamp_ns(message.header) - stamp_ns)

        nearest = min(self._images.copy(), default=None, key=skew_ns)
        self.found = nearest is not None and skew_ns(nearest) <= self._max_skew_ns
        if nearest is None or not self.found:
            return None
        depth = incoming.to_array(nearest)
        return depth if depth.dtype == np.float32 and depth.ndim == 2 else depth_to_meters(depth)
