# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MA-CLIP: a CLIP image tower with one LoRA per RGB-X pair (SegRGB-X, section III-B, figure 3).

The paper's: CLIP frozen; the LoRA of a pair serves both of its images; the embeddings S^r, S^m go
on, frozen too. Assumed (the counts agree): ViT-B/16, LoRA on q and v, of rank 8: the paper gives
none, and with 16 the pool of five would exceed the published total by more than 1 %. The tower is
`transformers`', the LoRA pool `peft`'s. Images are resized as for CLIP's training (bicubic,
antialiased), but the whole image to the square: CLIP's own crop of the center would hide a quarter
of a 4:3 scene. The resize is two products with constant matrices, since TensorRT has no antialiased
one.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.blocks.segformer_head import resize

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of the image tower and its LoRA pool; the defaults are openai/clip-vit-base-patch16."""

    hidden: int = 768  # token width
    layers: int = 12  # transformer layers
    heads: int = 12  # attention heads
    ratio: int = 4  # MLP width over token width
    image_size: int = 224  # pixels, square
    patch_size: int = 16  # pixels
    embed: int = 512  # width of S
    lora_rank: int = 8  # rank of each modality's LoRA on q and v; alpha is equal to it
    resize: str = 'bicubic'  # to image_size: antialiased as CLIP's own; 'bilinear' costs nothing
    attention: str = 'sdpa'  # transformers' implementation; 'eager' trains faster on a CPU
    frozen: bool = True  # the paper freezes MA-CLIP in stage 2; a tower without pretraining learns

    def tower(self) -> CLIPVisionConfig:
        """Return the same sizes for `transformers`."""
        return CLIPVisionConfig(
            hidden_size=self.hidden, intermediate_size=self.ratio * self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads,
            image_size=self.image_size, patch_size=self.patch_size, projection_dim=self.embed,
            attn_implementation=self.attention,
        )


@lru_cache(maxsize=32)
def resize_matrix(size: int, to: int) -> np.ndarray:
    """Return the float32 (to, size) matrix of an antialiased bicubic resize of one axis.

    Keys' kernel (a = -1/2), widened by the factor of shrinking: Pillow's, and so CLIP's.
    """
    scale = size / to
    centers = (np.arange(to)[:, None] + 0.5) * scale
    x = np.abs(np.arange(size) + 0.5 - centers) / max(scale, 1.0)
    near, far = (1.5 * x - 2.5) * x**2 + 1.0, ((2.5 - 0.5 * x) * x - 4.0) * x + 2.0
    weights = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def resize_antialiased(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) as `resize_matrix` says, in the form that every runtime knows."""
    rows, columns = (
        torch.tensor(resize_matrix(*axis), dtype=image.dtype, device=image.device)
        for axis in zip(image.shape[2:], size, strict=True)
    )
    return rows @ (image @ columns.T)


RESIZES = {'bicubic': resize_antialiased, 'bilinear': resize}


class ModalityClip(nn.Module):
    """Embeds both images of each pair, each pair through its modality's LoRA."""

    def __init__(self, config: ClipConfig, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=['q_proj', 'v_proj']
        )
        tower = CLIPVisionModelWithProjection(config.tower())
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter('ignore', FutureWarning)
            self.tower = get_peft_model(tower, lora, adapter_name=modalities[0])
            for name in modalities[1:]:
                self.tower.add_adapter(name, lora)
        self.tower.requires_grad_(not config.frozen)
        self.tower.eval()
        mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
        rgb_scale = torch.tensor(IMAGENET_STD) / std
        rgb_shift = (torch.tensor(IMAGENET_MEAN) - mean) / std
        for name, value in (('rgb_scale', rgb_scale), ('rgb_shift', rgb_shift),
                            ('aux_scale', 1 / std), ('aux_shift', -mean / std)):
            self.register_buffer(name, value.view(3, 1, 1), persistent=False)
        self.merged = self.checkpointing = False

    def train(self, mode: bool = True) -> ModalityClip:
        """Keep the tower in eval mode: it has no dropout, and peft mixes adapters only there."""
        super().train(mode and not self.config.frozen)
        self.tower.eval()
        return self

    def forward(self, rgb: Tensor, aux: Tensor, names: list[str]) -> tuple[Tensor, Tensor]:
        """Embed rgb (ImageNet-normalized) and aux (in [0, 1]) as S^r and S^m, each (B, embed)."""
        size = (self.config.image_size, self.config.image_size)
        resize_to = RESIZES[self.config.resize]
        images = torch.cat([
            resize_to(rgb, size) * self.rgb_scale + self.rgb_shift,
            resize_to(aux, size) * self.aux_scale + self.aux_shift,
        ])
        adapters = {} if self.merged else {'adapter_names': names + names}
        # As a whole: peft chooses each image's LoRA for the time of one call of the tower alone.
        s_rgb, s_aux = recompute(
            lambda x: self.tower(pixel_values=x, **adapters).image_embeds,
            self.checkpointing and self.training, images,
        ).chunk(2)
        return s_rgb, s_aux

    def merge(self, modality: str) -> ModalityClip:
        """Return a copy with one LoRA added into the weights and the pool gone."""
        merged = copy.deepcopy(self)
        merged.tower = merged.tower.merge_and_unload(adapter_names=[modality])
        merged.tower.eval()
        merged.merged = True
        return merged
