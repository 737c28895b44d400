# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Is a bundle the checkpoint? Its labels through the robot's engine, its logits through the file.

Labels alone would not do: a network with random weights may give one class to every pixel, and two
logits that differ by rounding alone decide a label by chance.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import CLASSES, INPUTS, Model, Rows, Tensor, open_engine
from rgbx_seg_ros.manifest import BANK_FILE, MODEL_FILE, Manifest, load_bundle
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.vocabulary import load_bank
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.export_graph import LOGITS, BundleGraph
from rgbx_seg_train.onnx_graph import output_suffix
from rgbx_seg_train.torch_engine import TorchEngine

LEAST_AGREEMENT = 0.999  # share of pixels whose label is the same in torch and in the bundle
MOST_DIFFERENCE = 1e-3  # of logits, relative to the largest
# Best logits nearer than this, relative to the largest, are equal but for rounding: of float32 in
# the operations, or of float16 in the weights.
TIE, TIE_HALVED = 1e-5, 1e-3
NOISE_PAIRS = 2
MORE_CLASSES = 7  # than the manifest names, where they may be exchanged
Pair = tuple[Tensor, Tensor]  # rgb (1, H, W, 3) and aux (1, H, W, C), uint8
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far a bundle and its checkpoint agree, over all pixels of all pairs."""

    labels: float  # share of equal labels where the two best logits are no tie
    ties: float  # share of pixels that are one
    classes: int  # different labels seen
    logits: float  # largest difference, relative to the largest logit of the pair
    samples: int  # pairs compared
    noise_pairs: int  # further pairs, of noise

    def refuse(self, origin: str, logits_too: bool) -> None:
        """Raise if labels, or logits if `logits_too`, differ more than rounding explains."""
        if self.labels < LEAST_AGREEMENT:
            raise RgbxSegError(f'{origin}: only {100 * self.labels:.3f} % of the labels of the '
                               f'exported model are those of the checkpoint; expected at least '
                               f'{100 * LEAST_AGREEMENT} %; with export.fp16_weights, try without.')
        if logits_too and not self.logits <= MOST_DIFFERENCE:
            raise RgbxSegError(f'{origin}: the logits of the exported model differ from those of '
                               f'the checkpoint by {self.logits:.1e} of the largest; expected at '
                               f'most {MOST_DIFFERENCE}; try another version of torch.')


class Sums:
    """Adds up the pixels of several pairs."""

    def __init__(self, tie: float = TIE) -> None:
        """Take how near logits are a tie, relative to the largest."""
        self.tie = tie
        self.equal = self.clear = self.pixels = 0
        self.worst = 0.0
        self.seen: set[int] = set()

    def add(self, label: Tensor, ours: Logits, theirs: Logits) -> None:
        """Add the engine's label (1, H, W), and logits (1, N, H, W) of torch and of the file."""
        if ours.shape != theirs.shape:
            raise RgbxSegError(f'the exported model makes logits {theirs.shape} of what the '
                               f'checkpoint makes {ours.shape} of; expected the same: try another '
                               'version of torch.')
        scale = max(float(np.abs(ours).max()), np.finfo(np.float32).tiny)
        worst = float(np.abs(ours - theirs).max()) / scale
        # A difference that is no number would pass for none: nan is not above anything.
        self.worst = max(self.worst, worst) if np.isfinite(worst) else math.inf
        best, ids = torch.from_numpy(ours).topk(min(2, ours.shape[1]), 1)
        expected = ids[:, 0].numpy()
        clear = (best[:, 0] - best[:, -1] > self.tie * scale).numpy() if best.shape[1] > 1 else True
        self.equal += int(np.count_nonzero((label == expected) & clear))
        self.clear += int(np.count_nonzero(np.broadcast_to(clear, label.shape)))
        self.pixels += label.size
        self.seen.update(np.unique(expected).tolist())

    def result(self, samples: int, noise_pairs: int) -> Parity:
        """Return the shares; the arguments are how many pairs they are of."""
        return Parity(self.equal / self.clear if self.clear else 1.0, 1 - self.clear / self.pixels,
                      len(self.seen), self.worst, samples, noise_pairs)


def compare(graph: BundleGraph, bundle: Path, samples: Sequence[Sample],
            tie: float = TIE) -> Parity:
    """Return how a bundle agrees with its graph in torch.

    It is compared on samples, and on noise too if they say little: there are none, or torch gives
    one class to all of them. Where classes may be exchanged they are, for the last of the pairs: a
    graph may have become one for the number of classes that it was traced with.
    """
    manifest, sums = load_bundle(bundle), Sums(tie)
    pairs = [_to_pair(sample, manifest) for sample in samples]
    _add(sums, graph, bundle, pairs)
    noise = _noise_pairs(manifest) if len(sums.seen) < 2 else []
    if noise:
        _add(sums, graph, bundle, noise)
    for rows in _other_classes(bundle, manifest):
        _add(sums, graph, bundle, [*pairs, *noise][-1:], rows)
    return sums.result(len(samples), len(noise))


def _other_classes(bundle: Path, manifest: Manifest) -> list[Rows]:
    """Return one class of the bank, and more than the manifest has, as far as there are any."""
    if manifest.vocabulary is None:
        return []
    rows, own = load_bank(bundle / BANK_FILE).embeddings, len(manifest.classes)
    more = min(len(rows), manifest.vocabulary.most, own + MORE_CLASSES)
    return [rows[-n:] for n in sorted({1, more})]


def _add(sums: Sums, graph: BundleGraph, bundle: Path, pairs: Sequence[Pair],
         rows: Rows | None = None) -> None:
    """Run pairs through the robot's engine and then, for memory's sake, through torch and file."""
    engine, manifest = open_engine(bundle, 'onnxruntime', 'fp32')
    model = Model(bundle, manifest)
    if rows is not None:
        engine.set_classes(rows)
    names = manifest.scene.tensors if manifest.scene else ()
    scenes = [dict(zip(names, (array.copy() for array in engine.embed(*pair)), strict=True))
              if names else {} for pair in pairs]
    labels = [engine(*pair, tuple(scene.values()) if scene else None)[0].copy()
              for pair, scene in zip(pairs, scenes, strict=True)]
    engine.close()
    torch_engine = TorchEngine(graph, model=model)
    if rows is not None:
        torch_engine.set_classes(rows)
    classes = model.rows() if rows is None else rows
    held = {} if classes is None else {CLASSES: np.ascontiguousarray(classes)}
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        session = _open_with_logits(bundle / MODEL_FILE, Path(folder) / MODEL_FILE)
        for pair, scene, label in zip(pairs, scenes, labels, strict=True):
            theirs, = session.run([LOGITS], {**dict(zip(INPUTS, pair, strict=True)), **scene,
                                             **held})
            sums.add(label, torch_engine.logits(*pair), theirs)


def _to_pair(sample: Sample, manifest: Manifest) -> Pair:
    height, width = manifest.height, manifest.width
    rgb, aux = (resize_to(np.array(image), height, width) for image in (sample.rgb, sample.aux))
    return (np.ascontiguousarray(rgb[None]),
            np.ascontiguousarray(aux.reshape(1, height, width, manifest.aux.channels)))


def _noise_pairs(manifest: Manifest) -> list[Pair]:
    rng, size = np.random.default_rng(0), (1, manifest.height, manifest.width)
    return [tuple(rng.integers(0, 256, (*size, channels), np.uint8)
                  for channels in (3, manifest.aux.channels)) for _ in range(NOISE_PAIRS)]


def _open_with_logits(model: Path, copy: Path) -> onnxruntime.InferenceSession:
    """Return a session of a copy of the model that has its logits among the outputs."""
    shutil.copyfile(model, copy)
    with copy.open('ab') as file:
        file.write(output_suffix(LOGITS))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(copy), options, ['CPUExecutionProvider'])
