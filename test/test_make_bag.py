# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bags of folders: a right pairing of the two streams joins equal content, whatever the clocks."""

import sys

import cv2
import numpy as np
import pytest
from bags import DATA, frame, noise, read_plainly, write_pictures

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import guess_topics, image_topics, read_images
from rgbx_seg_ros.make_bag import INVENTED_K, Timing, convert_aux, main, schedule
from rgbx_seg_ros.stills import find_stills, read_aux, read_label, read_rgb

MSRS = DATA / 'msrs_road'


def run(monkeypatch, *arguments):
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, 'argv', ['rgbx_make_bag', *map(str, arguments)])
    return main()


def streams(bag):
    """Return {topic: (stamps, contents)} of the image topics."""
    read = {}
    for image in read_images(bag, image_topics(bag)):
        stamps, contents = read.setdefault(image.topic, ([], []))
        stamps.append(image.stamp_ns)
        contents.append(int(np.median(image.image())))
    return {topic: tuple(map(np.array, lists)) for topic, lists in read.items()}


@pytest.mark.parametrize('timing', [
    Timing(), Timing(jitter=0.004), Timing(aux_rate=25.0, aux_offset=0.013, jitter=0.002),
    Timing(aux_rate=30.0, aux_offset=0.008, seed=3), Timing(rgb_rate=10.0, aux_rate=30.0),
    Timing(jitter=1.0, seed=5), Timing(aux_offset=-0.5)])
def test_an_rgb_frame_shows_the_still_of_the_aux_frame_nearest_in_time(timing):
    rgb, aux = schedule(40, timing)
    assert [shot.still for shot in aux] == list(range(40))
    aux_ns = np.array([shot.stamp_ns for shot in aux])
    for shot in rgb:
        distance = np.abs(aux_ns - shot.stamp_ns)
        assert distance[shot.still] == distance.min()


@pytest.mark.parametrize('timing', [Timing(jitter=1.0), Timing(aux_rate=25.0, jitter=0.01)])
def test_jitter_never_reorders_a_stream(timing):
    for shots in schedule(200, timing):
        assert (np.diff([shot.stamp_ns for shot in shots]) > 0).all()


def test_rates_offset_and_latencies_are_as_asked():
    rgb, aux = schedule(50, Timing(rgb_rate=20, aux_rate=8, aux_offset=0.02, latency_rgb=0.03,
                                   latency_aux=0.05, start=1000.0))
    rgb_ns, aux_ns = (np.array([shot.stamp_ns for shot in shots]) for shots in (rgb, aux))
    assert rgb_ns[0] == 1000 * 10**9 and aux_ns[0] == 1000 * 10**9 + 20_000_000
    assert set(np.diff(rgb_ns)) == {50_000_000} and set(np.diff(aux_ns)) == {125_000_000}
    assert abs(rgb_ns[-1] - aux_ns[-1]) < 125_000_000
    assert {shot.received_ns - shot.stamp_ns for shot in rgb} == {30_000_000}
    assert {shot.received_ns - shot.stamp_ns for shot in aux} == {50_000_000}


def test_drops_take_their_share_of_both_streams_and_follow_the_seed():
    timing = Timing(drop=0.2, jitter=0.003, seed=7)
    for shots in schedule(500, timing):
        assert 0.1 < np.mean([shot.dropped for shot in shots]) < 0.3
    assert schedule(500, timing) == schedule(500, timing)
    assert schedule(500, timing) != schedule(500, Timing(drop=0.2, jitter=0.003, seed=8))


def test_pairing_the_bag_by_time_joins_equal_content_in_spite_of_drops(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / 'in', 40, labels='label')
    assert run(monkeypatch, folder, tmp_path / 'b', '--drop', 0.15, '--jitter', 0.003,
               '--aux-offset', 0.011, '--latency-aux', 0.04) == 0
    read = streams(tmp_path / 'b')
    rgb_ns, rgb = read['/rgb/image_raw']
    aux_ns, aux = read['/thermal/image_raw']
    assert len(aux) < 40 and len(rgb) < 130
    for stamp, content in zip(aux_ns, aux, strict=True):
        distance = np.abs(rgb_ns - stamp)
        if distance.min() < 0.05 * 10**9:
            assert rgb[distance.argmin()] == content
    label_ns, label = read['/label/image_raw']
    np.testing.assert_array_equal(label_ns, rgb_ns)
    np.testing.assert_array_equal(label, rgb)


def test_the_bag_has_the_topics_types_and_frames_of_two_cameras(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / 'in', 3, labels='labels', dtype=np.uint16)
    assert run(monkeypatch, folder, tmp_path / 'b') == 0
    seen = {}
    for topic, received_ns, message in read_plainly(tmp_path / 'b'):
        stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert received_ns == stamp_ns
        seen[topic] = (message.__msgtype__.split('/')[-1], message.header.frame_id,
                       getattr(message, 'encoding', None))
    assert seen == {
        '/rgb/image_raw': ('Image', 'rgb_optical', 'rgb8'),
        '/rgb/camera_info': ('CameraInfo', 'rgb_optical', None),
        '/thermal/image_raw': ('Image', 'thermal_optical', 'mono16'),
        '/thermal/camera_info': ('CameraInfo', 'thermal_optical', None),
        '/label/image_raw': ('Image', 'rgb_optical', 'mono8')}


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_compressed_bag_has_the_same_content(tmp_path, monkeypatch, storage):
    folder = write_pictures(tmp_path / 'in', 6, labels='label')
    assert run(monkeypatch, folder, tmp_path / 'raw') == 0
    assert run(monkeypatch, folder, tmp_path / 'small', '--compressed', '--storage', storage) == 0
    raw, small = streams(tmp_path / 'raw'), streams(tmp_path / 'small')
    assert {f'{topic}/compressed' for topic in raw} == set(small)
    for topic, (stamps, contents) in raw.items():
        np.testing.assert_array_equal(small[f'{topic}/compressed'][0], stamps)
        np.testing.assert_allclose(small[f'{topic}/compressed'][1], contents, atol=1)
    assert guess_topics(tmp_path / 'small').label == '/label/image_raw/compressed'


def test_a_lower_jpeg_quality_makes_a_smaller_bag_and_an_impossible_one_none(
        tmp_path, monkeypatch, capsys):
    write_pictures(tmp_path / 'in', count=2)
    sizes = []
    for quality in (95, 50):
        out = tmp_path / f'q{quality}'
        assert run(monkeypatch, tmp_path / 'in', out, '--compressed', '--jpeg-quality',
                   quality) == 0
        sizes.append((out / f'{out.name}.mcap').stat().st_size)
    assert sizes[1] < sizes[0]
    assert run(monkeypatch, tmp_path / 'in', tmp_path / 'q0', '--jpeg-quality', 0) == 1
    assert 'JPEG quality is 0' in capsys.readouterr().err
    assert not (tmp_path / 'q0').exists()


def test_the_same_command_makes_the_same_bag(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / 'in', 5)
    for name in ('x/b', 'y/b'):
        assert run(monkeypatch, folder, tmp_path / name, '--jitter', 0.003, '--drop', 0.2) == 0
    for file in ('b.mcap', 'metadata.yaml'):
        assert (tmp_path / 'x/b' / file).read_bytes() == (tmp_path / 'y/b' / file).read_bytes()


def test_the_summary_counts_messages_and_drops(tmp_path, monkeypatch, capsys):
    folder = write_pictures(tmp_path / 'in', 10)
    assert run(monkeypatch, folder, tmp_path / 'b', '--drop', 0.3, '--seed', 1) == 0
    printed = capsys.readouterr().out
    rgb, aux = schedule(10, Timing(drop=0.3, seed=1))
    lost = sum(shot.dropped for shot in rgb), sum(shot.dropped for shot in aux)
    assert f'dropped {lost[0]} of {len(rgb)} rgb frames and {lost[1]} of 10 thermal' in printed
    assert f'/rgb/image_raw: {len(rgb) - lost[0]} messages' in printed


def test_limit_takes_the_first_pairs(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / 'in', 9)
    assert run(monkeypatch, folder, tmp_path / 'b', '--limit', 2) == 0
    np.testing.assert_array_equal(streams(tmp_path / 'b')['/thermal/image_raw'][1], [0, 5])


def test_eight_bits_become_centikelvin_and_sixteen_are_stretched(tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    counts = convert_aux(ramp, '16', tmp_path)
    assert counts.dtype == np.uint16
    assert (counts.min() / 100, counts.max() / 100) == INVENTED_K
    assert (np.diff(counts.ravel().astype(int)) >= 23).all()
    back = convert_aux(counts, '8', tmp_path)
    assert np.abs(back.astype(int) - ramp).max() <= 4  # one percent at each end
    assert convert_aux(counts, '16', tmp_path) is counts
    assert convert_aux(ramp, 'keep', tmp_path) is ramp
    with pytest.raises(RgbxSegError, match='float32'):
        convert_aux(noise(4, 4, np.float32), '16', tmp_path)


def test_an_mfnet_picture_is_split_into_rgb_and_thermal(tmp_path):
    rgba = noise(6, 8, np.uint8, 4)
    for images in (tmp_path / 'flat', tmp_path / 'full/images'):
        images.mkdir(parents=True)
        cv2.imwrite(str(images / '00001D.png'), rgba)  # as OpenCV stores it: B, G, R, alpha
    (tmp_path / 'full/labels').mkdir()
    cv2.imwrite(str(tmp_path / 'full/labels/00001D.png'), frame(4, 6, 8))
    (tmp_path / 'flat/00001D.png').rename(tmp_path / 'flat/00001D.PNG')
    for folder, labeled in (('flat', False), ('full', True)):
        stills = find_stills(tmp_path / folder)
        (still,) = stills.pairs
        assert (stills.layout, stills.modality, still.name) == ('mfnet', 'thermal', '00001D')
        np.testing.assert_array_equal(read_rgb(still), rgba[..., 2::-1])
        np.testing.assert_array_equal(read_aux(still, 'thermal'), rgba[..., 3])
        assert (still.label is not None) == labeled
    np.testing.assert_array_equal(read_label(still, (6, 8)), frame(4, 6, 8))


def test_gray_saved_as_color_is_gray_again_but_a_palette_is_refused(tmp_path):
    folder = write_pictures(tmp_path, 1)
    (path,) = (folder / 'thermal').iterdir()
    cv2.imwrite(str(path), np.repeat(noise(6, 8, np.uint8)[..., None], 3, 2))
    (still,) = find_stills(folder).pairs
    np.testing.assert_array_equal(read_aux(still, 'thermal'), noise(6, 8, np.uint8))
    cv2.imwrite(str(path), noise(6, 8, np.uint8, 3))
    with pytest.raises(RgbxSegError, match='color picture'):
        read_aux(still, 'thermal')
    np.testing.assert_array_equal(read_aux(still, 'event'), noise(6, 8, np.uint8, 3)[..., ::-1])


def test_pairs_of_unequal_size_and_a_float_tiff_go_into_a_bag(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / 'in', 2, aux='depth')
    meters = noise(5, 7, np.float32)
    for path in list((folder / 'depth').iterdir()):
        cv2.imwrite(str(path.with_suffix('.tiff')), meters)
        path.unlink()
    assert run(monkeypatch, folder, tmp_path / 'b') == 0
    info = image_topics(tmp_path / 'b')
    assert info['/depth/image_raw'].encoding == '32FC1'
    np.testing.assert_array_equal(
        next(iter(read_images(tmp_path / 'b', ['/depth/image_raw']))).image(), meters)


def fill(folder, kind):
    """Make a folder that is wrong in one way."""
    if kind != 'missing':
        folder.mkdir()
    if kind == 'names':
        write_pictures(folder, 2)
        for path in list((folder / 'thermal').iterdir()):
            path.rename(path.with_name(f'x{path.name}'))
    if kind == 'two':
        write_pictures(folder, 2, aux='depth')
        write_pictures(folder, 2, aux='thermal')
    if kind == 'rgb only':
        (folder / 'rgb').mkdir()
    if kind == 'corrupt':
        write_pictures(folder, 2)
        next((folder / 'thermal').iterdir()).write_bytes(b'\x89PNG\r\n\x1a\n')
    if kind == 'three channels':
        cv2.imwrite(str(folder / '1.png'), noise(4, 4, np.uint8, 3))
    if kind == 'label size':
        write_pictures(folder, 2, labels='label')
        for path in (folder / 'label').iterdir():
            cv2.imwrite(str(path), frame(1, 3, 3))


@pytest.mark.parametrize('kind, told', [
    ('missing', 'no such folder'), ('empty', 'found nothing, expected folders rgb and thermal'),
    ('names', '2 RGB and 2 thermal images of different names'), ('two', 'thermal and depth'),
    ('rgb only', 'found rgb/, expected'), ('corrupt', 'cannot be read, expected an intact PNG'),
    ('three channels', '3 channels, expected RGBA'),
    ('label size', 'found 3x3 with ids up to 1, expected 16x12')])
def test_a_wrong_folder_is_one_sentence_and_no_bag(tmp_path, monkeypatch, capsys, kind, told):
    fill(tmp_path / 'in', kind)
    assert run(monkeypatch, tmp_path / 'in', tmp_path / 'out' / 'b') == 1
    printed = capsys.readouterr()
    assert told in printed.err and str(tmp_path / 'in') in printed.err
    assert printed.err.count('\n') == 1 and not printed.out
    assert not (tmp_path / 'out').exists() or not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('arguments, told', [
    (('--drop', '1.5'), '--drop is 1.5, expected 0 to 0.9'),
    (('--aux-rate', '0'), '--aux-rate is 0'), (('--rgb-rate', 'nan'), '--rgb-rate is nan'),
    (('--limit', '0'), '--limit is 0'), (('--labels', 'nope'), 'nope: no such folder'),
    (('--modality', 'depth'), 'expected folders rgb and depth')])
def test_a_wrong_option_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, told):
    folder = write_pictures(tmp_path / 'in', 1)
    assert run(monkeypatch, folder, tmp_path / 'b', *arguments) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / 'b').exists()


def test_an_existing_bag_is_kept_unless_forced(tmp_path, monkeypatch, capsys):
    folder = write_pictures(tmp_path / 'in', 1)
    assert run(monkeypatch, folder, tmp_path / 'b') == 0
    assert run(monkeypatch, folder, tmp_path / 'b') == 1
    assert 'exists already' in capsys.readouterr().err
    assert run(monkeypatch, folder, tmp_path / 'b', '--force') == 0


@pytest.mark.skipif(not MSRS.exists(), reason='the real pairs of ../shared/data are absent')
def test_real_pairs_go_into_a_bag_pixel_for_pixel(tmp_path, monkeypatch):
    assert run(monkeypatch, MSRS, tmp_path / 'b', '--limit', 3, '--rgb-rate', 10) == 0
    stills = find_stills(MSRS)
    assert len(stills.pairs) == 160 and stills.labels is None
    thermal = list(read_images(tmp_path / 'b', ['/thermal/image_raw']))
    assert len(thermal) == 3
    for still, image in zip(stills.pairs, thermal, strict=False):
        np.testing.assert_array_equal(image.image(), cv2.imread(str(still.aux), -1))
    first = next(iter(read_images(tmp_path / 'b', ['/rgb/image_raw'])))
    np.testing.assert_array_equal(first.image()[..., ::-1], cv2.imread(str(stills.pairs[0].rgb)))


@pytest.mark.skipif(not MSRS.exists(), reason='the real pairs of ../shared/data are absent')
def test_every_real_folder_is_found(tmp_path):
    assert sum(p.label is not None for p in find_stills(MSRS, labels='pseudo_label').pairs) == 66
    for name, count in (('mfnet_rgba', 2), ('odd_sizes', 8), ('misregistered', 6)):
        pairs = find_stills(DATA / name).pairs
        assert len(pairs) == count
        assert all(read_rgb(p).ndim == 3 and read_aux(p, 'thermal').ndim == 2 for p in pairs)
