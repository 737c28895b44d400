# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_benchmark sync TRACE.json`: which frames a policy pairs, when, and what each message costs.

A trace is a list of `{"stream": "rgb"|"aux", "stamp_ns": ..., "arrival_ns": ...}` in order of
arrival. Between two arrivals the pairer is polled at its deadlines exactly, so the times of
emission are those of a node with a perfect timer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.sync import ANCHORS, POLICIES, STREAMS, Pair, Pairer, SyncConfig, open_pairer
from rgbx_seg_ros.sync_traces import SCENARIOS, Event, Trace, best_pairs

LARGEST = 1 << 28  # bytes of a trace; about three million frames
EXPECTED = 'expected a list of {"stream", "stamp_ns", "arrival_ns"}'
KEYS = ('stream', 'stamp_ns', 'arrival_ns')
MESSAGES = 20_000  # a shorter trace is played until this many were timed; the fastest round counts
PEER_QUEUE = 10  # what users of message_filters write


class Replay(NamedTuple):
    """What came of a trace: pairs with the time of their emission, drops, and the cost."""

    pairs: list[tuple[Pair, int]]
    drops: dict[str, int]
    us_per_message: float
    clock_offset_ns: int | None


def load_trace(path: Path) -> Trace:
    """Read a trace; RgbxSegError names the first thing that is wrong with it."""
    with path.open('rb') as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise RgbxSegError(f'{path}: found more than {LARGEST >> 20} MiB, expected a smaller '
                           'trace; cut it into pieces.')
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RgbxSegError(f'{path}: this is not JSON ({error}), {EXPECTED}.') from error
    if not isinstance(records, list):
        raise RgbxSegError(f'{path}: found a {type(records).__name__}, {EXPECTED}.')
    trace = [_event(path, number, record) for number, record in enumerate(records)]
    for number, (before, event) in enumerate(zip(trace, trace[1:], strict=False), 1):
        if event.arrival_ns < before.arrival_ns:
            raise RgbxSegError(f'{path}: event {number} arrives before event {number - 1}, '
                               'expected the order of arrival; sort by arrival_ns.')
    return trace


def _event(path: Path, number: int, record: Any) -> Event:
    if not isinstance(record, dict) or not all(key in record for key in KEYS):
        raise RgbxSegError(f'{path}: event {number} is {str(record)[:60]}, expected an object '
                           f'with {", ".join(KEYS)}.')
    if record['stream'] not in STREAMS:
        raise RgbxSegError(f'{path}: event {number} has stream {str(record["stream"])[:60]}, '
                           f'expected {" or ".join(STREAMS)}.')
    for key in KEYS[1:]:
        if type(record[key]) is not int or not 0 <= record[key] < 1 << 63:
            raise RgbxSegError(f'{path}: event {number} has {key} {str(record[key])[:60]}, '
                               'expected nanoseconds as an integer from 0 to 2**63 - 1.')
    return Event(record['arrival_ns'], record['stream'], record['stamp_ns'])


def replay(trace: Sequence[Event], config: SyncConfig) -> Replay:
    """Feed a trace to a new pairer of this configuration; the cost is CPU time."""
    again = 1 + MESSAGES // max(1, len(trace))
    rounds = [_feed(trace, open_pairer(config)) for _ in range(min(again, 20))]
    pairs, pairer, _ = rounds[0]
    seconds = min(seconds for _, _, seconds in rounds)
    return Replay(pairs, dict(sorted(pairer.drops.items())), 1e6 * seconds / max(1, len(trace)),
                  pairer.clock_offset_ns)


def _feed(trace: Sequence[Event], pairer: Pairer) -> tuple[list[tuple[Pair, int]], Pairer, float]:
    out: list[tuple[Pair, int]] = []
    began = time.thread_time()
    now = 0
    for now, stream, stamp in trace:
        while (due := pairer.next_deadline_ns()) is not None and due < now:
            out += [(pair, due) for pair in pairer.poll(due)]
        for pair in pairer.add(stream, stamp, now, None):
            out.append((pair, now))
    out += [(pair, now) for pair in pairer.flush()]
    return out, pairer, time.thread_time() - began


def summarize(result: Replay) -> dict[str, Any]:
    """Return what `--json` prints."""
    skews = [pair.skew_ns / 1e6 for pair, _ in result.pairs]
    stamps, holds = [], []
    for pair, emit_ns in result.pairs:
        assert pair.rgb and pair.aux
        stamps.append([pair.rgb.stamp_ns, pair.aux.stamp_ns, emit_ns])
        holds.append((emit_ns - max(pair.rgb.arrival_ns, pair.aux.arrival_ns)) / 1e6)
    skew_ms = spread([abs(skew) for skew in skews]) | {'signed_median': spread(skews)['p50']}
    offset = result.clock_offset_ns
    return {'pairs': stamps, 'drops': result.drops, 'us_per_message': result.us_per_message,
            'skew_ms': skew_ms, 'hold_ms': spread(holds),
            'clock_offset_ms': None if offset is None else offset / 1e6}


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return mean, max, p50 and p95; None where there are no values."""
    if not values:
        return dict.fromkeys(('mean', 'max', 'p50', 'p95'))
    ordered = sorted(values)
    last = len(ordered) - 1
    return {'mean': sum(ordered) / len(ordered), 'max': ordered[-1],
            'p50': ordered[last // 2], 'p95': ordered[round(0.95 * last)]}


def compare(name: str, config: SyncConfig) -> list[list[str]]:
    """Return the rows of one scenario: in hindsight, this policy, message_filters if installed."""
    passes = SCENARIOS[name]()
    trace = sum(passes, [])
    best = [b - a for events in passes for a, b in best_pairs(events, config.max_skew_s)]
    skews = spread([abs(skew) / 1e6 for skew in best])
    rows = [[name, 'in hindsight', str(len(best)), _ms(skews['mean']), _ms(skews['max']), '', '',
             str(len(best) - len(best_pairs(passes[0], config.max_skew_s))) * (len(passes) > 1)]]
    peer = SyncConfig('approximate_time', max_skew_s=config.max_skew_s, queue_size=PEER_QUEUE)
    settings = {config.policy: config}
    if find_spec('message_filters'):
        settings['message_filters'] = peer
    for policy, setting in settings.items():
        result = replay(trace, setting)
        figures = summarize(result)
        second = '' if len(passes) == 1 else str(sum(
            emit >= passes[1][0].arrival_ns for _, emit in result.pairs))
        rows.append(['', policy, str(len(result.pairs)), _ms(figures['skew_ms']['mean']),
                     _ms(figures['skew_ms']['max']), _ms(figures['hold_ms']['mean']),
                     f'{result.us_per_message:.1f}', second])
    return rows


def _ms(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def table(rows: list[list[str]]) -> str:
    """Return rows, the first of them a heading, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows = [rows[0], ['-' * width for width in widths], *rows[1:]]
    return '\n'.join('| ' + ' | '.join(cell.ljust(width) for cell, width in
                                       zip(row, widths, strict=True)) + ' |' for row in rows)


def describe(figures: dict[str, Any]) -> str:
    """Return the figures of one trace in words."""
    rows = [['ms', 'mean', 'p50', 'p95', 'max'],
            *([name, *(_ms(figures[key][part]) for part in ('mean', 'p50', 'p95', 'max'))]
              for name, key in (('skew', 'skew_ms'), ('hold', 'hold_ms')))]
    drops = ', '.join(f'{count} {cause}' for cause, count in figures['drops'].items()) or 'none'
    median, offset = figures['skew_ms']['signed_median'], figures['clock_offset_ms']
    return (f'{len(figures["pairs"])} pairs, {figures["us_per_message"]:.1f} us per message\n'
            f'{table(rows)}\nmedian skew {_ms(median)} ms, clock offset {_ms(offset)} ms '
            f'(aux - rgb)\nframes without a pair: {drops}')


HEADING = ['scenario', 'policy', 'pairs', 'mean skew ms', 'max skew ms', 'mean hold ms',
           'us/message', 'pairs after pass 1']


def _parser() -> Arguments:
    default = SyncConfig()
    parser = Arguments('rgbx_benchmark sync', description='Replay the stamps and arrivals of two '
                       'cameras through a pairing policy.')
    add = parser.add_argument
    add('trace', type=Path, nargs='?', help='JSON: a list of {"stream": "rgb"|"aux", "stamp_ns", '
        '"arrival_ns"} in order of arrival')
    add('--scenario', choices=('all', *SCENARIOS), metavar='NAME', help='instead of a trace: a '
        f'generated one beside the best pairs and message_filters; all, {", ".join(SCENARIOS)}')
    add('--policy', default=default.policy, choices=POLICIES)
    add('--anchor', default=default.anchor, choices=ANCHORS)
    for name, text in (('max_skew', 'largest distance of two stamps'),
                       ('max_wait', 'longest wait of a possible pair for a better one'),
                       ('max_age', 'policy latest: oldest aux frame still used'),
                       ('rgb_offset', 'added to RGB stamps'),
                       ('aux_offset', 'added to aux stamps')):
        add(f'--{name.replace("_", "-")}', type=float, default=getattr(default, f'{name}_s'),
            metavar='S', help=f's, {text} (default %(default)s)')
    add('--queue-size', type=int, default=default.queue_size, metavar='N',
        help='frames kept per stream (default %(default)s)')
    add('--json', action='store_true', help='print every pair and all figures as JSON')
    return parser


def _main(args: Sequence[str] | None) -> None:
    options = _parser().parse_args(args)
    if (options.trace is None) == (options.scenario is None):
        raise RgbxSegError('found no trace or both a trace and --scenario, expected one of them; '
                           'name a JSON file, or pass --scenario all.')
    config = SyncConfig(
        options.policy, options.anchor, options.max_skew, options.max_wait, options.max_age,
        options.rgb_offset, options.aux_offset, options.queue_size)
    if options.trace is not None:
        figures = summarize(replay(load_trace(options.trace), config))
        print(json.dumps(figures) if options.json else describe(figures))
        return
    names = SCENARIOS if options.scenario == 'all' else (options.scenario,)
    if options.json:
        print(json.dumps({name: summarize(replay(sum(SCENARIOS[name](), []), config))
                          for name in names}))
    else:
        print(table([HEADING, *(row for name in names for row in compare(name, config))]))


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of `rgbx_benchmark sync`."""
    return run_command(lambda: _main(args))


if __name__ == '__main__':
    raise SystemExit(main())
