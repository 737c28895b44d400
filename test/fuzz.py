# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzzer of the node: nonsense among valid pairs, each of which must come out as the right mask.

`python test/fuzz.py --cases 100000 --seed 1` hands messages to the callbacks of real nodes in this
process, under simulated time; `--dds N` sends N more to a node in a process of its own, mangled
bytes among them. Anything that escapes a callback, fails in the worker, hangs, leaks, or costs a
valid pair its mask is a failure; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import faulthandler
import gc
import os
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter, deque
from pathlib import Path
from random import Random
from typing import Any

import fuzz_messages as nonsense
import yaml
from fuzz_dds import fuzz_over_dds
from fuzz_messages import CELL, SECOND
from fuzz_target import Target
from robot import drops, pixels
from tf2_msgs.msg import TFMessage

from rgbx_seg_ros.memory import resident_mb

IDENTITY = {'format': 1, 'rgb_size': [64, 48], 'aux_size': [64, 48],
            'homography': [1, 0, 0, 0, 1, 0, 0, 0, 1]}
BESIDE = {'format': 1, 'rotation': [1, 0, 0, 0, 1, 0, 0, 0, 1], 'translation': [0, 0, 0]}
# Parameters of each node that is fuzzed. Time constants are short against the time between a
# valid pair and the nonsense before it, so that what is remembered by right has faded.
CONFIGS: dict[str, dict[str, Any]] = {
    'plain': {},
    'percentile': {'aux.normalize': 'percentile', 'aux.hot_pixels': True, 'aux.smoothing': 0.05},
    'clahe': {'aux.normalize': 'clahe', 'aux.hot_pixels': True, 'mask.smoothing': 0.05},
    'refuse': {'aux.normalize': 'fixed', 'aux.false_color': 'refuse', 'sync.policy': 'exact'},
    'latest': {'sync.policy': 'latest', 'aux.normalize': 'percentile'},
    'homography': {'registration.mode': 'homography', 'registration.file': 'identity.yaml'},
    'calibrated': {'registration.mode': 'calibrated'},
    'depth': {'registration.mode': 'depth', 'registration.file': 'beside.yaml'},
    'hold': {'degraded.aux_lost': 'hold', 'degraded.rgb_lost': 'hold'},
    'alone': {'degraded.aux_lost': 'rgb_only', 'degraded.rgb_lost': 'aux_only',
              'degraded.frozen_is_lost': True},
    'compressed': {'rgb.transport': 'compressed', 'aux.transport': 'compressed'},
    'large': {'aux.normalize': 'percentile', 'aux.hot_pixels': True},
    'two pairs': {'pairs': ['front', 'rear'], 'rear.aux.normalize': 'percentile',
                  'rear.aux.transport': 'compressed'},
}
HANG_S = 120
LOG_LINES = 150  # of one node: each kind of fault is told once
LARGE = 0.01  # of the images of configuration large
GROWTH_MB = {'large': 3000.0}  # the middleware keeps a buffer of the largest message per topic
GROWTH_OTHERWISE_MB = 40.0  # of one node after its first quarter


class Fuzzer:
    """Sends nonsense and valid pairs to one target, and judges what comes out."""

    def __init__(self, name: str, target: Target, seed: str) -> None:
        self.name, self.target, self.rng = name, target, Random(seed)
        self.prefixes = [f'/{pair}/' for pair in CONFIGS[name].get('pairs', ())] or ['/']
        self.packed = {stream: f'{stream}.transport' in CONFIGS[name] for stream in ('rgb', 'aux')}
        self.stamp_ns = target.now_ns
        self.history: deque[str] = deque(maxlen=12)
        self.failures: list[str] = []
        self.cases = self.valid = 0
        self.only = ''
        nonsense.LARGE = LARGE if name == 'large' else 0.0

    def topic(self, prefix: str, stream: str) -> str:
        base = f'{prefix}{"thermal" if stream == "aux" else stream}/image_raw'
        return f'{base}/compressed' if self.is_packed(prefix, stream) else base

    def is_packed(self, prefix: str, stream: str) -> bool:
        return self.packed[stream] or (prefix == '/rear/' and stream == 'aux')

    def fail(self, what: str) -> None:
        self.failures.append(f'{self.name}, case {self.cases}: {what}\n    after '
                             + '\n          '.join(self.history))

    def run(self, cases: int) -> None:
        """Send so many messages of nonsense, a valid pair after each few, and judge."""
        self.begin, first = self.resources(), True
        while self.cases < cases and len(self.failures) < 20:
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            if first and self.cases > cases / 4:
                self.begin, first = self.resources(), False
            try:
                for _ in range(self.rng.choice((1, 2, 3, 5, 8))):
                    self.nonsense()
                self.valid_pair(self.rng.choice(self.prefixes))
            except Exception:
                self.fail(traceback.format_exc())
        faulthandler.cancel_dump_traceback_later()
        self.judge_run()

    def nonsense(self) -> None:
        rng, target = self.rng, self.target
        prefix = rng.choice(self.prefixes)
        free = self.stamp_ns + SECOND // 10, self.stamp_ns + SECOND // 3
        kind = self.only or rng.choices(
            ('pair', 'rgb', 'aux', 'info', 'depth', 'tf', 'time', 'tick'),
            (40, 15, 15, 9, 8, 4, 6, 3))[0]
        if rng.random() < 0.03:  # a camera falls silent, or is back
            self.only = rng.choice(('', 'rgb', 'aux'))
        times = rng.choice((1,) * 40 + (2, 5, 40))
        if kind == 'time':
            target.settle(rng.choice((0, 1, 10**7, 10**8, 11 * 10**8, 7 * SECOND, -10**8,
                                      -3 * SECOND)))
            return
        if kind == 'tick':
            target.tick()
            return
        if kind == 'pair':
            self.odd_pair(prefix, free)
            return
        if kind in ('rgb', 'aux'):
            packed = self.is_packed(prefix, kind)
            make = nonsense.compressed if packed else nonsense.image
            topic, message = self.topic(prefix, kind), make(rng, kind, free, wire=False)
        elif kind == 'info':
            topic = f'{prefix}{rng.choice(("rgb", "thermal"))}/camera_info'
            message = nonsense.camera_info(rng)
        elif kind == 'depth':
            topic = f'{prefix}depth_registered/image_rect'
            near = (self.stamp_ns, self.stamp_ns + SECOND)
            message = nonsense.image(rng, 'depth', near, wire=False)
        else:
            topic = '/tf_static'
            message = TFMessage(transforms=[nonsense.transform(rng)
                                            for _ in range(rng.choice((0, 1, 3, 50)))])
        self.deliver(topic, message, times)

    def deliver(self, topic: str, message: Any, times: int = 1) -> None:
        self.history.append(f'{times} x {describe(topic, message)}')
        for _ in range(times):
            self.cases += 1
            self.target.hand_over(topic, message)
            if self.rng.random() < 0.5:
                self.target.advance(self.rng.choice((0, 10**6, 3 * 10**7)))

    def odd_pair(self, prefix: str, free: tuple[int, int]) -> None:
        """Send two images of one stamp that belong together, were they only sound; process them."""
        rng, header = self.rng, nonsense.header(self.rng, free)
        if rng.random() < 0.7:
            stamp = rng.randint(*free)
            header.stamp.sec, header.stamp.nanosec = stamp // SECOND, stamp % SECOND
        for stream in rng.sample(('rgb', 'aux'), 2):
            packed = self.is_packed(prefix, stream)
            make = nonsense.compressed if packed else nonsense.image
            message = make(rng, stream, free, wire=False, soundness=0.85)
            message.header.stamp = header.stamp
            self.deliver(self.topic(prefix, stream), message)
        self.target.settle(rng.choice((0, 110_000_000)))

    def valid_pair(self, prefix: str) -> None:
        """Send one pair, after what it needs, and expect its mask."""
        rng, target = self.rng, self.target
        step_ns = rng.randint(SECOND // 2, 2 * SECOND)
        self.stamp_ns += step_ns
        if rng.random() < 0.01:  # a looped bag
            self.stamp_ns -= rng.randint(10, 10_000) * SECOND
        target.settle(step_ns)
        for stream, camera in (('rgb', 'rgb'), ('aux', 'thermal')):
            target.hand_over(f'{prefix}{camera}/camera_info', nonsense.valid_info(stream))
        if self.name == 'calibrated':
            target.hand_over('/tf_static', TFMessage(transforms=[nonsense.valid_transform()]))
            target.settle()
            target.tick()
        if self.name in ('hold', 'alone'):  # a camera that is back is used from its next frame on
            self.send(prefix, 0)
            self.stamp_ns += SECOND // 5
        mask = self.send(prefix, rng.choice((0, 0, 2_000_000)))
        self.valid += 1
        self.judge(prefix, mask)

    def send(self, prefix: str, skew_ns: int) -> Any:
        rng, target = self.rng, self.target
        target.sent.clear()
        if self.name in ('refuse', 'latest'):
            skew_ns = 0
        packed = tuple(stream for stream in ('rgb', 'aux') if self.is_packed(prefix, stream))
        images, mask = nonsense.valid_pair(rng, self.stamp_ns, skew_ns, packed)
        order = ['aux', 'rgb'] if self.name == 'latest' or rng.random() < 0.5 else ['rgb', 'aux']
        for stream in order:
            target.hand_over(self.topic(prefix, stream), images[stream])
            if rng.random() < 0.2:  # what cannot be an image may come in between
                broken = copy.deepcopy(images[stream])
                del broken.data[-5:]
                target.hand_over(self.topic(prefix, stream), broken)
        target.settle()
        return mask

    def judge(self, prefix: str, expected: Any) -> None:
        output = f'/segment{prefix}'
        stats = self.target.sent.get(f'{output}stats', [])
        counted = drops(stats[-1]) if stats else {}
        made = [message for message in self.target.sent.get(f'{output}mask', ())
                if nanoseconds(message) == self.stamp_ns]
        if not made:
            feed = self.target.node._loaded.pairs[0].feed
            self.fail(f'the valid pair {self.stamp_ns} has no mask; {feed.state}, {counted}, '
                      f'{dict(feed.drops)}, log: {self.target.log.lines[-2:]}')
        else:
            inside = slice(CELL // 2, None, CELL)
            if not (pixels(made[0])[inside, inside] == expected[inside, inside]).all():
                self.fail(f'the mask of {self.stamp_ns} is wrong: '
                          f'{pixels(made[0])[inside, inside].tolist()}, expected '
                          f'{expected[inside, inside].tolist()}')
        if counted.get('engine'):
            self.fail(f'pairs failed: {self.target.log.lines[-3:]}')
        missing = {name for name in ('confidence', 'overlay', 'color_mask', 'aux_preview')
                   if made and f'{output}{name}' not in self.target.sent}
        if missing:
            self.fail(f'{missing} did not come')

    def resources(self) -> tuple[float, int, int]:
        """Return resident MB, threads and file descriptors."""
        for _ in range(3):  # what a large image has left behind goes
            self.valid_pair(self.prefixes[0])
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return resident_mb(), threading.active_count(), len(os.listdir('/proc/self/fd'))

    def judge_run(self) -> None:
        self.end = self.resources()
        lines = self.target.log.lines
        for line in lines:
            if 'in a callback' in line or 'a pair failed' in line:
                self.fail(f'logged: {line[:300]}')
        if len(lines) > LOG_LINES:
            self.fail(f'{len(lines)} lines in the log, such as {lines[-3:]}')
        (before, *counts), (after, *now) = self.begin, self.end
        if after - before > GROWTH_MB.get(self.name, GROWTH_OTHERWISE_MB) or now != counts:
            self.fail(f'from {self.begin} to {self.end} MB, threads, files')


def nanoseconds(message: Any) -> int:
    return int(message.header.stamp.sec) * SECOND + int(message.header.stamp.nanosec)


def describe(topic: str, message: Any) -> str:
    """Return a message in one line."""
    if hasattr(message, 'encoding'):
        return (f'{topic} {nanoseconds(message)} {message.width}x{message.height} '
                f'{message.encoding[:40]!r} step {message.step} big {message.is_bigendian} '
                f'{len(message.data)} bytes')
    if hasattr(message, 'format'):
        head = bytes(message.data[:12]).hex()
        return f'{topic} {nanoseconds(message)} {message.format[:40]!r} {len(message.data)} {head}'
    return f'{topic} {str(message)[:300]}'


def fuzz_in_process(cases: int, seed: int, names: list[str]) -> list[str]:
    """Fuzz one node per configuration; print a table and return the failures."""
    failures, counts = [], Counter()
    print(f'{"configuration":14} {"messages":>9} {"valid pairs":>12} {"masks":>8} {"log lines":>9} '
          f'{"seconds":>8}  MB, threads, files after a quarter and at the end')
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for file, data in (('identity', IDENTITY), ('beside', BESIDE)):
                (Path(folder) / f'{file}.yaml').write_text(yaml.safe_dump(data))
            began, target = time.monotonic(), Target(Path(folder), CONFIGS[name])
            fuzzer = Fuzzer(name, target, f'{seed} {name}')
            fuzzer.run(-(-cases // len(names)))
            target.close()
        counts.update(messages=fuzzer.cases, valid=fuzzer.valid)
        failures += fuzzer.failures
        print(f'{name:14} {fuzzer.cases:9} {fuzzer.valid:12} {target.masks:8} '
              f'{len(target.log.lines):9} {time.monotonic() - began:8.1f}  '
              f'{fuzzer.begin} {fuzzer.end}'
              + (f'  {len(fuzzer.failures)} failures' if fuzzer.failures else ''), flush=True)
    print(f'{counts["messages"]} messages of nonsense, {counts["valid"]} valid pairs among them, '
          f'{len(failures)} failures')
    return failures


def main() -> int:
    """Fuzz as the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(description='Fuzz the node with messages.')
    parser.add_argument('--cases', type=int, default=2000, help='messages in this process')
    parser.add_argument('--dds', type=int, default=0, help='messages to a node process, over DDS')
    parser.add_argument('--seed', type=int, default=None, help='a random one by default')
    parser.add_argument('--only', choices=CONFIGS, help='one configuration')
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else Random().randrange(10**6)
    print(f'seed {seed}')
    warnings.simplefilter('error', RuntimeWarning)
    failures = fuzz_in_process(given.cases, seed, [given.only] if given.only else list(CONFIGS))
    if given.dds:
        failures += fuzz_over_dds(given.dds, seed)
    print('\n'.join(failures) or 'no failures')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
