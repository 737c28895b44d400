# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Batches of a mixture, read ahead by processes or a thread, in the same order by each of them.

Batch k is a function of the seed and of its samples' numbers alone. A worker never raises: what it
could not do comes back as a sentence, which the loader raises where the batch was due.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import TrainConfig
from rgbx_seg_train.data.sample import Batch
from rgbx_seg_train.data.sources import Mixture

AHEAD = 2  # batches that each worker, or the thread, has ready
MAX_WORKERS = 16  # of one process: more than any GPU of today empties
FEW_SAMPLES, FEW_FILES = 300, 2  # so few say nothing about the share of corrupt ones
SHARED_MEMORY = '/dev/shm'
# Each worker imports what the program that is run imports; these the fork server imports for all.
SLOW_MODULES = {'accelerate', 'transformers', 'rgbx_seg_train.train'}


class Loader:
    """A context manager whose batches are read ahead; see `batches`.

    `corrupt` counts how often each sentence about an unreadable sample was drawn; `tell` hears each
    of them once.
    """

    def __init__(self, mixture: Mixture, batch_size: int, config: TrainConfig,
                 device: torch.device, tell: Callable[[str], None] | None = None) -> None:
        """Take what to read and for which device; nothing starts before `batches`."""
        self._batches, self._config, self._device = _Batches(mixture, batch_size), config, device
        self._tell = tell or (lambda sentence: tqdm.write(f'note: {sentence}', sys.stderr))
        self.workers = config.workers
        if self.workers is None:
            self.workers = fitting_workers(device, batch_size * mixture.sample_bytes)
        self.corrupt: Counter[str] = Counter()
        self.drawn = 0  # samples, corrupt ones too
        self._open: list[Iterator[Batch]] = []

    def __enter__(self) -> Loader:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        while self._open:
            self._open.pop().close()

    def batches(self, first: int, stride: int) -> Iterator[Batch]:
        """Return endless batches of arrays: the kth has the samples from first + k * stride on.

        Reading begins at once. Arrays for a GPU lie in pinned memory, from which nobody waits for
        a copy.

        Raises:
            RgbxSegError: a sample is wrong, a worker died, or more samples than
                `train.max_corrupt` cannot be read.

        """
        numbers = _Numbers(first, stride)
        parcels = self._by_processes(numbers) if self.workers else _by_thread(self._batches,
                                                                              numbers)
        next(parcels)  # runs up to where the reading has begun
        checked = self._checked(parcels)
        self._open.append(checked)
        return checked

    def _checked(self, parcels: Iterator[_Parcel]) -> Iterator[Batch]:
        try:
            for parcel in parcels:
                if parcel.failure:
                    raise RgbxSegError(parcel.failure)
                batch = parcel.batch()
                self._count(batch)
                yield batch
        finally:
            parcels.close()

    def _count(self, batch: Batch) -> None:
        self.drawn += len(batch.names) + len(batch.corrupt)
        for sentence in batch.corrupt:
            if sentence not in self.corrupt:
                self._tell(f'{sentence} Another sample takes its place.')
            self.corrupt[sentence] += 1
        count, limit = self.corrupt.total(), self._config.max_corrupt
        few = limit and len(self.corrupt) <= FEW_FILES
        if count > limit * max(self.drawn, FEW_SAMPLES) and not few:
            some = ' '.join(list(self.corrupt)[:3])
            raise RgbxSegError(f'{count} of {self.drawn} samples could not be read, of '
                               f'{len(self.corrupt)} files; expected a share of at most '
                               f'train.max_corrupt ({limit:g}); the first are: {some}')

    def _by_processes(self, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield None once the workers have their first tasks, then the parcels in order."""
        context = multiprocessing.get_context('forkserver')
        context.set_forkserver_preload([__name__, *(sys.modules.keys() & SLOW_MODULES)])
        # With a generator of its own it draws nothing from torch's, which a resumed run repeats.
        with _interrupts_held():
            iterator = iter(DataLoader(
                self._batches, batch_size=None, sampler=numbers, num_workers=self.workers,
                prefetch_factor=AHEAD, pin_memory=self._device.type == 'cuda',
                worker_init_fn=_begin_worker, multiprocessing_context=context,
                generator=torch.Generator()))
        yield None
        while True:
            try:
                parcel = next(iterator)
            except RuntimeError as error:  # a worker was killed, or could not start
                reason = str(error).splitlines()[0].rstrip('. ')
                raise RgbxSegError(f'a process that reads ahead ended: {reason}; expected it to '
                                   f'live: it may lack memory, or room in {SHARED_MEMORY}; lower '
                                   'train.workers (0 = a thread).') from None
            yield parcel


def fitting_workers(device: torch.device, batch_bytes: int) -> int:
    """Return how many processes should read ahead for one process that trains on `device`.

    On a processor, training itself takes all cores, and a thread of it is enough. Beside a GPU all
    cores but one read, shared among the processes of this machine, as far as shared memory holds
    their batches (a container may have 64 MB of it).
    """
    if device.type == 'cpu':
        return 0
    sharing = max(int(os.environ.get('LOCAL_WORLD_SIZE', 1)), 1)
    cores = len(os.sched_getaffinity(0)) // sharing - 1
    free = 0
    with suppress(OSError):
        free = shutil.disk_usage(SHARED_MEMORY).free
    room = free // (2 * sharing * (AHEAD + 1) * batch_bytes)
    return max(min(cores, room, MAX_WORKERS), 0)


@dataclass
class _Parcel:
    """A batch on its way from a worker, as tensors in shared memory; or why there is none."""

    tensors: tuple[Tensor, ...] = ()
    rest: tuple[Any, ...] = ()
    failure: str = ''

    def pin_memory(self) -> _Parcel:
        """Return a copy from which a GPU can fetch by itself; called by DataLoader."""
        return _Parcel(tuple(tensor.pin_memory() for tensor in self.tensors), self.rest,
                       self.failure)

    def batch(self) -> Batch:
        """Return the batch; its arrays share memory with the tensors."""
        return Batch(*(tensor.numpy() for tensor in self.tensors), *self.rest)


class _Batches(Dataset[_Parcel]):
    """The batches of a mixture by the number of their first sample."""

    def __init__(self, mixture: Mixture, size: int) -> None:
        self._mixture, self._size = mixture, size

    def __getitem__(self, first: int) -> _Parcel:
        try:
            batch = self._mixture.batch(first, self._size)
        except RgbxSegError as error:
            return _Parcel(failure=str(error))
        except Exception as error:  # a traceback of another process helps no user
            return _Parcel(failure=f'the samples from {first} on could not be made: '
                                   f'{type(error).__name__}: {error}; expected images, labels and '
                                   'settings that fit; check data and augment.')
        return _Parcel(tuple(torch.from_numpy(array) for array in batch[:3]), tuple(batch[3:]))


@dataclass
class _Numbers:
    first: int
    stride: int

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first, self.stride)


def _by_thread(batches: _Batches, numbers: Iterable[int]) -> Iterator[Any]:
    """Yield None once a thread has begun, then the parcels; OpenCV works without Python's lock."""
    todo = iter(numbers)
    with ThreadPoolExecutor(1, 'loader') as thread:
        waiting: list[Future[_Parcel]] = [thread.submit(batches.__getitem__, next(todo))
                                          for _ in range(AHEAD)]
        try:
            yield None
            while True:
                parcel = waiting.pop(0).result()
                waiting.append(thread.submit(batches.__getitem__, next(todo)))
                yield parcel
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hear Ctrl+C at the end only; processes that start in between never do.

    Interrupted halfway, their start leaves some that complain of queues that are gone.
    """
    resource_tracker.ensure_running()  # else the start does that, which lets Ctrl+C through again
    heard: list[int] = []
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # is inherited
    # Another thread of this process may still take the signal, and this one then acts upon it.
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        if heard:
            signal.raise_signal(signal.SIGINT)


def _begin_worker(number: int) -> None:
    """Prepare a worker: one thread, no Ctrl-C of its own, and no life after its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # torch watches the fork server instead, which lives as long as the workers.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
