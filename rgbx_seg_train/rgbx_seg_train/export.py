# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_export CHECKPOINT OUT`: turns a checkpoint into a bundle that any robot can run.

The bundle is written beside its place, run through the robot's own engine on real samples, and
moved there only if its labels and logits are those of the checkpoint. It may be scored there too,
and get forms in lower precision.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

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
    load_bundle,
    replace_folder,
    save_bundle,
    save_manifest,
)
from rgbx_seg_train import export_graph
from rgbx_seg_train.checkpoint import load_model, manifest_of, save_checkpoint
from rgbx_seg_train.config import Config, DataConfig, ExportConfig, LossConfig
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.data.sources import modality_of, open_source
from rgbx_seg_train.export_classes import class_notes, open_to
from rgbx_seg_train.export_phases import Phases
from rgbx_seg_train.export_report import Report, camera_notes, tell
from rgbx_seg_train.export_scores import Measured, measure, read_scores
from rgbx_seg_train.json_file import check_json, write_json
from rgbx_seg_train.onnx_graph import OPSET, node_counts, to_onnx
from rgbx_seg_train.pairs import PairSet
from rgbx_seg_train.parity import TIE, TIE_HALVED, compare
from rgbx_seg_train.variant_maker import FORMS, Made, Pairs, add_variants
from rgbx_seg_train.variants import (
    CALIBRATION_PAIRS,
    check_counts,
    form_names,
    open_both,
    read_both,
)

PARITY_SAMPLES = 4
EVALUATION_PAIRS = 200
OWN = ''  # of a source: what the checkpoint's own configuration lists


@dataclass(frozen=True)
class Checks:
    """What a bundle is measured on, and the forms of lower precision that it gets.

    Sources are as in `pairs.open_pairs`; OWN is the checkpoint's configuration, None nothing.
    """

    evaluate: str | None = None
    calibrate: str = OWN
    forms: tuple[str, ...] = ()
    counts: tuple[int, int] = (CALIBRATION_PAIRS, EVALUATION_PAIRS)  # pairs of both, at most


NO_CHECKS = Checks()
Opened = tuple[PairSet | None, PairSet] | None  # to calibrate and to measure on


def export(checkpoint: Path, out: Path, scores: Mapping[str, float],
           overrides: Sequence[str] = (), progress: bool = False,
           checks: Checks = NO_CHECKS) -> Report:
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
            graph, config, manifest = _load(checkpoint, overrides, place / CHECKPOINT_FILE)
            manifest = replace(manifest, scores=dict(scores))
            notes = (*camera_notes(config, manifest.modality),
                     *class_notes(graph, manifest, config))
            samples = _parity_samples(config, manifest)
            opened = _open(checks, config, manifest)
        nodes = _write(bundle, graph, manifest, config, phases)
        with phases('check'):
            for name in nodes:
                onnx.checker.check_model(str(bundle / name))
        halved = config.export.fp16_weights
        with phases('parity'):
            parity = compare(graph, bundle, samples, TIE_HALVED if halved else TIE)
            parity.refuse(str(checkpoint), logits_too=not halved)
        measured = _score(str(checkpoint), graph, bundle, opened, phases)
        forms = _add_forms(bundle, manifest, checks.forms, opened, phases)
        sizes = {file.name: file.stat().st_size for file in sorted(bundle.iterdir())
                 if file.is_file()}
        replace_folder(bundle, out, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Report(manifest.name, manifest.family, config.model.preset,
                  sum(p.numel() for p in graph.parameters()), OPSET, config.export.scene_every,
                  halved, sizes, nodes, parity, phases.seconds, phases.peak_bytes, measured,
                  forms, notes)


def _load(checkpoint: Path, overrides: Sequence[str], weights: Path
          ) -> tuple[export_graph.BundleGraph, Config, Manifest]:
    """Return the graph of a checkpoint for its modality, with configuration and manifest.

    With export.checkpoint the file `weights` is written: before merging copies the model.
    """
    model, loaded = load_model(checkpoint, overrides)
    config, loaded = loaded.config, replace(loaded, tensors={})  # as large as the model
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise RgbxSegError(f'{checkpoint}: {name} holds values that are no numbers; expected '
                               'finite weights: train again from an earlier checkpoint.')
    manifest = open_to(manifest_of(loaded), config.export)
    if config.export.checkpoint:
        save_checkpoint(weights, _public(config), loaded.n_classes, loaded.progress,
                        {'model': model.state_dict()})
    try:
        graph = export_graph.bundle_graph(model, config, manifest, loaded.n_classes)
    except RgbxSegError as error:
        raise RgbxSegError(f'{checkpoint}: {error}') from None
    every = config.export.scene_every
    if not every:
        return graph, config, manifest
    width = getattr(graph.merged, 'scene_width', 0)
    if not width:
        raise RgbxSegError(f'{checkpoint}: export.scene_every is {every}, but the model embeds no '
                           'scene; expected 0: only SegRGB-X with MA-CLIP and MASTER are made of '
                           'two graphs.')
    names = getattr(graph.merged, 'scene_tensors', SceneGraph.tensors)
    return graph, config, replace(manifest, scene=SceneGraph('', width, every, names))


def _open(checks: Checks, config: Config, manifest: Manifest) -> Opened:
    """Return the pairs to calibrate and to measure on; None if nothing is asked for."""
    if checks.evaluate is None and not checks.forms:
        return None
    calibrated = any(FORMS[name].calibrated for name in checks.forms)
    return open_both((checks.calibrate or config) if calibrated else None,
                     checks.evaluate or config, manifest, checks.counts)


def _score(origin: str, graph: export_graph.BundleGraph, bundle: Path,
           opened: Opened, phases: Phases) -> Measured | None:
    """Write what a bundle scores into its manifest; raise if that is not what torch scores."""
    if opened is None:
        return None
    with phases('score'):
        measured = measure(graph, bundle, opened[1])
    measured.refuse(origin)
    manifest = load_bundle(bundle)
    save_manifest(bundle, replace(manifest, scored_on=measured.source, scores={
        **manifest.scores, **measured.to_manifest()}))
    return measured


def _add_forms(bundle: Path, manifest: Manifest, names: Sequence[str], opened: Opened,
               phases: Phases) -> tuple[Made, ...]:
    """Add the forms that are asked for to a bundle that is being made."""
    if opened is None or not names:
        return ()
    with phases('forms'):
        pairs = Pairs(*read_both(*opened, manifest))
        return tuple(add_variants(bundle, names, pairs, tell=lambda text: None))


def _public(config: Config) -> Config:
    """Return what of a configuration tells of the model, without the places of this machine."""
    data = replace(config.data, cache=DataConfig.cache, train=(), validate=(), test=())
    return Config(config.name, model=config.model, data=data, augment=config.augment,
                  loss=LossConfig(criterion=config.loss.criterion),
                  export=replace(config.export, open_classes=ExportConfig.open_classes))


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
        bank = Path(config.export.open_classes) if manifest.vocabulary else None
        save_bundle(bundle, files[MODEL_FILE], manifest, files.get(SCENE_FILE), weights, bank)
    return nodes


def _parity_samples(config: Config, manifest: Manifest) -> list[Sample]:
    """Return a few samples the model was not trained on, if the configuration names any."""
    data = config.data
    for sources in (data.test, data.validate, data.train):
        for source in sources:
            if modality_of(source, data) != manifest.modality:
                continue
            samples = open_source(_short(source), data)
            found = [samples[n] for n in range(min(PARITY_SAMPLES, len(samples)))]
            return [replace(s, rgb=np.array(s.rgb), aux=np.array(s.aux)) for s in found
                    if s.aux.shape[2] == manifest.aux.channels]
    return []


def _short(source: Any) -> Any:
    return replace(source, count=PARITY_SAMPLES) if source.kind == 'synthetic' else source


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_export',
                       description='Turn a checkpoint into a bundle.')
    parser.add_argument('checkpoint', type=Path, help='such as runs/NAME/best.safetensors')
    parser.add_argument('out', type=Path, help='folder of the bundle')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help="settings that win over the checkpoint's, such as name=my_model")
    parser.add_argument('--scores', action='append', default=[], metavar='[NAME=]FILE',
                        help='scores of `rgbx_evaluate --out` for the manifest; may be repeated')
    source = 'a training configuration (.yaml), a bag or synthetic:COUNT'
    parser.add_argument('--evaluate', nargs='?', const=OWN, metavar='SOURCE',
                        help=f'score the bundle on {source}; by default on data.test of the '
                        'checkpoint')
    parser.add_argument('--variants', default='', metavar='FORM,FORM',
                        help=f'add forms of lower precision: {", ".join(FORMS)}; int8 is its three')
    parser.add_argument('--calibrate', default=OWN, metavar='SOURCE',
                        help=f'for INT8: {source}; by default data.train of the checkpoint')
    parser.add_argument('--evaluation-pairs', type=int, default=EVALUATION_PAIRS, metavar='N',
                        help='at most (default: %(default)s)')
    parser.add_argument('--calibration-pairs', type=int, default=CALIBRATION_PAIRS, metavar='N',
                        help='at most (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE',
                        help='write sizes, seconds, memory, node counts and parity as JSON')
    parser.add_argument('--nodes', action='store_true', help='print how many nodes of each type')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    check_json(args.json)
    report = export(args.checkpoint, args.out, read_scores(args.scores), args.overrides,
                    progress=True, checks=_checks(args))
    print(tell(args.out, report, args.nodes))
    if args.json:
        write_json(args.json, asdict(report))


def _checks(args: Any) -> Checks:
    check_counts(args)
    for option in ('evaluate', 'calibrate'):
        value = getattr(args, option)
        if value and '=' in value and not Path(value).exists():
            raise RgbxSegError(f'--{option} {value}: that is a setting; expected a source; put '
                               'settings before the options.')
    forms = form_names([word for word in args.variants.split(',') if word])
    return Checks(args.evaluate, args.calibrate, tuple(forms),
                  (args.calibration_pairs, args.evaluation_pairs))


def main() -> int:
    """Run the command `rgbx_export`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
