# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold for every model family; a family's own test names its sizes and inherits this."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.models import find_family

N_CLASSES = 9


def fake_pair(
    batch: int, height: int = 64, width: int = 96, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return rgb (ImageNet-normalized) and aux (in [0, 1]), each (batch, 3, height, width)."""
    random = torch.Generator().manual_seed(seed)
    rgb = torch.randn(batch, 3, height, width, generator=random)
    return rgb, torch.rand(batch, 3, height, width, generator=random)


def build(family: str, config: Any, seed: int = 0) -> nn.Module:
    """Build a model in eval mode whose LoRA and norms are as if trained: nothing is zero or one."""
    torch.manual_seed(seed)
    model = find_family(family).build(config, N_CLASSES)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if 'lora_B' in name or value.ndim == 1:
                value.add_(torch.randn_like(value), alpha=0.1)
        for name, value in model.named_buffers():
            if name.endswith('running_mean'):
                value.normal_()
            if name.endswith('running_var'):
                value.uniform_(0.5, 2.0)
    return model.eval()


class FamilyTester:
    """Set `family`, `config`, and `export_config`: the same parts with fewer repetitions."""

    family: str
    config: Any
    export_config: Any

    @pytest.fixture(scope='class')
    @classmethod
    def model(cls) -> nn.Module:
        return build(cls.family, cls.config)

    def test_gradients_reach_every_parameter(self) -> None:
        model = build(self.family, self.config).train()
        rgb, aux = fake_pair(len(MODALITIES), 32, 64)
        logits = model(rgb, aux, list(MODALITIES))
        logits.square().mean().backward()
        lacking = [
            name for name, value in model.named_parameters()
            if value.requires_grad and (value.grad is None or not value.grad.abs().sum() > 0)
        ]
        # a bias before a batch norm, or of keys before a softmax, moves nothing
        assert [name for name in lacking if not name.endswith('bias')] == []
        assert all(value.isfinite().all() for value in (p.grad for p in model.parameters())
                   if value is not None)

    @pytest.mark.parametrize('size', [(32, 32), (33, 97), (50, 70)])
    def test_logits_have_the_size_of_the_image(
        self, model: nn.Module, size: tuple[int, int]
    ) -> None:
        with torch.inference_mode():
            logits = model(*fake_pair(2, *size), ['thermal', 'depth'])
        assert logits.shape == (2, N_CLASSES, *size)
        assert logits.isfinite().all()

    @torch.inference_mode()
    def test_a_mixed_batch_equals_its_samples_one_by_one(self, model: nn.Module) -> None:
        rgb, aux = fake_pair(6)
        names = [*MODALITIES, 'thermal']
        mixed = model(rgb, aux, names)
        for i, name in enumerate(names):
            alone = model(rgb[i:i + 1], aux[i:i + 1], [name])
            torch.testing.assert_close(mixed[i:i + 1], alone, atol=1e-4, rtol=1e-4)
        ids = torch.tensor([MODALITIES.index(name) for name in names])
        torch.testing.assert_close(model(rgb, aux, ids), mixed, atol=0, rtol=0)

    @torch.inference_mode()
    def test_modality_matters(self, model: nn.Module) -> None:
        rgb, aux = fake_pair(1)
        thermal, depth = (model(rgb, aux, [name]) for name in ('thermal', 'depth'))
        assert (thermal - depth).abs().max() > 1e-3

    @torch.inference_mode()
    def test_merged_equals_unmerged(self, model: nn.Module) -> None:
        rgb, aux = fake_pair(2)
        for name in ('thermal', 'lightfield'):
            merged = model.merge(name)
            torch.testing.assert_close(
                merged(rgb, aux), model(rgb, aux, [name] * 2), atol=1e-5, rtol=1e-5
            )
            assert not [key for key in merged.state_dict() if 'lora' in key]
            origins = {type(module).__module__.partition('.')[0] for module in merged.modules()}
            assert 'peft' not in origins

    @torch.inference_mode()
    def test_weights_survive_a_file(self, model: nn.Module) -> None:
        rgb, aux = fake_pair(1)
        other = build(self.family, self.config, seed=1)
        before = other(rgb, aux, ['event'])
        other.load_state_dict(load(save(model.state_dict())), strict=True)
        expected = model(rgb, aux, ['event'])
        assert (before - expected).abs().max() > 1e-3
        for name, value in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
        # Not to the bit: oneDNN may sum in another order where the memory is aligned otherwise.
        torch.testing.assert_close(other(rgb, aux, ['event']), expected, atol=1e-5, rtol=1e-4)

    def test_an_unknown_modality_is_refused_by_name(self, model: nn.Module) -> None:
        with pytest.raises(RgbxSegError, match='sonar.*thermal, depth'):
            model(*fake_pair(1), ['sonar'])
        with pytest.raises(RgbxSegError, match='7.*thermal, depth'):
            model(*fake_pair(1), torch.tensor([7]))

    def test_onnx_equals_torch(self) -> None:
        merged = build(self.family, self.export_config).merge('thermal')
        pair, other = fake_pair(1), fake_pair(1, seed=1)
        program = torch.onnx.export(
            merged, pair, input_names=['rgb', 'aux'], output_names=['logits'],
            dynamo=True, opset_version=18, verbose=False,
        )
        onnx = io.BytesIO()
        program.save(onnx)
        session = onnxruntime.InferenceSession(onnx.getvalue(), providers=['CPUExecutionProvider'])
        for rgb, aux in (pair, other):  # the second pair shows that the first was not baked in
            (logits,) = session.run(None, {'rgb': rgb.numpy(), 'aux': aux.numpy()})
            with torch.inference_mode():
                expected = merged(rgb, aux).numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
