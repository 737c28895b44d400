# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What must hold for every model family; a family's own test names its sizes and inherits this.

Weights and images are made from hashes of their names, so that a family can pin some of its logits:
they change with the math of the model and the names of its tensors, and with no library's version.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import MODALITIES
from rgbx_seg_train.models import find_family

N_CLASSES = 9
STRIDES = (1, 2, 4)


class Pinned(NamedTuple):
    """What a family's seeded model is known by; a change that means to alter it writes it anew."""

    names: str  # first digits of the SHA-256 of the names and shapes in the state dict
    logits: tuple[float, ...]  # of `pinned_logits`


def uniform(key: str, shape: Sequence[int]) -> Tensor:
    """Return float32 numbers in [-1, 1) that follow from the key alone.

    NumPy promises the raw bits of its generators for all versions, not what it makes of them.
    """
    words = np.frombuffer(hashlib.sha256(key.encode()).digest(), '<u4').tolist()
    raw = np.random.SFC64(np.random.SeedSequence(words)).random_raw(math.prod(shape))
    numbers = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-23) - np.float32(1)
    return torch.from_numpy(numbers).reshape(tuple(shape))


def fake_pair(
    batch: int, height: int = 64, width: int = 96, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return rgb (ImageNet-normalized) and aux (in [0, 1]), each (batch, 3, height, width)."""
    shape = (batch, 3, height, width)
    return 2 * uniform(f'rgb {seed}', shape), (uniform(f'aux {seed}', shape) + 1) / 2


def fill(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value as if trained: nothing is zero, one, or equal."""
    state = {}
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        numbers = uniform(f'{name} {seed}', value.shape)
        if name.endswith(('bias', 'running_mean')):
            numbers = 0.2 * numbers
        elif value.ndim < 2:  # the scales of norms, running variances, temperatures
            numbers = 1 + 0.2 * numbers
        elif name.endswith('weight'):
            numbers = numbers * (3 * value.shape[0] / value.numel()) ** 0.5  # keeps the variance
        else:  # prompts and positions
            numbers = 0.3 * numbers
        state[name] = numbers
    model.load_state_dict(model.state_dict() | state)
    return model


def foreign(name: str, shape: Sequence[int]) -> Tensor:
    """Return a tensor of a checkpoint of others as if trained: nothing is zero, one, or equal."""
    numbers = uniform(name, shape)
    if name.endswith('num_batches_tracked'):
        return torch.tensor(7)
    if name.endswith('running_var') or (len(shape) == 1 and name.endswith('weight')):
        return 1 + 0.4 * numbers
    if len(shape) > 1 and name.endswith('weight') and shape[0] > 1:
        return numbers * (3 * shape[0] / numbers.numel()) ** 0.5
    return 0.3 * numbers


def build(family: str, config: Any, seed: int = 0) -> nn.Module:
    """Return a model in eval mode whose values `fill` has made."""
    return fill(find_family(family).build(config, N_CLASSES), seed).eval()


def names_digest(model: nn.Module) -> str:
    """Return the first digits of the SHA-256 of all names and shapes in the state dict."""
    rows = [f'{name} {tuple(value.shape)}' for name, value in model.state_dict().items()]
    return hashlib.sha256('\n'.join(sorted(rows)).encode()).hexdigest()[:12]


def pinned_logits(model: nn.Module) -> list[float]:
    """Return logits of two pairs at three places, one of them the last corner."""
    with torch.inference_mode():
        logits = model(*fake_pair(2), ['thermal', 'event'])
    return [round(v, 5) for v in logits[:, (0, 4, 8), (13, 40, 63), (7, 50, 95)].flatten().tolist()]


def component_of(name: str, components: Sequence[tuple[str, str]]) -> str | None:
    """Return the component that a parameter belongs to; the first match wins."""
    return next((part for part, pattern in components if re.fullmatch(pattern, name)), None)


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters, and none that learns."""
    learns = [value.requires_grad for value in module.parameters()]
    return bool(learns) and not any(learns)


def drops(module: nn.Module) -> bool:
    """Return whether a module drops something at random now."""
    rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else max(
        getattr(module, name, None) or 0.0 for name in ('rate', 'drop_prob'))
    return module.training and rate > 0


def onnx_like_torch(merged: nn.Module, height: int = 64, width: int = 96,
                    optimize: bool = True) -> onnx.GraphProto:
    """Return a merged model as a graph of fixed shapes that was seen to compute what torch does."""
    pair, other = (fake_pair(1, height, width, seed) for seed in (0, 1))
    program = torch.onnx.export(
        merged, pair, input_names=['rgb', 'aux'], output_names=['logits'],
        dynamo=True, opset_version=18, verbose=False, optimize=optimize,
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=['CPUExecutionProvider'])
    for rgb, aux in (pair, other):  # the second pair shows that the first was not baked in
        (logits,) = session.run(None, {'rgb': rgb.numpy(), 'aux': aux.numpy()})
        with torch.inference_mode():
            expected = merged(rgb, aux).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    graph = onnx.load_from_string(file.getvalue()).graph
    assert all(d.dim_value > 0 for value in (*graph.input, *graph.output)
               for d in value.type.tensor_type.shape.dim)
    return graph


class FamilyTester:
    """Families differ by these attributes alone."""

    family: str
    config: Any  # small enough for a hundred passes on one core
    export_config: Any  # the same parts with fewer repetitions; None = another tester exports them
    modality_matters = True  # some weights belong to one modality
    trainable: tuple[str, ...]  # regular expressions; the names they match fully are trained
    pinned: Pinned

    @pytest.fixture(scope='class')
    @classmethod
    def model(cls) -> nn.Module:
        return build(cls.family, cls.config)

    # ---- training ----

    def test_gradients_reach_every_trainable_parameter_and_no_other(self) -> None:
        model = build(self.family, self.config).train()
        rgb, aux = fake_pair(len(MODALITIES), 32, 64)
        model(rgb, aux, list(MODALITIES)).square().mean().backward()
        lacking = [
            name for name, value in model.named_parameters()
            if value.requires_grad and (value.grad is None or not value.grad.abs().sum() > 0)
        ]
        # a bias before a batch norm, or of keys before a softmax, moves nothing
        assert [name for name in lacking if not name.endswith('bias')] == []
        for name, value in model.named_parameters():
            assert value.grad is None or (value.requires_grad and value.grad.isfinite().all()), name

    def test_the_trainable_parameters_are_the_listed_ones(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.trainable:
            assert any(re.fullmatch(pattern, name) for name in names), pattern
        expected = {n for n in names if any(re.fullmatch(p, n) for p in self.trainable)}
        assert {n for n, value in model.named_parameters() if value.requires_grad} == expected

    def test_a_step_leaves_what_is_frozen_to_the_bit(self) -> None:
        model = build(self.family, self.config).train()
        frozen = [(path, module) for path, module in model.named_modules() if is_frozen(module)]
        awake = {f'{path}.{name}' for path, module in frozen
                 for name, part in module.named_modules() if part.training}
        assert sorted(awake) == []  # dropout and the norms of a frozen part would still act
        kept = {name for name, value in model.named_parameters() if not value.requires_grad}
        kept |= {f'{path}.{name}' for path, module in frozen for name in module.state_dict()}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        model(*fake_pair(2, 32, 64), ['thermal', 'event']).square().mean().backward()
        optimizer.step()
        after = model.state_dict()
        assert [name for name in kept if not after[name].equal(before[name])] == []
        moved = {name for name in after if not after[name].equal(before[name])}
        learned = {n for n, value in model.named_parameters() if value.grad is not None}
        assert learned and learned <= moved

    @torch.no_grad()
    def test_only_dropout_is_random_and_only_in_training(self, model: nn.Module) -> None:
        pair, names = fake_pair(2), ['thermal', 'event']
        assert model(*pair, names).equal(model(*pair, names))
        learner = build(self.family, self.config).train()
        logits = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            logits.append(learner(*pair, names))
        assert logits[0].equal(logits[1]) != any(map(drops, learner.modules()))
        assert learner.eval().training is False
        assert not any(module.training for module in learner.modules())

    def test_bfloat16_stays_finite(self) -> None:
        model = build(self.family, self.config).train()
        with torch.autocast('cpu', torch.bfloat16):
            logits = model(*fake_pair(2, 32, 64), ['thermal', 'event'])
        assert logits.isfinite().all()
        logits.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    # ---- what goes in and out ----

    @pytest.mark.parametrize('size', [(32, 32), (33, 97), (50, 70), (96, 32)])
    @torch.inference_mode()
    def test_logits_have_the_size_of_the_image(
        self, model: nn.Module, size: tuple[int, int]
    ) -> None:
        logits = model(*fake_pair(2, *size), ['thermal', 'depth'])
        assert logits.shape == (2, N_CLASSES, *size)
        assert logits.isfinite().all()

    @torch.inference_mode()
    def test_a_stride_thins_the_same_picture(self, model: nn.Module) -> None:
        pair = fake_pair(1)
        whole = model(*pair, ['depth'])
        for stride in STRIDES:
            thin = model(*pair, ['depth'], stride=stride)
            assert thin.shape == (1, N_CLASSES, 64 // stride, 96 // stride)
            mean = nn.functional.avg_pool2d(whole, stride)
            alike = torch.corrcoef(torch.stack([thin.flatten(), mean.flatten()]))[0, 1]
            assert alike > 0.9
        assert model(*pair, ['depth'], stride=1).equal(whole)

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
        if self.modality_matters:
            assert (thermal - depth).abs().max() > 1e-3
        else:
            assert thermal.equal(depth)

    def test_an_unknown_modality_is_refused_by_name(self, model: nn.Module) -> None:
        with pytest.raises(RgbxSegError, match='sonar.*thermal, depth'):
            model(*fake_pair(1), ['sonar'])
        with pytest.raises(RgbxSegError, match='7.*thermal, depth'):
            model(*fake_pair(1), torch.tensor([7]))
        with pytest.raises(RgbxSegError, match='sonar.*thermal, depth'):
            model.merge('sonar')

    # ---- what is kept and handed on ----

    def test_the_seeded_model_is_the_known_one(self, model: nn.Module) -> None:
        found = Pinned(names_digest(model), tuple(pinned_logits(model)))
        assert found.names == self.pinned.names, f'other tensors; if that is meant: {found}'
        np.testing.assert_allclose(found.logits, self.pinned.logits, atol=1e-4, rtol=1e-4,
                                   err_msg=f'other math; if that is meant: {found}')

    def test_every_parameter_belongs_to_a_component(self, model: nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        parts = [part for part, _ in model.COMPONENTS]
        assert len(set(parts)) == len(parts)
        owners = {name: component_of(name, model.COMPONENTS) for name in names}
        assert [name for name, part in owners.items() if part is None] == []
        assert sorted(set(owners.values())) == sorted(parts)
        for path, module in model.named_modules():  # which is what a profile knows by name
            own = {owners[f'{path}.{name}'] for name, _ in module.named_parameters(recurse=False)}
            assert not own or component_of(path, model.COMPONENTS) in own, path

    @torch.inference_mode()
    def test_weights_survive_a_file(self, model: nn.Module, tmp_path: Path) -> None:
        rgb, aux = fake_pair(1)
        other = build(self.family, self.config, seed=1)
        before = other(rgb, aux, ['event'])
        save_file(model.state_dict(), tmp_path / 'weights.safetensors')
        other.load_state_dict(load_file(tmp_path / 'weights.safetensors'), strict=True)
        expected = model(rgb, aux, ['event'])
        assert (before - expected).abs().max() > 1e-3
        found = other.state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(found[name], value), name
        # Not to the bit: oneDNN may sum in another order where the memory is aligned otherwise.
        torch.testing.assert_close(other(rgb, aux, ['event']), expected, atol=1e-5, rtol=1e-4)

    @torch.inference_mode()
    def test_merged_equals_unmerged(self, model: nn.Module) -> None:
        rgb, aux = fake_pair(2)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for name in ('thermal', 'lightfield'):
            merged = model.merge(name)
            expected = model(rgb, aux, [name] * 2)
            rounding = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(merged(rgb, aux), expected, atol=rounding, rtol=1e-5)
            assert not any(module.training for module in merged.modules())
            assert not [key for key in merged.state_dict() if 'lora' in key]
            origins = {type(module).__module__.partition('.')[0] for module in merged.modules()}
            assert 'peft' not in origins
            for value in merged.parameters():
                value.zero_()  # a copy: the model does not notice
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())

    @torch.inference_mode()
    def test_a_scene_embedding_may_be_computed_apart(self, model: nn.Module) -> None:
        merged, (rgb, aux) = model.merge('thermal'), fake_pair(2)
        if not merged.scene_width:
            return
        scene = merged.embed(rgb, aux)
        tensors = getattr(merged, 'scene_tensors', ('s_rgb', 's_aux'))
        assert [s.shape for s in scene] == [(2, merged.scene_width)] * len(tensors)
        assert merged(rgb, aux, *scene).equal(merged(rgb, aux))
        assert not merged(rgb, aux, *merged.embed(*fake_pair(2, seed=1))).equal(merged(rgb, aux))

    def test_onnx_equals_torch(self) -> None:
        if self.export_config is None:
            pytest.skip('another tester exports the same parts')
        # without optimizing in a third of the time; test_export optimizes
        onnx_like_torch(build(self.family, self.export_config).merge('thermal'), optimize=False)
