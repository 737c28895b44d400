# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How `rgbx_pretrain_clip` teaches MA-CLIP to tell modalities apart."""

from __future__ import annotations

from dataclasses import dataclass

from rgbx_seg_train.config_sources import number


@dataclass(frozen=True)
class PretrainConfig:
    """The first stage of SegRGB-X: a LoRA for each modality, everything else frozen."""

    captions: str = ''  # JSON lines {"name": …, "caption": …} of the RGB images
    text_model: str = 'openai/clip-vit-base-patch16'  # folder or hub repository of the text tower
    epochs: float = number(30, 0.001)
    batch_size: int = number(64, 1)
    lr: float = number(1e-4, 0)
    weight_decay: float = number(0.01, 0)
