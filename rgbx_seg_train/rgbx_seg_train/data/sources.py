# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the sources a configuration lists to samples, and to batches drawn from them by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.config import AugmentConfig, DataConfig, FolderSource, Source, SyntheticSource
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.labels import CLASS_SETS, translation
from rgbx_seg_train.data.rendered import (
    SENSOR_HEIGHT,
    SENSOR_WIDTH,
    RenderSettings,
    SyntheticDataset,
)
from rgbx_seg_train.data.sample import Image, Sample, Samples

RENDERED = 'mfnet'  # the classes of rendered scenes and of boxes
HISTOGRAM_SAMPLES = 300  # that class frequencies are measured on


def _synthetic(source: SyntheticSource, data: DataConfig, height: int, width: int) -> Samples:
    settings = RenderSettings(source.first_seed, source.count, data.modality, height, width,
                              source.night_fraction, source.max_time_s)
    scenes = SyntheticDataset(settings, Path(data.cache))
    return scenes if data.classes == RENDERED else Relabeled(scenes, data.classes)


def _folder(source: FolderSource, data: DataConfig, height: int, width: int) -> Samples:
    if source.boxes_dir and data.classes != RENDERED:
        raise RgbxSegError(f'{source.root}: boxes_dir is {source.boxes_dir!r}, but weak labels are '
                           f'made only of the classes {RENDERED}, not {data.classes}; remove '
                           'boxes_dir or choose other data.classes.')
    # Images keep their size: augmentation and the segmenter resize them anyway.
    return FolderDataset(source, data.modality, CLASS_SETS[data.classes])


class Relabeled:
    """Rendered scenes under another set of classes; what that set does not have is ignored."""

    def __init__(self, scenes: Samples, classes: str) -> None:
        """Take the scenes and the name of the class set."""
        self._scenes, self._table = scenes, translation(RENDERED, classes)

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        """Return one scene with ids of the other set."""
        sample = self._scenes[index]
        return replace(sample, label=self._table[sample.label])


OPENERS: dict[type, Callable[..., Samples]] = {SyntheticSource: _synthetic, FolderSource: _folder}


def open_source(source: Source, data: DataConfig, native: bool = False) -> Samples:
    """Return the samples of one source, at the network's size or, if `native`, at the sensors'."""
    size = (SENSOR_HEIGHT, SENSOR_WIDTH) if native else (data.height, data.width)
    return OPENERS[type(source)](source, data, *size)


class Mixture:
    """Augmented training samples, drawn from several sources by weight.

    Sample n is a function of seed and n alone: a resumed run goes on with the same images, and
    several processes need not agree on anything.
    """

    def __init__(self, sets: Sequence[Samples], weights: Sequence[float], data: DataConfig,
                 config: AugmentConfig, seed: int) -> None:
        """Take the sources and how often each is drawn, relative to the others."""
        if not sets or sum(weights) <= 0:
            raise RgbxSegError('data.train holds nothing to learn from; expected a source with a '
                               'weight above 0; add one.')
        self._sets, self._bounds = tuple(sets), np.cumsum(weights) / sum(weights)
        self._data, self._config, self._seed = data, config, seed

    def __getitem__(self, n: int) -> Sample:
        """Return the nth sample of an endless row."""
        rng = np.random.Generator(np.random.SFC64([self._seed, n]))
        chosen = self._sets[min(int(np.searchsorted(self._bounds, rng.random(), 'right')),
                                len(self._sets) - 1)]
        sample = chosen[int(rng.integers(len(chosen)))]
        return augment(sample, self._config, self._data.height, self._data.width, rng)

    def batch(self, first: int, size: int) -> tuple[Image, Image, Image]:
        """Return rgb (B, H, W, 3), aux (B, H, W, C) and label (B, H, W) of consecutive samples."""
        samples = [self[n] for n in range(first, first + size)]
        return stack(samples, self._data.zero_aux)


def stack(samples: Sequence[Sample], zero_aux: bool) -> tuple[Image, Image, Image]:
    """Return samples of one size as arrays (B, H, W, …); `zero_aux` blinds the second camera."""
    rgb, aux, label = (np.stack([getattr(sample, name) for sample in samples])
                       for name in ('rgb', 'aux', 'label'))
    return rgb, np.zeros_like(aux) if zero_aux else aux, label


def class_frequencies(sets: Sequence[Samples], n_classes: int) -> np.ndarray:
    """Return the share of labeled pixels of each class, measured on some samples of each source."""
    counts = np.zeros(256, np.int64)
    for samples in sets:
        step = max(1, len(samples) // HISTOGRAM_SAMPLES)
        for index in range(0, len(samples), step):
            counts += np.bincount(samples[index].label.ravel(), minlength=256)
    if counts[n_classes:UNLABELED].any():
        found = int(np.flatnonzero(counts[n_classes:UNLABELED])[0]) + n_classes
        raise RgbxSegError(f'a label holds the id {found}; expected 0..{n_classes - 1} or '
                           f'{UNLABELED}; correct the labels or data.classes.')
    return counts[:n_classes] / max(counts[:n_classes].sum(), 1)
