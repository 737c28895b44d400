# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation: one HTML file for any browser, offline, that says what numbers mean.

What cannot be told of these bags, as scores without labels, is left out and not shown as dashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rgbx_seg_ros import eval_page_runs as runs
from rgbx_seg_ros import eval_page_scores as scores
from rgbx_seg_ros.eval_page_compare import comparison, verdict
from rgbx_seg_ros.eval_page_parts import (
    View,
    between,
    duration,
    milliseconds,
    number,
    points,
    share,
    there,
)
from rgbx_seg_ros.eval_page_pictures import videos, worst_and_best
from rgbx_seg_ros.eval_page_style import SCRIPT, STYLE
from rgbx_seg_ros.eval_page_time import over_time
from rgbx_seg_ros.eval_result import BagResult
from rgbx_seg_ros.report_parts import document, swatch, text, tiles

Box = tuple[str, str, str]


def render(summary: Mapping[str, Any], results: Sequence[BagResult], folder: Path) -> str:
    """Return the page of `summary`; pictures and videos are taken from `folder`/bags."""
    view = View(summary, results, folder)
    sections = [part(view) for part in (
        comparison, runs.failed, over_time, scores.conditions, scores.by_class, scores.confusion,
        scores.reliability, worst_and_best, videos, runs.sync, runs.latency, scores.aux_use,
        scores.sureness, runs.bags, runs.settings)]
    body = ''.join([_header(view), tiles(_boxes(view)), _contents(sections), _legend(view),
                    *sections, _footer(), f'<script>{SCRIPT}</script>'])
    # Units stay with their numbers where lines break.
    body = re.sub(r'(?<=\d) (?=%|(?:ms|s|Hz|points)\b)', '\u00a0', body)
    return document(f'{_title(view)}: {", ".join(view.names)}', body, STYLE)


def _title(view: View) -> str:
    bags = view.summary['bags']
    return str(bags[0]['name']) if len(bags) == 1 else f'{len(bags)} bags'


def _header(view: View) -> str:
    lines = ''.join(
        f'<br><b>{text(bundle["model"])}</b> ({text(bundle["name"])}) on '
        f'{text(bundle["backend"])}, {text(bundle["device"])}, {text(bundle["precision"])}'
        for bundle in view.summary['bundles'])
    failed = view.summary.get('failed') or []
    warning = ''
    if failed:
        count = f'{len(failed)} bags' if len(failed) > 1 else 'One bag'
        warning = (f'<p class="warn">{count} could not be evaluated; <a href="#bags-that-failed">'
                   'why</a> is told below.</p>')
    return (f'<header><h1>{text(_title(view))}</h1><p>RGB and {text(view.modality)} through'
            f'{lines}</p></header>{warning}')


def _boxes(view: View) -> list[Box]:
    """Return the numbers that one sees first."""
    boxes = _scored(view) if len(view.names) == 1 else _compared(view)
    return [*boxes, *_run(view)]


def _scored(view: View) -> list[Box]:
    found, boxes = view.summary['scores'][0], []
    if there(found['miou']):
        sure = between(found.get('miou_interval'))
        sure = f'95 % interval {sure}; ' if sure else ''
        boxes += [('mean IoU', share(found['miou']),
                   f'{sure}overlap of mask and label, 100 % is perfect'),
                  ('boundary IoU', share(found['boundary_miou']),
                   'the same near outlines only: how exact they are')]
        if there(found['ece']):
            boxes.append(('calibration error', share(found['ece']),
                          'distance of confidence from being right; below 5 % is good'))
    else:
        boxes.append(('confidence', share(found['confidence']),
                      'mean of what the model gives its own classes; no labels, no score'))
    if there(found['consistency']) and not there(found['miou']):
        boxes.append(('consistency', share(found['consistency']),
                      'pixels that keep their class from frame to frame; higher is steadier'))
    if there(found['aux_change']) and not there(found['miou']):
        boxes.append((f'use of {text(view.modality)}', share(found['aux_change']),
                      'pixels that change their class without it'))
    return boxes


def _compared(view: View) -> list[Box]:
    boxes = []
    for lane, change in enumerate(view.summary['comparison'], 1):
        tone, sentence = verdict(change)
        name = text(change['bundle'])
        if there(change['miou_change']):
            before, after = (share(view.summary['scores'][at]['miou']) for at in (0, lane))
            told = {'good': 'better', 'bad': 'worse'}.get(tone, 'no difference can be told')
            boxes.append((f'change of mIoU, {name}',
                          f'{points(change["miou_change"])} <small>points</small>',
                          f'from {before} to {after}: {told}'))
        elif there(change.get('agreement')):
            boxes.append((f'agreement, {name}', share(change['agreement']),
                          f'pixels labeled as by {text(change["baseline"])}; no labels, no score'))
    return boxes


def _run(view: View) -> list[Box]:
    report, timing = view.summary['sync'], view.summary['timing']
    pairs = sum(bag['pairs'] for bag in view.summary['bags'])
    scored = sum(bag['scored'] for bag in view.summary['bags'])
    seconds = sum(bag['duration_s'] for bag in view.summary['bags'])
    labels = f', {number(scored)} of them with labels' if scored else ', none with labels'
    boxes = [('pairs', number(pairs), f'in {duration(seconds)}{labels}')]
    skew = report.get('skew_ms') or {}
    if there(skew.get('p50')):
        boxes.append(('skew', milliseconds(skew['p50']),
                      'between the two images, median; at most '
                      f'{milliseconds(skew.get("max"))}'))
    if there(timing.get('real_time_factor')):
        boxes.append(('speed', f'{timing["real_time_factor"]:.2f} ×',
                      'real time: seconds of bag in a second; above 1 keeps up with the cameras'))
    medians = [(stage.get('engine') or {}).get('p50') for stage in timing.get('stages') or []]
    # Three figures: two bundles have to fit into one box.
    told = ' <small>and</small> '.join(f'{value:.1f}' if value < 100 else f'{value:.0f}'
                                       for value in medians if there(value))
    if told:
        boxes.append(('engine', f'{told} <small>ms</small>', 'inference of a pair, median'))
    return boxes


def _contents(sections: Sequence[str]) -> str:
    found = [re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', part) for part in sections]
    links = ''.join(f'<a href="#{match[1]}">{match[2]}</a>' for match in found if match)
    return f'<nav>{links}</nav>'


def _legend(view: View) -> str:
    """Return the colors of the classes, of few ones; the stripes name the others."""
    classes = view.summary['classes']
    if len(classes) > 30:
        return ''
    chips = ''.join(f'<li>{swatch(info["color"])}{text(info["name"])}</li>' for info in classes)
    return f'<ul class="legend">{chips}</ul>'


def _footer() -> str:
    return ('<footer><p>The same numbers are in <a href="report.json">report.json</a>, those of '
            'every frame in <a href="frames.csv">frames.csv</a>.</p></footer>')
