# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What training minimizes.

SegRGB-X, Eq. 8: L = CE(X, Y) + CE(remap(X), remap(Y)). The first cross entropy is over the union of
all data sets' classes, the second over the classes of the sample's own data set alone, where
remap() chooses its channels. Where the network has the data set's own classes both are the same,
and one is computed.

Each term is a sum over pixels, divided by the weight of all labeled pixels of the step: of all
batches that are accumulated and of all processes. So the loss of a step does not depend on how its
samples are dealt out.

By the criterion `binary` each class is asked by itself against all others, as networks do whose
classes are told by text: the number of the others then says nothing of a pixel, so that they may
be exchanged. What such logits stand for is `probabilities`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_train.config import DataConfig, LossConfig
from rgbx_seg_train.data.labels import channels
from rgbx_seg_train.distributed import sum_of_processes

BACKGROUND_OF_UNION = 25  # MFNet's "unlabeled", which covers what other data sets name


class Objective:
    """The loss of a network with the classes of `data`."""

    def __init__(self, data: DataConfig, config: LossConfig, weights: Tensor | None = None) -> None:
        """Take the weights of the classes (N,), or None for equal ones."""
        self.config, self.weights = config, weights
        self._classes = data.classes
        self._ignored = (BACKGROUND_OF_UNION if config.ignore_background_union
                         and data.classes == 'union70' else None)

    def target(self, label: Tensor, phase: int = 0) -> Tensor:
        """Return the ids int64 (B, H/stride, W/stride) that the loss looks at, of uint8 (B, H, W).

        Logits lie in the middle of `stride` pixels; taking each of them in turn is fair to all.
        """
        stride = self.config.stride
        phase %= stride
        return label[:, phase::stride, phase::stride].long()

    def weight(self, target: Tensor, classes: Sequence[str]) -> Tensor:
        """Return the weights (2,), float64, of the pixels that the two terms sum over."""
        return torch.stack([self._weight(t) for t in self._terms(target, classes)])

    def __call__(self, logits: Tensor, target: Tensor, classes: Sequence[str],
                 weight: Tensor) -> Tensor:
        """Return the share of these samples in the loss of a step.

        logits: (B, N, H, W); target: (B, H, W) of `target`; classes: the class set of each sample;
        weight: (2,), the sum of `weight` over the step.
        """
        first, _ = self._terms(target, classes)
        total = self._share(logits, first, self.weights, weight[0])
        if self.config.own_term:
            for name in sorted(set(classes) - {self._classes}):
                rows = [i for i, own in enumerate(classes) if own == name]
                there = [c for c in channels(name, self._classes) if c != UNLABELED]
                own = _inverse(there, target.device)[target[rows]]
                weights = None if self.weights is None else self.weights[there]
                total = total + self.config.own_term * self._share(
                    logits[rows][:, there], own, weights, weight[1])
        return total

    def of_batch(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return what no sum over pixels can say: the Dice term of this batch, or 0."""
        if not self.config.dice:
            return logits.new_zeros(())
        return self.config.dice * dice_loss(logits, target, self.config.criterion)

    def _terms(self, target: Tensor, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return what each term looks at: ids of the union, 255 where a term has nothing."""
        first = target
        if self._ignored is not None:
            first = target.masked_fill(target == self._ignored, UNLABELED)
        other = torch.tensor([own != self._classes for own in classes], device=target.device)
        return first, target.masked_fill(~other[:, None, None], UNLABELED)

    def _weight(self, target: Tensor) -> Tensor:
        known = target != UNLABELED
        if self.weights is None:
            return known.sum().double()
        return self.weights[target.where(known, 0)].where(known, 0.0).sum().double()

    def _share(self, logits: Tensor, target: Tensor, weights: Tensor | None,
               weight: Tensor) -> Tensor:
        total = summed(logits.float(), target, self.config.criterion, weights)
        return total / weight.clamp(min=1).to(total.dtype)  # without labels: 0, not NaN


def probabilities(logits: Tensor, criterion: str) -> Tensor:
    """Return what logits (B, N, …) that were trained by a criterion stand for, in 0..1.

    `cross_entropy`: softmax, N of which add up to 1; `binary`: sigmoid, each class by itself.
    """
    return logits.sigmoid() if criterion == 'binary' else logits.softmax(1)


def summed(logits: Tensor, target: Tensor, criterion: str, weights: Tensor | None = None) -> Tensor:
    """Return the loss of logits (B, N, H, W), summed over the labeled pixels of ids (B, H, W)."""
    return _CRITERIA[criterion](logits, target, weights)


def _cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    return F.cross_entropy(logits, target, weights, ignore_index=UNLABELED, reduction='sum')


def _binary(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the sum over labeled pixels of the mean over classes of their binary cross entropy."""
    known = target != UNLABELED
    ids = target.where(known, 0)
    # softplus(x) - x * truth, without a second array of the size of the logits for the truth
    pixels = (F.softplus(logits).sum(1) - logits.gather(1, ids[:, None])[:, 0]) / logits.shape[1]
    scale = known.to(logits.dtype) if weights is None else weights[ids] * known
    return (pixels * scale).sum()


_CRITERIA = {'cross_entropy': _cross_entropy, 'binary': _binary}


def _inverse(there: Sequence[int], device: torch.device) -> Tensor:
    """Return the table (256,) from ids of the network to the places in `there`, else 255."""
    table = torch.full((256,), UNLABELED, device=device)
    table[list(there)] = torch.arange(len(there), device=device)
    return table


def dice_loss(logits: Tensor, target: Tensor, criterion: str = 'cross_entropy') -> Tensor:
    """Return 1 - mean soft Dice over the classes, without id 0, that occur in the batch.

    The batch is that of all processes together.
    """
    known = target != UNLABELED
    found = probabilities(logits.float(), criterion) * known[:, None]  # (B, N, H, W)
    truth = F.one_hot(target.where(known, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    axes = (0, 2, 3)
    hit, guessed, true = sum_of_processes(torch.stack([
        (found * truth).sum(axes), found.sum(axes), truth.sum(axes).float()]))
    occurs = true > 0
    occurs[0] = False
    if not occurs.any():
        return logits.sum() * 0.0
    return 1 - (2 * hit / (guessed + true).clamp(min=1e-6))[occurs].mean()


def class_weights(frequencies: Tensor, config: LossConfig) -> Tensor:
    """Return weights for the cross entropy from the classes' shares of pixels, unless `none`."""
    return WEIGHTINGS[config.class_weights](frequencies, config.max_weight)


def _inverse_sqrt(frequencies: Tensor, highest: float) -> Tensor:
    """Weight by 1/sqrt(share), from 1 for the most frequent class to `highest`."""
    ratio = frequencies.max() / frequencies.clamp(min=1e-9)
    return torch.sqrt(ratio).clamp(max=highest).float()


WEIGHTINGS = {'inverse_sqrt': _inverse_sqrt}
