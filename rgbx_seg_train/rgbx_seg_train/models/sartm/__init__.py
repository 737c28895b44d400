# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SARTM (arXiv 2505.01950)."""

from rgbx_seg_train.models.sartm.convert import PARTS, PRETRAINED, PUBLISHED
from rgbx_seg_train.models.sartm.model import PRESETS, SARTM, SARTMConfig

__all__ = ['PARTS', 'PRESETS', 'PRETRAINED', 'PUBLISHED', 'SARTM', 'SARTMConfig']
