# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores masks by human boxes, where no human drew masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_train.data.boxes import BOX_CLASSES, Box
from rgbx_seg_train.data.sample import Image

HIT_FILL = 0.2  # a box is hit if its class fills more than this share of it
PARTS = ('day', 'night')


class BoxScore:
    """Counts, by class and time of day, that fill up frame by frame."""

    def __init__(self) -> None:
        """Start at zero."""
        shape = (len(PARTS), 256)
        self.boxes, self.hits = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.predicted, self.inside = np.zeros(shape, np.int64), np.zeros(shape, np.int64)

    def update(self, label: Image, boxes: Sequence[Box], night: bool) -> None:
        """Add one frame: predicted ids uint8 (H, W), and all boxes people drew in it."""
        part = PARTS.index('night' if night else 'day')
        for class_id in BOX_CLASSES.values():
            found = label == class_id
            covered = np.zeros(label.shape, bool)
            for box in (b for b in boxes if b.class_id == class_id):
                box.of(covered)[:] = True
                self.boxes[part, class_id] += 1
                self.hits[part, class_id] += box.of(found).mean() > HIT_FILL
            self.predicted[part, class_id] += found.sum()
            self.inside[part, class_id] += (found & covered).sum()

    def summary(self, classes: Sequence[ClassInfo]) -> dict[str, Any]:
        """Return, by part and class, boxes, their hit rate, and the share of pixels inside boxes.

        `inside` is the share of the class's predicted pixels that lies in some box of it.
        """
        names = {info.id: info.name for info in classes}
        rows = {'all': slice(None), 'day': slice(0, 1), 'night': slice(1, 2)}
        return {part: {names[c]: self._row(row, c) for c in sorted(BOX_CLASSES.values())}
                for part, row in rows.items()}

    def _row(self, row: slice, class_id: int) -> dict[str, Any]:
        boxes, hits, predicted, inside = (
            int(counts[row, class_id].sum())
            for counts in (self.boxes, self.hits, self.predicted, self.inside)
        )
        return {'boxes': boxes, 'hit_rate': hits / boxes if boxes else None,
                'inside': inside / predicted if predicted else None}
