# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Every setting of a training run, with its default and its bounds; `config_file` reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MAX_SCENE_EVERY, MODALITIES
from rgbx_seg_train.data.labels import CLASS_SETS

PRECISIONS = ('fp32', 'bf16')
SCHEDULES = ('poly', 'cosine', 'one_cycle')
CLASS_WEIGHTS = ('none', 'inverse_sqrt')
PARTS = ('all', 'train', 'held_out')


def _number(default: float | None, low: float, high: float = math.inf) -> Any:
    return field(default=default, metadata={'low': low, 'high': high})


def _choice(default: str, choices: Sequence[str]) -> Any:
    return field(default=default, metadata={'choices': tuple(choices)})


@dataclass(frozen=True)
class SyntheticSource:
    """Scenes of `data/synthetic.py`, one image per seed."""

    kind: str = 'synthetic'
    first_seed: int = _number(0, 0)
    count: int = _number(1000, 1, 1_000_000)  # seeds first_seed .. first_seed + count - 1
    night_fraction: float | None = _number(None, 0, 1)  # share of night; None = as the seeds draw
    max_time_s: float = _number(3.0, 0)  # each scene is seen at a time drawn from 0..max_time_s
    weight: float = _number(1.0, 0)  # how often this source is drawn, relative to the others


@dataclass(frozen=True)
class FolderSource:
    """A folder of images: DIR/rgb, DIR/<modality>, DIR/<label_dir>, and weak labels in boxes."""

    kind: str = 'folder'
    root: str = ''  # the folder
    label_dir: str = 'label'  # folder of mono8 ids
    boxes_dir: str = ''  # folder of human boxes (YOLO), used as weak labels; empty = none
    part: str = _choice('all', PARTS)  # which side of the fixed split to take
    hold_out: float = _number(0.25, 0, 1)  # share held out by the hash of the name
    hold_out_block: int = _number(1, 1)  # neighboring frame numbers that go to the same side
    weight: float = _number(1.0, 0)  # how often this source is drawn, relative to the others

    def __post_init__(self) -> None:
        """Refuse a source without a folder."""
        if not self.root:
            raise RgbxSegError('root is empty; expected the folder that holds rgb/; name it.')


SOURCES: dict[str, type] = {'synthetic': SyntheticSource, 'folder': FolderSource}
Source = SyntheticSource | FolderSource


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    family: str = 'segrgbx'
    preset: str = 'tiny'
    options: Mapping[str, Any] = field(default_factory=dict)  # changes to the preset's fields


@dataclass(frozen=True)
class DataConfig:
    """Which images, at which size."""

    modality: str = _choice('thermal', MODALITIES)
    classes: str = _choice('mfnet', CLASS_SETS)
    height: int = _number(240, 32, 4096)  # of the network
    width: int = _number(320, 32, 4096)
    zero_aux: bool = False  # train and score on RGB alone
    cache: str = 'runs/cache'  # where rendered scenes are kept
    train: tuple[Source, ...] = ()
    validate: tuple[Source, ...] = ()  # scored during training, chooses the best checkpoint
    test: tuple[Source, ...] = ()  # scored by rgbx_evaluate, never seen before


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training samples; p_* are probabilities."""

    p_flip: float = _number(0.5, 0, 1)
    zoom_low: float = _number(0.8, 0.1, 10)  # zoom is log-uniform; below 1 pads with unlabeled
    zoom_high: float = _number(1.6, 0.1, 10)
    rgb_gain: float = _number(0.3, 0, 1)  # gain 1 +- this
    rgb_gamma: float = _number(0.3, 0, 1)  # gamma exp(+- this)
    rgb_noise: float = _number(6.0, 0, 64)  # highest standard deviation, gray levels
    aux_gain: float = _number(0.2, 0, 1)  # gain 1 +- this
    aux_offset: float = _number(16.0, 0, 128)  # offset +- this, gray levels
    aux_noise: float = _number(3.0, 0, 64)  # highest standard deviation, gray levels
    p_aux_invert: float = _number(0.0, 0, 1)  # black-hot instead of white-hot
    p_aux_dropout: float = _number(0.0, 0, 1)  # aux all zero: a camera that failed
    p_rgb_dark: float = _number(0.0, 0, 1)  # RGB darkened to a tenth: night made from day

    def __post_init__(self) -> None:
        """Refuse an empty range of zooms."""
        if self.zoom_low > self.zoom_high:
            raise RgbxSegError(f'zoom_low is {self.zoom_low}; expected at most zoom_high '
                               f'({self.zoom_high}).')


@dataclass(frozen=True)
class LossConfig:
    """What is minimized."""

    class_weights: str = _choice('none', CLASS_WEIGHTS)  # of the cross entropy
    max_weight: float = _number(5.0, 1)  # highest class weight over the lowest
    dice: float = _number(0.0, 0)  # weight of a soft Dice term, which favors small classes
    stride: int = _number(1, 1, 4)  # loss at every n-th pixel; 2 spares a quarter of a step


@dataclass(frozen=True)
class TrainConfig:
    """How it is minimized."""

    steps: int = _number(4000, 1)
    max_minutes: float | None = _number(None, 0.01)  # the schedule ends here if steps end later
    batch_size: int = _number(8, 1)  # of each process
    lr: float = _number(1e-3, 0)
    weight_decay: float = _number(0.01, 0)
    schedule: str = _choice('poly', SCHEDULES)
    warmup: float = _number(0.05, 0, 0.9)  # share of the run with a rising learning rate
    poly_power: float = _number(0.9, 0)
    clip_norm: float = _number(1.0, 0)  # 0 = no clipping
    ema: float = _number(0.0, 0, 0.99999)  # decay of averaged weights; 0 = none
    precision: str = _choice('fp32', PRECISIONS)
    channels_last: bool = True
    seed: int = _number(0, 0)
    threads: int = _number(0, 0)  # of torch on the CPU; 0 = its own choice
    init: str = ''  # checkpoint to start from; layers of another shape are left as they are
    log_every: int = _number(20, 1)  # steps
    eval_every: int = _number(500, 1)  # steps
    save_every: int = _number(500, 1)  # steps


@dataclass(frozen=True)
class ExportConfig:
    """What the manifest of a bundle says, and how its weights are stored."""

    fp16_weights: bool = False  # halves the file; computation stays fp32
    # 0 = one graph; k = two, of which the robot runs the scene's for every kth pair
    scene_every: int = _number(0, 0, MAX_SCENE_EVERY)
    checkpoint: bool = False  # put the weights into the bundle too, for backend torch
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
