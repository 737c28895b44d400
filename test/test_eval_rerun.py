# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The recording of a bag evaluation, read back by Rerun's own reader; no viewer is started."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import CLASSES

from rgbx_seg_ros import RgbxSegError, eval_rerun
from rgbx_seg_ros.eval_frames import BagPair, EvalFrame, LaneResult
from rgbx_seg_ros.eval_rerun import RerunLog
from rgbx_seg_ros.eval_result import FrameRecord

rerun = pytest.importorskip('rerun', reason='pip install rerun-sdk')
chunk = pytest.importorskip('rerun.chunk', reason='a Rerun with another reader')

ROOT = Path(__file__).parent.parent
NAN = float('nan')
BUNDLES = ['old', 'runs/new one']  # names may hold what separates the parts of an entity's path
BEGIN_NS, PERIOD_NS = 1_700_000_000_000_000_000, 33_333_333
PAIRS = 5
LOST, UNLABELED = 3, (0, 2)  # the pair without RGB; those without a target


def frame(number, bundles=BUNDLES):
    """Return a pair with random images, and what bundles made of it."""
    numbers = np.random.default_rng(number)
    smooth = cv2.resize(numbers.integers(0, 256, (6, 8, 3), np.uint8), (64, 48))
    target = None if number in UNLABELED else numbers.integers(0, 3, (48, 64), np.uint8)
    stamp = BEGIN_NS + number * PERIOD_NS
    pair = BagPair(number, None if number == LOST else smooth, None, 'mono16', None, target, stamp,
                   'camera', stamp, stamp + 4_000_000, stamp, 4_000_000 + number,
                   'aux_only' if number == LOST else 'paired', 1.5)
    lanes = tuple(LaneResult(
        numbers.integers(0, 3, (48, 64), np.uint8), np.full((48, 64), 10 * index, np.uint8), smooth,
        np.full((24, 32), 100 + index, np.uint8), 0.1, 0.2, 0.3, 4.0 + index, None)
        for index in range(len(bundles)))
    score = NAN if target is None else 0.5
    records = tuple(FrameRecord(
        name, number, stamp, stamp, number / 30, pair.state, 4.0, 100.0, 50.0, 0.75, 0.5,
        0 if target is None else 3072, score, score, NAN, NAN if number == 0 else 0.875, NAN, 1.0,
        1.5, 0.1, 0.2, 0.3, 4.0 + index) for index, name in enumerate(bundles))
    return EvalFrame(pair, lanes, records)


def write(path, pairs=PAIRS, bundles=BUNDLES, modality='thermal'):
    with RerunLog(path, CLASSES, bundles, modality) as log:
        for number in range(pairs):
            log.add(frame(number, bundles))
    return path


@pytest.fixture(scope='module')
def recorded(tmp_path_factory):
    """Return the path of a recording, and entity -> component -> (times by timeline, value)."""
    path = write(tmp_path_factory.mktemp('report') / 'hall' / 'recording.rrd')
    rows = {}
    for part in chunk.RrdReader(path).stream():
        table = part.to_record_batch()
        for name in table.schema.names:
            if ':' not in name:
                continue
            for at, value in enumerate(table.column(name).to_pylist()):
                times = {line: table.column(line)[at].as_py() if line == 'pair'
                         else table.column(line)[at].value for line in part.timeline_names}
                rows.setdefault(part.entity_path, {}).setdefault(name, []).append((times, value))
    return path, rows


def entity(*parts):
    return '/' + str(rerun.new_entity_path(list(parts))).lstrip('/')


def values(rows, component, *parts):
    """Return pair number -> the single value of a component of an entity."""
    return {times['pair']: value[0] for times, value in rows[entity(*parts)][component]}


def test_the_file_stands_alone_in_its_place_and_is_named_after_the_bag(recorded):
    path, rows = recorded
    assert os.listdir(path.parent) == ['recording.rrd']
    (recording,) = chunk.RrdReader(path).recordings()
    assert recording.application_id == 'rgbx_eval_bag'
    assert rows['/__properties']['RecordingInfo:name'] == [({}, ['hall'])]
    (_, (begin,)), = rows['/__properties']['RecordingInfo:start_time']
    assert int(np.datetime64(begin, 'ns') if not isinstance(begin, int) else begin) == BEGIN_NS


def test_every_pair_is_on_the_bag_s_time_and_on_its_number_alone(recorded):
    rows = recorded[1]
    for component in ('SegmentationImage:buffer', 'SegmentationImage:opacity'):
        times = [times for times, _ in rows[entity('mask', 'old')][component]]
        assert times == [{'bag_time': BEGIN_NS + i * PERIOD_NS, 'pair': i} for i in range(PAIRS)]
    lines = {line for components in rows.values() for found in components.values()
             for times, _ in found for line in times}
    assert lines == {'bag_time', 'pair'}


def test_masks_and_targets_come_back_bit_for_bit_and_their_classes_with_them(recorded):
    rows = recorded[1]
    for index, name in enumerate(BUNDLES):
        found = values(rows, 'SegmentationImage:buffer', 'mask', name)
        for number in range(PAIRS):
            np.testing.assert_array_equal(np.array(found[number], np.uint8).reshape(48, 64),
                                          frame(number).lanes[index].label)
    targets = values(rows, 'SegmentationImage:buffer', 'target')
    assert targets.keys() == set(range(PAIRS)) - set(UNLABELED)
    for number, buffer in targets.items():
        np.testing.assert_array_equal(np.array(buffer, np.uint8).reshape(48, 64),
                                      frame(number).pair.target)
    (_, (context,)), = rows['/']['AnnotationContext:context']
    infos = {item['class_id']: item['class_description']['info'] for item in context}
    assert {number: info['label'] for number, info in infos.items()} == {
        **{info.id: info.name for info in CLASSES}, 255: 'not labeled'}
    for info in CLASSES:  # black ones let the camera's color through
        opaque = 255 * any(info.color)
        assert infos[info.id]['color'] == int.from_bytes(bytes((*info.color, opaque)), 'big')
    assert infos[255]['color'] == 0


def test_images_are_jpegs_that_look_like_what_was_seen(recorded):
    rows = recorded[1]

    def picture(blob):
        data = np.frombuffer(bytes(blob), np.uint8)
        assert data[:2].tobytes() == b'\xff\xd8'
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)

    rgb = values(rows, 'EncodedImage:blob', 'rgb')
    assert rgb.keys() == set(range(PAIRS)) - {LOST}
    error = np.abs(picture(rgb[1])[..., ::-1].astype(int) - frame(1).pair.rgb).mean()
    assert error < 6
    for index, name in enumerate(BUNDLES):
        for group, value, size in (('confidence', 10 * index, (48, 64)),
                                   ('thermal', 100 + index, (24, 32))):
            found = values(rows, 'EncodedImage:blob', group, name)
            assert len(found) == PAIRS
            assert picture(found[0]).shape == size and np.abs(
                picture(found[0]).astype(int) - value).max() <= 2


def test_what_a_pair_lacks_does_not_stay_from_the_pair_before(recorded):
    rows = recorded[1]
    cleared = [times['pair'] for times, _ in rows['/rgb']['Clear:is_recursive']]
    assert cleared == [LOST]
    assert [times['pair'] for times, _ in rows['/target']['Clear:is_recursive']] == [2]


def test_numbers_are_those_of_the_records_and_what_does_not_exist_is_left_out(recorded):
    rows = recorded[1]
    for index, name in enumerate(BUNDLES):
        records = [frame(number).records[index] for number in range(PAIRS)]
        for group, fields in eval_rerun.NUMBERS.items():
            for field in fields:
                found = rows[entity(group, name, field)]
                expected = {record.number: getattr(record, field) for record in records
                            if getattr(record, field) == getattr(record, field)}
                assert {times['pair']: value[0]
                        for times, value in found.get('Scalars:scalars', [])} == expected, field
                (_, (title,)), = found['SeriesLines:names']
                assert title.endswith(f', {name}')
    assert values(rows, 'Scalars:scalars', 'skew') == {i: 4 + i / 1e6 for i in range(PAIRS)}
    assert values(rows, 'TextLog:text', 'state') == {
        0: 'paired', LOST: 'aux_only', LOST + 1: 'paired'}  # as it changes


def shown(path):
    """Return the names of the views that the viewer opens with, and what they query."""
    (entry,) = chunk.RrdReader(path).blueprints()
    names, queries = [], []
    for part in chunk.RrdReader(path).stream(store=entry):
        table = part.to_record_batch()
        for name in table.schema.names:
            if name in ('ViewBlueprint:display_name', 'ViewBlueprint:space_origin',
                        'ViewContents:query'):
                found = [value for row in table.column(name).to_pylist() for value in row]
                (names if name.endswith('name') else queries).extend(found)
    return names, queries


def test_the_viewer_opens_with_masks_over_rgb_images_and_plots(recorded):
    path, rows = recorded
    names, queries = shown(path)
    assert set(names) == {
        'Label', *BUNDLES, 'RGB', *(f'{group}, {name}' for group in ('Thermal', 'Confidence')
                                    for name in BUNDLES), 'State', *eval_rerun.TITLES.values()}
    roots = {entity.split('/')[1] for entity in rows}
    for query in queries:
        place = query.lstrip('+ ').removesuffix('/**').replace('$origin', '')
        assert place in ('', '/') or place in rows or place[1:] in roots, query
    for name in BUNDLES:
        assert any(entity('mask', name) in query for query in queries)


def test_without_labels_and_with_one_bundle_the_views_are_fewer(tmp_path):
    names, _ = shown(write(tmp_path / 'recording.rrd', pairs=1, bundles=['one'], modality='event'))
    assert set(names) == {'one', 'RGB', 'Event', 'Confidence', 'State',
                          *(title for group, title in eval_rerun.TITLES.items()
                            if group != 'score')}


def test_an_exception_leaves_nothing(tmp_path):
    path = tmp_path / 'bag' / 'recording.rrd'
    with pytest.raises(ZeroDivisionError), RerunLog(path, CLASSES, BUNDLES, 'thermal') as log:
        log.add(frame(0))
        raise ZeroDivisionError
    assert list(path.parent.iterdir()) == []


def test_a_recording_replaces_the_one_before_only_when_it_is_whole(tmp_path):
    path = tmp_path / 'recording.rrd'
    path.write_bytes(b'before')
    with pytest.raises(ZeroDivisionError), RerunLog(path, CLASSES, BUNDLES, 'thermal'):
        raise ZeroDivisionError
    assert path.read_bytes() == b'before'
    write(path, 1)
    assert path.read_bytes()[:4] != b'befo'


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, 'test')
from pathlib import Path
from rgbx_seg_ros import eval_rerun
from test_eval_rerun import write
eval_rerun.PATIENCE_S = 1.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
write(Path(sys.argv[1]), 3)
"""


def in_a_new_process(program, *arguments, before=(), **environment):
    return subprocess.run([*before, sys.executable, '-c', program, *map(str, arguments)], cwd=ROOT,
                          env={**os.environ, **environment}, capture_output=True, text=True,
                          timeout=60, check=False)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    run = in_a_new_process(FULL_DISK, tmp_path / 'recording.rrd')
    assert run.returncode == 1
    assert 'recording.rrd: the recording cannot be written' in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / 'recording.rrd.part').mkdir()
    with pytest.raises(RgbxSegError, match=r'recording.rrd: the recording cannot be written \('):
        write(tmp_path / 'recording.rrd', 0)


def test_without_the_library_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(RgbxSegError, match='run `pip install rerun-sdk`, or leave out --rerun'):
        RerunLog(tmp_path / 'recording.rrd', CLASSES, BUNDLES, 'thermal')
    assert list(tmp_path.iterdir()) == []


QUIET = """
import os, sys
sys.path.insert(0, 'test')
calls = []
sys.addaudithook(lambda event, _: calls.append(event) if event.startswith('socket.') else None)
from pathlib import Path
from rgbx_seg_ros.eval_rerun import RerunLog
assert 'rerun' not in sys.modules
seen = {}
class Spy:
    def find_spec(self, name, *_):
        if name == 'rerun':
            seen['telemetry'] = os.environ.get('TELEMETRY_ENABLED')
sys.meta_path.insert(0, Spy())
RerunLog(Path('unused'), [], [], 'thermal')
assert seen == {'telemetry': 'false'} and os.environ['TELEMETRY_ENABLED'] == 'true'
from test_eval_rerun import write
write(Path(sys.argv[1]), 3)
links = {os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')
         if os.path.lexists(f'/proc/self/fd/{fd}')}
network = {f'socket:[{line.split()[9]}]' for kind in ('tcp', 'udp', 'tcp6', 'udp6')
           for line in Path(f'/proc/self/net/{kind}').read_text().splitlines()[1:]}
print(sorted(links & network), calls)
"""


def test_rerun_asks_nothing_of_the_network_and_writes_nothing_home(tmp_path):
    """In a new process, with an audit of sockets, whose home is an empty folder."""
    home = tmp_path / 'home'
    home.mkdir()
    strace = shutil.which('strace')
    before = [strace, '-f', '-e', 'trace=socket,connect', '-o', tmp_path / 'calls']
    run = in_a_new_process(QUIET, tmp_path / 'recording.rrd', before=before if strace else [],
                           HOME=str(home), TELEMETRY_ENABLED='true')
    assert (run.returncode, run.stdout) == (0, '[] []\n'), run.stderr
    assert list(home.iterdir()) == []
    if strace:  # the library is native: the system's calls tell what Python does not see
        assert 'connect(' not in (tmp_path / 'calls').read_text()
        assert 'AF_INET' not in (tmp_path / 'calls').read_text()
