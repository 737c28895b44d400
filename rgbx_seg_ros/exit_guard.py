# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An end for a process whose middleware does not come to one.

Fast DDS 3.2 sometimes waits for ever when a participant with TCP transport (LARGE_DATA) is
destroyed, and rclpy holds the GIL meanwhile: no Python thread, no signal handler can help then.
"""

from __future__ import annotations

import ctypes
import os

CLOCK_MONOTONIC, SIGEV_THREAD = 1, 2  # time.h and signal.h of Linux


class _Event(ctypes.Structure):
    """A struct sigevent, 64 bytes, see sigevent(7)."""

    _fields_ = (('value', ctypes.c_int64), ('signal', ctypes.c_int), ('notify', ctypes.c_int),
                ('function', ctypes.c_void_p), ('attributes', ctypes.c_void_p),
                ('padding', ctypes.c_char * 32))


class _Time(ctypes.Structure):
    """A struct itimerspec."""

    _fields_ = (('interval_s', ctypes.c_long), ('interval_ns', ctypes.c_long),
                ('first_s', ctypes.c_long), ('first_ns', ctypes.c_long))


def exit_after(seconds: float, code: int = 0) -> bool:
    """End the process with `code` in `seconds`, whatever it is doing by then.

    False where the C library is not glibc; then it ends when it ends.
    """
    try:
        library = ctypes.CDLL(None)
        create, start = library.timer_create, library.timer_settime
        end = ctypes.cast(library._exit, ctypes.c_void_p)
    except (OSError, AttributeError):
        return False
    if os.uname().sysname != 'Linux':
        return False
    event = _Event(value=code, notify=SIGEV_THREAD, function=end)
    timer = ctypes.c_void_p()
    whole, part = divmod(seconds, 1)
    moment = _Time(first_s=int(whole), first_ns=int(part * 1e9))
    return (create(CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)) == 0
            and start(timer, 0, ctypes.byref(moment), None) == 0)
