# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How good a bundle is: by class, by what is taken for what, by confidence, by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import eval_plots as plots
from rgbx_seg_ros.eval_page_parts import (
    STYLES,
    View,
    keys,
    meter,
    number,
    per_bundle,
    section,
    share,
    table,
    there,
)
from rgbx_seg_ros.report_parts import data, swatch, text

NUMBERED = 24  # classes up to which the confusion matrix shows numbers
CELL = 13  # pixels of a cell where it does not
TOLD = 8  # confusions told in words
LEAST_SHARE = 1e-4  # of the pixels, for a class to be told of
CONDITIONS = {'brightness': 'Brightness of the RGB image (its mean, 0 to 255)',
              'skew': 'Skew: the time between the two images of a pair',
              'aux_contrast': 'Contrast of the {} image as the network sees it (0 to 255)'}
UNITS = {'brightness': '', 'skew': ' ms', 'aux_contrast': ''}


def by_class(view: View) -> str:
    """Return a table of the classes for each bundle; without labels, what is seen how often."""
    lead = ('IoU is the overlap of mask and label: 100 % is perfect, 0 % is a class never hit. '
            'Precision: how much of what is called so is so. Recall: how much of it was found. '
            'Boundary IoU counts only pixels near outlines.'
            if view.labeled else 'How much of the masks each class takes.')
    if any(row['interval'] for scores in view.summary['scores'] for row in scores['per_class']):
        lead += ' Whiskers are 95 % intervals.'
    caveat = (view.summary.get('bootstrap') or {}).get('caveat')
    if view.labeled and caveat:
        lead += f' <b>Careful:</b> {text(caveat)}'
    return section('Classes', lead, per_bundle(view, [
        _classes(view, lane, scores) for lane, scores in enumerate(view.summary['scores'])]))


def _classes(view: View, lane: int, scores: Mapping[str, Any]) -> str:
    colors = {info['id']: info['color'] for info in view.summary['classes']}
    rows, absent = [], []
    most = max((row['predicted_share'] or 0.0 for row in scores['per_class']), default=1.0)
    for row in scores['per_class']:
        if not row['predicted_share'] and not there(row['iou']):
            absent.append(text(row['name']))
            continue
        style = STYLES[lane % len(STYLES)]
        bar = (meter(row['iou'], row['interval'], style) if view.labeled else
               meter(row['predicted_share'], None, style, most or 1.0))
        rows.append((f'{swatch(colors[row["id"]])}{text(row["name"])}', bar, share(row['iou']),
                     share(row['boundary_iou']), share(row['precision']), share(row['recall']),
                     share(row['true_share'], 2), share(row['predicted_share'], 2)))
    head = ('class', 'IoU' if view.labeled else 'in the masks', '', 'boundary IoU', 'precision',
            'recall', 'in the labels', 'in the masks' if view.labeled else '')
    note = ''
    if absent:
        note = (f'<p class="note">Neither in a mask nor in a label: {", ".join(absent)}. '
                'They count in no mean.</p>')
    return table(head, rows, 'sort') + note


def confusion(view: View) -> str:
    """Return for each bundle what is taken for what."""
    if not view.labeled:
        return ''
    lead = ('Each row is a true class and sums to 100 %: the diagonal is what was found, '
            'everything else what it was taken for.')
    return section('Confusion', lead, per_bundle(view, [
        _confusion(view, lane) for lane in range(len(view.names))]))


def _confusion(view: View, lane: int) -> str:
    matrix = np.array(view.summary['scores'][lane]['confusion'], np.int64)
    abstained = sum(result.totals[lane].abstained for result in view.results)
    names = [str(info['name']) for info in view.summary['classes']]
    ids = [info['id'] for info in view.summary['classes']]
    matrix = np.column_stack([matrix[np.ix_(ids, ids)], np.array(abstained)[ids]])
    names_across = [*names, 'not sure']
    rows = np.flatnonzero(matrix.sum(1))
    across = np.flatnonzero(matrix.sum(0))
    if not len(rows):
        return ''
    shares = matrix[rows] / matrix[rows].sum(1, keepdims=True)
    draw = _heat if max(len(rows), len(across)) <= NUMBERED else _map
    return (draw([names[row] for row in rows], [names_across[n] for n in across],
                 shares[:, across]) + _confused(names, names_across, rows, shares, matrix))


def _heat(rows: Sequence[str], across: Sequence[str], shares: NDArray[np.float64]) -> str:
    head = ''.join(f'<th class="col"><span>{text(name)}</span></th>' for name in across)
    body = []
    for name, values in zip(rows, shares, strict=True):
        cells = ''.join(
            f'<td class="{"deep" if value > 0.55 else ""}" style="--v:{100 * value:.0f}" '
            f'title="{text(name)} taken for {text(other)}">'
            f'{f"{100 * value:.0f}" if value >= 0.005 else ""}</td>'
            for other, value in zip(across, values, strict=True))
        body.append(f'<tr><th class="row">{text(name)}</th>{cells}</tr>')
    return (f'<div class="wide"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
            f'<tbody>{"".join(body)}</tbody></table></div>')


def _map(rows: Sequence[str], across: Sequence[str], shares: NDArray[np.float64]) -> str:
    picture = np.zeros((*shares.shape, 4), np.uint8)
    picture[..., :3] = (47, 111, 222)
    picture[..., 3] = np.round(255 * np.sqrt(shares))  # the root shows the small ones too
    left = ''.join(f'<div>{text(name)}</div>' for name in rows)
    below = ''.join(f'<div>{text(name)}</div>' for name in across)
    size = f'width:{CELL * len(across)}px;height:{CELL * len(rows)}px'
    return (f'<div class="wide"><div class="map"><div class="rows">{left}</div>'
            f'<img alt="confusion matrix" style="{size}" src="{data(picture, ".png")}">'
            f'<div class="cols">{below}</div></div></div>')


def _confused(names: Sequence[str], across: Sequence[str], rows: NDArray[np.intp],
              shares: NDArray[np.float64], matrix: NDArray[np.int64]) -> str:
    """Return the confusions that cost most, in words."""
    enough = matrix[rows].sum(1) >= LEAST_SHARE * matrix.sum()
    off = np.where((rows[:, None] == np.arange(matrix.shape[1])) | ~enough[:, None], 0.0, shares)
    told = []
    for place in np.argsort(-off, axis=None, kind='stable')[:TOLD]:
        row, other = np.unravel_index(place, off.shape)
        if off[row, other] >= 0.01:
            told.append((f'{text(names[int(rows[row])])} → {text(across[int(other)])}',
                         meter(float(off[row, other])),
                         f'{100 * off[row, other]:.1f} % of its pixels',
                         number(int(matrix[rows[row], other]))))
    return table(('most frequent mistakes: true → taken for', '', '', 'pixels'), told)


def reliability(view: View) -> str:
    """Return how far confidence can be believed."""
    bodies = []
    for scores in view.summary['scores']:
        bins = [(one['confidence'], one['accuracy'], one['pixels'])
                for one in scores['reliability'] or [] if one['pixels']]
        if not bins or not there(scores['ece']):
            bodies.append('')
            continue
        gap = sum(pixels * (sure - right) for sure, right, pixels in bins) / sum(
            pixels for _, _, pixels in bins)
        words = ('It is neither over- nor underconfident on the whole.' if abs(gap) < 0.01 else
                 f'On the whole it is {"over" if gap > 0 else "under"}confident by '
                 f'{abs(100 * gap):.1f} points.')
        bodies.append(
            f'<div class="two"><div class="card">{plots.reliability(bins)}</div><div>'
            f'<p class="say"><b>ECE {100 * scores["ece"]:.1f} %</b>: the mean distance between '
            f'confidence and being right. Below 5 % is good. {words}</p>'
            '<p class="say">Read: of the pixels at 80 % on the axis below, 80 % should be right, '
            'which is the dashed line. Below it the model believes too much in itself, above it '
            'too little. Large dots hold many pixels.</p></div></div>')
    return section('Can confidence be believed?', '', per_bundle(view, bodies)
                   if any(bodies) else '')


def conditions(view: View) -> str:
    """Return the scores by brightness, skew and contrast."""
    bodies = []
    for name, title in CONDITIONS.items():
        lanes = [lane.get(name) or [] for lane in view.summary['conditions']]
        rows = [_condition(name, bins) for bins in zip(*lanes, strict=True) if bins[0]['pairs']]
        if len(rows) < 2:
            continue
        title = title.format(text(view.modality))
        measures = [f'{words}' for words in ('mIoU', '', 'accuracy', 'confidence', 'consistency')]
        head = ['', 'pairs', 'with labels', *(measures * len(lanes))]
        if len(lanes) > 1:
            head = ['', 'pairs', 'with labels', *(
                part for bundle in view.names
                for part in (f'mIoU, {text(bundle)}', '', '', '', ''))]
        bodies.append(f'<h3>{title}</h3>{table(head, rows)}')
    lead = ('Where scores fall from row to row, the condition matters. Rows with few pairs tell '
            'little.')
    return section('By condition', lead, keys(view) if bodies else '', *bodies)


def _condition(name: str, bins: Sequence[Mapping[str, Any]]) -> list[str]:
    low, high = bins[0]['low'], bins[0]['high']
    unit = UNITS[name]
    bounds = (f'from {low:g}{unit}' if not there(high) or math.isinf(high) else
              f'{low:g} to {high:g}{unit}')
    label = bounds if name == 'skew' else f'{text(bins[0]["name"])} <small>{bounds}</small>'
    row = [label, number(bins[0]['pairs']), number(bins[0]['scored'] or None)]
    alone = len(bins) == 1
    for lane, one in enumerate(bins):
        row += [meter(one['miou'], None, STYLES[lane % len(STYLES)]) if there(one['miou']) else '',
                share(one['miou']), *((share(one[key]) if alone else '') for key in (
                    'accuracy', 'confidence', 'consistency'))]
    return row


def sureness(view: View) -> str:
    """Return what can be told without labels: consistency, confidence, entropy."""
    words = {'consistency': ('temporal consistency',
                             'share of pixels that keep their class from one frame to the next, '
                             'moved along with the picture; higher flickers less'),
             'confidence': ('mean confidence', 'what the model itself gives its class; high is not '
                            'yet right, a sudden fall is a warning'),
             'entropy': ('entropy, at most [bit]', 'how undecided the model is between classes; 0 '
                         'is certain'),
             'agreement': ('agreement', f'share of pixels labeled as by {text(view.names[0])}')}
    rows = []
    for key, (name, meaning) in words.items():
        values = [scores.get(key) for scores in view.summary['scores']]
        if any(map(there, values)):
            rows.append((name, *(share(value) if key != 'entropy' else
                                 f'{value:.2f}' if there(value) else '' for value in values),
                         f'<td class="words">{meaning}</td>'))
    lead = 'Told by the masks alone; none of it needs labels.'
    several = len(view.names) > 1
    return section('Steadiness and confidence', lead, table(
        ('', *(text(name) if several else '' for name in view.names), 'what it means'), rows))


def aux_use(view: View) -> str:
    """Return whether the second modality is used at all."""
    bodies = [_aux_use(view, scores) for scores in view.summary['scores']]
    lead = (f'Every now and then a pair ran once more with the {text(view.modality)} image '
            'blacked out.')
    return section(f'Is {view.modality} used?', lead,
                   per_bundle(view, bodies) if any(bodies) else '')


def _aux_use(view: View, scores: Mapping[str, Any]) -> str:
    change, modality = scores.get('aux_change'), text(view.modality)
    if not there(change) or not scores.get('ablated'):
        return ''
    used = (f'<b>Hardly:</b> without {modality} only {share(change, 2)} of the pixels change their '
            'class. Either the model has not learned to use it, or the image carries nothing: look '
            'at it in the pictures above.' if change < 0.01 else
            f'<b>Yes:</b> without {modality} {share(change)} of the pixels change their class.')
    having, lacking = scores.get('miou_with_aux'), scores.get('miou_without_aux')
    gain = ''
    if there(having) and there(lacking):
        points = 100 * (having - lacking)
        effect = (f'it brings {points:.1f} points' if points >= 0.5 else
                  f'it costs {-points:.1f} points: check the registration of the two cameras and '
                  'the normalization' if points <= -0.5 else 'it changes nothing worth telling')
        gain = (f' mIoU of these pairs is {share(having)} with {modality} and {share(lacking)} '
                f'without; {effect}.')
    return f'<p class="say">{used}{gain} Measured on {scores["ablated"]} pairs.</p>'
