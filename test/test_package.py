# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0

import configparser
import importlib
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEGMENT_ARGUMENTS = {
    'bundle', 'backend', 'rgb_topic', 'thermal_topic', 'params_file', 'namespace', 'use_sim_time',
    'use_rviz', 'log_level', 'rgb_transport', 'thermal_transport', 'precision', 'build_only',
    'label_topic', 'label_transport', 'fixed_frame', 'classes', 'classes_file',
}
REPLAY_ARGUMENTS = {'bag', 'rate', 'clock', 'ready_topic', 'delay', 'loop', 'start_paused',
                    'rgb_topic', 'thermal_topic', 'aux_topic'}


def commands_in_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    lines = config['options.entry_points']['console_scripts'].split('\n')
    return [tuple(line.split(' = ')) for line in lines if line]


@pytest.mark.parametrize(('command', 'target'), commands_in_setup_cfg())
def test_command_is_a_function_of_the_runtime(command, target):
    module, _, function = target.partition(':')
    if module == 'rgbx_seg_ros.node':
        pytest.importorskip('rclpy', reason='segment_node needs ROS 2: source it, or run make test')
    assert callable(getattr(importlib.import_module(module), function)), command


def test_commands_answer_help_after_installation():
    scripts = Path(sys.executable).parent
    for command, target in commands_in_setup_cfg():
        if target.startswith('rgbx_seg_ros.node:'):
            continue  # a node takes ROS arguments, and runs
        if not (scripts / command).exists():
            pytest.skip('the runtime is not installed in this environment: run make test')
        done = subprocess.run([scripts / command, '--help'], capture_output=True, text=True)
        assert (done.returncode, command in done.stdout) == (0, True), done.stderr


def test_colcon_installed_the_node_and_what_it_reads():
    packages = pytest.importorskip('ament_index_python.packages', reason='needs a sourced ROS 2')
    try:
        prefix = Path(packages.get_package_prefix('rgbx_seg'))
    except packages.PackageNotFoundError:
        pytest.skip('rgbx_seg is not built or not sourced: run make test')
    expected = ['lib/rgbx_seg/segment_node', 'share/rgbx_seg/package.xml']
    for folder in ('config', 'launch', 'sample'):
        files = [p for p in (ROOT / folder).rglob('*') if p.is_file() and p.suffix != '.pyc']
        assert files, f'{folder} is empty'
        expected += [f'share/rgbx_seg/{file.relative_to(ROOT)}' for file in files]
    assert [name for name in expected if not (prefix / name).exists()] == []


def test_vision_msgs_is_the_public_interface():
    pytest.importorskip('rclpy', reason='needs a sourced ROS 2')
    messages = pytest.importorskip('vision_msgs.msg')
    if not hasattr(messages, 'LabelInfo'):  # the folder of the stand-in, which is not built
        pytest.skip('vision_msgs is not installed: run make test')
    assert messages.LabelInfo.get_fields_and_field_types() == {
        'header': 'std_msgs/Header', 'class_map': 'sequence<vision_msgs/VisionClass>',
        'threshold': 'float'}
    assert messages.VisionClass.get_fields_and_field_types() == {
        'class_id': 'uint16', 'class_name': 'string'}


# --- launch files: with the real `launch` where it is installed, else with recording stand-ins ----

class Recorded:
    """Stands in for a launch action: keeps what it was made from."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        self.name = args[0] if args else kwargs.get('name')
        self.default_value = kwargs.get('default_value')


class Configuration:
    """Stands in for LaunchConfiguration."""

    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context.launch_configurations[self.name]


def stand_ins():
    contents = {
        'ament_index_python.packages': {'get_package_share_directory': lambda name: str(ROOT)},
        'launch': {'LaunchDescription': list},
        'launch.actions': {name: type(name, (Recorded,), {}) for name in (
            'DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription', 'OpaqueFunction',
            'SetEnvironmentVariable')},
        'launch.launch_description_sources': {'PythonLaunchDescriptionSource': Recorded},
        'launch.substitutions': {'LaunchConfiguration': Configuration},
        'launch_ros.actions': {name: type(name, (Recorded,), {}) for name in ('Node', 'SetRemap')},
        'launch_ros.parameter_descriptions': {
            'ParameterValue': lambda value, value_type: value_type(value)},
    }
    modules = {name: types.ModuleType(name) for name in contents}
    for name, module in modules.items():
        vars(module).update(contents[name])
    return {'ament_index_python': types.ModuleType('ament_index_python'),
            'launch_ros': types.ModuleType('launch_ros'), **modules}


def load(name, monkeypatch):
    for module, stand_in in stand_ins().items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    spec = importlib.util.spec_from_file_location('launch_file', ROOT / 'launch' / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, function, environment=(), pushed=(), **given):
    """Return the actions of an OpaqueFunction for the arguments given, defaults for the rest."""
    defaults = {argument.name: argument.default_value for argument in module.ARGUMENTS}
    context = types.SimpleNamespace(
        launch_configurations={**defaults, **dict(pushed), **given}, environment=dict(environment))
    return {type(action).__name__: action for action in function(context)}


@pytest.fixture
def segment(monkeypatch):
    return load('segment.launch.py', monkeypatch)


@pytest.fixture
def replay(monkeypatch):
    return load('replay.launch.py', monkeypatch)


def declared(module):
    return {action.name for action in module.generate_launch_description()
            if type(action).__name__ == 'DeclareLaunchArgument'}


def test_launch_files_declare_the_documented_arguments(segment, replay):
    assert declared(segment) == SEGMENT_ARGUMENTS
    assert declared(replay) == REPLAY_ARGUMENTS


@pytest.mark.parametrize('name', ['segment.launch.py', 'replay.launch.py'])
def test_ros2_launch_accepts_the_file(name):
    pytest.importorskip('launch_ros', reason='ros2 launch is not on PyPI: run on a ROS machine')
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    source = PythonLaunchDescriptionSource(str(ROOT / 'launch' / name))
    arguments = source.get_launch_description(LaunchContext()).get_launch_arguments()
    assert {argument.name for argument in arguments} >= SEGMENT_ARGUMENTS


def test_defaults_run_the_sample_bundle_on_relative_topics(segment):
    node = run(segment, segment.start)['Node'].kwargs
    file, given = node['parameters']
    assert file == str(ROOT / 'config/segment.yaml')
    assert given == {'bundle': str(ROOT / 'sample/bundle'), 'use_sim_time': False}
    assert all(source == target for source, target in node['remappings'])
    assert (node['package'], node['executable'], node['name']) == (
        'rgbx_seg', 'segment_node', 'segment')


def test_own_params_file_decides_what_the_command_line_leaves_open(segment, tmp_path):
    mine = tmp_path / 'mine.yaml'
    mine.write_text('/**: {ros__parameters: {bundle: elsewhere}}')
    node = run(segment, segment.start, params_file=str(mine), backend='onnxruntime',
               precision='fp32')['Node'].kwargs
    assert node['parameters'] == [str(mine), {'backend': 'onnxruntime', 'precision': 'fp32',
                                              'use_sim_time': False}]


def test_build_only_starts_the_builder_alone_and_fails_as_it_does(segment, tmp_path):
    actions = run(segment, segment.start, build_only='true', use_rviz='true', backend='tensorrt')
    assert list(actions) == ['ExecuteProcess']
    given = actions['ExecuteProcess'].kwargs
    assert given['cmd'] == ['ros2', 'run', 'rgbx_seg', 'rgbx_build_engine',
                            str(ROOT / 'sample/bundle'), '--backend', 'tensorrt']
    given['on_exit'](types.SimpleNamespace(returncode=0), None)
    with pytest.raises(RuntimeError, match='rgbx_build_engine ended with exit code 1'):
        given['on_exit'](types.SimpleNamespace(returncode=1), None)
    (tmp_path / 'mine.yaml').touch()
    with pytest.raises(RuntimeError, match='build_only does not read params_file: give bundle'):
        run(segment, segment.start, build_only='true', params_file=str(tmp_path / 'mine.yaml'))


def test_missing_params_file_is_refused_in_a_sentence(segment, tmp_path):
    with pytest.raises(RuntimeError, match='params_file .*absent.yaml. is no file: give'):
        run(segment, segment.start, params_file=str(tmp_path / 'absent.yaml'))


def test_a_topic_takes_its_compressed_form_and_camera_info_along(segment):
    node = run(segment, segment.start, rgb_topic='/cam/color/image')['Node'].kwargs
    assert node['remappings'][:3] == [
        ('rgb/image_raw', '/cam/color/image'),
        ('rgb/image_raw/compressed', '/cam/color/image/compressed'),
        ('rgb/camera_info', '/cam/color/camera_info')]


@pytest.mark.parametrize(('environment', 'sets'), [
    ({}, True),
    ({'RMW_IMPLEMENTATION': 'rmw_fastrtps_dynamic_cpp'}, True),
    ({'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp'}, False),
    ({'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4'}, False),
    ({'FASTRTPS_DEFAULT_PROFILES_FILE': 'mine.xml'}, False),
])
def test_transport_is_set_for_fast_dds_unless_the_user_chose(segment, environment, sets):
    actions = run(segment, segment.start, environment=environment)
    assert ('SetEnvironmentVariable' in actions) is sets
    if sets:
        assert list(actions)[0] == 'SetEnvironmentVariable'  # before the node starts
        assert actions['SetEnvironmentVariable'].args == (
            'FASTDDS_BUILTIN_TRANSPORTS',
            'LARGE_DATA')


@pytest.mark.parametrize(('given', 'pushed', 'namespace', 'shown'), [
    ('', {}, '/', '/segment/overlay'),
    ('front', {}, 'front', '/front/segment/overlay'),
    ('', {'ros_namespace': 'robot'}, '', '/robot/segment/overlay'),
    ('front', {'ros_namespace': 'robot'}, 'front', '/robot/front/segment/overlay'),
    ('/front', {'ros_namespace': 'robot'}, '/front', '/front/segment/overlay'),
])
def test_rviz_shows_the_node_in_its_namespace(segment, given, pushed, namespace, shown):
    made = []
    segment.Node = lambda **kwargs: made.append(kwargs)
    run(segment, segment.start, namespace=given, pushed=pushed, use_rviz='true')
    assert made[0]['namespace'] == namespace
    assert dict(made[1]['remappings'])['/segment/overlay'] == shown


def test_transports_given_on_the_command_line_reach_the_node(segment):
    node = run(segment, segment.start, thermal_transport='compressed')['Node'].kwargs
    assert node['parameters'][1]['aux.transport'] == 'compressed'
    assert 'rgb.transport' not in node['parameters'][1]
