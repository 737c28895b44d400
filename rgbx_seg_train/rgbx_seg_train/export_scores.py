# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a bundle scores on labeled pairs, beside what its checkpoint scores on the same in torch.

Both go through the robot's own segmenter, the bundle by ONNX Runtime, one after the other for
memory's sake.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Engine, Model, open_engine
from rgbx_seg_ros.manifest import Manifest, load_bundle
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.pairs import PairSet
from rgbx_seg_train.torch_engine import TorchEngine

# Of mIoU between torch and ONNX Runtime, 0..1: rounding decides some labels of rare classes.
MOST_CHANGE = 0.005
TIMES = ('day', 'night')
SUMMARY = ('miou', 'miou_day', 'miou_night')  # the scores of a file that the manifest takes


@dataclass(frozen=True)
class Scores:
    """The mean IoU of one engine on labeled pairs, each in 0..1."""

    frames: int
    miou: float  # a class that never occurs counts 0
    miou_present: float  # it is left out
    miou_day: float | None  # None: no pair is known to be of that time
    miou_night: float | None


@dataclass(frozen=True)
class Measured:
    """A bundle's scores, and its checkpoint's."""

    source: str
    onnx: Scores
    torch: Scores

    def to_manifest(self) -> dict[str, float]:
        """Return what the manifest takes."""
        found = {'frames': self.onnx.frames, 'miou': self.onnx.miou,
                 'miou_present': self.onnx.miou_present, 'miou_day': self.onnx.miou_day,
                 'miou_night': self.onnx.miou_night, 'miou_torch': self.torch.miou}
        return {name: round(float(value), 6) for name, value in found.items() if value is not None}

    def refuse(self, origin: str) -> None:
        """Raise if both differ by more than rounding explains."""
        change = self.onnx.miou - self.torch.miou
        if abs(change) > MOST_CHANGE:
            raise RgbxSegError(f'{origin}: the exported model has {100 * change:+.2f} points of '
                               f'mIoU against torch on {self.source}; expected at most '
                               f'{100 * MOST_CHANGE} apart; with export.fp16_weights, try without.')


def measure(graph: BundleGraph, bundle: Path, pairs: PairSet) -> Measured:
    """Return what a bundle and its graph in torch score on the same pairs.

    Raises:
        RgbxSegError: a pair cannot be read, or none has a label.

    """
    manifest = load_bundle(bundle)
    engine, _ = open_engine(bundle, 'onnxruntime', 'fp32')
    return Measured(pairs.name, score(engine, manifest, pairs),
                    score(TorchEngine(graph, model=Model(bundle, manifest)), manifest, pairs))


def score(engine: Engine, manifest: Manifest, pairs: PairSet) -> Scores:
    """Return what an engine scores on the pairs that have a label; close it."""
    counts: dict[str, Confusion] = {}
    frames = 0
    try:
        for seen in pairs.run(Segmenter(engine, manifest)):
            if seen.target is None:
                continue
            frames += 1
            for part in {'', seen.conditions.get('time', '')}:
                counts.setdefault(part, Confusion(manifest.n_classes)).update(
                    seen.label, seen.target)
    finally:
        engine.close()
    if not frames or not counts[''].true().any():
        raise RgbxSegError(f'{pairs.name}: none of its {len(pairs)} pairs has a label; expected '
                           'some to score on; choose another source.')
    times = [counts[time].miou(strict=True) if time in counts and counts[time].true().any()
             else None for time in TIMES]
    return Scores(frames, counts[''].miou(strict=True), counts[''].miou(), *times)


def tell_scores(measured: Measured) -> str:
    """Return scores as a line of text."""
    onnx, change = measured.onnx, measured.onnx.miou - measured.torch.miou
    parts = [f'mIoU {100 * onnx.miou:.2f} %', f'present classes {100 * onnx.miou_present:.2f} %']
    parts += [f'{time} {100 * value:.2f} %' for time, value in
              zip(TIMES, (onnx.miou_day, onnx.miou_night), strict=True) if value is not None]
    return (f'scores: {", ".join(parts)} on {onnx.frames} pairs ({measured.source}); in torch mIoU '
            f'{100 * measured.torch.miou:.2f} %, change {100 * change:+.3f} points')


def read_scores(texts: Sequence[str]) -> dict[str, float]:
    """Return the scores of `FILE` and `NAME=FILE` arguments, the latter's prefixed by name."""
    scores = {}
    for text in texts:
        name, equals, rest = text.partition('=')
        path = Path(rest if equals else text)
        prefix = f'{name}_' if equals else ''
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
            scores.update({f'{prefix}{key}': round(data[key], 4) for key in SUMMARY
                           if data.get(key) is not None})
            scores.update(_box_scores(data.get('box_score', {}), prefix))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise RgbxSegError(f'scores {path}: cannot be read ({str(error)[:60]}); expected a '
                               'file that `rgbx_evaluate --out` wrote.') from None
    return scores


def _box_scores(parts: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {f'{prefix}{kind}_{name}_{part}': round(row[kind], 4)
            for part, rows in parts.items() for name, row in rows.items()
            for kind in ('hit_rate', 'inside') if row[kind] is not None}
