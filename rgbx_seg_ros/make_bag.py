# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_make_bag DIR OUT`: pictures of an RGB-X data set become a bag of two free-running cameras.

Still j is what the aux camera sees in frame j. An RGB frame shows the still of the aux frame that
is nearest in time before any frame is dropped, and so does its label. A right pairing of the bag
therefore always joins an RGB frame and an aux frame of the same still.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import NS, STORAGES, BagWriter
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.images import Array
from rgbx_seg_ros.stills import (
    AUX_FOLDERS,
    LAYOUTS,
    Still,
    Stills,
    find_stills,
    read_aux,
    read_label,
    read_rgb,
)

# 8-bit thermal holds no temperature: as 16 bits, 0..255 is spread over these kelvin.
INVENTED_K = (263.15, 323.15)
AGC_PERCENTILES = (1.0, 99.0)
ENCODINGS = {'uint8': 'mono8', 'uint16': 'mono16', 'int16': '16SC1', 'float32': '32FC1'}
BITS = ('keep', '8', '16')


@dataclass(frozen=True)
class Timing:
    """The clocks of the two cameras; times in seconds, rates in Hz."""

    rgb_rate: float = 30.0
    aux_rate: float = 9.0
    aux_offset: float = 0.0   # of the first aux frame after the first RGB frame
    jitter: float = 0.0       # sigma of the stamps, cut at 3 sigma and 45 % of a period
    drop: float = 0.0         # share of frames lost, in each stream
    latency_rgb: float = 0.0  # from stamp to reception
    latency_aux: float = 0.0
    start: float = 1767225600.0  # 2026-01-01
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no camera does."""
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RgbxSegError(f'--{name.replace("_", "-")} is {value:g}, expected {low:g} to '
                                   f'{high:g}.')


LIMITS = {'rgb_rate': (0.1, 1000.0), 'aux_rate': (0.1, 1000.0), 'aux_offset': (-10.0, 10.0),
          'jitter': (0.0, 1.0), 'drop': (0.0, 0.9), 'latency_rgb': (0.0, 10.0),
          'latency_aux': (0.0, 10.0), 'start': (100.0, 2.0**31 - 1e6), 'seed': (0, 2**32)}


class Shot(NamedTuple):
    """A frame: the still it shows, when it was taken and received, whether it was lost."""

    still: int
    stamp_ns: int
    received_ns: int
    dropped: bool


def schedule(stills: int, timing: Timing) -> tuple[list[Shot], list[Shot]]:
    """Return the RGB and the aux frames that show this many stills, lost ones included."""
    aux_s = timing.aux_offset + np.arange(stills) / timing.aux_rate
    end = aux_s[-1] + 0.5 / timing.aux_rate
    rgb_s = np.arange(max(1, round(end * timing.rgb_rate))) / timing.rgb_rate
    rgb_rng, aux_rng = (np.random.default_rng([timing.seed, stream]) for stream in (0, 1))
    rgb_ns = _stamps(rgb_s, timing.rgb_rate, timing, rgb_rng)
    aux_ns = _stamps(aux_s, timing.aux_rate, timing, aux_rng)
    middles = (aux_ns[1:] + aux_ns[:-1]) // 2
    nearest = np.searchsorted(middles, rgb_ns)
    return (_shots(nearest, rgb_ns, timing.latency_rgb, timing.drop, rgb_rng),
            _shots(np.arange(stills), aux_ns, timing.latency_aux, timing.drop, aux_rng))


def _stamps(times_s: Array, rate: float, timing: Timing, rng: np.random.Generator) -> Array:
    limit = min(3 * timing.jitter, 0.45 / rate)  # frames keep their order
    jitter_s = np.clip(rng.normal(0.0, 1.0, len(times_s)) * timing.jitter, -limit, limit)
    # Nanoseconds since the epoch exceed a float's 53 bits, so the start is added as an integer.
    stamps: Array = round(timing.start * NS) + np.rint((times_s + jitter_s) * NS).astype(np.int64)
    return stamps


def _shots(stills: Array, stamps_ns: Array, latency_s: float, drop: float,
           rng: np.random.Generator) -> list[Shot]:
    lost = rng.random(len(stamps_ns)) < drop
    return [Shot(int(still), int(stamp), int(stamp) + round(latency_s * NS), bool(gone))
            for still, stamp, gone in zip(stills, stamps_ns, lost, strict=True)]


def convert_aux(aux: Array, bits: str, path: Path) -> Array:
    """Return the aux picture with 8 or 16 bits, or as it is."""
    key = (aux.dtype.name, bits)
    if bits == 'keep' or key in (('uint8', '8'), ('uint16', '16')):
        return aux
    if key not in CONVERSIONS or aux.ndim == 3:
        raise RgbxSegError(f'{path}: cannot make {bits} bits of {aux.dtype} '
                           f'{"color" if aux.ndim == 3 else "gray"}, expected 8- or 16-bit gray; '
                           'pass --aux-bits keep.')
    return CONVERSIONS[key](aux)


def _to_centikelvin(aux: Array) -> Array:
    low, high = INVENTED_K
    kelvin = low + aux.astype(np.float64) * ((high - low) / 255)
    counts: Array = np.rint(100 * kelvin).astype(np.uint16)
    return counts


def _automatic_gain(aux: Array) -> Array:
    low, high = np.percentile(aux, AGC_PERCENTILES)
    scaled = (aux - low) * (255 / max(high - low, 1.0))
    gray: Array = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return gray


CONVERSIONS: dict[tuple[str, str], Callable[[Array], Array]] = {
    ('uint8', '16'): _to_centikelvin, ('uint16', '8'): _automatic_gain}


def write_bag(stills: Stills, writer: BagWriter, timing: Timing, bits: str = 'keep',
              compressed: bool = False) -> str:
    """Write the pairs to an open writer and return what was written, in words."""
    rgb, aux = schedule(len(stills.pairs), timing)
    shots = [(shot.received_ns, order, shot) for order, shots in enumerate((rgb, aux))
             for shot in shots if not shot.dropped]
    if len({order for _, order, _ in shots}) < 2:
        raise RgbxSegError('every frame of a stream was dropped, expected some of both; lower '
                           '--drop or take another --seed.')
    recorder = _Recorder(stills, writer, bits, compressed)
    for _, order, shot in sorted(shots):
        (recorder.rgb, recorder.aux)[order](shot)
    span = max(shot.stamp_ns for *_, shot in shots) - min(shot.stamp_ns for *_, shot in shots)
    lost = [f'{sum(shot.dropped for shot in shots)} of {len(shots)} {name} frames'
            for name, shots in (('rgb', rgb), (stills.modality, aux))]
    labeled = sum(pair.label is not None for pair in stills.pairs)
    return '\n'.join([
        f'{span / NS:.1f} s', f'  {len(stills.pairs)} stills in layout {stills.layout}, '
        f'{labeled} of them labeled; dropped {" and ".join(lost)}',
        *(f'  {topic}: {count} messages' for topic, count in sorted(writer.counts.items()))])


class _Recorder:
    """Writes single frames; the same still serves several of them."""

    def __init__(self, stills: Stills, writer: BagWriter, bits: str, compressed: bool) -> None:
        self._pairs, self._modality, self._writer = stills.pairs, stills.modality, writer
        self._bits, self._compressed = bits, compressed
        self._rgb: Callable[[Still], Array] = lru_cache(2)(read_rgb)
        self._label: Callable[[Still, tuple[int, int]], Array] = lru_cache(2)(read_label)

    def rgb(self, shot: Shot) -> None:
        still = self._pairs[shot.still]
        image = self._rgb(still)
        self._write('rgb', image, 'rgb8', shot, 'jpeg')
        if still.label is not None:
            label = self._label(still, (image.shape[0], image.shape[1]))
            self._write('label', label, 'mono8', shot, 'png')

    def aux(self, shot: Shot) -> None:
        still = self._pairs[shot.still]
        image = convert_aux(read_aux(still, self._modality), self._bits, still.aux)
        encoding = ENCODINGS.get(image.dtype.name, '') if image.ndim == 2 else 'rgb8'
        if not encoding or (image.ndim == 3 and image.dtype != np.uint8):
            raise RgbxSegError(f'{still.aux}: found {image.dtype} pixels, expected one of '
                               f'{", ".join(ENCODINGS)}, or 8-bit color.')
        if self._modality == 'depth' and encoding == 'mono16':
            encoding = '16UC1'  # REP-118: millimeters
        self._write(self._modality, image, encoding, shot, 'png')

    def _write(self, name: str, image: Array, encoding: str, shot: Shot, codec: str) -> None:
        frame_id = f'{"rgb" if name == "label" else name}_optical'
        stamps = (shot.stamp_ns, shot.received_ns, frame_id)
        topic = f'/{name}/image_raw' + '/compressed' * self._compressed
        self._writer.write_image(topic, image, encoding, *stamps, codec * self._compressed)
        if name != 'label':
            height, width = image.shape[:2]
            self._writer.write_camera_info(f'/{name}/camera_info', height, width, *stamps)


def _parser() -> Arguments:
    parser = Arguments(
        'rgbx_make_bag', description='Make a rosbag2 of a folder of RGB and aux images, as two '
        'free-running cameras would record it.')
    add = parser.add_argument
    add('folder', type=Path, help='rgb/ and thermal/ (or another modality) with equal names, or '
        'RGBA PNGs as MFNet has them; label/ or labels/ beside them is taken along')
    add('out', type=Path, help='the bag, a new folder')
    add('--layout', default='auto', choices=('auto', *LAYOUTS))
    add('--modality', default='', choices=AUX_FOLDERS, help='which aux folder (default: the one '
        'that is there)')
    add('--labels', default='', metavar='NAME', help='the folder of labels inside the folder, '
        'such as pseudo_label; none leaves labels out')
    add('--limit', type=int, metavar='N', help='only the first N pairs')
    add('--aux-bits', default='keep', choices=BITS, help='8 stretches percentiles '
        f'{AGC_PERCENTILES[0]:g} to {AGC_PERCENTILES[1]:g} of each image, as a camera\'s automatic '
        f'gain; 16 spreads 0..255 over {INVENTED_K[0]} to {INVENTED_K[1]} K at 0.01 K a count, '
        'temperatures which 8 bits never held')
    add('--compressed', action='store_true', help='JPEG for RGB, PNG for aux and labels')
    add('--jpeg-quality', type=int, default=95, metavar='N', help='1 to 100 (default %(default)s)')
    add('--storage', default='mcap', choices=STORAGES)
    add('--force', action='store_true', help='replace a bag of the same name')
    for field in fields(Timing):
        low, high = LIMITS[field.name]
        add(f'--{field.name.replace("_", "-")}', type=type(field.default), default=field.default,
            metavar='X', help=f'{TIMING_HELP[field.name]} (default %(default)s)')
    return parser


TIMING_HELP = {
    'rgb_rate': 'Hz of the RGB camera',
    'aux_rate': 'Hz of the aux camera; each of its frames is one pair of the folder',
    'aux_offset': 's from the first RGB to the first aux frame',
    'jitter': 's, sigma of the stamps, cut at 3 sigma and 45 %% of a period',
    'drop': 'share of frames lost in each stream',
    'latency_rgb': 's from the stamp of an RGB frame to its reception',
    'latency_aux': 's from the stamp of an aux frame to its reception',
    'start': 's, the stamp of the first RGB frame',
    'seed': 'of jitter and drops',
}


def _main() -> None:
    args = _parser().parse_args()
    timing = Timing(**{field.name: getattr(args, field.name) for field in fields(Timing)})
    stills = find_stills(args.folder, args.layout, args.modality, args.labels)
    if args.limit is not None:
        if args.limit < 1:
            raise RgbxSegError(f'--limit is {args.limit}, expected 1 or more.')
        stills = Stills(stills.layout, stills.modality, stills.pairs[:args.limit], stills.labels)
    with BagWriter(args.out, args.storage, args.force, args.jpeg_quality) as writer:
        summary = write_bag(stills, writer, timing, args.aux_bits, args.compressed)
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(f'{args.out}: {args.storage}, {size / 1e6:.1f} MB, {summary}')


def main() -> int:
    """Entry point of `rgbx_make_bag`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
