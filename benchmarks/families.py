# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The tiny presets of all families on the same scenes, with the same steps, batches and seed.

python -m benchmarks.families OUT [--steps 400]; prints the Markdown table of
docs/benchmarks/families.md and draws its curves into OUT/families.png. OUT keeps what is done: a
second call goes on from there. All score the same scenes, which nobody trained on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.checkpoint import load_checkpoint, load_model
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.run_log import LOG
from rgbx_seg_train.train import LAST, train

CONFIGS = Path(__file__).parents[1] / 'rgbx_seg_train' / 'configs'
RUNS = ('segrgbx_tiny', 'shifnet_micro', 'sartm_tiny', 'master_tiny', 'lmseg_tiny')
COMMON = ('data.height=96', 'data.width=128', 'train.precision=fp32', 'train.threads=1',
          'train.max_minutes=null')
QUARTERS = 4  # each run is scored so often


class Curve(NamedTuple):
    """What one preset came to."""

    name: str
    parameters: int  # of the checkpoint's network
    steps: tuple[int, ...]
    miou: tuple[float, ...]  # strict, percent, at those steps
    loss: tuple[float, ...]
    step_ms: float  # mean over the run


def learn(name: str, args: Arguments) -> Curve:
    """Train a preset, go on with it, or read what it came to."""
    config = load_config(CONFIGS / f'{name}_synthetic.yaml', [
        *COMMON, f'name={name}', f'out={args.out}', f'data.cache={args.out}/cache',
        f'train.seed={args.seed}', f'train.steps={args.steps}',
        *(f'train.{what}_every={args.steps // QUARTERS}' for what in ('eval', 'save', 'log')),
        *args.set])
    folder = args.out / name
    last = folder / LAST
    step = load_checkpoint(last).progress.step if last.is_file() else 0
    if step < args.steps:
        train(config, resume=step > 0)
    rows = [json.loads(line) for line in (folder / LOG).read_text(encoding='utf-8').splitlines()]
    learned = [row for row in rows if 'step_ms' in row]
    scored = [row for row in rows if 'miou' in row]
    model, _ = load_model(last)
    return Curve(name, sum(p.numel() for p in model.parameters()),
                 tuple(row['step'] for row in scored),
                 tuple(100 * row['miou'] for row in scored), tuple(row['loss'] for row in learned),
                 sum(row['step_ms'] for row in learned) / len(learned))


def table(curves: Sequence[Curve]) -> str:
    """Return the Markdown table; the last columns are beside the first curve."""
    steps = [f'mIoU at {step}' for step in curves[0].steps]
    head = ['preset', 'parameters [M]', *steps, f'of {curves[0].name}', 'time of a step']
    lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
    for curve in curves:
        lines.append(' | '.join([
            f'| {curve.name}', f'{curve.parameters / 1e6:.2f}', *(f'{m:.1f}' for m in curve.miou),
            f'{100 * curve.miou[-1] / curves[0].miou[-1]:.0f} %',
            f'{curve.step_ms / curves[0].step_ms:.2f} |']))
    return '\n'.join(lines)


def draw(curves: Sequence[Curve], path: Path) -> None:
    """Draw scores and losses over steps."""
    import matplotlib.pyplot as plt  # slow to import, and of no use to the rest

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout='constrained')
    for curve in curves:
        left.plot(curve.steps, curve.miou, 'o-', label=curve.name)
        right.plot(curve.steps, curve.loss, 'o-', label=curve.name)
    left.set(xlabel='step', ylabel='mIoU on unseen scenes [%]', ylim=(0, None))
    right.set(xlabel='step', ylabel='loss, mean since the point before', yscale='log')
    left.legend()
    figure.savefig(path, dpi=110)


def _main() -> None:
    parser = Arguments(prog='families', description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument('--runs', nargs='+', choices=RUNS, default=list(RUNS),
                        help='presets; the first is what the others are compared with')
    parser.add_argument('--steps', type=int, default=400, help='of each, a multiple of 4')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--set', nargs='+', default=[], metavar='key=value',
                        help='more settings of all runs, such as data.train.0.count=1000')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    curves = []
    for name in args.runs:
        started = time.monotonic()
        curves.append(learn(name, args))
        print(f'{name}: {curves[-1].miou[-1]:.1f} mIoU %, {time.monotonic() - started:.0f} s',
              flush=True)
    draw(curves, args.out / 'families.png')
    print(table(curves))


if __name__ == '__main__':
    raise SystemExit(run_command(_main))
