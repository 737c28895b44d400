# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a model loses when a camera fails, the two are misaligned, or their images are noisy.

Faults are made of the images at the cameras' size and are a function of the sample's name alone, so
that every model meets the same ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rgbx_seg_train.data.sample import Image, Sample
from rgbx_seg_train.score import Score

SHIFTS = (2, 4, 8, 16)  # pixels
SIGMA = 25.5  # of the noise: a tenth of the range
BASE = 'none'


class Fault(NamedTuple):
    """Something that goes wrong."""

    name: str
    words: str
    spoil: Callable[[Sample, np.random.Generator], Sample]


def _aux_missing(sample: Sample, rng: np.random.Generator) -> Sample:
    return replace(sample, aux=np.zeros_like(sample.aux))


def _rgb_black(sample: Sample, rng: np.random.Generator) -> Sample:
    return replace(sample, rgb=np.zeros_like(sample.rgb))


def _aux_shifted(sample: Sample, rng: np.random.Generator, pixels: int) -> Sample:
    down, right = ((0, 1), (1, 0), (0, -1), (-1, 0))[int(rng.integers(4))]
    return replace(sample, aux=shifted(sample.aux, down * pixels, right * pixels))


def _noisy(sample: Sample, rng: np.random.Generator, cameras: Sequence[str]) -> Sample:
    return replace(sample, **{name: _with_noise(getattr(sample, name), rng) for name in cameras})


def _with_noise(image: Image, rng: np.random.Generator) -> Image:
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(SIGMA)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def shifted(image: Image, down: int, right: int) -> Image:
    """Return an image (H, W, C) moved by whole pixels, 0 where it then shows nothing."""
    moved = np.zeros_like(image)
    height, width = image.shape[:2]
    if abs(down) >= height or abs(right) >= width:
        return moved
    target = moved[max(down, 0):height + min(down, 0), max(right, 0):width + min(right, 0)]
    target[:] = image[max(-down, 0):height - max(down, 0), max(-right, 0):width - max(right, 0)]
    return moved


FAULTS = (
    Fault('aux_missing', '{} missing', _aux_missing),
    Fault('rgb_black', 'RGB black', _rgb_black),
    *(Fault(f'aux_shift_{pixels}', f'{{}} misaligned by {pixels} px',
            partial(_aux_shifted, pixels=pixels)) for pixels in SHIFTS),
    Fault('rgb_noise', 'noise in RGB', partial(_noisy, cameras=('rgb',))),
    Fault('aux_noise', 'noise in {}', partial(_noisy, cameras=('aux',))),
    Fault('noise', 'noise in both', partial(_noisy, cameras=('rgb', 'aux'))),
)


class Robustness:
    """Scores of a model under each fault, beside those of the same frames without any."""

    def __init__(self, make: Callable[[], Score]) -> None:
        """Start at zero; `make` makes an empty score."""
        self.scores = {name: make() for name in (BASE, *(fault.name for fault in FAULTS))}

    def add(self, sample: Sample, label: Image, answer: Callable[[Sample], Image],
            name: str) -> None:
        """Add a frame of a data set: its label without a fault, and how it is answered to."""
        self.scores[BASE].update(label, sample, name)
        for fault in FAULTS:
            rng = np.random.default_rng([zlib.crc32(fault.name.encode()),
                                         zlib.crc32(sample.name.encode())])
            spoiled = fault.spoil(sample, rng)
            self.scores[fault.name].update(answer(spoiled), sample, name)

    def summary(self, modality: str) -> list[dict[str, Any]]:
        """Return a row for each fault, the first for none; [] if there was no frame.

        `change` is that of mIoU from the first row.
        """
        rows = {name: score.summary() for name, score in self.scores.items()}
        base = rows[BASE]
        if base['miou'] is None:
            return []
        words = {BASE: 'as it is', **{fault.name: fault.words.format(modality)
                                      for fault in FAULTS}}
        return [{'fault': name, 'words': words[name][0].upper() + words[name][1:],
                 'frames': row['frames'], 'miou': row['miou'],
                 'miou_present': row['miou_present'], 'change': row['miou'] - base['miou'],
                 'sets': _by_set(row)} for name, row in rows.items()]


def _by_set(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: one['miou'] for name, one in row['sets'].items()}
