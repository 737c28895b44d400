# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the sources a configuration lists to samples, and to batches drawn from them by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.config import AugmentConfig, DataConfig, FolderSource, Source, SyntheticSource
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.labels import CLASS_SETS, translation
from rgbx_seg_train.data.public_sets import PUBLIC_SETS
from rgbx_seg_train.data.rendered import (
    SENSOR_HEIGHT,
    SENSOR_WIDTH,
    RenderSettings,
    SyntheticDataset,
)
from rgbx_seg_train.data.sample import Batch, CorruptImage, Image, Sample, Samples

RENDERED = 'mfnet'  # the classes of rendered scenes and of boxes
UNION = 'union70'
HISTOGRAM_SAMPLES = 300  # that class frequencies are measured on
ATTEMPTS = 20  # to find a readable sample in the place of a corrupt one


def open_source(source: Source, data: DataConfig, native: bool = False,
                labeled: bool = True) -> Samples:
    """Return the samples of one source.

    Rendered scenes come at the network's size or, if `native`, at the sensors'; images of files
    keep their own. Labels have the ids of the network's classes, or, where those are the union, of
    the source's own; without `labeled` they are all 255, and those of files need not be there.
    """
    samples = _open(source, data, native, labeled)
    if not labeled:
        return Unlabeled(samples, data.classes)
    own = own_classes_of(source, data)
    if own != data.classes and data.classes != UNION:
        samples = Relabeled(samples, own, data.classes)
    return samples


def own_classes_of(source: Source, data: DataConfig) -> str:
    """Return the name of the class set that the labels of a source have."""
    if isinstance(source, SyntheticSource):
        return RENDERED
    if isinstance(source, FolderSource):
        return source.classes or data.classes
    return PUBLIC_SETS[source.kind].classes_of(source)


def modality_of(source: Source, data: DataConfig) -> str:
    """Return the modality of a source's second images."""
    if isinstance(source, (SyntheticSource, FolderSource)):
        return source.modality or data.modality
    return PUBLIC_SETS[source.kind].modality_of(source)


def _open(source: Source, data: DataConfig, native: bool, labeled: bool) -> Samples:
    if isinstance(source, SyntheticSource):
        size = (SENSOR_HEIGHT, SENSOR_WIDTH) if native else (data.height, data.width)
        settings = RenderSettings(source.first_seed, source.count, source.modality or data.modality,
                                  *size, source.night_fraction, source.max_time_s)
        return SyntheticDataset(settings, Path(data.cache))
    if isinstance(source, FolderSource):
        own = own_classes_of(source, data)
        if labeled and source.boxes_dir and own != RENDERED:
            raise RgbxSegError(f'{source.root}: boxes_dir is {source.boxes_dir!r}, but weak labels '
                               f'are made only of the classes {RENDERED}, not {own}; remove '
                               'boxes_dir or choose other classes.')
        infos = CLASS_SETS.get(own, data.class_infos)
        return FolderDataset(source, source.modality or data.modality, infos, own, labeled)
    samples = PUBLIC_SETS[source.kind](source, labeled, Path(data.cache))
    samples.require_files()
    return samples


class Relabeled:
    """Samples under another set of classes; what that set does not have is ignored."""

    def __init__(self, samples: Samples, own: str, classes: str) -> None:
        """Take the samples, and the names of their class set and of the other."""
        if 'own' in (own, classes):
            raise RgbxSegError(f'a source is labeled with {own}, the network has the classes '
                               f'{classes}; expected the same: own_classes meet no other set; '
                               'leave the source out or label it anew.')
        self.inner, self._classes, self._table = samples, classes, translation(own, classes)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample with ids of the other set."""
        sample = self.inner[index]
        return replace(sample, label=self._table[sample.label], classes=self._classes)


class Unlabeled:
    """Samples whose labels are not shown; whose classes they were does not matter."""

    def __init__(self, samples: Samples, classes: str) -> None:
        """Take the samples, and the name of the network's classes."""
        self.inner, self._classes = samples, classes

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample without its label."""
        sample = self.inner[index]
        return replace(sample, label=np.full_like(sample.label, UNLABELED), classes=self._classes)


def innermost(samples: Any) -> Any:
    """Return the set of a source itself, whatever wraps it to change its labels."""
    while hasattr(samples, 'inner'):
        samples = samples.inner
    return samples


class Mixture:
    """Augmented training samples, drawn from several sources.

    Sample n is a function of seed and n alone: a resumed run goes on with the same images, and
    several processes need not agree on anything. With the sampling `weighted` each source is drawn
    by its weight; with `concatenated` each sample of each source comes once an epoch.
    """

    def __init__(self, sets: Sequence[Samples], weights: Sequence[float], data: DataConfig,
                 config: AugmentConfig, seed: int) -> None:
        """Take the sources and how often each is drawn, relative to the others."""
        if not sets or sum(weights) <= 0:
            raise RgbxSegError('data.train holds nothing to learn from; expected a source with a '
                               'weight above 0; add one.')
        self._sets, self._bounds = tuple(sets), np.cumsum(weights) / sum(weights)
        self._ends = np.cumsum([len(samples) for samples in sets])
        self._data, self._config, self._seed = data, config, seed

    def __len__(self) -> int:
        """Return the number of samples of an epoch."""
        return int(self._ends[-1])

    @property
    def sample_bytes(self) -> int:
        """Return the most memory that one sample takes in a batch."""
        return self._data.height * self._data.width * 7  # RGB, three channels of aux, label

    def __getitem__(self, n: int) -> Sample:
        """Return the nth sample of an endless row; CorruptImage if it cannot be read."""
        sample, rng = self.original(n)
        return augment(sample, self._config, self._data.height, self._data.width, rng)

    def original(self, n: int) -> tuple[Sample, np.random.Generator]:
        """Return the nth sample before it is augmented, and what then draws how."""
        rng = np.random.Generator(np.random.SFC64([self._seed, n]))
        samples, index = self._draw(n, rng)
        return samples[index], rng

    def _draw(self, n: int, rng: np.random.Generator) -> tuple[Samples, int]:
        """Return which source and which sample of it is the nth."""
        if self._data.sampling == 'concatenated':
            epoch, place = divmod(n, len(self))
            place = int(_permutation(self._seed, epoch, len(self))[place])
            which = int(np.searchsorted(self._ends, place, 'right'))
            return self._sets[which], place - int(self._ends[which - 1] if which else 0)
        which = min(int(np.searchsorted(self._bounds, rng.random(), 'right')), len(self._sets) - 1)
        return self._sets[which], int(rng.integers(len(self._sets[which])))

    def batch(self, first: int, size: int) -> Batch:
        """Return consecutive samples; a corrupt one is told and replaced by one from elsewhere."""
        samples, corrupt = [], []
        for n in range(first, first + size):
            for attempt in range(ATTEMPTS):
                try:
                    samples.append(self[n + attempt * 0x9E3779B1])  # far from all others in use
                    break
                except CorruptImage as error:
                    corrupt.append(str(error))
            else:
                raise CorruptImage(f'{ATTEMPTS} samples in a row cannot be read, such as: '
                                   f'{corrupt[-1]}')
        return stack(samples, self._data, tuple(corrupt))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.SFC64([seed, epoch, size])).permutation(size)


def stack(samples: Sequence[Sample], data: DataConfig, corrupt: tuple[str, ...] = ()) -> Batch:
    """Return samples of one size as a batch; `data.zero_aux` blinds the second camera.

    Labels with the ids of a data set's own become the network's.
    """
    channels = max(sample.aux.shape[2] for sample in samples)
    aux = np.stack([_widen(sample.aux, channels) for sample in samples])
    label = np.stack([_translated(sample, data) for sample in samples])
    return Batch(
        np.stack([sample.rgb for sample in samples]), np.zeros_like(aux) if data.zero_aux else aux,
        label, tuple(sample.modality for sample in samples),
        tuple(sample.classes or data.classes for sample in samples),
        tuple(sample.name for sample in samples), corrupt)


def _widen(aux: Image, channels: int) -> Image:
    return aux if aux.shape[2] == channels else np.repeat(aux, channels, 2)


def _translated(sample: Sample, data: DataConfig) -> Image:
    if sample.classes in ('', data.classes):
        return sample.label
    return translation(sample.classes, data.classes)[sample.label]


def class_frequencies(sets: Sequence[Samples], data: DataConfig) -> np.ndarray:
    """Return the share of labeled pixels of each class, measured on some samples of each source."""
    counts, n_classes = np.zeros(256, np.int64), len(data.class_infos)
    for samples in sets:
        step = max(1, len(samples) // HISTOGRAM_SAMPLES)
        for index in range(0, len(samples), step):
            try:
                label = _translated(samples[index], data)
            except CorruptImage:
                continue  # training tells and counts it
            counts += np.bincount(label.ravel(), minlength=256)
    if counts[n_classes:UNLABELED].any():
        found = int(np.flatnonzero(counts[n_classes:UNLABELED])[0]) + n_classes
        raise RgbxSegError(f'a label holds the id {found}; expected 0..{n_classes - 1} or '
                           f'{UNLABELED}; correct the labels or data.classes.')
    return counts[:n_classes] / max(counts[:n_classes].sum(), 1)


def open_all(sources: Sequence[Any], data: DataConfig, **options: Any) -> list[Samples]:
    """Return the samples of several sources."""
    return [open_source(source, data, **options) for source in sources]
