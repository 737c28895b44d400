# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What NVIDIA's management library (NVML) tells of the GPU: memory, power, names. Through ctypes.

https://docs.nvidia.com/deploy/nvml-api/ documents the functions. A GPU without NVML, such as that
of a Jetson, answers every question by None.
"""

from __future__ import annotations

import ctypes
from typing import Any

from rgbx_seg_ros import cuda

LIBRARY = 'libnvidia-ml.so.1'
TEXT_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE, and more than a driver's version needs


class _Memory(ctypes.Structure):
    _fields_ = [('total', ctypes.c_ulonglong), ('free', ctypes.c_ulonglong),
                ('used', ctypes.c_ulonglong)]


class GpuMonitor:
    """The first GPU, in CUDA's order, as NVML sees it; makes no CUDA context."""

    def __init__(self, library: str | None = None) -> None:
        """Look for it; `problem` says what failed where a library is there."""
        self.problem = ''
        self._device = ctypes.c_void_p()
        self._nvml: Any = None
        try:
            nvml = ctypes.CDLL(library or LIBRARY)
        except OSError:
            return
        if code := nvml.nvmlInit_v2():
            self.problem = f'NVML does not start (nvmlReturn {code})'
        elif code := _find(nvml, self._device):
            self.problem = f'NVML finds no GPU (nvmlReturn {code})'
        else:
            self._nvml = nvml

    @property
    def name(self) -> str:
        """Return the name of the GPU, or an empty text."""
        return self._text('nvmlDeviceGetName', self._device)

    @property
    def driver(self) -> str:
        """Return the version of the driver, such as 550.54.14, or an empty text."""
        return self._text('nvmlSystemGetDriverVersion')

    def used_mb(self) -> float | None:
        """Return the memory of the GPU that all processes hold together."""
        memory = _Memory()
        if not self._ask('nvmlDeviceGetMemoryInfo', memory):
            return None
        return int(memory.used) / 1e6

    def energy_j(self) -> float | None:
        """Return the energy since the driver was loaded (Volta and later)."""
        mj = ctypes.c_ulonglong()
        return mj.value / 1e3 if self._ask('nvmlDeviceGetTotalEnergyConsumption', mj) else None

    def power_w(self) -> float | None:
        """Return the power of the whole board now."""
        mw = ctypes.c_uint()
        return mw.value / 1e3 if self._ask('nvmlDeviceGetPowerUsage', mw) else None

    def close(self) -> None:
        """Leave NVML."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None

    def _ask(self, function: str, answer: Any) -> bool:
        """Call `function(device, &answer)`; return whether it succeeded."""
        call = getattr(self._nvml, function, None)
        return call is not None and call(self._device, ctypes.byref(answer)) == 0

    def _text(self, function: str, *arguments: Any) -> str:
        call = getattr(self._nvml, function, None)
        text = ctypes.create_string_buffer(TEXT_BYTES)
        if call is None or call(*arguments, text, ctypes.c_uint(TEXT_BYTES)):
            return ''
        return text.value.decode(errors='replace')


def _find(nvml: Any, device: ctypes.c_void_p) -> int:
    """Set `device` to the GPU that CUDA counts first; return NVML's code, 0 for success."""
    bus_id = _bus_id()
    if bus_id and nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id, ctypes.byref(device)) == 0:
        return 0
    code: int = nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    return code


def _bus_id() -> bytes:
    """Return the PCI address of CUDA's first GPU: NVML counts them in another order."""
    try:
        driver = ctypes.CDLL(cuda.LIBRARY)
    except OSError:
        return b''
    device, text = ctypes.c_int(), ctypes.create_string_buffer(32)
    if (driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetPCIBusId(text, len(text), device)):
        return b''
    return text.value
