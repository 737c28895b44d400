# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network as a bundle's graph: uint8 images in, uint8 labels and confidences out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rgbx_seg_ros.engine import EngineInfo
from rgbx_seg_ros.engine import Tensor as Array
from rgbx_seg_train.preprocess import normalize


class BundleGraph(nn.Module):
    """What `model.onnx` computes; see "The contract of a bundle" in the design."""

    def __init__(self, merged: nn.Module, zero_aux: bool = False) -> None:
        """Take a model of one modality, `forward(rgb, aux) -> logits (B, N, H, W)`."""
        super().__init__()
        self.merged, self.zero_aux = merged, zero_aux

    def forward(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
        """Return label and confidence uint8 (1, H, W) of rgb (1, H, W, 3), aux (1, H, W, C)."""
        rgb, aux = normalize(rgb, aux)
        logits = self.merged(rgb, aux * 0.0 if self.zero_aux else aux)
        best, label = logits.max(1)
        # exp(max - logsumexp) is the softmax of the best class without the others'.
        confidence = torch.exp(best - logits.logsumexp(1))
        # Through float: TensorRT 10.3 casts to uint8 only from floating point.
        return label.float().to(torch.uint8), (confidence * 255.0 + 0.5).to(torch.uint8)


class TorchEngine:
    """The same graph run by torch: the engine of a checkpoint; see `rgbx_seg_ros.engine.Engine`."""

    def __init__(self, graph: BundleGraph) -> None:
        """Take the graph, in eval mode."""
        self.graph = graph.eval()
        self.info = EngineInfo('torch', str(torch.__version__), 'cpu', 'fp32')

    @torch.inference_mode()
    def __call__(self, rgb: Array, aux: Array) -> tuple[Array, Array]:
        """Run one pair of batch size 1."""
        label, confidence = self.graph(*(torch.from_numpy(np.array(x)) for x in (rgb, aux)))
        return label.numpy(), confidence.numpy()

    def close(self) -> None:
        """Free nothing; torch does when the engine is collected."""
