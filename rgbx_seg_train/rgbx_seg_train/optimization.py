# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The optimizer, and the learning rate as a function of how far a run is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import TrainConfig

# shape of the learning rate after the warm-up: t in 0..1 -> factor
SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    'poly': lambda t, config: (1 - t) ** config.poly_power,
    'cosine': lambda t, config: 0.5 * (1 + math.cos(math.pi * t)),
    'one_cycle': lambda t, config: 0.5 * (1 + math.cos(math.pi * t)) * (1 - 1e-4) + 1e-4,
    'constant': lambda t, config: 1.0,
    'plateau': lambda t, config: 1.0,  # times Plateau.factor
}
OPTIMIZERS = {'adamw': torch.optim.AdamW, 'adam': torch.optim.Adam}


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Return the factor 0..1 of the learning rate at a progress of 0..1 through the run."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return config.warmup_ratio + (1 - config.warmup_ratio) * progress / config.warmup
    return SCHEDULES[config.schedule]((progress - config.warmup) / (1 - config.warmup), config)


@dataclass
class Plateau:
    """A factor of the learning rate that falls when the validation loss no longer does.

    As `torch.optim.lr_scheduler.ReduceLROnPlateau` with its relative threshold of 1e-4.
    """

    factor: float = 1.0
    best: float = math.inf
    bad: int = 0  # validations without gain

    def update(self, loss: float, config: TrainConfig) -> None:
        """Take the loss of a validation; NaN counts as no gain."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad > config.plateau_patience:
            self.factor, self.bad = self.factor * config.plateau_factor, 0


def make_optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of what is trained; norms, biases and other vectors do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise RgbxSegError('the model has no weights that are trained; expected some; check '
                           'model.options for what is frozen.')
    groups = [{'params': [p for p in trained if p.ndim > 1]},
              {'params': [p for p in trained if p.ndim <= 1], 'weight_decay': 0.0}]
    groups = [group for group in groups if group['params']]
    return OPTIMIZERS[settings.optimizer](groups, settings.lr, fused=True,
                                          weight_decay=settings.weight_decay)
