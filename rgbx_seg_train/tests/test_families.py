# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The table of families: complete rows, presets that build, and a tester for each."""

from __future__ import annotations

import re
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models import FAMILIES, find_config, find_family

SIZES = ('tiny', 'small', 'base', 'full')
PRESETS = [(family, preset) for family, row in FAMILIES.items()  # each once, by its last name
           for preset in {id(config): name for name, config in row.presets.items()}.values()]


@cache
def on_meta(family: str, preset: str) -> nn.Module:
    row = FAMILIES[family]
    with torch.device('meta'):
        return row.build(row.presets[preset], row.n_classes).eval()


def owner(name: str, components: tuple[tuple[str, str], ...]) -> str:
    return next(part for part, pattern in components if re.fullmatch(pattern, name))


def test_an_unknown_family_or_preset_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(RgbxSegError, match="'segformer', expected one of segrgbx, shifnet"):
        find_family('segformer')
    for family in FAMILIES:
        with pytest.raises(RgbxSegError, match="'huge', expected one of .*tiny.*; correct"):
            find_config(family, 'huge')


@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_has_a_tester(family: str) -> None:
    text = (Path(__file__).parent / 'models' / f'test_{family}.py').read_text(encoding='utf-8')
    assert re.search(rf"\(FamilyTester\):\n(    .*\n|\n)*?    family = '{family}'", text)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_row_of_the_table_speaks_only_of_what_it_has(family: str) -> None:
    row = FAMILIES[family]
    assert is_dataclass(row.config) and row.config.__dataclass_params__.frozen
    assert all(type(config) is row.config for config in row.presets.values())
    assert set(SIZES) <= row.presets.keys()
    assert find_config(family) is row.presets['full']
    assert row.pretrained.keys() | row.published.keys() <= row.presets.keys()
    for sources in row.pretrained.values():
        assert sources.keys() <= row.parts.keys()
    for part in row.parts.values():
        assert part.help and '\n' not in part.help and part.files
    for figure in (figure for rows in row.published.values() for figure in rows):
        assert figure.source and figure.value > 0 and not figure.tolerance < 0


@pytest.mark.parametrize('family', FAMILIES)
def test_presets_grow_with_their_names(family: str) -> None:
    counts = [sum(p.numel() for p in on_meta(family, size).parameters()) for size in SIZES]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize('family, preset', PRESETS)
def test_every_preset_builds_and_runs_without_memory(family: str, preset: str) -> None:
    model, row = on_meta(family, preset), FAMILIES[family]
    assert all(value.is_meta for value in (*model.parameters(), *model.buffers()))
    image = torch.empty(1, 3, 64, 96, device='meta')
    with torch.no_grad():
        assert model(image, image, ['thermal']).shape == (1, row.n_classes, 64, 96)


@pytest.mark.parametrize('family', FAMILIES)
def test_components_cover_all_presets_and_none_is_idle(family: str) -> None:
    presets = [preset for name, preset in PRESETS if name == family]
    components = on_meta(family, 'full').COMPONENTS
    assert {owner(name, components) for preset in presets
            for name, _ in on_meta(family, preset).named_parameters()} == dict(components).keys()
