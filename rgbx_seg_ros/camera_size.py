# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Forms of a model with the resizing inside, and whether they are worth it here.

Such a form takes the camera's image as it is and answers at its size. On a GPU this leaves one copy
in and one out to the processor; elsewhere the same arithmetic only changes its place. So both forms
run a few times when the engine is opened, and the faster one stays.
"""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import numpy as np

from rgbx_seg_ros.engine import Engine, Model, Size
from rgbx_seg_ros.manifest import check_variant
from rgbx_seg_ros.segmenter import Segmenter

WARM_UP, ROUNDS = 2, 8


def camera_form(model: Model, backend: str, rgb_size: Size) -> Model | None:
    """Return the form of `model` for RGB images of this size and this backend, its files checked.

    None if the bundle has none, or if the network has that size anyway.
    """
    if rgb_size == model.rgb_size:
        return None
    for variant in model.manifest.variants:
        if (variant.rgb_size == rgb_size and variant.precision == model.precision
                and backend in variant.backends):
            check_variant(model.bundle, variant)
            return replace(model, variant=variant)
    return None


def race(engines: tuple[Engine, Engine], model: Model, rgb_size: Size) -> tuple[float, float]:
    """Return the median milliseconds of two engines for an RGB image of this size, all told.

    They take turns, so that what else the machine does slows both.
    """
    rgb = np.zeros((*rgb_size, 3), np.uint8)
    aux = np.zeros((*model.aux_size, model.manifest.aux.channels), np.uint8)
    segmenters = [Segmenter(engine, model.manifest) for engine in engines]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(WARM_UP + ROUNDS):
        for segmenter, own in zip(segmenters, times, strict=True):
            began = time.perf_counter()
            segmenter(rgb, aux)
            own.append((time.perf_counter() - began) * 1e3)
    first, second = (median(own[WARM_UP:]) for own in times)
    return first, second
