# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a teacher is worth: the same student, seeds and steps, with and without it.

python -m benchmarks.distill OUT [--seeds 0 1 2] [--steps 300] [--teacher CHECKPOINT]; prints the
Markdown table of docs/distillation.md. OUT keeps what is done: a second call goes on from there.
Without --teacher one is trained first. All score the same scenes, which nobody trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.checkpoint import load_checkpoint
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.train import train

CONFIGS = Path(__file__).parents[1] / 'rgbx_seg_train' / 'configs'
TEACHER = CONFIGS / 'segrgbx_tiny_synthetic.yaml'
STUDENT = CONFIGS / 'segrgbx_micro_synthetic_distilled.yaml'
COMMON = ('data.height=96', 'data.width=128', 'train.precision=fp32', 'train.threads=1',
          'train.max_minutes=null', 'train.workers=0', 'train.ema=0.98', 'data.train.0.count=1200')
# case -> changes to the student's settings; `without` takes the unlabeled scenes away as well
CASES = {
    'few': ('data.train.0.count=60', 'data.unlabeled.0.count=800'),
    'all': ('data.unlabeled=[]',),
}
TOLD = {'few': '60 labeled scenes, with the teacher also 800 without labels',
        'all': '1200 labeled scenes'}
HEADER = ('| student learns from | seed | without [mIoU %] | with a teacher | gain |\n'
          '|---|---|---|---|---|')


class Row(NamedTuple):
    """Scores of one seed, mIoU strict in percent."""

    case: str
    seed: int
    without: float
    taught: float


def score_of(config: Config, path: Path) -> float:
    """Return the validation score in percent that a run ended with; train it if it has not yet."""
    finished = path.is_file() and load_checkpoint(path).progress.step == config.train.steps
    if not finished:
        train(config)
    return 100 * load_checkpoint(path).progress.best_miou


def run(name: str, out: Path, file: Path, steps: int, overrides: Sequence[str]) -> float:
    """Train as a file says for some steps, scored once at their end."""
    config = load_config(file, [*COMMON, f'name={name}', f'out={out}', f'data.cache={out}/cache',
                                f'train.steps={steps}', f'train.eval_every={steps}',
                                f'train.save_every={steps}', *overrides])
    if not config.distill.teacher:
        config = replace(config, data=replace(config.data, unlabeled=()))
    return score_of(config, out / name / 'best.safetensors')


def compare(case: str, seed: int, args: Arguments, teacher: Path) -> Row:
    """Train one seed of a case both ways."""
    common = (*CASES[case], f'train.seed={seed}', f'train.batch_size={args.batch}',
              f'train.lr={args.lr}')
    scores = [run(f'{case}_{seed}_{way}', args.out, STUDENT, args.steps,
                  [*common, f'distill.teacher={path}', *args.set])
              for way, path in (('without', "''"), ('taught', teacher))]
    return Row(case, seed, *scores)


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table, each case closed by its mean."""
    lines = [HEADER]
    for case in dict.fromkeys(row.case for row in rows):
        mine = [row for row in rows if row.case == case]
        means = Row(case, -1, mean(r.without for r in mine), mean(r.taught for r in mine))
        lines += [f'| {TOLD[row.case]} | {"mean" if row.seed < 0 else row.seed} '
                  f'| {row.without:.1f} | {row.taught:.1f} | {row.taught - row.without:+.1f} |'
                  for row in (*mine, means)]
    return '\n'.join(lines)


def _main() -> None:
    parser = Arguments(prog='distill', description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument('--teacher', type=Path, help='a checkpoint; without it one is trained')
    parser.add_argument('--teacher-steps', type=int, default=1400)
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--lr', type=float, default=2e-3)
    parser.add_argument('--set', nargs='+', default=[], metavar='key=value',
                        help='more settings of the students, such as distill.features=0')
    args = parser.parse_args()
    teacher = args.teacher or args.out / 'teacher' / 'best.safetensors'
    if args.teacher is None:
        score = run('teacher', args.out, TEACHER, args.teacher_steps, ())
        print(f'teacher: {score:.1f} mIoU %', flush=True)
    else:
        load_checkpoint(teacher)  # a wrong path shows before the first training
    rows = []
    for case in args.cases:
        for seed in args.seeds:
            rows.append(compare(case, seed, args, teacher))
            print(json.dumps(rows[-1]._asdict()), flush=True)
    print(table(rows))


if __name__ == '__main__':
    raise SystemExit(run_command(_main))
