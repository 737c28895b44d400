# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One file that restarts a run or gives its model: weights, optimizer, step, configuration.

It is a safetensors file, so reading one runs no code. Tensors are named `model/…`, `ema/…`,
`optimizer/<parameter>/…` and `rng/<process>/…`; the rest is JSON in its header: configuration,
progress, scores, and the versions that made it.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import accelerate
import cv2
import numpy
import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import FORMAT as BUNDLE_FORMAT
from rgbx_seg_ros.manifest import Manifest
from rgbx_seg_train import __version__
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import config_to_dict, override, parse_config
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.synthetic import aux_encoding
from rgbx_seg_train.distributed import like, whole
from rgbx_seg_train.models import find_config, find_family

HEADER = 'rgbx_seg'
FORMAT = 1
NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    elapsed_s: float = 0.0
    best_miou: float = -1.0
    samples: int = 0  # seen by all processes: where the row of samples goes on
    plateau: Mapping[str, float] = field(default_factory=dict)  # of optimization.Plateau
    scaler: Mapping[str, float] = field(default_factory=dict)  # of the gradients of fp16


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds; `tensors` by the names above."""

    config: Config
    n_classes: int
    progress: Progress
    tensors: dict[str, Tensor]
    metrics: Mapping[str, Any] = field(default_factory=dict)  # of the last validation

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one group, without the group's name."""
        start = f'{name}/'
        return {key[len(start):]: t for key, t in self.tensors.items() if key.startswith(start)}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to use: the averaged ones where there are any."""
        return self.group('ema') or self.group('model')


def save_checkpoint(path: Path, config: Config, n_classes: int, progress: Progress,
                    groups: Mapping[str, Mapping[str, Tensor]],
                    metrics: Mapping[str, Any] = NOTHING) -> None:
    """Write a checkpoint whole or not at all."""
    tensors = _apart({f'{group}/{name}': tensor.detach().cpu().contiguous()
                      for group, named in groups.items() for name, tensor in named.items()})
    header = {'format': FORMAT, 'config': config_to_dict(config), 'n_classes': n_classes,
              'progress': asdict(progress), 'metrics': dict(metrics), 'versions': versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}-{os.getpid()}')
    try:
        save_file(tensors, temporary, {HEADER: json.dumps(header)})
        temporary.chmod(0o644)  # safetensors makes it private
        with temporary.open('rb') as file:
            os.fsync(file.fileno())  # else a loss of power may leave an empty file in its place
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's numbers."""
    return {'rgbx_seg_train': __version__, 'python': platform.python_version(),
            **{module.__name__: str(module.__version__)
               for module in (torch, accelerate, numpy, cv2, transformers)}}


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, those copied that share memory, which safetensors would refuse."""
    result, seen = {}, set()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage()
        alone = memory.nbytes() == tensor.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        result[name] = tensor if alone else tensor.clone()
    return result


def load_checkpoint(path: Path) -> Checkpoint:
    """Return what a checkpoint holds; RgbxSegError if it is missing, broken or another's."""
    path = Path(path)
    if not path.is_file():
        raise RgbxSegError(f'checkpoint {path}: no such file; expected one that rgbx_train wrote, '
                           'such as runs/NAME/best.safetensors.')
    try:
        with safe_open(path, 'pt') as file:
            text = (file.metadata() or {}).get(HEADER)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RgbxSegError(f'checkpoint {path}: cannot be read ({str(error)[:80]}); it is damaged '
                           'or not a safetensors file: copy it again or train anew.') from None
    if text is None:
        raise RgbxSegError(f'checkpoint {path}: has no header of rgbx_train; expected one that '
                           'rgbx_train wrote.')
    try:
        header = json.loads(text)
        if header['format'] != FORMAT:
            raise RgbxSegError(f'checkpoint {path}: format {header["format"]}; expected {FORMAT}; '
                               'use the version of rgbx_seg_train that wrote it.')
        return Checkpoint(parse_config(header['config'], f'checkpoint {path}'),
                          int(header['n_classes']), Progress(**header['progress']), tensors,
                          header.get('metrics', {}))
    except (ValueError, TypeError, KeyError):
        raise RgbxSegError(f'checkpoint {path}: its header is "{text[:40]}"…; expected the one '
                           'that rgbx_train writes: copy it again or train anew.') from None


def manifest_of(checkpoint: Checkpoint) -> Manifest:
    """Return the manifest that a checkpoint's bundle will have, without scores and SHA-256."""
    config = checkpoint.config
    data, export = config.data, config.export
    modality = export.modality or data.modality
    aux = aux_encoding(modality)
    if export.aux_channels:
        aux = replace(aux, channels=export.aux_channels)
    classes = CLASS_SETS[export.classes] if export.classes else data.class_infos
    return Manifest(BUNDLE_FORMAT, config.model.family, config.name, modality, data.height,
                    data.width, aux, classes, '',
                    export.training_data, export.data_license, export.model_license, {},
                    config.augment.p_aux_dropout)


def build_model(config: Config, n_classes: int) -> nn.Module:
    """Return a new model as the configuration says, with random weights."""
    model = config.model
    preset = find_config(model.family, model.preset, model.options)
    modalities = (model.modalities,) if model.modalities else ()
    return find_family(model.family).build(preset, n_classes, *modalities)


def load_model(path: Path, overrides: Sequence[str] = ()) -> tuple[nn.Module, Checkpoint]:
    """Return the trained model of a checkpoint, in eval mode; all its weights must fit.

    overrides: settings "key=value" that win over those that it was trained with.
    """
    checkpoint = load_checkpoint(path)
    if overrides:
        config = parse_config(override(config_to_dict(checkpoint.config), overrides))
        checkpoint = replace(checkpoint, config=config)
    try:
        model = build_model(checkpoint.config, checkpoint.n_classes)
    except RgbxSegError as error:
        raise RgbxSegError(f'checkpoint {path}: {error}') from None
    load_weights(model, checkpoint.weights(), path)
    return model.eval(), checkpoint


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Load weights that must fit the model exactly; buffers `of_any_size` take their sizes."""
    for path, module in model.named_modules():
        for name in getattr(module, 'of_any_size', ()):
            own, found = getattr(module, name), weights.get(f'{path}.{name}' if path else name)
            if found is not None and found.ndim == own.ndim:
                setattr(module, name, own.new_empty(found.shape))
    expected = model.state_dict()
    wrong = [name for name in expected.keys() | weights.keys()
             if name not in weights or name not in expected
             or weights[name].shape != expected[name].shape]
    if wrong:
        raise RgbxSegError(f'checkpoint {origin}: {len(wrong)} tensors do not fit the model (such '
                           f'as {sorted(wrong)[0]}); it is of another version, family or size: '
                           'train it anew, or leave out settings that change the model.')
    model.load_state_dict(weights)


def initialize(model: nn.Module, path: Path, family: str) -> int:
    """Load the weights of a checkpoint that fit by name and shape; return how many tensors did."""
    loaded, expected = load_checkpoint(path), model.state_dict()
    if loaded.config.model.family != family:
        raise RgbxSegError(f'train.init {path}: it is of the family {loaded.config.model.family}, '
                           f'the model of {family}; expected the same; name another checkpoint.')
    weights = loaded.weights()
    fitting = {name: tensor for name, tensor in weights.items()
               if name in expected and tensor.shape == expected[name].shape}
    if not fitting:
        raise RgbxSegError(f'train.init {path}: none of its {len(weights)} tensors fits the '
                           'model; expected one of its sizes; name another checkpoint.')
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state by parameter name."""
    state = optimizer.state
    return {f'{name}/{key}': whole(torch.as_tensor(value))
            for name, parameter in model.named_parameters() if parameter in state
            for key, value in state[parameter].items()}


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer,
                      tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer back the state that `optimizer_tensors` took."""
    parameters = dict(model.named_parameters())
    for full, tensor in tensors.items():
        name, key = full.rsplit('/', 1)
        parameter = parameters[name]
        if tensor.shape == parameter.shape:
            # In the parameter's memory layout: the fused optimizer walks both as one row.
            tensor = like(tensor, parameter.detach())
        elif parameter.device.type != 'cpu':
            tensor = tensor.to(parameter.device)  # the count of steps
        optimizer.state[parameter][key] = tensor
