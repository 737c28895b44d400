# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's parts, and the whole of it with a bag and a bundle of a few kilobytes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from bundles import write_tiny_bundle

from demo.compare import Published, _spread, join
from demo.timeline import Timeline, check_labels, read_timeline
from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import BagWriter
from rgbx_seg_ros.manifest import AuxEncoding, load_bundle
from rgbx_seg_ros.play_plan import LiveClock

ROOT = Path(__file__).resolve().parents[1]
T0 = 1_700_000_000_000_000_000
MS = 1_000_000
PAIRS = 12
PERIOD_NS = 400 * MS  # slow, as a busy machine may take longer than a frame of a camera for a pair
SHAPE = (48, 64)
DEPTH = AuxEncoding(channels=1, range='fixed', low=0.5, high=10.0, unit='m')


def colors(number: int) -> tuple[int, int]:
    """Return the red and the thermal value of a pair."""
    return (200 if number % 2 else 50), (200 if number % 4 < 2 else 50)


def answer(number: int) -> int:
    """Return the class that the tiny model sees everywhere in a pair."""
    return sum(value > 127 for value in colors(number))


def target(number: int) -> np.ndarray:
    """Return a label that is right, partly unlabeled, or wrong."""
    label = np.full(SHAPE, 0 if number % 3 == 0 else answer(number), np.uint8)
    label[:, :8] = 255
    return label


def write_bag(path: Path, labels: bool = True, compressed: bool = False) -> Path:
    """Write PAIRS pairs at 2.5 Hz whose thermal frames come 10 ms after RGB."""
    photo, exact = ('jpeg', 'png') if compressed else ('', '')
    end = '/compressed' if compressed else ''
    with BagWriter(path) as bag:
        for number in range(PAIRS):
            stamp_ns = T0 + PERIOD_NS * number
            rgb = np.zeros((*SHAPE, 3), np.uint8)
            red, thermal = colors(number)
            rgb[..., 0] = red
            bag.write_image(f'/rgb/image_raw{end}', rgb, 'rgb8', stamp_ns, stamp_ns + 5 * MS,
                            'camera', photo)
            bag.write_image(f'/thermal/image_raw{end}', np.full(SHAPE, thermal, np.uint8), 'mono8',
                            stamp_ns + 10 * MS, stamp_ns + 15 * MS, 'thermal', exact)
            if labels:
                bag.write_image(f'/label/image_raw{end}', target(number), 'mono8', stamp_ns,
                                stamp_ns + 16 * MS, 'camera', exact)
    return path


def write_foreign_bag(path: Path) -> Path:
    """Write depth under names of another robot, stamped by a clock that started at 0."""
    with BagWriter(path, 'sqlite3') as bag:
        for number in range(PAIRS):
            stamp_ns, received_ns = (start + PERIOD_NS * number for start in (5000 * MS, T0))
            bag.write_image('/front/color', np.zeros((*SHAPE, 3), np.uint8), 'rgb8', stamp_ns,
                            received_ns, 'c')
            bag.write_image('/front/depth_registered/depth', np.full(SHAPE, 3.0, np.float32),
                            '32FC1', stamp_ns + 20 * MS, received_ns + 25 * MS, 'd')
    return path


def live_clock(timeline: Timeline, began_ns: int, rate: float = 1.0) -> LiveClock:
    """Return the clock by which the demo plays a bag."""
    return LiveClock(timeline.first_ns, began_ns, rate, timeline.bias_ns)


# --- what needs no ROS ---------------------------------------------------------------------------

def test_timeline_counts_what_a_lossless_pairer_finds(tmp_path: Path):
    timeline = read_timeline(write_bag(tmp_path / 'bag'), 'thermal')
    assert timeline.pairs == PAIRS
    assert timeline.label_stamps == {T0 + PERIOD_NS * n for n in range(PAIRS)}
    assert timeline.bias_ns == 0
    assert (timeline.first_ns, timeline.start_ns) == (T0 + 5 * MS, T0)


def test_stamps_of_an_unrelated_clock_are_brought_to_the_recorders(tmp_path: Path):
    timeline = read_timeline(write_foreign_bag(tmp_path / 'bag'), 'depth')
    clock = live_clock(timeline, T0 * 2)
    assert clock.stamp_ns(5000 * MS) == clock.publish_ns(T0) == T0 * 2
    # The depth frame's delay of 5 ms in the recorder is kept.
    assert clock.publish_ns(T0 + 25 * MS) - clock.stamp_ns(5020 * MS) == 5 * MS


@pytest.mark.parametrize('rate', [1.0, 0.5, 4.0])
def test_live_clock_shifts_stamps_and_stretches_time(tmp_path: Path, rate: float):
    timeline = read_timeline(write_bag(tmp_path / 'bag', labels=False), 'thermal')
    clock = live_clock(timeline, T0 + 10**15, rate)
    assert clock.publish_ns(timeline.first_ns) == T0 + 10**15
    steps = np.diff([clock.stamp_ns(T0 + n * MS) for n in range(5)])
    assert set(steps) == {MS / rate}
    assert clock.publish_ns(T0 + 5 * MS) - clock.stamp_ns(T0) == 5 * MS / rate


def test_zero_stamp_stays_the_fault_that_it_is(tmp_path: Path):
    timeline = read_timeline(write_bag(tmp_path / 'bag', labels=False), 'thermal')
    assert live_clock(timeline, T0 * 2).stamp_ns(0) == 0


def test_bag_without_pairs_is_refused(tmp_path: Path):
    with BagWriter(tmp_path / 'bag') as bag:
        for number in range(3):
            stamp_ns = T0 + 1000 * MS * number
            bag.write_image('/rgb/image_raw', np.zeros((4, 4, 3), np.uint8), 'rgb8', stamp_ns,
                            stamp_ns, 'c')
            bag.write_image('/thermal/image_raw', np.zeros((4, 4), np.uint8), 'mono8',
                            stamp_ns + 400 * MS, stamp_ns + 400 * MS, 't')
    with pytest.raises(RgbxSegError, match='no pair among 3 frames of /rgb/image_raw'):
        read_timeline(tmp_path / 'bag', 'thermal')


@pytest.mark.parametrize(('label', 'told'), [
    (np.full((4, 6), 7, np.uint8), r'the id 7, expected those of the bundle, \[0, 1, 2'),
    (np.zeros((2, 3), np.uint8), 'are 3x2, expected 6x4 as /rgb/image_raw has'),
])
def test_labels_of_other_classes_or_size_are_refused_before_playing(tmp_path: Path, label, told):
    with BagWriter(tmp_path / 'bag') as bag:
        for topic, image, code in (('/rgb/image_raw', np.zeros((4, 6, 3), np.uint8), 'rgb8'),
                                   ('/thermal/image_raw', np.zeros((4, 6), np.uint8), 'mono8'),
                                   ('/label/image_raw', label, 'mono8')):
            bag.write_image(topic, image, code, T0, T0, '')
    classes = load_bundle(write_tiny_bundle(tmp_path / 'bundle')).classes
    with pytest.raises(RgbxSegError, match=told):
        check_labels(read_timeline(tmp_path / 'bag', 'thermal'), classes)


def test_join_gives_each_pair_its_own_images(tmp_path: Path):
    timeline = read_timeline(write_bag(tmp_path / 'bag'), 'thermal')
    wanted = [3, 4, 9]
    pairs = [Published(T0 + PERIOD_NS * n, T0 + PERIOD_NS * n + 10 * MS, 0, None) for n in wanted]
    joined = list(join(timeline, pairs))
    assert [pair.rgb_ns for pair, _ in joined] == [pair.rgb_ns for pair in pairs]
    for number, (_, images) in zip(wanted, joined, strict=True):
        shown = (images['rgb'].image()[0, 0, 0], images['aux'].image()[0, 0])
        assert shown == colors(number)
        assert (images['label'].image() == target(number)).all()


def test_shown_pairs_are_spread_and_labeled():
    stamps, labeled = set(range(100)), frozenset(range(0, 100, 2))
    shown = sorted(_spread(stamps, labeled))
    assert len(shown) == 6 and set(shown) <= labeled
    assert max(np.diff(shown)) - min(np.diff(shown)) <= 2
    assert _spread({1, 2}, frozenset()) == {1, 2}


# --- the whole of it -----------------------------------------------------------------------------

def command(bag: Path, bundle: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, '-m', 'demo', '--bag', str(bag), '--bundle', str(bundle),
            '--out', str(out), *more]


def demo(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=90)


@pytest.fixture(scope='module')
def played(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A compressed, labeled bag that went through the node."""
    pytest.importorskip('rclpy')
    pytest.importorskip('rgbx_seg.msg')
    folder = tmp_path_factory.mktemp('demo')
    bag = write_bag(folder / 'bag', compressed=True)
    ended = demo(bag, write_tiny_bundle(folder / 'bundle'), folder / 'out')
    assert ended.returncode == 0, ended.stderr
    report = json.loads((folder / 'out' / 'report.json').read_text())
    return SimpleNamespace(folder=folder, out=folder / 'out', report=report, said=ended.stdout)


def test_no_frame_and_no_pair_is_lost(played: SimpleNamespace):
    report = played.report
    assert {k: n for k, n in report['dropped'].items() if n} == {}
    assert (report['pairs_in_bag'], report['pairs_published']) == (PAIRS, PAIRS)
    for stream in ('rgb', 'aux'):
        assert set(report['frames'][stream].values()) == {PAIRS}
    assert report['received']['mask'] == report['received']['overlay'] == PAIRS


def test_iou_over_dds_is_that_of_the_known_answers(played: SimpleNamespace):
    found, true = (np.concatenate([np.asarray(f(n)).ravel() for n in range(PAIRS)]) for f in (
        lambda n: np.full(SHAPE, answer(n)), target))
    found, true = found[true != 255], true[true != 255]
    iou = [np.sum((found == c) & (true == c)) / np.sum((found == c) | (true == c))
           for c in range(3)]
    assert list(played.report['per_class_iou'].values()) == pytest.approx(iou, abs=1e-6)
    assert played.report['miou'] == pytest.approx(np.mean(iou), abs=1e-6)
    assert played.report['scored_masks'] == PAIRS


def test_skew_and_latency_are_those_of_the_bag(played: SimpleNamespace):
    assert played.report['skew_ms']['mean'] == pytest.approx(10, abs=1e-3)
    assert played.report['camera_ms']['p50'] == pytest.approx(15, abs=1e-3)
    assert 15 <= played.report['latency_ms']['p50'] < 500


def test_report_is_complete_and_names_no_folder_of_the_machine(played: SimpleNamespace):
    names = {path.name for path in played.out.iterdir()}
    assert names == {'report.json', 'index.html', 'overlay.mp4', 'node.log'}
    for name in ('report.json', 'index.html'):
        assert str(played.folder) not in (played.out / name).read_text()
    with av.open(str(played.out / 'overlay.mp4')) as video:
        assert sum(1 for _ in video.decode(video=0)) == PAIRS
    assert played.said.rstrip().endswith(str(played.out / 'index.html'))
    assert [path.name for path in played.folder.iterdir() if path.name.startswith('.')] == []


def test_foreign_bag_without_labels_plays_faster_too(tmp_path: Path):
    pytest.importorskip('rclpy')
    pytest.importorskip('rgbx_seg.msg')
    bundle = write_tiny_bundle(tmp_path / 'bundle', aux=DEPTH, modality='depth')
    (tmp_path / 'out').mkdir()
    ended = demo(write_foreign_bag(tmp_path / 'bag'), bundle, tmp_path / 'out', '--rate', '2')
    assert ended.returncode == 0, ended.stderr
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert (report['pairs_published'], report['miou']) == (PAIRS, None)
    assert report['skew_ms']['mean'] == pytest.approx(20, abs=1e-3)  # in the time of the bag


def test_fault_of_the_node_is_told_and_nothing_is_written(tmp_path: Path):
    pytest.importorskip('rclpy')
    pytest.importorskip('rgbx_seg.msg')
    bundle = write_tiny_bundle(tmp_path / 'bundle', height=96)
    manifest = (bundle / 'manifest.yaml').read_text()
    (bundle / 'manifest.yaml').write_text(manifest.replace('height: 96', 'height: 48'))
    ended = demo(write_bag(tmp_path / 'bag', labels=False), bundle, tmp_path / 'out')
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith('demo: error: the node cannot start: ')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bag', 'bundle']


@pytest.mark.parametrize('fault, words', [
    ('bag', 'no such bag'), ('bundle', 'no such folder'), ('out', 'exists and is no report')])
def test_bad_arguments_are_one_sentence(tmp_path: Path, fault: str, words: str):
    paths = {'bag': write_bag(tmp_path / 'bag'), 'bundle': write_tiny_bundle(tmp_path / 'bundle'),
             'out': tmp_path / 'out'}
    paths[fault] = paths['bag'] if fault == 'out' else tmp_path / 'nothing'
    ended = demo(*paths.values())
    assert (ended.returncode, ended.stdout) == (1, '')
    assert words in ended.stderr and ended.stderr.count('\n') == 1


def test_interrupt_ends_the_node_and_leaves_nothing(tmp_path: Path):
    pytest.importorskip('rclpy')
    pytest.importorskip('rgbx_seg.msg')
    bag, bundle = write_bag(tmp_path / 'bag'), write_tiny_bundle(tmp_path / 'bundle')
    # A test run in the background of a shell ignores SIGINT, and so would its children.
    process = subprocess.Popen(command(bag, bundle, tmp_path / 'out', '--rate', '0.1'), cwd=ROOT,
                               stdout=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    deadline = time.monotonic() + 60
    while not (logs := list(tmp_path.glob('.out-*/node.log'))) or 'runs on' not in (
            logs[0].read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ['bag', 'bundle']
