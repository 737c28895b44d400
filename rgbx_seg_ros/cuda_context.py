# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A CUDA context: pinned memory, streams, events and graphs, all freed when it is closed.

It belongs to the thread that opened it. Handles are the integers of the driver, which TensorRT
takes as they are: a CUstream is a cudaStream_t.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cuda import NOT_READY, STICKY, CudaError, Driver

DEVICE_MAP = 2  # CU_MEMHOSTALLOC_DEVICEMAP: the GPU reads and writes it in place
NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: it does not wait for the default stream
NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_*: what other threads do meanwhile does no harm


class Buffer(NamedTuple):
    """An array in pinned memory of the processor, and where the GPU has it."""

    array: NDArray[Any]
    host: int  # address of the array
    address: int  # of the GPU: the array itself where it is mapped, else a copy of it


class Context:
    """The CUDA context of the first GPU: what is made in it lives until `close`."""

    def __init__(self, mapped: bool = False) -> None:
        """Open it on this thread; with `mapped`, for an integrated GPU, nothing is ever copied.

        Raises RgbxSegError, a CudaError where the driver says why.
        """
        self._mapped = mapped
        self._thread = threading.get_ident()
        self._made: list[tuple[str, int]] = []  # the function that frees it, its handle
        self._driver = Driver()
        self._driver('cuInit', 0)
        self._handle = self._make('cuDevicePrimaryCtxRetain', 0, freed=0,
                                  free='cuDevicePrimaryCtxRelease_v2')
        try:
            self.bind()
        except CudaError:
            with suppress(CudaError):
                self.close()
            raise
        self._made.append(('cuCtxSetCurrent', 0))  # others must not meet a stale one

    def bind(self) -> None:
        """Make it the context of this thread: other libraries may have set their own."""
        self.call('cuCtxSetCurrent', self._handle)

    def call(self, function: str, *arguments: Any, but: int = 0) -> bool:
        """Call a function of the driver; return False if its code is `but`.

        Raises CudaError, and RgbxSegError on a foreign thread or after `close`.
        """
        if threading.get_ident() != self._thread:
            raise RgbxSegError(f'thread {threading.current_thread().name} uses a CUDA context that '
                               'another thread opened; expected that one; open, call and close an '
                               'engine on one thread.')
        if not self._made:
            raise RgbxSegError('the CUDA context is closed; open it again.')
        return self._driver(function, *arguments, but=but)

    def free_and_total_bytes(self) -> tuple[int, int]:
        """Return how much memory of the GPU is free, and how much it has."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call('cuMemGetInfo_v2', ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def stream(self, urgent: bool = True) -> int:
        """Return a new stream: of the highest priority, or of the lowest."""
        least, greatest = ctypes.c_int(), ctypes.c_int()
        self.call('cuCtxGetStreamPriorityRange', ctypes.byref(least), ctypes.byref(greatest))
        priority = greatest.value if urgent else least.value
        return self._make('cuStreamCreateWithPriority', NON_BLOCKING, priority,
                          free='cuStreamDestroy_v2')

    def event(self, timed: bool = False) -> int:
        """Return a new event, to be recorded on a stream and asked for, or for its time."""
        return self._make('cuEventCreate', 0 if timed else NO_TIMING, free='cuEventDestroy_v2')

    def buffer(self, shape: tuple[int, ...], dtype: Any) -> Buffer:
        """Return a new buffer of zeros."""
        n_bytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
        host = self._make('cuMemHostAlloc', n_bytes, DEVICE_MAP if self._mapped else 0,
                          free='cuMemFreeHost')
        address = ctypes.c_uint64()
        if self._mapped:
            self.call('cuMemHostGetDevicePointer_v2', ctypes.byref(address), host, 0)
        else:
            address.value = self._make('cuMemAlloc_v2', n_bytes, free='cuMemFree_v2',
                                       kind=ctypes.c_uint64)
        raw = (ctypes.c_byte * n_bytes).from_address(host)
        array = np.frombuffer(raw, dtype, int(np.prod(shape))).reshape(shape)
        array.fill(0)
        return Buffer(array, host, address.value)

    def upload(self, buffer: Buffer, stream: int) -> None:
        """Let a stream copy an array to the GPU; it must not change until the stream is waited for.

        Nothing is to be done where the array is mapped; `download` is the way back.
        """
        if not self._mapped:
            self.call('cuMemcpyHtoDAsync_v2', buffer.address, buffer.host, buffer.array.nbytes,
                      stream)

    def download(self, buffer: Buffer, stream: int) -> None:
        """Let a stream copy from the GPU into an array."""
        if not self._mapped:
            self.call('cuMemcpyDtoHAsync_v2', buffer.host, buffer.address, buffer.array.nbytes,
                      stream)

    def wait(self, stream: int) -> None:
        """Return when a stream has done all that was put on it."""
        self.call('cuStreamSynchronize', stream)

    def record(self, event: int, stream: int) -> None:
        """Let an event happen once a stream has done what was put on it so far."""
        self.call('cuEventRecord', event, stream)

    def happened(self, event: int) -> bool:
        """Return whether what the event was recorded after is done."""
        return self.call('cuEventQuery', event, but=NOT_READY)

    def milliseconds(self, first: int, last: int) -> float:
        """Return the time between two timed events that have happened."""
        ms = ctypes.c_float()
        self.call('cuEventElapsedTime', ctypes.byref(ms), first, last)
        return ms.value

    def wait_for(self, event: int) -> None:
        """Return when an event has happened."""
        self.call('cuEventSynchronize', event)

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """Return the graph of what `work` puts on a stream, none of which is done yet.

        What `work` raises, and CudaError, leaves the stream as it was before.
        """
        graph = ctypes.c_void_p()
        self.call('cuStreamBeginCapture_v2', stream, THREAD_LOCAL)
        try:
            work()
        except Exception:
            with suppress(CudaError):
                self.call('cuStreamEndCapture', stream, ctypes.byref(graph))
                self.call('cuGraphDestroy', graph)
            raise
        self.call('cuStreamEndCapture', stream, ctypes.byref(graph))
        try:
            return self._make('cuGraphInstantiateWithFlags', graph, 0, free='cuGraphExecDestroy')
        finally:
            self.call('cuGraphDestroy', graph)

    def launch(self, graph: int, stream: int) -> None:
        """Put what a graph holds on a stream."""
        self.call('cuGraphLaunch', graph, stream)

    def free(self, handle: int) -> None:
        """Free one of the things made here before the others."""
        index = next(i for i, (_, own) in enumerate(self._made) if own == handle)
        self.call(*self._made.pop(index))

    def is_lost(self) -> bool:
        """Return whether a failure left the context unusable, as an illegal address does."""
        try:
            self.call('cuCtxSynchronize')
        except CudaError as error:
            return error.code in STICKY
        return False

    def close(self) -> None:
        """Free all that was made, the newest first; raises the first error after the last of it.

        Arrays of its buffers must not be touched afterwards.
        """
        first = None
        if self._made:
            with suppress(CudaError):
                self.bind()
        while self._made:
            try:
                self.call(*self._made[-1])
            except CudaError as error:
                first = first or error
            self._made.pop()
        if first is not None:
            raise first

    def _make(self, function: str, *arguments: Any, free: str, freed: int | None = None,
              kind: Any = ctypes.c_void_p) -> int:
        """Return the handle that a function made; `close` frees it, or `freed` in its place."""
        handle = kind()
        call = self.call if self._made else self._driver
        call(function, ctypes.byref(handle), *arguments)
        self._made.append((free, handle.value if freed is None else freed))
        return int(handle.value)
