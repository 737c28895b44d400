# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a row of the table of families holds, and how all families read their arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError

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


class Outputs(NamedTuple):
    """What a model returns in training if its `sees_target` is True; see `models/__init__.py`."""

    logits: Tensor  # (B, N, H/stride, W/stride)
    auxiliary: dict[str, Tensor]  # logits of further heads, of the same shape, by name
    terms: dict[str, Tensor]  # scalars that are minimized too, by name


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
    modalities: tuple[str, ...] = ()  # of the published counts; none = all five
    features: str = ''  # path of the module whose output, (B, C, H/16, W/16), is both images fused


def modality_ids(modality: Sequence[str] | Sequence[int] | Tensor,
                 known: Sequence[str]) -> list[int]:
    """Return the places in `known` of modalities given by name or place.

    Raises:
        RgbxSegError: one is unknown.

    """
    if isinstance(modality, Tensor):
        modality = modality.tolist()
    unknown = set(modality) - set(known) - set(range(len(known)))
    if unknown:
        raise RgbxSegError(f'modality: found {sorted(map(str, unknown))}, expected names of '
                           f'{", ".join(known)}; build the model with that modality.')
    return [i if isinstance(i, int) else known.index(i) for i in modality]


def choose(family: str, name: str, value: str, table: Collection[str]) -> None:
    """Raise RgbxSegError unless the field `name` of a family's config names an entry of a table."""
    if value not in table:
        raise RgbxSegError(f'{family}: {name} is {value!r}, expected one of {", ".join(table)}; '
                           'choose one of them.')


def check_sizes(family: str, sizes: Mapping[str, int | Collection[int]]) -> None:
    """Raise RgbxSegError unless every one of these fields, or each of its numbers, is above 0."""
    for name, value in sizes.items():
        if min([value] if isinstance(value, int) else value) < 1:
            raise RgbxSegError(f'{family}: {name} is {value}, expected at least 1; choose such.')
