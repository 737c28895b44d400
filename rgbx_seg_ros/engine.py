# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every inference backend offers, and the table that opens one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import (
    BANK_FILE,
    MODEL_FILE,
    PRECISIONS,
    SCENE_FILE,
    Manifest,
    Variant,
    Vocabulary,
    load_bundle,
)

Tensor = NDArray[np.uint8]
INPUTS = ('rgb', 'aux')
OUTPUTS = ('label', 'confidence')
CLASSES = 'classes'  # the input that holds the embeddings of the classes, one a row
FREE = -1  # the length of an axis that may be another at each call
# What two images say of the scene as a whole: float32 (1, width) each, in the order of
# `manifest.scene.tensors`.
Scene = tuple[NDArray[np.float32], ...]
Rows = NDArray[np.float32]
Found = Mapping[str, tuple[str, tuple[object, ...]]]  # name of a tensor -> dtype, shape


Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class EngineInfo:
    """Which library runs the model, its version, where, in which precision, and why this one."""

    backend: str
    version: str
    device: str
    precision: str
    rgb_size: Size | None = None  # (H, W) of rgb, label and confidence; None: the manifest's
    aux_size: Size | None = None  # (h, w) of aux; None: the manifest's
    embeds_aside: bool = False  # it has `embed_later` and `embedded`
    choice: str = ''  # what `auto` found, as a sentence
    warning: str = ''  # what its owner should know, as a sentence: a GPU that cannot be used


class Engine(Protocol):
    """A loaded model. One thread owns it: open, call and close it from the same one.

    An engine whose `info.embeds_aside` is True also has `embed_later(rgb, aux) -> None`, which
    starts the scene graph on one pair beside the calls that follow, and `embedded() -> Scene |
    None`, which returns what it made once it is done, and None before that and ever after.
    """

    info: EngineInfo

    def __call__(self, rgb: Tensor, aux: Tensor, scene: Scene | None = None
                 ) -> tuple[Tensor, Tensor]:
        """Run one pair: rgb uint8 (1, H, W, 3) and aux uint8 (1, H, W, C), C-contiguous.

        A bundle of two graphs takes the `scene` that `embed` made of this pair or of an earlier
        one, or embeds this pair itself. Returns label uint8 (1, H, W) and confidence uint8
        (1, H, W), 0..255 = probability of the chosen class; the next call may overwrite them.
        """

    def embed(self, rgb: Tensor, aux: Tensor) -> Scene:
        """Run the scene graph on one pair; the next call may overwrite the result.

        Raises RgbxSegError for a bundle of one graph.
        """

    def set_classes(self, rows: Rows) -> None:
        """Segment from the next call on into the classes of these embeddings, float32 (N, D).

        Row n is label n; `manifest.classes` are those that an engine opens with. Raises
        RgbxSegError, and goes on with those it has, if the rows do not fit the bundle's vocabulary
        or it has none.
        """

    def close(self) -> None:
        """Free the model's memory; the engine cannot be called afterwards."""


@dataclass(frozen=True)
class Model:
    """The form of a bundle that an engine is to run."""

    bundle: Path
    manifest: Manifest
    variant: Variant | None = None  # None: the bundle's own graphs
    precision: str = 'fp32'  # of manifest.PRECISIONS; other than the variant's where the backend
    # lowers it itself

    @property
    def rgb_size(self) -> Size:
        """Return (H, W) of rgb, label and confidence."""
        own = self.variant.rgb_size if self.variant else None
        return own or (self.manifest.height, self.manifest.width)

    @property
    def aux_size(self) -> Size:
        """Return (h, w) of aux."""
        own = self.variant.aux_size if self.variant else None
        return own or (self.manifest.height, self.manifest.width)

    def graphs(self) -> dict[str, Graph]:
        """Return the tensors of the graphs by file name."""
        return graphs(self.manifest, self.variant)

    def path(self, graph: str) -> Path:
        """Return the ONNX file of a graph, or the OpenVINO IR where the variant has that."""
        if self.variant is not None:
            for name in (graph, Path(graph).with_suffix('.xml').name):
                if name in self.variant.files:
                    return self.bundle / self.variant.name / name
        return self.bundle / graph

    def rows(self) -> Rows | None:
        """Return the embeddings of the manifest's classes; None if there is no vocabulary.

        Raises RgbxSegError if the bank cannot be read, or has not what the manifest says.
        """
        from rgbx_seg_ros.vocabulary import choose, load_bank

        vocabulary = self.manifest.vocabulary
        if vocabulary is None:
            return None
        bank = load_bank(self.bundle / BANK_FILE)
        try:
            _, rows = choose(bank, [info.name for info in self.manifest.classes])
            return check_rows(rows, vocabulary)
        except RgbxSegError as error:
            raise RgbxSegError(f'bundle {self.bundle}: {BANK_FILE} does not fit the manifest: '
                               f'{error}') from None

    def info(self, backend: str, version: str, device: str, **more: Any) -> EngineInfo:
        """Return what an engine that runs this model is."""
        return EngineInfo(backend, version, device, self.precision, self.rgb_size, self.aux_size,
                          **more)


@dataclass(frozen=True)
class Options:
    """How an engine is to be opened."""

    rgb_size: Size | None = None  # (H, W) of the camera, if a form of the model for it may be used
    engine_file: Path | None = None  # TensorRT: run this engine and build none
    tell: Callable[[str], None] = lambda sentence: None  # hears of what takes long
    asked_for: bool = True  # the backend was named, not chosen by `auto`


class BackendUnavailable(RgbxSegError):
    """This machine, not the bundle, is why a backend cannot run it; another one may."""


class BackendMissing(BackendUnavailable):
    """The library of a backend is not installed, or the bundle has nothing for it.

    That is a choice and no failure, so nobody needs a warning when `auto` goes on.
    """


Opener = Callable[[Model, Options], Engine]


def _tensorrt(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_tensorrt import open_tensorrt

    return open_tensorrt(model, options, 'tensorrt')


def _tensorrt_rtx(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_tensorrt import open_tensorrt

    return open_tensorrt(model, options, 'tensorrt_rtx')


def _onnxruntime_cuda(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model, cuda=True)


def _openvino(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_openvino import OpenVinoEngine

    return OpenVinoEngine(model)


def _onnxruntime(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(model)


def _torch(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_torch import open_torch

    return open_torch(model, options)


def _dummy(model: Model, options: Options) -> Engine:
    from rgbx_seg_ros.engine_dummy import DummyEngine

    return DummyEngine(model)


# `selection.order` tells which of them `auto` tries; it never takes the dummy.
BACKENDS: dict[str, Opener] = {
    'tensorrt': _tensorrt, 'tensorrt_rtx': _tensorrt_rtx, 'onnxruntime_cuda': _onnxruntime_cuda,
    'openvino': _openvino, 'onnxruntime': _onnxruntime, 'torch': _torch, 'dummy': _dummy}


def open_engine(bundle: Path, backend: str = 'auto', precision: str = 'auto',
                options: Options | None = None) -> tuple[Engine, Manifest]:
    """Return the engine of a bundle and its manifest.

    `auto` takes the first backend, in the order that fits this machine, that works, and the lowest
    precision that agrees with fp32; `info.choice` says what it found.

    Raises:
        RgbxSegError: the bundle is not valid, the backend or precision unknown or not in the
            bundle, or no backend works here.

    """
    from rgbx_seg_ros.selection import open_first

    for name, value, known in (('backend', backend, tuple(BACKENDS)),
                               ('precision', precision, PRECISIONS)):
        if value not in ('auto', *known):
            raise RgbxSegError(f'{name} "{value}" is unknown; expected auto, {", ".join(known)}.')
    manifest = load_bundle(Path(bundle))
    model = Model(Path(bundle), manifest)
    return open_first(model, backend, precision, options or Options()), manifest


class Graph(NamedTuple):
    """The tensors that a graph of a bundle must have: name -> (dtype, shape)."""

    inputs: Found
    outputs: Found
    usual: int = 0  # length of a FREE axis that it is to be fast at; 0: there is none
    most: int = 0  # and up to which it may be

    def sized(self, length: int) -> Graph:
        """Return the graph with this length in place of FREE."""
        own = {name: (dtype, tuple(length if n == FREE else n for n in shape))
               for name, (dtype, shape) in self.inputs.items()}
        return Graph(own, self.outputs)


def graphs(manifest: Manifest, variant: Variant | None = None) -> dict[str, Graph]:
    """Return the graphs of a bundle by file name, as the bundle contract has them."""
    network = (manifest.height, manifest.width)
    rgb_size, aux_size = (own or network for own in (
        (variant.rgb_size, variant.aux_size) if variant else (None, None)))
    images = {'rgb': ('uint8', (1, *rgb_size, 3)),
              'aux': ('uint8', (1, *aux_size, manifest.aux.channels))}
    masks = {name: ('uint8', (1, *rgb_size)) for name in OUTPUTS}
    scene: Found = {}
    classes: Found = {}
    usual = most = 0
    if manifest.scene is not None:
        scene = {name: ('float32', (1, manifest.scene.width)) for name in manifest.scene.tensors}
    if manifest.vocabulary is not None:
        usual, most = len(manifest.classes), manifest.vocabulary.most
        classes = {CLASSES: ('float32', (FREE, manifest.vocabulary.width))}
    found = {MODEL_FILE: Graph({**images, **scene, **classes}, masks, usual, most)}
    return {**found, SCENE_FILE: Graph(images, scene)} if scene else found


def check_tensors(inputs: Found, outputs: Found, expected: Graph) -> None:
    """Raise if a graph's tensors are not those of the bundle contract; see `graphs`."""
    found = {**inputs, **outputs}
    for name, (dtype, shape) in {**expected.inputs, **expected.outputs}.items():
        if name not in found:
            raise RgbxSegError(f'the model has no tensor "{name}" (found {", ".join(found)}); '
                               'export the bundle with `rgbx_export`.')
        if found[name] != (dtype, shape):
            own_dtype, own_shape = found[name]
            raise RgbxSegError(f'tensor "{name}" of the model is {own_dtype} {own_shape}; the '
                               f'manifest expects {dtype} {shape}; export the bundle again.')
    if extra := inputs.keys() - expected.inputs.keys():
        raise RgbxSegError(f'the model has the further input {min(extra)}; expected '
                           f'{" and ".join(expected.inputs)} alone; export the bundle again.')


def check_rows(rows: Rows, vocabulary: Vocabulary | None) -> Rows:
    """Return a C-contiguous copy of embeddings that a bundle's vocabulary allows, else raise."""
    if vocabulary is None:
        raise RgbxSegError('the bundle has no vocabulary, its classes are those it was trained '
                           f'with; expected one with {BANK_FILE}: export it with '
                           'export.open_classes.')
    shape, most = rows.shape, vocabulary.most
    if rows.dtype != np.float32 or len(shape) != 2 or shape[1] != vocabulary.width:
        raise RgbxSegError(f'the embeddings of the classes are {rows.dtype} {shape}; expected '
                           f'float32 (N, {vocabulary.width}): choose them from the bundle\'s own '
                           f'{BANK_FILE}.')
    if not 1 <= shape[0] <= most:
        raise RgbxSegError(f'{shape[0]} classes are asked for; expected 1..{most}, what the bundle '
                           'was exported for: choose fewer, or export it again.')
    bad = np.flatnonzero(~(np.isfinite(rows).all(1) & rows.any(1)))
    if bad.size:
        raise RgbxSegError(f'the embedding of class {bad[0]} is no direction; expected finite '
                           'numbers that are not all 0: make the bank anew.')
    return np.array(rows, order='C')


def no_scene_graph() -> RgbxSegError:
    """Return the error of `Engine.embed` for a bundle of one graph."""
    return RgbxSegError(f'the bundle has no {SCENE_FILE}; expected one of two graphs: export it '
                        'with export.scene_every above 0.')
