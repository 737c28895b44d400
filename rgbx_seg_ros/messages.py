# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and results to messages, by pure functions; nothing else knows both."""

from __future__ import annotations

import array
import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rgbx_seg.msg import SegmentationInfo, SegmentationStats
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from rgbx_seg_ros import cloud
from rgbx_seg_ros.camera import Camera
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Score, Timing
from rgbx_seg_ros.incoming import check as check
from rgbx_seg_ros.incoming import encoding as encoding
from rgbx_seg_ros.incoming import stamp_ns as stamp_ns
from rgbx_seg_ros.incoming import to_array as to_array
from rgbx_seg_ros.incoming import to_rgb as to_rgb
from rgbx_seg_ros.incoming import to_transform as to_transform
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_ros.overlay import blend, colorize
from rgbx_seg_ros.parameters import Parameter
from rgbx_seg_ros.segmenter import Segmentation

INPUTS = {'raw': (Image, ''), 'compressed': (CompressedImage, '/compressed')}  # type, topic suffix


class View(NamedTuple):
    """One pair and its result: all that an output topic may show."""

    header: Header  # of the RGB frame
    aux_header: Header
    rgb: NDArray[np.uint8]  # (H, W, 3)
    aux: NDArray[np.uint8]  # (h, w) or (h, w, 3)
    result: Segmentation
    palette: NDArray[np.uint8]  # (256, 3)
    alpha: float
    camera_info: CameraInfo | None
    depth: NDArray[Any] | None = None  # as cloud.pack takes it
    camera: Camera | None = None  # that of the RGB image
    registered: bool = False  # aux lies on the RGB grid


def to_header(stamp: Time, frame_id: str) -> Header:
    """Return a header of an image that stands in for another one."""
    return Header(stamp=stamp, frame_id=frame_id)


def to_camera(message: CameraInfo) -> Camera:
    """Return the camera that took the image which this message accompanies.

    Raises:
        RgbxSegError: the camera is not calibrated, or its model is not supported.

    """
    return Camera.from_info(message)


def to_image(pixels: NDArray[np.uint8], encoding: str, header: Header,
             reuse: Image | None = None) -> Image:
    """Return uint8 pixels (H, W) or (H, W, C) as an Image with the given header.

    `reuse` is a message made before that nobody needs any more, such as a published one; it is
    filled anew and returned.
    """
    message, memory = _image(pixels.shape, encoding, header, reuse)
    np.copyto(memory, pixels)
    return message


def _image(shape: tuple[int, ...], encoding: str, header: Header,
           reuse: Image | None) -> tuple[Image, NDArray[np.uint8]]:
    """Return an Image and its pixels, to be written."""
    message = reuse or Image()
    message.header = header
    message.height, message.width = shape[:2]
    message.encoding = encoding
    message.step = shape[1] * (shape[2] if len(shape) == 3 else 1)
    return message, _memory(message, message.step * message.height).reshape(shape)


def _memory(message: Image | PointCloud2, size: int) -> NDArray[np.uint8]:
    """Return the message's data as writable uint8 (size,), allocated only if it must be."""
    # Written in place, for a new array costs more than all else: 1 ms per 640x480 color image in
    # page faults, and 52 ms if rclpy's setter looks at each element, as it does of a numpy array.
    if len(message.data) != size:
        message.data = array.array('B', bytes(1)) * size
    return np.frombuffer(message.data, np.uint8)


def to_cloud(view: View, reuse: PointCloud2 | None = None) -> PointCloud2 | None:
    """Return the organized cloud of a pair with depth: a point for each pixel of the mask.

    None without depth or a calibrated camera. `reuse` as in `to_image`.
    """
    if view.depth is None or view.camera is None:
        return None
    label, message = view.result.label, reuse or PointCloud2()
    height, width = label.shape
    message.header = view.header
    message.height, message.width = height, width
    message.fields = [PointField(name=name, offset=offset, datatype=datatype, count=1)
                      for name, offset, datatype in cloud.FIELDS]
    message.point_step, message.row_step = cloud.POINT_STEP, cloud.POINT_STEP * width
    message.is_dense = False
    memory = _memory(message, message.row_step * height)
    cloud.pack(view.depth, _rays(view.camera.scaled(width, height)), label,
               view.result.confidence, memory)
    return message


@lru_cache(16)  # cameras of one process
def _rays(camera: Camera) -> NDArray[np.float32]:
    return cloud.camera_rays(camera)


def _camera_info(view: View, _: CameraInfo | None = None) -> CameraInfo | None:
    if view.camera_info is None:
        return None
    message = copy.copy(view.camera_info)
    message.header = view.header
    return message


def _mask(view: View, reuse: Image | None = None) -> Image:
    return to_image(view.result.label, 'mono8', view.header, reuse)


def _confidence(view: View, reuse: Image | None = None) -> Image:
    return to_image(view.result.confidence, 'mono8', view.header, reuse)


def _overlay(view: View, reuse: Image | None = None) -> Image:
    message, memory = _image(view.rgb.shape, 'rgb8', view.header, reuse)
    blend(view.rgb, view.result.label, view.palette, view.alpha, memory)
    return message


def _color_mask(view: View, reuse: Image | None = None) -> Image:
    message, memory = _image((*view.result.label.shape, 3), 'rgb8', view.header, reuse)
    colorize(view.result.label, view.palette, memory)
    return message


def _aux_preview(view: View, reuse: Image | None = None) -> Image:
    header = view.header if view.registered else view.aux_header
    message, memory = _image(view.aux.shape[:2], 'mono8', header, reuse)
    if view.aux.ndim == 2:
        np.copyto(memory, view.aux)
    else:
        cv2.cvtColor(view.aux, cv2.COLOR_RGB2GRAY, memory)
    return message


# Topic below ~/ -> its type and how to make its message of a View (None: nothing to publish); a
# message that was published before may follow the view and is then written anew. In the order of
# publishing: the mask is what a robot waits for.
OUTPUTS: dict[str, tuple[type, Callable[..., Any]]] = {
    'mask': (Image, _mask), 'confidence': (Image, _confidence),
    'camera_info': (CameraInfo, _camera_info), 'overlay': (Image, _overlay),
    'color_mask': (Image, _color_mask), 'aux_preview': (Image, _aux_preview),
    'points': (PointCloud2, to_cloud)}


def to_info(manifest: Manifest, engine: EngineInfo, stamp: Time,
            _: float = 0.0, version: int = 0) -> SegmentationInfo:
    """Return what runs: the model, its engine and its classes; `version` counts their changes."""
    return SegmentationInfo(
        header=Header(stamp=stamp),
        model_name=manifest.name, model_family=manifest.family, modality=manifest.modality,
        backend=engine.backend, backend_version=engine.version, device=engine.device,
        precision=engine.precision, choice=engine.choice, height=manifest.height,
        width=manifest.width,
        class_ids=[info.id for info in manifest.classes],
        class_names=[info.name for info in manifest.classes],
        class_colors=[channel for info in manifest.classes for channel in info.color],
        classes_version=version,
        bundle_sha256=manifest.onnx_sha256)


def to_label_info(manifest: Manifest, _: EngineInfo, stamp: Time, threshold: float = 0.0,
                  __: int = 0) -> Any:
    """Return the classes as vision_msgs/LabelInfo, or None where vision_msgs is missing.

    `threshold` is the parameter confidence.threshold.
    """
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:
        return None
    # 255 is unlabeled by convention and stays out: consumers skip ids that are not listed.
    classes = [VisionClass(class_id=info.id, class_name=info.name) for info in manifest.classes]
    return LabelInfo(header=Header(stamp=stamp), class_map=classes, threshold=threshold)


# Latched topic below ~/ -> how to make its message, None where its package is missing.
LATCHED: dict[str, Callable[[Manifest, EngineInfo, Time, float, int], Any]] = {
    'info': to_info, 'label_info': to_label_info}


def to_stats(view: View, timing: Timing, state: str, manifest: Manifest,
             counts: tuple[dict[str, int], dict[str, int], int],
             score: Score | None = None, version: int = 0) -> SegmentationStats:
    """Return the numbers of one pair; `state` is sync.Pair's, `counts` as Health.counts gives.

    `version` is that of the classes, as in `to_info`.
    """
    received, drops, published = counts
    label, confidence = view.result.label, view.result.confidence
    # Exact, and twice as fast as numpy.bincount.
    histogram = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel() / label.size
    stats = SegmentationStats(header=view.header)
    stats.aux_stamp = view.aux_header.stamp
    stats.state = state
    for name, value in timing._asdict().items():
        setattr(stats, name, value)
    stats.mean_confidence = cv2.mean(confidence)[0] / 255
    stats.class_fractions = histogram[[info.id for info in manifest.classes]].tolist()
    stats.classes_version = version
    stats.pairs_published = published
    stats.rgb_received, stats.aux_received = received['rgb'], received['aux']
    stats.drop_causes, stats.drop_counts = list(drops), list(drops.values())
    score = score or Score()
    stats.miou, stats.miou_strict = score.miou, score.miou_strict
    stats.masks_scored = score.scored
    return stats


def to_descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Return how ROS describes a parameter.

    Its read_only stays false: a node that is not configured takes any of them. Its type is left
    to parameters.check, which takes 1 for 1.0 and says in words what is wrong.
    """
    constraints = 'one of ' + ', '.join(parameter.choices) if parameter.choices else ''
    if parameter.read_only:
        constraints = '; '.join(filter(None, (constraints, 'fixed while the node is configured')))
    descriptor = ParameterDescriptor(description=parameter.description, dynamic_typing=True,
                                     additional_constraints=constraints)
    if parameter.low is not None and parameter.high is not None:
        if isinstance(parameter.default, float):
            descriptor.floating_point_range = [FloatingPointRange(
                from_value=parameter.low, to_value=parameter.high)]
        else:
            descriptor.integer_range = [IntegerRange(
                from_value=int(parameter.low), to_value=int(parameter.high), step=1)]
    return descriptor
