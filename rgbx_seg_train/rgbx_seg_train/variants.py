# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_variants BUNDLE FORM...`: adds forms in lower precision, or for a camera, to a bundle.

They are made of the bundle's ONNX files alone, measured on pairs that are held out, and recorded
in the manifest with what they lose. A new bundle is written beside the old one and replaces it
when all forms are done: it is never half changed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import BACKENDS, EMBEDDINGS, INPUTS, Model, Options, Size, graphs
from rgbx_seg_ros.manifest import (
    MANIFEST_FILE,
    MAX_SIDE,
    Manifest,
    Variant,
    check_variant,
    load_bundle,
    replace_folder,
    save_manifest,
    sha256_of,
)
from rgbx_seg_ros.selection import why_not_default
from rgbx_seg_train import quantize
from rgbx_seg_train.ablation import Row, ablate
from rgbx_seg_train.agreement import Agreement, agree, fp32_answers
from rgbx_seg_train.camera_graph import with_camera
from rgbx_seg_train.evaluate import write_json
from rgbx_seg_train.frames import Frame, read_frames, refuse_shared, split_bag
from rgbx_seg_train.onnx_graph import serialize
from rgbx_seg_train.precision import lower

CALIBRATION_PAIRS, EVALUATION_PAIRS, ABLATION_PAIRS = 32, 60, 12
Graphs = Mapping[str, onnx.ModelProto]
Tell = Callable[[str], None]


class Form(NamedTuple):
    """A form that a bundle can have."""

    precision: str
    backends: tuple[str, ...]
    calibrated: bool = False


GPU = ('tensorrt', 'tensorrt_rtx')
FORMS = {
    'fp32': Form('fp32', (*GPU, 'onnxruntime_cuda', 'openvino', 'onnxruntime')),
    'fp16': Form('fp16', (*GPU, 'onnxruntime_cuda', 'torch')),
    'bf16': Form('bf16', GPU),
    'bf16_openvino': Form('bf16', ('openvino',)),
    'int8_tensorrt': Form('int8', GPU, True),
    'int8_openvino': Form('int8', ('openvino',), True),
    'int8_onnxruntime': Form('int8', ('onnxruntime',), True),
}
GROUPS = {'int8': tuple(name for name, form in FORMS.items() if form.precision == 'int8')}


@dataclass(frozen=True)
class Made:
    """A form that was added."""

    variant: Variant
    bytes: int
    kept: Mapping[str, int]  # operators left in fp32, by reason
    agreement: Agreement
    why_not_default: str  # '' if it may be one
    products_only: bool = False  # INT8 in convolutions too lost more


class Pairs(NamedTuple):
    """What forms are calibrated and measured on."""

    calibration: Sequence[Frame]  # at the network's size
    evaluation: Sequence[Frame]  # at the network's size
    at_camera: tuple[Sequence[Frame], Sequence[Frame]] | None = None  # both, at the camera's


def add_variants(bundle: Path, names: Sequence[str], pairs: Pairs, camera: Size | None = None,
                 remove: Sequence[str] = (), tell: Tell = print) -> list[Made]:
    """Add forms to a bundle, in place of those of the same name; return what they are.

    Raises:
        RgbxSegError: a name is unknown, or a form cannot be made; the bundle is then as it was.

    """
    bundle = Path(os.path.abspath(bundle))
    manifest = load_bundle(bundle)
    gone = {_folder_name(name, camera) for name in names} | _known(manifest, remove)
    place = Path(tempfile.mkdtemp(prefix=f'.{bundle.name}-', dir=bundle.parent))
    try:
        new, work = place / 'bundle', place / 'work'
        shutil.copytree(bundle, new, copy_function=_link, ignore=lambda folder, found: [
            name for name in found if Path(folder) == bundle and name in gone])
        variants = [own for own in manifest.variants if own.name not in gone]
        made = []
        maker = _Maker(new, manifest, pairs, camera, work) if names else None
        for name in names:
            assert maker is not None
            tell(f'{_folder_name(name, camera)} ...')
            made.append(maker.make(name))
        variants += [one.variant for one in made]
        (new / MANIFEST_FILE).unlink()  # it may be a link to the old one
        save_manifest(new, replace(manifest, variants=tuple(variants)))
        for variant in load_bundle(new).variants:
            check_variant(new, variant)
        replace_folder(new, bundle, ours=(MANIFEST_FILE,))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return made


def _known(manifest: Manifest, names: Sequence[str]) -> set[str]:
    have = {variant.name for variant in manifest.variants}
    for name in names:
        if name not in have:
            raise RgbxSegError(f'--remove {name}: the bundle {manifest.name} has no such form; '
                               f'expected one of {", ".join(sorted(have)) or "none"}.')
    return set(names)


def _folder_name(name: str, camera: Size | None) -> str:
    return f'{name}_{camera[1]}x{camera[0]}' if camera else name


def _link(source: str, target: str) -> None:
    """Copy a file, without its bytes where the file system can: nothing here writes into files."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class _Maker:
    """Makes and measures forms inside of a new bundle."""

    def __init__(self, bundle: Path, manifest: Manifest, pairs: Pairs, camera: Size | None,
                 work: Path) -> None:
        self._bundle, self._pairs = bundle, pairs
        self._manifest = manifest = replace(manifest, variants=())
        self._camera, self._work = camera, work
        own = Model(bundle, manifest)
        self._loaded = {name: onnx.load(str(own.path(name))) for name in own.graphs()}
        self._feeds: dict[str, list[quantize.Feed]] = {}
        self._reference, self._frames = own, pairs.evaluation
        if camera:
            assert pairs.at_camera is not None
            self._own = own, fp32_answers(own, pairs.evaluation)
            graphs = self._at_camera(self._loaded)
            self._reference = replace(own, bundle=work, variant=self._write(
                work, 'fp32', {name: serialize(graph) for name, graph in graphs.items()}))
            self._frames = pairs.at_camera[1]
        self._expected = fp32_answers(self._reference, self._frames)

    def make(self, name: str) -> Made:
        """Make one form, measure it, and return its record; of INT8 the best of what is tried."""
        tried: list[tuple[Made, dict[str, bytes]]] = []
        for kinds in quantize.SCOPES if FORMS[name].calibrated else quantize.SCOPES[:1]:
            files, kept = self._convert(name, kinds)
            made = self._measure(name, files, kept)
            tried.append((replace(made, products_only=kinds != quantize.SCOPES[0]), files))
            if not tried[-1][0].why_not_default:
                break
        best, files = max(tried, key=lambda one: (not one[0].why_not_default,
                                                  one[0].variant.labels))
        if best is not tried[-1][0]:
            self._write(self._bundle, name, files)
        return best

    def _measure(self, name: str, files: Mapping[str, bytes], kept: Mapping[str, int]) -> Made:
        variant = self._write(self._bundle, name, files)
        if self._camera and name == 'fp32':  # beside the network's size, not beside itself
            reference, expected = self._own
        else:
            reference, expected = self._reference, self._expected
        model = Model(self._bundle, self._manifest, variant, variant.precision)
        found = agree(model, reference, expected, self._frames, self._work)
        change = None if found.miou_change is None else round(found.miou_change, 6)
        variant = replace(variant, labels=round(found.labels, 6), miou_change=change,
                          pairs=found.pairs, measured=found.measured)
        size = sum(len(data) for data in files.values())
        return Made(variant, size, kept, found, why_not_default(variant))

    def _write(self, bundle: Path, name: str, files: Mapping[str, bytes]) -> Variant:
        """Write the files of a form into its folder; return its record, not measured yet."""
        form, folder = FORMS[name], bundle / _folder_name(name, self._camera)
        shutil.rmtree(folder, ignore_errors=True)  # of what was tried before
        if files:
            folder.mkdir(parents=True)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        return Variant(folder.name, form.precision, form.backends,
                       {file: sha256_of(folder / file) for file in sorted(files)}, 1.0, None, 1,
                       self._camera)

    def _convert(self, name: str, kinds: Sequence[str]
                 ) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the files of a form, and how many operators stayed in fp32 for which reason."""
        if name == 'bf16_openvino' and not self._camera:
            return {}, {}
        if name == 'int8_openvino':
            return self._openvino(kinds), {}
        kept: dict[str, int] = {}
        made: dict[str, onnx.ModelProto] = {}
        for file, graph in self._loaded.items():
            if name in ('fp16', 'bf16'):
                lowered = lower(graph, name)
                graph = lowered.model
                for reason, count in lowered.kept.items():
                    kept[reason] = kept.get(reason, 0) + count
            elif name == 'int8_tensorrt':
                graph = quantize.for_tensorrt(graph, self._inputs(file), kinds)
            elif name == 'int8_onnxruntime':
                graph = quantize.for_onnxruntime(graph, self._inputs(file), kinds)
            made[file] = graph
        # After the precision: what resizes images stays in fp32, rounding as the host does.
        for graph in (made := self._at_camera(made)).values():
            onnx.checker.check_model(graph, full_check=True)
        return {file: serialize(graph) for file, graph in made.items()}, kept

    def _openvino(self, kinds: Sequence[str]) -> dict[str, bytes]:
        files = {}
        for file, graph in self._at_camera(self._loaded).items():
            with tempfile.TemporaryDirectory(dir=self._work.parent) as folder:
                stem = Path(file).stem
                quantize.for_openvino(graph, self._inputs(file, bool(self._camera)), Path(folder),
                                      stem, kinds)
                files |= {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        return files

    def _at_camera(self, graphs: Graphs) -> dict[str, onnx.ModelProto]:
        if not self._camera:
            return dict(graphs)
        network = (self._manifest.height, self._manifest.width)
        return {file: with_camera(graph, self._camera, network) for file, graph in graphs.items()}

    def _inputs(self, file: str, at_camera: bool = False) -> list[quantize.Feed]:
        """Return the calibration pairs as inputs of a graph; embeddings are those of fp32."""
        frames = self._pairs.calibration
        model = Model(self._bundle, self._manifest)
        if at_camera and self._pairs.at_camera:
            frames, model = self._pairs.at_camera[0], self._reference
        feeds = [dict(zip(INPUTS, frame[:2], strict=True)) for frame in frames]
        wanted = graphs(self._manifest)[file].inputs
        if EMBEDDINGS[0] in wanted:
            engine = BACKENDS['onnxruntime'](model, Options())
            for feed in feeds:
                scene = engine.embed(*feed.values())
                feed |= {name: value.copy() for name, value in scene._asdict().items()}
            engine.close()
        return feeds


def tell_forms(made: Sequence[Made]) -> str:
    """Return the forms as a table, and below it why some of them are no default."""
    lines = [f'{"form":28}{"MB":>8}{"labels %":>10}{"mIoU":>8}{"pairs":>7}  ms a pair (fp32)']
    notes = []
    for one in made:
        variant = one.variant
        change = '-' if variant.miou_change is None else f'{100 * variant.miou_change:+.2f}'
        times = ', '.join(f'{name} {ms:.1f} ({fp32:.1f})'
                          for name, (ms, fp32) in one.agreement.ms.items())
        lines.append(f'{variant.name:28}{one.bytes / 1e6:8.1f}{100 * variant.labels:10.3f}'
                     f'{change:>8}{variant.pairs:7}  {times or "not run here"}')
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
    overrides = [word for word in args.words if '=' in word]
    words = [word for word in args.words if '=' not in word]
    camera = _camera(args.camera)
    names = _names(words, camera)
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
        print(tell_forms(made))
    if args.json:
        write_json(args.json, {'bundle': manifest.name, 'forms': [asdict(one) for one in made]})


def _ablate(args: Any, manifest: Manifest, overrides: Sequence[str]) -> None:
    frames = read_frames(_needed(args.evaluate, '--evaluate', 'to measure on'), manifest,
                         'evaluate', min(args.evaluation_pairs, ABLATION_PAIRS), overrides)
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


def _names(words: Sequence[str], camera: Size | None) -> list[str]:
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

    def read(size: Size | None) -> tuple[Sequence[Frame], Sequence[Frame]]:
        source = _needed(args.evaluate, '--evaluate', 'to measure on')
        if not any(FORMS[name].calibrated for name in names):
            return (), read_frames(source, manifest, 'evaluate', args.evaluation_pairs, overrides,
                                   size)
        other = _needed(args.calibrate, '--calibrate', 'of ranges for INT8')
        if Path(other).exists() and Path(source).exists() and os.path.samefile(
                other, source) and Path(other).suffix not in ('.yaml', '.yml'):
            both = read_frames(source, manifest, 'evaluate',
                               args.calibration_pairs + args.evaluation_pairs, (), size)
            calibration, evaluation = split_bag(both)
        else:
            calibration, evaluation = (
                read_frames(one, manifest, use, count, overrides, size) for one, use, count in
                ((other, 'calibrate', args.calibration_pairs),
                 (source, 'evaluate', args.evaluation_pairs)))
        refuse_shared(calibration, evaluation)
        return calibration, evaluation

    for name in ('calibration_pairs', 'evaluation_pairs'):
        if not 1 <= getattr(args, name) <= 100_000:
            raise RgbxSegError(f'--{name.replace("_", "-")} is {getattr(args, name)}; expected 1 '
                               'to 100000.')
    return Pairs(*read(None), read(camera) if camera else None)


def main() -> int:
    """Run the command `rgbx_variants`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
