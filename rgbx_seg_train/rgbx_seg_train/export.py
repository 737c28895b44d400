# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_export CHECKPOINT OUT`: turns a checkpoint into a bundle that any robot can run.

The bundle is written beside its place, run through the robot's own engine on real samples, and
moved there only if its labels and logits are those of the checkpoint.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import graphs
from rgbx_seg_ros.manifest import (
    CHECKPOINT_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCENE_FILE,
    Manifest,
    SceneGraph,
    replace_folder,
    save_bundle,
)
from rgbx_seg_train import export_graph
from rgbx_seg_train.checkpoint import load_model, manifest_of, save_checkpoint
from rgbx_seg_train.config import Config, DataConfig
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.evaluate import write_json
from rgbx_seg_train.export_phases import Phases, peak_bytes
from rgbx_seg_train.onnx_graph import OPSET, node_counts, to_onnx
from rgbx_seg_train.parity import TIE, TIE_HALVED, Parity, compare

PARITY_SAMPLES = 4
SUMMARY = ('miou', 'miou_day', 'miou_night')  # the scores of a file that the manifest takes


@dataclass(frozen=True)
class Report:
    """What an export made, and what it took."""

    name: str
    family: str
    preset: str
    parameters: int  # of the model for one modality
    opset: int
    scene_every: int
    fp16_weights: bool
    bytes: Mapping[str, int]  # by file
    nodes: Mapping[str, Mapping[str, int]]  # by ONNX file and type
    parity: Parity
    seconds: Mapping[str, float]  # by phase
    peak_bytes: Mapping[str, int]  # of the process, from its start to the end of each phase


def export(checkpoint: Path, out: Path, scores: Mapping[str, float],
           overrides: Sequence[str] = (), progress: bool = False) -> Report:
    """Write the bundle of a checkpoint; return what it is and what it took.

    Raises:
        RgbxSegError: the checkpoint is broken, `out` is something else, or the bundle disagrees.

    """
    phases, out = Phases(progress), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    bundle = place / 'bundle'
    try:
        with phases('load'):
            merged, config, manifest = _load(checkpoint, overrides, place / CHECKPOINT_FILE)
            manifest = replace(manifest, scores=dict(scores))
            samples = _parity_samples(config)
        graph = export_graph.BundleGraph(merged, config.data.zero_aux)
        nodes = _write(bundle, graph, manifest, config, phases)
        with phases('check'):
            for name in nodes:
                onnx.checker.check_model(str(bundle / name))
        with phases('parity'):
            halved = config.export.fp16_weights
            parity = compare(graph, bundle, samples, TIE_HALVED if halved else TIE)
            parity.refuse(str(checkpoint), logits_too=not halved)
        sizes = {file.name: file.stat().st_size for file in sorted(bundle.iterdir())}
        replace_folder(bundle, out, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Report(manifest.name, manifest.family, config.model.preset,
                  sum(p.numel() for p in merged.parameters()), OPSET, config.export.scene_every,
                  halved, sizes, nodes, parity, phases.seconds,
                  phases.peak_bytes)


def _load(checkpoint: Path, overrides: Sequence[str],
          weights: Path) -> tuple[nn.Module, Config, Manifest]:
    """Return the model of a checkpoint for its modality, with configuration and manifest.

    With export.checkpoint the file `weights` is written: before merging copies the model.
    """
    model, loaded = load_model(checkpoint)
    loaded = replace(loaded, tensors={})  # as large as the model
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise RgbxSegError(f'{checkpoint}: {name} holds values that are no numbers; expected '
                               'finite weights: train again from an earlier checkpoint.')
    config = parse_config(override(config_to_dict(loaded.config), overrides))
    manifest = manifest_of(replace(loaded, config=config))
    if config.export.checkpoint:
        save_checkpoint(weights, _public(config), loaded.n_classes, loaded.progress,
                        {'model': model.state_dict()})
    merged = model.merge(manifest.modality)
    every = config.export.scene_every
    if not every:
        return merged, config, manifest
    width = getattr(merged, 'scene_width', 0)
    if not width:
        raise RgbxSegError(f'{checkpoint}: export.scene_every is {every}, but the model embeds no '
                           'scene; expected 0: only SegRGB-X with MA-CLIP is made of two graphs.')
    return merged, config, replace(manifest, scene=SceneGraph('', width, every))


def _public(config: Config) -> Config:
    """Return what of a configuration tells of the model, without the places of this machine."""
    data = replace(config.data, cache=DataConfig.cache, train=(), validate=(), test=())
    return Config(config.name, model=config.model, data=data, augment=config.augment,
                  export=config.export)


def _write(bundle: Path, graph: export_graph.BundleGraph, manifest: Manifest, config: Config,
           phases: Phases) -> dict[str, dict[str, int]]:
    """Write the bundle; return the node counts of its ONNX files."""
    modules = {
        MODEL_FILE: (graph, (export_graph.LOGITS,)),
        SCENE_FILE: (export_graph.SceneGraph(graph.merged, graph.zero_aux), ()),
    }
    files, nodes = {}, {}
    for name, tensors in graphs(manifest).items():
        module, named = modules[name]
        model = to_onnx(module, tensors, phases, config.export.fp16_weights, named)
        nodes[name] = node_counts(model)
        files[name] = model.SerializeToString(deterministic=True)
        del model
    weights = bundle.with_name(CHECKPOINT_FILE) if config.export.checkpoint else None
    with phases('write'):
        save_bundle(bundle, files[MODEL_FILE], manifest, files.get(SCENE_FILE), weights)
    return nodes


def _parity_samples(config: Config) -> list[Sample]:
    """Return a few samples the model was not trained on, if the configuration names any."""
    sources = config.data.test or config.data.validate or config.data.train
    if not sources:
        return []
    samples = open_source(_short(sources[0]), config.data)
    return [replace(s, rgb=np.array(s.rgb), aux=np.array(s.aux))
            for s in (samples[n] for n in range(min(PARITY_SAMPLES, len(samples))))]


def _short(source: Any) -> Any:
    return replace(source, count=PARITY_SAMPLES) if source.kind == 'synthetic' else source


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


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_export',
                       description='Turn a checkpoint into a bundle.')
    parser.add_argument('checkpoint', type=Path, help='such as runs/NAME/best.safetensors')
    parser.add_argument('out', type=Path, help='folder of the bundle')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help="settings that win over the checkpoint's, such as name=my_model")
    parser.add_argument('--scores', action='append', default=[], metavar='[NAME=]FILE',
                        help='scores of `rgbx_evaluate --out` for the manifest; may be repeated')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='write sizes, seconds, memory, node counts and parity as JSON')
    parser.add_argument('--nodes', action='store_true', help='print how many nodes of each type')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    report = export(args.checkpoint, args.out, read_scores(args.scores), args.overrides,
                    progress=True)
    print(tell(args.out, report, args.nodes))
    if args.json:
        write_json(args.json, asdict(report))


def tell(out: Path, report: Report, nodes: bool = False) -> str:
    """Return a report as text, with the node counts if `nodes`."""
    parity, seconds = report.parity, report.seconds
    sizes = ', '.join(f'{name} {size / 1e6:.1f} MB' for name, size in report.bytes.items()
                      if name != MANIFEST_FILE)
    noise = f' and {parity.noise_pairs} of noise' * bool(parity.noise_pairs)
    lines = [
        f'{out}: {sum(report.bytes.values()) / 1e6:.1f} MB ({sizes}), opset {report.opset}',
        f'parity: {100 * parity.labels:.3f} % of the labels as in torch ({parity.classes} classes '
        f'seen in {parity.samples} pairs{noise}; {100 * parity.ties:.3f} % are ties), logits '
        f'within {parity.logits:.1e} of the largest',
        'seconds: ' + ', '.join(f'{name} {value:.1f}' for name, value in seconds.items())
        + f'; {sum(seconds.values()):.1f} in all',
        f'peak memory: {peak_bytes() / 1e9:.2f} GB',
    ]
    if nodes:
        lines += [f'{file}: {sum(counts.values())} nodes: '
                  + ', '.join(f'{count} {kind}' for kind, count in counts.items())
                  for file, counts in report.nodes.items()]
    return '\n'.join(lines)


def main() -> int:
    """Run the command `rgbx_export`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
