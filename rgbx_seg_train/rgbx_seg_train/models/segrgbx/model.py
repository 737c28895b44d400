# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SegRGB-X: one network for RGB and any of five other modalities.

Paper: "SegRGB-X: General RGB-X Semantic Segmentation Model", arXiv 2603.28023. No official code.
Facts (high confidence): MiT encoder shared by both streams, FRM/FFM of CMX at each stage, SegFormer
head. Medium: MA-CLIP (CLIP ViT-B/16 image tower, one LoRA per RGB-X pair). Low: the inside of the
DSRM, see `dsrm.py`. Assumptions of the modality-aligned embedding are told at `StagePrompts`.
Ours: without MA-CLIP (Table VI) there is no control prompt, and the DSRM's S is a learned vector
per modality.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.models.blocks.fusion import FeatureFusion, FeatureRectification
from rgbx_seg_train.models.blocks.mit import MIT_DEPTHS, MIT_DIMS, build_stages, recompute
from rgbx_seg_train.models.blocks.segformer_head import SegformerHead, resize
from rgbx_seg_train.models.family import choose, modality_ids
from rgbx_seg_train.models.segrgbx.dsrm import STRUCTURES, DomainRefinement, DsrmConfig
from rgbx_seg_train.models.segrgbx.ma_clip import RESIZES, ClipConfig, ModalityClip

# whose embedding the RGB stream and the aux stream see, from (S^r, S^m); Tables VII and VIII
PAIRINGS = {
    'aligned': lambda s_rgb, s_aux: torch.cat([s_rgb, s_aux]),
    'cross_modal': lambda s_rgb, s_aux: torch.cat([s_aux, s_rgb]),
    'rgb_dominant': lambda s_rgb, s_aux: torch.cat([s_rgb, s_rgb]),
}


@dataclass(frozen=True)
class SegRGBXConfig:
    """All sizes and choices; a component set to None or 0 is switched off (Table VI)."""

    dims: tuple[int, int, int, int] = MIT_DIMS  # channels of the four stages
    depths: tuple[int, int, int, int] = MIT_DEPTHS['b2']  # blocks of the four stages
    heads: tuple[int, int, int, int] = (1, 2, 5, 8)  # attention heads, also of the FFM
    reductions: tuple[int, int, int, int] = (8, 4, 2, 1)  # spatial reduction of keys and values
    ratios: tuple[int, int, int, int] = (4, 4, 4, 4)  # MLP width over channels
    drop_path: float = 0.1  # highest rate of stochastic depth
    prompts: int = 8  # learned modality-aligned prompts per stage and modality; 0 = none
    pairing: str = 'rgb_dominant'  # whose S makes a stream's control prompt (Table VII)
    clip: ClipConfig | None = field(default_factory=ClipConfig)  # MA-CLIP
    dsrm: DsrmConfig | None = field(default_factory=DsrmConfig)  # refinement in stage 4
    aux_mean: float = 0.0  # subtracted from aux before the encoder; the paper feeds aux as it is
    aux_std: float = 1.0  # what aux is divided by after that
    head_embed: int = 512  # width of the head
    head_dropout: float = 0.1  # dropout of whole channels before the classifier
    head_folded: bool = False  # multiply the head's linear maps before applying them

    def __post_init__(self) -> None:
        """Refuse names that no table holds."""
        choose('segrgbx', 'pairing', self.pairing, PAIRINGS)
        _divide('heads', self.dims, self.heads)
        if self.clip is not None:
            choose('segrgbx', 'clip.resize', self.clip.resize, RESIZES)
            _divide('clip.heads', (self.clip.hidden,), (self.clip.heads,))
        if self.dsrm is not None:
            choose('segrgbx', 'dsrm.pairing', self.dsrm.pairing, PAIRINGS)
            choose('segrgbx', 'dsrm.structure', self.dsrm.structure, STRUCTURES)
            _divide('dsrm.heads', self.dims[-1:], (self.dsrm.heads,))
            if not self.dsrm.share and self.dsrm.layers % 2:
                raise RgbxSegError(
                    f'segrgbx: dsrm.layers is {self.dsrm.layers} without dsrm.share, expected an '
                    'even number, half of them for each stream; choose one.'
                )


def _divide(name: str, widths: tuple[int, ...], heads: tuple[int, ...]) -> None:
    if any(width % n for width, n in zip(widths, heads, strict=True)):
        raise RgbxSegError(
            f'segrgbx: {name} is {heads}, expected divisors of the widths {widths}; choose others.'
        )


_MIT = {
    # the narrow heads are SegFormer's and CMNeXt's
    'b0': SegRGBXConfig(dims=(32, 64, 160, 256), depths=MIT_DEPTHS['b0'], head_embed=256),
    'b1': SegRGBXConfig(depths=MIT_DEPTHS['b1'], head_embed=256),
    **{name: SegRGBXConfig(depths=MIT_DEPTHS[name]) for name in ('b2', 'b3', 'b4', 'b5')},
}
PRESETS: dict[str, SegRGBXConfig] = {
    # sized for training from scratch on a few CPU cores at 240x320
    'tiny': SegRGBXConfig(
        dims=(32, 64, 128, 160), depths=(1, 1, 2, 2), heads=(1, 2, 4, 5), drop_path=0.0, prompts=4,
        clip=ClipConfig(hidden=128, layers=3, heads=4, image_size=112, embed=128, lora_rank=4,
                        resize='bilinear', attention='eager', frozen=False),
        dsrm=DsrmConfig(layers=1, grid=(8, 10), gate=64, heads=5),
        aux_mean=0.45, aux_std=0.225, head_embed=96, head_dropout=0.0, head_folded=True,
    ),
    'small': _MIT['b0'],
    'base': _MIT['b1'],
    'full': _MIT['b2'],  # the paper's
    **_MIT,
}


class Embeddings(NamedTuple):
    """What MA-CLIP says of a batch; it describes the whole scene and changes slowly."""

    s_rgb: Tensor  # (B, embed)
    s_aux: Tensor  # (B, embed)


class StagePrompts(nn.Module):
    """The prompts M = [P; C] of one stage (section III-C).

    The paper's: P learned, for a stage and a modality; C made from S by an MLP; blocks see [E; M]
    and hand on the outputs of E alone, so every block of the stage reads the same M.
    Ours: 8 tokens P, RGB having its own; the MLP is one linear layer and C one token. The spatial
    reduction of MiT's attention is a strided convolution, which prompts cannot pass, so they join
    keys and values after it (`blocks.mit`); as their own outputs are dropped, the formula stays.
    """

    def __init__(self, streams: int, prompts: int, dim: int, embed: int) -> None:
        super().__init__()
        self.aligned = nn.Parameter(torch.empty(streams, prompts, dim)) if prompts else None
        self.control = nn.Linear(embed, dim) if embed else None
        if self.aligned is not None:
            nn.init.trunc_normal_(self.aligned, std=0.02)

    def forward(self, stream: Tensor, s: Tensor | None) -> Tensor | None:
        """Return prompts (2B, P, C) for stream ids (2B,) and embeddings (2B, embed), or None."""
        parts = []
        if self.aligned is not None:
            parts.append(self.aligned[stream])
        if self.control is not None:
            parts.append(self.control(s)[:, None])
        return torch.cat(parts, dim=1) if parts else None


class SegRGBX(nn.Module):
    """The network; both streams travel as one batch [rgb; aux] through all shared parts."""

    COMPONENTS = tuple(
        (component, rf'(?:network\.)?(?:{names})(?:\..+)?') for component, names in (
            ('encoder', 'stages'), ('prompts', 'prompts'), ('frm', 'rectify'), ('ffm', 'fuse'),
            ('dsrm', 'dsrm|learned_s'), ('head', 'head'),
            ('lora', r'clip\..+\.lora_[AB]'), ('clip', 'clip'),
        )
    )

    def __init__(
        self, config: SegRGBXConfig, n_classes: int, modalities: tuple[str, ...] = MODALITIES
    ) -> None:
        super().__init__()
        self.config, self.n_classes, self.modalities = config, n_classes, tuple(modalities)
        embed = config.clip.embed if config.clip else 0
        streams = 1 + len(modalities)  # stream id 0 is RGB
        self.stages = build_stages(
            config.dims, config.depths, config.heads, config.reductions, config.ratios,
            config.drop_path,
        )
        self.prompts = nn.ModuleList(
            StagePrompts(streams, config.prompts, dim, embed) for dim in config.dims
        )
        self.rectify = nn.ModuleList(FeatureRectification(dim) for dim in config.dims)
        self.fuse = nn.ModuleList(map(FeatureFusion, config.dims, config.heads))
        self.dsrm = self._build_dsrm(embed or config.dims[-1])
        self.head = SegformerHead(
            config.dims, config.head_embed, n_classes, config.head_dropout, config.head_folded
        )
        self.apply(_init_weights)
        nn.init.trunc_normal_(self.head.classify.weight, std=0.02)
        self.clip = ModalityClip(config.clip, self.modalities) if config.clip else None
        if config.dsrm and not config.clip:
            self.learned_s = nn.Parameter(torch.empty(streams, config.dims[-1]))
            nn.init.trunc_normal_(self.learned_s, std=0.02)
        self.checkpointing = False

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute most activations again in the backward pass instead of keeping them, or not.

        Loss and gradients stay the same. FFM and head are not among them: they hold BatchNorm.
        """
        self.checkpointing = on
        for stage in self.stages:
            stage.checkpointing = on
        if self.clip is not None:
            self.clip.checkpointing = on

    def _build_dsrm(self, embed: int) -> nn.ModuleList:
        """One list of modules for both streams, or one list each; empty if switched off."""
        config = self.config.dsrm
        if config is None:
            return nn.ModuleList()
        lists, layers = (1, config.layers) if config.share else (2, config.layers // 2)
        return nn.ModuleList(
            nn.ModuleList(DomainRefinement(self.config.dims[-1], embed, config)
                          for _ in range(layers))
            for _ in range(lists)
        )

    def forward(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor,
        embeddings: Embeddings | None = None, stride: int = 1,
    ) -> Tensor:
        """Segment pairs of images; one batch may mix modalities.

        rgb: (B, 3, H, W), ImageNet-normalized; aux: (B, 3, H, W) in [0, 1]; modality: B names, or
        ids (B,) into `self.modalities`; embeddings: MA-CLIP's, if already known;
        stride: of the logits (a training loss at stride 2 costs a quarter of one at 1).
        Returns logits (B, n_classes, H/stride, W/stride).
        """
        ids = modality_ids(modality, self.modalities)
        if embeddings is None:
            embeddings = self.embed(rgb, aux, ids)
        stream = torch.tensor([0] * len(ids) + [1 + i for i in ids], device=rgb.device)
        logits = self._segment(rgb, aux, stream, embeddings)
        # torch resizes few channels several times faster in this layout
        return resize(logits.contiguous(), (rgb.shape[2] // stride, rgb.shape[3] // stride))

    def embed(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Sequence[int] | Tensor
    ) -> Embeddings | None:
        """Return MA-CLIP's embeddings of both images of each pair, or None without MA-CLIP."""
        if self.clip is None:
            return None
        names = [self.modalities[i] for i in modality_ids(modality, self.modalities)]
        return Embeddings(*self.clip(rgb, aux, names))

    def _segment(
        self, rgb: Tensor, aux: Tensor, stream: Tensor, embeddings: Embeddings | None
    ) -> Tensor:
        control = embeddings and PAIRINGS[self.config.pairing](*embeddings)  # (2B, embed)
        aux = (aux - self.config.aux_mean) / self.config.aux_std
        x = torch.cat([rgb, aux])  # (2B, 3, H, W)
        fused = []
        for i, stage in enumerate(self.stages):
            x = stage(x, self.prompts[i](stream, control))  # (2B, C_i, H_i, W_i)
            if i == 3 and self.config.dsrm:
                x = self._refine(x, stream, embeddings)
            again = self.checkpointing and self.training
            x_rgb, x_aux = recompute(self.rectify[i], again, *x.chunk(2))
            fused.append(self.fuse[i](x_rgb, x_aux))  # (B, C_i, H_i, W_i)
            x = torch.cat([x_rgb, x_aux])
        return self.head(fused)  # (B, n_classes, H/4, W/4)

    def _refine(self, x: Tensor, stream: Tensor, embeddings: Embeddings | None) -> Tensor:
        """Pass both streams through the DSRMs of stage 4."""
        s = PAIRINGS[self.config.dsrm.pairing](
            *(embeddings or self.learned_s[stream].chunk(2))
        )
        parts = zip(x.chunk(len(self.dsrm)), s.chunk(len(self.dsrm)), self.dsrm, strict=True)
        refined = []
        for part, part_s, modules in parts:
            for module in modules:
                part = recompute(module, self.checkpointing and self.training, part, part_s)
            refined.append(part)
        return torch.cat(refined)

    def merge(self, modality: str) -> MergedSegRGBX:
        """Return a copy for one modality: LoRA merged, prompts baked, `forward(rgb, aux)`."""
        return MergedSegRGBX(self, modality)


class MergedSegRGBX(nn.Module):
    """SegRGB-X for one modality, in eval mode and without peft: what is exported.

    MA-CLIP's embeddings describe the whole scene and change slowly, so a robot may compute them
    with `embed` for every k-th pair only, and hand them to `forward` until the next.
    """

    COMPONENTS = SegRGBX.COMPONENTS

    def __init__(self, model: SegRGBX, modality: str) -> None:
        super().__init__()
        self.modality = modality
        self.scene_width = model.config.clip.embed if model.config.clip else 0
        streams = [0, 1 + modality_ids([modality], model.modalities)[0]]
        network = copy.deepcopy(model)
        if model.clip is not None:
            network.clip = model.clip.merge(modality)
        for prompts in network.prompts:
            if prompts.aligned is not None:
                prompts.aligned = nn.Parameter(prompts.aligned.detach()[streams].clone())
        if model.config.dsrm and not model.config.clip:
            network.learned_s = nn.Parameter(network.learned_s.detach()[streams].clone())
        network.modalities = (modality,)
        self.network = network
        self.eval()

    def embed(self, rgb: Tensor, aux: Tensor) -> Embeddings:
        """Return S^r and S^m, each (B, scene_width); a model without MA-CLIP has none."""
        embeddings = self.network.embed(rgb, aux, [0] * rgb.shape[0])
        if embeddings is None:
            raise RgbxSegError(
                'segrgbx: found a model without MA-CLIP, expected one to embed a scene; '
                'call forward without embeddings.'
            )
        return embeddings

    def forward(
        self, rgb: Tensor, aux: Tensor, s_rgb: Tensor | None = None, s_aux: Tensor | None = None
    ) -> Tensor:
        """Segment pairs as `SegRGBX.forward` does; returns logits (B, n_classes, H, W).

        s_rgb, s_aux: what `embed` said of this pair or of one shortly before; else it is asked.
        """
        embeddings = None
        if s_rgb is not None and s_aux is not None:
            embeddings = Embeddings(s_rgb, s_aux)
        return self.network(rgb, aux, [0] * rgb.shape[0], embeddings)


def _init_weights(module: nn.Module) -> None:
    """Initialize as SegFormer does; norms and BatchNorm keep torch's ones and zeros."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
