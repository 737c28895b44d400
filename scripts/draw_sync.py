# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of how frames are paired, as SVG: two made-up cameras, and the pairs of the real pairer.

What message_filters does with the same frames was recorded once with the library itself, in
message_filters.json; `python scripts/draw_sync.py --record`, with message_filters on PYTHONPATH,
records it anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from rgbx_seg_ros.benchmark_sync import PEER_QUEUE, replay
from rgbx_seg_ros.sync import SyncConfig
from rgbx_seg_ros.sync_traces import MS, START, Trace, pair

RECORD = Path(__file__).with_name('message_filters.json')
RGB, AUX, INK, FAINT, BAD = '#1769aa', '#c4540a', '#222', '#8a8a8a', '#b00020'
LEFT, WIDTH, ROW, PANEL = 96, 760, 58, 150  # px
FROM_MS, SPAN_MS = 2040, 420  # what is shown; the rates are learned by then
CLIPPED = '<g clip-path="url(#shown)">'  # up to '</g>', nothing leaves the scale of time
NEAREST_MS = 1000 / 60  # of RGB frames at 30 Hz, one is never further off

Found = list[tuple[float, float, float]]  # stamps of RGB and aux, emission; ms from START


def free() -> Trace:
    """Return RGB at 30 Hz and aux at 9 Hz, both on time."""
    return pair({'rate': 30, 'seconds': 4}, {'rate': 9, 'seconds': 4})


def late() -> Trace:
    """Return the same with RGB frames that arrive 60 ms after their stamps."""
    return pair({'rate': 30, 'seconds': 4, 'delay_ms': 60}, {'rate': 9, 'seconds': 4})


def lossy() -> Trace:
    """Return both at 30 Hz, RGB 60 ms late, with one aux frame lost."""
    events = pair({'rate': 30, 'seconds': 4, 'delay_ms': 60},
                  {'rate': 30, 'seconds': 4, 'phase_ms': 12})
    return [event for event in events
            if event.stream != 'aux' or event.stamp_ns != START + LOST_NS]


LOST_NS = 12 * MS + round(63 / 30 * 1e9)
TRACES = {'free': free, 'late': late, 'lossy': lossy}


def pairs_of(trace: Trace, config: SyncConfig) -> Found:
    """Return the pairs of a trace in ms."""
    return [tuple((ns - START) / MS  # type: ignore[misc]
                  for ns in (found.rgb.stamp_ns, found.aux.stamp_ns, emitted))
            for found, emitted in replay(trace, config).pairs if found.rgb and found.aux]


def ours(name: str) -> Found:
    """Return the pairs that the node makes of a trace with its default parameters."""
    return pairs_of(TRACES[name](), SyncConfig())


def theirs(name: str) -> Found:
    """Return the pairs that message_filters made of a trace."""
    return [tuple(found) for found in json.loads(RECORD.read_text())['pairs'][name]]


def record() -> None:
    """Write what message_filters, which must be importable, does with the traces."""
    config = SyncConfig('approximate_time', queue_size=PEER_QUEUE)
    pairs = {name: [[round(ms, 3) for ms in found] for found in pairs_of(make(), config)]
             for name, make in TRACES.items()}
    shown = {name: [found for found in listed if FROM_MS - 200 < found[0] < FROM_MS + SPAN_MS + 200]
             for name, listed in pairs.items()}
    about = (f'ApproximateTimeSynchronizer of ros2/message_filters 361e42c, queue {PEER_QUEUE}, '
             f'slop {config.max_skew_s:g} s; [RGB stamp, aux stamp, emission] in ms')
    RECORD.write_text(json.dumps({'about': about, 'pairs': shown}, indent=1) + '\n')


def x(ms: float) -> float:
    """Return where a time is drawn."""
    return round(LEFT + (ms - FROM_MS) / SPAN_MS * (WIDTH - LEFT - 24), 1)


def text(left: float, top: float, words: str, color: str = INK, size: int = 12,
         anchor: str = 'start', bold: bool = False) -> str:
    """Return a line of text."""
    weight = ' font-weight="600"' if bold else ''
    return (f'<text x="{left:g}" y="{top:g}" fill="{color}" font-size="{size}" '
            f'text-anchor="{anchor}"{weight}>{words}</text>')


def line(start: tuple[float, float], end: tuple[float, float], color: str, width: float = 1.0,
         dash: str = '') -> str:
    """Return a line."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ''
    return (f'<line x1="{start[0]:g}" y1="{start[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" '
            f'stroke="{color}" stroke-width="{width:g}"{dashes}/>')


def dot(left: float, top: float, color: str, filled: bool) -> str:
    """Return a frame: filled if it is in a pair."""
    return (f'<circle cx="{left:g}" cy="{top:g}" r="5.5" stroke="{color}" stroke-width="1.6" '
            f'fill="{color if filled else "#fff"}"/>')


def visible(ms: float) -> bool:
    """Return whether a time is within the picture."""
    return FROM_MS <= ms <= FROM_MS + SPAN_MS


def panel(top: float, title: str, trace: Trace, found: Found, lost_ms: float | None = None
          ) -> list[str]:
    """Draw the stamps of both streams, a line for each pair, and its skew."""
    heights = {'rgb': top + 40, 'aux': top + 40 + ROW}
    parts = [text(8, top + 16, title, size=13, bold=True)]
    for stream, color in (('rgb', RGB), ('aux', AUX)):
        height = heights[stream]
        parts += [text(8, height + 4, 'RGB' if stream == 'rgb' else 'aux', color, bold=True),
                  line((x(FROM_MS), height), (x(FROM_MS + SPAN_MS), height), '#ddd')]
    parts.append(CLIPPED)
    for rgb, aux, _ in found:
        skew = abs(aux - rgb)
        color = BAD if skew > NEAREST_MS else INK
        if visible(rgb) or visible(aux):
            parts.append(line((x(rgb), heights['rgb']), (x(aux), heights['aux']), color, 1.6))
        if visible((rgb + aux) / 2):
            parts.append(text((x(rgb) + x(aux)) / 2 + 5, (heights['rgb'] + heights['aux']) / 2 + 4,
                              f'{skew:.0f}', color, 11))
    parts.append('</g>')
    for stream, color, place in (('rgb', RGB, 0), ('aux', AUX, 1)):
        taken = {round(f[place], 2) for f in found}
        stamps = [(event.stamp_ns - START) / MS for event in trace if event.stream == stream]
        parts += [dot(x(ms), heights[stream], color, round(ms, 2) in taken)
                  for ms in stamps if visible(ms)]
    if lost_ms is not None:
        left, height = x(lost_ms), heights['aux']
        parts += [line((left - 5, height - 5), (left + 5, height + 5), BAD, 2),
                  line((left - 5, height + 5), (left + 5, height - 5), BAD, 2),
                  text(left, height + 20, 'lost', BAD, 11, 'middle')]
    return parts


def departures(top: float, trace: Trace, found: Found) -> list[str]:
    """Draw when frames arrive, and when each pair leaves."""
    rows = {'rgb': top + 40, 'aux': top + 84, 'pair': top + 128}
    parts = [text(8, top + 16, 'When pairs leave: the same frames by their arrival', size=13,
                  bold=True)]
    for row, label, color in (('rgb', 'RGB', RGB), ('aux', 'aux', AUX), ('pair', 'pair', INK)):
        parts += [text(8, rows[row] + 4, label, color, bold=True),
                  line((x(FROM_MS), rows[row]), (x(FROM_MS + SPAN_MS), rows[row]), '#ddd')]
    arrivals = {(event.stream, round((event.stamp_ns - START) / MS, 2)):
                (event.arrival_ns - START) / MS for event in trace}
    parts.append(CLIPPED)
    for rgb, aux, left_ms in found:
        came = arrivals['rgb', round(rgb, 2)], arrivals['aux', round(aux, 2)]
        if not any(map(visible, (*came, left_ms))):
            continue
        parts += [line((x(came[0]), rows['rgb']), (x(left_ms), rows['pair']), RGB, 1.3, '4 3'),
                  line((x(came[1]), rows['aux']), (x(left_ms), rows['pair']), AUX, 1.3, '4 3')]
        parts.append(f'<path d="M{x(left_ms):g} {rows["pair"] + 7:g} l-7 -13 h14 z" fill="{INK}"/>')
    parts.append('</g>')
    for (stream, stamp), came_ms in arrivals.items():
        if visible(came_ms):
            used = any(round(f[stream == 'aux'], 2) == stamp for f in found)
            parts.append(dot(x(came_ms), rows[stream], RGB if stream == 'rgb' else AUX, used))
    return parts


def axis(top: float) -> list[str]:
    """Draw the scale of time."""
    parts = [line((x(FROM_MS), top), (x(FROM_MS + SPAN_MS), top), FAINT)]
    for ms in range(0, SPAN_MS + 1, 50):
        parts += [line((x(FROM_MS + ms), top), (x(FROM_MS + ms), top + 4), FAINT),
                  text(x(FROM_MS + ms), top + 17, f'{ms}', FAINT, 11, 'middle')]
    return [*parts, text(WIDTH - 8, top + 32, 'ms', FAINT, 11, 'end')]


def picture(height: float, about: str, parts: Iterable[str]) -> str:
    """Return an SVG file on white, with words for those who cannot see it."""
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" role="img" font-family="sans-serif">',
        f'<title>{about}</title>', f'<rect width="{WIDTH}" height="{height:g}" fill="#fff"/>',
        f'<clipPath id="shown"><rect x="{LEFT - 8}" width="{WIDTH - LEFT - 8}" '
        f'height="{height:g}"/></clipPath>', *parts, '</svg>', ''])


def pictures() -> dict[str, str]:
    """Return the pictures by the name of their file."""
    lost = LOST_NS / MS
    compared = {
        'sync_free.svg': ('RGB at 30 Hz, aux at 9 Hz', 'free', None),
        'sync_late.svg': ('RGB at 30 Hz arrives 60 ms late, aux at 9 Hz', 'late', None),
        'sync_lost.svg': ('both at 30 Hz, RGB 60 ms late, one aux frame lost', 'lossy', lost),
    }
    made = {}
    for file, (about, name, missing) in compared.items():
        trace = TRACES[name]()
        made[file] = picture(2 * PANEL + 44, about, [
            *panel(0, f'nearest: {about}', trace, ours(name), missing),
            *panel(PANEL, 'message_filters on the same frames', trace, theirs(name), missing),
            *axis(2 * PANEL + 4)])
    trace = late()
    made['sync_leave.svg'] = picture(PANEL + 190, 'stamps, arrivals and departures of pairs', [
        *panel(0, 'Which pairs: frames by their stamp, RGB 60 ms late', trace, ours('late')),
        *departures(PANEL, trace, ours('late')), *axis(PANEL + 152)])
    return made


def main() -> None:
    """Record what message_filters does, if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--record', action='store_true', required=True)
    parser.parse_args()
    record()


if __name__ == '__main__':
    main()
