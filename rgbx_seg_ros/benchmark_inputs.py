# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The image pairs that `rgbx_benchmark engine` runs: of a bag through the node's steps, or made up.

Made-up pairs are smooth with blocks, edges and a little noise, as pictures are: on pure noise a
network is unsure everywhere, and every rounding changes a label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import guess_topics, image_topics, read_images
from rgbx_seg_ros.engine import Engine, EngineInfo, Rows, Scene, Tensor
from rgbx_seg_ros.images import ImageError, to_rgb8
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.sync import Pair, Pairer

Pairs = tuple[Tensor, Tensor]  # rgb (N, H, W, 3) and aux (N, H, W, C), uint8, of the network's size
SMOOTH, NOISE, BLOCKS = 8, 6, 12  # pixels of the smooth field, sigma in gray levels, number


def generate(manifest: Manifest, count: int, seed: int = 0) -> Pairs:
    """Return made-up pairs; the same seed gives the same ones."""
    rng = np.random.default_rng(seed)
    size = (manifest.height, manifest.width)
    rgb = np.stack([_picture(rng, size, 3) for _ in range(count)])
    aux = np.stack([_picture(rng, size, manifest.aux.channels) for _ in range(count)])
    return rgb, aux


def _picture(rng: np.random.Generator, size: tuple[int, int], channels: int) -> Tensor:
    """Return one image (H, W, channels): a smooth field, blocks, noise."""
    height, width = size
    field = rng.uniform(40, 215, (SMOOTH, SMOOTH, channels)).astype(np.float32)
    image = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    image = image.reshape(height, width, channels)
    for _ in range(BLOCKS):
        top, left = rng.integers(height), rng.integers(width)
        tall, wide = rng.integers(1, height // 4 + 2), rng.integers(1, width // 4 + 2)
        image[top:top + tall, left:left + wide] += rng.uniform(-80, 80, channels)
    image = image + rng.normal(0, NOISE, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def from_bag(bag: Path, manifest: Manifest, count: int) -> Pairs:
    """Return up to `count` pairs of a bag, spread over it, as the network of the node gets them.

    Raises:
        RgbxSegError: the bag cannot be read, or holds no pair that fits the bundle.

    """
    tap = _Tap(manifest)
    pipeline = Pipeline(Segmenter(tap, manifest))
    topics = guess_topics(bag, manifest.modality)
    found = image_topics(bag)
    step = max(min(found[topics.rgb].count, found[topics.aux].count) // count, 1)
    for number, pair in enumerate(_pairs(bag, topics.rgb, topics.aux)):
        if len(tap.seen) == count:
            break
        # Every pair passes: the range of a thermal image follows those before it.
        tap.keeps = number % step == 0
        assert pair.rgb is not None and pair.aux is not None
        rgb, aux = pair.rgb.data, pair.aux.data
        try:
            pipeline(to_rgb8(rgb.image(gray=False), rgb.encoding), aux.image(), aux.encoding,
                     pair.rgb.stamp_ns)
        except ImageError as error:
            raise RgbxSegError(f'{bag}: {error}') from None
    if not tap.seen:
        raise RgbxSegError(f'{bag}: no RGB frame of {topics.rgb} pairs with one of {topics.aux}; '
                           'expected a bag of both cameras.')
    return (np.concatenate([rgb for rgb, _ in tap.seen]),
            np.concatenate([aux for _, aux in tap.seen]))


def _pairs(bag: Path, rgb: str, aux: str) -> Iterator[Pair]:
    pairer = Pairer()
    for image in read_images(bag, (rgb, aux)):
        yield from pairer.add('rgb' if image.topic == rgb else 'aux', image.stamp_ns,
                              image.received_ns, image)
    yield from pairer.flush()


class _Tap(Engine):
    """An engine that computes nothing and keeps copies of its inputs while `keeps` is true."""

    def __init__(self, manifest: Manifest) -> None:
        self.info = EngineInfo('tap', '1', 'cpu', 'none')
        self.keeps = True
        self.seen: list[tuple[Tensor, Tensor]] = []
        self._answer = np.zeros((1, manifest.height, manifest.width), np.uint8)
        width = manifest.scene.width if manifest.scene is not None else 1
        nothing: NDArray[np.float32] = np.zeros((1, width), np.float32)
        count = len(manifest.scene.tensors) if manifest.scene is not None else 0
        self._scene: Scene = (nothing,) * count

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        if self.keeps:
            self.seen.append((rgb.copy(), aux.copy()))
        return self._answer, self._answer

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        return self._scene

    def set_classes(self, rows: Rows) -> None:
        pass

    def close(self) -> None:
        self.seen = []
