# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""One playing of a bag: node, recorder and player at work together."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import rclpy

from demo.node_process import NodeProcess
from demo.recorder import Recorder
from demo.timeline import Timeline
from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.middleware import set_private_middleware
from rgbx_seg_ros.play_plan import LiveClock, Plan, PlayOptions, plan_playing
from rgbx_seg_ros.player import Player, open_node
from rgbx_seg_ros.sync import SyncConfig

DISCOVERY_S = 30.0
START_S = 180.0  # some backends build their engine when they first meet a bundle
QUIET_S = 2.2  # at the end: two of the node's diagnostics, so that the last one is complete
DRAIN_S = 60.0
LOOK_AHEAD_BYTES = 512 << 20  # a short bag is ready as a whole before it plays


# What else is to happen while the bag plays: node, recorder, the segmenting node's name -> scope.
Beside = Callable[[Any, Recorder, str], AbstractContextManager[Any]]


def nothing(node: Any, recorder: Recorder, name: str) -> AbstractContextManager[Any]:
    """Return an empty scope: the bag plays, and that is all."""
    return nullcontext()


class Session(NamedTuple):
    """What came of playing a bag."""

    player: Player
    recorder: Recorder
    clock: LiveClock
    exit_code: int  # of the node
    rmw: str


class NotShownError(RgbxSegError):
    """The middleware did not show the node; Fast DDS sometimes hangs while it starts."""


def record(timeline: Timeline, bundle: Path, modality: str, backend: str, rate: float,
           log: Path, spool: BinaryIO, beside: Beside = nothing) -> Session:
    """Play the bag through a node of its own; its pictures go to `spool`, its words to `log`.

    The scope that `beside` returns is open while the bag plays. A middleware that does not show the
    node gets a second chance, in another domain.
    """
    try:
        return _record(timeline, bundle, modality, backend, rate, log, spool, beside)
    except NotShownError as error:
        print(f'demo: {error} Once more.', file=sys.stderr)
        set_private_middleware()
        return _record(timeline, bundle, modality, backend, rate, log, spool, beside)


def _record(timeline: Timeline, bundle: Path, modality: str, backend: str, rate: float,
            log: Path, spool: BinaryIO, beside: Beside) -> Session:
    # The player shall not wait 5 ms for the interpreter whenever the recorder has it.
    sys.setswitchinterval(0.0005)
    with open_node('rgbx_seg_demo') as node:
        # Whoever else is in this domain, of another machine perhaps, is in another namespace.
        space = f'/demo_{secrets.token_hex(4)}'
        player = Player(node, plan(timeline, space), rate=rate, now=True, bias_ns=timeline.bias_ns,
                        look_ahead_bytes=LOOK_AHEAD_BYTES)
        recorder = Recorder(node, f'{space}/segment', spool)
        names = {track.topic: track.name for track in player.tracks}
        inputs = dict(zip(('rgb', modality), map(names.get, timeline.images), strict=True))
        try:
            with NodeProcess(ros_arguments(bundle, backend, rate, space, inputs), log) as process:
                _wait_until_active(process, node, player, recorder)
                with beside(node, recorder, f'{space}/segment'):
                    clock = player.play()
                _drain(process, recorder)
                exit_code = process.stop()
        finally:
            player.stop()
        return Session(player, recorder, clock, exit_code,
                       rclpy.get_rmw_implementation_identifier())


def plan(timeline: Timeline, space: str) -> Plan:
    """Return the playing of rgb and aux in namespace `space`, as two camera drivers would.

    Compressed images are decoded before, so that the wire carries the true load.
    """
    remap = {topic: space + topic.removesuffix('/compressed') for topic in timeline.images}
    options = PlayOptions(topics=timeline.images, remap=remap, reliability='reliable',
                          decompress=True)
    return plan_playing(timeline.bag, options)._replace(start_ns=timeline.first_ns,
                                                        stop_ns=timeline.last_ns)


def ros_arguments(bundle: Path, backend: str, rate: float, space: str,
                  inputs: dict[str, str]) -> list[str]:
    """Return the ROS arguments of the node in namespace `space`; `inputs`: rgb, modality -> topic.

    Played slower or faster, everything in time is stretched alike, and so must be the limits of
    pairing: then the same pairs come out.
    """
    sync = SyncConfig()
    parameters: dict[str, object] = {'bundle': f'"{bundle.resolve()}"', 'backend': backend}
    if rate != 1:
        for name in ('max_skew', 'max_wait', 'max_age'):
            parameters[f'sync.{name}'] = float(getattr(sync, f'{name}_s') / rate)
    arguments = [word for name, value in parameters.items() for word in ('-p', f'{name}:={value}')]
    arguments += ['-r', f'__ns:={space}']
    for name, topic in inputs.items():
        arguments += ['-r', f'{name}/image_raw:={topic}']
    return arguments


def _wait_until_active(process: NodeProcess, node: Any, player: Player,
                       recorder: Recorder) -> None:
    began = time.monotonic()
    while recorder.info is None or player.listeners() < 2:
        reason, error = '', RgbxSegError
        if process.exit_code() is not None:
            reason = f'the node ended with exit code {process.exit_code()} before it was active'
        elif recorder.fault:
            reason = f'the node cannot start: {recorder.fault.rstrip(".")}'
        elif time.monotonic() > began + START_S:
            reason = f'the node was not active after {START_S:.0f} s'
        elif time.monotonic() > began + DISCOVERY_S and 'segment' not in node.get_node_names():
            error = NotShownError
            reason = (f'the middleware did not show the node in {DISCOVERY_S:.0f} s; look at the '
                      'FASTDDS_… variables of this shell')
        if reason:
            process.stop()
            print(process.last_words(), file=sys.stderr)
            raise error(f'{reason}; its last words are above.')
        time.sleep(0.05)
    player.wait()


def _drain(process: NodeProcess, recorder: Recorder) -> None:
    """Return when the node has nothing more to publish and has told its last counts."""
    ended = time.monotonic()
    slowest_s = max((stats.engine_ms for stats in recorder.stats), default=0.0) / 1e3
    while time.monotonic() < min(max(ended, recorder.last_s) + QUIET_S + 2 * slowest_s,
                                 ended + DRAIN_S):
        if process.exit_code() is not None:
            print(process.last_words(), file=sys.stderr)
            raise RgbxSegError(f'the node ended with exit code {process.exit_code()} while the bag '
                               'was played; its last words are above.')
        time.sleep(0.05)
