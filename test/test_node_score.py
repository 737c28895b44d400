# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Live scoring in the running node, over real DDS: labels in, mIoU in stats and diagnostics."""

import array
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time
from bundles import CLASSES, expected, write_tiny_bundle
from diagnostic_msgs.msg import DiagnosticArray
from rgbx_seg.msg import SegmentationStats
from robot import STAMPS_NS, NodeProcess, free_domain, image, normalized, pixels, robot, scene
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from rgbx_seg_ros.messages import stamp_ns

SECOND = 1_000_000_000
SIZE = (48, 64)  # the network's: the mask can be computed by hand
PARAMETERS = {  # of the pairs, by name
    'plain': {'score__labels': True},
    'packed': {'score__labels': True, 'score__transport': 'compressed'},
    'unheard': {'score__labels': True}, 'off': {}}


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node with a pair of cameras for each way of scoring, heard by a robot."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    parameters = {f'{pair}__{name}': value for pair, own in PARAMETERS.items()
                  for name, value in own.items()}
    with (NodeProcess(folder / 'log', number, bundle=write_tiny_bundle(folder / 'bundle'),
                      pairs=list(PARAMETERS), **parameters) as node, robot(number) as peer):
        heard = {pair: peer.listen(SegmentationStats, f'/segment/{pair}/stats')
                 for pair in PARAMETERS if pair != 'unheard'}
        masks = peer.listen(Image, '/segment/plain/mask')
        diagnostics = peer.listen(DiagnosticArray, '/diagnostics')
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in PARAMETERS
                                for stream in ('rgb', 'thermal')),
                       '/plain/label/image_raw', '/unheard/label/image_raw')
        peer.advertise(CompressedImage, '/packed/label/image_raw/compressed')
        yield SimpleNamespace(node=node, peer=peer, heard=heard, masks=masks,
                              diagnostics=diagnostics)
        assert node.end() == 0
        assert 'Traceback' not in node.log


def truth(seed):
    """Return class ids that agree with the mask of a scene in most pixels, and that mask."""
    rgb, thermal = scene(seed, SIZE)
    mask = expected(rgb, normalized(thermal))
    numbers = np.random.default_rng(seed)
    label = np.where(numbers.random(SIZE) < 0.3, numbers.integers(0, 3, SIZE), mask)
    label[numbers.random(SIZE) < 0.1] = 255
    return label.astype(np.uint8), mask


def iou_by_hand(pairs):
    """Return IoU by class over all pixels of (label, mask) pairs."""
    label, mask = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    mask, label = mask[label != 255], label[label != 255]
    return [np.sum((mask == k) & (label == k)) / np.sum((mask == k) | (label == k))
            for k in range(3)]


def send(running, pair, seed, label=None, stamp=None):
    """Publish a pair of images, with a label if there is one; return the node's stats of it."""
    rgb, thermal = scene(seed, SIZE)
    stamp = stamp or next(STAMPS_NS)
    heard = running.heard.get(pair, [])
    heard.clear()
    if label is not None:
        end = '/compressed' if isinstance(label, CompressedImage) else ''
        label.header = Header(stamp=Time(sec=stamp // SECOND, nanosec=stamp % SECOND))
        running.peer.publish(f'/{pair}/label/image_raw{end}', label)
    running.peer.publish(f'/{pair}/rgb/image_raw', image(rgb, 'rgb8', stamp))
    running.peer.publish(f'/{pair}/thermal/image_raw', image(thermal, 'mono16', stamp))
    if pair not in running.heard:
        return None

    def found():
        return [stats for stats in heard if stamp_ns(stats.header) == stamp]

    assert running.peer.until(found), running.node.log
    return found()[-1]


def scoring(running, pair, **values):
    """Wait for a status of scoring with these values; return its level, message and values."""
    def read():
        for status in running.diagnostics[-1].status if running.diagnostics else ():
            if status.name == f'segment: {pair} scoring':
                own = {value.key: value.value for value in status.values}
                if all(own.get(name.replace('_', ' ')) == value for name, value in values.items()):
                    return status.level, status.message, own
        return None

    assert running.peer.until(read), f'{running.diagnostics[-1].status}\n{running.node.log}'
    return read()


def packed(suffix, ids):
    """Return ids as a CompressedImage, by OpenCV alone."""
    data = cv2.imencode(suffix, ids)[1].tobytes()
    return CompressedImage(format=suffix[1:], data=array.array('B', data))


def test_stats_and_diagnostics_tell_the_running_score(running):
    first = send(running, 'plain', 0)
    assert math.isnan(first.miou) and math.isnan(first.miou_strict) and first.masks_scored == 0
    labels = {seed: truth(seed)[0] for seed in range(1, 5)}
    for seed, label in labels.items():
        send(running, 'plain', seed, image(label, 'mono8', 0))
    assert running.peer.until(lambda: len(running.masks) == 5)
    masks = [pixels(message) for message in running.masks[-4:]]
    for mask, seed in zip(masks, labels, strict=True):
        np.testing.assert_array_equal(mask, truth(seed)[1])
    iou = iou_by_hand(list(zip(labels.values(), masks, strict=True)))
    level, message, values = scoring(running, 'plain', masks_scored='4')
    assert (level, message) == (b'\x00', f'mIoU {np.mean(iou):.3f} over 4 masks')
    assert values['mIoU strict'] == values['mIoU'] == f'{np.mean(iou):.3f}'
    for info, value in zip(CLASSES, iou, strict=True):
        assert values[f'IoU {info.name}'] == f'{value:.3f}'
    stats = send(running, 'plain', 9)
    assert (stats.miou, stats.masks_scored) == (pytest.approx(np.mean(iou), rel=1e-6), 4)
    assert stats.miou_strict == stats.miou


def test_a_label_that_is_later_than_its_mask_counts(running):
    before = send(running, 'plain', 1).masks_scored
    stamp = next(STAMPS_NS)
    send(running, 'plain', 2, stamp=stamp)
    running.peer.publish('/plain/label/image_raw',
                         image(truth(2)[0].astype(np.uint16), 'mono16', stamp))
    scoring(running, 'plain', masks_scored=str(before + 1))


def test_labels_in_the_colors_of_the_classes_count_and_ids_of_none_are_refused(running):
    before = send(running, 'plain', 1).masks_scored
    label = truth(5)[0]
    label[label == 255] = 0
    colors = np.array([info.color for info in CLASSES], np.uint8)[label]
    send(running, 'plain', 5, image(colors, 'rgb8', 0))
    scoring(running, 'plain', masks_scored=str(before + 1))
    label[0, 0] = 77
    send(running, 'plain', 5, image(label, 'mono8', 0))
    level, message, _ = scoring(running, 'plain', **{'labels refused: content': '1'})
    assert level == b'\x01' and 'a label holds the id 77' in message
    send(running, 'plain', 5, image(label[1:41], 'mono8', 0))
    level, message, _ = scoring(running, 'plain', **{'labels refused: size': '1'})
    assert level == b'\x01' and 'a label is 64x40; expected 64x48' in message


def test_a_looped_bag_is_scored_in_each_lap(running):
    before = send(running, 'plain', 1).masks_scored
    stamps = [next(STAMPS_NS) for _ in range(2)]
    for stamp in stamps * 2:
        send(running, 'plain', 3, image(truth(3)[0], 'mono8', 0), stamp)
    scoring(running, 'plain', masks_scored=str(before + 4))


def test_png_counts_and_jpeg_is_refused_in_one_sentence(running):
    send(running, 'packed', 1, packed('.png', truth(1)[0]))
    value = f'{np.mean(iou_by_hand([truth(1)])):.3f}'
    scoring(running, 'packed', masks_scored='1', mIoU=value)
    for seed in (2, 3):
        send(running, 'packed', seed, packed('.jpg', truth(seed)[0]))
    level, message, values = scoring(running, 'packed', **{'labels refused: encoding': '2'})
    assert level == b'\x01' and 'the label is a JPEG, which blurs class ids' in message
    assert (values['masks scored'], values['mIoU']) == ('1', value)
    assert running.node.log.count('the label is a JPEG') == 1
    assert '/packed/label/image_raw/compressed: the label is a JPEG' in running.node.log


def test_masks_are_scored_though_nobody_listens_to_a_result(running):
    send(running, 'unheard', 1, image(truth(1)[0], 'mono8', 0))
    scoring(running, 'unheard', masks_scored='1', mIoU=f'{np.mean(iou_by_hand([truth(1)])):.3f}')


def test_where_scoring_is_off_nothing_listens_for_labels(running):
    stats = send(running, 'off', 1)
    assert math.isnan(stats.miou) and stats.masks_scored == 0
    assert running.peer.until(lambda: running.peer.node.count_subscribers('/plain/label/image_raw'))
    assert not running.peer.node.count_subscribers('/off/label/image_raw')
    assert running.diagnostics
    assert 'segment: off scoring' not in {s.name for s in running.diagnostics[-1].status}


def test_activation_starts_the_score_anew(running):
    send(running, 'plain', 1, image(truth(1)[0], 'mono8', 0))
    assert running.peer.change('deactivate') and running.peer.change('activate')
    peer = running.peer
    assert peer.until(lambda: peer.node.count_subscribers('/plain/label/image_raw'))
    peer.spin(1.0)
    stats = send(running, 'plain', 1)
    assert stats.masks_scored == 0 and math.isnan(stats.miou)
