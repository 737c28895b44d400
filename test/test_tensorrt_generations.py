# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Plain TensorRT by stand-ins that have the names of each generation and no others."""

import pytest
from bundles import write_tiny_bundle
from fake_gpu import fake_gpu
from onnx import TensorProto, helper
from plans import FLOATS, GIB, graph_file, library, open_model, tiny_model

from rgbx_seg_ros import build_memory, engine_cache
from rgbx_seg_ros.engine import BackendUnavailable, Options
from rgbx_seg_ros.machine import this_machine
from rgbx_seg_ros.manifest import MODEL_FILE
from rgbx_seg_ros.tensorrt_builder import build_plan, obtain_plans
from rgbx_seg_ros.tensorrt_target import Target


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


@pytest.fixture(params=['10.3', '10.16', '11.4'])
def gpu(request):
    with fake_gpu(request.param) as fake:
        yield fake


def test_each_tensorrt_builds_for_the_gpu_that_is_here(gpu, tmp_path):
    model, machine = tiny_model(tmp_path), this_machine()
    plan = obtain_plans(library(gpu), model, Options(), machine.gpu, GIB)[MODEL_FILE]
    parts = engine_cache.read_sidecar(plan).parts
    assert parts['GPU'] == 'Fake RTX A2000' and parts['compute capability'] == '8.6'
    assert parts['library'] == 'tensorrt' and parts['version'] == gpu.trt.__version__
    assert gpu.world.built == 1
    obtain_plans(library(gpu), model, Options(), machine.gpu, 2 * GIB)
    assert gpu.world.built == 1  # how much memory is free makes no other engine


def test_another_driver_or_gpu_has_the_engine_built_again_and_says_why(gpu, tmp_path):
    model, here, told = tiny_model(tmp_path), this_machine().gpu, []
    obtain_plans(library(gpu), model, Options(), here, GIB)
    for change, text in (({'driver': 13020}, 'expected 13.2'),
                         ({'name': 'Fake Orin'}, 'GPU Fake RTX A2000, expected Fake Orin'),
                         ({'capability': (8, 9)}, 'compute capability 8.6, expected 8.9')):
        obtain_plans(library(gpu), model, Options(tell=told.append), here._replace(**change), GIB)
        assert any('has another one' in one and text in one for one in told), told
        told.clear()
    assert gpu.world.built == 4


def test_the_timing_cache_is_kept_beside_the_engines_and_grows(gpu, tmp_path, place):
    here, seen = this_machine().gpu, []
    create = gpu.trt.IBuilderConfig.create_timing_cache
    gpu.trt.IBuilderConfig.create_timing_cache = lambda self, blob: (
        seen.append(bytes(blob)), create(self, blob))[1]
    for number in range(2):
        bundle = write_tiny_bundle(tmp_path / f'bundle{number}', height=32 + 16 * number)
        obtain_plans(library(gpu), open_model(bundle), Options(), here, GIB)
    (timing,) = place.glob('tensorrt-*.timing')
    assert seen[0] == b'' and 0 < len(seen[1]) < timing.stat().st_size
    timing.write_bytes(b'damaged')
    told = []
    bundle = write_tiny_bundle(tmp_path / 'third', height=16)
    obtain_plans(library(gpu), open_model(bundle), Options(tell=told.append), here, GIB)
    assert any('the timing cache cannot be used' in text for text in told)
    assert timing.read_bytes() != b'damaged'


def test_workspace_is_half_of_what_is_free_and_a_quarter_where_it_is_shared(gpu, tmp_path):
    limits = []
    gpu.trt.IBuilderConfig.set_memory_pool_limit = lambda self, pool, size: (
        limits.append((pool.name, size)), self._pools.update({pool: size}))
    model, here = tiny_model(tmp_path), this_machine().gpu
    obtain_plans(library(gpu), model, Options(), here, GIB)
    obtain_plans(library(gpu), model, Options(), here._replace(name='Orin', integrated=True), GIB)
    assert limits == [('WORKSPACE', GIB // 2), ('WORKSPACE', GIB // 4)]
    assert build_memory.workspace(100 * GIB, False) == 4 * GIB
    assert build_memory.workspace(0, True) == 64 << 20


def test_without_a_gpu_plain_tensorrt_says_where_to_build(gpu, tmp_path):
    with pytest.raises(BackendUnavailable, match='no GPU was found here; build on the robot'):
        obtain_plans(library(gpu), tiny_model(tmp_path), Options(), None, GIB)


def test_a_driver_that_is_too_old_is_named(tmp_path):
    with fake_gpu('10.3', driver=11040) as gpu, pytest.raises(BackendUnavailable) as error:
        obtain_plans(library(gpu), tiny_model(tmp_path), Options(), this_machine().gpu, GIB)
    assert 'tensorrt 10.3.0 does not start' in str(error.value)
    assert 'driver version is insufficient' in str(error.value)


@pytest.mark.parametrize('how, text', [
    ('Error Code 2: OutOfMemory (Requested size was 9 bytes.)', 'too little memory'),
    ('could not find any implementation', 'cannot build an engine of it (could not')])
def test_a_build_that_fails_says_why_and_leaves_nothing(gpu, tmp_path, place, how, text):
    gpu.world.fail('build_serialized_network', how=how)
    with pytest.raises(BackendUnavailable) as error:
        obtain_plans(library(gpu), tiny_model(tmp_path), Options(), this_machine().gpu, GIB)
    assert text in str(error.value) and not list(place.glob('*.engine*'))


def test_tensorrt_10_3_refuses_what_jetpack_6_cannot_read(tmp_path):
    path = graph_file(tmp_path, [helper.make_node('Cast', ['rgb'], ['label'],
                                                  to=TensorProto.FLOAT)], FLOATS, opset=22)
    with fake_gpu('10.3') as gpu, pytest.raises(BackendUnavailable, match='of opset 22'):
        build_plan(library(gpu), path, Target('Orin', (8, 7), 12060), GIB, b'', lambda text: None)
