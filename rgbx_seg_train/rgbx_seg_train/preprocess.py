# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From uint8 images to what the networks read: the same few operations in training and export."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
    """Return rgb (B, 3, H, W), ImageNet-normalized, and aux (B, 3, H, W) in [0, 1].

    rgb is uint8 (B, H, W, 3), aux uint8 (B, H, W, C) with C of 1 or 3; one channel is repeated.
    The cast comes first: TensorRT takes uint8 at the input of a graph, but does not transpose it.
    """
    rgb, aux = rgb.float().permute(0, 3, 1, 2), aux.float().permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values, device=rgb.device).view(1, 3, 1, 1) * 255
                 for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (rgb - mean) / std, (aux / 255).expand(-1, 3, -1, -1)
