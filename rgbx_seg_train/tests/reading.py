# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Opens a public data set as training does, and compares what it reads with what was written."""

import numpy as np
import pytest

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import DataConfig
from rgbx_seg_train.data.sources import open_source

UNION = DataConfig(classes='union70')


def opened(source):
    return open_source(source, UNION)


def assert_labels(samples, ids):
    """Compare all labels of a split with those meant; names and their number must agree."""
    found = {sample.name: sample for sample in (samples[n] for n in range(len(samples)))}
    assert found.keys() == ids.keys()
    for name, sample in found.items():
        np.testing.assert_array_equal(sample.label, ids[name])
        assert sample.rgb.shape == (*ids[name].shape, 3) and sample.rgb.dtype == np.uint8
        assert sample.aux.shape[:2] == ids[name].shape and sample.aux.dtype == np.uint8


def raises_sentence(text):
    return pytest.raises(RgbxSegError, match=rf'(?s)^(?!.*\n).*{text}.*\.$')
