# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A seeded share of `make fuzz`, and the fuzzer's own eyes: does it see what is wrong?"""

import array
import warnings
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

import fuzz
import fuzz_messages as nonsense
import yaml
from fuzz_dds import fuzz_over_dds
from fuzz_target import Target
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from rgbx_seg_ros import messages
from rgbx_seg_ros.images import ImageError
from rgbx_seg_ros.pipeline import Pipeline

SEED, CASES, DDS_CASES = 20260725, 2000, 80


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        warnings.simplefilter('error', RuntimeWarning)
        yield


@pytest.mark.parametrize('name', fuzz.CONFIGS)
def test_nonsense_costs_no_valid_pair_its_mask(name):
    failures = fuzz.fuzz_in_process(-(-CASES // len(fuzz.CONFIGS)), SEED, [name])
    assert not failures, '\n'.join(failures)


def test_nonsense_over_dds_costs_no_valid_pair_its_mask():
    failures = fuzz_over_dds(DDS_CASES, SEED)
    assert not failures, '\n'.join(failures)


@pytest.mark.parametrize('fault', ['raises', 'flips'])
def test_the_fuzzer_sees_a_pair_that_fails_and_a_mask_that_is_wrong(monkeypatch, fault):
    real = Pipeline.__call__

    def broken(self, rgb, *arguments):
        if fault == 'raises' and rgb.shape == (*nonsense.SIZE, 3):
            raise ValueError('broken on purpose')
        return real(self, 255 - rgb, *arguments)

    monkeypatch.setattr(Pipeline, '__call__', broken)
    failures = fuzz.fuzz_in_process(20, SEED, ['plain'])
    words = {'raises': 'has no mask', 'flips': 'is wrong'}[fault]
    assert failures and any(words in failure for failure in failures)


def test_what_is_always_wrong_in_another_way_does_not_fill_the_log(tmp_path):
    (tmp_path / 'identity.yaml').write_text(yaml.safe_dump(fuzz.IDENTITY))
    target = Target(tmp_path, fuzz.CONFIGS['homography'] | {'pairs': ['']})
    rng, stamp = Random(SEED), target.now_ns
    for side in range(40, 80):  # an RGB camera whose shape changes with every image
        images, _ = nonsense.valid_pair(rng, stamp := stamp + fuzz.SECOND, 0)
        images['rgb'].width = images['rgb'].height = side
        images['rgb'].step, images['rgb'].data = 3 * side, array.array('B', bytes(3 * side * side))
        target.hand_over('/rgb/image_raw', images['rgb'])
        target.hand_over('/thermal/image_raw', images['aux'])
        target.settle()
    target.close()
    assert sum('calibrated at' in line for line in target.log.lines) == 1
    target = Target(tmp_path, {'registration.mode': 'calibrated'})
    for number in range(200):  # and transforms that are none
        target.hand_over('/tf_static', TFMessage(transforms=[TransformStamped(
            child_frame_id=f'frame {number % 100}')]))
    target.close()
    assert len(target.log.lines) < 30


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(['rgb', 'aux', 'depth']))
def test_any_message_is_an_array_of_its_size_or_an_image_error(seed, stream):
    rng = Random(seed)
    make = nonsense.compressed if rng.random() < 0.3 else nonsense.image
    message = make(rng, stream, (1, 2), wire=False)
    before = bytes(message.data)
    try:
        pixels = messages.to_array(message)
    except ImageError as error:
        assert str(error).endswith('.')
        return
    assert pixels.ndim in (2, 3) and pixels.size and pixels.dtype.isnative
    if isinstance(message, Image):
        assert pixels.shape[:2] == (message.height, message.width)
    assert bytes(message.data) == before


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([('mono8', 1), ('rgb8', 3)]),
       st.integers(0, 2**32), st.booleans())
def test_pixels_come_back_from_the_message_made_of_them(height, width, kind, seed, reuse):
    encoding, channels = kind
    shape = (height, width, channels)[:2 if channels == 1 else 3]
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    old = Image(height=3, width=5, encoding='16UC1', is_bigendian=0, step=10,
                data=array.array('B', bytes(30))) if reuse else None
    message = messages.to_image(pixels, encoding, Header(frame_id='a'), old)
    np.testing.assert_array_equal(messages.to_array(message), pixels)
    again = messages.to_image(messages.to_array(message), encoding, message.header)
    assert again == message
