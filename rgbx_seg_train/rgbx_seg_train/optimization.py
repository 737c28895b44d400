# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The optimizer, and the learning rate as a function of how far a run is."""

from __future__ import annotations

import math
import re
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
    """Return the optimizer of what is trained; norms, biases and other vectors do not decay.

    Each group has the `factor` by which its learning rate differs from that of the run.

    Raises:
        RgbxSegError: nothing is trained, or a pattern of `lr_factors` names nothing that is.

    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    unused = set(settings.lr_factors)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            pattern = next((p for p in settings.lr_factors if re.fullmatch(p, name)), None)
            unused.discard(pattern)
            factor = 1.0 if pattern is None else float(settings.lr_factors[pattern])
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    if unused:
        raise RgbxSegError(f'train.lr_factors: {min(unused)!r} matches no parameter that is '
                           'trained; expected a pattern of whole names; correct it or leave it '
                           'out.')
    if not groups:
        raise RgbxSegError('the model has no weights that are trained; expected some; check '
                           'model.options for what is frozen.')
    rows = [{'params': parameters, 'factor': factor,
             'weight_decay': settings.weight_decay if decays else 0.0}
            for (factor, decays), parameters in sorted(groups.items(), reverse=True,
                                                       key=lambda item: item[0])]
    return OPTIMIZERS[settings.optimizer](rows, settings.lr, settings.betas, fused=True)
