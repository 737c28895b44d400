# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node through its lifecycle again and again: what one round leaves behind, many add up to.

`python test/test_lifecycle.py 200` prints what so many rounds in one process cost.
"""

import ctypes
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

import rclpy
from bundles import expected, write_tiny_bundle
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from robot import PATIENCE_S, STAMPS_NS, free_domain, image, normalized, pixels, scene
from sensor_msgs.msg import Image

from rgbx_seg_ros.memory import resident_mb
from rgbx_seg_ros.node import SegmentNode

SIZE = (48, 64)
CI_CYCLES = 30
# The first rounds fill pools and caches; from then on a leak of one image per round, of one of
# rclpy's objects (10 kB) per topic, or of one engine (1 MB) would show.
LIMITS_MB = {CI_CYCLES: 3.0, 200: 3.0}


def cycle(number, bundle):
    """Run so many rounds; yield resident MB, threads and file descriptors after each."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=free_domain())
    node = SegmentNode(context=context, parameter_overrides=[
        Parameter('bundle', value=str(bundle)), Parameter('autostart', value=False)])
    peer = rclpy.create_node('peer', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)
    robot = SimpleNamespace(node=node, peer=peer, executor=executor, masks=[], publishers=[
        peer.create_publisher(Image, f'/{stream}/image_raw', qos_profile_sensor_data)
        for stream in ('rgb', 'thermal')])
    peer.create_subscription(Image, '/segment/mask', robot.masks.append, 10)
    try:
        for seed in range(number):
            one_round(robot, seed)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            yield resident_mb(), threading.active_count(), len(os.listdir('/proc/self/fd'))
    finally:
        node.destroy_node()
        executor.shutdown()
        peer.destroy_node()
        rclpy.shutdown(context=context)


def one_round(robot, seed):
    """Configure, activate, segment a pair, deactivate and clean up."""
    good = TransitionCallbackReturn.SUCCESS
    assert robot.node.trigger_configure() == robot.node.trigger_activate() == good
    deadline = time.monotonic() + PATIENCE_S
    rgb, thermal = scene(seed, SIZE)
    while not robot.masks:  # the peers may not have found each other yet
        assert time.monotonic() < deadline, f'round {seed} gives no mask'
        stamp_ns = next(STAMPS_NS)
        robot.publishers[0].publish(image(rgb, 'rgb8', stamp_ns))
        robot.publishers[1].publish(image(thermal, 'mono16', stamp_ns))
        robot.executor.spin_once(timeout_sec=0.05)
    np.testing.assert_array_equal(pixels(robot.masks[0]), expected(rgb, normalized(thermal)))
    assert robot.node.trigger_deactivate() == robot.node.trigger_cleanup() == good
    while (robot.peer.count_publishers('/segment/mask')
           or robot.publishers[0].get_subscription_count()):
        assert time.monotonic() < deadline, f'round {seed} leaves topics behind'
        robot.executor.spin_once(timeout_sec=0.02)
    robot.executor.spin_once(timeout_sec=0.02)
    robot.masks.clear()


def growth_mb(resident):
    """Return the growth over the last three quarters, without the noise of single rounds."""
    resident = np.array(resident[len(resident) // 4:])
    edge = max(1, len(resident) // 10)
    return float(np.median(resident[-edge:]) - np.median(resident[:edge]))


def test_rounds_leave_no_memory_no_thread_and_no_file_behind(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    resident, threads, files = zip(*cycle(CI_CYCLES, bundle), strict=True)
    assert len(set(threads[5:])) == len(set(files[5:])) == 1, (threads, files)
    assert growth_mb(resident) < LIMITS_MB[CI_CYCLES], resident


def main(cycles):
    """Print a table of the rounds; return 1 if they leave something behind."""
    with tempfile.TemporaryDirectory() as folder:
        began, rounds = time.monotonic(), []
        for number, found in enumerate(cycle(cycles, write_tiny_bundle(Path(folder) / 'bundle'))):
            rounds.append(found)
            if (number + 1) % max(1, cycles // 10) == 0 or number == 0:
                print('round {:4}: {:7.2f} MB, {} threads, {} files'.format(number + 1, *found),
                      flush=True)
    resident, threads, files = zip(*rounds, strict=True)
    grown, quarter = growth_mb(resident), cycles // 4
    print(f'{cycles} rounds in {time.monotonic() - began:.0f} s; over the last '
          f'{cycles - quarter}: {grown:+.2f} MB')
    good = grown < LIMITS_MB[200] and len(set(threads[quarter:])) == len(set(files[quarter:])) == 1
    return 0 if good else 1


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
