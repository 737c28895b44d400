# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back, without a node."""

import array
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import CLASSES, manifest
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from rgbx_seg_ros import messages
from rgbx_seg_ros.diagnostics import to_diagnostics
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Level, Status, Timing
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.overlay import blend, colorize, palette
from rgbx_seg_ros.parameters import PARAMETERS
from rgbx_seg_ros.segmenter import Segmentation

STAMP = Time(sec=1_700_000_000, nanosec=123_456_789)
HEADER = Header(stamp=STAMP, frame_id='rgb_optical')
AUX_HEADER = Header(stamp=Time(sec=1_700_000_000, nanosec=130_000_000), frame_id='thermal_optical')
ENGINE = EngineInfo('onnxruntime', '1.2.3', 'cpu', 'fp32')
NUMBERS = np.random.default_rng(5)


def noise(*shape, dtype=np.uint8):
    return NUMBERS.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def image(pixels, encoding, step=None, header=HEADER):
    """Return an Image built by hand, with padded rows if `step` asks for them."""
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(pixels.shape[0], -1)
    padded = np.zeros((rows.shape[0], step or rows.shape[1]), np.uint8)
    padded[:, :rows.shape[1]] = rows
    return Image(header=header, height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                 step=padded.shape[1], data=array.array('B', padded.tobytes()))


def view(camera_info=None):
    rgb, aux = noise(6, 8, 3), noise(3, 4)
    label = NUMBERS.choice(np.array([0, 1, 2, 255], np.uint8), (6, 8))
    result = Segmentation(label, noise(6, 8), engine_ms=1.0, total_ms=2.0)
    return messages.View(HEADER, AUX_HEADER, rgb, aux, result, palette(CLASSES), 0.25, camera_info)


def test_image_message_holds_the_pixels_and_the_very_header():
    pixels = noise(5, 7, 3)
    message = messages.to_image(pixels, 'rgb8', HEADER)
    assert (message.height, message.width, message.encoding, message.step) == (5, 7, 'rgb8', 21)
    assert bytes(message.data) == pixels.tobytes()
    assert message.header == HEADER


def test_image_of_a_slice_holds_only_the_slice():
    pixels = noise(10, 10)
    message = messages.to_image(pixels[2:6, 1:4], 'mono8', HEADER)
    assert (message.height, message.width, message.step) == (4, 3, 3)
    assert bytes(message.data) == pixels[2:6, 1:4].tobytes()


@pytest.mark.parametrize(('encoding', 'pixels', 'step'), [
    ('rgb8', noise(4, 6, 3), None), ('mono8', noise(4, 6), 8),
    ('mono16', noise(4, 6, dtype=np.uint16), None),
    ('mono16', noise(4, 6, dtype=np.uint16), 16), ('32FC1', noise(4, 6).astype(np.float32), None),
])
def test_pixels_come_back_as_a_view_of_the_message(encoding, pixels, step):
    message = image(pixels, encoding, step)
    messages.check(message)
    found = messages.to_array(message)
    np.testing.assert_array_equal(found, pixels)
    assert found.dtype == pixels.dtype
    assert np.shares_memory(found, np.frombuffer(message.data, np.uint8))


def test_rgb_of_every_color_order_is_rgb():
    pixels = noise(4, 6, 3)
    for encoding, stored in (('rgb8', pixels), ('bgr8', pixels[..., ::-1])):
        np.testing.assert_array_equal(messages.to_rgb(image(stored, encoding)), pixels)
    gray = messages.to_rgb(image(pixels[..., 0], 'mono8'))
    np.testing.assert_array_equal(gray, np.repeat(pixels[..., :1], 3, axis=2))


def test_compressed_png_keeps_16_bits_and_color_order():
    thermal, color = noise(4, 6, dtype=np.uint16), noise(4, 6, 3)
    for pixels, stored in ((thermal, thermal), (color, color[..., ::-1])):
        data = cv2.imencode('.png', stored)[1].tobytes()
        message = CompressedImage(header=HEADER, format='png', data=array.array('B', data))
        messages.check(message)
        np.testing.assert_array_equal(messages.to_array(message), pixels)


@pytest.mark.parametrize(('change', 'cause'), [
    ({'encoding': 'yuv999'}, 'encoding'), ({'step': 5}, 'step'), ({'height': 7}, 'size'),
    ({'width': 0}, 'size'), ({'data': array.array('B', [1, 2, 3])}, 'size'),
])
def test_malformed_image_fails_the_check_with_its_cause(change, cause):
    message = image(noise(4, 6, 3), 'rgb8')
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(ImageError) as error:
        messages.check(message)
    assert error.value.cause == cause


def test_stamp_is_exact_to_the_nanosecond():
    assert messages.stamp_ns(HEADER) == 1_700_000_000_123_456_789


def test_outputs_show_the_result_at_camera_size_with_the_rgb_header():
    shown = view(CameraInfo(width=8, header=AUX_HEADER))
    made = {name: make(shown) for name, (_, make) in messages.OUTPUTS.items()}
    table = palette(CLASSES)
    pixels = {
        'mask': ('mono8', shown.result.label), 'confidence': ('mono8', shown.result.confidence),
        'overlay': ('rgb8', blend(shown.rgb, shown.result.label, table, 0.25)),
        'color_mask': ('rgb8', colorize(shown.result.label, table)),
        'aux_preview': ('mono8', shown.aux)}
    for name, (encoding, expected) in pixels.items():
        assert made[name].encoding == encoding
        np.testing.assert_array_equal(messages.to_array(made[name]), expected)
        assert made[name].header == (AUX_HEADER if name == 'aux_preview' else HEADER)
    assert made.keys() == {*pixels, 'camera_info'}
    assert next(iter(messages.OUTPUTS)) == 'mask'


def test_camera_info_gets_the_mask_s_header_and_the_camera_s_keeps_its_own():
    camera = CameraInfo(header=AUX_HEADER, width=8, k=np.arange(9.0))
    made = messages.OUTPUTS['camera_info'][1](view(camera))
    assert made.header == HEADER and made.width == 8 and list(made.k) == list(range(9))
    assert camera.header == AUX_HEADER
    assert messages.OUTPUTS['camera_info'][1](view(None)) is None


def test_info_lists_the_manifest_and_the_engine():
    info = messages.to_info(manifest(), ENGINE, STAMP)
    assert (info.model_name, info.modality, info.backend) == ('tiny', 'thermal', 'onnxruntime')
    assert list(info.class_ids) == [0, 1, 2]
    assert list(info.class_names) == ['unlabeled', 'car', 'person']
    assert list(info.class_colors) == [0, 0, 0, 64, 0, 128, 64, 64, 0]
    assert (info.height, info.width, info.header.stamp) == (48, 64, STAMP)


def test_label_info_lists_ids_and_names():
    pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    info = messages.to_label_info(manifest(), ENGINE, STAMP)
    assert [(c.class_id, c.class_name) for c in info.class_map] == [
        (0, 'unlabeled'), (1, 'car'), (2, 'person')]


def test_stats_hold_times_counts_and_exact_fractions():
    shown = view()
    timing = Timing(-1.5, 30.0, 5.0, 2.0, 0.5, 1.0, 0.2)
    counts = ({'rgb': 30, 'aux': 10}, {'late': 2, 'step': 1}, 9)
    stats = messages.to_stats(shown, timing, manifest(), counts)
    assert stats.header == HEADER and stats.aux_stamp == AUX_HEADER.stamp
    assert {name: getattr(stats, name) for name in timing._fields} == pytest.approx(
        timing._asdict(), rel=1e-6)
    expected = [np.mean(shown.result.label == info.id) for info in CLASSES]
    np.testing.assert_allclose(stats.class_fractions, expected, rtol=1e-6)
    assert stats.mean_confidence == pytest.approx(shown.result.confidence.mean() / 255)
    assert (stats.pairs_published, stats.rgb_received, stats.aux_received) == (9, 30, 10)
    assert dict(zip(stats.drop_causes, stats.drop_counts, strict=True)) == counts[1]


def test_diagnostics_name_the_node_the_concern_and_the_engine():
    statuses = [Status('cameras', Level.STALE, 'no aux images', {'rgb rate [Hz]': '30.0'})]
    message = to_diagnostics('robot/segment', ENGINE, STAMP, statuses)
    status = message.status[0]
    assert message.header.stamp == STAMP
    assert (status.name, status.level) == ('robot/segment: cameras', b'\x03')
    assert status.hardware_id == 'onnxruntime 1.2.3 cpu'
    assert (status.values[0].key, status.values[0].value) == ('rgb rate [Hz]', '30.0')
    assert to_diagnostics('segment', None, STAMP, statuses).status[0].hardware_id == 'no engine'


def test_descriptors_carry_range_choices_and_when_a_change_is_possible():
    made = {parameter.name: messages.to_descriptor(parameter) for parameter in PARAMETERS}
    assert made['overlay.alpha'].floating_point_range[0].to_value == 1.0
    assert made['overlay.alpha'].additional_constraints == ''
    assert made['warmup'].integer_range[0].to_value == 100
    assert made['sync.policy'].additional_constraints == (
        'one of nearest, exact, latest; fixed while the node is configured')
    assert not any(descriptor.read_only for descriptor in made.values())


def test_image_is_filled_without_a_look_at_each_byte():
    pixels, times = noise(480, 640, 3), []
    for _ in range(5):
        began = time.perf_counter()
        messages.to_image(pixels, 'rgb8', HEADER)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02  # 0.2 ms; rclpy's check of each element takes 50 ms
