# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How `rgbx_pretrain_clip` teaches MA-CLIP to tell modalities apart."""

from __future__ import annotations

from dataclasses import dataclass

from rgbx_seg_train.config_sources import choice, number

CLIP = 'clip.safetensors'  # in the run's folder: the result, and what --resume goes on from
TRAINED = ('lora', 'tower')
RANDOM_TEXT = 'random'  # as `text_model`: a tiny tower, made on the spot, the same each time


@dataclass(frozen=True)
class PretrainConfig:
    """The first stage of SegRGB-X: a LoRA for each modality, everything else frozen.

    The paper tells neither optimizer nor length; rates and epochs are our choice. `train` gives
    the start (`init`), the seed, the precision and how often is saved.
    """

    # JSON lines {"name": …, "caption": …} of the RGB images; rendered scenes need none
    captions: str = ''
    # folder or hub repository of the text tower, or `random`: a tiny one for rendered scenes
    text_model: str = 'openai/clip-vit-base-patch16'
    trained: str = choice('lora', TRAINED)  # `tower`: all of an image tower without pretraining
    logit_scale: float = number(100.0, 1, 1000)  # of the similarities; CLIP's, and kept
    epochs: float = number(30, 0.001)  # passes over the images of all modalities
    batch_size: int = number(64, 1)  # pairs of each process, all of one modality
    lr: float = number(1e-4, 0)
    warmup: float = number(0.05, 0, 0.9)  # share of the run with a rising rate; then a half cosine
    weight_decay: float = number(0.01, 0)
