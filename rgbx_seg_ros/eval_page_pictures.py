# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What one looks at: worst and best frames, and the videos."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from rgbx_seg_ros.eval_page_parts import (
    View,
    details,
    per_bundle,
    points,
    section,
    share,
)
from rgbx_seg_ros.eval_pictures import RIGHT, UNKNOWN, WRONG
from rgbx_seg_ros.eval_result import PICTURES, VIDEO_FILE, BagResult, FrameRecord
from rgbx_seg_ros.report_parts import swatch, text, url

WIDTH, QUALITY = 400, 82  # pixels of a picture in the page, of JPEG
INLINE_VIDEO = 8 << 20  # bytes of all videos; more are linked
LISTED_VIDEOS = 20
MAX_PICTURE = 1 << 24  # bytes of a file
MEASURES = ('miou', 'agreement', 'consistency', 'confidence')
WORDS = {'miou': 'mIoU', 'miou_change': 'the change of mIoU', 'consistency': 'temporal consistency',
         'confidence': 'confidence', 'agreement': 'agreement'}


def worst_and_best(view: View) -> str:
    """Return the worst and the best frames of each bundle."""
    bodies = []
    measures = set()
    for name in view.names:
        worst, best = (shots(view, name, kind) for kind in ('worst', 'best'))
        measures |= {one['measure'] for _, one in _entries(view, name, 'worst')}
        bodies.append((f'<h4>Worst</h4>{worst}' if worst else '')
                      + details('Best', best, opened=not worst))
    told = ' and '.join(WORDS.get(measure, str(measure)) for measure in sorted(measures))
    lead = f'By {text(told)} of the single frame, at moments apart from each other.'
    if view.labeled:
        lead += (f' Where it errs: {swatch(RIGHT)}right {swatch(WRONG)}wrong '
                 f'{swatch(UNKNOWN)}not labeled.')
    return section('Worst and best frames', lead, per_bundle(view, bodies) if any(bodies) else '')


def shots(view: View, bundle: str, kind: str, against: str = '') -> str:
    """Return the frames of a kind with their pictures, `against` a bundle with those of both."""
    titles = {'rgb': 'RGB', 'aux': text(view.modality), 'overlay': 'overlay', 'mask': 'mask',
              'target': 'label', 'error': 'where it errs'}
    if against:
        titles = {'rgb': 'RGB', 'target': 'label', 'baseline_mask': f'mask of {text(against)}',
                  'mask': f'mask of {text(bundle)}', 'baseline_error': f'errors of {text(against)}',
                  'error': f'errors of {text(bundle)}'}
    shown = []
    for result, entry in _entries(view, bundle, kind):
        names = titles
        if against and 'target' not in entry['files']:
            names = {'rgb': titles['rgb'], 'aux': text(view.modality), **titles}
        figures = ''.join(
            f'<figure>{image}<figcaption>{title}</figcaption></figure>'
            for name, title in names.items()
            if (image := _image(view.place(result) / PICTURES, entry['files'].get(name), title)))
        if figures:
            shown.append(f'<div class="shot"><p>{_caption(view, result, entry, bundle)}</p>'
                         f'<div class="frames">{figures}</div></div>')
    return ''.join(shown)


def _entries(view: View, bundle: str, kind: str
             ) -> Sequence[tuple[BagResult, Mapping[str, Any]]]:
    """Return the pictures of a kind of all bags, the most extreme first, as many as of one bag."""
    found = [(result, entry) for result in view.results for entry in result.pictures
             if entry['bundle'] == bundle and entry['kind'] == kind]
    if not found:
        return []
    # Bags without labels are ranked otherwise and cannot be held against those that have some.
    order = ('miou', 'miou_change', 'agreement', 'consistency', 'confidence')
    best = min((entry['measure'] for _, entry in found),
               key=lambda name: order.index(name) if name in order else len(order))
    alike = [one for one in found if one[1]['measure'] == best]
    sign = -1 if kind in ('best', 'improvement') else 1
    alike.sort(key=lambda one: sign * one[1]['value'])
    count = int(view.summary['settings'].get('pictures') or 6)
    return alike[:count]


def _image(folder: Path, name: Any, words: str) -> str:
    """Return a picture of a bag's folder, small, inside the page; '' if it is not there."""
    if not isinstance(name, str) or Path(name).name != name:
        return ''
    file = folder / name
    if not file.is_file() or file.stat().st_size > MAX_PICTURE:
        return ''
    content = file.read_bytes()
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return ''
    png = file.suffix == '.png'
    if image.shape[1] > WIDTH:
        size = (WIDTH, max(1, round(image.shape[0] * WIDTH / image.shape[1])))
        # Mixed ids would show colors of classes that are not there.
        image = cv2.resize(image, size,
                           interpolation=cv2.INTER_NEAREST if png else cv2.INTER_AREA)
        options = [] if png else [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        content = cv2.imencode(file.suffix, image, options)[1].tobytes()
    return (f'<img alt="{words}" loading="lazy" width="{image.shape[1]}" '
            f'height="{image.shape[0]}" style="height:auto" '
            f'src="{url(content, "image/png" if png else "image/jpeg")}">')


def _caption(view: View, result: BagResult, entry: Mapping[str, Any], bundle: str) -> str:
    lane = view.names.index(bundle)
    record = _record(result.records[lane], entry['number'])
    where = f'{text(result.name)} · ' if len(view.results) > 1 else ''
    if record is None:
        return f'{where}frame {entry["number"]}'
    value = entry['value']
    head = f'{WORDS.get(entry["measure"], "")} {100 * value:.1f} %'
    if entry['measure'] == 'miou_change':
        head = (f'{points(value)} points of mIoU, {share(record.miou)} instead of '
                f'{share(record.miou - value)}')
    parts = [f'<b>{text(head)}</b>', f'{record.time_s:.2f} s', f'frame {record.number}']
    for name, words in (('miou', 'mIoU {:.1%}'), ('confidence', 'confidence {:.0%}'),
                        ('consistency', 'consistency {:.0%}')):
        if name not in entry['measure'] and math.isfinite(getattr(record, name)):
            parts.append(words.format(getattr(record, name)).replace('%', ' %'))
    for name, words in (('skew_ms', 'skew {:+.1f} ms'), ('brightness', 'brightness {:.0f}')):
        if math.isfinite(getattr(record, name)):
            parts.append(words.format(getattr(record, name)).replace('-', '−'))
    if record.state != 'paired':
        parts.append(text(record.state))
    return where + ' · '.join(parts)


def _record(records: Sequence[FrameRecord], number: int) -> FrameRecord | None:
    return next((record for record in records if record.number == number), None)


def videos(view: View) -> str:
    """Return the overlay videos: inside the page while they are small, else as files beside it."""
    files = [(result, view.place(result) / VIDEO_FILE) for result in view.results]
    files = [(result, file) for result, file in files if file.is_file()]
    if not files:
        return ''
    inside = sum(file.stat().st_size for _, file in files) <= INLINE_VIDEO
    lead = (f'RGB, {text(view.modality)}, what each bundle saw, and the label if there is one, at '
            'the times of the bag. ')
    alone = 'video is' if len(files) == 1 else 'videos are'
    lead += (f'The {alone} inside this page.' if inside else
             'The videos are files beside this page, in the folder bags; they are missing if the '
             'page was sent alone.')
    bodies = []
    for result, file in files[:LISTED_VIDEOS]:
        link = f'bags/{quote(result.name)}/{VIDEO_FILE}'
        source = url(file.read_bytes(), 'video/mp4') if inside else link
        player = (f'<video src="{source}" controls muted preload="metadata"></video>'
                  + ('' if inside else f'<p class="note"><a href="{link}">{text(link)}</a></p>'))
        bodies.append(player if len(files) == 1 else
                      details(text(result.name), player, opened=result is files[0][0]))
    if len(files) > LISTED_VIDEOS:
        bodies.append(f'<p class="note">{len(files) - LISTED_VIDEOS} further videos lie in the '
                      'folder bags.</p>')
    return section('Video', lead, *bodies)
