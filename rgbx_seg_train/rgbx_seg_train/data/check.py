# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What is looked at before the first step: every label's values and size, every modality.

A label that was found right is not read again until it, its image or the rule for it changes. What
cannot be decoded is no error here: training skips and counts it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.register import write_atomically
from rgbx_seg_train.config import Config
from rgbx_seg_train.data import images, labels, public
from rgbx_seg_train.data.public import Entry, PublicSet
from rgbx_seg_train.data.sample import CorruptImage, Samples
from rgbx_seg_train.data.sources import innermost

MAX_THREADS = 16
State = list[int]  # size and time of a label and of its image
Item = TypeVar('Item')
Result = TypeVar('Result')


def verify(sets: Sequence[Samples], config: Config) -> None:
    """Check all labels of `sets` but those that are not shown, and the modalities.

    Right labels are remembered in `config.data.cache`.

    Raises:
        RgbxSegError: a label has an unknown value or another size than its image, a file is not
            there, or the model is built for other modalities.

    """
    opened = [innermost(samples) for samples in sets]
    for inner in opened:
        verify_modality(inner, config.model.modalities)
    for inner in opened:
        if isinstance(inner, PublicSet) and inner.labeled:
            _verify_labels(inner, Path(config.data.cache))


def size_problem(samples: PublicSet, entry: Entry, size: tuple[int, int]) -> str:
    """Return the sentence about a label whose `size` is not its RGB image's, or nothing."""
    rgb = samples.rgb_size(entry)
    if rgb == size:
        return ''
    return (f'{entry.label}: the label is {size[1]}x{size[0]} and the RGB image {rgb[1]}x{rgb[0]}; '
            'expected one size; replace one of them.')


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], title: str
               ) -> Iterator[Result]:
    """Yield the results of `work` in order, by as many threads as there are cores, with a bar."""
    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)  # decoders release the GIL
    executor = ThreadPoolExecutor(threads)
    try:
        yield from tqdm(executor.map(work, items), title, len(items), unit='file', leave=False,
                        disable=None)
    finally:
        executor.shutdown(cancel_futures=True)


def verify_modality(samples: Samples, built_for: Sequence[str]) -> None:
    """Raise RgbxSegError if `built_for` names modalities, but not that of the samples."""
    settings = getattr(samples, 'settings', samples)  # rendered scenes have them
    modality = getattr(settings, 'modality', None)
    if modality is not None and built_for and modality not in built_for:
        where = getattr(samples, 'root', 'a source of rendered scenes')
        raise RgbxSegError(f'{where}: the second images are {modality}, the model is built for '
                           f'{", ".join(built_for)}; expected one of these; add it to '
                           'model.modalities or leave the source out.')


def _verify_labels(samples: PublicSet, cache: Path) -> None:
    memory = _Memory(samples, cache)
    new = memory.unknown(entry for entry in samples.entries if entry.label is not None)

    def right(item: tuple[Entry, State]) -> bool:
        entry = item[0]
        try:
            problem = size_problem(samples, entry, samples.read_label(entry).shape)
        except CorruptImage:
            return False
        if problem:
            raise RgbxSegError(problem)
        return True

    try:
        title = f'checking labels of {samples.source.kind}'
        for (entry, state), good in zip(new, in_threads(right, new, title), strict=True):
            if good:
                memory.good[str(entry.label)] = state
    finally:
        if new:
            memory.write()


class _Memory:
    """The labels of one set that were found right, in a file of the cache."""

    def __init__(self, samples: PublicSet, cache: Path) -> None:
        rule = hashlib.sha256(samples.label_rule().encode())
        modules = (images, labels, public, inspect.getmodule(type(samples)))
        for module in modules:  # what was right under other code is read again
            rule.update(Path(inspect.getfile(module)).read_bytes())
        rule.update(str(samples.root.absolute()).encode())
        self.path = cache / f'labels-{samples.source.kind}-{rule.hexdigest()[:16]}.json'
        self.good: dict[str, State] = {}
        try:
            found = json.loads(self.path.read_text(encoding='utf-8'))
        except (OSError, ValueError):  # none yet, or broken: everything is read again
            return
        self.good = found if isinstance(found, dict) else {}

    def unknown(self, entries: Iterable[Entry]) -> list[tuple[Entry, State]]:
        """Return the entries that are not known to be right, with the state of their files."""
        states = [(entry, _state(entry)) for entry in entries]
        return [(entry, state) for entry, state in states
                if self.good.get(str(entry.label)) != state]

    def write(self) -> None:
        """Replace the file."""
        write_atomically(self.path, json.dumps(self.good).encode())


def _state(entry: Entry) -> State:
    try:
        found = [path.stat() for path in (entry.label, entry.rgb)]
    except OSError:
        missing = entry.rgb if entry.label.is_file() else entry.label
        raise RgbxSegError(f'{missing}: no such file; expected one of each pair; restore it.'
                           ) from None
    return [value for stat in found for value in (stat.st_size, stat.st_mtime_ns)]
