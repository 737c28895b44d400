# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Along the bag: scores, light and skew over one axis of time, and the classes as stripes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import eval_plots as plots
from rgbx_seg_ros.eval_page_parts import (
    STYLES,
    View,
    details,
    duration,
    keys,
    section,
    share,
    there,
)
from rgbx_seg_ros.eval_result import BagResult
from rgbx_seg_ros.report_parts import data, swatch, text

Floats = NDArray[np.float64]

SHOWN = 6  # bags; of more, the worst
LEFT_OUT = 0.5  # share above which a class is left out of the stripes: it would flatten the others
STRIPES = 110  # pixels of height
LEGEND, LEAST_SHARE = 24, 0.001  # classes named below the stripes
# Column of the frames -> name, what is told below it, its unit, the least span of its axis.
ROWS = (('miou', 'mIoU', 'of the single frame', '%', 0.1),
        ('confidence', 'confidence', 'mean over the pixels', '%', 0.05),
        ('consistency', 'consistency', 'pixels that keep their class', '%', 0.05),
        ('agreement', 'agreement', 'pixels labeled as by the first bundle', '%', 0.05),
        ('brightness', 'brightness', 'of the RGB image, 0 to 255', '', 20.0),
        ('skew_ms', 'skew', '{} minus RGB, ms', '', 4.0))
OF_PAIRS = ('brightness', 'skew_ms')  # the same for all bundles


def over_time(view: View) -> str:
    """Return the plots of each bag, of many bags of the worst ones."""
    chosen = _chosen(view)
    bodies = [f'<div class="card">{_bag(view, result)}</div>' if len(chosen) == 1 else
              details(_title(view, result), f'<div class="card">{_bag(view, result)}</div>',
                      opened=result is chosen[0]) for result in chosen]
    lead = ('Look for what falls together: a score with the light, or with the skew.')
    frames = max(len(result.records[0]) for result in chosen)
    if frames > plots.COLUMNS:
        lead += (' Lines are means of neighboring frames, the pale bands reach from their lowest '
                 'to their highest.')
    if len(chosen) < len(view.results):
        lead += (f' Shown are the {len(chosen)} bags with the lowest scores of '
                 f'{len(view.results)}; the numbers of all are in frames.csv.')
    return section('Along the bag', lead, keys(view), *bodies)


def _chosen(view: View) -> list[BagResult]:
    if len(view.results) <= SHOWN:
        return list(view.results)

    def score(result: BagResult) -> float:
        for name in ('miou', 'consistency', 'confidence'):
            values = view.column(result, 0, name)
            if np.isfinite(values).any():
                return float(np.nanmean(values))
        return math.inf

    return sorted(view.results, key=lambda result: (score(result), result.name))[:SHOWN]


def _title(view: View, result: BagResult) -> str:
    bag = next((one for one in view.summary['bags'] if one['name'] == result.name), None)
    score = bag['scores'][0]['miou'] if bag else None
    return text(result.name) + (f' · mIoU {share(score)}' if there(score) else '') + (
        f' · {duration(result.duration_s)}')


def _bag(view: View, result: BagResult) -> str:
    times = view.column(result, 0, 'time_s')
    minutes = float(np.ptp(times)) > 600 if len(times) else False
    scale, unit = (1 / 60, 'min') if minutes else (1.0, 's')
    low, high = float(times.min()), float(times.max())
    margin = max((high - low) * 0.01, 0.05)
    x = plots.Axis(low - margin, high + margin, scale)
    bodies = []
    for name, title, words, unit_y, least in ROWS:
        lanes = [0] if name in OF_PAIRS else range(1 if name == 'agreement' else 0,
                                                   len(view.names))
        series = [plots.Line(view.names[lane], view.column(result, lane, name),
                             'third' if name in OF_PAIRS else STYLES[lane % len(STYLES)])
                  for lane in lanes]
        values = np.concatenate([line.values for line in series]) if series else np.zeros(0)
        if not np.isfinite(values).any():
            continue
        percent = unit_y == '%'
        y = plots.axis_of(values, least, (0.0, 1.0) if percent else None,
                          100.0 if percent else 1.0, ' %' if percent else '')
        bodies.append(plots.plot(
            plots.lines(times, series, x, y), x, y, height=84,
            title=f'<b>{title}</b> {words.format(text(view.modality))}'))
    stripes, legend = _stripes(view, result, times, x)
    return ''.join(bodies + stripes) + _axis(x, f'time in the bag [{unit}]') + legend


def _axis(x: plots.Axis, title: str) -> str:
    """Return the texts of the axis that all plots of a bag share."""
    marks = ''.join(f'<i style="left:{100 * place:.1f}%">{text(words)}</i>'
                    for place, words in x.ticks(4))
    return f'<div class="plot"><div class="xs">{marks}</div><div class="xtitle">{title}</div></div>'


def _stripes(view: View, result: BagResult, times: Floats, x: plots.Axis
             ) -> tuple[list[str], str]:
    """Return the shares of the classes over time: of each bundle, and of the labels."""
    kinds = [(f'<b>classes</b> in the masks{_of(view, lane)}', totals.fractions)
             for lane, totals in enumerate(result.totals)]
    true = result.totals[0].counts[:, 2]
    if true.any():
        kinds.append(('<b>classes</b> in the labels', true))
    whole = sum(counts.sum(0) for _, counts in kinds).astype(np.float64)
    whole /= max(whole.sum(), 1.0)
    shown = [info for info in result.classes if whole[info.id] > 0]
    dominant = max(shown, key=lambda info: whole[info.id], default=None)
    if dominant is None:
        return [], ''
    if whole[dominant.id] > LEFT_OUT and len(shown) > 1:
        shown = [info for info in shown if info is not dominant]
        note = (f'; without {text(dominant.name)}, which takes '
                f'{100 * whole[dominant.id]:.0f} %')
    else:
        note = ''
    shown.sort(key=lambda info: -whole[info.id])
    ids, colors = [info.id for info in shown], [info.color for info in shown]
    shares = [_columns(counts, times, x)[:, ids] for _, counts in kinds]
    top = max(float(np.nan_to_num(one).sum(1).max()) for one in shares)
    y = plots.Axis(0.0, min(1.0, top * 1.05) or 1.0, 100.0, ' %')
    bodies = [plots.plot('', x, y, height=STRIPES, title=title + note, over=(
        f'<img alt="shares of the classes over time" src="{_picture(one, colors, y.high)}">'))
        for (title, _), one in zip(kinds, shares, strict=True)]
    named = [info for info in shown if whole[info.id] >= LEAST_SHARE][:LEGEND]
    chips = ''.join(f'<li>{swatch(info.color)}{text(info.name)}</li>' for info in named)
    rest = len(shown) - len(named)
    more = f'<li>and {rest} rarer</li>' if rest else ''
    return bodies, f'<ul class="legend small">{chips}{more}</ul>'


def _of(view: View, lane: int) -> str:
    return f' of {text(view.names[lane])}' if len(view.names) > 1 else ''


def _columns(counts: Any, times: Floats, x: plots.Axis) -> Floats:
    """Return the mean shares (columns, K) of the frames in each column; NaN where there are none.

    A column between two frames takes the nearest one, unless the bag has a gap there.
    """
    sums = counts.sum(1)
    some = sums > 0
    shares = np.zeros(counts.shape, np.float64)
    shares[some] = counts[some] / sums[some, None]
    order = np.flatnonzero(some)[np.argsort(times[some], kind='stable')]
    found = np.full((plots.COLUMNS, counts.shape[1]), np.nan)
    if not len(order):
        return found
    shares, places = shares[order], x.at(times[order])
    column = np.clip((places * plots.COLUMNS).astype(int), 0, plots.COLUMNS - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    sizes = np.diff(starts, append=len(column))
    found[column[starts]] = np.add.reduceat(shares, starts, axis=0) / sizes[:, None]
    reach = 0.75 * float(np.median(np.diff(places))) if len(places) > 1 else 0.01
    centers = (np.arange(plots.COLUMNS) + 0.5) / plots.COLUMNS
    for empty in np.flatnonzero(np.isnan(found[:, 0])):
        near = int(np.abs(places - centers[empty]).argmin())
        if abs(places[near] - centers[empty]) <= reach:
            found[empty] = shares[near]
    return found


def _picture(shares: Floats, colors: Sequence[Sequence[int]], top: float) -> str:
    """Return stacked shares (columns, K) as a picture, the first class at the bottom."""
    upper = np.cumsum(np.nan_to_num(shares), axis=1)  # (columns, K)
    levels = (np.arange(STRIPES)[::-1] + 0.5) / STRIPES * top
    index = (levels[:, None, None] >= upper[None]).sum(2)  # (rows, columns), K is above all
    table = np.array([[*color, 255] for color in colors] + [[0, 0, 0, 0]], np.uint8)
    return data(table[index], '.png')
