# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The walls between the modules, by their source and in fresh interpreters."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (ROOT / 'rgbx_seg_ros').glob('*.py'))
ROS_FILES = {'node', 'messages', 'diagnostics', 'intake', 'camera_pair', 'benchmark_robot',
             'endpoints', 'sync_message_filters', 'static_transforms', 'player',
             'player_messages'}
ROS = {'rclpy', 'rgbx_seg', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs',
       'builtin_interfaces', 'rcl_interfaces', 'lifecycle_msgs', 'vision_msgs', 'geometry_msgs',
       'cv_bridge', 'message_filters', 'ament_index_python', 'sensor_msgs_py', 'tf2_ros'}
TRAINING = {'torch', 'torchvision', 'transformers', 'peft', 'timm', 'rgbx_seg_train'}
# Package -> the one file that may import it; of bags one reads, one reads and writes.
ONE_FILE = {'onnxruntime': 'engine_onnxruntime', 'rosbags': 'bag bag_reading',
            'openvino': 'engine_openvino', 'tensorrt': 'engine_tensorrt',
            'tensorrt_rtx': 'engine_tensorrt', 'rgbx_seg_train': 'engine_torch',
            'ray': 'eval_ray', 'tqdm': 'eval_progress', 'rerun': 'eval_rerun'}


def imported(module):
    """Return the top-level packages that a file's import statements name, wherever they stand."""
    tree = ast.parse((ROOT / 'rgbx_seg_ros' / f'{module}.py').read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split('.')[0])
    return names


@pytest.mark.parametrize('module', MODULES)
def test_file_imports_only_what_it_may(module):
    names = imported(module)
    assert not names & TRAINING - {'rgbx_seg_train'}
    assert not names & ROS or module in ROS_FILES
    assert {name for name in names & ONE_FILE.keys()
            if module not in ONE_FILE[name].split()} == set()


def test_these_files_do_import_ros():
    assert all(imported(module) & ROS for module in ROS_FILES)


def loaded_by(modules):
    """Return which of the walled packages a fresh interpreter holds after importing `modules`."""
    program = (f'import sys, {", ".join(f"rgbx_seg_ros.{module}" for module in modules)}\n'
               'print(*sorted({name.split(".")[0] for name in sys.modules}))')
    run = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True,
                         timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_runtime_without_the_ros_files_loads_no_ros_and_no_torch():
    modules = [module for module in MODULES if module not in ROS_FILES | {'__init__'}]
    loaded = loaded_by(modules)
    assert 'rgbx_seg_ros' in loaded and 'numpy' in loaded
    assert not loaded & (ROS | TRAINING)


def test_node_loads_no_training_and_no_inference_library_before_it_is_configured():
    if importlib.util.find_spec('rgbx_seg') is None:
        pytest.skip('the ROS package is not built; run `make ros`.')
    loaded = loaded_by(['node'])
    assert 'rclpy' in loaded
    assert not loaded & (TRAINING | {'onnxruntime', 'rosbags'})


@pytest.mark.parametrize('module', ['sync', 'manifest', 'metrics', 'images', 'thermal'])
def test_module_alone_loads_no_ros(module):
    assert not loaded_by([module]) & (ROS | TRAINING)
