# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The result of `rgbx_benchmark engine` as text of at most 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

WIDTH = 120
NOTHING = '-'
BUSY_PERCENT = 20  # of one CPU, from which on other work is more than the system's own
HEADING_LINES, LEFT_COLUMNS = 2, 2
# Left out of a table that would be too wide, the first first; --json has them.
DISPENSABLE = (('peak', 'MB'), ('pairs', '/s'), ('p95', 'ms'), ('J/', 'pair'))
Cell = Callable[[Mapping[str, Any]], str]


def render(result: Mapping[str, Any]) -> str:
    """Return machine, table, what could not be measured and the method, as text."""
    parts = [_heading(result), table(result), _doubt(result), *_reasons(result), method(result)]
    return '\n\n'.join(part for part in parts if part)


def table(result: Mapping[str, Any]) -> str:
    """Return the rows that have figures; columns that would be empty are left out."""
    rows = [row for row in result['rows'] if not row['reason']]
    if not rows:
        return ''
    cells = {heading: [*heading, *map(cell, rows)] for heading, cell in _columns(result).items()}
    cells = {heading: column for heading, column in cells.items()
             if set(column[HEADING_LINES:]) != {NOTHING}}
    for heading in DISPENSABLE:
        if _width(cells.values(), 1) > WIDTH:
            cells.pop(heading, None)
    columns = list(cells.values())
    gap = ' ' * (2 if _width(columns, 2) <= WIDTH else 1)
    widths = [max(map(len, column)) for column in columns]
    return '\n'.join(gap.join(
        cell.ljust(width) if at < LEFT_COLUMNS else cell.rjust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))).rstrip()
        for cells in zip(*columns, strict=True))


def _width(columns: Collection[Sequence[str]], gap: int) -> int:
    return sum(max(map(len, column)) + gap for column in columns) - gap


def _columns(result: Mapping[str, Any]) -> dict[tuple[str, str], Cell]:
    """Return the cells of a row by the two lines of their heading."""
    every = result['every']

    def figure(key: str) -> Cell:
        return lambda row: number(row['figures'][key])

    return {
        ('', 'backend'): lambda row: row['name'],
        ('', 'prec'): lambda row: row['info']['precision'],
        ('open', 's'): _opening,
        ('p50', 'ms'): figure('p50'), ('p95', 'ms'): figure('p95'), ('p99', 'ms'): figure('p99'),
        ('scene', 'ms'): figure('scene_ms') if every else lambda row: NOTHING,
        ('beside', 'ms'): figure('beside_ms') if every else lambda row: NOTHING,
        (f'at {every}', 'ms'): figure('cost_ms') if every else lambda row: NOTHING,
        ('pairs', '/s'): figure('pairs_per_s'),
        ('CPU', 'ms'): figure('cpu_ms'), ('GPU', 'ms'): figure('device_ms'),
        ('RSS', '+MB'): lambda row: number(row['rss_mb'], 0),
        ('peak', 'MB'): lambda row: number(row['figures']['peak_mb'], 0),
        ('GPU', '+MB'): lambda row: number(row['gpu_mb'], 0),
        ('', 'W'): figure('watts'), ('J/', 'pair'): figure('joules_per_pair'),
        ('labels', 'equal %'): lambda row: percent(row['labels_equal']),
        ('faster than', result['speed_reference']): _ratio}


def _opening(row: Mapping[str, Any]) -> str:
    return number(row['open_s']) + {True: ' b', False: ' c', None: ''}[row['built']]


def _ratio(row: Mapping[str, Any]) -> str:
    ratio = row['ratio']
    if ratio is None:
        return NOTHING
    return f'{number(ratio["median"])} {number(ratio["low"])}-{number(ratio["high"])}'


def number(value: float | None, digits: int | None = None) -> str:
    """Return a number with `digits` decimals, or three digits in all; a dash for none."""
    if value is None:
        return NOTHING
    size = abs(value)
    if digits is None:
        digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return f'{value:.{digits}f}'


def percent(share: float | None) -> str:
    """Return a share in per cent, never rounded up to 100; a dash for one that does not exist."""
    if share is None:
        return NOTHING
    return '100' if share == 1 else f'{min(100 * share, 99.999):.3f}'


def _heading(result: Mapping[str, Any]) -> str:
    machine, bundle = result['machine'], result['bundle']
    gpu = (f'{machine["gpu"]}, driver {machine["driver"]}' if machine['gpu']
           else machine['gpu_problem'].rstrip('.') or 'none')
    lines = [f'bundle: {bundle["name"]}, {bundle["width"]}x{bundle["height"]}, '
             f'{bundle["graphs"]} of {bundle["family"]}; input: {result["input"]}',
             f'processor: {machine["cpu"]}, {machine["cpus_used"]} of {machine["cpus"]} CPUs; '
             f'governor {machine["governor"] or "unknown"}; load {machine["load_before"]:.2f} '
             f'before, {machine["load_after"]:.2f} after',
             f'GPU: {gpu}; power: {", ".join(machine["power"]) or "no meter"}'
             + ''.join(f'; {problem}' for problem in machine['power_problems']),
             'versions: ' + ', '.join(f'{name} {version}' for name, version
                                      in machine['versions'].items())]
    return '\n'.join(_wrap(line, '  ') for line in lines)


def _reasons(result: Mapping[str, Any]) -> list[str]:
    """Return the rows without figures and why, those of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in result['rows']:
        if row['reason']:
            reasons.setdefault((row['name'], row['reason']), []).append(row['asked'])
    return ['\n'.join(_wrap(f'not measured: {name} {", ".join(asked)}: {reason}', '    ')
                      for (name, reason), asked in reasons.items())] if reasons else []


def method(result: Mapping[str, Any]) -> str:
    """Return how it was measured, in a few lines."""
    rounds, seconds = result['rounds'], result['seconds']
    text = (f'Method: a process per row, all alive, one computing at a time; {rounds} rounds of '
            f'{seconds:g} s in turn, warm-up discarded, pairs back to back with input and output '
            'in host memory. p50, rates, CPU and GPU ms: median of the rounds; p95, p99: of all '
            'pairs. CPU ms: of all threads, per pair. RSS: growth by library and model. '
            f'labels: those of {result["label_reference"] or "nothing"} on {result["pairs"]} '
            f'pairs. faster: time of {result["speed_reference"]} over the row\'s, each round with '
            'its own; median, least-most. ')
    rows = [row for row in result['rows'] if not row['reason']]
    if result['every']:
        text += (f'p50..p99: with a kept scene; "at {result["every"]}": with the scene graph '
                 f'every {result["every"]} pairs, as the manifest says'
                 + ('; beside: of pairs while it runs on a stream of its own. ' if any(
                     row['figures']['beside_ms'] is not None for row in rows) else '. '))
    if any(row['built'] is not None for row in rows):
        text += 'open: b the engine was built, c it came from the cache. '
    if any(not row['same_weights'] for row in rows):
        text += ('torch eager ran other weights than the bundle (--checkpoint): its time counts, '
                 'its labels are not compared. ')
    if machine_power := result['machine']['power']:
        idle = result['machine']['idle_w']
        text += (f'W: mean of {" + ".join(machine_power)}, all that runs included'
                 + (f' (idle {idle:.1f} W). ' if idle is not None else '. '))
    return _wrap(f'{text}Other processes took up to {busiest(result):.0f} % of one CPU meanwhile.',
                 '  ')


def busiest(result: Mapping[str, Any]) -> float:
    """Return how much of one CPU other processes took in the worst row, in per cent."""
    return max((row['figures']['others_cpu_percent'] for row in result['rows']
                if not row['reason']), default=0.0)


def _doubt(result: Mapping[str, Any]) -> str:
    """Return why the figures are not to be relied on, or an empty text."""
    if busiest(result) < BUSY_PERCENT:
        return ''
    return _wrap(f'NOT QUIET: other processes took up to {busiest(result):.0f} % of one CPU. '
                 'Libraries whose threads wait for each other, torch first, suffer most from that: '
                 'these ratios are not those of a quiet machine.', '  ')


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
