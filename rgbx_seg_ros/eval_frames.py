# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What passes between the parts of a bag evaluation: pairs, results of each bundle, sinks."""

from __future__ import annotations

from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros.eval_result import FrameRecord

Image = NDArray[np.uint8]


class BagPair(NamedTuple):
    """One pair of a bag, decoded, in the node's order."""

    number: int  # 0.. within the bag
    rgb: Image | None  # (H, W, 3); None while that camera is lost
    aux: NDArray[Any] | None  # raw, as images.decode gives it
    aux_encoding: str
    depth: NDArray[np.float32] | None  # (H, W) in meters on the RGB grid, where it is wanted
    target: Image | None  # (H, W) class ids of the bundle, 255 = not labeled
    stamp_ns: int  # header of the mask, as the node writes it
    frame_id: str
    rgb_ns: int  # stamps of the two headers, 0 of a lost camera
    aux_ns: int
    received_ns: int  # reception of the later one
    skew_ns: int
    state: str
    decode_ms: float


class LaneResult(NamedTuple):
    """What one bundle made of a pair; the arrays are the receiver's to keep."""

    label: Image  # (H, W)
    confidence: Image  # (H, W) 0..255
    rgb: Image  # (H, W, 3), black where the camera was lost
    aux: Image  # what the network saw, (h, w) or (h, w, C)
    thermal_ms: float
    registration_ms: float
    resize_ms: float
    engine_ms: float
    without_aux: Image | None  # (H, W) label with aux blacked out, of some pairs


class EvalFrame(NamedTuple):
    """A pair with what all bundles made of it, and its numbers."""

    pair: BagPair
    lanes: tuple[LaneResult, ...]
    records: tuple[FrameRecord, ...]


class Sink(Protocol):
    """Writes something of every frame; a context manager that leaves nothing after an exception."""

    def __enter__(self) -> Any:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Finish what was written, or remove it."""

    def add(self, frame: EvalFrame) -> None:
        """Take the next frame, in order."""
