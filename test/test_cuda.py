# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver through ctypes, against the fake one, which fake_cuda.c describes."""

import ctypes
import threading
from contextlib import suppress

import numpy as np
import pytest
from fake_gpu import fake_gpu

from rgbx_seg_ros import RgbxSegError, cuda
from rgbx_seg_ros.cuda import CudaError, Driver, Gpu, find_gpu
from rgbx_seg_ros.cuda_context import Context

CODES = {2: 'CUDA_ERROR_OUT_OF_MEMORY', 803: 'CUDA_ERROR_SYSTEM_DRIVER_MISMATCH',
         999: 'CUDA_ERROR_UNKNOWN'}


@pytest.fixture
def gpu():
    with fake_gpu() as fake:
        yield fake


@pytest.fixture
def context(gpu):
    own = Context()
    yield own
    own.close()


@pytest.fixture
def plus_one(gpu):
    """Return a function that puts a kernel on a stream: it adds 1 to each byte of a buffer."""
    callbacks = []

    def enqueue(stream, buffer):
        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint64)
        def kernel(number):
            place = gpu.library.fake_memory(ctypes.c_uint64(buffer.address),
                                            ctypes.c_size_t(buffer.array.nbytes))
            memory = (ctypes.c_uint8 * buffer.array.nbytes).from_address(place)
            np.frombuffer(memory, np.uint8)[...] += 1
            return 0

        callbacks.append(kernel)  # C holds no reference
        code = gpu.library.fake_enqueue_kernel(ctypes.c_void_p(stream), kernel, ctypes.c_uint64(0))
        assert code == 0

    return enqueue


def test_gpu_is_what_the_driver_says():
    with fake_gpu(name='Orin', capability=(8, 7), integrated=1, driver=12060, memory=1 << 33):
        assert find_gpu() == (Gpu('Orin', (8, 7), True, 12060, 1 << 33), '')


def test_looking_for_a_gpu_makes_no_context(gpu):
    find_gpu()
    assert gpu.alive() == {} and gpu.calls('cuDevicePrimaryCtxRetain') == 0


def test_without_a_driver_there_is_no_gpu_and_nothing_to_say(gpu, monkeypatch):
    monkeypatch.setattr(cuda, 'LIBRARY', 'libcuda_not_installed.so.1')
    assert find_gpu() == (None, '')


def test_a_driver_without_what_is_needed_is_too_old(gpu, monkeypatch):
    monkeypatch.setattr(cuda, 'LIBRARY', 'libm.so.6')
    found, problem = find_gpu()
    assert found is None and problem.startswith('libm.so.6 has no cuInit; expected the driver of')


@pytest.mark.parametrize('settings, said', [
    ({'count': 0}, 'cuInit returned CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected); '
     'expected success; check `nvidia-smi`'),
    ({'init': 803}, 'are of two versions: reboot'),
    ({'init': 999}, 'nvidia_uvm'),
    ({'init': 34}, 'take the stub of libcuda.so.1 out of LD_LIBRARY_PATH'),
    ({'init': 12345}, 'CUresult 12345 (no text)')])
def test_why_there_is_no_gpu_is_said_with_a_remedy(settings, said):
    with fake_gpu(**settings):
        found, problem = find_gpu()
    assert found is None and said in problem and problem.endswith('.') and '\n' not in problem


@pytest.mark.parametrize('code', CODES)
def test_each_call_that_fails_while_looking_is_named(gpu, code):
    named = set()
    for nth in range(1, 10):
        gpu.fail('*', nth, code)
        found, problem = find_gpu()
        if gpu.failed is None:
            break
        assert found is None and problem.startswith(f'{gpu.failed} returned {CODES[code]} (')
        named.add(gpu.failed)
    assert {'cuInit', 'cuDeviceGet', 'cuDeviceTotalMem_v2', 'cuDeviceGetAttribute'} <= named


@pytest.mark.parametrize('mapped', [False, True])
def test_buffers_are_zeros_in_pinned_memory_at_addresses_of_their_own(gpu, mapped):
    context = Context(mapped)
    buffers = [context.buffer(shape, dtype) for shape, dtype in
               (((1, 6, 8, 3), np.uint8), ((1, 5), np.float32), ((), np.int64))]
    for buffer, size in zip(buffers, (144, 20, 8), strict=True):
        assert buffer.array.nbytes == size and not buffer.array.any()
    assert len({buffer.address for buffer in buffers}) == 3
    assert gpu.count('pinned') == 3 and gpu.count('device') == (0 if mapped else 3)
    assert gpu.count('pinned_bytes') == 172
    context.close()
    assert gpu.alive() == {}


@pytest.mark.parametrize('mapped', [False, True])
def test_data_goes_to_the_gpu_and_back_when_the_stream_is_waited_for(gpu, plus_one, mapped):
    context = Context(mapped)
    stream, buffer = context.stream(), context.buffer((4, 5), np.uint8)
    buffer.array[...] = 7
    context.upload(buffer, stream)
    plus_one(stream, buffer)
    context.download(buffer, stream)
    assert (buffer.array == 7).all() and gpu.count('kernels') == 0
    context.wait(stream)
    assert (buffer.array == 8).all()
    assert gpu.count('copies') == (0 if mapped else 2) and gpu.count('pageable') == 0
    context.close()


def test_what_is_changed_before_the_wait_is_what_is_copied(context, plus_one):
    stream, buffer = context.stream(), context.buffer((3,), np.uint8)
    context.upload(buffer, stream)
    buffer.array[...] = 9  # too early, as the fake driver shows
    plus_one(stream, buffer)
    context.download(buffer, stream)
    context.wait(stream)
    assert (buffer.array == 10).all()


def test_free_memory_is_what_others_and_this_context_leave(gpu, context):
    gpu.set(memory=1 << 30, used=1 << 20)
    context.buffer((1 << 20,), np.uint8)
    assert context.free_and_total_bytes() == ((1 << 30) - (2 << 20), 1 << 30)


def test_too_large_a_buffer_is_an_error_with_a_remedy(gpu, context):
    gpu.set(memory=1 << 20, used=0)
    with pytest.raises(CudaError) as caught:
        context.buffer((1 << 21,), np.uint8)
    assert str(caught.value) == ('cuMemAlloc_v2 returned CUDA_ERROR_OUT_OF_MEMORY (out of memory); '
                                 'expected success; close what else uses the GPU, or take a '
                                 'smaller network or precision.')
    assert caught.value.code == cuda.OUT_OF_MEMORY and not context.is_lost()
    context.close()
    assert gpu.alive() == {}


def test_a_copy_beyond_an_allocation_loses_the_context(gpu, context):
    stream, buffer = context.stream(), context.buffer((16,), np.uint8)
    context.upload(buffer._replace(address=buffer.address + 1), stream)
    with pytest.raises(CudaError, match='ILLEGAL_ADDRESS.*the CUDA context is lost: start the'):
        context.wait(stream)
    assert context.is_lost()
    with pytest.raises(CudaError, match='ILLEGAL_ADDRESS'):
        context.buffer((1,), np.uint8)
    with pytest.raises(CudaError):
        context.close()
    assert gpu.alive() == {} and gpu.count('leaked') == 0


def test_an_urgent_stream_has_the_highest_priority_and_another_the_lowest(gpu, context):
    context.stream(urgent=True)
    context.stream(urgent=False)
    assert gpu.priorities() == [-5, 0]


def test_streams_wait_apart(gpu, context, plus_one):
    first, second = context.stream(), context.stream()
    a, b = context.buffer((1,), np.uint8), context.buffer((1,), np.uint8)
    for stream, buffer in ((first, a), (second, b)):
        context.upload(buffer, stream)
        plus_one(stream, buffer)
        context.download(buffer, stream)
    context.wait(second)
    assert (a.array[0], b.array[0]) == (0, 1)
    context.wait(first)
    assert a.array[0] == 1


def test_an_event_happens_after_what_was_put_on_the_stream_before_it(gpu, context, plus_one):
    gpu.set(patience=2)
    stream, event, buffer = context.stream(), context.event(), context.buffer((1,), np.uint8)
    context.upload(buffer, stream)
    plus_one(stream, buffer)
    context.download(buffer, stream)
    context.record(event, stream)
    assert [context.happened(event) for _ in range(3)] == [False, False, True]
    assert buffer.array[0] == 1
    plus_one(stream, buffer)
    context.record(event, stream)
    gpu.fail('cuEventQuery', 1, 999)
    with pytest.raises(CudaError, match='cuEventQuery returned CUDA_ERROR_UNKNOWN'):
        context.happened(event)
    context.wait(stream)


def round_trip(context, plus_one, stream, buffer):
    context.upload(buffer, stream)
    plus_one(stream, buffer)
    context.download(buffer, stream)


def test_a_graph_does_nothing_when_captured_and_all_again_with_each_launch(gpu, context, plus_one):
    stream, buffer = context.stream(), context.buffer((2,), np.uint8)
    graph = context.capture(stream, lambda: round_trip(context, plus_one, stream, buffer))
    context.wait(stream)
    assert gpu.count('kernels') == 0
    for value in (3, 200):
        buffer.array[...] = value
        context.launch(graph, stream)
        assert (buffer.array == value).all()
        context.wait(stream)
        assert (buffer.array == value + 1).all()
    assert gpu.count('graphs') == 0 and gpu.count('execs') == 1
    context.free(graph)
    assert gpu.count('execs') == 0
    with pytest.raises(CudaError, match='INVALID_HANDLE'):
        context.launch(graph, stream)


def test_work_that_fails_while_it_is_captured_leaves_the_stream_usable(gpu, context, plus_one):
    stream, buffer = context.stream(), context.buffer((2,), np.uint8)

    def work():
        context.upload(buffer, stream)
        raise ValueError('no')

    with pytest.raises(ValueError, match='^no$'):
        context.capture(stream, work)
    with pytest.raises(CudaError, match='CAPTURE_UNSUPPORTED'):
        context.capture(stream, lambda: context.wait(stream))
    assert gpu.count('graphs') == gpu.count('execs') == 0
    round_trip(context, plus_one, stream, buffer)
    context.wait(stream)
    assert (buffer.array == 1).all()


@pytest.mark.parametrize('function', ['cuStreamBeginCapture_v2', 'cuStreamEndCapture',
                                      'cuGraphInstantiateWithFlags', 'cuGraphDestroy',
                                      'cuMemcpyHtoDAsync_v2'])
def test_a_call_that_fails_while_capturing_leaves_nothing_behind(gpu, plus_one, function):
    context = Context()
    stream, buffer = context.stream(), context.buffer((2,), np.uint8)
    gpu.fail(function)
    with pytest.raises(CudaError, match=f'^{function} returned CUDA_ERROR_UNKNOWN'):
        context.capture(stream, lambda: round_trip(context, plus_one, stream, buffer))
    assert gpu.count('graphs') == 0
    context.close()
    assert gpu.alive() == {} and gpu.count('leaked') == 0


def use(context, plus_one):
    stream, event = context.stream(), context.event()
    buffer = context.buffer((8,), np.uint8)
    round_trip(context, plus_one, stream, buffer)
    context.record(event, stream)
    context.wait(stream)
    graph = context.capture(stream, lambda: round_trip(context, plus_one, stream, buffer))
    context.launch(graph, stream)
    context.wait(stream)


def test_close_frees_all_and_can_be_repeated(gpu, plus_one):
    context = Context()
    use(context, plus_one)
    assert set(gpu.alive()) == {'device', 'pinned', 'streams', 'events', 'execs', 'contexts'}
    context.close()
    context.close()
    assert gpu.alive() == {} and gpu.count('leaked') == gpu.count('abandoned') == 0
    with pytest.raises(RgbxSegError, match='^the CUDA context is closed; open it again.$'):
        context.stream()


@pytest.mark.parametrize('code', [2, 700, 999])
def test_whatever_call_fails_nothing_is_left_after_close(gpu, plus_one, code):
    struck = []
    for nth in range(1, 100):
        gpu.fail('*', nth, code)
        contexts = []
        with suppress(CudaError, AssertionError):  # the latter where this test puts a kernel
            contexts.append(Context())
            use(contexts[0], plus_one)
        for context in contexts:
            with suppress(CudaError):
                context.close()
        assert gpu.alive() == {} and gpu.count('leaked') == 0, gpu.failed
        if gpu.failed is None:
            break
        struck.append(gpu.failed)
    assert len(struck) > 25 and 'cuDevicePrimaryCtxRelease_v2' in struck


def test_after_close_the_thread_has_no_context_that_is_gone(gpu, plus_one):
    context = Context()
    use(context, plus_one)
    context.close()
    current = ctypes.c_void_p()
    assert gpu.library.cuCtxGetCurrent(ctypes.byref(current)) == 0 and not current.value


def test_closing_frees_all_though_the_thread_has_another_context(gpu, plus_one):
    context = Context()
    use(context, plus_one)
    gpu.library.cuCtxSetCurrent(None)
    context.close()
    assert gpu.alive() == {} and gpu.count('leaked') == 0


def test_two_contexts_share_the_primary_one_and_the_last_frees_it(gpu, plus_one):
    first, second = Context(), Context()
    assert gpu.count('contexts') == 2
    first.close()
    second.bind()
    use(second, plus_one)
    second.close()
    assert gpu.alive() == {}


def test_another_thread_is_refused(gpu, context):
    errors = []

    def work():
        for call in (context.bind, context.stream, context.close):
            try:
                call()
            except RgbxSegError as error:
                errors.append(str(error))

    thread = threading.Thread(target=work, name='rear')
    thread.start()
    thread.join()
    assert len(errors) == 3 and set(errors) == {
        'thread rear uses a CUDA context that another thread opened; expected that one; open, call '
        'and close an engine on one thread.'}
    context.stream()


def test_the_driver_knows_the_functions_of_every_signature(gpu):
    assert set(Driver()._functions) == set(cuda.SIGNATURES)
