# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix and what is read from it; the same code scores bags and training."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED

Image = NDArray[np.uint8]
Counts = NDArray[np.int64]

EXACT = 1 << 24  # pixels; cv2.calcHist returns its whole numbers as float32


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

    def update(self, label: Image, target: Image) -> Counts:
        """Add one image: predicted `label` and true `target`, both uint8 of one shape.

        Returns its `joint_ids`.

        Raises:
            RgbxSegError: the shapes differ, or an id is neither a class nor 255.

        """
        n = self.n_classes
        joint = joint_ids(target, label, n)
        self.matrix += joint[:n, :n]
        self.abstained += joint[:n, n]
        return joint

    def __iadd__(self, other: Confusion) -> Confusion:
        """Add the counts of another confusion matrix over the same classes."""
        self.matrix += other.matrix
        self.abstained += other.abstained
        return self

    def iou(self) -> NDArray[np.float64]:
        """Return intersection over union by class; NaN where it is neither true nor predicted."""
        hit = np.diag(self.matrix)
        return ratio(hit, self.true() + self.matrix.sum(0) - hit)

    def miou(self, strict: bool = False) -> float:
        """Return the mean IoU; classes that never occur are left out, or count 0 if `strict`."""
        return mean_of_classes(self.iou(), strict)

    def recall(self) -> NDArray[np.float64]:
        """Return the share of each class's true pixels that were found (class accuracy)."""
        return ratio(np.diag(self.matrix), self.true())

    def precision(self) -> NDArray[np.float64]:
        """Return the share of each class's predicted pixels that are true."""
        return ratio(np.diag(self.matrix), self.matrix.sum(0))

    def accuracy(self) -> float:
        """Return the share of all labeled pixels that are right."""
        return float(ratio(np.diag(self.matrix).sum(), self.true().sum()))

    def true(self) -> Counts:
        """Return the labeled pixels of each class, (n_classes,)."""
        return self.matrix.sum(1) + self.abstained


def joint_ids(target: Image, label: Image, n_classes: int) -> Counts:
    """Return how often each true id meets each predicted one, int64 (n + 1, n + 1).

    Both are uint8 of one shape; the last row and column are those of 255.

    Raises:
        RgbxSegError: the shapes differ, or an id is neither a class nor 255.

    """
    if label.shape != target.shape:
        raise RgbxSegError(f'label is {label.shape}, its target {target.shape}; both must have '
                           'the same size.')
    known = [*range(n_classes), UNLABELED]
    joint = np.zeros((len(known), len(known)), np.int64)
    for table in _tables(target, label, (256, 256)):
        joint += table[np.ix_(known, known)].astype(np.int64)  # few of its values, most are 0
    if joint.sum() != target.size:
        check_ids(value_counts(target), n_classes, 'target')
        check_ids(value_counts(label), n_classes, 'predicted label')
    return joint


def joint_counts(first: Image, second: Image, sizes: tuple[int, int] = (256, 256)) -> Counts:
    """Return how often values meet at one pixel, int64 of shape `sizes` [first, second].

    Both are uint8 of one shape; values beyond the sizes are left out. OpenCV takes half the time
    of numpy.bincount, and frees the GIL.
    """
    counts = np.zeros(sizes, np.int64)
    for table in _tables(first, second, sizes):
        counts += table.astype(np.int64)
    return counts


def _tables(first: Image, second: Image, sizes: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
    for parts in zip(_parts(first), _parts(second), strict=True):
        yield cv2.calcHist(parts, [0, 1], None, sizes, [0, sizes[0], 0, sizes[1]])


def value_counts(image: Image) -> Counts:
    """Return how often each value occurs in a uint8 array of any shape, int64 (256,)."""
    counts = np.zeros(256, np.int64)
    for part in _parts(image):
        counts += cv2.calcHist([part], [0], None, [256], [0, 256]).astype(np.int64).ravel()
    return counts


def _parts(image: Image) -> list[Image]:
    """Return the pixels as flat arrays, each of few enough to be counted exactly."""
    pixels = flat(image)
    return [pixels[at:at + EXACT] for at in range(0, pixels.size, EXACT)]


def flat(image: Image) -> Image:
    """Return the pixels (n,) of a uint8 array of any shape, or raise RgbxSegError."""
    if image.dtype != np.uint8:
        raise RgbxSegError(f'an image to count is {image.dtype}; expected uint8.')
    return np.ascontiguousarray(image).reshape(-1)


def check_ids(counts: Counts, n_classes: int, what: str) -> None:
    """Raise RgbxSegError if `counts` (256,) of ids has one that is neither a class nor 255."""
    strange = np.flatnonzero(counts[n_classes:UNLABELED]) + n_classes
    if strange.size:
        raise RgbxSegError(f'{what} has the id {strange[0]}; expected 0..{n_classes - 1} or '
                           f'{UNLABELED} (unlabeled).')


def mean_of_classes(scores: NDArray[np.float64], strict: bool = False) -> float:
    """Return the mean over the classes that have a score, or over all, NaN as 0, if `strict`."""
    if strict:
        return float(np.nan_to_num(scores).mean())
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float('nan')


def ratio(part: Counts, whole: Counts) -> NDArray[np.float64]:
    """Return part / whole, NaN where the whole is 0."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(whole > 0, part / whole, np.nan)
