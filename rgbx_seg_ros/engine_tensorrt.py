# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT, 10.3 and newer, and TensorRT-RTX on NVIDIA GPUs. The only file that imports them.

Both run one implementation, which calls what all their versions have; FLAVORS tells the rest.
Engines are found or built by `tensorrt_builder`.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cuda import LIBRARY, STICKY, CudaError, Gpu, find_gpu
from rgbx_seg_ros.cuda_context import Context
from rgbx_seg_ros.engine import (
    CLASSES,
    OUTPUTS,
    BackendMissing,
    BackendUnavailable,
    Model,
    Options,
    Rows,
    Scene,
    Tensor,
    check_rows,
    no_scene_graph,
)
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE
from rgbx_seg_ros.selection import RTX_CAPABILITIES
from rgbx_seg_ros.tensorrt_builder import obtain_plans, runtime_cache
from rgbx_seg_ros.tensorrt_session import EngineRefused, Log, Session
from rgbx_seg_ros.tensorrt_target import dotted


class Flavor(NamedTuple):
    """What TensorRT and TensorRT-RTX differ in."""

    name: str
    module: str
    remedy: str  # if it cannot be imported
    capabilities: tuple[tuple[int, int], ...] | None  # that it has kernels for; None: all
    ahead_of_time: bool  # it builds without the GPU, for several kinds of GPU at once
    tells_validity: bool  # it can say from the head of an engine file whether it runs here
    captures_itself: bool  # it makes its CUDA graphs, and keeps the kernels that it compiles


FLAVORS = {
    'tensorrt': Flavor(
        'TensorRT', 'tensorrt', 'run `sudo apt install python3-libnvinfer` on a Jetson, `pip '
        'install tensorrt` elsewhere', None, False, False, False),
    'tensorrt_rtx': Flavor(
        'TensorRT-RTX', 'tensorrt_rtx', 'run `pip install tensorrt-rtx`', RTX_CAPABILITIES, True,
        True, True),
}


class Library(NamedTuple):
    """An inference library that was imported."""

    flavor: str  # key of FLAVORS
    trt: Any  # the module
    version: str

    @property
    def traits(self) -> Flavor:
        """Return what sets it apart."""
        return FLAVORS[self.flavor]


def load_library(flavor: str) -> Library:
    """Import TensorRT or TensorRT-RTX; BackendMissing without it, else BackendUnavailable."""
    traits = FLAVORS[flavor]
    try:
        trt = importlib.import_module(traits.module)
        return Library(flavor, trt, str(trt.__version__))
    except Exception as error:  # a broken installation raises OSError, RuntimeError and others
        reason = ' '.join(str(error).split())[:240]
        missing = isinstance(error, ModuleNotFoundError) and error.name == traits.module
        raise (BackendMissing if missing else BackendUnavailable)(
            f'{traits.name} cannot be imported ({reason}); expected the Python module '
            f'{traits.module}; {traits.remedy}.') from None


def open_tensorrt(model: Model, options: Options, flavor: str) -> TensorRtEngine:
    """Return the engine of a bundle, built if it must be, loaded and warmed up on this thread.

    Raises:
        BackendUnavailable: no GPU, library or driver that serves, or too little memory of the GPU.
        RgbxSegError: the bundle or a given engine is at fault, or the CUDA context is lost, after
            which no other GPU backend of this process would be safe.

    """
    gpu = _usable_gpu(flavor)
    engine = TensorRtEngine(load_library(flavor), gpu, model)
    failure: Exception | None = None
    try:
        engine.open(options)
        return engine
    except Exception as error:
        failure = error
        cause: BaseException | None = error
        while cause is not None:  # else the library's objects would live on in what it tells
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__context__
    except BaseException:
        with suppress(Exception):
            engine.close()
        raise
    lost = engine.is_lost()
    with suppress(Exception):
        engine.close()
    raise _explain(failure, lost, f'{FLAVORS[flavor].name} on {gpu.name}')


def _explain(failure: Exception, lost: bool, where: str) -> Exception:
    """Return what to raise for a failed opening: is it the machine's fault, and may one go on?"""
    if lost or (isinstance(failure, CudaError) and failure.code in STICKY):
        return RgbxSegError(f'{where} failed and left the GPU in a state that nothing in this '
                            f'process can go on from ({failure}); start the program again.')
    if isinstance(failure, CudaError):
        return BackendUnavailable(f'{where}: {failure}')
    if isinstance(failure, RgbxSegError):
        return failure
    reason = ' '.join(str(failure).split())
    return RgbxSegError(f'{where} failed ({type(failure).__name__}: {reason}); expected an engine; '
                        'choose another backend.')


def _usable_gpu(flavor: str) -> Gpu:
    """Return the GPU; BackendUnavailable if there is none that the library serves."""
    traits = FLAVORS[flavor]
    gpu, problem = find_gpu()
    if gpu is None:
        raise BackendUnavailable(f'{traits.name} needs an NVIDIA GPU: ' + (
            problem or f'no CUDA driver was found ({LIBRARY}); expected one; install the NVIDIA '
            'driver.'))
    if traits.capabilities is not None and gpu.capability not in traits.capabilities:
        known = ', '.join(f'{major}.{minor}' for major, minor in traits.capabilities)
        raise BackendUnavailable(
            f'{traits.name} has no kernels for {gpu.name}, whose compute capability is '
            f'{dotted(gpu.capability)}; expected one of {known}; use TensorRT.')
    return gpu


class TensorRtEngine:
    """A bundle's graphs in TensorRT; see `rgbx_seg_ros.engine.Engine`.

    Nothing is allocated per frame. An input is copied into a pinned buffer before a run, so the
    caller may change it when a call returns. Label and confidence are views of pinned buffers that
    the next call overwrites and that are gone after `close`. All must happen on one thread.
    """

    def __init__(self, library: Library, gpu: Gpu, model: Model) -> None:
        """Take note of the model; `open` does the work."""
        self.info = model.info(library.flavor, library.version, gpu.name)
        self._library, self._gpu, self._model = library, gpu, model
        self._cuda: Context | None = None
        self._log: Log | None = None
        self._runtime: Any = None
        self._sessions: dict[str, Session] = {}
        self._answer: Any = None  # the outputs, as they are returned
        self._tell: Callable[[str], None] = lambda sentence: None
        self._scene: Any = None
        scene = model.manifest.scene
        self._embeddings = scene.tensors if scene else ()
        self._rows = model.rows()  # None: the classes are fixed
        self._is_pending = False  # a run of `embed_later` of which `embedded` has not told
        self._late: Scene | None = None  # what such a run made
        self._kept = tuple(np.zeros((1, scene.width), np.float32) for _ in scene.tensors
                           ) if scene else ()

    def open(self, options: Options) -> None:
        """Build or find the engines, load and warm them up; call `close` also if that fails."""
        self._tell = options.tell
        try:
            self._load(options)
            refused = ''
        except EngineRefused as error:
            if options.engine_file is not None or self.is_lost():
                raise
            refused = str(error)
        if refused:  # once: the next error is told
            options.tell(f'{refused} It is built again.')
            for path in self._obtain(options).values():
                path.unlink(missing_ok=True)
            self.close()
            self._load(options)
        ways = {session.how for session in self._sessions.values()}
        self.info = self._model.info(
            self._library.flavor, self._library.version,
            f'{self._gpu.name} (compute capability {dotted(self._gpu.capability)}, '
            f'{" and ".join(sorted(ways))})', embeds_aside=bool(self._embeddings))

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair of batch size 1."""
        session = self._session(MODEL_FILE)
        if self._embeddings:
            scene = scene or self.embed(rgb, aux)
            for name, embedding in zip(self._embeddings, scene, strict=True):
                session.fill(name, embedding)
        session.fill('rgb', rgb)
        session.fill('aux', aux)
        session.begin()
        session.wait()
        return self._answer

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair of batch size 1, after what `embed_later` began."""
        session = self._embedder(rgb, aux)
        session.begin()
        session.wait()
        return self._scene

    def embed_later(self, rgb: Tensor, aux: Tensor) -> None:
        """Begin the scene graph on one pair, with buffers and a stream of its own.

        If the run before is not asked for yet, it is waited for and forgotten.
        """
        session = self._embedder(rgb, aux)
        self._late = None
        session.begin_aside()
        self._is_pending = True

    def embedded(self) -> Scene | None:
        """Return what `embed_later` made, once; None while it is not done."""
        if self._is_pending and self._session(SCENE_FILE).is_done():
            self._settle()
        late, self._late = self._late, None
        return late

    def set_classes(self, rows: Rows) -> None:
        """Copy the rows to the GPU, where they stay; another number of them is captured anew."""
        session, own = self._session(MODEL_FILE), check_rows(rows, self._model.manifest.vocabulary)
        told = session.hold(CLASSES, own)
        self._rows = own
        if told:
            self._tell(told)

    @property
    def device_ms(self) -> float | None:
        """Return what the last pair took on the GPU, copies included; None at the first look."""
        return self._session(MODEL_FILE).device_ms()

    def is_lost(self) -> bool:
        """Return whether an error left the CUDA context unusable."""
        return self._cuda is not None and self._cuda.is_lost()

    def close(self) -> None:
        """Free all memory; raises the first error of the driver after the last of it."""
        if self._cuda is None:
            return
        with suppress(CudaError):  # but not what a foreign thread gets
            self._cuda.bind()
        self._drop()
        cuda, self._cuda = self._cuda, None
        cuda.close()

    def _session(self, name: str) -> Session:
        if self._cuda is None:
            raise RgbxSegError('the engine is closed; open it again.')
        self._cuda.bind()
        return self._sessions[name]

    def _embedder(self, rgb: Tensor, aux: Tensor) -> Session:
        """Return the session of the scene graph, idle and filled with a pair."""
        if not self._embeddings:
            raise no_scene_graph()
        session = self._session(SCENE_FILE)
        if self._is_pending:
            session.wait()
            self._settle()
        session.fill('rgb', rgb)
        session.fill('aux', aux)
        return session

    def _settle(self) -> None:
        """Copy what a run aside has made: the next run overwrites it."""
        for own, made in zip(self._kept, self._scene, strict=True):
            np.copyto(own, made)
        self._is_pending, self._late = False, self._kept

    def _obtain(self, options: Options) -> dict[str, Path]:
        assert self._cuda is not None
        free, _ = self._cuda.free_and_total_bytes()
        return obtain_plans(self._library, self._model, options, self._gpu, free)

    def _load(self, options: Options) -> None:
        self._cuda = Context(mapped=self._gpu.integrated)
        self._log = Log(self._library.trt)
        plans = self._obtain(options)
        self._cuda.bind()  # a builder may have set another context
        try:
            self._runtime = self._library.trt.Runtime(self._log.logger)
        except TypeError:  # what pybind11 makes of nothing
            raise self._log.error(self._library.flavor, 'start', 'check `nvidia-smi`') from None
        for name, graph in self._model.graphs().items():
            session = Session(self._library, self._cuda, self._log, urgent=name == MODEL_FILE)
            self._sessions[name] = session
            session.load(self._runtime, plans[name], graph)
            kernels = (runtime_cache(plans[name], self._gpu)
                       if self._library.traits.captures_itself else None)
            held = {} if self._rows is None or name != MODEL_FILE else {CLASSES: self._rows}
            if told := session.start(kernels, held):
                options.tell(told)
        self._answer = tuple(map(self._sessions[MODEL_FILE].output, OUTPUTS))
        if self._embeddings:
            self._scene = tuple(map(self._sessions[SCENE_FILE].output, self._embeddings))

    def _drop(self) -> None:
        """Let go of all that the library made, contexts first, and of the views of buffers."""
        self._answer = self._scene = None
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self._runtime = None
