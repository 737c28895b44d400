# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The labels of a bag's RGB frames: from a topic of it, or from a folder of PNGs named by stamp.

A label belongs to the frame with exactly its stamp.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.label_decoder import Decoder

Image = NDArray[np.uint8]

NS = 1_000_000_000
LEAST_DIGITS = 3  # of a fraction of a second; fewer fit several frames
NAMES = '<nanoseconds>.png, <seconds>.<fraction>.png or <seconds>_<nanoseconds>.png'


def seconds(stamp_ns: int) -> str:
    """Return a stamp as text, in seconds, exactly."""
    return f'{stamp_ns // NS}.{stamp_ns % NS:09d}'


class _File(NamedTuple):
    stamp_ns: int
    tolerance_ns: int
    path: Path


class FolderLabels:
    """The labels of a folder, by the stamps that are their names."""

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        """List the folder; RgbxSegError if nothing in it is a label."""
        if not folder.is_dir():
            raise RgbxSegError(f'{folder}: no such folder, expected one of labels by stamp.')
        self._decoder, self._folder = decoder, folder
        self._files: list[_File] = []
        names = 0
        for path in folder.iterdir():
            names += 1
            if path.suffix.lower() in ('.png', '.jpg', '.jpeg') and (file := _parse(path)):
                self._files.append(file)
        if not self._files:
            raise RgbxSegError(f'{folder}: none of its {names} files is called by a stamp, '
                               f'expected {NAMES}.')
        self._files.sort()
        self.found = len(self._files)

    def take(self, stamp_ns: int) -> Callable[[], Image] | None:
        """Return what reads the label of the RGB frame with this stamp, if there is one."""
        if stamp_ns <= 0:
            return None
        at = bisect_left(self._files, stamp_ns, key=lambda file: file.stamp_ns)
        # Names with few digits are rounded either way; a unit is at most 1 ms, a frame is longer.
        near = [file for file in self._files[max(0, at - 1):at + 1]
                if abs(file.stamp_ns - stamp_ns) < file.tolerance_ns]
        if not near:
            return None
        nearest = min(near, key=lambda file: abs(file.stamp_ns - stamp_ns))
        return partial(self._decoder.of_file, nearest.path)

    def where(self, stamp_ns: int) -> str:
        """Return what an error calls the label of a frame."""
        return f'the label in {self._folder} of the frame at {seconds(stamp_ns)} s'


def _parse(path: Path) -> _File | None:
    """Return the stamp that a label's name tells."""
    if re.fullmatch('[0-9]{1,19}', path.stem):
        return _File(int(path.stem), 1, path)
    found = re.fullmatch(r'([0-9]{1,10})([._])([0-9]{1,9})', path.stem)
    if found is None:
        return None
    if found[2] == '_':
        return _File(int(found[1]) * NS + int(found[3]), 1, path)
    digits = len(found[3])
    if digits < LEAST_DIGITS:
        raise RgbxSegError(f'{path}: its name has {digits} digits of a fraction of a second, '
                           f'expected at least {LEAST_DIGITS}: fewer fit several frames.')
    unit = 10 ** (9 - digits)
    return _File(int(found[1]) * NS + int(found[3]) * unit, unit, path)


class TopicLabels:
    """The labels of a topic, kept until their frame asks, within bounds of time and memory."""

    def __init__(self, topic: str, total: int, decoder: Decoder) -> None:
        """Take the topic and how many messages it has."""
        self.found = total
        self.lost = 0  # labels of no frame
        self._topic, self._decoder = topic, decoder
        self._waiting: dict[int, tuple[int, int, Any]] = {}  # stamp -> reception, bytes, message
        self._bytes = 0
        self._seen = 0

    @property
    def is_over(self) -> bool:
        """Whether the topic has no further label."""
        return self._seen >= self.found

    def add(self, stamp_ns: int, received_ns: int, message: Any) -> None:
        """Take a label as it comes in the bag."""
        self._seen += 1
        self._drop(stamp_ns, lost=True)  # a second one of this stamp is a correction
        size = memoryview(message.data).nbytes
        self._waiting[stamp_ns] = (received_ns, size, message)
        self._bytes += size

    def __contains__(self, stamp_ns: int) -> bool:
        """Return whether the label of a frame is here."""
        return stamp_ns in self._waiting

    def take(self, stamp_ns: int) -> Callable[[], Image] | None:
        """Return what decodes the label of the frame with this stamp, if it has come; once."""
        if stamp_ns not in self._waiting:
            return None
        message = self._waiting[stamp_ns][2]
        self._drop(stamp_ns, lost=False)
        return partial(self._decoder.of_message, message, self.where(stamp_ns))

    def forget(self, before_ns: int, most_bytes: int) -> None:
        """Drop the labels received before a time, then the oldest beyond an amount of memory."""
        while self._waiting:
            oldest = next(iter(self._waiting))
            if self._waiting[oldest][0] >= before_ns and self._bytes <= most_bytes:
                break
            self._drop(oldest, lost=True)

    def where(self, stamp_ns: int) -> str:
        """Return what an error calls the label of a frame."""
        return f'the label on {self._topic} at {seconds(stamp_ns)} s'

    def _drop(self, stamp_ns: int, lost: bool) -> None:
        if stamp_ns in self._waiting:
            self._bytes -= self._waiting.pop(stamp_ns)[1]
            self.lost += lost
