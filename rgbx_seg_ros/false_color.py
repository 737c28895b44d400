# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Color images of a thermal camera back to the gray that its palette was applied to.

A frame whose colors lie on one of OpenCV's color maps is looked up in that map, backwards. All
else becomes its luminance, which is monotonic in temperature for the palettes from black to
white (iron, hot), but not for rainbows; see docs/thermal.md.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

PALETTES = {'jet': cv2.COLORMAP_JET, 'turbo': cv2.COLORMAP_TURBO, 'rainbow': cv2.COLORMAP_RAINBOW,
            'hot': cv2.COLORMAP_HOT, 'inferno': cv2.COLORMAP_INFERNO,
            'magma': cv2.COLORMAP_MAGMA, 'plasma': cv2.COLORMAP_PLASMA,
            'viridis': cv2.COLORMAP_VIRIDIS}
SAMPLES = 1200  # pixels that a frame is judged by
GRAY = 8  # largest difference of a gray pixel's channels, after JPEG
COLORED = 30  # smallest difference of the channels of a pixel that can tell a palette
NEAR = 30  # largest distance of a pixel from its palette's curve, after JPEG
FIT = 0.9  # share of the colored pixels that must be near: the rest is text and crosshairs
KEEP = 0.7  # share at which a recognized palette is given up again
SPREAD = 48  # palette entries that the colored pixels must span, else any color would do


def palette_colors(name: str) -> NDArray[np.uint8]:
    """Return the 256 RGB colors of a palette (256, 3), coldest first."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return cv2.cvtColor(cv2.applyColorMap(ramp, PALETTES[name]), cv2.COLOR_BGR2RGB)[:, 0]


def is_gray(image: Array) -> bool:
    """Tell whether the three channels (H, W, 3) are equal but for compression, by a sample."""
    return bool(np.percentile(_chroma(_sample(image)), 99) <= GRAY)


def recognize(image: Array) -> str:
    """Return the name of the palette that the colors of `image` (RGB) lie on, or ''."""
    sample = _sample(image)
    colored = sample[_chroma(sample) > COLORED].astype(np.float32)
    if len(colored) < 0.2 * len(sample):
        return ''
    best = ('', np.inf)
    for name in PALETTES:
        nearest, distance = _nearest(colored, palette_colors(name))
        low, high = np.percentile(nearest, (5, 95))
        fits = high - low >= SPREAD and (distance <= NEAR).mean() >= FIT
        if fits and distance.mean() < best[1]:
            best = name, float(distance.mean())
    return best[0]


class Inverse:
    """Looks up the palette entry nearest to each pixel, in a table of 16-bit (565) colors."""

    def __init__(self, name: str) -> None:
        """Build the table, once per palette."""
        colors = palette_colors(name)
        # The middles of the 32 x 64 x 32 cells; a pass per entry is quicker than all at once.
        red, green, blue = (np.arange(256 // size, dtype=np.float32) * size + size / 2
                            for size in (8, 4, 8))
        entry = np.zeros((32, 64, 32), np.uint8)
        best = np.full(entry.shape, np.inf, np.float32)
        for index, (r, g, b) in enumerate(colors.astype(np.float32)):
            across = ((red - r) ** 2)[:, None] + (green - g) ** 2
            squared = across[..., None] + (blue - b) ** 2
            entry[squared < best] = index
            np.minimum(best, squared, out=best)
        self.entry, self.near = entry.ravel(), best.ravel() <= NEAR ** 2
        # Cells that the palette passes through hold the mean of its entries there.
        own = _pack(colors[None])[0]
        count = np.bincount(own, minlength=1 << 16)
        total = np.bincount(own, weights=np.arange(256), minlength=1 << 16)
        hit = count > 0
        self.entry[hit] = (total[hit] / count[hit] + 0.5).astype(np.uint8)

    def __call__(self, image: Array) -> NDArray[np.uint8] | None:
        """Return the palette entries (H, W) of `image` (RGB), None where it does not fit."""
        code = _pack(image)
        colored = _chroma(_sample(image)) > COLORED
        near = self.near[_sample(code[..., None])[:, 0]]
        if colored.any() and near[colored].mean() < KEEP:
            return None
        return self.entry[code]


class FalseColor:
    """Makes color images gray; remembers the palette from frame to frame."""

    def __init__(self) -> None:
        """Start without a palette."""
        self._inverse: dict[str, Inverse] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the palette, as when another camera may follow."""
        self.palette = ''
        self._tries = 0

    def __call__(self, image: Array, encoding: str) -> NDArray[np.uint8] | None:
        """Return the gray (H, W) by the palette of `image` (RGB), or None if it has none known.

        8UC3 does not say its color order and is tried in both.
        """
        swapped = [False, True] if encoding == '8UC3' else [False]
        for swap in swapped:
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if swap else image
            gray = self._inverse[self.palette](rgb) if self.palette else None
            if gray is not None:
                return gray
        # A search takes milliseconds: for a camera without a palette, not on every frame.
        self._tries += 1
        if not self.palette and self._tries > 5 and self._tries % 30:
            return None
        for swap in swapped:
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if swap else image
            self.palette = recognize(rgb)
            if self.palette:
                if self.palette not in self._inverse:
                    self._inverse[self.palette] = Inverse(self.palette)
                return self._inverse[self.palette](rgb)
        return None


def _sample(image: Array) -> Array:
    step = max(1, int((image.shape[0] * image.shape[1] / SAMPLES) ** 0.5))
    return image[::step, ::step].reshape(-1, image.shape[2])


def _chroma(pixels: Array) -> Array:
    return pixels.max(axis=1) - pixels.min(axis=1)


def _pack(image: Array) -> Array:
    return cv2.cvtColor(image, cv2.COLOR_RGB2BGR565).view(np.uint16)[..., 0]


def _nearest(pixels: Array, colors: Array) -> tuple[Array, Array]:
    """Return the index of the color nearest to each pixel (n, 3), and their distance."""
    palette = colors.astype(np.float32)
    # |p - c|^2 = |p|^2 - 2 p c + |c|^2, of which only the last two depend on c.
    part = pixels @ (-2 * palette.T) + (palette ** 2).sum(axis=1)
    nearest = part.argmin(axis=1)
    squared = (pixels ** 2).sum(axis=1) + part[np.arange(len(part)), nearest]
    return nearest, np.sqrt(np.maximum(squared, 0))
