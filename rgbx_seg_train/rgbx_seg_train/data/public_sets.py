# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of public data sets: kind of source -> class that reads it."""

from __future__ import annotations

from rgbx_seg_train.data.coco_stuff import CocoStuff
from rgbx_seg_train.data.deliver import DeLiVER
from rgbx_seg_train.data.fmb import FMB
from rgbx_seg_train.data.mfnet import MFNet
from rgbx_seg_train.data.msrs import MSRS
from rgbx_seg_train.data.nyu import NYU
from rgbx_seg_train.data.pst900 import PST900
from rgbx_seg_train.data.public import PublicSet
from rgbx_seg_train.data.urbanlf import UrbanLF
from rgbx_seg_train.data.zju import ZJU

PUBLIC_SETS: dict[str, type[PublicSet]] = {
    'mfnet': MFNet,
    'pst900': PST900,
    'fmb': FMB,
    'msrs': MSRS,
    'deliver': DeLiVER,
    'nyu': NYU,
    'zju': ZJU,
    'urbanlf': UrbanLF,
    'coco_stuff': CocoStuff,
}
