# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_variants BUNDLE FORM...`: adds forms in lower precision, or for a camera, to a bundle.

They are made of the bundle's ONNX files alone, measured on pairs that are held out, and recorded
in the manifest with what they lose.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import Model, Size, graphs
from rgbx_seg_ros.manifest import MAX_SIDE, Manifest, load_bundle
from rgbx_seg_train.ablation import Row, ablate
from rgbx_seg_train.config import Config
from rgbx_seg_train.frames import Frame, record, refuse_shared
from rgbx_seg_train.json_file import check_json, write_json
from rgbx_seg_train.pairs import PairSet, Use, is_shared_bag, open_pairs
from rgbx_seg_train.variant_maker import FORMS, GROUPS, Made, Pairs, add_variants

CALIBRATION_PAIRS, EVALUATION_PAIRS, ABLATION_PAIRS = 32, 60, 12


def tell_forms(made: Sequence[Made], own_bytes: int = 0) -> str:
    """Return the forms as a table, and below it why some of them are no default.

    `own_bytes` is the size of the bundle's own graphs, which then are the first line.
    """
    lines = [f'{"form":22}{"MB":>8}{"labels %":>10}{"mIoU %":>9}{"change":>8}{"pairs":>7}'
             '  ms a pair (fp32)']
    first = made[0].agreement if made else None
    if first and own_bytes and made[0].variant.rgb_size is None:
        miou = None if first.miou_change is None else first.miou - first.miou_change
        lines.append(f'{"fp32":22}{own_bytes / 1e6:8.1f}{100:10.3f}{_percent(miou):>9}{"":8}'
                     f'{first.pairs:7}')
    notes = []
    for one in made:
        variant, found = one.variant, one.agreement
        change = '-' if variant.miou_change is None else f'{100 * variant.miou_change:+.2f}'
        times = ', '.join(f'{name} {ms:.1f} ({fp32:.1f})' for name, (ms, fp32) in found.ms.items())
        lines.append(f'{variant.name:22}{one.bytes / 1e6:8.1f}{100 * variant.labels:10.3f}'
                     f'{_percent(found.miou):>9}{change:>8}{variant.pairs:7}  '
                     f'{times or "not run here"}')
        notes += [f'No default: {one.why_not_default}'] * bool(one.why_not_default)
        notes += [f'{variant.name}: {count} operators stay in fp32: {reason}.'
                  for reason, count in one.kept.items() if ' ' in reason and count]
        notes += [f'{variant.name}: convolutions stay as they are, INT8 lost too much in them.'
                  ] * one.products_only
        notes += [f'{variant.name} gains nothing here: {ms:.1f} ms in {name}, fp32 {fp32:.1f} ms; '
                  f'take it out again by --remove {variant.name} if the robot is like this machine.'
                  for name, (ms, fp32) in one.agreement.ms.items()
                  if ms >= fp32 and variant.precision != 'fp32']
    measured = sorted({f'{one.variant.measured}: {one.variant.name}' for one in made})
    return '\n'.join([*lines, *(f'measured with {text}' for text in measured), *notes])


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.2f}'


def tell_ablation(precision: str, rows: Sequence[Row]) -> str:
    """Return what each group of operators in fp32 is worth, as a table."""
    lines = [f'{precision + ": in fp32":34}{"operators":>10}{"labels %":>10}{"logits rms":>12}'
             f'{"worst":>10}']
    return '\n'.join(lines + [
        f'{row.kept:34}{row.operators:10}{100 * row.labels:10.3f}{row.error:12.2e}'
        f'{row.worst:10.2e}' for row in rows])


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_variants',
                       description='Add forms of lower precision to a bundle, measured.')
    parser.add_argument('bundle', type=Path, help='folder of the bundle; it is replaced')
    parser.add_argument('words', nargs='*', default=[], metavar='FORM',
                        help=f'{", ".join(FORMS)}; int8 is its three; and key=value settings of a '
                        'configuration that is a SOURCE')
    source = 'synthetic:COUNT, a training configuration (.yaml) or a bag'
    parser.add_argument('--calibrate', metavar='SOURCE', help=f'for INT8: {source}')
    parser.add_argument('--evaluate', metavar='SOURCE', help=f'pairs to measure on: {source}')
    parser.add_argument('--calibration-pairs', type=int, default=CALIBRATION_PAIRS, metavar='N')
    parser.add_argument('--evaluation-pairs', type=int, default=EVALUATION_PAIRS, metavar='N')
    parser.add_argument('--camera', metavar='WxH', help='forms with the resizing inside')
    parser.add_argument('--remove', action='append', default=[], metavar='NAME',
                        help='take a form out; may be repeated')
    parser.add_argument('--ablation', action='store_true',
                        help='change nothing; tell which operators fp16 and bf16 need in fp32')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the table as JSON')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    check_json(args.json)
    overrides = [word for word in args.words if '=' in word]
    words = [word for word in args.words if '=' not in word]
    camera = _camera(args.camera)
    names = form_names(words, camera)
    if not names and not args.remove and not args.ablation:
        raise RgbxSegError(f'no form is named; expected some of {", ".join(FORMS)}, or --remove '
                           'with the name of one.')
    manifest = load_bundle(args.bundle)
    if args.ablation:
        _ablate(args, manifest, overrides)
        return
    pairs = _pairs(args, manifest, names, camera, overrides)
    made = add_variants(args.bundle, names, pairs, camera, args.remove)
    if made:
        print(tell_forms(made, own_bytes(args.bundle, manifest)))
    if args.json:
        write_json(args.json, {'bundle': manifest.name, 'forms': [asdict(one) for one in made]})


def _ablate(args: Any, manifest: Manifest, overrides: Sequence[str]) -> None:
    source = _needed(args.evaluate, '--evaluate', 'to measure on')
    use = Use('evaluate', min(args.evaluation_pairs, ABLATION_PAIRS))
    frames = record(open_pairs(source, manifest, use, overrides), manifest)
    rows = {precision: ablate(Model(args.bundle, manifest), precision, frames)
            for precision in ('fp16', 'bf16')}
    print('\n'.join(tell_ablation(precision, found) for precision, found in rows.items()))
    if args.json:
        write_json(args.json, {name: [row._asdict() for row in found]
                               for name, found in rows.items()})


def _camera(text: str | None) -> Size | None:
    if text is None:
        return None
    match = re.fullmatch(r'(\d{1,5})x(\d{1,5})', text)
    if match is None or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise RgbxSegError(f'--camera {text}: expected WIDTHxHEIGHT such as 1280x720, each at most '
                           f'{MAX_SIDE}.')
    return int(match[2]), int(match[1])


def own_bytes(bundle: Path, manifest: Manifest) -> int:
    """Return the size of a bundle's own graphs."""
    return sum((Path(bundle) / name).stat().st_size for name in graphs(manifest))


def form_names(words: Sequence[str], camera: Size | None = None) -> list[str]:
    """Return the forms that words name, each once; RgbxSegError if one names none."""
    names = list(dict.fromkeys(name for word in words for name in GROUPS.get(word, (word,))))
    for name in names:
        if name not in FORMS or (name == 'fp32' and not camera):
            known = [known for known in FORMS if known != 'fp32' or camera]
            raise RgbxSegError(f'form {name}: expected one of {", ".join(known)} or int8'
                               f'{"" if camera else "; fp32 is one with --camera alone"}.')
    return names


def _needed(source: str | None, option: str, what: str) -> str:
    if source is None:
        raise RgbxSegError(f'{option} is missing; expected a source {what}: synthetic:COUNT, a '
                           'training configuration or a bag.')
    return source


def _pairs(args: Any, manifest: Manifest, names: Sequence[str], camera: Size | None,
           overrides: Sequence[str]) -> Pairs:
    if not names:
        return Pairs((), ())
    check_counts(args)
    source = _needed(args.evaluate, '--evaluate', 'to measure on')
    other = _needed(args.calibrate, '--calibrate', 'of ranges for INT8') if any(
        FORMS[name].calibrated for name in names) else None
    counts = args.calibration_pairs, args.evaluation_pairs
    opened = open_both(other, source, manifest, counts, overrides)
    return Pairs(*read_both(*opened, manifest),
                 read_both(*opened, manifest, camera) if camera else None)


def check_counts(args: Any) -> None:
    """Raise unless the numbers of pairs on a command line are within bounds."""
    for name in ('calibration_pairs', 'evaluation_pairs'):
        if not 1 <= getattr(args, name) <= 100_000:
            raise RgbxSegError(f'--{name.replace("_", "-")} is {getattr(args, name)}; expected 1 '
                               'to 100000.')


def open_both(calibrate: str | Config | None, evaluate: str | Config, manifest: Manifest,
              counts: tuple[int, int], overrides: Sequence[str] = ()
              ) -> tuple[PairSet | None, PairSet]:
    """Return the pairs to calibrate on, if a source is given, and those to measure on.

    Of one bag for both uses these are its first and its second half.
    """
    shared = calibrate is not None and is_shared_bag(calibrate, evaluate)
    ranges = None
    if calibrate is not None:
        ranges = open_pairs(calibrate, manifest, Use('calibrate', counts[0], shared), overrides)
    return ranges, open_pairs(evaluate, manifest, Use('evaluate', counts[1], shared), overrides)


def read_both(calibration: PairSet | None, evaluation: PairSet, manifest: Manifest,
              size: Size | None = None) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Return both as the network gets them; RgbxSegError if a pair serves both."""
    ranges = record(calibration, manifest, size) if calibration is not None else []
    frames = record(evaluation, manifest, size)
    refuse_shared(ranges, frames)
    return ranges, frames


def main() -> int:
    """Run the command `rgbx_variants`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
