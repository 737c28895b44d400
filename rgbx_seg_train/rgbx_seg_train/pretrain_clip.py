# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_pretrain_clip CONFIG [key=value …]`: the first stage of SegRGB-X, MA-CLIP alone.

The LoRA of each modality learns to embed both images of a pair near the caption of the scene
(section III-B, equation 1); CLIP itself stays as it is. What it writes is a whole checkpoint of the
segmentation model, which `rgbx_train train.init=…` takes for the second stage. Each step has one
modality. Several processes share one batch: their embeddings are gathered before they are compared.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_train.captions import caption_table
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
from rgbx_seg_train.clip_batches import PairBatch, PairBatches
from rgbx_seg_train.clip_text import load_caption_tower
from rgbx_seg_train.config import Config, TrainConfig
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.config_pretrain import PretrainConfig
from rgbx_seg_train.data.sources import modality_of, open_source
from rgbx_seg_train.models.segrgbx.ma_clip import ModalityClip
from rgbx_seg_train.preprocess import normalize as normalize_images
from rgbx_seg_train.run_log import RunLog

CLIP = 'clip.safetensors'  # in the run's folder: the result, and what --resume goes on from
MAX_WORKERS = 8  # threads that read ahead, if the configuration tells none
LORA = '.lora_'  # in the names of the parameters of the pool
SAME = ('model', 'data', 'augment', 'pretrain')  # settings that a resumed run must share


def pretrain(config: Config, resume: bool = False) -> Path:
    """Train MA-CLIP as the configuration says; return the checkpoint, in `config.out/config.name`.

    Raises:
        RgbxSegError: model, data, captions or settings do not fit, or the loss is not finite.

    """
    settings, path = config.pretrain, Path(config.out) / config.name / CLIP
    check_settings(config)
    checkpoint = _checkpoint_to_resume(path, config) if resume else None
    accelerator = _accelerator(config.train)
    model = build_clip_model(config)
    rank, world = accelerator.process_index, accelerator.num_processes
    with accelerator.main_process_first():  # scenes are rendered once
        sets = [open_source(source, config.data) for source in config.data.train]
    captions = caption_table(config.data.train, sets, settings.captions)
    batches = PairBatches(sets, captions, config, world)
    if checkpoint is not None:
        load_weights(model, checkpoint.group('model'), path)
    elif config.train.init:
        count = initialize(model, Path(config.train.init), config.model.family)
        accelerator.print(f'initialized {count} tensors from {config.train.init}')
    tower = load_caption_tower(settings.text_model, model.clip.config.embed)
    text = tower.embed(captions.texts, accelerator.device)
    accelerator.print(f'{len(captions.texts)} captions, embedded by {tower.origin}')
    trained = choose_trained(model, settings)
    optimizer = torch.optim.AdamW(trained, settings.lr, weight_decay=settings.weight_decay)
    network, optimizer = accelerator.prepare(model.clip, optimizer)
    progress = Progress()
    if checkpoint is not None:
        restore_optimizer(model, optimizer, checkpoint.group('optimizer'))
        progress = checkpoint.progress

    step, began = progress.step, time.monotonic() - progress.elapsed_s
    log = RunLog(path.parent, config, step if resume else None, accelerator.is_main_process)
    bar = tqdm(total=batches.steps, initial=step, desc=config.name, unit='step', smoothing=0.05,
               disable=None if accelerator.is_main_process else True)
    save_every = config.train.save_every or batches.steps_per_epoch
    corrupt: set[str] = set()
    window = _Window()
    model.train()
    workers = config.train.workers or min(os.cpu_count() or 1, MAX_WORKERS)
    for batch in batches.ahead(step, rank, workers):
        window.data_arrived()
        _count_corrupt(corrupt, batch, batches.n_pairs, config, bar)
        lr = settings.lr * learning_rate_factor(step / batches.steps, settings.warmup)
        for group in optimizer.param_groups:
            group['lr'] = lr
        loss, floor = _loss(network, batch, text, settings, accelerator)
        # The gradient of each process has its own share of the batch only, and their mean is taken.
        accelerator.backward(loss * world)
        if config.train.clip_norm:
            accelerator.clip_grad_norm_(trained, config.train.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        window.add(float(loss.detach()), floor)
        bar.update()
        if not math.isfinite(window.loss):
            raise RgbxSegError(f'the loss is {window.loss} in step {step}; expected a number: '
                               'lower pretrain.lr, or train in fp32.')
        if step % config.train.log_every == 0 or step == batches.steps:
            values = window.values()
            log.write(step=step, epoch=step / batches.steps_per_epoch, lr=lr,
                      elapsed_s=time.monotonic() - began, **values)
            bar.set_postfix(loss=f'{values["loss"]:.3f}', least=f'{values["floor"]:.3f}')
            window = _Window()
        if accelerator.is_main_process and (step % save_every == 0 or step == batches.steps):
            save_checkpoint(path, config, len(config.data.class_infos),
                            Progress(step=step, elapsed_s=time.monotonic() - began),
                            {'model': model.state_dict(),
                             'optimizer': optimizer_tensors(model, optimizer)})
    bar.close()
    log.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return path


def contrastive_loss(images: Tensor, texts: Tensor, captions: Tensor,
                     scale: float) -> tuple[Tensor, Tensor]:
    """Return equation 1 for pairs of embeddings (M, D), and the least value it can have.

    CLIP's symmetric cross entropy, with every text of the same caption (M,) as the target, in equal
    parts: in {S^t, S^t} each is there twice, and videos repeat theirs. The pairs of one caption are
    drawn to the same value, never told apart; for captions that differ the sum is CLIP's own.
    """
    logits = scale * normalize(images, dim=1) @ normalize(texts, dim=1).T
    same = (captions[:, None] == captions[None]).to(logits.dtype)
    target = same / same.sum(1, keepdim=True)  # symmetric: all of a caption share their number
    by_image = -(target * log_softmax(logits, 1)).sum(1).mean()
    by_text = -(target * log_softmax(logits, 0)).sum(0).mean()
    return (by_image + by_text) / 2, same.sum(1).log().mean()


def gather_embeddings(own: Tensor, accelerator: Accelerator) -> Tensor:
    """Return the embeddings (P*M, D) of all processes; gradients flow into this one's own."""
    if accelerator.num_processes == 1:
        return own
    everyone = accelerator.gather(own.detach().contiguous())
    first = accelerator.process_index * len(own)
    return torch.cat([everyone[:first], own, everyone[first + len(own):]])


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


def check_settings(config: Config) -> None:
    """Raise RgbxSegError if these settings cannot train an MA-CLIP."""
    family = config.model.family
    if family != 'segrgbx':
        raise RgbxSegError(f'model.family is {family}; expected segrgbx, the only one with an '
                           'MA-CLIP; correct it.')
    if config.train.precision == 'fp16':
        raise RgbxSegError('train.precision is fp16; expected fp32 or bf16; choose one.')
    if config.pretrain.trained == 'lora' and not config.train.init:
        raise RgbxSegError('train.init is empty, and a LoRA adapts a tower that has learned '
                           'before; expected a checkpoint with the weights of a CLIP, such as '
                           '`rgbx_convert segrgbx OUT --pretrained` makes; or set '
                           'pretrain.trained=tower to train all of a new one.')


def build_clip_model(config: Config) -> nn.Module:
    """Return the segmentation model; RgbxSegError if its MA-CLIP cannot learn from these data."""
    model = build_model(config, len(config.data.class_infos))
    if model.clip is None:
        raise RgbxSegError('model.options.clip is null, so there is no MA-CLIP to train; expected '
                           'sizes; remove the option.')
    for source in config.data.train:
        if (modality := modality_of(source, config.data)) not in model.modalities:
            raise RgbxSegError(f'data.train has a source of {modality}; expected one of '
                               f'{", ".join(model.modalities)}, for which the model has a LoRA; '
                               'remove the source or name its modality in model.modalities.')
    return model


def choose_trained(model: nn.Module, settings: PretrainConfig) -> list[nn.Parameter]:
    """Let gradients flow only into what is trained; return that."""
    model.requires_grad_(False)
    clip: ModalityClip = model.clip
    trained = [parameter for name, parameter in clip.named_parameters()
               if settings.trained == 'tower' or LORA in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    return trained


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Return the factor of the learning rate at a progress of 0..1: rising, then half a cosine."""
    if progress < warmup:
        return 0.01 + 0.99 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


class _Window:
    """Means over the steps since the last line of the log."""

    def __init__(self) -> None:
        self.loss = self.floor = self.data_s = 0.0
        self.steps, self.started = 0, time.monotonic()
        self._waiting_since = self.started

    def data_arrived(self) -> None:
        self.data_s += time.monotonic() - self._waiting_since

    def add(self, loss: float, floor: float) -> None:
        self.loss, self.floor, self.steps = self.loss + loss, self.floor + floor, self.steps + 1
        self._waiting_since = time.monotonic()

    def values(self) -> dict[str, float]:
        n, total = self.steps, time.monotonic() - self.started
        return {'loss': self.loss / n, 'floor': self.floor / n, 'data_ms': 1e3 * self.data_s / n,
                'step_ms': 1e3 * total / n}


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


def _accelerator(settings: TrainConfig) -> Accelerator:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    # Only one modality's LoRA takes part in a step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused],
                       mixed_precision=settings.precision.replace('fp32', 'no'))


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
    path = Path(config.out) / config.name / CLIP
    if path.exists() and not args.resume and not args.overwrite:
        raise RgbxSegError(f'{path.parent} holds a run already; give --resume to continue it, '
                           '--overwrite to replace it, or another name=….')
    print(f'checkpoint: {pretrain(config, args.resume)}')


def main() -> int:
    """Run the command `rgbx_pretrain_clip`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
