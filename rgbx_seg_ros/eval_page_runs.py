# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How the bags came through: synchronization, drops, time by stage, each bag, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rgbx_seg_ros import eval_plots as plots
from rgbx_seg_ros.eval_page_parts import (
    View,
    details,
    duration,
    milliseconds,
    number,
    per_bundle,
    section,
    share,
    table,
    there,
)
from rgbx_seg_ros.remedies import REMEDIES, STATES
from rgbx_seg_ros.report_parts import HARMLESS, LOSSES, text

STAGES = ('decode', 'thermal', 'registration', 'resize', 'engine')
STAGE_WORDS = {'decode': 'decoding', 'thermal': 'thermal front end', 'registration': 'registration',
               'resize': 'resizing', 'engine': 'engine'}
LEAST_MS = 0.05  # that a step takes at most, to be told of


def sync(view: View) -> str:
    """Return how well the cameras were synchronized, and what became of their frames."""
    report = view.summary['sync']
    skews = np.concatenate([view.column(result, 0, 'skew_ms') for result in view.results])
    skews = skews[np.isfinite(skews)]
    bodies = [_streams(view, report)]
    skew = report.get('skew_ms') or {}
    if len(skews):
        offset = skew.get('mean')
        words = ''
        if there(offset) and abs(offset) > 2 and abs(offset) > np.std(skews) / 2:
            words = (f' On the average the {text(view.modality)} image is {abs(offset):.1f} ms '
                     f'{"later" if offset > 0 else "earlier"} than its RGB image: if that is an '
                     'offset of the clocks and not of the exposure, sync.aux_offset takes it out.')
        bodies.append(
            '<div class="two"><div class="card">'
            + plots.histogram(skews, 'ms', f'skew [ms], {view.modality} minus RGB', 'third')
            + f'</div><p class="say">Skew is the time between the two images of a pair. Half of '
            f'the pairs are within <b>{milliseconds(skew.get("p50"))}</b>, 95 % within '
            f'<b>{milliseconds(skew.get("p95"))}</b>, all within '
            f'<b>{milliseconds(skew.get("max"))}</b>. At 1 m/s across the view, 10 ms shift what '
            f'is seen by 1 cm.{words}</p></div>')
    bodies += [_drops(report), _states(report), _notes(view)]
    return section('Synchronization', 'What the two cameras delivered, and what paired.', *bodies)


def _streams(view: View, report: Mapping[str, Any]) -> str:
    def of(name: str, stream: str) -> Any:
        return (report.get(name) or {}).get(stream)

    rows = []
    for stream in dict.fromkeys([*(report.get('frames') or {}), *(report.get('rates_hz') or {})]):
        frames = of('frames', stream)
        if not frames:
            continue
        gaps, delay = of('gaps', stream) or {}, of('camera_ms', stream) or {}
        rate, longest = of('rates_hz', stream), gaps.get('longest_s')
        name = {'rgb': 'RGB', 'aux': view.modality, 'label': 'labels'}.get(stream, stream)
        delayed = delay.get('p50')
        rows.append((text(name), number(frames), f'{rate:.2f} Hz' if there(rate) else '',
                     milliseconds(of('jitter_ms', stream)), number(gaps.get('count')),
                     f'{longest:.2f} s' if there(longest) and gaps.get('count') else '',
                     number(of('undecodable', stream) or None),
                     milliseconds(delayed),
                     milliseconds(delay.get('p95'))))
    offset = report.get('clock_offset_ms')
    note = ('Jitter is how unevenly the stamps follow each other; a gap is more than 2.5 usual '
            'distances without a frame; arrival is reception minus stamp.')
    if there(offset) and abs(offset) >= 1.0:
        side = 'ahead of' if offset > 0 else 'behind'
        note += (f' Of images that arrive together, the stamps of {text(view.modality)} are '
                 f'{abs(offset):.1f} ms {side} those of RGB: a longer way to the recorder, or '
                 'another clock.')
    body = table(('stream', 'frames', 'rate', 'jitter', 'gaps', 'longest gap', 'undecodable',
                  'arrival, median', 'arrival, 95 %'), rows)
    return body + f'<p class="note">{note}</p>' if body else ''


def _drops(report: Mapping[str, Any]) -> str:
    causes = {cause: count for cause, count in (report.get('drops') or {}).items() if count}
    rows = []
    for cause, count in sorted(causes.items(), key=lambda one: (one[0] in HARMLESS, -one[1])):
        words = LOSSES.get(cause) or HARMLESS.get(cause) or cause.replace('_', ' ')
        remedy = '' if cause in HARMLESS else REMEDIES.get(cause, '')
        rows.append((f'<td class="words">{text(words)}</td>', f'<code>{text(cause)}</code>',
                     number(count), f'<td class="words">{text(remedy)}</td>' if remedy else ''))
    pairs = report.get('pairs')
    told = f'{number(pairs)} pairs came about. ' if number(pairs) else ''
    if not rows:
        return f'<p class="say">{told}No frame was dropped.</p>' if told else ''
    return (f'<h4>What was not used</h4><p class="say">{told}The rest by cause:</p>'
            + table(('frames', 'cause', 'count', 'what to do'), rows))


def _notes(view: View) -> str:
    """Return what the reader of a bag found odd, in its words."""
    several = len(view.summary['bags']) > 1
    items = [f'<li>{text(bag["name"] + ": ") if several else ""}{text(note)}</li>'
             for bag in view.summary['bags'] for note in bag['sync'].get('notes') or ()]
    return f'<h4>What else was found</h4><ul class="say">{"".join(items)}</ul>' if items else ''


def _states(report: Mapping[str, Any]) -> str:
    states = {state: count for state, count in (report.get('states') or {}).items()
              if count and state != 'paired'}
    return ('<h4>While a camera was lost</h4>' if states else '') + table(
        ('state', 'pairs', 'what it means'),
        [(f'<code>{text(state)}</code>', number(count),
          f'<td class="words">{text(STATES.get(state, ""))}</td>')
         for state, count in states.items()])


def latency(view: View) -> str:
    """Return where the time goes on each pair, and how fast the whole went."""
    timing = view.summary['timing']
    bodies = [_stages(stages) for stages in timing.get('stages') or []]
    factor, engine_share = timing.get('real_time_factor'), timing.get('engine_share')
    words = []
    if there(factor):
        words.append(f'{duration(timing.get("bag_s"))} of bag took {duration(timing["wall_s"])}: '
                     f'<b>{factor:.2f} times real time</b>'
                     + (f', {timing["pairs_per_s"]:.1f} pairs a second.'
                        if there(timing.get('pairs_per_s')) else '.'))
    if there(engine_share):
        words.append(f'The engine was busy {share(engine_share, 0)} of the time; reading, decoding '
                     'and scoring ran beside it.')
    lead = ('What a pair costs, step by step. Measured while bags are evaluated: the node shares '
            'its machine with other things.')
    told = f'<p class="say">{" ".join(words)}</p>' if words else ''
    return section('Time', lead, told, per_bundle(view, bodies) if bodies else '')


def _stages(stages: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name.removesuffix('_ms'): spread for name, spread in stages.items()
             if there(spread.get('p50'))}
    names = [name for name in (*STAGES, *found) if name in found and (
        (found[name].get('max') or 0.0) >= LEAST_MS)]
    names = list(dict.fromkeys(names))
    if not names:
        return ''
    sums = {rank: sum(found[name].get(rank) or 0.0 for name in names) for rank in ('p50', 'p95')}
    full = max(sums.values()) or 1.0
    bars = []
    for rank, words in (('p50', 'median'), ('p95', '95 %')):
        parts = ''.join(
            f'<b class="s{_color(name)}" style="width:{100 * found[name][rank] / full:.2f}%" '
            f'title="{text(STAGE_WORDS.get(name, name))} {found[name][rank]:.1f} ms"></b>'
            for name in names)
        bars.append(f'<span>{words}</span><div class="stack">{parts}</div>'
                    f'<span>{sums[rank]:.1f} ms</span>')
    rows = [(f'<span class="swatch s{_color(name)}"></span>{text(STAGE_WORDS.get(name, name))}',
             *(milliseconds(found[name].get(rank)) for rank in ('p50', 'p95', 'max')))
            for name in names]
    return (f'<div class="stacks">{"".join(bars)}</div>'
            + table(('step', 'median', '95 %', 'most'), rows)
            + '<p class="note">The bars add up the medians, and the 95 % values, of the steps; a '
            'pair is seldom slow in all of them.</p>')


def _color(name: str) -> int:
    return STAGES.index(name) if name in STAGES else 0


def bags(view: View) -> str:
    """Return one row for each bag, if there are several."""
    if len(view.summary['bags']) < 2:
        return ''
    measures = [('miou', 'mIoU'), ('boundary_miou', 'boundary IoU'), ('ece', 'ECE'),
                ('consistency', 'consistency'), ('confidence', 'confidence')]
    several = len(view.names) > 1
    heads = [f'{title}{f", {text(name)}" if several else ""}'
             for key, title in (measures[:1] + measures[3:4] if several else measures)
             for name in view.names]
    rows = []
    for bag in view.summary['bags']:
        cells = [share(scores.get(key))
                 for key, _ in (measures[:1] + measures[3:4] if several else measures)
                 for scores in bag['scores']]
        report = bag['sync']
        lost = sum(count for cause, count in (report.get('drops') or {}).items()
                   if cause not in HARMLESS)
        seconds = f'<td data-v="{bag["duration_s"]:.3f}">{duration(bag["duration_s"])}</td>'
        rows.append((text(bag['name']), seconds, number(bag['pairs']),
                     number(bag['scored'] or None), *cells,
                     milliseconds((report.get('skew_ms') or {}).get('p50')), number(lost)))
    head = ('bag', 'duration', 'pairs', 'with labels', *heads, 'skew, median', 'drops')
    return section('Bags', 'A click on a head sorts. Drops leave out what is harmless.',
                   table(head, rows, 'sort'))


def failed(view: View) -> str:
    """Return which bags could not be evaluated, and why."""
    rows = [(text(one.get('name') or one.get('bag') or ''),
             f'<td class="words">{text(one.get("reason") or one.get("error") or "")}</td>')
            for one in view.summary.get('failed') or []]
    return section('Bags that failed', 'They are in none of the numbers.',
                   table(('bag', 'what was found'), rows))


def settings(view: View) -> str:
    """Return what was run, in which version, on which topics."""
    bundles = [(text(bundle['name']), text(bundle['model']), text(bundle['family']),
                f'{text(bundle["backend"])} {text(bundle.get("backend_version") or "")}',
                text(bundle['device']), text(bundle['precision']),
                f'{bundle["width"]} × {bundle["height"]}',
                f'<code title="{text(bundle["sha256"])}">{text(bundle["sha256"])[:12]}</code>')
               for bundle in view.summary['bundles']]
    topics = [(text(bag['name']), *(text(bag['topics'].get(stream) or '')
                                    for stream in ('rgb', 'aux', 'label')))
              for bag in view.summary['bags']]
    flat = [(f'<code>{text(name)}</code>', text(value))
            for name, value in _flat(view.summary['settings'])]
    versions = [(text(name), text(value)) for name, value in view.summary['versions'].items()]
    return section(
        'What was run', '', table(('bundle', 'model', 'family', 'backend', 'device', 'precision',
                                   'input', 'model SHA-256'), bundles),
        details('Topics', table(('bag', 'RGB', view.modality, 'labels'), topics, 'left')),
        details('Settings', table(('setting', 'value'), flat, 'left')),
        details('Versions', table(('', 'version'), versions, 'left')))


def _flat(tree: Mapping[str, Any], above: str = '') -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found += _flat(value, f'{above}{name}.')
        elif isinstance(value, (list, tuple)):
            found.append((above + name, ', '.join(map(str, value))))
        elif value is not None and value != '':
            shown = value if not isinstance(value, float) or not math.isfinite(value) else (
                f'{value:g}')
            found.append((above + name, str(shown)))
    return found
