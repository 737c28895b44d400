# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The messages of a bag as they were recorded, whatever storage, compression and distribution.

With bag.py the only file that imports rosbags, which it helps over what real bags lack: QoS in the
metadata, an index of messages, definitions of types.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.interfaces import Connection, MessageDefinitionFormat, Qos
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from rgbx_seg_ros import RgbxSegError

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


@lru_cache(1)
def store() -> Typestore:
    """Return the types of common messages."""
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
        return store().deserialize_cdr(memoryview(message.data), kind)
    except Exception as error:  # broken lengths and texts raise various kinds
        raise MessageError(f'a message on {topic} is broken ({error}), expected a {kind}.'
                           .replace('.)', ')')) from None


class OpenBag:
    """An open bag: its channels, and its messages in the order of their reception."""

    def __init__(self, reader: Reader | Reader1) -> None:
        """Take an open reader of rosbags."""
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
        kind, types = connection.msgtype, store()
        definition = connection.msgdef.data if not self._is_ros1 else ''
        if connection.msgdef.format == MessageDefinitionFormat.NONE:
            definition = ''
        known = kind in types.fielddefs
        if known and not definition:
            definition = types.generate_msgdef(kind, ros_version=2)[0]
        hash_ = '' if self._is_ros1 else connection.digest
        return Channel(connection.topic, kind, count,
                       tuple(getattr(connection.ext, 'offered_qos_profiles', ())), definition,
                       hash_ or (types.hash_rihs01(kind) if known else ''),
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
                data = bytes(store().ros1_to_cdr(data, channel.type))
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
def open_bag(bag: Path) -> Iterator[OpenBag]:
    """Open a bag; RgbxSegError, then or within, if it cannot be read."""
    if not bag.exists():
        raise RgbxSegError(f'{bag}: no such bag, expected a rosbag2 folder, .mcap or .db3 file.')
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        raise RgbxSegError(f'{bag}: the folder holds no metadata.yaml, expected a rosbag2 folder; '
                           'a recording that was cut off is mended by `ros2 bag reindex`.')
    try:
        with (Reader1(bag) if bag.suffix == '.bag' else Reader(bag)) as reader:
            yield OpenBag(reader)
    except (RgbxSegError, GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:  # rosbags' storages raise a dozen kinds
        reason = str(error).split('\n')[0].rstrip('.') or type(error).__name__
        raise RgbxSegError(f'{bag}: the bag cannot be read ({reason}), expected an intact rosbag2 '
                           'in mcap or sqlite3; record it again or mend it by `ros2 bag reindex` '
                           'or `mcap recover`.') from None
