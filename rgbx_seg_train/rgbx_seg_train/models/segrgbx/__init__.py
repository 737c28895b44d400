# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SegRGB-X (arXiv 2603.28023)."""

from rgbx_seg_train.models.segrgbx.model import PRESETS, Embeddings, SegRGBX, SegRGBXConfig

__all__ = ['PRESETS', 'Embeddings', 'SegRGBX', 'SegRGBXConfig']
