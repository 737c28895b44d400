# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The pairs of bags that are written byte by byte: which, their pixels, labels, calibration."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from bag_files import IMAGE, Recorded, image_cdr, write_distribution
from bundles import CLASSES, manifest
from rosbags.typesys import Stores, get_typestore

from rgbx_seg_ros import RgbxSegError, eval_source
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.eval_source import open_source

T0 = 1_700_000_000_000_000_000
MS = 1_000_000
RGB, AUX, LABEL = '/cam/rgb/image_raw', '/cam/thermal/image_raw', '/cam/label/image_raw'
DEPTH = '/cam/depth_registered/image_rect'
STORE = get_typestore(Stores.ROS2_HUMBLE)
COMPRESSED = 'sensor_msgs/msg/CompressedImage'


def rgb_image(index, size=(6, 8)):
    """Return a picture that says which one it is."""
    return np.full((*size, 3), (index % 251, 2, 3), np.uint8)


def aux_image(index, size=(4, 5)):
    """Return counts that say which one it is."""
    return np.full(size, 29000 + index, np.uint16)


def rgb(index, at_ms, delay_ms=5.0, image=None, encoding='rgb8', topic=RGB):
    """Return an RGB message with the stamp T0 + at_ms."""
    stamp = T0 + round(at_ms * MS)
    return Recorded(topic, stamp + round(delay_ms * MS), image_cdr(
        rgb_image(index) if image is None else image, encoding, stamp, 'rgb_optical'))


def aux(index, at_ms, delay_ms=7.0, image=None, encoding='mono16'):
    """Return an aux message."""
    stamp = T0 + round(at_ms * MS)
    return Recorded(AUX, stamp + round(delay_ms * MS), image_cdr(
        aux_image(index) if image is None else image, encoding, stamp, 'ir_optical'))


def label(at_ms, delay_ms=8.0, value=1, size=(6, 8), encoding='mono8'):
    """Return a label message of one class."""
    stamp = T0 + round(at_ms * MS)
    return Recorded(LABEL, stamp + round(delay_ms * MS), image_cdr(
        np.full(size, value, np.uint8), encoding, stamp, 'rgb_optical'))


def drive(count=6, period_ms=100.0, skew_ms=10.0):
    """Return `count` pairs, aux later."""
    return [one for index in range(count) for one in (
        rgb(index, index * period_ms), aux(index, index * period_ms + skew_ms))]


def settings(tmp_path=None, given=None, **fields):
    """Return settings with the node's parameters `given`."""
    return EvalSettings(bundles=(), **node_settings(None, given or {}), **fields)


def opened(tmp_path, messages, chosen=None, name='bag', storage='sqlite3', **options):
    """Return the source of a bag of these messages, in the order of reception."""
    bag = write_distribution(tmp_path / name, sorted(messages, key=lambda one: one.received_ns),
                             'humble', storage, **options)
    return open_source(bag, chosen or settings(), manifest())


def test_every_pair_comes_with_its_pixels_stamps_and_header(tmp_path):
    source = opened(tmp_path, drive())
    assert source.topics == (RGB, AUX, None) and source.expected == 6
    pairs = list(source)
    assert [pair.number for pair in pairs] == list(range(6))
    for index, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.rgb, rgb_image(index))
        np.testing.assert_array_equal(pair.aux, aux_image(index))
        assert (pair.aux_encoding, pair.target, pair.depth) == ('mono16', None, None)
        assert (pair.rgb_ns, pair.aux_ns) == (T0 + index * 100 * MS, T0 + (index * 100 + 10) * MS)
        assert (pair.stamp_ns, pair.frame_id) == (pair.rgb_ns, 'rgb_optical')
        assert (pair.received_ns, pair.skew_ns, pair.state) == (pair.aux_ns + 7 * MS, 10 * MS,
                                                               'paired')
        assert pair.decode_ms >= 0
    assert source.duration_s == pytest.approx(0.512)


def test_iterating_twice_gives_the_same(tmp_path):
    source = opened(tmp_path, drive())
    first, numbers = list(source), source.sync()
    second = list(source)
    assert [pair[4:-1] for pair in first] == [pair[4:-1] for pair in second]
    assert source.sync() == numbers


def test_no_pair_is_dropped_however_slowly_or_fast_it_is_asked(tmp_path):
    messages = [one for index in range(200) for one in (rgb(index, index), aux(index, index))]
    assert len(list(opened(tmp_path, messages))) == 200


def test_a_faster_camera_gives_the_nearest_frames(tmp_path):
    messages = [rgb(index, index * 33) for index in range(30)]
    messages += [aux(index, index * 100 + 5) for index in range(9)]
    source = opened(tmp_path, messages)
    for index, pair in enumerate(source):
        assert pair.rgb_ns == T0 + 33 * MS * round((index * 100 + 5) / 33)
    assert source.sync()['drops']['surplus_rgb'] >= 18
    assert source.sync()['pairs'] == 9


def test_the_settings_of_the_node_pair_the_frames(tmp_path):
    messages = [rgb(index, index * 100) for index in range(5)]
    messages += [aux(index, index * 100 + 900) for index in range(5)]
    assert list(opened(tmp_path, messages)) == []
    chosen = settings(given={'sync.aux_offset': -0.9})
    pairs = list(opened(tmp_path, messages, chosen, 'again'))
    assert [(int(pair.rgb[0, 0, 0]), pair.skew_ns) for pair in pairs] == [
        (index, 0) for index in range(5)]


def test_a_lost_camera_is_seen_where_nothing_else_arrives(tmp_path):
    # aux ends at 500 ms, and RGB pauses from 1.4 s to 1.9 s: what was lost when is told by polling.
    times = [at for at in range(0, 3000, 100) if not 1400 < at < 1900]
    messages = [rgb(at // 100, at) for at in times] + [aux(at, at) for at in range(0, 600, 100)]
    chosen = settings(given={'degraded.aux_lost': 'rgb_only', 'degraded.timeout': 1.0})
    source = opened(tmp_path, messages, chosen)
    pairs = list(source)
    assert [pair.state for pair in pairs] == ['paired'] * 6 + ['rgb_only'] * (len(pairs) - 6)
    alone = pairs[6:]
    assert all(pair.aux is None and pair.aux_ns == 0 and pair.aux_encoding == '' for pair in alone)
    # Lost at 507 + 1000 ms: the frame of 1400 ms, which waited, comes first, by itself.
    assert [(pair.rgb_ns - T0) // MS for pair in alone] == [1400, *range(1900, 3000, 100)]
    assert source.sync()['states'] == {'paired': 6, 'rgb_only': len(alone)}
    assert source.sync()['drops']['degraded'] == 8


def test_a_held_frame_has_no_label_and_the_header_of_the_living_one(tmp_path):
    messages = [rgb(at, at) for at in range(0, 500, 100)]
    messages += [aux(at // 100, at) for at in range(0, 3000, 100)]
    messages += [label(at) for at in range(0, 500, 100)]
    chosen = settings(given={'degraded.rgb_lost': 'hold'})
    pairs = list(opened(tmp_path, messages, chosen))
    held = [pair for pair in pairs if pair.state == 'hold_rgb']
    assert len(held) >= 10 and all(pair.stamp_ns == pair.aux_ns for pair in held)
    assert {pair.frame_id for pair in held} == {'rgb_optical'}
    assert {pair.rgb_ns for pair in held} == {T0 + 400 * MS}
    assert [pair.target is None for pair in pairs] == [False] * 5 + [True] * len(held)


def test_headers_are_those_of_the_node(tmp_path):
    camera_pair = pytest.importorskip('rgbx_seg_ros.camera_pair')
    messages = [rgb(at, at) for at in range(0, 500, 100)]
    messages += [aux(at // 100, at) for at in range(0, 3000, 100)]
    for policy in ('hold', 'aux_only', 'stop'):
        source = opened(tmp_path, messages, settings(given={'degraded.rgb_lost': policy}), policy)
        node = SimpleNamespace(_rgb_frame_id='')
        original, seen = source._header, []

        def both(pair, original=original, node=node, seen=seen):
            """Ask the node's own method as well."""
            duck = pair._replace(**{
                name: frame._replace(data=SimpleNamespace(header=_header(frame.data)))
                for name in ('rgb', 'aux') if (frame := getattr(pair, name)) is not None})
            header = camera_pair.CameraPair._header(node, duck)
            seen.append((header.stamp.sec * 10**9 + header.stamp.nanosec, header.frame_id))
            return original(pair)

        source._header = both
        assert [(pair.stamp_ns, pair.frame_id) for pair in source] == seen
        assert len(seen) >= 5


def _header(image):
    from builtin_interfaces.msg import Time
    from std_msgs.msg import Header

    sec, nanosec = divmod(image.stamp_ns, 10**9)
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=image.frame_id)


def compressed(one, suffix, format_):
    """Return a message with its image as a file."""
    message = STORE.deserialize_cdr(one.data, IMAGE)
    image = np.frombuffer(message.data, np.uint16 if message.encoding == 'mono16' else np.uint8)
    image = image.reshape(message.height, message.width, -1).squeeze()
    data = cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1]
    kind = STORE.types[COMPRESSED]
    return Recorded(f'{one.topic}/compressed', one.received_ns, bytes(STORE.serialize_cdr(
        kind(message.header, format_, data.ravel()), COMPRESSED)), COMPRESSED)


def test_compressed_images_decode_as_in_the_node(tmp_path):
    messages_of_node = pytest.importorskip('rgbx_seg_ros.messages')
    from sensor_msgs.msg import CompressedImage

    deep = np.random.default_rng(0).integers(0, 65535, (6, 8, 3), np.uint16)
    gray = np.random.default_rng(0).integers(0, 255, (6, 8), np.uint8)
    pictures = [cv2.imencode('.png', deep)[1], cv2.imencode('.jpg', gray)[1],
                cv2.imencode('.png', gray)[1], cv2.imencode('.jpg', rgb_image(5))[1]]
    kind, messages = STORE.types[COMPRESSED], []
    for index, data in enumerate(pictures):
        stamp = STORE.types['builtin_interfaces/msg/Time'](T0 // 10**9, index * 100 * MS)
        messages += [Recorded(f'{RGB}/compressed', T0 + index * 100 * MS, bytes(
            STORE.serialize_cdr(kind(STORE.types['std_msgs/msg/Header'](stamp, 'x'), 'rgb8; png',
                                     data.ravel()), COMPRESSED)), COMPRESSED),
                     compressed(aux(index, index * 100), '.png', '16UC1; png compressed ')]
    pairs = list(opened(tmp_path, messages))
    assert len(pairs) == 4
    for index, (pair, data) in enumerate(zip(pairs, pictures, strict=True)):
        expected = messages_of_node.to_rgb(CompressedImage(format='rgb8; png',
                                                           data=data.tobytes()))
        np.testing.assert_array_equal(pair.rgb, expected)
        np.testing.assert_array_equal(pair.aux, aux_image(index))


def test_the_transport_of_the_node_decides_where_a_bag_has_both(tmp_path):
    messages = [*drive(), *(compressed(one, '.png', 'png') for one in drive())]
    assert opened(tmp_path, messages).topics.rgb == RGB
    chosen = settings(given={'rgb.transport': 'compressed'})
    source = opened(tmp_path, messages, chosen, 'b')
    assert source.topics == (f'{RGB}/compressed', AUX, None)
    assert len(list(source)) == 6


def test_a_jpeg_of_a_thermal_camera_is_used_as_by_the_node_and_told(tmp_path):
    messages = [rgb(index, index * 100) for index in range(3)]
    messages += [compressed(aux(index, index * 100, image=np.full((4, 5), 9, np.uint8),
                                encoding='mono8'), '.jpg', 'mono8; jpeg') for index in range(3)]
    source = opened(tmp_path, messages)
    assert len(list(source)) == 3
    (note,) = source.sync()['notes']
    assert 'is a JPEG' in note


def test_what_cannot_be_decoded_is_counted_and_the_rest_goes_on(tmp_path):
    messages = drive()
    messages[0] = rgb(0, 0, encoding='yuv411')  # never reaches the feed
    messages[5] = aux(2, 210, image=np.zeros((4, 5), np.int32), encoding='32SC1')
    messages[6] = messages[6]._replace(data=messages[6].data[:60])  # no CDR
    source = opened(tmp_path, messages)
    pairs = list(source)
    assert [(pair.rgb_ns - T0) // (100 * MS) for pair in pairs] == [1, 4, 5]
    assert [pair.number for pair in pairs] == [0, 1, 2]
    sync = source.sync()
    assert sync['undecodable'] == {'rgb': 2, 'aux': 1}
    assert sync['frames'] == {'rgb': 5, 'aux': 6, 'label': 0}
    assert any('yuv411' in note for note in sync['notes'])


def test_a_broken_picture_in_a_pair_is_left_out(tmp_path):
    messages = [compressed(one, '.png', 'x') if one.topic == RGB else one for one in drive()]
    broken = STORE.deserialize_cdr(messages[4].data, COMPRESSED)
    broken.data = broken.data.copy()
    broken.data[45:60] = 0
    messages[4] = messages[4]._replace(data=bytes(STORE.serialize_cdr(broken, COMPRESSED)))
    source = opened(tmp_path, messages)
    assert [(pair.rgb_ns - T0) // (100 * MS) for pair in source] == [0, 1, 3, 4, 5]
    assert source.sync()['undecodable'] == {'rgb': 1, 'aux': 0}


@pytest.mark.parametrize('shift', [
    lambda index, at: at - 600 * (index >= 6),  # a bag that was looped
    lambda index, at: at - 1_600_000_000_000 * (index >= 6),  # a clock that began anew
    lambda index, at: at + 3_600_000 * (index >= 6)])  # and one that jumped ahead
def test_jumps_of_the_clock_cost_a_frame_or_two(tmp_path, shift):
    messages = []
    for index in range(14):
        for message, delay in ((rgb, 0), (aux, 1)):
            at = shift(index, index * 100)
            one = message(index, at)
            messages.append(one._replace(received_ns=T0 + (index * 100 + delay) * MS))
    pairs = list(opened(tmp_path, messages))
    assert len(pairs) >= 12
    assert all(pair.rgb_ns == pair.aux_ns for pair in pairs)


def test_frames_without_a_stamp_are_dropped_by_cause(tmp_path):
    messages = drive()
    zero = image_cdr(rgb_image(1), 'rgb8', 0, 'rgb_optical')
    messages[2] = messages[2]._replace(data=zero)
    source = opened(tmp_path, messages)
    assert len(list(source)) == 5
    drops = source.sync()['drops']
    assert drops.pop('zero_stamp') == 1 and list(drops.values()) == [1]  # the aux frame alone


def test_images_may_change_their_size(tmp_path):
    messages = drive(4)
    messages[4] = rgb(2, 200, image=rgb_image(2, (3, 4)))
    assert [pair.rgb.shape[:2] for pair in opened(tmp_path, messages)] == [
        (6, 8), (6, 8), (3, 4), (6, 8)]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_bag_that_breaks_off_is_one_sentence_after_the_pairs_before(tmp_path, storage):
    source = opened(tmp_path, drive(40), storage=storage)
    (file,) = (path for path in source.bag.iterdir() if path.suffix != '.yaml')
    content = bytearray(file.read_bytes())
    content[len(content) // 2:len(content) * 3 // 4] = b'\xff' * (
        len(content) * 3 // 4 - len(content) // 2)
    file.write_bytes(content)
    pairs = []
    with pytest.raises(RgbxSegError, match='cannot be read') as caught:
        pairs.extend(source)
    assert str(source.bag) in str(caught.value)


def test_flipped_bytes_are_one_sentence_or_a_frame_less(tmp_path):
    source = opened(tmp_path, [*drive(), *(label(at) for at in range(0, 600, 100))],
                    storage='mcap')
    (file,) = source.bag.glob('*.mcap')
    content, rng, refused = file.read_bytes(), np.random.default_rng(1), 0
    for at in rng.integers(0, len(content), 30):
        file.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1:])
        try:
            assert len(list(open_source(source.bag, settings(), manifest()))) <= 6
        except RgbxSegError as error:
            assert str(source.bag) in str(error) and '\n' not in str(error)
            refused += 1
    assert refused > 0


def test_a_bag_without_pairs_has_none(tmp_path):
    messages = [rgb(index, index * 100) for index in range(4)] + [aux(0, 9000)]
    source = opened(tmp_path, messages)
    assert list(source) == []
    assert source.sync()['pairs'] == 0 and source.sync()['skew_ms']['p50'] is None


# Labels


@pytest.mark.parametrize('delay_ms', [1.0, 8.0, 90.0, 2500.0], ids=str)
def test_labels_find_their_frames_however_late_they_come(tmp_path, delay_ms):
    messages = drive(40) + [label(at, delay_ms, at // 100 % 3) for at in range(0, 4000, 100)]
    source = opened(tmp_path, messages)
    assert source.topics.label == LABEL
    pairs = list(source)
    assert [int(pair.target.max()) for pair in pairs] == [index % 3 for index in range(40)]
    assert [int(pair.rgb[0, 0, 0]) for pair in pairs] == list(range(40))
    assert source.sync()['labels'] == {'found': 40, 'used': 40}
    assert source.sync()['frames']['label'] == 40
    assert source.sync()['rates_hz']['label'] == pytest.approx(10)


def test_few_labels_hold_back_few_pairs(tmp_path):
    messages = drive(100) + [label(at, 8.0) for at in range(0, 10_000, 2000)]
    source = opened(tmp_path, messages)
    waiting = []
    pairs = []
    for pair in source:
        pairs.append(pair)
        waiting.append(len(source._waiting))
    assert [pair.number for pair in pairs if pair.target is not None] == [0, 20, 40, 60, 80]
    assert max(waiting) <= 21


def test_a_label_that_is_too_late_is_not_used_and_none_is_told(tmp_path):
    messages = drive(80) + [label(at, 5500.0) for at in (0, 100)]
    source = opened(tmp_path, messages)
    assert all(pair.target is None for pair in source)
    assert source.labeled == 0
    (note,) = source.sync()['notes']
    assert note.startswith('none of the 2 labels has the stamp of an RGB frame')


def test_waiting_pairs_are_bounded_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(eval_source, 'MAX_WAITING_BYTES', 3 * (144 + 40))
    source = opened(tmp_path, drive(40) + [label(3900, 8.0)])
    most = 0
    for _ in source:
        most = max(most, len(source._waiting))
    assert most <= 4


def test_labels_may_come_out_of_order(tmp_path):
    messages = drive(40)
    for at in range(0, 4000, 200):  # each second label overtakes the one before
        messages += [label(at + 100, 300.0, 2), label(at, 420.0, 1)]
    pairs = list(opened(tmp_path, messages))
    found = [int(pair.target.max()) for pair in pairs if pair.target is not None]
    assert found == [2, *[1, 2] * 19]  # only the first one, which nothing had told of, is lost


def test_a_looped_bag_finds_its_labels_again(tmp_path):
    messages = []
    for lap in range(2):
        for one in [*drive(10), *(label(at, value=at // 100 % 3) for at in range(0, 1000, 100))]:
            messages.append(one._replace(received_ns=one.received_ns + lap * 1000 * MS))
    pairs = list(opened(tmp_path, messages))
    assert len(pairs) >= 18
    assert sum(pair.target is not None for pair in pairs) >= 18
    assert all(pair.target.max() == (pair.rgb_ns - T0) // (100 * MS) % 3 for pair in pairs
               if pair.target is not None)


@pytest.mark.parametrize('bad, told', [
    (label(300, size=(3, 4)), r'at 1700000000\.300000000 s is 4x3, expected 8x6 as the frame on'),
    (label(300, value=9), r'label/image_raw at 1700000000\.300000000 s holds the id 9')])
def test_a_label_that_does_not_fit_is_an_error_that_names_the_frame(tmp_path, bad, told):
    with pytest.raises(RgbxSegError, match=told):
        list(opened(tmp_path, [*drive(), bad]))


def test_labels_of_a_folder_win_over_those_of_the_bag(tmp_path):
    (tmp_path / 'gt').mkdir()
    for index in (1, 4):
        cv2.imwrite(str(tmp_path / 'gt' / f'1700000000.{index * 100:03d}.png'),
                    np.full((6, 8), 2, np.uint8))
    source = opened(tmp_path, [*drive(), *(label(at) for at in range(0, 600, 100))],
                    settings(labels=tmp_path / 'gt'))
    assert source.topics.label is None
    assert [pair.number for pair in source if pair.target is not None] == [1, 4]
    assert source.sync()['labels'] == {'found': 2, 'used': 2}


def test_labels_of_a_folder_need_no_choice_between_topics(tmp_path):
    messages = [*drive(), label(0), label(0)._replace(topic='/other/label')]
    with pytest.raises(RgbxSegError, match='could each be the label topic'):
        opened(tmp_path, messages)
    cv2.imwrite(str(tmp_path / '1700000000.000.png'), np.ones((6, 8), np.uint8))
    assert opened(tmp_path, messages, settings(labels=tmp_path), 'b').topics.label is None


def test_a_topic_of_colors_is_read_where_it_is_named(tmp_path):
    colors = np.full((6, 8, 3), CLASSES[1].color, np.uint8)
    messages = [*drive(), *(rgb(0, at, image=colors, topic='/gt/color')
                            for at in range(0, 600, 100))]
    assert opened(tmp_path, messages).topics.label is None
    source = opened(tmp_path, messages, settings(label_topic='/gt/color'), 'b')
    assert all((pair.target == 1).all() for pair in source)


# Calibration and depth


def info(topic, frame_id, at_ms, width, height, focal=10.0):
    """Return a calibrated CameraInfo."""
    types = STORE.types
    stamp = T0 + at_ms * MS
    header = types['std_msgs/msg/Header'](
        types['builtin_interfaces/msg/Time'](*divmod(stamp, 10**9)), frame_id)
    k = np.array([focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1.0])
    message = types['sensor_msgs/msg/CameraInfo'](
        header, height, width, 'plumb_bob', np.zeros(5), k, np.eye(3).ravel(), np.zeros(12), 0, 0,
        types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False))
    kind = 'sensor_msgs/msg/CameraInfo'
    return Recorded(topic, stamp + 4 * MS, bytes(STORE.serialize_cdr(message, kind)), kind)


def tf(parent, child, x, at_ms=0):
    """Return a /tf_static of one pose without rotation."""
    types = STORE.types
    header = types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](1, 0), parent)
    stamped = types['geometry_msgs/msg/TransformStamped'](
        header, child, types['geometry_msgs/msg/Transform'](
            types['geometry_msgs/msg/Vector3'](x, 0.0, 0.0),
            types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)))
    kind = 'tf2_msgs/msg/TFMessage'
    return Recorded('/tf_static', T0 + at_ms * MS, bytes(STORE.serialize_cdr(
        types[kind]([stamped]), kind)), kind)


INFOS = [info('/cam/rgb/camera_info', 'rgb_optical', at, 8, 6) for at in (0, 100, 200)]
INFOS += [info('/cam/thermal/camera_info', 'ir_optical', at, 5, 4) for at in (300, 400)]
CALIBRATED = {'registration.mode': 'calibrated'}


def test_the_calibration_is_there_before_the_first_pair(tmp_path):
    messages = [*drive(), *INFOS, tf('base', 'rgb_optical', 0.1, 450), tf('base', 'ir_optical', 0.3,
                                                                          450)]
    source = opened(tmp_path, messages, settings(given=CALIBRATED))
    found = source.calibration
    assert (found.rgb_camera.width, found.rgb_camera.k[0]) == (8, 10.0)
    assert (found.aux_camera.width, found.aux_camera.frame_id) == (5, 'ir_optical')
    np.testing.assert_allclose(found.extrinsics.translation, [-0.2, 0, 0])  # rgb into aux
    registration = SimpleNamespace()
    source.calibrate(registration)
    assert (registration.rgb_camera, registration.aux_camera, registration.extrinsics) == (
        found.rgb_camera, found.aux_camera, found.extrinsics)
    assert len(list(source)) == 6 and source.sync()['notes'] == []
    plain = opened(tmp_path, messages, name='plain')
    assert plain.calibration.rgb_camera is None  # nobody needs it


@pytest.mark.parametrize('messages, told', [
    ([], 'registration waits for rgb/camera_info, which the bag lacks .*/cam/rgb/camera_info'),
    (INFOS[:3], 'registration waits for thermal/camera_info'),
    (INFOS, 'waits for a transform from rgb_optical to ir_optical on /tf_static.*lacks'),
    ([*INFOS, tf('base', 'rgb_optical', 0.1)], 'waits for a transform'),
    ([info('/cam/rgb/camera_info', 'rgb_optical', 0, 8, 6, focal=0.0)],
     '/cam/rgb/camera_info: .* is uncalibrated')])
def test_what_the_registration_lacks_is_one_sentence(tmp_path, messages, told):
    with pytest.raises(RgbxSegError, match=told):
        opened(tmp_path, [*drive(), *messages], settings(given=CALIBRATED))


def test_a_calibration_that_changes_within_the_bag_is_told_once(tmp_path):
    messages = [*drive(), *INFOS, tf('ir_optical', 'rgb_optical', 0.1),
                *(info('/cam/rgb/camera_info', 'rgb_optical', at, 8, 6, 12.0)
                  for at in (300, 400))]
    source = opened(tmp_path, messages, settings(given=CALIBRATED))
    list(source)
    (note,) = source.sync()['notes']
    assert note.startswith('/cam/rgb/camera_info changes within the bag')
    assert source.calibration.rgb_camera.k[0] == 10


def test_depth_is_the_nearest_that_came_before_the_pair(tmp_path):
    def depth(at_ms, value, delay_ms):
        stamp = T0 + at_ms * MS
        return Recorded(DEPTH, stamp + delay_ms * MS, image_cdr(
            np.full((6, 8), value, np.uint16), '16UC1', stamp, 'rgb_optical'))

    messages = [*drive(4), *INFOS, tf('ir_optical', 'rgb_optical', 0.1),
                depth(0, 1500, 3), depth(100, 2000, 3), depth(200, 2500, 60), depth(260, 3000, 3)]
    source = opened(tmp_path, messages, settings(given={'registration.mode': 'depth'}))
    depths = [None if pair.depth is None else float(pair.depth[0, 0]) for pair in source]
    assert depths == [*map(pytest.approx, (1.5, 2.0)), None, pytest.approx(3)]  # 200 ms: too late
    assert all(pair.depth.dtype == np.float32 for pair in source if pair.depth is not None)


def test_a_bag_without_depth_cannot_be_registered_by_depth(tmp_path):
    with pytest.raises(RgbxSegError, match='no topic of depth images on the RGB grid'):
        opened(tmp_path, [*drive(), *INFOS], settings(given={'registration.mode': 'depth'}))


# The report of the synchronization


def test_the_sync_report_is_what_a_hand_computes(tmp_path):
    times = [0, 100, 200, 300, 650, 750, 852, 950]  # one gap, a jitter of 2 ms
    messages = [rgb(at, at, 5.0) for at in times]
    messages += [aux(at // 50, at + (20 if at == 200 else 10), 9.0) for at in times]
    source = opened(tmp_path, messages)
    list(source)
    sync = source.sync()
    assert sync['rates_hz'] == {'rgb': pytest.approx(10), 'aux': pytest.approx(10), 'label': None}
    assert sync['gaps']['rgb'] == {'longest_s': pytest.approx(0.35), 'count': 1}
    assert sync['gaps']['label'] == {'longest_s': 0.0, 'count': 0}
    # Intervals without the gap: 100 100 100 100 102 98.
    assert sync['jitter_ms']['rgb'] == pytest.approx(np.percentile([0, 0, 0, 0, 2, 2], 95))
    assert sync['camera_ms'] == {'rgb': {'p50': pytest.approx(5), 'p95': pytest.approx(5)},
                                 'aux': {'p50': pytest.approx(9), 'p95': pytest.approx(9)}}
    assert sync['clock_offset_ms'] == pytest.approx(-4)  # aux is later, so its stamps are behind
    assert sync['skew_ms'] == {'p50': pytest.approx(10), 'max': pytest.approx(20),
                               'p95': pytest.approx(np.percentile([10] * 7 + [20], 95)),
                               'mean': pytest.approx(11.25)}
    assert (sync['pairs'], sync['states'], sync['drops']) == (8, {'paired': 8}, {})
    assert sync['frames'] == {'rgb': 8, 'aux': 8, 'label': 0}
