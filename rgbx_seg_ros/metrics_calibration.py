# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Calibration: whether of the pixels with a confidence of 80 % some 80 % are right.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. An engine gives the probability
of the chosen class in 256 steps, so one table of 256 x 2 counts holds all there is to know.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.metrics import Counts, Image, flat, joint_counts

BINS = 15  # as in the paper
WRONG, RIGHT, UNKNOWN = 0, 1, 2


class Reliability(NamedTuple):
    """One bin of confidences: their mean, the share of right pixels (both 0..1), and how many."""

    confidence: float  # NaN, like the accuracy, where there is no pixel
    accuracy: float
    pixels: int


class Calibration:
    """Counts of pixels, `counts[confidence, right]`, int64 (256, 2): wrong and right ones.

    Pixels without a target, and those predicted as 255 (unlabeled), are neither.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.counts = np.zeros((256, 2), np.int64)

    def update(self, label: Image, confidence: Image, target: Image) -> Counts:
        """Add one image, each uint8 of one shape; confidence 0..255 stands for 0..1.

        Returns how many pixels there are of each confidence, known or not, int64 (256,).

        Raises:
            RgbxSegError: the shapes differ.

        """
        if not label.shape == confidence.shape == target.shape:
            raise RgbxSegError(f'label is {label.shape}, its confidence {confidence.shape}, its '
                               f'target {target.shape}; all must have the same size.')
        label, target = flat(label), flat(target)
        outcome = (label == target).view(np.uint8)
        outcome[cv2.max(label, target).reshape(-1) == UNLABELED] = UNKNOWN
        joint = joint_counts(outcome, confidence, (UNKNOWN + 1, 256))
        self.counts += joint[:UNKNOWN].T
        return joint.sum(0)

    def __iadd__(self, other: Calibration) -> Calibration:
        """Add the counts of others."""
        self.counts += other.counts
        return self

    def reliability(self, bins: int = BINS) -> list[Reliability]:
        """Return the `bins` intervals of confidence, (0, 1 / bins] and so on up to 1."""
        step = np.arange(256)
        of = np.maximum((step * bins + 254) // 255 - 1, 0)  # exactly, in whole numbers
        pixels, right, total = (np.bincount(of, weights, bins) for weights in (
            self.counts.sum(1), self.counts[:, RIGHT], self.counts.sum(1) * step))
        with np.errstate(invalid='ignore'):
            mean, accuracy = total / pixels / 255, right / pixels
        return [Reliability(float(mean[n]), float(accuracy[n]), int(pixels[n]))
                for n in range(bins)]

    def ece(self, bins: int = BINS) -> float:
        """Return the expected calibration error, 0..1: the mean gap, over pixels; NaN if none."""
        filled = [one for one in self.reliability(bins) if one.pixels]
        gaps = sum(one.pixels * abs(one.accuracy - one.confidence) for one in filled)
        return gaps / sum(one.pixels for one in filled) if filled else float('nan')

    def mce(self, bins: int = BINS) -> float:
        """Return the maximum calibration error, 0..1: the gap of the worst bin; NaN if none."""
        return max((abs(one.accuracy - one.confidence) for one in self.reliability(bins)
                    if one.pixels), default=float('nan'))


def entropy_bound(n_classes: int) -> NDArray[np.float64]:
    """Return the largest entropy [bits] that each confidence 0..255 allows, float64 (256,).

    By Fano's inequality, with equality where all other classes share the rest alike. Below
    1 / n_classes, where the probability of the chosen class cannot lie, it stays log2(n_classes).
    """
    least = 1 / max(n_classes, 1)
    p = np.clip(np.arange(256) / 255, least, 1)
    rest = 1 - p
    bits = -p * np.log2(p) + rest * np.log2(max(n_classes - 1, 1))
    some = rest > 0
    bits[some] -= rest[some] * np.log2(rest[some])
    return bits
