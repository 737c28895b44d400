# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One training run: what it opens, what it does in a step, and what it leaves behind."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.averaging import AveragedWeights
from rgbx_seg_train.checkpoint import (
    Checkpoint,
    Progress,
    build_model,
    initialize,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.loader import Loader
from rgbx_seg_train.data.sample import Batch, Samples
from rgbx_seg_train.data.sources import Mixture, class_frequencies, open_all
from rgbx_seg_train.distill import Teacher
from rgbx_seg_train.distributed import (
    make_accelerator,
    of_all_processes,
    random_state,
    set_random_state,
    synchronize_norms,
    total_of_processes,
    whole,
)
from rgbx_seg_train.losses import Objective, class_weights
from rgbx_seg_train.optimization import Plateau, learning_rate_factor, make_optimizer
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.run_log import RunLog
from rgbx_seg_train.validation import validate

LAST, BEST = 'last.safetensors', 'best.safetensors'
DIVERGED = 'not_finite.npz'


class _Sets(NamedTuple):
    train: list[Samples]  # with those without labels at the end
    labeled: list[Samples]
    validate: list[Samples]


class Run:
    """A training run as a context manager; `train.train` says in which order its parts happen."""

    def __init__(self, config: Config, resume: bool = False) -> None:
        """Open data, model and what a checkpoint holds; everything wrong shows here."""
        self.config, self.settings = config, config.train
        self.folder = Path(config.out) / config.name
        checkpoint = _checkpoint_to_resume(self.folder, config) if resume else None
        self.accelerator = make_accelerator(self.settings)
        self._model = build_model(config, len(config.data.class_infos))  # wrong options show first
        sets = self._open_sets()
        self._validation_sets = sets.validate
        sources = (*config.data.train, *config.data.unlabeled)
        self._mixture = Mixture(sets.train, [source.weight for source in sources], config.data,
                                config.augment, self.settings.seed)
        self._objective = self._make_objective(sets.labeled)
        self._prepare(checkpoint)
        self._count(checkpoint)
        self._log = RunLog(self.folder, config, self.state.step if resume else None,
                           self.accelerator.is_main_process)
        self._open_tools()

    def _open_sets(self) -> _Sets:
        data = self.config.data
        with self.accelerator.main_process_first():  # one renders, or checks, for all
            labeled = open_all(data.train, data)
            unlabeled = open_all(data.unlabeled, data, labeled=False)
            validate = open_all(data.validate, data)
        return _Sets([*labeled, *unlabeled], labeled, validate)

    def _make_objective(self, sets: Sequence[Samples]) -> Objective:
        config, weights = self.config, None
        if config.loss.class_weights != 'none':
            frequencies = torch.from_numpy(class_frequencies(sets, config.data))
            weights = class_weights(frequencies, config.loss).to(self.accelerator.device)
        return Objective(config.data, config.loss, weights)

    def _prepare(self, checkpoint: Checkpoint | None) -> None:
        """Give the model its weights and hand it to the accelerator, with its optimizer."""
        settings, model = self.settings, self._model
        if settings.gradient_checkpointing:
            model.set_gradient_checkpointing(True)
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        if checkpoint is not None:
            load_weights(model, checkpoint.group('model'), self.folder / LAST)
        else:
            self._initialize(model)
        synchronize_norms(model)
        optimizer = make_optimizer(model, settings)
        self._network, self._optimizer = self.accelerator.prepare(model, optimizer)
        self._model = self.accelerator.unwrap_model(self._network)
        if settings.compile:
            self._network.compile()  # in place, so that no name changes
        self._averaged = AveragedWeights(self._model, settings.ema)
        if checkpoint is not None:
            restore_optimizer(self._model, self._optimizer.optimizer,
                              checkpoint.group('optimizer'))
            self._averaged.load(checkpoint.group('ema'))
        self._network.train()

    def _initialize(self, model: nn.Module) -> None:
        settings = self.settings
        if settings.init:
            count = initialize(model, Path(settings.init))
            self._tell(f'initialized {count} tensors from {settings.init}')
        if settings.class_embeddings:
            from rgbx_seg_train.text import load_class_embeddings  # of no use to most families

            if not hasattr(model, 'set_classes'):
                raise RgbxSegError(f'train.class_embeddings is {settings.class_embeddings}, but '
                                   f'the family {self.config.model.family} reads no text; leave '
                                   'it out.')
            model.set_classes(load_class_embeddings(Path(settings.class_embeddings),
                                                    self.config.data.class_infos))

    def _count(self, checkpoint: Checkpoint | None) -> None:
        """Set how far the run is, and how far it goes."""
        settings, accelerator = self.settings, self.accelerator
        self.state = checkpoint.progress if checkpoint else Progress()
        self._plateau = Plateau(**self.state.plateau)
        if checkpoint is not None:
            set_random_state(checkpoint.group(f'rng/{accelerator.process_index}'))
            if accelerator.scaler is not None and self.state.scaler:
                accelerator.scaler.load_state_dict(dict(self.state.scaler))
        elif accelerator.process_index:  # each process drops other units
            torch.manual_seed(settings.seed + accelerator.process_index)
        self._per_step = settings.batch_size * settings.accumulate * accelerator.num_processes
        epoch = max(1, round(len(self._mixture) / self._per_step))
        self.steps = settings.steps if settings.epochs is None else max(
            1, round(settings.epochs * len(self._mixture) / self._per_step))
        self._every = {'log': settings.log_every, 'eval': settings.eval_every or epoch,
                       'save': settings.save_every or epoch}
        self._began = time.monotonic() - self.state.elapsed_s
        self._limit_s = 60 * settings.max_minutes if settings.max_minutes else math.inf
        self._metrics = dict(checkpoint.metrics) if checkpoint else {}

    def _open_tools(self) -> None:
        config, accelerator = self.config, self.accelerator
        main = accelerator.is_main_process
        self._teacher = None
        if config.distill.teacher:
            self._teacher = Teacher(config, self._model, accelerator.device)
        self._loader = Loader(self._mixture, self.settings.batch_size, self.settings,
                              accelerator.device)
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        self._tell(f'{config.model.family} {config.model.preset}: {trained / 1e6:.2f} M parameters '
                   f'trained of {sum(p.numel() for p in self._model.parameters()) / 1e6:.2f} M; '
                   f'{len(self._mixture)} samples, {self._per_step} a step, '
                   f'{self.steps * self._per_step / len(self._mixture):.1f} epochs')
        self._bar = tqdm(total=self.steps, initial=self.state.step, desc=config.name, unit='step',
                         disable=None if main else True, smoothing=0.05)
        self._window = {'steps': 0, 'loss': 0.0, 'data_s': 0.0, 'step_s': 0.0, 'norm': 0.0}
        self._step_s = self._data_s = 0.0

    def __enter__(self) -> Run:
        """Return the run itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close everything, and stop the other processes where one failed."""
        self._bar.close()
        self._loader.close()
        self._log.close()
        if self._teacher is not None:
            self._teacher.close()
        if kind is None:
            self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def batches(self) -> Iterator[list[Batch]]:
        """Yield what this process learns from in each step."""
        settings, accelerator = self.settings, self.accelerator
        first = self.state.samples + accelerator.process_index * settings.batch_size
        stream = self._loader.batches(first, settings.batch_size * accelerator.num_processes)
        while not self.finished:
            started = time.monotonic()
            batches = [next(stream) for _ in range(settings.accumulate)]
            self._window['data_s'] += time.monotonic() - started
            yield batches

    @property
    def finished(self) -> bool:
        """Return whether all steps are done, or the time is up in any process."""
        return self.state.step >= self.steps or self._progress >= 1

    @property
    def _progress(self) -> float:
        """Return how far the run is, 0..1; time counts only where it is limited."""
        done = self.state.step / self.steps
        if math.isinf(self._limit_s):
            return done
        elapsed = (time.monotonic() - self._began) / self._limit_s
        return max(done, max(of_all_processes(elapsed)))

    def is_time_to(self, what: str) -> bool:
        """Return whether `log`, `eval` or `save` is due after this step."""
        return self.state.step % self._every[what] == 0 or (what != 'log' and self.finished)

    def step(self, batches: Sequence[Batch]) -> None:
        """Learn from the batches as if they were one."""
        started = time.monotonic()
        self._lr = self.settings.lr * self._plateau.factor * learning_rate_factor(
            self._progress, self.settings)
        for group in self._optimizer.param_groups:
            group['lr'] = self._lr
        labels = [self._move(batch.label) for batch in batches]
        targets = [self._objective.target(label, self.state.step) for label in labels]
        weight = total_of_processes(torch.stack([
            self._objective.weight(target, batch.classes)
            for target, batch in zip(targets, batches, strict=True)]).sum(0))
        total = torch.zeros((), device=self.accelerator.device)
        for n, (batch, target) in enumerate(zip(batches, targets, strict=True), 1):
            last = n == len(batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._network):
                total += self._learn(batch, target, weight)
        self._check_finite(total, batches)
        norm = self._update()
        self._advance(float(total), norm, started)

    def _learn(self, batch: Batch, target: Tensor, weight: Tensor) -> Tensor:
        """Add the gradients of one batch; return its share of the loss of the step."""
        processes, parts = self.accelerator.num_processes, self.settings.accumulate
        with self.accelerator.autocast():
            rgb, aux = self._images(batch)
            logits = self._network(rgb, aux, list(batch.modality),
                                   stride=self.config.loss.stride)
        # Gradients are averaged over processes, but the first of these is a share of a sum.
        loss = processes * self._objective(logits, target, batch.classes, weight)
        loss = loss + self._objective.of_batch(logits, target) / parts
        if self._teacher is not None:
            with self.accelerator.autocast():
                loss = loss + self._teacher.loss(logits, rgb, aux, batch) / parts
        self.accelerator.backward(loss)
        return loss.detach()

    def _images(self, batch: Batch) -> tuple[Tensor, ...]:
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        return tuple(image.contiguous(memory_format=layout) for image in
                     normalize(self._move(batch.rgb), self._move(batch.aux)))

    def _move(self, array: np.ndarray | Tensor) -> Tensor:
        return torch.as_tensor(array).to(self.accelerator.device, non_blocking=True)

    def _check_finite(self, total: Tensor, batches: Sequence[Batch]) -> None:
        """Stop before a loss that is no number spoils the weights; keep what made it."""
        own = bool(torch.isfinite(total))
        total.copy_(total_of_processes(total) / self.accelerator.num_processes)
        if torch.isfinite(total):
            return
        step, path = self.state.step + 1, self.folder / DIVERGED
        if not own:
            save_batches(path, step, batches)
        raise RgbxSegError(f'the loss is {float(total)} in step {step}; expected a number: see '
                           f'the batch in {path}, lower train.lr, or train in fp32.')

    def _update(self) -> float:
        """Move the weights; return the length of the gradient, NaN where it is not measured."""
        norm = math.nan
        if self.settings.clip_norm:
            norm = float(whole(self.accelerator.clip_grad_norm_(self._network.parameters(),
                                                                self.settings.clip_norm)))
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._averaged.update(self._model, self.state.step)
        return norm

    def _advance(self, loss: float, norm: float, started: float) -> None:
        state, window = self.state, self._window
        self.state = replace(state, step=state.step + 1, samples=state.samples + self._per_step)
        window['steps'] += 1
        window['loss'] += loss
        window['norm'] += norm
        window['step_s'] += time.monotonic() - started
        self._bar.update()

    def write_log(self) -> None:
        """Write down the means since the last time."""
        window, n = self._window, self._window['steps']
        loss, data_s, step_s = (window[name] for name in ('loss', 'data_s', 'step_s'))
        values = {} if math.isnan(window['norm']) else {'gradient': window['norm'] / n}
        self._log.write(self.state.step, loss=loss / n, lr=self._lr, progress=self._progress,
                        elapsed_s=time.monotonic() - self._began, data_ms=1e3 * data_s / n,
                        step_ms=1e3 * step_s / n, corrupt=len(self._loader.corrupt),
                        images_per_s=n * self._per_step / (data_s + step_s), **values)
        self._bar.set_postfix(loss=f'{loss / n:.3f}', miou=f'{max(self.state.best_miou, 0):.3f}',
                              waits=f'{100 * data_s / (data_s + step_s):.0f}%')
        self._data_s += data_s
        self._step_s += step_s
        self._window = dict.fromkeys(window, 0)

    def validate(self) -> None:
        """Score the averaged weights; keep them if they are the best so far."""
        settings, state = self.settings, self.state
        with self._averaged.applied_to(self._model):
            found = validate(self._network, self._validation_sets, self.config, self.accelerator)
        if settings.schedule == 'plateau' and self._progress >= settings.warmup:
            self._plateau.update(found.loss, settings)
        summary = found.score.summary()
        self._metrics = {'step': state.step, **summary,
                         'loss': None if math.isnan(found.loss) else found.loss}
        self._log.write(state.step, elapsed_s=time.monotonic() - self._began,
                        val_loss=self._metrics['loss'], **summary)
        for n, picture in enumerate(found.pictures):
            self._log.picture(state.step, f'validation/{n}', picture)
        for sentence in found.corrupt:
            self._tell(sentence)
        self._bar.write(f'step {state.step}: {found.score.line()}')
        miou = summary['miou']
        if miou is None or miou >= state.best_miou:
            self.state = replace(state, best_miou=state.best_miou if miou is None else miou)
            self._save(BEST, {'ema': {n: whole(t) for n, t in self._averaged.tensors.items()}})

    def save(self) -> None:
        """Write all that a resumed run needs to go on to the bit."""
        model = self._model
        groups = {
            'model': {name: whole(tensor) for name, tensor in model.state_dict().items()},
            'ema': {name: whole(tensor) for name, tensor in self._averaged.tensors.items()},
            'optimizer': optimizer_tensors(model, self._optimizer.optimizer),
            **{f'rng/{n}': state for n, state in enumerate(of_all_processes(random_state()))},
        }
        self._save(LAST, groups)

    def _save(self, name: str, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Let one process write a checkpoint, and remove those that need not be kept."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.state = replace(self.state, elapsed_s=time.monotonic() - self._began,
                             plateau=asdict(self._plateau),
                             scaler=scaler.state_dict() if scaler is not None else {})
        save_checkpoint(self.folder / name, self.config, len(self.config.data.class_infos),
                        self.state, groups, self._metrics)
        if name != LAST or self.settings.keep_last == 1:
            return
        kept = self.folder / f'step_{self.state.step:08d}.safetensors'
        kept.unlink(missing_ok=True)
        os.link(self.folder / LAST, kept)
        for old in sorted(self.folder.glob('step_*.safetensors'))[:-self.settings.keep_last]:
            old.unlink()

    def tell_result(self) -> None:
        """Say where the result lies, and how much of the time the steps waited for data."""
        whole_s = self._data_s + self._step_s
        if whole_s:
            steps = self.state.step
            self._tell(f'{steps} steps; data {100 * self._data_s / whole_s:.1f} % of the time; '
                       f'{len(self._loader.corrupt)} corrupt samples skipped')
        self._tell(f'best checkpoint: {self.folder / BEST}')

    def _tell(self, sentence: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(sentence)


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


def _checkpoint_to_resume(folder: Path, config: Config) -> Checkpoint:
    checkpoint = load_checkpoint(folder / LAST)
    for part in ('model', 'data'):
        if getattr(checkpoint.config, part) != getattr(config, part):
            raise RgbxSegError(f'{folder / LAST}: its {part} settings differ from those given; '
                               f'resume with {folder / "config.yaml"} or choose another name.')
    return checkpoint
