# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bags: what is written is what `rosbags` alone reads, and every broken bag is one sentence."""

import shutil
import sqlite3

import numpy as np
import pytest
import yaml
from bag_files import (
    DISTRIBUTIONS,
    IMAGE_HASH,
    STRANGE,
    Recorded,
    image_cdr,
    mcap,
    write_distribution,
)
from bags import START_NS, frame, noise, read_plainly, write_bag
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import (
    STORAGES,
    BagWriter,
    MessageError,
    deserialize,
    guess_topics,
    image_topics,
    read_channels,
    read_images,
    read_messages,
)
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.topics import TopicInfo

IMAGES = {'rgb8': noise(9, 14, np.uint8, 3), 'mono8': noise(9, 14, np.uint8),
          'mono16': noise(9, 14, np.uint16), '32FC1': noise(9, 14, np.float32),
          '16UC1': noise(9, 14, np.uint16)}


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('encoding', IMAGES)
def test_plain_rosbags_reads_the_pixels_and_stamps_that_were_written(tmp_path, storage, encoding):
    image = IMAGES[encoding]
    with BagWriter(tmp_path / 'b', storage) as writer:
        writer.write_image('/cam/image_raw', image, encoding, START_NS + 1, START_NS + 7, 'cam')
    (topic, received_ns, message), = read_plainly(tmp_path / 'b')
    assert (topic, received_ns, message.header.frame_id) == ('/cam/image_raw', START_NS + 7, 'cam')
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == START_NS + 1
    assert (message.height, message.width, message.encoding) == (9, 14, encoding)
    assert message.step == image.nbytes // 9 and not message.is_bigendian
    np.testing.assert_array_equal(message.data.tobytes(), image.tobytes())
    (read,) = read_images(tmp_path / 'b', ['/cam/image_raw'])
    np.testing.assert_array_equal(read.image(), image)
    assert (read.stamp_ns, read.received_ns, read.frame_id, read.encoding) == \
        (START_NS + 1, START_NS + 7, 'cam', encoding)


@pytest.mark.parametrize('encoding, format', [
    ('rgb8', 'rgb8; png compressed bgr8'), ('mono8', 'mono8; png compressed '),
    ('16UC1', '16UC1; png compressed ')])
def test_a_png_topic_is_lossless_and_formatted_as_image_transport_does(tmp_path, encoding, format):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x/compressed', IMAGES[encoding], encoding, 1, 1, 'x', 'png')
    (read,) = read_images(tmp_path / 'b', ['/x/compressed'])
    assert read.encoding == format
    np.testing.assert_array_equal(read.image(), IMAGES[encoding])


def test_a_jpeg_topic_keeps_the_color_order(tmp_path):
    image = frame(0, channels=3)
    image[:] = (200, 100, 20)
    with BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x/compressed', image, 'rgb8', 1, 1, 'x', 'jpeg')
    (read,) = read_images(tmp_path / 'b', ['/x/compressed'])
    assert read.encoding == 'rgb8; jpeg compressed bgr8'
    assert np.abs(read.image().astype(int) - image).max() <= 3


def test_images_come_in_the_order_of_reception_whatever_the_order_of_writing(tmp_path):
    received = [50, 10, 40, 20, 30]
    for storage in STORAGES:
        with BagWriter(tmp_path / storage, storage) as writer:
            for index, at_ns in enumerate(received):
                writer.write_image(f'/c{index % 2}', frame(at_ns), 'mono8', 100 - at_ns, at_ns, '')
        read = list(read_images(tmp_path / storage, ['/c0', '/c1']))
        assert [image.received_ns for image in read] == sorted(received)
        assert [int(image.image().max()) for image in read] == sorted(received)


def test_the_camera_info_says_size_and_that_it_is_uncalibrated(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write_camera_info('/rgb/camera_info', 480, 640, 5, 6, 'rgb_optical')
    (_, _, info), = read_plainly(tmp_path / 'b')
    assert (info.height, info.width, info.header.frame_id) == (480, 640, 'rgb_optical')
    assert not info.k.any() and not info.p.any()  # REP-104


def test_the_metadata_is_what_humble_parses(tmp_path):
    for storage in STORAGES:
        write_bag(tmp_path / storage, storage=storage)
        info = yaml.safe_load((tmp_path / storage / 'metadata.yaml').read_text())[
            'rosbag2_bagfile_information']
        assert 5 <= info['version'] <= 8  # 9 made offered_qos_profiles a list
        assert info['storage_identifier'] == storage
        assert (tmp_path / storage / info['relative_file_paths'][0]).exists()
        for topic in info['topics_with_message_count']:
            (qos,) = yaml.safe_load(topic['topic_metadata']['offered_qos_profiles'])
            assert (qos['reliability'], qos['durability'], qos['history']) == (1, 2, 1)


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x', frame(1), 'mono8', 1, 1, '')
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_target_appears_only_when_complete(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x', frame(1), 'mono8', 1, 1, '')
        assert not (tmp_path / 'b').exists()
    assert [path.name for path in tmp_path.iterdir()] == ['b']


def test_an_existing_target_is_kept_unless_forced(tmp_path):
    write_bag(tmp_path / 'b', pairs=1)
    with pytest.raises(RgbxSegError, match='exists already'):
        BagWriter(tmp_path / 'b')
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / 'b', force=True):
        raise ZeroDivisionError
    assert image_topics(tmp_path / 'b')['/rgb/image_raw'].count == 1
    with BagWriter(tmp_path / 'b', force=True) as writer:
        writer.write_image('/new', frame(1), 'mono8', 1, 1, '')
    assert list(image_topics(tmp_path / 'b')) == ['/new']
    assert [path.name for path in tmp_path.iterdir()] == ['b']


def test_force_replaces_bags_only(tmp_path):
    (tmp_path / 'photos').mkdir()
    with pytest.raises(RgbxSegError, match='is no bag'):
        BagWriter(tmp_path / 'photos', force=True)
    assert (tmp_path / 'photos').exists()


@pytest.mark.parametrize('encoding, codec', [('32FC1', 'png'), ('mono16', 'jpeg')])
def test_a_codec_that_would_lose_the_values_is_refused(tmp_path, encoding, codec):
    with pytest.raises(RgbxSegError, match=encoding), BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x', IMAGES[encoding], encoding, 1, 1, '', codec)


def cut(bag, share):
    """Truncate the storage file of a bag."""
    (data,) = (path for path in bag.iterdir() if path.suffix in ('.mcap', '.db3'))
    content = data.read_bytes()
    data.write_bytes(content[:int(len(content) * share)])


def scramble(bag, name, content):
    """Overwrite a file of a bag."""
    (bag / name).write_bytes(content)


BREAKAGES = {
    'missing': lambda bag: shutil.rmtree(bag),
    'no metadata': lambda bag: (bag / 'metadata.yaml').unlink(),
    'no storage': lambda bag: next(p for p in bag.iterdir() if p.suffix != '.yaml').unlink(),
    'half': lambda bag: cut(bag, 0.5),
    'nearly whole': lambda bag: cut(bag, 0.95),
    'empty': lambda bag: cut(bag, 0.0),
    'yaml': lambda bag: scramble(bag, 'metadata.yaml', b'{[: \xff'),
    'other yaml': lambda bag: scramble(bag, 'metadata.yaml', b'a: 1'),
    'text': lambda bag: [scramble(bag, p.name, b'hello' * 40) for p in bag.iterdir()
                         if p.suffix != '.yaml'],
}


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('breakage', BREAKAGES)
def test_a_broken_bag_is_one_sentence_that_names_it(tmp_path, storage, breakage):
    bag = write_bag(tmp_path / 'b', 30, storage)
    BREAKAGES[breakage](bag)
    with pytest.raises(RgbxSegError) as caught:
        list(read_images(bag, ['/rgb/image_raw']))
    assert str(bag) in str(caught.value) and 'expected' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_flipped_bytes_in_a_bag_are_sentences_or_image_errors(tmp_path):
    bag = write_bag(tmp_path / 'b', 3)
    (data,) = (path for path in bag.iterdir() if path.suffix == '.mcap')
    content, rng, refused = data.read_bytes(), np.random.default_rng(0), 0
    for at in rng.integers(0, len(content), 40):
        data.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1:])
        try:
            for image in read_images(bag, ['/rgb/image_raw', '/thermal/image_raw']):
                image.image()
        except (RgbxSegError, ImageError):
            refused += 1
    assert refused > 0


def test_a_malformed_image_is_an_image_error_and_the_next_one_is_read(tmp_path):
    with BagWriter(tmp_path / 'b') as writer:
        writer.write_image('/x', frame(1), 'yuv411', 1, 1, '')
        writer.write_image('/x', frame(2), 'mono8', 2, 2, '')
    bad, good = read_images(tmp_path / 'b', ['/x'])
    with pytest.raises(ImageError) as caught:
        bad.image()
    assert caught.value.cause == 'encoding'
    assert good.image().max() == 2


def test_a_topic_that_is_absent_is_told_with_those_present(tmp_path):
    bag = write_bag(tmp_path / 'b')
    with pytest.raises(RgbxSegError, match=r'/nope, found /rgb/image_raw \(3 x rgb8\)'):
        list(read_images(bag, ['/rgb/image_raw', '/nope']))


@pytest.mark.parametrize('plugin, mode', [
    (StoragePlugin.MCAP, CompressionMode.STORAGE), (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
    (StoragePlugin.SQLITE3, CompressionMode.FILE), (StoragePlugin.MCAP, CompressionMode.FILE)])
def test_zstd_bags_are_read(tmp_path, plugin, mode):
    source = list(read_plainly(write_bag(tmp_path / 'plain')))
    store = get_typestore(Stores.ROS2_HUMBLE)
    writer = Writer(tmp_path / 'zstd', version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {topic: writer.add_connection(topic, 'sensor_msgs/msg/Image', typestore=store)
                       for topic in ('/rgb/image_raw', '/thermal/image_raw')}
        for topic, received_ns, message in source:
            writer.write(connections[topic], received_ns,
                         store.serialize_cdr(message, message.__msgtype__))
    read = list(read_images(tmp_path / 'zstd', connections))
    assert [(i.topic, i.received_ns) for i in read] == [(t, at_ns) for t, at_ns, _ in source]
    assert [i.image().max() for i in read if i.topic == '/rgb/image_raw'] == [0, 1, 2]


def test_a_bare_storage_file_is_read_as_a_bag(tmp_path):
    for storage, suffix in (('mcap', 'mcap'), ('sqlite3', 'db3')):
        bag = write_bag(tmp_path / storage, storage=storage)
        assert image_topics(bag / f'{storage}.{suffix}') == image_topics(bag)


def test_a_ros1_bag_is_read(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    stamp = store.types['builtin_interfaces/msg/Time'](3, 4)
    header = store.types['std_msgs/msg/Header'](0, stamp, 'cam')
    message = store.types['sensor_msgs/msg/Image'](header, 12, 16, 'mono8', 0, 16,
                                                   frame(7).reshape(-1))
    with Writer1(tmp_path / 'old.bag') as writer:
        connection = writer.add_connection('/cam', 'sensor_msgs/msg/Image', typestore=store)
        writer.write(connection, 5 * 10**9, store.serialize_ros1(message, 'sensor_msgs/msg/Image'))
    (read,) = read_images(tmp_path / 'old.bag', ['/cam'])
    assert (read.stamp_ns, read.received_ns, read.image().max()) == (3_000_000_004, 5 * 10**9, 7)


def test_the_topics_of_a_bag_are_guessed_and_given_ones_win(tmp_path):
    bag = write_bag(tmp_path / 'b', labels=True)
    assert guess_topics(bag) == ('/rgb/image_raw', '/thermal/image_raw', '/label/image_raw')
    given = {'rgb': '/label/image_raw', 'aux': '/rgb/image_raw', 'label': '/thermal/image_raw'}
    assert guess_topics(bag, **given)._asdict() == given
    with pytest.raises(RgbxSegError, match='no topic looks like depth'):
        guess_topics(bag, 'depth')


def recorded(count=7):
    """Return images of two topics as bytes, 10 ms apart, and a message of a type nobody knows."""
    messages = []
    for index in range(count):
        at_ns = START_NS + index * 10_000_000
        topic, dtype = (('/rgb/image_raw', np.uint8), ('/thermal/image_raw', np.uint16))[index % 2]
        image = noise(5, 7, dtype, 1 if index % 2 else 3, index)
        messages.append(Recorded(topic, at_ns + 3, image_cdr(
            image, 'mono16' if index % 2 else 'rgb8', at_ns, f'cam{index % 2}')))
    return [*messages[:2], Recorded('/gizmo', START_NS + 15_000_000, b'\0\1\0\0wheel', STRANGE),
            *messages[2:]]


def assert_read(bag, messages, topics=('/rgb/image_raw', '/thermal/image_raw')):
    """Assert that our reader gives exactly these messages, raw and as images."""
    raw = list(read_messages(bag))
    assert [(one.channel.topic, one.channel.type, one.received_ns, bytes(one.data))
            for one in raw] == [(m.topic, m.type, m.received_ns, m.data) for m in messages]
    images = [m for m in messages if m.topic in topics]
    for image, message in zip(read_images(bag, topics), images, strict=True):
        assert (image.topic, image.received_ns, image.stamp_ns, image.frame_id) == (
            message.topic, message.received_ns, message.received_ns - 3,
            'cam0' if 'rgb' in message.topic else 'cam1')
        assert message.data.endswith(image.image().tobytes())


@pytest.mark.parametrize('compression', ['', 'message', 'file'])
@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('distribution', DISTRIBUTIONS)
def test_the_bags_of_every_distribution_are_read(tmp_path, distribution, storage, compression):
    bag = write_distribution(tmp_path / 'b', recorded(), distribution, storage, compression,
                             files=3, empty=['/never'])
    assert_read(bag, recorded())
    channels = {one.topic: one for one in read_channels(bag)}
    assert channels['/never'].messages == 0 and channels['/gizmo'].type == STRANGE
    assert channels['/rgb/image_raw'].messages == 4
    (qos,) = channels['/rgb/image_raw'].qos
    assert (qos.history.name, qos.depth, qos.reliability.name, qos.durability.name) == (
        'KEEP_LAST', 10, 'BEST_EFFORT', 'VOLATILE')
    assert channels['/rgb/image_raw'].hash == IMAGE_HASH
    assert channels['/gizmo'].definition == channels['/gizmo'].hash == ''


@pytest.mark.parametrize('codec', ['', 'zstd', 'lz4'])
@pytest.mark.parametrize('index', ['full', 'no messages', 'no summary', 'unchunked'])
def test_an_mcap_is_read_whatever_it_has_of_an_index(tmp_path, index, codec):
    bag = write_distribution(tmp_path / 'b', recorded(), 'jazzy', 'mcap', index=index, codec=codec)
    assert_read(bag, recorded())
    assert_read(bag / 'b_0.mcap', recorded())
    assert image_topics(bag)['/rgb/image_raw'] == TopicInfo('sensor_msgs/msg/Image', 4, 'rgb8')


def test_an_mcap_without_index_is_read_in_the_order_of_the_file(tmp_path):
    messages = recorded()
    messages[3], messages[4] = messages[4], messages[3]
    bag = write_distribution(tmp_path / 'b', messages, 'jazzy', 'mcap', index='unchunked')
    assert_read(bag, messages)
    bag = write_distribution(tmp_path / 'c', messages, 'jazzy', 'mcap')
    assert_read(bag, recorded())


@pytest.mark.parametrize('storage', STORAGES)
def test_a_reindexed_bag_without_qos_in_its_metadata_is_read(tmp_path, storage):
    bag = write_distribution(tmp_path / 'b', recorded(), 'humble', storage)
    told = yaml.safe_load((bag / 'metadata.yaml').read_text())
    for topic in told['rosbag2_bagfile_information']['topics_with_message_count']:
        topic['topic_metadata']['offered_qos_profiles'] = ''
    (bag / 'metadata.yaml').write_text(yaml.safe_dump(told))
    assert_read(bag, recorded())


def test_a_wrong_hash_or_definition_of_another_topic_spoils_nothing(tmp_path):
    messages = [*recorded()]
    bag = write_distribution(tmp_path / 'b', messages, 'jazzy', 'sqlite3')
    base = sqlite3.connect(bag / 'b_0.db3')
    base.execute('INSERT INTO message_definitions VALUES(2, ?, ?, ?, ?)',
                 (STRANGE, 'ros2msg', 'no definition at all ((', 'RIHS01_00'))
    base.commit()
    base.close()
    assert_read(bag, messages)


@pytest.mark.parametrize('start, stop', [(0, 10**19 // 2), (2, 5), (0, 1), (6, 6)])
@pytest.mark.parametrize('storage', STORAGES)
def test_a_part_of_a_bag_is_read_by_time(tmp_path, storage, start, stop):
    messages = recorded()
    bag = write_distribution(tmp_path / 'b', messages, 'jazzy', storage)
    start, stop = (messages[at].received_ns if at < 8 else at for at in (start, stop))
    assert [m.received_ns for m in read_messages(bag, None, start, stop)] == [
        m.received_ns for m in messages if start <= m.received_ns < stop]


def test_a_file_of_compressed_messages_alone_is_one_sentence(tmp_path):
    bag = write_distribution(tmp_path / 'b', recorded(), 'humble', 'mcap', 'message')
    with pytest.raises(RgbxSegError, match='are compressed; expected the folder'):
        image_topics(bag / 'b_0.mcap')


def test_an_mcap_of_another_profile_and_an_unknown_version_are_one_sentence(tmp_path):
    (tmp_path / 'x.mcap').write_bytes(mcap(recorded(), profile='ros1'))
    with pytest.raises(RgbxSegError, match='not ros2'):
        read_channels(tmp_path / 'x.mcap')
    bag = write_distribution(tmp_path / 'b', recorded())
    text = (bag / 'metadata.yaml').read_text()
    (bag / 'metadata.yaml').write_text(text.replace('version: 5', 'version: 12'))
    with pytest.raises(RgbxSegError, match='version 12'):
        read_channels(bag)


def test_a_bag_without_messages_has_channels_and_no_more(tmp_path):
    for storage in STORAGES:
        bag = write_distribution(tmp_path / storage, [], 'jazzy', storage, empty=['/rgb'])
        assert [(one.topic, one.messages) for one in read_channels(bag)] == [('/rgb', 0)]
        assert list(read_messages(bag)) == []
        assert image_topics(bag)['/rgb'].count == 0


def test_bytes_that_are_no_message_are_told_by_topic(tmp_path):
    messages = [Recorded('/rgb/image_raw', 5, b'\0\1\0\0short')]
    bag = write_distribution(tmp_path / 'b', messages)
    (raw,) = read_messages(bag)
    with pytest.raises(MessageError, match=r'on /rgb/image_raw is broken .*expected'):
        deserialize(raw)
    with pytest.raises(RgbxSegError, match='cannot be read'):
        list(read_images(bag, ['/rgb/image_raw']))


def test_topics_are_copied_as_they_are_even_of_unknown_types(tmp_path):
    source = write_distribution(tmp_path / 'b', recorded(), 'jazzy', 'sqlite3', empty=['/never'])
    with BagWriter(tmp_path / 'copy', zstd=True) as writer:
        for channel in read_channels(source):
            writer.add_channel(channel)
        for message in read_messages(source):
            writer.copy(message)
    assert_read(tmp_path / 'copy', recorded())
    assert read_channels(tmp_path / 'copy') == read_channels(source)
    assert [(topic, at_ns) for topic, at_ns, _ in read_plainly(tmp_path / 'copy',
                                                              ['/rgb/image_raw'])] == [
        (m.topic, m.received_ns) for m in recorded() if m.topic == '/rgb/image_raw']


def test_a_ros1_bag_becomes_a_rosbag2_by_copying(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    stamp = store.types['builtin_interfaces/msg/Time'](3, 4)
    header = store.types['std_msgs/msg/Header'](9, stamp, 'cam')
    message = store.types['sensor_msgs/msg/Image'](header, 12, 16, 'mono8', 0, 16,
                                                   frame(7).reshape(-1))
    with Writer1(tmp_path / 'old.bag') as old:
        connection = old.add_connection('/cam', 'sensor_msgs/msg/Image', typestore=store)
        old.write(connection, 5, store.serialize_ros1(message, 'sensor_msgs/msg/Image'))
    with BagWriter(tmp_path / 'new') as writer:
        for channel in read_channels(tmp_path / 'old.bag'):
            writer.add_channel(channel)
        for raw in read_messages(tmp_path / 'old.bag'):
            writer.copy(raw)
    ((topic, at_ns, copied),) = read_plainly(tmp_path / 'new')
    assert (topic, at_ns, copied.header.stamp.sec, copied.header.frame_id) == ('/cam', 5, 3, 'cam')
    assert (copied.data == 7).all() and copied.encoding == 'mono8'
