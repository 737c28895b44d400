# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node in its own process, and the corner of DDS in which only it and the demo meet."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
# By default Fast DDS sends a 640x480 image as UDP fragments and loses about half of them. Bare, for
# with sizes asked for it registers no transport at all where the kernel allows less, as most do
# (net.core.wmem_max 212992); and 1920x1080 images arrive without loss this way only.
LARGE_IMAGES = 'LARGE_DATA'
TRANSPORT_VARIABLES = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
                       'FASTRTPS_DEFAULT_PROFILES_FILE')
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


def set_private_middleware() -> None:
    """Choose a domain of its own and a transport fit for images; before rclpy.init."""
    os.environ['ROS_DOMAIN_ID'] = str(free_domain())
    # Confined to this machine by either of these, rmw_fastrtps replaces the transport chosen below
    # by its own, which loses most images (measured: 105 of 175). So the domain alone keeps apart.
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    for name in ('ROS_LOCALHOST_ONLY', 'ROS_STATIC_PEERS'):
        os.environ.pop(name, None)
    rmw = os.environ.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
    chosen = any(os.environ.get(name) for name in TRANSPORT_VARIABLES)
    if rmw.startswith('rmw_fastrtps') and not chosen:
        os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = LARGE_IMAGES


def free_domain() -> int:
    """Return a random domain id that nobody on this machine uses."""
    for domain in random.sample(range(1, 100), 99):
        # Every participant listens to its domain's discovery port, which DDS numbers so.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain))
            except OSError:
                continue
            return domain
    return 0
