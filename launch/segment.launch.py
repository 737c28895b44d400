# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Starts the segmentation node: `ros2 launch rgbx_seg segment.launch.py bundle:=FOLDER`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory('rgbx_seg'))
DEFAULT_PARAMS = str(SHARE / 'config' / 'segment.yaml')
SAMPLE_BUNDLE = str(SHARE / 'sample' / 'bundle')
# By default Fast DDS sends a 640x480 image as UDP fragments and loses about half of them.
# Bare: with sizes asked for, nothing at all gets through where net.core.wmem_max is smaller.
LARGE_IMAGES = 'LARGE_DATA'
# What config/segment.rviz shows of the node.
SHOWN = ('overlay', 'color_mask', 'confidence', 'aux_preview', 'points')
BOOLEANS = ['true', 'false']
TRANSPORTS = ['', 'raw', 'compressed']
# Argument -> parameter of the node that it sets, if given.
PARAMETERS = {'bundle': 'bundle', 'backend': 'backend', 'precision': 'precision',
              'rgb_transport': 'rgb.transport', 'thermal_transport': 'aux.transport',
              'label_transport': 'score.transport', 'classes_file': 'classes_file'}
BUILDER = 'rgbx_build_engine'

ARGUMENTS = (
    DeclareLaunchArgument(
        'bundle', default_value='',
        description='folder with model.onnx and manifest.yaml; empty: what params_file says, '
        'or the sample bundle with the default params_file'),
    DeclareLaunchArgument(
        'backend', default_value='',
        description='inference library (auto, tensorrt, tensorrt_rtx, onnxruntime_cuda, openvino, '
        'onnxruntime, torch); empty: what params_file says'),
    DeclareLaunchArgument(
        'precision', default_value='',
        description='number format of the engine (auto, fp32, fp16, bf16, int8); empty: what '
        'params_file says'),
    DeclareLaunchArgument(
        'classes', default_value='',
        description='names of the classes to find, with commas between them, for a bundle that '
        'lets them be chosen; empty: what params_file says'),
    DeclareLaunchArgument(
        'classes_file', default_value='',
        description='YAML file of classes, or bank of rgbx_embed_classes; empty: what params_file '
        'says'),
    DeclareLaunchArgument(
        'build_only', default_value='false', choices=BOOLEANS,
        description='build the engine of bundle for backend and precision instead of starting the '
        'node, so that its first start takes no minutes'),
    DeclareLaunchArgument(
        'rgb_topic', default_value='rgb/image_raw', description='images of the RGB camera'),
    DeclareLaunchArgument(
        'thermal_topic', default_value='thermal/image_raw',
        description='images of the thermal camera'),
    DeclareLaunchArgument(
        'rgb_transport', default_value='', choices=TRANSPORTS,
        description='raw, or compressed for rgb_topic/compressed; empty: what params_file says'),
    DeclareLaunchArgument(
        'thermal_transport', default_value='', choices=TRANSPORTS,
        description='the same for the thermal camera'),
    DeclareLaunchArgument(
        'label_topic', default_value='',
        description='true class ids to score the masks against while the node runs; empty: what '
        'params_file says'),
    DeclareLaunchArgument(
        'label_transport', default_value='', choices=TRANSPORTS,
        description='the same for the labels; compressed: PNG'),
    DeclareLaunchArgument(
        'params_file', default_value=DEFAULT_PARAMS, description="the node's parameters, YAML"),
    DeclareLaunchArgument(
        'namespace', default_value='', description='namespace of the node and its topics'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', choices=BOOLEANS,
        description='take the time from /clock'),
    DeclareLaunchArgument(
        'use_rviz', default_value='false', choices=BOOLEANS, description='show the result in RViz'),
    DeclareLaunchArgument(
        'fixed_frame', default_value='map',
        description='frame in which RViz shows the points; without /tf that of the RGB images'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='least severity that the node logs'),
)


def generate_launch_description():
    """Return the launch description; the nodes depend on the arguments' values."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    """Return the actions for the arguments as given."""
    args = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    if not Path(args['params_file']).is_file():
        raise RuntimeError(f"params_file '{args['params_file']}' is no file: give the path of a "
                           f'YAML file of parameters, or leave the argument out')
    # Without any namespace launch_ros files these parameters under a wildcard, and a params_file
    # that names the node would win over the command line.
    args['pushed'] = context.launch_configurations.get('ros_namespace', '')
    args['namespace'] = args['namespace'] or ('' if args['pushed'] else '/')
    if args['build_only'] == 'true':
        return [engine_builder(args)]
    actions = [*transport(context.environment), segment_node(args)]
    return [*actions, rviz(args)] if args['use_rviz'] == 'true' else actions


def transport(environment):
    """Return the action that fits Fast DDS to images, unless the user chose another transport."""
    rmw = environment.get('RMW_IMPLEMENTATION') or 'rmw_fastrtps_cpp'
    chosen = ('FASTDDS_BUILTIN_TRANSPORTS', 'FASTDDS_DEFAULT_PROFILES_FILE',
              'FASTRTPS_DEFAULT_PROFILES_FILE')
    if not rmw.startswith('rmw_fastrtps') or any(environment.get(name) for name in chosen):
        return []
    return [SetEnvironmentVariable('FASTDDS_BUILTIN_TRANSPORTS', LARGE_IMAGES)]


def given_parameters(args):
    """Return the node's parameters that the command line sets, or the sample bundle, by name."""
    given = {name: args[argument] for argument, name in PARAMETERS.items() if args[argument]}
    if not args['bundle'] and args['params_file'] == DEFAULT_PARAMS:
        given['bundle'] = SAMPLE_BUNDLE
    return given


def engine_builder(args):
    """Return the command that builds the engine; where it fails, so does the launch."""
    given = given_parameters(args)
    if 'bundle' not in given:
        raise RuntimeError('build_only does not read params_file: give bundle:=FOLDER, and backend '
                           'and precision if they are not auto')
    options = [word for name in ('backend', 'precision') if name in given
               for word in (f'--{name}', given[name])]
    return ExecuteProcess(cmd=['ros2', 'run', 'rgbx_seg', BUILDER, given['bundle'], *options],
                          output='screen', on_exit=fail_with)


def fail_with(event, context):
    """Raise if the process that ended had failed: `ros2 launch` then ends with 1, else with 0."""
    if event.returncode:
        raise RuntimeError(f'{BUILDER} ended with exit code {event.returncode}')


def segment_node(args):
    """Return the node; what is given on the command line wins over the file of parameters."""
    given = given_parameters(args)
    given = {name: ParameterValue(value, value_type=str) for name, value in given.items()}
    if args['classes']:
        given['classes'] = [name.strip() for name in args['classes'].split(',')]
    labels = camera('label', args['label_topic'])[:2] if args['label_topic'] else []
    if labels:
        given['score.labels'] = True
    return Node(
        package='rgbx_seg',
        executable='segment_node',
        name='segment',
        namespace=args['namespace'],
        parameters=[args['params_file'], {**given, 'use_sim_time': args['use_sim_time'] == 'true'}],
        remappings=[*camera('rgb', args['rgb_topic']),
                    *camera('thermal', args['thermal_topic']), *labels],
        ros_arguments=['--log-level', args['log_level']],
        output='screen',
    )


def camera(name, topic):
    """Return the remappings of a camera's topics: image, its compressed form, camera_info."""
    info = '/'.join([*topic.split('/')[:-1], 'camera_info'])
    return [
        (f'{name}/image_raw', topic),
        (f'{name}/image_raw/compressed', f'{topic}/compressed'),
        (f'{name}/camera_info', info),
    ]


def rviz(args):
    """Return RViz with what this node shows."""
    absolute = args['namespace'].startswith('/')
    parts = [*('' if absolute else args['pushed']).split('/'), *args['namespace'].split('/')]
    prefix = ''.join(f'/{part}' for part in parts if part)
    shown = [(f'/segment/{topic}', f'{prefix}/segment/{topic}') for topic in SHOWN]
    return Node(
        package='rviz2',
        executable='rviz2',
        name='rviz',
        arguments=['-d', str(SHARE / 'config' / 'segment.rviz'), '-f', args['fixed_frame']],
        parameters=[{'use_sim_time': args['use_sim_time'] == 'true'}],
        remappings=shown,
    )
