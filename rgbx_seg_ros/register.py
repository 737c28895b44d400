# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_register INPUT --out FILE`: the homography from aux to RGB pixels, from ordinary pictures.

No marker is needed. The estimate is written only if its own error is small; a picture to judge by
is written in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from rgbx_seg_ros import RgbxSegError, __version__
from rgbx_seg_ros.alignment import Alignment, doubt, estimate, unfit
from rgbx_seg_ros.alignment_search import SearchRange
from rgbx_seg_ros.bag import guess_topics, read_images
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.images import Array, ImageError, to_rgb8
from rgbx_seg_ros.register_picture import draw
from rgbx_seg_ros.stills import (
    AUX_FOLDERS,
    SUFFIXES,
    Still,
    find_stills,
    read_aux,
    read_rgb,
)
from rgbx_seg_ros.sync import Pairer, SyncConfig

METHOD = 'edge orientation, block correlation'
LEFT_PAIRS = 6  # of fewer, those that happen to agree could be chosen
LIMIT = 2 / 640  # of the RGB width: the error up to which a homography is written


class ImagePair(NamedTuple):
    """A pair of decoded images and what to call it."""

    name: str
    rgb: Array
    aux: Array


def pairs_of_folders(rgb: Path, aux: Path) -> list[Still]:
    """Return the pairs of two folders, matched by the names of their pictures."""
    found = []
    for folder in (rgb, aux):
        if not folder.is_dir():
            raise RgbxSegError(f'{folder}: no such folder, expected one that holds images.')
        found.append({path.stem: path for path in sorted(folder.iterdir())
                      if path.suffix.lower() in SUFFIXES and not path.name.startswith('.')})
    names = sorted(found[0].keys() & found[1].keys())
    if not names:
        raise RgbxSegError(f'{rgb} has {len(found[0])} and {aux} {len(found[1])} images of '
                           f'different names, expected the same names in both folders.')
    return [Still(name, found[0][name], found[1][name], None) for name in names]


def _from_stills(stills: Sequence[Still], modality: str, limit: int) -> Iterator[ImagePair]:
    for still in _spread_out(stills, limit):
        yield ImagePair(still.name, read_rgb(still), read_aux(still, modality))


def _spread_out(items: Sequence[Any], limit: int) -> list[Any]:
    count = min(limit, len(items))
    return [items[int((index + 0.5) * len(items) / count)] for index in range(count)]


def _from_bag(args: argparse.Namespace) -> Iterator[ImagePair]:
    topics = guess_topics(args.input, args.modality, rgb=args.rgb_topic, aux=args.aux_topic)
    pairer = Pairer(SyncConfig(max_skew_s=args.max_skew / 1000))
    chosen: list[Any] = []
    # Only messages are kept, and of a long bag every second pair again and again.
    step, seen = 1, 0
    for image in read_images(args.input, (topics.rgb, topics.aux)):
        stream = 'rgb' if image.topic == topics.rgb else 'aux'
        for pair in pairer.add(stream, image.stamp_ns, image.received_ns, image):
            if seen % step == 0:
                chosen.append(pair)
            seen += 1
            if len(chosen) == 4 * args.pairs:
                chosen, step = chosen[::2], 2 * step
    chosen += pairer.flush()
    if not chosen:
        raise RgbxSegError(f'{args.input}: no RGB frame of {topics.rgb} is within '
                           f'{args.max_skew:g} ms of one of {topics.aux}; raise --max-skew.')
    for pair in _spread_out(chosen, args.pairs):
        try:
            rgb = pair.rgb.data.image(gray=False)
            yield ImagePair(f'{pair.rgb.stamp_ns / 1e9:.3f}',
                            to_rgb8(rgb, pair.rgb.data.encoding), pair.aux.data.image())
        except ImageError as error:
            raise RgbxSegError(f'{args.input}: {error}') from None


def _read(args: argparse.Namespace) -> list[ImagePair]:
    if (args.rgb is None) != (args.aux is None) or (args.input is None) == (args.rgb is None):
        raise RgbxSegError('found neither INPUT alone nor --rgb with --aux, expected one folder '
                           'or bag, or two folders; `rgbx_register --help` shows both forms.')
    if args.max_error is not None and not args.max_error > 0:
        raise RgbxSegError(f'--max-error is {args.max_error:g}, expected more than 0 px.')
    if args.pairs < 1:
        raise RgbxSegError(f'--pairs is {args.pairs}, expected 1 or more.')
    if args.input is not None and ((args.input / 'metadata.yaml').exists() or args.input.is_file()):
        pairs = list(_from_bag(args))
    else:
        modality = args.modality
        if args.input is None:
            stills: Sequence[Still] = pairs_of_folders(args.rgb, args.aux)
        else:
            found = find_stills(args.input, modality=args.modality, labels='none')
            stills, modality = found.pairs, found.modality
        pairs = list(_from_stills(stills, modality or 'thermal', args.pairs))
    _check_sizes(pairs)
    return pairs


def _check_sizes(pairs: Sequence[ImagePair]) -> None:
    sizes = {(pair.rgb.shape[:2], pair.aux.shape[:2]): pair.name for pair in pairs}
    if len(sizes) > 1:
        (first, one), (second, other) = list(sizes.items())[:2]
        raise RgbxSegError(f'pair {one} has RGB and aux of {first[0][::-1]} and {first[1][::-1]} '
                           f'pixels, pair {other} of {second[0][::-1]} and {second[1][::-1]}, '
                           'expected one size per camera; register them apart.')
    for side in next(iter(sizes)):
        if min(side) < 48:
            raise RgbxSegError(f'found images of {side[1]}x{side[0]} pixels, expected at least '
                               '48 in both directions.')


def document(alignment: Alignment, pairs: Sequence[ImagePair]) -> dict[str, Any]:
    """Return what the registration file holds."""
    size = [[int(image.shape[1]), int(image.shape[0])] for image in pairs[0][1:]]
    return {'format': 1, 'rgb_size': size[0], 'aux_size': size[1],
            'homography': [[float(v) for v in row] for row in alignment.homography],
            'residual_px': {'median': round(alignment.error_px, 2),
                            'p90': round(alignment.error_p90_px, 2)},
            'residual_lens_px': [round(v, 2) for v in alignment.lens],
            'pairs': [pair.name for pair in pairs],
            'method': f'{METHOD}; rgbx_register {__version__}'}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that appears complete, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _fitting(pairs: list[ImagePair], search: SearchRange) -> list[ImagePair]:
    """Return the pairs without those that do not fit, if six and half of them are left."""
    alignment = estimate([(pair.rgb, pair.aux) for pair in pairs], search)
    out = unfit(alignment)
    rest = [pair for index, pair in enumerate(pairs) if index not in out]
    return rest if len(rest) >= max(LEFT_PAIRS, len(pairs) / 2) else pairs


def _register(pairs: Sequence[ImagePair], out: Path, picture: Path, search: SearchRange,
              limit_px: float) -> tuple[Alignment, str]:
    """Estimate, write the picture and, without a doubt, the file; return the doubt as well."""
    alignment = estimate([(pair.rgb, pair.aux) for pair in pairs], search)
    reason = doubt(alignment, limit_px)
    caption = (f'error about {alignment.error_px:.1f} px (median), '
               f'{alignment.error_p90_px:.1f} px (p90), {len(pairs)} pairs'
               + (f' - nothing written: {reason.split(", expected")[0]}' if reason else ''))
    write_atomically(picture, draw([(p.rgb, p.aux) for p in pairs], alignment.homography, caption))
    if not reason:
        text = yaml.safe_dump(document(alignment, pairs), sort_keys=False, default_flow_style=None)
        write_atomically(out, text.encode())
    return alignment, reason


def _row(name: str, out: Path, picture: Path, alignment: Alignment, reason: str) -> dict[str, Any]:
    return {'pairs': name, 'confident': not reason, 'doubt': reason,
            'error_px': round(alignment.error_px, 3),
            'error_p90_px': round(alignment.error_p90_px, 3),
            'lens_px': [round(v, 3) for v in alignment.lens],
            'homography': np.asarray(alignment.homography).tolist(),
            'file': '' if reason else str(out), 'picture': str(picture)}


def _parser() -> Arguments:
    parser = Arguments('rgbx_register', description='Estimate the homography from aux to RGB '
                       'pixels from image pairs or a bag; no marker is needed.')
    add = parser.add_argument
    add('input', type=Path, nargs='?', metavar='INPUT', help='folder with rgb/ and thermal/ (or '
        'another modality) of equal names, RGBA PNGs as MFNet has them, or a rosbag2')
    add('--rgb', type=Path, metavar='DIR', help='folder of RGB images, instead of INPUT')
    add('--aux', type=Path, metavar='DIR', help='folder of aux images of the same names')
    add('--out', type=Path, required=True, metavar='FILE', help='the registration file (YAML)')
    add('--picture', type=Path, metavar='FILE', help='the picture to judge by (default: beside '
        'the file, as PNG)')
    add('--per-pair', action='store_true', help='a file for each pair, its name in the name of '
        'the file, for pictures that are not of one rig')
    add('--drop-unfit', action='store_true', help='leave out pairs that do not fit the others '
        '(of bad light, say), if at least six and half of all remain')
    add('--modality', default='', choices=AUX_FOLDERS, help='which aux folder or topic')
    add('--rgb-topic', default='', metavar='TOPIC')
    add('--aux-topic', default='', metavar='TOPIC')
    add('--max-skew', type=float, default=50.0, metavar='MS', help='of a pair in a bag (default '
        '%(default)s)')
    add('--pairs', type=int, default=12, metavar='N', help='use at most N pairs, spread over the '
        'input (default %(default)s)')
    add('--max-error', type=float, metavar='PX', help='write nothing if the median error may be '
        'larger (default: 2 px at an RGB width of 640, and in proportion)')
    add('--max-shift', type=float, default=0.15, metavar='X', help='largest shift, of the RGB '
        'width (default %(default)s)')
    add('--max-rotation', type=float, default=10.0, metavar='DEG', help='default %(default)s')
    add('--max-scale', type=float, default=1.13, metavar='X', help='largest ratio of the two '
        'fields of view, up or down (default %(default)s)')
    add('--json', action='store_true', help='print JSON instead of a table')
    return parser


def _search(args: argparse.Namespace) -> SearchRange:
    for name, low, high in (('max_shift', 0.0, 0.5), ('max_rotation', 0.0, 180.0),
                            ('max_scale', 1.0, 4.0)):
        if not low <= getattr(args, name) <= high:
            raise RgbxSegError(f'--{name.replace("_", "-")} is {getattr(args, name):g}, expected '
                               f'{low:g} to {high:g}.')
    return SearchRange(args.max_rotation, args.max_scale, args.max_shift)


def _named(path: Path, name: str) -> Path:
    return path.with_name(f'{path.stem}_{name}{path.suffix}')


def _main() -> None:
    args = _parser().parse_args()
    search = _search(args)
    pairs = _read(args)
    picture = args.picture or args.out.with_suffix('.png')
    limit_px = LIMIT * pairs[0].rgb.shape[1] if args.max_error is None else args.max_error
    if args.drop_unfit and not args.per_pair:
        pairs = _fitting(pairs, search)
    rows = []
    for group in ([[pair] for pair in pairs] if args.per_pair else [pairs]):
        name = group[0].name if args.per_pair else f'{len(group)} pairs'
        out, shown = (_named(path, name) if args.per_pair else path
                      for path in (args.out, picture))
        alignment, reason = _register(group, out, shown, search, limit_px)
        rows.append(_row(name, out, shown, alignment, reason))
    print(json.dumps({'limit_px': limit_px, 'results': rows}, indent=2) if args.json
          else _table(rows))
    doubts = [row for row in rows if row['doubt']]
    if doubts:
        which = f'{len(doubts)} of {len(rows)} pairs: ' if args.per_pair else ''
        raise RgbxSegError(which + doubts[0]['doubt'])


def _table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f'{"pairs":16} {"error px":>9} {"p90 px":>7}  result']
    lines += [f'{row["pairs"]:16} {row["error_px"]:9.2f} {row["error_p90_px"]:7.2f}  '
              f'{row["file"] or "not confident, see"} {row["picture"] if row["doubt"] else ""}'
              for row in rows]
    return '\n'.join(line.rstrip() for line in lines)


def main() -> int:
    """Entry point of `rgbx_register`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
