# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""SegRGB-X (arXiv 2603.28023), and what its paper says of size and cost."""

import math

from rgbx_seg_train.models.family import Published
from rgbx_seg_train.models.segrgbx.convert import PARTS, PRETRAINED
from rgbx_seg_train.models.segrgbx.model import (
    PRESETS,
    Embeddings,
    MergedSegRGBX,
    SegRGBX,
    SegRGBXConfig,
)

# Table IV: DSRM structure -> (parameters in millions, GFLOPs at 512x512, mean mIoU in %). The
# parameters of (a)-(c) and (e)-(g) cannot come from one block in nine orders: e + f is not g + h.
TABLE_IV = {
    'a': (176.70, 111.15, 64.68),
    'b': (143.63, 99.74, 64.83),
    'c': (160.96, 105.65, 64.68),
    'd': (159.38, 105.24, 64.79),
    'e': (230.61, 113.03, 62.90),
    'f': (203.31, 106.58, 64.74),
    'g': (212.53, 109.79, 64.59),
    'h': (159.40, 108.31, 65.03),
    'i': (156.32, 107.01, 47.58),
}
_FULL = (
    Published('parameters', 'params_total', 159.40e6, 0.01, (0, 0), 'Table IV (h)'),
    # It does not say whether the products of attention are counted.
    Published('GFLOPs, attention in', 'gmac', 108.31, 0.0625, (512, 512), 'Table IV (h)'),
    Published('GFLOPs, attention out', 'gmac_layers', 108.31, 0.0625, (512, 512), 'Table IV (h)'),
    Published('latency on an RTX A5000', 'latency_ms', 31.51, math.nan, (512, 512), 'Table III'),
)
PUBLISHED = {'full': _FULL, 'b2': _FULL}

__all__ = ['PARTS', 'PRESETS', 'PRETRAINED', 'PUBLISHED', 'TABLE_IV', 'Embeddings',
           'MergedSegRGBX', 'SegRGBX', 'SegRGBXConfig']
