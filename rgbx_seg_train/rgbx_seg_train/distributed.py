# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What several processes must share so that they train as one would with all their samples.

How many there are, and on which devices, is a choice of `accelerate launch`. Without it everything
here does nothing. A teacher alone still weighs the pixels of each process by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, set_seed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.config import TrainConfig


def make_accelerator(settings: TrainConfig) -> Accelerator:
    """Return what the launcher gave us; RgbxSegError if the settings do not fit it."""
    on_gpu = torch.cuda.is_available()
    if settings.precision == 'fp16' and not on_gpu:
        raise RgbxSegError('train.precision is fp16, but there is no GPU; expected fp32 or bf16 on '
                           'a processor; choose one of them.')
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        torch.use_deterministic_algorithms(True, warn_only=on_gpu)
        torch.backends.cudnn.benchmark = False
    set_seed(settings.seed)
    # Only the LoRAs of the modalities in a batch take part in a step, so others get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(cpu=not on_gpu, kwargs_handlers=[unused],
                              mixed_precision=settings.precision.replace('fp32', 'no'))
    if is_sharded(accelerator) and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise RgbxSegError('the launcher asks for FSDP of version 1; expected version 2, whose '
                           'checkpoints are those of one process; add --fsdp_version 2.')
    return accelerator


def several() -> bool:
    """Return whether other processes take part."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """A sum over processes; what is done with it in one of them matters to the values of all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _reduced(values, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _reduced(gradients[0], ctx.group), None


def _reduced(values: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values, group=group)
    return values


def sum_of_processes(values: Tensor) -> Tensor:
    """Return the sum over all processes; gradients flow back to each."""
    return _Sum.apply(values, None) if several() else values


def sum_within_network(values: Tensor) -> Tensor:
    """Return `sum_of_processes` where other layers follow, once the norms are synchronized.

    In a group of its own: it may not queue with the gradients in another order elsewhere.
    """
    return _Sum.apply(values, _group()) if several() else values


def total_of_processes(values: Tensor) -> Tensor:
    """Return the sum over all processes, without gradients."""
    return _reduced(values, None) if several() else values


def of_all_processes(value: Any) -> list[Any]:
    """Return what each process has, in their order; the values are of plain types or tensors."""
    if not several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor whose parts FSDP keeps in several processes; all of them must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_here(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has: all of it without FSDP."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether FSDP deals the weights out to the processes."""
    return accelerator.distributed_type is DistributedType.FSDP


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a copy of a whole tensor on the device, and in the parts and layout, of `other`."""
    if isinstance(other, DTensor):
        return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
    return torch.empty_like(other, dtype=tensor.dtype).copy_(tensor)


def random_state() -> dict[str, Tensor]:
    """Return the state of this process's random numbers."""
    state = {'cpu': torch.get_rng_state()}
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Continue the random numbers from a state of `random_state`."""
    if 'cpu' in state:
        torch.set_rng_state(state['cpu'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the samples of all processes, on any device; torch's own needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W)."""
        if not self.training or not several():
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalize(x.float()).to(x.dtype)

    def _normalize(self, x: Tensor) -> Tensor:
        # In a group of its own: it may not queue with the gradients in another order elsewhere.
        count = torch.full((1,), x.numel() // x.shape[1], device=x.device, dtype=x.dtype)
        sums = torch.cat([x.sum((0, 2, 3)), count])
        sums = _Sum.apply(sums, _group())
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centered = x - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum((0, 2, 3)), _group()) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(variance.detach() * n / (n - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centered * scale[:, None, None] + self.bias[:, None, None]


@lru_cache(maxsize=1)
def _group() -> dist.ProcessGroup:
    return dist.new_group()


def synchronize_norms(model: nn.Module) -> None:
    """Let each BatchNorm of a model see the samples of all processes."""
    if not several():
        return
    _group()  # made by all of them at once
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
