# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Exponentially averaged weights: worth several points where training is short."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rgbx_seg_train.distributed import like, part_here


class AveragedWeights:
    """A running average of a model's float tensors; with decay 0 simply the model's own."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start at the model's present weights."""
        self.decay = decay
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
        self._real = [name for name, t in self.tensors.items() if t.is_floating_point()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model's weights; at first faster, to forget the random start."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.decay else 0.0
        state = model.state_dict()
        torch._foreach_lerp_([part_here(self.tensors[n]) for n in self._real],
                             [part_here(state[n].detach()) for n in self._real], 1 - decay)
        for name in self.tensors.keys() - set(self._real):
            self.tensors[name].copy_(state[name])

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from saved averages."""
        for name, tensor in tensors.items():
            self.tensors[name].copy_(like(tensor, self.tensors[name]))

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Let the model have the averaged weights within a `with` block."""
        own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(self.tensors)
        try:
            yield
        finally:
            model.load_state_dict(own)
