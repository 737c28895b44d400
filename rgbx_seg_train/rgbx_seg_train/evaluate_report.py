# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report of an evaluation, a folder that appears whole: page, JSON, table, pictures.

It is that of `rgbx_eval_bag`, of data sets instead of bags.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.eval_result import PICTURES, finite
from rgbx_seg_ros.eval_tasks import PAGE_FILE, REPORT_FILE, TABLE_FILE, is_report, new_folder
from rgbx_seg_train.evaluate_page import render
from rgbx_seg_train.evaluate_run import Evaluation

# Columns of FrameRecord that a still image has.
NUMBERS = ('labeled', 'accuracy', 'miou', 'boundary_miou', 'confidence', 'entropy', 'brightness',
           'aux_contrast')
KEYS = {'protocol', 'sets', 'split'}  # of the report
OURS = {PAGE_FILE, REPORT_FILE, TABLE_FILE, PICTURES}


def check_target(out: Path) -> None:
    """Raise unless `out` is new, empty, or what an earlier evaluation wrote."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RgbxSegError(f'--out {out} is a file; expected a folder, or a name that ends in '
                           '.json; choose another name.')
    names = {path.name for path in out.iterdir()}
    strange = sorted(names - OURS)
    if names and not strange and not is_report(out / REPORT_FILE, KEYS):
        strange = [min(names)]
    if strange:
        raise RgbxSegError(f'--out {out} holds {strange[0]}, which rgbx_evaluate did not write; '
                           'expected a new folder, or an earlier report of it; choose another '
                           'name.')


@contextmanager
def new_report(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that takes the place of `out`, or vanishes after an error."""
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(out) as folder:
        yield folder


def write_report(folder: Path, found: Evaluation) -> None:
    """Write page, JSON and table into a folder that holds the pictures already."""
    summary = finite(found.summary)
    text = json.dumps(summary, indent=1, allow_nan=False) + '\n'
    (folder / REPORT_FILE).write_text(text, encoding='utf-8')
    _write_table(folder / TABLE_FILE, found)
    page = render(summary, found.results, found.rows, folder)
    (folder / PAGE_FILE).write_text(page, encoding='utf-8')


def _write_table(path: Path, found: Evaluation) -> None:
    """Write a row for each frame; an empty cell where there is no number."""
    conditions = sorted({key for rows in found.rows for row in rows for key in row.conditions})
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(['set', 'number', 'name', *conditions, *NUMBERS])
        for result, rows in zip(found.results, found.rows, strict=True):
            for record, row in zip(result.records[0], rows, strict=True):
                values = [getattr(record, name) for name in NUMBERS]
                writer.writerow([result.name, record.number, row.name,
                                 *(row.conditions.get(key, '') for key in conditions),
                                 *('' if math.isnan(value) else value for value in values)])
