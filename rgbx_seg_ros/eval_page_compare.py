# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Whether one bundle is better than another, in words first, then where and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rgbx_seg_ros.eval_page_parts import (
    View,
    between,
    details,
    key,
    number,
    points,
    section,
    share,
    table,
    there,
)
from rgbx_seg_ros.eval_page_pictures import shots
from rgbx_seg_ros.report_parts import swatch, text

# Scores of a bundle beside those of the others: key, name, digits, what it means.
MEASURES = (
    ('miou', 'mIoU', 'overlap of mask and label, mean of the classes'),
    ('miou_strict', 'mIoU, strict', 'the same, classes that never occur count 0'),
    ('boundary_miou', 'boundary IoU', 'the same near outlines'),
    ('accuracy', 'accuracy', 'right pixels'),
    ('mean_accuracy', 'mean accuracy', 'right pixels, mean of the classes'),
    ('ece', 'ECE', 'distance of confidence from being right; lower is better'),
    ('consistency', 'consistency', 'pixels that keep their class over time'),
    ('confidence', 'confidence', 'what the model gives its own classes'),
    ('aux_change', 'use of {}', 'pixels that change their class without it'))


def verdict(change: Mapping[str, Any]) -> tuple[str, str]:
    """Return a tone (good, bad, or none) and the sentence that tells which bundle is better."""
    if not there(change['miou_change']):
        if not there(change.get('agreement')):
            return '', 'Nothing can be compared.'
        if change['agreement'] == 1.0:
            return '', 'Both give the same masks.'
        return '', (f'Both agree on {share(change["agreement"])} of the pixels; without labels '
                    'nobody can tell which is better.')
    value, bounds = change['miou_change'], change['interval']
    if value == 0 and change.get('agreement') == 1.0:
        return '', 'Both give the same masks.'
    size = f'{abs(100 * value):.1f} points'
    if not bounds:
        side = 'higher' if value > 0 else 'lower'
        return '', f'mIoU is {size} {side}, on too few moments to tell whether that is chance.'
    told = f'95 % interval {between(bounds, signed=True)}'
    if bounds[0] > 0:
        return 'good', f'Better by {size}, {told}.'
    if bounds[1] < 0:
        return 'bad', f'Worse by {size}, {told}.'
    return '', f'No difference can be told: {points(value)} points, {told}.'


def comparison(view: View) -> str:
    """Return the section on all further bundles; '' of one bundle."""
    if len(view.names) == 1:
        return ''
    bodies = [_bundle(view, lane, change)
              for lane, change in enumerate(view.summary['comparison'], 1)]
    return section('Comparison', '', *bodies, _side_by_side(view))


def _bundle(view: View, lane: int, change: Mapping[str, Any]) -> str:
    tone, sentence = verdict(change)
    sure = change.get('probability_better')
    meaning = []
    if there(change['miou_change']) and change['interval']:
        meaning.append('The interval says where the change would lie on other moments like these; '
                       'if it holds 0, the change may be chance.')
        if there(sure):
            told = ('less than 1 %' if sure < 0.01 else 'more than 99 %' if sure > 0.99 else
                    share(sure, 0))
            meaning.append(f'That it is better at all has a probability of {told}.')
    if change.get('paired_frames'):
        meaning.append(f'Both ran on the same {number(change["paired_frames"])} frames with '
                       'labels.')
    if there(change['miou_change']) and there(change.get('agreement')):
        meaning.append(f'They agree on {share(change["agreement"])} of the pixels.')
    if change.get('caveat') and change.get('paired_frames'):
        meaning.append(f'<b>Careful:</b> {text(change["caveat"])}')
    return (f'<h3>{key(lane)}{text(change["bundle"])} against {key(0)}'
            f'{text(change["baseline"])}</h3><p class="verdict {tone}">{sentence}</p>'
            f'<p class="lead">{" ".join(meaning)}</p>'
            f'{_regressions(view, change)}{_classes(view, change)}')


def _regressions(view: View, change: Mapping[str, Any]) -> str:
    """Return where it got worse, then where it got better, with pictures."""
    worse = shots(view, change['bundle'], 'regression', against=change['baseline'])
    better = shots(view, change['bundle'], 'improvement', against=change['baseline'])
    differ = shots(view, change['bundle'], 'difference', against=change['baseline'])
    lost = _moments(view, change.get('regressions') or [])
    won = _moments(view, change.get('improvements') or [])
    return (
        (f'<h4>Where it got worse</h4>{worse}' if worse else '')
        + details('Moments that got worse, in numbers' if worse else 'Moments that got worse', lost)
        + details('Where it got better', better + won)
        + (f'<h4>Where both differ most</h4>{differ}' if differ else ''))


def _moments(view: View, moments: Sequence[Mapping[str, Any]]) -> str:
    several = len(view.results) > 1
    return table(('bag' if several else '', 'time', 'frame', 'before', 'now', 'change'), [
        (text(one['bag']) if several else '', f'{one["time_s"]:.2f} s', str(one['number']),
         share(one['baseline_miou']), share(one['miou']), f'{points(one["change"])} points')
        for one in moments], 'sort')


def _classes(view: View, change: Mapping[str, Any]) -> str:
    """Return the change of each class as dot and interval around zero, worst first."""
    colors = {info['id']: info['color'] for info in view.summary['classes']}
    told = [one for one in change.get('per_class') or [] if there(one['change'])]
    told.sort(key=lambda one: one['change'])
    if not told:
        return ''
    most = max(max(abs(bound) for bound in (one['interval'] or [one['change']])) for one in told)
    most = max(most, *(abs(one['change']) for one in told), 1e-6)
    rows = []
    for one in told:
        low, high = one['interval'] or (one['change'], one['change'])
        tone = 'better' if low > 0 else 'worse' if high < 0 else 'same'
        if not one['interval']:
            tone = 'same'
        left, right, dot = (50 + 49 * value / most for value in (low, high, one['change']))
        bar = (f'<td class="change {tone}" data-v="{one["change"]:.6g}"><div><u style="left:'
               f'{left:.1f}%;width:{right - left:.1f}%"></u><s style="left:{dot:.1f}%"></s></div>'
               '</td>')
        mark = swatch(colors[one['id']]) if one.get('id') in colors else ''
        rows.append((f'{mark}{text(one["name"])}', bar, points(one['change']),
                     between(one['interval'], signed=True)))
    return ('<h4>IoU by class</h4><p class="lead">Points gained (right) or lost (left); the line '
            'is the 95 % interval. Gray: no difference can be told.</p>'
            + table(('class', '', 'change', 'interval'), rows, 'sort'))


def _side_by_side(view: View) -> str:
    rows = []
    for name, title, meaning in MEASURES:
        values = [scores.get(name) for scores in view.summary['scores']]
        if any(map(there, values)):
            rows.append((title.format(text(view.modality)), *map(share, values),
                         f'<td class="words">{meaning}</td>'))
    stages = view.summary['timing'].get('stages') or []
    medians = [(stage.get('engine') or {}).get('p50') for stage in stages]
    if any(map(there, medians)):
        rows.append(('engine', *(f'{value:.1f} ms' if there(value) else '' for value in medians),
                     '<td class="words">inference alone, median</td>'))
    heads = [f'{key(lane)}{text(name)}' for lane, name in enumerate(view.names)]
    return '<h4>Side by side</h4>' + table(('', *heads, 'what it means'), rows)
