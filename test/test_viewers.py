# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The layouts of RViz and Foxglove against what the running node advertises, and by which QoS."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

from bundles import write_tiny_bundle
from rgbx_seg.msg import SegmentationStats
from robot import NodeProcess, free_domain, robot
from test_package import load, run

from rgbx_seg_ros import cloud
from rgbx_seg_ros.manifest import load_bundle

ROOT = Path(__file__).parent.parent
RVIZ = yaml.safe_load((ROOT / 'config' / 'segment.rviz').read_text())
DISPLAYS = {display['Name']: display for display in RVIZ['Visualization Manager']['Displays']}
FOXGLOVE = json.loads((ROOT / 'config' / 'foxglove.json').read_text())
PANELS = FOXGLOVE['configById']
RVIZ_TYPES = {'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
              'rviz_default_plugins/PointCloud2': 'sensor_msgs/msg/PointCloud2'}
# For programs, not for eyes: ids, which look black.
NOT_SHOWN = {'/segment/mask'}


@pytest.fixture(scope='module')
def offered(tmp_path_factory):
    """Return what a node that was just started offers: topic -> its type and QoS."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    with (NodeProcess(folder / 'log', number, bundle=write_tiny_bundle(folder / 'bundle')) as node,
          robot(number) as peer):
        def found():
            return {topic: ends[0] for topic, _ in peer.node.get_topic_names_and_types()
                    for ends in [peer.node.get_publishers_info_by_topic(topic)]
                    if ends and ends[0].node_name == 'segment'}

        assert peer.until(lambda: {'/segment/info', '/diagnostics'} <= found().keys()), node.log
        peer.spin(0.5)
        yield {topic: SimpleNamespace(type=end.topic_type, qos=end.qos_profile)
               for topic, end in found().items()}


def pictures(offered):
    """Return the topics of the node that are for eyes."""
    return {topic for topic, end in offered.items()
            if end.type in RVIZ_TYPES.values()} - NOT_SHOWN


# RViz


def test_rviz_shows_every_picture_and_the_points_and_nothing_else(offered):
    shown = [display['Topic']['Value'] for display in DISPLAYS.values()]
    assert sorted(shown) == sorted(pictures(offered))
    for display in DISPLAYS.values():
        assert RVIZ_TYPES[display['Class']] == offered[display['Topic']['Value']].type


def test_rviz_asks_for_the_qos_that_is_offered(offered):
    words = {'Reliability Policy': 'reliability', 'Durability Policy': 'durability',
             'History Policy': 'history'}
    for display in DISPLAYS.values():
        topic, qos = display['Topic'], offered[display['Topic']['Value']].qos
        asked = {word: topic[name].upper().replace(' ', '_') for name, word in words.items()}
        # What discovery tells of the history is the middleware's choice.
        assert asked.pop('history') == 'KEEP_LAST' and topic['Depth'] == 2
        assert asked == {word: getattr(qos, word).name for word in asked}


def test_rviz_colors_the_points_by_a_field_that_they_have():
    points = DISPLAYS['Points']
    assert points['Color Transformer'] == 'Intensity'
    assert points['Channel Name'] in [name for name, _, _ in cloud.FIELDS]
    assert points['Max Intensity'] == load_bundle(ROOT / 'sample' / 'bundle').n_classes - 1
    assert not points['Enabled']  # a listener makes the node look for a depth camera


def test_rviz_docks_each_image_and_keeps_time_by_one_of_the_displays():
    images = {name for name, display in DISPLAYS.items() if display['Class'].endswith('Image')}
    windows = {name for name, value in RVIZ['Window Geometry'].items() if isinstance(value, dict)}
    assert windows - {'Displays'} == images
    (clock,) = [panel for panel in RVIZ['Panels'] if panel['Class'] == 'rviz_common/Time']
    assert clock['SyncSource'] in DISPLAYS


@pytest.fixture
def segment(monkeypatch):
    return load('segment.launch.py', monkeypatch)


def launched(segment, **given):
    """Return the arguments of the node's and of RViz's action."""
    made = []
    segment.Node = lambda **kwargs: made.append(kwargs)
    run(segment, segment.start, **given)
    return made


def test_the_launch_file_moves_every_display_into_the_node_s_namespace(segment):
    node, rviz = launched(segment, namespace='front', use_rviz='true', fixed_frame='rgb_optical')
    assert node['namespace'] == 'front'
    topics = {display['Topic']['Value'] for display in DISPLAYS.values()}
    assert dict(rviz['remappings']) == {topic: f'/front{topic}' for topic in topics}
    config, frame = rviz['arguments'][1::2]
    assert (Path(config).name, frame) == ('segment.rviz', 'rgb_optical')
    assert launched(segment, use_rviz='true')[1]['arguments'][3] == RVIZ[
        'Visualization Manager']['Global Options']['Fixed Frame']


def test_the_launch_file_scores_against_a_topic_of_labels(segment):
    (plain,) = launched(segment)
    assert 'score.labels' not in plain['parameters'][1]
    assert not [pair for pair in plain['remappings'] if 'label' in pair[0]]
    (node,) = launched(segment, label_topic='/truth/ids', label_transport='compressed')
    given = node['parameters'][1]
    assert (given['score.labels'], given['score.transport']) == (True, 'compressed')
    assert [pair for pair in node['remappings'] if 'label' in pair[0]] == [
        ('label/image_raw', '/truth/ids'),
        ('label/image_raw/compressed', '/truth/ids/compressed')]


# Foxglove


def panels(kind):
    return [config for name, config in PANELS.items() if name.partition('!')[0] == kind]


def paths():
    """Return the message paths of all plots and timelines."""
    return [path['value'] for kind in ('Plot', 'StateTransitions') for config in panels(kind)
            for path in config['paths']]


def topics_by_panel():
    """Return kind of panel -> the topics it shows."""
    return {
        'Image': [config['imageMode']['imageTopic'] for config in panels('Image')],
        '3D': [topic for config in panels('3D') for topic in config['topics']],
        'Plot': [path.partition('.')[0] for path in paths()],
        'RawMessages': [config['topicPath'] for config in panels('RawMessages')],
        'DiagnosticSummary': [config['topicToRender'] for config in panels('DiagnosticSummary')],
        'DiagnosticStatusPanel': [config['topicToRender']
                                  for config in panels('DiagnosticStatusPanel')]}


def test_foxglove_shows_what_the_node_has_in_panels_for_its_type(offered):
    fitting = {'Image': {'sensor_msgs/msg/Image'}, '3D': {'sensor_msgs/msg/PointCloud2'},
               'Plot': {'rgbx_seg/msg/SegmentationStats'},
               'RawMessages': {'rgbx_seg/msg/SegmentationInfo'},
               'DiagnosticSummary': {'diagnostic_msgs/msg/DiagnosticArray'},
               'DiagnosticStatusPanel': {'diagnostic_msgs/msg/DiagnosticArray'}}
    found = topics_by_panel()
    assert found.keys() == fitting.keys() and all(found.values())
    for kind, topics in found.items():
        assert {offered[topic].type for topic in topics} == fitting[kind]
    assert sorted(found['Image'] + found['3D']) == sorted(pictures(offered))


def test_foxglove_plots_fields_that_the_message_has():
    fields = SegmentationStats.get_fields_and_field_types()
    timelines = [path['value'] for config in panels('StateTransitions') for path in config['paths']]
    for path in paths():
        kind = fields[re.fullmatch(r'/segment/stats\.(\w+)', path)[1]]
        assert kind == ('string' if path in timelines else 'float')
    plotted = {path.partition('.')[2] for path in paths()}
    assert {'latency_ms', 'engine_ms', 'skew_ms', 'miou', 'miou_strict', 'state'} <= plotted


def test_foxglove_colors_the_points_by_a_field_that_they_have():
    for config in panels('3D'):
        for settings in config['topics'].values():
            assert settings['colorField'] in [name for name, _, _ in cloud.FIELDS]
            assert settings['maxValue'] == DISPLAYS['Points']['Max Intensity']


def test_every_foxglove_panel_stands_in_the_layout_once():
    def placed(place):
        if isinstance(place, str):
            yield place
            for tab in PANELS[place].get('tabs', ()):
                yield from placed(tab['layout'])
        else:
            assert place['direction'] in ('row', 'column') and 0 < place['splitPercentage'] < 100
            yield from placed(place['first'])
            yield from placed(place['second'])

    assert sorted(placed(FOXGLOVE['layout'])) == sorted(PANELS)
    assert {'configById', 'globalVariables', 'userNodes', 'playbackConfig', 'layout'} == set(
        FOXGLOVE)
