# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER: a language model fuses RGB, a second image and text into codes that segment the scene.

Paper: "MASTER: Multimodal Segmentation with Text Prompts", arXiv 2503.04199; no official code. High
confidence: two paths through a fixed CLIP-ViT-L/14-336, V->T, a codebook that LLaVA-7B with LoRA
turns into C_out, V->D and a light decoder, one scale. The inner sizes are our reading, PixelLM's
wherever it has the same part, and fields of the configuration: `vision.py`, `language.py`,
`prompt.py` and `decoder.py` name them.
Ours: each modality of the second image has its own V->T and V->D, so that one model may serve
several, of which the paper knows thermal; any image size; and C_out may be kept from frame to
frame, since a language model per frame is far from real time: vision and decoder follow each frame.
Only what runs is built: no layer of CLIP after the last one read, and no head for words.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train import byte_text
from rgbx_seg_train.models.blocks.segformer_head import resize
from rgbx_seg_train.models.family import modality_ids
from rgbx_seg_train.models.master.decoder import CodebookHead, DecoderConfig, MaskDecoder
from rgbx_seg_train.models.master.language import Language, LanguageOptions
from rgbx_seg_train.models.master.prompt import BYTES, PromptOptions
from rgbx_seg_train.models.master.vision import (
    RGB,
    OfModalities,
    Patches,
    ToDecoder,
    ToLanguage,
    VisionConfig,
    pooled_tokens,
)


@dataclass(frozen=True)
class MASTERConfig:
    """All sizes and choices."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    language: LanguageOptions = field(default_factory=LanguageOptions)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)


_FULL = MASTERConfig()
PRESETS: dict[str, MASTERConfig] = {
    # sized for training from scratch on a few CPU cores
    'tiny': MASTERConfig(
        vision=VisionConfig(hidden=128, layers=3, heads=4, image_size=128, patch_size=8,
                            features=(-1,), fit='native', stem=True, pool=4, frozen=False),
        language=LanguageOptions(
            width=96, layers=2, heads=3, hidden=256, vocabulary=byte_text.VOCABULARY, frozen=False,
            lora_rank=4, lora_alpha=4, lora_dropout=0.0,
            prompt=PromptOptions(system='', tokenizer=BYTES)),
        decoder=DecoderConfig(dim=96, heads=4, hidden=192, fine=64, plain=True),
    ),
    # published weights of other sizes behind the same words; nobody trained MASTER on them
    'small': MASTERConfig(
        vision=VisionConfig(hidden=768, layers=12, heads=12, image_size=224, patch_size=16),
        language=LanguageOptions(width=768, layers=12, heads=12, hidden=3072, vocabulary=32000,
                                 norm_eps=1e-6)),
    'base': MASTERConfig(
        language=LanguageOptions(width=2048, layers=24, heads=16, hidden=5504, vocabulary=32000)),
    'full': _FULL,
}


class FusedFeatures(nn.Module):
    """V->D of both images, summed: what the decoder sees of one layer of CLIP."""

    def __init__(self, hidden: int, config: DecoderConfig, modalities: Sequence[str]) -> None:
        super().__init__()
        self.project = OfModalities(lambda: ToDecoder(hidden, config.dim), modalities)
        self.finish = nn.Sequential(
            nn.BatchNorm2d(config.dim), nn.ReLU()) if config.plain else nn.Identity()

    def forward(self, patches: Tensor, names: Sequence[str]) -> Tensor:
        """Map patches (2B, hidden, h, w) of [rgb; aux] to (B, dim, h, w)."""
        rgb, aux = patches.chunk(2)
        return self.finish(self.project[RGB](rgb) + self.project.aux(aux, names))


class MASTER(nn.Module):
    """The network; both images travel as one batch [rgb; aux] through CLIP."""

    COMPONENTS = (
        ('lora', r'language\.llm\..+\.lora_[AB](\..+)?'),
        ('vision', r'vision(\..+)?'),
        ('to_language_rgb', r'to_language\.rgb(\..+)?'),
        ('to_language_aux', r'to_language(\..+)?'),
        ('codebook', r'language(\.codebook)?'),
        ('language', r'language\..+'),
        ('head', r'head(\..+)?'),
        ('to_decoder_rgb', r'to_decoder\.\d+\.project\.rgb(\..+)?'),
        ('to_decoder_aux', r'to_decoder(\..+)?'),
        ('decoder', r'decoder(\..+)?'),
    )

    def __init__(
        self, config: MASTERConfig, n_classes: int, modalities: tuple[str, ...] = MODALITIES
    ) -> None:
        super().__init__()
        self.config, self.n_classes, self.modalities = config, n_classes, tuple(modalities)
        hidden, dim = config.vision.hidden, config.decoder.dim
        scales = len(config.vision.features)
        self.vision = Patches(config.vision)
        self.language = Language(config.language, n_classes)
        width = self.language.width
        self.to_language = OfModalities(lambda: ToLanguage(hidden, width), modalities)
        self.head = CodebookHead(width, dim, config.language.codes)
        self.to_decoder = nn.ModuleList(
            FusedFeatures(hidden, config.decoder, modalities) for _ in range(scales))
        self.decoder = MaskDecoder(config.decoder, n_classes, scales)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute most activations again in the backward pass instead of keeping them, or not."""
        self.vision.checkpointing = self.decoder.checkpointing = on
        self.language.set_gradient_checkpointing(on)

    def read_classes(self, names: Sequence[str], texts: Sequence[Sequence[str]] = ()) -> None:
        """Let the language model read these names of the classes."""
        self.language.read_classes(names, texts)

    def forward(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor, stride: int = 1,
        codes: Tensor | None = None,
    ) -> Tensor:
        """Segment pairs of images; one batch may mix modalities.

        rgb: (B, 3, H, W), ImageNet-normalized; aux: (B, 3, H, W) in [0, 1]; modality: B names, or
        ids (B,) into `self.modalities`; codes: what `embed` returned, if already known.
        Returns logits (B, n_classes, H/stride, W/stride).
        """
        names = self._names(modality)
        patches = self.vision(rgb, aux)
        if codes is None:
            codes = self._codes(patches[0], names)
        codes = codes.unflatten(1, (self.n_classes, -1))
        maps = [fuse(level, names) for fuse, level in zip(self.to_decoder, patches, strict=True)]
        logits = self.decoder(maps, codes)
        # torch resizes few channels several times faster in this layout
        return resize(logits.contiguous(), (rgb.shape[2] // stride, rgb.shape[3] // stride))

    def embed(self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor) -> Tensor:
        """Return one code per class for each pair, (B, n_classes * dim): the head's of C_out."""
        return self._codes(self.vision(rgb, aux)[0], self._names(modality))

    def _names(self, modality: Sequence[str] | Tensor) -> list[str]:
        return [self.modalities[i] for i in modality_ids(modality, self.modalities)]

    def _codes(self, patches: Tensor, names: Sequence[str]) -> Tensor:
        rgb, aux = pooled_tokens(patches, self.config.vision.pool).chunk(2)
        states = self.language(self.to_language[RGB](rgb), self.to_language.aux(aux, names))
        return self.head(states).flatten(1)

    def merge(self, modality: str) -> MergedMASTER:
        """Return a copy for one modality, `forward(rgb, aux)`: LoRA merged if all is float32."""
        return MergedMASTER(self, modality)


class MergedMASTER(nn.Module):
    """MASTER for one modality, in eval mode: what is exported, then in float32 and without peft.

    A robot may ask the language model for every k-th pair only (`embed`) and let vision and decoder
    segment each pair with the codes of the last.
    """

    scene_tensors = ('codebook',)

    def __init__(self, model: MASTER, modality: str) -> None:
        super().__init__()
        modality_ids([modality], model.modalities)
        self.modality = modality
        self.scene_width = model.n_classes * model.config.decoder.dim
        # the memo spares the copy of a language model that would be merged in another
        network = copy.deepcopy(model, {id(model.language): model.language.merge()})
        network.modalities = (modality,)
        for modules in network.modules():
            if isinstance(modules, OfModalities):
                for other in modules.keys() - {RGB, modality}:
                    del modules[other]
        self.network = network
        self.eval()

    def embed(self, rgb: Tensor, aux: Tensor) -> tuple[Tensor]:
        """Return the codes of all classes for each pair, (B, scene_width)."""
        return (self.network.embed(rgb, aux, self._names(rgb)),)

    def forward(self, rgb: Tensor, aux: Tensor, codebook: Tensor | None = None) -> Tensor:
        """Segment pairs as `MASTER.forward` does; returns logits (B, n_classes, H, W).

        codebook: what `embed` said of this pair or of one shortly before; else it is asked.
        """
        return self.network(rgb, aux, self._names(rgb), codes=codebook)

    def _names(self, images: Tensor) -> list[str]:
        return [self.modality] * images.shape[0]
