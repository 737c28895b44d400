# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What training minimizes.

Eq. 8 of SegRGB-X adds the cross entropy over the union of all datasets' classes and the one over
the classes of the sample's own dataset. With one dataset both are the same, so one is computed
here; joint training will add the second beside `cross_entropy`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.config import LossConfig


def segmentation_loss(logits: Tensor, target: Tensor, config: LossConfig,
                      class_weights: Tensor | None = None) -> Tensor:
    """Return the loss of logits (B, N, H, W) for target ids (B, H, W), int64, 255 ignored."""
    loss = F.cross_entropy(logits, target, class_weights, ignore_index=UNLABELED, reduction='sum')
    known = target != UNLABELED
    if class_weights is None:
        weight = known.sum()
    else:
        weight = class_weights[target.where(known, 0)].where(known, 0.0).sum()
    loss = loss / weight.clamp(min=1)  # a batch without labels is worth 0, not NaN
    return loss + config.dice * dice_loss(logits, target) if config.dice else loss


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return 1 - mean soft Dice over the classes, without id 0, that occur in the batch."""
    known = target != UNLABELED
    probabilities = logits.softmax(1) * known[:, None]  # (B, N, H, W)
    truth = F.one_hot(target.where(known, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    hit = (probabilities * truth).sum((0, 2, 3))
    total = probabilities.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    occurs = truth.sum((0, 2, 3)) > 0
    occurs[0] = False
    if not occurs.any():
        return logits.sum() * 0.0
    return 1 - (2 * hit / total.clamp(min=1e-6))[occurs].mean()


def class_weights(frequencies: Tensor, config: LossConfig) -> Tensor | None:
    """Return weights for the cross entropy from the classes' shares of pixels, or None."""
    return WEIGHTINGS[config.class_weights](frequencies, config.max_weight)


def _inverse_sqrt(frequencies: Tensor, highest: float) -> Tensor:
    """Weight by 1/sqrt(share), from 1 for the most frequent class to `highest`."""
    ratio = frequencies.max() / frequencies.clamp(min=1e-9)
    return torch.sqrt(ratio).clamp(max=highest).float()


WEIGHTINGS = {'none': lambda frequencies, highest: None, 'inverse_sqrt': _inverse_sqrt}
