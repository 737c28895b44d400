# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Camera models that turn a painted view into the images of five kinds of sensor."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from rgbx_seg_train.data.synthetic_geometry import Array, Camera, Raster, image_rays
from rgbx_seg_train.data.synthetic_materials import Generator, MaterialTable, Weather

Image = NDArray[np.float32]

COUNTS_PER_KELVIN = 100.0  # TLinear: 0.01 K per count
DEPTH_CAP = 80.0  # meters
EVENT_THRESHOLD = 0.18  # change of log intensity per event
SKY_FACE = 0


class Cameras(NamedTuple):
    """Traits of the cameras of one scene; lengths in pixels at 640 columns."""

    rgb_read_noise: float
    rgb_blur: float
    tint: Array
    thermal_blur: float
    netd: float  # kelvin
    fixed_column: Array  # (512,) kelvin
    fixed_pixel: float  # kelvin
    vignette: float  # kelvin at the corners
    detail: Image  # (256, 256) texture of the world, mean 0


class View(NamedTuple):
    """A painted view: faces and tables, inverse depth (1/m, 0 in the sky), texture, shadow."""

    camera: Camera
    raster: Raster
    material: MaterialTable
    weather: Weather
    cameras: Cameras
    inverse_depth: Image
    detail: Image
    shadow: Image | None
    lamps: Array  # (n, 4) x, y, z, power


def draw_cameras(rng: Generator) -> Cameras:
    """Draw the cameras' blur, noise and fixed patterns, and the texture of the world."""
    detail = np.zeros((256, 256), np.float32)
    for size, weight in ((8, 0.5), (32, 0.6), (128, 0.6)):
        coarse = rng.standard_normal((size, size), dtype=np.float32)
        coarse = np.pad(coarse, ((0, 1), (0, 1)), mode='wrap')
        detail += weight * cv2.resize(coarse, (256, 256), interpolation=cv2.INTER_LINEAR)
    return Cameras(
        rgb_read_noise=float(rng.uniform(0.0012, 0.003)),
        rgb_blur=float(rng.uniform(0.3, 0.8)),
        tint=rng.uniform((0.85, 0.95, 0.8), (1.1, 1.15, 1.1)),
        thermal_blur=float(rng.uniform(0.7, 1.3)),
        netd=float(rng.uniform(0.03, 0.08)),
        fixed_column=rng.normal(0, rng.uniform(0.02, 0.08), 512),
        fixed_pixel=float(rng.uniform(0.02, 0.05)),
        vignette=float(rng.uniform(0.3, 1.5)) if rng.random() < 0.25 else 0.0,
        detail=detail,
    )


def inverse_depth(raster: Raster, camera: Camera) -> Image:
    """Return 1/z per pixel from the planes of the faces; the sky has 0."""
    x, y = image_rays(camera)
    plane = raster.plane.astype(np.float32)
    flat = np.ascontiguousarray(plane.T)
    inverse = np.take(flat[0], raster.face) * x
    inverse += np.take(flat[1], raster.face) * y[:, None]
    inverse += np.take(flat[2], raster.face)
    return np.clip(inverse, 0.0, 2.5, out=inverse)


def world_detail(camera: Camera, inverse: Image, tile: Image) -> Image:
    """Lay the texture on all surfaces in world coordinates; it fades with distance."""
    x, y = image_rays(camera)
    depth = 1.0 / np.maximum(inverse, 0.008)
    right, down, forward = camera.rotation.astype(np.float32)
    px, py, pz = camera.position.astype(np.float32)
    scale = np.float32(14.0)
    rows = [(right[i] * x, (down[i] * y + forward[i])[:, None]) for i in range(3)]
    world_y = (rows[1][0] + rows[1][1]) * depth + py
    map_x = ((rows[0][0] + rows[0][1]) * depth + (px + 512) + 0.31 * world_y) * scale
    map_y = ((rows[2][0] + rows[2][1]) * depth + (pz + 512) + world_y) * scale
    detail = cv2.remap(
        tile, np.mod(map_x, 256), np.mod(map_y, 256), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    detail *= np.minimum(inverse * 8.0, 1.0)
    return detail


def luminance(view: View) -> Image:
    """Return the light (H, W, 3) that arrives from the scene, before the camera adds its faults."""
    weather, raster, table = view.weather, view.raster, view.material
    albedo, glow = table.albedo[raster.material], table.glow[raster.material]
    light = weather.sky_light * (0.65 + 0.35 * raster.normal[:, 1])
    direct = weather.sun * np.maximum(raster.normal @ np.array(weather.sun_direction), 0)
    shine = table.gloss[raster.material] * (1 - np.abs(raster.normal[:, 1] * 0.5))
    color = albedo * (light + direct)[:, None] + (shine * 0.35 * weather.sky_light)[:, None]
    color[SKY_FACE] = 0
    image = np.take(color.astype(np.float32), raster.face, axis=0)
    grain = np.take(table.grain[raster.material], raster.face)
    factor = 1.0 + grain * view.detail
    np.clip(factor, 0.2, 2.5, out=factor)
    if view.shadow is not None:
        dimmer = light[1:].mean() / max((light + direct)[1:].mean(), 1e-6)
        factor *= 1.0 - np.float32(1 - max(dimmer, 0.3)) * view.shadow
    if weather.night:
        lamp = _lamp_light(view)
        image *= factor[..., None]
        image += np.take(albedo, raster.face, axis=0) * (lamp * factor)[..., None]
        image += np.take(glow, raster.face, axis=0)
    else:
        image *= factor[..., None]
    return _air(view, image)


def _lamp_light(view: View) -> Image:
    """Light of street lamps and the ego headlights on each pixel, computed at half size."""
    camera = view.camera
    inverse = view.inverse_depth[::2, ::2]
    x, y = image_rays(camera)
    depth = 1.0 / np.maximum(inverse, 0.008)
    px, py = x[::2] * depth, y[::2, None] * depth
    light = np.zeros_like(depth)
    lamps = (view.lamps[:, :3] - camera.position) @ camera.rotation.T
    for (lx, ly, lz), power in zip(lamps.astype(np.float32), view.lamps[:, 3], strict=True):
        distance = np.square(px - lx) + np.square(py - ly) + np.square(depth - lz) + 2.0
        below = np.clip((py - ly) * 0.3, 0, 1)
        light += np.float32(power) * below * np.exp(-distance / 120) / distance
    if view.weather.headlights > 0:
        beam = np.exp(-np.square(x[::2] / 0.22)) * np.exp(-np.square((y[::2, None] - 0.12) / 0.1))
        light += np.float32(view.weather.headlights * 0.9) * beam / (np.square(depth) * 0.06 + 4)
    light[inverse <= 0] = 0
    return cv2.resize(light, (camera.width, camera.height), interpolation=cv2.INTER_LINEAR)


def _air(view: View, image: Image) -> Image:
    """Add the sky, then haze: far things fade into the light of the air."""
    weather, (_, y) = view.weather, image_rays(view.camera)
    up = np.clip(0.15 - y, 0, 1)[:, None]
    haze = 0.75 * (weather.sky_light + 0.5 * weather.sun)
    clear = (
        np.array([0.35, 0.55, 0.95]) * (1 - weather.cloud)
        + np.array([0.8, 0.82, 0.85]) * weather.cloud
    )
    sky = (haze * (1.6 - 1.1 * up * (1 - clear))).astype(np.float32)
    if weather.night:
        sky = sky * np.float32(2.0)
    mask = view.raster.face == SKY_FACE
    if mask.any():
        clouds = cv2.resize(view.cameras.detail[:48, :64], view.detail.shape[::-1])
        plain = np.broadcast_to(sky[:, None], image.shape)[mask]
        image[mask] = plain * (1 + 0.15 * weather.cloud * clouds[mask][:, None])
    if weather.fog > 0.003:
        clear_share = np.exp(-weather.fog / np.maximum(view.inverse_depth, 1 / 150))
        image *= clear_share[..., None]
        image += ((1 - clear_share) * np.float32(haze * 1.1))[..., None]
    return image


def rgb_image(view: View, light: Image, rng: Generator) -> NDArray[np.uint8]:
    """Expose: bloom and glare, shot and read noise, tint, gamma; uint8 (H, W, 3)."""
    weather, cameras, (height, width) = view.weather, view.cameras, light.shape[:2]
    gain = 2.0**weather.exposure * (
        0.55 / (weather.sky_light + weather.sun * 0.7) if not weather.night else 1.0
    )
    light = light * (np.float32(gain) * cameras.tint.astype(np.float32))
    scale = width / 640
    small = cv2.resize(
        np.maximum(light - 0.8, 0),
        (max(width // 8, 8), max(height // 8, 8)),
        interpolation=cv2.INTER_AREA,
    )
    strength = (0.25 if weather.night else 0.05) * (1 + 40 * weather.fog)
    for sigma, share in ((1.2, 0.6), (5.0, 0.5), (14.0, 0.25)):
        halo = cv2.GaussianBlur(np.minimum(small, 12), (0, 0), sigma * max(scale, 0.3))
        light += cv2.resize(halo, (width, height)) * np.float32(share * strength)
    light = cv2.GaussianBlur(light, (0, 0), max(cameras.rgb_blur * scale, 0.2))
    full_well = 0.004 if weather.night else 0.0004
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    read = cameras.rgb_read_noise * (1 if weather.night else 0.5)
    light += noise * np.sqrt(np.maximum(light, 0) * np.float32(full_well) + np.float32(read**2))
    if weather.night:  # the image processor clamps the noise floor to black
        light -= np.float32(0.4 * read)
    np.clip(light, 0, 1, out=light)
    return (np.sqrt(light) * np.float32(255)).astype(np.uint8)


def thermal_image(view: View, rng: Generator, pattern: Generator) -> NDArray[np.uint16]:
    """Measure apparent temperature: emission plus mirrored sky, air, blur, noise; 0.01 K counts."""
    weather, raster, table, cameras = view.weather, view.raster, view.material, view.cameras
    air, number = weather.ambient, raster.material
    upward = np.clip(raster.normal[:, 1] * 0.5 + 0.5, 0, 1)
    mirrored = upward * (air - 1.3 * weather.sky_drop) ** 4 + (1 - upward) * (air + 0.5) ** 4
    mirrored = np.where(
        upward > 0.9, mirrored, 0.5 * mirrored + 0.5 * (air - 0.6 * weather.sky_drop) ** 4
    )
    emissivity = table.emissivity[number]
    apparent = (emissivity * table.kelvin[number] ** 4 + (1 - emissivity) * mirrored) ** 0.25
    kelvin = np.take((apparent - air).astype(np.float32), raster.face)
    kelvin += np.take(table.grain_k[number], raster.face) * view.detail
    if view.shadow is not None:
        kelvin -= view.shadow * np.float32(weather.sun * 4)
    kelvin *= np.exp(-(0.0008 + 0.1 * weather.fog) / np.maximum(view.inverse_depth, 1 / 150))
    _, y = image_rays(view.camera)
    sky = -weather.sky_drop * (1 - np.exp(-np.clip(0.12 - y, 0, 1) / 0.6)) - 2.0
    mask = raster.face == SKY_FACE
    if mask.any():
        clouds = cv2.resize(cameras.detail[64:112, :64], view.detail.shape[::-1]) * (
            0.5 + 2 * weather.cloud
        )
        kelvin[mask] = (np.broadcast_to(sky[:, None], kelvin.shape) + np.minimum(clouds, 2.0))[mask]
    return _microbolometer(kelvin, weather.ambient, cameras, rng, pattern)


def _microbolometer(
    kelvin: Image, ambient: float, cameras: Cameras, rng: Generator, pattern: Generator
) -> NDArray[np.uint16]:
    """Blur, vignette, column and pixel pattern, and noise of an uncooled sensor."""
    height, width = kelvin.shape
    kelvin = cv2.GaussianBlur(kelvin, (0, 0), max(cameras.thermal_blur * width / 640, 0.3))
    kelvin += np.resize(cameras.fixed_column, width).astype(np.float32)
    kelvin += pattern.standard_normal(kelvin.shape, dtype=np.float32) * np.float32(
        cameras.fixed_pixel
    )
    kelvin += rng.standard_normal(kelvin.shape, dtype=np.float32) * np.float32(cameras.netd)
    if cameras.vignette:
        x, y = (
            np.linspace(-1, 1, width, dtype=np.float32),
            np.linspace(-1, 1, height, dtype=np.float32),
        )
        kelvin += np.float32(cameras.vignette / 2) * (np.square(x) + np.square(y)[:, None])
    counts = (kelvin + np.float32(ambient)) * np.float32(COUNTS_PER_KELVIN) + np.float32(0.5)
    return np.clip(counts, 0, 65535).astype(np.uint16)


def depth_image(view: View, rng: Generator) -> Image:
    """Return meters with noise that grows with the square of distance; 0 is sky or beyond range."""
    inverse = view.inverse_depth
    depth = 1.0 / np.maximum(inverse, 1e-3)
    depth += (
        rng.standard_normal(depth.shape, dtype=np.float32) * np.square(depth) * np.float32(0.0008)
    )
    depth[(inverse <= 1 / DEPTH_CAP) | (depth > DEPTH_CAP)] = 0
    return np.maximum(depth, 0)


def event_image(before: Image, after: Image, exposure: float, rng: Generator) -> Image:
    """Return signed event counts: whole thresholds of log-light change, and some noise events."""
    gain = np.float32(2.0**exposure)
    dark = np.float32(0.002)  # below this the pixel's dark current hides changes
    change = np.log(after.mean(axis=2) * gain + dark) - np.log(before.mean(axis=2) * gain + dark)
    counts = np.trunc(change / np.float32(EVENT_THRESHOLD))
    chance = rng.random(counts.shape, dtype=np.float32)
    counts += (chance < 0.002).astype(np.float32) - (chance > 0.998).astype(np.float32)
    return np.clip(counts, -15, 15).astype(np.float32)


def polarization_image(view: View, rng: Generator) -> Image:
    """Return (H, W, 3): DoLP in 0..1, then sin and cos of twice AoLP, faded where DoLP is low.

    Angles follow the plane of incidence of each face; glossy and wet surfaces polarize most,
    strongest near Brewster's angle. A simple model, not a renderer of Mueller matrices.
    """
    raster, camera = view.raster, view.camera
    x, y = image_rays(camera)
    normal = (raster.normal @ camera.rotation.T).astype(np.float32)
    nx, ny, nz = (np.take(np.ascontiguousarray(normal[:, i]), raster.face) for i in range(3))
    length = np.sqrt(1 + np.square(x) + np.square(y)[:, None])
    cosine = np.clip(-(nx * x + ny * y[:, None] + nz) / length, 0, 1)
    gloss = np.take(view.material.gloss.astype(np.float32)[raster.material], raster.face)
    brewster = np.exp(-np.square((np.arccos(cosine) - np.float32(0.98)) / np.float32(0.4)))
    dolp = np.clip(gloss * (0.15 + 0.85 * brewster) * (1 + 0.2 * view.detail), 0, 1)
    angle = np.arctan2(ny, nx) + np.float32(np.pi / 2)
    shown = np.minimum(dolp * 8, 1)
    out = np.stack([dolp, np.sin(2 * angle) * shown, np.cos(2 * angle) * shown], axis=-1)
    out += rng.standard_normal(out.shape, dtype=np.float32) * np.float32(
        0.04 if view.weather.night else 0.015
    )
    return np.clip(out, (0, -1, -1), 1).astype(np.float32)
