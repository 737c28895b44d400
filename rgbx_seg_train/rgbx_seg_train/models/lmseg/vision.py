# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The two image encoders of LMSeg, those of CLIP and SAM, as maps (arXiv 2412.00364, section 3.3).

Both are `transformers`' modules; only the path through them is ours. CLIP is read densely as in
CAT-Seg (arXiv 2303.11797; cvlab-kaist/CAT-Seg at 6d3a188): its last block adds the output
projection of the value of each token to the class token, then comes the MLP; so the query and key
of that block move nothing. Position embeddings of both are resized to the grid of tokens that the
image has, bicubic for CLIP as in CAT-Seg, bilinear for SAM (nobody says how).
Ours, for encoders that are trained from scratch: patches by convolutions, whose maps on the way can
guide the decoder instead of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.blocks.mit import recompute, to_map, to_tokens
from rgbx_seg_train.models.blocks.stem import Stem
from rgbx_seg_train.models.family import check_sizes
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _check(name: str, options: ClipOptions | SamOptions) -> None:
    check_sizes('lmseg', {f'{name}.{key}': value for key, value in vars(options).items()
                          if type(value) is int})
    if options.width % options.heads:
        raise RgbxSegError(f'lmseg: {name}.heads is {options.heads}, expected a divisor of '
                           f'{name}.width, {options.width}; choose another.')
    first, second = options.taps
    if not 1 <= first <= second < options.layers:
        raise RgbxSegError(f'lmseg: {name}.taps is {[first, second]}, expected two numbers of '
                           f'blocks from 1 to {options.layers - 1}, the smaller first; choose '
                           'such.')
    if options.stem and (options.patch < 8 or options.patch & (options.patch - 1)):
        raise RgbxSegError(f'lmseg: {name}.patch is {options.patch} with {name}.stem, expected a '
                           'power of two from 8 on; choose one.')


@dataclass(frozen=True)
class ClipOptions:
    """Sizes of CLIP's image encoder; the defaults are those of ViT-B/16."""

    width: int = 768  # of a token
    layers: int = 12
    heads: int = 12
    ratio: int = 4  # MLP width over token width
    patch: int = 16
    positions: int = 14  # side of the grid that the position embedding has
    taps: tuple[int, int] = (4, 8)  # after so many blocks it can guide the decoder
    stem: bool = False  # patches by 3x3 convolutions, which then guide the decoder
    attention: str = 'sdpa'  # transformers' implementation

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _check('clip', self)


@dataclass(frozen=True)
class SamOptions:
    """Sizes of SAM's image encoder; the defaults are those of ViT-B."""

    width: int = 768  # of a token
    layers: int = 12
    heads: int = 12
    ratio: int = 4  # MLP width over token width
    patch: int = 16
    positions: int = 64  # side of the grid that the position embedding has
    window: int = 14  # side of the attention windows
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)  # blocks that attend to the whole image
    neck: int = 256  # channels of its output
    taps: tuple[int, int] = (4, 8)  # after so many blocks it can guide the decoder
    stem: bool = False  # patches by 3x3 convolutions, which then guide the decoder
    # transformers' implementation; its bias of positions is as large as what 'sdpa' would spare
    attention: str = 'eager'

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _check('sam', self)


CLIP_LARGE = ClipOptions(width=1024, layers=24, heads=16, patch=14, positions=24, taps=(8, 16))
SAM_LARGE = SamOptions(width=1024, layers=24, heads=16, global_blocks=(5, 11, 17, 23),
                       taps=(8, 16))


class DenseClip(nn.Module):
    """CLIP's image encoder, read at every token: its map lies in the space of the texts."""

    def __init__(self, options: ClipOptions, embed: int) -> None:
        super().__init__()
        self.options, self.checkpointing = options, False
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(
            hidden_size=options.width, intermediate_size=options.ratio * options.width,
            num_hidden_layers=options.layers, num_attention_heads=options.heads,
            patch_size=options.patch, image_size=options.patch * options.positions,
            projection_dim=embed, attn_implementation=options.attention,
        ))
        if options.stem:
            self.model.vision_model.embeddings.patch_embedding = Stem(options.width, options.patch)

    def idle(self) -> tuple[nn.Module, ...]:
        """Return the parts that the dense reading never asks."""
        last = self.model.vision_model.encoder.layers[-1].self_attn
        return last.q_proj, last.k_proj

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map images (B, 3, h * patch, w * patch) with CLIP's mean and deviation.

        Returns F_c (B, embed, h, w) and what can guide: the tokens after the two taps, (B, width,
        h, w), or the two maps of the stem.
        """
        vision, embeddings = self.model.vision_model, self.model.vision_model.embeddings
        x, maps = _patches(embeddings.patch_embedding, images)
        h, w = x.shape[2:]
        x = torch.cat([embeddings.class_embedding.expand(len(x), 1, -1), to_tokens(x)], dim=1)
        x = vision.pre_layrnorm(x + embeddings.interpolate_pos_encoding(x, *images.shape[2:]))
        *blocks, last = vision.encoder.layers
        taps = []
        for number, block in enumerate(blocks, 1):
            x = recompute(block, self.checkpointing and self.training, x, None)
            taps += [to_map(x[:, 1:], h, w)] * self.options.taps.count(number)
        x = self._read_densely(last, x)
        x = self.model.visual_projection(vision.post_layernorm(x[:, 1:]))
        return to_map(x, h, w), maps or taps

    @staticmethod
    def _read_densely(block: nn.Module, x: Tensor) -> Tensor:
        """Map tokens (B, 1 + hw, C) by a block without mixing them."""
        attention = block.self_attn
        values = attention.out_proj(attention.v_proj(block.layer_norm1(x)))
        x = values + x[:, :1]
        return x + block.mlp(block.layer_norm2(x))


class SamEncoder(nn.Module):
    """SAM's image encoder and neck for images of any size."""

    def __init__(self, options: SamOptions) -> None:
        super().__init__()
        self.options, self.checkpointing = options, False
        self.model = SamVisionEncoder(SamVisionConfig(
            hidden_size=options.width, mlp_dim=options.ratio * options.width,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads, patch_size=options.patch,
            image_size=options.patch * options.positions, window_size=options.window,
            global_attn_indexes=list(options.global_blocks), output_channels=options.neck,
            initializer_range=0.02,  # transformers' own, 1e-10, is for weights that are loaded
            attn_implementation=options.attention,
        ))
        if options.stem:
            self.model.patch_embed.projection = Stem(options.width, options.patch)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map images (B, 3, h * patch, w * patch), ImageNet-normalized, which is SAM's way.

        Returns the neck's map (B, neck, h, w) and what can guide, as CLIP does.
        """
        model = self.model
        x, maps = _patches(model.patch_embed.projection, images)
        positions = model.pos_embed.permute(0, 3, 1, 2)
        if positions.shape[2:] != x.shape[2:]:
            positions = functional.interpolate(positions, tuple(x.shape[2:]), mode='bilinear')
        x = (x + positions).permute(0, 2, 3, 1)
        taps = []
        for number, block in enumerate(model.layers, 1):
            x = recompute(block, self.checkpointing and self.training, x)
            taps += [x.permute(0, 3, 1, 2)] * self.options.taps.count(number)
        return model.neck(x), maps or taps


def _patches(embedding: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return patches (B, width, h, w), and the stem's finer maps if there is one."""
    if not isinstance(embedding, Stem):
        return embedding(images), []
    patches, *finer = embedding.maps(images)
    return patches, finer[:2]


def for_clip(images: Tensor) -> Tensor:
    """Return images in [0, 1] as CLIP was trained with them."""
    return _normalized(images, CLIP_MEAN, CLIP_STD)


def for_sam(images: Tensor) -> Tensor:
    """Return images in [0, 1] as SAM was trained with them."""
    return _normalized(images, IMAGENET_MEAN, IMAGENET_STD)


def from_imagenet(images: Tensor) -> Tensor:
    """Return ImageNet-normalized images in [0, 1]."""
    mean, std = _constants(images, IMAGENET_MEAN, IMAGENET_STD)
    return images * std + mean


def _normalized(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    center, scale = _constants(images, mean, std)
    return (images - center) / scale


def _constants(like: Tensor, *values: tuple[float, ...]) -> list[Tensor]:
    return [torch.tensor(row, device=like.device).view(1, 3, 1, 1) for row in values]
