# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One pass of a model over all data sets of a split: what it says is scored as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_result import PICTURES, BagResult
from rgbx_seg_train.box_score import BoxScore
from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.public_sets import PUBLIC_SETS
from rgbx_seg_train.data.sample import Sample, Samples
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.data.synthetic import CLASSES
from rgbx_seg_train.evaluate_model import Kind, Predictor, kind_of
from rgbx_seg_train.evaluate_robustness import Robustness
from rgbx_seg_train.evaluate_sets import SetRow, SetRun, scores_of
from rgbx_seg_train.pairs import as_seen, spread
from rgbx_seg_train.score import Score, infos_of


class DataSet(NamedTuple):
    """Samples under the name that their scores have."""

    name: str  # empty = told from classes and modality
    samples: Samples


class Subject(Protocol):
    """A model that can be scored."""

    as_robot: bool  # whether it takes the second image at its own size, as robots have it

    def check(self, kind: Kind, data: DataConfig) -> None:
        """Raise RgbxSegError unless it can be scored on samples of a kind."""

    def predictor(self, kind: Kind, data: DataConfig) -> Predictor:
        """Return how it answers to samples of a kind."""


@dataclass(frozen=True)
class Options:
    """What is done with every sample."""

    zero_aux: bool = False  # blind the second camera
    robustness: int = 0  # frames of each data set that also run with faults
    pictures: int = 0  # of the worst and of the best frames of each data set
    progress: bool = False


class Evaluation(NamedTuple):
    """What was found."""

    summary: dict[str, Any]
    results: list[BagResult]  # of each data set, pictures in `folder`/PICTURES/number
    rows: list[list[SetRow]]  # of each data set, its frames


def open_sets(sources: Sequence[Any], data: DataConfig) -> list[DataSet]:
    """Return the samples of sources at their own size; sources of one name count together."""
    roots = {source.root for source in sources if source.kind == 'folder'}
    folders = Counter(Path(root).name for root in roots)
    return [DataSet(_name_of(source, data, folders), open_source(source, data, native=True))
            for source in sources]


def _name_of(source: Any, data: DataConfig, folders: Counter[str]) -> str:
    """Return kind and second image of a source, such as `deliver event`; folders have their own."""
    public = PUBLIC_SETS.get(source.kind)
    if public is not None:
        part = getattr(source, 'part', '')
        return ' '.join([source.kind, *([part] if part not in ('', 'both') else []),
                         getattr(source, 'aux', '') or public.modality_of(source)])
    modality = source.modality or data.modality
    if source.kind != 'folder':
        return f'{source.kind} {modality}'
    name = Path(source.root).name
    return f'{name if folders[name] == 1 else source.root} {modality}'


def evaluate_sets(model: Subject, sets: Sequence[DataSet], data: DataConfig, options: Options,
                  folder: Path | None = None) -> Evaluation:
    """Score a model on all samples; pictures go into `folder`, which exists.

    Raises:
        RgbxSegError: the model does not fit a data set, or a file cannot be read.

    """
    for name, samples in sets:
        if not len(samples):
            raise RgbxSegError(f'the data set {name} is empty; expected samples to score on; leave '
                               'it out.')
        model.check(kind_of(samples[0], data), data)
    run = _Run(model, data, options, folder)
    with ExitStack() as stack, tqdm(total=sum(len(samples) for _, samples in sets),
                                    desc='evaluating', unit='frame',
                                    disable=None if options.progress else True) as bar:
        for name, samples in sets:
            faulty = set(spread(len(samples), options.robustness))
            for index in range(len(samples)):
                run.add(name, samples, index, stack, index in faulty)
                bar.update()
    return run.found()


class _Run:
    """Everything that fills up during the pass."""

    def __init__(self, model: Subject, data: DataConfig, options: Options,
                 folder: Path | None) -> None:
        self._model, self._data, self._options, self._folder = model, data, options, folder
        self._score, self._boxes = Score(data), BoxScore()
        self._runs: dict[str, SetRun] = {}
        self._robustness = Robustness(lambda: Score(data))

    def add(self, name: str, samples: Samples, index: int, stack: ExitStack, faulty: bool
            ) -> None:
        """Run and score one frame, with faults as well if it is one of those that get them."""
        sample = samples[index]
        kind = kind_of(sample, self._data)
        name = name or f'{kind.classes} {kind.modality}'
        self._model.check(kind, self._data)
        predict = self._model.predictor(kind, self._data)
        if self._options.zero_aux:
            sample = replace(sample, aux=np.zeros_like(sample.aux))
        seen = sample
        if self._model.as_robot and not self._options.zero_aux:
            seen = as_seen(samples, index, sample)
        answer = predict(seen)
        self._score.update(answer.label, sample, name)
        self._set_run(name, sample, kind, stack).add(seen, answer)
        if isinstance(samples, FolderDataset) and infos_of(kind.classes, self._data) == CLASSES:
            self._boxes.update(answer.label, samples.boxes(index), sample.night)
        if faulty:
            label = answer.label if seen is sample else predict(sample).label
            self._robustness.add(sample, label, lambda other: predict(other).label, name)

    def _set_run(self, name: str, sample: Sample, kind: Kind, stack: ExitStack) -> SetRun:
        if name not in self._runs:
            folder = None
            if self._folder is not None and self._options.pictures:
                (self._folder / PICTURES).mkdir(exist_ok=True)
                folder = self._folder / PICTURES / f'{len(self._runs):02d}'
            self._runs[name] = stack.enter_context(SetRun(
                name, sample.modality, infos_of(kind.classes, self._data), folder,
                self._options.pictures))
        return self._runs[name]

    def found(self) -> Evaluation:
        """Return the scores once all frames are through."""
        summary = self._score.summary()
        results = {name: run.result() for name, run in sorted(self._runs.items())}
        for name, result in results.items():
            summary['sets'][name] |= {'modality': self._runs[name].modality, **scores_of(result)}
        rows = list(summary['sets'].values())
        for key in ('boundary_miou', 'ece'):
            values = [row[key] for row in rows if row[key] is not None]
            summary[key] = float(np.mean(values)) if values else None
        if self._options.robustness:
            modalities = {run.modality for run in self._runs.values()}
            summary['robustness'] = self._robustness.summary(
                modalities.pop() if len(modalities) == 1 else 'aux')
        if self._boxes.boxes.any():
            summary['box_score'] = self._boxes.summary(CLASSES)
        return Evaluation(summary, list(results.values()),
                          [self._runs[name].rows for name in results])
