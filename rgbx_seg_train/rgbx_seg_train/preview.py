# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A picture of what a training run sees: its samples, augmented, and each change by itself.

A row is a sample. First it is as it was read, then as the run draws it, three times; after that
each column shows one change alone, whether or not the configuration asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count as count_up
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.register import write_atomically
from rgbx_seg_train.config import AugmentConfig, Config
from rgbx_seg_train.config_augment import GEOMETRIES, STILL
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.sample import CorruptImage, Image, Sample
from rgbx_seg_train.data.sources import ATTEMPTS, Mixture, open_all, stack

TILE = 176  # pixels, the width of one image
GAP, HEAD, NAME = 3, 38, 14  # pixels between tiles, for the titles, and for the names of samples
MAX_ROWS = 200
VERSIONS = 3  # augmented as the run does it
SUFFIXES = ('.png', '.jpg', '.jpeg')
BACK, INK, PALE_INK = 24, (235, 235, 235), (150, 150, 150)
UNKNOWN = (70, 70, 70)  # unlabeled pixels


class Change(NamedTuple):
    """One change: what it is called, which image shows it, and the strength it has if it is off."""

    title: str
    shows: str  # rgb, aux, outlined aux, or both: RGB, with the outlines of the label
    fields: Mapping[str, Any]


CHANGES = (
    Change('window', 'both', {'zoom_low': 0.8, 'zoom_high': 1.6}),
    Change('crop', 'both', {'geometry': 'crop', 'resize_low': 0.5, 'resize_high': 2.0}),
    Change('flip', 'both', {'p_flip': 1.0}),
    Change('aux misaligned', 'outlined aux', {'p_aux_shift': 1.0, 'aux_shift': 6.0,
                                              'aux_rotation': 1.0, 'aux_scale': 0.02}),
    Change('exposure, tint', 'rgb', {'rgb_gain': 0.3, 'rgb_gamma': 0.3}),
    Change('noise', 'rgb', {'rgb_noise': 6.0}),
    Change('jitter', 'rgb', {'p_jitter': 1.0, 'jitter': 0.5}),
    Change('blur', 'rgb', {'p_blur': 1.0}),
    Change('night', 'rgb', {'p_rgb_dark': 1.0, 'p_rgb_lamps': 0.0}),
    Change('lamps at night', 'rgb', {'p_rgb_lamps': 1.0, 'p_rgb_dark': 1.0}),
    Change('overexposed', 'rgb', {'p_rgb_overexposed': 1.0}),
    Change('RGB lost', 'rgb', {'p_rgb_dropout': 1.0}),
    Change('aux gain, offset', 'aux', {'aux_gain': 0.2, 'aux_offset': 16.0}),
    Change('aux polarity', 'aux', {'p_aux_invert': 1.0}),
    Change('aux pattern', 'aux', {'aux_pattern': 12.0}),
    Change('aux noise', 'aux', {'aux_noise': 3.0}),
    Change('aux lost', 'aux', {'p_aux_dropout': 1.0}),
)


def write_preview(config: Config, path: Path, count: int = 16) -> None:
    """Write a PNG or JPEG with `count` training samples of a configuration.

    Raises:
        RgbxSegError: the path names another format, or the samples cannot be read.

    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RgbxSegError(f'{path}: the picture would be {path.suffix or "of no format"}; '
                           f'expected {", ".join(SUFFIXES)}; choose another name.')
    if not 1 <= count <= MAX_ROWS:
        raise RgbxSegError(f'{count} samples; expected 1..{MAX_ROWS}; ask for fewer.')
    data = config.data
    sets = [*open_all(data.train, data), *open_all(data.unlabeled, data, labeled=False)]
    weights = [source.weight for source in (*data.train, *data.unlabeled)]
    mixture = Mixture(sets, weights, data, config.augment, config.train.seed)
    rows = [_row(sample, n, mixture, config) for n, sample in _originals(mixture, count)]
    _write(path, np.vstack([_head(config.augment), *rows]))


def _originals(mixture: Mixture, count: int) -> Iterator[tuple[int, Sample]]:
    """Yield the first samples that can be read, with their numbers."""
    found = 0
    for n in count_up():
        try:
            sample = mixture.original(n)[0]
        except CorruptImage:
            if n - found > ATTEMPTS + count:
                raise
            continue
        yield n, sample
        found += 1
        if found == count:
            return


def _row(sample: Sample, n: int, mixture: Mixture, config: Config) -> Image:
    size, seed = (config.data.height, config.data.width), config.train.seed
    table = _palette(config)

    def changed(settings: AugmentConfig, version: int) -> Sample:
        rng = np.random.Generator(np.random.SFC64([seed, n, version]))
        return augment(sample, settings, *size, rng)

    versions = [sample, mixture[n], *(changed(config.augment, v) for v in range(1, VERSIONS))]
    pictures = []
    for version in versions:
        label = stack([version], config.data).label[0]
        pictures += [version.rgb, _visible(version.aux), table[label]]
    for number, change in enumerate(CHANGES):
        pictures.append(_shown(changed(alone(change, config.augment), VERSIONS + number), change))
    tiles = [_tile(picture, size) for picture in pictures]
    row = np.hstack([np.pad(tile, ((0, GAP), (0, GAP), (0, 0)), constant_values=BACK)
                     for tile in tiles])
    name = np.full((NAME, row.shape[1], 3), BACK, np.uint8)
    _write_text(name, f'{n}: {sample.name}  {sample.modality}  '
                      f'{" ".join(sample.conditions.values())}', 2, NAME - 4, INK)
    return np.vstack([name, row])


def alone(change: Change, config: AugmentConfig) -> AugmentConfig:
    """Return the settings with one change only: always, and as strong as `config` has it."""
    values = {}
    for name, example in change.fields.items():
        sets = not name.startswith('p_') and name != 'geometry' and getattr(config, name)
        values[name] = getattr(config, name) if sets else example
    return replace(STILL, **values)


def is_on(change: Change, config: AugmentConfig) -> bool:
    """Return whether training with `config` makes a change."""
    if change.title in GEOMETRIES:
        return config.geometry == change.title
    if 'p_rgb_lamps' in change.fields:
        return config.p_rgb_dark > 0 and (config.p_rgb_lamps > 0 or not change.fields[
            'p_rgb_lamps'])
    names = [name for name in change.fields if name.startswith('p_')] or change.fields
    return any(getattr(config, name) > 0 for name in names)


def _shown(sample: Sample, change: Change) -> Image:
    if change.shows == 'rgb':
        return sample.rgb
    if change.shows == 'aux':
        return _visible(sample.aux)
    image = (sample.rgb if change.shows == 'both' else _visible(sample.aux)).copy()
    edges = cv2.morphologyEx(sample.label, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0
    image[edges] = (80, 255, 80)
    return image


def _head(config: AugmentConfig) -> Image:
    titles = [('as read', ''), *(('as trained', f'version {n}') for n in range(1, VERSIONS + 1))]
    columns = [(f'{kind}, {title}', more) for title, more in titles
               for kind in ('rgb', 'aux', 'label')]
    columns += [(change.title, _values(change, config)) for change in CHANGES]
    head = np.full((HEAD, len(columns) * (TILE + GAP), 3), BACK, np.uint8)
    for number, (title, more) in enumerate(columns):
        left = number * (TILE + GAP) + 2
        _write_text(head, title, left, 14, INK)
        _write_text(head, more, left, 30, PALE_INK)
    return head


def _values(change: Change, config: AugmentConfig) -> str:
    """Return what the configuration says of a change, such as `p_blur 0.2`."""
    if not is_on(change, config):
        return 'off in this run'
    named = [name for name in change.fields if name != 'geometry'][:2]
    return ', '.join(f'{name.removeprefix("rgb_").removeprefix("aux_")} {getattr(config, name):g}'
                     for name in named)


def _visible(aux: Image) -> Image:
    return aux if aux.shape[2] == 3 else cv2.cvtColor(aux, cv2.COLOR_GRAY2RGB)


def _palette(config: Config) -> Image:
    table = np.zeros((256, 3), np.uint8)
    for info in config.data.class_infos:
        table[info.id] = info.color
    table[UNLABELED] = UNKNOWN
    return table


def _tile(picture: Image, size: Sequence[int]) -> Image:
    """Return a picture as large as a tile, with its shape kept."""
    height, width = max(round(TILE * size[0] / size[1]), 1), TILE
    scale = min(height / picture.shape[0], width / picture.shape[1])
    small = cv2.resize(picture, (max(round(picture.shape[1] * scale), 1),
                                 max(round(picture.shape[0] * scale), 1)),
                       interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = np.full((height, width, 3), BACK, np.uint8)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    tile[top:top + small.shape[0], left:left + small.shape[1]] = small
    return tile


def _write_text(image: Image, text: str, x: int, y: int, color: tuple[int, int, int]) -> None:
    plain = text.encode('ascii', 'replace').decode()
    cv2.putText(image, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1, cv2.LINE_AA)


def _write(path: Path, picture: Image) -> None:
    written, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not written:
        raise RgbxSegError(f'{path}: a picture of {picture.shape[1]}x{picture.shape[0]} cannot be '
                           'encoded; expected a smaller one; ask for fewer samples or for PNG.')
    write_atomically(path, data.tobytes())
