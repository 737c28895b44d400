# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT of four generations on a GPU that is not there: see fake_tensorrt.py and fake_cuda.c.

The oracle is ONNX Runtime on the bundle's own graphs; how to count and to fail is FakeGpu's.
"""

import threading

import numpy as np
import pytest
from fake_gpu import fake_gpu
from fake_tensorrt import GENERATIONS
from tensorrt_rig import (
    BUNDLES,
    assert_all_freed,
    assert_equal,
    open_on,
    open_oracles,
    opened,
    pair,
    write_bundles,
)

from rgbx_seg_ros import RgbxSegError, cuda
from rgbx_seg_ros.engine import open_engine


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


@pytest.mark.parametrize('kind', BUNDLES)
@pytest.mark.parametrize('integrated', [0, 1], ids=['copied', 'mapped'])
@pytest.mark.parametrize('generation', GENERATIONS)
def test_outputs_are_those_of_onnxruntime(bundles, oracles, generation, integrated, kind):
    with fake_gpu(generation, integrated=integrated) as gpu, opened(gpu, bundles[kind]) as engine:
        for seed in range(3):
            assert_equal(engine(*pair(seed)), oracles[kind](*pair(seed)))
        if kind == 'two graphs':
            scene = tuple(array.copy() for array in engine.embed(*pair(7)))
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


@pytest.mark.parametrize('function', ['cuGraphDestroy', 'cuGraphInstantiateWithFlags',
                                      'cuStreamBeginCapture_v2', 'cuStreamEndCapture'])
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


def test_embeddings_come_later_than_the_frame_and_of_the_right_pair(bundles, oracles):
    oracle = oracles['two graphs']
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['two graphs']) as engine:
        assert gpu.priorities() == [-5, 0]  # the frames' stream and the scene's
        scene = tuple(array.copy() for array in oracle.embed(*pair(0)))
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


@pytest.mark.parametrize('seed', range(6))
def test_any_order_of_calls_and_failures_gives_answers_of_the_right_pair(bundles, oracles, seed):
    oracle, rng = oracles['two graphs'], np.random.default_rng(seed)
    kept = tuple(array.copy() for array in oracle.embed(*pair(3)))
    begun = set()  # what `embedded` may tell of: more than one only after a failure
    with fake_gpu(['10.3', 'rtx'][seed % 2], integrated=seed // 2 % 2) as gpu:
        engine = open_on(gpu, bundles['two graphs'])
        for _ in range(150):
            gpu.set(patience=int(rng.integers(4)))
            if seed > 2 and rng.random() < 0.2:
                gpu.fail('*', int(rng.integers(1, 9)), 999)
            what, number = rng.choice(['call', 'with', 'embed', 'later', 'ask']), rng.integers(10)
            try:
                if what == 'call':
                    assert_equal(engine(*pair(number)), oracle(*pair(number)))
                elif what == 'with':
                    assert_equal(engine(*pair(number), kept), oracle(*pair(number), kept))
                elif what == 'embed':
                    assert_equal(engine.embed(*pair(number)), oracle.embed(*pair(number)))
                elif what == 'later':
                    engine.embed_later(*pair(number))
                    begun = {number}
                elif (late := engine.embedded()) is not None:
                    assert float(late[0][0, 0]) in {pair(one)[0].max() for one in begun}
                    begun = set()
            except cuda.CudaError:
                assert seed > 2
                begun |= {number} if what == 'later' else set()
            except RgbxSegError as error:  # the library did not get its kernel onto the stream
                assert seed > 2 and 'cannot run the network' in str(error)
        gpu.fail('none', 0)
        engine.close()
        assert_all_freed(gpu)


def test_a_bundle_of_one_graph_embeds_nothing(bundles):
    with fake_gpu('10.3') as gpu, opened(gpu, bundles['one graph']) as engine:
        for call in (engine.embed, engine.embed_later):
            with pytest.raises(RgbxSegError, match='the bundle has no scene.onnx'):
                call(*pair(0))
        assert engine.embedded() is None


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
        engine = open_on(gpu, bundles['two graphs'])
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
        first, second = (open_on(gpu, bundles[kind]) for kind in BUNDLES)
        for seed in range(2):
            assert_equal(first(*pair(seed)), oracles['one graph'](*pair(seed)))
            assert_equal(second(*pair(seed)), oracles['two graphs'](*pair(seed)))
        first.close()
        assert_equal(second(*pair(5)), oracles['two graphs'](*pair(5)))
        second.close()
        assert_all_freed(gpu)
