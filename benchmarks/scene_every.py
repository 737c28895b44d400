# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What it costs and saves to run the scene graph of a bundle on every k-th pair of a bag only.

python -m benchmarks.scene_every BUNDLE BAG --every 1 2 5 10 30 [--json FILE]; prints the Markdown
table of docs/scene.md. Each pair is segmented once for each k before the next pair comes, so that
whatever slows the machine slows all alike; each k has a memory of its own. Two controls say what
the table is worth: zeros in place of the embeddings, and how alike those of different pairs are.
A network that does without them loses nothing at any k.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.timeline import read_target
from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import StampedImage, guess_topics, read_images
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import Engine, Scene, open_engine
from rgbx_seg_ros.images import to_rgb8
from rgbx_seg_ros.manifest import MAX_SCENE_EVERY, Manifest
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.sync import Pair, Pairer

WARM_UP = 3
HEADER = """| k | mIoU [%] | labels as k = 1 [%] | worst pair [%] | engine [ms] | p95 [ms] \
| scene graph [ms] | time saved [%] |
|---|---|---|---|---|---|---|---|"""


class Labeled(NamedTuple):
    """A pair of the bag, still encoded, and its label if there is one."""

    rgb: StampedImage
    aux: StampedImage
    label: StampedImage | None


class Watched:
    """An engine whose embeddings are collected, or `blind`: replaced by zeros."""

    def __init__(self, engine: Engine, blind: bool = False) -> None:
        """Take an open engine, which others may share."""
        self.info, self.close, self._engine, self._blind = engine.info, engine.close, engine, blind
        self.seen: list[Scene] = []

    def __call__(self, rgb: NDArray[np.uint8], aux: NDArray[np.uint8], scene: Scene | None = None
                 ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Run the engine."""
        return self._engine(rgb, aux, scene)

    def embed(self, rgb: NDArray[np.uint8], aux: NDArray[np.uint8]) -> Scene:
        """Run the engine's scene graph."""
        scene = self._engine.embed(rgb, aux)
        if self._blind:
            return tuple(map(np.zeros_like, scene))
        self.seen.append(tuple(array.copy() for array in scene))
        return scene

    def cosines(self) -> list[float]:
        """Return, for each tensor of the scene, the median cosine of those of two pairs."""
        found = []
        for arrays in zip(*self.seen, strict=True):
            rows = np.concatenate(arrays)  # (pairs, width)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            found.append(float(np.median((rows @ rows.T)[np.triu_indices(len(rows), 1)])))
        return found


class Tally:
    """What one k has given so far; k = 0 is the control without embeddings."""

    def __init__(self, every: int, engine: Engine, manifest: Manifest) -> None:
        """Start with an empty memory."""
        self.every = every
        self.engine = Watched(engine, blind=every == 0)
        self.pipeline = Pipeline(Segmenter(self.engine, manifest))
        self.confusion = Confusion(manifest.n_classes)
        self.engine_ms: list[float] = []
        self.scene_ms: list[float] = []
        self.agreement: list[float] = []  # share of the pixels of a pair with the label of k = 1

    def run(self, rgb: NDArray[np.uint8], aux: NDArray[Any], pair: Labeled) -> NDArray[np.uint8]:
        """Return the mask of a pair."""
        result = self.pipeline(rgb, aux, pair.aux.encoding, pair.rgb.stamp_ns,
                               scene_every=self.every or 1).result
        self.engine_ms.append(result.engine_ms)
        self.scene_ms.append(result.scene_ms)
        return result.label

    def summary(self, each: Tally) -> dict[str, Any]:
        """Return the figures, `each` being what k = 1 gave."""
        # The network takes the same time for each k: on a busy machine, the difference of the
        # engine's means would be mostly the difference of two samples of its noise.
        saved_ms = np.mean(each.scene_ms) - np.mean(self.scene_ms)
        scored = self.confusion.matrix.any()
        return {'every': self.every, 'miou': self.confusion.miou() if scored else None,
                'agreement': float(np.mean(self.agreement)),
                'agreement_min': float(np.min(self.agreement)),
                'engine_ms': float(np.mean(self.engine_ms)),
                'engine_ms_p95': float(np.percentile(self.engine_ms, 95)),
                'scene_ms': float(np.mean(self.scene_ms)),
                'scene_runs': int(np.count_nonzero(self.scene_ms)),
                'saving': float(saved_ms / np.mean(each.engine_ms))}


def read_pairs(bag: Path, modality: str) -> list[Labeled]:
    """Return the pairs that the node's pairer makes of a bag, in their order."""
    topics = guess_topics(bag, modality)
    streams = {topics.rgb: 'rgb', topics.aux: 'aux'}
    pairer, labels = Pairer(), {}
    pairs: list[Pair] = []
    for image in read_images(bag, filter(None, topics)):
        if image.topic == topics.label:
            labels[image.stamp_ns] = image
        else:
            pairs += pairer.add(streams[image.topic], image.stamp_ns, image.received_ns, image)
    pairs += pairer.flush()
    if not pairs:
        raise RgbxSegError(f'{bag}: no pair of {topics.rgb} and {topics.aux}; expected stamps that '
                           f'lie within {pairer.config.max_skew_s * 1e3:.0f} ms; take another bag.')
    return [Labeled(rgb.data, aux.data, labels.get(rgb.stamp_ns))
            for rgb, aux in (pair[:2] for pair in pairs) if rgb is not None and aux is not None]


def sweep(engine: Engine, manifest: Manifest, pairs: Sequence[Labeled],
          every: Sequence[int]) -> list[Tally]:
    """Return what each k gave; 1 must be among them."""
    tallies = [Tally(k, engine, manifest) for k in every]
    for number, pair in enumerate(pairs):
        rgb = to_rgb8(pair.rgb.image(), pair.rgb.encoding)
        aux = pair.aux.image()
        target = read_target(pair.label) if pair.label is not None else None
        turn = number % len(tallies)  # nobody is always the first, whose images are not cached
        masks = {tally.every: tally.run(rgb, aux, pair)
                 for tally in (*tallies[turn:], *tallies[:turn])}
        for tally in tallies:
            mask = masks[tally.every]
            tally.agreement.append(float(np.mean(mask == masks[1])))
            if target is not None:
                tally.confusion.update(mask, target)
    return tallies


def row(found: dict[str, Any]) -> str:
    """Return a row of the table."""
    miou = '' if found['miou'] is None else f'{100 * found["miou"]:.2f}'
    saving = '' if not found['every'] else f'{100 * found["saving"]:.1f}'
    return (f'| {found["every"] or "zeros"} | {miou} | {100 * found["agreement"]:.2f} | '
            f'{100 * found["agreement_min"]:.1f} | {found["engine_ms"]:.1f} | '
            f'{found["engine_ms_p95"]:.1f} | {found["scene_ms"]:.2f} | '
            f'{saving} |')


def _main() -> None:
    parser = Arguments(prog='python -m benchmarks.scene_every', description='What it costs and '
                       'saves to run the scene graph on every k-th pair of a bag only.')
    parser.add_argument('bundle', type=Path, help='a bundle of two graphs')
    parser.add_argument('bag', type=Path, help='a bag, best with labels')
    parser.add_argument('--every', type=int, nargs='+', default=[1, 2, 5, 10, 30], metavar='K',
                        help='default: 1 2 5 10 30; 1 is always measured')
    parser.add_argument('--json', type=Path, help='write the figures here')
    args = parser.parse_args()
    every = sorted({1, *args.every})
    if not 1 <= every[0] <= every[-1] <= MAX_SCENE_EVERY:
        raise RgbxSegError(f'--every is {args.every}; expected numbers 1..{MAX_SCENE_EVERY}.')
    cv2.setNumThreads(1)
    engine, manifest = open_engine(args.bundle)
    if manifest.scene is None:
        raise RgbxSegError(f'{args.bundle} is one graph; expected a bundle with a scene graph: '
                           'export it with export.scene_every=1.')
    Segmenter(engine, manifest).warm_up(WARM_UP)
    pairs = read_pairs(args.bag, manifest.modality)
    if len(pairs) < 2:
        raise RgbxSegError(f'{args.bag} holds one pair; expected two or more, for something to be '
                           'held between them; take another bag.')
    tallies = sweep(engine, manifest, pairs, [*every, 0])
    found = [tally.summary(tallies[0]) for tally in tallies]
    cosines = tallies[0].engine.cosines()
    print('\n'.join([HEADER, *map(row, found)]))
    labeled = sum(pair.label is not None for pair in pairs)
    alike = ', '.join(f'{name} {cosine:.4f}' for name, cosine in
                      zip(manifest.scene.tensors, cosines, strict=True))
    print(f'\n{len(pairs)} pairs, {labeled} of them labeled; {manifest.name} on '
          f'{engine.info.backend} {engine.info.version}; median cosine of the embeddings of two '
          f'pairs: {alike}')
    if args.json:
        _write(args.json, {'model': manifest.name, 'bundle_sha256': manifest.onnx_sha256,
                           'bag': args.bag.name, 'pairs': len(pairs), 'labeled': labeled,
                           'backend': f'{engine.info.backend} {engine.info.version}',
                           'cosines': cosines, 'rows': found})


def _write(path: Path, data: dict[str, Any]) -> None:
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    temporary.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
    os.replace(temporary, path)


def main() -> int:
    """Run the benchmark."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
