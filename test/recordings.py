# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bags of any types and QoS, written by `rosbags` alone, for the tests of the player."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

START_NS = 1_700_000_000_000_000_000
MS = 1_000_000
STORE = get_typestore(Stores.ROS2_HUMBLE)
STORE.register(get_types_from_msg('int32 number', 'odd_msgs/msg/Odd'))


class Recorded(NamedTuple):
    """A topic to be written: reception in ns -> serialized message."""

    topic: str
    type: str
    messages: dict[int, bytes]
    qos: tuple[Qos, ...] = ()


def qos(reliability: str = 'RELIABLE', durability: str = 'VOLATILE', depth: int = 10,
        deadline: tuple[int, int] = (0, 0), liveliness: str = 'AUTOMATIC',
        lifespan: tuple[int, int] = (0, 0)) -> Qos:
    """Return a profile as recorders write it."""
    return Qos(QosHistory.KEEP_LAST, depth, QosReliability[reliability],
               QosDurability[durability], QosTime(*deadline), QosTime(*lifespan),
               QosLiveliness[liveliness], QosTime(0, 0), False)


def write(path: Path, recorded: list[Recorded], storage: str = 'mcap') -> Path:
    """Write a bag."""
    with Writer(path, version=8, storage_plugin=StoragePlugin[storage.upper()]) as writer:
        todo = []
        for topic, kind, messages, profiles in recorded:
            connection = writer.add_connection(topic, kind, typestore=STORE,
                                               offered_qos_profiles=profiles)
            todo += [(at_ns, connection, data) for at_ns, data in messages.items()]
        for at_ns, connection, data in sorted(todo, key=lambda item: item[0]):
            writer.write(connection, at_ns, data)
    return path


def serialize(kind: str, *values: Any) -> bytes:
    """Return a message of these fields in CDR."""
    return bytes(STORE.serialize_cdr(STORE.types[kind](*values), kind))


def text(content: str) -> bytes:
    """Return a serialized String."""
    return serialize('std_msgs/msg/String', content)


def header(stamp_ns: int, frame_id: str = 'base') -> Any:
    """Return a Header."""
    stamp = STORE.types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 1000 * MS))
    return STORE.types['std_msgs/msg/Header'](stamp, frame_id)


def image(pixels: np.ndarray, encoding: str, stamp_ns: int) -> bytes:
    """Return a serialized Image."""
    return serialize('sensor_msgs/msg/Image', header(stamp_ns), *pixels.shape[:2], encoding, 0,
                     pixels[0].nbytes, np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))


def compressed(data: bytes, format_: str, stamp_ns: int) -> bytes:
    """Return a serialized CompressedImage."""
    return serialize('sensor_msgs/msg/CompressedImage', header(stamp_ns), format_,
                     np.frombuffer(data, np.uint8))


def transforms(stamp_ns: int, *children: str) -> bytes:
    """Return a serialized TFMessage."""
    types = STORE.types
    turn = types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
    move = types['geometry_msgs/msg/Transform'](types['geometry_msgs/msg/Vector3'](1.0, 0.0, 0.0),
                                                turn)
    return serialize('tf2_msgs/msg/TFMessage', [
        types['geometry_msgs/msg/TransformStamped'](header(stamp_ns), child, move)
        for child in children])
