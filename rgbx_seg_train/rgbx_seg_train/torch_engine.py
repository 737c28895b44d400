# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint run by torch: on the processor as the reference, on GPUs that nothing else serves.

Both run the module that `rgbx_export` traces, `BundleGraph`, so they compute what the bundle does.
"""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import Engine, EngineInfo, Model, Options, Scene, no_scene_graph
from rgbx_seg_ros.engine import Tensor as Array
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_train.checkpoint import load_model, manifest_of
from rgbx_seg_train.config import Config
from rgbx_seg_train.export_graph import BundleGraph, SceneGraph

# What a bundle's manifest and the one that its checkpoint would make must have alike.
COMMON = ('family', 'modality', 'height', 'width', 'aux', 'classes')


class TorchEngine:
    """A bundle's graphs run by torch on the processor; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, graph: BundleGraph, info: EngineInfo | None = None) -> None:
        """Take the graph; `info` is for the engine of a bundle."""
        self._graph: BundleGraph | None = graph.eval()
        self._scene = SceneGraph(graph.merged, graph.zero_aux).eval()
        self.info = info or EngineInfo('torch', str(torch.__version__), 'cpu', 'fp32')

    def __call__(self, rgb: Array, aux: Array, scene: Scene | None = None) -> tuple[Array, Array]:
        """Run one pair of batch size 1."""
        label, confidence, _ = _run(self.graph, rgb, aux, *(scene or ()))
        return label, confidence

    def embed(self, rgb: Array, aux: Array) -> Scene:
        """Embed one pair of batch size 1; RgbxSegError for a model without such embeddings."""
        if not getattr(self.graph.merged, 'scene_width', 0):
            raise no_scene_graph()
        return Scene(*_run(self._scene, rgb, aux))

    def logits(self, rgb: Array, aux: Array) -> NDArray[np.float32]:
        """Return the logits (1, N, H, W) that the labels of one pair come from."""
        return _run(self.graph, rgb, aux)[2]

    @property
    def graph(self) -> BundleGraph:
        """Return what it runs; RgbxSegError once it is closed."""
        if self._graph is None:
            raise RgbxSegError('the engine is closed; open it again.')
        return self._graph

    def close(self) -> None:
        """Free the weights, unless another still holds the graph."""
        self._graph = None
        del self._scene
        gc.collect()


@torch.inference_mode()
def _run(module: nn.Module, *arrays: np.ndarray) -> list[np.ndarray]:
    return [t.numpy() for t in module(*(torch.from_numpy(np.array(x)) for x in arrays))]


def load_graph(checkpoint: Path) -> tuple[BundleGraph, Manifest, Config]:
    """Return the graph of a checkpoint, the manifest its bundle would have, and its settings."""
    model, loaded = load_model(checkpoint)
    manifest = manifest_of(loaded)
    return (BundleGraph(model.merge(manifest.modality), loaded.config.data.zero_aux), manifest,
            loaded.config)


def open_checkpoint(checkpoint: Path, model: Model, options: Options | None = None) -> Engine:
    """Return the engine of a bundle's checkpoint, on the GPU if torch finds one.

    Raises:
        BackendUnavailable: this machine cannot run it.
        RgbxSegError: the checkpoint is broken, or not the bundle's.

    """
    graph, manifest, _ = load_graph(checkpoint)
    for name in COMMON:
        found, expected = getattr(manifest, name), getattr(model.manifest, name)
        if found != expected:
            raise RgbxSegError(f'{checkpoint}: its {name} is {_short(found)}, but that of the '
                               f'bundle is {_short(expected)}; expected the checkpoint that the '
                               'bundle was made of: export it again with export.checkpoint=true.')
    return TorchEngine(graph, model.info('torch', str(torch.__version__), 'cpu'))


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f'{text[:60]}…'
