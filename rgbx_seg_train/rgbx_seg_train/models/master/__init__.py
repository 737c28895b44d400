# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER (arXiv 2503.04199)."""

from rgbx_seg_train.models.master.convert import PARTS, PRETRAINED, PUBLISHED
from rgbx_seg_train.models.master.model import MASTER, PRESETS, MASTERConfig

__all__ = ['MASTER', 'PARTS', 'PRESETS', 'PRETRAINED', 'PUBLISHED', 'MASTERConfig']
