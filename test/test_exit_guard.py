# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The end of a process that hangs in C code with the GIL held."""

import signal
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


GUARDED = ('import ctypes, signal, threading, time; from rgbx_seg_ros.exit_guard import '
           'end_on_signals; end_on_signals(0.3); ')


@pytest.mark.parametrize('stuck', ['ctypes.PyDLL(None).sleep(60)', 'time.sleep(60)'])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_whose_thread_holds_the_gil(stuck, number):
    program = (GUARDED + f"threading.Thread(target=lambda: (print('stuck', flush=True), {stuck}))"
               '.start(); time.sleep(60)')
    with subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'stuck\n'
        time.sleep(0.1)
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 0
        assert 0.2 < time.monotonic() - began < 5


def test_without_a_signal_the_guard_ends_nothing():
    program = GUARDED + ("signal.signal(signal.SIGUSR1, signal.SIG_IGN); "
                         "signal.raise_signal(signal.SIGUSR1); time.sleep(1); raise SystemExit(2)")
    assert subprocess.run([sys.executable, '-c', program], cwd=ROOT, timeout=30).returncode == 2
