# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag through the segmentation node: `ros2 launch rgbx_seg replay.launch.py bag:=FOLDER`.

Node, RViz and player go by the clock of the bag. Every argument of segment.launch.py serves here
too.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap

SHARE = Path(get_package_share_directory('rgbx_seg'))
BOOLEANS = ['true', 'false']

ARGUMENTS = (
    DeclareLaunchArgument(
        'bag', default_value=str(SHARE / 'sample' / 'bag'), description='rosbag2 folder to play'),
    DeclareLaunchArgument(
        'rate', default_value='1.0', description='speed of playing; 1.0 is that of recording'),
    DeclareLaunchArgument(
        'clock', default_value='200', description='how often the time of the bag is told [Hz]'),
    DeclareLaunchArgument(
        'ready_topic', default_value='segment/info',
        description='latched topic of the node, in its namespace, that tells that the model is '
        'loaded: then the bag begins; with pairs segment/PAIR/info; none: it begins at once'),
    DeclareLaunchArgument(
        'delay', default_value='1.0',
        description='seconds before the first message, in each loop; in them the last pairs of '
        'the loop before come out'),
    DeclareLaunchArgument(
        'loop', default_value='false', choices=BOOLEANS, description='play again and again'),
    DeclareLaunchArgument(
        'start_paused', default_value='false', choices=BOOLEANS,
        description='wait for `ros2 service call /rosbag2_player/resume`'),
    DeclareLaunchArgument(
        'rgb_topic', default_value='/rgb/image_raw', description='RGB images in the bag'),
    DeclareLaunchArgument(
        'thermal_topic', default_value='/thermal/image_raw', description='thermal ones in the bag'),
    DeclareLaunchArgument(
        'aux_topic', default_value='',
        description='those of the other camera, whatever the modality of the bundle; empty: '
        'thermal_topic, or /MODALITY/image_raw of a bundle of another modality'),
)
SWITCHES = {'loop': '--loop', 'start_paused': '--start-paused'}
STORAGES = {'.mcap': 'mcap', '.db3': 'sqlite3'}
THERMAL = 'thermal'


def generate_launch_description():
    """Return the launch description: the node on the bag's clock, and the player."""
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'segment.launch.py')),
        launch_arguments={
            'use_sim_time': 'true',
            'rgb_topic': LaunchConfiguration('rgb_topic'),
            'thermal_topic': LaunchConfiguration('thermal_topic'),
        }.items(),
    )
    # The player comes second, because segment.launch.py sets the transport for both.
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=choose_inputs), segment,
                              OpaqueFunction(function=play_when_ready)])


def choose_inputs(context):
    """Return the remappings to the other camera's topics, and choose the transports.

    The node takes compressed images where the bag has no others.
    """
    given = context.launch_configurations
    modality = bundle_modality(given.get('bundle', ''))
    if modality == THERMAL:
        given['thermal_topic'] = given['aux_topic'] or given['thermal_topic']
        aux, remaps = given['thermal_topic'], []
    else:
        aux = given['aux_topic'] or f'/{modality}/image_raw'
        info = '/'.join([*aux.split('/')[:-1], 'camera_info'])
        remaps = [SetRemap(f'{modality}/image_raw', aux),
                  SetRemap(f'{modality}/image_raw/compressed', f'{aux}/compressed'),
                  SetRemap(f'{modality}/camera_info', info)]
    topics = recorded_topics(Path(given['bag']))
    for camera, topic in (('rgb', given['rgb_topic']), (THERMAL, aux),
                          ('label', given.get('label_topic', ''))):
        compressed = topic not in topics and f'{topic}/compressed' in topics
        if compressed and not given.get(f'{camera}_transport'):
            given[f'{camera}_transport'] = 'compressed'
    return remaps


def bundle_modality(bundle):
    """Return the modality of a bundle; thermal if none is given, or one that the node refuses."""
    manifest = Path(bundle or SHARE / 'sample' / 'bundle') / 'manifest.yaml'
    if not manifest.is_file():
        return THERMAL
    content = yaml.safe_load(manifest.read_text())
    return str(content.get('modality', THERMAL)) if isinstance(content, dict) else THERMAL


def recorded_topics(bag):
    """Return the names of a bag's topics; none of a single file, which has no metadata.yaml."""
    metadata = bag / 'metadata.yaml'
    if not metadata.is_file():
        return set()
    information = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
    return {topic['topic_metadata']['name'] for topic in information['topics_with_message_count']}


def play_when_ready(context):
    """Return what waits until the node has loaded its model, which then starts the player."""
    ready = context.launch_configurations['ready_topic']
    if not ready:
        return play(context)
    given = context.launch_configurations
    parts = [given.get('ros_namespace', ''), given.get('namespace', ''), ready]
    first = max(i for i, part in enumerate(parts) if part.startswith('/') or i == 0)
    topic = '/' + '/'.join(part.strip('/') for part in parts[first:] if part.strip('/'))
    command = ['ros2', 'topic', 'echo', '--once', '--qos-durability', 'transient_local',
               '--qos-reliability', 'reliable', topic, 'rgbx_seg/msg/SegmentationInfo']
    return [ExecuteProcess(cmd=command, output={'stdout': 'log', 'stderr': 'screen'},
                           on_exit=play_after)]


def play_after(event, context):
    """Return the player once the waiting has come to its end, and not to that of the launch."""
    return [] if event.returncode or context.is_shutdown else play(context)


def play(context):
    """Return the player for the arguments as given."""
    args = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    switches = [switch for name, switch in SWITCHES.items() if args[name] == 'true']
    suffix = Path(args['bag']).suffix
    storage = ['--storage', STORAGES[suffix]] if suffix in STORAGES else []
    command = ['ros2', 'bag', 'play', args['bag'], *storage, '--clock', args['clock'],
               '--rate', args['rate'], '--delay', args['delay'], '--disable-keyboard-controls',
               *switches]
    return [ExecuteProcess(cmd=command, output='screen')]
