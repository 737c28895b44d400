# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What every inference backend offers, and the table that opens one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import Manifest, load_bundle

Tensor = NDArray[np.uint8]
INPUTS = ('rgb', 'aux')
OUTPUTS = ('label', 'confidence')


@dataclass(frozen=True)
class EngineInfo:
    """Which library runs the model, its version, where, and in which precision."""

    backend: str
    version: str
    device: str
    precision: str


class Engine(Protocol):
    """A loaded model. One thread owns it: open, call and close it from the same one."""

    info: EngineInfo

    def __call__(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Run one pair: rgb uint8 (1, H, W, 3) and aux uint8 (1, H, W, C), C-contiguous.

        Returns label uint8 (1, H, W) and confidence uint8 (1, H, W), 0..255 = probability of the
        chosen class; they may be overwritten by the next call.
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


def check_tensors(found: dict[str, tuple[str, tuple[object, ...]]], manifest: Manifest) -> None:
    """Raise if a model's tensors, name -> (dtype, shape), are not those of the bundle contract."""
    size = (1, manifest.height, manifest.width)
    expected = {'rgb': (*size, 3), 'aux': (*size, manifest.aux.channels),
                'label': size, 'confidence': size}
    for name in (*INPUTS, *OUTPUTS):
        if name not in found:
            raise RgbxSegError(f'the model has no tensor "{name}" (found {", ".join(found)}); '
                               'export the bundle with `rgbx_export`.')
        if found[name] != ('uint8', expected[name]):
            dtype, shape = found[name]
            raise RgbxSegError(f'tensor "{name}" of the model is {dtype} {shape}; the manifest '
                               f'expects uint8 {expected[name]}; export the bundle again.')
