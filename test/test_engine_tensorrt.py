# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT of four generations on a GPU that is not there: see fake_tensorrt.py and fake_cuda.c.

The oracle is ONNX Runtime on the bundle's own graphs; how to count and to fail is FakeGpu's.
"""

import ast
import importlib.util
import inspect
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from bundles import write_scene_bundle, write_tiny_bundle
from fake_gpu import fake_gpu
from fake_tensorrt import CLASSES, ENUMS, GENERATIONS, make

from rgbx_seg_ros import RgbxSegError, cuda, engine_tensorrt, tensorrt_session
from rgbx_seg_ros.engine import BackendUnavailable, Model, Options, Scene, open_engine
from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine
from rgbx_seg_ros.engine_tensorrt import FLAVORS, load_library, open_tensorrt
from rgbx_seg_ros.manifest import MODEL_FILE, load_bundle

SHAPES = {'rgb': (1, 48, 64, 3), 'aux': (1, 48, 64, 1)}
BUNDLES = {'one graph': write_tiny_bundle, 'two graphs': write_scene_bundle}
# Driver calls for which, if they fail, a graph is done without.
OF_CAPTURE = {'cuStreamBeginCapture_v2', 'cuStreamEndCapture', 'cuGraphInstantiateWithFlags',
              'cuGraphDestroy', 'cuMemcpyHtoDAsync_v2', 'cuMemcpyDtoHAsync_v2',
              'fake_enqueue_kernel'}
# Driver calls of the fake library itself: if one fails, it refuses an engine, which is built anew.
OF_LIBRARY = {'cuInit', 'cuDeviceGetAttribute', 'cuDeviceGetName', 'cuDriverGetVersion',
              'cuMemAlloc_v2', 'cuMemFree_v2'}


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    """Return the model of each kind of bundle."""
    models = {}
    for name, write in BUNDLES.items():
        folder = write(tmp_path_factory.mktemp('bundle') / 'bundle')
        models[name] = Model(folder, load_bundle(folder))
    return models


@pytest.fixture(scope='module')
def oracles(bundles):
    return {name: OnnxRuntimeEngine(model) for name, model in bundles.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep engines in a folder of this file's, where a second test finds them built."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'cache'))


def pair(seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, shape, np.uint8) for shape in SHAPES.values()]


def flavor_of(gpu):
    return gpu.trt.__name__


@contextmanager
def opened(gpu, model, **options):
    """Open an engine for a while and hold that nothing of it is left afterwards."""
    engine = open_tensorrt(model, Options(**options), flavor_of(gpu))
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


# ---- what an engine answers ----

@pytest.mark.parametrize('kind', BUNDLES)
@pytest.mark.parametrize('integrated', [0, 1], ids=['copied', 'mapped'])
@pytest.mark.parametrize('generation', GENERATIONS)
def test_outputs_are_those_of_onnxruntime(bundles, oracles, generation, integrated, kind):
    with fake_gpu(generation, integrated=integrated) as gpu, opened(gpu, bundles[kind]) as engine:
        for seed in range(3):
            assert_equal(engine(*pair(seed)), oracles[kind](*pair(seed)))
        if kind == 'two graphs':
            scene = Scene(*(array.copy() for array in engine.embed(*pair(7))))
            assert_equal(scene, oracles[kind].embed(*pair(7)))
            assert_equal(engine(*pair(8), scene), oracles[kind](*pair(8), scene))
        copies = gpu.count('copies')
        assert gpu.count('pageable') == 0 and (copies == 0 if integrated else copies > 0)


def test_info_tells_library_gpu_and_how_it_runs(bundles):
    with fake_gpu('10.3', name='Orin', capability=(8, 7), integrated=1) as gpu:
        with opened(gpu, bundles['one graph']) as engine:
            info = engine.info
        assert (info.backend, info.version, info.precision) == ('tensorrt', '10.3.0', 'fp32')
        assert info.device == 'Orin (compute capability 8.7, CUDA graph)'
        assert (info.rgb_size, info.aux_size, info.embeds_aside) == ((48, 64), (48, 64), False)
        with opened(gpu, bundles['two graphs']) as engine:
            assert engine.info.embeds_aside


def test_an_engine_opens_by_its_name_through_the_table(bundles, oracles):
    model = bundles['one graph']
    with fake_gpu('rtx') as gpu:
        engine, _ = open_engine(model.bundle, 'tensorrt_rtx', 'fp32')
        assert engine.info.backend == 'tensorrt_rtx'
        assert_equal(engine(*pair(1)), oracles['one graph'](*pair(1)))
        engine.close()
        assert_all_freed(gpu)


# ---- CUDA graphs ----

def test_each_frame_is_one_launch_of_the_graph_and_allocates_nothing(bundles, oracles):
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['one graph']) as engine:
        first = engine(*pair(0))
        before = {what: gpu.count(what) for what in ('launches', 'calls', 'kernels')}
        alive = gpu.alive()
        for seed in range(1, 11):
            answer = engine(*pair(seed))
            assert all(own is other for own, other in zip(answer, first, strict=True))
            assert_equal(answer, oracles['one graph'](*pair(seed)))
        grown = {what: gpu.count(what) - value for what, value in before.items()}
        assert grown == {'launches': 10, 'kernels': 10, 'calls': 30}  # bind, launch, wait
        assert gpu.alive() == alive and gpu.count('graphs') == 0


def test_the_time_on_the_gpu_is_measured_once_it_is_asked_for(bundles, oracles):
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['one graph']) as engine:
        engine(*pair(0))
        assert engine.device_ms is None and gpu.calls('cuEventRecord') == 0
        assert_equal(engine(*pair(1)), oracles['one graph'](*pair(1)))
        assert engine.device_ms == 1.0 and gpu.calls('cuEventRecord') == 2  # as the fake has it


@pytest.mark.parametrize('function', sorted(OF_CAPTURE - {'cuMemcpyHtoDAsync_v2',
                                                          'cuMemcpyDtoHAsync_v2',
                                                          'fake_enqueue_kernel'}))
def test_an_engine_runs_without_a_graph_where_capture_fails_and_says_so(bundles, oracles, function):
    told = []
    with fake_gpu('10.3') as gpu:
        gpu.fail(function, code=900)
        with opened(gpu, bundles['one graph'], tell=told.append) as engine:
            assert engine.info.device.endswith('without a CUDA graph)')
            assert f'without a CUDA graph, which is slower: {function} returned' in told[-1]
            for seed in range(3):
                assert_equal(engine(*pair(seed)), oracles['one graph'](*pair(seed)))
            assert gpu.count('launches') == 0


def test_a_library_that_refuses_to_be_captured_runs_without_a_graph(bundles, oracles):
    told = []
    with fake_gpu('11.4') as gpu:
        gpu.world.fail('execute_async_v3', nth=2, how='not in a capture')
        with opened(gpu, bundles['one graph'], tell=told.append) as engine:
            assert 'slower: tensorrt 11.4.0.106 cannot run the network (not in a c' in told[-1]
            assert_equal(engine(*pair(3)), oracles['one graph'](*pair(3)))


def test_rtx_captures_itself_and_is_never_captured(bundles):
    with fake_gpu('rtx') as gpu, opened(gpu, bundles['two graphs']) as engine:
        engine(*pair(0))
        assert gpu.count('captures') == 0
        assert [one.name for one in gpu.world.graph_strategies] == ['WHOLE_GRAPH_CAPTURE'] * 2


# ---- the scene graph beside the frames ----

def test_embeddings_come_later_than_the_frame_and_of_the_right_pair(bundles, oracles):
    oracle = oracles['two graphs']
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['two graphs']) as engine:
        assert gpu.priorities() == [-5, 0]  # the frames' stream and the scene's
        scene = Scene(*(array.copy() for array in oracle.embed(*pair(0))))
        assert engine.embedded() is None
        given = pair(1)
        engine.embed_later(*given)
        for array in given:
            array[...] = 0  # the engine has its own copy
        began = gpu.count('kernels')
        assert_equal(engine(*pair(2), scene), oracle(*pair(2), scene))
        assert gpu.count('kernels') - began == 1  # the frame's alone
        assert engine.embedded() is None
        assert_equal(engine(*pair(3), scene), oracle(*pair(3), scene))
        assert_equal(engine.embedded(), oracle.embed(*pair(1)))
        assert engine.embedded() is None


def test_embedding_at_once_does_not_lose_what_was_begun_before(bundles, oracles):
    oracle = oracles['two graphs']
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['two graphs']) as engine:
        engine.embed_later(*pair(1))
        assert_equal(engine.embed(*pair(2)), oracle.embed(*pair(2)))
        assert_equal(engine(*pair(3)), oracle(*pair(3)))
        assert_equal(engine.embedded(), oracle.embed(*pair(1)))
        engine.embed_later(*pair(4))
        engine.embed_later(*pair(5))
        assert engine.embedded() is None
        assert_equal(engine.embedded(), oracle.embed(*pair(5)))
        engine.embed_later(*pair(6))  # and is closed meanwhile


def test_a_bundle_of_one_graph_embeds_nothing(bundles):
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['one graph']) as engine:
        for call in (engine.embed, engine.embed_later):
            with pytest.raises(RgbxSegError, match='the bundle has no scene.onnx'):
                call(*pair(0))
        assert engine.embedded() is None


# ---- what goes wrong ----

@pytest.mark.parametrize('generation', ['10.3', 'rtx'])
@pytest.mark.parametrize('code', [2, 700, 999])
def test_whatever_driver_call_fails_while_opening_nothing_is_left(bundles, generation, code):
    struck = []
    with fake_gpu(generation) as gpu:
        with opened(gpu, bundles['two graphs']):  # builds the engines
            pass
        for nth in range(1, 1000):
            gpu.fail('*', nth, code)
            try:
                engine = open_tensorrt(bundles['two graphs'], Options(), flavor_of(gpu))
            except RgbxSegError as error:
                assert_sentence(error)
                assert isinstance(error, BackendUnavailable) == (
                    code != 700 or 'needs an NVIDIA GPU' in str(error)), (gpu.failed, error)
                engine = None
            failed = gpu.failed
            gpu.fail('none', 0)
            if engine is not None:
                assert failed is None or (code != 700 and failed in OF_CAPTURE | OF_LIBRARY), failed
                engine.close()
            assert_all_freed(gpu)
            if failed is None:
                break
            struck.append(failed)
    assert len(struck) > 60 and {'cuMemHostAlloc', 'cuEventCreate', 'fake_enqueue_kernel',
                                 'cuStreamSynchronize'} <= set(struck)


@pytest.mark.parametrize('graph', [True, False], ids=['graph', 'no graph'])
@pytest.mark.parametrize('code', [2, 700, 999])
def test_whatever_driver_call_fails_in_a_call_it_is_a_sentence(bundles, oracles, code, graph):
    struck = []
    with fake_gpu('10.3') as gpu:
        for nth in range(1, 100):
            gpu.fail('cuStreamBeginCapture_v2' if not graph else 'none', code=900)
            engine = open_tensorrt(bundles['one graph'], Options(), 'tensorrt')
            gpu.fail('*', nth, code)
            try:
                engine(*pair(1))
            except RgbxSegError as error:
                assert_sentence(error)
                assert code != 700 or '700' in str(error) or 'start the program' in str(error)
                if code != 700:  # the next frame is a good one
                    assert_equal(engine(*pair(2)), oracles['one graph'](*pair(2)))
            failed = gpu.failed
            gpu.fail('none', 0)
            try:
                engine.close()
            except cuda.CudaError as error:
                assert code == error.code == 700
            assert_all_freed(gpu)
            if failed is None:
                break
            struck.append(failed)
    assert struck == ['cuCtxSetCurrent', *(['cuGraphLaunch'] if graph else [
        'cuMemcpyHtoDAsync_v2', 'cuMemcpyHtoDAsync_v2', 'fake_enqueue_kernel',
        'cuMemcpyDtoHAsync_v2', 'cuMemcpyDtoHAsync_v2']), 'cuStreamSynchronize']


@pytest.mark.parametrize('generation', ['10.3', 'rtx'])
@pytest.mark.parametrize('method, said', [
    ('deserialize_cuda_engine', 'cannot load the engine '),
    ('create_execution_context', 'cannot make an execution context (boom); '),
    ('set_tensor_address', 'cannot use tensor "'),
    ('execute_async_v3', 'cannot run the network (boom); ')])
def test_what_the_library_logs_is_in_the_sentence(bundles, generation, method, said):
    with fake_gpu(generation) as gpu:
        with opened(gpu, bundles['one graph']):
            pass
        gpu.world.fail(method, how='boom')
        model = bundles['one graph']
        if method == 'deserialize_cuda_engine':  # it is taken for a damaged engine, built anew
            told = []
            with opened(gpu, model, tell=told.append):
                assert any(said in text and '(boom); it is damaged' in text for text in told)
            return
        with pytest.raises(RgbxSegError) as caught:
            open_tensorrt(model, Options(), flavor_of(gpu))
        assert_sentence(caught.value)
        assert said in str(caught.value) and '(boom)' in str(caught.value)
        assert_all_freed(gpu)


@pytest.mark.parametrize('how', ['Error Code 2: OutOfMemory (Requested size was 9 bytes.)',
                                 'cudaError 35: CUDA driver version is insufficient'])
def test_what_the_library_says_of_the_machine_lets_another_backend_try(bundles, how):
    with fake_gpu('10.16') as gpu:
        gpu.world.fail('create_execution_context', how=how)
        with pytest.raises(BackendUnavailable, match='update the driver|take a smaller network'):
            open_tensorrt(bundles['one graph'], Options(), 'tensorrt')
        assert_all_freed(gpu)


def test_a_kernel_that_fails_loses_the_context_and_closing_still_frees_all(bundles):
    with fake_gpu('10.3') as gpu:
        engine = open_tensorrt(bundles['two graphs'], Options(), 'tensorrt')
        gpu.world.fail('kernel')
        with pytest.raises(cuda.CudaError, match='LAUNCH_FAILED.*start the program again'):
            engine(*pair(0))
        with pytest.raises(cuda.CudaError, match='start the program again'):
            engine(*pair(0))
        with pytest.raises(cuda.CudaError):
            engine.close()
        assert_all_freed(gpu)


def test_a_lost_context_while_opening_is_no_invitation_to_go_on(bundles):
    with fake_gpu('10.3') as gpu:
        gpu.world.fail('kernel')
        with pytest.raises(RgbxSegError, match='nothing in this process can go on from .*; start '
                           'the program again') as caught:
            open_tensorrt(bundles['one graph'], Options(), 'tensorrt')
        assert not isinstance(caught.value, BackendUnavailable)
        assert_all_freed(gpu)


def test_too_little_memory_of_the_gpu_lets_another_backend_try(bundles):
    with fake_gpu('10.3') as gpu:
        with opened(gpu, bundles['one graph']):
            pass
        for free in (0, 1000, 5000, 20000):
            gpu.set(memory=(1 << 30) + free, used=1 << 30)
            with pytest.raises(BackendUnavailable, match='memory') as caught:
                open_tensorrt(bundles['one graph'], Options(), 'tensorrt')
            assert_sentence(caught.value)
            assert_all_freed(gpu)


@pytest.mark.parametrize('flavor, settings, said', [
    ('tensorrt', {'count': 0}, 'TensorRT needs an NVIDIA GPU: cuInit returned CUDA_ERROR_NO_DEV'),
    ('tensorrt', {'init': 803}, 'TensorRT needs an NVIDIA GPU: cuInit returned CUDA_ERROR_SYSTEM'),
    ('tensorrt_rtx', {'capability': (8, 7)}, 'TensorRT-RTX has no kernels for Fake RTX A2000, '
     'whose compute capability is 8.7; expected one of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; use Tens'),
    ('tensorrt_rtx', {'capability': (9, 0)}, 'compute capability is 9.0'),
    ('tensorrt', {}, 'TensorRT cannot be imported (import of tensorrt halted; None in '
     'sys.modules); expected the Python module tensorrt; run `sudo apt install python3-libnvinfer` '
     'on a Jetson, `pip install tensorrt` elsewhere.'),
    ('tensorrt_rtx', {}, 'run `pip install tensorrt-rtx`')])
def test_a_machine_that_cannot_is_told_apart_from_a_bad_bundle(bundles, flavor, settings, said):
    with fake_gpu(**settings) as gpu:
        with pytest.raises(BackendUnavailable) as caught:
            open_tensorrt(bundles['one graph'], Options(), flavor)
        assert said in str(caught.value)
        assert_sentence(caught.value)
        assert gpu.alive() == {}


def test_no_driver_is_a_sentence(bundles):
    with fake_gpu('10.3'):
        cuda.LIBRARY = 'libcuda_not_installed.so.1'
        with pytest.raises(BackendUnavailable, match='no CUDA driver was found.*; install the'):
            open_tensorrt(bundles['one graph'], Options(), 'tensorrt')


@pytest.mark.parametrize('generation', ['10.3', '11.4', 'rtx'])
def test_a_driver_older_than_the_library_is_named(bundles, generation):
    with fake_gpu(generation) as gpu, opened(gpu, bundles['one graph']):
        pass
    with fake_gpu(generation, driver=11040) as gpu:
        with pytest.raises(BackendUnavailable, match='driver') as caught:
            open_tensorrt(bundles['one graph'], Options(), flavor_of(gpu))
        assert_sentence(caught.value)
        assert_all_freed(gpu)


def with_plans(monkeypatch, plans):
    """Let the engine be given these files, one after the other, in the place of built ones."""
    given = iter(plans)
    monkeypatch.setattr(engine_tensorrt, 'obtain_plans',
                        lambda *arguments: {MODEL_FILE: next(given)})


@pytest.mark.parametrize('content', [b'', b'not an engine', None], ids=['empty', 'text', 'missing'])
def test_a_damaged_engine_is_built_again_with_the_reason(bundles, oracles, monkeypatch, tmp_path,
                                                         content):
    model, told, obtain = bundles['one graph'], [], engine_tensorrt.obtain_plans
    with fake_gpu('10.3') as gpu:
        bad = tmp_path / 'bad.engine'
        if content is not None:
            bad.write_bytes(content)
        answers = iter([{MODEL_FILE: bad}, {MODEL_FILE: bad}])
        monkeypatch.setattr(engine_tensorrt, 'obtain_plans', lambda *arguments:
                            next(answers, None) or obtain(*arguments))
        with opened(gpu, model, tell=told.append) as engine:
            assert_equal(engine(*pair(0)), oracles['one graph'](*pair(0)))
        assert not bad.exists()
        assert any(f'the engine {bad} ' in text and text.endswith('It is built again.')
                   for text in told)


def test_a_damaged_engine_that_was_named_is_refused(bundles, monkeypatch, tmp_path):
    with fake_gpu('10.3') as gpu:
        bad = tmp_path / 'bad.engine'
        bad.write_bytes(b'not an engine')
        with_plans(monkeypatch, [bad])
        with pytest.raises(RgbxSegError, match=r'magicTag is wrong\)\); it is damaged') as told:
            open_tensorrt(bundles['one graph'], Options(engine_file=bad), 'tensorrt')
        assert not isinstance(told.value, BackendUnavailable) and bad.exists()
        assert_all_freed(gpu)


@pytest.mark.parametrize('target, said, can_go_on', [
    ({'version': '1.6.0'}, r'\(VERSION_MISMATCH\); expected one that this version built', False),
    ({'capabilities': [75]}, r'\(UNSUPPORTED_CC\); expected a GPU', True)])
def test_rtx_tells_from_the_head_of_an_engine_why_it_does_not_run(bundles, monkeypatch, tmp_path,
                                                                  target, said, can_go_on):
    with fake_gpu('rtx') as gpu:
        library = load_library('tensorrt_rtx')
        builder = library.trt.Builder(library.trt.Logger())
        network, config = builder.create_network(), builder.create_builder_config()
        library.trt.OnnxParser(network, library.trt.Logger()).parse(
            bundles['one graph'].path(MODEL_FILE).read_bytes())
        if 'version' in target:
            gpu.world.version = target['version']
        else:
            config.num_compute_capabilities = 1
            config.set_compute_capability(library.trt.ComputeCapability.SM75, 0)
        plan = tmp_path / 'other.engine'
        plan.write_bytes(builder.build_serialized_network(network, config))
        gpu.world.version = GENERATIONS['rtx'][1]
        with_plans(monkeypatch, [plan])
        with pytest.raises(RgbxSegError, match=said) as caught:
            open_tensorrt(bundles['one graph'], Options(engine_file=plan), 'tensorrt_rtx')
        assert isinstance(caught.value, BackendUnavailable) == can_go_on
        assert_all_freed(gpu)


def test_an_engine_with_other_tensors_is_named_with_its_file(bundles, monkeypatch, tmp_path):
    large = write_tiny_bundle(tmp_path / 'large', 96, 64)
    other = Model(large, load_bundle(large))
    with fake_gpu('10.3') as gpu:
        options = Options()
        plan = engine_tensorrt.obtain_plans(load_library('tensorrt'), other, options,
                                            cuda.find_gpu()[0], 1 << 30)[MODEL_FILE]
        with_plans(monkeypatch, [plan])
        with pytest.raises(RgbxSegError) as caught:
            open_tensorrt(bundles['one graph'], options, 'tensorrt')
        assert str(caught.value).startswith(
            f'{plan}: tensor "rgb" of the model is uint8 (1, 96, 64, 3); the manifest expects '
            'uint8 (1, 48, 64, 3)')
        assert_all_freed(gpu)


@pytest.mark.parametrize('name, shape, dtype', [
    ('rgb', (1, 48, 64, 1), np.uint8), ('aux', (1, 1, 1, 1), np.uint8),
    ('aux', (1, 48, 64, 1), np.float32)])
def test_an_input_of_another_size_or_type_is_refused_not_stretched(bundles, name, shape, dtype):
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['one graph']) as engine:
        arrays = dict(zip(SHAPES, pair(0), strict=True)) | {name: np.zeros(shape, dtype)}
        with pytest.raises(RgbxSegError, match=f'^{name} is .*; expected uint8 '):
            engine(**arrays)


# ---- the kernels that RTX compiles ----

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


# ---- threads, and the end ----

def test_a_foreign_thread_is_refused_and_the_owner_goes_on(bundles, oracles):
    errors = []
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['two graphs']) as engine:
        def work():
            for call in (lambda: engine(*pair(0)), lambda: engine.embed(*pair(0)),
                         lambda: engine.embed_later(*pair(0)), engine.close):
                try:
                    call()
                except RgbxSegError as error:
                    errors.append(str(error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert len(errors) == 4 and all('on one thread.' in text for text in errors)
        assert_equal(engine(*pair(1)), oracles['two graphs'](*pair(1)))


def test_an_engine_opened_on_a_thread_of_its_own_works_there(bundles, oracles):
    answers = []
    with fake_gpu('10.3') as gpu:
        def work():
            with opened(gpu, bundles['one graph']) as engine:
                answers.append([array.copy() for array in engine(*pair(4))])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert_equal(answers[0], oracles['one graph'](*pair(4)))


def test_a_closed_engine_says_so_and_may_be_closed_again(bundles):
    with fake_gpu('10.3') as gpu:
        engine = open_tensorrt(bundles['two graphs'], Options(), 'tensorrt')
        engine.close()
        engine.close()
        for call in (engine, engine.embed, engine.embed_later):
            with pytest.raises(RgbxSegError, match='^the engine is closed; open it again.$'):
                call(*pair(0))
        assert engine.embedded() is None
        assert_all_freed(gpu)


@pytest.mark.parametrize('generation', ['10.3', 'rtx'])
def test_two_hundred_openings_leave_nothing(bundles, generation):
    with fake_gpu(generation) as gpu:
        counts = set()
        for seed in range(200):
            with opened(gpu, bundles['one graph']) as engine:
                engine(*pair(seed))
                counts.add((*gpu.alive().items(), gpu.count('device_bytes'),
                            gpu.count('pinned_bytes')))
        assert len(counts) == 1


def test_two_engines_live_side_by_side(bundles, oracles):
    with fake_gpu('10.3') as gpu:
        first, second = (open_tensorrt(bundles[kind], Options(), 'tensorrt') for kind in BUNDLES)
        for seed in range(2):
            assert_equal(first(*pair(seed)), oracles['one graph'](*pair(seed)))
            assert_equal(second(*pair(seed)), oracles['two graphs'](*pair(seed)))
        first.close()
        assert_equal(second(*pair(5)), oracles['two graphs'](*pair(5)))
        second.close()
        assert_all_freed(gpu)


# ---- the names that the real libraries have ----

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
