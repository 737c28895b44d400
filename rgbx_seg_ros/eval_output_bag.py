# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bag that an evaluation writes: all topics of its input as they are, and what the node adds.

Masks, confidences and overlays have the names, types, QoS and headers of the node's, so that RViz
and Foxglove show the bag as they show the robot. It is an mcap with chunks compressed by zstd: any
reader of mcap undoes that by itself, messages stay Images that need no further plugin, and masks
shrink to a few percent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType

from rgbx_seg_ros.bag import BagWriter, RawMessage, read_channels, read_messages
from rgbx_seg_ros.eval_frames import EvalFrame
from rgbx_seg_ros.eval_settings import EvalSettings
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.overlay import blend, palette

NODE = '/segment'  # as the launch file names it
LATCHED = 'label_info'
OUTPUTS = ('mask', 'confidence', 'overlay', LATCHED)


class OutputBag:
    """A Sink that writes the input bag with the results of all bundles merged in, while it runs."""

    def __init__(self, path: Path, source: Path, manifest: Manifest, names: Sequence[str],
                 settings: EvalSettings) -> None:
        """Take where to write, the bag that is evaluated, and a name for each bundle.

        Raises:
            RgbxSegError: `path` exists.

        """
        self._writer = BagWriter(path, zstd=True)
        self._source, self._settings = source, settings
        self._manifest, self._palette = manifest, palette(manifest.classes)
        self._prefixes = topic_prefixes(names, settings.pair.name)
        self._frames = 0

    def __enter__(self) -> OutputBag:
        """Take over the topics of the input; RgbxSegError if it cannot be read or written."""
        own = {prefix + name for prefix in self._prefixes for name in OUTPUTS}
        # An evaluated bag is evaluated once more: its old results make room for the new ones.
        channels = [one for one in read_channels(self._source) if one.topic not in own]
        self._writer.__enter__()
        try:
            for channel in channels:
                self._writer.add_channel(channel)
            messages = read_messages(self._source, {channel.topic for channel in channels})
            self._messages: Iterator[RawMessage] = messages
            self._next = next(messages, None)
            if self._next is not None:
                self._tell_classes(self._next.received_ns)
        except BaseException as error:
            self._writer.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Copy the rest, unless the evaluation was limited, and let the bag appear."""
        try:
            if kind is None and not (0 < self._settings.limit <= self._frames):
                self._copy_until(None)
        except BaseException as failure:
            self._writer.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._writer.__exit__(kind, error, trace)

    def add(self, frame: EvalFrame) -> None:
        """Copy the input up to this pair, and write what the bundles made of it."""
        pair = frame.pair
        self._copy_until(pair.received_ns)
        for prefix, lane in zip(self._prefixes, frame.lanes, strict=True):
            overlay = blend(lane.rgb, lane.label, self._palette, self._settings.alpha)
            for name, image, encoding in (('mask', lane.label, 'mono8'),
                                          ('confidence', lane.confidence, 'mono8'),
                                          ('overlay', overlay, 'rgb8')):
                self._writer.write_image(prefix + name, image, encoding, pair.stamp_ns,
                                         pair.received_ns, pair.frame_id)
        self._frames += 1

    def _copy_until(self, received_ns: int | None) -> None:
        """Copy what was received up to a time, or all."""
        while self._next is not None and (received_ns is None
                                          or self._next.received_ns <= received_ns):
            self._writer.copy(self._next)
            self._next = next(self._messages, None)

    def _tell_classes(self, received_ns: int) -> None:
        classes = [(info.id, info.name) for info in self._manifest.classes]
        for prefix in self._prefixes:
            self._writer.write_label_info(prefix + LATCHED, classes, self._settings.threshold,
                                          received_ns, received_ns)


def topic_prefixes(names: Sequence[str], pair: str = '') -> list[str]:
    """Return where the results of each bundle go: the node's names, and the bundle's if several."""
    base = f'{NODE}/{pair}/' if pair else f'{NODE}/'
    if len(names) == 1:
        return [base]
    found: list[str] = []
    for name in names:
        # What names may not hold in ROS becomes _.
        word = re.sub('[^A-Za-z0-9]+', '_', name).strip('_') or 'bundle'
        word = f'b{word}' if word[0].isdigit() else word
        unique = next(one for one in chain([word], (f'{word}_{n}' for n in range(2, 1000)))
                      if f'{base}{one}/' not in found)
        found.append(f'{base}{unique}/')
    return found
