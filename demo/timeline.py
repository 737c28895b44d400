# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a bag holds, and when; no ROS in here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import COMPRESSED, StampedImage, Topics, guess_topics, read_images
from rgbx_seg_ros.images import ImageError, decode_label
from rgbx_seg_ros.manifest import UNLABELED, ClassInfo
from rgbx_seg_ros.play_plan import stamp_bias
from rgbx_seg_ros.sync import Pairer


@dataclass(frozen=True)
class Timeline:
    """The frames of a bag in numbers."""

    bag: Path
    topics: Topics
    counts: Counter[str]  # messages by topic
    received: Mapping[str, Mapping[int, int]]  # topic -> stamp -> reception, rgb and aux
    label_stamps: frozenset[int]
    pairs: int  # that the node's pairer finds if nothing is lost
    first_ns: int  # first and last reception
    last_ns: int
    start_ns: int  # stamp of the first RGB frame
    bias_ns: int  # added to stamps so that they are of the recorder's clock; 0 for most bags

    @property
    def images(self) -> list[str]:
        """The topics to play."""
        return [self.topics.rgb, self.topics.aux]

    @property
    def all(self) -> list[str]:
        """The topics to play and to compare with."""
        return [*self.images, *([self.topics.label] if self.topics.label else [])]


def read_timeline(bag: Path, modality: str, rgb: str = '', aux: str = '',
                  label: str = '') -> Timeline:
    """Return the timeline of a bag; topics that are not given are told from their names.

    Raises:
        RgbxSegError: the bag cannot be read, or no two of its frames make a pair.

    """
    topics = guess_topics(bag, modality, rgb=rgb, aux=aux, label=label)
    streams = {topics.rgb: 'rgb', topics.aux: 'aux'}
    pairer, pairs = Pairer(), 0
    counts: Counter[str] = Counter({topic: 0 for topic in topics if topic})
    received: dict[str, dict[int, int]] = {topic: {} for topic in streams}
    labels, arrivals, delays = set(), [], []
    for image in read_images(bag, filter(None, topics)):
        counts[image.topic] += 1
        if image.topic == topics.label:
            labels.add(image.stamp_ns)
            continue
        arrivals.append(image.received_ns)
        if image.stamp_ns > 0:
            delays.append(image.received_ns - image.stamp_ns)
            received[image.topic].setdefault(image.stamp_ns, image.received_ns)
        pairs += len(pairer.add(streams[image.topic], image.stamp_ns, image.received_ns, None))
    pairs += len(pairer.flush())
    if not pairs:
        raise RgbxSegError(
            f'{bag}: no pair among {counts[topics.rgb]} frames of {topics.rgb} and '
            f'{counts[topics.aux]} of {topics.aux}; expected stamps that lie within '
            f'{pairer.config.max_skew_s * 1e3:.0f} ms; check that both cameras use one clock.')
    return Timeline(bag, topics, counts, received, frozenset(labels), pairs, min(arrivals),
                    max(arrivals), min(received[topics.rgb]), stamp_bias(delays))


def read_target(image: StampedImage) -> NDArray[np.uint8]:
    """Return the class ids uint8 (H, W) of a label message; RgbxSegError if it holds none."""
    message = image.message
    try:
        ids = (decode_label(message.format, message.data) if message.__msgtype__ == COMPRESSED
               else image.image())
    except ImageError as error:
        raise RgbxSegError(f'label on {image.topic}: {error}') from None
    if ids.ndim != 2 or ids.dtype not in (np.uint8, np.uint16) or ids.max() > UNLABELED:
        raise RgbxSegError(f'label on {image.topic} is {image.encoding} up to {ids.max()}; '
                           'expected mono8 class ids, 255 unlabeled.')
    return ids.astype(np.uint8)


def check_labels(timeline: Timeline, classes: tuple[ClassInfo, ...]) -> None:
    """Raise if the bag's first label has an id unknown to the bundle, or not its RGB's size."""
    if not timeline.topics.label:
        return
    first = next(read_images(timeline.bag, [timeline.topics.label]))
    target = read_target(first)
    known = {info.id for info in classes} | {UNLABELED}
    strange = sorted(set(np.unique(target).tolist()) - known)
    if strange:
        raise RgbxSegError(f'{timeline.bag}: the labels on {first.topic} hold the id {strange[0]}, '
                           f'expected those of the bundle, {sorted(known)}; choose a bundle of '
                           'these classes.')
    rgb = next((image for image in read_images(timeline.bag, [timeline.topics.rgb])
                if image.stamp_ns == first.stamp_ns), None)
    with suppress(ImageError):  # of a broken RGB image, which the node will count
        if rgb is not None and rgb.image().shape[:2] != target.shape:
            size = 'x'.join(map(str, rgb.image().shape[1::-1]))
            raise RgbxSegError(f'{timeline.bag}: the labels on {first.topic} are '
                               f'{target.shape[1]}x{target.shape[0]}, expected {size} as '
                               f'{rgb.topic} has; resize them by nearest neighbor.')
