# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The page of an evaluation, parsed again: its numbers, what it leaves out, what it needs."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_eval_pictures import frame, record

from rgbx_seg_ros import eval_plots, eval_result
from rgbx_seg_ros.eval_page import render
from rgbx_seg_ros.eval_page_compare import verdict
from rgbx_seg_ros.eval_page_parts import points
from rgbx_seg_ros.eval_page_time import _columns, _picture
from rgbx_seg_ros.eval_pictures import Gallery
from rgbx_seg_ros.eval_result import BagResult, FrameRecord, LaneTotals
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_summary import summarize
from rgbx_seg_ros.manifest import ClassInfo

PIXELS = 1000
SETTINGS = EvalSettings((Path('bundle'),), **node_settings(None, {}))


def classes(count: int) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(n, f'class_{n}', (n * 3 % 256, n * 7 % 256, 40)) for n in range(count))


def evaluated(name: str = 'bag', frames: int = 60, lanes: Sequence[str] = ('one',), kinds: int = 4,
              labeled: bool = True, skill: Sequence[float] = (0.8, 0.6), hz: float = 10.0
              ) -> BagResult:
    """Return a result whose masks hit the share `skill` of each class and else say the next one."""
    rng = np.random.default_rng(len(name) + frames)
    true = rng.multinomial(PIXELS, np.full(kinds, 1 / kinds), frames)
    records, totals = [], []
    for lane, bundle in enumerate(lanes):
        hit = rng.binomial(true, skill[lane])
        predicted = hit + np.roll(true - hit, 1, axis=1)
        counts = np.stack([hit, predicted, true], 1) * labeled
        confusion = np.diag(hit.sum(0)) + np.roll(np.diag((true - hit).sum(0)), 1, axis=1)
        confusion *= labeled
        calibration = np.zeros((256, 2), np.int64)
        calibration[204] = (np.trace(confusion) * 0.1, np.trace(confusion) * 0.9)
        boundary = np.array([hit.sum(0), predicted.sum(0), true.sum(0)]) // 5 * labeled
        totals.append(LaneTotals(confusion, np.zeros(kinds, np.int64), boundary, calibration,
                                 *(np.pad(confusion // part, ((0, 0), (0, 1)))
                                   for part in (10, 20)), counts, predicted))
        union = predicted + true - hit
        records.append([record(
            n, n / hz, bundle, skew_ms=3.0 + n % 5, brightness=20.0 + n, aux_contrast=50.0,
            confidence=0.9, entropy=0.4, labeled=PIXELS if labeled else 0,
            miou=float(np.mean(hit[n] / union[n])) if labeled else math.nan,
            consistency=0.95 if n else math.nan, aux_change=0.3 if n % 10 == 0 else math.nan,
            agreement=0.97 if len(lanes) > 1 else math.nan, decode_ms=4.0, thermal_ms=1.0,
            registration_ms=0.0, resize_ms=0.5, engine_ms=20.0 + lane) for n in range(frames)])
    bundles = [{'name': bundle, 'model': f'model <{bundle}>', 'family': 'tiny',
                'modality': 'thermal', 'sha256': 'ab' * 32, 'backend': 'onnxruntime',
                'backend_version': '1', 'device': 'cpu', 'precision': 'fp32', 'width': 64,
                'height': 48} for bundle in lanes]
    sync = {'rates_hz': {'rgb': 30.0, 'aux': hz}, 'frames': {'rgb': 3 * frames, 'aux': frames},
            'gaps': {'rgb': {'longest_s': 0.5, 'count': 2}}, 'jitter_ms': {'rgb': 1.5, 'aux': 2.5},
            'camera_ms': {'rgb': {'p50': 12.0, 'p95': 15.0}}, 'clock_offset_ms': None,
            'pairs': frames, 'drops': {'surplus_rgb': 2 * frames, 'unpaired_aux': 13},
            'states': {'paired': frames, 'hold_aux': 7}, 'undecodable': {'rgb': 0, 'aux': 3},
            'skew_ms': {'p50': 5.0, 'p95': 7.0, 'max': 7.0, 'mean': 5.0}}
    return BagResult(name, f'/bags/{name}', 'key', 0, frames / hz,
                     {'rgb': '/rgb', 'aux': '/aux', 'label': ''}, bundles, classes(kinds), sync,
                     records, totals, {'wall_s': 2.0, 'engine_s': 1.8}, [])


class Page(HTMLParser):
    """Collects open tags, sources, text, sections, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.sections: list[str] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.images = 0
        self.feed(text)
        self.text = ' '.join(self.words).replace('\u00a0', ' ')

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.sources += [given[name] for name in ('src', 'href', 'poster') if name in given]
        self.sections += [given['id']] if tag == 'section' and 'id' in given else []
        self.images += tag == 'img'
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th') and self.rows:
            self.rows[-1].append('')
        if tag not in ('meta', 'img', 'br'):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ('style', 'script'):
            self.words.append(data)
            if 'td' in self.open or 'th' in self.open:
                self.rows[-1][-1] += data.replace('\u00a0', ' ')

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row[0] == first)


def shown(results: Sequence[BagResult], folder: Path, failed: Sequence[dict] = ()
          ) -> tuple[Page, dict[str, Any], str]:
    summary = summarize(results, SETTINGS, failed)
    html = render(summary, results, folder)
    return Page(html), summary, html


def percent(value: float, digits: int = 1) -> str:
    return f'{100 * value:.{digits}f} %'


@pytest.mark.parametrize('results', [
    [evaluated()], [evaluated(labeled=False)], [evaluated(lanes=('one', 'two'))],
    [evaluated(lanes=('one', 'two'), labeled=False)], [evaluated(kinds=70)],
    [evaluated('a'), evaluated('b', labeled=False)], [evaluated(frames=1)],
    [evaluated(f'bag{n}') for n in range(9)]],
    ids=['labels', 'none', 'two', 'two, none', '70 classes', 'mixed', 'one frame', 'many'])
def test_page_is_whole_and_needs_nothing_from_elsewhere(tmp_path: Path, results: list[BagResult]):
    page, _, html = shown(results, tmp_path)
    assert page.open == []
    assert {source for source in page.sources if not source.startswith(('data:', '#'))} == {
        'report.json', 'frames.csv'}
    assert '://' not in html and '@import' not in html and 'url(' not in html
    assert not re.search(r'\b(nan|NaN|None|inf|null)\b', page.text)
    links = {source[1:] for source in page.sources if source.startswith('#')}
    assert links <= set(page.sections)


def test_numbers_are_those_of_the_summary(tmp_path: Path):
    page, summary, _ = shown([evaluated()], tmp_path)
    scores = summary['scores'][0]
    low, high = scores['miou_interval']
    for text in (percent(scores['miou']), percent(scores['boundary_miou']),
                 f'{100 * low:.1f} to {percent(high)}', f'ECE {percent(scores["ece"])}'):
        assert text in page.text
    for row in scores['per_class']:
        cells = page.row(row['name'])
        assert cells[2:] == [percent(row['iou']), percent(row['boundary_iou']),
                             percent(row['precision']), percent(row['recall']),
                             percent(row['true_share'], 2), percent(row['predicted_share'], 2)]
    for bins in summary['conditions'][0]['brightness']:
        if bins['pairs']:
            cells = next(row for row in page.rows if row[0].startswith(bins['name'] + ' '))
            assert cells[1] == str(bins['pairs']) and percent(bins['miou']) in cells
    assert 'without thermal 30.0 % of the pixels' in page.text


def test_confusion_is_told_in_percent_of_the_true_class(tmp_path: Path):
    page, summary, _ = shown([evaluated(kinds=3)], tmp_path)
    matrix = np.array(summary['scores'][0]['confusion'])
    for row, info in zip(matrix / matrix.sum(1, keepdims=True), summary['classes'], strict=True):
        cells = [cells for cells in page.rows if cells[0] == info['name'] and len(cells) == 4]
        assert cells[0][1:] == [f'{100 * value:.0f}' if value >= 0.005 else '' for value in row]


def test_what_has_no_labels_shows_no_scores_and_no_dashes(tmp_path: Path):
    page, _, _ = shown([evaluated(labeled=False)], tmp_path)
    assert 'IoU' not in page.text and '–' not in page.text
    assert not {'confusion', 'can-confidence-be-believed-', 'comparison'} & set(page.sections)
    assert {'along-the-bag', 'synchronization', 'is-thermal-used-'} <= set(page.sections)
    assert '95.0 %' in page.text and '90.0 %' in page.text


def test_two_bundles_are_compared_first(tmp_path: Path):
    page, summary, _ = shown([evaluated(lanes=('one', 'two'))], tmp_path)
    change = summary['comparison'][0]
    assert page.sections[0] == 'comparison'
    assert verdict(change)[0] == 'bad' and verdict(change)[1] in page.text
    for one in change['per_class']:
        assert page.row(one['name'])[2] == points(one['change'])
    first = change['regressions'][0]
    assert [f'{first["time_s"]:.2f} s', str(first['number'])] in [row[:2] for row in page.rows]


@pytest.mark.parametrize(('change', 'bounds', 'tone', 'words'), [
    (0.013, [0.004, 0.022], 'good',
     'Better by 1.3 points, 95 % interval +0.4 to +2.2.'),
    (-0.02, [-0.03, -0.001], 'bad', 'Worse by 2.0 points, 95 % interval −3.0 to −0.1.'),
    (0.004, [-0.009, 0.017], '',
     'No difference can be told: +0.4 points, 95 % interval −0.9 to +1.7.'),
    (0.004, None, '', 'mIoU is 0.4 points higher, on too few moments to tell whether that is '
     'chance.'),
    (0.0, [0.0, 0.0], '', 'No difference can be told: 0.0 points, 95 % interval 0.0 to 0.0.'),
    (None, None, '', 'Both agree on 93.0 % of the pixels; without labels nobody can tell which is '
     'better.')])
def test_verdict_is_as_sure_as_the_interval(change: Any, bounds: Any, tone: str, words: str):
    assert verdict({'miou_change': change, 'interval': bounds, 'agreement': 0.93}) == (tone, words)


def test_names_from_bags_are_escaped(tmp_path: Path):
    evil = '<script>alert(1)</script>"\''
    result = evaluated(evil, lanes=(evil,))
    result = replace(result, topics={'rgb': evil, 'aux': evil, 'label': evil},
                     classes=(ClassInfo(0, evil, (1, 2, 3)), *result.classes[1:]))
    result.sync['drops'][evil] = 3
    result.sync['states'][evil] = 3
    result.sync['frames'][evil] = 3
    page, _, html = shown([result, replace(result, name=f'{evil}2')], tmp_path,
                          [{'name': evil, 'bag': evil, 'reason': evil}])
    assert html.count('<script>') == 1 and page.open == []
    assert evil in page.text


def test_drops_come_with_words_and_remedies(tmp_path: Path):
    page, _, _ = shown([evaluated()], tmp_path)
    cells = next(row for row in page.rows if 'unpaired_aux' in row)
    assert cells[2] == '13' and 'sync.max_skew' in cells[3]
    harmless = next(row for row in page.rows if 'surplus_rgb' in row)
    assert harmless[3] == ''
    assert 'with the last aux image' in next(row for row in page.rows if row[0] == 'hold_aux')[2]
    assert '3' in page.row('thermal')


def test_failed_bags_are_told_at_the_top(tmp_path: Path):
    page, _, _ = shown([evaluated()], tmp_path,
                       [{'name': 'night', 'bag': '/b/night', 'reason': 'no thermal topic'}])
    assert 'One bag could not be evaluated' in page.text
    assert page.row('night')[1] == 'no thermal topic'


def test_each_bag_has_its_row_but_only_some_have_plots(tmp_path: Path):
    results = [evaluated(f'bag{n}', frames=30 + n, labeled=n % 2 == 0) for n in range(9)]
    page, summary, html = shown(results, tmp_path)
    for bag in summary['bags']:
        cells = next(row for row in page.rows if row[0] == bag['name'] and len(row) > 5)
        assert cells[2] == str(bag['pairs'])
    assert html.count('time in the bag') == 6
    assert 'the 6 bags with the lowest scores of 9' in page.text


def with_pictures(result: BagResult, folder: Path) -> BagResult:
    place = folder / 'bags' / result.name
    place.mkdir(parents=True)
    target = np.zeros((48, 640), np.uint8)
    names = [bundle['name'] for bundle in result.bundles]
    with Gallery(place / 'pictures', result.classes, names, 2) as gallery:
        for number in range(len(result.records[0])):
            records: list[FrameRecord] = [lane[number] for lane in result.records]
            gallery.add(frame(*records, target=target if records[0].labeled else None,
                              size=(48, 640)))
    return replace(result, pictures=gallery.pictures())


def test_pictures_are_inside_and_small(tmp_path: Path):
    result = with_pictures(evaluated(lanes=('one', 'two')), tmp_path)
    page, _, _ = shown([result], tmp_path)
    images = [source for source in page.sources if source.startswith('data:image/')]
    # Two worst and two best of each of two bundles (6 pictures), two regressions (6), stripes (3).
    assert len(images) == page.images >= 2 * 4 * 6 + 2 * 6 + 3
    for source in images:
        data = base64.b64decode(source.split(',')[1])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape[1] <= 480
    assert 'mask of one' in page.text and 'errors of two' in page.text


def test_pictures_outside_of_their_folder_are_not_read(tmp_path: Path):
    result = with_pictures(evaluated(), tmp_path)
    (tmp_path / 'secret.png').write_bytes(cv2.imencode('.png', np.zeros((9, 9)))[1].tobytes())
    for entry in result.pictures:
        entry['files'] = {'rgb': '../../../secret.png', 'aux': str(tmp_path / 'secret.png')}
    assert shown([result], tmp_path)[0].images == 2  # the stripes


def test_pictures_that_were_deleted_are_left_out(tmp_path: Path):
    result = replace(evaluated(), pictures=[
        {'bundle': 'one', 'kind': 'worst', 'rank': 0, 'number': 999, 'measure': 'miou',
         'value': 0.1, 'files': {'rgb': 'gone.jpg'}}])
    assert 'worst-and-best-frames' not in shown([result], tmp_path)[0].sections


def test_a_small_video_is_inside_and_a_large_one_is_linked(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / 'bags' / 'a bag' / eval_result.VIDEO_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(b'x' * 1000)
    assert any(source.startswith('data:video/mp4') for source in
               shown([evaluated('a bag')], tmp_path)[0].sources)
    monkeypatch.setattr('rgbx_seg_ros.eval_page_pictures.INLINE_VIDEO', 999)
    page = shown([evaluated('a bag')], tmp_path)[0]
    assert 'bags/a%20bag/overlay.mp4' in page.sources
    assert 'files beside this page' in page.text


def test_a_long_bag_makes_no_long_page(tmp_path: Path):
    _, _, html = shown([evaluated(frames=20000, lanes=('one', 'two'), hz=30.0)], tmp_path)
    assert len(html) < 400_000


def test_columns_keep_every_extreme():
    rng = np.random.default_rng(0)
    across, values = np.sort(rng.random(20000)), rng.random(20000)
    values[12345] = 7.0
    place, mean, low, high = eval_plots.columns(across, values)
    assert len(place) == eval_plots.COLUMNS and high.max() == 7.0
    for n in (0, 200, eval_plots.COLUMNS - 1):
        inside = values[(across * eval_plots.COLUMNS).astype(int) == n]
        assert (mean[n], low[n], high[n]) == pytest.approx(
            (inside.mean(), inside.min(), inside.max()))


def test_lines_are_interrupted_where_the_bag_has_a_gap():
    times = np.array([0, 1, 2, 3, 9, 10, 11.0])
    axis = eval_plots.Axis(0, 11)
    svg = eval_plots.lines(times, [eval_plots.Line('a', times, 'first')], axis, axis)
    path = re.search(r'class="line first" d="([^"]*)"', svg)
    assert path is not None and path[1].count('M') == 2 and path[1].count('L') == 5


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (0.91, 0.94), (-3, 1400), (0, 1e-6), (5, 5.01)])
@pytest.mark.parametrize('count', [2, 4])
def test_ticks_are_enough_and_inside(low: float, high: float, count: int):
    ticks = eval_plots.Axis(low, high).ticks(count)
    assert count <= len(ticks) <= 4 * count + 2
    assert all(-1e-6 <= place <= 1 + 1e-6 for place, _ in ticks)
    assert all(float(words) == pytest.approx(low + place * (high - low), abs=1e-5 * (high - low))
               for place, words in ticks)


def test_stripes_show_shares_in_the_colors_of_the_classes():
    counts = np.array([[75, 25], [25, 75], [0, 0]])
    axis = eval_plots.Axis(-0.5, 2.5)
    shares = _columns(counts, np.array([0.0, 1.0, 2.0]), axis)
    source = _picture(shares, [(255, 0, 0), (0, 0, 255)], 1.0)
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(source.split(',')[1]), np.uint8),
                           cv2.IMREAD_UNCHANGED)[..., [2, 1, 0, 3]]
    columns = [picture[:, round((time + 0.5) / 3 * eval_plots.COLUMNS)] for time in (0, 1, 2)]
    red, blue = [255, 0, 0, 255], [0, 0, 255, 255]
    assert columns[0][-1].tolist() == red and columns[0][0].tolist() == blue
    assert (columns[0] == red).all(1).mean() == pytest.approx(0.75, abs=0.01)
    assert (columns[1] == red).all(1).mean() == pytest.approx(0.25, abs=0.01)
    assert not columns[2][:, 3].any()  # nothing is told of this time


@pytest.mark.parametrize(('value', 'words'), [(0.0123, '+1.2'), (-0.0123, '−1.2'),
                                              (-0.0001, '0.0'), (0.0, '0.0')])
def test_points_have_a_sign_unless_they_are_none(value: float, words: str):
    assert points(value) == words


def test_what_the_reader_of_a_bag_noted_stands_beside_its_name(tmp_path: Path):
    first, second = evaluated('first'), evaluated('second')
    second.sync['notes'] = ['the aux image is a JPEG <b>.']
    page, _, _ = shown([first, second], tmp_path)
    assert 'second: the aux image is a JPEG <b>.' in page.text
    assert 'What else was found' not in shown([first], tmp_path)[0].text


def test_two_bundles_without_labels_are_told_by_what_there_is(tmp_path: Path):
    page, summary, _ = shown([evaluated(lanes=('one', 'two'), labeled=False)], tmp_path)
    assert [scores['miou_strict'] for scores in summary['scores']] == [None, None]
    assert 'frames with labels' not in page.text and 'Careful' not in page.text
    assert not [row for row in page.rows if row and row[0].startswith('mIoU')]
