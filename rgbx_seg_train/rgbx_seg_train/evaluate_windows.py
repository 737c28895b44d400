# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How papers run a network: logits upsampled to the label's size before the class is chosen.

The image goes in as a whole, at the network's size or at one of one's choice; or in windows that
overlap, whose logits are averaged, perhaps beside the whole; or at several scales and mirrored.
Probabilities of several passes are averaged, and of windows those of networks whose criterion is
`binary`, as CAT-Seg does: what one window leaves out has a logit there that would outweigh others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.data.augment import mirror
from rgbx_seg_train.data.sample import Image, Sample
from rgbx_seg_train.export_graph import BundleGraph, read_images
from rgbx_seg_train.losses import probabilities

Size = tuple[int, int]  # (H, W)

STEP = 32  # sides are multiples of it, as the public code of RGB-X networks has them
SIZES = ('network', 'native')
SHIFT = 2 / 3  # of a window to the next one
LARGEST = 8192  # pixels of a side


@dataclass(frozen=True)
class Passes:
    """How often and at which size an image goes through the network."""

    size: str = 'network'  # or native, or the short side in pixels, or WxH
    window: bool = False  # in windows of the network's size
    whole: bool = False  # beside windows: one more pass, of the whole image at the network's size
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no size and no scale."""
        sides = [int(side) if side.isdecimal() else 0 for side in self.size.split('x')]
        if self.size not in SIZES and not (
                len(sides) <= 2 and all(STEP <= side <= LARGEST for side in sides)):
            raise RgbxSegError(f'--size is {self.size}; expected network, native, the short side '
                               f'in pixels, or WxH, {STEP} to {LARGEST}.')
        if self.whole and not self.window:
            raise RgbxSegError('--whole is of --window, beside whose windows it adds a pass of '
                               'the whole image; expected both; add --window or leave it out.')
        if not self.scales or not all(0.1 <= scale <= 4 for scale in self.scales):
            raise RgbxSegError(f'--scales is {",".join(map(str, self.scales))}; expected numbers '
                               'of 0.1 to 4, such as 0.75,1,1.25.')

    def size_for(self, native: Size, network: Size, scale: float) -> Size:
        """Return the size at which an image of a native size goes into the network."""
        if self.size == 'network':
            return network if scale == 1 else _rounded_up(network, scale)
        if 'x' in self.size:
            width, height = map(int, self.size.split('x'))
            return _rounded_up((height, width), scale)
        short = min(native) if self.size == 'native' else int(self.size)
        return _rounded_up(native, scale * short / min(native))

    def words(self, network: Size, criterion: str) -> str:
        """Return all that in words, for a network that was trained by a criterion."""
        other = f'resized to {self.size}' if 'x' in self.size else (
            f'with a short side of {self.size}')
        size = {'network': f'resized to {network[1]}x{network[0]}',
                'native': 'at its own size'}.get(self.size, other)
        parts = [f'The image goes in {size}']
        if self.size != 'network':
            parts.append(f'sides rounded up to multiples of {STEP}')
        if self.window:
            parts.append(f'in windows of {network[1]}x{network[0]} that overlap by a third, '
                         f'{"probabilities" if criterion == "binary" else "logits"} averaged')
        if self.whole:
            parts.append(f'as a whole resized to {network[1]}x{network[0]}')
        if self.scales != (1.0,):
            parts.append('at the scales ' + ', '.join(f'{scale:g}' for scale in self.scales))
        if self.flip:
            parts.append('also mirrored')
        if self.several:
            parts.append('probabilities averaged')
        return ', '.join(parts) + '.'

    @property
    def count(self) -> int:
        """Return how many passes there are."""
        return len(self.scales) * (1 + self.flip) * (1 + self.whole)

    @property
    def several(self) -> bool:
        """Return whether there is more than one pass."""
        return self.count > 1


class WholeImages:
    """Runs the graph of a bundle on samples by the protocol of papers."""

    def __init__(self, graph: BundleGraph, network: Size, passes: Passes,
                 criterion: str = 'cross_entropy') -> None:
        """Take the graph of one modality and one data set's classes, and the network's size.

        `criterion` is that of training, which says what the logits stand for.
        """
        self._graph, self._network, self._passes = graph.eval(), network, passes
        self._criterion = criterion
        self._windows_of_chances = passes.window and criterion == 'binary'
        self._device = next((one.device for one in graph.parameters()), torch.device('cpu'))

    @torch.inference_mode()
    def __call__(self, sample: Sample, ids: Image | None = None) -> tuple[Image, Image]:
        """Return label and confidence uint8 (H, W) at the size of the label.

        `ids` are those that the graph's channels stand for, by default 0, 1, 2 …
        """
        native = sample.label.shape
        total: Tensor | None = None
        for scores in self._scores(sample, native):
            if self._passes.several and not self._windows_of_chances:
                scores = probabilities(scores, self._criterion)
            total = scores if total is None else total + scores
        assert total is not None
        chances = (total / self._passes.count if self._passes.several or self._windows_of_chances
                   else probabilities(total, self._criterion))
        label = total[0].argmax(0).to(torch.uint8).cpu().numpy()
        confidence = (chances[0].amax(0) * 255 + 0.5).to(torch.uint8).cpu().numpy()
        return label if ids is None else ids[label], confidence

    def _scores(self, sample: Sample, native: Size) -> Iterator[Tensor]:
        """Yield what `_run` returns of each pass, (1, N, H, W) at the size of the label."""
        for scale in self._passes.scales:
            size = self._passes.size_for(native, self._network, scale)
            for mirrored in (False, True)[:1 + self._passes.flip]:
                for goal in (size, self._network)[:1 + self._passes.whole]:
                    scores = self._run(*self._images(sample, goal, mirrored))
                    if mirrored:
                        scores = scores.flip(-1)
                    yield functional.interpolate(scores.float(), native, mode='bilinear',
                                                 align_corners=False)

    def _images(self, sample: Sample, size: Size, mirrored: bool) -> tuple[Tensor, Tensor]:
        """Return rgb and aux (1, 3, h, w) as the network reads them."""
        pair = sample.rgb, sample.aux
        if mirrored:
            pair = mirror(sample.rgb), mirror(sample.aux, sample.odd_channels)
        arrays = (resize_to(np.ascontiguousarray(image), *size).reshape(1, *size, -1)
                  for image in pair)
        return read_images(*(torch.from_numpy(np.array(array)).to(self._device)
                             for array in arrays), self._graph.zero_aux)

    def _run(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Return logits (1, N, h, w) of images (1, 3, h, w), or probabilities; in windows if asked.
        """
        size = rgb.shape[2:]
        window = tuple(min(pair) for pair in zip(size, self._network, strict=True))
        if not self._passes.window or window == tuple(size):
            return self._answer(rgb, aux)
        total: Tensor | None = None
        count = torch.zeros(size, device=rgb.device)
        for top in starts(size[0], window[0]):
            for left in starts(size[1], window[1]):
                place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
                scores = self._answer(rgb[place], aux[place])
                if total is None:
                    total = scores.new_zeros(1, scores.shape[1], *size)
                total[place] += scores
                count[place] += 1
        assert total is not None
        return total / count

    def _answer(self, rgb: Tensor, aux: Tensor) -> Tensor:
        logits = self._graph.logits(rgb, aux)
        return probabilities(logits, self._criterion) if self._windows_of_chances else logits


def starts(length: int, window: int) -> list[int]:
    """Return where windows begin that cover a length; the last one ends with it."""
    shift = max(1, round(SHIFT * window))
    count = math.ceil((length - window) / shift) + 1
    return [min(number * shift, length - window) for number in range(count)]


def _rounded_up(size: Size, factor: float) -> Size:
    height, width = (math.ceil(side * factor / STEP - 1e-6) * STEP for side in size)
    return height, width
