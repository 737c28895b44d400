# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One training run: how far it is, what it validates and writes, and how it goes on."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.checkpoint import (
    Checkpoint,
    Progress,
    build_model,
    load_checkpoint,
    save_checkpoint,
)
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.check import verify
from rgbx_seg_train.data.loader import Loader
from rgbx_seg_train.data.sample import Batch, Samples
from rgbx_seg_train.data.sources import Mixture, class_frequencies, open_all
from rgbx_seg_train.distributed import (
    make_accelerator,
    of_all_processes,
    random_state,
    set_random_state,
)
from rgbx_seg_train.learner import DIVERGED, Learner, Step
from rgbx_seg_train.losses import Objective, class_weights
from rgbx_seg_train.optimization import Plateau, learning_rate_factor
from rgbx_seg_train.run_log import RunLog
from rgbx_seg_train.validation import validate

LAST, BEST, KEPT = 'last.safetensors', 'best.safetensors', 'step_{}.safetensors'


class Run:
    """A training run as a context manager; `train.train` says in which order its parts happen."""

    def __init__(self, config: Config, resume: bool = False) -> None:
        """Open data, model and what a checkpoint holds; everything wrong shows here."""
        config.check_training()
        self.config, self.settings = config, config.train
        self.folder = Path(config.out) / config.name
        checkpoint = _checkpoint_to_resume(self.folder, config) if resume else None
        self.accelerator = make_accelerator(self.settings)
        model = build_model(config, len(config.data.class_infos))  # wrong options show first
        objective = self._open_data()
        self.learner = Learner(model, objective, config, self.accelerator, checkpoint)
        self._count(checkpoint)
        if not resume and self.accelerator.is_main_process:
            _remove_earlier(self.folder)
        self._log = RunLog(self.folder, config, self.state.step if resume else None,
                           self.accelerator.is_main_process)
        self._loader = Loader(self._mixture, self.settings.batch_size, self.settings,
                              self.accelerator.device)
        self._introduce()
        self._bar = tqdm(total=self.steps, initial=self.state.step, desc=config.name, unit='step',
                         disable=None if self.accelerator.is_main_process else True,
                         smoothing=0.05)

    def _open_data(self) -> Objective:
        """Open all sources; return the loss, whose weights may depend on them."""
        config, data = self.config, self.config.data
        with self.accelerator.main_process_first():  # one renders, or checks, for all
            labeled = open_all(data.train, data)
            unlabeled = open_all(data.unlabeled, data, labeled=False)
            self._validation_sets = open_all(data.validate, data)
            verify([*labeled, *unlabeled, *self._validation_sets], config)
        sources = (*data.train, *data.unlabeled)
        self._mixture = Mixture([*labeled, *unlabeled], [source.weight for source in sources],
                                data, config.augment, self.settings.seed)
        return Objective(data, config.loss, self._class_weights(labeled))

    def _class_weights(self, labeled: Sequence[Samples]) -> Tensor | None:
        if self.config.loss.class_weights == 'none':
            return None
        frequencies = torch.from_numpy(class_frequencies(labeled, self.config.data))
        return class_weights(frequencies, self.config.loss).to(self.accelerator.device)

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
        epoch = len(self._mixture) / self._per_step
        self.steps = settings.steps if settings.epochs is None else max(
            1, round(settings.epochs * epoch))
        self._every = {'log': settings.log_every,
                       'eval': settings.eval_every or max(1, round(epoch)),
                       'save': settings.save_every or max(1, round(epoch))}
        self._began = time.monotonic() - self.state.elapsed_s
        self._limit_s = 60 * settings.max_minutes if settings.max_minutes else math.inf
        self._metrics = dict(checkpoint.metrics) if checkpoint else {}
        self._window = _Window()
        self._waited_s = self._worked_s = 0.0
        self.finished = self._is_finished()

    def _introduce(self) -> None:
        model, name = self.learner.model, self.config.model
        every = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        for note in self.learner.notes:
            self._tell(note)
        self._tell(f'{name.family} {name.preset}: {trained / 1e6:.2f} M parameters trained of '
                   f'{every / 1e6:.2f} M; {len(self._mixture)} samples, {self._per_step} a step, '
                   f'{self.steps * self._per_step / len(self._mixture):.1f} epochs')

    def __enter__(self) -> Run:
        """Return the run itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """Close everything; where nothing failed, after all processes are done."""
        self._bar.close()
        self._loader.close()
        self._log.close()
        self.learner.close()
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
            self._window.waited_s += time.monotonic() - started
            yield batches

    def _is_finished(self) -> bool:
        """Return whether all steps are done, or the time is up in any process.

        Asked once a step, so that all that is due at the end happens after the same one.
        """
        return self.state.step >= self.steps or self.progress >= 1

    @property
    def progress(self) -> float:
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
        """Learn from the batches of a step."""
        started, state = time.monotonic(), self.state
        self._lr = self.settings.lr * self._plateau.factor * learning_rate_factor(
            self.progress, self.settings)
        found = self.learner.step(batches, state.step, self._lr)
        self.state = replace(state, step=state.step + 1, samples=state.samples + self._per_step)
        self._window.add(found, time.monotonic() - started)
        self._bar.update()
        self.finished = self._is_finished()

    def write_log(self) -> None:
        """Write down the means since the last time."""
        window, n = self._window, self._window.steps
        spent_s = window.waited_s + window.worked_s
        # fp16 skips a step whose gradient is no number
        gradient = {'gradient': window.norm / n} if math.isfinite(window.norm) else {}
        terms = {f'loss_{name}': value / n for name, value in window.terms.items()}
        self._log.write(self.state.step, loss=window.loss / n, **terms, lr=self._lr, **gradient,
                        progress=self.progress, elapsed_s=time.monotonic() - self._began,
                        data_ms=1e3 * window.waited_s / n, step_ms=1e3 * window.worked_s / n,
                        images_per_s=n * self._per_step / spent_s,
                        corrupt=len(self._loader.corrupt))
        self._bar.set_postfix(loss=f'{window.loss / n:.3f}',
                              miou=f'{max(self.state.best_miou, 0):.3f}',
                              data=f'{100 * window.waited_s / spent_s:.0f}%')
        self._waited_s += window.waited_s
        self._worked_s += window.worked_s
        self._window = _Window()

    def validate(self) -> None:
        """Score the averaged weights; keep them if they are the best so far."""
        settings, state, learner = self.settings, self.state, self.learner
        with learner.averaged.applied_to(learner.model):
            found = validate(learner.network, self._validation_sets, self.config, self.accelerator)
        if settings.schedule == 'plateau' and self.progress >= settings.warmup:
            self._plateau.update(found.loss, settings)
        summary = found.score.summary()
        self._metrics = {**summary, 'loss': None if math.isnan(found.loss) else found.loss}
        self._log.write(state.step, elapsed_s=time.monotonic() - self._began,
                        val_loss=self._metrics['loss'], val_corrupt=len(found.corrupt), **summary)
        for n, picture in enumerate(found.pictures):
            self._log.picture(state.step, f'validation/{n}', picture)
        for sentence in found.corrupt:
            self._tell(sentence)
        self._tell(f'step {state.step}: {found.score.line()}')
        miou = summary['miou']
        if miou is None or miou >= state.best_miou:
            self.state = replace(state, best_miou=state.best_miou if miou is None else miou)
            self._save(BEST, {'ema': learner.averages()})

    def save(self) -> None:
        """Write all that a resumed run needs to go on to the bit."""
        random = {f'rng/{n}': state for n, state in enumerate(of_all_processes(random_state()))}
        self._save(LAST, {**self.learner.state(), **random})

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
        kept = self.folder / KEPT.format(f'{self.state.step:08d}')
        kept.unlink(missing_ok=True)
        os.link(self.folder / LAST, kept)
        for old in sorted(self.folder.glob(KEPT.format('*')))[:-self.settings.keep_last]:
            old.unlink()

    def tell_result(self) -> None:
        """Say where the result lies, and how much of the time the steps waited for data."""
        spent_s = self._waited_s + self._worked_s
        if spent_s:
            self._tell(f'{self.state.step} steps; waited for data '
                       f'{100 * self._waited_s / spent_s:.1f} % of the time; '
                       f'{len(self._loader.corrupt)} corrupt samples skipped')
        self._tell(f'best checkpoint: {self.folder / BEST}')

    def _tell(self, sentence: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(sentence)


class _Window:
    """What adds up between two lines of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self.loss = self.norm = self.waited_s = self.worked_s = 0.0
        self.terms: Counter[str] = Counter()

    def add(self, found: Step, worked_s: float) -> None:
        """Add a step."""
        self.steps += 1
        self.loss += found.loss
        self.norm += found.norm
        self.terms.update(found.terms)
        self.worked_s += worked_s


def _remove_earlier(folder: Path) -> None:
    """Remove what an earlier run of this name left: it is no checkpoint of the one that starts."""
    for pattern in (LAST, BEST, KEPT.format('*'), DIVERGED):
        for path in folder.glob(pattern):
            path.unlink()


def _checkpoint_to_resume(folder: Path, config: Config) -> Checkpoint:
    checkpoint = load_checkpoint(folder / LAST)
    for part in ('model', 'data'):
        if getattr(checkpoint.config, part) != getattr(config, part):
            raise RgbxSegError(f'{folder / LAST}: its {part} settings differ from those given; '
                               f'resume with {folder / "config.yaml"} or choose another name.')
    return checkpoint
