# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver through ctypes: what a GPU is, memory, streams, graphs. No CUDA toolkit."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

LIBRARY = 'libcuda.so.1'
CAPABILITY_MAJOR, CAPABILITY_MINOR, INTEGRATED = 75, 76, 18  # CU_DEVICE_ATTRIBUTE_*


class Gpu(NamedTuple):
    """The first GPU of the machine, as the driver describes it."""

    name: str
    capability: tuple[int, int]  # compute capability, (8, 7) on Jetson Orin
    integrated: bool  # it shares its memory with the processor
    driver: int  # CUDA version of the driver, 12060 for 12.6
    memory_bytes: int


def find_gpu(library: str | None = None) -> tuple[Gpu | None, str]:
    """Return the first GPU, or None and why there is none; an empty text where no driver is.

    It makes no CUDA context and takes no memory of the GPU.
    """
    try:
        driver = ctypes.CDLL(library or LIBRARY)
    except OSError:
        return None, ''
    number = ctypes.c_int()
    if code := driver.cuInit(0):
        return None, f'the CUDA driver does not start (CUresult {code}); check `nvidia-smi`.'
    if driver.cuDeviceGetCount(ctypes.byref(number)) or number.value == 0:
        return None, 'the CUDA driver finds no GPU; check `nvidia-smi`.'
    device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    name = ctypes.create_string_buffer(128)
    driver.cuDeviceGetName(name, len(name), device)

    def attribute(key: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), key, device)
        return value.value

    capability = (attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR))
    return Gpu(name.value.decode(errors='replace'), capability, bool(attribute(INTEGRATED)),
               version.value, memory.value), ''
