# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines of TensorRT and TensorRT-RTX, built from a bundle's graphs or taken from the cache.

Precision is in the graph, so every network is strongly typed and no flag of a precision is set.
TensorRT tries kernels on the GPU and keeps what it measured in a timing cache; TensorRT-RTX builds
without a GPU and measures nothing. The library comes as an argument: this file imports neither.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rgbx_seg_ros import RgbxSegError, engine_cache
from rgbx_seg_ros.build_memory import short_of_memory, workspace
from rgbx_seg_ros.build_progress import Phases, Tell, monitor, ticking
from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import (
    FREE,
    BackendUnavailable,
    Found,
    Graph,
    Model,
    Options,
    check_tensors,
)
from rgbx_seg_ros.given_engines import check_engine, files_of
from rgbx_seg_ros.manifest import SCENE_FILE, sha256_of
from rgbx_seg_ros.onnx_opset import opset_of
from rgbx_seg_ros.tensorrt_target import Target, dotted, driver_text, target_of

if TYPE_CHECKING:
    from rgbx_seg_ros.engine_tensorrt import Library

SCHEMA = '1'  # of how engines are built and run; another one makes all engines anew
STRONGLY_TYPED = 'strongly typed'
OPTIMIZATION_LEVEL = 3  # 0..5; TensorRT's own default, told so that it cannot change unseen
NEWEST_OPSET = 25  # that TensorRT 11 and TensorRT-RTX 1.7 document
MOST_ERRORS = 3  # of a parser that a sentence holds
MAX_REASON = 240  # characters of a library's own message
DTYPES = {'FLOAT': 'float32', 'HALF': 'float16', 'BF16': 'bfloat16'}
OUT_OF_MEMORY = ('outofmemory', 'out of memory', 'insufficient memory', 'workspace',
                 'std::bad_alloc')
UNREADABLE = 'MODEL_DESERIALIZE_FAILED'  # a parser's code of what is no ONNX file at all
REMEDY_MEMORY = ('add swap, close other programs, or make a bundle of a smaller network')
NO_DRIVER = 'cudaError'  # what TensorRT-RTX also logs of a build without a GPU that succeeds


class Built(NamedTuple):
    """The engine of one graph."""

    graph: str
    entry: engine_cache.Entry
    is_new: bool  # built now, not found in the cache


def obtain_plans(library: Library, model: Model, options: Options, gpu: Gpu | None,
                 free_bytes: int) -> dict[str, Path]:
    """Return the engine file of each graph of a model: from the cache, or built.

    With `options.engine_file` they are those given there; see `given_engines`.

    Raises:
        BackendUnavailable: the library or the machine cannot build it.
        RgbxSegError: a given engine does not fit, or the graph is not what the manifest says.

    """
    if options.engine_file is not None:
        found = given_engines(library, model, options.engine_file, gpu)
    else:
        found = build_engines(library, model, target_of(library, gpu),
                              workspace(free_bytes, gpu is not None and gpu.integrated),
                              options.tell)
    return {built.graph: built.entry.path for built in found}


def build_engines(library: Library, model: Model, target: Target, workspace_bytes: int,
                  tell: Tell, force: bool = False) -> list[Built]:
    """Return the engines of a model's graphs for a target, built where the cache has none.

    `force` builds them all anew. Raises as `obtain_plans` does.
    """
    found = []
    for name, graph in model.graphs().items():
        onnx = model.path(name)
        parts = parts_of(library, model, name, target)
        about = {'bundle': model.manifest.name, 'graph': str(onnx.relative_to(model.bundle))}

        def build(onnx: Path = onnx, graph: Graph = graph) -> bytes:
            timing = engine_cache.folder() / _timing_name(library, target)
            old = timing.read_bytes() if timing.is_file() else b''
            plan, new = build_plan(library, onnx, target, workspace_bytes, old, tell, graph)
            _keep_timing(timing, old, new, tell)
            return plan

        entry, is_new = engine_cache.obtain(parts, about, build, tell, force)
        if is_new:
            tell(f'the engine of {about["graph"]} is built: {entry.seconds:.0f} s, '
                 f'{entry.size / 1e6:.0f} MB; the cache holds {engine_cache.size_mb():.0f} MB.')
        found.append(Built(name, entry, is_new))
    return found


def parts_of(library: Library, model: Model, graph: str, target: Target) -> dict[str, str]:
    """Return, in words, all that decides which engine is built of a graph."""
    tensors = model.graphs()[graph]
    return {
        'ONNX SHA-256': _digest(model, graph),
        'library': library.flavor, 'version': library.version, **target.words,
        'precision': model.precision,
        'tensors': '; '.join(f'{name} {dtype} {_lengths(tensors, shape)}' for name, (dtype, shape)
                             in {**tensors.inputs, **tensors.outputs}.items()),
        'options': STRONGLY_TYPED if library.traits.ahead_of_time else
                   f'{STRONGLY_TYPED}, optimization level {OPTIMIZATION_LEVEL}',
        'system': f'{platform.system()} {platform.machine()}', 'schema': SCHEMA}


def given_engines(library: Library, model: Model, place: Path, gpu: Gpu | None) -> list[Built]:
    """Return engines that the user named; RgbxSegError if one fits not model, library or GPU."""
    found = []
    target = Target() if gpu is None else Target(gpu.name, gpu.capability, gpu.driver)
    for name, path in files_of(Path(place), list(model.graphs())).items():
        parts = parts_of(library, model, name, target)
        if gpu is None or library.traits.ahead_of_time:
            parts = {key: value for key, value in parts.items() if key not in target.words}
        found.append(Built(name, check_engine(path, parts, gpu), False))
    return found


def runtime_cache(plan: Path, gpu: Gpu) -> Path:
    """Return the file for the kernels that TensorRT-RTX compiles of an engine on a GPU."""
    try:
        digest = engine_cache.read_sidecar(plan).sha256
    except RgbxSegError:
        digest = sha256_of(plan)
    return (engine_cache.folder()
            / f'{digest[:32]}-{dotted(gpu.capability)}-{driver_text(gpu.driver)}.runtime')


def _lengths(graph: Graph, shape: Sequence[object]) -> str:
    """Return a shape in words; of a FREE axis what an optimization profile has."""
    free = f'(1..{graph.most}, {graph.usual} usual)'
    return 'x'.join(free if n == FREE else str(n) for n in shape)


def _digest(model: Model, graph: str) -> str:
    """Return the SHA-256 of a graph as the manifest tells it, checked when it was opened."""
    if model.variant is not None and graph in model.variant.files:
        return model.variant.files[graph]
    scene = model.manifest.scene
    return scene.onnx_sha256 if graph == SCENE_FILE and scene else model.manifest.onnx_sha256


def build_plan(library: Library, onnx: Path, target: Target, workspace_bytes: int,
               timing_cache: bytes, tell: Tell, graph: Graph | None = None
               ) -> tuple[bytes, bytes]:
    """Return the engine of an ONNX file and the new content of the timing cache, or b''.

    With `graph` the network must have just these tensors. Raises as `obtain_plans` does.
    """
    label = f'{library.flavor} {library.version}'
    _check_opset(label, onnx)
    what = f'building the engine of {onnx.name} for {label}, {target}'
    tell(f'{what}, from {onnx.stat().st_size / 1e6:.0f} MB; this can take minutes, once.')
    if hint := short_of_memory(onnx.stat().st_size):
        tell(hint)
    phases, errors = Phases(), list[str]()
    try:
        with ticking(what, phases, tell):
            trt = library.trt
            builder = _start(trt, errors, label)
            network = builder.create_network(
                1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            parser = _parse(trt, network, errors, label, onnx)
            if graph is not None:
                check_tensors(_tensors(network, 'input'), _tensors(network, 'output'), graph)
            config = builder.create_builder_config()
            if graph is not None:
                _add_profile(builder, config, graph, label, onnx)
            cache = _configure(library, config, target, workspace_bytes, timing_cache, tell)
            if (observer := monitor(trt, phases)) is not None:
                config.progress_monitor = observer
            plan = builder.build_serialized_network(network, config)
            del parser
    except MemoryError:
        raise _no_memory(label, onnx, 'Python is out of memory') from None
    if plan is None:
        raise _refusal(label, onnx, errors)
    return bytes(plan), b'' if cache is None else bytes(config.get_timing_cache().serialize())


def _start(trt: Any, errors: list[str], label: str) -> Any:
    """Return a builder; where there is no driver that it fits, TensorRT has none to give."""
    try:
        return trt.Builder(_logger(trt, errors))
    except (TypeError, RuntimeError):
        raise BackendUnavailable(f'{label} does not start ({_reason(errors)}); expected a CUDA '
                                 'driver that it fits; check `nvidia-smi`, update the driver.'
                                 ) from None


def _add_profile(builder: Any, config: Any, graph: Graph, label: str, onnx: Path) -> None:
    """Tell a builder how long the FREE axes may become, and what to be fast at."""
    free = {name: shape for name, (_, shape) in graph.inputs.items() if FREE in shape}
    if not free:
        return
    profile = builder.create_optimization_profile()
    for name, shape in free.items():
        profile.set_shape(name, *(tuple(length if n == FREE else n for n in shape)
                                  for length in (1, graph.usual, graph.most)))
    if config.add_optimization_profile(profile) < 0:
        raise BackendUnavailable(f'{onnx}: {label} refuses 1..{graph.most} classes; export the '
                                 'bundle with a smaller export.most_classes.')


def _configure(library: Library, config: Any, target: Target, workspace_bytes: int,
               timing_cache: bytes, tell: Tell) -> Any:
    """Set what the two libraries differ in; return TensorRT's timing cache, or None."""
    trt = library.trt
    if target.capabilities:  # and no timing cache: TensorRT-RTX measures nothing
        config.num_compute_capabilities = len(target.capabilities)
        for index, capability in enumerate(target.capabilities):
            name = 'SM' + dotted(capability).replace('.', '')
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        return None
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    for content in (timing_cache, b''):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        if content:
            tell('the timing cache cannot be used (damaged, or of another TensorRT); a new one is '
                 'begun.')
    return None


def _parse(trt: Any, network: Any, errors: list[str], label: str, onnx: Path) -> Any:
    """Fill a network from an ONNX file; return the parser, whose weights the network uses."""
    parser = trt.OnnxParser(network, _logger(trt, errors))
    if parser.parse_from_file(str(onnx)):
        return parser
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    if not found or any(UNREADABLE in str(error.code()) for error in found):
        reason = _shorten(found[0].desc()) if found else _reason(errors)
        raise RgbxSegError(f'{onnx}: {label} cannot read it ({reason}); expected an ONNX file; '
                           'copy or export the bundle again.')
    texts = list(dict.fromkeys(f'{error.node_operator() or "the graph"} in node '
                               f'"{error.node_name()}" ({_shorten(error.desc())})'
                               for error in found))
    more = f' and {len(texts) - MOST_ERRORS} more' if len(texts) > MOST_ERRORS else ''
    raise BackendUnavailable(
        f'{onnx}: {label} refuses {", ".join(texts[:MOST_ERRORS])}{more}, of opset '
        f'{opset_of(onnx)}; expected operators that its ONNX parser knows; export the bundle '
        'again, or choose another backend.')


def _timing_name(library: Library, target: Target) -> str:
    """Return the name of the timing cache: what was measured holds for one library on one GPU."""
    digest = hashlib.sha256(' '.join([library.version, *target.words.values()]).encode())
    return f'{library.flavor}-{digest.hexdigest()[:16]}.timing'


def _keep_timing(path: Path, old: bytes, new: bytes, tell: Tell) -> None:
    """Write the timing cache if there is one and it grew; without it the next build is slower."""
    if not new or new == old:
        return
    try:
        engine_cache.write_atomically(path, new)
    except OSError as error:
        tell(f'{path.parent} cannot hold the timing cache ({error.strerror or error}); the next '
             'build takes as long as this one.')


def _check_opset(label: str, onnx: Path) -> None:
    """Refuse an opset of the future: the parser would take its operators for those it knows."""
    opset = opset_of(onnx)
    if opset is None:
        raise RgbxSegError(f'{onnx}: it tells no opset; expected an ONNX file; copy or export the '
                           'bundle again.')
    if opset > NEWEST_OPSET:
        raise BackendUnavailable(f'{onnx}: it is of opset {opset}; {label} is known to read up to '
                                 f'{NEWEST_OPSET}; export the bundle again.')


def _tensors(network: Any, kind: str) -> Found:
    """Return the inputs or outputs of a network."""
    number, get = getattr(network, f'num_{kind}s'), getattr(network, f'get_{kind}')
    tensors = [get(index) for index in range(number)]
    return {tensor.name: (DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower()),
                          tuple(tensor.shape)) for tensor in tensors}


def _logger(trt: Any, errors: list[str]) -> Any:
    """Return a logger of the library that keeps its errors and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(message)

    return Log()


def _refusal(label: str, onnx: Path, errors: Sequence[str]) -> BackendUnavailable:
    """Return the error of a build that gave no engine."""
    reason = _reason(errors)
    if any(mark in error.lower() for error in errors for mark in OUT_OF_MEMORY):
        return _no_memory(label, onnx, reason)
    return BackendUnavailable(
        f'{onnx}: {label} cannot build an engine of it ({reason}); expected a graph that it has '
        'kernels for; make another precision with `rgbx_variants`, or choose another backend.')


def _no_memory(label: str, onnx: Path, reason: str) -> BackendUnavailable:
    return BackendUnavailable(f'{onnx}: {label} has too little memory to build an engine of it '
                              f'({reason}); {REMEDY_MEMORY}.')


def _reason(errors: Sequence[str]) -> str:
    telling = [error for error in errors if NO_DRIVER not in error] or list(errors)
    return _shorten(telling[-1]) if telling else 'the library says no more'


def _shorten(text: str) -> str:
    line = ' '.join(text.split())
    return line if len(line) <= MAX_REASON else f'{line[:MAX_REASON]}…'
