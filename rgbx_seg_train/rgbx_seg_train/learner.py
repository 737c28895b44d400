# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What learns in a run: the network with its optimizer, its loss and perhaps its teacher."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.averaging import AveragedWeights
from rgbx_seg_train.checkpoint import (
    Checkpoint,
    initialize,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
)
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.sample import Batch
from rgbx_seg_train.distill import Teacher
from rgbx_seg_train.distributed import (
    is_sharded,
    of_all_processes,
    synchronize_norms,
    total_of_processes,
    whole,
)
from rgbx_seg_train.losses import Objective
from rgbx_seg_train.models.family import Outputs
from rgbx_seg_train.optimization import make_optimizer
from rgbx_seg_train.preprocess import normalize

DIVERGED = 'not_finite.npz'


class Step(NamedTuple):
    """What a step came to."""

    loss: float
    norm: float  # length of the gradient before it is clipped
    # the further losses of family and teacher by name, before they are weighted
    terms: dict[str, float]


class Learner:
    """A network that learns from batches; `network` is to be called, `model` holds the weights."""

    def __init__(self, model: nn.Module, objective: Objective, config: Config,
                 accelerator: Accelerator, checkpoint: Checkpoint | None = None) -> None:
        """Give the model its weights and hand it to the accelerator, with its optimizer."""
        self.config, self.settings = config, config.train
        self._accelerator, self._objective = accelerator, objective
        # FSDP cuts weights along their rows, which must lie one behind the other
        last = config.train.channels_last and not is_sharded(accelerator)
        self._layout = torch.channels_last if last else torch.contiguous_format
        if config.train.gradient_checkpointing:
            model.set_gradient_checkpointing(True)
        model = model.to(memory_format=self._layout)
        folder = Path(config.out) / config.name
        if checkpoint is not None:
            load_weights(model, checkpoint.group('model'), folder)
        else:
            self.notes = _initialize(model, config)
        synchronize_norms(model)
        optimizer = make_optimizer(model, config.train)
        self.network, self._optimizer = accelerator.prepare(model, optimizer)
        self.model = accelerator.unwrap_model(self.network)
        if config.train.compile:
            self.network.compile()  # in place, so that no name changes
        self.averaged = AveragedWeights(self.model, config.train.ema)
        if checkpoint is not None:
            self.notes = []
            restore_optimizer(self.model, self._optimizer.optimizer, checkpoint.group('optimizer'))
            self.averaged.load(checkpoint.group('ema'))
        self.network.train()
        self._teacher = (Teacher(config, self.model, accelerator.device, objective.weights)
                         if config.distill.teacher else None)
        if self._teacher is not None:
            self.notes.append(f'taught by {config.distill.teacher} '
                              f'(sha256 {self._teacher.sha256[:12]})')

    def close(self) -> None:
        """Let the teacher go."""
        if self._teacher is not None:
            self._teacher.close()

    def step(self, batches: Sequence[Batch], number: int, lr: float) -> Step:
        """Learn from the batches of all processes as if they were one, in step `number`.

        Raises:
            RgbxSegError: the loss, or its gradient, is no longer finite; the weights are as before.

        """
        for group in self._optimizer.param_groups:
            group['lr'] = lr * group['factor']
        labels = [self._move(batch.label) for batch in batches]
        targets = [self._objective.target(label, number) for label in labels]
        weight = total_of_processes(torch.stack([
            self._objective.weight(target, batch.classes)
            for target, batch in zip(targets, batches, strict=True)]).sum(0))
        total = torch.zeros((), device=self._accelerator.device)
        self._terms: dict[str, Tensor] = {}
        for n, (batch, target) in enumerate(zip(batches, targets, strict=True), 1):
            last = n == len(batches)
            with contextlib.nullcontext() if last else self._accelerator.no_sync(self.network):
                total += self._learn(batch, target, weight)
        loss = self._finite(total, batches, number)
        norm = self._update(batches, number)
        self.averaged.update(self.model, number)
        terms = {name: float(total_of_processes(value)) / self._accelerator.num_processes
                 for name, value in self._terms.items()}
        return Step(loss, norm, terms)

    def _learn(self, batch: Batch, target: Tensor, weight: Tensor) -> Tensor:
        """Add the gradients of one batch; return its share of the loss of the step."""
        parts = self.settings.accumulate
        with self._accelerator.autocast():
            rgb, aux = (image.contiguous(memory_format=self._layout) for image in
                        normalize(self._move(batch.rgb), self._move(batch.aux)))
            logits, auxiliary, terms = self._ask(rgb, aux, batch, target)
        loss = self._of_labels(logits, target, batch, weight)
        further = {name: self._of_labels(other, target, batch, weight)
                   for name, other in auxiliary.items()}
        further |= {name: term / parts for name, term in terms.items()}
        for name, term in further.items():
            loss = loss + self.model.loss_weights[name] * term
        if self._teacher is not None:
            with self._accelerator.autocast():
                taught = {name: term / parts for name, term in
                          self._teacher.terms(logits, rgb, aux, batch).items()}
            loss = loss + self._teacher.weigh(taught)
            further |= taught
        for name, term in further.items():
            self._terms[name] = self._terms.get(name, 0.0) + term.detach()
        self._accelerator.backward(loss)
        return loss.detach()

    def _ask(self, rgb: Tensor, aux: Tensor, batch: Batch, target: Tensor) -> Outputs:
        """Return what the network says of a batch, and what else it wants to be minimized."""
        names, stride = list(batch.modality), self.config.loss.stride
        if getattr(self.model, 'sees_target', False):
            return self.network(rgb, aux, names, stride=stride, target=target)
        return Outputs(self.network(rgb, aux, names, stride=stride), {}, {})

    def _of_labels(self, logits: Tensor, target: Tensor, batch: Batch, weight: Tensor) -> Tensor:
        """Return this batch's share of the loss of the labels in a step."""
        # Gradients are averaged over processes, but the first of these is a share of a sum.
        loss = self._accelerator.num_processes * self._objective(
            logits, target, batch.classes, weight)
        return loss + self._objective.of_batch(logits, target) / self.settings.accumulate

    def _move(self, array: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(array).to(self._accelerator.device, non_blocking=True)

    def _finite(self, total: Tensor, batches: Sequence[Batch], number: int) -> float:
        """Return the loss of all processes; stop before one that is no number spoils the weights.

        A process whose own share is none keeps the batches that made it.
        """
        own = math.isfinite(float(total))
        loss = float(total_of_processes(total)) / self._accelerator.num_processes
        if not math.isfinite(loss):
            raise self._diverged('loss', loss, number, [] if own else batches)
        return loss

    def _update(self, batches: Sequence[Batch], number: int) -> float:
        """Move the weights; return the length of the gradient.

        The gradients were summed over processes already, so the batches of all are kept where they
        are no number. A scaler (fp16) leaves out such a step by itself.
        """
        norm = float(whole(self._accelerator.clip_grad_norm_(
            self.network.parameters(), self.settings.clip_norm or math.inf)))
        if not math.isfinite(norm) and self._accelerator.scaler is None:
            every = [batch for own in of_all_processes(list(batches)) for batch in own]
            raise self._diverged('gradient', norm, number,
                                 every if self._accelerator.is_main_process else [])
        self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def _diverged(self, what: str, value: float, number: int,
                  batches: Sequence[Batch]) -> RgbxSegError:
        """Keep the batches that made no number, if any; return what to raise."""
        path = Path(self.config.out) / self.config.name / DIVERGED
        if batches:
            save_batches(path, number + 1, batches)
        return RgbxSegError(f'the {what} is {value} in step {number + 1}; expected a number: see '
                            f'the batch in {path}, lower train.lr, or train in fp32.')

    def averages(self) -> dict[str, Tensor]:
        """Return the averaged weights; all processes must ask."""
        return {name: whole(tensor) for name, tensor in self.averaged.tensors.items()}

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return all tensors that a resumed run needs; all processes must ask."""
        return {
            'model': {name: whole(t) for name, t in self.model.state_dict().items()},
            'ema': self.averages(),
            'optimizer': optimizer_tensors(self.model, self._optimizer.optimizer),
        }


def _initialize(model: nn.Module, config: Config) -> list[str]:
    """Load the weights that a run starts from; return what to tell of it."""
    settings, notes = config.train, []
    if settings.init:
        count = initialize(model, Path(settings.init), config.model.family)
        notes.append(f'initialized {count} tensors from {settings.init}')
    classes, names = config.data.class_infos, hasattr(model, 'read_classes')
    if settings.class_embeddings and (names or not hasattr(model, 'set_classes')):
        does = 'has a text model of its own' if names else 'reads no text'
        raise RgbxSegError(f'train.class_embeddings is {settings.class_embeddings}, but the '
                           f'family {config.model.family} {does}; leave it out.')
    if names:  # after `init`, whose classes may be others
        from rgbx_seg_train.prompts import class_texts  # of no use to most families

        texts = class_texts(classes, config.text) if getattr(model, 'reads_texts', False) else ()
        model.read_classes([info.name for info in classes], texts)
    if settings.class_embeddings:
        from rgbx_seg_train.text import load_class_embeddings  # of no use to most families

        model.set_classes(load_class_embeddings(Path(settings.class_embeddings), classes))
    return notes + (model.remarks() if hasattr(model, 'remarks') else [])


def save_batches(path: Path, step: int, batches: Sequence[Batch]) -> None:
    """Write the batches of one step as arrays that `numpy.load` reads."""
    arrays = {name: np.concatenate([np.asarray(getattr(batch, name)) for batch in batches])
              for name in ('rgb', 'aux', 'label', 'modality', 'classes', 'names')}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    try:
        with temporary.open('wb') as file:
            np.savez_compressed(file, step=step, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
