# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network as a bundle's graphs: uint8 images in, uint8 labels and confidences out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rgbx_seg_ros.engine import EngineInfo, Scene, no_scene_graph
from rgbx_seg_ros.engine import Tensor as Array
from rgbx_seg_train.preprocess import normalize

LOGITS = 'logits'  # the name that the tensor of the logits keeps inside `model.onnx`


class BundleGraph(nn.Module):
    """What `model.onnx` computes; see "The contract of a bundle" in the design."""

    def __init__(self, merged: nn.Module, zero_aux: bool = False) -> None:
        """Take a model of one modality, `forward(rgb, aux) -> logits (B, N, H, W)`."""
        super().__init__()
        self.merged, self.zero_aux = merged, zero_aux

    def forward(self, rgb: Tensor, aux: Tensor, s_rgb: Tensor | None = None,
                s_aux: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return label and confidence uint8 (1, H, W), and logits (1, N, H, W).

        rgb is uint8 (1, H, W, 3), aux (1, H, W, C); s_rgb and s_aux (1, scene_width) are what
        `SceneGraph` returned, without which a model that wants them embeds the pair itself.
        """
        scene = () if s_rgb is None else (s_rgb, s_aux)
        logits = self.merged(*read_images(rgb, aux, self.zero_aux), *scene)
        best, label = logits.max(1)
        # exp(max - logsumexp) is the softmax of the best class without the others'.
        confidence = torch.exp(best - logits.logsumexp(1))
        # Through float: TensorRT 10.3 casts to uint8 only from floating point.
        label = label.float().to(torch.uint8)
        return label, (confidence * 255.0 + 0.5).to(torch.uint8), logits


class SceneGraph(nn.Module):
    """What `scene.onnx` computes: the embeddings of both images as wholes."""

    def __init__(self, merged: nn.Module, zero_aux: bool = False) -> None:
        """Take a model of one modality with `embed(rgb, aux)`."""
        super().__init__()
        self.merged, self.zero_aux = merged, zero_aux

    def forward(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return s_rgb and s_aux float (1, scene_width) of a pair as `BundleGraph` takes it."""
        s_rgb, s_aux = self.merged.embed(*read_images(rgb, aux, self.zero_aux))
        return s_rgb, s_aux


def read_images(rgb: Tensor, aux: Tensor, zero_aux: bool) -> tuple[Tensor, Tensor]:
    """Return uint8 images as the networks read them, the second camera's blinded if `zero_aux`."""
    rgb, aux = normalize(rgb, aux)
    return rgb, aux * 0.0 if zero_aux else aux


class TorchEngine:
    """The same graphs run by torch, for a checkpoint; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, graph: BundleGraph) -> None:
        """Take the graph, in eval mode."""
        self.graph = graph.eval()
        self._scene = SceneGraph(graph.merged, graph.zero_aux).eval()
        self.info = EngineInfo('torch', str(torch.__version__), 'cpu', 'fp32')

    def __call__(self, rgb: Array, aux: Array, scene: Scene | None = None) -> tuple[Array, Array]:
        """Run one pair of batch size 1."""
        label, confidence, _ = self._run(self.graph, rgb, aux, *(scene or ()))
        return label, confidence

    def embed(self, rgb: Array, aux: Array) -> Scene:
        """Embed one pair of batch size 1; RgbxSegError for a model without such embeddings."""
        if not getattr(self.graph.merged, 'scene_width', 0):
            raise no_scene_graph()
        return Scene(*self._run(self._scene, rgb, aux))

    def logits(self, rgb: Array, aux: Array) -> NDArray[np.float32]:
        """Return the logits (1, N, H, W) that the labels of one pair come from."""
        return self._run(self.graph, rgb, aux)[2]

    @torch.inference_mode()
    def _run(self, module: nn.Module, *arrays: np.ndarray) -> list[np.ndarray]:
        return [t.numpy() for t in module(*(torch.from_numpy(np.array(x)) for x in arrays))]

    def close(self) -> None:
        """Free nothing; torch does when the engine is collected."""
