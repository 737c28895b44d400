# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Gradient checkpointing: the same loss, gradients and statistics from less memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from base import N_CLASSES, fake_pair, fill
from torch import Tensor, nn

from rgbx_seg_train.models import FAMILIES, find_family
from rgbx_seg_train.models.lmseg import PRESETS as LMSEG
from rgbx_seg_train.models.master import PRESETS as MASTER
from rgbx_seg_train.models.sartm import PRESETS as SARTM
from rgbx_seg_train.models.segrgbx import PRESETS as SEGRGBX
from rgbx_seg_train.models.shifnet import PRESETS as SHIFNET

TINY = replace(SEGRGBX['tiny'], drop_path=0.3, head_dropout=0.1)  # drops at random, CLIP learns
MASTER_TINY = MASTER['tiny']
CONFIGS = {
    'lmseg': LMSEG['tiny'],
    'segrgbx': TINY,
    'segrgbx, its CLIP frozen': replace(TINY, clip=replace(TINY.clip, frozen=True)),
    'segrgbx without CLIP': replace(TINY, clip=None),
    'shifnet': replace(SHIFNET['micro'], dropout=0.1),
    'shifnet, its trunk frozen': replace(SHIFNET['micro'], dropout=0.1, frozen=True),
    'sartm': SARTM['tiny'],
    'sartm, its trunk frozen': replace(SARTM['tiny'], frozen=True),
    'master': MASTER_TINY,
    'master, its CLIP and its language model frozen': replace(
        MASTER_TINY, vision=replace(MASTER_TINY.vision, frozen=True),
        language=replace(MASTER_TINY.language, frozen=True, lora_dropout=0.1)),
}


class Step(NamedTuple):
    """What one step of training leaves."""

    loss: float
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]
    draw: float  # the next random number
    kept: int  # bytes that the forward pass keeps for the backward pass


def step(name: str, config: Any, on: bool) -> Step:
    """Take one step with a mixed batch; count each tensor in memory once."""
    model = fill(find_family(name.split(',')[0].split()[0]).build(config, N_CLASSES)).train()
    model.set_gradient_checkpointing(on)
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(*fake_pair(3, 64, 96), ['thermal', 'event', 'depth'])
        loss = nn.functional.cross_entropy(logits, torch.arange(3)[:, None, None].expand(3, 64, 96))
    loss.backward()
    return Step(
        float(loss.detach()),
        {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        {n: b for n, b in model.named_buffers() if 'running' in n or 'num_batches' in n},
        float(torch.rand(())), sum(kept.values()))


@pytest.mark.parametrize('name', CONFIGS)
def test_checkpointing_changes_memory_alone(name: str) -> None:
    config = CONFIGS[name]
    plain, spared = step(name, config, False), step(name, config, True)
    assert spared.loss == plain.loss
    assert spared.draw == plain.draw  # dropout and drop path of later steps are the same, too
    assert spared.gradients.keys() == plain.gradients.keys()
    for key, value in plain.gradients.items():
        torch.testing.assert_close(spared.gradients[key], value, atol=1e-7, rtol=1e-4, msg=key)
    for key, value in plain.statistics.items():
        assert spared.statistics[key].equal(value), key
    assert spared.kept < 0.75 * plain.kept


@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_can_switch_it_off_again(family: str) -> None:
    config = CONFIGS[family]
    model = fill(find_family(family).build(config, N_CLASSES)).eval()
    pair = fake_pair(1, 64, 96)
    with torch.inference_mode():
        before = model(*pair, ['thermal'])
    for on in (True, False):
        model.set_gradient_checkpointing(on)
        assert not model.training
        with torch.inference_mode():
            assert model(*pair, ['thermal']).equal(before)
            torch.testing.assert_close(model.merge('thermal')(*pair), before, rtol=1e-5,
                                       atol=1e-5 * max(1, float(before.abs().max())))
