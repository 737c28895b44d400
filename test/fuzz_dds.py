# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The fuzzer's share over DDS: a node in its own process, and bytes that are no messages."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import fuzz_messages as nonsense
from bundles import write_tiny_bundle
from fuzz_messages import SECOND
from rclpy.serialization import serialize_message
from rgbx_seg.msg import SegmentationStats
from robot import NodeProcess, drops, free_domain, pixels, robot
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

CONFIGS: dict[str, dict[str, Any]] = {
    'raw': {'aux__normalize': 'percentile', 'aux__hot_pixels': True,
            'degraded__aux_lost': 'hold'},
    'compressed': {'rgb__transport': 'compressed', 'aux__transport': 'compressed'},
}
PAUSE_S = 0.004  # between messages: the node's queues hold five, and a full one loses any
ALONE_S = 0.25  # before a valid pair: what waits for a partner has had its time
PATIENCE_S = 5.0
GROWTH_MB = 60.0


class Sender:
    """Sends nonsense and valid pairs to a node process, and judges what comes back."""

    def __init__(self, peer: Any, packed: bool, rng: Random) -> None:
        """Listen to the masks; `packed` says that images are compressed."""
        self.peer, self.rng, self.packed = peer, rng, packed
        suffix = '/compressed' if packed else ''
        kind = CompressedImage if packed else Image
        self.topics = {'rgb': f'/rgb/image_raw{suffix}', 'aux': f'/thermal/image_raw{suffix}'}
        self.masks = peer.listen(Image, '/segment/mask')
        self.stats = peer.listen(SegmentationStats, '/segment/stats')
        peer.advertise(kind, *self.topics.values())
        peer.advertise(CameraInfo, '/rgb/camera_info')
        self.stamp_ns = time.time_ns() - 10**6 * SECOND
        self.sent = self.valid = 0

    def nonsense(self) -> None:
        """Send one message, or bytes, of nonsense."""
        rng, free = self.rng, (self.stamp_ns + SECOND // 10, self.stamp_ns + SECOND // 3)
        stream = rng.choice(('rgb', 'aux'))
        topic = self.topics[stream]
        if rng.random() < 0.1:
            topic, message = '/rgb/camera_info', nonsense.camera_info(rng)
        else:
            make = nonsense.compressed if self.packed else nonsense.image
            message = make(rng, stream, free, soundness=0.5)
        if rng.random() < 0.3:
            message = nonsense.bent_cdr(rng, serialize_message(message))
        self.sent += 1
        with suppress(UnicodeEncodeError):
            self.peer.publish(topic, message)
        self.peer.spin(PAUSE_S)

    def valid_pair(self) -> str:
        """Send a valid pair; return what is wrong with its mask, or nothing."""
        self.peer.spin(ALONE_S)
        self.stamp_ns += SECOND
        packed = ('rgb', 'aux') if self.packed else ()
        for trial in range(2):  # the first one ends what nonsense has brought about: a lost camera
            images, expected = nonsense.valid_pair(self.rng, self.stamp_ns, 0, packed)
            self.masks.clear()
            for stream, topic in self.topics.items():
                self.peer.publish(topic, images[stream])
            found = self.peer.until(self.mask, PATIENCE_S if trial else 0.5)
            self.stamp_ns += 0 if trial else SECOND // 5
        self.valid += 1
        if not found:
            return f'the valid pair {self.stamp_ns} has no mask'
        inside = slice(nonsense.CELL // 2, None, nonsense.CELL)
        if not (pixels(self.mask())[inside, inside] == expected[inside, inside]).all():
            return f'the mask of {self.stamp_ns} is wrong'
        return ''

    def mask(self) -> Any:
        """Return the mask of the present stamp, or None."""
        return next((mask for mask in self.masks if mask.header.stamp.sec * SECOND
                     + mask.header.stamp.nanosec == self.stamp_ns), None)


def resources(pid: int) -> tuple[float, int, int]:
    """Return resident MB, threads and file descriptors of a process."""
    status = dict(line.split(':', 1) for line in
                  Path(f'/proc/{pid}/status').read_text().split('\n') if ':' in line)
    return (int(status['VmRSS'].split()[0]) * 1.024e-3, int(status['Threads']),
            len(os.listdir(f'/proc/{pid}/fd')))


def fuzz_over_dds(cases: int, seed: int) -> list[str]:
    """Fuzz one node process per configuration; print a table and return the failures."""
    failures = []
    for name, parameters in CONFIGS.items():
        with tempfile.TemporaryDirectory() as folder:
            began, number = time.monotonic(), free_domain()
            bundle = write_tiny_bundle(Path(folder) / 'bundle')
            with (NodeProcess(Path(folder) / 'log', number, bundle=bundle, **parameters) as node,
                  robot(number) as peer):
                sender = Sender(peer, name == 'compressed', Random(f'{seed} dds {name}'))
                failures += [f'over DDS, {name}: {what}' for what in
                             fuzz_process(node, sender, -(-cases // len(CONFIGS)))]
            print(f'DDS {name:10} {sender.sent:9} {sender.valid:12} {"":18} '
                  f'{time.monotonic() - began:8.1f}', flush=True)
    return failures


def fuzz_process(node: NodeProcess, sender: Sender, cases: int) -> list[str]:
    """Send so many messages to a node, and return what went wrong."""
    failures, first = [], (0.0, 0, 0)
    while sender.sent < cases and len(failures) < 20:
        for _ in range(sender.rng.choice((3, 10, 20))):
            sender.nonsense()
        failures += filter(None, [sender.valid_pair()])
        if node.process.poll() is not None:
            return [*failures, f'the node ended with {node.process.returncode}: {node.log[-500:]}']
        if not first[0] and sender.sent > cases / 4:
            first = resources(node.process.pid)
    last = resources(node.process.pid)
    counted = drops(sender.stats[-1]) if sender.stats else {}
    if first[0] and (last[0] - first[0] > GROWTH_MB or last[1] > first[1] or last[2] > first[2]):
        failures.append(f'from {first} to {last} MB, threads, files')
    if counted.get('engine') or 'in a callback' in node.log or 'Traceback' in node.log:
        failures.append(f'{counted}, {node.log[-500:]}')
    if (code := node.end()) != 0:
        failures.append(f'the node ended with {code}')
    return failures
