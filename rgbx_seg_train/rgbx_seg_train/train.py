# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_train CONFIG [key=value …]`: trains a model; read `train` from top to bottom.

How many processes and devices take part is a choice of `accelerate launch`, not of this code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from torch import Tensor, nn
from tqdm import tqdm

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.segmenter import resize_to
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
from rgbx_seg_train.config import Config, TrainConfig
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.data.sample import Image, Sample, Samples
from rgbx_seg_train.data.sources import (
    Mixture,
    class_frequencies,
    open_source,
    stack,
)
from rgbx_seg_train.losses import class_weights, segmentation_loss
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.run_log import RunLog
from rgbx_seg_train.score import Score, summarize

LAST, BEST = 'last.safetensors', 'best.safetensors'
EVAL_BATCH = 8

# shape of the learning rate after the warm-up: t in 0..1 -> factor
SCHEDULES: dict[str, Callable[[float, TrainConfig], float]] = {
    'poly': lambda t, config: (1 - t) ** config.poly_power,
    'cosine': lambda t, config: 0.5 * (1 + math.cos(math.pi * t)),
    'constant': lambda t, config: 1.0,
    'plateau': lambda t, config: 1.0,
    'one_cycle': lambda t, config: 0.5 * (1 + math.cos(math.pi * t)) * (1 - 1e-4) + 1e-4,
}


def train(config: Config, resume: bool = False) -> Path:
    """Train as the configuration says; return the best checkpoint, in `config.out`/`config.name`.

    Raises:
        RgbxSegError: data, checkpoint or settings do not fit, or the loss is no longer finite.

    """
    settings, data = config.train, config.data
    folder = Path(config.out) / config.name
    checkpoint = _checkpoint_to_resume(folder, config) if resume else None
    accelerator = _accelerator(settings)
    classes = data.class_infos
    model = build_model(config, len(classes))  # first: a wrong option shows before the data load

    train_sets = [open_source(source, data) for source in data.train]
    validation_sets = [open_source(source, data) for source in data.validate]
    mixture = Mixture(train_sets, [source.weight for source in data.train], data, config.augment,
                      settings.seed)
    frequencies = torch.from_numpy(class_frequencies(train_sets, data))
    weights = class_weights(frequencies, config.loss)
    weights = weights if weights is None else weights.to(accelerator.device)

    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.init and checkpoint is None:
        accelerator.print(f'initialized {initialize(model, Path(settings.init))} tensors from '
                          f'{settings.init}')
    optimizer = _optimizer(model, settings)
    progress = Progress()
    if checkpoint is not None:
        load_weights(model, checkpoint.group('model'), folder / LAST)
    network, optimizer = accelerator.prepare(model, optimizer)
    averaged = AveragedWeights(model, settings.ema)
    if checkpoint is not None:
        restore_optimizer(model, optimizer, checkpoint.group('optimizer'))
        averaged.load(checkpoint.group('ema'))
        torch.set_rng_state(checkpoint.tensors['rng/torch'])
        progress = checkpoint.progress

    global_batch = settings.batch_size * accelerator.num_processes
    offset = settings.batch_size * accelerator.process_index
    began = time.monotonic() - progress.elapsed_s
    limit_s = 60 * settings.max_minutes if settings.max_minutes else math.inf
    log = RunLog(folder, config, resume, accelerator.is_main_process)
    bar = tqdm(total=settings.steps, initial=progress.step, desc=config.name, unit='step',
               disable=None if accelerator.is_main_process else True, smoothing=0.05)
    step, best = progress.step, progress.best_miou
    data_s = window_s = window_loss = 0.0
    model.train()

    while step < settings.steps and time.monotonic() - began < limit_s:
        started = time.monotonic()
        done = max(step / settings.steps, (started - began) / limit_s)
        lr = settings.lr * learning_rate_factor(done, settings)
        for group in optimizer.param_groups:
            group['lr'] = lr
        batch = mixture.batch(step * global_batch + offset, settings.batch_size)
        rgb, aux, label = _to_torch(batch[:3], accelerator)
        data_s += time.monotonic() - started

        stride = config.loss.stride
        logits = network(*_images(rgb, aux, settings), list(batch.modality), stride=stride)
        # Logits lie in the middle of `stride` pixels; taking each of them in turn is fair to all.
        phase = step % stride
        target = label[:, phase::stride, phase::stride].long()
        loss = segmentation_loss(logits, target, config.loss, weights)
        accelerator.backward(loss)
        if settings.clip_norm:
            accelerator.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(model, step)
        step += 1

        window_loss += float(loss.detach())
        window_s += time.monotonic() - started
        bar.update()
        if not math.isfinite(window_loss):
            raise RgbxSegError(f'the loss is {window_loss} in step {step}; expected a number: '
                               'lower train.lr, or train in fp32.')
        if step % settings.log_every == 0:
            n = settings.log_every
            log.write(step=step, loss=window_loss / n, lr=lr, progress=done,
                      elapsed_s=time.monotonic() - began, data_ms=1e3 * data_s / n,
                      step_ms=1e3 * window_s / n)
            bar.set_postfix(loss=f'{window_loss / n:.3f}', miou=f'{best:.3f}')
            data_s = window_s = window_loss = 0.0

        ends = step == settings.steps or time.monotonic() - began >= limit_s
        if accelerator.is_main_process and (ends or step % settings.eval_every == 0):
            with averaged.applied_to(model):
                score = validate(model, validation_sets, config, accelerator)
            log.write(step=step, elapsed_s=time.monotonic() - began,
                      **summarize(score, classes))
            bar.write(f'step {step}: {_line(score)}')
            if not validation_sets or score.all.miou(strict=True) >= best:
                best = score.all.miou(strict=True) if validation_sets else best
                save_checkpoint(folder / BEST, config, len(classes),
                                Progress(step, time.monotonic() - began, best),
                                {'ema': averaged.tensors})
        if accelerator.is_main_process and (ends or step % settings.save_every == 0):
            save_checkpoint(folder / LAST, config, len(classes),
                            Progress(step, time.monotonic() - began, best),
                            {'model': model.state_dict(), 'ema': averaged.tensors,
                             'optimizer': optimizer_tensors(model, optimizer),
                             'rng': {'torch': torch.get_rng_state()}})
    bar.close()
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder / BEST


def learning_rate_factor(progress: float, config: TrainConfig) -> float:
    """Return the factor 0..1 of the learning rate at a progress of 0..1 through the run."""
    progress = min(max(progress, 0.0), 1.0)
    if progress < config.warmup:
        return 0.01 + 0.99 * progress / config.warmup
    return SCHEDULES[config.schedule]((progress - config.warmup) / (1 - config.warmup), config)


@torch.inference_mode()
def validate(model: nn.Module, sets: Sequence[Samples], config: Config,
             accelerator: Accelerator) -> Score:
    """Score the model on all samples of `sets`, at the network's size."""
    score = Score(len(config.data.class_infos))
    model.eval()
    for samples in sets:
        for first in range(0, len(samples), EVAL_BATCH):
            batch = [_at_size(samples[n], config)
                     for n in range(first, min(first + EVAL_BATCH, len(samples)))]
            rgb, aux, _ = _to_torch(stack(batch, config.data)[:3], accelerator)
            logits = model(*_images(rgb, aux, config.train), [s.modality for s in batch])
            labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
            for label, sample in zip(labels, batch, strict=True):
                score.update(label, sample.label, sample.night)
    model.train()
    return score


def _line(score: Score) -> str:
    parts = [f'{name} {100 * confusion.miou(strict=True):.1f}'
             for name, confusion in (('mIoU', score.all), ('day', score.day),
                                     ('night', score.night)) if confusion.matrix.sum()]
    per_class = ' '.join(f'{100 * value:.0f}' for value in score.all.iou())
    return f'{", ".join(parts)}; by class {per_class}' if parts else 'nothing to validate on'


def _at_size(sample: Sample, config: Config) -> Sample:
    size = config.data.height, config.data.width
    if sample.label.shape == size:
        return sample
    label = cv2.resize(sample.label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    aux = resize_to(sample.aux, *size).reshape(*size, -1)
    return replace(sample, rgb=resize_to(sample.rgb, *size), aux=aux, label=label)


def _to_torch(arrays: Sequence[Image], accelerator: Accelerator) -> list[Tensor]:
    return [torch.from_numpy(array).to(accelerator.device) for array in arrays]


def _images(rgb: Tensor, aux: Tensor, settings: TrainConfig) -> tuple[Tensor, ...]:
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    return tuple(image.contiguous(memory_format=layout) for image in normalize(rgb, aux))


def _accelerator(settings: TrainConfig) -> Accelerator:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    # Only one modality's LoRA takes part in a step, so other parameters get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[unused],
                       mixed_precision=settings.precision.replace('fp32', 'no'))


def _optimizer(model: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; norms, biases and other vectors do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{'params': [p for p in trained if p.ndim > 1]},
              {'params': [p for p in trained if p.ndim <= 1], 'weight_decay': 0.0}]
    return torch.optim.AdamW(groups, settings.lr, weight_decay=settings.weight_decay, fused=True)


def _checkpoint_to_resume(folder: Path, config: Config) -> Checkpoint:
    checkpoint = load_checkpoint(folder / LAST)
    for part in ('model', 'data'):
        if getattr(checkpoint.config, part) != getattr(config, part):
            raise RgbxSegError(f'{folder / LAST}: its {part} settings differ from those given; '
                               f'resume with {folder / "config.yaml"} or choose another name.')
    return checkpoint


def _parser() -> Arguments:
    parser = Arguments(prog='rgbx_train', description='Train a segmentation model.')
    parser.add_argument('config', type=Path, help='a file such as those in rgbx_seg_train/configs')
    parser.add_argument('overrides', nargs='*', default=[], metavar='key=value',
                        help='settings that win over the file, such as train.steps=100')
    parser.add_argument('--resume', action='store_true', help='continue the run of this name')
    parser.add_argument('--overwrite', action='store_true', help='replace the run of this name')
    return parser


def _main() -> None:
    args = _parser().parse_args()
    config = load_config(args.config, args.overrides)
    folder = Path(config.out) / config.name
    if (folder / LAST).exists() and not args.resume and not args.overwrite:
        raise RgbxSegError(f'{folder} holds a run already; give --resume to continue it, '
                           '--overwrite to replace it, or another name=….')
    best = train(config, args.resume)
    print(f'best checkpoint: {best}')


def main() -> int:
    """Run the command `rgbx_train`."""
    return run_command(_main)


if __name__ == '__main__':
    raise SystemExit(main())
