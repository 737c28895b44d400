# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The end of a process that hangs in C code with the GIL held."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# PyDLL keeps the GIL: from then on no Python thread and no signal handler runs.
HANG = ('import ctypes; from rgbx_seg_ros.exit_guard import exit_after; '
        'assert exit_after({seconds}, {code}); ctypes.PyDLL(None).sleep({sleep})')


@pytest.mark.parametrize('code', [0, 3])
def test_process_that_hangs_with_the_gil_held_ends_in_time_with_its_code(code):
    began = time.monotonic()
    program = HANG.format(seconds=0.5, code=code, sleep=60)
    assert subprocess.run([sys.executable, '-c', program], cwd=ROOT, timeout=30).returncode == code
    assert time.monotonic() - began < 20


def test_process_that_ends_by_itself_is_not_touched():
    program = HANG.format(seconds=30, code=5, sleep=0) + '; raise SystemExit(2)'
    assert subprocess.run([sys.executable, '-c', program], cwd=ROOT, timeout=30).returncode == 2
