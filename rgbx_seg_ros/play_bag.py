# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_play_bag BAG`: what `ros2 bag play` does, without ROS tools: every topic, at its times.

It needs rclpy and the packages of the messages alone; options have the names that they have there.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import IMAGE
from rgbx_seg_ros.cli import Arguments, run_command
from rgbx_seg_ros.exit_guard import exit_after
from rgbx_seg_ros.middleware import LARGE_IMAGES, loses_images
from rgbx_seg_ros.play_plan import Plan, PlayOptions, parse_remaps, plan_playing
from rgbx_seg_ros.play_qos import read_overrides

if TYPE_CHECKING:
    from rgbx_seg_ros.player import Player

CLOCK_HZ = 200.0
LEAD_S = 0.5
PATIENCE_S = 3.0  # for the middleware, when all has been said
RANGES = {'rate': (0.01, 100.0), 'clock': (0.0, 10_000.0), 'delay': (0.0, 3600.0),
          'start_offset': (0.0, 1e9), 'playback_duration': (0.0, 1e9)}


def main() -> int:
    """Play a bag; return the exit code."""
    return run_command(_main)


def _main() -> None:
    options = _parse()
    plan = plan_playing(options.bag, PlayOptions(
        topics=options.topics, exclude=options.exclude_topics,
        remap=parse_remaps(options.remap), start_offset_s=options.start_offset,
        duration_s=options.playback_duration, reliability=options.qos,
        overrides=read_overrides(options.qos_profile_overrides_path)
        if options.qos_profile_overrides_path else {},
        decompress=options.decompress, clock=bool(options.clock)))
    # The clock and the messages shall not wait 5 ms for the interpreter whenever the reader has it.
    sys.setswitchinterval(0.0005)
    try:
        from rgbx_seg_ros.player import open_node
    except ImportError as error:
        raise RgbxSegError(f'ROS 2 is not found ({error}); expected rclpy; source its setup.bash, '
                           'or run `make ros` and source .venv/ros/install/setup.bash.') from None
    with open_node('rgbx_play_bag') as node:
        try:
            _play(node, plan, options)
        finally:
            kind = sys.exc_info()[0]
            code = 0 if kind is None else 130 if kind is KeyboardInterrupt else 1
            exit_after(PATIENCE_S, code)


def _parse() -> argparse.Namespace:
    parser = Arguments(prog='rgbx_play_bag', description=(__doc__ or '').partition(': ')[2])
    add = parser.add_argument
    add('bag', type=Path, help='rosbag2 folder, .mcap, .db3, or a ROS 1 .bag')
    add('-r', '--rate', type=float, default=1.0, help='speed; 1 is that of recording')
    add('-l', '--loop', action='store_true', help='play again and again, until Ctrl+C')
    add('--clock', type=float, nargs='?', const=CLOCK_HZ, default=0.0, metavar='HZ',
        help=f'publish the time of the bag on /clock, for nodes with use_sim_time (default '
        f'{CLOCK_HZ:.0f} Hz if given without)')
    add('--now', action='store_true', help='move the stamps in headers to the present, for nodes '
        'without use_sim_time')
    add('--topics', nargs='+', default=[], metavar='TOPIC', help='play these alone')
    add('--exclude-topics', nargs='+', default=[], metavar='TOPIC', help='leave these out')
    add('-m', '--remap', nargs='+', default=[], metavar='/FROM:=/TO',
        help='publish under another name')
    add('--start-offset', type=float, default=0.0, metavar='S',
        help='seconds to skip; what is latched in them is played')
    add('--playback-duration', type=float, metavar='S', help='seconds of the bag to play')
    add('-d', '--delay', type=float, default=LEAD_S, metavar='S',
        help='seconds before the first message, in each loop (default %(default)s)')
    add('--wait-for', nargs='+', default=[], metavar='TOPIC',
        help='start when each of these, as published, has a subscriber')
    add('--qos', choices=('recorded', 'reliable', 'best_effort'), default='recorded',
        help='reliability of all topics (default: each as recorded)')
    add('--qos-profile-overrides-path', type=Path, metavar='FILE',
        help='YAML of policies by topic, as `ros2 bag play` takes it; the others stay as recorded')
    add('--decompress', action='store_true',
        help='publish TOPIC/compressed as raw images on TOPIC')
    options = parser.parse_args()
    for name, (low, high) in RANGES.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise RgbxSegError(f'--{name.replace("_", "-")} is {value:g}; expected {low:g} to '
                               f'{high:g}.')
    if options.now and options.clock:
        raise RgbxSegError('--now and --clock contradict each other; expected one of them: stamps '
                           'of the present, or the clock of the bag.')
    return options


def _play(node: Any, plan: Plan, options: argparse.Namespace) -> None:
    from rgbx_seg_ros.player import Player

    player = Player(node, plan, rate=options.rate, loop=options.loop, delay_s=options.delay,
                    clock_hz=options.clock, now=options.now)
    try:
        _tell_plan(player, plan, options)
        names = {track.name for track in player.tracks}
        if strange := sorted(set(options.wait_for) - names):
            raise RgbxSegError(f'--wait-for {strange[0]}, which is not played; expected some of '
                               f'{", ".join(sorted(names))}.')
        player.wait(lambda: player.listeners(*options.wait_for) == len(set(options.wait_for))
                    if options.wait_for else True)
        with ExitStack() as at_the_end:
            at_the_end.callback(_tell_result, player)
            player.play()
            player.finish()
    finally:
        player.stop()


def _tell_plan(player: Player, plan: Plan, options: argparse.Namespace) -> None:
    if player.left_out:
        reasons = '; '.join(f'{topic} ({why})' for topic, why in sorted(player.left_out.items()))
        print(f'rgbx_play_bag: left out: {reasons}.', file=sys.stderr)
    if not player.tracks:
        raise RgbxSegError(f'{plan.bag}: nothing to play, expected a topic whose type is installed '
                           'here; install its package, or choose other topics.')
    waiting = f' once {" and ".join(options.wait_for)} are heard' if options.wait_for else ''
    if loses_images() and any(track.type == IMAGE for track in player.tracks):
        # Not set here: those with this transport and those without do not find each other.
        print('rgbx_play_bag: Fast DDS loses large images by its default transport; set '
              f'FASTDDS_BUILTIN_TRANSPORTS={LARGE_IMAGES} for the player and for all who listen.',
              file=sys.stderr)
    count = f'{len(player.tracks)} topic{"" if len(player.tracks) == 1 else "s"}'
    print(f'{plan.bag}: {count}, {plan.duration_s / options.rate:.1f} s'
          f'{" in a loop" if options.loop else ""} at rate {options.rate:g}{waiting}.', flush=True)


def _tell_result(player: Player) -> None:
    for topic, reason in sorted(player.refused.items()):
        print(f'rgbx_play_bag: messages of {topic} were refused: {reason}.', file=sys.stderr)
    if player.undecodable:
        counts = ', '.join(f'{count} of {topic}' for topic, count in player.undecodable.items())
        print(f'rgbx_play_bag: images that cannot be decoded: {counts}.', file=sys.stderr)
    late = ''
    if player.late_ms:
        median, most_of, most = np.percentile(player.late_ms, (50, 95, 100))
        late = f', late by {median:.2f} ms (median), {most_of:.2f} ms (95 %), {most:.1f} ms (most)'
    passes = f'{player.laps} complete pass{"" if player.laps == 1 else "es"}'
    print(f'{sum(player.published.values())} messages in {passes}{late}.', flush=True)


if __name__ == '__main__':
    sys.exit(main())
