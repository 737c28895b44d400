# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Image messages to arrays: every encoding comes back, every malformed one is an ImageError."""

import array
import struct
import zlib

import cv2
import numpy as np
import pytest
from bags import noise
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros.images import (
    ImageError,
    check,
    decode,
    decode_compressed,
    decode_label,
    lossy,
    to_rgb8,
)

# From the encodings' names, not from the table under test: type, channels, channels of R, G, B.
# Bayer and YUV, whose pixels are computed, are in test_encodings.py.
ENCODINGS = {
    'rgb8': ('u1', 3, (0, 1, 2)), 'bgr8': ('u1', 3, (2, 1, 0)), 'rgba8': ('u1', 4, (0, 1, 2)),
    'bgra8': ('u1', 4, (2, 1, 0)), 'rgb16': ('u2', 3, None), 'bgr16': ('u2', 3, (2, 1, 0)),
    'rgba16': ('u2', 4, (0, 1, 2)), 'bgra16': ('u2', 4, (2, 1, 0)),
    'mono8': ('u1', 1, None), 'mono16': ('u2', 1, None),
    '8UC1': ('u1', 1, None), '8UC3': ('u1', 3, None), '8UC4': ('u1', 4, (0, 1, 2)),
    '8SC1': ('i1', 1, None), '16UC1': ('u2', 1, None), '16UC3': ('u2', 3, None),
    '16UC4': ('u2', 4, (0, 1, 2)), '16SC1': ('i2', 1, None), '32SC1': ('i4', 1, None),
    '32FC1': ('f4', 1, None), '32FC3': ('f4', 3, None), '32FC4': ('f4', 4, (0, 1, 2)),
}
CONTAINERS = {
    'bytes': bytes, 'array': lambda raw: array.array('B', raw), 'memoryview': memoryview,
    'numpy': lambda raw: np.frombuffer(raw, np.uint8), 'bytearray': bytearray,
}
SIZES = st.integers(1, 9)


def message(encoding, height, width, padding=0, big=False, seed=0):
    """Return an image and the message bytes and step that hold it."""
    kind, channels, _ = ENCODINGS[encoding]
    image = noise(height, width, np.dtype(kind).type, channels, seed)
    rows = image.astype(image.dtype.newbyteorder('>' if big else '<')).reshape(height, -1)
    raw = b''.join(row.tobytes() + b'\xaa' * padding for row in rows)
    return image, raw, len(raw) // height


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(ENCODINGS)), SIZES, SIZES, st.integers(0, 7), st.booleans(),
       st.sampled_from(sorted(CONTAINERS)), st.integers(0, 99))
def test_every_encoding_stride_byte_order_and_container_round_trips(
        encoding, height, width, padding, big, container, seed):
    image, raw, step = message(encoding, height, width, padding, big, seed)
    order = ENCODINGS[encoding][2]
    decoded = decode(height, width, encoding, step, big, CONTAINERS[container](raw))
    np.testing.assert_array_equal(decoded, image if order is None else image[..., list(order)])
    assert decoded.dtype == image.dtype and decoded.dtype.isnative


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ENCODINGS)), st.integers(-3, 12), st.integers(-3, 12),
       st.integers(-5, 200), st.integers(0, 600))
def test_any_size_step_and_length_decodes_or_is_an_image_error(encoding, height, width, step,
                                                              length):
    try:
        image = decode(height, width, encoding, step, False, bytes(length))
    except ImageError as error:
        assert error.cause in ('step', 'size') and str(error).endswith('.')
    else:
        assert image.shape[:2] == (height, width) and length == height * step


@pytest.mark.parametrize('encoding', ['rgb8', 'mono8', 'mono16', '16UC1', '32FC1'])
@pytest.mark.parametrize('padding', [0, 8])
def test_decoding_copies_nothing_and_protects_the_message(encoding, padding):
    _, raw, step = message(encoding, 6, 8, padding)
    data = array.array('B', raw)
    image = decode(6, 8, encoding, step, False, data)
    assert np.shares_memory(image, np.frombuffer(data, np.uint8))
    assert not image.flags.writeable
    assert cv2.resize(image, (4, 3)).shape[:2] == (3, 4)  # OpenCV takes such a view


@pytest.mark.parametrize('change, cause, found', [
    ({'encoding': 'yuv411'}, 'encoding', "'yuv411'"),
    ({'encoding': ''}, 'encoding', "''"),
    ({'step': 23}, 'step', '23'),
    ({'step': 0}, 'step', '0'),
    ({'data': bytes(143)}, 'size', '143'),
    ({'data': b''}, 'size', '0'),
    ({'data': bytes(145)}, 'size', '145'),
    ({'height': 0}, 'size', '8x0'),
    ({'width': 0}, 'size', '0x6'),
    ({'height': 2**32 - 1}, 'size', '4294967295'),
    ({'width': 8193, 'step': 8193 * 3, 'data': bytes(8193 * 18)}, 'size', '8193'),
])
def test_a_malformed_message_names_its_cause_and_what_was_found(change, cause, found):
    good = {'height': 6, 'width': 8, 'encoding': 'rgb8', 'step': 24, 'data': bytes(144)}
    decode(is_bigendian=False, **good)
    for call in (check, lambda **fields: decode(is_bigendian=0, **fields)):
        with pytest.raises(ImageError) as caught:
            call(**{**good, **change})
        assert caught.value.cause == cause
        assert found in str(caught.value) and 'expected' in str(caught.value)


def png(image):
    """Return PNG bytes of an RGB or gray image."""
    return cv2.imencode('.png', image if image.ndim == 2 else image[..., ::-1])[1].tobytes()


@pytest.mark.parametrize('dtype, channels', [(np.uint8, 1), (np.uint8, 3), (np.uint16, 1)])
@pytest.mark.parametrize('format', ['png', 'rgb8; png compressed bgr8', '16UC1; png compressed '])
def test_a_png_comes_back_exactly_and_in_rgb_order(dtype, channels, format):
    image = noise(20, 30, dtype, channels)
    decoded = decode_compressed(format, png(image))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == dtype


def test_a_jpeg_comes_back_in_rgb_order_and_nearly():
    image = cv2.GaussianBlur(noise(40, 60, np.uint8, 3), (0, 0), 9)
    image[..., 0] //= 4
    jpeg = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1]
    for data in (jpeg, jpeg.tobytes(), array.array('B', jpeg.tobytes())):
        decoded = decode_compressed('rgb8; jpeg compressed bgr8', data)
        assert np.abs(decoded.astype(int) - image).max() < 12


def test_gray_decides_between_one_and_three_channels():
    gray, color, deep = (png(noise(5, 6, *kind)) for kind in
                         ((np.uint8, 1), (np.uint8, 3), (np.uint16, 1)))
    assert [decode_compressed('png', data, gray=False).shape for data in (gray, color, deep)] \
        == [(5, 6, 3)] * 3
    assert [decode_compressed('png', data, gray=True).shape for data in (gray, color, deep)] \
        == [(5, 6)] * 3
    assert decode_compressed('png', deep, gray=True).dtype == np.uint16


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(['.png', '.jpg']), st.floats(0, 0.999))
def test_a_truncated_file_is_an_image_error(suffix, share):
    data = cv2.imencode(suffix, noise(24, 32, np.uint8, 3))[1].tobytes()
    with pytest.raises(ImageError) as caught:
        decode_compressed(suffix[1:], data[:int(len(data) * share)])
    assert caught.value.cause in ('encoding', 'decode')


def test_a_jpeg_without_its_end_is_told_as_truncated_even_where_opencv_would_pad_it():
    data = cv2.imencode('.jpg', noise(24, 32, np.uint8, 3))[1].tobytes()
    for lost in (1, 2, 50):
        with pytest.raises(ImageError, match='truncated'):
            decode_compressed('jpeg', data[:-lost])
    assert decode_compressed('jpeg', data + bytes(64)).shape == (24, 32, 3)  # padded by a camera


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n']))
def test_random_bytes_are_an_image_error(tail, head):
    for call in (decode_compressed, decode_label):
        with pytest.raises(ImageError):
            call('jpeg', head + tail)


def test_a_bomb_is_refused_by_its_header():
    good = bytearray(png(noise(4, 4, np.uint8)))
    good[16:24] = struct.pack('>II', 100_000, 100_000)
    good[29:33] = struct.pack('>I', zlib.crc32(bytes(good[12:29])))
    with pytest.raises(ImageError, match='100000x100000') as caught:
        decode_compressed('png', bytes(good))
    assert caught.value.cause == 'size'
    jpeg = bytearray(cv2.imencode('.jpg', noise(8, 8, np.uint8))[1].tobytes())
    at = jpeg.index(b'\xff\xc0') + 5
    jpeg[at:at + 4] = struct.pack('>HH', 65000, 65000)
    with pytest.raises(ImageError, match='65000x65000'):
        decode_compressed('jpeg', bytes(jpeg))


def test_the_compressed_depth_of_image_transport_is_refused_as_another_transport():
    with pytest.raises(ImageError, match='compressedDepth is another transport') as caught:
        decode_compressed('16UC1; compressedDepth png', b'\0' * 12 + png(noise(4, 4, np.uint16)))
    assert caught.value.cause == 'encoding'


def test_what_a_failed_publisher_sends_names_its_log():
    with pytest.raises(ImageError, match='log of the publisher'):
        decode_compressed('16UC1; jpeg compressed mono8', b'')


PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type: gray, color, gray and alpha, color and it
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))  # first row and column, and the steps from them, by pass


def chunk(kind, data):
    """Return one chunk of a PNG."""
    body = kind + data
    return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))


def handmade_png(pixels, kind, interlaced):
    """Return a PNG of (H, W, C) pixels, without an image library."""
    height, width = pixels.shape[:2]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    parts = (pixels[y::down, x::right] for y, x, down, right in passes)
    rows = b''.join(b'\0' + row.astype(row.dtype.newbyteorder('>')).tobytes()
                    for part in parts if part.size for row in part)
    header = struct.pack('>IIBBBBB', width, height, 8 * pixels.itemsize, kind, 0, 0, interlaced)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


@pytest.mark.parametrize('kind', PNG_CHANNELS)
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('interlaced', [0, 1])
def test_a_png_of_any_depth_color_and_interlacing_comes_back_without_its_alpha(
        kind, dtype, interlaced):
    pixels = noise(11, 13, dtype, 4)[..., :PNG_CHANNELS[kind]]
    decoded = decode_compressed('png', handmade_png(pixels, kind, interlaced))
    np.testing.assert_array_equal(decoded, pixels[..., :3] if kind in (2, 6) else pixels[..., 0])
    assert decoded.dtype == dtype


def test_a_mosaic_in_a_png_is_told_by_its_format_and_one_in_a_jpeg_is_gray_already():
    mosaic = noise(12, 14, np.uint8)
    color = decode_compressed('bayer_gbrg8; png compressed ', png(mosaic))
    np.testing.assert_array_equal(color, decode(12, 14, 'bayer_gbrg8', 14, 0, mosaic.tobytes()))
    deep = decode_compressed('bayer_gbrg16; png compressed ', png(noise(12, 14, np.uint16)))
    assert (deep.shape, deep.dtype) == ((12, 14, 3), np.uint16)
    np.testing.assert_array_equal(decode_compressed('mono8; png compressed ', png(mosaic)), mosaic)
    jpeg = cv2.imencode('.jpg', mosaic)[1]
    assert decode_compressed('bayer_gbrg8; jpeg compressed mono8', jpeg).shape == (12, 14)
    with pytest.raises(ImageError, match='at least 3'):
        decode_compressed('bayer_gbrg8; png compressed ', png(mosaic[:2]))


def test_a_jpeg_of_the_aux_camera_is_told_and_what_it_lost():
    jpeg, lossless = cv2.imencode('.jpg', noise(8, 8, np.uint8))[1], png(noise(8, 8, np.uint8))
    assert 'its mono16 values became 8 bits' in lossy('mono16; jpeg compressed mono8', jpeg)
    assert 'temperatures or ids are lost' in lossy('jpeg', jpeg.tobytes())
    assert lossy('jpeg', lossless) == lossy('', b'') == ''  # the bytes decide


def indexed(ids):
    """Return an indexed PNG of these ids, written by hand."""
    height, width = ids.shape
    header = struct.pack('>IIBBBBB', width, height, 8, 3, 0, 0, 0)
    rows = b''.join(b'\0' + row.tobytes() for row in ids)
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
            + chunk(b'PLTE', noise(1, 256, np.uint8, 3).tobytes())
            + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


def test_a_label_is_read_as_ids_from_a_gray_or_an_indexed_png():
    ids = noise(7, 9, np.uint8)
    np.testing.assert_array_equal(decode_label('png', png(ids)), ids)
    assert decode_compressed('png', indexed(ids)).shape == (7, 9, 3)  # colors, to everyone else
    np.testing.assert_array_equal(decode_label('png', indexed(ids)), ids)
    np.testing.assert_array_equal(decode_label('png', png(ids.astype(np.uint16))), ids)


def test_a_label_that_is_a_jpeg_or_a_color_picture_is_refused():
    with pytest.raises(ImageError, match='JPEG'):
        decode_label('jpeg', cv2.imencode('.jpg', noise(8, 8, np.uint8))[1])
    with pytest.raises(ImageError, match='color type 2'):
        decode_label('png', png(noise(8, 8, np.uint8, 3)))


def test_an_rgb_camera_of_any_unsigned_depth_becomes_8_bit_rgb():
    gray, deep, color = noise(3, 4, np.uint8), noise(3, 4, np.uint16), noise(3, 4, np.uint8, 3)
    np.testing.assert_array_equal(to_rgb8(gray, 'mono8'), np.repeat(gray[..., None], 3, 2))
    np.testing.assert_array_equal(to_rgb8(deep, 'mono16')[..., 1], np.rint(deep / 257))
    assert to_rgb8(color, 'rgb8') is color
    for image, encoding in ((noise(3, 4, np.float32), '32FC1'), (noise(3, 4, np.int16), '16SC1')):
        with pytest.raises(ImageError, match=encoding):
            to_rgb8(image, encoding)
