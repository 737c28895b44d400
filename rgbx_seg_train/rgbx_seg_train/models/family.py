# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a row of the table of families holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

NONE: Mapping[str, Any] = MappingProxyType({})


class Part(NamedTuple):
    """A piece of foreign weights that `rgbx_convert` reads."""

    help: str  # one line
    files: tuple[str, ...]  # looked for in a folder or a hub repository, in this order
    # (our model, foreign state) -> all entries of our state_dict that the part owns
    convert: Callable[[nn.Module, Mapping[str, Tensor]], dict[str, Tensor]]


class Published(NamedTuple):
    """A figure of a paper that `rgbx_profile` prints beside ours."""

    what: str
    key: str  # dotted, in the result of rgbx_profile
    value: float
    tolerance: float  # relative; 0 = to the printed digits, nan = for information
    size: tuple[int, int]  # (H, W) that it holds at; (0, 0) = any
    source: str


class Family(NamedTuple):
    """One row of the table."""

    config: type  # a frozen dataclass
    presets: Mapping[str, Any]  # name -> config
    build: Callable[..., nn.Module]  # (config, n_classes[, modalities]) -> model
    parts: Mapping[str, Part] = NONE
    pretrained: Mapping[str, Mapping[str, str]] = NONE  # preset -> part -> hub id[@revision]
    published: Mapping[str, tuple[Published, ...]] = NONE  # by preset
    size: tuple[int, int] = (480, 640)  # (H, W) and
    n_classes: int = 9  # classes of the published cost
    attention_counted: bool = False  # whether that cost has the products of attention in it
