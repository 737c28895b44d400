# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The result of `rgbx_benchmark engine` as text of at most 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

WIDTH = 120
GAP = 2
NOTHING = '-'
Cell = Callable[[Mapping[str, Any]], str]


def render(result: Mapping[str, Any]) -> str:
    """Return machine, table, what could not be measured and the method, as text."""
    parts = [_heading(result), table(result), *_reasons(result), method(result)]
    return '\n\n'.join(part for part in parts if part)


def table(result: Mapping[str, Any]) -> str:
    """Return the rows that have figures; columns that would be empty are left out."""
    rows = [row for row in result['rows'] if not row['reason']]
    if not rows:
        return ''
    cells = {name: [cell(row) for row in rows] for name, cell in _columns(result).items()}
    kept = {name: values for name, values in cells.items() if set(values) != {NOTHING}}
    widths = {name: max(map(len, (name, *values))) for name, values in kept.items()}
    lines = [_line(widths, dict(zip(widths, widths, strict=True)))]
    lines += [_line(widths, {name: kept[name][number] for name in widths})
              for number in range(len(rows))]
    return '\n'.join(lines)


def _columns(result: Mapping[str, Any]) -> dict[str, Cell]:
    """Return the cells of a row by heading."""
    two_graphs, base = bool(result['every']), result['speed_reference']

    def figure(key: str, digits: int = 1) -> Cell:
        return lambda row: number(row['figures'][key], digits)

    columns: dict[str, Cell] = {
        'backend': lambda row: row['name'],
        'prec': lambda row: row['info']['precision'],
        'open s': _opening,
        'p50 ms': figure('p50'), 'p95 ms': figure('p95'), 'p99 ms': figure('p99'),
        'scene ms': figure('scene_ms') if two_graphs else lambda row: NOTHING,
        f'at {result["every"]}': figure('cost_ms') if two_graphs else lambda row: NOTHING,
        'pairs/s': figure('pairs_per_s'),
        'CPU ms': figure('cpu_ms'), 'GPU ms': figure('device_ms'),
        'RSS+MB': lambda row: number(row['rss_mb'], 0),
        'peak MB': figure('peak_mb', 0),
        'GPU MB': lambda row: number(row['gpu_mb'], 0),
        'W': figure('watts'), 'J/pair': figure('joules_per_pair', 2),
        'labels %': lambda row: percent(row['labels_equal']),
        f'x {base}': _ratio}
    return columns


def _opening(row: Mapping[str, Any]) -> str:
    how = {True: ' b', False: ' c', None: ''}[row['built']]
    return number(row['open_s'], 1) + how


def _ratio(row: Mapping[str, Any]) -> str:
    ratio = row['ratio']
    if ratio is None:
        return NOTHING
    return f'{ratio["median"]:.2f} ({ratio["low"]:.2f}-{ratio["high"]:.2f})'


def _line(widths: Mapping[str, int], cells: Mapping[str, str]) -> str:
    left = ('backend', 'prec')
    return (' ' * GAP).join(cells[name].ljust(width) if name in left else cells[name].rjust(width)
                            for name, width in widths.items()).rstrip()


def number(value: float | None, digits: int) -> str:
    """Return a number of about four digits, or a dash for one that does not exist."""
    if value is None:
        return NOTHING
    return f'{value:.{digits if abs(value) < 1000 else 0}f}'


def percent(share: float | None) -> str:
    """Return a share in per cent, never rounded up to 100; a dash for one that does not exist."""
    if share is None:
        return NOTHING
    return '100' if share == 1 else f'{min(100 * share, 99.999):.3f}'


def _heading(result: Mapping[str, Any]) -> str:
    machine, bundle = result['machine'], result['bundle']
    gpu = f'{machine["gpu"]}, driver {machine["driver"]}' if machine['gpu'] else 'none'
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
            'pairs. CPU ms: of all threads, per pair; RSS+: growth by library and model. '
            f'labels: equal to those of {result["label_reference"] or "nothing"} on '
            f'{result["pairs"]} pairs. x {result["speed_reference"]}: its time over the row\'s, '
            'each round with its own; median (least-most). ')
    rows = [row for row in result['rows'] if not row['reason']]
    if result['every']:
        text += (f'p50..p99: with a kept scene; "at {result["every"]}": with the scene graph '
                 f'every {result["every"]} pairs, as the manifest says. ')
    if any(row['built'] is not None for row in rows):
        text += 'open: b the engine was built, c it came from the cache. '
    if any(not row['same_weights'] for row in rows):
        text += ('torch eager ran other weights than the bundle (--checkpoint): its time counts, '
                 'its labels are not compared. ')
    if machine_power := result['machine']['power']:
        idle = result['machine']['idle_w']
        text += (f'W: mean of {" + ".join(machine_power)}, all that runs included'
                 + (f' (idle {idle:.1f} W). ' if idle is not None else '. '))
    busiest = max((row['figures']['others_cpu_percent'] or 0 for row in rows), default=0)
    text += f'Other processes took up to {busiest:.0f} % of one CPU meanwhile.'
    return _wrap(text, '  ')


def _wrap(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
