# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node for half an hour at 30 Hz: its memory must stand still and every pair be accounted for.

`python test/soak.py --minutes 30` starts the node, cameras of 640x480 (rgb8, mono16) in a process
of their own, and listens to every output. It samples the node's memory, threads and files, writes
out/soak/report.txt and samples.csv, and ends with 1 if memory grows by LIMIT_MB after the first
minutes, a pair is lost and not counted, or the node does not end well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from bundles import write_tiny_bundle
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rgbx_seg.msg import SegmentationInfo, SegmentationStats
from robot import NodeProcess, drops, image, robot
from sensor_msgs.msg import CameraInfo, Image

from rgbx_seg_ros.middleware import TRANSPORT_VARIABLES, set_private_middleware

ROOT = Path(__file__).parent.parent
SIZE, RATE_HZ = (480, 640), 30
SCENES = 4  # different images, sent in turn
OUTPUTS = {'mask': Image, 'confidence': Image, 'overlay': Image, 'color_mask': Image,
           'aux_preview': Image, 'camera_info': CameraInfo}
LIMIT_MB = 5.0
TRIALS = 5  # of bringing the processes together
IN_FLIGHT = 3  # pairs between a camera and the counters
OVERWRITTEN = 0.005  # of all pairs, in the middleware's queue where the node was not let run
STALLS, STALL_S, WARM_S = 4, 0.7, 180.0
COLUMNS = ('seconds', 'resident_mb', 'threads', 'files', 'sent', 'published', 'dropped', 'heard',
           'cpu_percent')


class Sample(NamedTuple):
    """The node at one moment; counts since the start."""

    seconds: float
    resident_mb: float
    threads: int
    files: int
    sent: int
    published: int
    dropped: int
    heard: int
    cpu_percent: float


def run_cameras(go: Any, sent: Any) -> None:
    """Publish both images of a pair and the calibration at once, from `go` until SIGTERM."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    node, rng = rclpy.create_node('cameras'), np.random.default_rng(0)
    scenes = [(image(rng.integers(0, 256, (*SIZE, 3), np.uint8), 'rgb8', 0),
               image(rng.integers(28_000, 31_000, SIZE, np.uint16), 'mono16', 0),
               CameraInfo(width=SIZE[1], height=SIZE[0])) for _ in range(SCENES)]
    publishers = [node.create_publisher(type(message), topic, QoSProfile(depth=10))
                  for message, topic in zip(scenes[0], ('rgb/image_raw', 'thermal/image_raw',
                                                        'rgb/camera_info'), strict=True)]
    go.wait()
    began_ns = time.monotonic_ns()
    while True:
        due_ns = began_ns + round(sent.value * 1e9 / RATE_HZ)
        time.sleep(max(due_ns - time.monotonic_ns(), 0) / 1e9)
        stamp = node.get_clock().now().to_msg()
        for publisher, message in zip(publishers, scenes[sent.value % SCENES], strict=True):
            message.header.stamp = stamp
            publisher.publish(message)
        sent.value += 1


class Probe:
    """Reads what the node says and what the kernel knows of it."""

    def __init__(self, pid: int, sent: Any) -> None:
        """Begin to count."""
        self.pid, self.sent = pid, sent
        self.heard = dict.fromkeys(OUTPUTS, 0)
        self.stats: Any = None
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self._cpu = (self.began, self._cpu_s())

    def on_message(self, name: str, message: Any) -> None:
        """Count one message."""
        self.heard[name] += 1

    def on_stats(self, stats: Any) -> None:
        """Keep the newest counters."""
        self.stats = stats

    def sample(self) -> None:
        """Read all of it now."""
        status = Path(f'/proc/{self.pid}/status').read_text().split('\n')
        fields = dict(line.split(':', 1) for line in status if ':' in line)
        now, cpu_s = time.monotonic(), self._cpu_s()
        percent = 100 * (cpu_s - self._cpu[1]) / max(now - self._cpu[0], 1e-9)
        self._cpu = now, cpu_s
        published = self.stats.pairs_published if self.stats else 0
        self.samples.append(Sample(
            now - self.began, int(fields['VmRSS'].split()[0]) * 1.024e-3,
            int(fields['Threads']), len(os.listdir(f'/proc/{self.pid}/fd')), self.sent.value,
            published, sum(drops(self.stats).values()) if self.stats else 0, self.heard['mask'],
            percent))

    def _cpu_s(self) -> float:
        stat = Path(f'/proc/{self.pid}/stat').read_text()
        user, system = stat[stat.rindex(')') + 2:].split()[11:13]
        return (int(user) + int(system)) / os.sysconf('SC_CLK_TCK')


class NoConnectionError(RuntimeError):
    """The processes did not find each other."""


def soak(minutes: float, bundle: Path, out: Path) -> list[str]:
    """Run, write the report, and return what was wrong."""
    os.environ.pop(TRANSPORT_VARIABLES[0], None)  # robot.py's choice is for small images
    set_private_middleware()
    spawn = multiprocessing.get_context('spawn')
    go, sent = spawn.Event(), spawn.Value('q', 0, lock=False)
    cameras = spawn.Process(target=run_cameras, args=(go, sent), daemon=True)
    domain = int(os.environ['ROS_DOMAIN_ID'])
    with NodeProcess(out / 'node.log', domain, bundle=bundle) as node, robot(domain) as peer:
        info = peer.listen(SegmentationInfo, '/segment/info', QoSProfile(
            depth=1, durability=rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL))
        probe = Probe(node.process.pid, sent)
        for name, kind in OUTPUTS.items():
            peer.node.create_subscription(kind, f'/segment/{name}', partial(
                probe.on_message, name), QoSProfile(depth=5), raw=True)
        peer.node.create_subscription(SegmentationStats, '/segment/stats', probe.on_stats, 5)
        cameras.start()
        try:
            missing = partial(unmet, peer.node, info)
            if not peer.until(lambda: not missing()):
                raise NoConnectionError(f'{missing()}; {node.log}')
            peer.spin(2.0)
            listen(peer, node, probe, minutes * 60, go)
        finally:
            cameras.terminate()
            cameras.join(5)
            cameras.kill()
        peer.spin(1.0)
        probe.sample()
        code = node.end()
        return report(probe, out, f'{info[0].model_name} {info[0].width}x{info[0].height} on '
                      f'{info[0].backend} {info[0].backend_version}', code, node.log)


def unmet(node: Any, info: list[Any]) -> list[str]:
    """Return what is not connected yet."""
    topics = ('/rgb/image_raw', '/thermal/image_raw')
    return ([f'no publisher of {topic}' for topic in topics if not node.count_publishers(topic)]
            + [f'no subscriber of {topic}' for topic in topics if not node.count_subscribers(topic)]
            + ([] if info else ['no info']))


def listen(peer: Any, node: Any, probe: Probe, seconds: float, go: Any) -> None:
    """Let the cameras run for a while and sample every few seconds."""
    every_s = max(1.0, min(10.0, seconds / 60))
    go.set()
    probe.began, told = time.monotonic(), -60.0
    for _ in range(STALLS):  # queues and pools fill once, as they do whenever a machine is busy
        peer.spin(3.0)
        node.process.send_signal(signal.SIGSTOP)
        peer.spin(STALL_S)
        node.process.send_signal(signal.SIGCONT)
    while probe.samples[-1].seconds < seconds if probe.samples else True:
        peer.spin(every_s)
        assert node.process.poll() is None, node.log
        probe.sample()
        last = probe.samples[-1]
        if last.seconds - told >= 60:
            told = last.seconds
            print(' '.join(f'{name} {value:.1f}' if isinstance(value, float) else
                           f'{name} {value}' for name, value in last._asdict().items()), flush=True)


def growth_mb(samples: list[Sample], warm_s: float) -> float:
    """Return by how much memory grew after `warm_s`, by medians of the first and last tenth."""
    resident = [sample.resident_mb for sample in samples if sample.seconds >= warm_s]
    edge = max(1, len(resident) // 10)
    return statistics.median(resident[-edge:]) - statistics.median(resident[:edge])


def report(probe: Probe, out: Path, model: str, code: int, log: str) -> list[str]:
    """Write samples.csv and report.txt; return what was wrong."""
    samples, stats = probe.samples, probe.stats
    lines = [','.join(COLUMNS)] + [','.join(f'{value:.6g}' for value in sample)
                                   for sample in samples]
    (out / 'samples.csv').write_text('\n'.join(lines) + '\n')
    seconds = samples[-1].seconds
    warm_s = min(WARM_S, max(20.0, seconds / 5))
    grown = growth_mb(samples[:-1], warm_s)
    settled = [sample for sample in samples[:-1] if sample.seconds >= warm_s]
    counted = drops(stats)
    sent, published, dropped = (getattr(samples[-1], name) - getattr(settled[0], name)
                                for name in ('sent', 'published', 'dropped'))
    missing = sent - published - dropped
    faults = []
    if grown >= LIMIT_MB:
        faults.append(f'memory grew by {grown:.1f} MB')
    if missing > IN_FLIGHT + OVERWRITTEN * sent:
        faults.append(f'{missing} pairs were lost and not counted')
    for name in ('threads', 'files'):
        found = {getattr(sample, name) for sample in settled}
        if len(found) > 1 and getattr(settled[-1], name) > getattr(settled[0], name):
            faults.append(f'{name} grew: {sorted(found)}')
    if code or 'Traceback' in log or ' in a callback' in log:
        faults.append(f'the node ended with {code}; see node.log')
    middle = settled[len(settled) // 2]
    text = '\n'.join([
        f'{seconds / 60:.1f} minutes, {RATE_HZ} Hz, {SIZE[1]}x{SIZE[0]} rgb8 and mono16, {model}',
        f'pairs: {samples[-1].sent} sent, {stats.pairs_published} published '
        f'({stats.pairs_published / seconds:.1f} a second), drops {counted or "none"}, '
        f'{missing} of {sent} after {warm_s:.0f} s in flight or overwritten before they were taken',
        'heard: ' + ', '.join(f'{name} {count}' for name, count in probe.heard.items()),
        f'memory: {samples[0].resident_mb:.1f} MB at first, {settled[0].resident_mb:.1f} after '
        f'{warm_s:.0f} s, {middle.resident_mb:.1f} in the middle, {settled[-1].resident_mb:.1f} '
        f'at the end; growth {grown:+.2f} MB',
        f'threads {settled[0].threads} to {settled[-1].threads}, files {settled[0].files} to '
        f'{settled[-1].files}, CPU {statistics.median(s.cpu_percent for s in settled):.0f} %',
        f'log: {log.count("[WARN]")} warnings, {log.count("[ERROR]")} errors; exit code {code}',
        'passed' if not faults else 'failed: ' + '; '.join(faults)])
    (out / 'report.txt').write_text(text + '\n')
    print(text)
    return faults


def main() -> int:
    """Soak as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description='Run the node for long and watch its memory.')
    parser.add_argument('--minutes', type=float, default=30.0)
    parser.add_argument('--bundle', type=Path, help='by default one that costs next to nothing')
    parser.add_argument('--out', type=Path, default=ROOT / 'out' / 'soak')
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    bundle = given.bundle or write_tiny_bundle(given.out / 'bundle', 240, 320)
    for trial in range(TRIALS):
        try:
            return 1 if soak(given.minutes, bundle, given.out) else 0
        except NoConnectionError as error:  # Fast DDS's LARGE_DATA, once in ten starts
            print(f'trial {trial + 1}: {error}')
    return 1


if __name__ == '__main__':
    sys.exit(main())
