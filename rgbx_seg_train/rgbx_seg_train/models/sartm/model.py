# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SARTM: SAM 2 for RGB and thermal by LoRA, with a class head, a second head and distillation.

Paper: "Segment Any RGB-Thermal Model with Language-aided Distillation", arXiv 2505.01950. Official
code: wahaha-debug/SARTM at 5327908, its training script at f48b548; where the paper is silent the
code is followed. `lora.py`, `decoder.py` and `distill.py` say what they take from which.
Mended, against the code: fusion sees both images (there, RGB twice), the auxiliary head learns, an
image passes the LoRA of its own modality in its full width, prototypes are averaged once, and no
frozen score decides whether there is anything to segment. `compat` brings back what the released
checkpoint was trained with: one LoRA of three times the rank for all images, of which
`convert.py` leaves a part of the rows zero, fusion of RGB with itself, and that score.
Chosen where the sources leave it open: L = CE(masks) + w1 CE(aux) + w2 L_cr + w3 L_se (the order of
the weights is the script's); trunk and neck frozen, LoRA, fusion, both heads trained, also the mask
decoder, which the paper's figure shows as frozen and the code trains; the answer is the mask
decoder's alone (`branch`), that is, each modality's own masks, averaged: the fused features then
serve training alone, and an exported model has none. A token and MLP of "no class" is kept as a
token. Ours: any image size, padded by black on the right and below to multiples of 32, or to the
square `canvas` as the published evaluation does; a LoRA set for each of several modalities.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES, UNLABELED
from rgbx_seg_train.models.blocks.fusion import FeatureFusion, FeatureRectification
from rgbx_seg_train.models.blocks.hiera import HIERA, STRIDE, HieraConfig, build_hiera
from rgbx_seg_train.models.blocks.segformer_head import resize
from rgbx_seg_train.models.family import Outputs, check_sizes, choose, modality_ids
from rgbx_seg_train.models.sartm.decoder import AuxiliaryHead, MaskDecoder
from rgbx_seg_train.models.sartm.distill import Distillation
from rgbx_seg_train.models.sartm.lora import AdaptedQKV, Streams
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD

RGB = 'rgb'  # the LoRA set of the first image
ALL = 'all'  # the only one of `compat`
BRANCHES = ('sam', 'aux', 'both')
LEVELS = 3  # of the neck's four that are read: strides 4, 8, 16


@dataclass(frozen=True)
class SARTMConfig:
    """All sizes and choices."""

    hiera: HieraConfig = field(default_factory=lambda: HIERA['base_plus'])  # the trunk
    frozen: bool = True  # trunk and neck keep SAM's weights; False trains them from scratch
    width: int = 256  # channels of the pyramid; its finer levels have an eighth and a quarter
    rank: int = 16  # of the LoRA
    fusion_heads: tuple[int, int, int] = (1, 2, 4)  # of the FFM of each level, finest first
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    aux_head: bool = True
    branch: str = 'sam'  # whose logits are the answer; 'both': the mean of their softmax
    text_dim: int = 512  # width of the class embeddings
    aux_weight: float = 0.008  # w1, of the auxiliary head's cross entropy
    prototype_weight: float = 10000.0  # w2, of L_cr
    text_weight: float = 100.0  # w3, of L_se
    momentum: float = 0.9  # of the prototypes' running mean
    canvas: int = 0  # side of the square that images are padded to; 0: the next multiples of 32
    compat: bool = False  # as the released checkpoint was trained

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        choose('sartm', 'branch', self.branch, BRANCHES)
        if self.branch != 'sam' and not self.aux_head:
            raise RgbxSegError(f'sartm: branch is {self.branch!r} without aux_head; expected '
                               '"sam"; choose that, or switch aux_head on.')
        if self.canvas % STRIDE or self.canvas < 0:
            raise RgbxSegError(f'sartm: canvas is {self.canvas}; expected 0 or a multiple of '
                               f'{STRIDE}, such as 1280; correct it.')
        check_sizes('sartm', {name: getattr(self, name) for name in (
            'width', 'rank', 'fusion_heads', 'decoder_layers', 'decoder_heads', 'decoder_hidden',
            'text_dim')})
        if self.width % 8 or self.width // 2 % self.decoder_heads or any(
                dim % heads for dim, heads in zip(self.dims, self.fusion_heads, strict=True)):
            raise RgbxSegError(f'sartm: width is {self.width}, decoder_heads {self.decoder_heads}, '
                               f'fusion_heads {list(self.fusion_heads)}; expected a multiple of 8 '
                               'whose half decoder_heads divides, and whose eighth, quarter and '
                               'whole fusion_heads divide; choose such as 256, 8 and [1, 2, 4].')
        if not 0 <= self.momentum < 1:
            raise RgbxSegError(f'sartm: momentum is {self.momentum}; expected 0 to below 1, such '
                               'as 0.9; correct it.')
        for name in ('aux_weight', 'prototype_weight', 'text_weight'):
            if not 0 <= getattr(self, name) < math.inf:
                raise RgbxSegError(f'sartm: {name} is {getattr(self, name)}; expected a number of '
                                   'at least 0; correct it.')

    @property
    def dims(self) -> tuple[int, int, int]:
        """Channels of the three levels that are fused, finest first."""
        return self.width // 8, self.width // 4, self.width

    @property
    def distills(self) -> bool:
        """Return whether any term of CMKD counts."""
        return self.prototype_weight > 0 or self.text_weight > 0


_FULL = SARTMConfig()
PRESETS: dict[str, SARTMConfig] = {
    # sized for training from scratch on a few CPU cores
    'tiny': SARTMConfig(
        hiera=HieraConfig(dim=32, heads=1, depths=(1, 2, 3, 1), windows=(8, 4, 8, 4),
                          global_blocks=(4, 5)),
        frozen=False, width=128, rank=4, decoder_heads=4, decoder_hidden=128, branch='aux',
        aux_weight=1.0, prototype_weight=100.0,
    ),
    'small': replace(_FULL, hiera=HIERA['tiny']),
    'base': replace(_FULL, hiera=HIERA['small']),
    'full': _FULL,
    'large': replace(_FULL, hiera=HIERA['large']),
}


class Fusion(nn.Module):
    """FRM and FFM of one level."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.rectify, self.fuse = FeatureRectification(dim), FeatureFusion(dim, heads)

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Fuse two (B, C, H, W) streams into one."""
        return self.fuse(*self.rectify(rgb, aux))


class SARTM(nn.Module):
    """The network; both streams travel as one batch [rgb; aux] through trunk and mask decoder."""

    sees_target = True
    COMPONENTS = (
        ('lora', r'encoder\.backbone\.blocks\.\d+\.attn\.qkv\.lora(\..+)?'),
        ('trunk', r'encoder\.backbone(\..+)?'),
        ('neck', r'encoder\.neck(\..+)?'),
        ('mask_decoder', r'decoder(\..+)?'),
        ('fusion', r'fusion(\..+)?'),
        ('aux_head', r'aux_head(\..+)?'),
    )

    def __init__(
        self, config: SARTMConfig, n_classes: int, modalities: tuple[str, ...] = MODALITIES
    ) -> None:
        super().__init__()
        self.config, self.n_classes, self.modalities = config, n_classes, tuple(modalities)
        self.encoder = build_hiera(config.hiera, config.width)
        self.encoder.requires_grad_(not config.frozen)
        self._streams = Streams()
        names, rank = ((ALL,), 3 * config.rank) if config.compat else (
            (RGB, *self.modalities), config.rank)
        for block in self.encoder.backbone.blocks:
            block.attn.qkv = AdaptedQKV(block.attn.qkv, rank, names, self._streams)
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        self.decoder = MaskDecoder(config.width, n_classes, config.decoder_layers,
                                   config.decoder_heads, config.decoder_hidden, config.compat)
        for layer in self.decoder.transformer.layers:
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        if config.frozen:
            self._freeze_prompt()
        else:
            self._start_afresh()
        fused = (config.aux_head, config.aux_head, config.aux_head or config.distills)
        self.fusion = nn.ModuleList(
            Fusion(dim, heads) if on else nn.Identity()
            for dim, heads, on in zip(config.dims, config.fusion_heads, fused, strict=True))
        self.aux_head = AuxiliaryHead(config.width, n_classes) if config.aux_head else None
        self.common = nn.Identity()  # a mean of both images, for whom this model teaches
        self.distillation = (Distillation(n_classes, config.width, config.text_dim,
                                          config.momentum) if config.distills else None)
        self.loss_weights = {'aux': config.aux_weight, 'prototype': config.prototype_weight,
                             'text': config.text_weight}
        self.set_gradient_checkpointing(False)

    def _freeze_prompt(self) -> None:
        """Keep what SAM learned outside of the mask decoder's own weights."""
        for value in (self.decoder.empty_token, self.decoder.empty_mask):
            value.requires_grad_(False)
        if self.decoder.object_head is not None:
            self.decoder.object_head.requires_grad_(False)

    def _start_afresh(self) -> None:
        """Draw the encoder anew, for a trunk that starts from nothing.

        `transformers` draws all weights with a deviation of 0.02, too little for narrow layers.
        """
        for module in self.encoder.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                module.reset_parameters()
        nn.init.zeros_(self.decoder.empty_mask)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute most activations again in the backward pass instead of keeping them, or not.

        Loss and gradients stay the same. FFM is not among them: it holds BatchNorm.
        """
        for block in (*self.encoder.backbone.blocks, *self.decoder.transformer.layers):
            block.gradient_checkpointing = on
        self.train(self.training)

    def train(self, mode: bool = True) -> SARTM:
        """Set the mode of all but the frozen parts, which stay in eval mode."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
            for block in self.encoder.backbone.blocks:
                # `transformers` checkpoints only then; nothing else there asks for its mode
                block.training = mode and block.gradient_checkpointing
            if self.decoder.object_head is not None:
                self.decoder.object_head.eval()
        return self

    def forward(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor, stride: int = 1,
        target: Tensor | None = None,
    ) -> Tensor | Outputs:
        """Segment pairs of images.

        rgb: (B, 3, H, W), ImageNet-normalized; aux: (B, 3, H, W) in [0, 1]; modality: B names, or
        ids (B,) into `self.modalities`; target: ids int64 (B, H/stride, W/stride), 255 unlabeled.
        Returns logits (B, N, H/stride, W/stride); in training with a target `Outputs`.
        """
        names = [self.modalities[i] for i in modality_ids(modality, self.modalities)]
        self._streams.set([ALL] * (2 * len(names)) if self.config.compat
                          else [RGB] * len(names) + names)
        size = rgb.shape[2] // stride, rgb.shape[3] // stride
        images = pad(rgb, aux, self.config.canvas)
        canvas = images.shape[2] // stride, images.shape[3] // stride

        def cut(logits: Tensor) -> Tensor:
            return resize(logits.contiguous(), canvas)[..., :size[0], :size[1]]

        levels = self.decoder.project(self.encoder(images).fpn_hidden_states[:LEVELS])
        if self.common is not None:
            self.common(sum(levels[-1].chunk(2)) / 2)
        if not self.training or target is None:
            return cut(self._answer(levels))
        auxiliary, terms = {}, {}
        fused = self._fuse(levels)
        if self.aux_head is not None:
            auxiliary['aux'] = cut(self.aux_head(fused))
        if self.distillation is not None:
            border = 0, canvas[1] - size[1], 0, canvas[0] - size[0]
            found = self.distillation(fused[-1], functional.pad(target, border, value=UNLABELED))
            terms = {name: term for name, term in found.items() if self.loss_weights[name] > 0}
        return Outputs(cut(self._masks(levels)), auxiliary, terms)

    def _masks(self, levels: list[Tensor]) -> Tensor:
        """Return the mean of the mask decoder's logits of both images, (B, N, H/4, W/4)."""
        rgb, aux = self.decoder(levels).chunk(2)
        return (rgb + aux) / 2

    def _fuse(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the fused levels; one that nothing reads is the first image's."""
        fused = []
        for fusion, level in zip(self.fusion, levels, strict=True):
            rgb, aux = level.chunk(2)
            on = isinstance(fusion, Fusion)
            fused.append(fusion(rgb, rgb if self.config.compat else aux) if on else rgb)
        return fused

    def _answer(self, levels: list[Tensor]) -> Tensor:
        """Return the logits (B, N, H/4, W/4) of the chosen branch."""
        if self.config.branch == 'sam':
            return self._masks(levels)
        assert self.aux_head is not None
        aux = self.aux_head(self._fuse(levels))
        if self.config.branch == 'aux':
            return aux
        both = torch.stack([self._masks(levels).float(), aux.float()]).log_softmax(dim=2)
        return both.logsumexp(dim=0)  # the logarithm of twice the mean of the probabilities

    def set_classes(self, embeddings: Tensor) -> None:
        """Compare classes by these embeddings of their names (N, text_dim) from now on."""
        shape, expected = tuple(embeddings.shape), (self.n_classes, self.config.text_dim)
        if shape != expected or not embeddings.isfinite().all() or not embeddings.any(1).all():
            raise RgbxSegError(f'class embeddings: found shape {shape}, expected {expected}, a '
                               'direction for each class; make them with rgbx_embed_classes for '
                               'the classes of the data, by a text model of that width.')
        if self.distillation is not None:
            self.distillation.text.copy_(embeddings)

    def remarks(self) -> list[str]:
        """Return what a run should tell of the model's state."""
        if self.distillation is None or not self.config.text_weight:
            return ['CMKD without language: text_weight is 0']
        if self.distillation.knows_names:
            return []
        return ['CMKD without language: no class embeddings were given '
                '(train.class_embeddings), so each class is alike to itself alone']

    def merge(self, modality: str) -> MergedSARTM:
        """Return a copy for one modality, `forward(rgb, aux)`."""
        return MergedSARTM(self, modality)


class MergedSARTM(nn.Module):
    """SARTM for one modality, in eval mode, LoRA in the weights and nothing that trains alone."""

    scene_width = 0  # nothing outlives a frame

    def __init__(self, model: SARTM, modality: str) -> None:
        super().__init__()
        modality_ids([modality], model.modalities)
        self.modality = modality
        self.network = copy.deepcopy(model)
        self.network.modalities = (modality,)
        self.network.distillation = self.network.common = None
        if model.config.branch == 'sam':
            self.network.fusion = self.network.aux_head = None
        for block in self.network.encoder.backbone.blocks:
            block.attn.qkv = (block.attn.qkv.fold(ALL, ALL) if model.config.compat
                              else block.attn.qkv.fold(RGB, modality))
        self.eval()

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Segment pairs as `SARTM.forward` does; returns logits (B, N, H, W)."""
        return self.network(rgb, aux, [self.modality] * rgb.shape[0])


def pad(rgb: Tensor, aux: Tensor, canvas: int) -> Tensor:
    """Return both (B, 3, H, W) as one batch, with black on the right and below.

    To the next multiples of 32, or to squares of side `canvas`.
    """
    height, width = rgb.shape[2:]
    goal = (canvas, canvas) if canvas else tuple(-(-n // STRIDE) * STRIDE for n in (height, width))
    if height > goal[0] or width > goal[1]:
        raise RgbxSegError(f'sartm: found images of {height}x{width}, expected at most '
                           f'{canvas}x{canvas}; choose a larger model.options.canvas, or 0.')
    if goal == (height, width):
        return torch.cat([rgb, aux])
    below, right = goal[0] - height, goal[1] - width
    mean, std = (torch.tensor(values, dtype=rgb.dtype, device=rgb.device).view(3, 1, 1)
                 for values in (IMAGENET_MEAN, IMAGENET_STD))
    black = (-mean / std).expand(rgb.shape[0], 3, 1, 1)
    rgb = torch.cat([rgb, black.expand(-1, -1, height, right)], dim=3)
    rgb = torch.cat([rgb, black.expand(-1, -1, below, goal[1])], dim=2)
    return torch.cat([rgb, functional.pad(aux, (0, right, 0, below))])
