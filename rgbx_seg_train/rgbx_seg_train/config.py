# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every setting of a training run, with its default and its bounds; `config_file` reads them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MAX_SCENE_EVERY, MODALITIES, UNLABELED, ClassInfo
from rgbx_seg_train.config_augment import AugmentConfig
from rgbx_seg_train.config_pretrain import PretrainConfig
from rgbx_seg_train.config_sources import (
    OWN,
    SOURCES,
    FolderSource,
    Source,
    SyntheticSource,
    choice,
    number,
)
from rgbx_seg_train.data.labels import CLASS_SETS, own_classes

__all__ = ['SOURCES', 'AugmentConfig', 'Config', 'DataConfig', 'DistillConfig', 'ExportConfig',
           'FolderSource', 'LossConfig', 'ModelConfig', 'PretrainConfig', 'Source',
           'SyntheticSource', 'TextConfig', 'TrainConfig']

PRECISIONS = ('fp32', 'bf16', 'fp16')
SCHEDULES = ('poly', 'cosine', 'one_cycle', 'constant', 'plateau')
OPTIMIZERS = ('adamw', 'adam')
CLASS_WEIGHTS = ('none', 'inverse_sqrt')
CRITERIA = ('cross_entropy', 'binary')
PROMPTS = ('template', 'color', 'shape', 'texture', 'full')
SAMPLINGS = ('weighted', 'concatenated')


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    family: str = 'segrgbx'
    preset: str = 'tiny'
    options: Mapping[str, Any] = field(default_factory=dict)  # changes to the preset's fields
    modalities: tuple[str, ...] = ()  # that it is built for; none named = all five


@dataclass(frozen=True)
class DataConfig:
    """Which images, at which size.

    The network has the classes `classes`. Where that is union70, each source's labels keep the ids
    of its own data set, and both losses of Eq. 8 of SegRGB-X apply; else they are translated.
    """

    modality: str = choice('thermal', MODALITIES)  # of sources that name none, and of the bundle
    classes: str = choice('mfnet', (*CLASS_SETS, 'own'))
    own_classes: Mapping[str, Any] = field(default_factory=dict)  # of `own`: name -> color or null
    height: int = number(240, 32, 4096)  # of the network
    width: int = number(320, 32, 4096)
    zero_aux: bool = False  # train and score on RGB alone
    cache: str = 'runs/cache'  # where rendered scenes and computed HHA are kept
    sampling: str = choice('weighted', SAMPLINGS)  # concatenated: each sample once an epoch
    train: tuple[Source, ...] = ()
    unlabeled: tuple[Source, ...] = ()  # also drawn in training, without labels: for distillation
    validate: tuple[Source, ...] = ()  # scored during training, chooses the best checkpoint
    test: tuple[Source, ...] = ()  # scored by rgbx_evaluate, never seen before

    def __post_init__(self) -> None:
        """Refuse classes without names."""
        if (self.classes == 'own') != bool(self.own_classes):
            raise RgbxSegError(f'classes is {self.classes!r} and own_classes names '
                               f'{len(self.own_classes)}; expected classes: own together with '
                               'own_classes: {name: color, …}; give both or none.')
        own_classes(self.own_classes)

    @property
    def class_infos(self) -> tuple[ClassInfo, ...]:
        """Return the network's classes."""
        return own_classes(self.own_classes) if self.own_classes else CLASS_SETS[self.classes]


@dataclass(frozen=True)
class LossConfig:
    """What is minimized."""

    # binary: each class by itself against all others, for classes that are told by text
    criterion: str = choice('cross_entropy', CRITERIA)
    class_weights: str = choice('none', CLASS_WEIGHTS)  # of the cross entropy
    max_weight: float = number(5.0, 1)  # highest class weight over the lowest
    dice: float = number(0.0, 0)  # weight of a soft Dice term, which favors small classes
    # weight of Eq. 8's second term: the cross entropy among the classes of the sample's data set
    own_term: float = number(1.0, 0)
    ignore_background_union: bool = False  # MFNet's "unlabeled" has no loss in the first term
    stride: int = number(1, 1, 4)  # loss at every n-th pixel; 2 spares a quarter of a step


@dataclass(frozen=True)
class TrainConfig:
    """How it is minimized."""

    steps: int = number(4000, 1)
    epochs: float | None = number(None, 0.001)  # instead of steps: passes over all samples
    max_minutes: float | None = number(None, 0.01)  # the schedule ends here if steps end later
    batch_size: int = number(8, 1)  # of each process
    accumulate: int = number(1, 1)  # batches a step; their loss is that of one large batch
    optimizer: str = choice('adamw', OPTIMIZERS)
    lr: float = number(1e-3, 0)
    weight_decay: float = number(0.01, 0)
    betas: tuple[float, ...] = (0.9, 0.999)  # of the means of gradients and of their squares
    # pattern of whole parameter names -> factor of lr; the first that matches counts
    lr_factors: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = choice('poly', SCHEDULES)
    warmup: float = number(0.05, 0, 0.9)  # share of the run with a rising learning rate
    warmup_ratio: float = number(0.01, 0, 1)  # of the learning rate, where it begins to rise
    poly_power: float = number(0.9, 0)
    plateau_factor: float = number(0.8, 0.01, 1)  # of `plateau`: what the rate is multiplied by …
    plateau_patience: int = number(4, 0)  # … after more than so many validations without gain
    clip_norm: float = number(1.0, 0)  # 0 = no clipping
    ema: float = number(0.0, 0, 0.99999)  # decay of averaged weights; 0 = none
    precision: str = choice('fp32', PRECISIONS)
    gradient_checkpointing: bool = False  # computes activations again: less memory, more time
    compile: bool = False  # torch.compile
    deterministic: bool = False  # only algorithms that repeat to the bit; slower on a GPU
    channels_last: bool = True
    seed: int = number(0, 0)
    threads: int = number(0, 0)  # of torch on the CPU; 0 = its own choice
    workers: int | None = number(None, 0, 64)  # that read ahead; null = as fits this machine
    max_corrupt: float = number(0.01, 0, 1)  # share of the samples that may be unreadable
    init: str = ''  # checkpoint to start from; layers of another shape are left as they are
    class_embeddings: str = ''  # file of rgbx_embed_classes, for families that read text
    keep_last: int = number(1, 1, 1000)  # checkpoints of the latest saves
    log_every: int = number(20, 1)  # steps
    eval_every: int = number(500, 0)  # steps; 0 = each epoch
    save_every: int = number(500, 0)  # steps; 0 = each epoch

    def __post_init__(self) -> None:
        """Refuse what no optimizer takes."""
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RgbxSegError(f'betas is {list(self.betas)}; expected two numbers from 0 to below '
                               '1, such as [0.9, 0.999].')
        for pattern, factor in self.lr_factors.items():
            try:
                re.compile(pattern)
            except (re.error, TypeError) as error:
                raise RgbxSegError(f'lr_factors.{pattern}: {error}; expected a regular expression '
                                   'for names of parameters.') from None
            if type(factor) not in (int, float) or not 0 <= factor < math.inf:
                raise RgbxSegError(f'lr_factors.{pattern} is {factor!r}; expected a number of at '
                                   'least 0.')


@dataclass(frozen=True)
class TextConfig:
    """What families that read text are told of the classes; see `prompts.py`."""

    mode: str = choice('full', PROMPTS)  # which sentences of the bank; template = the name alone
    template: str = 'A photo of a {} in the scene'
    bank: str = ''  # JSON of rgbx_describe_classes; empty = the one of this package


@dataclass(frozen=True)
class DistillConfig:
    """What a larger model teaches; see `distill.py`."""

    teacher: str = ''  # its checkpoint; empty = none
    logits: float = number(1.0, 0)  # weight of the divergence from its classes' probabilities
    temperature: float = number(2.0, 0.1, 100)  # that softens both
    features: float = number(1.0, 0)  # weight of the difference in how places resemble each other
    own_size: bool = False  # the teacher sees the images at the size that it was trained at


@dataclass(frozen=True)
class ExportConfig:
    """What the manifest of a bundle says, and how its weights are stored."""

    fp16_weights: bool = False  # halves the file; computation stays fp32
    modality: str = choice(OWN, (OWN, *MODALITIES))  # empty = data.modality
    # of the bundle: a data set's own of a network with union70; empty = all of the network
    classes: str = choice(OWN, (OWN, *CLASS_SETS))
    aux_channels: int = number(0, 0, 3)  # 3 for HHA and the like; 0 = as usual for the modality
    # 0 = one graph; k = two, of which the robot runs the scene's for every kth pair
    scene_every: int = number(0, 0, MAX_SCENE_EVERY)
    checkpoint: bool = False  # put the weights into the bundle too, for backend torch
    # bank of rgbx_embed_classes: the robot may choose classes from it; empty = they are fixed
    open_classes: str = ''
    most_classes: int = number(UNLABELED, 1, UNLABELED)  # that it may choose at a time
    training_data: str = 'not stated'
    data_license: str = 'not stated'
    model_license: str = 'Apache-2.0'


@dataclass(frozen=True)
class Config:
    """One run."""

    name: str = 'run'
    out: str = 'runs'  # the run's folder is out/name
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    text: TextConfig = field(default_factory=TextConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        """Refuse a run without a name, and sections that do not go together."""
        if self.name in ('', '.', '..') or '/' in self.name:
            raise RgbxSegError(f'name is {self.name!r}; expected the name of a folder in out '
                               f'({self.out}).')
        for name in ('height', 'width'):
            if getattr(self.data, name) % self.loss.stride:
                raise RgbxSegError(f'data.{name} is {getattr(self.data, name)}; expected a '
                                   f'multiple of loss.stride ({self.loss.stride}).')

    def check_training(self) -> None:
        """Refuse a training in which a setting would have no effect.

        Not part of reading it: who evaluates a checkpoint, or checks data, may leave sections out.
        """
        if self.train.schedule == 'plateau' and not self.data.validate:
            raise RgbxSegError('train.schedule is plateau, and data.validate names no source; '
                               'expected some, whose loss the rate follows; add one or choose '
                               'another schedule.')
        if self.data.unlabeled and not self.distill.teacher:
            raise RgbxSegError('data.unlabeled names sources, and distill.teacher is empty; '
                               'expected a teacher, from which alone they are learned; name one '
                               'or set data.unlabeled=[].')
