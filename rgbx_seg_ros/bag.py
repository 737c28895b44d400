# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Read and write rosbag2 bags without ROS; the only file that imports rosbags."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.compress import COMPRESSIONS
from rgbx_seg_ros.images import Array, decode, decode_compressed
from rgbx_seg_ros.topics import TopicError, TopicInfo, Topics, choose_topics, listing

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
NS = 1_000_000_000
CDR = 'cdr'
ZSTD_SIGNATURE = b'\x28\xb5\x2f\xfd'


class Channel(NamedTuple):
    """A topic of a bag, and all that it takes to publish or to write its messages."""

    topic: str
    type: str
    messages: int  # how many
    qos: tuple[Qos, ...]  # as offered; the values of its enumerations are those of rmw
    definition: str  # text of the type, .msg or .idl; '' where nobody knows it
    hash: str  # RIHS01 of the type; '' where nobody knows it
    serialization: str = CDR


class RawMessage(NamedTuple):
    """A message as it was recorded."""

    channel: Channel
    received_ns: int  # by the recorder
    data: bytes  # CDR with its four bytes of header


class StampedImage(NamedTuple):
    """An image message of a bag, not yet decoded."""

    topic: str
    stamp_ns: int     # of its header
    received_ns: int  # of the recorder
    frame_id: str
    message: Any

    @property
    def encoding(self) -> str:
        """The encoding of a raw message, the format of a compressed one."""
        return _encoding(self.message)

    def image(self, gray: bool | None = None) -> Array:
        """Decode the pixels, RGB or gray; `gray` as in decode_compressed; raises ImageError."""
        message = self.message
        if message.__msgtype__ == COMPRESSED:
            return decode_compressed(message.format, message.data, gray)
        return decode(message.height, message.width, message.encoding, message.step,
                      message.is_bigendian, message.data)


def _encoding(message: Any) -> str:
    return str(message.format if message.__msgtype__ == COMPRESSED else message.encoding)


@lru_cache(1)
def _store() -> Typestore:
    # The types that are read here are the same from Humble to Kilted, and bags of before Iron hold
    # no definitions. Those of a bag are for its other topics, and none of them can spoil it.
    return get_typestore(Stores.ROS2_HUMBLE)


class MessageError(ValueError):
    """Bytes that are no message of their type; one sentence without the bag."""


def deserialize(message: RawMessage) -> Any:
    """Return the fields of a message of a type that Humble's common interfaces have.

    Raises MessageError.
    """
    topic, kind = message.channel[:2]
    if message.data[:4] == ZSTD_SIGNATURE:
        raise MessageError(f'the messages on {topic} are compressed; expected the folder of the '
                           'bag, whose metadata.yaml tells so, in place of the file in it.')
    try:
        # A view: of bytes, rosbags would copy the whole image.
        return _store().deserialize_cdr(memoryview(message.data), kind)
    except Exception as error:  # broken lengths and texts raise various kinds
        raise MessageError(f'a message on {topic} is broken ({error}), expected a {kind}.'
                           .replace('.)', ')')) from None


class _Bag:
    """An open bag: its channels, and its messages in the order of their reception."""

    def __init__(self, reader: Reader | Reader1) -> None:
        self._reader = reader
        self._is_ros1 = isinstance(reader, Reader1)
        if isinstance(reader, Reader):
            _mend(reader)
        self._by_id: dict[int, Channel] = {}
        names: dict[tuple[str, str], list[Connection]] = {}
        for connection in reader.connections:
            names.setdefault((connection.topic, connection.msgtype), []).append(connection)
        for same in names.values():
            channel = self._channel(same[0], sum(connection.msgcount for connection in same))
            if not self._is_ros1 or channel.definition:  # else there is no way to make it CDR
                self._by_id.update({connection.id: channel for connection in same})
        self.channels = list({channel[:2]: channel for channel in self._by_id.values()}.values())

    def _channel(self, connection: Connection, count: int) -> Channel:
        kind, store = connection.msgtype, _store()
        definition = connection.msgdef.data if not self._is_ros1 else ''
        if connection.msgdef.format == MessageDefinitionFormat.NONE:
            definition = ''
        known = kind in store.fielddefs
        if known and not definition:
            definition = store.generate_msgdef(kind, ros_version=2)[0]
        hash_ = '' if self._is_ros1 else connection.digest
        return Channel(connection.topic, kind, count,
                       tuple(getattr(connection.ext, 'offered_qos_profiles', ())), definition,
                       hash_ or (store.hash_rihs01(kind) if known else ''),
                       getattr(connection.ext, 'serialization_format', CDR))

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message was received; (0, -1) without messages."""
        reader = self._reader
        return (reader.start_time, reader.end_time - 1) if reader.message_count else (0, -1)

    def messages(self, topics: Collection[str] | None = None, start_ns: int | None = None,
                 stop_ns: int | None = None) -> Iterator[RawMessage]:
        """Yield the messages of these topics, or of all; those before `stop_ns`."""
        wanted = [c for c in self._reader.connections
                  if c.id in self._by_id and (topics is None or c.topic in topics)]
        if not wanted:
            return
        for connection, received_ns, data in self._reader.messages(wanted, start_ns, stop_ns):
            channel = self._by_id[connection.id]
            if self._is_ros1:
                data = bytes(_store().ros1_to_cdr(data, channel.type))
            yield RawMessage(channel, received_ns, data)


def _mend(reader: Reader) -> None:
    """Let rosbags read what it would pass over or refuse, though nothing is wrong with it."""
    files = getattr(reader.storage, 'storages', [reader.storage])
    for file in files:
        if file is not reader.storage:
            file.connections[:] = [_as_told(c, reader.connections) for c in file.connections]
        chunks = getattr(file, 'chunks', None)
        if chunks is None or file.statistics is None:
            continue
        indexed = sum(sum(chunk.channel_count.values()) for chunk in chunks)
        if indexed != file.statistics.message_count:
            # Without an index of messages, as of preset fastwrite, `ros2 bag play` plays in the
            # order of the file; rosbags returns nothing, or refuses what is not in order of time.
            file.messages = file.messages_scan


def _as_told(connection: Connection, told: Collection[Connection]) -> Connection:
    """Return a file's connection as the metadata have it; a reindexed bag's lack the QoS."""
    same = [other for other in told if other[1:3] == connection[1:3]]
    if not same or any(other.ext == connection.ext and other.digest in ('', connection.digest)
                       for other in same):
        return connection
    return connection._replace(ext=same[0].ext, digest=same[0].digest)


@contextmanager
def _open(bag: Path) -> Iterator[_Bag]:
    if not bag.exists():
        raise RgbxSegError(f'{bag}: no such bag, expected a rosbag2 folder, .mcap or .db3 file.')
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        raise RgbxSegError(f'{bag}: the folder holds no metadata.yaml, expected a rosbag2 folder; '
                           'a recording that was cut off is mended by `ros2 bag reindex`.')
    try:
        with (Reader1(bag) if bag.suffix == '.bag' else Reader(bag)) as reader:
            yield _Bag(reader)
    except (RgbxSegError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:  # rosbags' storages raise a dozen kinds
        reason = str(error).split('\n')[0].rstrip('.') or type(error).__name__
        raise RgbxSegError(f'{bag}: the bag cannot be read ({reason}), expected an intact rosbag2 '
                           'in mcap or sqlite3; record it again or mend it by `ros2 bag reindex` '
                           'or `mcap recover`.') from None


def read_channels(bag: Path) -> list[Channel]:
    """Return the topics of a bag, of all types, in its order; RgbxSegError if unreadable."""
    with _open(bag) as opened:
        return opened.channels


def read_span(bag: Path) -> tuple[int, int]:
    """Return when the first and the last message was received; RgbxSegError if there is none."""
    with _open(bag) as opened:
        first_ns, last_ns = opened.span_ns
    if last_ns < first_ns:
        raise RgbxSegError(f'{bag}: the bag holds no message, expected at least one; record it '
                           'again.')
    return first_ns, last_ns


def read_messages(bag: Path, topics: Collection[str] | None = None, start_ns: int | None = None,
                  stop_ns: int | None = None) -> Iterator[RawMessage]:
    """Yield the messages of these topics of a bag, or of all, in the order of their reception.

    Of a part of it those received from `start_ns` on and before `stop_ns`. Messages of a ROS 1 bag
    come as CDR, those of types of its own not at all. RgbxSegError if the bag cannot be read, now
    or later.
    """
    with _open(bag) as opened:
        yield from opened.messages(topics, start_ns, stop_ns)


class Contents(NamedTuple):
    """What a bag holds."""

    channels: list[Channel]
    images: dict[str, TopicInfo]  # of its topics of images


def read_contents(bag: Path) -> Contents:
    """Return what a bag holds; RgbxSegError if unreadable."""
    with _open(bag) as opened:
        return Contents(opened.channels, _image_topics(opened))


def image_topics(bag: Path) -> dict[str, TopicInfo]:
    """Return the Image and CompressedImage topics of a bag by name; RgbxSegError if unreadable."""
    return read_contents(bag).images


def _image_topics(bag: _Bag) -> dict[str, TopicInfo]:
    found = {}
    for channel in sorted(bag.channels):
        if not _holds_images(channel):
            continue
        first = next(bag.messages([channel.topic]), None)
        encoding = _encoding(deserialize(first)) if first else ''
        found[channel.topic] = TopicInfo(channel.type, channel.messages, encoding)
    return found


def _holds_images(channel: Channel) -> bool:
    return channel.type in (IMAGE, COMPRESSED) and channel.serialization == CDR


def read_images(bag: Path, topics: Iterable[str]) -> Iterator[StampedImage]:
    """Yield the images of these topics in the order of the bag, still encoded.

    RgbxSegError if the bag cannot be read, now or later, or lacks a topic.
    """
    wanted = set(topics)
    with _open(bag) as opened:
        there = {channel.topic for channel in opened.channels if _holds_images(channel)}
        if missing := wanted - there:
            raise RgbxSegError(f'{bag}: no image topic {", ".join(sorted(missing))}, found '
                               f'{listing(_image_topics(opened))}.')
        for raw in opened.messages(wanted):
            if _holds_images(raw.channel):
                yield to_image(raw)


def to_image(raw: RawMessage) -> StampedImage:
    """Return a message of an image topic, still encoded; raises MessageError."""
    message = deserialize(raw)
    header = message.header
    return StampedImage(raw.channel.topic, header.stamp.sec * NS + header.stamp.nanosec,
                        raw.received_ns, header.frame_id, message)


def guess_topics(bag: Path, modality: str = '', *, rgb: str = '', aux: str = '',
                 label: str = '') -> Topics:
    """Return the topics of `bag` that make pairs, each as given or told from its name and type.

    `modality` narrows the choice of aux. RgbxSegError, listing what is there, where a topic that
    is given is absent, none fits, or two fit alike.
    """
    try:
        return choose_topics(image_topics(bag), modality, rgb=rgb, aux=aux, label=label)
    except TopicError as error:
        raise RgbxSegError(f'{bag}: {error}') from None


# Zero durations mean "unspecified"; reliable and volatile fits any subscriber of images.
_QOS = Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, QosDurability.VOLATILE,
           QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)


class BagWriter:
    """Writes a rosbag2 that appears at `path` complete, or not at all; use as a context manager.

    The metadata has version 8 with textual QoS: Humble cannot read 9, and Jazzy and Kilted read 8.
    """

    def __init__(self, path: Path, storage: str = 'mcap', force: bool = False,
                 jpeg_quality: int = 95) -> None:
        """Check the target; RgbxSegError if it exists, except that `force` replaces a bag."""
        if not 1 <= jpeg_quality <= 100:
            raise RgbxSegError(f'the JPEG quality is {jpeg_quality}, expected 1 to 100.')
        if storage not in STORAGES:
            raise RgbxSegError(f'the storage is {storage!r}, expected one of '
                               f'{", ".join(STORAGES)}.')
        if path.exists() and not force:
            raise RgbxSegError(f'{path}: exists already, expected a new name; choose another or '
                               'pass --force.')
        if path.exists() and not (path / 'metadata.yaml').exists():
            raise RgbxSegError(f'{path}: exists and is no bag, expected a rosbag2 folder to '
                               'replace; choose another name.')
        self.path = path
        self.counts: dict[str, int] = {}
        self._jpeg_quality = jpeg_quality
        self._storage = STORAGES[storage]
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._connections: dict[tuple[str, str], Connection] = {}

    def __enter__(self) -> BagWriter:
        """Open a hidden folder beside the target."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}.',
                                                 dir=self.path.parent))
        except OSError as error:
            raise self._unwritable(error) from None
        # The files inside carry the name of the bag, as those of `ros2 bag record` do.
        self._writer = Writer(self._folder / self.path.name, version=8,
                              storage_plugin=self._storage)
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Move the bag to its place; after an exception, remove every trace of it."""
        try:
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            if self.path.exists():
                os.replace(self.path, self._folder / 'old')
            os.replace(self._folder / self.path.name, self.path)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            old = self._folder / 'old'
            if old.exists() and not self.path.exists():
                os.replace(old, self.path)
            shutil.rmtree(self._folder, ignore_errors=True)

    def write_image(self, topic: str, image: Array, encoding: str, stamp_ns: int,
                    received_ns: int, frame_id: str, compressed: str = '') -> None:
        """Write pixels, which `encoding` describes, to exactly this topic.

        `compressed` '' writes an Image, 'jpeg' or 'png' a CompressedImage as image_transport does.
        """
        header = self._header(stamp_ns, frame_id)
        types = self._store.types
        if compressed:
            format_, data = COMPRESSIONS[compressed](image, encoding, self._jpeg_quality)
            message = types[COMPRESSED](header, format_, data)
        else:
            image = np.ascontiguousarray(image)
            height, width = image.shape[:2]
            message = types[IMAGE](header, height, width, encoding, 0, image.nbytes // height,
                                   image.reshape(-1).view(np.uint8))
        self._write(topic, message, received_ns)

    def write_camera_info(self, topic: str, height: int, width: int, stamp_ns: int,
                          received_ns: int, frame_id: str) -> None:
        """Write the size of a camera; K is zero, which says "uncalibrated"."""
        types = self._store.types
        roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
        message = types[CAMERA_INFO](self._header(stamp_ns, frame_id), height, width, '',
                                     np.zeros(0), np.zeros(9), np.zeros(9), np.zeros(12), 0, 0, roi)
        self._write(topic, message, received_ns)

    def _unwritable(self, error: OSError) -> RgbxSegError:
        return RgbxSegError(f'{self.path}: cannot be written ({error.strerror}), expected room in '
                            'a folder of yours; choose another place.')

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        types = self._store.types
        stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, NS))
        return types['std_msgs/msg/Header'](stamp, frame_id)

    def _write(self, topic: str, message: Any, received_ns: int) -> None:
        kind = message.__msgtype__
        if (topic, kind) not in self._connections:
            self._connections[topic, kind] = self._writer.add_connection(
                topic, kind, typestore=self._store, offered_qos_profiles=[_QOS])
        try:
            self._writer.write(self._connections[topic, kind], received_ns,
                               self._store.serialize_cdr(message, kind))
        except OSError as error:
            raise self._unwritable(error) from None
        self.counts[topic] = self.counts.get(topic, 0) + 1
