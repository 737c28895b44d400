# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic scenes as samples: rendered once by all cores, then mapped from disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.sample import ODD_CHANNELS, Sample, time_of
from rgbx_seg_train.data.synthetic import Scene, aux_encoding

SENSOR_HEIGHT, SENSOR_WIDTH = 480, 640  # what the robot's cameras deliver
IN_PROCESS = 8  # so few scenes are rendered before a pool of processes has started
STREAMS = {'time': 1, 'night': 2}


@dataclass(frozen=True)
class RenderSettings:
    """Everything but code that decides the pixels; it names the cache."""

    first_seed: int
    count: int
    modality: str
    height: int
    width: int
    night_fraction: float | None = None  # None: as the seeds draw
    max_time_s: float = 3.0


class SyntheticDataset:
    """Scenes of consecutive seeds at one size; see `sample.Samples`."""

    def __init__(self, settings: RenderSettings, cache_dir: Path) -> None:
        """Render what is not in the cache yet."""
        self.settings = settings
        self.folder = Path(cache_dir) / f'synthetic-{settings.modality}-{_key(settings)}'
        if not self.folder.is_dir():
            _build_cache(settings, self.folder)
        self._open()

    def _open(self) -> None:
        self._rgb, self._aux, self._label, self._night = (
            np.load(self.folder / f'{name}.npy', mmap_mode='r')
            for name in ('rgb', 'aux', 'label', 'night')
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the images out, which another process maps from disk too."""
        return {'settings': self.settings, 'folder': self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the images again."""
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.settings.count

    def __getitem__(self, index: int) -> Sample:
        """Return one scene as memory-mapped, read-only arrays."""
        seed = self.settings.first_seed + index
        return Sample(self._rgb[index], self._aux[index], self._label[index],
                      self.settings.modality, f'{seed:08d}', time_of(bool(self._night[index])),
                      'mfnet', ODD_CHANNELS.get(self.settings.modality, ()))


def render_sample(seed: int, settings: RenderSettings) -> Sample:
    """Render one scene at sensor size, then treat it as the robot does: to uint8, then resize."""
    draw = {name: np.random.default_rng([seed, n]).random() for name, n in STREAMS.items()}
    fraction = settings.night_fraction
    scene = Scene(seed, None if fraction is None else draw['night'] < fraction)
    seen = scene.render(draw['time'] * settings.max_time_s, SENSOR_HEIGHT, SENSOR_WIDTH,
                        settings.modality)
    encoding = aux_encoding(settings.modality)
    size = settings.height, settings.width
    aux = resize_to(to_uint8(getattr(seen, settings.modality), encoding), *size)
    label = cv2.resize(seen.label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return Sample(resize_to(seen.rgb, *size), aux.reshape(*size, encoding.channels), label,
                  settings.modality, f'{seed:08d}', time_of(seen.night), 'mfnet',
                  ODD_CHANNELS.get(settings.modality, ()))


def _key(settings: RenderSettings) -> str:
    """Name the cache by the settings and by the code that renders."""
    digest = hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode())
    for path in sorted([*Path(__file__).parent.glob('synthetic*.py'), Path(__file__)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build_cache(settings: RenderSettings, folder: Path) -> None:
    """Write the cache whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{folder.name}-', dir=folder.parent))
    count, height, width = settings.count, settings.height, settings.width
    channels = aux_encoding(settings.modality).channels
    shapes = {'rgb': (count, height, width, 3), 'aux': (count, height, width, channels),
              'label': (count, height, width), 'night': (count,)}
    try:
        arrays = {name: np.lib.format.open_memmap(temporary / f'{name}.npy', 'w+', np.uint8, shape)
                  for name, shape in shapes.items()}
        rendered = tqdm(_render_all(settings), f'rendering {settings.modality}', count,
                        unit='scene', disable=None if count > IN_PROCESS else True)
        for n, sample in enumerate(rendered):
            for name, array in arrays.items():
                array[n] = getattr(sample, name)
        for array in arrays.values():
            array.flush()
        if not folder.is_dir():  # another process may have been faster
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _render_all(settings: RenderSettings) -> Iterator[Sample]:
    seeds = range(settings.first_seed, settings.first_seed + settings.count)
    render = partial(render_sample, settings=settings)
    if settings.count <= IN_PROCESS:
        yield from map(render, seeds)
        return
    # Spawned, not forked: a fork would copy torch's and OpenCV's threads in an unknown state.
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(os.cpu_count(), context, cv2.setNumThreads, (1,)) as pool:
        yield from pool.map(render, seeds, chunksize=8)
