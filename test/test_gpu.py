# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Real engines on a real GPU, by each library that is installed: `make test-gpu`.

Labels are held against the formula of the tiny bundles, and for the sample against ONNX Runtime on
the processor. Nothing here is faked: without a GPU or a library a test is skipped and says so.
"""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundles import expected, write_scene_bundle, write_tiny_bundle

from rgbx_seg_ros import engine_cache
from rgbx_seg_ros.engine import BackendUnavailable, Options, open_engine
from rgbx_seg_ros.engine_tensorrt import FLAVORS, load_library
from rgbx_seg_ros.machine import this_machine

GPU = this_machine().gpu
WHY = this_machine().problem or 'no CUDA driver was found'
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPU is None, reason=f'there is no GPU: {WHY}')]

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / 'sample' / 'bundle'
EQUAL = 0.998  # of the labels; a GPU multiplies float32 in TF32 unless it is told not to
LEAK_BYTES = 16 << 20  # that a driver may keep for itself when an engine is closed


@pytest.fixture(params=FLAVORS)
def flavor(request):
    traits = FLAVORS[request.param]
    try:
        load_library(request.param)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    if traits.capabilities is not None and GPU.capability not in traits.capabilities:
        pytest.skip(f'{traits.name} has no kernels for {GPU.name}, {GPU.capability}.')
    return request.param


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


@pytest.fixture
def opened():
    """Open engines that the test need not close."""
    engines = []

    def run(bundle, backend, **options):
        engine, manifest = open_engine(bundle, backend, 'fp32', Options(**options))
        engines.append(engine)
        return engine, manifest

    yield run
    for engine in engines:
        engine.close()


def pair(seed, height=48, width=64, channels=1):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, height, width, 3), np.uint8),
            rng.integers(0, 256, (1, height, width, channels), np.uint8))


def smooth(seed, height, width):
    """Return a pair in which neighbors are alike, as in images, so that few labels are close."""
    rgb, aux = pair(seed, height // 20, width // 20)
    return tuple(np.ascontiguousarray(image.repeat(20, 1).repeat(20, 2)) for image in (rgb, aux))


def test_labels_and_confidence_are_those_of_the_formula(flavor, tmp_path, opened):
    engine, _ = opened(write_tiny_bundle(tmp_path / 'bundle'), flavor)
    assert engine.info.backend == flavor and GPU.name in engine.info.device
    for seed in range(20):
        rgb, aux = pair(seed)
        label, confidence = engine(rgb, aux)
        np.testing.assert_array_equal(label[0], expected(rgb[0], aux[0]))
        np.testing.assert_array_equal(confidence[0], aux[0, ..., 0])


def test_two_graphs_run_together_apart_and_aside(flavor, tmp_path, opened):
    engine, _ = opened(write_scene_bundle(tmp_path / 'bundle'), flavor)
    rgb, aux = pair(1)
    dim = rgb // 2, aux // 3
    np.testing.assert_array_equal(engine(rgb, aux)[0][0],
                                  expected(rgb[0], aux[0], (rgb[0], aux[0])))
    scene = engine.embed(*dim)
    np.testing.assert_array_equal(engine(rgb, aux, scene)[0][0],
                                  expected(rgb[0], aux[0], (dim[0][0], dim[1][0])))
    assert engine.info.embeds_aside
    engine.embed_later(*dim)
    for _ in range(1000):
        if (late := engine.embedded()) is not None:
            break
        engine(rgb, aux, scene)
    np.testing.assert_array_equal(late[0], np.full((1, 4), dim[0].max(), np.float32))


def test_the_sample_has_the_labels_of_onnx_runtime(flavor, opened):
    engine, manifest = opened(SAMPLE, flavor)
    reference, _ = opened(SAMPLE, 'onnxruntime')
    for seed in range(4):
        images = smooth(seed, manifest.height, manifest.width)
        label, confidence = engine(*images)
        known, sure = reference(*images)
        assert len(np.unique(known)) > 1
        assert (label == known).mean() >= EQUAL
        assert np.abs(confidence.astype(int) - sure)[label == known].mean() < 2


def test_an_engine_is_built_once_and_its_kernels_are_kept(flavor, tmp_path, place, opened):
    bundle, told = write_tiny_bundle(tmp_path / 'bundle'), []
    opened(bundle, flavor, tell=told.append)
    assert any('is built' in text for text in told)
    left = {path.name: path.read_bytes() for path in place.glob('*.engine')}
    kept = {'tensorrt': '*.timing', 'tensorrt_rtx': '*.runtime'}[flavor]
    assert len(left) == 1 and list(place.glob(kept))
    told.clear()
    opened(bundle, flavor, tell=told.append)
    assert not any('built' in text for text in told)
    assert {path.name: path.read_bytes() for path in place.glob('*.engine')} == left


def test_an_engine_that_the_command_writes_runs_by_engine_file(flavor, tmp_path, place, opened):
    bundle, out = write_tiny_bundle(tmp_path / 'bundle'), tmp_path / 'out'
    subprocess.run([sys.executable, '-m', 'rgbx_seg_ros.build_engine', bundle, '--backend', flavor,
                    '--out', out], cwd=ROOT, check=True, timeout=300)
    before = engine_cache.entries()
    engine, _ = opened(bundle, flavor, engine_file=out)
    rgb, aux = pair(3)
    np.testing.assert_array_equal(engine(rgb, aux)[0][0], expected(rgb[0], aux[0]))
    assert engine_cache.entries() == before


def test_a_damaged_engine_is_built_again_and_runs(flavor, tmp_path, place, opened):
    bundle, told = write_tiny_bundle(tmp_path / 'bundle'), []
    opened(bundle, flavor)
    path, = place.glob('*.engine')
    path.write_bytes(path.read_bytes()[:-100])
    engine, _ = opened(bundle, flavor, tell=told.append)
    assert any('it is damaged' in text for text in told)
    rgb, aux = pair(4)
    np.testing.assert_array_equal(engine(rgb, aux)[0][0], expected(rgb[0], aux[0]))


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from rgbx_seg_ros.cuda_context import Context
from rgbx_seg_ros.engine import open_engine
witness = Context()  # keeps the driver's own memory out of the difference
def cycle():
    engine, manifest = open_engine(Path(sys.argv[1]), sys.argv[2], 'fp32')
    size = (1, manifest.height, manifest.width)
    engine(np.zeros((*size, 3), np.uint8), np.zeros((*size, manifest.aux.channels), np.uint8))
    held = witness.free_and_total_bytes()[0]
    engine.close()
    witness.bind()
    return held, witness.free_and_total_bytes()[0]
cycle()
found = [cycle() for _ in range(5)]
print(*(after for _, after in found), min(after - held for held, after in found))
"""


def test_closing_an_engine_gives_its_memory_back(flavor):
    gc.collect()
    run = subprocess.run([sys.executable, '-c', PROGRAM, SAMPLE, flavor], cwd=ROOT, timeout=300,
                         check=True, capture_output=True, text=True)
    *after, freed = map(int, run.stdout.split())
    assert freed > 0
    assert after[0] - after[-1] < LEAK_BYTES
