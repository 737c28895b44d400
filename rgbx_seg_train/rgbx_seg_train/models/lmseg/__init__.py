# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""LMSeg (arXiv 2412.00364)."""

from rgbx_seg_train.models.lmseg.convert import PARTS, PRETRAINED, PUBLISHED
from rgbx_seg_train.models.lmseg.model import PRESETS, LMSeg, LMSegConfig

__all__ = ['PARTS', 'PRESETS', 'PRETRAINED', 'PUBLISHED', 'LMSeg', 'LMSegConfig']
