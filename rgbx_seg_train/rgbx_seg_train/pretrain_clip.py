# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_pretrain_clip CONFIG [key=value …]`: the first stage of SegRGB-X, MA-CLIP alone.

The LoRA of each modality learns to embed both images of a pair near the caption of the scene
(section III-B, equation 1); CLIP itself stays as it is. What it writes is a whole checkpoint of the
segmentation model, which `rgbx_train train.init=…` takes for the second stage. Each step has one
modality, and labels are not read. Several processes share one batch: their embeddings are gathered
before they are compared.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.captions import CaptionTable, caption_table
from rgbx_seg_train.checkpoint import (
    Checkpoint,
    Progress,
    initialize,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from rgbx_seg_train.clip_batches import PairBatch, PairBatches
from rgbx_seg_train.clip_loss import contrastive_loss, gather_embeddings
from rgbx_seg_train.clip_start import build_clip_model, check_settings, choose_trained
from rgbx_seg_train.clip_text import load_caption_tower
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.config_pretrain import CLIP, PretrainConfig
from rgbx_seg_train.data.sources import open_all
from rgbx_seg_train.distributed import make_accelerator
from rgbx_seg_train.preprocess import normalize as normalize_images
from rgbx_seg_train.run import BEST, LAST
from rgbx_seg_train.run_log import RunLog

MAX_WORKERS = 8  # threads that read ahead, if the configuration tells none
SAME = ('model', 'data', 'augment', 'pretrain')  # settings that a resumed run must share


def pretrain(config: Config, resume: bool = False) -> Path:
    """Train MA-CLIP as the configuration says; return the checkpoint, in `config.out/config.name`.

    Raises:
        RgbxSegError: model, data, captions or settings do not fit, or the loss is not finite.

    """
    run = _Pretraining(config, resume)
    for batch in run.arriving():
        run.learn(batch)
        if run.is_time_to(config.train.log_every):
            run.write_log()
        if run.is_time_to(config.train.save_every or run.batches.steps_per_epoch):
            run.save()
    run.close()
    return run.path


class _Pretraining:
    """One run: what it opens, what it does in a step, and what it writes."""

    def __init__(self, config: Config, resume: bool) -> None:
        check_settings(config)
        self.config, self.path = config, Path(config.out) / config.name / CLIP
        checkpoint = _checkpoint_to_resume(self.path, config) if resume else None
        self.accelerator = make_accelerator(config.train)
        self._model = build_clip_model(config)
        captions = self._open_data()
        self._load(checkpoint)
        tower = load_caption_tower(config.pretrain.text_model, self._model.clip.config.embed)
        self._text = tower.embed(captions.texts, self.accelerator.device)
        self.accelerator.print(f'{len(captions.texts)} captions, embedded by {tower.origin}')
        if not resume and self.accelerator.is_main_process:
            self.path.unlink(missing_ok=True)  # no checkpoint of the run that starts
        self._log = RunLog(self.path.parent, config, self.step if resume else None,
                           self.accelerator.is_main_process)
        self._bar = tqdm(total=self.batches.steps, initial=self.step, desc=config.name,
                         unit='step', smoothing=0.05,
                         disable=None if self.accelerator.is_main_process else True)
        self._corrupt: set[str] = set()
        self._window = _Window()
        self._model.train()

    def _open_data(self) -> CaptionTable:
        config = self.config
        with self.accelerator.main_process_first():  # scenes are rendered once
            sets = open_all(config.data.train, config.data, labeled=False)
        captions = caption_table(config.data.train, sets, config.pretrain.captions)
        self.batches = PairBatches(sets, captions, config, self.accelerator.num_processes)
        self.workers = config.train.workers or min(os.cpu_count() or 1, MAX_WORKERS)
        return captions

    def _load(self, checkpoint: Checkpoint | None) -> None:
        """Give the model its weights, and hand it to the accelerator with its optimizer."""
        config, settings, model = self.config, self.config.pretrain, self._model
        if checkpoint is not None:
            load_weights(model, checkpoint.group('model'), self.path)
        elif config.train.init:
            count = initialize(model, Path(config.train.init), config.model.family)
            self.accelerator.print(f'initialized {count} tensors from {config.train.init}')
        self._trained = choose_trained(model, settings)
        optimizer = torch.optim.AdamW(self._trained, settings.lr,
                                      weight_decay=settings.weight_decay)
        self._network, self._optimizer = self.accelerator.prepare(model.clip, optimizer)
        progress = Progress()
        if checkpoint is not None:
            restore_optimizer(model, self._optimizer, checkpoint.group('optimizer'))
            progress = checkpoint.progress
        self.step, self._began = progress.step, time.monotonic() - progress.elapsed_s

    def arriving(self) -> Iterator[PairBatch]:
        """Yield what this process learns from in each step that is left."""
        ahead = self.batches.ahead(self.step, self.accelerator.process_index, self.workers)
        with contextlib.closing(ahead):
            while self.step < self.batches.steps:
                started = time.monotonic()
                batch = next(ahead)
                self._window.waited_s += time.monotonic() - started
                yield batch

    def is_time_to(self, every: int) -> bool:
        """Return whether what happens at every so many steps, and at the end, is due."""
        return self.step % every == 0 or self.step == self.batches.steps

    def learn(self, batch: PairBatch) -> None:
        """Learn from one batch, which all processes share."""
        config, settings, started = self.config, self.config.pretrain, time.monotonic()
        _count_corrupt(self._corrupt, batch, self.batches.n_pairs, config, self._bar)
        self._lr = settings.lr * learning_rate_factor(self.step / self.batches.steps,
                                                      settings.warmup)
        for group in self._optimizer.param_groups:
            group['lr'] = self._lr
        loss, floor = _loss(self._network, batch, self._text, settings, self.accelerator)
        # The gradient of each process has its own share of the batch only, and their mean is taken.
        self.accelerator.backward(loss * self.accelerator.num_processes)
        if config.train.clip_norm:
            self.accelerator.clip_grad_norm_(self._trained, config.train.clip_norm)
        if not math.isfinite(value := float(loss.detach())):
            raise RgbxSegError(f'the loss is {value} in step {self.step + 1}; expected a '
                               'number: lower pretrain.lr, or train in fp32.')
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._window.add(value, floor, time.monotonic() - started)
        self._bar.update()

    def write_log(self) -> None:
        """Write down the means since the last time."""
        values = self._window.values()
        self._log.write(step=self.step, epoch=self.step / self.batches.steps_per_epoch,
                        lr=self._lr, elapsed_s=time.monotonic() - self._began, **values)
        self._bar.set_postfix(loss=f'{values["loss"]:.3f}', least=f'{values["floor"]:.3f}')
        self._window = _Window()

    def save(self) -> None:
        """Write the checkpoint, which is the result as well."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.path, self.config, len(self.config.data.class_infos),
                            Progress(step=self.step, elapsed_s=time.monotonic() - self._began),
                            {'model': self._model.state_dict(),
                             'optimizer': optimizer_tensors(self._model, self._optimizer)})

    def close(self) -> None:
        """End what was opened, after all processes are done."""
        self._bar.close()
        self._log.close()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()


def _loss(network: nn.Module, batch: PairBatch, text: Tensor, settings: PretrainConfig,
          accelerator: Accelerator) -> tuple[Tensor, float]:
    device = accelerator.device
    images = normalize_images(*(torch.from_numpy(image).to(device)
                                for image in (batch.rgb, batch.aux)))
    s_rgb, s_aux = network(*images, [batch.modality] * len(batch.rgb))
    embeddings = gather_embeddings(torch.cat([s_rgb, s_aux]).float(), accelerator)
    captions = torch.from_numpy(np.tile(batch.captions, 2)).to(device)
    if accelerator.num_processes > 1:
        captions = accelerator.gather(captions)
    loss, floor = contrastive_loss(embeddings, text[captions], captions, settings.logit_scale)
    return loss, float(floor)


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Return the factor of the learning rate at a progress of 0..1: rising, then half a cosine."""
    if progress < warmup:
        return 0.01 + 0.99 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class _Window:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self.loss = self.floor = self.waited_s = self.worked_s = 0.0

    def add(self, loss: float, floor: float, worked_s: float) -> None:
        self.loss, self.floor, self.steps = self.loss + loss, self.floor + floor, self.steps + 1
        self.worked_s += worked_s

    def values(self) -> dict[str, float]:
        n = self.steps
        return {'loss': self.loss / n, 'floor': self.floor / n, 'data_ms': 1e3 * self.waited_s / n,
                'step_ms': 1e3 * self.worked_s / n}


def _count_corrupt(known: set[str], batch: PairBatch, n_pairs: int, config: Config,
                   bar: tqdm) -> None:
    for sentence in batch.corrupt:
        if sentence not in known:
            known.add(sentence)
            bar.write(f'skipped: {sentence}')
    if len(known) > config.train.max_corrupt * n_pairs:
        raise RgbxSegError(f'{len(known)} of {n_pairs} pairs cannot be read, more than '
                           f'train.max_corrupt ({config.train.max_corrupt:g}) allows; replace '
                           'them or raise it.')


def _checkpoint_to_resume(path: Path, config: Config) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    for part in SAME:
        if getattr(checkpoint.config, part) != getattr(config, part):
            raise RgbxSegError(f'{path}: its {part} settings differ from those given; resume with '
                               f'{path.parent / "config.yaml"} or choose another name.')
    return checkpoint


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_pretrain_clip',
                       description="Train SegRGB-X's MA-CLIP, before the rest is trained.")
    parser.add_argument('config', type=Path, help='a file such as configs/segrgbx_clip.yaml')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings that win over the file, such as pretrain.epochs=10')
    parser.add_argument('--resume', action='store_true', help='continue the run of this name')
    parser.add_argument('--overwrite', action='store_true', help='replace the run of this name')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    config = load_config(args.config, args.overrides)
    folder = Path(config.out) / config.name
    found = [name for name in (CLIP, LAST, BEST) if (folder / name).exists()]
    if found and not args.resume and not args.overwrite:
        raise RgbxSegError(f'{folder} holds a run already ({found[0]}); give --resume to continue '
                           'it, --overwrite to replace it, or another name=….')
    print(f'checkpoint: {pretrain(config, args.resume)}')


def main() -> int:
    """Run the command `rgbx_pretrain_clip`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
