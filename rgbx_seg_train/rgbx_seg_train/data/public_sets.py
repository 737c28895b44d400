# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of public data sets: kind of source -> class that reads it."""

from __future__ import annotations

from rgbx_seg_train.data.fmb import FMB
from rgbx_seg_train.data.mfnet import MFNet
from rgbx_seg_train.data.msrs import MSRS
from rgbx_seg_train.data.pst900 import PST900
from rgbx_seg_train.data.public import PublicSet

PUBLIC_SETS: dict[str, type[PublicSet]] = {
    'mfnet': MFNet,
    'pst900': PST900,
    'fmb': FMB,
    'msrs': MSRS,
}
