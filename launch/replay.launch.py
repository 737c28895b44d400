# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag through the segmentation node: `ros2 launch rgbx_seg replay.launch.py bag:=FOLDER`.

Every argument of segment.launch.py serves here too.
"""

from pathlib import Path

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
    return LaunchDescription([*ARGUMENTS, segment, OpaqueFunction(function=play)])


def play(context):
    """Return the player for the arguments as given."""
    args = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    switches = [switch for name, switch in SWITCHES.items() if args[name] == 'true']
    command = ['ros2', 'bag', 'play', args['bag'], '--clock', '200', '--rate', args['rate'],
               '--delay', args['delay'], '--disable-keyboard-controls', *switches]
    return [ExecuteProcess(cmd=command, output='screen')]
