# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Reads every file of a data set and tells all that is wrong with it, for `rgbx_check_data`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.data.check import in_threads, size_problem
from rgbx_seg_train.data.public import Entry, PublicSet
from rgbx_seg_train.data.sample import CorruptImage, Image

ROLES = ('rgb', 'aux', 'label')
Size = tuple[int, int]


class Finding(NamedTuple):
    """What one sample's files are like."""

    missing: tuple[tuple[str, str], ...]  # role, path
    unreadable: tuple[str, ...]  # sentences
    wrong: tuple[str, ...]  # sentences about values
    differing: tuple[str, ...]  # sentences about sizes
    aux_resized: bool
    classes: NDArray[np.integer]  # ids in the label …
    pixels: NDArray[np.integer]  # … and how many pixels each has


@dataclass
class Report:
    """What one split is like; `problems` are the sentences for people."""

    title: str
    samples: int = 0
    official: int | None = None
    class_names: tuple[str, ...] = ()
    missing: dict[str, list[str]] = field(default_factory=lambda: {role: [] for role in ROLES})
    unreadable: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    aux_resized: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    unlabeled_allowed: bool = False  # images without a label are left out, and no problem
    failure: str = ''  # why nothing could be looked at

    def add(self, finding: Finding) -> None:
        """Count one sample."""
        for role, path in finding.missing:
            self.missing[role].append(path)
        self.unreadable += finding.unreadable
        self.wrong += finding.wrong
        self.differing += finding.differing
        self.aux_resized += finding.aux_resized
        self.pixels[finding.classes] += finding.pixels

    def share(self, name: str) -> float | None:
        """Return a class's share of the labeled pixels; None if there are none, or no such one."""
        labeled = self.pixels[:UNLABELED].sum()
        if name not in self.class_names or not labeled:
            return None
        return float(self.pixels[self.class_names.index(name)] / labeled)

    @property
    def ignored(self) -> float | None:
        """Return the share of the pixels that no class has."""
        return float(self.pixels[UNLABELED] / self.pixels.sum()) if self.pixels.any() else None


Known = dict[tuple[Path, ...], Finding]


def inspect_set(samples: PublicSet, title: str, class_names: tuple[str, ...], known: Known
                ) -> Report:
    """Read all files of a split, except samples that `known` has, and add them to it."""
    entries = samples.everything()
    report = Report(title, len(samples), samples.expected(), class_names)
    new = [entry for entry in entries if entry.files not in known]
    findings = in_threads(lambda entry: _inspect(samples, entry), new, f'checking {title}')
    known.update(zip((entry.files for entry in new), findings, strict=True))
    for entry in entries:
        report.add(known[entry.files])
    return report


def _inspect(samples: PublicSet, entry: Entry) -> Finding:
    roles = [('rgb', entry.rgb), *(('aux', path) for path in entry.aux)]
    if entry.label is not None:
        roles.append(('label', entry.label))
    missing = tuple((role, str(path)) for role, path in roles if not path.is_file())
    absent = {role for role, _ in missing}
    unreadable: list[str] = []
    wrong: list[str] = []

    def read(role: str, reader: Callable[[Entry], Image]) -> Image | None:
        if role in absent:
            return None
        try:
            return reader(entry)
        except CorruptImage as error:
            unreadable.append(str(error))
        except RgbxSegError as error:
            wrong.append(str(error))
        return None

    if entry.aux:
        rgb, aux = read('rgb', samples.read_rgb), read('aux', samples.read_aux)
    else:
        pair = read('rgb', samples.read_pair)
        rgb, aux = pair if pair is not None else (None, None)
    label = None if entry.label is None else read('label', samples.read_label)
    differing = ''
    if rgb is not None and label is not None and rgb.shape[:2] != label.shape:
        differing = size_problem(samples, entry, label.shape)
    resized = rgb is not None and aux is not None and aux.shape[:2] != rgb.shape[:2]
    counts = np.zeros(0, int) if label is None else np.bincount(label.ravel())
    classes = np.flatnonzero(counts)
    return Finding(missing, tuple(unreadable), tuple(wrong), (differing,) if differing else (),
                   resized, classes, counts[classes])
