# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What is played of a bag, under which names, with which QoS; and the queue of the look-ahead."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest
from recordings import MS, START_NS, Recorded, qos, serialize, text, write

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.play_plan import (
    LiveClock,
    PlayOptions,
    parse_remaps,
    plan_playing,
    recorded_fields,
    stamp_bias,
)
from rgbx_seg_ros.play_qos import read_overrides
from rgbx_seg_ros.play_queue import MESSAGE_BYTES, LookAhead, Outgoing

STRING, COMPRESSED = 'std_msgs/msg/String', 'sensor_msgs/msg/CompressedImage'
IMAGE = 'sensor_msgs/msg/Image'
FOREVER = (2147483647, 4294967295)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of 2 s: names that matter, contents that do not."""
    times = {START_NS + 500 * MS * n: text(str(n)) for n in range(5)}
    first = {START_NS: text('')}
    return write(tmp_path_factory.mktemp('plan') / 'bag', [
        Recorded('/a', STRING, times), Recorded('/b', STRING, first),
        Recorded('/clock', 'rosgraph_msgs/msg/Clock', first),
        Recorded('/rgb/image_raw/compressed', COMPRESSED, first),
        Recorded('/both/image_raw', IMAGE, first),
        Recorded('/both/image_raw/compressed', COMPRESSED, first),
        Recorded('/depth/compressedDepth', COMPRESSED, first),
        Recorded('/two', STRING, first), Recorded('/two', 'odd_msgs/msg/Odd', {
            START_NS: serialize('odd_msgs/msg/Odd', 1)})])


def names(bag: Path, **options: object) -> dict[str, str]:
    return {track.topic: track.name for track in plan_playing(bag, PlayOptions(**options)).tracks}


def test_all_topics_are_played_but_those_of_two_types(bag: Path):
    plan = plan_playing(bag, PlayOptions())
    assert [track.topic for track in plan.tracks] == [
        '/a', '/b', '/both/image_raw', '/both/image_raw/compressed', '/clock',
        '/depth/compressedDepth', '/rgb/image_raw/compressed']
    assert plan.left_out == {'/two': 'recorded with more than one type'}
    assert (plan.start_ns, plan.stop_ns, plan.duration_s) == (START_NS, START_NS + 2000 * MS, 2.0)


def test_recorded_clock_gives_way_to_the_player_s(bag: Path):
    plan = plan_playing(bag, PlayOptions(clock=True))
    assert '/clock' not in {track.topic for track in plan.tracks}
    assert plan.left_out['/clock'] == 'the time comes from --clock'


def test_topics_are_chosen_left_out_and_renamed(bag: Path):
    assert names(bag, topics=['/b', '/rgb/image_raw']) == {
        '/b': '/b', '/rgb/image_raw/compressed': '/rgb/image_raw/compressed'}
    assert '/a' not in names(bag, exclude=['/a'])
    assert names(bag, topics=['/a'], remap={'/a': '/robot/a'}) == {'/a': '/robot/a'}


def test_decompressed_topics_lose_their_suffix_unless_the_raw_one_is_played(bag: Path):
    played = {track.topic: (track.name, track.type) for track in plan_playing(
        bag, PlayOptions(decompress=True, remap={'/rgb/image_raw': '/front'})).tracks}
    assert played['/rgb/image_raw/compressed'] == ('/front', IMAGE)
    assert played['/both/image_raw/compressed'] == ('/both/image_raw/compressed', COMPRESSED)
    assert played['/depth/compressedDepth'] == ('/depth/compressedDepth', COMPRESSED)
    alone = plan_playing(bag, PlayOptions(decompress=True, topics=['/both/image_raw/compressed']))
    assert alone.tracks[0].name == '/both/image_raw'


def test_a_part_of_the_bag_is_bounded_by_its_end(bag: Path):
    plan = plan_playing(bag, PlayOptions(start_offset_s=0.5, duration_s=1.0))
    assert (plan.start_ns, plan.stop_ns) == (START_NS + 500 * MS, START_NS + 1500 * MS)
    assert plan_playing(bag, PlayOptions(duration_s=9.0)).stop_ns == START_NS + 2000 * MS
    with pytest.raises(RgbxSegError, match='offset is 3 s, expected less than the 2.0 s'):
        plan_playing(bag, PlayOptions(start_offset_s=3.0))


@pytest.mark.parametrize('options', [{'topics': ['/c']}, {'exclude': ['/c']},
                                     {'remap': {'/c': '/d'}}])
def test_topic_that_is_not_there_is_told_with_those_that_are(bag: Path, options):
    with pytest.raises(RgbxSegError, match='no topic /c, found /a, /b, /both'):
        plan_playing(bag, PlayOptions(**options))


def test_empty_bag_is_refused(tmp_path: Path):
    with pytest.raises(RgbxSegError, match='holds no message'):
        plan_playing(write(tmp_path / 'bag', [Recorded('/a', STRING, {})]), PlayOptions())


@pytest.mark.parametrize(('definition', 'fields'), [
    ('', None), ('module a { module msg {', None), ('IDL: a/msg/B\nmodule a', None),
    ('# nothing\n', ()),
    ('# a comment\nint32 X=1\nint32 Y = 2\nstring S= a b\nint8[<=3] list 4 # why\n'
     'Header header\n\nuint8   data\n' + 80 * '=' + '\nMSG: std_msgs/Header\nuint32 seq\n',
     ('list', 'header', 'data'))])
def test_fields_of_a_recorded_definition(definition: str, fields: tuple[str, ...] | None):
    assert recorded_fields(definition) == fields


@pytest.mark.parametrize('rule', ['/a', '/a=/b', 'a:=/b', '/a:=b', '/a:=/b c', ':=', '/a:=/1b'])
def test_rule_that_remaps_nothing_is_refused(rule: str):
    with pytest.raises(RgbxSegError, match='remaps nothing; expected /from:=/to'):
        parse_remaps([rule])


def test_rules_are_remaps():
    assert parse_remaps(['/a:=/b', '/c/d:=/e/f_1']) == {'/a': '/b', '/c/d': '/e/f_1'}


# --- QoS ------------------------------------------------------------------------------------------

def offer(tmp_path: Path, *profiles, messages: int = 1, **options: object) -> dict[str, object]:
    data = {START_NS + n: text('') for n in range(messages)}
    bag = write(tmp_path / 'bag', [Recorded('/a', STRING, data, profiles)])
    return dict(plan_playing(bag, PlayOptions(**options)).tracks[0].offer)


def test_without_a_record_the_offer_fits_any_subscriber_of_volatile_topics(tmp_path: Path):
    assert offer(tmp_path) == {
        'reliability': 'reliable', 'durability': 'volatile', 'liveliness': 'automatic',
        'history': 'keep_last', 'depth': 10, 'deadline': 0, 'lifespan': 0,
        'liveliness_lease_duration': 0}


def test_offer_is_as_recorded(tmp_path: Path):
    made = offer(tmp_path, qos('BEST_EFFORT', depth=25, deadline=(0, 5 * MS), lifespan=(2, 0)))
    assert (made['reliability'], made['depth'], made['deadline'], made['lifespan']) == (
        'best_effort', 25, 5 * MS, 2000 * MS)


def test_of_several_offers_the_strongest_serves_every_subscriber(tmp_path: Path):
    made = offer(tmp_path, qos('BEST_EFFORT', 'TRANSIENT_LOCAL', deadline=(1, 0), lifespan=(1, 0)),
                 qos('RELIABLE', 'VOLATILE', deadline=(0, MS), lifespan=(0, 0)))
    assert (made['reliability'], made['durability']) == ('reliable', 'transient_local')
    assert (made['deadline'], made['lifespan']) == (MS, 0)


def test_unknown_and_endless_values_say_nothing(tmp_path: Path):
    made = offer(tmp_path, qos('UNKNOWN', 'SYSTEM_DEFAULT', 0, FOREVER, 'MANUAL_BY_NODE', FOREVER))
    assert made == {**made, 'reliability': 'reliable', 'durability': 'volatile', 'depth': 10,
                    'deadline': 0, 'lifespan': 0, 'liveliness': 'automatic'}


def test_latched_topic_keeps_what_each_publisher_latched(tmp_path: Path):
    assert offer(tmp_path, qos(durability='TRANSIENT_LOCAL', depth=1), messages=30)['depth'] == 30


def test_user_s_policies_win_and_the_others_stay_as_recorded(tmp_path: Path):
    profile = qos('RELIABLE', 'TRANSIENT_LOCAL')
    assert offer(tmp_path / '1', profile, reliability='best_effort')['reliability'] == 'best_effort'
    made = offer(tmp_path / '2', profile, overrides={'/a': {'reliability': 'best_effort'},
                                                     '/b': {'depth': 3}}, reliability='reliable')
    assert (made['reliability'], made['durability'], made['depth']) == (
        'best_effort', 'transient_local', 10)


def test_overrides_are_read_as_ros2_bag_play_writes_them(tmp_path: Path):
    file = tmp_path / 'qos.yaml'
    file.write_text('/a:\n  reliability: best_effort\n  history: keep_all\n  depth: 5\n'
                    '  deadline: {sec: 1, nsec: 5}\n  avoid_ros_namespace_conventions: false\n'
                    '/b: {durability: transient_local, lifespan: {sec: 2147483647, nsec: 0}}\n')
    assert read_overrides(file) == {
        '/a': {'reliability': 'best_effort', 'history': 'keep_all', 'depth': 5,
               'deadline': 1_000_000_005},
        '/b': {'durability': 'transient_local', 'lifespan': 0}}


@pytest.mark.parametrize(('content', 'told'), [
    ('{', 'no YAML'), ('[/a]', 'holds no policies by topic'), ('/a: reliable', 'holds no policies'),
    ('/a: {reliability: some}', "/a: reliability is 'some'; expected best_effort or reliable"),
    ('/a: {reliability: [reliable]}', 'expected best_effort or reliable'),
    ('/a: {depth: 0}', 'expected a count from 1 to 10000'),
    ('/a: {depth: true}', 'expected a count'), ('/a: {speed: 1}', 'speed is no policy'),
    ('/a: {deadline: 1}', 'expected a time such as'),
    ('/a: {deadline: {sec: -1, nsec: 0}}', 'expected a time such as')])
def test_overrides_that_are_none_are_one_sentence(tmp_path: Path, content: str, told: str):
    file = tmp_path / 'qos.yaml'
    file.write_text(content)
    with pytest.raises(RgbxSegError, match=told) as caught:
        read_overrides(file)
    assert '\n' not in str(caught.value) and str(file) in str(caught.value)


# --- time -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('rate', [0.1, 1.0, 3.0])
def test_live_clock_is_its_own_inverse(rate: float):
    clock = LiveClock(START_NS, 7 * START_NS, rate)
    for at_ns in (START_NS, START_NS + 3 * MS, START_NS - 5 * MS):
        assert abs(clock.bag_ns(clock.publish_ns(at_ns)) - at_ns) <= 1
        assert clock.stamp_ns(at_ns) == clock.publish_ns(at_ns)


def test_clocks_differ_where_the_delay_to_the_recorder_makes_no_sense():
    assert stamp_bias([5 * MS, 900 * MS]) == stamp_bias([]) == 0
    assert stamp_bias([-3 * MS, 5 * MS]) == -3 * MS
    assert stamp_bias([START_NS + 5 * MS, START_NS]) == START_NS


# --- the queue ------------------------------------------------------------------------------------

def test_look_ahead_never_holds_more_than_its_budget():
    budget, size, count = 10_000, 1000, 50
    queue, held = LookAhead(budget), []

    def read() -> None:
        for number in range(count):
            held.append(1)
            assert queue.put(Outgoing(None, number, bytes(size)))
        queue.put(None)

    thread = Thread(target=read)
    thread.start()
    taken = []
    assert queue.filled.wait(10)
    while (item := queue.get(10)) is not None:
        # One more than fits is in the hands of the reader, that waits.
        assert len(held) - len(taken) <= budget // (size + MESSAGE_BYTES) + 1
        taken.append(item.received_ns)
    thread.join(10)
    assert taken == list(range(count))


def test_look_ahead_takes_a_message_larger_than_its_budget_and_lets_go_of_its_reader():
    queue = LookAhead(10)
    assert queue.put(Outgoing(None, 0, bytes(1000)))
    went_on = []
    thread = Thread(target=lambda: went_on.append(queue.put(Outgoing(None, 1, bytes(1000)))))
    thread.start()
    assert queue.filled.wait(10)
    queue.close()
    thread.join(10)
    assert went_on == [False]
    assert queue.get(0).received_ns == 0
    queue.get(0)
    with pytest.raises(TimeoutError):
        queue.get(0.01)
