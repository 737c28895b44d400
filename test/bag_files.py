# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rosbag2 bags byte by byte, as each distribution writes them: the oracle of our reader.

Nothing here uses rosbags: messages are packed by struct, db3 files written by sqlite3, mcap files
by hand after the specification of the format.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import lz4.frame
import numpy as np
import yaml
from backports import zstd

IMAGE, STRANGE = 'sensor_msgs/msg/Image', 'acme_msgs/msg/Gizmo'
IMAGE_DEFINITION = '''std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
'''
IMAGE_HASH = 'RIHS01_d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47'
QOS = {'history': 1, 'depth': 10, 'reliability': 2, 'durability': 2,
       'deadline': {'sec': 2147483647, 'nsec': 4294967295},
       'lifespan': {'sec': 2147483647, 'nsec': 4294967295}, 'liveliness': 1,
       'liveliness_lease_duration': {'sec': 2147483647, 'nsec': 4294967295},
       'avoid_ros_namespace_conventions': False}
NAMED_QOS = QOS | {'history': 'keep_last', 'reliability': 'best_effort', 'durability': 'volatile',
                   'liveliness': 'automatic'}
# Name -> version of the metadata.
DISTRIBUTIONS = {'galactic': 4, 'humble': 5, 'iron beta': 6, 'iron': 7, 'jazzy beta': 8, 'jazzy': 9,
                 'kilted': 9}


class Recorded(NamedTuple):
    """A message for a bag."""

    topic: str
    received_ns: int
    data: bytes
    type: str = IMAGE


def image_cdr(image: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> bytes:
    """Return a sensor_msgs/Image as little-endian CDR: every number at a multiple of its size."""
    height, width = image.shape[:2]
    body = struct.pack('<iI', *divmod(stamp_ns, 10**9)) + _cdr_text(frame_id)
    body += b'\0' * (-len(body) % 4) + struct.pack('<II', height, width)
    body += _cdr_text(encoding) + b'\0'  # is_bigendian
    body += b'\0' * (-len(body) % 4)
    return b'\0\1\0\0' + body + struct.pack('<II', image.nbytes // height,
                                             image.nbytes) + image.tobytes()


def _cdr_text(text: str) -> bytes:
    return struct.pack('<I', len(text) + 1) + text.encode() + b'\0'


def write_distribution(path: Path, messages: Sequence[Recorded], distribution: str = 'humble',
                       storage: str = 'sqlite3', compression: str = '', files: int = 1,
                       empty: Sequence[str] = (), **options: str) -> Path:
    """Write a bag folder as a distribution does; `compression` '', 'message' or 'file'."""
    path.mkdir()
    version = DISTRIBUTIONS[distribution]
    share = -(-len(messages) // files)
    names = []
    for index in range(files):
        part = [message._replace(data=zstd.compress(message.data))
                if compression == 'message' else message
                for message in messages[index * share:(index + 1) * share]]
        file = path / f'{path.name}_{index}.{"mcap" if storage == "mcap" else "db3"}'
        if storage == 'mcap':
            file.write_bytes(mcap(part, empty=empty, qos=textual_qos(version), **options))
        else:
            write_db3(file, part, version, empty)
        if compression == 'file':
            file.with_suffix(f'{file.suffix}.zstd').write_bytes(zstd.compress(file.read_bytes()))
            file.unlink()
            file = file.with_suffix(f'{file.suffix}.zstd')
        names.append(file.name)
    write_metadata(path, messages, version, distribution, storage, compression, names, empty)
    return path


def textual_qos(version: int) -> str:
    """Return the QoS as a text in the storage."""
    return yaml.safe_dump([NAMED_QOS if version >= 9 else QOS], sort_keys=False)


def write_metadata(path: Path, messages: Sequence[Recorded], version: int, distribution: str,
                   storage: str, compression: str, names: list[str], empty: Sequence[str]) -> None:
    """Write metadata.yaml with the keys of its version."""
    topics = []
    kinds = {topic: IMAGE for topic in empty} | {one.topic: one.type for one in messages}
    for topic, kind in kinds.items():
        told: dict[str, object] = {
            'name': topic, 'type': kind, 'serialization_format': 'cdr',
            'offered_qos_profiles': [NAMED_QOS] if version >= 9 else textual_qos(version)}
        if version >= 7:
            told['type_description_hash'] = IMAGE_HASH if kind == IMAGE else ''
        topics.append({'topic_metadata': told,
                       'message_count': sum(one.topic == topic for one in messages)})
    start = min((one.received_ns for one in messages), default=0)
    duration = max((one.received_ns for one in messages), default=0) - start
    about: dict[str, object] = {
        'version': version, 'storage_identifier': storage,
        'duration': {'nanoseconds': duration},
        'starting_time': {'nanoseconds_since_epoch': start}, 'message_count': len(messages),
        'topics_with_message_count': topics,
        'compression_format': 'zstd' if compression else '',
        'compression_mode': compression.upper(), 'relative_file_paths': names}
    if version >= 5:
        about['files'] = [{'path': name, 'starting_time': {'nanoseconds_since_epoch': start},
                           'duration': {'nanoseconds': duration}, 'message_count': 1}
                          for name in names]
    if version >= 6:
        about['custom_data'] = None
    if version >= 8:
        about['ros_distro'] = distribution.partition(' ')[0]
    (path / 'metadata.yaml').write_text(
        yaml.safe_dump({'rosbag2_bagfile_information': about}, sort_keys=False))


def write_db3(file: Path, messages: Iterable[Recorded], version: int,
              empty: Sequence[str] = ()) -> None:
    """Write an SQLite database in the schema of a version of rosbag2."""
    base = sqlite3.connect(file)
    iron = version >= 7
    base.executescript(
        'CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL, '
        'serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL'
        + (', type_description_hash TEXT NOT NULL' if iron else '') + ');'
        'CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, '
        'timestamp INTEGER NOT NULL, data BLOB NOT NULL);'
        'CREATE INDEX timestamp_idx ON messages (timestamp ASC);')
    if version >= 5:
        base.executescript(
            'CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT NOT NULL);'
            f"INSERT INTO schema VALUES({4 if iron else 3}, 'x');"
            'CREATE TABLE metadata(id INTEGER PRIMARY KEY, metadata_version INTEGER NOT NULL, '
            'metadata TEXT NOT NULL);')
    if iron:
        base.executescript(
            'CREATE TABLE message_definitions(id INTEGER PRIMARY KEY, topic_type TEXT NOT NULL, '
            'encoding TEXT NOT NULL, encoded_message_definition TEXT NOT NULL, '
            'type_description_hash TEXT NOT NULL);')
        base.execute('INSERT INTO message_definitions VALUES(1, ?, ?, ?, ?)',
                     (IMAGE, 'ros2msg', IMAGE_DEFINITION, IMAGE_HASH))
    ids: dict[str, int] = {}
    for topic, kind in [*((topic, IMAGE) for topic in empty),
                        *((one.topic, one.type) for one in messages)]:
        if topic not in ids:
            ids[topic] = len(ids) + 1
            row = (ids[topic], topic, kind, 'cdr', textual_qos(version),
                   *([IMAGE_HASH if kind == IMAGE else ''] if iron else []))
            base.execute(f'INSERT INTO topics VALUES({", ".join("?" * len(row))})', row)
    base.executemany('INSERT INTO messages(topic_id, timestamp, data) VALUES(?, ?, ?)',
                     [(ids[one.topic], one.received_ns, one.data) for one in messages])
    base.commit()
    base.close()


def mcap(messages: Sequence[Recorded], index: str = 'full', codec: str = '', qos: str = '',
         empty: Sequence[str] = (), profile: str = 'ros2') -> bytes:
    """Return an MCAP file of chunks of three messages.

    `index`: 'full', 'no messages' (chunk indexes only), 'no summary', or 'unchunked'.
    """
    kinds = list({one.type: None for one in messages} | ({IMAGE: None} if empty else {}))
    topics = {topic: IMAGE for topic in empty} | {one.topic: one.type for one in messages}
    ids = {topic: number for number, topic in enumerate(topics, 1)}
    head = b''.join(
        _record(3, struct.pack('<H', number) + _text(kind)
                + (_text('ros2msg') + _text(IMAGE_DEFINITION) if kind == IMAGE
                   else _text('') + _text('')))
        for number, kind in enumerate(kinds, 1))
    head += b''.join(
        _record(4, struct.pack('<HH', number, kinds.index(topics[topic]) + 1) + _text(topic)
                + _text('cdr') + _bytes(_text('offered_qos_profiles') + _text(qos)))
        for topic, number in ids.items())
    file = b'\x89MCAP0\r\n' + _record(1, _text(profile) + _text('by hand'))
    indexes, first = b'', True
    step = len(messages) if index == 'unchunked' else 3
    for begin in range(0, len(messages), max(step, 1)):
        part = messages[begin:begin + step]
        body, places = (head if first else b''), {}
        first = False
        for one in part:
            places.setdefault(ids[one.topic], []).append((one.received_ns, len(body)))
            body += _record(5, struct.pack('<HIQQ', ids[one.topic], 0, one.received_ns,
                                           one.received_ns) + one.data)
        if index == 'unchunked':
            file += body
            continue
        start, end = min(one.received_ns for one in part), max(one.received_ns for one in part)
        packed = {'': bytes, 'zstd': zstd.compress, 'lz4': lz4.frame.compress}[codec](body)
        offset = len(file)
        chunk = _record(6, struct.pack('<QQQI', start, end, len(body), zlib.crc32(body))
                        + _text(codec) + struct.pack('<Q', len(packed)) + packed)
        file += chunk
        rows, length = b'', 0
        for number, entries in places.items() if index == 'full' else ():
            row = _record(7, struct.pack('<H', number)
                          + _bytes(b''.join(struct.pack('<QQ', *entry) for entry in entries)))
            rows += struct.pack('<HQ', number, len(file))
            file += row
            length += len(row)
        indexes += _record(8, struct.pack('<QQQQ', start, end, offset, len(chunk)) + _bytes(rows)
                           + struct.pack('<Q', length) + _text(codec)
                           + struct.pack('<QQ', len(packed), len(body)))
    if not messages:
        file += head
    file += _record(15, struct.pack('<I', 0))
    summary = 0 if index == 'no summary' else len(file)
    if summary:
        times = [one.received_ns for one in messages] or [0]
        counts = b''.join(struct.pack('<HQ', number, sum(one.topic == topic for one in messages))
                          for topic, number in ids.items())
        chunks = 0 if index == 'unchunked' else -(-len(messages) // 3)
        file += head + (b'' if index == 'unchunked' else indexes) + _record(11, struct.pack(
            '<QHIIIIQQ', len(messages), len(kinds), len(ids), 0, 0, chunks, min(times),
            max(times)) + _bytes(counts))
    return file + _record(2, struct.pack('<QQI', summary, 0, 0)) + b'\x89MCAP0\r\n'


def _record(kind: int, content: bytes) -> bytes:
    return struct.pack('<BQ', kind, len(content)) + content


def _bytes(content: bytes) -> bytes:
    return struct.pack('<I', len(content)) + content


def _text(text: str) -> bytes:
    return _bytes(text.encode())
