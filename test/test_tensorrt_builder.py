# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines built for real by TensorRT-RTX, which needs no GPU for that, and all of its refusals."""

import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from bundles import info, manifest, tiny_onnx, write_scene_bundle, write_tiny_bundle
from onnx import TensorProto, helper
from plans import (
    ADA,
    CAST,
    FLOATS,
    convolutions,
    graph_file,
    open_model,
    real_rtx,
    slow_bundle,
    tiny_model,
)

from rgbx_seg_ros import RgbxSegError, build_memory, build_progress, engine_cache
from rgbx_seg_ros.engine import BackendUnavailable, Options
from rgbx_seg_ros.engine_tensorrt import Library
from rgbx_seg_ros.machine import this_machine
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE, save_bundle
from rgbx_seg_ros.onnx_opset import opset_of
from rgbx_seg_ros.tensorrt_builder import build_plan, obtain_plans
from rgbx_seg_ros.tensorrt_target import PORTABLE, Target, target_of

ROOT = Path(__file__).parent.parent
PORTABLE_TARGET = Target(capabilities=PORTABLE)


def refusal(rtx, path, target=PORTABLE_TARGET):
    """Return the error of building a graph, which must be one sentence."""
    with pytest.raises(RgbxSegError) as error:
        build_plan(rtx, path, target, 0, b'', lambda text: None)
    text = str(error.value)
    assert '\n' not in text and text.endswith('.') and path.name in text
    return error.value


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


@pytest.fixture(scope='module')
def rtx():
    return real_rtx()


def test_rtx_builds_once_and_finds_it_again(rtx, tmp_path, place):
    model, told = tiny_model(tmp_path), []
    plans = obtain_plans(rtx, model, Options(tell=told.append), None, 0)
    assert list(plans) == [MODEL_FILE] and plans[MODEL_FILE].parent == place
    parts = engine_cache.read_sidecar(plans[MODEL_FILE]).parts
    assert parts['compute capabilities'] == '8.6, 8.9, 12.0' and 'GPU' not in parts
    assert parts['version'] == rtx.version and parts['precision'] == 'fp32'
    assert 'rgb uint8 1x48x64x3' in parts['tensors']
    begin, middle, end = told
    assert 'has none yet' in begin and f'for tensorrt_rtx {rtx.version}, compute' in middle
    assert 'is built: ' in end and 'MB; the cache holds ' in end
    written = plans[MODEL_FILE].stat().st_mtime_ns
    assert obtain_plans(rtx, model, Options(tell=told.append), None, 0) == plans
    assert len(told) == 3 and plans[MODEL_FILE].read_bytes()
    assert written <= plans[MODEL_FILE].stat().st_mtime_ns


def test_rtx_is_never_given_a_timing_cache(rtx, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(tiny_onnx())
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # RTX deprecates it
        plan, timing = build_plan(rtx, path, PORTABLE_TARGET, 0, b'old', lambda text: None)
    assert plan and timing == b''


def test_without_a_driver_an_engine_of_rtx_cannot_be_loaded(rtx, tmp_path):
    if this_machine().gpu is not None:
        pytest.skip('there is a GPU here; test_gpu.py loads engines.')
    path = obtain_plans(rtx, tiny_model(tmp_path), Options(), None, 0)[MODEL_FILE]
    logger = rtx.trt.Logger(rtx.trt.Logger.INTERNAL_ERROR)
    assert rtx.trt.Runtime(logger).deserialize_cuda_engine(path.read_bytes()) is None


def test_a_bundle_of_two_graphs_gets_two_engines(rtx, tmp_path):
    model = open_model(write_scene_bundle(tmp_path / 'bundle'))
    plans = obtain_plans(rtx, model, Options(), None, 0)
    assert plans.keys() == {MODEL_FILE, SCENE_FILE} and len(set(plans.values())) == 2
    tensors = engine_cache.read_sidecar(plans[SCENE_FILE]).parts['tensors']
    assert 's_rgb float32 1x4' in tensors


def test_a_bundle_of_any_classes_gets_an_engine_for_as_many_as_it_was_exported_for(rtx, tmp_path):
    models = [open_model(write_tiny_bundle(tmp_path / f'bundle{most}', vocabulary=most))
              for most in (6, 200)]
    plans = [obtain_plans(rtx, model, Options(), None, 0)[MODEL_FILE] for model in models]
    tensors = [engine_cache.read_sidecar(plan).parts['tensors'] for plan in plans]
    assert plans[0] != plans[1]
    for text, most in zip(tensors, (6, 200), strict=True):
        assert f'classes float32 (1..{most}, 3 usual)x4' in text


@pytest.mark.parametrize('gpu, expected', [
    (None, PORTABLE), (ADA, PORTABLE), (ADA._replace(capability=(8, 0)), ((8, 0), *PORTABLE)),
    (ADA._replace(capability=(7, 5)), ((7, 5),)), (ADA._replace(capability=(12, 1)), ((12, 1),))])
def test_rtx_builds_for_the_gpu_and_for_others_where_that_costs_nothing(rtx, gpu, expected):
    assert target_of(rtx, gpu).capabilities == expected


@pytest.mark.parametrize('capability', [(8, 7), (9, 0)])
def test_rtx_refuses_a_capability_that_it_lacks_before_it_builds(rtx, tmp_path, capability):
    name = '.'.join(map(str, capability))
    with pytest.raises(BackendUnavailable, match=f'no compute capability {name}; expected some of '
                                                 '7.5, 8.0, 8.6, 8.9, 12.0, 12.1'):
        obtain_plans(rtx, tiny_model(tmp_path), Options(), ADA._replace(capability=capability), 0)


def test_turing_has_no_fp32_products_and_the_error_says_so(rtx, tmp_path):
    weights = np.ones((3, 3), np.float32)
    path = graph_file(tmp_path, [CAST, helper.make_node('MatMul', ['a', 'w'], ['label'])], FLOATS,
                      w=weights)
    error = refusal(rtx, path, Target(capabilities=((7, 5),)))
    assert isinstance(error, BackendUnavailable)
    assert 'FP32 GEMM is not supported' in str(error) and '`rgbx_variants`' in str(error)


def test_an_unknown_operator_is_named_and_auto_may_go_on(rtx, tmp_path):
    path = graph_file(tmp_path, [CAST, helper.make_node(
        'StringNormalizer', ['a'], ['label'], name='odd')], FLOATS)
    error = refusal(rtx, path)
    assert isinstance(error, BackendUnavailable)
    assert 'refuses StringNormalizer in node "odd"' in str(error) and 'of opset 18' in str(error)


def test_a_transpose_of_bytes_is_named(rtx, tmp_path):
    path = graph_file(tmp_path, [helper.make_node('Transpose', ['rgb'], ['label'], name='first',
                                                  perm=[0, 3, 1, 2])], info('label', 1, 3, 48, 64))
    error = refusal(rtx, path)
    assert isinstance(error, BackendUnavailable)
    assert 'Transpose in node "first"' in str(error) and 'UInt8' in str(error)


def test_a_resize_with_antialias_is_named(rtx, tmp_path):
    path = graph_file(tmp_path, [CAST, helper.make_node(
        'Resize', ['a', '', 'scales'], ['label'], name='smaller', mode='linear', antialias=1)],
        info('label', 1, 24, 32, 3, kind=TensorProto.FLOAT),
        scales=np.array([1, 0.5, 0.5, 1], np.float32))
    error = refusal(rtx, path)
    assert isinstance(error, BackendUnavailable)
    assert 'Resize in node "smaller"' in str(error) and 'ntialias' in str(error)


def test_an_opset_of_the_future_is_refused_though_the_parser_reads_it(rtx, tmp_path):
    path = graph_file(tmp_path, [helper.make_node('Cast', ['rgb'], ['label'],
                                                  to=TensorProto.FLOAT)], FLOATS, opset=99)
    error = refusal(rtx, path)
    assert isinstance(error, BackendUnavailable) and 'opset 99' in str(error)
    assert 'up to 25' in str(error)


@pytest.mark.parametrize('content', [tiny_onnx()[:200], b'no ONNX' * 100, b'',
                                     tiny_onnx()[:20] + b'\xff' * 20 + tiny_onnx()[40:]],
                         ids=['truncated', 'text', 'empty', 'overwritten'])
def test_a_damaged_file_is_the_bundles_fault(rtx, tmp_path, content):
    path = tmp_path / 'model.onnx'
    path.write_bytes(content)
    error = refusal(rtx, path)
    assert not isinstance(error, BackendUnavailable) and 'export the bundle again' in str(error)


def test_a_network_of_other_tensors_is_refused_before_it_is_built(rtx, tmp_path):
    folder = tmp_path / 'bundle'
    save_bundle(folder, tiny_onnx(height=32), manifest())  # the manifest says 48
    with pytest.raises(RgbxSegError, match=r'tensor "rgb" .*\(1, 32, 64, 3\).*\(1, 48, 64, 3\)'):
        obtain_plans(rtx, open_model(folder), Options(), None, 0)


class Stingy:
    """The real library, but with a workspace that no kernel fits in."""

    def __init__(self, trt):
        self.trt = trt

    def __getattr__(self, name):
        return getattr(self.trt, name)

    def Builder(self, logger):  # noqa: N802
        builder = self.trt.Builder(logger)

        def config():
            own = builder.create_builder_config()
            own.set_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE, 1)
            return own

        return SimpleNamespace(create_network=builder.create_network, create_builder_config=config,
                               build_serialized_network=builder.build_serialized_network)


def test_too_little_memory_is_named_with_a_remedy(rtx, tmp_path):
    poor = Library(rtx.flavor, Stingy(rtx.trt), rtx.version)
    error = refusal(poor, convolutions(tmp_path, 3))
    assert isinstance(error, BackendUnavailable) and 'within workspace limit' in str(error)
    assert 'too little memory' in str(error) and 'add swap' in str(error)


def test_a_build_says_every_few_seconds_how_long_it_takes(rtx, tmp_path, monkeypatch):
    monkeypatch.setattr(build_progress, 'TICK_S', 0.1)
    path, told = convolutions(tmp_path, 100), []
    build_plan(rtx, path, PORTABLE_TARGET, 0, b'', told.append)
    ticks = [text for text in told if 's so far' in text]
    assert len(ticks) >= 2 and all(path.name in text for text in ticks)
    assert any('(step ' in text for text in ticks)  # the library's own phases
    assert 'build progress' not in [thread.name for thread in threading.enumerate()]


def test_little_free_memory_is_told_before_the_build(rtx, tmp_path, monkeypatch):
    meminfo, told = tmp_path / 'meminfo', []
    meminfo.write_text('MemTotal: 8000000 kB\nMemAvailable: 300000 kB\nSwapFree: 5 kB\n')
    monkeypatch.setattr(build_memory, 'MEMINFO', meminfo)
    obtain_plans(rtx, tiny_model(tmp_path), Options(tell=told.append), None, 0)
    assert any('0.3 GB of memory are free, expected about 0.4 GB' in text for text in told)
    meminfo.unlink()
    assert build_memory.available() is None


def test_an_opset_is_read_as_onnx_reads_it(tmp_path):
    for path in (ROOT / 'sample' / 'bundle' / 'model.onnx', convolutions(tmp_path, 1)):
        own = onnx.load(path, load_external_data=False)
        assert opset_of(path) == own.opset_import[0].version
    model = onnx.load_from_string(tiny_onnx())
    model.opset_import.insert(0, helper.make_opsetid('com.other', 3))
    model.producer_name = 'someone'
    other = tmp_path / 'other.onnx'
    other.write_bytes(model.SerializeToString())
    assert opset_of(other) == 18
    other.write_bytes(b'\x42\xff\xff')
    assert opset_of(other) is None


def test_another_precision_of_the_same_file_is_another_engine(rtx, tmp_path):
    model = tiny_model(tmp_path)
    plans = {obtain_plans(rtx, own, Options(), None, 0)[MODEL_FILE]
             for own in (model, replace(model, precision='fp16'))}
    assert len(plans) == 2


# kill -9 and two builders, for real

PROGRAM = """
import sys
from pathlib import Path
from rgbx_seg_ros import build_progress
from rgbx_seg_ros.engine import Model, Options
from rgbx_seg_ros.engine_tensorrt import load_library
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.tensorrt_builder import obtain_plans
build_progress.TICK_S = 0.05
bundle = Path(sys.argv[1])
library = load_library('tensorrt_rtx')
tell = lambda text: print(text, flush=True)
plans = obtain_plans(library, Model(bundle, load_bundle(bundle)), Options(tell=tell), None, 0)
print('plan', *plans.values())
"""


def builder_process(bundle):
    return subprocess.Popen([sys.executable, '-c', PROGRAM, bundle], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_kill_9_in_the_midst_of_a_build_leaves_no_engine_and_the_next_start_builds(
        rtx, tmp_path, place):
    bundle = slow_bundle(tmp_path)
    child = builder_process(bundle)
    while '(step ' not in (line := child.stdout.readline()):  # till the library is at work
        assert line
    child.kill()
    assert child.wait(20) == -signal.SIGKILL and '\nplan' not in child.stdout.read()
    assert not list(place.glob('*.engine'))
    told = []
    plan = obtain_plans(rtx, open_model(bundle), Options(tell=told.append), None, 0)[MODEL_FILE]
    assert engine_cache.find(plan)[0] is not None
    assert f'process {child.pid}' in told[0] and 'did not come to its end' in told[0]
    child.stdout.close()


def test_of_two_builders_the_second_waits_and_takes_what_the_first_built(rtx, tmp_path, place):
    bundle = slow_bundle(tmp_path)
    first, told = builder_process(bundle), []
    while 'building the engine' not in (line := first.stdout.readline()):
        assert line
    plan = obtain_plans(rtx, open_model(bundle), Options(tell=told.append), None, 0)[MODEL_FILE]
    assert f'waiting since 0 s for process {first.pid}' in told[0]
    assert not any('building' in text for text in told)
    assert f'plan {plan}\n' in first.communicate(timeout=60)[0]
    assert list(place.glob('*.engine')) == [plan]
