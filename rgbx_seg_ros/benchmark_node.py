# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_benchmark node`: what the node costs beside its network, under a camera's load.

Three processes in a ROS domain of their own: cameras, the node, and this one, which listens. The
node's CPU time comes from the kernel and holds all of it: the middleware's threads, messages into
Python and the executor as well as the stages that ~/stats names. With --baseline another node
takes turns with it, so that the ratio of the two is right on a busy machine too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.manifest import AuxEncoding, ClassInfo, Manifest, load_bundle, save_bundle

ROOT = Path(__file__).resolve().parents[1]
# By name: a straightforward node, and one that only receives and publishes.
BASELINES = {name: Path('benchmarks', f'{name}_node.py') for name in ('naive', 'floor')}
OUTPUTS = ('mask', 'confidence', 'overlay', 'color_mask', 'aux_preview')
COLORS = ((0, 0, 0), (128, 64, 128), (220, 20, 60), (0, 0, 142), (119, 11, 32), (70, 130, 180),
          (107, 142, 35), (250, 170, 30), (190, 153, 153))  # of a street scene's classes


def write_dummy_bundle(folder: Path, size: tuple[int, int]) -> Path:
    """Write a bundle for the dummy engine whose network has this width and height."""
    classes = tuple(ClassInfo(id, f'class_{id}', color) for id, color in enumerate(COLORS))
    aux = AuxEncoding(channels=1, range='percentile', low=1.0, high=99.0, unit='K', scale=0.01)
    save_bundle(folder, b'the dummy engine reads no model', Manifest(
        format=1, family='none', name='dummy', modality='thermal', height=size[1], width=size[0],
        aux=aux, classes=classes, onnx_sha256='', training_data='none', data_license='CC0-1.0',
        model_license='Apache-2.0', scores={}))
    return folder


def compare(nodes: dict[str, tuple[list[str], Path]], load: Any, folder: Path,
            rounds: int) -> dict[str, Any]:
    """Measure nodes, name -> command and its folder, in turn."""
    from rgbx_seg_ros.benchmark_robot import measure

    runs: dict[str, list[Any]] = {name: [] for name in nodes}
    for _ in range(rounds):
        for name, (command, root) in nodes.items():
            runs[name].append(measure(command, root, folder / f'{name}.log', load))
    result: dict[str, Any] = {'load': load._asdict(), 'runs': runs}
    if len(nodes) > 1:
        costs = [median(run['cpu_ms_per_pair'] for run in trials) for trials in runs.values()]
        result['cpu_ratio'] = costs[1] / costs[0]  # baseline / node
    return result


def _summary(result: dict[str, Any]) -> str:
    runs = result['runs']
    rows = [('', *runs)]
    for key in ('pairs_in', 'pairs_out', 'cpu_ms_per_pair', 'cpu_percent', 'idle_cpu_percent',
                'page_faults_per_pair', 'rss_mib'):
        rows.append((key, *(f'{median(run[key] for run in trials):.2f}'
                            for trials in runs.values())))
    for key in ('p50', 'p95'):
        rows.append((f'latency_ms {key}', *(
            f'{median(run["latency_ms"][key] for run in trials):.2f}' for trials in runs.values())))
    for name, times in runs['node'][0].get('stages', {}).items():
        rows.append((f'{name} p50 / p95', f'{times["p50"]:.3f} / {times["p95"]:.3f}'))
    lines = [f'{name:>26}  ' + ' '.join(f'{value:>15}' for value in values)
             for name, *values in rows]
    lines.append('latency_ms: from the stamp of the images to the arrival of the first output at '
                 'the listener;\nas a stage: to its publication. Stamps are those of sending.')
    if 'cpu_ratio' in result:
        lines.append(f'the baseline takes {result["cpu_ratio"]:.2f} times the CPU per pair')
    return '\n'.join(lines)


def _parser() -> Arguments:
    parser = Arguments('rgbx_benchmark node', description="Time the node under a camera's load.")
    add = parser.add_argument
    add('--bundle', type=Path, help='default: one made up, with a network of the size of the RGB '
        'images')
    add('--backend', default='dummy', help='default: dummy, which answers at once')
    add('--precision', default='auto', help='of the engine (default: auto)')
    add('--size', type=_size, default='640x480', help='of the RGB images (rgb8)')
    add('--aux-size', type=_size, default='640x512', help='of the aux images (mono16)')
    add('--rate', type=float, default=30.0, help='pairs a second')
    add('--seconds', type=float, default=10.0, help='to measure after the warm-up')
    add('--outputs', default='mask,confidence,overlay', help=f'of {",".join(OUTPUTS)}')
    add('--baseline', nargs='?', const='naive', help='compare with a straightforward node '
        '(naive, default), with one that only receives and publishes (floor), or with the node of '
        'another checkout in this folder')
    add('--rounds', type=int, default=0, help='of the node and the baseline in turn (default: '
        '2, or 1 without a baseline)')
    add('--check-fields', action='store_true', help='let rclpy check every field that is set, as '
        'Humble always does')
    add('--json', action='store_true', help='print all figures')
    return parser


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition('x')
    if not all(side.isdecimal() and 0 < int(side) <= 8192 for side in (width, height)):
        raise RgbxSegError(f'a size is "{text}"; expected WIDTHxHEIGHT such as 640x480.')
    return int(width), int(height)


def _check(args: Any) -> tuple[str, ...]:
    """Return the outputs, or raise what is wrong with the load."""
    for name, high in (('rate', 1000), ('seconds', 3600)):
        if not 1 <= getattr(args, name) <= high:
            raise RgbxSegError(f'--{name} is {getattr(args, name):g}; expected 1 to {high}.')
    if not 0 <= args.rounds <= 100:
        raise RgbxSegError(f'--rounds is {args.rounds}; expected 1 to 100.')
    outputs = tuple(args.outputs.split(','))
    if unknown := set(outputs) - set(OUTPUTS):
        raise RgbxSegError(f'--outputs names "{min(unknown)}"; expected some of '
                           f'{",".join(OUTPUTS)}.')
    return outputs


def _baseline(name: str) -> tuple[list[str], Path]:
    """Return the command of a baseline and the folder of its code."""
    root = ROOT if name in BASELINES else Path(name).resolve()
    program = BASELINES.get(name, Path('rgbx_seg_ros', 'node.py'))
    if not (root / program).is_file():
        raise RgbxSegError(f'{root / program}: no such file; --baseline expects a checkout of '
                           'this repository.')
    return ([str(program)] if name in BASELINES else ['-m', 'rgbx_seg_ros.node']), root


def _main(args: list[str] | None) -> None:
    given = _parser().parse_args(args)
    outputs = _check(given)
    programs = {'node': (['-m', 'rgbx_seg_ros.node'], ROOT)}
    if given.baseline:
        programs['baseline'] = _baseline(given.baseline)
    if given.check_fields:
        os.environ['ROS_PYTHON_CHECK_FIELDS'] = '1'  # read when rclpy's messages are imported
    try:
        from rgbx_seg_ros.benchmark_robot import Load
    except ImportError as error:
        raise RgbxSegError(f'ROS 2 is missing ({error}); source its setup.bash, or that of the '
                           'workspace, first.') from None
    with tempfile.TemporaryDirectory(prefix='rgbx_benchmark_') as name:
        folder = Path(name)
        bundle = given.bundle or write_dummy_bundle(folder / 'bundle', given.size)
        load = Load(given.size, given.aux_size, given.rate, given.seconds, outputs,
                    load_bundle(bundle).modality)
        arguments = ['--ros-args', '-p', f'bundle:={bundle.resolve()}',
                     '-p', f'backend:={given.backend}', '-p', f'precision:={given.precision}']
        result = compare({name: ([sys.executable, *program, *arguments], root)
                          for name, (program, root) in programs.items()}, load, folder,
                         given.rounds or len(programs))
    print(json.dumps(result, indent=1) if given.json else _summary(result))


def main(args: list[str] | None = None) -> int:
    """Entry point of `rgbx_benchmark node`; return the exit code."""
    return run_command(lambda: _main(args))


if __name__ == '__main__':
    raise SystemExit(main())
