# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs to score or to calibrate a bundle on, as the robot's own segmenter sees them.

They come from rendered scenes, from what a training configuration lists, or from a bag. Of a
configuration of several modalities or data sets those are taken that the bundle is for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_source import BagSource
from rgbx_seg_ros.eval_source import open_source as open_bag
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.config import Config, DataConfig, Source, SyntheticSource
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.images import image_size
from rgbx_seg_train.data.labels import CLASS_SETS, TO_UNION, translation
from rgbx_seg_train.data.public import PublicSet
from rgbx_seg_train.data.sample import Image, Sample, Samples
from rgbx_seg_train.data.sources import UNION, modality_of, open_source, own_classes_of

SYNTHETIC = 'synthetic:'
# First seeds of `synthetic:COUNT`; trainings begin at 0, and 2000000 is what they are tested on.
SEEDS = {'calibrate': 4_000_000, 'evaluate': 2_000_000}
MOST_RENDERED = 256  # scenes; of a source of more only as many as are needed
SPLITS = {'calibrate': ('train', 'validate'), 'evaluate': ('test',)}


class Seen(NamedTuple):
    """What a segmenter answered to a pair, and what it should have."""

    label: Image  # (H, W)
    target: Image | None  # (H, W) ids of the bundle, 255 unlabeled; None: there is no label
    conditions: Mapping[str, str] = MappingProxyType({})  # such as {'time': 'night'}


class PairSet(Protocol):
    """Pairs that can be run through one segmenter after the other."""

    name: str  # of where they come from, without the places of this machine

    def __len__(self) -> int:
        """Return how many there are."""

    def run(self, segmenter: Segmenter) -> Iterator[Seen]:
        """Run each pair, in order."""


@dataclass(frozen=True)
class Use:
    """What pairs are for, and how many at most."""

    kind: str  # 'calibrate' or 'evaluate': decides which seeds, or which part of a configuration
    count: int
    shared: bool = False  # calibration has the first half of a bag, evaluation the second


def open_pairs(source: str | Config, manifest: Manifest, use: Use,
               overrides: Sequence[str] = ()) -> PairSet:
    """Return up to `use.count` pairs of a source, spread over it.

    The source is `synthetic:COUNT`, a training configuration (.yaml, or as it is), or a bag;
    `overrides` are settings of the file.

    Raises:
        RgbxSegError: it cannot be read, is of another modality or of other classes, or is empty.

    """
    if isinstance(source, str) and not is_config(source) and not source.startswith(SYNTHETIC):
        found: PairSet = BagPairs(Path(source), manifest, use)
    else:
        found = _open_samples(source, manifest, use, overrides)
    if not len(found):
        raise RgbxSegError(f'{name_of(source)}: it holds no pair to {use.kind} on; expected at '
                           'least one; choose another source.')
    return found


def is_config(source: str) -> bool:
    """Tell whether a source is a training configuration."""
    return Path(source).suffix in ('.yaml', '.yml')


def name_of(source: str | Config) -> str:
    """Return what a sentence calls a source."""
    return source if isinstance(source, str) else f'the configuration of {source.name}'


def is_shared_bag(first: str | Config, second: str | Config) -> bool:
    """Tell whether two sources are one bag."""
    if not isinstance(first, str) or not isinstance(second, str) or is_config(first):
        return False
    return Path(first).exists() and Path(second).exists() and os.path.samefile(first, second)


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` indices that lie evenly in 0..length-1."""
    count = min(length, count)
    return [(2 * n + 1) * length // (2 * count) for n in range(count)]


def as_seen(samples: Samples, index: int, sample: Sample) -> Sample:
    """Return a sample with aux at the size of its file, if that is another one.

    Training resizes aux to RGB's size first; the robot takes it straight to the network's.
    """
    while hasattr(samples, 'inner'):
        samples = samples.inner
    if not isinstance(samples, PublicSet):
        return sample
    entry = samples.entries[index]
    if len(entry.aux) != 1 or image_size(entry.aux[0]) == sample.label.shape:
        return sample
    aux = samples.read_aux(entry)
    return replace(sample, aux=aux.reshape(*aux.shape[:2], -1))


class SamplePairs:
    """Some samples of each of several sources."""

    def __init__(self, name: str, data: DataConfig, sets: Sequence[Samples], share: int) -> None:
        """Take the sources and how many samples of each to see."""
        self.name, self._data, self._sets = name, data, sets
        self._chosen = [(samples, index) for samples in sets
                        for index in spread(len(samples), share)]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._chosen)

    def run(self, segmenter: Segmenter) -> Iterator[Seen]:
        """Run each pair, in order."""
        for samples, index in self._chosen:
            sample = as_seen(samples, index, samples[index])
            aux = np.ascontiguousarray(sample.aux)
            if self._data.zero_aux:
                aux = np.zeros_like(aux)
            label = segmenter(np.ascontiguousarray(sample.rgb), aux).label
            yield Seen(label, self._target(sample), sample.conditions)

    def _target(self, sample: Sample) -> Image:
        if sample.classes in ('', self._data.classes):
            return np.array(sample.label)
        return translation(sample.classes, self._data.classes)[sample.label]


def _open_samples(source: str | Config, manifest: Manifest, use: Use,
                  overrides: Sequence[str]) -> SamplePairs:
    where = name_of(source)
    if isinstance(source, str) and source.startswith(SYNTHETIC):
        text = source[len(SYNTHETIC):]
        if not text.isdecimal() or not 1 <= int(text) <= 100_000:
            raise RgbxSegError(f'{source}: expected synthetic:COUNT with 1 to 100000 scenes.')
        data = DataConfig(modality=manifest.modality)
        sources: Sequence[Source] = [SyntheticSource(first_seed=SEEDS[use.kind], count=int(text))]
        name = source
    else:
        config = load_config(Path(source), overrides) if isinstance(source, str) else source
        data = config.data
        part = next((part for part in SPLITS[use.kind] if getattr(data, part)), SPLITS[use.kind][0])
        sources = getattr(data, part)
        name = f'{part} of {config.name}'
        if not sources:
            raise RgbxSegError(f'{where}: data.{part} is empty, so it holds no pair to {use.kind} '
                               'on; expected a source there; add one or name another '
                               'configuration, a bag or synthetic:COUNT.')
    sources, data = _fitting(where, data, sources, manifest, use)
    share = -(-use.count // len(sources))
    # All scenes of a source are rendered before the first is seen.
    sets = [open_source(replace(one, count=share) if isinstance(one, SyntheticSource)
                        and one.count > MOST_RENDERED else one, data, native=True)
            for one in sources]
    return SamplePairs(name, data, sets, share)


def _fitting(where: str, data: DataConfig, sources: Sequence[Source], manifest: Manifest,
             use: Use) -> tuple[Sequence[Source], DataConfig]:
    """Return the sources that are of a bundle's modality and classes, and how to open them."""
    alike = [one for one in sources if modality_of(one, data) == manifest.modality]
    if not alike:
        found = ', '.join(sorted({modality_of(one, data) for one in sources}))
        raise RgbxSegError(f'{where}: its pairs are RGB and {found}, the bundle takes RGB and '
                           f'{manifest.modality}; choose a fitting source.')
    wanted = _class_set(manifest, data)
    fitting = [one for one in alike if wanted and (
        wanted in (data.classes, own_classes_of(one, data))
        or (wanted == UNION and own_classes_of(one, data) in TO_UNION))]
    if fitting:
        own = data.own_classes if wanted == 'own' else {}
        return fitting, replace(data, classes=wanted, own_classes=own)
    if use.kind == 'evaluate':
        found = ', '.join(sorted({own_classes_of(one, data) for one in alike}))
        knows = wanted or ', '.join(info.name for info in manifest.classes)
        raise RgbxSegError(f'{where}: it is labeled with the classes {found}, the bundle knows '
                           f'{knows}; choose a fitting source, or a bag.')
    return alike, data  # ranges need no labels


def _class_set(manifest: Manifest, data: DataConfig) -> str:
    """Return the name of a bundle's class set; '' if it has none."""
    known = [(info.id, info.name) for info in manifest.classes]
    for name, infos in {data.classes: data.class_infos, **CLASS_SETS}.items():
        if known == [(info.id, info.name) for info in infos]:
            return name
    return ''


class BagPairs:
    """Pairs of a bag; each passes the thermal front end, as on the robot, the chosen the network.

    Of a bag with labels those that have one are chosen to evaluate on.
    """

    def __init__(self, bag: Path, manifest: Manifest, use: Use) -> None:
        """Find out which pairs there are; RgbxSegError if the bag cannot be read."""
        self.name, self._bag, self._manifest = f'bag {bag.name}', bag, manifest
        self._settings = EvalSettings((), **node_settings(None, {}))
        found = [(pair.number, pair.target is not None) for pair in self._open()
                 if pair.state == 'paired']
        if use.shared:
            half = len(found) // 2
            found = found[:half] if use.kind == 'calibrate' else found[half:]
        if use.kind == 'evaluate' and any(labeled for _, labeled in found):
            found = [one for one in found if one[1]]
        self._chosen = {found[index][0] for index in spread(len(found), use.count)}

    def _open(self) -> BagSource:
        return open_bag(self._bag, self._settings, self._manifest)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._chosen)

    def run(self, segmenter: Segmenter) -> Iterator[Seen]:
        """Run each chosen pair, in order; those that the node would skip are left out."""
        source, fault, seen = self._open(), None, 0
        pipeline = Pipeline(segmenter, self._settings.pair.pipeline)
        source.calibrate(pipeline.registration)
        every = 1 if self._manifest.scene else 0  # the scene of a pair left out is of no use
        for pair in source:
            if pair.rgb is None or pair.aux is None:
                continue
            try:
                prepared = pipeline.prepare(pair.rgb, pair.aux, pair.aux_encoding, pair.stamp_ns,
                                            pair.depth)
            except ImageError as error:
                fault = fault or error
                continue
            if pair.number in self._chosen:
                seen += 1
                done = pipeline.finish(prepared, pair.stamp_ns, scene_every=every)
                yield Seen(done.result.label, pair.target)
        if not seen:
            raise RgbxSegError(f'{self._bag}: {fault or "no pair can be used; choose another."}')
