# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
STOP_S = 15.0  # for the pair in work, and for an engine to be closed


class NodeProcess:
    """`python -m rgbx_seg_ros.node` with ROS arguments; use as a context manager."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        """Remember how to start it; its output goes to the file `log`."""
        self.log = log
        self._command = [sys.executable, '-m', 'rgbx_seg_ros.node', '--ros-args', *arguments]

    def __enter__(self) -> NodeProcess:
        """Start the process."""
        environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(
            filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))}
        with self.log.open('wb') as output:
            # A session of its own: Ctrl+C reaches the demo alone, which then ends the node.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        """End the process if it still runs."""
        self.stop()

    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Ask the process to end, in ever plainer words; return its exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                return self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                continue
        return self._process.wait()

    def last_words(self) -> str:
        """Return the end of what the process printed."""
        return '\n'.join(self.log.read_text('utf-8', 'replace').splitlines()[-15:])
