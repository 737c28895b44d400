# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The network as a bundle's graphs: uint8 images in, uint8 labels and confidences out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rgbx_seg_train.onnx_passes import LOGITS as LOGITS
from rgbx_seg_train.preprocess import normalize


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
