# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""LMSeg: what every family must hold, from scratch with two images and as published with one."""

from __future__ import annotations

from dataclasses import replace

from base import FamilyTester, Pinned

from rgbx_seg_train.models.lmseg import PRESETS, LMSegConfig
from rgbx_seg_train.models.lmseg.cost import CostOptions
from rgbx_seg_train.models.lmseg.text import BYTES
from rgbx_seg_train.models.lmseg.vision import ClipOptions, SamOptions

IDLE = r'(?!clip\.model\.vision_model\.encoder\.layers\.{}\.self_attn\.[qk]_proj\.)'
MICRO = LMSegConfig(  # odd widths, windows that do not fit, more classes than attend to each other
    clip=ClipOptions(width=24, layers=2, heads=2, ratio=2, patch=14, positions=3, taps=(1, 1)),
    sam=SamOptions(width=20, layers=2, heads=2, ratio=2, positions=5, window=3, global_blocks=(1,),
                   neck=12, taps=(1, 1)),
    text=replace(BYTES, width=16, layers=1, heads=2),
    cost=CostOptions(width=16, heads=2, layers=1, window=3, guidance=8, longest=12,
                     decoder=(12, 8), decoder_raw=(8, 6), decoder_guidance=(4, 3)),
    embed=20,
)


class TestTiny(FamilyTester):
    family = 'lmseg'
    config = PRESETS['tiny']
    export_config = None  # test_lmseg_model.py exports the parts, for any number of classes
    trainable = (IDLE.format(3) + '.*',)
    pinned = Pinned(
        '4486832fb3ef', (-0.15221, 0.1277, 0.24307, -0.18447, 0.42956, 0.12897)
    )


class TestPublished(FamilyTester):
    family = 'lmseg'
    config = MICRO
    export_config = None
    modality_matters = False
    trainable = (IDLE.format(1) + r'(clip|text)\..*\.self_attn\.[qv]_proj\..*',
                 r'(clip|text)\..*position_embedding\.weight', r'sam\.model\.neck\..*',
                 r'sam\.model\.layers\.\d\.attn\.qkv\..*', r'(fusion|aggregator)\..*',
                 r'(guidance|decoder)\..*')
    pinned = Pinned(
        '518a890a33ea', (1.5378, 1.55151, 0.8988, 1.22251, 2.33463, 0.35207)
    )


class TestSecondImageThroughClip(FamilyTester):
    family = 'lmseg'
    config = replace(MICRO, aux='clip', fusion='channel', cost=replace(MICRO.cost, skip=5.0))
    export_config = None
    trainable = (*TestPublished.trainable, r'gates\..*')
    pinned = Pinned(
        'e949af6cf5e8', (1.41788, 1.71431, 0.09871, 1.43422, 2.16844, 0.14172)
    )
