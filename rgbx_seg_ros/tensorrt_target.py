# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a TensorRT engine is built for: one GPU, or some compute capabilities for TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import BackendUnavailable

if TYPE_CHECKING:
    from rgbx_seg_ros.engine_tensorrt import Library

Capability = tuple[int, int]

# Ampere, Ada and Blackwell in one engine of next to the size of one for each. Of some graphs an
# engine for 8.0 alone, or for 12.1 and others, is by 30 to 120 MB larger; 7.5 has no fp32 products
# of matrices, for which none of the others would be built either.
PORTABLE: tuple[Capability, ...] = ((8, 6), (8, 9), (12, 0))
ALONE: tuple[Capability, ...] = ((7, 5), (12, 1))


class Target(NamedTuple):
    """A GPU by its name, or, with the empty name, the compute capabilities of TensorRT-RTX."""

    gpu: str = ''
    capability: Capability = (0, 0)
    driver: int = 0  # CUDA version of the driver, 12060 for 12.6
    capabilities: tuple[Capability, ...] = ()

    @property
    def words(self) -> dict[str, str]:
        """Return the target as parts of an engine's key."""
        if self.capabilities:
            return {'compute capabilities': ', '.join(map(dotted, self.capabilities))}
        return {'GPU': self.gpu, 'compute capability': dotted(self.capability),
                'CUDA driver': driver_text(self.driver)}

    def __str__(self) -> str:
        """Return the target for a sentence."""
        if self.capabilities:
            return f'compute capabilities {", ".join(map(dotted, self.capabilities))}'
        return f'{self.gpu} ({dotted(self.capability)})'


def dotted(capability: Capability) -> str:
    """Return a compute capability as NVIDIA writes it, 8.7."""
    return '.'.join(map(str, capability))


def driver_text(driver: int) -> str:
    """Return the CUDA version of a driver as NVIDIA writes it, 12.6."""
    return f'{driver // 1000}.{driver % 1000 // 10}'


def target_of(library: Library, gpu: Gpu | None,
              capabilities: Sequence[Capability] = ()) -> Target:
    """Return what engines of this library are to be built for.

    Raises:
        BackendUnavailable: plain TensorRT without a GPU, or a capability that TensorRT-RTX lacks.

    """
    if not library.traits.ahead_of_time:
        if gpu is None:
            raise BackendUnavailable(
                'tensorrt builds an engine only on the GPU that is to run it, and no GPU was '
                'found here; build on the robot, or for tensorrt_rtx, which needs none.')
        return Target(gpu.name, gpu.capability, gpu.driver)
    if not capabilities:
        capabilities = PORTABLE
        if gpu is not None and gpu.capability in ALONE:
            capabilities = (gpu.capability,)
        elif gpu is not None:
            capabilities = (*PORTABLE, gpu.capability)
    wanted = tuple(sorted(set(capabilities)))
    known = known_capabilities(library)
    for capability in wanted:
        if capability not in known:
            raise BackendUnavailable(
                f'tensorrt_rtx {library.version} has no compute capability {dotted(capability)}; '
                f'expected some of {", ".join(map(dotted, known))}: use tensorrt or another '
                'backend.')
    return Target(capabilities=wanted)


def known_capabilities(library: Library) -> list[Capability]:
    """Return the compute capabilities that a TensorRT-RTX builds for."""
    names = [name for name in dir(library.trt.ComputeCapability)
             if name.startswith('SM') and name[2:].isdigit()]
    return sorted((int(name[2:-1]), int(name[-1])) for name in names)
