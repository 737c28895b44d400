# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The lock that keeps two builders of engines apart, and says who holds it.

It is the kernel's, on an open file, so that of a process that died is free. What a dead process
wrote into the file is still there: so the next builder learns that a build was broken off.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

Tell = Callable[[str], None]

LOCK_FILE = 'lock'
LOOK_S = 0.2  # how often a waiting builder looks whether the lock is free
TELL_S = 5.0  # how often it says that it still waits
MAX_NOTE_CHARACTERS = 500
BROKEN_OFF = ('where memory is short, the kernel ends the largest process: add swap, close other '
              'programs, or build on another machine where the library can')


@contextmanager
def locked(place: Path, purpose: str, tell: Tell) -> Iterator[None]:
    """Hold the lock of a folder; while another process holds it, `tell` hears which, and wait.

    Raises:
        OSError: the folder cannot be written.

    """
    with (place / LOCK_FILE).open('a+', encoding='utf-8', errors='replace') as file:
        _wait(file, tell)
        if left := _note(file):
            tell(f'{left}, did not come to its end; {BROKEN_OFF}.')
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}, since '
                   f'{datetime.now().strftime("%H:%M:%S")} busy with {purpose}')
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _wait(file: IO[str], tell: Tell) -> None:
    begun, told = time.monotonic(), -TELL_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            waited = time.monotonic() - begun
        if waited - told >= TELL_S:
            tell(f'waiting since {waited:.0f} s for {_note(file) or "another process"}.')
            told = waited
        time.sleep(LOOK_S)


def _note(file: IO[str]) -> str:
    file.seek(0)
    return file.read(MAX_NOTE_CHARACTERS).strip()
