# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint captured on a GPU by torch: compiled, replayed between buffers that stay in place.

`CudaStream` is all that is CUDA's own; in tests a processor stands for it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    CLASSES,
    BackendUnavailable,
    Graph,
    Model,
    Options,
    Rows,
    Scene,
    check_rows,
    no_scene_graph,
)
from rgbx_seg_ros.engine import Tensor as Array
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE
from rgbx_seg_train.export_graph import BundleGraph, SceneGraph
from rgbx_seg_train.onnx_graph import dynamic_shapes, example_inputs

DTYPES = {'uint8': torch.uint8, 'float32': torch.float32}
WARM_UP = 3  # runs before capture: kernels are chosen and workspaces allocated in them
VERSION = str(torch.__version__)
Work = Callable[[], None]


class Stream(Protocol):
    """What `CudaEngine` asks of a GPU; see `CudaStream`."""

    device: torch.device

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...  # noqa: D102
    def record(self, work: Work) -> Work: ...  # noqa: D102
    def run(self, work: Work) -> None: ...  # noqa: D102
    def is_done(self) -> bool: ...  # noqa: D102
    def wait(self) -> None: ...  # noqa: D102
    def device_ms(self) -> float | None: ...  # noqa: D102


Compile = Callable[[nn.Module], Callable[..., tuple[Tensor, ...]]]


class CudaStream:
    """A stream of the first GPU. One thread owns it."""

    def __init__(self, urgent: bool) -> None:
        """Make the stream; where two wait for the GPU, the `urgent` one goes first."""
        self.device = torch.device('cuda')
        self._stream = torch.cuda.Stream(self.device, priority=-1 if urgent else 0)
        # Who waits sleeps: spinning would take a core that the camera drivers need.
        self._began, self._done = (torch.cuda.Event(enable_timing=True, blocking=True)
                                   for _ in range(2))
        self._has_run = False

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return memory of the processor that the GPU copies without waiting: it stays in place."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def record(self, work: Work) -> Work:
        """Run `work` a few times and capture it; return what replays it on the stream."""
        self._stream.wait_stream(torch.cuda.current_stream())  # on it the buffers were filled
        # fp32 is the reference: without TF32, as torch multiplies matrices anyway.
        with (torch.cuda.stream(self._stream),
              torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)):
            for _ in range(WARM_UP):
                work()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode='thread_local'):
                work()
        return graph.replay

    def run(self, work: Work) -> None:
        """Let the GPU begin `work` after what the stream has in hand."""
        self._began.record(self._stream)
        with torch.cuda.stream(self._stream):
            work()
        self._done.record(self._stream)
        self._has_run = True

    def is_done(self) -> bool:
        """Return whether the work that was last begun is done."""
        return self._done.query()

    def wait(self) -> None:
        """Return once it is."""
        self._done.synchronize()

    def device_ms(self) -> float | None:
        """Return what the last work took on the GPU, if there was any; it must be waited for."""
        return self._began.elapsed_time(self._done) if self._has_run else None


class CudaEngine:
    """A bundle's graphs captured on a GPU; see `rgbx_seg_ros.engine.Engine`.

    The scene graph has a stream of its own, which makes way for the other one.
    """

    def __init__(self, graph: BundleGraph, model: Model, options: Options,
                 stream: Callable[[bool], Stream] = CudaStream,
                 compiler: Compile = torch.compile) -> None:
        """Compile and capture what `model` names; BackendUnavailable if the GPU fails at that."""
        modules = {MODEL_FILE: graph, SCENE_FILE: SceneGraph(graph.merged, graph.zero_aux)}
        self._runners: dict[str, _Runner] = {}
        self._tell = options.tell
        self._vocabulary, rows = model.manifest.vocabulary, model.rows()
        try:
            for name, tensors in model.graphs().items():
                options.tell(f'torch compiles {name}, which takes minutes the first time.')
                held = {CLASSES: rows} if rows is not None and CLASSES in tensors.inputs else {}
                self._runners[name] = _Runner(modules[name], tensors, stream(name == MODEL_FILE),
                                              compiler, held)
        except torch.OutOfMemoryError:
            self.close()
            raise BackendUnavailable('torch: the memory of the GPU does not suffice for the model; '
                                     'close other programs, or choose a smaller preset.') from None
        except RuntimeError as error:
            self.close()
            raise BackendUnavailable(f'torch {VERSION} cannot run the model on the GPU '
                                     f'({_reason(error)}); install a torch that is built for it.'
                                     ) from None
        self._has_scene = SCENE_FILE in self._runners
        self._pending = False  # `embed_later` has begun what `embedded` has not returned
        self._late: Scene | None = None
        problems = [runner.problem for runner in self._runners.values() if runner.problem]
        self.info = model.info('torch', VERSION, 'cuda', embeds_aside=self._has_scene,
                               warning=' '.join(problems[:1]))

    def __call__(self, rgb: Array, aux: Array, scene: Scene | None = None) -> tuple[Array, Array]:
        """Run one pair of batch size 1."""
        runner = self._runner(MODEL_FILE)
        if self._has_scene:
            scene = scene or self.embed(rgb, aux)
        runner.start(rgb, aux, *(scene or ()))
        label, confidence = runner.result()
        return label, confidence

    def embed(self, rgb: Array, aux: Array) -> Scene:
        """Run the scene graph on one pair of batch size 1."""
        if not self._has_scene:
            raise no_scene_graph()
        runner = self._runner(SCENE_FILE)
        if self._pending:  # the graph has one place for results
            self._late = tuple(array.copy() for array in runner.result())
            self._pending = False
        runner.start(rgb, aux)
        return tuple(runner.result())

    def embed_later(self, rgb: Array, aux: Array) -> None:
        """Begin the scene graph on one pair; what was begun before and not asked for is lost."""
        if not self._has_scene:
            raise no_scene_graph()
        runner = self._runner(SCENE_FILE)
        if self._pending:
            runner.result()  # its inputs may still be read
        self._late, self._pending = None, True
        runner.start(rgb, aux)

    def embedded(self) -> Scene | None:
        """Return what `embed_later` began once it is done, and then no more."""
        late, self._late = self._late, None
        if late is not None or not self._pending:
            return late
        runner = self._runner(SCENE_FILE)
        if not runner.is_done():
            return None
        self._pending = False
        return tuple(runner.result())

    def set_classes(self, rows: Rows) -> None:
        """Copy the rows to the GPU, where they stay; another number of them is captured anew."""
        runner, own = self._runner(MODEL_FILE), check_rows(rows, self._vocabulary)
        before = runner.problem
        try:
            runner.hold(CLASSES, own)
        except RuntimeError as error:  # of which there being no memory is one
            raise BackendUnavailable(f'torch {VERSION} cannot take {len(own)} classes on the GPU '
                                     f'({_reason(error)}); expected free memory there.') from None
        if runner.problem != before:
            rest = self.info.warning.replace(before, '').strip()
            self.info = replace(self.info, warning=' '.join(filter(None, (rest, runner.problem))))
            if runner.problem:
                self._tell(runner.problem)

    @property
    def device_ms(self) -> float | None:
        """Return what the last pair took on the GPU, copies included; None before the first."""
        return self._runner(MODEL_FILE).device_ms()

    def close(self) -> None:
        """Free the graphs and their memory on the GPU."""
        while self._runners:
            self._runners.popitem()[1].wait()
        free_memory('cuda', compiled=True)

    def _runner(self, name: str) -> _Runner:
        if name not in self._runners:
            raise closed()
        return self._runners[name]


class _Runner:
    """One graph between buffers that stay in place: a copy in, a replay, a copy out.

    What is `held` is copied in once, and again only when it is exchanged.
    """

    def __init__(self, module: nn.Module, tensors: Graph, stream: Stream,
                 compiler: Compile, held: Mapping[str, np.ndarray] | None = None) -> None:
        self._stream, self.problem = stream, ''
        self._held = {name: torch.from_numpy(array).to(stream.device)
                      for name, array in (held or {}).items()}  # behind what is given, in order
        self._given, self._made = (
            [stream.host(shape, DTYPES[dtype])  # type: ignore[arg-type]
             for name, (dtype, shape) in found.items() if name not in self._held]
            for found in (tensors.inputs, tensors.outputs))
        self._inputs, self._outputs = (
            [torch.zeros_like(tensor, device=stream.device) for tensor in own]
            for own in (self._given, self._made))
        self._views = [tensor.numpy() for tensor in self._given]
        self._program = to_device(module, tensors, stream.device)
        self._compiler = compiler
        self._replay = self._record()

    def hold(self, name: str, array: np.ndarray) -> None:
        """Exchange what is held; where that fails the old one stays."""
        old, new = self._held[name], torch.from_numpy(array)
        if new.shape == old.shape:
            old.copy_(new)
            return
        self._held[name] = new.to(self._stream.device)
        try:
            self._replay = self._record()
        except BaseException:
            self._held[name] = old  # which the old replay reads
            raise

    @torch.no_grad()
    def _record(self) -> Work:
        """Return the replay of the program, compiled unless the compiler fails: a `problem`."""
        inputs, problem = [*self._inputs, *self._held.values()], ''
        try:
            compiled = self._compiler(self._program)
            replay = self._stream.record(lambda: self._compute(compiled, inputs))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # it calls other compilers, and fails in as many ways
            problem = f'torch runs the model uncompiled, which is slower ({_reason(error)}).'
            replay = self._stream.record(lambda: self._compute(self._program, inputs))
        self.problem = problem
        return replay

    def _compute(self, program: Callable[..., tuple[Tensor, ...]],
                 inputs: Sequence[Tensor]) -> None:
        for own, made in zip(self._outputs, program(*inputs), strict=False):
            own.copy_(made)

    def start(self, *arrays: np.ndarray) -> None:
        """Begin to run the graph."""
        for view, array in zip(self._views, arrays, strict=True):
            np.copyto(view, array)
        self._stream.run(self._frame)

    def _frame(self) -> None:
        for own, given in zip(self._inputs, self._given, strict=True):
            own.copy_(given, non_blocking=True)
        self._replay()
        for made, own in zip(self._made, self._outputs, strict=True):
            made.copy_(own, non_blocking=True)

    def is_done(self) -> bool:
        """Return whether the result is there."""
        return self._stream.is_done()

    def wait(self) -> None:
        """Return once it is."""
        self._stream.wait()

    def device_ms(self) -> float | None:
        """Return what the last run took on the GPU."""
        return self._stream.device_ms()

    def result(self) -> list[np.ndarray]:
        """Wait for the result and return it; the next `start` overwrites it."""
        self._stream.wait()
        return [tensor.numpy() for tensor in self._made]


def to_device(module: nn.Module, tensors: Graph, device: torch.device | str) -> nn.Module:
    """Return what a module computes for these tensors, on a device.

    It is traced, so that constants which the models make in each pass are weights of the result: a
    graph that is captured may not copy them from the processor.
    """
    with torch.no_grad():
        program = torch.export.export(module.eval(), example_inputs(tensors), strict=False,
                                      dynamic_shapes=dynamic_shapes(tensors))
    moved = move_to_device_pass(program, torch.device(device)).module()
    for node in list(moved.graph.nodes):
        if node.op == 'get_attr' and not node.users:
            moved.graph.erase_node(node)
    moved.recompile()
    used = {node.target for node in moved.graph.nodes if node.op == 'get_attr'}
    for name, _ in [*moved.named_parameters(), *moved.named_buffers()]:
        if name not in used:  # such as the weights of the scene graph in the other one
            owner, _, own = name.rpartition('.')
            delattr(moved.get_submodule(owner), own)
    return moved


def free_memory(device: str, compiled: bool = False) -> None:
    """Give back what no tensor holds any more; a compiler keeps weights by what it compiled."""
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device == 'cuda':
        torch.cuda.empty_cache()


def _reason(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def closed() -> RgbxSegError:
    """Return the error of an engine that is called after `close`."""
    return RgbxSegError('the engine is closed; open it again.')
