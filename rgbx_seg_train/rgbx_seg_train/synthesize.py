# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rgbx_synthesize: write synthetic road scenes as folders of images, and a picture of some."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.manifest import MAX_SIDE, MODALITIES
from rgbx_seg_ros.overlay import blend, palette
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_ros.stills import SUFFIXES
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.data.synthetic import CLASSES, Rendered, Scene, aux_encoding

SHEET_COLUMNS = 2
SHEET_HEIGHT = 240
NIGHT_STREAM = 11


def main() -> int:
    """Run the command; see `--help`."""
    return run_command(_main)


def _main() -> None:
    arguments = _parser().parse_args()
    out, seeds = arguments.out, _seeds(arguments.seeds)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RgbxSegError(
            f'{out} exists and is not empty, expected a new folder; name another or remove it'
        )
    if not 0 <= (arguments.night_fraction if arguments.night_fraction is not None else 0) <= 1:
        raise RgbxSegError(
            f'--night-fraction is {arguments.night_fraction}, expected 0..1; change it'
        )
    _check_sizes(arguments)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        count = _write_all(temporary, seeds, arguments)
        temporary.chmod(0o755)
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f'{count} pictures of {len(seeds)} scenes in {out}')


def _check_sizes(arguments: argparse.Namespace) -> None:
    sides = arguments.height, arguments.width
    scale = arguments.aux_scale
    if not (0 < scale <= 4 and min(sides) * min(scale, 1) >= 32 and max(sides) <= MAX_SIDE):
        raise RgbxSegError(
            f'--height, --width and --aux-scale are {sides[0]}, {sides[1]} and {scale:g}, expected '
            f'32 to {MAX_SIDE} pixels for both cameras and a scale of at most 4; change them'
        )
    if arguments.steps < 1 or not 0 <= arguments.dt <= 60:
        raise RgbxSegError(
            f'--steps is {arguments.steps} and --dt {arguments.dt:g}, expected at least 1 step and '
            '0..60 s; change them'
        )
    if arguments.sheet and arguments.sheet.suffix.lower() not in SUFFIXES:
        raise RgbxSegError(
            f'--sheet is {arguments.sheet}, expected a name that ends in one of '
            f'{", ".join(SUFFIXES)}; change it'
        )


def _parser() -> Arguments:
    parser = Arguments(
        prog='rgbx_synthesize',
        description='Write synthetic road scenes as folders of images, and a picture of some.',
    )
    add = parser.add_argument
    add('out', type=Path, metavar='OUT', help='new folder for rgb/, MODALITY/ and label/')
    add(
        '--seeds', default='0:20', metavar='A:B', help='seeds A to B-1, a scene each (default 0:20)'
    )
    add(
        '--modality',
        default='thermal',
        choices=MODALITIES,
        help='aux sensor; thermal is 16-bit (0.01 K per count), the others 8-bit as the network '
        'reads them (default thermal)',
    )
    add('--steps', type=int, default=1, help='pictures per scene (default 1)')
    add('--dt', type=float, default=0.1, metavar='S', help='seconds between them (default 0.1)')
    add('--night-fraction', type=float, metavar='F', help='share of night scenes (default: half)')
    add('--height', type=int, default=480, help='rows (default 480)')
    add('--width', type=int, default=640, help='columns (default 640)')
    add(
        '--aux-scale', type=float, default=1.0, metavar='F',
        help='resolution of the aux camera relative to the RGB camera (default 1)',
    )
    add('--sheet', type=Path, metavar='PNG', help='also write a picture of the first scenes')
    return parser


def _seeds(text: str) -> range:
    first, _, end = text.partition(':')
    if not (first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise RgbxSegError(
            f'--seeds is {text!r}, expected A:B with 0 <= A < B; write for example 0:20'
        )
    return range(int(first), int(end))


def _write_all(folder: Path, seeds: range, arguments: argparse.Namespace) -> int:
    kinds = ('rgb', arguments.modality, 'label')
    for kind in kinds:
        (folder / kind).mkdir()
    tiles: list[NDArray[np.uint8]] = []
    count = 0
    for name, rendered in _frames(seeds, arguments):
        raw = getattr(rendered, arguments.modality)
        picture = (
            raw
            if arguments.modality == 'thermal'
            else to_uint8(raw, aux_encoding(arguments.modality))
        )
        _write(
            folder / 'rgb' / f'{name}.jpg', rendered.rgb[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 95
        )
        _write(
            folder / arguments.modality / f'{name}.png',
            picture[..., ::-1] if picture.ndim == 3 else picture,
        )
        _write(folder / 'label' / f'{name}.png', rendered.label)
        count += 1
        if arguments.sheet and len(tiles) < 24:
            tiles.append(tile(rendered, arguments.modality))
    if arguments.sheet:
        _write_sheet(arguments.sheet, tiles)
    return count


def _frames(seeds: range, arguments: argparse.Namespace) -> Iterator[tuple[str, Rendered]]:
    for seed in seeds:
        share = arguments.night_fraction
        night = (
            None
            if share is None
            else bool(np.random.default_rng([seed, NIGHT_STREAM]).random() < share)
        )
        scene = Scene(seed, night)
        for step in range(arguments.steps):
            size = arguments.height, arguments.width
            rendered = scene.render(step * arguments.dt, *size, arguments.modality)
            if arguments.aux_scale != 1:
                small = (round(side * arguments.aux_scale) for side in size)
                coarse = scene.render(step * arguments.dt, *small, arguments.modality)
                aux = {arguments.modality: getattr(coarse, arguments.modality)}
                rendered = replace(rendered, **aux)
            yield f'{seed:06d}_{step:04d}{"N" if rendered.night else "D"}', rendered


def _write(path: Path, picture: NDArray[np.generic], *parameters: int) -> None:
    done, data = cv2.imencode(path.suffix, np.ascontiguousarray(picture), list(parameters))
    if not done:
        raise RgbxSegError(f'{path} could not be encoded, expected an image; report this')
    path.write_bytes(data.tobytes())


def tile(rendered: Rendered, modality: str) -> NDArray[np.uint8]:
    """Return RGB, aux as the network reads it, and aux with the label over it, side by side."""
    aux = to_uint8(getattr(rendered, modality), aux_encoding(modality))
    aux = np.repeat(aux[..., None], 3, axis=2) if aux.ndim == 2 else aux
    aux = resize_to(aux, *rendered.label.shape)
    bright = np.minimum(palette(CLASSES).astype(int) * 3 // 2, 255).astype(np.uint8)
    row = np.hstack([rendered.rgb, aux, blend(aux, rendered.label, bright, 0.5)])
    width = row.shape[1] * SHEET_HEIGHT // row.shape[0]
    return cv2.resize(row, (width, SHEET_HEIGHT), interpolation=cv2.INTER_AREA)


def _write_sheet(path: Path, tiles: list[NDArray[np.uint8]]) -> None:
    while len(tiles) % SHEET_COLUMNS:
        tiles.append(np.zeros_like(tiles[0]))
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, len(tiles), SHEET_COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.part{path.suffix}')
    _write(temporary, np.vstack(rows)[..., ::-1])
    os.replace(temporary, path)
