# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Human boxes: read them, and turn them into weak labels for pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.data.sample import Image

CAR, PERSON, BIKE = 1, 2, 3  # ids of MFNet
BOX_CLASSES = {0: PERSON, 1: BIKE, 2: CAR}  # class of the box file -> MFNet id
TRUSTED_FILL = 0.2  # a box whose class already fills this share keeps the label it has
LEAST_CONTRAST = 6.0  # gray levels by which a warm body must stand out from its surroundings
BODY_FILL = (0.12, 0.8)  # share of a box that the warm region of a person may fill
MARGIN = 0.15  # of a box's size, looked at around it


class Box(NamedTuple):
    """A rectangle in pixels, right and bottom excluded, and the MFNet id of what it holds."""

    class_id: int
    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Return the number of pixels inside."""
        return (self.right - self.left) * (self.bottom - self.top)

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return the view of an image inside the box."""
        return image[self.top:self.bottom, self.left:self.right]


def read_boxes(path: Path, height: int, width: int) -> tuple[Box, ...]:
    """Return the boxes of a YOLO file (`class cx cy w h`, relative), cut to the image."""
    boxes = []
    # Bytes that are no text shall be told as what they are: a line without numbers.
    text = path.read_text(encoding='utf-8', errors='replace')
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            kind, *numbers = line.split()
            cx, cy, w, h = map(float, numbers)
            class_id = BOX_CLASSES[int(kind)]
            if not np.isfinite([cx, cy, w, h]).all():
                raise ValueError
        except (ValueError, KeyError):
            raise RgbxSegError(f'{path}, line {number}: "{line[:40]}"; expected "class cx cy w h" '
                               f'with a class of {", ".join(map(str, BOX_CLASSES))}.') from None
        left, right = (round(np.clip(x, 0, 1) * width) for x in (cx - w / 2, cx + w / 2))
        top, bottom = (round(np.clip(y, 0, 1) * height) for y in (cy - h / 2, cy + h / 2))
        if right > left and bottom > top:
            boxes.append(Box(class_id, left, top, right, bottom))
    return tuple(boxes)


def weak_label(label: Image | None, boxes: Sequence[Box], thermal: Image) -> Image:
    """Return ids (H, W) from boxes and, where there is one, another model's `label` (H, W).

    Pixels of a boxed class outside all boxes of it are ignored: people did not see what the model
    saw. A box that the label does not fill gets its class where a person is warm, or where cars and
    bikes usually are in their boxes; what remains of the box is ignored. Without a label, all
    outside the boxes is background. Small boxes come last, as small things stand in front.
    """
    result = np.zeros(thermal.shape[:2], np.uint8) if label is None else label.copy()
    for class_id in BOX_CLASSES.values():
        inside = np.zeros(result.shape, bool)
        for box in boxes:
            if box.class_id == class_id:
                box.of(inside)[:] = True
        result[(result == class_id) & ~inside] = UNLABELED
    told = result.copy()
    for box in sorted(boxes, key=lambda b: -b.area):
        if (box.of(told) == box.class_id).mean() > TRUSTED_FILL:
            continue
        part = box.of(result)
        region = REGIONS[box.class_id](box, thermal)
        part[~np.isin(part, tuple(BOX_CLASSES.values()))] = UNLABELED
        part[region] = box.class_id
    return result


def _warm(box: Box, thermal: Image) -> np.ndarray:
    """Return where a person's box is warm; an upright ellipse where nothing stands out."""
    height, width = thermal.shape[:2]
    dx = max(2, round(MARGIN * (box.right - box.left)))
    dy = max(2, round(MARGIN * (box.bottom - box.top)))
    wide = Box(0, max(box.left - dx, 0), max(box.top - dy, 0), min(box.right + dx, width),
               min(box.bottom + dy, height))
    around = np.ascontiguousarray(wide.of(thermal))
    threshold, _ = cv2.threshold(around, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    warm = box.of(thermal) > threshold
    above, below = around[around > threshold], around[around <= threshold]
    stands_out = (above.size and below.size
                  and above.mean() - below.mean() >= LEAST_CONTRAST
                  and BODY_FILL[0] <= warm.mean() <= BODY_FILL[1])
    return warm if stands_out else _ellipse(box, 0.6, 0.9)


def _ellipse(box: Box, across: float, along: float) -> np.ndarray:
    """Return an ellipse in the middle of a box, as shares of its width and height."""
    height, width = box.bottom - box.top, box.right - box.left
    y, x = np.mgrid[:height, :width]
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    return (x / across) ** 2 + (y / along) ** 2 <= 1


REGIONS = {
    PERSON: _warm,
    BIKE: lambda box, thermal: _ellipse(box, 0.8, 0.8),
    CAR: lambda box, thermal: _ellipse(box, 0.92, 0.88),
}
