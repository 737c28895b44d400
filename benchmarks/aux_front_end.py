# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Times the aux front end on 640x480 images, beside the formula as one writes it in NumPy.

python benchmarks/aux_front_end.py [threads]; prints the Markdown table of docs/thermal.md.
"""

from __future__ import annotations

import sys
import timeit
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.manifest import AuxEncoding
from rgbx_seg_ros.thermal import AuxConfig, AuxFrontEnd

Array = NDArray[Any]

FIXED = AuxEncoding(1, 'fixed', 263.15, 323.15, unit='K', scale=0.01)
PERCENTILE = AuxEncoding(1, 'percentile', 1.0, 99.0, 5.0, 'K', 0.01)
ROUNDS, CALLS = 40, 8  # as many calls as it takes for the search for hot pixels to come by once


def plain(kelvin: Array, low: float, high: float) -> Array:
    """Return the image by the formula, one operation after the other."""
    return (np.clip((kelvin - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def plain_percentile(kelvin: Array) -> Array:
    """Return the image between its own percentiles."""
    low, high = np.percentile(kelvin, [1, 99])
    return plain(kelvin, low, high)


def front_end(bundle: AuxEncoding, image: Array, encoding: str,
              **config: Any) -> Callable[[], Array]:
    """Return a call that takes the next frame of a 30 Hz stream."""
    front = AuxFrontEnd(bundle, AuxConfig(**config))
    stamps = iter(range(0, 1 << 62, 33_333_333))
    return lambda: front(image, encoding, next(stamps))


def cases() -> dict[str, tuple[Callable[[], Array] | None, Callable[[], Array]]]:
    """Return (formula or None, front end) by the name of the case."""
    rng = np.random.default_rng(0)
    counts = rng.normal(29000, 8, (480, 640)) + np.linspace(-800, 800, 640)
    raw = counts.astype(np.uint16)
    kelvin = (raw * 0.01).astype(np.float32)
    gray = AuxFrontEnd(FIXED)(raw, 'mono16', 0)
    rgb = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    clahe = cv2.createCLAHE(2.0, (8, 8))

    def of_counts() -> Array:
        return raw.astype(np.float32) * 0.01

    spread: dict[str, Any] = {'normalize': 'percentile'}
    return {
        'mono16, fixed': (lambda: plain(of_counts(), FIXED.low, FIXED.high),
                          front_end(FIXED, raw, 'mono16')),
        'mono16, percentile': (lambda: plain_percentile(of_counts()),
                               front_end(PERCENTILE, raw, 'mono16')),
        '… with smoothing': (None, front_end(PERCENTILE, raw, 'mono16', smoothing_s=1.0)),
        '… and hot pixels': (None, front_end(PERCENTILE, raw, 'mono16', smoothing_s=1.0,
                                             hot_pixels=True)),
        'mono16, clahe': (lambda: clahe.apply(plain_percentile(of_counts())),
                          front_end(PERCENTILE, raw, 'mono16', normalize='clahe')),
        '32FC1, fixed': (lambda: plain(kelvin, FIXED.low, FIXED.high),
                         front_end(FIXED, kelvin, '32FC1')),
        '32FC1, percentile': (lambda: plain_percentile(kelvin),
                              front_end(PERCENTILE, kelvin, '32FC1', **spread)),
        'mono8': (None, front_end(FIXED, gray.copy(), 'mono8')),
        'rgb8, jet': (None, front_end(FIXED, rgb, 'rgb8')),
    }


def main() -> None:
    """Take turns, so that whatever slows the machine slows all alike; print medians in ms."""
    cv2.setNumThreads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    pairs = cases()
    times: dict[tuple[str, int], list[float]] = {}
    for turn in range(ROUNDS + 1):
        for name, calls in pairs.items():
            for column, call in enumerate(calls):
                if call is None:
                    continue
                seconds = timeit.timeit(call, number=CALLS) / CALLS
                if turn:  # the first warms up
                    times.setdefault((name, column), []).append(seconds * 1e3)
    print('| input, range | formula [ms] | front end [ms] |\n|---|---|---|')
    for name in pairs:
        cells = [f'{np.median(times[name, column]):.2f}' if (name, column) in times else ''
                 for column in (0, 1)]
        print(f'| {name} | {cells[0]} | {cells[1]} |')


if __name__ == '__main__':
    main()
