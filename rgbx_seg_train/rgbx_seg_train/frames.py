# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Pairs of images exactly as the network gets them on the robot, to calibrate and to compare on.

They come from rendered scenes, from what a training configuration lists, or from a bag, and go
through the robot's own segmenter or pipeline, with a recorder where the network would be.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import COMPRESSED, StampedImage, guess_topics, read_images
from rgbx_seg_ros.engine import EngineInfo, Scene, Size, Tensor
from rgbx_seg_ros.images import ImageError, decode_label, to_rgb8
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.sync import Pair, Pairer
from rgbx_seg_ros.topics import Topics
from rgbx_seg_train.config import DataConfig, Source, SyntheticSource
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.sample import Image
from rgbx_seg_train.data.sources import open_source

SYNTHETIC = 'synthetic:'
# First seeds of `synthetic:COUNT`; trainings begin at 0, and 2000000 is what they are tested on.
SEEDS = {'calibrate': 4_000_000, 'evaluate': 2_000_000}
MOST_RENDERED = 256  # scenes; of a source of more only as many as are needed
SPLITS = {'calibrate': ('train', 'validate'), 'evaluate': ('test',)}


class Frame(NamedTuple):
    """One pair as the network gets it, and what it should answer."""

    rgb: Tensor  # (1, H, W, 3)
    aux: Tensor  # (1, h, w, C)
    target: Image | None  # ids at the camera's size; None where there is no ground truth
    night: bool = False


class _Recorder:
    """Stands where the engine would and keeps what it is given."""

    def __init__(self, manifest: Manifest, rgb_size: Size | None) -> None:
        own = manifest.height, manifest.width
        self._size, self._width = rgb_size or own, manifest.scene.width if manifest.scene else 0
        self.info = EngineInfo('recorder', '', 'cpu', 'fp32', rgb_size, own)
        self.pair: tuple[Tensor, Tensor]

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        self.pair = rgb.copy(), aux.copy()
        return (np.zeros((1, *self._size), np.uint8),) * 2

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        return Scene(*(np.zeros((1, self._width), np.float32),) * 2)

    def close(self) -> None:
        pass


def read_frames(source: str, manifest: Manifest, use: str, count: int,
                overrides: Sequence[str] = (), rgb_size: Size | None = None) -> list[Frame]:
    """Return up to `count` pairs of a source, spread over it, at the network's size or `rgb_size`.

    The source is `synthetic:COUNT`, a training configuration (.yaml), or a bag; `use` is
    'calibrate' or 'evaluate' and decides which seeds, or which part of a configuration.

    Raises:
        RgbxSegError: it cannot be read, is of another modality or of other classes, or is empty.

    """
    recorder = _Recorder(manifest, rgb_size)
    segmenter = Segmenter(recorder, manifest)
    if source.startswith(SYNTHETIC) or Path(source).suffix in ('.yaml', '.yml'):
        frames = list(_from_samples(source, segmenter, recorder, use, count, overrides))
    else:
        frames = _from_bag(Path(source), segmenter, recorder, count)
    if not frames:
        raise RgbxSegError(f'{source}: it holds no pair to {use} on; expected at least one; choose '
                           'another source.')
    return frames


def split_bag(frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Return the first and the second half of a bag that both uses share."""
    return list(frames[:len(frames) // 2]), list(frames[len(frames) // 2:])


def refuse_shared(calibration: Sequence[Frame], evaluation: Sequence[Frame]) -> None:
    """Raise if a pair serves both uses: what was calibrated on agrees better than what comes."""
    known = {(frame.rgb.tobytes(), frame.aux.tobytes()) for frame in calibration}
    shared = sum((frame.rgb.tobytes(), frame.aux.tobytes()) in known for frame in evaluation)
    if shared:
        raise RgbxSegError(f'{shared} of the {len(evaluation)} pairs of --evaluate are among those '
                           'of --calibrate; expected others; name another source for one of them.')


def _from_samples(source: str, segmenter: Segmenter, recorder: _Recorder, use: str, count: int,
                  overrides: Sequence[str]) -> Iterator[Frame]:
    data, sources = _sources(source, segmenter.manifest, use, overrides)
    share = -(-count // max(1, len(sources)))
    for one in sources:
        # All scenes of a source are rendered before the first is seen.
        if isinstance(one, SyntheticSource) and one.count > MOST_RENDERED:
            one = replace(one, count=share)
        samples = open_source(one, data, native=True)
        for index in _spread(len(samples), share):
            sample = samples[index]
            aux = np.zeros_like(sample.aux) if data.zero_aux else np.ascontiguousarray(sample.aux)
            segmenter(np.ascontiguousarray(sample.rgb), aux)
            yield Frame(*recorder.pair, np.array(sample.label), sample.night)


def _sources(source: str, manifest: Manifest, use: str, overrides: Sequence[str]
             ) -> tuple[DataConfig, Sequence[Source]]:
    if source.startswith(SYNTHETIC):
        text = source[len(SYNTHETIC):]
        if not text.isdecimal() or not 1 <= int(text) <= 100_000:
            raise RgbxSegError(f'{source}: expected synthetic:COUNT with 1 to 100000 scenes.')
        data = DataConfig(modality=manifest.modality)
        sources: Sequence[Source] = [SyntheticSource(first_seed=SEEDS[use], count=int(text))]
    else:
        data = load_config(Path(source), overrides).data
        sources = next((getattr(data, name) for name in SPLITS[use] if getattr(data, name)), ())
    expected = {info.id: info.name for info in data.class_infos}
    if data.modality != manifest.modality:
        raise RgbxSegError(f'{source}: its pairs are RGB and {data.modality}, the bundle takes RGB '
                           f'and {manifest.modality}; choose a fitting source.')
    if use == 'evaluate' and expected != {info.id: info.name for info in manifest.classes}:
        raise RgbxSegError(f'{source}: it is labeled with {", ".join(expected.values())}, the '
                           f'bundle knows {", ".join(c.name for c in manifest.classes)}; choose a '
                           'fitting source, or a bag.')
    return data, sources


def _from_bag(bag: Path, segmenter: Segmenter, recorder: _Recorder, count: int) -> list[Frame]:
    """Return pairs of a bag, every one of which passed the thermal front end, as on the robot."""
    topics = guess_topics(bag, segmenter.manifest.modality)
    pairer, pipeline = Pairer(), Pipeline(segmenter)
    chosen: list[tuple[int, Frame]] = []
    step = 0
    for seen, pair in enumerate(_pairs(bag, topics, pairer)):
        try:
            _run(pipeline, pair)
        except ImageError as error:
            raise RgbxSegError(f'{bag}: {error}') from None
        if seen >> step << step == seen:  # of a long bag every second one, again and again
            chosen.append((pair.rgb.stamp_ns if pair.rgb else 0, Frame(*recorder.pair, None)))
        if len(chosen) == 2 * count:
            chosen, step = chosen[::2], step + 1
    chosen = [chosen[index] for index in _spread(len(chosen), count)]
    labels = _labels(bag, topics.label, {stamp for stamp, _ in chosen})
    return [frame._replace(target=labels.get(stamp)) for stamp, frame in chosen]


def _pairs(bag: Path, topics: Topics, pairer: Pairer) -> Iterator[Pair]:
    streams = {topics.rgb: 'rgb', topics.aux: 'aux'}
    for image in read_images(bag, streams):
        yield from pairer.add(streams[image.topic], image.stamp_ns, image.received_ns, image)
    yield from pairer.flush()


def _labels(bag: Path, topic: str | None, stamps: Collection[int]) -> dict[int, Image]:
    if topic is None:
        return {}
    return {label.stamp_ns: _target(label) for label in read_images(bag, [topic])
            if label.stamp_ns in stamps}


def _run(pipeline: Pipeline, pair: Pair) -> None:
    assert pair.rgb is not None and pair.aux is not None
    rgb, aux = pair.rgb.data, pair.aux.data
    pipeline(to_rgb8(rgb.image(gray=False), rgb.encoding), aux.image(), aux.encoding,
             pair.rgb.stamp_ns)


def _target(label: StampedImage) -> NDArray[np.uint8]:
    message = label.message
    ids = (decode_label(message.format, message.data) if message.__msgtype__ == COMPRESSED
           else label.image())
    if ids.ndim != 2 or ids.max() > 255:
        raise RgbxSegError(f'label on {label.topic} is {label.encoding}; expected class ids, 255 '
                           'unlabeled.')
    return ids.astype(np.uint8)


def _spread(length: int, count: int) -> list[int]:
    """Return up to `count` indices that lie evenly in 0..length-1."""
    count = min(length, count)
    return [(2 * n + 1) * length // (2 * count) for n in range(count)]
