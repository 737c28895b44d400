# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The player: its times on a clock made up here, its messages over real DDS, and the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import (
    MS,
    START_NS,
    Recorded,
    compressed,
    image,
    qos,
    serialize,
    text,
    transforms,
    write,
)
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

pytest.importorskip('rclpy', reason='the player needs ROS 2: source it, or run make test')

from bundles import write_tiny_bundle
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from robot import SETTLE_S, NodeProcess, free_domain, robot, scene
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from rgbx_seg_ros import RgbxSegError, play_bag, player
from rgbx_seg_ros.bag import read_messages as read_a_bag
from rgbx_seg_ros.middleware import TRANSPORT_VARIABLES, loses_images
from rgbx_seg_ros.play_plan import PlayOptions, plan_playing
from rgbx_seg_ros.player import Player

ROOT = Path(__file__).resolve().parents[1]
STRING = 'std_msgs/msg/String'
SECOND = 1_000_000_000
LATCHED = qos(durability='TRANSIENT_LOCAL')


# --- times, on a clock that the test moves --------------------------------------------------------

class Machine:
    """Stands in for the module `time`: sleeping moves the clock, by a bit more than was asked."""

    def __init__(self, oversleep_ns: int = 0) -> None:
        self.now_ns, self._oversleep_ns = 50 * SECOND, oversleep_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / SECOND

    def time_ns(self) -> int:
        return self.now_ns + START_NS

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND) + self._oversleep_ns


class Stage:
    """Stands in for an rclpy node, and keeps what is published when."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.published = machine, []
        self.profiles: dict[str, QoSProfile] = {}

    def create_publisher(self, kind: type, topic: str, profile: Any) -> Any:
        self.profiles[topic] = profile

        def publish(message: Any) -> None:
            self.published.append((topic, self.machine.now_ns, message))

        return SimpleNamespace(publish=publish)

    def on(self, topic: str) -> list[tuple[int, Any]]:
        return [(at_ns, message) for name, at_ns, message in self.published if name == topic]

    def clock(self) -> list[tuple[int, int]]:
        """Return when which time was told."""
        return [(at_ns, m.clock.sec * SECOND + m.clock.nanosec) for at_ns, m in self.on('/clock')]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(player, 'time', made)
    return made


def perform(machine: Machine, bag: Path, laps: int = 1, options: PlayOptions | None = None,
            **arguments: Any) -> tuple[Stage, Player]:
    """Play a bag on the made-up clock, and end a loop after so many laps."""
    stage = Stage(machine)
    actor = Player(stage, plan_playing(bag, options or PlayOptions()), loop=laps > 1, **arguments)
    actor.wait()
    read = actor._lap

    def lap(*given: Any) -> Iterator[Any]:
        if actor.laps == laps:
            raise KeyboardInterrupt
        return read(*given)

    actor._lap = lap
    try:
        actor.play()
    except KeyboardInterrupt:
        assert laps > 1
    finally:
        actor.stop()
    return stage, actor


def same(kind: type, one: bytes, other: bytes) -> bool:
    """Return whether two messages are equal; what fills gaps between their fields may differ."""
    return bool(deserialize_message(one, kind) == deserialize_message(other, kind))


def numbers(path: Path, times_ms: list[int], storage: str = 'mcap') -> Path:
    """Write a bag of texts that tell when they were received."""
    return write(path, [Recorded('/a', STRING, {
        START_NS + ms * MS: text(str(ms)) for ms in times_ms})], storage)


@pytest.mark.parametrize('rate', [0.5, 1.0, 4.0])
def test_messages_leave_at_their_times_and_rate(tmp_path, machine, rate):
    times_ms = [0, 10, 15, 15, 400, 1000]
    stage, actor = perform(machine, numbers(tmp_path / 'bag', times_ms), rate=rate)
    left = [at_ns for at_ns, _ in stage.on('/a')]
    since = [round((at_ns - left[0]) * rate / MS) for at_ns in left]
    assert since == sorted(set(times_ms))
    assert (actor.published['/a'], actor.laps) == (5, 1)


def test_oversleeping_is_told_and_does_not_add_up(tmp_path, machine):
    machine._oversleep_ns = 2 * MS
    stage, actor = perform(machine, numbers(tmp_path / 'bag', list(range(0, 2000, 10))))
    left = np.array([at_ns for at_ns, _ in stage.on('/a')])
    errors = (left - left[0]) / MS - np.arange(0, 2000, 10)
    assert len(left) == 200 and np.abs(errors).max() <= 2.001
    assert max(actor.late_ms) == pytest.approx(2, abs=0.01)


def test_clock_is_there_before_the_first_message_and_goes_with_the_bag(tmp_path, machine):
    stage, _ = perform(machine, numbers(tmp_path / 'bag', list(range(0, 1000, 100))), rate=2,
                       clock_hz=100)
    told, left = stage.clock(), stage.on('/a')
    assert told[0][0] <= left[0][0] - 0.5 * SECOND and told[-1][0] >= left[-1][0] + 0.5 * SECOND
    assert all(b >= a for (_, a), (_, b) in zip(told, told[1:], strict=False))
    began_ns = left[0][0]
    running = [(at_ns, bag_ns) for at_ns, bag_ns in told if at_ns >= began_ns - SECOND // 2]
    for at_ns, bag_ns in running:
        assert bag_ns - START_NS == pytest.approx((at_ns - began_ns) * 2, abs=MS)
    seconds = (running[-1][0] - running[0][0]) / SECOND
    assert (len(running) - 1) / seconds == pytest.approx(100, rel=0.03)


def test_clock_jumps_back_at_a_loop_before_the_first_message_and_after_the_last(tmp_path, machine):
    stage, actor = perform(machine, numbers(tmp_path / 'bag', [0, 50, 100]), laps=3, clock_hz=200)
    assert actor.published['/a'] == 9
    told, left = stage.clock(), [at_ns for at_ns, _ in stage.on('/a')]
    jumps = [b for a, b in zip(told, told[1:], strict=False) if b[1] < a[1]]
    assert len(jumps) == 2
    for number, (jump_ns, bag_ns) in enumerate(jumps):
        assert left[3 * number + 2] + 0.5 * SECOND <= jump_ns <= left[3 * number + 3] - SECOND / 2
        assert bag_ns < START_NS


def test_clock_stands_while_the_player_waits(tmp_path, machine):
    stage = Stage(machine)
    actor = Player(stage, plan_playing(numbers(tmp_path / 'bag', [0]), PlayOptions()), clock_hz=50)
    began_ns = machine.now_ns
    actor.wait(lambda: machine.now_ns > began_ns + SECOND)
    told = stage.clock()
    assert {bag_ns for _, bag_ns in told} == {START_NS - SECOND // 2}
    assert set(np.diff([at_ns for at_ns, _ in told])) == {SECOND // 50}
    actor.stop()


def test_bag_that_begins_at_time_zero_never_tells_the_time_that_means_none(tmp_path, machine):
    bag = write(tmp_path / 'bag', [Recorded('/a', STRING, {0: text('a'), SECOND: text('b')})])
    stage, _ = perform(machine, bag, clock_hz=50)
    assert min(bag_ns for _, bag_ns in stage.clock()) == 1


def test_latched_messages_of_the_skipped_part_are_played_once(tmp_path, machine):
    bag = write(tmp_path / 'bag', [
        Recorded('/latched', STRING, {START_NS: text('old'), START_NS + 900 * MS: text('new')},
                 (LATCHED,)),
        Recorded('/a', STRING, {START_NS + n * 100 * MS: text(str(n)) for n in range(10)})])
    stage, actor = perform(machine, bag, 2, PlayOptions(start_offset_s=0.5))
    assert [m for _, m in stage.on('/latched')] == [text('old'), text('new'), text('new')]
    assert [m for _, m in stage.on('/a')] == 2 * [text(str(n)) for n in range(5, 10)]


@pytest.mark.parametrize('rate', [1.0, 0.5])
def test_now_moves_all_stamps_by_one_constant_and_nothing_else(tmp_path, machine, rate):
    tf2 = pytest.importorskip('tf2_msgs.msg', reason='not built; run `make ros`')
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    camera, tf = ({START_NS + n * 100 * MS: make(START_NS + (n * 100 - delay) * MS)
                   for n in range(4)} for make, delay in (
        (lambda ns: image(pixels, 'mono8', ns), 20), (lambda ns: transforms(ns, 'x', 'y'), 3)))
    plain = {START_NS: text('as it is')}
    bag = write(tmp_path / 'bag', [
        Recorded('/image', 'sensor_msgs/msg/Image', camera),
        Recorded('/tf', 'tf2_msgs/msg/TFMessage', tf), Recorded('/plain', STRING, plain)])
    stage, _ = perform(machine, bag, now=True, rate=rate)
    due_ns = stage.on('/image')[0][0] - machine.monotonic_ns() + machine.time_ns()
    for topic, kind, delay, make in (
            ('/image', Image, 20, lambda ns: image(pixels, 'mono8', ns)),
            ('/tf', tf2.TFMessage, 3, lambda ns: transforms(ns, 'x', 'y'))):
        for number, (_, data) in enumerate(stage.on(topic)):
            wanted = make(due_ns + round((number * 100 - delay) * MS / rate))
            assert same(kind, data, wanted)
    assert [m for _, m in stage.on('/plain')] == list(plain.values())


def test_stamps_of_another_clock_are_brought_to_the_present_and_zero_stays(tmp_path, machine):
    stamps = [5 * SECOND, 6 * SECOND, 0]
    bag = write(tmp_path / 'bag', [Recorded('/tf', 'sensor_msgs/msg/Image', {
        START_NS + n * SECOND: image(np.zeros((1, 1), np.uint8), 'mono8', stamp)
        for n, stamp in enumerate(stamps)})])
    stage, _ = perform(machine, bag, now=True)
    (at_ns, first), (_, second), (_, third) = stage.on('/tf')
    present = at_ns - machine.monotonic_ns() + machine.time_ns()
    found = [deserialize_message(m, Image).header.stamp for m in (first, second, third)]
    assert [s.sec * SECOND + s.nanosec for s in found] == [present, present + SECOND, 0]


def test_compressed_images_become_raw_ones_and_broken_ones_are_counted(tmp_path, machine):
    pixels = np.random.default_rng(0).integers(0, 65536, (9, 7), np.uint16)
    png = cv2.imencode('.png', pixels)[1].tobytes()
    bag = write(tmp_path / 'bag', [Recorded(
        '/t/compressed', 'sensor_msgs/msg/CompressedImage',
        {START_NS: compressed(png, '16UC1; png compressed ', START_NS + 3),
         START_NS + 1: compressed(png[:20], '16UC1; png compressed ', START_NS)})])
    stage, actor = perform(machine, bag, options=PlayOptions(decompress=True))
    (_, data), = stage.on('/t')
    assert same(Image, data, image(pixels, 'mono16', START_NS + 3))
    assert actor.undecodable == {'/t/compressed': 1}


def test_bag_that_breaks_on_the_way_is_told_after_what_could_be_read(tmp_path, machine,
                                                                    monkeypatch):
    def read(*given: Any) -> Iterator[Any]:
        yield from list(read_a_bag(*given))[:2]
        raise RgbxSegError('the bag breaks here')

    monkeypatch.setattr(player, 'read_messages', read)
    with pytest.raises(RgbxSegError, match='breaks here'):
        perform(machine, numbers(tmp_path / 'bag', [0, 1, 2, 3]))


# --- messages, over DDS ---------------------------------------------------------------------------

@pytest.fixture(scope='module')
def network() -> Iterator[SimpleNamespace]:
    """Two nodes of their own domain: one listens, one belongs to the player."""
    domain = free_domain()
    with robot(domain) as listener, robot(domain) as other:
        yield SimpleNamespace(listener=listener, node=other.node)


@contextmanager
def playing(network: SimpleNamespace, bag: Path, options: PlayOptions | None = None,
            **arguments: Any) -> Iterator[Player]:
    """Have a player that plays once its topics are heard, and withdraw its topics at the end."""
    actor = Player(network.node, plan_playing(bag, options or PlayOptions()), **arguments)
    try:
        yield actor
    finally:
        actor.stop()
        for publisher in actor._publishers.values():
            network.node.destroy_publisher(publisher)


def hear(network: SimpleNamespace, kind: type, topic: str, profile: Any = 100) -> list[bytes]:
    """Subscribe to the bytes of a topic."""
    heard: list[bytes] = []
    network.listener.node.create_subscription(kind, topic, heard.append, profile, raw=True)
    return heard


def play(network: SimpleNamespace, actor: Player, until: Any) -> None:
    """Play while the listener listens, until a condition holds."""
    def run() -> None:
        actor.wait(lambda: actor.listeners() == len(actor.tracks))
        actor.play()

    thread = Thread(target=run, daemon=True)
    thread.start()
    assert network.listener.until(until)
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_every_known_topic_arrives_byte_for_byte_and_in_order(tmp_path, network, storage):
    rng, space = np.random.default_rng(0), f'/{storage}'
    pictures = [rng.integers(0, 256, (20, 30, 3), np.uint8) for _ in range(20)]
    times = [START_NS + n * 5 * MS for n in range(20)]
    recorded = {
        '/text': (String, STRING, {at: text(str(at)) for at in times}),
        '/raw': (Image, 'sensor_msgs/msg/Image',
                 {at: image(p, 'rgb8', at) for at, p in zip(times, pictures, strict=True)}),
        '/c/compressed': (CompressedImage, 'sensor_msgs/msg/CompressedImage',
                          {at: compressed(rng.bytes(500), 'jpeg', at) for at in times})}
    odd = {START_NS: serialize('odd_msgs/msg/Odd', 1)}
    bag = write(tmp_path / 'bag', [
        *(Recorded(f'{space}{topic}', kind, data) for topic, (_, kind, data) in recorded.items()),
        Recorded(f'{space}/odd', 'odd_msgs/msg/Odd', odd)], storage)
    with playing(network, bag) as actor:
        assert actor.left_out == {f'{space}/odd': 'odd_msgs is not installed here'}
        heard = {topic: hear(network, kind, f'{space}{topic}')
                 for topic, (kind, _, _) in recorded.items()}
        play(network, actor, lambda: all(len(list_) == 20 for list_ in heard.values()))
    for topic, (_, _, data) in recorded.items():
        assert heard[topic] == list(data.values()), topic


def test_qos_is_as_recorded_or_as_the_user_says(tmp_path, network):
    data = {START_NS: text('')}
    bag = write(tmp_path / 'bag', [
        Recorded('/q/plain', STRING, data), Recorded('/q/sensor', STRING, data,
                                                     (qos('BEST_EFFORT'),)),
        Recorded('/q/latched', STRING, data, (LATCHED,)),
        Recorded('/q/mine', STRING, data, (LATCHED,))])
    options = PlayOptions(overrides={'/q/mine': {'reliability': 'best_effort',
                                                 'durability': 'volatile'}})
    seen = {}

    def profiles() -> bool:
        for name in ('plain', 'sensor', 'latched', 'mine'):
            for info in network.listener.node.get_publishers_info_by_topic(f'/q/{name}'):
                policies = info.qos_profile
                seen[name] = (policies.reliability.name, policies.durability.name)
        return len(seen) == 4

    with playing(network, bag, options):
        assert network.listener.until(profiles)
    assert seen == {'plain': ('RELIABLE', 'VOLATILE'), 'sensor': ('BEST_EFFORT', 'VOLATILE'),
                    'latched': ('RELIABLE', 'TRANSIENT_LOCAL'), 'mine': ('BEST_EFFORT', 'VOLATILE')}


def test_latched_topic_reaches_a_late_listener_under_its_new_name(tmp_path, network):
    latched = {START_NS + n: transforms(START_NS, f'frame_{n}') for n in range(15)}
    bag = write(tmp_path / 'bag', [Recorded('/tf_static', 'tf2_msgs/msg/TFMessage', latched,
                                            (qos(durability='TRANSIENT_LOCAL', depth=1),))])
    tf = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not built; run `make ros`')
    with playing(network, bag, PlayOptions(remap={'/tf_static': '/late/tf_static'})) as actor:
        actor.wait()
        actor.play()
        heard = hear(network, tf.TFMessage, '/late/tf_static', QoSProfile(
            depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL,
            reliability=ReliabilityPolicy.RELIABLE))
        assert network.listener.until(lambda: len(heard) == 15)
    assert heard == list(latched.values())


def test_name_that_ros_does_not_take_is_left_out_with_the_reason(tmp_path, network):
    data = {START_NS: text('')}
    bag = write(tmp_path / 'bag', [Recorded('/3d', STRING, data), Recorded('/ok', STRING, data)])
    with playing(network, bag) as actor:
        assert [track.topic for track in actor.tracks] == ['/ok']
        assert 'Invalid topic name' in actor.left_out['/3d']


def test_type_that_has_other_fields_here_is_left_out(tmp_path, network):
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg('string data\nint32 more', STRING))
    data = bytes(store.serialize_cdr(store.types[STRING]('a', 1), STRING))
    with Writer(tmp_path / 'bag', version=8) as writer:
        connection = writer.add_connection('/a', STRING, typestore=store)
        writer.write(connection, START_NS, data)
    with playing(network, tmp_path / 'bag') as actor:
        assert actor.left_out == {
            '/a': 'std_msgs/msg/String was recorded with other fields than it has here'}


# --- the command ----------------------------------------------------------------------------------

def command(*words: object) -> list[str]:
    return [sys.executable, '-m', 'rgbx_seg_ros.play_bag', *map(str, words)]


@contextmanager
def started(domain: int, *words: object) -> Iterator[subprocess.Popen]:
    # A test run in the background of a shell ignores SIGINT, and so would its children.
    process = subprocess.Popen(
        command(*words), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'ROS_DOMAIN_ID': str(domain)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def write_pairs(path: Path, pairs: int) -> Path:
    """Write compressed RGB, raw thermal and /tf_static of a camera that ran at 10 Hz."""
    rgb, thermal = {}, {}
    for number in range(pairs):
        at_ns = START_NS + number * 100 * MS
        color, heat = scene(number)
        png = cv2.imencode('.png', color[..., ::-1])[1].tobytes()
        rgb[at_ns + 8 * MS] = compressed(png, 'rgb8; png compressed bgr8', at_ns)
        thermal[at_ns + 12 * MS] = image(heat, 'mono16', at_ns + 3 * MS)
    return write(path, [
        Recorded('/rgb/image_raw/compressed', 'sensor_msgs/msg/CompressedImage', rgb),
        Recorded('/old/thermal', 'sensor_msgs/msg/Image', thermal, (qos('BEST_EFFORT'),)),
        Recorded('/tf_static', 'tf2_msgs/msg/TFMessage',
                 {START_NS: transforms(START_NS, 'thermal')}, (LATCHED,))])


def numbers_of(stats: list[Any]) -> list[int]:
    """Return which pair of the bag each of the stats is of."""
    stamps = [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in stats]
    return [round((stamp - START_NS) / (100 * MS)) for stamp in stamps]


def test_node_on_the_bag_s_clock_pairs_every_frame_of_every_loop(tmp_path):
    messages = pytest.importorskip('rgbx_seg.msg', reason='not built; run `make ros`')
    pairs, domain = 12, free_domain()
    bag, bundle = write_pairs(tmp_path / 'bag', pairs), write_tiny_bundle(tmp_path / 'bundle')
    with (NodeProcess(tmp_path / 'log', domain, bundle=bundle, use_sim_time=True) as node,
          robot(domain) as peer):
        clock: list[Clock] = []
        peer.node.create_subscription(Clock, '/clock', clock.append, 100)
        stats = peer.listen(messages.SegmentationStats, '/segment/stats')
        peer.spin(SETTLE_S)
        with started(domain, bag, '--clock', '--loop', '--decompress', '--remap',
                     '/old/thermal:=/thermal/image_raw', '--wait-for', '/rgb/image_raw',
                     '/thermal/image_raw') as process:
            assert peer.until(lambda: numbers_of(stats).count(pairs - 1) == 2, 60), node.log
            process.send_signal(signal.SIGINT)
            said, complained = process.communicate(timeout=20)
        assert process.returncode == 130, complained
        last = stats[-1]
        lost = dict(zip(last.drop_causes, last.drop_counts, strict=True))
        # On a busy machine the engine may skip a pair for a newer one; no pair is missing.
        assert lost.keys() <= {'replaced'}
        assert last.pairs_published + sum(lost.values()) == 2 * pairs, node.log
        assert max(Counter(numbers_of(stats)).values()) == 2
        times = [m.clock.sec * SECOND + m.clock.nanosec for m in clock]
        assert sum(b < a for a, b in zip(times, times[1:], strict=False)) == 1
        assert max(abs(m.latency_ms) for m in stats) < 60_000  # by the clock of the bag
    assert 'late by' in said


@pytest.fixture(scope='module')
def small_bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbers(tmp_path_factory.mktemp('small') / 'bag', [0, 100])


def test_command_plays_once_and_tells_what_and_how_late(tmp_path):
    bag = write(tmp_path / 'bag', [
        Recorded('/a', STRING, {START_NS: text('1'), START_NS + 100 * MS: text('2')}),
        Recorded('/odd', 'odd_msgs/msg/Odd', {START_NS: serialize('odd_msgs/msg/Odd', 1)})])
    with started(free_domain(), bag, '--rate', '10') as process:
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f'{bag}: 1 topic, 0.0 s at rate 10.' in said
    assert '2 messages in 1 complete pass, late by' in said
    assert complained == 'rgbx_play_bag: left out: /odd (odd_msgs is not installed here).\n'


@pytest.mark.parametrize(('words', 'told'), [
    (['--rate', '0'], '--rate is 0; expected 0.01 to 100'),
    (['--rate', 'nan'], '--rate is nan; expected'),
    (['--clock', '--now'], 'contradict each other'),
    (['--topics', '/b'], 'no topic /b, found /a'),
    (['--remap', 'a:=b'], 'remaps nothing'),
    (['--qos', 'some'], "invalid choice: 'some'"),
    (['--qos-profile-overrides-path', 'absent.yaml'], 'absent.yaml: No such file'),
    (['--start-offset', '5'], 'expected less than the 0.1 s')])
def test_wrong_arguments_are_one_sentence(small_bag, words, told, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['rgbx_play_bag', str(small_bag), *words])
    assert play_bag.main() == 1
    said = capsys.readouterr()
    assert told in said.err and said.err.count('\n') == 1 and said.out == ''


@pytest.mark.parametrize(('environment', 'loses'), [
    ({}, True), ({'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA'}, False),
    ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, False)])
def test_default_transport_of_fast_dds_is_told_to_lose_images(environment, loses, monkeypatch):
    for name in (*TRANSPORT_VARIABLES, 'RMW_IMPLEMENTATION'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert loses_images() is loses


@pytest.mark.parametrize('breakage', ['missing', 'no metadata', 'cut', 'text'])
def test_broken_bag_is_one_sentence(tmp_path, breakage, monkeypatch, capsys):
    bag = numbers(tmp_path / 'bag', list(range(1000)))
    storage = bag / 'bag.mcap'
    if breakage == 'missing':
        bag = tmp_path / 'elsewhere'
    elif breakage == 'no metadata':
        (bag / 'metadata.yaml').unlink()
    else:
        storage.write_bytes(b'hello' if breakage == 'text' else storage.read_bytes()[:5000])
    monkeypatch.setattr(sys, 'argv', ['rgbx_play_bag', str(bag)])
    assert play_bag.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(('rgbx_play_bag: error: ', f'pytest: error: {bag}')), said
    assert said.count('\n') == 1 and str(bag) in said and 'expected' in said
