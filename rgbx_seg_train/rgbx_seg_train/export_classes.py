# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle whose classes the robot may choose: does its bank fit the model that was trained?

The file itself can tell only names and widths. Whether the text model that made it is the one that
the weights learned from is seen where both have an embedding: of the classes of the training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import Manifest, Vocabulary
from rgbx_seg_ros.vocabulary import choose, load_bank
from rgbx_seg_train.config import Config, ExportConfig
from rgbx_seg_train.export_graph import BundleGraph

ALIKE = 0.999  # cosine from which two embeddings are of the same text
STRANGE = 0.5  # mean cosine below which they are of different text models


def open_to(manifest: Manifest, config: ExportConfig) -> Manifest:
    """Return the manifest with a vocabulary, if the configuration names a bank for one.

    Raises:
        RgbxSegError: the bank cannot be read, or lacks a class of the manifest.

    """
    if not config.open_classes:
        return manifest
    path = Path(config.open_classes)
    bank = load_bank(path)
    try:
        choose(bank, [info.name for info in manifest.classes])
    except RgbxSegError as error:
        raise RgbxSegError(f'export.open_classes is {path}, which lacks a class that the bundle is '
                           f'to begin with: {error}') from None
    try:
        return replace(manifest, vocabulary=Vocabulary(bank.width, config.most_classes, ''))
    except RgbxSegError as error:
        raise RgbxSegError(f'export.open_classes is {path}: {error}') from None


def class_notes(graph: BundleGraph, manifest: Manifest, config: Config) -> tuple[str, ...]:
    """Return which classes of the training the bank tells otherwise than the training did.

    Raises:
        RgbxSegError: all of them, so that another text model must have made it.

    """
    own = getattr(graph.merged, 'class_rows', None)
    if manifest.vocabulary is None or own is None:
        return ()
    bank = load_bank(Path(config.export.open_classes))
    trained = [info.name for info in config.data.class_infos]  # export.classes may be others
    known = [row for row, name in enumerate(trained) if name in bank.names]
    if not known:
        return ()
    names = [trained[row] for row in known]
    cosines = _cosines(choose(bank, names)[1], own.detach().float().cpu().numpy()[known])
    if cosines.mean() < STRANGE:
        raise RgbxSegError('the bank of export.open_classes and the model have different '
                           'embeddings of the same classes (their cosine is '
                           f'{cosines.mean():.2f} in the mean); expected those of one text model: '
                           'make the bank with that which the model was trained with.')
    changed = [f'{name} ({cosine:.2f})' for name, cosine in zip(names, cosines, strict=True)
               if cosine < ALIKE]
    return (f'the bank has other embeddings of {", ".join(changed)} than the training had '
            '(cosine): the scores of the checkpoint are not those of the bundle.',
            ) * bool(changed)


def _cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(1) / lengths
