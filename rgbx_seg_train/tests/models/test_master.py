# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER: what every family must hold, from scratch and around what is frozen."""

from __future__ import annotations

from dataclasses import replace

from base import FamilyTester, Pinned

from rgbx_seg_train.models.master import PRESETS, MASTERConfig
from rgbx_seg_train.models.master.decoder import DecoderConfig
from rgbx_seg_train.models.master.language import LanguageOptions
from rgbx_seg_train.models.master.prompt import BYTES, PromptOptions
from rgbx_seg_train.models.master.vision import VisionConfig

TRAINED = (r'language\.codebook', r'language\.llm\..+\.lora_[AB]\..+', r'to_language\..+',
           r'head\..+', r'to_decoder\..+', r'decoder\..+')
FROZEN = MASTERConfig(  # a square, two layers of CLIP, MLPs of each class, dropout in LoRA
    vision=VisionConfig(hidden=24, layers=3, heads=2, image_size=42, patch_size=14,
                        features=(-1, -2)),
    language=LanguageOptions(
        width=24, layers=2, heads=2, hidden=40, vocabulary=258, lora_rank=2, codes=2,
        lora_dropout=0.2, mask='bidirectional',
        prompt=PromptOptions(kind='generic', system='', tokenizer=BYTES)),
    decoder=DecoderConfig(dim=16, depth=1, heads=2, hidden=24, fine=8, own_mlps=True),
)


class TestTiny(FamilyTester):
    family = 'master'
    config = PRESETS['tiny']
    export_config = replace(PRESETS['tiny'],
                            vision=replace(PRESETS['tiny'].vision, layers=2),
                            language=replace(PRESETS['tiny'].language, layers=1),
                            decoder=replace(PRESETS['tiny'].decoder, depth=1))
    trainable = ('.*',)
    pinned = Pinned('2726004beea6', (4.42712, 5.13582, -3.60615, 4.00283, 4.23562, 0.83912))


class TestFrozen(FamilyTester):
    family = 'master'
    config = FROZEN
    export_config = replace(FROZEN, vision=replace(FROZEN.vision, layers=1, features=(-1,)),
                            language=replace(FROZEN.language, layers=1))
    trainable = TRAINED
    pinned = Pinned('df2d305df985', (0.30677, -0.03682, 0.16434, 0.04124, -0.211, -0.25855))
