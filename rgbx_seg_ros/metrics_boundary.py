# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Boundary IoU: how well the outlines of the regions lie, which plain IoU hardly sees.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR 2021:
the IoU of those pixels alone that lie within a distance of the boundary of their own region.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.metrics import Image, joint_ids, mean_of_classes, ratio

REACH = 0.02  # of the diagonal of the image, as in the paper


class BoundaryIou:
    """Counts of pixels near boundaries, int64 (3, n_classes): in both, predicted, true.

    Pixels whose target is 255 belong to no region, true or predicted, so that a mask that equals
    its target wherever there is one scores 1. A predicted 255 is no region of any class either.
    """

    def __init__(self, n_classes: int) -> None:
        """Start at zero for the class ids 0..n_classes-1."""
        self.n_classes = n_classes
        self.counts = np.zeros((3, n_classes), np.int64)

    def update(self, label: Image, target: Image, true: Image | None = None) -> None:
        """Add one image: predicted `label` and true `target`, both uint8 (H, W).

        `true` is `outlines(target)`, for who has it already. Raises RgbxSegError where the shapes
        differ or an id is neither a class nor 255.
        """
        unknown = cv2.threshold(target, UNLABELED - 1, UNLABELED, cv2.THRESH_BINARY)[1]
        known = cv2.bitwise_or(label, unknown) if label.shape == target.shape else label
        n = self.n_classes
        joint = joint_ids(outlines(target) if true is None else true, outlines(known), n)
        self.counts += (np.diag(joint)[:n], joint.sum(0)[:n], joint.sum(1)[:n])

    def __iadd__(self, other: BoundaryIou) -> BoundaryIou:
        """Add the counts of others over the same classes."""
        self.counts += other.counts
        return self

    def iou(self) -> NDArray[np.float64]:
        """Return the boundary IoU by class; NaN where it is neither true nor predicted."""
        both, predicted, true = self.counts
        return ratio(both, predicted + true - both)

    def miou(self, strict: bool = False) -> float:
        """Return its mean; classes that never occur are left out, or count 0 if `strict`."""
        return mean_of_classes(self.iou(), strict)


def outlines(label: Image, reach: float = REACH) -> Image:
    """Return a label map (H, W) with 255 in place of all ids that lie deep within their region.

    What is not deep is within `reach`, as a share of the diagonal and at least one pixel, of
    another id or of the outside of the image; diagonal steps count one, as they do in the paper.
    """
    distance = max(1, round(reach * math.hypot(*label.shape)))
    return cv2.bitwise_or(label, _deep(label, distance))


def _deep(label: Image, distance: int) -> Image:
    """Return 255 where the window of 2 * distance + 1 holds one id and lies within the image.

    Such a window is 2 * distance blocks of 2 x 2 wide and high, each of one id. So one map of
    blocks serves all ids at once. Where all is 255 the outside is not noticed.
    """
    ring = cv2.copyMakeBorder(label, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=UNLABELED)
    corner = ring[:-1, :-1]
    blocks = cv2.compare(corner, ring[:-1, 1:], cv2.CMP_EQ)
    for other in (ring[1:, :-1], ring[1:, 1:]):
        blocks = cv2.bitwise_and(blocks, cv2.compare(corner, other, cv2.CMP_EQ))
    margin = distance - 1
    alike = cv2.copyMakeBorder(blocks, margin, margin, margin, margin, cv2.BORDER_CONSTANT,
                               value=255)
    reached = 1  # blocks; doubling it takes fewer steps than cv2.erode does
    while reached < 2 * distance:
        step = min(reached, 2 * distance - reached)
        alike = cv2.min(alike[:-step], alike[step:])
        alike = cv2.min(alike[:, :-step], alike[:, step:])
        reached += step
    return alike
