# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Guessing topics by the names that drivers give them."""

import pytest

from rgbx_seg_ros.topics import TopicError, TopicInfo, choose_topics


def topics(*names, empty=()):
    """Return topic infos; `name:encoding` where it is not rgb8 or mono8."""
    found = {}
    for name in names:
        topic, _, encoding = name.partition(':')
        found[topic] = TopicInfo('sensor_msgs/msg/Image', 0 if topic in empty else 5,
                                 encoding or 'rgb8')
    return found


@pytest.mark.parametrize('names, modality, expected', [
    (('/rgb/image_raw', '/thermal/image_raw'), '', ('/rgb/image_raw', '/thermal/image_raw', None)),
    (('/camera/image_raw', '/boson/image'), '', ('/camera/image_raw', '/boson/image', None)),
    (('/camera/color/image_raw', '/camera/depth/image_rect_raw', '/lwir/image_raw'), 'depth',
     ('/camera/color/image_raw', '/camera/depth/image_rect_raw', None)),
    (('/rgb/image_raw/compressed', '/ir/image_raw/compressed', '/label/image_raw/compressed:png'),
     'thermal', ('/rgb/image_raw/compressed', '/ir/image_raw/compressed',
                 '/label/image_raw/compressed')),
    (('/rgb/image_raw', '/rgb/image_raw/compressed', '/ir/image_raw', '/gt/mask:mono8'), '',
     ('/rgb/image_raw', '/ir/image_raw', '/gt/mask')),
    # Our own outputs are no labels, nor is a color picture of labels.
    (('/rgb/image_raw', '/thermal/image_raw', '/seg/mask:mono8', '/seg/overlay', '/seg/color_mask'),
     '', ('/rgb/image_raw', '/thermal/image_raw', None)),
    (('/rgb', '/thermal', '/label/image_raw:mono8', '/seg/mask:mono8', '/seg/confidence:mono8'),
     '', ('/rgb', '/thermal', '/label/image_raw')),
    (('/rgb', '/thermal', '/semantic/color:rgb8'), '', ('/rgb', '/thermal', None)),
])
def test_the_names_of_common_drivers_are_understood(names, modality, expected):
    assert choose_topics(topics(*names), modality) == expected


@pytest.mark.parametrize('names, told', [
    (('/rgb/image_raw',), 'no topic looks like aux, found /rgb/image_raw (5 x rgb8); name it by'),
    (('/thermal/image_raw',), 'no topic looks like rgb'),
    ((), 'no image topic, expected those of two cameras'),
    (('/rgb/a', '/rgb/b', '/thermal'), '/rgb/a and /rgb/b could each be the rgb topic'),
    (('/rgb', '/thermal', '/depth'), '/depth and /thermal could each be the aux topic'),
])
def test_what_cannot_be_told_is_said_with_what_is_there(names, told):
    with pytest.raises(TopicError) as caught:
        choose_topics(topics(*names))
    assert told in str(caught.value)


def test_a_topic_without_messages_is_no_candidate():
    found = topics('/rgb/a', '/rgb/b', '/thermal', empty=('/rgb/a',))
    assert choose_topics(found).rgb == '/rgb/b'


def test_a_topic_cannot_be_two_streams():
    with pytest.raises(TopicError, match='/cam0 is named twice'):
        choose_topics(topics('/cam0', '/cam1'), rgb='/cam0', aux='/cam0')
    with pytest.raises(TopicError, match='no topic looks like rgb'):
        choose_topics(topics('/rgb', '/thermal'), label='/rgb')
