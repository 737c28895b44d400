# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores of a model over many frames: of each data set among its own classes, and by condition.

Counts are whole numbers that add up, so that several processes can score parts of the data and
their sum is what one would have counted. Training and `rgbx_evaluate` fill the same object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_ros.metrics import Confusion, mean_of_classes
from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.data.labels import CLASS_SETS, channels
from rgbx_seg_train.data.sample import Image, Sample

TIMES = ('day', 'night')  # whose scores also stand beside those of all frames
ALL = ''  # the condition that all frames meet


@dataclass
class _Counts:
    """What was counted of a data set under a condition."""

    confusion: Confusion
    frames: int = 0


class Score:
    """Confusion matrices that fill up frame by frame, of each data set and each condition."""

    def __init__(self, data: DataConfig) -> None:
        """Start at zero; `data` says which classes the network has."""
        self._data = data
        self._own: dict[str, str] = {}  # data set -> its class set
        self._counts: dict[str, dict[str, _Counts]] = {}  # data set -> 'time=night' -> counts

    def update(self, label: Image, sample: Sample, name: str = '') -> Confusion:
        """Add one frame: predicted ids uint8 (H, W) of the sample's own class set.

        `name` is that of the data set, by default told from classes and modality. Returns the
        counts of this frame alone.

        Raises:
            RgbxSegError: the sizes differ, or an id is neither a class of the set nor 255.

        """
        own = sample.classes or self._data.classes
        confusion = Confusion(len(infos_of(own, self._data)))
        confusion.update(label, sample.label)
        for part in (ALL, *(f'{key}={value}' for key, value in sample.conditions.items())):
            self._add(name or f'{own} {sample.modality}', own, part, confusion, 1)
        return confusion

    def _add(self, name: str, own: str, part: str, confusion: Confusion, frames: int) -> None:
        if self._own.setdefault(name, own) != own:
            raise RgbxSegError(f'the data set {name} is labeled with {self._own[name]} and with '
                               f'{own}; expected one class set; give its parts two names.')
        known = self._counts.setdefault(name, {})
        if part not in known:
            known[part] = _Counts(Confusion(confusion.n_classes))
        known[part].confusion += confusion
        known[part].frames += frames

    @property
    def sets(self) -> dict[str, Confusion]:
        """Return the counts of each data set by its name."""
        return self._where(ALL)

    def classes_of(self, name: str) -> tuple[ClassInfo, ...]:
        """Return the classes that a data set is scored among."""
        return infos_of(self._own[name], self._data)

    def __iadd__(self, other: Score) -> Score:
        """Add what another one counted."""
        self.load(other.arrays())
        return self

    def arrays(self) -> dict[str, NDArray[np.int64]]:
        """Return all counts as plain arrays by name, for the `load` of another process."""
        found = {}
        for name, counts in self._counts.items():
            for part, one in counts.items():
                packed = np.zeros((one.confusion.n_classes + 1,) * 2, np.int64)
                packed[:-1, :-1] = one.confusion.matrix
                packed[:-1, -1] = one.confusion.abstained
                packed[-1, -1] = one.frames
                found['\n'.join((name, self._own[name], part))] = packed
        return found

    def load(self, arrays: Mapping[str, NDArray[np.int64]]) -> None:
        """Add what the `arrays` of another one hold."""
        for key, packed in arrays.items():
            name, own, part = key.split('\n')
            confusion = Confusion(len(packed) - 1)
            confusion.matrix += packed[:-1, :-1]
            confusion.abstained += packed[:-1, -1]
            self._add(name, own, part, confusion, int(packed[-1, -1]))

    def summary(self) -> dict[str, Any]:
        """Return the scores as plain numbers; None where there is nothing to score.

        `miou` counts a class that never occurs as 0, `miou_present` leaves it out, and
        `mean_accuracy` is the mean over the classes of the share of their true pixels that was
        found. Of several data sets they are the mean of the sets; `iou`, by class, is there where
        all sets have the same classes, and of each one in `sets`.
        """
        result: dict[str, Any] = {'frames': self._frames(ALL)}
        for suffix, part in (('', ALL), *((f'_{time}', f'time={time}') for time in TIMES)):
            found = self._where(part)
            result |= {f'{key}{suffix}': value for key, value in _means(found.values()).items()}
            if len(set(self._own.values())) == 1:
                result[f'iou{suffix}'] = self._by_class(found)
        result['sets'] = {name: self._of_set(name) for name in sorted(self._counts)}
        result['conditions'] = self._conditions()
        return result

    def line(self) -> str:
        """Return the scores as one line of text."""
        result = self.summary()
        if result['miou'] is None:
            return 'nothing to score'
        parts = [f'{name} {100 * value:.1f}' for name, value in (
            ('mIoU', result['miou']), *((time, result[f'miou_{time}']) for time in TIMES))
            if value is not None]
        if len(self._own) > 1:
            parts += [f'{name} {100 * one["miou"]:.1f}' for name, one in result['sets'].items()
                      if one['miou'] is not None]
        by_class = result.get('iou') if len(result.get('iou', {})) <= 20 else None
        told = ' '.join('-' if value is None else f'{100 * value:.0f}'
                        for value in (by_class or {}).values())
        return ', '.join(parts) + (f'; by class {told}' if told else '')

    def _where(self, part: str) -> dict[str, Confusion]:
        """Return the counts of each data set that has frames under a condition."""
        return {name: counts[part].confusion for name, counts in sorted(self._counts.items())
                if part in counts}

    def _frames(self, part: str) -> int:
        return sum(counts[part].frames for counts in self._counts.values() if part in counts)

    def _by_class(self, found: Mapping[str, Confusion]) -> dict[str, float | None]:
        """Return the IoU by class of data sets of one class set, counted together."""
        infos = self.classes_of(next(iter(self._own)))
        total = Confusion(len(infos))
        for confusion in found.values():
            total += confusion
        return _named(infos, total.iou())

    def _of_set(self, name: str) -> dict[str, Any]:
        counts, infos = self._counts[name][ALL], self.classes_of(name)
        confusion = counts.confusion
        return {'classes': self._own[name], 'frames': counts.frames,
                'labeled_pixels': int(confusion.true().sum()), **_means([confusion]),
                'iou': _named(infos, confusion.iou()), 'recall': _named(infos, confusion.recall()),
                'precision': _named(infos, confusion.precision())}

    def _conditions(self) -> dict[str, dict[str, Any]]:
        """Return condition -> value -> scores, with those of each set where there are several."""
        parts = sorted({part for counts in self._counts.values() for part in counts} - {ALL})
        found: dict[str, dict[str, Any]] = {}
        for part in parts:
            key, _, value = part.partition('=')
            sets = self._where(part)
            row: dict[str, Any] = {
                'frames': self._frames(part), **_means(sets.values()),
                'labeled_pixels': sum(int(one.true().sum()) for one in sets.values())}
            if len(self._own) > 1:
                row['sets'] = {name: _means([one])['miou'] for name, one in sets.items()}
            found.setdefault(key, {})[value] = row
        return found


def own_label(logits: Tensor, sample: Sample, data: DataConfig) -> Image:
    """Return the ids uint8 (H, W) that logits (N, h, w) give a sample, at the size of its label.

    Upsampled bilinearly; then the best of the classes of the sample's own set is chosen, which is
    Eq. 8's remap() of SegRGB-X.
    """
    scores, table = own_channels(logits, sample, data)
    size = sample.label.shape
    if scores.shape[1:] != size:
        scores = functional.interpolate(scores[None].float(), size, mode='bilinear',
                                        align_corners=False)[0]
    best = scores.argmax(0).to(torch.uint8).cpu().numpy()
    return best if table is None else table[best]


def own_channels(logits: Tensor, sample: Sample, data: DataConfig
                 ) -> tuple[Tensor, NDArray[np.uint8] | None]:
    """Return those of the logits (N, h, w) that are of the sample's class set, and their ids.

    The ids, uint8, are None where they are 0, 1, 2 …
    """
    wanted, ids = chosen_channels(sample.classes, data)
    if wanted is None:
        return logits, ids
    return logits[torch.from_numpy(wanted).to(logits.device)], ids


def chosen_channels(own: str, data: DataConfig
                    ) -> tuple[NDArray[np.int64] | None, NDArray[np.uint8] | None]:
    """Return the channels of a network's logits that a class set reads, and the ids they stand for.

    None stands for all channels, and for the ids 0, 1, 2 …
    """
    if own in ('', data.classes):
        return None, None
    wanted = np.array(channels(own, data.classes), np.int64)
    known = np.flatnonzero(wanted != UNLABELED)
    return wanted[known], None if len(known) == len(wanted) else known.astype(np.uint8)


def infos_of(own: str, data: DataConfig) -> tuple[ClassInfo, ...]:
    """Return the classes of a class set, which may be the network's own."""
    return data.class_infos if own in ('', data.classes) else CLASS_SETS[own]


def _means(confusions: Iterable[Confusion]) -> dict[str, float | None]:
    """Return the mean scores of data sets, of which those without labels do not count."""
    scored = [one for one in confusions if one.true().sum() > 0]
    columns = {'miou': [one.miou(strict=True) for one in scored],
               'miou_present': [one.miou() for one in scored],
               'mean_accuracy': [mean_of_classes(one.recall()) for one in scored],
               'accuracy': [one.accuracy() for one in scored]}
    return {name: float(np.mean(values)) if values else None for name, values in columns.items()}


def _named(infos: Sequence[ClassInfo], values: NDArray[np.float64]) -> dict[str, float | None]:
    return {info.name: _number(values[info.id]) for info in infos}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
