# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_export CHECKPOINT OUT`: turns a checkpoint into a bundle that any robot can run.

The bundle is written beside its place, run through the robot's own engine on real samples, and
moved there only if its labels are those of the checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import INPUTS, OUTPUTS, Engine, open_engine
from rgbx_seg_ros.manifest import MANIFEST_FILE, Manifest, replace_folder, save_bundle
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.checkpoint import load_model
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.data.sample import Sample
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.evaluate import manifest_of
from rgbx_seg_train.export_graph import BundleGraph, TorchEngine

OPSET = 18  # the oldest the exporter makes, and within what TensorRT 10.3 on JetPack 6 reads
LEAST_AGREEMENT = 0.999  # share of pixels whose label is the same in torch and in the bundle
PARITY_SAMPLES = 4
SMALLEST_HALVED = 256  # elements; halving the many small tensors would save nothing
SUMMARY = ('miou', 'miou_day', 'miou_night')  # the scores of a file that the manifest takes


def export(checkpoint: Path, out: Path, scores: Mapping[str, float],
           overrides: Sequence[str] = ()) -> float:
    """Write the bundle of a checkpoint; return the share of labels that agree with torch's.

    Raises:
        RgbxSegError: the checkpoint is broken, `out` is something else, or the bundle disagrees.

    """
    model, loaded = load_model(checkpoint)
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise RgbxSegError(f'{checkpoint}: {name} holds values that are no numbers; expected '
                               'finite weights: train again from an earlier checkpoint.')
    config = parse_config(override(config_to_dict(loaded.config), overrides))
    manifest = replace(manifest_of(replace(loaded, config=config)), scores=dict(scores))
    samples = _parity_samples(config)
    graph = BundleGraph(model.merge(manifest.modality), config.data.zero_aux)
    onnx_bytes = to_onnx(graph, manifest, config.export.fp16_weights)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.parent))
    try:
        save_bundle(place / 'bundle', onnx_bytes, manifest)
        engine, _ = open_engine(place / 'bundle')
        share = agreement(TorchEngine(graph), engine, manifest, samples)
        engine.close()
        if share < LEAST_AGREEMENT:
            raise RgbxSegError(f'{checkpoint}: only {100 * share:.3f} % of the labels of the '
                               f'exported model are those of the checkpoint; expected at least '
                               f'{100 * LEAST_AGREEMENT} %; with export.fp16_weights, try without.')
        replace_folder(place / 'bundle', out, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return share


def to_onnx(graph: BundleGraph, manifest: Manifest, fp16_weights: bool) -> bytes:
    """Return the graph as an ONNX file: slimmed, without a trace of this machine."""
    size = (1, manifest.height, manifest.width)
    inputs = (torch.zeros(*size, 3, dtype=torch.uint8),
              torch.zeros(*size, manifest.aux.channels, dtype=torch.uint8))
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch warns of its own exporter's internals
        program = torch.onnx.export(graph.eval(), inputs, None, dynamo=True, opset_version=OPSET,
                                    input_names=list(INPUTS), output_names=list(OUTPUTS),
                                    verbose=False)
    model = onnxslim.slim(program.model_proto)
    strip(model)
    if fp16_weights:
        halve_weights(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def strip(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine or the source code: the robot's engine key is a hash."""
    model.producer_name, model.producer_version, model.doc_string = 'rgbx_export', '', ''
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = 'rgbx_seg', ''
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ''
        del item.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.name = f'{node.op_type}_{number}'


def halve_weights(model: onnx.ModelProto) -> None:
    """Store large float weights as float16, cast back to float when the graph is loaded."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALLEST_HALVED:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f'{name}_half'))
        casts.append(helper.make_node('Cast', [f'{name}_half'], [name], name=f'Cast_{name}',
                                      to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def agreement(ours: Engine, theirs: Engine, manifest: Manifest,
              samples: Sequence[Sample]) -> float:
    """Return the share of pixels to which both engines give the same label."""
    first, second = Segmenter(ours, manifest), Segmenter(theirs, manifest)
    same = [np.mean(first(s.rgb, s.aux).label == second(s.rgb, s.aux).label) for s in samples]
    return float(np.mean(same))


def _parity_samples(config: Any) -> list[Sample]:
    """Return a few samples the model was not trained on."""
    sources = config.data.test or config.data.validate or config.data.train
    if not sources:
        raise RgbxSegError('data.test, data.validate and data.train are empty; expected a source '
                           'to compare the bundle with the checkpoint on; add one.')
    source = sources[0]
    samples = open_source(_short(source), config.data)
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
    return parser


def _main() -> None:
    args = _parser().parse_args()
    share = export(args.checkpoint, args.out, read_scores(args.scores), args.overrides)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f'{args.out}: {size / 1e6:.1f} MB; {100 * share:.3f} % of the labels as in torch')


def main() -> int:
    """Run the command `rgbx_export`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
