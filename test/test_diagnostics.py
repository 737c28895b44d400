# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the node logs of its own accord, without a node."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from builtin_interfaces.msg import Time

from rgbx_seg_ros.diagnostics import NO_PUBLISHER_S, Report, Reporter
from rgbx_seg_ros.health import Health


def told(seconds, published, simulated):
    """Return what is logged in so many seconds of a node whose topics have these publishers."""
    sentences = []
    now = SimpleNamespace(nanoseconds=0, to_msg=Time)
    node = SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=lambda _: None),
        get_clock=lambda: SimpleNamespace(ros_time_is_active=simulated, now=lambda: now),
        count_publishers=published.count,
        get_logger=lambda: SimpleNamespace(warning=sentences.append),
        get_fully_qualified_name=lambda: '/segment')
    report = Report(Health(0), {}, ['/rgb/image_raw', '/thermal/image_raw'], '', None)
    reporter = Reporter(node, lambda: report)
    for _ in range(seconds):
        reporter.on_second()
    return sentences


def test_silent_topic_is_told_once_after_a_while():
    assert told(NO_PUBLISHER_S - 1, ['/rgb/image_raw'], simulated=False) == []
    sentence, = told(3 * NO_PUBLISHER_S, ['/rgb/image_raw'], simulated=False)
    assert sentence.startswith('nobody publishes /thermal/image_raw; start the camera')


def test_missing_clock_is_told_where_time_is_simulated():
    cameras = ['/rgb/image_raw', '/thermal/image_raw']
    sentence, = told(NO_PUBLISHER_S, cameras, simulated=True)
    assert sentence.startswith('nobody publishes /clock; play the bag with --clock')
    assert told(NO_PUBLISHER_S, [*cameras, '/clock'], simulated=True) == []
