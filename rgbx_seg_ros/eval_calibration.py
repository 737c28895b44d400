# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The topics of a bag that an evaluation reads, and what they tell of the cameras.

On a robot camera_info and /tf_static are known, or soon, when images come; so those of a bag are
collected before its first pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rgbx_seg_ros import RgbxSegError, incoming
from rgbx_seg_ros.bag import (
    CAMERA_INFO,
    IMAGE,
    MessageError,
    RawMessage,
    deserialize,
    read_contents,
    read_messages,
)
from rgbx_seg_ros.camera import Camera, Transform
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.parameters import PairSettings
from rgbx_seg_ros.registration import Registration
from rgbx_seg_ros.sync import STREAMS
from rgbx_seg_ros.topics import TopicError, Topics, choose_topics
from rgbx_seg_ros.transforms import Transforms

TF_STATIC, TF_MESSAGE = '/tf_static', 'tf2_msgs/msg/TFMessage'
COMPRESSED_SUFFIX = '/compressed'
# Depth on the RGB grid, as depth_image_proc and as RealSense's driver name it.
DEPTH_NAMES = ('depth_registered/image_rect', 'depth_registered/image_raw',
               'aligned_depth_to_color/image_raw')


class Kinds:
    """The topics of a bag by type."""

    def __init__(self, bag: Path) -> None:
        """Look into a bag; raises RgbxSegError."""
        self.bag = bag
        channels, self.images = read_contents(bag)
        self.types = {channel.topic: channel.type for channel in channels if channel.messages}

    def count(self, topic: str) -> int:
        """Return how many images a topic has."""
        return self.images[topic].count

    def choose(self, settings: EvalSettings, modality: str) -> Topics:
        """Return the topics of RGB, aux and labels, as given or as told from names and types."""
        try:
            rgb, aux, label = choose_topics(
                self.images, modality, rgb=settings.rgb_topic, aux=settings.aux_topic,
                label=settings.label_topic if settings.labels is None else None)
        except TopicError as error:
            raise RgbxSegError(f'{self.bag}: {error}') from None
        rgb = settings.rgb_topic or self._as_transported(rgb, settings.pair.rgb_transport)
        aux = settings.aux_topic or self._as_transported(aux, settings.pair.aux_transport)
        return Topics(rgb, aux, label)

    def _as_transported(self, topic: str, transport: str) -> str:
        """Return the compressed form of a topic where the node would read that, and it exists."""
        compressed = topic + COMPRESSED_SUFFIX
        there = compressed in self.images and self.images[compressed].count
        return compressed if transport == 'compressed' and there else topic


class Calibration:
    """The cameras of a bag, where the registration needs them; and the topic of its depth."""

    def __init__(self, bag: Path, kinds: Kinds, topics: Topics, pair: PairSettings,
                 modality: str) -> None:
        """Collect what is needed; RgbxSegError, one sentence, for what is not there."""
        self.rgb_camera: Camera | None = None
        self.aux_camera: Camera | None = None
        self.extrinsics: Transform | None = None
        self.depth_topic = ''
        self.watched: dict[str, str] = {}  # topic of camera_info -> stream
        self.notes: list[str] = []
        self._bag = bag
        registration = Registration(replace(pair.pipeline.registration, aux_name=modality))
        mode = registration.config.mode
        if mode not in ('calibrated', 'depth'):
            return
        if mode == 'depth':
            self.depth_topic = _depth_topic(bag, kinds)
        infos = {_info_topic(topic): stream
                 for topic, stream in zip((topics.rgb, topics.aux), STREAMS, strict=True)}
        if registration.missing():
            self._read_cameras({topic: stream for topic, stream in infos.items()
                                if kinds.types.get(topic) == CAMERA_INFO})
            self._read_extrinsics(kinds)
        self.give(registration)
        if missing := registration.missing():
            raise RgbxSegError(f'{bag}: {missing[:-1]}, which the bag lacks ({" and ".join(infos)} '
                               f'and {TF_STATIC} are read); record it, or write it into '
                               'registration.file.')

    def give(self, registration: Registration) -> None:
        """Set the cameras of a registration."""
        registration.rgb_camera, registration.aux_camera = self.rgb_camera, self.aux_camera
        registration.extrinsics = self.extrinsics

    def watch(self, raw: RawMessage) -> None:
        """Note, once for each camera, that its calibration changes within the bag."""
        stream = self.watched.get(raw.channel.topic)
        if stream is None:
            return
        try:
            same = Camera.from_info(deserialize(raw)) == getattr(self, f'{stream}_camera')
        except RgbxSegError:
            same = False
        if not same:
            del self.watched[raw.channel.topic]
            self.notes.append(
                f'{raw.channel.topic} changes within the bag: the node would follow, this '
                'evaluation keeps the first calibration; split the bag there.')

    def _read_cameras(self, infos: dict[str, str]) -> None:
        missing = dict(infos)
        for raw, message in _read(self._bag, set(infos)):
            if stream := missing.pop(raw.channel.topic, ''):
                try:
                    setattr(self, f'{stream}_camera', Camera.from_info(message))
                except RgbxSegError as error:
                    raise RgbxSegError(f'{self._bag}: {raw.channel.topic}: {error}') from None
            if not missing:
                break
        self.watched = infos

    def _read_extrinsics(self, kinds: Kinds) -> None:
        rgb, aux = self.rgb_camera, self.aux_camera
        if rgb is None or aux is None or kinds.types.get(TF_STATIC) != TF_MESSAGE:
            return
        found = Transforms()
        for _, message in _read(self._bag, {TF_STATIC}):
            for stamped in message.transforms:
                try:
                    found.add(*incoming.to_transform(stamped))
                except RgbxSegError as error:  # of other frames perhaps, as on the robot
                    self.notes.append(f'{TF_STATIC}: {error}')
        self.extrinsics = found.lookup(aux.frame_id, rgb.frame_id)


def _read(bag: Path, topics: set[str]) -> Iterator[tuple[RawMessage, Any]]:
    """Yield the messages of some topics of a bag, deserialized."""
    for raw in read_messages(bag, topics) if topics else ():
        try:
            yield raw, deserialize(raw)
        except MessageError as error:
            raise RgbxSegError(f'{bag}: {error}') from None


def _info_topic(image_topic: str) -> str:
    """Return the camera_info beside an image, where image_transport seeks it."""
    return image_topic.removesuffix(COMPRESSED_SUFFIX).rpartition('/')[0] + '/camera_info'


def _depth_topic(bag: Path, kinds: Kinds) -> str:
    images = [topic for topic, kind in kinds.types.items() if kind == IMAGE]
    for name in DEPTH_NAMES:
        found = [topic for topic in images if topic.endswith(f'/{name}')]
        if len(found) > 1:
            raise RgbxSegError(f'{bag}: {" and ".join(found)} could each be the depth of the RGB '
                               'camera, expected one; make a bag with one of them.')
        if found:
            return found[0]
    raise RgbxSegError(f'{bag}: no topic of depth images on the RGB grid, expected one that ends '
                       f'in {" or ".join(DEPTH_NAMES)} for registration.mode depth; record it, or '
                       'choose mode calibrated.')
