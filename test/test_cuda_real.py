# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Copies, streams, events and graphs on the real driver where a GPU is, and on the fake one.

What both must do alike: so the fake is held against the real one. The work on the GPU is a fill,
which needs no compiler: cuMemsetD8Async sets the first bytes of a buffer to 7.
"""

import ctypes
import time
from contextlib import contextmanager

import numpy as np
import pytest
from fake_gpu import fake_gpu

from rgbx_seg_ros import RgbxSegError, cuda
from rgbx_seg_ros.cuda import CudaError, find_gpu
from rgbx_seg_ros.cuda_context import Context

GPU, WHY = find_gpu()
REAL = pytest.param('real', marks=[pytest.mark.gpu, pytest.mark.skipif(
    GPU is None, reason=f'there is no GPU: {WHY or "no CUDA driver was found"}')])
N_BYTES, SET_BYTES, PATIENCE_S = 1 << 16, 1000, 10.0


@contextmanager
def no_fake():
    yield


@pytest.fixture(params=['fake', REAL])
def driver(request):
    """Let the test run with the driver of this name; return it as ctypes has it."""
    with fake_gpu() if request.param == 'fake' else no_fake():
        library = ctypes.CDLL(cuda.LIBRARY)
        library.cuMemsetD8Async.argtypes = [ctypes.c_uint64, ctypes.c_ubyte, ctypes.c_size_t,
                                            ctypes.c_void_p]
        yield library


@pytest.fixture(params=[False, True], ids=['copied', 'mapped'])
def context(driver, request):
    own = Context(request.param)
    yield own
    own.close()


def round_trip(driver, context, stream, buffer):
    context.upload(buffer, stream)
    assert driver.cuMemsetD8Async(buffer.address, 7, SET_BYTES, stream) == 0
    context.download(buffer, stream)


def assert_went_through(buffer, given):
    assert (buffer.array[:SET_BYTES] == 7).all()
    np.testing.assert_array_equal(buffer.array[SET_BYTES:], given[SET_BYTES:])


def noise(seed):
    return np.random.default_rng(seed).integers(8, 256, N_BYTES, np.uint8)


def test_what_a_stream_did_is_there_when_it_was_waited_for(driver, context):
    for seed, urgent in enumerate((True, False)):
        stream, buffer = context.stream(urgent), context.buffer((N_BYTES,), np.uint8)
        assert not buffer.array.any()
        buffer.array[...] = noise(seed)
        round_trip(driver, context, stream, buffer)
        context.wait(stream)
        assert_went_through(buffer, noise(seed))
    assert not context.is_lost()


def test_a_graph_does_nothing_when_captured_and_all_with_each_launch(driver, context):
    stream, buffer = context.stream(), context.buffer((N_BYTES,), np.uint8)
    graph = context.capture(stream, lambda: round_trip(driver, context, stream, buffer))
    context.wait(stream)
    assert not buffer.array.any()
    for seed in range(5):
        buffer.array[...] = noise(seed)
        context.launch(graph, stream)
        context.wait(stream)
        assert_went_through(buffer, noise(seed))
    context.free(graph)


def test_a_wait_spoils_a_capture_and_the_stream_is_usable_afterwards(driver, context):
    stream, buffer = context.stream(), context.buffer((N_BYTES,), np.uint8)
    with pytest.raises(CudaError, match='CAPTURE'):
        context.capture(stream, lambda: context.wait(stream))
    buffer.array[...] = noise(1)
    round_trip(driver, context, stream, buffer)
    context.wait(stream)
    assert_went_through(buffer, noise(1))
    assert not context.is_lost()


def test_an_event_tells_when_a_stream_has_come_to_it_and_how_long_that_took(driver, context):
    stream, buffer = context.stream(urgent=False), context.buffer((N_BYTES,), np.uint8)
    first, last = context.event(timed=True), context.event(timed=True)
    buffer.array[...] = noise(2)
    context.record(first, stream)
    round_trip(driver, context, stream, buffer)
    context.record(last, stream)
    end = time.monotonic() + PATIENCE_S
    while not context.happened(last):
        assert time.monotonic() < end
    assert_went_through(buffer, noise(2))
    context.wait_for(first)
    assert 0 <= context.milliseconds(first, last) < 1e3 * PATIENCE_S


def test_errors_have_the_names_of_the_driver_and_do_no_harm(driver, context):
    with pytest.raises(CudaError, match='^cuMemAlloc_v2 returned CUDA_ERROR_OUT_OF_MEMORY '):
        context.call('cuMemAlloc_v2', ctypes.byref(ctypes.c_uint64()), 1 << 50)
    with pytest.raises(CudaError, match='^cuStreamCreateWithPriority returned CUDA_ERROR_INVALID_'):
        context.call('cuStreamCreateWithPriority', ctypes.byref(ctypes.c_void_p()), 99, 0)
    assert not context.is_lost()


def test_a_closed_context_has_given_its_memory_back(driver):
    watcher = Context()  # without it the driver would take down all it has, and count that too
    before, total = watcher.free_and_total_bytes()
    context = Context()
    context.buffer((64 << 20,), np.uint8)
    during, _ = watcher.free_and_total_bytes()
    context.close()
    watcher.bind()
    after, _ = watcher.free_and_total_bytes()
    assert before - during >= 64 << 20 and abs(before - after) < 8 << 20 and before < total
    watcher.close()
    with pytest.raises(RgbxSegError, match='closed'):
        watcher.bind()


def test_the_gpu_is_described_alike_before_and_while_it_is_used(driver):
    gpu, problem = find_gpu()
    assert problem == '' and gpu.memory_bytes > 0 and gpu.driver >= 11000
    context = Context(gpu.integrated)
    assert context.free_and_total_bytes()[1] <= gpu.memory_bytes * 1.01
    assert find_gpu() == (gpu, '')
    context.close()
