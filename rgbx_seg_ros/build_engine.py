# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_build_engine BUNDLE`: build the engines of a bundle before a robot needs them.

They go into the cache where the node looks for them, and with --out into a folder too, to be
copied to a robot. TensorRT's are built on the GPU that runs them, TensorRT-RTX's anywhere.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rgbx_seg_ros import RgbxSegError, engine_cache
from rgbx_seg_ros.build_memory import available, workspace
from rgbx_seg_ros.camera_size import camera_form
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import BackendUnavailable, Model
from rgbx_seg_ros.given_engines import engine_name
from rgbx_seg_ros.machine import Machine, this_machine
from rgbx_seg_ros.manifest import PRECISIONS, load_bundle
from rgbx_seg_ros.selection import choose, order
from rgbx_seg_ros.tensorrt_builder import Built, build_engines, given_engines
from rgbx_seg_ros.tensorrt_target import Capability, target_of

if TYPE_CHECKING:
    from rgbx_seg_ros.engine_tensorrt import Library

BACKENDS = ('tensorrt', 'tensorrt_rtx')


def main() -> int:
    """Entry point of `rgbx_build_engine`."""
    # A library that builds does not look at Python's signals; the cache endures any end.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return run_command(lambda: _main(_parse()))
    finally:
        signal.signal(signal.SIGINT, before)


def _parse() -> Namespace:
    parser = Arguments('rgbx_build_engine', description=__doc__.partition(': ')[2])
    parser.add_argument('bundle', type=Path, nargs='?', help='folder that rgbx_export wrote')
    parser.add_argument('--backend', choices=('auto', *BACKENDS), default='auto',
                        help='auto: what the node would take here, tensorrt_rtx without a GPU')
    parser.add_argument('--precision', choices=('auto', *PRECISIONS), default='auto')
    parser.add_argument('--rgb-size', type=_size, metavar='WIDTHxHEIGHT',
                        help='build the form for images of a camera of this size')
    parser.add_argument('--out', type=Path, metavar='FOLDER',
                        help='put the engines, with their sidecars, there too')
    parser.add_argument('--engine', type=Path, metavar='PATH',
                        help='build nothing: check an engine, or a folder of them, for this bundle')
    parser.add_argument('--capabilities', type=_capabilities, default=(), metavar='8.6,8.9,12.0',
                        help='tensorrt_rtx: compute capabilities to build for')
    parser.add_argument('--force', action='store_true', help='build even what the cache has')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the table as JSON')
    parser.add_argument('--list', action='store_true', help='list the engines of the cache')
    parser.add_argument('--prune', type=float, nargs='?', const=30.0, default=None, metavar='DAYS',
                        help='remove engines that were not used for DAYS (30)')
    return parser.parse_args()


def _main(args: Namespace) -> None:
    if args.list or args.prune is not None:
        if args.bundle is not None:
            raise RgbxSegError(f'found {args.bundle} besides --list or --prune; expected no bundle '
                               'with them: they are about the whole cache.')
        _tend(args)
        return
    if args.bundle is None:
        raise RgbxSegError('no bundle is named; expected the folder that `rgbx_export` wrote; '
                           '`rgbx_build_engine --help` lists the arguments.')
    machine = this_machine()
    backend, library = _library(args.backend, machine)
    model = _model(args, backend, machine)
    if args.engine is not None:
        found = given_engines(library, model, args.engine, machine.gpu)
    else:
        target = target_of(library, machine.gpu, args.capabilities)
        found = build_engines(library, model, target, _workspace(machine.gpu), _tell, args.force)
    if args.out is not None:
        for built in found:
            engine_cache.copy(built.entry, args.out / engine_name(built.graph))
    _print(found, model, args)


def _library(backend: str, machine: Machine) -> tuple[str, Library]:
    """Return the backend to build for and its library; `auto` takes the first that is there."""
    from rgbx_seg_ros.engine_tensorrt import load_library

    names = [backend]
    if backend == 'auto':
        names = [name for name in order(machine) if name in BACKENDS] or ['tensorrt_rtx']
    reasons = []
    for name in names:
        try:
            return name, load_library(name)
        except BackendUnavailable as error:
            reasons.append(str(error))
    raise RgbxSegError(' '.join(reasons))


def _model(args: Namespace, backend: str, machine: Machine) -> Model:
    """Return the form of the bundle that the arguments name."""
    model = choose(Model(args.bundle, load_bundle(args.bundle)), backend, args.precision, machine)
    if args.rgb_size is None or args.rgb_size == model.rgb_size:
        return model
    form = camera_form(model, backend, args.rgb_size)
    if form is None:
        height, width = args.rgb_size
        raise RgbxSegError(f'the bundle {model.manifest.name} has no form for images of '
                           f'{width}x{height} in {model.precision} for {backend}; make one with '
                           '`rgbx_variants`, or leave --rgb-size out.')
    return form


def _workspace(gpu: Gpu | None) -> int:
    """Return the bytes to try kernels in, without a CUDA context that would tell what is free."""
    if gpu is None:
        return workspace(0, False)
    free = min(gpu.memory_bytes, available() or gpu.memory_bytes)
    return workspace(free if gpu.integrated else gpu.memory_bytes, gpu.integrated)


def _tend(args: Namespace) -> None:
    """List the cache, or remove from it what is old."""
    if args.prune is not None:
        freed = engine_cache.prune(args.prune, _tell)
        print(f'{freed / 1e6:.0f} MB freed')
    entries = engine_cache.entries()
    for entry in entries:
        target = next((entry.parts[name] for name in ('GPU', 'compute capabilities')
                       if name in entry.parts), '')
        print(f'{entry.path.name[:12]}  {entry.about.get("bundle")}/{entry.about.get("graph")}  '
              f'{entry.parts.get("precision")}  {entry.parts.get("library")} '
              f'{entry.parts.get("version")}  {target}  {entry.size / 1e6:.0f} MB  {entry.made}')
    print(f'{engine_cache.folder()}: {len(entries)} engines, {engine_cache.size_mb():.0f} MB')
    if args.json:
        _write_json(args.json, [_record(entry) for entry in entries])


def _print(found: list[Built], model: Model, args: Namespace) -> None:
    rows = [('graph', 'precision', 'MB', 'seconds', 'from', 'path')]
    for built in found:
        origin = 'built' if built.is_new else 'given' if args.engine else 'cache'
        path = args.out / engine_name(built.graph) if args.out else built.entry.path
        rows.append((built.entry.about.get('graph', built.graph), model.precision,
                     f'{built.entry.size / 1e6:.1f}', f'{built.entry.seconds:.1f}', origin,
                     str(path)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print('  '.join(cells).rstrip())
    if args.json:
        _write_json(args.json, [{'from': row[4], **_record(built.entry)}
                                for row, built in zip(rows[1:], found, strict=True)])


def _record(entry: engine_cache.Entry) -> dict[str, object]:
    return {**entry.about, **entry.parts, 'bytes': entry.size, 'seconds': entry.seconds,
            'made': entry.made, 'path': str(entry.path)}


def _write_json(path: Path, records: list[dict[str, object]]) -> None:
    engine_cache.write_atomically(path, (json.dumps(records, indent=1) + '\n').encode())


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _size(text: str) -> tuple[int, int]:
    """Return (height, width) of WIDTHxHEIGHT."""
    found = re.fullmatch(r'(\d{1,4})x(\d{1,4})', text)
    if found is None:
        raise ArgumentTypeError(f'found "{text}", expected WIDTHxHEIGHT as 1280x720')
    return int(found[2]), int(found[1])


def _capabilities(text: str) -> tuple[Capability, ...]:
    """Return the compute capabilities of a text as 8.6,12.0."""
    found = [re.fullmatch(r'(\d{1,2})\.(\d)', part.strip()) for part in text.split(',')]
    if not all(found):
        raise ArgumentTypeError(f'found "{text}", expected compute capabilities as 8.6,8.9,12.0')
    return tuple((int(one[1]), int(one[2])) for one in found if one)


if __name__ == '__main__':
    raise SystemExit(main())
