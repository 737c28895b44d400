# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix and what is read from it; the same code scores bags and training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED


class Confusion:
    """Counts of pixels, `matrix[target, predicted]`, int64 (n_classes, n_classes).

    Targets of 255 are ignored. A predicted 255 (below the confidence threshold) misses its target
    without being a false positive of any class: it is counted in `abstained[target]`.
    """

    def __init__(self, n_classes: int) -> None:
        """Start at zero for the class ids 0..n_classes-1."""
        self.n_classes = n_classes
        self.matrix = np.zeros((n_classes, n_classes), np.int64)
        self.abstained = np.zeros(n_classes, np.int64)

    def update(self, label: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Add one image: predicted `label` and true `target`, both uint8 of one shape.

        Raises:
            RgbxSegError: the shapes differ, or an id is neither a class nor 255.

        """
        if label.shape != target.shape:
            raise RgbxSegError(f'label is {label.shape}, its target {target.shape}; both must have '
                               'the same size.')
        n = self.n_classes
        # One bincount over 256 x 256 joint values also reveals ids that are no class.
        joint = np.bincount(target.ravel().astype(np.uint16) * 256 + label.ravel(),
                            minlength=65536).reshape(256, 256)
        for what, counts in (('target', joint.sum(1)), ('predicted label', joint.sum(0))):
            strange = np.flatnonzero(counts[n:UNLABELED]) + n
            if strange.size:
                raise RgbxSegError(f'{what} has the id {strange[0]}; expected 0..{n - 1} or '
                                   f'{UNLABELED} (unlabeled).')
        self.matrix += joint[:n, :n]
        self.abstained += joint[:n, UNLABELED]

    def __iadd__(self, other: Confusion) -> Confusion:
        """Add the counts of another confusion matrix over the same classes."""
        self.matrix += other.matrix
        self.abstained += other.abstained
        return self

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union by class; NaN where it is neither true nor predicted."""
        hit = np.diag(self.matrix)
        return _ratio(hit, self._true() + self.matrix.sum(0) - hit)

    def miou(self, strict: bool = False) -> float:
        """Return the mean IoU; classes that never occur are left out, or count 0 if `strict`."""
        iou = self.iou()
        if strict:
            return float(np.nan_to_num(iou).mean())
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float('nan')

    def recall(self) -> NDArray[np.float64]:
        """Return the share of each class's true pixels that were found (class accuracy)."""
        return _ratio(np.diag(self.matrix), self._true())

    def precision(self) -> NDArray[np.float64]:
        """Return the share of each class's predicted pixels that are true."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(0))

    def accuracy(self) -> float:
        """Return the share of all labeled pixels that are right."""
        return float(_ratio(np.diag(self.matrix).sum(), self._true().sum()))

    def _true(self) -> NDArray[np.int64]:
        return self.matrix.sum(1) + self.abstained


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(whole > 0, part / whole, np.nan)
