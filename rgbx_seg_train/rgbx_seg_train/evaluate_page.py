# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation on data sets: the sections of a bag's page, and those of data sets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from rgbx_seg_ros import eval_page_scores as scores
from rgbx_seg_ros.eval_page_parts import (
    View,
    between,
    details,
    meter,
    number,
    points,
    section,
    share,
    table,
    there,
)
from rgbx_seg_ros.eval_page_style import SCRIPT, STYLE
from rgbx_seg_ros.eval_pictures import RIGHT, UNKNOWN, WRONG
from rgbx_seg_ros.eval_result import PICTURES, BagResult
from rgbx_seg_ros.report_parts import document, picture, swatch, text, tiles
from rgbx_seg_train.evaluate_sets import SetRow

Summary = Mapping[str, Any]

ROBOT = ('By the protocol <b>robot</b>: each frame went through the robot\'s own code at the '
         'camera\'s size. The class is chosen at the network\'s size and the mask enlarged by '
         'nearest. A bag of the same frames has the same numbers in rgbx_eval_bag.')
PAPER = ('By the protocol <b>paper</b>: logits are upsampled bilinearly to the size of the label '
         'before the class is chosen. {} Papers measure so; a robot gives masks as the protocol '
         'robot scores them.')
KINDS = {'time': 'Time of day', 'weather': 'Weather', 'case': 'Fault of the sensors',
         'part': 'Part of the data set'}
SHOWN = (('rgb', 'RGB'), ('aux', '{}'), ('target', 'label'), ('mask', 'prediction'),
         ('error', 'where it errs'))


def render(summary: Summary, results: Sequence[BagResult], rows: Sequence[Sequence[SetRow]],
           folder: Path) -> str:
    """Return the page; `rows` are the frames of each data set, pictures come from `folder`."""
    own = [_data_set(summary, result, frames, folder)
           for result, frames in zip(results, rows, strict=True)]
    sections = [_sets(summary), _conditions(summary), _robustness(summary), _boxes(summary)]
    if len(results) == 1:
        sections += own[0]
    else:
        sections += [_folded(result.name, bodies, summary, place)
                     for place, (result, bodies) in enumerate(zip(results, own, strict=True))]
    sections.append(_method(summary))
    body = ''.join([_header(summary), tiles(_tiles(summary)), _contents(sections),
                    *sections, _footer(), f'<script>{SCRIPT}</script>'])
    # Units stay with their numbers where lines break.
    body = re.sub(r'(?<=\d) (?=%|px\b|points\b)', '\u00a0', body)
    return document(f'{summary["model"]}: {summary["split"]}', body, STYLE)


def _header(summary: Summary) -> str:
    sets = ', '.join(map(text, summary['sets']))
    blind = ', the second camera blinded' if summary['zero_aux'] else ''
    return (f'<header><h1>{text(summary["model"])}</h1><p><b>{text(summary["family"])}</b> on '
            f'{text(summary["engine"])}, protocol <b>{text(summary["protocol"])}</b>{blind}<br>'
            f'{text(summary["split"])} split of {sets}</p></header>')


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """Return the numbers that one sees first."""
    rows = list(summary['sets'].values())
    of = f'mean of {len(rows)} data sets; ' if len(rows) > 1 else ''
    sure = between(rows[0].get('miou_present_interval')) if len(rows) == 1 else ''
    boxes = []
    if there(summary['miou']):
        boxes = [('mean IoU, strict', share(summary['miou']),
                  f'{of}a class that never occurs counts 0'),
                 ('mean IoU, present', share(summary['miou_present']),
                  f'{of}of the classes that occur' + (f'; 95 % interval {sure}' if sure else '')),
                 ('mean accuracy', share(summary['mean_accuracy']),
                  f'{of}found share of each class\'s pixels'),
                 ('boundary IoU', share(summary['boundary_miou']), f'{of}near outlines only')]
    if there(summary['ece']):
        boxes.append(('calibration error', share(summary['ece']),
                      f'{of}distance of confidence from being right; below 5 % is good'))
    if there(summary['miou_day']) and there(summary['miou_night']):
        boxes.append(('mean IoU by night', share(summary['miou_night']),
                      f'strict; by day {share(summary["miou_day"])}'))
    return [*boxes, ('frames', number(summary['frames']), f'of the {text(summary["split"])} split')]


def _contents(sections: Sequence[str]) -> str:
    found = [re.match(r'<section id="([^"]*)"><h2>(.*?)</h2>', part) for part in sections]
    return '<nav>' + ''.join(f'<a href="#{match[1]}">{match[2]}</a>'
                             for match in found if match) + '</nav>'


def _sets(summary: Summary) -> str:
    if len(summary['sets']) == 1:
        return ''
    rows = [(text(name), text(row['classes']), number(row['frames']), meter(row['miou']),
             *(share(row[key]) for key in ('miou', 'miou_present', 'mean_accuracy',
                                           'boundary_miou', 'ece')))
            for name, row in summary['sets'].items()]
    return section('Data sets', 'Each is scored among its own classes.', table(
        ('data set', 'classes', 'frames', 'mIoU, strict', '', 'mIoU, present', 'mean accuracy',
         'boundary IoU', 'ECE'), rows, 'sort'))


def _conditions(summary: Summary) -> str:
    bodies = []
    for key, values in summary['conditions'].items():
        if len(values) < 2:
            continue
        names = sorted({name for row in values.values() for name in row.get('sets', ())})
        rows = [(text(value), number(row['frames']), meter(row['miou']), share(row['miou']),
                 share(row['miou_present']), share(row['mean_accuracy']), share(row['accuracy']),
                 *(share(row['sets'].get(name)) for name in names))
                for value, row in values.items()]
        bodies.append(f'<h3>{text(KINDS.get(key, key.capitalize()))}</h3>' + table(
            ('', 'frames', 'mIoU, strict', '', 'mIoU, present', 'mean accuracy', 'accuracy',
             *map(text, names)), rows, 'sort'))
    lead = ('Strict: a class that does not occur under a condition counts 0 there, so that rows '
            'are comparable between models, but not with each other. Rows with few frames tell '
            'little.')
    return section('By condition', lead, *bodies)


def _robustness(summary: Summary) -> str:
    found = summary.get('robustness') or []
    if not found:
        return ''
    names = list(summary['sets']) if len(summary['sets']) > 1 else []
    rows = [(text(row['words']), meter(row['miou'], None, 'first' if row is found[0] else 'second'),
             share(row['miou']), '' if row is found[0] else f'{points(row["change"])} points',
             *(share(row['sets'].get(name)) for name in names)) for row in found]
    lead = (f'{found[0]["frames"]} frames, evenly apart, once more with something wrong. Shifts '
            'are in pixels of the camera, to one of four sides; noise has a standard deviation of '
            'a tenth of the range.')
    return section('When something is wrong', lead, table(
        ('', 'mIoU, strict', '', 'change', *map(text, names)), rows))


def _boxes(summary: Summary) -> str:
    found = summary.get('box_score')
    if not found:
        return ''
    rows = [(f'{text(name)}, {text(part)}', number(row['boxes']), meter(row['hit_rate']),
             share(row['hit_rate']), share(row['inside']))
            for part, names in found.items() for name, row in names.items()]
    lead = ('Labels are weak here: people drew boxes, not masks. A box is hit if its class fills a '
            'fifth of it; inside is the share of the class\'s pixels that lies in a box of it.')
    return section('Boxes', lead, table(('', 'boxes', 'hit', '', 'inside'), rows))


def _data_set(summary: Summary, result: BagResult, rows: Sequence[SetRow], folder: Path
              ) -> list[str]:
    """Return the sections on one data set."""
    row = summary['sets'][result.name]
    view = View({'bundles': [{'name': summary['model'], 'modality': row['modality']}],
                 'classes': [asdict(info) for info in result.classes], 'scores': [row],
                 'settings': {}, 'bootstrap': {'caveat': row['caveat']}}, [result], folder)
    return [part for part in (scores.by_class(view), scores.confusion(view),
                              scores.reliability(view), _pictures(result, rows, row, folder))
            if part]


def _folded(name: str, bodies: Sequence[str], summary: Summary, place: int) -> str:
    """Return the sections on one data set of several as one that can be opened."""
    inner = ''.join(re.sub(r'^<section id="([^"]*)"><h2>(.*?)</h2>',
                           rf'<section id="{place}-\1"><h3>\2</h3>', body) for body in bodies)
    score = summary['sets'][name]['miou']
    return section(name, '', details(f'mIoU {share(score)}: classes, confusion, confidence, frames',
                                     inner, opened=place == 0))


def _pictures(result: BagResult, rows: Sequence[SetRow], row: Mapping[str, Any], folder: Path
              ) -> str:
    """Return the worst and the best frames."""
    shots: dict[str, str] = {}
    for entry in result.pictures:
        shots[entry['kind']] = shots.get(entry['kind'], '') + _shot(
            result, rows, row['modality'], entry, folder / PICTURES / result.bag)
    worst, best = shots.get('worst', ''), shots.get('best', '')
    lead = (f'By mIoU of the single frame. Where it errs: {swatch(RIGHT)}right '
            f'{swatch(WRONG)}wrong {swatch(UNKNOWN)}not labeled.')
    return section('Worst frames', lead, worst, details('Best frames', best, opened=not worst))


def _shot(result: BagResult, rows: Sequence[SetRow], modality: str, entry: Mapping[str, Any],
          folder: Path) -> str:
    record, row = result.records[0][entry['number']], rows[entry['number']]
    figures = ''.join(
        f'<figure>{_picture(folder / entry["files"][name], title)}<figcaption>{title}'
        '</figcaption></figure>'
        for name, title in ((name, title.format(text(modality))) for name, title in SHOWN)
        if name in entry['files'])
    parts = [f'<b>mIoU {share(record.miou)}</b>' if there(record.miou) else '<b>not labeled</b>',
             text(row.name), *map(text, row.conditions.values()),
             f'{share(record.accuracy)} right' if there(record.accuracy) else '',
             f'confidence {share(record.confidence, 0)}', f'brightness {record.brightness:.0f}']
    return (f'<div class="shot"><p>{" · ".join(filter(None, parts))}</p>'
            f'<div class="frames">{figures}</div></div>')


def _picture(file: Path, words: str) -> str:
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return picture(image, file.suffix, words)


def _method(summary: Summary) -> str:
    words = (ROBOT if summary['protocol'] == 'robot' else
             PAPER.format(text(summary['geometry'])))
    return section('How it was measured', '', f'<p class="say">{words}</p>'
                   '<p class="say">Counts of pixels are added up over frames and divided at the '
                   'end; pixels without a label count neither way. Intervals take frames for '
                   'independent of each other: of neighboring frames of a drive they are too '
                   'narrow.</p>')


def _footer() -> str:
    return ('<footer><p>The same numbers are in <a href="report.json">report.json</a>, those of '
            'every frame in <a href="frames.csv">frames.csv</a>, the pictures at full size in the '
            'folder pictures.</p></footer>')
