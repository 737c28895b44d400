# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Small plots as inline SVG; their colors come from the page's CSS, so they follow its theme."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 640, 220  # viewBox units; the page scales the picture
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 36
BINS = 30


class Series(NamedTuple):
    """Values over time; `style` is the CSS class that colors them."""

    name: str
    values: Sequence[float]
    style: str


class _Axes(NamedTuple):
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return the place of a value in viewBox units."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return (round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
                round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1))


def over_time(times_s: Sequence[float], series: Sequence[Series], unit: str,
              zero: bool = True) -> str:
    """Return a dot for each value over time; `zero` draws the axis from 0."""
    values = [value for line in series for value in line.values]
    if not values:
        return _nothing()
    axes = _Axes(_bounds(times_s, False), _bounds(values, zero))
    body = []
    for line in series:
        dots = ''.join('M{:g} {:g}h0'.format(*axes.at(*point))
                       for point in zip(times_s, line.values, strict=True))
        body.append(f'<path class="dots {line.style}" d="{dots}">'
                    f'<title>{html.escape(line.name)}</title></path>')
    return _frame(axes, 'time in the bag [s]', unit, body)


def histogram(values: Sequence[float], unit: str, style: str,
              marks: Sequence[tuple[str, float]] = (), zero: bool = True) -> str:
    """Return how often each value occurs, with named vertical `marks`."""
    if not len(values):
        return _nothing()
    low, high = _bounds(values, zero)
    counts, edges = np.histogram(values, BINS, (low, high))
    axes = _Axes((low, high), (0.0, float(counts.max()) * 1.15))
    body = []
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        x0, y0 = axes.at(left, count)
        x1, y1 = axes.at(right, 0)
        if count:
            body.append(f'<rect class="bar {style}" x="{x0 + .5:g}" y="{y0:g}" '
                        f'width="{max(x1 - x0 - 1, 1):g}" height="{y1 - y0:g}">'
                        f'<title>{count} at {left:.3g} to {right:.3g} {unit}</title></rect>')
    for number, (name, value) in enumerate(marks):
        x, _ = axes.at(value, 0)
        # The first name stands to the left of its line, the last to the right: they may be near.
        left = x > WIDTH - 110 or (number < len(marks) - 1 and x > LEFT + 90)
        side = 'end' if left else 'start'
        body.append(f'<path class="mark" d="M{x:g} {TOP}V{HEIGHT - BOTTOM}"/>'
                    f'<text x="{x + (5 if side == "start" else -5):g}" y="{TOP + 12 + 14 * number}"'
                    f' text-anchor="{side}">{html.escape(name)} {value:.1f}</text>')
    return _frame(axes, unit, 'pairs', body)


def _frame(axes: _Axes, x_title: str, y_title: str, body: Sequence[str]) -> str:
    grid = []
    for value in _ticks(*axes.y):
        _, y = axes.at(axes.x[0], value)
        grid.append(f'<path class="grid" d="M{LEFT} {y:g}H{WIDTH - RIGHT}"/>'
                    f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{value:g}</text>')
    for value in _ticks(*axes.x):
        x, y = axes.at(value, axes.y[0])
        grid.append(f'<text x="{x:g}" y="{y + 15:g}" text-anchor="middle">{value:g}</text>')
    titles = (f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}" '
              f'text-anchor="middle">{html.escape(x_title)}</text>'
              f'<text transform="translate(11 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" '
              f'text-anchor="middle">{html.escape(y_title)}</text>')
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(grid)}{"".join(body)}'
            f'{titles}</svg>')


def _bounds(values: Sequence[float], zero: bool) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    margin = (high - low) * 0.04 or 0.5
    return (low if zero and low == 0 else low - margin), high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return 3 to 7 round values within the bounds."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first = math.ceil(low / step)
    return [round(step * n, 10) for n in range(first, math.floor(high / step) + 1)]


def _nothing() -> str:
    return '<p class="note">No pair was published, so there is nothing to plot.</p>'
