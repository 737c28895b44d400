# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The robot around a node that is timed: cameras in one process, a listener in this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rgbx_seg.msg import SegmentationStats
from sensor_msgs.msg import Image

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import start_unheard
from rgbx_seg_ros.middleware import set_private_middleware

SCENES = 4  # different images that a camera sends in turn
WARM_S, IDLE_S, MATCH_S, PATIENCE_S, STOP_S = 1.5, 1.0, 1.0, 40.0, 15.0
CAMERAS_STOP_S = 2.0
TRIALS = 3
TICK_MS = 1e3 / os.sysconf('SC_CLK_TCK')


class NoConnectionError(RgbxSegError):
    """The middleware did not bring the processes together."""


class Load(NamedTuple):
    """What the cameras send and which of the node's outputs are listened to."""

    size: tuple[int, int]  # of rgb8 images, width and height
    aux_size: tuple[int, int]  # of mono16 images
    rate: float  # pairs a second
    seconds: float
    outputs: tuple[str, ...]
    modality: str


class Usage:
    """CPU time, minor page faults and memory of a process, now."""

    def __init__(self, pid: int) -> None:
        """Read /proc/PID/stat."""
        stat = Path(f'/proc/{pid}/stat').read_text()
        # The name, in parentheses, may hold anything; after it come numbers (man proc_pid_stat).
        fields = stat[stat.rindex(')') + 2:].split()
        self.faults = int(fields[7])
        self.cpu_ms = (int(fields[11]) + int(fields[12])) * TICK_MS
        self.rss_mib = int(fields[21]) * os.sysconf('SC_PAGE_SIZE') / 2**20


class Listener:
    """Subscribes to a node `segment`; images stay serialized, for only their stamps matter."""

    def __init__(self, load: Load) -> None:
        """Join the domain."""
        self.load = load
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('listener', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        for name in load.outputs:
            self.node.create_subscription(Image, f'segment/{name}', partial(self._on_image, name),
                                          QoSProfile(depth=2), raw=True)
        self.node.create_subscription(SegmentationStats, 'segment/stats',
                                      lambda stats: self.stats.append(stats), QoSProfile(depth=2))
        self.clear()

    def clear(self) -> None:
        """Forget what was heard."""
        self.latency_ms: dict[str, list[float]] = {name: [] for name in self.load.outputs}
        self.stats: list[Any] = []

    def meet(self, topics: list[str], node: NodeProcess) -> None:
        """Listen until somebody publishes and somebody hears each topic."""
        def missing() -> list[str]:
            node.check()
            return [topic for topic in topics if not (
                self.node.count_publishers(topic) and self.node.count_subscribers(topic))]

        self.spin(PATIENCE_S, lambda: not missing())
        if topics := missing():
            raise NoConnectionError(
                f'nobody sends or nobody listens on {", ".join(topics)} after {PATIENCE_S:g} s; '
                f'the node last said: {node.last_words()}')

    def spin(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Listen for a while, at most until a condition holds."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(0.05, left))
            if until is not None and until():
                return

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _on_image(self, output: str, serialized: bytes) -> None:
        order = '<' if serialized[1] & 1 else '>'  # CDR: two bytes of encoding, two of options
        sec, nanosec = struct.unpack_from(f'{order}iI', serialized, 4)
        self.latency_ms[output].append((time.time_ns() - sec * 10**9 - nanosec) / 1e6)


class NodeProcess:
    """A node in its own process, and what it prints."""

    def __init__(self, command: list[str], root: Path, log: Path) -> None:
        """Start it with the code in folder `root`."""
        path = os.pathsep.join(filter(None, (str(root), os.environ.get('PYTHONPATH'))))
        self._log = log
        with log.open('wb') as output:
            # A session of its own: Ctrl+C reaches this process alone, which then ends the node.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                cwd=root, env={**os.environ, 'PYTHONPATH': path}, start_new_session=True)
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise if it has ended or cannot begin."""
        words = self.last_words()
        if self._process.poll() is not None:
            raise RgbxSegError(f'the node ended with exit code {self._process.returncode}, '
                               f'expected it to run; it last said: {words}')
        if 'cannot configure' in words:  # it waits for better parameters
            raise RgbxSegError(words.partition('cannot configure: ')[2])

    def last_words(self) -> str:
        """Return the last line that it has printed."""
        lines = self._log.read_text('utf-8', 'replace').split('\n')
        return next((line for line in reversed(lines) if line.strip()), 'none.')

    def stop(self) -> None:
        """End it."""
        for number in (signal.SIGINT, signal.SIGKILL):
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_S)
                return
            except subprocess.TimeoutExpired:
                continue


@contextmanager
def _closing(listener: Listener, node: NodeProcess, cameras: Any) -> Iterator[None]:
    try:
        yield
    finally:
        if cameras.pid is not None:
            cameras.terminate()
            cameras.join(CAMERAS_STOP_S)
            cameras.kill()
        node.stop()
        listener.close()


def measure(command: list[str], root: Path, log: Path, load: Load) -> dict[str, Any]:
    """Return what a node, started by `command` in folder `root`, costs and delivers."""
    for trial in range(TRIALS):
        try:
            return _measure(command, root, log, load)
        except NoConnectionError:
            # Seen once in ten starts on a busy machine: a thread of Fast DDS's TCP transport, which
            # LARGE_DATA uses to tell of topics, keeps a lock for ever, in whichever process.
            if trial == TRIALS - 1:
                raise
    raise AssertionError


def _measure(command: list[str], root: Path, log: Path, load: Load) -> dict[str, Any]:
    set_private_middleware()
    spawn = multiprocessing.get_context('spawn')
    go, sent = spawn.Event(), spawn.Value('q', 0, lock=False)
    cameras = spawn.Process(target=run_cameras, args=(load, go, sent), daemon=True)
    listener, node = Listener(load), NodeProcess(command, root, log)
    with _closing(listener, node, cameras):
        # One after the other: participants of Fast DDS that start together may miss each other.
        listener.meet([f'segment/{name}' for name in load.outputs], node)
        start_unheard(cameras)
        listener.meet(['rgb/image_raw', f'{load.modality}/image_raw'], node)
        listener.spin(MATCH_S)  # a best-effort subscriber misses what comes too early
        idle = Usage(node.pid)
        listener.spin(IDLE_S)
        first = Usage(node.pid)
        idle_percent = (first.cpu_ms - idle.cpu_ms) / IDLE_S / 10
        go.set()
        listener.spin(WARM_S)
        listener.clear()
        first, sent_before = Usage(node.pid), sent.value
        listener.spin(load.seconds)
        last, pairs = Usage(node.pid), len(listener.latency_ms[load.outputs[0]])
        if not pairs:
            raise NoConnectionError(f'{load.outputs[0]} was not heard once in {load.seconds:g} s; '
                                    f'the node last said: {node.last_words()}')
        return {
            'pairs_in': sent.value - sent_before, 'pairs_out': pairs,
            'received': {name: len(times) for name, times in listener.latency_ms.items()},
            'cpu_ms_per_pair': (last.cpu_ms - first.cpu_ms) / pairs,
            'cpu_percent': (last.cpu_ms - first.cpu_ms) / load.seconds / 10,
            'idle_cpu_percent': idle_percent,
            'page_faults_per_pair': (last.faults - first.faults) / pairs, 'rss_mib': last.rss_mib,
            'latency_ms': percentiles(listener.latency_ms[load.outputs[0]]),
            **from_stats(listener.stats)}


def from_stats(stats: list[Any]) -> dict[str, Any]:
    """Return percentiles of every *_ms field of SegmentationStats, and the drops in between."""
    if not stats:
        return {}
    names = [name for name in stats[0].get_fields_and_field_types() if name.endswith('_ms')]
    before, after = (dict(zip(one.drop_causes, one.drop_counts, strict=True))
                     for one in (stats[0], stats[-1]))
    drops = {cause: count - before.get(cause, 0) for cause, count in after.items()}
    return {'stages': {name: percentiles([getattr(one, name) for one in stats]) for name in names},
            'drops': {cause: count for cause, count in drops.items() if count}}


def percentiles(values: list[float]) -> dict[str, float]:
    """Return the median and the 95th percentile."""
    return {f'p{percent}': float(np.percentile(values, percent)) for percent in (50, 95)}


def run_cameras(load: Load, go: Any, sent: Any) -> None:
    """Publish both images of each pair at once, from `go` until SIGTERM."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # leaving the domain in good order
    node = rclpy.create_node('cameras')
    rng = np.random.default_rng(0)
    streams = [
        (node.create_publisher(Image, f'{name}/image_raw', QoSProfile(depth=10)), images)
        for name, images in (('rgb', _scenes(rng, load.size, 3, 'rgb8')),
                             (load.modality, _scenes(rng, load.aux_size, 1, 'mono16')))]
    go.wait()
    began_ns = time.monotonic_ns()
    while True:
        due_ns = began_ns + round(sent.value * 1e9 / load.rate)
        time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
        sec, nanosec = divmod(time.time_ns(), 10**9)
        for publisher, images in streams:
            image = images[sent.value % SCENES]
            image.header.stamp.sec, image.header.stamp.nanosec = sec, nanosec
            publisher.publish(image)
        sent.value += 1


def _scenes(rng: np.random.Generator, size: tuple[int, int], channels: int,
            encoding: str) -> list[Image]:
    """Return images of a slope with noise; 16-bit ones as a thermal camera counts in 0.01 K."""
    width, height = size
    low, span, noise, dtype = {
        'rgb8': (20, 180, 40, np.uint8), 'mono16': (28_000, 3_000, 30, np.uint16)}[encoding]
    slope = np.linspace(0.2, 1, height)[:, None, None] * np.linspace(0, 1, width)[:, None]
    images = []
    for _ in range(SCENES):
        grain = rng.integers(0, noise, (height, width, channels))
        pixels = (low + span * slope + grain).astype(dtype)
        image = Image(height=height, width=width, encoding=encoding, step=pixels[0].nbytes)
        image.header.frame_id = 'camera'
        image.data.frombytes(pixels.tobytes())
        images.append(image)
    return images
