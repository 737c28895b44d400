# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of one modality each, for the contrastive loss: which, is decided by seed and step alone.

Within a modality each pass has an order of its own, cut into whole batches: no pair comes twice in
a pass, and what is left at the end of an order waits for another one. A batch shows a pair twice
only if it is larger than the set, or if one takes the place of another that cannot be read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.captions import CaptionTable
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.augment import augment
from rgbx_seg_train.data.sample import CorruptImage, Image, Sample, Samples
from rgbx_seg_train.data.sources import modality_of, stack

STREAM = 0xC11B
ATTEMPTS = 20  # to find a readable pair in the place of a corrupt one


class PairBatch(NamedTuple):
    """Pairs of one modality."""

    rgb: Image  # (B, H, W, 3)
    aux: Image  # (B, H, W, C)
    captions: NDArray[np.int64]  # (B,) into CaptionTable.texts
    modality: str
    corrupt: tuple[str, ...]  # sentences about pairs that could not be read


class PairBatches:
    """The batches of a run; `world` processes share each of them."""

    def __init__(self, sets: Sequence[Samples], captions: CaptionTable, config: Config,
                 world: int = 1) -> None:
        """Decide which modality each step has."""
        self._sets, self._captions, self._config = tuple(sets), captions, config
        self._size = config.pretrain.batch_size
        self._pairs: dict[str, list[tuple[int, int]]] = {}  # modality -> (set, sample)
        weights: dict[str, float] = {}
        for number, (source, samples) in enumerate(zip(config.data.train, sets, strict=True)):
            modality = modality_of(source, config.data)
            pairs = self._pairs.setdefault(modality, [])
            pairs += [(number, index) for index in range(len(samples))]
            weight = (len(samples) if config.data.sampling == 'concatenated' else source.weight)
            weights[modality] = weights.get(modality, 0.0) + weight
        if not self._pairs or sum(weights.values()) <= 0:
            raise RgbxSegError('data.train holds nothing to learn from; expected sources of one '
                               'or more modalities with a weight above 0; add one.')
        self.modalities = tuple(self._pairs)
        self._world = self._size * world
        total = sum(map(len, self._pairs.values()))
        self.steps_per_epoch = max(1, math.ceil(total / self._world))
        self.steps = max(1, math.ceil(config.pretrain.epochs * total / self._world))
        self.n_pairs = total
        self._schedule, self._before = _schedule(list(weights.values()), self.steps,
                                                 config.train.seed)

    def batch(self, step: int, rank: int = 0) -> PairBatch:
        """Return one process's share of the batch of a step."""
        which = int(self._schedule[step])
        modality = self.modalities[which]
        pairs = self._pairs[modality]
        passes = max(len(pairs) // self._world, 1)  # batches of a pass
        number, chunk = divmod(int(self._before[step]), passes)
        order = _permutation(self._config.train.seed, which, number, len(pairs))
        first = chunk * self._world + rank * self._size
        samples, captions, corrupt = [], [], []
        for place in range(first, first + self._size):
            rng = np.random.Generator(np.random.SFC64(
                [self._config.train.seed, STREAM, step, place]))
            sample, pair = self._readable(pairs, int(order[place % len(pairs)]), rng, corrupt)
            data = self._config.data
            samples.append(augment(sample, self._config.augment, data.height, data.width, rng))
            captions.append(self._captions.ids[pair[0]][pair[1]])
        batch = stack(samples, self._config.data)
        return PairBatch(batch.rgb, batch.aux, np.array(captions), modality, tuple(corrupt))

    def _readable(self, pairs: Sequence[tuple[int, int]], place: int, rng: np.random.Generator,
                  corrupt: list[str]) -> tuple[Sample, tuple[int, int]]:
        for _ in range(ATTEMPTS):
            number, index = pairs[place]
            try:
                return self._sets[number][index], pairs[place]
            except CorruptImage as error:
                corrupt.append(str(error))
                place = int(rng.integers(len(pairs)))
        raise CorruptImage(f'{ATTEMPTS} pairs in a row cannot be read, such as: {corrupt[-1]}')

    def ahead(self, first: int, rank: int = 0, workers: int = 2) -> Iterator[PairBatch]:
        """Yield the batches from step `first` on, made ahead of time by some threads."""
        queue: deque[Future[PairBatch]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            try:
                for step in range(first, self.steps + workers):
                    if step < self.steps:
                        queue.append(pool.submit(self.batch, step, rank))
                    if step >= first + workers and queue:
                        yield queue.popleft().result()
                while queue:
                    yield queue.popleft().result()
            finally:
                for future in queue:
                    future.cancel()


def _schedule(weights: Sequence[float], steps: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Return each step's modality, and how many steps before it had the same.

    Steps are dealt out by weight as evenly as they can be, then shuffled: a short run, too, sees
    all modalities.
    """
    share = np.cumsum(np.array(weights) / sum(weights))
    middles = (np.arange(steps) + 0.5) / steps
    dealt = np.minimum(np.searchsorted(share, middles, 'right'), len(weights) - 1)
    schedule = np.random.Generator(np.random.SFC64([seed, STREAM])).permutation(dealt)
    before = np.zeros(steps, np.int64)
    for which in range(len(weights)):
        mine = schedule == which
        before[mine] = np.arange(mine.sum())
    return schedule, before


@lru_cache(maxsize=16)
def _permutation(seed: int, which: int, number: int, size: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.SFC64([seed, STREAM, which, number])).permutation(size)
