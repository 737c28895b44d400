# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_evaluate MODEL`: scores a checkpoint or a bundle on held-out data.

Both go through the robot's own `Segmenter`, frame by frame at the sensors' size, so that the
figures are those of the robot.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import Engine, open_engine
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.box_score import BoxScore
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict, load_config, override, parse_config
from rgbx_seg_train.data.folder import FolderDataset
from rgbx_seg_train.data.sample import Samples
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.score import Score, summarize
from rgbx_seg_train.torch_engine import TorchEngine, load_graph


def evaluate(segmenter: Segmenter, sets: Sequence[Samples], zero_aux: bool = False,
             progress: bool = False) -> dict[str, Any]:
    """Return the scores of a segmenter on all samples, at their own size, as plain numbers.

    `box_score` is there if people drew boxes into the samples; `zero_aux` blinds the second camera.
    """
    manifest = segmenter.manifest
    score, boxes = Score(manifest.n_classes), BoxScore()
    bar = tqdm(total=sum(map(len, sets)), desc='evaluating', unit='frame',
               disable=None if progress else True)
    for samples in sets:
        for index in range(len(samples)):
            sample = samples[index]
            aux = np.zeros_like(sample.aux) if zero_aux else sample.aux
            label = segmenter(np.ascontiguousarray(sample.rgb), np.ascontiguousarray(aux)).label
            score.update(label, sample.label, sample.night)
            if isinstance(samples, FolderDataset):
                boxes.update(label, samples.boxes(index), sample.night)
            bar.update()
    bar.close()
    result = summarize(score, manifest.classes)
    if boxes.boxes.any():
        result['box_score'] = boxes.summary(manifest.classes)
    return result


def open_model(path: Path, backend: str = 'auto', precision: str = 'auto'
               ) -> tuple[Engine, Manifest, Config | None]:
    """Return engine and manifest of a bundle folder or a checkpoint, and the latter's config.

    `backend` and `precision` are those of `engine.open_engine`, for a bundle.
    """
    path = Path(path)
    if path.is_dir():
        return *open_engine(path, backend, precision), None
    if (backend, precision) != ('auto', 'auto'):
        raise RgbxSegError(f'{path} is a checkpoint, which torch runs in float32; expected a '
                           'bundle with --backend and --precision: leave them out or export it.')
    graph, manifest, config = load_graph(path)
    return TorchEngine(graph), manifest, config


def tables(result: dict[str, Any]) -> str:
    """Return the scores as text."""
    lines = [f'{"IoU %":14}{"all":>8}{"day":>8}{"night":>8}']
    rows = {name: [result[f'iou{part}'][name] for part in ('', '_day', '_night')]
            for name in result['iou']}
    for name in ('miou', 'miou_present'):
        rows[name] = [result[f'{name}{part}'] for part in ('', '_day', '_night')]
    lines += [f'{name:14}' + ''.join(map(_percent, values)) for name, values in rows.items()]
    if 'box_score' in result:
        lines += ['', f'{"boxes":14}{"boxes":>8}{"hit %":>8}{"inside %":>9}']
        lines += [f'{part + " " + name:14}{row["boxes"]:8}{_percent(row["hit_rate"])} '
                  f'{_percent(row["inside"])}'
                  for part, rows in result['box_score'].items() for name, row in rows.items()]
    return '\n'.join(lines)


def _percent(value: float | None) -> str:
    return f'{"-":>8}' if value is None else f'{100 * value:8.1f}'


def _config(args: argparse.Namespace, own: Config | None) -> Config:
    if args.config:
        return load_config(args.config, args.overrides)
    if own is None:
        raise RgbxSegError(f'{args.model} is a bundle, which does not say what to score it on; '
                           'give --config with a training configuration.')
    return parse_config(override(config_to_dict(own), args.overrides))


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_evaluate',
                       description='Score a checkpoint or a bundle.')
    parser.add_argument('model', type=Path, help='checkpoint (.safetensors) or bundle folder')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings that win over the configuration, such as '
                        'data.test.0.count=50')
    parser.add_argument('--config', type=Path, help="default: the checkpoint's own")
    parser.add_argument('--split', choices=('validate', 'test'), default='test')
    parser.add_argument('--zero-aux', action='store_true', help='blind the second camera')
    parser.add_argument('--backend', default='auto', help='of a bundle (default: auto)')
    parser.add_argument('--precision', default='auto', help='of a bundle (default: auto)')
    parser.add_argument('--out', type=Path, help='write the scores as JSON')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    engine, manifest, own = open_model(args.model, args.backend, args.precision)
    config = _config(args, own)
    sources = getattr(config.data, args.split)
    if not sources:
        raise RgbxSegError(f'data.{args.split} is empty; expected a source to score on; add one.')
    if config.data.modality != manifest.modality:
        raise RgbxSegError(f'{args.model} is for {manifest.modality}, the data are '
                           f'{config.data.modality}; choose a fitting configuration.')
    known, expected = ({info.id: info.name for info in classes} for classes in
                       (manifest.classes, config.data.class_infos))
    if known != expected:
        raise RgbxSegError(f'{args.model} knows the classes {", ".join(known.values())}, the data '
                           f'are labeled with {", ".join(expected.values())}; choose a fitting '
                           'configuration.')
    sets = [open_source(source, config.data, native=True) for source in sources]
    zero_aux = args.zero_aux or config.data.zero_aux
    result = evaluate(Segmenter(engine, manifest), sets, zero_aux, progress=True)
    result.update(model=manifest.name, split=args.split, zero_aux=zero_aux,
                  engine=f'{engine.info.backend} {engine.info.version} {engine.info.precision}')
    if 'box_score' in result:
        print('IoU is against weak labels: read the boxes.')
    print(tables(result))
    if args.out:
        write_json(args.out, result)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    try:
        temporary.write_text(json.dumps(data, indent=2) + '\n', encoding='utf-8')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    """Run the command `rgbx_evaluate`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
