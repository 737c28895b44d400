# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The written bag, read by rosbags alone and by the official mcap package: all that was in it."""

import struct
from pathlib import Path

import numpy as np
import pytest
import yaml
from bag_files import STRANGE, Recorded, image_cdr, write_distribution
from bags import read_plainly
from bundles import CLASSES, manifest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import guess_topics, read_channels, read_messages
from rgbx_seg_ros.eval_frames import EvalFrame, LaneResult
from rgbx_seg_ros.eval_output_bag import OutputBag, topic_prefixes
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_source import open_source

T0 = 1_700_000_000_000_000_000
MS = 1_000_000
RGB, AUX = '/cam/rgb/image_raw', '/cam/thermal/image_raw'


def recording():
    """Return five pairs, a topic of a type that nobody knows, and what comes before and after."""
    messages = [Recorded('/gizmo', T0 + at * MS, b'\0\1\0\0wheel', STRANGE)
                for at in (-50, 205, 900)]
    for index in range(5):
        stamp = T0 + index * 100 * MS
        picture = np.full((6, 8, 3), 40 * index, np.uint8)
        messages += [Recorded(RGB, stamp + 5 * MS, image_cdr(picture, 'rgb8', stamp, 'optical')),
                     Recorded(AUX, stamp + 17 * MS, image_cdr(
                         np.full((4, 5), 29000 + index, np.uint16), 'mono16', stamp + 10 * MS,
                         'ir'))]
    return sorted(messages, key=lambda one: one.received_ns)


def settings(**fields):
    """Return settings of the node's defaults."""
    return EvalSettings(bundles=(), **node_settings(None, {}), **fields)


def lane(number, pair):
    """Return what a bundle might make of a pair."""
    label = np.full((6, 8), number % 3, np.uint8)
    label[0, 0] = 255
    return LaneResult(label, np.full((6, 8), 10 * number, np.uint8), pair.rgb, pair.aux, 0, 0, 0, 0,
                      None)


def evaluate(tmp_path, source, names=('one',), name='out', **fields):
    """Write the output bag of a source bag, as an evaluation does, and return its path."""
    chosen = settings(**fields)
    pairs = open_source(source, chosen, manifest())
    with OutputBag(tmp_path / name, source, manifest(), names, chosen) as sink:
        for pair in pairs:
            if chosen.limit and pair.number >= chosen.limit:
                break
            sink.add(EvalFrame(pair, tuple(lane(pair.number + shift, pair)
                                           for shift, _ in enumerate(names)), ()))
            assert not (tmp_path / name).exists()
    return tmp_path / name


@pytest.fixture(params=['mcap', 'sqlite3'])
def source(request, tmp_path):
    """Return the recorded bag in both storages."""
    return write_distribution(tmp_path / 'source', recording(), 'jazzy', request.param,
                              empty=['/never'])


def test_the_input_is_in_it_byte_by_byte_in_order_and_of_the_same_kinds(tmp_path, source):
    out = evaluate(tmp_path, source)
    assert [(m.channel.topic, m.received_ns, bytes(m.data)) for m in read_messages(out)
            if not m.channel.topic.startswith('/segment/')] == [
        (m.topic, m.received_ns, m.data) for m in recording()]
    kinds = read_channels(source)
    assert read_channels(out)[:len(kinds)] == kinds  # QoS, definitions, hashes, empty ones as well


def test_the_results_have_the_names_headers_and_times_of_the_node(tmp_path, source):
    out = evaluate(tmp_path, source)
    found = {}
    for topic, at_ns, message in read_plainly(out, [f'/segment/{name}' for name in (
            'mask', 'confidence', 'overlay', 'label_info')]):
        found.setdefault(topic, []).append((at_ns, message))
    for index in range(5):
        for name, encoding in (('mask', 'mono8'), ('confidence', 'mono8'), ('overlay', 'rgb8')):
            at_ns, message = found[f'/segment/{name}'][index]
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert (at_ns, stamp) == (T0 + (index * 100 + 17) * MS, T0 + index * 100 * MS)
            assert (message.header.frame_id, message.encoding) == ('optical', encoding)
            assert (message.height, message.width) == (6, 8)
            assert message.step == 8 * (3 if encoding == 'rgb8' else 1)
        label = found['/segment/mask'][index][1].data.reshape(6, 8)
        assert label[0, 0] == 255 and (label.ravel()[1:] == index % 3).all()
        assert (found['/segment/confidence'][index][1].data == 10 * index).all()
        overlay = found['/segment/overlay'][index][1].data.reshape(6, 8, 3)
        color, seen = np.array(CLASSES[index % 3].color), 40.0 * index
        expected = 0.6 * color + 0.4 * seen if index % 3 else np.full(3, seen)
        assert np.abs(overlay[1, 1] - expected).max() <= 1
    ((at_ns, info),) = found['/segment/label_info']
    assert at_ns == T0 - 50 * MS  # before all else, as it is latched
    assert [(one.class_id, one.class_name) for one in info.class_map] == [
        (0, 'unlabeled'), (1, 'car'), (2, 'person')]


def test_all_messages_lie_in_order_of_time(tmp_path, source):
    out = evaluate(tmp_path, source)
    times = [m.received_ns for m in read_messages(out)]
    assert times == sorted(times) and len(times) == len(recording()) + 16


def test_the_class_names_are_latched_and_pictures_are_not(tmp_path, source):
    out = evaluate(tmp_path, source)
    told = yaml.safe_load((out / 'metadata.yaml').read_text())['rosbag2_bagfile_information']
    qos = {topic['topic_metadata']['name']: yaml.safe_load(
        topic['topic_metadata']['offered_qos_profiles'])
        for topic in told['topics_with_message_count']}
    (latched,), (mask,) = qos['/segment/label_info'], qos['/segment/mask']
    assert (latched['durability'], latched['reliability'], latched['depth']) == (1, 1, 1)
    assert (mask['durability'], mask['reliability']) == (2, 1)
    assert told['storage_identifier'] == 'mcap' and told['compression_mode'] == ''


def test_the_official_mcap_reader_finds_every_message(tmp_path, source):
    reader = pytest.importorskip('mcap.reader', reason='pip install mcap')
    (file,) = (path for path in evaluate(tmp_path, source).iterdir() if path.suffix == '.mcap')
    with file.open('rb') as stream:
        summary = reader.make_reader(stream, validate_crcs=True).get_summary()
        schemas = {channel.topic: summary.schemas[channel.schema_id]
                   for channel in summary.channels.values()}
        assert {channel.message_encoding for channel in summary.channels.values()} == {'cdr'}
        assert {index.compression for index in summary.chunk_indexes} == {'zstd'}
        assert (schemas['/segment/label_info'].name, schemas['/segment/label_info'].encoding) == (
            'vision_msgs/msg/LabelInfo', 'ros2msg')
        assert b'uint16 class_id' in schemas['/segment/label_info'].data
        assert (schemas['/gizmo'].name, schemas['/gizmo'].data) == (STRANGE, b'')
        messages = [(channel.topic, message.log_time, message.data) for _, channel, message
                    in reader.make_reader(stream, validate_crcs=True).iter_messages()]
    assert [(m.topic, m.received_ns, m.data) for m in recording()] == [
        one for one in messages if not one[0].startswith('/segment/')]
    mask = next(data for topic, _, data in messages if topic == '/segment/mask')
    assert struct.unpack_from('<iI', mask, 4) == divmod(T0, 10**9)
    assert mask.endswith(bytes([255, *[0] * 47]))


def test_a_second_evaluation_takes_no_mask_for_a_label_and_replaces_the_old_results(tmp_path,
                                                                                    source):
    once = evaluate(tmp_path, source)
    assert guess_topics(once, 'thermal') == (RGB, AUX, None)
    twice = evaluate(tmp_path, once, name='twice')
    assert [(m.channel.topic, m.received_ns, m.data) for m in read_messages(once)] == [
        (m.channel.topic, m.received_ns, m.data) for m in read_messages(twice)]
    both = evaluate(tmp_path, once, ['a', 'b'], 'both')
    assert guess_topics(both, 'thermal') == (RGB, AUX, None)


def test_several_bundles_have_topics_of_their_own(tmp_path, source):
    out = evaluate(tmp_path, source, ['runs/a.2', '2nd'])
    counts = {one.topic: one.messages for one in read_channels(out)}
    for prefix in ('/segment/runs_a_2', '/segment/b2nd'):
        assert [counts[f'{prefix}/{name}'] for name in (
            'mask', 'confidence', 'overlay', 'label_info')] == [5, 5, 5, 1]
    labels = [m.data[-1] for m in read_messages(out, ['/segment/b2nd/mask'])]
    assert labels == [1, 2, 0, 1, 2]


@pytest.mark.parametrize('names, pair, expected', [
    (['x'], '', ['/segment/']), (['x'], 'front', ['/segment/front/']),
    (['a-b', 'a_b'], '', ['/segment/a_b/', '/segment/a_b_2/']),
    (['...', 'ü'], '', ['/segment/bundle/', '/segment/bundle_2/'])])
def test_names_of_topics_hold_what_ros_allows(names, pair, expected):
    assert topic_prefixes(names, pair) == expected


def test_a_limited_evaluation_ends_the_bag_with_its_last_pair(tmp_path, source):
    out = evaluate(tmp_path, source, limit=2)
    times = [m.received_ns for m in read_messages(out)]
    assert max(times) == T0 + 117 * MS
    assert len(list(read_messages(out, ['/segment/mask']))) == 2


def test_a_failure_leaves_nothing(tmp_path, source):
    chosen = settings()
    pairs = open_source(source, chosen, manifest())
    with pytest.raises(ZeroDivisionError), OutputBag(tmp_path / 'out', source, manifest(), ['x'],
                                                     chosen) as sink:
        pair = next(iter(pairs))
        sink.add(EvalFrame(pair, (lane(0, pair),), ()))
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_a_source_that_breaks_off_leaves_nothing_and_one_sentence(tmp_path):
    source = write_distribution(tmp_path / 'source', recording() * 8, 'jazzy', 'mcap')
    (file,) = source.glob('*.mcap')
    content = bytearray(file.read_bytes())
    content[len(content) // 2:len(content) // 2 + 200] = b'\xff' * 200
    file.write_bytes(content)
    with pytest.raises(RgbxSegError, match='cannot be read'), OutputBag(
            tmp_path / 'out', source, manifest(), ['x'], settings()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_a_target_that_exists_is_refused(tmp_path, source):
    (tmp_path / 'out').mkdir()
    with pytest.raises(RgbxSegError, match='exists already'):
        OutputBag(tmp_path / 'out', source, manifest(), ['x'], settings())


def test_the_input_is_copied_no_further_than_the_pair(tmp_path, source):
    sizes = []
    out = tmp_path / 'out'
    chosen = settings()
    with OutputBag(out, source, manifest(), ['one'], chosen) as sink:
        for pair in open_source(source, chosen, manifest()):
            sink.add(EvalFrame(pair, (lane(0, pair),), ()))
            ahead = sink._next.received_ns if sink._next else None
            sizes.append(ahead is None or ahead > pair.received_ns)
    assert all(sizes) and Path(out).exists()
