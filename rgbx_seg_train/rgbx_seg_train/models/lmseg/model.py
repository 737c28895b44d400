# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""LMSeg: open-vocabulary segmentation by the features of CLIP and SAM and by described classes.

Paper: "LMSeg: Unleashing the Power of Large-Scale Models for Open-Vocabulary Semantic
Segmentation", arXiv 2412.00364; no code is public. From the paper: F = w F_c + (1 - w) F_s of the
two encoders with a learned w, the cosine of F and each class's text, enhancement in space (Swin)
and over the classes (linear transformer), upsampling, and what of the encoders learns: the query
and value projections of CLIP, qkv and "projection layer" of SAM. All sizes, the decoder and the
dense reading of CLIP are CAT-Seg's (arXiv 2303.11797), whose design LMSeg repeats.
Our reading, each an option: SAM is the ViT-B or ViT-L of CLIP's size and reads the same image at
the same stride (of 384x384, both make 24x24); a 1x1 convolution takes its neck to the texts'
width; w is one scalar, sigmoid(a) from a = 2 (or one per channel, or fixed); SAM's "projection
layer" is its neck, not the projection of its attentions; CLIP's position embeddings learn too, as
in CAT-Seg; the decoder is guided by CLIP (or by SAM, or not).
Ours: any image size; and a second image. `aux` names the branch that reads both: 'none' is LMSeg
itself, which ignores aux; 'sam' or 'clip' sends both images through that encoder, and a gate mixes
the two maps at each place and channel, (1 - v) rgb + v aux, where v = sigmoid(b + W [rgb; aux])
with b of the modality. W and b start at zero, so that both images count alike; a blank aux is seen
by W, which can close the gate. What SAM's or CLIP's tokens say to the decoder is mixed likewise.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.blocks.segformer_head import resize
from rgbx_seg_train.models.family import check_sizes, choose, modality_ids
from rgbx_seg_train.models.lmseg.cost import Aggregator, CostOptions
from rgbx_seg_train.models.lmseg.decoder import CostDecoder, Guidance, placed
from rgbx_seg_train.models.lmseg.text import BYTES, ClassTexts, TextOptions
from rgbx_seg_train.models.lmseg.vision import (
    CLIP_LARGE,
    SAM_LARGE,
    ClipOptions,
    DenseClip,
    SamEncoder,
    SamOptions,
    for_clip,
    for_sam,
    from_imagenet,
)

FUSIONS = ('scalar', 'channel', 'fixed')
BRANCHES = ('none', 'clip', 'sam')
FLOOR = -100.0  # the logit of classes that were left out before the aggregation, as in CAT-Seg
READERS = ('clip', 'sam', 'text')  # of whose parameters `trainable` chooses; all others learn
PUBLISHED_TRAINING = (r'(clip|text)\..*\.self_attn\.[qv]_proj\..*'
                      r'|(clip|text)\..*\.position_embedding\.weight'
                      r'|sam\..*\.attn\.qkv\..*|sam\.model\.neck\..*')


@dataclass(frozen=True)
class LMSegConfig:
    """All sizes and choices."""

    clip: ClipOptions = field(default_factory=ClipOptions)
    sam: SamOptions | None = field(default_factory=SamOptions)  # None: F = F_c, which is CAT-Seg
    text: TextOptions = field(default_factory=TextOptions)
    cost: CostOptions = field(default_factory=CostOptions)
    embed: int = 512  # width of F and of the rows of the classes
    grid: tuple[int, int] = (0, 0)  # tokens of every image; 0 = as many as it has patches
    fusion: str = 'scalar'  # or 'channel', or 'fixed' at fixed_weight
    fusion_start: float = 2.0  # a
    fixed_weight: float = 0.5  # w of 'fixed'
    decoder_guidance: str = 'clip'  # whose tokens guide the decoder
    aux: str = 'none'  # the branch that reads aux too
    trainable: str = PUBLISHED_TRAINING  # of the readers' parameters; matched fully

    def __post_init__(self) -> None:
        """Refuse names that no table holds, and branches that are not there."""
        choose('lmseg', 'fusion', self.fusion, FUSIONS)
        choose('lmseg', 'decoder_guidance', self.decoder_guidance, BRANCHES)
        choose('lmseg', 'aux', self.aux, BRANCHES)
        check_sizes('lmseg', {'embed': self.embed})
        if self.sam is None and 'sam' in (self.decoder_guidance, self.aux):
            raise RgbxSegError('lmseg: aux or decoder_guidance is "sam" and sam is off; expected '
                               'a branch that is there; choose "clip" or "none".')
        if min(self.grid) < 0:
            raise RgbxSegError(f'lmseg: grid is {list(self.grid)}, expected two numbers of tokens, '
                               'or 0 for as many as an image has patches; choose such.')
        if not 0 <= self.fixed_weight <= 1:
            raise RgbxSegError(f'lmseg: fixed_weight is {self.fixed_weight}, expected 0 to 1; '
                               'choose such.')
        try:
            re.compile(self.trainable)
        except re.error as error:
            raise RgbxSegError(f'lmseg: trainable is {self.trainable!r}, which is no regular '
                               f'expression ({error}); correct it.') from None


_BASE = LMSegConfig()
_LARGE = LMSegConfig(
    clip=CLIP_LARGE, sam=SAM_LARGE, embed=768,
    text=TextOptions(width=768, heads=12, tokenizer='openai/clip-vit-large-patch14-336'),
)
PRESETS: dict[str, LMSegConfig] = {
    # sized for training from scratch on a few CPU cores
    'tiny': LMSegConfig(
        clip=ClipOptions(width=96, layers=4, heads=3, ratio=2, patch=8, positions=16, taps=(1, 2),
                         stem=True, attention='eager'),
        sam=SamOptions(width=96, layers=4, heads=3, ratio=2, patch=8, positions=16, window=8,
                       global_blocks=(1, 3), neck=96, taps=(1, 2), stem=True),
        text=BYTES,
        cost=CostOptions(width=32, ratio=2, window=10, guidance=32, decoder=(32, 16),
                         decoder_guidance=(16, 8), skip=10.0, prior=-2.0),
        embed=96, fusion_start=0.0, decoder_guidance='sam', aux='sam', trainable='.*',
    ),
    'small': replace(_BASE, sam=None, aux='clip'),  # CAT-Seg with a second image: no SAM to run
    'base': _BASE,
    'large': _LARGE,
    'full': _LARGE,
}


class Gate(nn.Module):
    """(1 - v) rgb + v aux with v = sigmoid(b of the modality + W [rgb; aux])."""

    def __init__(self, width: int, modalities: int) -> None:
        super().__init__()
        self.read = nn.Conv2d(2 * width, width, 1, bias=False)
        self.prior = nn.Parameter(torch.zeros(modalities, width))
        nn.init.zeros_(self.read.weight)

    def forward(self, both: Tensor, ids: list[int]) -> Tensor:
        """Map (2B, width, h, w), the RGB images' first, to (B, width, h, w)."""
        rgb, aux = both.chunk(2)
        logits = self.read(torch.cat([rgb, aux], dim=1)) + self.prior[ids][:, :, None, None]
        return rgb + logits.sigmoid() * (aux - rgb)


class Fusion(nn.Module):
    """F = w F_c + (1 - w) F_s, where F_s is SAM's map in the width of the texts."""

    def __init__(self, config: LMSegConfig) -> None:
        super().__init__()
        self.fixed, self.project, self.logit = config.fixed_weight, None, None
        if config.sam is None:
            return
        self.project = nn.Conv2d(config.sam.neck, config.embed, 1)
        if config.fusion != 'fixed':
            shape = () if config.fusion == 'scalar' else (config.embed, 1, 1)
            self.logit = nn.Parameter(torch.full(shape, config.fusion_start))

    @property
    def weight(self) -> Tensor | float:
        """Return w."""
        return self.fixed if self.logit is None else self.logit.sigmoid()

    def forward(self, clip: Tensor, sam: Tensor | None) -> Tensor:
        """Map F_c (B, embed, h, w) and SAM's neck (B, neck, h, w) to F (B, embed, h, w)."""
        if self.project is None:
            return clip
        return self.weight * clip + (1 - self.weight) * self.project(sam)


class LMSeg(nn.Module):
    """The network; where a branch reads both images, they travel as one batch [rgb; aux]."""

    reads_texts = True
    COMPONENTS = (
        ('clip', r'clip(\..+)?'),
        ('text', r'text(\..+)?'),
        ('sam', r'sam(\..+)?'),
        ('fusion', r'(fusion|gates)(\..+)?'),
        ('aggregator', r'aggregator(\..+)?'),
        ('decoder', r'(guidance|decoder)(\..+)?'),
    )

    def __init__(
        self, config: LMSegConfig, n_classes: int, modalities: tuple[str, ...] = MODALITIES
    ) -> None:
        super().__init__()
        self.config, self.n_classes, self.modalities = config, n_classes, tuple(modalities)
        cost, guided = config.cost, config.decoder_guidance != 'none'
        self.clip = DenseClip(config.clip, config.embed)
        self.sam = None if config.sam is None else SamEncoder(config.sam)
        self.text = ClassTexts(config.text, config.embed, n_classes)
        self.fusion = Fusion(config)
        self.aggregator = Aggregator(cost, config.embed)
        narrow = cost.decoder_guidance if guided else (0, 0)
        self.decoder = CostDecoder(cost.width, cost.decoder, narrow, cost.skip, cost.prior)
        self.guidance = None
        if guided:
            guide = getattr(config, config.decoder_guidance)
            self.guidance = Guidance(guide.width, cost.decoder_raw, narrow, guide.stem)
        mixed = {'none': (), 'clip': (config.embed,), 'sam': (getattr(config.sam, 'neck', 0),)}
        widths = mixed[config.aux] + (narrow if config.decoder_guidance == config.aux else ())
        self.gates = nn.ModuleList(Gate(width, len(self.modalities)) for width in widths if width)
        self.register_buffer('given', None, persistent=False)  # rows of `set_classes`
        self.register_buffer('known', None, persistent=False)  # rows of the texts, once computed
        self._choose_what_learns()
        self.set_gradient_checkpointing(False)

    def _choose_what_learns(self) -> None:
        for name, value in self.named_parameters():
            if name.partition('.')[0] in READERS:
                value.requires_grad_(bool(re.fullmatch(self.config.trainable, name)))
        for part in self.clip.idle():
            part.requires_grad_(False)

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute most activations again in the backward pass instead of keeping them, or not."""
        self.checkpointing = on
        for part in (self.clip, self.sam, self.text, self.aggregator):
            if part is not None:
                part.checkpointing = on

    def train(self, mode: bool = True) -> LMSeg:
        """Set the mode of all parts but those in which nothing learns: they stay in eval mode."""
        super().train(mode)
        _let_rest(self)
        self.known = None  # the text tower may have learned
        return self

    def load_state_dict(self, *args: object, **options: object) -> object:
        """Load weights; the rows of the classes are computed anew from them."""
        self.known = None
        return super().load_state_dict(*args, **options)

    @property
    def leaves_out(self) -> bool:
        """Return whether there are more classes than attend to each other and are decoded."""
        return self.n_classes > self.config.cost.longest

    def read_classes(self, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
        """Segment from now on into classes of which these sentences tell, one or more of each."""
        self.text.read(names, texts)
        self.given = self.known = None
        self.n_classes = len(names)

    def set_classes(self, embeddings: Tensor) -> None:
        """Segment from now on into the classes of these rows (N, embed) of any length.

        They are not kept in the state dict, which has the texts.
        """
        shape = tuple(embeddings.shape)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.config.embed:
            raise RgbxSegError(f'class embeddings: found shape {shape}, expected (classes, '
                               f'{self.config.embed}); make them with the text tower of the model.')
        if not embeddings.isfinite().all() or not embeddings.any(dim=1).all():
            raise RgbxSegError('class embeddings: found values that are no numbers, or rows of '
                               'zeros; expected one direction per class; make them anew.')
        like = self.aggregator.embed.weight
        self.given = functional.normalize(embeddings.detach().to(like, copy=True), dim=1)
        self.n_classes = shape[0]

    def rows(self) -> Tensor:
        """Return the unit rows (N, embed) of the classes; they are computed where they may change.
        """
        if self.given is not None:
            return self.given
        if self.training and any(value.requires_grad for value in self.text.parameters()):
            return self.text()
        if self.known is None:
            with torch.inference_mode(False), torch.no_grad():  # a passing pass must not mark them
                self.known = self.text()
        return self.known

    def forward(
        self, rgb: Tensor, aux: Tensor, modality: Sequence[str] | Tensor, stride: int = 1
    ) -> Tensor:
        """Segment pairs of images.

        rgb: (B, 3, H, W), ImageNet-normalized; aux: (B, 3, H, W) in [0, 1]; modality: B names, or
        ids (B,) into `self.modalities`. Returns logits (B, N, H/stride, W/stride).
        """
        ids = modality_ids(modality, self.modalities)
        size = rgb.shape[2] // stride, rgb.shape[3] // stride
        return resize(self.segment(rgb, aux, ids, self.rows()), size)

    def segment(self, rgb: Tensor, aux: Tensor, ids: list[int], rows: Tensor) -> Tensor:
        """Return logits (B, N, 4h, 4w) of a grid of h x w tokens, N unit rows (N, embed)."""
        pair = from_imagenet(rgb), aux
        grid = tuple(given or math.ceil(side / (self.sam or self.clip).options.patch)
                     for given, side in zip(self.config.grid, rgb.shape[2:], strict=True))
        clip, taps = self._see('clip', pair, grid, ids)
        sam, sam_taps = (None, []) if self.sam is None else self._see('sam', pair, grid, ids)
        taps = sam_taps if self.config.decoder_guidance == 'sam' else taps
        guidance = [None, None] if self.guidance is None else self.guidance(taps)
        if len(self.gates) > 1:
            guidance = [gate(x, ids) for gate, x in zip(self.gates[1:], guidance, strict=True)]
        costs = self.aggregator(self.fusion(clip, sam), clip, rows)
        logits = recompute(self.decoder, self.checkpointing and self.training, costs.embeddings,
                           costs.cosines, guidance)
        if costs.chosen is None:
            return logits
        return placed(logits, costs.chosen, rows.shape[0], FLOOR)

    def _see(self, branch: str, pair: tuple[Tensor, Tensor], grid: tuple[int, int],
             ids: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Return what a branch makes of the images: one map per pair, and the tokens of all."""
        encoder, reads_both = getattr(self, branch), self.config.aux == branch
        images = torch.cat(pair) if reads_both else pair[0]
        size = grid[0] * encoder.options.patch, grid[1] * encoder.options.patch
        if size != tuple(images.shape[2:]):
            images = resize(images, size)
        seen, taps = encoder({'clip': for_clip, 'sam': for_sam}[branch](images))
        return (self.gates[0](seen, ids) if reads_both else seen), taps

    def merge(self, modality: str) -> MergedLMSeg:
        """Return a copy for one modality, `forward(rgb, aux)`."""
        return MergedLMSeg(self, modality)


class MergedLMSeg(nn.Module):
    """LMSeg for one modality, without its text tower, in eval mode: what is exported."""

    scene_width = 0  # nothing outlives a frame

    def __init__(self, model: LMSeg, modality: str) -> None:
        super().__init__()
        (own,) = modality_ids([modality], model.modalities)
        self.modality, self.text_width = modality, model.config.embed
        training = model.training
        rows = model.eval().rows()
        model.train(training)
        self.network = copy.deepcopy(model, {id(model.text): nn.Identity()})
        self.network.modalities, self.network.given = (modality,), rows.clone()
        for gate in self.network.gates:
            gate.prior = nn.Parameter(gate.prior.detach()[own:own + 1].clone())
        self.eval()

    @property
    def class_rows(self) -> Tensor:
        """Return the unit rows (N, text_width) of the classes that it has of its own."""
        return self.network.given

    def forward(self, rgb: Tensor, aux: Tensor, classes: Tensor | None = None) -> Tensor:
        """Segment pairs as `LMSeg.forward` does, into the classes of rows (N, embed) if given.

        Returns logits (B, N, H, W).
        """
        rows = self.class_rows if classes is None else functional.normalize(classes, dim=1)
        return resize(self.network.segment(rgb, aux, [0], rows), tuple(rgb.shape[2:]))


def _let_rest(module: nn.Module) -> None:
    """Put what has parameters of which none learns into eval mode."""
    learns = [value.requires_grad for value in module.parameters()]
    if learns and not any(learns):
        module.eval()
        return
    for part in module.children():
        _let_rest(part)
