# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Messages to arrays and back, without a node."""

import array
import struct
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import CLASSES, manifest
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from rgbx_seg_ros import RgbxSegError, messages
from rgbx_seg_ros.diagnostics import to_diagnostics
from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.health import Level, Status, Timing
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.overlay import blend, colorize, palette
from rgbx_seg_ros.parameters import PARAMETERS
from rgbx_seg_ros.segmenter import Segmentation
from rgbx_seg_ros.sync import POLICIES

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


def view(camera_info=None, size=(6, 8), **extra):
    rgb, aux = noise(*size, 3), noise(3, 4)
    label = NUMBERS.choice(np.array([0, 1, 2, 255], np.uint8), size)
    result = Segmentation(label, noise(*size), engine_ms=1.0, total_ms=2.0)
    return messages.View(HEADER, AUX_HEADER, rgb, aux, result, palette(CLASSES), 0.25, camera_info,
                         **extra)


def calibration(width=8, height=6, **fields):
    return CameraInfo(header=HEADER, width=width, height=height, distortion_model='plumb_bob',
                      k=np.array([5.0, 0, 3.5, 0, 4.0, 2.5, 0, 0, 1]), **fields)


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
    assert messages.check('aux', message) == ''
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
        assert messages.check('aux', message) == ''
        np.testing.assert_array_equal(messages.to_array(message), pixels)


def test_image_that_its_stream_cannot_use_fails_the_check_and_a_lossy_one_is_told():
    raw = image(noise(4, 6).astype(np.float32), '32FC1')
    assert messages.check('aux', raw) == ''
    with pytest.raises(ImageError, match='32FC1'):
        messages.check('rgb', raw)
    data = cv2.imencode('.jpg', noise(8, 8))[1].tobytes()
    jpeg = CompressedImage(header=HEADER, format='mono8; jpeg compressed',
                           data=array.array('B', data))
    assert messages.check('rgb', jpeg) == ''
    assert 'JPEG' in messages.check('aux', jpeg)


def test_transform_keeps_its_frames_and_its_order():
    stamped = TransformStamped(header=Header(frame_id='base'), child_frame_id='thermal')
    stamped.transform.translation = Vector3(x=1.0, y=2.0, z=3.0)
    stamped.transform.rotation = Quaternion(x=0.5, y=-0.5, z=0.5, w=-0.5)
    assert messages.to_transform(stamped) == (
        'base', 'thermal', [1, 2, 3], [0.5, -0.5, 0.5, -0.5])


@pytest.mark.parametrize(('change', 'cause'), [
    ({'encoding': 'yuv999'}, 'encoding'), ({'step': 5}, 'step'), ({'height': 7}, 'size'),
    ({'width': 0}, 'size'), ({'data': array.array('B', [1, 2, 3])}, 'size'),
])
def test_malformed_image_fails_the_check_with_its_cause(change, cause):
    message = image(noise(4, 6, 3), 'rgb8')
    for field, value in change.items():
        setattr(message, field, value)
    with pytest.raises(ImageError) as error:
        messages.check('rgb', message)
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
    assert made.keys() == {*pixels, 'camera_info', 'points'}
    assert next(iter(messages.OUTPUTS)) == 'mask'


@pytest.mark.parametrize('name', ['mask', 'confidence', 'overlay', 'color_mask', 'aux_preview'])
def test_a_published_message_is_written_anew_in_its_own_memory(name):
    make = messages.OUTPUTS[name][1]
    first, second, larger = view(), view(), view(size=(10, 12))
    message = make(first)
    memory = np.frombuffer(message.data, np.uint8)
    again = make(second, message)
    assert again is message and again == make(second)
    assert np.shares_memory(np.frombuffer(again.data, np.uint8), memory)
    assert make(larger, again) == make(larger)
    assert make(first, again) == make(first)


def test_outputs_leave_the_view_and_earlier_messages_as_they_are():
    shown = view(calibration(), depth=np.full((6, 8), 2.0, np.float32),
                 camera=messages.to_camera(calibration()))
    arrays = (shown.rgb, shown.aux, shown.result.label, shown.result.confidence, shown.palette)
    before = [array.copy() for array in arrays]
    for array_ in arrays:
        array_.flags.writeable = False
    made = {name: make(shown) for name, (_, make) in messages.OUTPUTS.items()}
    assert {name: make(shown) for name, (_, make) in messages.OUTPUTS.items()} == made
    other = view(calibration(), depth=np.ones((6, 8), np.float32), camera=shown.camera)
    copies = {name: bytes(made[name].data) for name in ('mask', 'overlay', 'points')}
    for _, make in messages.OUTPUTS.values():
        make(other)
    assert {name: bytes(made[name].data) for name in copies} == copies
    assert all(np.array_equal(*both) for both in zip(arrays, before, strict=True))


def test_aux_preview_of_three_channels_is_gray_in_a_reused_message_too():
    gray = noise(3, 4)
    shown = view()._replace(aux=np.repeat(gray[..., None], 3, axis=2))
    message = messages.OUTPUTS['aux_preview'][1](shown)
    messages.OUTPUTS['aux_preview'][1](shown, message)
    np.testing.assert_array_equal(messages.to_array(message), gray)


def test_points_lie_where_the_camera_saw_them_with_label_and_confidence():
    depth = NUMBERS.uniform(0.5, 9.0, (6, 8)).astype(np.float32)
    depth[2, 3] = 0.0
    shown = view(depth=depth, camera=messages.to_camera(calibration()))
    cloud = messages.OUTPUTS['points'][1](shown)
    assert (cloud.header, cloud.height, cloud.width) == (HEADER, 6, 8)
    assert (cloud.point_step, cloud.row_step, cloud.is_bigendian, cloud.is_dense) == (
        16, 128, False, False)
    assert [(f.name, f.offset, f.datatype, f.count) for f in cloud.fields] == [
        ('x', 0, 7, 1), ('y', 4, 7, 1), ('z', 8, 7, 1), ('label', 12, 2, 1),
        ('confidence', 13, 2, 1)]
    for row, column in ((0, 0), (5, 7), (2, 3)):
        x, y, z, label, confidence = struct.unpack_from(
            '<fffBB', cloud.data, row * cloud.row_step + column * cloud.point_step)
        assert label == shown.result.label[row, column]
        assert confidence == shown.result.confidence[row, column]
        true = depth[row, column] or float('nan')
        assert (x, y, z) == pytest.approx(
            ((column - 3.5) / 5 * true, (row - 2.5) / 4 * true, true), rel=1e-5, nan_ok=True)
    memory = np.frombuffer(cloud.data, np.uint8)
    again = messages.to_cloud(view(depth=depth + 1, camera=shown.camera), cloud)
    assert again is cloud and np.shares_memory(np.frombuffer(again.data, np.uint8), memory)


def test_points_are_what_sensor_msgs_py_reads():
    point_cloud2 = pytest.importorskip('sensor_msgs_py.point_cloud2',
                                       reason='sensor_msgs_py is not installed')
    shown = view(depth=np.full((6, 8), 2.0, np.float32), camera=messages.to_camera(calibration()))
    points = point_cloud2.read_points(messages.to_cloud(shown)).ravel()
    np.testing.assert_array_equal(points['label'], shown.result.label.ravel())
    np.testing.assert_array_equal(points['confidence'], shown.result.confidence.ravel())
    np.testing.assert_allclose(points['z'], 2.0)


def test_points_need_depth_and_a_camera():
    camera = messages.to_camera(calibration())
    assert messages.to_cloud(view()) is None
    assert messages.to_cloud(view(camera=camera)) is None
    assert messages.to_cloud(view(depth=np.ones((6, 8), np.float32))) is None


def test_camera_of_a_binned_region_is_that_of_the_image():
    camera = messages.to_camera(calibration(
        64, 48, binning_x=2, binning_y=2,
        roi=RegionOfInterest(x_offset=8, y_offset=4, width=32, height=24)))
    assert (camera.width, camera.height, camera.frame_id) == (16, 12, 'rgb_optical')
    assert camera.k[0] == pytest.approx(2.5) and camera.k[2] == pytest.approx((3.5 - 8 - 0.5) / 2)


def test_uncalibrated_camera_is_refused_in_a_sentence():
    with pytest.raises(RgbxSegError, match='uncalibrated'):
        messages.to_camera(CameraInfo(width=8, height=6))


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
    numbers = {name: 0.5 + n for n, name in enumerate(Timing._fields)}
    timing = Timing(**numbers)
    counts = ({'rgb': 30, 'aux': 10}, {'late': 2, 'step': 1}, 9)
    stats = messages.to_stats(shown, timing, 'rgb_only', manifest(), counts)
    assert stats.header == HEADER and stats.aux_stamp == AUX_HEADER.stamp
    assert {name: getattr(stats, name) for name in numbers} == pytest.approx(numbers, rel=1e-6)
    assert stats.state == 'rgb_only'
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
        f'one of {", ".join(POLICIES)}; fixed while the node is configured')
    assert not any(descriptor.read_only for descriptor in made.values())


def test_image_is_filled_without_a_look_at_each_byte():
    pixels, times = noise(480, 640, 3), []
    for _ in range(5):
        began = time.perf_counter()
        messages.to_image(pixels, 'rgb8', HEADER)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.02  # 0.2 ms; rclpy's check of each element takes 50 ms
