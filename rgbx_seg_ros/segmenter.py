# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Images in, mask at camera size out: what the node, the bag evaluator and training share."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.class_choice import Choice
from rgbx_seg_ros.engine import Engine, Scene
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.scene import SceneMemory
from rgbx_seg_ros.smoothing import MaskSmoother

Image = NDArray[np.uint8]
UNLABELED = 255  # the id of pixels that are not certain enough


class Segmentation(NamedTuple):
    """One result at the size of the RGB image; the arrays are the receiver's to keep."""

    label: Image  # (H, W) class ids, UNLABELED where the confidence is below the threshold
    confidence: Image  # (H, W) 0..255 = probability of the chosen class
    engine_ms: float
    total_ms: float
    resize_ms: float = 0.0  # of the total: to the network's size and back
    scene_ms: float = 0.0  # of engine_ms: for the scene graph; 0 if its answer was kept


class Segmenter:
    """Runs an engine on images of any size. Not thread-safe: the engine's thread owns it."""

    def __init__(self, engine: Engine, manifest: Manifest, aside: bool = True) -> None:
        """Take an open engine and the manifest of its bundle.

        `aside` lets an engine that can embed scenes beside the pairs do so: which pair is the first
        to profit is then a matter of time, and no two runs need be the same.
        """
        self.engine = engine
        self.exported = manifest
        self.manifest = manifest  # with the classes that are in force
        self.classes_version = 0  # how often they were changed
        self._choice: Choice | None = None
        self._may_embed_aside = aside and engine.info.embeds_aside
        network = (manifest.height, manifest.width)
        size = self.rgb_size = engine.info.rgb_size or network
        self.aux_size = engine.info.aux_size or network
        self._rgb = np.empty((1, *size, 3), np.uint8)
        self._aux = np.empty((1, *self.aux_size, manifest.aux.channels), np.uint8)
        self._masked = np.empty(size, np.uint8)
        self._enlarge = Enlarger(size, size)
        # Whose scene is being embedded beside the pairs, and since which of its beginnings.
        self._aside: tuple[SceneMemory, int] | None = None

    def __call__(self, rgb: Image, aux: Image, min_confidence: float = 0.0,
                 smoother: MaskSmoother | None = None, stamp_ns: int = 0,
                 scene: SceneMemory | None = None) -> Segmentation:
        """Segment rgb uint8 (H, W, 3) with aux uint8 (h, w) or (h, w, C), as the manifest says.

        Both show the same field of view; their sizes may differ. Pixels whose confidence, smoothed
        if there is a `smoother`, is below `min_confidence` (0..1) become UNLABELED. `stamp_ns` is
        the time of the smoother and of the `scene` memory, without which a bundle of two graphs
        runs both on every pair.
        """
        began = time.perf_counter()
        channels = self.manifest.aux.channels
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise RgbxSegError(f'rgb is {rgb.dtype} {rgb.shape}; expected uint8 (H, W, 3).')
        if aux.dtype != np.uint8 or (aux.shape[2] if aux.ndim == 3 else 1) != channels:
            raise RgbxSegError(f'aux is {aux.dtype} {aux.shape}; expected uint8 with {channels} '
                               'channels, as `thermal.to_uint8` gives it.')
        tensors = _to_tensor(rgb, self._rgb), _to_tensor(aux, self._aux)
        started = time.perf_counter()
        label, confidence, scene_ms = self._run(*tensors, scene, stamp_ns)
        ended = time.perf_counter()
        if smoother is not None:
            label, confidence = smoother(label, confidence, stamp_ns)
        label = self._unlabel(label, confidence, min_confidence)
        decided = time.perf_counter()
        if self._enlarge.size != rgb.shape[:2]:
            self._enlarge = Enlarger(label.shape, rgb.shape[:2])
        mask, sure = self._enlarge(label), self._enlarge(confidence)
        now = time.perf_counter()
        return Segmentation(mask, sure, (ended - started) * 1e3, (now - began) * 1e3,
                            (started - began + now - decided) * 1e3, scene_ms)

    def _run(self, rgb: Image, aux: Image, memory: SceneMemory | None,
             stamp_ns: int) -> tuple[Image, Image, float]:
        """Return label and confidence (H, W) of the network, and the ms the scene graph took."""
        if self.manifest.scene is None:
            label, confidence = self.engine(rgb, aux)
            return label[0], confidence[0], 0.0
        began = time.perf_counter()
        scene, is_new = self._scene(rgb, aux, memory, stamp_ns)
        scene_ms = (time.perf_counter() - began) * 1e3 if is_new else 0.0
        label, confidence = self.engine(rgb, aux, scene)
        return label[0], confidence[0], scene_ms

    def _scene(self, rgb: Image, aux: Image, memory: SceneMemory | None,
               stamp_ns: int) -> tuple[Scene, bool]:
        """Return the embeddings that serve this pair, and whether they were made of it now."""
        if memory is None:
            return self.engine.embed(rgb, aux), True
        engine: Any = self.engine
        if self._aside is not None and (late := engine.embedded()) is not None:
            owner, epoch = self._aside
            owner.keep_late(late, epoch)
            self._aside = None
        scene = memory.recall(stamp_ns)
        if scene is not None:
            return scene, False
        old = memory.outlived() if self._may_embed_aside else None
        if old is None:
            return memory.keep(engine.embed(rgb, aux)), True
        if self._aside is None:
            engine.embed_later(rgb, aux)
            self._aside = (memory, memory.begin())
        return old, False

    def _unlabel(self, label: Image, confidence: Image, min_confidence: float) -> Image:
        """Return the label with UNLABELED where it is not certain enough, in a buffer of ours."""
        floor = math.ceil(round(min_confidence * 255, 6))  # the least confidence that is kept
        if floor <= 0:
            return label
        cv2.threshold(confidence, floor - 1, UNLABELED, cv2.THRESH_BINARY_INV, self._masked)
        return cv2.bitwise_or(label, self._masked, self._masked)  # all bits of 255 are ones

    def set_classes(self, choice: Choice, runs: int = 0) -> None:
        """Find other classes from the next call on, after `runs` black pairs with them.

        Raises what the engine raises, and then goes on with the classes that it had; an engine that
        cannot take them again is closed.
        """
        manifest = replace(self.manifest, classes=choice.classes)
        self.engine.set_classes(choice.rows)
        try:
            self.warm_up(runs)
        except Exception:
            if self._choice is not None:
                try:
                    self.engine.set_classes(self._choice.rows)
                except Exception:  # nobody knows what it finds now: better no mask
                    self.engine.close()
            raise
        self.classes_version += self._choice is not None
        self.manifest, self._choice = manifest, choice

    @property
    def classes_sha256(self) -> str:
        """Return the SHA-256 of the chosen classes and their embeddings; '' if none were chosen."""
        if self._choice is None:
            return ''
        told = repr(self._choice.classes).encode() + self._choice.rows.tobytes()
        return hashlib.sha256(told).hexdigest()

    def warm_up(self, runs: int) -> float:
        """Run `runs` black pairs; return the milliseconds of the last one."""
        rgb = np.zeros((*self.rgb_size, 3), np.uint8)
        aux = np.zeros((*self.aux_size, self.manifest.aux.channels), np.uint8)
        return [self(rgb, aux).total_ms for _ in range(runs)][-1] if runs else 0.0


def _to_tensor(image: Image, buffer: Image) -> Image:
    """Return `image` as the engine's input (1, H, W, C): a view, or else resized into `buffer`."""
    height, width = buffer.shape[1:3]
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image).reshape(buffer.shape)
    inside = buffer[0] if buffer.shape[3] > 1 else buffer[0, ..., 0]
    resize_to(image, height, width, inside)
    return buffer


def resize_to(image: Image, height: int, width: int, out: Image | None = None) -> Image:
    """Return `image` at the network's size: halved while it can be, then bilinear.

    Training resizes with this function too, so that the robot sees what the network learned.
    `out`, of that size, takes the result if there is anything to resize. Against cv2.INTER_AREA
    the median difference is 48 to 59 dB (PSNR), and the time a sixth where the sizes are no
    multiples of each other.
    """
    size = (width, height)
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width and not (
            image.shape[0] % 2 or image.shape[1] % 2):
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, out if half == size else None,
                           interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    tall, wide = image.shape[:2]
    # Bilinear looks at two pixels a side, so it may not leave out others between them.
    method = cv2.INTER_AREA if tall > 2 * height or wide > 2 * width else cv2.INTER_LINEAR
    return cv2.resize(image, size, out, interpolation=method)


class Enlarger:
    """Resizes uint8 (h, w) of one size to another by nearest: ids are never blended.

    Every bit as cv2.INTER_NEAREST_EXACT does it, two to three times faster: a row that repeats is
    copied as a whole.
    """

    def __init__(self, source: tuple[int, int], size: tuple[int, int]) -> None:
        """Look up which row and which column of `source` (h, w) each one of `size` (H, W) shows."""
        self.size = size
        (height, width), (tall, wide) = source, size
        self._whole = (tall // height, wide // width) if not (tall % height or wide % width) else ()
        if not self._whole:
            self._rows, self._columns = (nearest(*lengths) for lengths in
                                         ((height, tall), (width, wide)))
            self._turned = np.empty((width, height), np.uint8)
            self._turned_wide = np.empty((wide, height), np.uint8)
        self._wide = np.empty((height, wide), np.uint8)

    def __call__(self, array: Image) -> Image:
        """Return `array` in the other size; always a new array."""
        if self._whole == (1, 1):
            return array.copy()
        out = np.empty(self.size, np.uint8)
        if self._whole:
            down, across = self._whole
            height, width = array.shape
            cv2.merge([array] * across, self._wide.reshape(height, width, across))
            out.reshape(height, down, self.size[1])[:] = self._wide[:, None]
            return out
        # take copies whole rows only along the first axis; hence columns are taken as rows. Its
        # mode clip (no index is out of range) saves it a buffer.
        cv2.transpose(array, self._turned)
        np.take(self._turned, self._columns, 0, self._turned_wide, 'clip')
        cv2.transpose(self._turned_wide, self._wide)
        return np.take(self._wide, self._rows, 0, out, 'clip')


def nearest(length: int, wanted: int) -> NDArray[np.intp]:
    """Return the index 0..length-1 that each of `wanted` pixels shows, as OpenCV chooses it."""
    ramp = np.arange(length, dtype=np.uint16)[None]
    return cv2.resize(ramp, (wanted, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.intp)
