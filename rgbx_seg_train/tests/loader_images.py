# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Images without files for test_loader.py, in a module that workers import quickly."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch

from rgbx_seg_train.config import AugmentConfig, DataConfig, TrainConfig
from rgbx_seg_train.data.loader import Loader
from rgbx_seg_train.data.sample import CorruptImage, Sample
from rgbx_seg_train.data.sources import Mixture

HEIGHT, WIDTH = 32, 48
CPU = torch.device('cpu')


class Images:
    """Samples made of their numbers, some of which cannot be read or do worse."""

    def __init__(self, count=50, corrupt=(), error=None, delay_s=0.0):
        self.count, self.corrupt, self.error, self.delay_s = count, corrupt, error, delay_s

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(self.delay_s * (index % 3))
        if index in self.corrupt:
            raise CorruptImage(f'{index}.png: cannot be decoded.')
        if self.error == 'die':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.error:
            raise self.error
        image = np.random.default_rng(index).integers(0, 9, (HEIGHT, WIDTH, 5)).astype(np.uint8)
        return Sample(image[..., :3], image[..., 3:4], image[..., 4], 'thermal', str(index))


def mixture(images, seed=0):
    data = DataConfig(height=HEIGHT, width=WIDTH)
    return Mixture([images], [1], data, AugmentConfig(p_aux_shift=0.5, p_rgb_dark=0.5), seed)


def loader(images, batch_size=4, tell=None, **train):
    return Loader(mixture(images), batch_size, TrainConfig(**train), CPU, tell)
