# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From the messages of a pair to its pixels, on any thread: OpenCV decodes beside Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import incoming
from rgbx_seg_ros.eval_frames import Image
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.sync import Pair

Floats = NDArray[np.float32]


@dataclass
class Waiting:
    """A pair that waits for the label of its RGB frame."""

    pair: Pair
    stamp_ns: int  # header of the mask
    frame_id: str
    depth: Floats | None
    received_ns: int
    size: int  # bytes of its messages
    passed: bool = False  # the label of a later frame has come
    read_target: Callable[[], Image] | None = None


class Decoded(NamedTuple):
    """The pixels of a pair; or the stream and the reason why the node would skip it."""

    rgb: Image | None = None
    aux: NDArray[Any] | None = None
    target: Image | None = None
    decode_ms: float = 0.0
    fault: tuple[str, ImageError] | None = None


def decode(waiting: Waiting) -> Decoded:
    """Return the pixels of a pair and the label of its RGB frame."""
    began = time.perf_counter()
    rgb, aux = (frame.data if frame else None for frame in waiting.pair[:2])
    stream = 'rgb'
    try:
        pixels = incoming.to_rgb(rgb.message) if rgb else None
        stream = 'aux'
        values = incoming.to_array(aux.message) if aux else None
    except ImageError as error:
        return Decoded(fault=(stream, error))
    decode_ms = (time.perf_counter() - began) * 1e3
    target = waiting.read_target() if waiting.read_target and pixels is not None else None
    return Decoded(pixels, values, target, decode_ms)


def rgb_stamp(pair: Pair) -> int:
    """Return the stamp of an RGB frame that was not seen before, else 0."""
    return pair.rgb.stamp_ns if pair.rgb is not None and pair.state != 'hold_rgb' else 0
