# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The evaluation of one bag as numbers, and as a folder: result.json, frames.csv, counts.npz.

All counts are whole numbers that add up over frames and over bags, so that a report over many bags
does not depend on the order in which, or the machines on which, they were evaluated.
"""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import ClassInfo

FORMAT = 1
RESULT_FILE, FRAMES_FILE, COUNTS_FILE = 'result.json', 'frames.csv', 'counts.npz'
VIDEO_FILE, PICTURES, RERUN_FILE, BAG = 'overlay.mp4', 'pictures', 'recording.rrd', 'bag'
MAX_RESULT_BYTES = 1 << 28

Counts = NDArray[np.int64]


class FrameRecord(NamedTuple):
    """One bundle on one pair in numbers, a row of frames.csv; NaN: there is no such number."""

    bundle: str
    number: int
    stamp_ns: int
    aux_ns: int
    time_s: float  # stamp since the first pair's
    state: str
    skew_ms: float
    brightness: float  # mean luma of RGB, 0..255
    aux_contrast: float  # 95th minus 5th percentile of aux as the network sees it, 0..255
    confidence: float  # mean, 0..1
    entropy: float  # mean of its upper bound, bits
    labeled: int  # pixels with a target
    accuracy: float
    miou: float  # over the classes in the target or the mask
    boundary_miou: float
    consistency: float  # share of pixels labeled as in the frame before, moved by the optical flow
    aux_change: float  # share of pixels labeled otherwise without aux
    agreement: float  # share of pixels labeled as by the first bundle
    decode_ms: float
    thermal_ms: float
    registration_ms: float
    resize_ms: float
    engine_ms: float


TIMES = ('decode_ms', 'thermal_ms', 'registration_ms', 'resize_ms', 'engine_ms')
_TEXTS, _WHOLE = ('bundle', 'state'), ('number', 'stamp_ns', 'aux_ns', 'labeled')


@dataclass(frozen=True)
class LaneTotals:
    """The counts of one bundle, int64; K classes, F frames."""

    confusion: Counts  # (K, K) [target, predicted]
    abstained: Counts  # (K,) targets predicted as 255
    boundary: Counts  # (3, K) pixels near boundaries: both, predicted, true
    calibration: Counts  # (256, 2) [confidence][wrong, right]
    with_aux: Counts  # (K, K + 1) of the pairs that were also run without aux; last column: 255
    without_aux: Counts  # (K, K + 1) the same pairs without aux
    counts: Counts  # (F, 3, K) hit, predicted, true pixels of each frame; 0 without a target
    fractions: Counts  # (F, K) pixels of the mask by class

    def __add__(self, other: LaneTotals) -> LaneTotals:
        """Return the counts of both, frames in this order."""
        return LaneTotals(*(
            np.concatenate([mine, theirs]) if name in ('counts', 'fractions') else mine + theirs
            for name, mine, theirs in ((field.name, getattr(self, field.name),
                                        getattr(other, field.name)) for field in fields(self))))


@dataclass(frozen=True)
class BagResult:
    """One bag, evaluated with one or several bundles; lists have one entry for each bundle."""

    name: str  # of the folder, unique in a report
    bag: str  # as given
    key: str  # SHA-256 of what decides the numbers
    start_ns: int  # stamp of the first pair
    duration_s: float  # from its first to its last reception
    topics: dict[str, str]  # rgb, aux, label -> topic; label may be '' or a folder
    bundles: list[dict[str, Any]]  # name, model, sha256, backend, device, precision, ...
    classes: tuple[ClassInfo, ...]
    sync: dict[str, Any]
    records: list[list[FrameRecord]]
    totals: list[LaneTotals]
    timing: dict[str, float]  # wall_s and of it, by thread, reading_s, engine_s, scoring_s
    pictures: list[dict[str, Any]]  # bundle, kind (worst, best), rank, number, files

    def save(self, folder: Path) -> None:
        """Write three files into `folder`; result.json comes last and tells that all is there."""
        with (folder / FRAMES_FILE).open('w', encoding='utf-8', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(FrameRecord._fields)
            for records in self.records:
                writer.writerows(map(_cells, records))
        arrays = {f'{index}_{field.name}': getattr(totals, field.name)
                  for index, totals in enumerate(self.totals) for field in fields(totals)}
        np.savez_compressed(folder / COUNTS_FILE, **arrays)
        head = {'format': FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)
                                     if field.name not in ('records', 'totals', 'classes')}}
        head['classes'] = [{'id': info.id, 'name': info.name, 'color': list(info.color)}
                           for info in self.classes]
        text = json.dumps(finite(head), indent=1, allow_nan=False) + '\n'
        (folder / RESULT_FILE).write_text(text, encoding='utf-8')


def load_result(folder: Path) -> BagResult:
    """Return what `BagResult.save` wrote; RgbxSegError if it is not whole."""
    try:
        for name in (RESULT_FILE, FRAMES_FILE, COUNTS_FILE):
            if (folder / name).stat().st_size > MAX_RESULT_BYTES:
                raise ValueError(f'{name} is larger than {MAX_RESULT_BYTES} bytes')
        head = json.loads((folder / RESULT_FILE).read_text('utf-8'))
        if head.pop('format') != FORMAT:
            raise ValueError('another format')
        classes = tuple(ClassInfo(info['id'], info['name'], tuple(info['color']))
                        for info in head.pop('classes'))
        names = [bundle['name'] for bundle in head['bundles']]
        records = _read_records(folder / FRAMES_FILE, names)
        totals = _read_totals(folder / COUNTS_FILE, len(names))
        for rows, counts in zip(records, totals, strict=True):
            _check_shapes(counts, len(rows))
        return BagResult(classes=classes, records=records, totals=totals, **head)
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        raise RgbxSegError(f'{folder}: it holds no complete evaluation ({error}), expected what '
                           'rgbx_eval_bag wrote; remove the folder.') from None


def _read_records(file: Path, names: Sequence[str]) -> list[list[FrameRecord]]:
    found: dict[str, list[FrameRecord]] = {name: [] for name in names}
    with file.open(encoding='utf-8', newline='') as lines:
        rows = csv.reader(lines)
        if tuple(next(rows, ())) != FrameRecord._fields:
            raise ValueError(f'{file.name} has other columns')
        for row in rows:
            found[row[0]].append(FrameRecord(*(
                _parse(name, text) for name, text in zip(FrameRecord._fields, row, strict=True))))
    return list(found.values())


def _read_totals(file: Path, bundles: int) -> list[LaneTotals]:
    with np.load(file, allow_pickle=False) as arrays:
        return [LaneTotals(**{field.name: arrays[f'{index}_{field.name}']
                              for field in fields(LaneTotals)}) for index in range(bundles)]


def _check_shapes(totals: LaneTotals, frames: int) -> None:
    k = len(totals.confusion)
    expected = {'confusion': (k, k), 'abstained': (k,), 'boundary': (3, k),
                'calibration': (256, 2), 'with_aux': (k, k + 1), 'without_aux': (k, k + 1),
                'counts': (frames, 3, k), 'fractions': (frames, k)}
    for name, shape in expected.items():
        if getattr(totals, name).shape != shape:
            raise ValueError(f'{name} is {getattr(totals, name).shape}, not {shape}')


def _cells(record: FrameRecord) -> list[object]:
    """Return the cells of a row; the shortest text that gives the same float back, '' for NaN."""
    return ['' if isinstance(value, float) and math.isnan(value) else value for value in record]


def _parse(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    return int(text) if name in _WHOLE else float(text or 'nan')


def finite(value: Any) -> Any:
    """Return `value` for JSON: NaN and infinity as None, NumPy's numbers as Python's."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
