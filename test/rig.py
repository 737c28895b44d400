# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Made-up scenes seen by an RGB and a thermal camera whose homography is known."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest

from rgbx_seg_ros import alignment, edge_maps


def hurry(patch: pytest.MonkeyPatch, grid_width: int = edge_maps.WIDTH) -> None:
    """Follow one start, draw twice and work on a coarser grid than rgbx_register does."""
    patch.setattr(alignment, 'STARTS', 1)
    patch.setattr(alignment, 'BOOTSTRAPS', 2)
    patch.setattr(edge_maps, 'WIDTH', grid_width)


@lru_cache
def scene(seed: int, width: int = 640, height: int = 480) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB (H, W, 3) and aligned thermal (H, W): same outlines, unrelated brightness."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), 90, np.uint8)
    thermal = np.full((height, width), 70, np.uint8)
    for _ in range(160):
        center = rng.uniform([0, 0], [width, height])
        corners = center + rng.uniform(-70, 70, (rng.integers(3, 6), 2))
        hull = cv2.convexHull(corners.astype(np.int32))
        cv2.fillConvexPoly(rgb, hull, rng.integers(20, 240, 3).tolist(), cv2.LINE_AA)
        cv2.fillConvexPoly(thermal, hull, int(rng.integers(20, 240)), cv2.LINE_AA)
    noise = rng.normal(0, 4, (height, width))
    thermal = np.clip(thermal + noise, 1, 255).astype(np.uint8)
    for image in (rgb, thermal):
        image.setflags(write=False)
    return rgb, thermal


def homography(turn_deg: float, scale: float, shift: tuple[float, float],
               tilt: tuple[float, float] = (0.0, 0.0), width: int = 640,
               height: int = 480) -> np.ndarray:
    """Return a homography about the middle of the image; `tilt` in 1/px."""
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((width / 2, height / 2), turn_deg, scale)
    turn[:2, 2] += shift
    return np.array([[1, 0, 0], [0, 1, 0], [*tilt, 1]]) @ turn


def seen_through(thermal: np.ndarray, to_rgb: np.ndarray,
                 size: tuple[int, int] | None = None) -> np.ndarray:
    """Return what the aux camera records (black where it sees past the scene)."""
    return cv2.warpPerspective(thermal, np.linalg.inv(to_rgb), size or thermal.shape[::-1])


def error_px(found: np.ndarray, true: np.ndarray, width: int = 640, height: int = 480) -> float:
    """Return the median distance of where two homographies send the pixels of an aux image."""
    x, y = np.meshgrid(np.arange(0, width, 8.0), np.arange(0, height, 8.0))
    points = np.stack([x, y], 2).reshape(-1, 1, 2)
    moved = (cv2.perspectiveTransform(points, matrix) for matrix in (found, true))
    return float(np.median(np.linalg.norm(np.subtract(*moved), axis=2)))
