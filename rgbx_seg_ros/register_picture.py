# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The picture to judge a registration by: RGB edges over aux before and after, a checkerboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDTH = 480  # of a panel
ROWS = 3
TILES = 8  # of the checkerboard, along its width
EDGE = (80, 255, 80)


def draw(pairs: Sequence[tuple[Array, Array]], homography: Array, caption: str) -> bytes:
    """Return a PNG: for some pairs aux as it comes, registered, and in turn with RGB."""
    step = max(1, len(pairs) // ROWS)
    rows = [_row(rgb, aux, homography) for rgb, aux in pairs[::step][:ROWS]]
    head = np.full((44, rows[0].shape[1], 3), 24, np.uint8)
    titles = (caption, 'RGB edges over aux as it comes', 'RGB edges over aux registered',
              'aux registered and RGB in turn')
    for index, title in enumerate(titles):
        place = (8, 16) if index == 0 else (8 + (index - 1) * WIDTH, 36)
        cv2.putText(head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1,
                    cv2.LINE_AA)
    png: bytes = cv2.imencode('.png', np.vstack([head, *rows]))[1].tobytes()
    return png


def _row(rgb: Array, aux: Array, homography: Array) -> Array:
    height, width = rgb.shape[:2]
    size = (WIDTH, round(height * WIDTH / width))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    heat = _visible(aux)
    before = cv2.resize(heat, size, interpolation=cv2.INTER_AREA)
    after = cv2.resize(cv2.warpPerspective(heat, homography, (width, height)), size,
                       interpolation=cv2.INTER_AREA)
    color = small[..., ::-1] if small.ndim == 3 else cv2.cvtColor(small, cv2.COLOR_GRAY2BGR)
    edges = _edges(color)
    panels = []
    for gray in (before, after):
        panel = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
        panel[edges] = EDGE
        panels.append(panel)
    y, x = np.indices(after.shape) // (WIDTH // TILES)
    board = np.where(((x + y) % 2 == 0)[..., None], cv2.cvtColor(after, cv2.COLOR_GRAY2BGR),
                     _brightened(color))
    return np.hstack([*panels, board.astype(np.uint8)])


def _visible(aux: Array) -> Array:
    """Return any aux image as gray uint8, stretched between percentiles of what it shows."""
    gray = np.nan_to_num((aux if aux.ndim == 2 else aux.max(axis=2)).astype(np.float32))
    shown = gray[gray != 0]
    low, high = np.percentile(shown, (1, 99)) if shown.size else (0.0, 1.0)
    stretched: Array = (np.clip((gray - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    return stretched


def _brightened(color: Array) -> Array:
    high = float(np.percentile(color, 99))
    bright: Array = (np.sqrt(np.clip(color / max(high, 1.0), 0, 1)) * 255).astype(np.uint8)
    return bright


def _edges(color: Array) -> Array:
    gray = cv2.GaussianBlur(cv2.cvtColor(_brightened(color), cv2.COLOR_BGR2GRAY), (0, 0), 1.2)
    steep = sum(np.abs(cv2.Sobel(gray, cv2.CV_16S, *order)) for order in ((1, 0), (0, 1)))
    high = max(100.0, 5 * float(np.median(steep)))  # the noise of a night is no edge
    edges: Array = cv2.Canny(gray, 0.4 * high, high) > 0
    return edges
