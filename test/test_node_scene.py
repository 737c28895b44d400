# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle of two graphs in the running node, over real DDS."""

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from bundles import expected, write_scene_bundle
from robot import SECOND, STAMPS_NS, NodeProcess, free_domain, image, normalized, pixels, robot
from sensor_msgs.msg import Image

SIZE = (48, 64)  # the network's: no resizing lies between the images and the oracle


def test_scene_every_may_change_while_the_node_runs_and_for_one_pair_alone(tmp_path):
    number, names = free_domain(), ('front', 'rear')
    numbers = np.random.default_rng(0)
    bright, dim = [(numbers.integers(0, most, (*SIZE, 3), np.uint8),
                    numbers.integers(26315, 26315 + 20 * most, SIZE, np.uint16))
                   for most in (250, 60)]
    with (NodeProcess(tmp_path / 'log', number, bundle=write_scene_bundle(tmp_path / 'b', 100),
                      pairs=list(names), rear__scene__every=1) as node, robot(number) as peer):
        masks = {name: peer.listen(Image, f'/segment/{name}/mask') for name in names}
        peer.advertise(Image, *(f'/{name}/{stream}/image_raw' for name in names
                                for stream in ('rgb', 'thermal')))
        begin = next(STAMPS_NS)

        def labels(step, frame):
            stamp_ns = begin + step * SECOND // 10
            for name in names:
                peer.publish(f'/{name}/rgb/image_raw', image(frame[0], 'rgb8', stamp_ns))
                peer.publish(f'/{name}/thermal/image_raw', image(frame[1], 'mono16', stamp_ns))
            assert peer.until(lambda: all(masks.values())), node.log
            return [pixels(masks[name].pop()) for name in names]

        def oracle(frame, seen):
            return expected(frame[0], normalized(frame[1]), (seen[0], normalized(seen[1])))

        labels(0, bright)
        front, rear = labels(1, dim)
        np.testing.assert_array_equal(front, oracle(dim, bright))
        np.testing.assert_array_equal(rear, oracle(dim, dim))
        assert 'out of range' in peer.set_parameter('scene.every', -1)
        assert peer.set_parameter('scene.every', 1) == ''
        np.testing.assert_array_equal(labels(2, dim)[0], oracle(dim, dim))
        assert node.end() == 0
        assert 'scene.every' not in node.log
