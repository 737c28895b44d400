# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An end for a process whose middleware or inference library does not come to one.

Fast DDS 3.2 sometimes waits for ever when a participant with TCP transport (LARGE_DATA) is
destroyed, and rclpy holds the GIL meanwhile; so may an engine. No Python thread, no signal handler
can help then, so what ends the process here is the C library alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import Any

CONTEXT_BYTES, STACK_BYTES = 1 << 13, 1 << 18  # ucontext_t has 968 bytes on x86_64
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


class _Context(ctypes.Structure):
    """The head of a ucontext_t of x86_64, see getcontext(3)."""

    _fields_ = (('flags', ctypes.c_ulong), ('next', ctypes.c_void_p), ('stack', ctypes.c_void_p),
                ('stack_flags', ctypes.c_int), ('stack_size', ctypes.c_size_t),
                ('rest', ctypes.c_char * CONTEXT_BYTES))


_kept: list[Any] = []  # the memory that the thread below works in


def end_on_signals(seconds: float) -> bool:
    """From now on, end the process with code 0 at most `seconds` after SIGINT or SIGTERM.

    Until then neither raises KeyboardInterrupt; what else is to happen (rclpy shuts its contexts
    down) is up to handlers installed later. Call it on the main thread. False where a process that
    holds the GIL cannot be ended so: not on Linux with glibc on x86_64.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _note)
    if platform.machine() != 'x86_64' or platform.libc_ver()[0] != 'glibc':
        return False  # aarch64 has all of it, too, but nobody has tried it there yet
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)  # by C code, without the GIL
    everything = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        # A thread of C: read(pipe), usleep(time), _exit(0). It inherits that signals are blocked.
        library, byte = ctypes.CDLL(None), ctypes.create_string_buffer(1)
        end = _make_context(library, None, library._exit, 0)
        wait = _make_context(library, end, library.usleep, int(seconds * 1e6))
        start = _make_context(library, wait, library.read, read_end, ctypes.addressof(byte), 1)
        _kept.append(byte)
        thread = ctypes.c_void_p()
        run = ctypes.cast(library.setcontext, ctypes.c_void_p)
        return bool(library.pthread_create(ctypes.byref(thread), None, run,
                                           ctypes.byref(start)) == 0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, everything)


def _note(number: int, frame: Any) -> None:
    """Do nothing: the handler's being there is what makes Python write to the pipe."""


def _make_context(library: Any, following: _Context | None, function: Any,
                  *arguments: int) -> _Context:
    """Return a context that calls `function`, then goes on with the `following` one."""
    context, stack = _Context(), ctypes.create_string_buffer(STACK_BYTES)
    _kept.extend((context, stack))
    library.getcontext(ctypes.byref(context))
    context.stack, context.stack_size = ctypes.addressof(stack), STACK_BYTES
    context.next = ctypes.addressof(following) if following is not None else None
    library.makecontext(ctypes.byref(context), ctypes.cast(function, ctypes.c_void_p),
                        len(arguments), *[ctypes.c_long(number) for number in arguments])
    return context
