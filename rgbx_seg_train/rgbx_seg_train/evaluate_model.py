# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The model that `rgbx_evaluate` scores: a bundle, or a checkpoint by one of two protocols.

A checkpoint is run for the modality of each data set and, where the network has the union of all
classes, among those of that data set alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Engine, open_engine
from rgbx_seg_ros.manifest import MODALITIES, ClassInfo, Manifest
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.vocabulary import choose, load_bank
from rgbx_seg_train.checkpoint import load_model, manifest_of
from rgbx_seg_train.config import Config, DataConfig
from rgbx_seg_train.data.sample import Image, Sample
from rgbx_seg_train.data.sources import modality_of
from rgbx_seg_train.data.synthetic import aux_encoding
from rgbx_seg_train.evaluate_windows import Passes, WholeImages
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.score import chosen_channels, infos_of
from rgbx_seg_train.text import load_class_embeddings
from rgbx_seg_train.torch_engine import TorchEngine

PROTOCOLS = ('robot', 'paper')


class Answer(NamedTuple):
    """What a model says of a sample, at the size of its RGB image."""

    label: Image  # (H, W) ids of the sample's class set
    confidence: Image  # (H, W) 0..255


Predictor = Callable[[Sample], Answer]


class Kind(NamedTuple):
    """What of a sample decides how a model is run on it."""

    modality: str
    classes: str  # name of the class set of its labels
    channels: int  # of aux


def kind_of(sample: Sample, data: DataConfig) -> Kind:
    """Return the kind of a sample."""
    return Kind(sample.modality, sample.classes or data.classes, sample.aux.shape[2])


class RobotPredictor:
    """The robot's Segmenter on samples: resized by the network's size and back by nearest."""

    def __init__(self, segmenter: Segmenter, ids: Image | None = None) -> None:
        """Take the segmenter, and what ids its answers stand for where they are not those."""
        self._segmenter = segmenter
        self._table = None if ids is None else np.full(256, 255, np.uint8)
        if ids is not None:
            self._table[:len(ids)] = ids

    def __call__(self, sample: Sample) -> Answer:
        """Return the mask of a sample."""
        images = (np.ascontiguousarray(image) for image in (sample.rgb, sample.aux))
        result = self._segmenter(*images)
        label = result.label if self._table is None else self._table[result.label]
        return Answer(label, result.confidence)


class BundleModel:
    """A bundle, which knows one modality and one set of classes."""

    as_robot = True  # gets the second image at its own size

    def __init__(self, path: Path, backend: str = 'auto', precision: str = 'auto') -> None:
        """Open it in the engine that the robot would choose, or in the one that is named."""
        engine, manifest = open_engine(path, backend, precision)
        self.path, self.name, self.family = path, manifest.name, manifest.family
        self.config: Config | None = None
        self.engine = describe(engine)
        self.geometry: str | None = None
        self._segmenter = Segmenter(engine, manifest)

    def check(self, kind: Kind, data: DataConfig) -> None:
        """Raise RgbxSegError unless it can be scored on samples of a kind."""
        manifest = self._segmenter.manifest
        if kind.modality != manifest.modality:
            raise RgbxSegError(f'{self.path} is for {manifest.modality}, the data are '
                               f'{kind.modality}; choose a fitting configuration.')
        check_classes(self.path, manifest.classes, infos_of(kind.classes, data))
        if kind.channels != manifest.aux.channels:
            raise RgbxSegError(f'{self.path} takes {kind.modality} images of '
                               f'{manifest.aux.channels} channels, the data have {kind.channels}; '
                               'choose a fitting source, or export with export.aux_channels.')

    def predictor(self, kind: Kind, data: DataConfig) -> Predictor:
        """Return how it answers to samples of a kind."""
        return RobotPredictor(self._segmenter)


class CheckpointModel:
    """A checkpoint, run by torch for any modality and any data set that it learned.

    One that reads text may be scored on classes that it never saw.
    """

    def __init__(self, path: Path, passes: Passes | None = None,
                 embeddings: Path | None = None, overrides: Sequence[str] = ()) -> None:
        """Load it; without `passes` it runs as on the robot, else as papers do.

        `embeddings`, a bank or a file of `rgbx_embed_classes`, has those of the classes to be
        scored. `overrides` change the options of the network.
        """
        self.path, self._passes, self.as_robot = path, passes, passes is None
        self._model, self._checkpoint = load_model(path, overrides)
        self._embeddings = embeddings
        self.config = self._checkpoint.config
        self.name, self.family = self.config.name, self.config.model.family
        self._network = self.config.data.height, self.config.data.width
        self.geometry = passes.words(
            self._network, self.config.loss.criterion) if passes else None
        self.device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self.engine = f'torch {torch.__version__} fp32'
        self._open: tuple[Kind, Predictor] | None = None

    def check(self, kind: Kind, data: DataConfig) -> None:
        """Raise RgbxSegError unless it can be scored on samples of a kind."""
        own = self.config
        if self._embeddings is None:
            check_classes(self.path, own.data.class_infos, data.class_infos)
        built = own.model.modalities or MODALITIES
        learned = {modality_of(source, own.data) for source in own.data.train} or set(built)
        if kind.modality not in learned & set(built):
            raise RgbxSegError(f'{self.path} was trained with {", ".join(sorted(learned))}, the '
                               f'data are {kind.modality}; choose a fitting configuration.')
        if self._embeddings is not None:
            self._set_classes(self._embeddings, kind, data)

    def _set_classes(self, path: Path, kind: Kind, data: DataConfig) -> None:
        """Let the model segment into the classes of the data by their rows in a file."""
        if not getattr(self._model.merge(kind.modality),  # type: ignore[operator]
                       'text_width', 0):
            raise RgbxSegError(f'{self.path} is of the family {self.family}, which as it was '
                               'trained compares no pixels with texts; expected one that does, '
                               'such as LMSeg, for --class-embeddings; leave them out.')
        if path.suffix == '.npz':
            names = [info.name for info in data.class_infos]
            rows = torch.from_numpy(choose(load_bank(path), names)[1])
        else:
            rows = load_class_embeddings(path, data.class_infos)
        self._model.set_classes(rows)  # type: ignore[operator]

    def predictor(self, kind: Kind, data: DataConfig) -> Predictor:
        """Return how it answers to samples of a kind; only the last one's weights are kept."""
        if self._open is None or self._open[0] != kind:
            self._open = None
            self._open = kind, self._predictor(kind, data)
        return self._open[1]

    def _predictor(self, kind: Kind, data: DataConfig) -> Predictor:
        channels, ids = chosen_channels(kind.classes, data)
        chosen = () if channels is None else channels.tolist()
        graph = BundleGraph(self._model.merge(kind.modality),  # type: ignore[operator]
                            self.config.data.zero_aux, chosen, self.config.loss.criterion)
        if self._passes is not None:
            run = WholeImages(graph.to(self.device), self._network, self._passes,
                              self.config.loss.criterion)
            return lambda sample: Answer(*run(sample, ids))
        infos = infos_of(kind.classes, data)
        infos = infos if ids is None else tuple(infos[one] for one in ids)
        manifest = manifest_for(manifest_of(self._checkpoint), kind, infos)
        engine = TorchEngine(graph, device=self.device)
        return RobotPredictor(Segmenter(engine, manifest), ids)


def open_subject(path: Path, backend: str = 'auto', precision: str = 'auto',
                 passes: Passes | None = None, embeddings: Path | None = None,
                 overrides: Sequence[str] = ()) -> BundleModel | CheckpointModel:
    """Return the model of a bundle folder or a checkpoint; `passes` ask for the papers' protocol.

    `embeddings` are those of classes that a checkpoint is to be scored on instead of its own;
    `overrides` change the options of its network.

    Raises:
        RgbxSegError: it is neither, or it has not what was asked for.

    """
    if path.is_dir():
        if passes is not None:
            raise RgbxSegError(f'{path} is a bundle, whose answer is a label at its own size; '
                               'expected a checkpoint for --protocol paper: name that, or leave '
                               'the protocol out.')
        if overrides:
            raise RgbxSegError(f'{path} is a bundle, whose network is as it was exported; expected '
                               f'a checkpoint with {overrides[0]}: name that, or leave it out.')
        if embeddings is not None:
            raise RgbxSegError(f'{path} is a bundle, which has a bank of its own or none; expected '
                               'a checkpoint for --class-embeddings: name that, or leave them '
                               'out.')
        return BundleModel(path, backend, precision)
    if (backend, precision) != ('auto', 'auto'):
        raise RgbxSegError(f'{path} is a checkpoint, which torch runs in float32; expected a '
                           'bundle with --backend and --precision: leave them out or export it.')
    return CheckpointModel(path, passes, embeddings, overrides)


def manifest_for(manifest: Manifest, kind: Kind, infos: tuple[ClassInfo, ...]) -> Manifest:
    """Return the manifest that a checkpoint's bundle for samples of a kind would have."""
    aux = replace(aux_encoding(kind.modality), channels=kind.channels)
    numbered = tuple(replace(info, id=number) for number, info in enumerate(infos))
    return replace(manifest, modality=kind.modality, aux=aux, classes=numbered)


def check_classes(path: Path, known: tuple[ClassInfo, ...], expected: tuple[ClassInfo, ...]
                  ) -> None:
    """Raise RgbxSegError unless both are the same ids and names."""
    names, wanted = ({info.id: info.name for info in infos} for infos in (known, expected))
    if names != wanted:
        raise RgbxSegError(f'{path} knows the classes {", ".join(names.values())}, the data '
                           f'are labeled with {", ".join(wanted.values())}; choose a fitting '
                           'configuration.')


def describe(engine: Engine) -> str:
    """Return what runs a model, in words."""
    return f'{engine.info.backend} {engine.info.version} {engine.info.precision}'
