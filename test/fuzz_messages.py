# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Nonsense as messages: what drivers, cut wires and other people's nodes may send, by a seed.

Each function takes a random.Random and returns a message of real rclpy types. What is wrong with
it is drawn, so is whether anything is: among them are odd, but valid images.
"""

from __future__ import annotations

import array
import math
import struct
import zlib
from random import Random
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

SECOND = 1_000_000_000
SIZE = (48, 64)  # of the valid images and of the network: masks are then known pixel by pixel
CELL = 8  # pixels a side of the squares of one value that valid images are made of
COLD, HOT = 28_000, 31_500  # counts of 0.01 K: 280 K and 315 K, dark and bright by any range
MAX_SIDE = 8192
LARGE = 0.0  # share of images of up to 8192 x 8192 pixels; the fuzzer sets it
FRAMES = {'rgb': 'rgb_optical', 'aux': 'thermal_optical'}

BYTES = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'rgb16': 6, 'bgr16': 6, 'rgba16': 8,
         'bgra16': 8, 'mono8': 1, 'mono16': 2, '8UC1': 1, '8UC3': 3, '8UC4': 4, '8SC1': 1,
         '16UC1': 2, '16UC3': 6, '16UC4': 8, '16SC1': 2, '32SC1': 4, '32FC1': 4, '32FC3': 12,
         '32FC4': 16, '64FC1': 8, 'bayer_rggb8': 1, 'bayer_bggr16': 2, 'uyvy': 2, 'yuyv': 2,
         'yuv422': 2, 'yuv422_yuy2': 2, 'nv12': 1, 'nv21': 1, 'nv24': 1}
ROWS = {'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}
LIKELY = {'rgb': ('rgb8', 'bgr8', 'mono8', 'rgba8', 'bayer_rggb8', 'yuyv', 'nv12', 'rgb16'),
          'aux': ('mono16', '16UC1', 'mono8', '32FC1', '64FC1', '16SC1', 'rgb8', '8UC3', 'rgb16'),
          'depth': ('16UC1', '32FC1', 'mono16')}
NEAR_MISSES = ('RGB8', 'rgb8 ', ' mono16', 'mono8\n', 'rgb', 'mono', '8UC', '8UC0', '16UC2',
               '64FC3', '32SC3', '8UC99999999999', 'jpeg', 'h264', 'rgb8\0', 'bayer_rggb', 'YUYV',
               'mono10', '16FC1', 'compressedDepth', '{}', '%s%n', 'None', '../..')


def squares(rng: Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an RGB image, a 16-bit thermal one, and the mask that the tiny model makes of them."""
    height, width = (side // CELL for side in SIZE)
    cells = [np.array([rng.random() < 0.5 for _ in range(height * width)]) for _ in range(2)]
    for values in cells:
        values[:2] = False, True  # both of them: a range of percentiles needs two
    red, warm = (np.kron(values.reshape(height, width), np.ones((CELL, CELL), bool))
                 for values in cells)
    rgb = np.dstack([np.where(red, 235, 20)] * 3).astype(np.uint8)
    return rgb, np.where(warm, HOT, COLD).astype(np.uint16), red.astype(np.uint8) + warm


def text(rng: Random, wire: bool = True) -> str:
    """Return a string to stumble over; one that no wire can carry only if `wire` is False."""
    pool = ['', 'x' * 10_000, '\U0001f525' * 50, 'ä/ß', 'a\0b', '\n\r\t', '/' * 300, '%d%s%n',
            '{}{0}', '\ufffd\ufffe', '\u202e', "'; --", 'nan', '-1', ' ', 'rgb_optical']
    if not wire:
        pool += ['\udc80\udcff', 'rgb8\ud800', '\udfff' * 1000]
    return rng.choice(pool)


def stamp_ns(rng: Random, free_ns: tuple[int, int]) -> int:
    """Return a stamp, mostly from the span that belongs to no valid pair."""
    if rng.random() < 0.6:
        return rng.randint(*free_ns)
    return rng.choice((0, 1, -1, -SECOND, free_ns[0] - rng.randint(10**9, 10**10),
                       free_ns[1] + rng.randint(10**10, 10**18), 2**31 * SECOND - 1,
                       -2**31 * SECOND, rng.randint(-2**60, 2**60)))


def header(rng: Random, free_ns: tuple[int, int]) -> Header:
    """Return a header, now and then with more than a second of nanoseconds."""
    stamp = stamp_ns(rng, free_ns)
    sec = min(max(stamp // SECOND, -2**31), 2**31 - 1)
    nanosec = stamp % SECOND
    if rng.random() < 0.05:
        sec, nanosec = max(sec - 9, -2**31), rng.choice((SECOND, 2**31, 2**32 - 1))
    frame_id = text(rng) if rng.random() < 0.2 else 'camera'
    return Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=frame_id)


def side(rng: Random, most: int = MAX_SIDE) -> int:
    """Return a length in pixels: mostly small, seldom up to `most`."""
    drawn = rng.random()
    if drawn < 0.3:
        return rng.randint(1, 9)
    return rng.randint(1, 160) if drawn < 0.99 else rng.randint(1, most)


def size(rng: Random) -> tuple[int, int]:
    """Return a height and a width of which one at most is large, but for a share of LARGE."""
    if rng.random() < LARGE:
        return rng.choice(((MAX_SIDE, MAX_SIDE), (4320, 7680), (MAX_SIDE, 4096)))
    height, width = side(rng), side(rng, 160)
    return (height, width) if rng.random() < 0.5 else (width, height)


def content(rng: Random, length: int) -> bytes:
    """Return bytes: noise, constants, and floats that are none."""
    kind = rng.random()
    if length > 10**7 or kind < 0.2:
        return bytes(length)
    if kind < 0.3:
        return bytes([rng.randrange(256)]) * length
    if kind < 0.5:
        words = struct.pack('<6f', math.nan, math.inf, -math.inf, 300.0, 3e38, -0.0)
        return (words * (length // len(words) + 1))[:length]
    if kind < 0.6:
        words = struct.pack('>2d', math.nan, 1e308)
        return (words * (length // len(words) + 1))[:length]
    return rng.randbytes(length)


def image(rng: Random, stream: str, free_ns: tuple[int, int], wire: bool = True,
          soundness: float = 0.25) -> Image:
    """Return an Image for 'rgb', 'aux' or 'depth' with up to three things wrong.

    `soundness` is the share of those that are odd at most.
    """
    encoding = rng.choice(LIKELY[stream] if rng.random() < 0.7 else list(BYTES))
    height, width = SIZE if rng.random() < 0.3 else size(rng)
    if encoding in ('nv12', 'nv21', 'uyvy', 'yuyv') and rng.random() < 0.8:
        height, width = height + height % 2, width + width % 2
    step = width * BYTES[encoding] + (rng.randint(1, 70) if rng.random() < 0.2 else 0)
    message = Image(header=header(rng, free_ns), height=height, width=width, encoding=encoding,
                    step=step, is_bigendian=rng.choice((0, 0, 0, 1, 2, 255)))
    message.data = array.array('B', content(rng, int(height * ROWS.get(encoding, 1)) * step))
    for _ in range(0 if rng.random() < soundness else rng.choice((1, 1, 1, 2, 3))):
        damage(rng, message, wire)
    return message


def damage(rng: Random, message: Image, wire: bool) -> None:
    """Make one field wrong."""
    number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(2**32), MAX_SIDE + 1))
    field = rng.choice(('height', 'width', 'step', 'encoding', 'encoding', 'cut', 'cut', 'surplus',
                        'empty', 'off by one'))
    if field in ('height', 'width', 'step'):
        setattr(message, field, number)
    elif field == 'encoding':
        message.encoding = rng.choice((*NEAR_MISSES, *BYTES, text(rng, wire)))
    elif field == 'cut':
        del message.data[rng.randint(0, len(message.data)):]
    elif field == 'surplus':
        message.data.frombytes(rng.randbytes(rng.randint(1, 99)))
    elif field == 'empty':
        message.data = array.array('B')
    else:
        name = rng.choice(('height', 'width', 'step'))
        value = getattr(message, name) + rng.choice((-1, 1))
        setattr(message, name, min(max(value, 0), 2**32 - 1))


def picture(rng: Random, stream: str) -> np.ndarray:
    """Return pixels to compress."""
    height, width = SIZE if rng.random() < 0.3 else size(rng)
    if height * width > 10**7:
        height, width = 2160, 3840
    color = rng.random() < (0.8 if stream == 'rgb' else 0.2)
    dtype = np.dtype(rng.choice((np.uint8, np.uint16)))
    shape = (height, width, rng.choice((3, 4))) if color else (height, width)
    count = int(np.prod(shape))
    return np.frombuffer(content(rng, count * dtype.itemsize), dtype).reshape(shape)


def bomb(rng: Random, data: bytes) -> bytes:
    """Return a JPEG or PNG whose header claims another size than its data holds."""
    most = MAX_SIDE if LARGE else 1000
    sides = [rng.choice((0, 1, 8, most, most, 20_000, 65_535)) for _ in range(2)]
    broken = bytearray(data)
    if data.startswith(b'\x89PNG'):
        broken[16:24] = struct.pack('>II', *sides)
        broken[29:33] = struct.pack('>I', zlib.crc32(bytes(broken[12:29])))
        return bytes(broken)
    at = next((at for mark in (b'\xff\xc0', b'\xff\xc2') if (at := data.find(mark)) > 0), 0)
    broken[at + 5:at + 9] = struct.pack('>HH', *sides)
    return bytes(broken)


def compressed(rng: Random, stream: str, free_ns: tuple[int, int],
               wire: bool = True, soundness: float = 0.25) -> CompressedImage:
    """Return a CompressedImage: a file that may be cut, bent, or no image at all."""
    pixels = picture(rng, stream)
    suffix = rng.choice(('.png', '.jpg') if rng.random() < 0.9 else ('.webp', '.bmp', '.tiff'))
    if suffix in ('.jpg', '.webp', '.bmp') and pixels.dtype != np.uint8:
        pixels = pixels.astype(np.uint8)
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    for _ in range(0 if rng.random() < soundness else rng.choice((1, 1, 2))):
        kind = rng.randrange(6)
        if kind < 2 and data:
            bent = bytearray(data)
            for _ in range(rng.choice((1, 1, 5, 50))):
                bent[rng.randrange(len(bent))] ^= 1 << rng.randrange(8)
            data = bytes(bent)
        elif kind == 2:
            data = data[:rng.randint(0, len(data))]
        elif kind == 3:
            data = bomb(rng, data)
        elif kind == 4:
            data = rng.choice((b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', data[:8] * 9,
                               data + data, rng.randbytes(rng.randint(0, 400)), data[:40] + data))
        else:
            at = rng.randint(0, len(data))
            data = data[:at] + rng.randbytes(rng.randint(1, 30)) + data[at:]
    format = rng.choice(('png', 'jpeg', '', 'mono16; png compressed ', '16UC1; compressedDepth png',
                         'bayer_rggb8; png compressed ', 'rgb8; jpeg compressed bgr8',
                         '; ; ;', text(rng, wire)))
    return CompressedImage(header=header(rng, free_ns), format=format,
                           data=array.array('B', data))


def real(rng: Random) -> float:
    """Return a number, often none of this world."""
    return rng.choice((0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e308, 5e-324, 1e9,
                       -1e9, 1e-9, rng.gauss(0, 1), rng.gauss(0, 1e3)))


def camera_info(rng: Random) -> CameraInfo:
    """Return the calibration of a camera, with up to five faults."""
    info = valid_info(rng.choice(('rgb', 'aux')))
    for _ in range(rng.randint(0, 5)):
        kind, huge = rng.randrange(8), rng.choice((0, 1, 2, 63, 64, 2**31, 2**32 - 1))
        if kind == 0:
            info.k = [real(rng) for _ in range(9)]
        elif kind == 1:
            info.k[rng.randrange(9)] = real(rng)
        elif kind == 2:
            info.d = [real(rng) for _ in range(rng.choice((0, 1, 3, 4, 5, 8, 12, 14, 1000)))]
        elif kind == 3:
            info.distortion_model = rng.choice(('plumb_bob', 'rational_polynomial', 'equidistant',
                                                'fisheye', text(rng)))
        elif kind == 4:
            setattr(info, rng.choice(('width', 'height')), huge)
        elif kind == 5:
            setattr(info, rng.choice(('binning_x', 'binning_y')), huge)
        elif kind == 6:
            setattr(info.roi, rng.choice(('x_offset', 'y_offset', 'width', 'height')), huge)
        else:
            info.header.frame_id = text(rng)
    return info


def transform(rng: Random) -> TransformStamped:
    """Return a transform between frames that may exist."""
    frames = ['camera', *FRAMES.values(), '/rgb_optical', 'base', text(rng)]
    stamped = TransformStamped(header=Header(frame_id=rng.choice(frames)),
                               child_frame_id=rng.choice(frames))
    move, turn = stamped.transform.translation, stamped.transform.rotation
    move.x, move.y, move.z = (real(rng) for _ in range(3))
    turn.x, turn.y, turn.z, turn.w = (real(rng) for _ in range(4))
    return stamped


def bent_cdr(rng: Random, serialized: bytes) -> bytes:
    """Return a serialized message as a broken sender or wire would deliver it."""
    bent = bytearray(serialized)
    for _ in range(rng.choice((1, 1, 3))):
        kind = rng.randrange(4)
        if kind == 0:
            del bent[rng.randint(0, len(bent)):]
        elif kind == 1 and bent:
            bent[rng.randrange(min(len(bent), 120))] ^= 1 << rng.randrange(8)
        elif kind == 2 and len(bent) > 12:
            at = rng.randrange(4, min(len(bent) - 4, 120))
            bent[at:at + 4] = struct.pack('<I', rng.choice((0, 2**31, 2**32 - 1, 10**6)))
        else:
            bent += rng.randbytes(rng.randint(0, 40))
    return bytes(bent)


def valid_pair(rng: Random, stamp: int, skew: int,
               packed: tuple[str, ...] = ()) -> tuple[dict[str, Any], np.ndarray]:
    """Return the images of a pair by stream, compressed if `packed` names it, and their mask."""
    rgb, thermal, mask = squares(rng)
    made: dict[str, Any] = {}
    for stream, plain, encoding, own in (('rgb', rgb, 'rgb8', stamp),
                                         ('aux', thermal, 'mono16', stamp + skew)):
        head = Header(stamp=Time(sec=own // SECOND, nanosec=own % SECOND), frame_id=FRAMES[stream])
        if stream in packed:
            data = cv2.imencode('.png', plain)[1].tobytes()
            made[stream] = CompressedImage(header=head, format='png', data=array.array('B', data))
        else:
            made[stream] = Image(header=head, height=SIZE[0], width=SIZE[1], encoding=encoding,
                                 step=plain[0].nbytes, data=array.array('B', plain.tobytes()))
    return made, mask


def valid_info(stream: str) -> CameraInfo:
    """Return the calibration of a camera of valid images; both stand at one place."""
    height, width = SIZE
    return CameraInfo(header=Header(frame_id=FRAMES[stream]), height=height, width=width,
                      distortion_model='plumb_bob', d=[0.0] * 5,
                      k=[60.0, 0, width / 2 - 0.5, 0, 60.0, height / 2 - 0.5, 0, 0, 1])


def valid_transform() -> TransformStamped:
    """Return where the aux camera of valid images stands: where the RGB camera does."""
    stamped = TransformStamped(header=Header(frame_id=FRAMES['rgb']), child_frame_id=FRAMES['aux'])
    stamped.transform.rotation.w = 1.0
    return stamped
