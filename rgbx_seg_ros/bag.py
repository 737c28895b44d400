# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Read and write rosbag2 bags without ROS."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import Schema, write_schema
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag_reading import CDR as CDR
from rgbx_seg_ros.bag_reading import Channel as Channel
from rgbx_seg_ros.bag_reading import MessageError as MessageError
from rgbx_seg_ros.bag_reading import OpenBag, open_bag
from rgbx_seg_ros.bag_reading import RawMessage as RawMessage
from rgbx_seg_ros.bag_reading import deserialize as deserialize
from rgbx_seg_ros.compress import COMPRESSIONS
from rgbx_seg_ros.images import Array, decode, decode_compressed
from rgbx_seg_ros.topics import TopicError, TopicInfo, Topics, choose_topics, listing

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
NS = 1_000_000_000


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


def read_channels(bag: Path) -> list[Channel]:
    """Return the topics of a bag, of all types, in its order; RgbxSegError if unreadable."""
    with open_bag(bag) as opened:
        return opened.channels


def read_span(bag: Path) -> tuple[int, int]:
    """Return when the first and the last message was received; RgbxSegError if there is none."""
    with open_bag(bag) as opened:
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
    with open_bag(bag) as opened:
        yield from opened.messages(topics, start_ns, stop_ns)


class Contents(NamedTuple):
    """What a bag holds."""

    channels: list[Channel]
    images: dict[str, TopicInfo]  # of its topics of images


def read_contents(bag: Path) -> Contents:
    """Return what a bag holds; RgbxSegError if unreadable."""
    with open_bag(bag) as opened:
        return Contents(opened.channels, _image_topics(opened))


def image_topics(bag: Path) -> dict[str, TopicInfo]:
    """Return the Image and CompressedImage topics of a bag by name; RgbxSegError if unreadable."""
    return read_contents(bag).images


def _image_topics(bag: OpenBag) -> dict[str, TopicInfo]:
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
    with open_bag(bag) as opened:
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


LABEL_INFO, VISION_CLASS = 'vision_msgs/msg/LabelInfo', 'vision_msgs/msg/VisionClass'
LABEL_INFO_TYPES = {VISION_CLASS: 'uint16 class_id\nstring class_name\n',
                    LABEL_INFO: 'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\n'
                                'float32 threshold\n'}

# Zero durations mean "unspecified"; reliable and volatile fits any subscriber of images.
_QOS = Qos(QosHistory.KEEP_LAST, 10, QosReliability.RELIABLE, QosDurability.VOLATILE,
           QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)
_LATCHED = _QOS._replace(depth=1, durability=QosDurability.TRANSIENT_LOCAL)


class BagWriter:
    """Writes a rosbag2 that appears at `path` complete, or not at all; use as a context manager.

    The metadata has version 8 with textual QoS: Humble cannot read 9, and Jazzy and Kilted read 8.
    """

    def __init__(self, path: Path, storage: str = 'mcap', force: bool = False,
                 jpeg_quality: int = 95, zstd: bool = False) -> None:
        """Check the target; RgbxSegError if it exists, except that `force` replaces a bag.

        `zstd` compresses the chunks of an mcap, which its readers undo without being told.
        """
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
        self._storage, self._zstd = STORAGES[storage], zstd
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._connections: dict[tuple[str, str], Connection] = {}
        self._qos: dict[str, Qos] = {}

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
        if self._zstd:
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        if self._zstd:  # at rosbags' level 3 pictures take twice the time, for a tenth less bytes
            storage: Any = self._writer.storage
            storage.compressor = partial(storage.compressor, level=1)
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

    def write_label_info(self, topic: str, classes: Iterable[tuple[int, str]], threshold: float,
                         stamp_ns: int, received_ns: int) -> None:
        """Write ids and names of classes as vision_msgs/LabelInfo, latched."""
        for name, text in LABEL_INFO_TYPES.items():
            if name not in self._store.types:
                self._store.register(get_types_from_msg(text, name))
        types = self._store.types
        self._qos[topic] = _LATCHED
        message = types[LABEL_INFO](
            self._header(stamp_ns, ''), [types[VISION_CLASS](*one) for one in classes], threshold)
        self._write(topic, message, received_ns)

    def add_channel(self, channel: Channel) -> None:
        """Take over a topic of another bag, be it without messages or of an unknown type."""
        key = channel.topic, channel.type
        if not channel.definition:
            self._add_unknown_type(channel.type)
        connection = self._writer.add_connection(
            *key, msgdef=channel.definition, rihs01=channel.hash or 'unknown',
            serialization_format=channel.serialization, offered_qos_profiles=channel.qos)
        # rosbags wants a hash, but readers would compare it.
        self._writer.connections[-1] = connection._replace(digest=channel.hash)
        self._connections[key] = self._writer.connections[-1]
        self.counts.setdefault(channel.topic, 0)

    def copy(self, message: RawMessage) -> None:
        """Write a message of another bag as it is, on a topic that was taken over."""
        self._put(message.channel[:2], message.received_ns, message.data)

    def _add_unknown_type(self, kind: str) -> None:
        """Let rosbags write a schema without text, as rosbag2 does where it knows none."""
        schemas = getattr(self._writer.storage, 'schemas', None)
        if schemas is not None and kind not in self._writer.added_types:
            self._writer.added_types.add(kind)
            schemas.append(Schema(len(schemas) + 1, kind, '', ''))
            write_schema(self._writer.storage.chunk.bio, schemas[-1])  # type: ignore[union-attr]

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
                topic, kind, typestore=self._store,
                offered_qos_profiles=[self._qos.get(topic, _QOS)])
        self._put((topic, kind), received_ns, self._store.serialize_cdr(message, kind))

    def _put(self, key: tuple[str, str], received_ns: int, data: bytes | memoryview) -> None:
        try:
            self._writer.write(self._connections[key], received_ns, data)
        except OSError as error:
            raise self._unwritable(error) from None
        self.counts[key[0]] = self.counts.get(key[0], 0) + 1
