# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a pretraining of MA-CLIP starts with: settings that fit, a model, what of it learns."""

from __future__ import annotations

from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.checkpoint import build_model
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_pretrain import PretrainConfig
from rgbx_seg_train.data.sources import modality_of
from rgbx_seg_train.models.segrgbx.ma_clip import ModalityClip

LORA = '.lora_'  # in the names of the parameters of the pool


def check_settings(config: Config) -> None:
    """Raise RgbxSegError if these settings cannot train an MA-CLIP."""
    family = config.model.family
    if family != 'segrgbx':
        raise RgbxSegError(f'model.family is {family}; expected segrgbx, the only one with an '
                           'MA-CLIP; correct it.')
    if config.train.precision == 'fp16':
        raise RgbxSegError('train.precision is fp16; expected fp32 or bf16; choose one.')
    if config.train.accumulate > 1:
        raise RgbxSegError(f'train.accumulate is {config.train.accumulate}; expected 1, as all '
                           'pairs of a step are compared; raise pretrain.batch_size instead.')
    if config.train.gradient_checkpointing:
        raise RgbxSegError('train.gradient_checkpointing is true; expected false, as the tower is '
                           'computed again as a whole, which saves no memory where it learns '
                           'alone; lower pretrain.batch_size instead.')
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
