# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Registration against scenes that OpenCV's own projection puts into both images.

Bright dots stand at points in space. Each is drawn into the aux image where cv2.projectPoints (or
cv2.fisheye.projectPoints) says, and must come out of the registration where the same functions put
it into the RGB image. The dots are the oracle: no code of the package places them.
"""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.camera import Camera, Transform
from rgbx_seg_ros.registration import Registration, RegistrationConfig

SIGMA = 2.0  # pixels of the RGB image
REACH = 6
TURN = np.array([0.03, -0.05, 0.02])  # a Rodrigues vector, radians
SHIFT = np.array([0.08, -0.02, 0.01])  # meters

PINHOLE = (), ''
BARREL = (-0.28, 0.09, 0.0008, -0.0011, -0.012), 'plumb_bob'
RATIONAL = (0.42, -0.11, 0.0004, 0.0003, 0.02, 0.71, -0.12, 0.03), 'rational_polynomial'
FISHEYE = (-0.02, 0.004, -0.003, 0.0007), 'equidistant'


def camera(width, height, focal, lens=PINHOLE, frame_id='frame', center=(3.3, -5.7)):
    k = (focal, 0, width / 2 + center[0], 0, focal * 1.01, height / 2 + center[1], 0, 0, 1)
    return Camera(width, height, k, *lens, frame_id)


RGB = camera(640, 480, 520, BARREL, 'rgb_optical')
AUX = camera(320, 256, 270, BARREL, 'aux_optical')


def project(points, cam, turn=None, shift=None):
    """Return the pixels of points (n, 3) by OpenCV."""
    turn, shift = (np.zeros(3) if value is None else value for value in (turn, shift))
    k = np.array(cam.k).reshape(3, 3)
    if cam.model == 'equidistant':
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], turn, shift, k, np.array(cam.d))
    else:
        d = np.array(cam.d) if cam.d else None
        pixels, _ = cv2.projectPoints(points[:, None], turn, shift, k, d)
    return pixels[:, 0]


def draw(pixels, size, sigma):
    """Return a black image (H, W) of `size` with a Gaussian dot at each pixel coordinate."""
    image = np.zeros((size[1], size[0]), np.float64)
    y, x = np.mgrid[:size[1], :size[0]]
    for u, v in pixels:
        x0, x1 = (int(np.clip(u + s * 9 * sigma, 0, size[0])) for s in (-1, 1))
        y0, y1 = (int(np.clip(v + s * 9 * sigma, 0, size[1])) for s in (-1, 1))
        box = slice(y0, y1), slice(x0, x1)
        image[box] += np.exp(-((x[box] - u) ** 2 + (y[box] - v) ** 2) / (2 * sigma * sigma))
    return np.clip(image * 250 + 0.5, 0, 255).astype(np.uint8)


def centroid(image, at, reach=REACH):
    """Return where the dot near pixel `at` is."""
    u, v = np.rint(at).astype(int)
    patch = image[v - reach:v + reach + 1, u - reach:u + reach + 1].astype(float)
    y, x = np.mgrid[v - reach:v + reach + 1, u - reach:u + reach + 1]
    return np.array([(patch * x).sum(), (patch * y).sum()]) / max(patch.sum(), 1e-9)


def inside(pixels, cam, margin):
    size = np.array([cam.width, cam.height])
    return ((pixels > margin) & (pixels < size - margin)).all(axis=1)


def scatter(plane=(0, 0, 1, 2.0), rgb=RGB, spacing=60):
    """Return points of a plane a x + b y + c z = d, a grid of them in the RGB image."""
    u, v = np.meshgrid(np.arange(30, rgb.width - 20, spacing),
                       np.arange(30, rgb.height - 20, spacing))
    # Not the pixel's true ray, only points that fill the image.
    x, y = (u.ravel() - rgb.k[2]) / rgb.k[0], (v.ravel() - rgb.k[5]) / rgb.k[4]
    a, b, c, d = plane
    z = d / (a * x + b * y + c)
    return np.stack([x * z, y * z, z], axis=1)[z > 0]


def errors(points, result, rgb, aux, turn=TURN, shift=SHIFT, least=30, reach=REACH):
    """Return the distance of each dot from where it belongs, of those that both cameras see."""
    there, here = project(points, aux, turn, shift), project(points, rgb)
    seen = inside(there, aux, 5) & inside(here, rgb, reach + 4)
    assert seen.sum() >= least
    return np.array([np.linalg.norm(centroid(result, at, reach) - at) for at in here[seen]])


def registration(mode='calibrated', rgb=RGB, aux=AUX, turn=TURN, shift=SHIFT, **config):
    result = Registration(RegistrationConfig(mode, **config))
    result.rgb_camera, result.aux_camera = rgb, aux
    result.extrinsics = Transform(cv2.Rodrigues(turn)[0], shift)
    return result


def aux_image(points, aux=AUX, rgb=RGB, turn=TURN, shift=SHIFT):
    return draw(project(points, aux, turn, shift), (aux.width, aux.height),
                SIGMA * aux.k[0] / rgb.k[0])


@pytest.mark.parametrize('lens', [PINHOLE, BARREL, RATIONAL, FISHEYE], ids=lambda lens: lens[1])
@pytest.mark.parametrize('other', [PINHOLE, BARREL, RATIONAL, FISHEYE], ids=lambda lens: lens[1])
def test_dots_of_a_plane_land_where_opencv_projects_them(lens, other):
    rgb, aux = camera(640, 480, 420, lens), camera(320, 256, 230, other)
    points = scatter(rgb=rgb)
    result = registration(rgb=rgb, aux=aux, distance_m=2.0).apply(aux_image(points, aux, rgb),
                                                                   (480, 640))
    assert result.shape == (480, 640) and result.dtype == np.uint8
    assert errors(points, result, rgb, aux).max() < 0.2


@pytest.mark.parametrize('scale', [1, 3])
def test_places_between_the_computed_ones_are_exact_to_a_thirtieth_of_a_pixel(scale):
    width, height = 640 * scale, 480 * scale
    rgb, aux = (camera(width, height, 420 * scale, lens) for lens in (BARREL, RATIONAL))
    setup = registration(rgb=rgb, aux=aux, distance_m=2.0)
    setup.apply(np.zeros((height, width), np.uint8), (height, width))
    u, v = setup._plan.maps
    here = np.random.default_rng(0).uniform([20, 20], [width - 20, height - 20], (500, 2)).round()
    focal, center = np.array(rgb.k)[[0, 4]], np.array(rgb.k)[[2, 5]]
    rays = (here - center) / focal
    for _ in range(60):  # distorting until it fits: the inverse without an inverse's code
        rays += (here - project(np.c_[rays, np.ones(500)], rgb)) / focal
    there = project(np.c_[rays, np.ones(500)] * 2.0, aux, TURN, SHIFT)
    seen = inside(there, aux, 1)
    x, y = here.astype(int).T
    assert seen.sum() > 350
    assert np.abs(np.stack([u[y, x], v[y, x]], 1) - there)[seen].max() < 0.03


def test_ground_plane_of_the_file_is_used_and_the_sky_above_it_is_far_away(tmp_path):
    plane = (0.02, 1.0, 0.1, 1.5)  # 1.5 m below a camera that looks slightly down
    file = tmp_path / 'rig.yaml'
    rotation = cv2.Rodrigues(TURN)[0].tolist()
    file.write_text(yaml.safe_dump({'format': 1, 'rotation': rotation, 'plane': list(plane),
                                    'translation': SHIFT.tolist()}))
    points = scatter(plane)
    points = points[points[:, 2] < 30]
    sky = scatter((0, 0, 1, 1e5))
    sky = sky[project(sky, RGB)[:, 1] < 120]
    setup = Registration(RegistrationConfig('calibrated', file))
    setup.rgb_camera, setup.aux_camera = RGB, AUX
    result = setup.apply(aux_image(np.r_[points, sky]), (480, 640))
    assert errors(points, result, RGB, AUX, least=15).max() < 0.3
    assert errors(sky, result, RGB, AUX, least=5).max() < 0.3


def depth_scene():
    """Return points and a depth image of a near wall left and a far one right."""
    near, far = scatter((0, 0, 1, 1.0)), scatter((0, 0, 1, 4.0))
    near = near[project(near, RGB)[:, 0] < 270]
    far = far[project(far, RGB)[:, 0] > 370]
    depth = np.full((480, 640), 4.0, np.float32)
    depth[:, :320] = 1.0
    return near, far, depth


def test_depth_brings_a_near_and_a_far_layer_onto_the_grid():
    near, far, depth = depth_scene()
    image = aux_image(np.r_[near, far])
    setup = registration('depth', distance_m=4.0)
    result = setup.apply(image, (480, 640), depth)
    assert errors(near, result, RGB, AUX, least=15).max() < 0.3
    assert errors(far, result, RGB, AUX, least=15).max() < 0.3
    flat = setup.apply(image, (480, 640))
    assert np.median(errors(near, flat, RGB, AUX, least=15)) > 5


@pytest.mark.parametrize('hole', [0.0, np.nan, -1.0])
def test_holes_of_the_depth_image_lie_at_the_constant_distance(hole):
    near, far, depth = depth_scene()
    depth[:, 320:] = hole
    result = registration('depth', distance_m=4.0).apply(aux_image(np.r_[near, far]), (480, 640),
                                                         depth)
    assert errors(near, result, RGB, AUX, least=15).max() < 0.3
    assert errors(far, result, RGB, AUX, least=15).max() < 0.3


def test_infinite_depth_is_beyond_range_as_rep_117_has_it():
    stars = scatter((0, 0, 1, 1e6))
    depth = np.full((480, 640), np.inf, np.float32)
    result = registration('depth', distance_m=1.0).apply(aux_image(stars), (480, 640), depth)
    assert errors(stars, result, RGB, AUX).max() < 0.3


@pytest.mark.parametrize('size', [(240, 320), (120, 160), (960, 1280)])
def test_depth_image_of_another_size_is_read_at_the_same_places(size):
    near, far, depth = depth_scene()
    depth = cv2.resize(depth, size[::-1], interpolation=cv2.INTER_NEAREST)
    result = registration('depth', distance_m=4.0).apply(aux_image(np.r_[near, far]), (480, 640),
                                                         depth)
    assert errors(np.r_[near, far], result, RGB, AUX).max() < 0.3


@pytest.mark.parametrize('rgb_scale, aux_scale', [(0.5, 1), (2, 1), (1, 2), (3, 0.5), (1.25, 0.75)])
def test_images_of_other_sizes_than_calibrated_are_scaled_about_pixel_centers(rgb_scale, aux_scale):
    points = scatter(spacing=90)
    size = round(AUX.width * aux_scale), round(AUX.height * aux_scale)
    there = (project(points, AUX, TURN, SHIFT) + 0.5) * aux_scale - 0.5
    image = draw(there, size, 3.0 * aux_scale * AUX.k[0] / RGB.k[0])
    height, width = round(480 * rgb_scale), round(640 * rgb_scale)
    setup = registration(distance_m=2.0)
    result = setup.apply(image, (height, width))
    assert result.shape == (height, width)
    assert setup.warning() == ''
    at_480 = result if rgb_scale == 1 else cv2.resize(result, (640, 480),
                                                      interpolation=cv2.INTER_AREA)
    assert errors(points, at_480, RGB, AUX, least=15, reach=11).max() < 0.3


def info(cam, **operational):
    """Return a CameraInfo as rclpy would give it, of a camera and its binning and roi."""
    roi = {'x_offset': 0, 'y_offset': 0, 'width': 0, 'height': 0, **operational.pop('roi', {})}
    return SimpleNamespace(**{
        'width': cam.width, 'height': cam.height, 'k': np.array(cam.k), 'd': list(cam.d),
        'distortion_model': cam.model, 'binning_x': 0, 'binning_y': 0,
        'roi': SimpleNamespace(**roi), 'header': SimpleNamespace(frame_id=cam.frame_id),
        **operational})


def test_region_of_interest_and_binning_are_those_of_the_sensor():
    points = scatter(spacing=90)
    sensor = camera(1280, 1024, 1080, BARREL)
    full = draw(project(points, sensor, TURN, SHIFT), (1280, 1024), 3 * SIGMA)
    cut = full[40:40 + 900, 64:64 + 1200]
    binned = cut.reshape(450, 2, 300, 4).mean(axis=(1, 3)).astype(np.uint8)
    aux = Camera.from_info(info(sensor, binning_x=4, binning_y=2,
                                roi={'x_offset': 64, 'y_offset': 40, 'width': 1200, 'height': 900}))
    assert (aux.width, aux.height) == (300, 450)
    setup = registration(aux=aux, distance_m=2.0)
    result = setup.apply(binned, (480, 640))
    assert errors(points, result, RGB, aux, least=15).max() < 0.3
    assert setup.warning() == ''


def homography_file(folder, matrix, rgb_size=(640, 480), aux_size=(320, 256), **more):
    file = folder / 'homography.yaml'
    file.write_text(yaml.safe_dump({
        'format': 1, 'rgb_size': list(rgb_size), 'aux_size': list(aux_size),
        'homography': np.asarray(matrix, float).tolist(), **more}))
    return file


HOMOGRAPHY = np.array([[2.05, 0.03, -8.0], [-0.04, 1.95, 6.0], [5e-5, -4e-5, 1.0]])


@pytest.mark.parametrize('factor', [1.0, -3.0])  # a homography has neither scale nor sign
@pytest.mark.parametrize('rgb_scale, aux_scale', [(1, 1), (0.5, 1), (2, 1), (1, 2), (1, 0.5)])
def test_homography_of_the_file_is_scaled_to_the_live_sizes(tmp_path, factor, rgb_scale, aux_scale):
    at = np.mgrid[30:300:40.0, 30:230:40.0].reshape(2, -1).T
    here = cv2.perspectiveTransform(at[:, None], HOMOGRAPHY)[:, 0]
    image = draw((at + 0.5) * aux_scale - 0.5, (int(320 * aux_scale), int(256 * aux_scale)),
                 1.5 * aux_scale)
    file = homography_file(tmp_path, factor * HOMOGRAPHY, residual_px=0.4)
    setup = Registration(RegistrationConfig('homography', file))
    assert setup.missing() == ''
    result = setup.apply(image, (int(480 * rgb_scale), int(640 * rgb_scale)))
    if rgb_scale != 1:
        result = cv2.resize(result, (640, 480), interpolation=cv2.INTER_AREA)
    seen = inside(here, RGB, 14)
    assert seen.sum() > 20
    assert max(np.linalg.norm(centroid(result, p, 12) - p) for p in here[seen]) < 0.2


@pytest.mark.parametrize('channels', [(), (3,)])
def test_identity_returns_every_pixel_unchanged(tmp_path, channels):
    image = np.random.default_rng(1).integers(0, 256, (48, 64, *channels), np.uint8)
    file = homography_file(tmp_path, np.eye(3), (64, 48), (64, 48))
    result = Registration(RegistrationConfig('homography', file)).apply(image, (48, 64))
    np.testing.assert_array_equal(result, image)


def test_what_the_aux_camera_does_not_see_is_zero_and_counted(tmp_path):
    file = homography_file(tmp_path, [[1, 0, 16], [0, 1, 0], [0, 0, 1]], (64, 48), (64, 48))
    setup = Registration(RegistrationConfig('homography', file))
    result = setup.apply(np.full((48, 64), 200, np.uint8), (48, 64))
    assert (result[:, :16] == 0).all() and (result[:, 16:] == 200).all()
    assert setup.coverage == pytest.approx(0.75)
    assert setup.warning() == ''


def test_little_overlap_is_told_in_a_sentence(tmp_path):
    file = homography_file(tmp_path, [[1, 0, 60], [0, 1, 0], [0, 0, 1]], (64, 48), (64, 48))
    setup = Registration(RegistrationConfig('homography', file, aux_name='thermal'))
    assert setup.warning() == ''
    setup.apply(np.zeros((48, 64), np.uint8), (48, 64))
    assert setup.warning().startswith('the thermal camera sees 6% of the RGB image; expected at')


def test_images_of_another_shape_than_calibrated_are_told_in_a_sentence():
    setup = registration(distance_m=2.0)
    setup.apply(np.zeros((256, 320), np.uint8), (360, 640))
    assert 'rgb images are 640x360, but calibrated at 640x480' in setup.warning()


def test_result_of_the_networks_size_is_the_whole_rgb_image_resized():
    points = scatter(spacing=90)
    image = aux_image(points)
    setup = registration(distance_m=2.0)
    result = setup.apply(image, (480, 640), size=(384, 320)).copy()
    assert setup.warning() == ''
    full = cv2.resize(setup.apply(image, (480, 640)), (320, 384), interpolation=cv2.INTER_AREA)
    here = (project(points, RGB) + 0.5) * (0.5, 0.8) - 0.5
    seen = inside(project(points, AUX, TURN, SHIFT), AUX, 5) & inside(here, camera(320, 384, 1), 10)
    assert seen.sum() > 15
    for point in here[seen]:
        assert np.linalg.norm(centroid(result, point) - point) < 0.2
        assert np.linalg.norm(centroid(full, point) - point) < 0.2


def test_points_behind_the_aux_camera_are_outside():
    setup = registration(turn=np.array([0, np.pi, 0]), shift=np.zeros(3))
    result = setup.apply(np.full((256, 320), 255, np.uint8), (480, 640))
    assert not result.any() and setup.coverage == 0


def test_a_lens_model_that_bends_back_shows_nothing_twice():
    narrow = camera(320, 256, 270, ((-0.35, 0.0, 0, 0, 0), 'plumb_bob'))
    wide = camera(640, 480, 150)
    setup = registration(rgb=wide, aux=narrow, turn=np.zeros(3), shift=np.zeros(3))
    result = setup.apply(np.full((256, 320), 255, np.uint8), (480, 640))
    count, _ = cv2.connectedComponents((result > 0).astype(np.uint8))
    assert count == 2  # black and one region
    y, x = np.nonzero(result)
    turning = 150 / np.sqrt(3 * 0.35)  # where r (1 - 0.35 r^2) is largest, in RGB pixels
    assert np.hypot(x - wide.k[2], y - wide.k[5]).max() < turning + 5


def test_fine_aux_image_is_averaged_not_sampled():
    checkers = np.indices((1024, 1280)).sum(axis=0) % 2 * 255
    aux = camera(1280, 1024, 1080)
    result = registration(aux=aux).apply(checkers.astype(np.uint8), (240, 320))
    seen = result[60:180, 80:240]
    assert np.abs(seen.astype(int) - 127).max() < 3


def test_coarse_aux_image_keeps_its_detail_in_a_large_rgb_image():
    rgb, aux = camera(1920, 1080, 1500, BARREL), camera(160, 120, 125, BARREL)
    points = scatter(rgb=rgb, spacing=240)
    image = draw(project(points, aux, TURN, SHIFT), (160, 120), 1.5)
    setup = registration(rgb=rgb, aux=aux, distance_m=2.0)
    result = setup.apply(image, (1080, 1920))
    small = cv2.resize(result, (480, 270), interpolation=cv2.INTER_AREA)
    here = (project(points, rgb) + 0.5) / 4 - 0.5
    seen = inside(project(points, aux, TURN, SHIFT), aux, 4) & inside(here, camera(480, 270, 1), 20)
    assert seen.sum() >= 10
    assert max(np.linalg.norm(centroid(small, p, 18) - p) for p in here[seen]) < 0.1  # 0.4 of 1920
    assert min(small[tuple(np.rint(p).astype(int)[::-1])] for p in here[seen]) > 150


def test_mode_none_returns_the_image_itself():
    image = np.zeros((4, 5), np.uint8)
    assert Registration(RegistrationConfig()).apply(image, (480, 640)) is image
    assert Registration(RegistrationConfig()).missing() == ''


def test_missing_names_what_it_waits_for_one_by_one():
    setup = Registration(RegistrationConfig('calibrated', aux_name='thermal'))
    assert setup.missing() == 'registration waits for rgb/camera_info.'
    setup.rgb_camera = RGB
    assert setup.missing() == 'registration waits for thermal/camera_info.'
    setup.aux_camera = AUX
    assert setup.missing() == ('registration waits for a transform from rgb_optical to aux_optical '
                               'on /tf_static, or in registration.file.')
    with pytest.raises(RgbxSegError, match='waits for a transform'):
        setup.apply(np.zeros((256, 320), np.uint8), (480, 640))
    setup.extrinsics = Transform(np.eye(3), (0, 0, 0))
    assert setup.missing() == ''


def test_extrinsics_are_asked_of_tf_only_where_a_mode_and_its_file_leave_them_open(tmp_path):
    file = tmp_path / 'rig.yaml'
    file.write_text('{format: 1, plane: [0, 1, 0, 1.2]}')
    assert not Registration(RegistrationConfig('none')).needs_extrinsics
    assert Registration(RegistrationConfig('depth')).needs_extrinsics
    assert Registration(RegistrationConfig('calibrated', file)).needs_extrinsics
    file.write_text('{format: 1, translation: [0, 0, 0], quaternion: [0, 0, 0, 1]}')
    assert not Registration(RegistrationConfig('calibrated', file)).needs_extrinsics


def test_a_changed_camera_takes_effect_and_an_equal_one_costs_nothing():
    points = scatter()
    setup = registration(distance_m=2.0)
    image = aux_image(points)
    setup.apply(image, (480, 640))
    plan = setup._plan
    setup.rgb_camera = camera(640, 480, 520, BARREL, 'rgb_optical')
    setup.extrinsics = Transform(cv2.Rodrigues(TURN)[0], SHIFT)
    setup.apply(image, (480, 640))
    assert setup._plan is plan
    turn = np.array([0.0, 0.02, 0.0])
    setup.extrinsics = Transform(cv2.Rodrigues(turn)[0], SHIFT)
    result = setup.apply(aux_image(points, turn=turn), (480, 640))
    assert errors(points, result, RGB, AUX, turn=turn).max() < 0.3


def test_result_lies_in_memory_that_the_next_frame_reuses():
    setup = registration()
    first = setup.apply(np.full((256, 320), 10, np.uint8), (480, 640))
    assert setup.apply(np.full((256, 320), 20, np.uint8), (480, 640)) is first


def test_what_the_file_says_goes_before_topics(tmp_path):
    file = tmp_path / 'rig.yaml'
    file.write_text(yaml.safe_dump({
        'format': 1, 'translation': SHIFT.tolist(), 'rotation': cv2.Rodrigues(TURN)[0].tolist(),
        'rgb': {'width': 640, 'height': 480, 'k': list(RGB.k), 'd': list(RGB.d)},
        'aux': {'width': 320, 'height': 256, 'k': list(AUX.k), 'd': list(AUX.d)}}))
    setup = Registration(RegistrationConfig('calibrated', file, 2.0))
    assert setup.missing() == ''
    setup.rgb_camera = camera(640, 480, 50)
    setup.extrinsics = Transform(np.eye(3), (0, 0, 0))
    points = scatter()
    assert errors(points, setup.apply(aux_image(points), (480, 640)), RGB, AUX).max() < 0.3


@pytest.mark.parametrize('config, words', [
    ({'mode': 'magic'}, 'registration.mode is "magic"; expected one of none, homography'),
    ({'mode': 'homography'}, 'registration.file is empty; expected the file of a homography'),
    ({'mode': 'calibrated', 'distance_m': 0.0}, 'registration.distance is 0.0; expected'),
    ({'mode': 'calibrated', 'distance_m': float('nan')}, 'registration.distance is nan'),
])
def test_config_refuses_in_a_sentence(config, words):
    with pytest.raises(RgbxSegError, match=words):
        RegistrationConfig(**config)


@pytest.mark.parametrize('depth', [np.ones((480, 640)), np.ones((4, 4, 1), np.float32),
                                   np.ones((480, 640), np.uint16)])
def test_depth_that_is_not_in_float32_meters_is_refused(depth):
    with pytest.raises(RgbxSegError, match='expected float32'):
        registration('depth').apply(np.zeros((256, 320), np.uint8), (480, 640), depth)


def test_read_only_views_with_padded_rows_are_read_in_place():
    padded = np.random.default_rng(2).integers(0, 256, (256, 352), np.uint8)
    view = padded[:, :320]
    view.flags.writeable = False
    setup = registration()
    expected = setup.apply(view.copy(), (480, 640)).copy()
    np.testing.assert_array_equal(setup.apply(view, (480, 640)), expected)
    assert setup.apply(np.dstack([view] * 3), (480, 640)).shape == (480, 640, 3)


@pytest.mark.parametrize('mode', ['calibrated', 'depth'])
@pytest.mark.parametrize('rgb_size, aux_size', [((1, 1), (1, 1)), ((3, 2000), (7, 5)),
                                                ((480, 640), (1, 1)), ((2, 2), (2048, 2048))])
def test_sizes_that_no_camera_has_give_an_image_of_the_size_asked_for(mode, rgb_size, aux_size):
    setup = registration(mode)
    for depth in (None, np.ones((1, 1), np.float32)):
        assert setup.apply(np.zeros(aux_size, np.uint8), rgb_size, depth).shape == rgb_size


@pytest.mark.parametrize('value', [1e-45, 1e-3, 3e38, -np.inf])
def test_absurd_depth_is_outside_or_far_but_never_a_fault(value):
    setup = registration('depth')
    depth = np.full((480, 640), value, np.float32)
    with np.errstate(all='raise'):
        result = setup.apply(np.full((256, 320), 9, np.uint8), (480, 640), depth)
    assert result.shape == (480, 640)
