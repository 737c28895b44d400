# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""replay.launch.py: who gets which topics and which clock, and when the bag begins.

`launch` is not on PyPI; test_package.py has the stand-ins, and hands the file to the real one
where it is installed.
"""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from bundles import manifest, tiny_onnx, write_tiny_bundle
from recordings import START_NS, Recorded, text, write
from test_package import ROOT, load

from rgbx_seg_ros.manifest import AuxEncoding, save_bundle

DEPTH = AuxEncoding(channels=1, range='fixed', low=0.5, high=10.0, unit='m')
PAIR = {'rgb': 'compressed', 'thermal': 'compressed'}


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    return load('replay.launch.py', monkeypatch)


def context(replay: types.ModuleType, is_shutdown: bool = False,
            **given: str) -> types.SimpleNamespace:
    """Return what the launch file's functions see, with the defaults of what is not given."""
    defaults = {argument.name: argument.default_value for argument in replay.ARGUMENTS}
    return types.SimpleNamespace(launch_configurations={**defaults, **given},
                                 is_shutdown=is_shutdown)


def chosen(replay: types.ModuleType, **given: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the remappings that are set, and the launch configurations after that."""
    seen = context(replay, **given)
    remaps = {action.args[0]: action.args[1] for action in replay.choose_inputs(seen)}
    return remaps, seen.launch_configurations


def transports(replay: types.ModuleType, **given: str) -> dict[str, str]:
    configurations = chosen(replay, **given)[1]
    return {camera: configurations.get(f'{camera}_transport', '') for camera in ('rgb', 'thermal')}


def command(replay: types.ModuleType, **given: str) -> list[str]:
    (action,) = replay.play(context(replay, **given))
    return action.kwargs['cmd']


def write_names(path: Path, *names: str) -> str:
    return str(write(path, [Recorded(name, 'std_msgs/msg/String', {START_NS: text('')})
                            for name in names]))


def test_node_and_rviz_go_by_the_clock_that_the_player_publishes(replay):
    description = replay.generate_launch_description()
    (segment,) = (action for action in description
                  if type(action).__name__ == 'IncludeLaunchDescription')
    assert dict(segment.kwargs['launch_arguments'])['use_sim_time'] == 'true'
    assert segment.args[0].args[0] == str(ROOT / 'launch' / 'segment.launch.py')
    played = command(replay, bag='b', loop='true', clock='100', rate='0.5', delay='2')
    assert played[:4] == ['ros2', 'bag', 'play', 'b']
    options = dict(zip(played[4::2], played[5::2], strict=False))
    assert (options['--clock'], options['--rate'], options['--delay']) == ('100', '0.5', '2')
    assert '--loop' in played and '--start-paused' not in played


def test_files_are_played_with_the_storage_of_their_suffix(replay):
    for name, storage in (('b.mcap', 'mcap'), ('b.db3', 'sqlite3')):
        played = command(replay, bag=name)
        assert played[played.index('--storage') + 1] == storage
    assert '--storage' not in command(replay, bag='folder')


def test_node_subscribes_to_what_the_bag_holds_unless_told_otherwise(replay, tmp_path):
    assert transports(replay) == PAIR  # the sample bag
    assert transports(replay, rgb_transport='raw') == {**PAIR, 'rgb': 'raw'}
    assert transports(replay, rgb_topic='/other') == {**PAIR, 'rgb': ''}
    assert transports(replay, bag=str(tmp_path)) == {'rgb': '', 'thermal': ''}
    bag = write_names(tmp_path / 'bag', '/l/compressed', '/rgb/image_raw')
    assert chosen(replay, bag=bag, label_topic='/l')[1]['label_transport'] == 'compressed'


def test_bundle_of_another_modality_gets_its_topics(replay, tmp_path):
    save_bundle(tmp_path / 'bundle', tiny_onnx(48, 64, 1), manifest(48, 64, DEPTH, 'depth'))
    bag = write_names(tmp_path / 'bag', '/d435/depth/image/compressed', '/rgb/image_raw')
    remaps, given = chosen(replay, bundle=str(tmp_path / 'bundle'), bag=bag,
                           aux_topic='/d435/depth/image')
    assert remaps == {'depth/image_raw': '/d435/depth/image',
                      'depth/image_raw/compressed': '/d435/depth/image/compressed',
                      'depth/camera_info': '/d435/depth/camera_info'}
    assert given['thermal_transport'] == 'compressed' and 'rgb_transport' not in given
    assert chosen(replay, bundle=str(tmp_path / 'bundle'))[0]['depth/image_raw'] == (
        '/depth/image_raw')


def test_thermal_bundle_needs_no_more_than_segment_launch_does(replay, tmp_path):
    bundle = str(write_tiny_bundle(tmp_path / 'bundle'))
    assert chosen(replay, bundle=bundle)[0] == {}
    remaps, given = chosen(replay, bundle=bundle, aux_topic='/lepton/image')
    assert (remaps, given['thermal_topic']) == ({}, '/lepton/image')


@pytest.mark.parametrize('content', ['', '[]', 'name: x'])
def test_bundle_that_the_node_will_refuse_does_not_stop_the_launch(replay, tmp_path, content):
    (tmp_path / 'manifest.yaml').write_text(content)
    assert chosen(replay, bundle=str(tmp_path))[0] == {}
    assert chosen(replay, bundle=str(tmp_path / 'absent'))[0] == {}


@pytest.mark.parametrize(('given', 'topic'), [
    ({}, '/segment/info'),
    ({'namespace': 'front'}, '/front/segment/info'),
    ({'namespace': 'front', 'ros_namespace': '/robot'}, '/robot/front/segment/info'),
    ({'namespace': '/front', 'ros_namespace': '/robot'}, '/front/segment/info'),
    ({'namespace': '', 'ros_namespace': 'robot'}, '/robot/segment/info'),
    ({'namespace': '/'}, '/segment/info'),
    ({'ready_topic': 'segment/rear/info', 'namespace': 'a'}, '/a/segment/rear/info'),
    ({'ready_topic': '/x/info', 'namespace': 'a'}, '/x/info')])
def test_bag_begins_when_the_node_has_told_what_it_runs(replay, given, topic):
    (waiting,) = replay.play_when_ready(context(replay, **given))
    words = waiting.kwargs['cmd']
    assert words[:4] == ['ros2', 'topic', 'echo', '--once']
    # With the type, for without it the command ends where nobody publishes yet.
    assert words[-2:] == [topic, 'rgbx_seg/msg/SegmentationInfo']
    assert words[words.index('--qos-durability') + 1] == 'transient_local'
    ended = types.SimpleNamespace(returncode=0)
    (player,) = waiting.kwargs['on_exit'](ended, context(replay, **given))
    assert player.kwargs['cmd'][:3] == ['ros2', 'bag', 'play']


def test_nothing_is_played_after_the_end_of_the_launch(replay):
    (waiting,) = replay.play_when_ready(context(replay))
    on_exit = waiting.kwargs['on_exit']
    assert on_exit(types.SimpleNamespace(returncode=2), context(replay)) == []
    assert on_exit(types.SimpleNamespace(returncode=0), context(replay, is_shutdown=True)) == []


def test_without_a_topic_to_wait_for_the_bag_begins_at_once(replay):
    (player,) = replay.play_when_ready(context(replay, ready_topic=''))
    assert player.kwargs['cmd'][:3] == ['ros2', 'bag', 'play']
