# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_evaluate MODEL`: scores a checkpoint or a bundle on held-out data.

By the protocol `robot` every frame goes through the robot's own `Segmenter` at the camera's size,
so that the figures are those of the robot; by the protocol `paper` a checkpoint runs as papers run
it.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict, load_config, override, parse_config
from rgbx_seg_train.evaluate_model import PROTOCOLS, BundleModel, CheckpointModel, open_subject
from rgbx_seg_train.evaluate_report import check_target, new_report, write_report
from rgbx_seg_train.evaluate_run import Evaluation, Options, evaluate_sets, open_sets
from rgbx_seg_train.evaluate_windows import Passes
from rgbx_seg_train.json_file import check_json, write_json

ROBUSTNESS, PICTURES = 50, 6  # of a report


def tables(result: dict[str, Any]) -> str:
    """Return the scores as text."""
    lines = [f'{"%":14}{"all":>8}{"day":>8}{"night":>8}']
    rows = {name: [result.get(f'iou{part}', {}).get(name) for part in ('', '_day', '_night')]
            for name in result.get('iou', {})}
    for name in ('miou', 'miou_present', 'mean_accuracy', 'accuracy'):
        rows[name] = [result[f'{name}{part}'] for part in ('', '_day', '_night')]
    rows |= {name: [result[name]] for name in ('boundary_miou', 'ece')}
    lines += [f'{name:14}' + ''.join(map(_percent, values)) for name, values in rows.items()]
    if len(result['sets']) > 1:
        lines += ['', f'{"data set":24}{"frames":>8}{"miou":>8}{"present":>9}{"mAcc":>8}']
        lines += [f'{name:24}{row["frames"]:8}{_percent(row["miou"])} '
                  f'{_percent(row["miou_present"])}{_percent(row["mean_accuracy"])}'
                  for name, row in result['sets'].items()]
    if result.get('robustness'):
        lines += ['', f'{"fault":26}{"miou":>8}{"change":>8}']
        lines += [f'{row["words"]:26}{_percent(row["miou"])}{100 * row["change"]:+8.1f}'
                  for row in result['robustness']]
    if 'box_score' in result:
        lines += ['', f'{"boxes":14}{"boxes":>8}{"hit %":>8}{"inside %":>9}']
        lines += [f'{part + " " + name:14}{row["boxes"]:8}{_percent(row["hit_rate"])} '
                  f'{_percent(row["inside"])}'
                  for part, rows in result['box_score'].items() for name, row in rows.items()]
    return '\n'.join(lines)


def _percent(value: float | None) -> str:
    return f'{"-":>8}' if value is None else f'{100 * value:8.1f}'


def _config(args: argparse.Namespace, model: BundleModel | CheckpointModel) -> Config:
    own = model.config
    if not args.config:
        if own is None:
            raise RgbxSegError(f'{args.model} is a bundle, which does not say what to score it on; '
                               'give --config with a training configuration.')
        return parse_config(override(config_to_dict(own), args.overrides))
    config = load_config(args.config, args.overrides)
    if own is not None and config.model.family != model.family:
        raise RgbxSegError(f'{args.model} is a checkpoint of the family {model.family}, '
                           f'{args.config} is of {config.model.family}; expected one family; name '
                           f'another checkpoint, or add model.family={model.family} to take only '
                           'its data.')
    return config


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_evaluate',
                       description='Score a checkpoint or a bundle.')
    add = parser.add_argument
    add('model', type=Path, help='checkpoint (.safetensors) or bundle folder')
    add('overrides', nargs='*', default=[], metavar='key=value',
        help='settings that win over the configuration, such as data.test.0.count=50')
    add('--config', type=Path, help="default: the checkpoint's own")
    add('--split', choices=('validate', 'test'), default='test')
    add('--out', type=Path, help='FILE.json for the scores, else a folder for a whole report: '
        'page, JSON, table of frames, pictures')
    add('--protocol', choices=PROTOCOLS, default='robot', help='robot: as the robot runs it, at '
        "camera size; paper: of a checkpoint, logits upsampled to the label's size (default: "
        'robot)')
    add('--size', default='network', metavar='SIZE', help="of protocol paper: the network's size, "
        'native, the short side in pixels, or WxH (default: network)')
    add('--window', action='store_true', help="of protocol paper: windows of the network's size")
    add('--whole', action='store_true', help='of --window: averaged with a pass of the whole '
        "image at the network's size")
    add('--scales', default='1', metavar='LIST', help='of protocol paper: such as 0.75,1,1.25')
    add('--flip', action='store_true', help='of protocol paper: mirrored as well')
    add('--class-embeddings', type=Path, metavar='FILE', help='of a checkpoint that reads text: '
        "the data's classes by rgbx_embed_classes, in the place of its own; a bank (.npz) may "
        'hold others too')
    add('--robustness', type=int, metavar='N', help='frames of each data set that also run with '
        f'faults of the cameras (default: {ROBUSTNESS} for a report, else 0)')
    add('--pictures', type=int, default=PICTURES, metavar='N', help='worst and best frames shown '
        'in a report (default: %(default)s)')
    add('--zero-aux', action='store_true', help='blind the second camera')
    add('--backend', default='auto', help='of a bundle (default: auto)')
    add('--precision', default='auto', help='of a bundle (default: auto)')
    return parser


def _passes(args: argparse.Namespace) -> Passes | None:
    """Return how papers' protocol is to run; None for the robot's."""
    given = (args.size, args.window, args.whole, args.scales, args.flip)
    if args.protocol == 'robot':
        if given != ('network', False, False, '1', False):
            raise RgbxSegError('--size, --window, --whole, --scales and --flip are of --protocol '
                               'paper; expected it beside them; add it, or leave them out.')
        return None
    try:
        scales = tuple(float(text) for text in args.scales.split(','))
    except ValueError:
        raise RgbxSegError(f'--scales is {args.scales}; expected numbers such as '
                           '0.75,1,1.25.') from None
    return Passes(args.size, args.window, args.whole, scales, args.flip)


def _options(args: argparse.Namespace, config: Config, report: bool) -> Options:
    for name, value in (('robustness', args.robustness or 0), ('pictures', args.pictures)):
        if not 0 <= value <= 10**6:
            raise RgbxSegError(f'--{name} is {value}; expected 0 to 1000000.')
    faults = args.robustness if args.robustness is not None else ROBUSTNESS * report
    return Options(args.zero_aux or config.data.zero_aux, faults,
                   args.pictures if report else 0, True)


def _main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # cleans up, too
    args = _parser().parse_args()
    passes = _passes(args)
    report = args.out is not None and args.out.suffix != '.json'
    if report:
        check_target(args.out)
    else:
        check_json(args.out)
    options = [setting for setting in args.overrides if setting.startswith('model.options')]
    model = open_subject(args.model, args.backend, args.precision, passes, args.class_embeddings,
                         options)
    config = _config(args, model)
    sources = getattr(config.data, args.split)
    if not sources:
        raise RgbxSegError(f'data.{args.split} is empty; expected a source to score on; add one.')
    sets = open_sets(sources, config.data)
    options = _options(args, config, report)
    about = {'model': model.name, 'family': model.family, 'split': args.split,
             'protocol': args.protocol, 'zero_aux': options.zero_aux, 'engine': model.engine,
             'geometry': model.geometry}
    if report:
        with new_report(args.out) as folder:
            found = evaluate_sets(model, sets, config.data, options, folder)
            found.summary.update(about)
            write_report(folder, found)
        _tell(found)
        print(f'report: {args.out / "index.html"}')
        return
    found = evaluate_sets(model, sets, config.data, options)
    found.summary.update(about)
    try:
        if args.out:
            write_json(args.out, found.summary)
    finally:  # what took hours is told, also if the disk is full by now
        _tell(found)


def _tell(found: Evaluation) -> None:
    if 'box_score' in found.summary:
        print('IoU is against weak labels: read the boxes.')
    print(tables(found.summary))


def main() -> int:
    """Run the command `rgbx_evaluate`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
