# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The page of a report: one HTML file with its pictures inside, for any browser, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rgbx_seg_ros import report_plots as plots
from rgbx_seg_ros.overlay import colorize, palette
from rgbx_seg_ros.report import (
    VIDEO_FILE,
    VIDEO_HEIGHT,
    Run,
    Sample,
    panels,
    per_class,
)
from rgbx_seg_ros.report_parts import (
    HARMLESS,
    LOSSES,
    data,
    document,
    ms,
    percent,
    picture,
    swatch,
    text,
    tiles,
)


def render(run: Run, summary: Mapping[str, Any], samples: Sequence[Sample],
           has_video: bool) -> str:
    """Return the page of `run`, whose numbers are `summary`."""
    sections = [_headline(run, summary), _legend(run), _pictures(run, samples)]
    if has_video:
        sections.append(_video(run, samples))
    sections += [_scores(run), _times(run, summary), _drops(run, summary), _footer(run, summary)]
    return document(f'{run.bag} through {run.bundle}', ''.join(sections))


def _headline(run: Run, summary: Mapping[str, Any]) -> str:
    latency, engine, skew = (summary[f'{name}_ms'] for name in ('latency', 'engine', 'skew'))
    lost = sum(run.dropped.get(f'lost_on_wire_{name}', 0) for name in ('rgb', 'aux', 'mask'))
    score = 'no labels' if summary['miou'] is None else f'{100 * summary["miou"]:.1f} %'
    scored = ('the bag holds none' if summary['miou'] is None else
              f'{run.scored} masks; {100 * summary["miou_strict"]:.1f} % if absent classes count 0')
    boxes = [
        ('mean IoU', score, scored),
        ('pairs', f'{run.pairs_published} <small>of {run.pairs_in_bag}</small>',
         'published, of those in the bag'),
        ('latency', ms(latency['p50']), 'capture to mask, median; '
         f'{ms(summary["camera_ms"]["p50"])} of it until both images are there'),
        ('engine', ms(engine['p50']),
         f'median; everything else {ms(summary["overhead_ms"]["p50"])}'),
        ('skew', ms(skew['p50']), f'between the cameras, median; most {ms(skew["max"])}'),
        ('lost on the wire', str(lost), 'frames and masks'),
    ]
    return (f'<header><h1>{text(run.bag)}</h1><p>{text(run.modality)} and RGB through '
            f'<b>{text(run.model)}</b> ({text(run.bundle)}) on {text(run.backend)}, '
            f'{text(run.device)}, {text(run.precision)}</p></header>'
            f'{tiles(boxes)}')


def _legend(run: Run) -> str:
    chips = ''.join(f'<li>{swatch(info.color)}{text(info.name)}</li>' for info in run.classes)
    return f'<ul class="legend">{chips}</ul>'


def _pictures(run: Run, samples: Sequence[Sample]) -> str:
    if not samples:
        return '<section><p class="note">No pair was published: no pictures.</p></section>'
    table = palette(run.classes)
    labeled = any(sample.target is not None for sample in samples)
    titles = ['RGB', run.modality, 'mask', 'overlay', *(['label'] if labeled else [])]
    cells = [f'<div class="title">{text(title)}</div>' for title in titles]
    for sample in samples:
        target = None if sample.target is None else colorize(sample.target, table)
        shown = [(sample.rgb, '.jpg'), (sample.aux, '.jpg'),
                 (colorize(sample.label, table), '.png'), (sample.overlay, '.jpg')]
        cells += [picture(image, kind, f'{title} at {sample.record.time_s:.2f} s')
                  for title, (image, kind) in zip(titles, shown, strict=False)]
        if labeled:
            cells.append('<div class="note">no label</div>' if target is None
                         else picture(target, '.png', 'label'))
        cells.append(f'<p class="caption">{sample.record.time_s:.2f} s · skew '
                     f'{sample.record.skew_ms:+.1f} ms · latency {sample.record.latency_ms:.1f} ms'
                     f' · confidence {100 * sample.record.mean_confidence:.0f} %</p>')
    return (f'<section><h2>Pairs</h2><div class="pictures" style="--columns:{len(titles)}">'
            f'{"".join(cells)}</div></section>')


def _video(run: Run, samples: Sequence[Sample]) -> str:
    poster = ''
    if samples:
        middle = samples[len(samples) // 2]
        still = panels((middle.rgb, middle.aux, middle.overlay), VIDEO_HEIGHT)
        poster = f' poster="{data(still, ".jpg")}"'
    return (f'<section><h2>The whole run</h2><video src="{VIDEO_FILE}" controls muted '
            f'preload="metadata"{poster}></video><p class="note">RGB, {text(run.modality)} and '
            'overlay; every published pair at its own time.</p></section>')


def _scores(run: Run) -> str:
    if run.confusion is None or not run.scored:
        return ('<section><h2>Scores</h2><p class="note">The bag has no labels that match a mask, '
                'so there is no IoU. Labels are mono8 images of class ids with the stamps of the '
                'RGB frames.</p></section>')
    iou, precision, recall = (per_class(run, name) for name in ('iou', 'precision', 'recall'))
    shares = run.confusion.matrix.sum(1) / max(run.confusion.matrix.sum(), 1)
    rows = []
    for info in run.classes:
        value = iou[info.name]
        absent = value is None or not np.isfinite(value)
        bar = '' if absent else (f'<span class="fill" style="width:{100 * (value or 0):.1f}%">'
                                 '</span>')
        rows.append(f'<tr><td>{swatch(info.color)}{text(info.name)}</td>'
                    f'<td class="meter"><div>{bar}</div></td><td>{percent(value)}</td>'
                    f'<td>{percent(precision[info.name])}</td>'
                    f'<td>{percent(recall[info.name])}</td>'
                    f'<td>{100 * shares[info.id]:.2f} %</td></tr>')
    return ('<section><h2>Scores by class</h2><table><thead><tr><th>class</th>'
            '<th class="meter">IoU</th><th></th><th>precision</th><th>recall</th>'
            f'<th>true pixels</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
            f'<p class="note">Over {run.scored} masks that have a label. A dash: the class is '
            'never predicted (precision), never in the labels (recall), or neither (IoU).</p>'
            '</section>')


def _times(run: Run, summary: Mapping[str, Any]) -> str:
    times = [record.time_s for record in run.records]
    latency, engine, skew = ([getattr(record, f'{name}_ms') for record in run.records]
                             for name in ('latency', 'engine', 'skew'))
    marks = [('median', summary['latency_ms']['p50']), ('95 %', summary['latency_ms']['p95'])]
    over = plots.over_time(times, [plots.Series('latency', latency, 'first'),
                                   plots.Series('engine', engine, 'second')], 'ms')
    keys = ('<p class="keys"><span class="first">latency</span>'
            '<span class="second">engine</span></p>')
    figures = [
        ('Latency over the run, capture stamp to publication', over + keys),
        ('Latency, how often', plots.histogram(latency, 'ms', 'first', marks)),
        (f'Skew over the run, {run.modality} minus RGB',
         plots.over_time(times, [plots.Series('skew', skew, 'third')], 'ms')),
        ('Skew, how often', plots.histogram(skew, 'ms', 'third')),
    ]
    boxes = ''.join(f'<figure><figcaption>{text(title)}</figcaption>{body}</figure>'
                    for title, body in figures)
    rows = ''.join(f'<tr><td>{words}</td>' + ''.join(
        f'<td>{ms(summary[key][rank])}</td>' for rank in ('p50', 'p95', 'max')) + '</tr>'
        for key, words in (('latency_ms', 'latency: capture stamp to publication'),
                           ('camera_ms', 'of it until both images had arrived, as in the bag'),
                           ('engine_ms', 'engine: inference alone'),
                           ('overhead_ms', 'overhead: the rest of the node’s work on a pair'),
                           ('skew_ms', 'skew: distance of the two stamps'),
                           ('player_late_ms', 'player: how late a frame left it')))
    return (f'<section><h2>Time</h2><div class="figures">{boxes}</div><table><thead><tr><th></th>'
            '<th>median</th><th>95 %</th><th>most</th></tr></thead>'
            f'<tbody>{rows}</tbody></table></section>')


def _drops(run: Run, summary: Mapping[str, Any]) -> str:
    # A zero is told too where a reader would look for it.
    always = [f'lost_on_wire_{name}' for name in ('rgb', 'aux', 'mask')] + ['replaced']
    counts = {**dict.fromkeys(always, 0), **run.dropped}
    rows = []
    for cause, count in sorted(counts.items(), key=lambda item: (item[0] in HARMLESS, -item[1])):
        words = LOSSES.get(cause) or HARMLESS.get(cause) or cause.replace('_', ' ')
        tone = 'calm' if cause in HARMLESS or not count else 'loss'
        rows.append(f'<tr class="{tone}"><td>{text(words)}</td><td><code>{text(cause)}</code>'
                    f'</td><td>{count}</td></tr>')
    frames = ', '.join(f'{counts["published"]} {"RGB" if name == "rgb" else run.modality}'
                       for name, counts in run.frames.items())
    return (f'<section><h2>What became of the frames</h2><p>{frames} frames were played; '
            f'{run.pairs_published} of {run.pairs_in_bag} possible pairs became masks.</p>'
            '<table><thead><tr><th>dropped</th><th>cause</th><th>count</th></tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table></section>')


def _footer(run: Run, summary: Mapping[str, Any]) -> str:
    versions = ' · '.join(f'{text(name)} {text(version)}'
                          for name, version in run.versions.items())
    return (f'<footer><p>Played at {run.rate:g} times its speed in {run.wall_s:.1f} s; stamps '
            f'shifted by {run.stamp_shift_s:.3f} s, so that the bag plays as if live. The same '
            f'numbers are in <a href="report.json">report.json</a>.</p><p>{versions}</p></footer>')
