# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a model over many frames: all of them, and day and night apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_train.data.sample import Image


class Score:
    """Confusion matrices that fill up frame by frame."""

    def __init__(self, n_classes: int) -> None:
        """Start at zero."""
        self.day, self.night = Confusion(n_classes), Confusion(n_classes)
        self.frames = {'day': 0, 'night': 0}

    @property
    def all(self) -> Confusion:
        """Return day and night together."""
        total = Confusion(self.day.n_classes)
        total += self.day
        total += self.night
        return total

    def update(self, label: Image, target: Image, night: bool) -> None:
        """Add one frame: predicted and true ids, uint8 (H, W), 255 ignored in the target."""
        part = 'night' if night else 'day'
        getattr(self, part).update(label, target)
        self.frames[part] += 1


def summarize(score: Score, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """Return the scores as plain numbers; None where there is nothing to score.

    `miou` counts a class that never occurs as 0, `miou_present` leaves it out.
    """
    result: dict[str, Any] = {'frames': sum(score.frames.values())}
    for part, confusion in (('', score.all), ('_day', score.day), ('_night', score.night)):
        scored = confusion.matrix.sum() > 0
        result[f'miou{part}'] = confusion.miou(strict=True) if scored else None
        result[f'miou_present{part}'] = confusion.miou() if scored else None
        result[f'iou{part}'] = {info.name: _number(confusion.iou()[info.id]) for info in classes}
    result['accuracy'] = _number(score.all.accuracy())
    return result


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
