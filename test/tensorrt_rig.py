# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles, oracles and what must hold of every engine, for the tests of TensorRT without a GPU."""

from contextlib import contextmanager

import numpy as np
from bundles import write_scene_bundle, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Model, Options
from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine
from rgbx_seg_ros.engine_tensorrt import open_tensorrt
from rgbx_seg_ros.manifest import load_bundle

SHAPES = {'rgb': (1, 48, 64, 3), 'aux': (1, 48, 64, 1)}
BUNDLES = {'one graph': write_tiny_bundle, 'two graphs': write_scene_bundle}


def write_bundles(folder):
    """Write a bundle of each kind; return their models."""
    return {name: model_of(write(folder / name)) for name, write in BUNDLES.items()}


def open_oracles(bundles):
    return {name: OnnxRuntimeEngine(model) for name, model in bundles.items()}


def model_of(folder):
    return Model(folder, load_bundle(folder))


def pair(seed):
    """Return rgb and aux of noise whose largest value, which is embedded, is of this seed."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 200 + 5 * (seed % 10) - more, shape, np.uint8)
            for shape, more in zip(SHAPES.values(), (0, 60), strict=True)]


def flavor_of(gpu):
    return gpu.trt.__name__


def open_on(gpu, model, **options):
    return open_tensorrt(model, Options(**options), flavor_of(gpu))


@contextmanager
def opened(gpu, model, **options):
    """Open an engine for a while and hold that nothing of it is left afterwards."""
    engine = open_on(gpu, model, **options)
    try:
        yield engine
    finally:
        engine.close()
        assert_all_freed(gpu)


def assert_all_freed(gpu):
    assert gpu.alive() == {}, gpu.failed
    assert gpu.count('leaked') == gpu.count('abandoned') == 0, gpu.failed
    assert not gpu.world.alive and not gpu.world.kernels, gpu.failed


def assert_sentence(error):
    text = str(error)
    assert isinstance(error, RgbxSegError) and text.endswith('.') and '\n' not in text, text
    assert text.count(';') >= 1 and len(text) < 900, text


def assert_equal(found, expected):
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, other)
        assert own.dtype == other.dtype
