# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Foreign weights under LMSeg's names: CLIP, both of its towers, and SAM's image encoder.

CLIP is read as the hub has it, SAM also as Meta published it. Nobody published weights of LMSeg.
Its figures stand beside those of CAT-Seg's code, the floor: LMSeg's paper tells none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn

from rgbx_seg_train.models.family import Part, Published
from rgbx_seg_train.models.foreign import Rules, fill, rename

_CLIP_RULES: Rules = (
    (r'^(vision_model\.|visual_projection\.)', r'clip.model.\1'),
    (r'^(text_model\.|text_projection\.)', r'text.tower.\1'),
)
_NOT_CLIP = re.compile(r'logit_scale|.+\.embeddings\.position_ids')  # a temperature, and 0, 1, 2 …
_CLIP = r'clip\..+|text\.tower\..+'

_SAM_RULES: Rules = (  # Meta's names (image_encoder.*), then those of `transformers`
    (r'^image_encoder\.', 'sam.model.'),
    (r'^vision_encoder\.', 'sam.model.'),
    (r'\.patch_embed\.proj\.', '.patch_embed.projection.'),
    (r'^sam\.model\.blocks\.', 'sam.model.layers.'),
    (r'(\.layers\.\d+)\.norm([12])\.', r'\1.layer_norm\2.'),
    (r'\.neck\.0\.', '.neck.conv1.'),
    (r'\.neck\.1\.', '.neck.layer_norm1.'),
    (r'\.neck\.2\.', '.neck.conv2.'),
    (r'\.neck\.3\.', '.neck.layer_norm2.'),
)
_NOT_SAM = re.compile(r'(prompt_encoder|mask_decoder|shared_image_embedding)\..+'
                      r'|pixel_(mean|std)')  # what reads prompts and writes masks
_SAM = r'sam\..+'


def convert_clip(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take both towers of a CLIP; the tokens of the classes are not touched."""
    return _take(model, state, _CLIP, _CLIP_RULES, _NOT_CLIP, 'CLIP weights')


def convert_sam(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the image encoder of a SAM, its neck included."""
    return _take(model, state, _SAM, _SAM_RULES, _NOT_SAM, 'SAM weights')


def _take(model: nn.Module, state: Mapping[str, Tensor], owned: str, rules: Rules,
          foreign: re.Pattern[str], what: str) -> dict[str, Tensor]:
    found = {name: value for name, value in state.items() if not foreign.fullmatch(name)}
    names = [name for name in model.state_dict() if re.fullmatch(owned, name)]
    return fill(model, names, rename(found, rules), what)


PARTS: dict[str, Part] = {
    'clip': Part('image and text tower of a CLIP (ViT)',
                 ('model.safetensors', 'pytorch_model.bin'), convert_clip),
    'sam': Part('image encoder of SAM',
                ('model.safetensors', 'pytorch_model.bin', 'sam_vit_b_01ec64.pth',
                 'sam_vit_l_0b3195.pth'), convert_sam),
}
_BASE, _LARGE = ({'clip': f'openai/clip-vit-{clip}', 'sam': f'facebook/sam-vit-{sam}'}
                 for clip, sam in (('base-patch16', 'base'), ('large-patch14-336', 'large')))
PRETRAINED: dict[str, dict[str, str]] = {
    'small': {'clip': _BASE['clip']}, 'base': _BASE, 'large': _LARGE, 'full': _LARGE,
}

_ANY = (0, 0)
_CODE = "counted in CAT-Seg's code, the floor"
_SUM = 'sum of the parts; the paper tells none'


def _published(clip: int, text: int, sam: int, aggregator: int, decoder: int, total: float,
               trained: float) -> tuple[Published, ...]:
    return (
        Published("CLIP's image tower", 'components.clip.total', clip, 0.0, _ANY, _CODE),
        Published("CLIP's text tower", 'components.text.total', text, 0.0, _ANY, _CODE),
        Published("SAM's image encoder", 'components.sam.total', sam, 0.0, _ANY,
                  'counted in `transformers`'),
        Published('aggregator', 'components.aggregator.total', aggregator, 0.0, _ANY, _CODE),
        Published('decoder', 'components.decoder.total', decoder, 0.0, _ANY, _CODE),
        Published('all parameters', 'params_total', total, 0.002, _ANY, _SUM),
        # q of CLIP's last block, which the dense reading never asks, learns nothing here
        Published('trainable parameters', 'params_trainable', trained, math.nan, _ANY, _SUM),
    )


_FULL = _published(304_293_888, 123_650_304, 308_278_272, 2_343_936, 3_438_817,
                   742e6, 147.6e6)
PUBLISHED: dict[str, tuple[Published, ...]] = {
    'base': _published(86_192_640, 63_428_096, 89_670_912, 2_016_256, 2_652_385,
                       244e6, 47.5e6),
    'large': _FULL,
    'full': _FULL,
}
