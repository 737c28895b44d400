# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node and the bag evaluator read of the messages they get, by fields alone: no ROS here.

The messages may be rclpy's or those of a bag; so both decode the same bytes to the same pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import encodings, images


def stamp_ns(header: Any) -> int:
    """Return the header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def is_compressed(message: Any) -> bool:
    """Return whether an image message is a CompressedImage rather than an Image."""
    return hasattr(message, 'format')


def encoding(message: Any) -> str:
    """Return what an image says of its pixels: its encoding, or its format if compressed."""
    return str(message.format if is_compressed(message) else message.encoding)


def check(stream: str, message: Any) -> str:
    """Raise images.ImageError if stream 'rgb' or 'aux' cannot use an image; costs microseconds.

    Returns what is lost in a compressed one, in a sentence, or ''. Its other faults show only when
    it is decompressed.
    """
    if is_compressed(message):
        return images.lossy(message.format, message.data) if stream == 'aux' else ''
    images.check(message.height, message.width, message.encoding, message.step, message.data)
    if reason := encodings.unsuited(stream, message.encoding):
        raise images.ImageError('encoding', reason)
    return ''


def to_rgb(message: Any) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of the RGB camera; raises images.ImageError."""
    return images.to_rgb8(to_array(message), encoding(message))


def to_array(message: Any) -> NDArray[Any]:
    """Return the pixels (H, W) or (H, W, 3), color as RGB; a view of the message if possible.

    Raises:
        images.ImageError: the message is not an image that is understood.

    """
    if is_compressed(message):
        return images.decode_compressed(message.format, message.data)
    return images.decode(message.height, message.width, message.encoding, message.step,
                         message.is_bigendian, message.data)


def check_label(message: Any) -> None:
    """Raise images.ImageError for a label that can be of no use; costs microseconds."""
    if not is_compressed(message):
        images.check(message.height, message.width, message.encoding, message.step, message.data)
    elif bytes(memoryview(message.data)[:3]) == images.JPEG_SIGNATURE:
        images.decode_label(message.format, message.data)  # says why not


def to_transform(stamped: Any) -> tuple[str, str, list[float], list[float]]:
    """Return parent, child, translation and quaternion (x, y, z, w) of a TransformStamped."""
    move, turn = stamped.transform.translation, stamped.transform.rotation
    return (stamped.header.frame_id, stamped.child_frame_id, [move.x, move.y, move.z],
            [turn.x, turn.y, turn.z, turn.w])
