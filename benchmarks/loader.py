# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Times how many samples the loader makes beside how many a training step uses, on the processor.

python benchmarks/loader.py [key=value ...]; prints the tables of docs/benchmarks/loader.md. Files
are like MFNet's: rendered scenes with a camera's noise, in PNGs of four channels.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from rgbx_seg_train.config import Config, SyntheticSource
from rgbx_seg_train.config_augment import STILL, AugmentConfig
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.config_sources import MFNetSource
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.augment_geometry import draw_view, take, take_ids
from rgbx_seg_train.data.augment_photometry import change_aux, change_rgb
from rgbx_seg_train.data.loader import Loader
from rgbx_seg_train.data.sources import Mixture, open_source, stack
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.run import Run

CONFIG = Path(__file__).parents[1] / 'rgbx_seg_train/configs/segrgbx_tiny_synthetic.yaml'
NOISE = 2.0  # gray levels: a rendered image without any would be packed, and read, too easily
READERS = {'a thread': 0, '1 process': 1, '2 processes': 2}
BURST = 4  # batches
PAPERS = "the papers'"
RECIPES = {
    'windows (default)': AugmentConfig(),
    PAPERS: AugmentConfig(geometry='crop', p_jitter=0.2, p_blur=0.2, rgb_gain=0, rgb_gamma=0,
                          rgb_noise=0, aux_gain=0, aux_offset=0, aux_noise=0),
    "a robot's": AugmentConfig(geometry='crop', p_jitter=0.2, p_blur=0.2, p_aux_shift=0.5,
                               p_rgb_dark=0.15, p_rgb_overexposed=0.05, p_rgb_dropout=0.05,
                               aux_pattern=8, p_aux_invert=0.1, p_aux_dropout=0.1),
}


def write_files(folder: Path, count: int) -> None:
    """Write scenes in MFNet's layout."""
    data = replace(load_config(CONFIG, []).data, cache=str(folder / 'cache'))
    scenes = open_source(SyntheticSource(count=count), data, native=True)
    for name in ('images', 'labels'):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        scene = scenes[index]
        image = np.concatenate([scene.rgb[..., ::-1], scene.aux], 2)
        noisy = np.clip(image + rng.normal(0, NOISE, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / 'images' / f'{index:05d}D.png'), noisy)
        cv2.imwrite(str(folder / 'labels' / f'{index:05d}D.png'), scene.label)
    names = '\n'.join(f'{index:05d}D' for index in range(count))
    (folder / 'train.txt').write_text(names)


def mixture_of(config: Config, recipe: AugmentConfig) -> Mixture:
    """Return the samples of the run under another augmentation."""
    sets = [open_source(source, config.data) for source in config.data.train]
    return Mixture(sets, [1.0] * len(sets), config.data, recipe, 0)


def compare(config: Config, rounds: int) -> list[str]:
    """Return rows: what a step uses and what each reader makes, taking turns."""
    size, device = config.train.batch_size, torch.device('cpu')
    loaders = {reader: Loader(mixture_of(config, RECIPES[PAPERS]), size,
                              replace(config.train, workers=workers), device)
               for reader, workers in READERS.items()}
    used: list[float] = []
    made: dict[str, list[float]] = {reader: [] for reader in loaders}
    with Run(config) as run:
        batch = mixture_of(config, AugmentConfig()).batch(0, size)
        run.step([batch])
        for _ in range(rounds):
            used.append(_rate(lambda: run.step([batch]), size))
            for reader, loader in loaders.items():
                with loader:
                    batches = loader.batches(0, size)
                    for _ in range(4):
                        next(batches)  # the processes have started, and what was ready is used
                    made[reader].append(_rate(lambda stream=batches: _use(stream), BURST * size))
    rows = [f'| training step | {np.median(used):.1f} | |']
    for reader, rates in made.items():
        ratios = ', '.join(f'{ratio:.1f}' for ratio in sorted(np.divide(rates, used)))
        rows.append(f'| {reader} | {np.median(rates):.1f} | {ratios} |')
    return rows


def _use(batches) -> None:
    for _ in itertools.islice(batches, BURST):
        pass


def _rate(work: Callable[[], object], samples: int) -> float:
    began = time.perf_counter()
    work()
    return samples / (time.perf_counter() - began)


def stages(config: Config, rounds: int) -> list[str]:
    """Return rows: milliseconds of a processor for each stage of a sample, on one thread."""
    samples = open_source(config.data.train[0], config.data)
    size, recipe = (config.data.height, config.data.width), RECIPES[PAPERS]
    times: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object], share: int = 1) -> object:
        began = time.thread_time()  # other programs on this machine do not count
        result = work()
        times.setdefault(name, []).append(1e3 * (time.thread_time() - began) / share)
        return result

    for n in range(rounds):
        rng = np.random.default_rng(n)
        sample = timed('read and decode', lambda index=n: samples[index % len(samples)])
        view = draw_view(sample.label.shape, size, recipe, rng)
        timed('of it all three resized', lambda s=sample, v=view: (
            take(s.rgb, v), take(s.aux, v), take_ids(s.label, v)))
        for name, recipe_ in RECIPES.items():
            out = timed(f'augment: {name}', lambda s=sample, r=recipe_, g=rng: augment(
                s, r, *size, g))
        for name, change in SINGLE.items():
            settings = replace(STILL, **change)
            camera = change_aux if name in AUX else change_rgb
            image = out.aux if name in AUX else out.rgb
            timed(f'alone: {name}', lambda c=camera, i=image, s=settings, g=rng: c(i, s, g))
        batch = timed('stack', lambda o=out: stack([o] * 8, config.data), 8)
        tensors = [torch.from_numpy(array) for array in (batch.rgb, batch.aux)]
        timed('normalize (in the step)', lambda t=tensors: normalize(*t), 8)
    return [f'| {name} | {np.median(ms):.2f} | {np.percentile(ms, 90):.2f} |'
            for name, ms in times.items()]


SINGLE = {'exposure, tint': {'rgb_gain': 0.3}, 'noise': {'rgb_noise': 20.0},
          'jitter': {'p_jitter': 1.0}, 'blur': {'p_blur': 1.0},
          'night': {'p_rgb_dark': 1.0, 'p_rgb_lamps': 0.0},
          'night with lamps': {'p_rgb_dark': 1.0, 'p_rgb_lamps': 1.0},
          'aux gain': {'aux_gain': 0.2}, 'aux pattern': {'aux_pattern': 20.0}}
AUX = ('aux gain', 'aux pattern')


def waits(config: Config, steps: int) -> list[str]:
    """Return rows: how long the steps of a real run wait for their batches."""
    rows = []
    for reader, workers in READERS.items():
        name = f'run{workers}'
        changed = replace(config, name=name, train=replace(config.train, workers=workers),
                          augment=RECIPES[PAPERS])
        waited, worked = [], []
        with Run(changed) as run:
            stream = run.batches()
            for _ in range(steps):
                began = time.perf_counter()
                batches = next(stream)
                ready = time.perf_counter()
                run.step(batches)
                waited.append(ready - began)
                worked.append(time.perf_counter() - ready)
        # the first waits for the first batch of all, and warms up
        rows.append(f'| {reader} | {1e3 * np.median(waited[2:]):.1f} | '
                    f'{1e3 * max(waited[2:]):.1f} | {1e3 * np.median(worked[2:]):.0f} |')
    return rows


def step_cost(config: Config, steps: int) -> str:
    """Return a row: milliseconds of a processor that a training step takes for each sample."""
    size = config.train.batch_size
    with Run(config) as run:
        batch = mixture_of(config, AugmentConfig()).batch(0, size)
        times = []
        for _ in range(steps + 1):
            began = time.process_time()
            run.step([batch])
            times.append(1e3 * (time.process_time() - began) / size)
    return f'| training step | {np.median(times[1:]):.2f} | {np.percentile(times[1:], 90):.2f} |'


def table(head: Sequence[str], rows: Sequence[str]) -> str:
    """Return a Markdown table."""
    return '\n'.join([f'| {" | ".join(head)} |', '|' + '---|' * len(head), *rows, ''])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('overrides', nargs='*', metavar='key=value')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--steps', type=int, default=8, help='of each real run')
    parser.add_argument('--files', type=int, default=64)
    parser.add_argument('--only', nargs='*', default=['stages', 'compare', 'waits'])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, args.files)
        config = load_config(CONFIG, ['data.height=512', 'data.width=512', f'out={folder}/runs',
                                      f'data.cache={folder}/cache', 'data.validate=[]',
                                      'train.steps=1000', *args.overrides])
        source = MFNetSource(root=str(folder))
        config = replace(config, data=replace(config.data, train=(source,)))
        if 'stages' in args.only:
            cv2.setNumThreads(1)
            torch.set_num_threads(1)
            rows = [*stages(config, 40), step_cost(config, args.steps)]
            print(table(('stage', 'median [ms]', '90th percentile'), rows), flush=True)
            cv2.setNumThreads(-1)
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        if 'compare' in args.only:
            print(table(('', 'samples/s', 'over the step, in each round'),
                        compare(config, args.rounds)), flush=True)
        if 'waits' in args.only:
            print(table(('read by', 'waits [ms]', 'longest', 'step [ms]'),
                        waits(config, args.steps)))


if __name__ == '__main__':
    main()
