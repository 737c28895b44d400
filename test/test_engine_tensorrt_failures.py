# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with TensorRT: one sentence, nothing left on the GPU, and may `auto` go on?"""

import ctypes

import numpy as np
import pytest
from bundles import write_tiny_bundle
from fake_gpu import fake_gpu
from fake_tensorrt import GENERATIONS
from tensorrt_rig import (
    SHAPES,
    assert_all_freed,
    assert_equal,
    assert_sentence,
    model_of,
    open_on,
    open_oracles,
    opened,
    pair,
    write_bundles,
)

from rgbx_seg_ros import RgbxSegError, cuda, engine_tensorrt
from rgbx_seg_ros.engine import BackendUnavailable, Options, open_engine
from rgbx_seg_ros.engine_tensorrt import load_library, open_tensorrt
from rgbx_seg_ros.manifest import MODEL_FILE

# Driver calls for which, if they fail, a graph is done without.
OF_CAPTURE = {'cuStreamBeginCapture_v2', 'cuStreamEndCapture', 'cuGraphInstantiateWithFlags',
              'cuGraphDestroy', 'cuMemcpyHtoDAsync_v2', 'cuMemcpyDtoHAsync_v2',
              'fake_enqueue_kernel'}
# Driver calls of the fake library itself: if one fails, it refuses an engine, which is built anew.
OF_LIBRARY = {'cuInit', 'cuDeviceGetAttribute', 'cuDeviceGetName', 'cuDriverGetVersion',
              'cuMemAlloc_v2', 'cuMemFree_v2'}


@pytest.fixture(scope='module')
def bundles(tmp_path_factory):
    return write_bundles(tmp_path_factory.mktemp('bundles'))


@pytest.fixture(scope='module')
def oracles(bundles):
    return open_oracles(bundles)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep engines in a folder of these tests, where a second one finds them built."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.getbasetemp() / 'tensorrt'))


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
                engine = open_on(gpu, bundles['two graphs'])
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
            engine = open_on(gpu, bundles['one graph'])
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
            open_on(gpu, model)
        assert_sentence(caught.value)
        assert said in str(caught.value) and '(boom)' in str(caught.value)
        assert_all_freed(gpu)


def test_what_was_logged_is_the_reason_of_one_failure_alone(bundles):
    with fake_gpu('rtx') as gpu, opened(gpu, bundles['one graph']) as engine:
        gpu.world.fail('execute_async_v3', how='boom')
        with pytest.raises(RgbxSegError, match=r'cannot run the network \(boom\); start the'):
            engine(*pair(0))
        gpu.trt.IExecutionContext.execute_async_v3 = lambda context, stream: False
        with pytest.raises(RgbxSegError, match=r'\(it logged no reason\)'):
            engine(*pair(0))


@pytest.mark.parametrize('how', ['Error Code 2: OutOfMemory (Requested size was 9 bytes.)',
                                 'cudaError 35: CUDA driver version is insufficient'])
def test_what_the_library_says_of_the_machine_lets_another_backend_try(bundles, how):
    with fake_gpu('10.16') as gpu:
        gpu.world.fail('create_execution_context', how=how)
        with pytest.raises(BackendUnavailable, match='update the driver|take a smaller network'):
            open_on(gpu, bundles['one graph'])
        assert_all_freed(gpu)


def test_a_kernel_that_fails_loses_the_context_and_closing_still_frees_all(bundles):
    with fake_gpu('10.3') as gpu:
        engine = open_on(gpu, bundles['two graphs'])
        gpu.world.fail('kernel')
        assert not engine.is_lost()
        with pytest.raises(cuda.CudaError, match='LAUNCH_FAILED.*start the program again'):
            engine(*pair(0))
        assert engine.is_lost()
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
            open_on(gpu, bundles['one graph'])
        assert not isinstance(caught.value, BackendUnavailable)
        assert_all_freed(gpu)


def test_too_little_memory_of_the_gpu_lets_another_backend_try(bundles):
    with fake_gpu('10.3') as gpu:
        with opened(gpu, bundles['one graph']):
            pass
        for free in (0, 1000, 5000, 20000):
            gpu.set(memory=(1 << 30) + free, used=1 << 30)
            with pytest.raises(BackendUnavailable, match='memory') as caught:
                open_on(gpu, bundles['one graph'])
            assert_sentence(caught.value)
            assert_all_freed(gpu)


def test_auto_goes_on_to_the_processor_where_the_gpu_is_full(bundles, oracles):
    model = bundles['one graph']
    with fake_gpu('10.3', memory=1 << 30, used=1 << 30) as gpu:
        engine, _ = open_engine(model.bundle, 'auto', 'fp32')
        assert engine.info.device == 'cpu' and 'memory' in engine.info.warning
        assert engine.info.warning.startswith('the GPU Fake RTX A2000 is not used')
        assert_equal(engine(*pair(0)), oracles['one graph'](*pair(0)))
        engine.close()
        assert_all_freed(gpu)


def test_auto_takes_rtx_where_tensorrt_is_not_installed(bundles):
    with fake_gpu('rtx') as gpu:
        engine, _ = open_engine(bundles['one graph'].bundle, 'auto', 'fp32')
        assert engine.info.backend == 'tensorrt_rtx' and engine.info.warning == ''
        assert 'tensorrt: TensorRT cannot be imported' in engine.info.choice
        engine.close()
        assert_all_freed(gpu)


def test_auto_stops_where_the_context_is_lost(bundles):
    with fake_gpu('10.3') as gpu:
        gpu.world.fail('kernel')
        with pytest.raises(RgbxSegError, match='^TensorRT on Fake RTX A2000 failed and left the '):
            open_engine(bundles['one graph'].bundle, 'auto', 'fp32')
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
    with fake_gpu('10.3') as gpu:
        cuda.LIBRARY = 'libcuda_not_installed.so.1'
        with pytest.raises(BackendUnavailable, match='no CUDA driver was found.*; install the'):
            open_on(gpu, bundles['one graph'])


@pytest.mark.parametrize('generation', ['10.3', '11.4', 'rtx'])
def test_a_driver_older_than_the_library_is_named(bundles, generation):
    with fake_gpu(generation) as gpu, opened(gpu, bundles['one graph']):
        pass
    with fake_gpu(generation, driver=11040) as gpu:
        with pytest.raises(BackendUnavailable, match='driver') as caught:
            open_on(gpu, bundles['one graph'])
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


def test_nothing_of_the_first_attempt_is_left_when_an_engine_is_built_again(bundles):
    with fake_gpu('10.3') as gpu:
        with opened(gpu, bundles['two graphs']):
            alive, built = gpu.alive(), gpu.world.built
        gpu.world.fail('deserialize_cuda_engine', nth=2)
        with opened(gpu, bundles['two graphs']):
            assert gpu.alive() == alive and gpu.world.built == built + 2


def test_what_nobody_expected_is_a_sentence_too(bundles):
    def fall_over(engine, *arguments):
        raise RuntimeError('first line\nsecond line')

    with fake_gpu('10.3') as gpu:
        gpu.trt.ICudaEngine.create_execution_context = fall_over
        with pytest.raises(RgbxSegError, match=r'failed \(RuntimeError: first line second line\);'):
            open_on(gpu, bundles['one graph'])
        assert_all_freed(gpu)


def test_a_damaged_engine_that_was_named_is_refused(bundles, monkeypatch, tmp_path):
    with fake_gpu('10.3') as gpu:
        bad = tmp_path / 'bad.engine'
        bad.write_bytes(b'not an engine')
        with_plans(monkeypatch, [bad])
        with pytest.raises(RgbxSegError, match=r'magicTag is wrong\)\); it is damaged') as told:
            open_tensorrt(bundles['one graph'], Options(engine_file=bad), 'tensorrt')
        assert not isinstance(told.value, BackendUnavailable) and bad.exists()
        assert_all_freed(gpu)


def test_an_engine_refused_in_a_lost_context_is_not_built_again(bundles, monkeypatch):
    with fake_gpu('10.3') as gpu:
        with opened(gpu, bundles['one graph']):
            pass

        def lose(runtime, plan):
            gpu.fail('cuDriverGetVersion', code=700)
            gpu.library.cuDriverGetVersion(ctypes.byref(ctypes.c_int()))

        gpu.trt.Runtime.deserialize_cuda_engine = lose
        built = gpu.world.built
        with pytest.raises(RgbxSegError, match='start the program again') as caught:
            open_on(gpu, bundles['one graph'])
        assert not isinstance(caught.value, BackendUnavailable) and gpu.world.built == built
        assert_all_freed(gpu)


def test_another_context_on_the_thread_does_no_harm(bundles, oracles, monkeypatch):
    obtain = engine_tensorrt.obtain_plans
    with fake_gpu('10.3') as gpu:
        def obtain_and_unset(*arguments):
            plans = obtain(*arguments)
            assert gpu.library.cuCtxSetCurrent(None) == 0
            return plans

        monkeypatch.setattr(engine_tensorrt, 'obtain_plans', obtain_and_unset)
        with opened(gpu, bundles['one graph']) as engine:
            gpu.library.cuCtxSetCurrent(None)
            assert_equal(engine(*pair(0)), oracles['one graph'](*pair(0)))
            gpu.library.cuCtxSetCurrent(None)  # and is closed


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
    other = model_of(large)
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
