# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Read rosbag2 bags and write their images without ROS; the only file that imports rosbags."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.images import Array, decode, decode_compressed
from rgbx_seg_ros.topics import TopicError, TopicInfo, Topics, choose_topics, listing

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
NS = 1_000_000_000


class RecordedTopic(NamedTuple):
    """A topic of whatever type, and the QoS that its publishers offered, by policy."""

    name: str
    type: str
    messages: int
    offers: tuple[Mapping[str, Any], ...]  # names in lower case; depth; times in nanoseconds


class RecordedMessage(NamedTuple):
    """A message as the recorder got it, in CDR."""

    topic: str
    received_ns: int
    data: bytes


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


@contextmanager
def _open(bag: Path) -> Iterator[AnyReader]:
    # Bags of before Iron hold no message definitions; ours need none newer than Humble's.
    if not bag.exists():
        raise RgbxSegError(f'{bag}: no such bag, expected a rosbag2 folder, .mcap or .db3 file.')
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        raise RgbxSegError(f'{bag}: the folder holds no metadata.yaml, expected a rosbag2 folder; '
                           'a recording that was cut off is mended by `ros2 bag reindex`.')
    try:
        with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
            yield reader
    except (RgbxSegError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:  # rosbags' storages raise a dozen kinds
        reason = str(error).split('\n')[0].rstrip('.') or type(error).__name__
        raise RgbxSegError(f'{bag}: the bag cannot be read ({reason}), expected an intact rosbag2 '
                           'in mcap or sqlite3; record it again or mend it by `ros2 bag reindex` '
                           'or `mcap recover`.') from None


def recorded_topics(bag: Path) -> tuple[list[RecordedTopic], int, int]:
    """Return all topics of a bag by name, and the times of its first and last message.

    RgbxSegError if the bag cannot be read, or holds no message.
    """
    with _open(bag) as reader:
        if not reader.message_count:
            raise RgbxSegError(f'{bag}: the bag holds no message, expected at least one; record '
                               'it again.')
        topics: dict[tuple[str, str], RecordedTopic] = {}
        for c in sorted(reader.connections, key=lambda c: (c.topic, c.msgtype)):
            old = topics.get((c.topic, c.msgtype), RecordedTopic(c.topic, c.msgtype, 0, ()))
            profiles = getattr(c.ext, 'offered_qos_profiles', ())
            topics[c.topic, c.msgtype] = old._replace(
                messages=old.messages + c.msgcount,
                offers=(*old.offers, *(_offer(qos) for qos in profiles)))
        return list(topics.values()), reader.start_time, reader.end_time - 1


def _offer(qos: Qos) -> dict[str, Any]:
    offer: dict[str, Any] = {'depth': qos.depth}
    for name in ('history', 'reliability', 'durability', 'liveliness'):
        offer[name] = getattr(qos, name).name.lower()
    for name in ('deadline', 'lifespan', 'liveliness_lease_duration'):
        offer[name] = getattr(qos, name).sec * NS + getattr(qos, name).nsec
    return offer


def read_messages(bag: Path, topics: Iterable[str], start_ns: int,
                  stop_ns: int) -> Iterator[RecordedMessage]:
    """Yield what was received on these topics from `start_ns` to `stop_ns`, without decoding it.

    RgbxSegError if the bag cannot be read, now or later.
    """
    wanted = set(topics)
    with _open(bag) as reader:
        connections = [c for c in reader.connections if c.topic in wanted]
        for connection, received_ns, data in reader.messages(connections, start_ns, stop_ns + 1):
            yield RecordedMessage(connection.topic, received_ns, bytes(data))


def image_topics(bag: Path) -> dict[str, TopicInfo]:
    """Return the Image and CompressedImage topics of a bag by name; RgbxSegError if unreadable."""
    with _open(bag) as reader:
        return _image_topics(reader)


def _image_topics(reader: AnyReader) -> dict[str, TopicInfo]:
    found = {}
    for topic, info in sorted(reader.topics.items()):
        if info.msgtype not in (IMAGE, COMPRESSED):
            continue
        first = next(reader.messages(info.connections), None)
        encoding = _encoding(reader.deserialize(first[2], info.msgtype)) if first else ''
        found[topic] = TopicInfo(info.msgtype, info.msgcount, encoding)
    return found


def read_images(bag: Path, topics: Iterable[str]) -> Iterator[StampedImage]:
    """Yield the images of these topics in the order of the bag, still encoded.

    RgbxSegError if the bag cannot be read, now or later, or lacks a topic.
    """
    wanted = set(topics)
    with _open(bag) as reader:
        connections = [c for c in reader.connections
                       if c.topic in wanted and c.msgtype in (IMAGE, COMPRESSED)]
        if missing := wanted - {c.topic for c in connections}:
            raise RgbxSegError(f'{bag}: no image topic {", ".join(sorted(missing))}, found '
                               f'{listing(_image_topics(reader))}.')
        for connection, received_ns, data in reader.messages(connections):
            message: Any = reader.deserialize(data, connection.msgtype)
            header = message.header
            yield StampedImage(connection.topic, header.stamp.sec * NS + header.stamp.nanosec,
                               received_ns, header.frame_id, message)


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


def _jpeg(image: Array, encoding: str, quality: int) -> tuple[str, Array]:
    if image.dtype != np.uint8:
        raise RgbxSegError(f'a JPEG of {encoding} was asked for, expected 8 bits; use png.')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return f'{encoding}; jpeg compressed {"bgr8" if image.ndim == 3 else ""}', data


def _png(image: Array, encoding: str, _: int) -> tuple[str, Array]:
    if image.dtype not in (np.uint8, np.uint16):
        raise RgbxSegError(f'a PNG of {encoding} was asked for, expected 8 or 16 unsigned bits; '
                           'write it raw, without --compressed.')
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    data = cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1]
    return f'{encoding}; png compressed {"bgr8" if image.ndim == 3 else ""}', data


COMPRESSIONS: dict[str, Callable[[Array, str, int], tuple[str, Array]]] = {
    'jpeg': _jpeg, 'png': _png}
