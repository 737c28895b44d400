# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The report of a run made by hand."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros import report_plots
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.report import (
    PairRecord,
    Run,
    Sample,
    VideoWriter,
    panels,
    spread,
    summarize,
    write_report,
)


def record(number: int, latency_ms: float = 30.0) -> PairRecord:
    return PairRecord(time_s=number / 10, skew_ms=-2.0, latency_ms=latency_ms, camera_ms=20.0,
                      engine_ms=5.0, overhead_ms=1.0, wait_ms=0.5, mean_confidence=0.75)


def run(records: list[PairRecord], confusion: Confusion | None = None, scored: int = 0,
        **dropped: int) -> Run:
    return Run(
        bag='a <b> bag', bundle='bundle', modality='thermal', model='tiny', classes=CLASSES,
        backend='onnxruntime', device='cpu', precision='fp32', rate=1.0, stamp_shift_s=7.0,
        wall_s=3.0, pairs_in_bag=12, pairs_published=len(records),
        frames={'rgb': {'published': 30, 'received': 29}, 'aux': {'published': 12, 'received': 12}},
        dropped=dropped, received={'mask': len(records)}, records=records,
        player_late_ms=[0.1, 0.2], confusion=confusion, scored=scored,
        versions={'rgbx_seg': '0.1.0'})


def sample(labeled: bool) -> Sample:
    rgb = np.zeros((24, 32, 3), np.uint8)
    ids = np.ones((24, 32), np.uint8)
    return Sample(record(1), rgb, ids * 90, ids, rgb, ids if labeled else None)


def scored_run() -> Run:
    confusion = Confusion(3)
    confusion.update(np.array([[0, 1, 1, 1]], np.uint8), np.array([[0, 0, 1, 255]], np.uint8))
    return run([record(n) for n in range(10)], confusion, 1)


class Page(HTMLParser):
    """Collects the tags that are open at the end, the sources, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.sources += [value for name, value in attrs if name in ('src', 'href', 'poster')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def page(folder: Path, of: Run, samples: list[Sample]) -> Page:
    write_report(folder, of, samples)
    return Page((folder / 'index.html').read_text())


def test_summary_counts_iou_by_hand():
    # Of the labeled pixels one 0 is right, one 0 is called 1, one 1 is right; 2 never occurs.
    summary = summarize(scored_run())
    assert summary['per_class_iou'] == {'unlabeled': 0.5, 'car': 0.5, 'person': None}
    assert (summary['miou'], summary['miou_strict']) == (0.5, pytest.approx(1 / 3, abs=1e-6))


def test_percentiles_are_those_of_numpy():
    values = np.random.default_rng(0).gamma(2, 10, 101)
    ordered = sorted(values)  # 101 values: percentiles are elements
    assert spread(values) == {'p50': ordered[50], 'p95': ordered[95], 'max': ordered[-1]}


def test_skew_is_a_distance_and_its_mean_keeps_the_sign():
    assert summarize(run([record(0)]))['skew_ms'] == {'p50': 2, 'p95': 2, 'max': 2, 'mean': -2}


def test_a_number_that_is_none_becomes_null():
    assert summarize(run([record(0, float('nan'))]))['latency_ms']['max'] is None


@pytest.mark.parametrize('of', [run([]), run([], Confusion(3))],
                         ids=['nothing published', 'nothing scored'])
def test_json_holds_null_where_there_is_no_number(tmp_path: Path, of: Run):
    write_report(tmp_path, of, [])

    def refuse(name: str) -> None:
        raise AssertionError(name)

    data = json.loads((tmp_path / 'report.json').read_text(), parse_constant=refuse)
    assert data['miou'] is None and data['latency_ms']['p50'] is None


def test_page_is_well_formed_and_needs_no_other_file_than_its_own(tmp_path: Path):
    (tmp_path / 'overlay.mp4').touch()
    shown = page(tmp_path, scored_run(), [sample(labeled=True)])
    assert shown.open == []
    others = {source for source in shown.sources if not source.startswith('data:image/')}
    assert others == {'overlay.mp4', 'report.json'}
    assert '://' not in re.sub(r'data:image/[^"]*', '', (tmp_path / 'index.html').read_text())


def test_page_shows_no_video_that_was_not_written(tmp_path: Path):
    assert 'overlay.mp4' not in page(tmp_path, scored_run(), [sample(True)]).sources


def test_page_escapes_names(tmp_path: Path):
    assert 'a <b> bag' in page(tmp_path, run([]), []).words


@pytest.mark.parametrize('labeled', [True, False])
def test_page_has_a_column_of_labels_only_if_there_are_some(tmp_path: Path, labeled: bool):
    shown = page(tmp_path, scored_run() if labeled else run([record(0)]), [sample(labeled)])
    assert ('label' in shown.words) is labeled
    assert len([s for s in shown.sources if s.startswith('data:')]) == (5 if labeled else 4)


def test_page_tells_every_cause_of_a_drop(tmp_path: Path):
    shown = page(tmp_path, run([], replaced=3, something_new=8), [])
    text = ' '.join(shown.words)
    assert 'replaced by a newer one' in text and 'something new' in text and ' 8 ' in text


def test_plots_keep_their_marks_inside(tmp_path: Path):
    rng = np.random.default_rng(1)
    times, values = list(range(50)), rng.normal(0, 1e-3, 50).tolist()
    svg = report_plots.over_time(times, [report_plots.Series('a', values, 'first')], 'ms')
    points = re.findall(r'M([\d.]+) ([\d.]+)h0', svg)
    assert len(points) == 50
    assert all(report_plots.LEFT <= float(x) <= report_plots.WIDTH - report_plots.RIGHT and
               report_plots.TOP <= float(y) <= report_plots.HEIGHT - report_plots.BOTTOM
               for x, y in points)


def test_histogram_counts_every_value():
    svg = report_plots.histogram([5.0] * 7 + [9.0] * 4, 'ms', 'first')
    counts = [int(n) for n in re.findall(r'<title>(\d+) at', svg)]
    assert sorted(counts) == [4, 7]


@pytest.mark.parametrize('values', [[0.0], [3.0, 3.0], [-1e-9, 1e9]])
def test_plots_stand_values_that_do_not_vary_or_vary_a_lot(values: list[float]):
    assert '<svg' in report_plots.histogram(values, 'ms', 'first')
    series = [report_plots.Series('a', values, 'first')]
    assert 'nan' not in report_plots.over_time(range(len(values)), series, 'ms')


def test_video_keeps_times_and_colors(tmp_path: Path):
    colors = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    times = [0.5, 0.6, 0.93]
    with VideoWriter(tmp_path / 'v.mp4') as video:
        for time_s, color in zip(times, colors, strict=True):
            video.add(time_s, np.full((32, 64, 3), color, np.uint8))
            video.add(time_s, np.zeros((32, 64, 3), np.uint8))  # the same instant: left out
    with av.open(str(tmp_path / 'v.mp4')) as container:
        frames = list(container.decode(video=0))
        assert container.streams.video[0].codec_context.name == 'h264'
    assert [frame.time - frames[0].time for frame in frames] == pytest.approx([0, 0.1, 0.43])
    for frame, color in zip(frames, colors, strict=True):
        shown = frame.to_ndarray(format='rgb24').reshape(-1, 3).mean(0)
        assert np.abs(shown - color).max() < 20


@pytest.mark.parametrize('sizes', [((480, 640), (512, 640)), ((61, 79), (33, 17))])
def test_panels_have_even_sides(sizes: tuple):
    images = [np.zeros(sizes[0] + (3,), np.uint8), np.zeros(sizes[1], np.uint8)]
    height, width, channels = panels(images, 120).shape
    assert (height, width % 2, channels) == (120, 0, 3)
