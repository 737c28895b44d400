# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Times the resizing outside of the graph beside the resizing inside, on the processor.

python benchmarks/camera_size.py [BUNDLE] [--size WIDTHxHEIGHT ...]; prints the Markdown table of
docs/benchmarks/camera_size.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from rgbx_seg_ros.engine import BACKENDS, Model, Options
from rgbx_seg_ros.manifest import Variant, load_bundle, sha256_of
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_train.camera_graph import with_camera

ROUNDS, WARM_UP = 40, 5
ON_CPU = ('onnxruntime', 'openvino')


def scenery(height: int, width: int, channels: int, seed: int) -> NDArray[np.uint8]:
    """Return an image like a camera's: smooth regions and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 24, width // 24, channels)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-9, 10, (height, width, channels))
    return np.clip(image.reshape(noise.shape) + noise, 0, 255).astype(np.uint8)


def camera_form(model: Model, size: tuple[int, int], folder: Path) -> Model:
    """Return the form of a bundle's fp32 graphs for RGB images of (H, W), written to a folder."""
    name = f'fp32_{size[1]}x{size[0]}'
    (folder / name).mkdir()
    files = {}
    for file in model.graphs():
        path = folder / name / file
        onnx.save(with_camera(onnx.load(model.bundle / file), size, model.aux_size), path)
        files[file] = sha256_of(path)
    variant = Variant(name, 'fp32', ON_CPU, files, 1.0, None, 1, size, model.aux_size)
    return replace(model, bundle=folder, variant=variant)


def compare(outside: Model, inside: Model, backend: str) -> str:
    """Return a row of the table: medians of both ways, taking turns, and how far they agree."""
    size = inside.rgb_size
    rgb = scenery(*size, 3, 0)
    aux = scenery(*outside.aux_size, outside.manifest.aux.channels, 1)
    ways = [Segmenter(BACKENDS[backend](model, Options()), model.manifest)
            for model in (outside, inside)]
    times: list[list[float]] = [[], []]
    labels: list[NDArray[np.uint8]] = []
    resize_ms = []
    for turn in range(WARM_UP + ROUNDS):
        labels.clear()
        for way, own in zip(ways, times, strict=True):
            began = time.perf_counter()
            result = way(rgb, aux)
            if turn >= WARM_UP:
                own.append((time.perf_counter() - began) * 1e3)
            labels.append(result.label)
            resize_ms.append(result.resize_ms)
    for way in ways:
        way.engine.close()
    host, graph = (float(np.median(own)) for own in times)
    ratio = float(np.median(np.divide(times[0], times[1])))
    equal = 100 * (labels[0] == labels[1]).mean()
    return (f'| {backend} | {size[1]}x{size[0]} | {host:.1f} | '
            f'{np.median(resize_ms[2 * WARM_UP::2]):.2f} | {graph:.1f} | {ratio:.2f} | '
            f'{equal:.3f} |')


def main() -> None:
    """Print a row for each library and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bundle', nargs='?', type=Path, default=Path('sample/bundle'))
    parser.add_argument('--size', action='append', metavar='WIDTHxHEIGHT')
    parser.add_argument('--threads', type=int, default=1, help='of OpenCV')
    args = parser.parse_args()
    cv2.setNumThreads(args.threads)
    model = Model(args.bundle, load_bundle(args.bundle))
    print('| library | camera | outside [ms] | of it resizing | inside [ms] | outside/inside | '
          'labels equal [%] |\n|---|---|---|---|---|---|---|')
    for text in args.size or ('640x480', '1280x720'):
        width, height = map(int, text.split('x'))
        with tempfile.TemporaryDirectory() as folder:
            inside = camera_form(model, (height, width), Path(folder))
            for backend in ON_CPU:
                print(compare(model, inside, backend), flush=True)


if __name__ == '__main__':
    main()
