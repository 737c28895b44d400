# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""CMKD, the language-aided distillation of SARTM: two terms that are minimized while it trains.

Prototypes are the mean fused features of each class in a batch. L_se compares how alike two classes
look with how alike their names are, row by row; L_cr compares the prototypes with their running
mean over batches. The paper's formulas are not fully known: both follow the official code, that
L_se and L_cr are its `kl_loss` and `prototype_loss` is our reading, and so is the order of the
weights. As in the code a class that is not in the batch has a prototype of zeros, which enters
both terms and the running mean. Not as in the code: it views (pixels, channels) as (channels,
pixels) where it means to transpose, so that its means mix both, and divides them by the number of
pixels once more. The batch is that of all processes together.
Without embeddings of the names, each class is alike to itself alone: an identity matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.distributed import sum_within_network


class Distillation(nn.Module):
    """The names' embeddings and the prototypes' running mean; nothing in it learns."""

    def __init__(self, n_classes: int, width: int, text_dim: int, momentum: float) -> None:
        super().__init__()
        if n_classes > text_dim:
            raise RgbxSegError(f'sartm: found {n_classes} classes, expected {text_dim} or fewer, '
                               'as text_dim is; choose a larger text_dim.')
        self.momentum = momentum
        self.register_buffer('text', torch.eye(n_classes, text_dim))
        self.register_buffer('prototypes', torch.zeros(n_classes, width))

    @property
    def knows_names(self) -> bool:
        """Return whether the rows are of a text model."""
        return not torch.equal(self.text, torch.eye(*self.text.shape).to(self.text))

    def forward(self, features: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the two terms of fused features (B, C, h, w) and ids (B, H, W); G moves on."""
        with torch.autocast(features.device.type, enabled=False):
            found = self._prototypes(features.float(), target)
            with torch.no_grad():
                self.prototypes.lerp_(found.detach(), 1 - self.momentum)
            remembered = self.prototypes.softmax(-1)
            return {'prototype': _divergence(remembered, found),
                    'text': _divergence(similarity(self.text).softmax(-1), similarity(found))}

    def _prototypes(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the mean feature of each class, (N, C); zeros for those that do not occur."""
        n_classes, width = self.prototypes.shape
        target = functional.interpolate(target[:, None].float(), features.shape[2:])[:, 0].long()
        known = target != UNLABELED
        hot = functional.one_hot(target.where(known, 0), n_classes) * known[..., None]
        hot = hot.flatten(0, 2).float()  # (B h w, N)
        sums = hot.T @ features.permute(0, 2, 3, 1).reshape(-1, width)
        sums = sum_within_network(torch.cat([sums, hot.sum(0)[:, None]], dim=1))
        return sums[:, :-1] / sums[:, -1:].detach().clamp(min=1)


def similarity(rows: Tensor) -> Tensor:
    """Return the cosines of all pairs of rows; 0 where one of them is zeros."""
    rows = functional.normalize(rows, dim=1)
    return rows @ rows.T


def _divergence(truth: Tensor, logits: Tensor) -> Tensor:
    """Return KL(truth || softmax(logits)) of the last axis, as the mean over all elements."""
    return functional.kl_div(logits.log_softmax(-1), truth, reduction='sum') / truth.numel()
