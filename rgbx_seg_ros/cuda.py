# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The CUDA driver through ctypes: which GPU there is, and its functions, their codes checked.

No CUDA toolkit is needed. `cuda_context` makes memory, streams and graphs with it.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from rgbx_seg_ros import RgbxSegError

LIBRARY = 'libcuda.so.1'
CAPABILITY_MAJOR, CAPABILITY_MINOR, INTEGRATED = 75, 76, 18  # CU_DEVICE_ATTRIBUTE_*
OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 2, 100, 600  # CUresult
# After one of these every call in the context fails, and mostly in the process: cuda.h 13.0.
STICKY = {214, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911}
LOST = 'the CUDA context is lost: start the program again'
REMEDIES = {
    OUT_OF_MEMORY: 'close what else uses the GPU, or take a smaller network or precision',
    NO_DEVICE: 'check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and that a container is given the GPU '
               '(`--gpus all`)',
    34: 'take the stub of libcuda.so.1 out of LD_LIBRARY_PATH, and install the NVIDIA driver',
    46: 'end what has the GPU for itself, or set its compute mode to default',
    222: 'update the NVIDIA driver',
    803: 'the kernel module and the libraries of the driver are of two versions: reboot, or '
         'install the same version of both',
    804: 'remove the CUDA compatibility libraries from LD_LIBRARY_PATH',
    999: 'reboot, or run `sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm`',
    **dict.fromkeys(STICKY, LOST)}
OTHER_REMEDY = 'check `nvidia-smi` and `dmesg`'

_INT, _UINT, _SIZE = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t
_HANDLE, _ADDRESS, _TEXT = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p
_NEW_INT, _NEW_SIZE, _NEW_HANDLE, _NEW_ADDRESS, _NEW_TEXT = (
    ctypes.POINTER(kind) for kind in (_INT, _SIZE, _HANDLE, _ADDRESS, _TEXT))
# The functions that are used, as cuda.h of CUDA 12 and 13 declares them; each returns a CUresult.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    'cuInit': (_UINT,),
    'cuDriverGetVersion': (_NEW_INT,),
    'cuDeviceGetCount': (_NEW_INT,),
    'cuDeviceGet': (_NEW_INT, _INT),
    'cuDeviceGetName': (_TEXT, _INT, _INT),
    'cuDeviceGetAttribute': (_NEW_INT, _INT, _INT),
    'cuDeviceTotalMem_v2': (_NEW_SIZE, _INT),
    'cuDevicePrimaryCtxRetain': (_NEW_HANDLE, _INT),
    'cuDevicePrimaryCtxRelease_v2': (_INT,),
    'cuCtxSetCurrent': (_HANDLE,),
    'cuCtxSynchronize': (),
    'cuCtxGetStreamPriorityRange': (_NEW_INT, _NEW_INT),
    'cuMemGetInfo_v2': (_NEW_SIZE, _NEW_SIZE),
    'cuMemAlloc_v2': (_NEW_ADDRESS, _SIZE),
    'cuMemFree_v2': (_ADDRESS,),
    'cuMemHostAlloc': (_NEW_HANDLE, _SIZE, _UINT),
    'cuMemFreeHost': (_HANDLE,),
    'cuMemHostGetDevicePointer_v2': (_NEW_ADDRESS, _HANDLE, _UINT),
    'cuMemcpyHtoDAsync_v2': (_ADDRESS, _HANDLE, _SIZE, _HANDLE),
    'cuMemcpyDtoHAsync_v2': (_HANDLE, _ADDRESS, _SIZE, _HANDLE),
    'cuStreamCreateWithPriority': (_NEW_HANDLE, _UINT, _INT),
    'cuStreamSynchronize': (_HANDLE,),
    'cuStreamDestroy_v2': (_HANDLE,),
    'cuEventCreate': (_NEW_HANDLE, _UINT),
    'cuEventRecord': (_HANDLE, _HANDLE),
    'cuEventQuery': (_HANDLE,),
    'cuEventSynchronize': (_HANDLE,),
    'cuEventElapsedTime': (ctypes.POINTER(ctypes.c_float), _HANDLE, _HANDLE),
    'cuEventDestroy_v2': (_HANDLE,),
    'cuStreamBeginCapture_v2': (_HANDLE, _INT),
    'cuStreamEndCapture': (_HANDLE, _NEW_HANDLE),
    'cuGraphInstantiateWithFlags': (_NEW_HANDLE, _HANDLE, ctypes.c_ulonglong),
    'cuGraphLaunch': (_HANDLE, _HANDLE),
    'cuGraphExecDestroy': (_HANDLE,),
    'cuGraphDestroy': (_HANDLE,),
    'cuGetErrorName': (_INT, _NEW_TEXT),
    'cuGetErrorString': (_INT, _NEW_TEXT),
}


class Gpu(NamedTuple):
    """The first GPU of the machine, as the driver describes it."""

    name: str
    capability: tuple[int, int]  # compute capability, (8, 7) on Jetson Orin
    integrated: bool  # it shares its memory with the processor
    driver: int  # CUDA version of the driver, 12060 for 12.6
    memory_bytes: int


class CudaError(RgbxSegError):
    """A function of the driver returned another code than success."""

    def __init__(self, function: str, code: int, name: str, text: str) -> None:
        """Make the sentence."""
        super().__init__(f'{function} returned {name} ({text}); expected success; '
                         f'{REMEDIES.get(code, OTHER_REMEDY)}.')
        self.code = code


class NoDriver(RgbxSegError):
    """The machine has no CUDA driver."""


class Driver:
    """The functions of the driver library, each of their codes checked."""

    def __init__(self) -> None:
        """Load the library; NoDriver without one, RgbxSegError if it is too old."""
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise NoDriver(f'{LIBRARY} cannot be loaded ({error}); expected the NVIDIA driver; '
                           'install it.') from None
        self._functions: dict[str, Any] = {}
        for name, types in SIGNATURES.items():
            function = getattr(library, name, None)
            if function is None:
                raise RgbxSegError(f'{LIBRARY} has no {name}; expected the driver of CUDA 12 or '
                                   'newer; update the NVIDIA driver.')
            function.argtypes, function.restype = types, _INT
            self._functions[name] = function

    def __call__(self, function: str, *arguments: Any, but: int = 0) -> bool:
        """Call a function of the driver; return False if its code is `but`; raises CudaError."""
        code = self._functions[function](*arguments)
        if code and code != but:
            raise CudaError(function, code, self._say('cuGetErrorName', code) or f'CUresult {code}',
                            self._say('cuGetErrorString', code) or 'no text')
        return not code

    def _say(self, function: str, code: int) -> str:
        text = _TEXT()
        self._functions[function](code, ctypes.byref(text))
        return text.value.decode(errors='replace') if text.value else ''


def find_gpu() -> tuple[Gpu | None, str]:
    """Return the first GPU, or None and why there is none; an empty text where no driver is.

    It makes no CUDA context and takes no memory of the GPU.
    """
    try:
        return _describe(Driver()), ''
    except NoDriver:
        return None, ''
    except RgbxSegError as error:
        return None, str(error)


def _describe(driver: Driver) -> Gpu:
    number, device, version = _INT(), _INT(), _INT()
    memory, name = _SIZE(), ctypes.create_string_buffer(128)
    driver('cuInit', 0)
    driver('cuDeviceGetCount', ctypes.byref(number))
    if number.value == 0:
        raise RgbxSegError(f'the CUDA driver finds no GPU; expected one; {REMEDIES[NO_DEVICE]}.')
    driver('cuDeviceGet', ctypes.byref(device), 0)
    driver('cuDriverGetVersion', ctypes.byref(version))
    driver('cuDeviceTotalMem_v2', ctypes.byref(memory), device)
    driver('cuDeviceGetName', name, len(name), device)

    def attribute(key: int) -> int:
        value = _INT()
        driver('cuDeviceGetAttribute', ctypes.byref(value), key, device)
        return value.value

    capability = (attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR))
    return Gpu(name.value.decode(errors='replace'), capability, bool(attribute(INTEGRATED)),
               version.value, memory.value)
