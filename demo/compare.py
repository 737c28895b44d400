# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Holds the recorded masks against the bag: scores, pictures, video; no ROS in here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from demo.timeline import Timeline, read_target
from rgbx_seg_ros import RgbxSegError, overlay
from rgbx_seg_ros.bag import StampedImage, read_images
from rgbx_seg_ros.images import to_rgb8
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.metrics import Confusion
from rgbx_seg_ros.report import (
    VIDEO_FILE,
    VIDEO_HEIGHT,
    PairRecord,
    Sample,
    VideoWriter,
    panels,
)
from rgbx_seg_ros.thermal import to_uint8

Picture = NDArray[np.uint8]
SAMPLES = 6
ALPHA = 0.5


class Published(NamedTuple):
    """A pair that the node published: stamps as in the bag, and where its pictures are."""

    rgb_ns: int
    aux_ns: int
    live_ns: int  # the stamp with which mask and overlay came
    record: PairRecord


class Comparison(NamedTuple):
    """What the masks are worth; `confusion` is None without labels."""

    samples: list[Sample]
    confusion: Confusion | None
    scored: int


def compare(timeline: Timeline, manifest: Manifest, published: Sequence[Published],
            masks: Callable[[int], Picture | None], overlays: Callable[[int], Picture | None],
            folder: Path) -> Comparison:
    """Score the masks against the bag's labels, write the video, and pick the pairs to show."""
    table = overlay.palette(manifest.classes)
    confusion = Confusion(manifest.n_classes) if timeline.topics.label else None
    shown = _spread({pair.rgb_ns for pair in published}, timeline.label_stamps)
    samples, scored = [], 0
    with VideoWriter(folder / VIDEO_FILE) as video:
        for pair, images in join(timeline, published):
            mask = masks(pair.live_ns)
            if mask is None:
                continue
            rgb = to_rgb8(images['rgb'].image(), images['rgb'].encoding)
            aux = to_uint8(images['aux'].image(), manifest.aux)
            target = read_target(images['label']) if 'label' in images else None
            if confusion is not None and target is not None:
                _score(confusion, mask, target, images['label'].topic)
                scored += 1
            painted = overlays(pair.live_ns)
            if painted is None:
                painted = overlay.blend(rgb, mask, table, ALPHA)
            video.add(pair.record.time_s, panels((rgb, aux, painted), VIDEO_HEIGHT))
            if pair.rgb_ns in shown:
                samples.append(Sample(pair.record, rgb, aux, mask, painted, target))
    samples.sort(key=lambda sample: sample.record.time_s)
    return Comparison(samples, confusion, scored)


def join(timeline: Timeline, published: Sequence[Published]
         ) -> Iterator[tuple[Published, Mapping[str, StampedImage]]]:
    """Yield each published pair with its images of the bag by stream, once all of them are read."""
    streams = dict(zip(timeline.topics, timeline.topics._fields, strict=True))
    owners: dict[str, dict[int, Published]] = {'rgb': {}, 'aux': {}, 'label': {}}
    for pair in published:
        owners['rgb'][pair.rgb_ns] = owners['label'][pair.rgb_ns] = pair
        owners['aux'][pair.aux_ns] = pair
    found: dict[int, dict[str, StampedImage]] = {}
    for image in read_images(timeline.bag, timeline.all):
        stream = streams[image.topic]
        pair = owners[stream].pop(image.stamp_ns, None)
        if pair is None:
            continue
        images = found.setdefault(pair.rgb_ns, {})
        images[stream] = image
        if len(images) == 2 + (pair.rgb_ns in timeline.label_stamps):
            yield pair, found.pop(pair.rgb_ns)


def _score(confusion: Confusion, mask: Picture, target: Picture, topic: str) -> None:
    try:
        confusion.update(mask, target)
    except RgbxSegError as error:
        raise RgbxSegError(f'label on {topic}: {error}') from None


def _spread(stamps: set[int], labeled: frozenset[int]) -> set[int]:
    """Return up to SAMPLES stamps spread over the run, of labeled pairs if there are enough."""
    best = sorted(stamps & labeled)
    if len(best) < SAMPLES:
        best = sorted(stamps)
    if len(best) <= SAMPLES:
        return set(best)
    # From the middle of each sixth: the first pairs of a run look like no other.
    return {best[(2 * n + 1) * len(best) // (2 * SAMPLES)] for n in range(SAMPLES)}
