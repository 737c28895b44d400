# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The C library's memory, set up for images that come and go thirty times a second."""

from __future__ import annotations

import ctypes

# malloc.h of glibc, mallopt(3)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = 32 << 20  # bytes; older glibc takes no higher threshold. An 8K image is mapped anew
KEPT = 256 << 20


def keep_freed_memory() -> bool:
    """Let blocks of an image's size be used again instead of going back to the kernel.

    A fresh block costs a page fault per 4 KiB: 1400 per pair at 640x480, 2 ms. False where the C
    library is not glibc; then nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
