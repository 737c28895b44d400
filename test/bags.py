# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Frames, image folders and bags made by functions, for the tests of whatever reads them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
from rosbags.highlevel import AnyReader

from rgbx_seg_ros.bag import BagWriter

DATA = Path(__file__).resolve().parents[1] / '..' / 'shared' / 'data'
START_NS = 1_700_000_000_000_000_000


def frame(content: int, height: int = 12, width: int = 16, dtype: type = np.uint8,
          channels: int = 1) -> np.ndarray:
    """Return an image of one value, which says which still it is."""
    return np.full((height, width, channels)[:2 if channels == 1 else 3], content, dtype)


def noise(height: int, width: int, dtype: type, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Return an image of random values over the whole range of `dtype`."""
    shape = (height, width, channels)[:2 if channels == 1 else 3]
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return rng.normal(300, 50, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write_pictures(folder: Path, count: int, step: int = 5, aux: str = 'thermal',
                   labels: str = '', suffix: str = '.png', dtype: type = np.uint8) -> Path:
    """Write `count` pairs whose RGB, aux and label values all are still * step."""
    for sub in filter(None, ('rgb', aux, labels)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for still in range(count):
        name, value = f'{still:05d}{"DN"[still % 2]}', still * step
        cv2.imwrite(str(folder / 'rgb' / f'{name}{suffix}'), frame(value, channels=3))
        cv2.imwrite(str(folder / aux / f'{name}.png'), frame(value, dtype=dtype))
        if labels:
            cv2.imwrite(str(folder / labels / f'{name}.png'), frame(value))
    return folder


def write_bag(path: Path, pairs: int = 3, storage: str = 'mcap', labels: bool = False) -> Path:
    """Write a bag of `pairs` raw pairs, 100 ms apart, aux 10 ms later, received 2 ms after."""
    with BagWriter(path, storage) as writer:
        for index in range(pairs):
            stamp_ns = START_NS + index * 100_000_000
            aux_ns = stamp_ns + 10_000_000
            writer.write_image('/rgb/image_raw', frame(index, channels=3), 'rgb8', stamp_ns,
                               stamp_ns + 2_000_000, 'rgb_optical')
            writer.write_image('/thermal/image_raw', frame(29815 + index, dtype=np.uint16),
                               'mono16', aux_ns, aux_ns + 2_000_000, 'thermal_optical')
            if labels:
                writer.write_image('/label/image_raw', frame(index % 3), 'mono8', stamp_ns,
                                   stamp_ns + 2_000_000, 'rgb_optical')
    return path


def read_plainly(bag: Path, topics: Collection[str] = ()) -> Iterator[tuple[str, int, object]]:
    """Yield topic, receive time and message by `rosbags` alone: the oracle of our reader."""
    with AnyReader([bag]) as reader:
        wanted = [one for one in reader.connections if not topics or one.topic in topics]
        for connection, received_ns, data in reader.messages(wanted):
            yield connection.topic, received_ns, reader.deserialize(data, connection.msgtype)
