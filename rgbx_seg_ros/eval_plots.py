# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Plots that stretch: marks as inline SVG, but all text as HTML, so that a phone can read it.

A long bag has more frames than a screen has columns: then each column shows the mean of its frames
as a line and their lowest and highest as a band, so that no single frame is lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.report_parts import text

Floats = NDArray[np.float64]

UNITS = 1000  # of the viewBox, both ways
COLUMNS = 480  # of a line; more values than these are drawn as mean and band
DOTTED = 120  # values up to which each has its dot
GAP = 2.5  # median distances without a value, after which a line is interrupted
BINS = 40
LEAST_SHARE = 1e-4  # of the pixels, for a bin of confidences to be on the line


class Axis(NamedTuple):
    """The bounds of a plot in one direction, and how its ticks are written."""

    low: float
    high: float
    scale: float = 1.0  # ticks show value * scale
    unit: str = ''

    def at(self, values: Floats) -> Floats:
        """Return the places of values, 0..1."""
        return (values - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return the places (0..1) and texts of at least `count` round values, of two to ten."""
        low, high = self.low * self.scale, self.high * self.scale
        power = 10.0 ** math.floor(math.log10(high - low))
        # The longest step with enough ticks; with a tenth of the power there are always enough.
        step = next(step for step in (power * factor for factor in (5, 2, 1, 0.5, 0.2, 0.1, 0.05))
                    if math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9) + 1 >= count)
        values = np.arange(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1) * step
        return [(float(place), f'{value + 0.0:.6g}{self.unit}') for place, value in
                zip((values - low) / (high - low), values, strict=True)]


class Line(NamedTuple):
    """Values over time (or another axis); `style` is the CSS class that colors them."""

    name: str
    values: Floats
    style: str


def axis_of(values: Iterable[float], least: float = 0.0, bounds: tuple[float, float] | None = None,
            scale: float = 1.0, unit: str = '') -> Axis:
    """Return an axis that shows all values, at least `least` long and within `bounds`."""
    there = np.array([value for value in values if math.isfinite(value)])
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 1.0)
    margin = max((high - low) * 0.06, (least - (high - low)) / 2, 1e-9 + abs(high) * 1e-6)
    low, high = low - margin, high + margin
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Axis(low, high, scale, unit)


def plot(body: str, x: Axis, y: Axis, *, height: int = 96, title: str = '', x_title: str = '',
         kind: str = '', over: str = '') -> str:
    """Return a plot around SVG marks `body`; without `x_title` the x axis has no texts.

    `over` is HTML that lies over the marks, places in percent.
    """
    across, up = x.ticks(4), y.ticks(max(2, height // 50))
    grid = ''.join(f'<path class="grid" d="M0 {UNITS * (1 - place):.0f}H{UNITS}"/>'
                   for place, _ in up)
    grid += ''.join(f'<path class="grid" d="M{UNITS * place:.0f} 0V{UNITS}"/>'
                    for place, _ in across)
    lefts = ''.join(f'<i style="top:{100 * (1 - place):.1f}%">{text(words)}</i>'
                    for place, words in up)
    below = ''
    if x_title:
        marks = ''.join(f'<i style="left:{100 * place:.1f}%">{text(words)}</i>'
                        for place, words in across)
        below = f'<div class="xs">{marks}</div><div class="xtitle">{text(x_title)}</div>'
    head = f'<div class="ptitle">{title}</div>' if title else ''
    return (f'<div class="plot {kind}">{head}<div class="ys" style="height:{height}px">{lefts}'
            f'</div><div class="area" style="height:{height}px"><svg viewBox="0 0 {UNITS} {UNITS}" '
            f'preserveAspectRatio="none" role="img">{grid}{body}</svg>{over}</div>{below}</div>')


def lines(times: Floats, series: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return the marks of values over `times`; NaN is no value."""
    return ''.join(_line(times, line, x, y) for line in series)


def _line(times: Floats, line: Line, x: Axis, y: Axis) -> str:
    there = np.isfinite(line.values)
    across, values = x.at(times[there]), line.values[there]
    if not len(values):
        return ''
    order = np.argsort(across, kind='stable')
    across, values = across[order], values[order]
    low = high = values
    if len(values) > COLUMNS:
        across, values, low, high = columns(across, values)
    xs, mean, bottom, top = (np.round(UNITS * place).astype(int) for place in (
        across, *(1 - y.at(some) for some in (values, low, high))))
    steps = np.diff(across)
    limit = GAP * float(np.median(steps)) if len(steps) else 0.0
    if len(values) and low is not values:
        limit = max(limit, 2.5 / COLUMNS)
    paths, bands = [], []
    for run in np.split(np.arange(len(xs)), np.flatnonzero(steps > limit) + 1):
        paths.append('M' + 'L'.join(f'{xs[n]} {mean[n]}' for n in run)
                     + ('h0' if len(run) == 1 else ''))
        if low is not values:
            there_and_back = [*zip(xs[run], top[run], strict=True),
                              *zip(xs[run][::-1], bottom[run][::-1], strict=True)]
            bands.append('M' + 'L'.join(f'{a} {b}' for a, b in there_and_back) + 'Z')
    dots = ''
    if len(values) <= DOTTED:
        points = ''.join(f'M{a} {b}h0' for a, b in zip(xs, mean, strict=True))
        dots = f'<path class="dot {line.style}" d="{points}"/>'
    band = f'<path class="band {line.style}" d="{"".join(bands)}"/>' if bands else ''
    return f'{band}<path class="line {line.style}" d="{"".join(paths)}"/>{dots}'


def columns(across: Floats, values: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return place, mean, lowest and highest of the values in each column that has some."""
    column = np.clip((across * COLUMNS).astype(int), 0, COLUMNS - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    counts = np.diff(starts, append=len(column))
    return ((column[starts] + 0.5) / COLUMNS, np.add.reduceat(values, starts) / counts,
            np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts))


def histogram(values: Floats, unit: str, x_title: str, style: str, height: int = 140) -> str:
    """Return how many values lie where, with the median marked."""
    values = values[np.isfinite(values)]
    x = axis_of(values, least=1.0, unit='')
    counts, edges = np.histogram(values, min(BINS, max(8, len(values) // 4)), (x.low, x.high))
    y = Axis(0.0, float(counts.max()) * 1.12)
    bars = []
    for count, left, right in zip(counts, x.at(edges[:-1]), x.at(edges[1:]), strict=True):
        if count:
            tall = UNITS * count / y.high
            bars.append(f'<rect class="bar {style}" x="{UNITS * left:.1f}" '
                        f'y="{UNITS - tall:.1f}" width="{UNITS * (right - left):.1f}" '
                        f'height="{tall:.1f}"><title>{count}</title></rect>')
    middle = float(np.median(values))
    place = (middle - x.low) / (x.high - x.low)
    side = 'right:calc(' f'{100 - 100 * place:.1f}% + 5px)' if place > 0.6 else (
        f'left:calc({100 * place:.1f}% + 5px)')
    mark = f'<path class="mark" d="M{UNITS * place:.0f} 0V{UNITS}"/>'
    return plot(''.join(bars) + mark, x, y, height=height, x_title=x_title,
                over=f'<b class="note" style="{side}">median {middle:.1f} {text(unit)}</b>')


def reliability(bins: Sequence[tuple[float, float, int]], height: int = 260) -> str:
    """Return accuracy over confidence of bins (confidence, accuracy, pixels).

    The area of a dot is its share of the pixels; on the diagonal is where it should lie.
    """
    total = sum(pixels for _, _, pixels in bins) or 1
    x = y = Axis(0.0, 1.0, 100.0, ' %')
    marks = [f'<path class="mark" d="M0 {UNITS}L{UNITS} 0"/>']
    filled = [one for one in bins if one[2]]
    points = [(UNITS * confidence, UNITS * (1 - accuracy)) for confidence, accuracy, _ in filled]
    # A handful of pixels would throw the line about.
    firm = [f'{a:.0f} {b:.0f}' for (a, b), (_, _, pixels) in zip(points, filled, strict=True)
            if pixels >= LEAST_SHARE * total]
    if len(firm) > 1:
        marks.append(f'<path class="line first" d="M{"L".join(firm)}"/>')
    for (a, b), (confidence, accuracy, pixels) in zip(points, filled, strict=True):
        size = 5 + 17 * math.sqrt(pixels / total)
        marks.append(f'<path class="dot first" style="stroke-width:{size:.1f}px" '
                     f'd="M{a:.0f} {b:.0f}h0"><title>confidence {100 * confidence:.1f} %: '
                     f'{100 * accuracy:.1f} % right, {100 * pixels / total:.2f} % of the pixels'
                     '</title></path>')
    return plot(''.join(marks), x, y, height=height, title='right', x_title='confidence',
                kind='square')
