# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A camera as sensor_msgs/CameraInfo describes it, and where a second one stands beside it.

Pixel (0, 0) is the center of the first pixel, as in OpenCV and ROS: the image reaches from -0.5 to
width - 0.5, so an image resized by s has x' = (x + 0.5) s - 0.5. Optical frames as in REP-103: x
right, y down, z forward, in meters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rgbx_seg_ros import RgbxSegError

Array = NDArray[Any]

FAR = -1e5  # the pixel coordinate of what a camera cannot see: outside of any image
MAX_SIDE = 8192  # pixels
MAX_NUMBER = 1e9  # of a coefficient: finite in float32 at any radius below
MAX_SHARE = 1e4  # focal length and center, of the image's sides; the least focal length is 1 / it
MAX_RADIUS = 20.0  # x / z = 87 degrees off the axis; beyond, a lens model is a guess
MAX_ROTATION_ERROR = 1e-3  # of R R^T: three written decimals


def polynomial(x: Array, y: Array, r2: Array, d: tuple[float, ...]) -> tuple[Array, Array]:
    """Distort x / z, y / z by (k1, k2, p1, p2, k3, k4, k5, k6), r2 = x x + y y.

    Brown's model with OpenCV's rational denominator (camera calibration reference of OpenCV).
    """
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial /= 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    u, v = x * radial, y * radial
    if p1 or p2:
        xy = 2 * x * y
        u += p1 * xy + p2 * (r2 + 2 * x * x)
        v += p2 * xy + p1 * (r2 + 2 * y * y)
    return u, v


def equidistant(x: Array, y: Array, r2: Array, d: tuple[float, ...]) -> tuple[Array, Array]:
    """Distort x / z, y / z by (k1, k2, k3, k4) of Kannala and Brandt's fisheye (PAMI 2006)."""
    radius = np.sqrt(r2)
    angle = np.arctan(radius)
    t2 = angle * angle
    bent = angle * (1 + t2 * (d[0] + t2 * (d[1] + t2 * (d[2] + t2 * d[3]))))
    scale = np.divide(bent, radius, out=np.ones_like(bent), where=radius > 1e-8)
    return x * scale, y * scale


def ideal(x: Array, y: Array, r2: Array, d: tuple[float, ...]) -> tuple[Array, Array]:
    """Return a pinhole's x / z, y / z as they are."""
    return x, y


Distortion = Callable[[Array, Array, Array, tuple[float, ...]], tuple[Array, Array]]
# Name (sensor_msgs/distortion_models.hpp) -> formula, coefficients used, coefficients required.
MODELS: dict[str, tuple[Distortion, int, int]] = {
    'plumb_bob': (polynomial, 8, 4),
    'rational_polynomial': (polynomial, 8, 8),
    'equidistant': (equidistant, 4, 4),
}


@dataclass(frozen=True)
class Camera:
    """Intrinsics of the raw image that arrives: its size in pixels, K row-major, D and its model.

    Without `d` it is a pinhole. Raises RgbxSegError for what no image can be projected with.
    """

    width: int
    height: int
    k: tuple[float, ...]
    d: tuple[float, ...] = ()
    model: str = ''
    frame_id: str = ''

    def __post_init__(self) -> None:
        """Refuse an uncalibrated camera, and what the formulas do not cover."""
        for name in ('k', 'd'):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        self._expect(len(self.k) == 9 and all(abs(v) <= MAX_NUMBER for v in (*self.k, *self.d)),
                     'has a K or D that is not of finite numbers', '9 for K', 'calibrate again')
        self._expect(self.k[0] != 0, 'is uncalibrated (K[0] is 0)', 'intrinsics',
                     'calibrate the camera, or use registration.mode homography')
        self._expect(0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE,
                     f'is for {self.width}x{self.height} pixels', f'1 to {MAX_SIDE} a side',
                     'let the driver fill width and height')
        fx, skew, cx, zero, fy, cy, *last = self.k
        good = not skew and not zero and list(last) == [0, 0, 1]
        # As shares of the image, so that a camera that is good stays so when it is scaled.
        for f, c, side in ((fx, cx, self.width), (fy, cy, self.height)):
            good &= side / MAX_SHARE < f < side * MAX_SHARE and abs(c) < side * MAX_SHARE
        self._expect(good, f'has K = {list(self.k)}', '[fx, 0, cx, 0, fy, cy, 0, 0, 1]',
                     'calibrate the camera again')
        if self._is_ideal:
            return
        self._expect(self.model in MODELS, f'has the distortion model "{self.model}"',
                     ' or '.join(MODELS), 'rectify the image first (image_proc)')
        _, used, required = MODELS[self.model]
        good = len(self.d) >= required and not any(self.d[used:])
        self._expect(good, f'has {len(self.d)} coefficients D for {self.model}',
                     f'{required} to {used}, others 0', 'rectify the image first (image_proc)')

    @classmethod
    def from_info(cls, info: Any) -> Camera:
        """Return the camera of the image that a sensor_msgs/CameraInfo accompanies.

        K is for the full sensor; the image is its region of interest, then binned (REP-104). A
        binned pixel lies at the center of those that it combines.
        """
        roi, bin_x, bin_y = info.roi, max(1, info.binning_x), max(1, info.binning_y)
        width = roi.width or info.width - roi.x_offset
        height = roi.height or info.height - roi.y_offset
        k = [float(value) for value in info.k]
        k[2] -= roi.x_offset
        k[5] -= roi.y_offset
        full = cls(width, height, tuple(k), tuple(info.d), info.distortion_model,
                   info.header.frame_id)
        full._expect(roi.x_offset + width <= info.width and roi.y_offset + height <= info.height,
                     'has a region of interest beyond the sensor',
                     f'one within {info.width}x{info.height}', 'mend the driver')
        return full.scaled(width // bin_x, height // bin_y, 1 / bin_x, 1 / bin_y)

    def scaled(self, width: int, height: int, scale_x: float = 0.0, scale_y: float = 0.0) -> Camera:
        """Return the camera of the same image resized to `width` x `height`.

        The scales follow from the sizes unless they are given (binning may cut off a last column).
        """
        if (width, height) == (self.width, self.height):
            return self
        sx, sy = scale_x or width / self.width, scale_y or height / self.height
        fx, _, cx, _, fy, cy = self.k[:6]
        k = (fx * sx, 0, (cx + 0.5) * sx - 0.5, 0, fy * sy, (cy + 0.5) * sy - 0.5, 0, 0, 1)
        return replace(self, width=width, height=height, k=k)

    def project(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Return the pixel coordinates (u, v) of points in the optical frame, in their dtype.

        They are FAR for points behind the camera and beyond the angle where its lens model, bent
        back, would put them into the image once more.
        """
        with np.errstate(all='ignore'):
            x, y = x / z, y / z
            r2 = x * x + y * y
            hidden = ~((z > 0) & (r2 <= self._max_r2))
            formula, d = self._distortion
            x, y = formula(x, y, r2, d)
            u, v = x * self.k[0], y * self.k[4]
            u += self.k[2]
            v += self.k[5]
        for pixel in (u, v):
            np.copyto(pixel, FAR, where=hidden)
        return u, v

    def rays(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return x / z, y / z of the rays through raw pixels, float64; NaN where there is none."""
        u, v = (u - self.k[2]) / self.k[0], (v - self.k[5]) / self.k[4]
        formula, d = self._distortion
        with np.errstate(all='ignore'):
            x, y = _unbend(u, v, d) if formula is equidistant else _invert(formula, u, v, d)
            r2 = x * x + y * y
            there_u, there_v = formula(x, y, r2, d)
            missed = np.hypot((there_u - u) * self.k[0], (there_v - v) * self.k[4])
            none = ~((missed < 0.01) & (r2 <= self._max_r2))
        x[none] = np.nan
        y[none] = np.nan
        return x, y

    @property
    def _is_ideal(self) -> bool:
        # Without bending terms an equidistant lens still is none of a pinhole: r = f angle.
        return not self.d or (self.model != 'equidistant' and not any(self.d))

    @cached_property
    def _distortion(self) -> tuple[Distortion, tuple[float, ...]]:
        if self._is_ideal:
            return ideal, ()
        formula, used, _ = MODELS[self.model]
        return formula, (*self.d, *[0.0] * used)[:used]

    @cached_property
    def _max_r2(self) -> float:
        """The square of the radius up to which a longer radius lies farther out in the image."""
        radius = np.tan(np.linspace(0, math.atan(MAX_RADIUS), 4000))
        formula, d = self._distortion
        with np.errstate(all='ignore'):
            image, _ = formula(radius, np.zeros_like(radius), radius * radius,
                               d if formula is equidistant else (*d[:2], 0.0, 0.0, *d[4:]))
            good = (np.diff(image) > 0) & (image[1:] < 10 * MAX_RADIUS)
        n = len(good) if good.all() else int(np.argmin(good))
        return float(radius[n] ** 2)

    def _expect(self, good: bool, found: str, expected: str, remedy: str) -> None:
        if not good:
            raise RgbxSegError(f'the camera_info of frame "{self.frame_id}" {found}; expected '
                               f'{expected}; {remedy}.')


def _unbend(u: Array, v: Array, d: tuple[float, ...]) -> tuple[Array, Array]:
    """Invert `equidistant` by Newton's method on the angle."""
    bent = np.hypot(u, v)
    angle = bent.copy()
    for _ in range(20):
        t2 = angle * angle
        value = angle * (1 + t2 * (d[0] + t2 * (d[1] + t2 * (d[2] + t2 * d[3]))))
        slope = 1 + t2 * (3 * d[0] + t2 * (5 * d[1] + t2 * (7 * d[2] + t2 * 9 * d[3])))
        angle -= (value - bent) / slope
    angle[~((angle >= 0) & (angle < math.pi / 2))] = np.nan
    scale = np.divide(np.tan(angle), bent, out=np.ones_like(bent), where=bent > 1e-8)
    return u * scale, v * scale


def _invert(formula: Distortion, u: Array, v: Array,
            d: tuple[float, ...]) -> tuple[Array, Array]:
    """Invert a distortion by Newton's method in the plane, from the distorted point on."""
    x, y, h = u.copy(), v.copy(), 1e-6
    for _ in range(20):
        at_u, at_v = formula(x, y, x * x + y * y, d)
        right_u, right_v = formula(x + h, y, (x + h) ** 2 + y * y, d)
        below_u, below_v = formula(x, y + h, x * x + (y + h) ** 2, d)
        a, b, c, e = right_u - at_u, below_u - at_u, right_v - at_v, below_v - at_v
        miss_u, miss_v = (at_u - u) * h, (at_v - v) * h
        determinant = a * e - b * c
        step_x, step_y = ((e * miss_u - b * miss_v) / determinant,
                          (a * miss_v - c * miss_u) / determinant)
        x -= step_x
        y -= step_y
        if not (np.abs(step_x) + np.abs(step_y) > 1e-10).any():  # no comparison holds for NaN
            break
    return x, y


class Transform:
    """A rigid motion: point there = rotation @ point here + translation, in meters."""

    def __init__(self, rotation: ArrayLike, translation: ArrayLike) -> None:
        """Take a rotation matrix 3x3 and a translation of 3; raises RgbxSegError."""
        self.rotation = np.array(rotation, np.float64)
        self.translation = np.array(translation, np.float64)
        _expect(self.rotation.shape == (3, 3) and np.isfinite(self.rotation).all(), 'rotation',
                rotation, '3x3 finite numbers')
        _expect(self.translation.shape == (3,) and np.isfinite(self.translation).all(),
                'translation', translation, '3 finite numbers, in meters')
        error = np.abs(self.rotation @ self.rotation.T - np.eye(3)).max()
        _expect(error <= MAX_ROTATION_ERROR and np.linalg.det(self.rotation) > 0, 'rotation',
                rotation, 'a rotation matrix (rows of length 1, at right angles, right-handed)')

    @classmethod
    def from_quaternion(cls, quaternion: ArrayLike, translation: ArrayLike) -> Transform:
        """Return the motion of a quaternion (x, y, z, w) of any length but 0."""
        q, t = np.array(quaternion, np.float64), np.array(translation, np.float64)
        _expect(q.shape == (4,) and np.isfinite(q).all(), 'quaternion', quaternion,
                '4 finite numbers x, y, z, w')
        _expect(t.shape == (3,) and (np.abs(t) <= MAX_NUMBER).all(), 'translation', translation,
                '3 finite numbers, in meters')
        largest = np.abs(q).max()
        _expect(largest > 1e-6, 'quaternion', quaternion, 'one of length 1 (no turn is 0, 0, 0, 1)')
        q /= largest  # the square of a huge one has no place in a float
        x, y, z, w = q / np.linalg.norm(q)
        rotation = [[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                    [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                    [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]]
        return cls(rotation, translation)

    def __matmul__(self, other: Transform) -> Transform:
        """Return the motion that applies `other` first."""
        return Transform(self.rotation @ other.rotation,
                         self.rotation @ other.translation + self.translation)

    def inverse(self) -> Transform:
        """Return the motion back."""
        return Transform(self.rotation.T, -self.rotation.T @ self.translation)

    def __eq__(self, other: object) -> bool:
        """Compare number by number."""
        return (isinstance(other, Transform) and np.array_equal(self.rotation, other.rotation)
                and np.array_equal(self.translation, other.translation))

    __hash__ = None  # type: ignore[assignment]


def _expect(good: Any, key: str, found: object, expected: str) -> None:
    if not good:
        text = ' '.join(str(found).split())
        raise RgbxSegError(f'{key} is {text[:80]}; expected {expected}.')
