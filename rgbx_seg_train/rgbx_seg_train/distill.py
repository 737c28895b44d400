# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a larger, trained model teaches a smaller one, on pairs with and without labels.

Two terms join the loss of the labels. The first is the divergence of the student's class
probabilities at each pixel from the teacher's, both softened by a temperature (Hinton et al.,
arXiv 1503.02531); of a student with the criterion `binary`, of each class against all others. The
second compares how alike two places of an image look to each network: the cosines between all
pairs of places of a feature map (Liu et al., "Structured Knowledge Distillation for Semantic
Segmentation", CVPR 2019; across samples in Tung and Mori, "Similarity-Preserving Knowledge
Distillation", ICCV 2019). Cosines do not know how many channels there are nor what they mean, so
any family teaches any other, and nothing but the student is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES, UNLABELED, sha256_of
from rgbx_seg_train.checkpoint import load_model
from rgbx_seg_train.config import Config, DataConfig
from rgbx_seg_train.data.labels import TO_UNION, channels
from rgbx_seg_train.data.sample import Batch
from rgbx_seg_train.data.sources import modality_of
from rgbx_seg_train.models import find_family

MAX_SIDE = 32  # of the grid of places that are compared: 1024 places have 1 M pairs
UNION = 'union70'
TERM = 'teacher_'  # begins the names of the terms, a weight in `DistillConfig` follows
DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}


class Teacher:
    """A trained model that adds a term to a student's loss; neither changes it."""

    def __init__(self, config: Config, student: nn.Module, device: torch.device | str,
                 weights: Tensor | None = None) -> None:
        """Load the teacher of `config.distill` and listen to the feature maps of both.

        weights: (N,) of the student's classes, as the loss of the labels has them, or None. A pixel
        counts by that of the class that the teacher sees there: else roads drown persons.

        Raises:
            RgbxSegError: no such checkpoint, or it does not know a modality or the classes of the
                run, or the run would write over it.

        """
        self._settings, self._precision = config.distill, config.train.precision
        path = Path(config.distill.teacher)
        if path.resolve().parent == (Path(config.out) / config.name).resolve():
            raise RgbxSegError(f'distill.teacher is {path}, in the folder that this run writes to; '
                               'expected the checkpoint of another; choose another name.')
        with torch.random.fork_rng([]):  # a resumed run has its random numbers already
            model, checkpoint = load_model(path)
        self.sha256 = sha256_of(path)
        known = modalities_of(checkpoint.config, model)
        unknown = sorted(used_modalities(config.data) - set(known))
        if unknown:
            raise RgbxSegError(f'distill.teacher {path}: the data has the modality {unknown[0]}, '
                               f'and the teacher was built for {", ".join(known)}; expected one '
                               'that knows it; choose another teacher or leave the source out.')
        self._channels = shared_channels(checkpoint.config.data, config.data)
        self._criteria = config.loss.criterion, checkpoint.config.loss.criterion
        self._weights = weights if weights is None else weights.to(device)
        self._own_size = (checkpoint.config.data.height, checkpoint.config.data.width)
        layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self._model = model.requires_grad_(False).to(device, memory_format=layout)
        self._taps = []
        if config.distill.features:
            self._taps = [Tap(student, config.model.family),
                          Tap(self._model, checkpoint.config.model.family)]

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the teacher's terms, each with its weight of the configuration."""
        return torch.stack([getattr(self._settings, name.removeprefix(TERM)) * term
                            for name, term in terms.items()]).sum()

    def terms(self, logits: Tensor, rgb: Tensor, aux: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the teacher's terms for the student's logits (B, N, h, w) of images just seen.

        rgb, aux: (B, 3, H, W) as the student read them. The gradient reaches the student alone.
        """
        given = self._ask(logits, rgb, aux, batch)
        maps = [tap.take() for tap in self._taps]
        with torch.autocast(rgb.device.type, enabled=False):  # cosines need more digits
            found = {f'{TERM}logits': self._of_logits(logits.float(), given, batch)}
            if maps:
                found[f'{TERM}features'] = dissimilarity(*maps)
        return found

    def _of_logits(self, student: Tensor, given: Tensor, batch: Batch) -> Tensor:
        """Return the divergence among the classes that both know."""
        own = [n for n, channel in enumerate(self._channels) if channel != UNLABELED]
        given = given[:, [self._channels[n] for n in own]]
        shares = given.softmax(1)  # of a binary teacher: if exactly one of the classes is there
        weight = given.new_ones((given.shape[0], *given.shape[2:]))
        if self._weights is not None:
            weight = torch.einsum('c,bchw->bhw', self._weights[own], shares)
        if len(own) < len(self._channels):
            weight = weight.where(self._say(batch, student), 0.0)
        of_student, of_teacher = self._criteria
        if of_student == 'binary' and of_teacher != 'binary':
            given = shares.logit(1e-6)  # each class against all others
        return divergence(student[:, own], given, self._settings.temperature, weight, of_student)

    @torch.no_grad()
    def _ask(self, logits: Tensor, rgb: Tensor, aux: Tensor, batch: Batch) -> Tensor:
        """Return the teacher's logits (B, M, h, w), all its classes, at the student's size."""
        size, stride = tuple(logits.shape[2:]), rgb.shape[2] // logits.shape[2]
        if self._settings.own_size and rgb.shape[2:] != self._own_size:
            rgb, aux = (functional.interpolate(image, self._own_size, mode='bilinear',
                                               antialias=True) for image in (rgb, aux))
        dtype = DTYPES.get(self._precision)
        amp = torch.autocast(rgb.device.type, dtype) if dtype else contextlib.nullcontext()
        with amp:
            given = self._model(rgb, aux, list(batch.modality), stride=stride).float()
        if tuple(given.shape[2:]) != size:
            given = functional.interpolate(given, size, mode='bilinear', align_corners=False)
        return given

    def _say(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return where (B, h, w) no label tells of a class that the teacher does not know."""
        label = torch.as_tensor(batch.label, device=logits.device)
        label = label[:, ::label.shape[1] // logits.shape[2], ::label.shape[2] // logits.shape[3]]
        unknown = [n for n, channel in enumerate(self._channels) if channel == UNLABELED]
        return ~torch.isin(label, torch.tensor(unknown, dtype=label.dtype, device=label.device))

    def close(self) -> None:
        """Stop listening to the student."""
        for tap in self._taps:
            tap.close()
        self._taps = []


class Tap:
    """The feature map that a model makes in its forward pass, as its family names it."""

    def __init__(self, model: nn.Module, family: str) -> None:
        """Listen to a model; RgbxSegError if its family names no feature map."""
        path = find_family(family).features
        if not path:
            raise RgbxSegError(f'distill.features is above 0, and the family {family} names no '
                               'feature map; expected 0; set distill.features=0.')
        self._map: Tensor | None = None
        self._handle = model.get_submodule(path).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._map = output

    def take(self) -> Tensor:
        """Return the map (B, C, h, w) of the latest forward pass, once."""
        taken, self._map = self._map, None
        if taken is None:
            raise RuntimeError('no forward pass went before')
        return taken

    def close(self) -> None:
        """Stop listening."""
        self._handle.remove()


def divergence(student: Tensor, teacher: Tensor, temperature: float, weight: Tensor,
               criterion: str = 'cross_entropy') -> Tensor:
    """Return T^2 KL(teacher || student) of logits (B, C, h, w), a mean over weighted pixels.

    weight: (B, h, w), at least 0; criterion: what the logits of both stand for, as in
    `losses.probabilities`; if `binary`, KL is the mean over the classes of each one's. T^2 keeps
    the gradient's size when T changes.
    """
    mine, other = student / temperature, teacher / temperature
    if criterion == 'binary':
        pixels = (other.sigmoid() * (other - mine) + functional.softplus(mine)
                  - functional.softplus(other)).mean(1)
    else:
        pixels = functional.kl_div(mine.log_softmax(1), other.log_softmax(1), reduction='none',
                                   log_target=True).sum(1)
    return temperature ** 2 * (weight * pixels).sum() / weight.sum().clamp(min=1e-6)


def dissimilarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference of the cosines between all pairs of places of two maps.

    The maps (B, C, h, w) and (B, C', h', w') are averaged to the coarser of both grids first. Of
    each the image's mean is taken away: what all places share tells none of them apart, and a map
    that comes out of a ReLU has so much of it that the student would learn little else.
    """
    grid = tuple(min(a, b, MAX_SIDE)
                 for a, b in zip(student.shape[2:], teacher.shape[2:], strict=True))
    mine, other = (cosines(pooled(image.float(), grid)) for image in (student, teacher))
    return (mine - other).square().mean()


def cosines(features: Tensor) -> Tensor:
    """Return the cosines (B, P, P) between the P = h w places of a map (B, C, h, w).

    They are those of what each place differs by from the mean of its image.
    """
    places = features.flatten(2)
    places = functional.normalize(places - places.mean(2, keepdim=True), dim=1)
    return places.transpose(1, 2) @ places


def pooled(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a map (B, C, h, w) averaged to a coarser grid, as adaptive pooling does.

    As products of matrices, since adaptive pooling has no gradient on a GPU that repeats.
    """
    rows, columns = (_averages(side, cells, features)
                     for side, cells in zip(features.shape[2:], grid, strict=True))
    return rows @ features @ columns.T


def _averages(side: int, cells: int, like: Tensor) -> Tensor:
    """Return the matrix (cells, side) that averages neighbors."""
    matrix = torch.zeros(cells, side)
    for cell in range(cells):
        low, high = cell * side // cells, -(-(cell + 1) * side // cells)
        matrix[cell, low:high] = 1 / (high - low)
    return matrix.to(like)


def modalities_of(config: Config, model: nn.Module) -> tuple[str, ...]:
    """Return the modalities that a trained model knows."""
    return tuple(getattr(model, 'modalities', ()) or config.model.modalities or MODALITIES)


def used_modalities(data: DataConfig) -> set[str]:
    """Return the modalities of all sources that are trained on."""
    return {modality_of(source, data) for source in (*data.train, *data.unlabeled)}


def shared_channels(teacher: DataConfig, student: DataConfig) -> tuple[int, ...]:
    """Return for each class of the student the teacher's channel, 255 where it has none.

    Raises:
        RgbxSegError: the class sets differ, and the teacher's is not the union.

    """
    there, here = ([info.name for info in data.class_infos] for data in (teacher, student))
    if there == here:
        return tuple(range(len(here)))
    known = teacher.classes == UNION and student.classes in TO_UNION
    shared = channels(student.classes, UNION) if known else ()
    if len(shared) - shared.count(UNLABELED) < 2:
        raise RgbxSegError(f'distill.teacher: it was trained on the {len(there)} classes '
                           f'{teacher.classes}, the student has the {len(here)} of '
                           f'{student.classes}; expected the same classes, or a teacher of {UNION};'
                           ' choose another teacher or data.classes.')
    return shared
