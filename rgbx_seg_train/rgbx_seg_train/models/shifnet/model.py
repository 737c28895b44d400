# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SHIFNet: RGB and thermal through one frozen SAM 2.1 encoder, fused and read out by text.

Paper: "Unveiling the Potential of Segment Anything Model 2 for RGB-Thermal Semantic Segmentation
with Language Guidance", arXiv 2503.02581. Official code: iAsakiT3T/SHIFNet at c9610f2; where the
two differ the code is followed, since it alone has the published parameter count (`fusion.py` and
`decoder.py` say where). The trunk is `transformers`' own: adapters wrap its attentions and MLPs.
Ours: any image size, class embeddings that may be exchanged at run time, and the modality is not
an input: aux may be any image in [0, 1], though only thermal was published.
Sizes that are no multiple of 32 are scaled up to the next one, as the official evaluation does: it
is what the published scores were measured with, and no window sees a padded border. The logits are
scaled from stride 4 to the given size at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.models.blocks.hiera import HIERA, STRIDE, HieraConfig, build_hiera
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.blocks.segformer_head import resize
from rgbx_seg_train.models.family import choose, modality_ids
from rgbx_seg_train.models.shifnet.decoder import DECODERS, PromptingDecoder
from rgbx_seg_train.models.shifnet.fusion import FUSIONS
from rgbx_seg_train.preprocess import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class SHIFNetConfig:
    """All sizes and choices."""

    hiera: HieraConfig = field(default_factory=HieraConfig)  # the trunk
    frozen: bool = True  # trunk and neck keep SAM's weights; False trains them from scratch
    adapter_ratio: float = 0.25  # hidden width of the adapters over a block's width
    width: int = 256  # channels of the pyramid
    text_dim: int = 768  # width of the class embeddings
    fusion: str = 'sacf'  # Table VI
    fusion_blocks: int = 2  # ConvNeXt blocks of SACF
    decoder: str = 'hpd'  # Tables VII and VIII
    squeezed: int = 8  # channels that SEM is squeezed to
    dropout: float = 0.1  # of whole channels before the similarity
    raw_range: bool = False  # feed 0..255 as the official PST900 checkpoint expects

    def __post_init__(self) -> None:
        """Refuse names that no table holds."""
        choose('shifnet', 'fusion', self.fusion, FUSIONS)
        choose('shifnet', 'decoder', self.decoder, DECODERS)


_FULL = SHIFNetConfig()
PRESETS: dict[str, SHIFNetConfig] = {
    # sized for training from scratch on a few CPU cores
    'micro': SHIFNetConfig(
        hiera=HieraConfig(dim=16, heads=1, depths=(1, 1, 2, 1), windows=(8, 4, 8, 4),
                          global_blocks=(3,)),
        frozen=False, width=64, text_dim=96, fusion_blocks=1, dropout=0.0,
    ),
    'tiny': replace(_FULL, hiera=HIERA['tiny']),
    'small': replace(_FULL, hiera=HIERA['small']),
    'base': replace(_FULL, hiera=HIERA['base_plus']),
    'full': _FULL,
}


class Adapter(nn.Sequential):
    """Linear, GELU, linear through a narrow waist."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class AdaptedAttention(nn.Module):
    """A block's attention and the adapter after it, which has a skip of its own ("Space")."""

    def __init__(self, inner: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """Map the tokens of windows (B', h, w, C) as the attention does."""
        x = self.inner(hidden_states, **options)
        return x + self.adapter(x)


class AdaptedMLP(nn.Module):
    """A block's MLP and half of the adapter beside it ("MLP")."""

    def __init__(self, inner: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.inner, self.adapter = inner, adapter

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized tokens (B, h, w, C) to (B, h, w, C)."""
        return self.inner(x) + 0.5 * self.adapter(x)


class SHIFNet(nn.Module):
    """The network; both streams travel as one batch [rgb; aux] through the encoder."""

    COMPONENTS = (
        ('adapters', r'encoder\.backbone\.blocks\.\d+\.(attn|mlp)\.adapter(\..+)?'),
        ('trunk', r'encoder\.backbone(\..+)?'),
        ('neck', r'encoder\.neck(\..+)?'),
        ('sacf', r'fusion(\..+)?'),
        ('hpd', r'decoder(\..+)?'),
    )

    def __init__(
        self, config: SHIFNetConfig, n_classes: int, modalities: tuple[str, ...] = MODALITIES
    ) -> None:
        super().__init__()
        self.config, self.n_classes, self.modalities = config, n_classes, tuple(modalities)
        self.encoder = build_hiera(config.hiera, config.width)
        self.encoder.requires_grad_(not config.frozen)
        for block in self.encoder.backbone.blocks:
            hidden = int(block.dim_out * config.adapter_ratio)
            block.attn = AdaptedAttention(block.attn, Adapter(block.dim_out, hidden))
            block.mlp = AdaptedMLP(block.mlp, Adapter(block.dim_out, hidden))
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        fusion = FUSIONS[config.fusion]
        self.fusion = nn.ModuleList(
            fusion(config.width, config.text_dim, config.fusion_blocks) for _ in range(4)
        )
        self.decoder = DECODERS[config.decoder](
            config.width, config.text_dim, config.squeezed, config.dropout, n_classes
        )
        self.register_buffer('class_embeddings', _placeholder(n_classes, config.text_dim))
        self.set_gradient_checkpointing(False)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute most activations again in the backward pass instead of keeping them, or not.

        Loss and gradients stay the same. HPD is not among them: it holds BatchNorm.
        """
        self.checkpointing = on
        for block in self.encoder.backbone.blocks:
            block.gradient_checkpointing = on
        self.train(self.training)

    def train(self, mode: bool = True) -> SHIFNet:
        """Set the mode of all but the frozen parts, which stay in eval mode."""
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
            for block in self.encoder.backbone.blocks:
                block.attn.adapter.train(mode)
                block.mlp.adapter.train(mode)
                # `transformers` checkpoints only then; nothing else in a block asks for its mode
                block.training = mode and block.gradient_checkpointing
        return self

    def forward(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor, stride: int = 1,
        classes: Tensor | None = None
    ) -> Tensor:
        """Segment pairs of images.

        rgb: (B, 3, H, W), ImageNet-normalized; aux: (B, 3, H, W) in [0, 1], sides of 32 or more;
        modality: B names, or ids (B,) into `self.modalities`; it changes nothing; classes: rows
        (N, text_dim), `class_embeddings` if none are given.
        Returns logits (B, N, H/stride, W/stride).
        """
        modality_ids(modality, self.modalities)
        size = rgb.shape[2] // stride, rgb.shape[3] // stride
        if self.config.raw_range:
            rgb, aux = to_raw_range(rgb, aux)
        images = fit(torch.cat([rgb, aux]))  # (2B, 3, H', W')
        pyramid = self.encoder(images).fpn_hidden_states  # (2B, width, H'/s, W'/s), s = 4, 8, ...
        again = self.checkpointing and self.training
        classes = self.class_embeddings if classes is None else classes
        fused = [recompute(fuse, again, *level.chunk(2), classes)
                 for fuse, level in zip(self.fusion, pyramid, strict=True)]
        logits = self.decoder(fused, classes)  # (B, N, H'/4, W'/4)
        # torch resizes few channels several times faster in this layout
        return functional.interpolate(
            logits.contiguous(), size=size, mode='bilinear', align_corners=True
        )

    def set_classes(self, embeddings: Tensor) -> None:
        """Segment from now on into the classes of these embeddings (N, text_dim).

        Their lengths count: SACF reads the mean of the rows as they are, HPD only their directions.
        """
        shape = tuple(embeddings.shape)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.config.text_dim:
            raise RgbxSegError(f'class embeddings: found shape {shape}, expected (classes, '
                               f'{self.config.text_dim}); make them with the text model that the '
                               'weights were trained with.')
        if not embeddings.isfinite().all() or not embeddings.any(dim=1).all():
            raise RgbxSegError('class embeddings: found values that are no numbers, or rows of '
                               'zeros; expected one direction per class; make them anew.')
        if self.config.decoder == 'segformer' and shape[0] != self.n_classes:
            raise RgbxSegError(f'class embeddings: found {shape[0]} rows, expected '
                               f'{self.n_classes}: the classes of the decoder "segformer" are '
                               'trained weights; use the decoder "hpd" for other classes.')
        self.class_embeddings = embeddings.detach().to(self.class_embeddings, copy=True)
        self.n_classes = shape[0]

    def merge(self, modality: str) -> MergedSHIFNet:
        """Return a copy for one modality, `forward(rgb, aux)`."""
        return MergedSHIFNet(self, modality)


class MergedSHIFNet(nn.Module):
    """SHIFNet for one modality, in eval mode: what is exported."""

    scene_width = 0  # nothing outlives a frame

    def __init__(self, model: SHIFNet, modality: str) -> None:
        super().__init__()
        modality_ids([modality], model.modalities)
        self.modality = modality
        self.network = copy.deepcopy(model)
        self.network.modalities = (modality,)
        reads = isinstance(self.network.decoder, PromptingDecoder)
        self.text_width = model.config.text_dim if reads else 0
        self.eval()

    @property
    def class_rows(self) -> Tensor:
        """Return the rows (N, text_width) of the classes that it has of its own."""
        return self.network.class_embeddings

    def forward(self, rgb: Tensor, aux: Tensor, classes: Tensor | None = None) -> Tensor:
        """Segment pairs as `SHIFNet.forward` does; returns logits (B, N, H, W).

        classes: rows (N, text_width) in place of its own, where `text_width` is not 0.
        """
        return self.network(rgb, aux, [self.modality], classes=classes)


def fit(images: Tensor) -> Tensor:
    """Scale (B, 3, H, W) up to the next multiples of 32; what is one already stays as it is."""
    size = tuple(-(-side // STRIDE) * STRIDE for side in images.shape[2:])
    return images if size == tuple(images.shape[2:]) else resize(images, size)


def to_raw_range(rgb: Tensor, aux: Tensor) -> tuple[Tensor, Tensor]:
    """Return images as the official PST900 loader makes them: in 0..255 where [0, 1] was meant.

    It subtracts ImageNet's mean and divides by its deviation all the same, so that
    rgb' = (255 x - mean) / std for rgb = (x - mean) / std, and aux' = 255 aux.
    """
    mean, std = (torch.tensor(values, device=rgb.device).view(1, 3, 1, 1)
                 for values in (IMAGENET_MEAN, IMAGENET_STD))
    return 255 * rgb + 254 * mean / std, 255 * aux


def _placeholder(n_classes: int, dim: int) -> Tensor:
    """Unit rows in random directions, always the same: classes without names."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(n_classes, dim, generator=random, device='cpu')
    return torch.empty(n_classes, dim).copy_(functional.normalize(rows, dim=1))
