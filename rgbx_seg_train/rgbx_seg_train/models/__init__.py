# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of model families: what `family` in a config or a manifest may name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import segrgbx


class Family(NamedTuple):
    """One row of the table."""

    config: type  # a frozen dataclass
    presets: Mapping[str, Any]  # name -> config
    build: Callable[..., nn.Module]  # (config, n_classes[, modalities]) -> model


FAMILIES: dict[str, Family] = {
    'segrgbx': Family(segrgbx.SegRGBXConfig, segrgbx.PRESETS, segrgbx.SegRGBX),
}


def find_family(name: str) -> Family:
    """Return a family by name; RgbxSegError lists the valid ones."""
    if name not in FAMILIES:
        raise RgbxSegError(
            f'model family: found {name!r}, expected one of {", ".join(FAMILIES)}; '
            'correct the name.'
        )
    return FAMILIES[name]


def find_preset(family: str, name: str) -> Any:
    """Return the config of a family's preset; RgbxSegError lists the valid ones."""
    presets = find_family(family).presets
    if name not in presets:
        raise RgbxSegError(
            f'preset of {family}: found {name!r}, expected one of {", ".join(presets)}; '
            'correct the name.'
        )
    return presets[name]
