# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SHIFNet (arXiv 2503.02581)."""

from rgbx_seg_train.models.shifnet.convert import PARTS, PRETRAINED, PUBLISHED
from rgbx_seg_train.models.shifnet.model import PRESETS, SHIFNet, SHIFNetConfig

__all__ = ['PARTS', 'PRESETS', 'PRETRAINED', 'PUBLISHED', 'SHIFNet', 'SHIFNetConfig']
