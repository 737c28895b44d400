# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The bag evaluator against the running node, over real DDS, with the sample's model and scenes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from rgbx_seg.msg import SegmentationStats
from robot import NodeProcess, free_domain, image, pixels, robot
from sensor_msgs.msg import Image

from rgbx_seg_ros.bag import BagWriter, guess_topics, read_images
from rgbx_seg_ros.eval_pass import Evaluator
from rgbx_seg_ros.eval_settings import EvalSettings, node_settings
from rgbx_seg_ros.messages import stamp_ns

ROOT = Path(__file__).resolve().parents[1]
BAG, BUNDLE = ROOT / 'sample' / 'bag', ROOT / 'sample' / 'bundle'
TOPICS = ('/rgb/image_raw', '/thermal/image_raw')
PAIRS = 16
# Small, and raw: a best-effort subscription would lose some of the sample's own frames. Neither is
# of the network's size.
SIZES = ((160, 120), (80, 60))
HOMOGRAPHY = """\
format: 1
rgb_size: [160, 120]
aux_size: [80, 60]
homography: [[2.04, 0.02, -3.0], [-0.01, 1.98, 2.5], [0.0, 0.0, 1.0]]
"""
ENCODINGS = {('uint8', 3): 'rgb8', ('uint16', 2): 'mono16'}
# All that changes a mask and remembers: each frame's result depends on those before it.
STATEFUL = {'aux.normalize': 'percentile', 'aux.smoothing': 0.8, 'aux.hot_pixels': True,
            'mask.smoothing': 0.3, 'confidence.threshold': 0.45}


class _Keep:
    """Keeps label and confidence of every pair that is scored."""

    def __init__(self) -> None:
        self.pairs = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add(self, frame):
        key = frame.pair.rgb_ns, frame.pair.aux_ns
        self.pairs[key] = frame.lanes[0].label, frame.lanes[0].confidence


@pytest.mark.parametrize('given', [{}, STATEFUL], ids=['defaults', 'all that remembers'])
def test_masks_and_confidences_equal_those_of_the_node_bit_for_bit(tmp_path, monkeypatch, given):
    given = {**given, 'backend': 'onnxruntime'}
    if 'aux.normalize' in given:
        (tmp_path / 'rig.yaml').write_text(HOMOGRAPHY)
        given.update({'registration.mode': 'homography',
                      'registration.file': str(tmp_path / 'rig.yaml')})
    bag = _small_bag(tmp_path / 'bag')
    evaluated = _evaluate(bag, tmp_path, monkeypatch, given)
    assert len(evaluated) == PAIRS
    published = _play(bag, tmp_path, given, list(evaluated))
    assert published.keys() == evaluated.keys()
    for key, (label, confidence) in evaluated.items():
        mask, sure = published[key]
        np.testing.assert_array_equal(mask, label)
        np.testing.assert_array_equal(sure, confidence)
    labels = np.concatenate([label.ravel() for label, _ in evaluated.values()])
    assert len(np.unique(labels)) >= 4  # the comparison is of something
    assert (255 in labels) == ('confidence.threshold' in given)


def _small_bag(path):
    """Write the frames of sample/bag in small; raw, and of both cameras alone."""
    found = guess_topics(BAG, 'thermal')
    places = dict(zip((found.rgb, found.aux), zip(TOPICS, SIZES, strict=True), strict=True))
    with BagWriter(path) as writer:
        for source in read_images(BAG, places):
            topic, size = places[source.topic]
            pixels = cv2.resize(source.image(), size, interpolation=cv2.INTER_AREA)
            writer.write_image(topic, pixels, ENCODINGS[pixels.dtype.name, pixels.ndim],
                               source.stamp_ns, source.received_ns, source.frame_id)
    return path


def _evaluate(bag, folder, monkeypatch, given):
    keep = _Keep()
    monkeypatch.setattr('rgbx_seg_ros.eval_pass._writers', lambda *_: [keep])
    settings = EvalSettings(bundles=(BUNDLE,), ablate_every=3, limit=PAIRS,
                            **node_settings(None, given))
    (folder / 'out').mkdir()
    with Evaluator(settings) as evaluator:
        result = evaluator(bag, 'bag', 'key', folder / 'out')
    assert [record.number for record in result.records[0]] == list(range(PAIRS))
    return keep.pairs


def _play(bag, folder, given, keys):
    """Send the frames of these pairs to a node, each pair when the last one's mask is there."""
    frames = {}
    for found in read_images(bag, TOPICS):
        frames[found.topic, found.stamp_ns] = found
    parameters = {name.replace('.', '__'): value for name, value in given.items()}
    number = free_domain()
    with (NodeProcess(folder / 'log', number, bundle=BUNDLE, **parameters) as node,
          robot(number) as peer):
        heard = {name: peer.listen(Image, f'/segment/{name}') for name in ('mask', 'confidence')}
        stats = peer.listen(SegmentationStats, '/segment/stats')
        peer.advertise(Image, '/rgb/image_raw', '/thermal/image_raw')
        for count, key in enumerate(keys, 1):
            for topic, name, stamp in zip(TOPICS, ('rgb', 'thermal'), key, strict=True):
                source = frames[topic, stamp]
                peer.publish(f'/{name}/image_raw', image(
                    source.image(), source.encoding, stamp, source.frame_id))
            assert peer.until(lambda wanted=count: min(
                map(len, (stats, *heard.values()))) >= wanted), f'no mask of pair {count}'
        assert node.end() == 0
        assert 'Traceback' not in node.log
    images = {name: {stamp_ns(one.header): pixels(one) for one in messages}
              for name, messages in heard.items()}
    return {(stamp_ns(one.header), one.aux_stamp.sec * 10**9 + one.aux_stamp.nanosec):
            tuple(images[name][stamp_ns(one.header)] for name in ('mask', 'confidence'))
            for one in stats}

