# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the sections of an evaluation's page share: what is shown, sections, tables, bars, words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_result import BagResult
from rgbx_seg_ros.report_parts import text

STYLES = ('first', 'second', 'third')  # of bundles, in the order of the colors of all plots
MINUTES_FROM = 600.0  # seconds; longer times are told in minutes


class View(NamedTuple):
    """What a page shows."""

    summary: Mapping[str, Any]
    results: Sequence[BagResult]
    folder: Path  # of the report, with bags/ in it

    @property
    def names(self) -> list[str]:
        """Return the names of the bundles."""
        return [str(bundle['name']) for bundle in self.summary['bundles']]

    @property
    def modality(self) -> str:
        """Return the second modality, such as thermal."""
        return str(self.summary['bundles'][0].get('modality') or 'aux')

    @property
    def labeled(self) -> bool:
        """Tell whether anything was scored."""
        return any(there(scores.get('miou')) for scores in self.summary['scores'])

    def place(self, result: BagResult) -> Path:
        """Return the folder of a bag."""
        return self.folder / 'bags' / result.name

    def column(self, result: BagResult, lane: int, name: str) -> NDArray[np.float64]:
        """Return one number of every frame, NaN where there is none."""
        return np.array([getattr(record, name) for record in result.records[lane]], np.float64)


def there(value: Any) -> TypeGuard[float]:
    """Tell whether a number exists."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def section(title: str, lead: str, *bodies: str) -> str:
    """Return a section, its body HTML; '' if there is nothing in it. `lead` says how to read it."""
    body = ''.join(bodies)
    if not body:
        return ''
    name = ''.join(letter if letter.isalnum() else '-' for letter in title.lower())
    intro = f'<p class="lead">{lead}</p>' if lead else ''
    return f'<section id="{name}"><h2>{text(title)}</h2>{intro}{body}</section>'


def per_bundle(view: View, bodies: Sequence[str]) -> str:
    """Return one body for each bundle, under its name if there are several."""
    if len(view.names) == 1:
        return bodies[0]
    return ''.join(f'<h3>{key(lane)}{text(name)}</h3>{body}' for lane, (name, body)
                   in enumerate(zip(view.names, bodies, strict=True)) if body)


def key(lane: int) -> str:
    """Return the mark of a bundle's color."""
    return f'<span class="key {STYLES[lane % len(STYLES)]}"></span>'


def keys(view: View) -> str:
    """Return which color is which bundle; '' of one."""
    if len(view.names) == 1:
        return ''
    return '<p class="keys2">' + ''.join(
        f'<span>{key(lane)}{text(name)}</span>' for lane, name in enumerate(view.names)) + '</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = '') -> str:
    """Return a table of cells that are HTML; a cell may begin with its attributes, `<td`.

    Columns in which no row has anything are left out, and so is a table without rows.
    """
    cells = [list(row) for row in rows]
    if not cells:
        return ''
    used = [index for index in range(len(head)) if any(row[index] for row in cells)]
    top = ''.join(f'<th{_kind(cells[0][index])}>{head[index]}</th>' for index in used)
    body = ''.join('<tr>' + ''.join(
        row[index] if row[index].startswith('<td') else f'<td>{row[index]}</td>'
        for index in used) + '</tr>' for row in cells)
    return (f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def _kind(cell: str) -> str:
    """Return the attribute by which a head stands over its cells: that of the first one."""
    found = re.match(r'<td( class="[^"]*")', cell)
    return found[1] if found else ''


def meter(value: float | None, interval: Sequence[float] | None = None, style: str = 'first',
          full: float = 1.0) -> str:
    """Return a cell with a bar of `value` of `full`, and its interval as a whisker."""
    if not there(value) or value is None:
        return '<td class="meter"></td>'
    whisker = ''
    if interval:
        low, high = (min(max(bound / full, 0.0), 1.0) for bound in interval)
        whisker = f'<u style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></u>'
    width = 100 * min(max(value / full, 0.0), 1.0)
    return (f'<td class="meter" data-v="{value:.6g}"><div><span class="fill {style}" '
            f'style="width:{width:.1f}%"></span>{whisker}</div></td>')


def share(value: Any, digits: int = 1) -> str:
    """Return a share in percent, '' if there is none."""
    return f'{100 * value:.{digits}f} %' if there(value) else ''


def milliseconds(value: Any) -> str:
    """Return milliseconds, '' if there are none."""
    return f'{value:.1f} ms' if there(value) else ''


def points(value: float) -> str:
    """Return a change of a share in points, with its sign."""
    told = f'{100 * value:+.1f}'.replace('-', '−')
    return '0.0' if told[1:] == '0.0' else told


def between(interval: Sequence[float] | None, signed: bool = False) -> str:
    """Return an interval of shares in words, '' if there is none."""
    if not interval:
        return ''
    low, high = (points(bound) if signed else f'{100 * bound:.1f}' for bound in interval)
    return f'{low} to {high}' + ('' if signed else ' %')


def duration(seconds: Any) -> str:
    """Return a duration in words, '' if there is none."""
    if not there(seconds):
        return ''
    if seconds < MINUTES_FROM:
        return f'{seconds:.1f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60} h {minutes % 60} min'


def number(value: Any) -> str:
    """Return a count with its thousands apart, '' if there is none."""
    return f'{value:,}'.replace(',', ' ') if isinstance(value, int) else ''


def details(title: str, body: str, opened: bool = False) -> str:
    """Return a part that can be opened; the title is HTML."""
    if not body:
        return ''
    return f'<details{" open" if opened else ""}><summary>{title}</summary>{body}</details>'
