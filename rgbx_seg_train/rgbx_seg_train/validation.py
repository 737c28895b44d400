# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Scores a network during training: every data set among its own classes, at its labels' size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import UNLABELED
from rgbx_seg_ros.overlay import blend, palette
from rgbx_seg_ros.segmenter import resize_to
from rgbx_seg_train.config import Config
from rgbx_seg_train.data.sample import CorruptImage, Image, Sample, Samples
from rgbx_seg_train.data.sources import stack
from rgbx_seg_train.distributed import of_all_processes, several
from rgbx_seg_train.losses import summed
from rgbx_seg_train.preprocess import normalize
from rgbx_seg_train.score import Score, infos_of, own_channels

EVAL_BATCH = 8
PICTURES = 4
PICTURE_HEIGHT = 240
FEW_FILES = 2  # may be unreadable whatever their share is, unless nothing may


class Validation(NamedTuple):
    """What a validation found."""

    score: Score
    loss: float  # mean of the criterion over labeled pixels, of each sample's own classes; or NaN
    pictures: list[Image]  # rgb, aux, truth and prediction side by side
    corrupt: list[str]


@torch.inference_mode()
def validate(network: nn.Module, sets: Sequence[Samples], config: Config,
             accelerator: Accelerator) -> Validation:
    """Score the network on all samples of `sets`, dealt out to all processes.

    Logits are upsampled to the size of the labels, and of a network with the union of classes only
    those of the sample's data set count.

    Raises:
        RgbxSegError: a larger share than `train.max_corrupt` of the samples cannot be read.

    """
    score, sums, pictures, corrupt = Score(config.data), np.zeros(2), [], []
    network.eval()
    for samples in sets:
        ran = 0
        for batch in _batches(samples, accelerator, corrupt):
            ran += 1
            fitted = [_at_size(sample, config) for sample in batch]
            rgb, aux = (torch.from_numpy(array).to(accelerator.device)
                        for array in stack(fitted, config.data)[:2])
            with accelerator.autocast():
                logits = network(*normalize(rgb, aux), [sample.modality for sample in batch])
            for one, sample in zip(logits, batch, strict=True):
                label, loss = _read(one, sample, config)
                score.update(label, sample)
                sums += loss
                if len(pictures) < PICTURES:
                    pictures.append(_picture(sample, label, config))
        _keep_step(network, ran, accelerator, config)
    network.train()
    found = _together(score, sums, pictures, corrupt, config)
    _limit(found.corrupt, sum(map(len, sets)), config.train.max_corrupt)
    return found


def _read(logits: Tensor, sample: Sample, config: Config) -> tuple[Image, np.ndarray]:
    """Return the label uint8 (H, W) and the summed loss and number of its labeled pixels."""
    scores, table = own_channels(logits, sample, config.data)
    scores = F.interpolate(scores[None].float(), sample.label.shape, mode='bilinear',
                           align_corners=False)
    best = scores[0].argmax(0).to(torch.uint8).cpu().numpy()
    target = torch.from_numpy(np.array(sample.label)).long()
    if table is not None:
        places = torch.full((256,), UNLABELED)
        places[torch.from_numpy(table.astype(np.int64))] = torch.arange(len(table))
        target = places[target]
    known = (target != UNLABELED).sum()
    loss = summed(scores, target[None].to(scores.device), config.loss.criterion)
    return best if table is None else table[best], np.array([float(loss), float(known)])


def _batches(samples: Samples, accelerator: Accelerator, corrupt: list[str]
             ) -> Iterator[list[Sample]]:
    """Return this process's share of the samples; what cannot be read is told in `corrupt`."""
    batch: list[Sample] = []
    for index in range(accelerator.process_index, len(samples), accelerator.num_processes):
        try:
            batch.append(samples[index])
        except CorruptImage as error:
            corrupt.append(str(error))
        if len(batch) == EVAL_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _keep_step(network: nn.Module, ran: int, accelerator: Accelerator, config: Config) -> None:
    """Run empty batches where FSDP waits for processes that have a batch more than this one."""
    if not several():
        return
    for _ in range(max(of_all_processes(ran)) - ran):
        size = 1, 3, config.data.height, config.data.width
        blank = torch.zeros(size, device=accelerator.device)
        network(blank, blank, [config.model.modalities[0] if config.model.modalities
                               else config.data.modality])


def _together(score: Score, sums: np.ndarray, pictures: list[Image], corrupt: list[str],
              config: Config) -> Validation:
    """Return what all processes found, to each of them."""
    whole, totals, told = Score(config.data), np.zeros(2), []
    for arrays, part, words in of_all_processes((score.arrays(), sums, corrupt)):
        whole.load(arrays)
        totals += part
        told += words
    return Validation(whole, totals[0] / totals[1] if totals[1] else float('nan'), pictures, told)


def _limit(corrupt: Sequence[str], count: int, share: float) -> None:
    few = share and len(corrupt) <= FEW_FILES and len(corrupt) < count
    if len(corrupt) > share * count and not few:
        raise RgbxSegError(f'{len(corrupt)} of {count} samples of data.validate could not be read; '
                           f'expected a share of at most train.max_corrupt ({share:g}); the first '
                           f'are: {" ".join(corrupt[:3])}')


def _at_size(sample: Sample, config: Config) -> Sample:
    """Return the images at the network's size; the label is not asked for."""
    size = config.data.height, config.data.width
    if sample.rgb.shape[:2] == size:
        return replace(sample, label=np.empty(size, np.uint8))
    aux = resize_to(sample.aux, *size).reshape(*size, -1)
    return replace(sample, rgb=resize_to(sample.rgb, *size), aux=aux,
                   label=np.empty(size, np.uint8))


def _picture(sample: Sample, label: Image, config: Config) -> Image:
    """Return rgb, aux, truth and prediction in a row."""
    colors = palette(infos_of(sample.classes or config.data.classes, config.data))
    rgb, aux = np.ascontiguousarray(sample.rgb), sample.aux
    aux = np.repeat(aux, 3, 2) if aux.shape[2] == 1 else np.ascontiguousarray(aux)
    row = np.hstack([rgb, aux, blend(rgb, np.ascontiguousarray(sample.label), colors, 0.6),
                     blend(rgb, label, colors, 0.6)])
    height = min(PICTURE_HEIGHT, len(row))
    return resize_to(row, height, row.shape[1] * height // len(row))
