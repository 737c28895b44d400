# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag through the segmentation node: `ros2 launch rgbx_seg replay.launch.py bag:=FOLDER`.

Every argument of segment.launch.py serves here too.
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

SHARE = Path(get_package_share_directory('rgbx_seg'))
BOOLEANS = ['true', 'false']

ARGUMENTS = (
    DeclareLaunchArgument(
        'bag', default_value=str(SHARE / 'sample' / 'bag'), description='rosbag2 folder to play'),
    DeclareLaunchArgument(
        'rate', default_value='1.0', description='speed of playing; 1.0 is that of recording'),
    DeclareLaunchArgument(
        'delay', default_value='5.0',
        description='seconds before the first message, in which the node loads its model'),
    DeclareLaunchArgument(
        'loop', default_value='false', choices=BOOLEANS, description='play again and again'),
    DeclareLaunchArgument(
        'start_paused', default_value='false', choices=BOOLEANS,
        description='wait for `ros2 service call /rosbag2_player/resume`'),
    DeclareLaunchArgument(
        'rgb_topic', default_value='/rgb/image_raw', description='RGB images in the bag'),
    DeclareLaunchArgument(
        'thermal_topic', default_value='/thermal/image_raw', description='thermal ones in the bag'),
)
SWITCHES = {'loop': '--loop', 'start_paused': '--start-paused'}


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
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=choose_transports), segment,
                              OpaqueFunction(function=play)])


def choose_transports(context):
    """Let the node subscribe to compressed images where the bag has no others."""
    given = context.launch_configurations
    topics = recorded_topics(Path(LaunchConfiguration('bag').perform(context)))
    for camera in ('rgb', 'thermal'):
        topic = LaunchConfiguration(f'{camera}_topic').perform(context)
        compressed = topic not in topics and f'{topic}/compressed' in topics
        if compressed and not given.get(f'{camera}_transport'):
            given[f'{camera}_transport'] = 'compressed'
    return []


def recorded_topics(bag):
    """Return the names of a bag's topics; none of a single file, which has no metadata.yaml."""
    metadata = bag / 'metadata.yaml'
    if not metadata.is_file():
        return set()
    information = yaml.safe_load(metadata.read_text())['rosbag2_bagfile_information']
    return {topic['topic_metadata']['name'] for topic in information['topics_with_message_count']}


def play(context):
    """Return the player for the arguments as given."""
    args = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    switches = [switch for name, switch in SWITCHES.items() if args[name] == 'true']
    command = ['ros2', 'bag', 'play', args['bag'], '--clock', '200', '--rate', args['rate'],
               '--delay', args['delay'], '--disable-keyboard-controls', *switches]
    return [ExecuteProcess(cmd=command, output='screen')]
