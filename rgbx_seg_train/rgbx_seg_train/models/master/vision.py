# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Both paths of MASTER's CLIP, and what takes its patches to the language model and the decoder.

Paper (arXiv 2503.04199): a "dual-path ViT", fixed at CLIP-ViT-L/14-336; V->T projects patches to
the language model, V->D to the decoder. Ours, where it gives no more: one tower serves both paths,
as their weights are the same and fixed; the whole image is resized to the square, its aspect
dropped; the patches are those of the last layer but one without the class token, as in LLaVA-1.5,
and layers after it are not built; V->T is LLaVA-1.5's projector, and V->D a linear layer, a layer
norm and a 3x3 convolution, both with weights of their own for each modality.
For small models trained from scratch: images may keep their size, and the language model may read
averages of pooled patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.blocks.segformer_head import resize
from rgbx_seg_train.models.blocks.stem import Stem
from rgbx_seg_train.models.family import check_sizes, choose
from rgbx_seg_train.models.segrgbx.ma_clip import CLIP_MEAN, CLIP_STD, RESIZES
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD

FITS = ('square', 'native')
RGB = 'rgb'  # its key among the modalities


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the tower; the defaults are openai/clip-vit-large-patch14-336."""

    hidden: int = 1024  # token width
    layers: int = 24  # transformer layers of the published tower
    heads: int = 16  # attention heads
    ratio: int = 4  # MLP width over token width
    image_size: int = 336  # pixels, square
    patch_size: int = 14  # pixels
    features: tuple[int, ...] = (-2,)  # layers read, the language model's first; (-2, -11): PixelLM
    fit: str = 'square'  # 'native': keep the size, up to whole patches, and stretch the positions
    resize: str = 'bicubic'  # to image_size: antialiased as CLIP's own; 'bilinear' costs less
    stem: bool = False  # convolutions make the patches, as towers from scratch learn faster so
    pool: int = 1  # side of the squares of patches that the language model reads the average of
    attention: str = 'sdpa'  # transformers' implementation; 'eager' trains faster on a CPU
    frozen: bool = True  # the paper's; a tower without pretraining learns

    def __post_init__(self) -> None:
        """Refuse what no tower has."""
        choose('master', 'vision.fit', self.fit, FITS)
        choose('master', 'vision.resize', self.resize, RESIZES)
        check_sizes('master', {f'vision.{name}': getattr(self, name) for name in (
            'hidden', 'layers', 'heads', 'ratio', 'image_size', 'patch_size', 'pool')})
        if self.hidden % self.heads or self.image_size % self.patch_size:
            raise RgbxSegError(
                f'master: vision has hidden {self.hidden}, heads {self.heads}, image_size '
                f'{self.image_size} and patch_size {self.patch_size}; expected multiples of heads '
                'and of patch_size; choose others.')
        if not self.features or not all(-self.layers <= i <= -1 for i in self.features):
            raise RgbxSegError(f'master: vision.features is {self.features}, expected layers '
                               f'-{self.layers} to -1, counted from the last; choose one or more.')

    @property
    def depths(self) -> tuple[int, ...]:
        """How many layers lie before each of the features."""
        return tuple(self.layers + 1 + i for i in self.features)


class Patches(nn.Module):
    """CLIP's patches of images, of one or more of its layers."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.tower = CLIPVisionModel(CLIPVisionConfig(
            hidden_size=config.hidden, intermediate_size=config.ratio * config.hidden,
            num_hidden_layers=max(config.depths), num_attention_heads=config.heads,
            image_size=config.image_size, patch_size=config.patch_size,
            attn_implementation=config.attention,
        ))
        if config.stem:
            self.tower.embeddings.patch_embedding = Stem(config.hidden, config.patch_size)
        self.tower.post_layernorm = nn.Identity()  # of the class token of the last layer
        self.tower.requires_grad_(not config.frozen)
        mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
        rgb_scale = torch.tensor(IMAGENET_STD) / std
        rgb_shift = (torch.tensor(IMAGENET_MEAN) - mean) / std
        for name, value in (('rgb_scale', rgb_scale), ('rgb_shift', rgb_shift),
                            ('aux_scale', 1 / std), ('aux_shift', -mean / std)):
            self.register_buffer(name, value.view(3, 1, 1), persistent=False)
        self.checkpointing = False

    def train(self, mode: bool = True) -> Patches:
        """Keep a frozen tower in eval mode."""
        return super().train(mode and not self.config.frozen)

    def forward(self, rgb: Tensor, aux: Tensor) -> list[Tensor]:
        """Map rgb (ImageNet-normalized) and aux (in [0, 1]), each (B, 3, H, W), to patches.

        Returns maps (2B, hidden, h, w) of [rgb; aux], one for each entry of `config.features`.
        """
        config = self.config
        images = torch.cat([self._fit(rgb) * self.rgb_scale + self.rgb_shift,
                            self._fit(aux) * self.aux_scale + self.aux_shift])
        grid = tuple(side // config.patch_size for side in images.shape[2:])
        x = self.tower.embeddings(images, interpolate_pos_encoding=config.fit == 'native')
        x = self.tower.pre_layrnorm(x)
        states = [x]
        again = self.checkpointing and self.training
        for layer in self.tower.encoder.layers:
            states.append(recompute(layer, again, states[-1], None))
        return [states[depth][:, 1:].transpose(1, 2).unflatten(2, grid) for depth in config.depths]

    def _fit(self, images: Tensor) -> Tensor:
        """Return images of a size that the tower takes."""
        config = self.config
        if config.fit == 'square':
            return RESIZES[config.resize](images, (config.image_size, config.image_size))
        patch = config.patch_size
        size = tuple(-(-side // patch) * patch for side in images.shape[2:])
        return images if size == tuple(images.shape[2:]) else resize(images, size)


class ToLanguage(nn.Sequential):
    """V->T of one modality: LLaVA-1.5's projector, linear, GELU, linear."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__(nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, width))


class ToDecoder(nn.Module):
    """V->D of one modality and one layer of CLIP."""

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, patches: Tensor) -> Tensor:
        """Map (B, hidden, h, w) to (B, dim, h, w)."""
        x = self.norm(self.linear(patches.permute(0, 2, 3, 1)))
        return self.conv(x.permute(0, 3, 1, 2))


class OfModalities(nn.ModuleDict):
    """A module of one kind for RGB and for each modality of the second image."""

    def __init__(self, make: Callable[[], nn.Module], modalities: Sequence[str]) -> None:
        super().__init__({name: make() for name in (RGB, *modalities)})

    def aux(self, x: Tensor, names: Sequence[str]) -> Tensor:
        """Pass each sample of x (B, …) through the module of its modality."""
        kinds = list(dict.fromkeys(names))
        if len(kinds) == 1:
            return self[kinds[0]](x)
        rows = [[i for i, name in enumerate(names) if name == kind] for kind in kinds]
        found = torch.cat([self[kind](x[own]) for kind, own in zip(kinds, rows, strict=True)])
        order = [i for own in rows for i in own]
        return found[sorted(range(len(order)), key=order.__getitem__)]


def pooled_tokens(patches: Tensor, pool: int) -> Tensor:
    """Return tokens (B, P, hidden) of a map (B, hidden, h, w), averages of squares of patches."""
    if pool > 1:
        patches = functional.avg_pool2d(patches, pool, ceil_mode=True)
    return patches.flatten(2).transpose(1, 2)
