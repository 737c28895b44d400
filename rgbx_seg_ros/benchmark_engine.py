# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_benchmark engine BUNDLE`: every backend and precision of this machine in one table.

Speed is compared with eager PyTorch in float32 in the same run, labels with ONNX Runtime in fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.benchmark_figures import agreement, of_row, ratio
from rgbx_seg_ros.benchmark_inputs import from_bag, generate
from rgbx_seg_ros.benchmark_runs import Bench, Row
from rgbx_seg_ros.benchmark_table import method, render
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.engine import BACKENDS
from rgbx_seg_ros.gpu_monitor import GpuMonitor
from rgbx_seg_ros.machine import this_machine
from rgbx_seg_ros.manifest import (
    CHECKPOINT_FILE,
    PRECISIONS,
    Manifest,
    load_bundle,
    sha256_of,
)
from rgbx_seg_ros.selection import OWN_PRECISIONS, order

REFERENCE = ('onnxruntime', 'fp32')  # whose labels count, and whose speed where torch is missing
GOVERNORS = Path('/sys/devices/system/cpu')


def plan(manifest: Manifest, backends: Sequence[str], precisions: Sequence[str],
         eager: Row) -> list[Row]:
    """Return the rows: eager torch, the reference, then what was asked for.

    `precisions` empty means all that the bundle has for a backend.
    """
    rows = [eager, Row(*REFERENCE)]
    for backend in backends:
        found = precisions or _precisions(manifest, backend)
        rows += [Row(backend, precision) for precision in found
                 if (backend, precision) != REFERENCE]
    slow = set(OWN_PRECISIONS['openvino']) - set(this_machine().precisions)
    for row in rows:
        if row.backend == 'openvino' and row.precision in slow and not precisions:
            row.reason = (f'this processor has no instructions for {row.precision}; '
                          f'--precisions {row.precision} measures it nevertheless.')
    return rows


def _precisions(manifest: Manifest, backend: str) -> list[str]:
    """Return the precisions that a bundle has for a backend, or the backend makes of it."""
    if backend == 'dummy':
        return ['fp32']
    found = {'fp32', *OWN_PRECISIONS.get(backend, ())}
    found |= {variant.precision for variant in manifest.variants
              if backend in variant.backends and variant.rgb_size is None}
    return [name for name in PRECISIONS if name in found]


def eager_row(bundle: Path, manifest: Manifest, checkpoint: Path | None) -> Row:
    """Return the row of eager torch in float32, with the reason if there is nothing to run."""
    if checkpoint is None and manifest.checkpoint_sha256:
        checkpoint = bundle / CHECKPOINT_FILE
    if checkpoint is None:
        return Row('torch', 'fp32', bundle / CHECKPOINT_FILE, reason=(
            f'the bundle holds no {CHECKPOINT_FILE}; --checkpoint FILE takes one of the same '
            'family and preset, of any weights.'))
    if not checkpoint.is_file():
        raise RgbxSegError(f'{checkpoint}: no such file; expected a checkpoint of the same family '
                           'and preset, as `rgbx_train` or `rgbx_convert` writes it.')
    same = sha256_of(checkpoint) == manifest.checkpoint_sha256
    return Row('torch', 'fp32', checkpoint, same_weights=same)


def summarize(rows: Sequence[Row], every: int) -> dict[str, Any]:
    """Return the figures of all rows, and which of them the others are compared with."""
    good = [row for row in rows if not row.reason and row.rounds]
    eager = next((row for row in good if row.checkpoint), None)
    exact = next((row for row in good if (row.backend, row.precision) == REFERENCE), None)
    base = eager or exact or (good[0] if good else None)
    labels = exact or next((row for row in good if row.precision == 'fp32' and row.labels), None)
    records = []
    for row in rows:
        record: dict[str, Any] = {
            'name': row.name, 'backend': row.backend, 'asked': row.precision,
            'reason': row.reason, 'unavailable': row.unavailable,
            'same_weights': row.same_weights}
        if row in good:
            opened = row.opened
            record |= {key: opened[key] for key in ('info', 'open_s', 'first_ms', 'built', 'told',
                                                    'rss_mb', 'gpu_mb')}
            record |= {'figures': of_row(row.rounds, every),
                       'labels_equal': agreement(row.labels, labels.labels if labels else None),
                       'ratio': ratio(row.rounds, base.rounds, every) if base else None,
                       'latencies_ms': [one['ms'] for one in row.rounds]}
        records.append(record)
    return {'rows': records, 'speed_reference': base.name if base else '',
            'label_reference': f'{labels.name} {labels.precision}' if labels else ''}


def describe_machine(cpus: int, bench: Bench, rows: Sequence[Row]) -> dict[str, Any]:
    """Return what the figures depend on beside the bundle."""
    machine, gpu = this_machine(), GpuMonitor()
    governors = {path.read_text().strip() for path in
                 GOVERNORS.glob('cpu[0-9]*/cpufreq/scaling_governor')}
    versions = {'rgbx_seg': __version__, 'Python': platform.python_version(),
                'NumPy': np.__version__, 'Linux' if sys.platform == 'linux' else sys.platform:
                platform.release()}
    versions |= {row.opened['info']['backend']: row.opened['info']['version']
                 for row in rows if row.opened}
    found = {'cpu': _cpu_name(), 'cpus': os.cpu_count(), 'cpus_used': cpus,
             'governor': ', '.join(sorted(governors)),
             'gpu': machine.gpu.name if machine.gpu else '', 'driver': gpu.driver or (
                 f'for CUDA {machine.gpu.driver // 1000}.{machine.gpu.driver % 1000 // 10}'
                 if machine.gpu else ''),
             'gpu_problem': machine.problem, 'power': bench.meters.names,
             'power_problems': bench.meters.problems, 'idle_w': bench.idle_w,
             'versions': versions}
    gpu.close()
    return found


def _cpu_name() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text('utf-8', 'replace').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    if names:
        return names[0]
    try:  # ARM names no model there, but a Jetson its board here
        return Path('/proc/device-tree/model').read_text().strip('\0 \n')
    except OSError:
        return platform.processor() or platform.machine()


def _parser() -> Arguments:
    parser = Arguments('rgbx_benchmark engine', description='Measure every backend and precision '
                       'that this machine and a bundle have.')
    add = parser.add_argument
    add('bundle', type=Path, help='folder with model.onnx and manifest.yaml')
    add('--backends', default='auto', help='auto (default): those that fit this machine; all; or '
        f'names, of {",".join(BACKENDS)}')
    add('--precisions', default='all', help='all (default): those that the bundle has; or names, '
        f'of {",".join(PRECISIONS)}')
    add('--checkpoint', type=Path, help='for eager torch where the bundle holds none: of the same '
        'family and preset, the weights do not matter')
    add('--bag', type=Path, help='take the pairs from this bag; default: made-up ones')
    add('--pairs', type=int, default=16, help='different pairs (default %(default)s)')
    add('--seconds', type=float, default=2.0, help='of a row in each round (default %(default)s)')
    add('--rounds', type=int, default=5, help='of all rows in turn (default %(default)s)')
    add('--threads', type=int, default=0, help='bind each row to so many CPUs (default: all)')
    add('--limit', type=float, default=1800.0, help='s, for a row to open: an engine may have to '
        'be built (default %(default)s)')
    add('--json', action='store_true', help='print all figures, of every round and pair')
    return parser


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (('pairs', 1, 1000), ('seconds', 0.01, 3600), ('rounds', 1, 1000),
                            ('limit', 1, 86400), ('threads', 0, _cpus())):
        value = getattr(args, name)
        if not low <= value <= high:
            raise RgbxSegError(f'--{name} is {value:g}; expected {low:g} to {high:g}.')


def _names(text: str, what: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(text.split(',')))
    for name in names:
        if name not in known:
            raise RgbxSegError(f'{what} names "{name}"; expected some of {",".join(known)}.')
    return names


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count() or 1


def _rows(args: argparse.Namespace, manifest: Manifest) -> list[Row]:
    backends = {'auto': order(this_machine()),
                'all': [name for name in BACKENDS if name != 'dummy']}.get(args.backends)
    if backends is None:
        backends = _names(args.backends, '--backends', tuple(BACKENDS))
    precisions = ([] if args.precisions == 'all'
                  else _names(args.precisions, '--precisions', PRECISIONS))
    return plan(manifest, backends, precisions,
                eager_row(args.bundle, manifest, args.checkpoint))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure; return all figures, ready for JSON."""
    manifest = load_bundle(args.bundle)
    rows, load_before = _rows(args, manifest), os.getloadavg()[0]
    every = manifest.scene.every if manifest.scene is not None else 0
    rgb, aux = (from_bag(args.bag, manifest, args.pairs) if args.bag
                else generate(manifest, args.pairs))
    with tempfile.TemporaryDirectory(prefix='rgbx_benchmark_') as name:
        folder = Path(name)
        np.savez(folder / 'inputs.npz', rgb=rgb, aux=aux)
        with Bench(args.bundle, folder / 'inputs.npz', folder, args.threads or _cpus(),
                   args.limit, _tell) as bench:
            bench.open(rows)
            bench.measure(args.rounds, args.seconds)
            result = summarize(rows, every)
            machine = describe_machine(args.threads or _cpus(), bench, rows)
    machine |= {'load_before': load_before, 'load_after': os.getloadavg()[0]}
    result = {'bundle': {'path': str(args.bundle), 'name': manifest.name, 'family': manifest.family,
                       'width': manifest.width, 'height': manifest.height,
                       'graphs': 'two graphs' if every else 'one graph'},
            'input': f'{len(rgb)} pairs of {args.bag.name}' if args.bag
            else f'{len(rgb)} made-up pairs', 'pairs': len(rgb), 'machine': machine,
            'rounds': args.rounds, 'seconds': args.seconds, 'every': every, **result}
    return {**result, 'method': method(result)}


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _main(args: Sequence[str] | None) -> None:
    given = _parser().parse_args(args)
    _check(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the rows too
    result = run(given)
    print(json.dumps(result, indent=1, allow_nan=False) if given.json else render(result))
    if all(row['reason'] for row in result['rows']):
        raise RgbxSegError('no row could be measured, expected one at least; see the reasons.')


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `rgbx_benchmark engine`; return the exit code."""
    return run_command(lambda: _main(args))


if __name__ == '__main__':
    raise SystemExit(main())
