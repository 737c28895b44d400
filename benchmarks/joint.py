# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m benchmarks.joint OUT`: one SegRGB-X for five modalities against five specialists.

Table V's question on synthetic scenes. Every modality has scenes of its own. Both sides see each of
them equally often, with the same batch, rate and schedule, so the joint network takes as many steps
as all specialists together, and the total of computation is the same; it has a fifth of their
weights. As it takes more steps than any one of them, --short adds a joint network that takes no
more than one specialist, a fifth of the computation. All score the same unseen scenes at the end,
with no choice of a checkpoint. OUT keeps what is done: a second call goes on from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean

from accelerate import Accelerator

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.checkpoint import load_checkpoint, load_model
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.sources import open_all, open_source
from rgbx_seg_train.train import BEST, LAST
from rgbx_seg_train.validation import validate

CONFIGS = Path(__file__).parents[1] / 'rgbx_seg_train' / 'configs'
JOINT, SHORT = 'joint', 'joint_short'


def load(size: str, run: str, seed: int, args: Arguments) -> Config:
    """Return the configuration of a run: of `joint`, `joint_short` or a modality."""
    file = JOINT if run == SHORT else run
    config = load_config(CONFIGS / f'segrgbx_{size}_synthetic_{file}.yaml', [
        f'name={run}_{seed}', f'out={args.out}', f'data.cache={args.out}/cache',
        f'train.seed={seed}', *args.set])
    if run == SHORT:
        epochs = config.train.epochs / len(config.data.train)
        config = replace(config, train=replace(config.train, epochs=epochs))
    return config


def is_done(config: Config) -> bool:
    """Return whether a run has come to its end: only then it is validated, and so has a best."""
    return (Path(config.out) / config.name / BEST).is_file()


def train(config: Config, size: str, run: str, args: Arguments) -> None:
    """Train in a process of its own, or go on where it was stopped."""
    if is_done(config):
        return
    folder = Path(config.out) / config.name
    file = JOINT if run == SHORT else run
    words = [sys.executable, '-m', 'rgbx_seg_train.train',
             str(CONFIGS / f'segrgbx_{size}_synthetic_{file}.yaml'), f'name={config.name}',
             f'out={args.out}', f'data.cache={args.out}/cache', f'train.seed={config.train.seed}',
             *args.set, f'train.epochs={config.train.epochs}', f'train.threads={args.threads}',
             'train.eval_every=1000000000']  # at the end alone
    if (folder / LAST).is_file():
        words.append('--resume')
    with (args.out / f'{config.name}.log').open('a') as log:
        done = subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=False,
                              env=os.environ | {'OMP_NUM_THREADS': str(args.threads)})
    if done.returncode:
        raise RgbxSegError(f'the training {config.name} ended with {done.returncode}; expected 0; '
                           f'read {args.out / config.name}.log.')


def scores(config: Config) -> dict[str, float]:
    """Return the mIoU (strict, percent) of a finished run for each modality of its test scenes."""
    path = Path(config.out) / config.name / BEST
    model, _ = load_model(path)
    accelerator = Accelerator()
    model = model.to(accelerator.device)
    return {source.modality or config.data.modality:
            100 * validate(model, [open_source(source, config.data)], config,
                           accelerator).score.summary()['miou']
            for source in config.data.test}


def table(rows: Sequence[Mapping[str, float]], short: bool) -> str:
    """Return the Markdown table of the means over seeds, closed by the mean over modalities."""
    names = [name for name in (JOINT, SHORT, 'alone') if short or name != SHORT]
    lines = ['| modality | ' + ' | '.join({JOINT: 'joint', SHORT: 'joint, a fifth of the steps',
                                           'alone': 'specialist'}[name] for name in names)
             + ' | joint - specialist |', '|---' * (len(names) + 2) + '|']
    found = {m: {name: mean(row[f'{name} {m}'] for row in rows) for name in names}
             for m in MODALITIES}
    found['mean'] = {name: mean(row[name] for row in found.values()) for name in names}
    lines += [f'| {m} | ' + ' | '.join(f'{row[name]:.1f}' for name in names)
              + f' | {row[JOINT] - row["alone"]:+.1f} |' for m, row in found.items()]
    return '\n'.join(lines)


def measure(seed: int, args: Arguments) -> dict[str, float]:
    """Train all networks of a seed and return their scores, named "joint thermal" and so on."""
    runs = [JOINT, *([SHORT] if args.short else []), *MODALITIES]  # the longest begins
    configs = {run: load(args.size, run, seed, args) for run in runs}
    for config in configs.values():  # rendered by all cores, before any training asks for them
        open_all((*config.data.train, *config.data.test), config.data)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: train(configs[run], args.size, run, args), runs))
    row: dict[str, float] = {}
    for run, config in configs.items():
        for modality, score in scores(config).items():
            row[f'{"alone" if run in MODALITIES else run} {modality}'] = score
        steps = load_checkpoint(Path(config.out) / config.name / BEST).progress.step
        print(f'{config.name}: {steps} steps', flush=True)
    return row


def _main() -> None:
    parser = Arguments(prog='joint', description=__doc__.split('\n')[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument('--size', choices=('tiny', 'small'), default='tiny',
                        help='tiny for a CPU, small for a GPU')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--short', action='store_true',
                        help='also a joint network that takes the steps of one specialist')
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time')
    parser.add_argument('--threads', type=int, default=1, help='of each training on a CPU')
    parser.add_argument('--set', nargs='+', default=[], metavar='key=value',
                        help='more settings of all runs, such as train.epochs=3')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        rows.append(measure(seed, args))
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows, args.short)
    (args.out / 'joint.json').write_text(json.dumps(rows, indent=1))
    (args.out / 'joint.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    raise SystemExit(run_command(_main))
