# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A checkpoint run by torch: on the processor as the reference, on GPUs that nothing else serves.

Both run the module that `rgbx_export` traces, `BundleGraph`, so they compute what the bundle does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import (
    BackendUnavailable,
    Engine,
    EngineInfo,
    Model,
    Options,
    Rows,
    Scene,
    check_rows,
    no_scene_graph,
)
from rgbx_seg_ros.engine import Tensor as Array
from rgbx_seg_ros.manifest import Manifest, Vocabulary
from rgbx_seg_train.checkpoint import load_model, manifest_of
from rgbx_seg_train.export_graph import BundleGraph, SceneGraph, bundle_graph
from rgbx_seg_train.torch_cuda import VERSION, CudaEngine, closed, free_memory

# What a bundle's manifest and the one that its checkpoint would make must have alike.
COMMON = ('family', 'modality', 'height', 'width', 'aux', 'classes')
LOW = {'fp16': torch.float16, 'bf16': torch.bfloat16}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class TorchEngine:
    """A bundle's graphs run by torch as they stand; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, graph: BundleGraph, info: EngineInfo | None = None,
                 device: str = 'cpu', model: Model | None = None) -> None:
        """Take the graph, which moves to the device; `info` is for the engine of a bundle.

        `model` is the bundle that names the classes of a graph that reads them.
        """
        self._graph: BundleGraph | None = graph.eval().to(device)
        self._scene = SceneGraph(graph.merged, graph.zero_aux).eval()
        self._device = device
        self.info = info or EngineInfo('torch', VERSION, device, 'fp32')
        self._vocabulary = model.manifest.vocabulary if model else None
        self._rows: tuple[Tensor, ...] = ()
        if model is not None and (rows := model.rows()) is not None:
            self.set_classes(rows)

    def __call__(self, rgb: Array, aux: Array, scene: Scene | None = None) -> tuple[Array, Array]:
        """Run one pair of batch size 1."""
        label, confidence, _ = self._run(self.graph, rgb, aux, *(scene or ()), rows=self._rows)
        return label, confidence

    def embed(self, rgb: Array, aux: Array) -> Scene:
        """Embed one pair of batch size 1; RgbxSegError for a model without such embeddings."""
        if not getattr(self.graph.merged, 'scene_width', 0):
            raise no_scene_graph()
        return tuple(self._run(self._scene, rgb, aux))

    def logits(self, rgb: Array, aux: Array) -> NDArray[np.float32]:
        """Return the logits (1, N, H, W) that the labels of one pair come from."""
        return self._run(self.graph, rgb, aux, rows=self._rows)[2]

    def set_classes(self, rows: Rows) -> None:
        """Copy the rows to the device, where they stay."""
        own = check_rows(rows, self._vocabulary)
        if self._graph is None:
            raise closed()
        self._rows = (torch.from_numpy(own).to(self._device),)

    @property
    def graph(self) -> BundleGraph:
        """Return what it runs; RgbxSegError once it is closed."""
        if self._graph is None:
            raise closed()
        return self._graph

    def close(self) -> None:
        """Free the weights, unless another still holds the graph."""
        self._graph = self._scene = None  # type: ignore[assignment]
        free_memory(self._device)

    @torch.inference_mode()
    def _run(self, module: nn.Module, *arrays: np.ndarray,
             rows: tuple[Tensor, ...] = ()) -> list[np.ndarray]:
        inputs = (torch.from_numpy(np.array(array)).to(self._device) for array in arrays)
        return [tensor.cpu().numpy() for tensor in module(*inputs, *rows)]


class Lowered(nn.Module):
    """A merged model that computes in 16 bits; float32 in and out.

    In fp32 stay the norms with their statistics, the preparation of the images and what is made of
    the logits; softmax and products of 16 bits add up in fp32 on GPUs as well as on processors.
    """

    def __init__(self, merged: nn.Module, dtype: torch.dtype) -> None:
        """Take the model and convert it in place."""
        super().__init__()
        self.merged, self.dtype = merged, dtype
        self.scene_width = getattr(merged, 'scene_width', 0)
        for module in merged.modules():
            if isinstance(module, NORMS):
                module.register_forward_pre_hook(lambda _, inputs: tuple(map(_float, inputs)))
                module.register_forward_hook(lambda _, inputs, output: output.to(dtype))
                continue
            for own in (module._parameters, module._buffers):
                for tensor in own.values():
                    if tensor is not None and tensor.is_floating_point():
                        tensor.data = tensor.data.to(dtype)

    def forward(self, *inputs: Tensor, **more: Tensor) -> Tensor:
        """Return the logits of images, of a scene if one is given, and of the rows of classes."""
        return self.merged(*(tensor.to(self.dtype) for tensor in inputs),
                           **{name: tensor.to(self.dtype) for name, tensor in more.items()}
                           ).float()

    def embed(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, ...]:
        """Return the embeddings of a pair."""
        return tuple(map(_float, self.merged.embed(rgb.to(self.dtype), aux.to(self.dtype))))


def _float(tensor: Tensor) -> Tensor:
    return tensor.float()


def load_graph(checkpoint: Path, vocabulary: Vocabulary | None = None
               ) -> tuple[BundleGraph, Manifest]:
    """Return the graph of a checkpoint and the manifest that its bundle would have.

    With a `vocabulary` the graph reads the rows of its classes.

    Raises:
        RgbxSegError: the checkpoint is broken, or has not what its configuration exports.

    """
    model, loaded = load_model(checkpoint)
    manifest = replace(manifest_of(loaded), vocabulary=vocabulary)
    try:
        return bundle_graph(model, loaded.config, manifest, loaded.n_classes), manifest
    except RgbxSegError as error:
        raise RgbxSegError(f'{checkpoint}: {error}') from None


def open_eager(checkpoint: Path) -> tuple[Engine, Manifest]:
    """Return the engine of a checkpoint as one runs it in PyTorch, and its bundle's manifest.

    In float32, uncompiled, on the GPU if torch finds one: what other engines are compared with.
    """
    graph, manifest = load_graph(checkpoint)
    return TorchEngine(graph, device='cuda' if torch.cuda.is_available() else 'cpu'), manifest


def open_checkpoint(checkpoint: Path, model: Model, options: Options | None = None) -> Engine:
    """Return the engine of a bundle's checkpoint: on the GPU, or on a machine without on the CPU.

    Raises:
        BackendUnavailable: this machine cannot run it.
        RgbxSegError: the checkpoint is broken or not the bundle's, or torch lacks the precision.

    """
    options = options or Options()
    if model.precision not in ('fp32', *LOW):
        raise RgbxSegError(f'torch runs no {model.precision}; expected one of fp32, '
                           f'{", ".join(LOW)}.')
    if model.rgb_size != (model.manifest.height, model.manifest.width):
        raise RgbxSegError('torch runs a model at its own size alone; expected '
                           f'{model.manifest.width}x{model.manifest.height}: leave the resizing '
                           'outside.')
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or options.asked_for):
        raise BackendUnavailable(f'torch {VERSION} finds no CUDA device; install a torch that is '
                                 'built for the GPU of this machine.')
    graph, manifest = load_graph(checkpoint, model.manifest.vocabulary)
    for name in COMMON:
        found, expected = getattr(manifest, name), getattr(model.manifest, name)
        if found != expected:
            raise RgbxSegError(f'{checkpoint}: its {name} is {_short(found)}, but that of the '
                               f'bundle is {_short(expected)}; expected the checkpoint that the '
                               'bundle was made of: export it again with export.checkpoint=true.')
    if model.precision in LOW:
        graph.merged = Lowered(graph.merged, LOW[model.precision])
    if on_gpu:
        return CudaEngine(graph, model, options)
    return TorchEngine(graph, model.info('torch', VERSION, 'cpu'), model=model)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f'{text[:60]}…'
