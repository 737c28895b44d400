# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One graph of a bundle as TensorRT runs it: its engine, its buffers, and the run as a CUDA graph.

Tensors are known by their names, and their addresses are set once. The library comes as an
argument, so that this file serves TensorRT and TensorRT-RTX alike and imports neither.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cuda_context import Buffer, Context
from rgbx_seg_ros.engine import FREE, BackendUnavailable, Found, Graph, check_tensors
from rgbx_seg_ros.engine_cache import write_atomically

if TYPE_CHECKING:
    from rgbx_seg_ros.engine_tensorrt import Library

DTYPES = {'UINT8': 'uint8', 'FLOAT': 'float32', 'HALF': 'float16', 'INT8': 'int8',
          'INT32': 'int32', 'INT64': 'int64', 'BOOL': 'bool'}
MAX_ERRORS = 4  # of the newest that the library logged
MAX_KERNELS_BYTES = 1 << 30  # of a runtime cache; ours are of some MB
# What the library logs, in lower case, of a driver, of memory, and of the machine in general.
TOO_OLD = ('cudaerror 35', 'failure with error: 35', 'driver version is insufficient')
NO_MEMORY = ('outofmemory', 'out of memory', 'cudaerror 2)')
OF_MACHINE = ('cudaerror', 'cuda runtime', 'cuda initialization', *TOO_OLD, *NO_MEMORY)
# EngineInvalidityDiagnostics, as far as another engine would not help.
BAD_CAPABILITY, OLD_DRIVER, LITTLE_MEMORY, CUDA_FAILED = 2, 4 | 8, 16, 64


class EngineRefused(RgbxSegError):
    """The library does not take an engine file: it is damaged, or made for something else."""


class Log:
    """The newest errors that a library logged; the logger itself is for the library."""

    def __init__(self, trt: Any) -> None:
        """Make the logger."""
        errors: deque[str] = deque(maxlen=MAX_ERRORS)
        serious = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in serious:
                    errors.append(' '.join(message.split()))

        self.errors, self.logger = errors, Logger()

    def error(self, label: str, what: str, remedy: str) -> BackendUnavailable:
        """Return the error of a call that failed, by what was logged since the last one."""
        reason = self.errors[-1][:240] if self.errors else 'it logged no reason'
        if self.tells_of(TOO_OLD):
            remedy = ('expected an NVIDIA driver as new as the library; update the driver, or '
                      'install an older library')
        elif self.tells_of(NO_MEMORY):
            remedy = ('expected more free memory of the GPU; close what else uses it, or take a '
                      'smaller network or precision')
        self.errors.clear()
        return BackendUnavailable(f'{label} cannot {what} ({reason}); {remedy}.')

    def tells_of(self, marks: tuple[str, ...]) -> bool:
        """Return whether one of the marks is in what was logged since the last error."""
        said = ' '.join(self.errors).lower()
        return any(mark in said for mark in marks)


class Session:
    """An engine file, loaded and warmed up. Call `close` also after an error."""

    def __init__(self, library: Library, cuda: Context, log: Log, urgent: bool) -> None:
        """Make the stream that it runs on, of high priority or of low."""
        self.how = ''  # how a run is put on the stream, in words
        self._library, self._cuda, self._log = library, cuda, log
        self._label = f'{library.flavor} {library.version}'
        self._stream = cuda.stream(urgent)
        self._done = cuda.event()
        self._engine: Any = None
        self._context: Any = None
        self._kernels: Any = None
        self._graph: int | None = None
        self._clock: tuple[int, int] | None = None  # events around a run, once its time is asked
        self._is_timed = False
        self._inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        self._most = 0  # length of a FREE axis that the buffers have room for
        self._held: dict[str, Any] = {}  # inputs that stay on the GPU from run to run

    def load(self, runtime: Any, plan: Path, graph: Graph) -> None:
        """Load an engine file, which must have the tensors of `graph`.

        Raises:
            EngineRefused: the file is damaged, or of another version or GPU.
            BackendUnavailable: the machine cannot run it: memory, driver.
            RgbxSegError: its tensors are other ones.

        """
        self._log.errors.clear()
        try:
            with plan.open('rb') as file, mmap.mmap(file.fileno(), 0,
                                                    access=mmap.ACCESS_READ) as raw:
                if self._library.traits.tells_validity:
                    self._check(runtime, raw, plan)
                self._engine = runtime.deserialize_cuda_engine(raw)
        except (OSError, ValueError) as reason:  # ValueError: it is empty
            raise EngineRefused(f'the engine {plan} cannot be read ({reason}); expected a file of '
                                '`rgbx_build_engine`; build it again.') from None
        if self._engine is None:
            is_refused = not self._log.tells_of(OF_MACHINE)
            error = self._log.error(self._label, f'load the engine {plan}', 'it is damaged or of '
                                    'another version: build it again with `rgbx_build_engine`')
            raise EngineRefused(str(error)) if is_refused else error
        try:
            found = {kind: self._tensors(kind) for kind in ('INPUT', 'OUTPUT')}
            check_tensors(found['INPUT'], found['OUTPUT'], graph)
        except RgbxSegError as wrong:
            raise RgbxSegError(f'{plan}: {wrong}') from None
        self._most = graph.most

    def start(self, kernels: Path | None, held: Mapping[str, Any] | None = None) -> str:
        """Make it ready to run and run it once; return what its owner should know, or nothing.

        `kernels` is the file where TensorRT-RTX keeps what it compiles for this GPU, `held` all
        inputs that `hold` may exchange.
        """
        self._make_context(kernels)
        for kind, buffers in (('INPUT', self._inputs), ('OUTPUT', self._outputs)):
            for name, (dtype, shape) in self._tensors(kind).items():
                room = tuple(self._most if n == FREE else n for n in shape)
                buffers[name] = self._cuda.buffer(room, dtype)  # type: ignore[arg-type]
                if not self._context.set_tensor_address(name, buffers[name].address):
                    raise self._log.error(self._label, f'use tensor "{name}"', 'report it')
        for name, array in (held or {}).items():
            self._put(name, array)
        return self._try() or self._keep_kernels(kernels)

    def hold(self, name: str, array: Any) -> str:
        """Exchange an input that stays on the GPU; where that fails the old one does.

        Another length of its FREE axis is another CUDA graph. Returns what its owner should know,
        or nothing.
        """
        old = self._held[name]
        try:
            self._put(name, array)
            return self._try() if array.shape != old.shape else ''
        except RgbxSegError:
            with suppress(RgbxSegError):  # the first error is told
                self._put(name, old)
                self._try()
            raise

    def _put(self, name: str, array: Any) -> None:
        """Copy an input to the GPU, now, and tell the library its shape."""
        if not self._context.set_input_shape(name, array.shape):
            raise self._log.error(self._label, f'take {name} {array.shape}', 'build the engine '
                                  'again with `rgbx_build_engine`')
        buffer = self._inputs[name]
        buffer.array[:len(array)] = array
        self._cuda.upload(buffer, self._stream)
        self._cuda.wait(self._stream)
        self._held[name] = array

    def _try(self) -> str:
        """Run it and capture it, as it now is; return what its owner should know."""
        self._release()
        self.begin()  # what is compiled or allocated at the first run must not be in a graph
        self.wait()
        self.how, told = 'CUDA graph of its own', ''
        if not self._library.traits.captures_itself:
            told = self._capture()
        self.begin()
        self.wait()
        return told

    def fill(self, name: str, array: Any) -> None:
        """Copy an input into its buffer; RgbxSegError if it is of another size or type."""
        own = self._inputs[name].array
        if array.shape != own.shape or array.dtype != own.dtype:
            raise RgbxSegError(f'{name} is {array.dtype} {array.shape}; expected {own.dtype} '
                               f'{own.shape}; resize the image to the engine\'s size.')
        own[...] = array

    def output(self, name: str) -> Any:
        """Return the array of an output: each run writes into it, after `close` it is gone."""
        return self._outputs[name].array

    def begin(self) -> None:
        """Put a run on the stream: copies in, the network, copies out."""
        if self._clock is not None:
            self._cuda.record(self._clock[0], self._stream)
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        if self._clock is not None:
            self._cuda.record(self._clock[1], self._stream)
            self._is_timed = True

    def wait(self) -> None:
        """Return when the runs that were begun are done and the outputs are there."""
        self._cuda.wait(self._stream)

    def device_ms(self) -> float | None:
        """Return what the last run took on the GPU, waited for; None before it is first asked."""
        if self._clock is None:
            self._clock = self._cuda.event(timed=True), self._cuda.event(timed=True)
        return self._cuda.milliseconds(*self._clock) if self._is_timed else None

    def begin_aside(self) -> None:
        """Put a run on the stream of which `is_done` tells."""
        self.begin()
        self._cuda.record(self._done, self._stream)

    def is_done(self) -> bool:
        """Return whether the run of `begin_aside` is done and the outputs are there."""
        return self._cuda.happened(self._done)

    def close(self) -> None:
        """Wait for what runs and drop what the library holds; the buffers are the context's."""
        with suppress(RgbxSegError):
            self.wait()
        self._release()
        self._inputs, self._outputs = {}, {}
        self._context = None
        self._kernels = None
        self._engine = None

    def _release(self) -> None:
        """Free the CUDA graph, if there is one."""
        if self._graph is not None:
            graph, self._graph = self._graph, None
            with suppress(RgbxSegError):
                self._cuda.free(graph)

    def _check(self, runtime: Any, raw: mmap.mmap, plan: Path) -> None:
        """Raise if the library says, by the head of a file, that it cannot run it here."""
        trt = self._library.trt
        validity, found = runtime.get_engine_validity(raw[:runtime.engine_header_size])
        if validity != trt.EngineValidity.INVALID or not found:
            return
        named = [name for name, flag in trt.EngineInvalidityDiagnostics.__members__.items()
                 if int(flag) & int(found)]
        text = f'{self._label} cannot run the engine {plan} here ({", ".join(named)}); '
        if int(found) & OLD_DRIVER:
            raise BackendUnavailable(f'{text}expected a newer NVIDIA driver; update it.')
        if int(found) & (LITTLE_MEMORY | BAD_CAPABILITY | CUDA_FAILED):
            raise BackendUnavailable(f'{text}expected a GPU that the library supports, with free '
                                     'memory; choose another backend.')
        raise EngineRefused(f'{text}expected one that this version built; build it again with '
                            '`rgbx_build_engine`.')

    def _tensors(self, kind: str) -> Found:
        """Return the tensors of a mode as the engine has them: name -> dtype, shape."""
        engine, mode = self._engine, getattr(self._library.trt.TensorIOMode, kind)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return {name: (DTYPES.get(engine.get_tensor_dtype(name).name,
                                  engine.get_tensor_dtype(name).name),
                       tuple(engine.get_tensor_shape(name)))
                for name in names if engine.get_tensor_mode(name) == mode}

    def _make_context(self, kernels: Path | None) -> None:
        """Make the execution context; of TensorRT-RTX with its cache and its own CUDA graphs."""
        engine, trt = self._engine, self._library.trt
        settings = []
        if self._library.traits.captures_itself:
            settings = [engine.create_runtime_config()]
            settings[0].cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._kernels = settings[0].create_runtime_cache()
            if kernels is not None and kernels.is_file() and (
                    kernels.stat().st_size <= MAX_KERNELS_BYTES):
                self._kernels.deserialize(kernels.read_bytes())  # False: made anew by the run
            settings[0].set_runtime_cache(self._kernels)
        self._context = engine.create_execution_context(*settings)
        if self._context is None:
            raise self._log.error(self._label, 'make an execution context', 'close what else uses '
                                  'the GPU, or build the engine again')

    def _enqueue(self) -> None:
        for name, buffer in self._inputs.items():
            if name not in self._held:
                self._cuda.upload(buffer, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise self._log.error(self._label, 'run the network', 'start the program again; if it '
                                  'stays, build the engine again with `rgbx_build_engine`')
        for buffer in self._outputs.values():
            self._cuda.download(buffer, self._stream)

    def _capture(self) -> str:
        """Capture a run as a CUDA graph; return why that failed, which costs only time."""
        try:
            self._graph = self._cuda.capture(self._stream, self._enqueue)
        except RgbxSegError as error:
            self.how = 'without a CUDA graph'
            return f'{self._label} runs without a CUDA graph, which is slower: {error}'
        self.how = 'CUDA graph'
        return ''

    def _keep_kernels(self, path: Path | None) -> str:
        """Write the kernels that were compiled; return why that failed: they are made again."""
        kernels = None if path is None or self._kernels is None else self._kernels.serialize()
        if path is None or kernels is None:
            return ''
        content = bytes(kernels)
        try:
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
        except OSError as error:
            return (f'{path} cannot be written ({error.strerror or error}); the kernels are '
                    'compiled at each start.')
        return ''
