# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bayer, YUV and 16-bit color against formulas and, where it is installed, against cv_bridge."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bags import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros.encodings import LAYOUTS, is_color, is_deep, refusal, unsuited
from rgbx_seg_ros.images import ImageError, decode, to_rgb8

BAYER = [f'bayer_{order}{bits}' for order in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)]
PACKED = {'uyvy': (1, 0, 3, 2), 'yuv422': (1, 0, 3, 2),  # bytes of Y, U, second Y, V in 4
          'yuyv': (0, 1, 2, 3), 'yuv422_yuy2': (0, 1, 2, 3)}
PLANAR = ('nv12', 'nv21', 'nv24')


def rgb(message, encoding, big=False):
    """Return 8-bit RGB of a (rows, ...) array that lies in memory as a message would have it."""
    height = round(message.shape[0] / {'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}.get(encoding, 1))
    step = message[0].nbytes
    data = message.astype(message.dtype.newbyteorder('>')) if big else message
    return to_rgb8(decode(height, message.shape[1], encoding, step, big, data.tobytes()), encoding)


def picture(height, width, bits=8):
    """Return a smooth picture of full range whose three channels differ everywhere."""
    y, x = np.mgrid[:height, :width]
    high = 2**bits - 1
    channels = (x / max(width - 1, 1) * high, y / max(height - 1, 1) * high,
                high - x / max(width - 1, 1) * high)
    return np.stack(channels, 2).astype(np.uint8 if bits == 8 else np.uint16)


def mosaic(color, order):
    """Return what a sensor with this filter, read from the top left on, sees of a picture."""
    raw = np.empty(color.shape[:2], color.dtype)
    for at, letter in enumerate(order):
        y, x = divmod(at, 2)
        raw[y::2, x::2] = color[y::2, x::2, 'rgb'.index(letter)]
    return raw


@pytest.mark.parametrize('encoding', BAYER)
@pytest.mark.parametrize('size', [(24, 32), (25, 33), (3, 3)])
@pytest.mark.parametrize('big', [False, True])
def test_a_mosaic_made_of_a_picture_becomes_that_picture(encoding, size, big):
    order, bits = encoding[6:10], int(encoding[10:])
    color = picture(*size, bits)
    made = rgb(mosaic(color, order), encoding, big and bits == 16)
    truth = color if bits == 8 else np.rint(color / 257)
    if size == (3, 3):
        assert made.shape == (3, 3, 3)
        return
    # A plane of one slope is what linear interpolation restores exactly, but at the border.
    difference = np.abs(made.astype(int) - truth)[2:-2, 2:-2]
    assert difference.max() <= 2


@pytest.mark.parametrize('order', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_a_red_scene_is_red_by_its_own_filter_only(order):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    raw = mosaic(red, order)
    means = {name: rgb(raw, name)[2:-2, 2:-2].mean((0, 1)) for name in BAYER[::2]}
    np.testing.assert_allclose(means.pop(f'bayer_{order}8'), (200, 0, 0))
    assert all(np.abs(mean - (200, 0, 0)).max() > 40 for mean in means.values())


def bt601(y, u, v):
    """Return RGB of BT.601 with limited range, from its definition: Kr = 0.299, Kb = 0.114."""
    y, u, v = (np.asarray(plane, float) for plane in (y, u, v))
    luma = (np.maximum(y, 16) - 16) * 255 / 219
    blue, red = (u - 128) * 255 / 224, (v - 128) * 255 / 224
    r, b = luma + 2 * (1 - 0.299) * red, luma + 2 * (1 - 0.114) * blue
    g = luma - (0.299 * 2 * (1 - 0.299) * red + 0.114 * 2 * (1 - 0.114) * blue) / 0.587
    return np.clip(np.stack((r, g, b), -1), 0, 255)


def assert_close(made, truth):
    assert made.shape == truth.shape
    assert np.abs(made.astype(float) - truth).max() <= 2


@pytest.mark.parametrize('encoding', PACKED)
@pytest.mark.parametrize('size', [(1, 2), (5, 8), (16, 30)])
def test_packed_yuv_is_bt601_with_chroma_shared_by_two_pixels(encoding, size):
    raw = noise(*size, np.uint8, 2)
    groups = raw.reshape(size[0], size[1] // 2, 4)
    y0, u, y1, v = (groups[..., at] for at in PACKED[encoding])
    luma = np.stack((y0, y1), 2).reshape(size)
    assert_close(rgb(raw, encoding), bt601(luma, u.repeat(2, 1), v.repeat(2, 1)))


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
@pytest.mark.parametrize('size', [(2, 2), (6, 10), (24, 30)])
def test_nv12_and_nv21_share_chroma_by_four_pixels_in_opposite_order(encoding, size):
    height, width = size
    raw = noise(height * 3 // 2, width, np.uint8)
    chroma = raw[height:].reshape(height // 2, width // 2, 2).repeat(2, 0).repeat(2, 1)
    u, v = (chroma[..., at] for at in ((0, 1) if encoding == 'nv12' else (1, 0)))
    assert_close(rgb(raw, encoding), bt601(raw[:height], u, v))


@pytest.mark.parametrize('size', [(1, 1), (5, 7), (24, 30)])
def test_nv24_has_chroma_of_its_own_for_each_pixel(size):
    height, width = size
    raw = noise(height * 3, width, np.uint8)
    chroma = raw[height:].reshape(height, width, 2)
    assert_close(rgb(raw, 'nv24'), bt601(raw[:height], chroma[..., 0], chroma[..., 1]))


@pytest.mark.parametrize('encoding', [*BAYER, *PACKED, 'nv12', 'nv21', 'bgr16', 'rgba16'])
def test_padding_at_the_end_of_rows_changes_nothing(encoding):
    layout = LAYOUTS[encoding]
    plain = noise(round(8 * layout.rows), 10, np.dtype(layout.dtype).type, layout.channels)
    rows = plain.reshape(len(plain), -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, 6)), constant_values=99)
    made = decode(8, 10, encoding, padded.shape[1], 0, padded.tobytes())
    np.testing.assert_array_equal(to_rgb8(made, encoding), rgb(plain, encoding))


def test_rows_of_nv24_chroma_are_padded_twice():
    plain = noise(24, 10, np.uint8)
    luma = np.pad(plain[:8], ((0, 0), (0, 6))).ravel()
    chroma = np.pad(plain[8:].reshape(8, 20), ((0, 0), (0, 12))).ravel()
    made = decode(8, 10, 'nv24', 16, 0, np.concatenate((luma, chroma)).tobytes())
    np.testing.assert_array_equal(made, rgb(plain, 'nv24'))


@pytest.mark.parametrize('encoding, size, found', [
    ('uyvy', (4, 5), 'width'), ('yuyv', (4, 5), 'width'), ('nv12', (4, 5), 'width'),
    ('nv21', (5, 4), 'height'), ('bayer_rggb8', (2, 4), 'height'),
    ('bayer_rggb16', (4, 1), 'width')])
def test_sizes_that_opencv_would_refuse_or_leave_black_are_image_errors(encoding, size, found):
    with pytest.raises(ImageError, match=f'{found}.*expected') as caught:
        decode(*size, encoding, 100, 0, bytes(100 * size[0] * 2))
    assert caught.value.cause == 'size'


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.integers(1, 9), st.integers(1, 9), st.integers(0, 9),
       st.booleans())
def test_any_size_and_padding_becomes_a_picture_of_that_size_or_is_an_image_error(
        encoding, height, width, padding, big):
    layout = LAYOUTS[encoding]
    step = width * layout.channels * np.dtype(layout.dtype).itemsize + padding
    data = noise(1, int(height * layout.rows) * step, np.uint8).tobytes()
    try:
        made = decode(height, width, encoding, step, big, data)
    except ImageError as error:
        assert error.cause == 'size' and encoding.startswith(('bayer', 'uyvy', 'yu', 'nv'))
    else:
        assert made.shape in ((height, width), (height, width, 3)) and made.dtype.isnative


def test_planes_are_counted_in_the_size_of_the_data():
    for encoding, count in (('nv12', 6 * 8), ('nv21', 6 * 8), ('nv24', 12 * 8)):
        decode(4, 8, encoding, 8, 0, bytes(count))
        for wrong in (count - 1, count + 1, 4 * 8):
            with pytest.raises(ImageError, match=f'expected {count} '):
                decode(4, 8, encoding, 8, 0, bytes(wrong))


@pytest.mark.parametrize('encoding, order', [('rgb16', (0, 1, 2)), ('bgr16', (2, 1, 0)),
                                             ('rgba16', (0, 1, 2)), ('bgra16', (2, 1, 0))])
@pytest.mark.parametrize('big', [False, True])
def test_color_of_16_bits_becomes_8_by_its_share_of_the_range(encoding, order, big):
    raw = noise(9, 11, np.uint16, LAYOUTS[encoding].channels)
    np.testing.assert_array_equal(rgb(raw, encoding, big), np.rint(raw[..., list(order)] / 257))


def test_doubles_become_floats_also_where_they_are_none():
    values = np.array([[300.25, np.nan, np.inf, -np.inf, 1e300]])
    made = decode(1, 5, '64FC1', 40, 1, values.astype('>f8').tobytes())
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made, [[300.25, np.nan, np.inf, -np.inf, np.inf]])


def test_every_encoding_that_ros_names_is_read_or_refused_with_a_reason():
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    headers = [path for prefix in prefixes if prefix for path in
               Path(prefix).glob('include/**/sensor_msgs/image_encodings.hpp')]
    if not headers:
        pytest.skip('the header of sensor_msgs is not installed')
    names = set(re.findall(r'^const char \w+\[\] = "([^"]+)"', headers[0].read_text(), re.M))
    assert len(names) > 50
    assert set(LAYOUTS) <= names | {'nv12', 'uyvy', 'yuyv', 'nv21', 'nv24'}  # younger than Humble
    for name in names - set(LAYOUTS):
        assert 'channels' in refusal(name) and 'expected' in refusal(name), name


@pytest.mark.parametrize('encoding, part', [
    ('RGB8', "'rgb8'; let the driver"), ('Mono16', "'mono16'"), ('jpeg', 'CompressedImage'),
    ('h264', 'CompressedImage'), ('8UC2', '2 channels'), ('16UC12', '12 channels'),
    ('64FC3', 'signed or double'), ('Y16', 'pixel format'), ('', 'pixel format'), ('é\n', 'pixel')])
def test_a_refusal_says_why_and_what_to_do(encoding, part):
    assert part in refusal(encoding) and repr(encoding) in refusal(encoding)
    assert refusal(encoding).endswith('.')


def test_inputs_take_what_they_can_use():
    for encoding in ('rgb8', 'mono16', 'nv21', 'bayer_rggb8', '16UC4', 'unheard-of'):
        assert unsuited('rgb', encoding) == unsuited('aux', encoding) == ''
    assert 'no picture' in unsuited('rgb', '32FC1') and 'no picture' in unsuited('rgb', '16SC1')
    assert unsuited('aux', '32FC1') == unsuited('aux', '64FC1') == ''
    assert 'no agreed unit' in unsuited('aux', '32SC1')


def test_colors_and_measurements_are_told_apart_by_name():
    assert all(map(is_color, ('rgb8', 'bgra16', 'bayer_gbrg8', 'yuv422_yuy2', 'uyvy', 'nv21')))
    assert all(map(is_deep, ('mono16', '16UC1', '16SC1', '32FC1', '64FC1')))
    for neither in ('mono8', '8UC1', '8UC3'):
        assert not is_color(neither) and not is_deep(neither)
    assert not any(map(is_deep, ('rgb16', 'bayer_rggb16', '', 'unheard-of')))


@pytest.mark.parametrize('encoding', LAYOUTS)
@pytest.mark.parametrize('padding', [0, 4])
def test_equal_to_cv_bridge(encoding, padding):
    """Colors as its rgb8; what names no color, as it passes it through."""
    bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    messages = pytest.importorskip('sensor_msgs.msg')
    if encoding in PLANAR:
        pytest.skip('the Python of cv_bridge reads one plane only')
    layout = LAYOUTS[encoding]
    pixels = noise(round(12 * layout.rows), 16, np.dtype(layout.dtype).type, layout.channels)
    rows = np.pad(pixels.reshape(len(pixels), -1),  # of whole pixels, as it reads no others
                  ((0, 0), (0, padding * layout.channels)))
    fields = {'height': 12, 'width': 16, 'encoding': encoding, 'step': rows[0].nbytes}
    message = messages.Image(**fields, is_bigendian=0)
    message.data.frombytes(rows.tobytes())
    named = is_color(encoding) or encoding.startswith('mono')
    try:
        theirs = bridge.CvBridge().imgmsg_to_cv2(message, 'rgb8' if named else 'passthrough')
    except bridge.CvBridgeError as error:
        pytest.skip(f'this cv_bridge does not read {encoding}: {error}')
    own = decode(12, 16, encoding, rows[0].nbytes, 0, message.data)
    own = to_rgb8(own, encoding) if named else own
    # Two builds of OpenCV may round YUV differently.
    limit = 1 if encoding in PACKED else 0
    reference = theirs[..., :3] if layout.channels == 4 else theirs
    np.testing.assert_allclose(own.astype(float), reference.astype(float), rtol=1e-6, atol=limit)


def test_formulas_of_this_test_know_the_colors_of_a_test_card():
    """White, black, red and blue bars as BT.601 has them in every table."""
    card = SimpleNamespace(white=(235, 128, 128), black=(16, 128, 128), red=(81, 90, 240),
                           blue=(41, 240, 110))
    for name, color in (('white', (255, 255, 255)), ('black', (0, 0, 0)), ('red', (255, 0, 0)),
                        ('blue', (0, 0, 255))):
        np.testing.assert_allclose(bt601(*getattr(card, name)), color, atol=2)
        y, u, v = getattr(card, name)
        pixel = np.array([[[u, y], [v, y]]], np.uint8)
        np.testing.assert_allclose(rgb(pixel, 'uyvy')[0, 0], color, atol=2)
