# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What of TensorRT's Python API the engine calls, against the real TensorRT-RTX and the fakes.

And the kernels that TensorRT-RTX compiles and keeps.
"""

import ast
import importlib.util
import inspect
import sys

import pytest
from fake_gpu import fake_gpu
from fake_tensorrt import CLASSES, ENUMS, GENERATIONS, make
from tensorrt_rig import (
    assert_sentence,
    opened,
    write_bundles,
)

from rgbx_seg_ros import cuda, tensorrt_session
from rgbx_seg_ros.engine import BackendUnavailable, Options
from rgbx_seg_ros.engine_tensorrt import FLAVORS, open_tensorrt


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    return write_bundles(tmp_path_factory.mktemp('bundles'))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep engines in a folder of these tests, where a second one finds them built."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'tensorrt'))


def test_rtx_keeps_its_kernels_and_takes_them_at_the_next_start(bundles, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    taken = []
    with fake_gpu('rtx') as gpu:
        accepts = gpu.trt.IRuntimeCache.deserialize
        gpu.trt.IRuntimeCache.deserialize = lambda cache, blob: taken.append(
            accepts(cache, blob)) or taken[-1]
        with opened(gpu, bundles['one graph']):
            pass
        kept, = tmp_path.rglob('*.runtime')
        content, modified = kept.read_bytes(), kept.stat().st_mtime_ns
        assert content.startswith(b'FAKEKERNELS') and taken == []
        with opened(gpu, bundles['one graph']):
            assert taken == [True] and kept.stat().st_mtime_ns == modified
        kept.write_bytes(b'of another GPU')
        with opened(gpu, bundles['one graph']):
            assert taken == [True, False] and kept.read_bytes() == content


def test_kernels_that_cannot_be_kept_are_only_told_of(bundles, monkeypatch):
    def refuse(path, content):
        raise OSError(30, 'Read-only file system')

    told = []
    monkeypatch.setattr(tensorrt_session, 'write_atomically', refuse)
    with fake_gpu('rtx', driver=13010) as gpu, opened(gpu, bundles['one graph'], tell=told.append):
        assert 'cannot be written (Read-only file system); the kernels are' in told[-1]


OWNERS = {  # expression in the code -> class of the library; '' is the module
    'trt': '', 'library.trt': '', 'self._library.trt': '', 'trt.ILogger': 'ILogger',
    'runtime': 'Runtime', 'engine': 'ICudaEngine', 'self._engine': 'ICudaEngine',
    'self._context': 'IExecutionContext', 'settings[0]': 'IRuntimeConfig',
    'self._kernels': 'IRuntimeCache', 'trt.CudaGraphStrategy': 'CudaGraphStrategy',
    'trt.EngineValidity': 'EngineValidity', 'trt.ILogger.Severity': 'ILogger.Severity'}


def named(module):
    """Return (class of the library, attribute) for all that a module of ours calls by name."""
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    return {(OWNERS[ast.unparse(node.value)], node.attr) for node in nodes
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in OWNERS}


def has(library, owner, name):
    for part in filter(None, owner.split('.')):
        library = getattr(library, part)
    return hasattr(library, name)


def test_the_real_rtx_has_all_names_that_the_code_calls_and_that_the_fake_has():
    if importlib.util.find_spec('tensorrt_rtx') is None:
        pytest.skip('tensorrt_rtx is not installed.')
    import tensorrt_rtx as real

    used = named(tensorrt_session)
    assert {('Runtime', 'deserialize_cuda_engine'), ('IExecutionContext', 'execute_async_v3'),
            ('IRuntimeConfig', 'cuda_graph_strategy')} <= used and hasattr(real, 'Runtime')
    assert [name for name in used if not has(real, *name)] == []
    fake = make('rtx', None)
    for own in [one.__name__ for one in CLASSES] + [one for one in ENUMS if hasattr(fake, one)]:
        names = [name for name in vars(getattr(fake, own)) if not name.startswith('_')]
        assert [name for name in names if not hasattr(getattr(real, own), name)
                and name != 'world'] == [], own


@pytest.mark.parametrize('generation', GENERATIONS)
def test_each_generation_has_the_names_that_the_code_calls_for_its_flavor(generation):
    fake = make(generation, None)
    only_rtx = {'IRuntimeConfig', 'IRuntimeCache', 'CudaGraphStrategy', 'EngineValidity'}
    attributes = {'create_runtime_config', 'get_engine_validity', 'engine_header_size'} | only_rtx
    captures = FLAVORS[fake.__name__].captures_itself
    used = {(owner, name) for owner, name in named(tensorrt_session)
            if captures or (owner not in only_rtx and name not in attributes
                            and name != 'EngineInvalidityDiagnostics')}
    instance = {'Severity'}  # of ILogger, on the class
    assert [one for one in used if not has(fake, *one) and one[1] not in instance
            and one != ('IRuntimeConfig', 'cuda_graph_strategy')] == []


def test_the_real_rtx_builds_for_the_fake_gpu_and_says_that_it_finds_no_driver(bundles):
    if importlib.util.find_spec('tensorrt_rtx') is None:
        pytest.skip('tensorrt_rtx is not installed.')
    if cuda.find_gpu()[0] is not None:
        pytest.skip('there is a GPU.')
    import tensorrt_rtx as real

    with fake_gpu('rtx') as gpu:
        sys.modules['tensorrt_rtx'] = real
        with pytest.raises(BackendUnavailable, match='tensorrt_rtx .* cannot load the engine .*'
                           'cudaError 35.*; expected an NVIDIA driver as new as') as caught:
            open_tensorrt(bundles['one graph'], Options(), 'tensorrt_rtx')
        assert_sentence(caught.value)
        assert gpu.alive() == {}
