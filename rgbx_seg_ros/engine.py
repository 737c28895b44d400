# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every inference backend offers, and the table that opens one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE, Manifest, load_bundle

Tensor = NDArray[np.uint8]
INPUTS = ('rgb', 'aux')
OUTPUTS = ('label', 'confidence')
EMBEDDINGS = ('s_rgb', 's_aux')  # outputs of scene.onnx, and then inputs of model.onnx too
Found = Mapping[str, tuple[str, tuple[object, ...]]]  # name of a tensor -> dtype, shape


@dataclass(frozen=True)
class EngineInfo:
    """Which library runs the model, its version, where, and in which precision."""

    backend: str
    version: str
    device: str
    precision: str


class Scene(NamedTuple):
    """What the two images of a pair say of the scene as a whole, each float32 (1, width)."""

    s_rgb: NDArray[np.float32]
    s_aux: NDArray[np.float32]


class Engine(Protocol):
    """A loaded model. One thread owns it: open, call and close it from the same one."""

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

    def close(self) -> None:
        """Free the model's memory; the engine cannot be called afterwards."""


def _onnxruntime(bundle: Path, manifest: Manifest) -> Engine:
    from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, manifest)


def _dummy(bundle: Path, manifest: Manifest) -> Engine:
    from rgbx_seg_ros.engine_dummy import DummyEngine

    return DummyEngine(bundle, manifest)


# In the order in which `auto` tries them; it never takes the dummy.
BACKENDS: dict[str, Callable[[Path, Manifest], Engine]] = {
    'onnxruntime': _onnxruntime, 'dummy': _dummy}


def open_engine(bundle: Path, backend: str = 'auto') -> tuple[Engine, Manifest]:
    """Return the engine of a bundle and its manifest; `auto` takes the first backend that works.

    Raises:
        RgbxSegError: the bundle is not valid, the backend unknown, or no backend works here.

    """
    if backend != 'auto' and backend not in BACKENDS:
        raise RgbxSegError(f'backend "{backend}" is unknown; expected auto, '
                           f'{", ".join(BACKENDS)}.')
    manifest = load_bundle(Path(bundle))
    reasons = []
    real = [name for name in BACKENDS if name != 'dummy']
    for name in real if backend == 'auto' else (backend,):
        try:
            return BACKENDS[name](Path(bundle), manifest), manifest
        except RgbxSegError as error:
            if backend != 'auto':
                raise
            reasons.append(f'{name}: {error}')
    raise RgbxSegError('no backend works on this machine: ' + ' '.join(reasons))


class Graph(NamedTuple):
    """The tensors that a graph of a bundle must have: name -> (dtype, shape)."""

    inputs: Found
    outputs: Found


def graphs(manifest: Manifest) -> dict[str, Graph]:
    """Return the graphs of a bundle by file name, as the bundle contract has them."""
    size = (1, manifest.height, manifest.width)
    images = {'rgb': ('uint8', (*size, 3)), 'aux': ('uint8', (*size, manifest.aux.channels))}
    masks = {name: ('uint8', size) for name in OUTPUTS}
    if manifest.scene is None:
        return {MODEL_FILE: Graph(images, masks)}
    scene = {name: ('float32', (1, manifest.scene.width)) for name in EMBEDDINGS}
    return {MODEL_FILE: Graph({**images, **scene}, masks), SCENE_FILE: Graph(images, scene)}


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


def no_scene_graph() -> RgbxSegError:
    """Return the error of `Engine.embed` for a bundle of one graph."""
    return RgbxSegError(f'the bundle has no {SCENE_FILE}; expected one of two graphs: export it '
                        'with export.scene_every above 0.')
