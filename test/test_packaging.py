# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What is said in several places of the packaging says the same: imports, keys, images, workflows.

None of the images can be built here, and no workflow run: their files are read, and every name in
them is looked up where it comes from.
"""

import ast
import configparser
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILES = sorted((ROOT / 'docker').glob('*.Dockerfile'))
WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))
OURS = {'rgbx_seg', 'rgbx_seg_ros', 'rgbx_seg_train'}
# Module -> key of rosdep, where they differ; those of ROS are keys themselves.
KEYS = {'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'yaml': 'python3-yaml',
        'hypothesis': 'python3-hypothesis', 'pytest': 'python3-pytest'}
# Modules of no apt package -> distribution of PyPI, where they differ.
WHEELS = {'cv2': 'opencv-python-headless', 'yaml': 'PyYAML', 'PIL': 'pillow',
          'sklearn': 'scikit-learn', 'tensorrt_rtx': 'tensorrt-rtx',
          'rerun': 'rerun-sdk', 'rgbx_seg_train': 'rgbx-seg-train'}
# Keys that no file names: what `ros2 launch` and `ros2 bag play` need, and the generators.
NOT_IMPORTED = {'ros2launch', 'rosbag2_storage_default_plugins', 'rosbag2_storage_mcap',
                'ament_cmake', 'ament_cmake_python', 'ament_cmake_pytest',
                'rosidl_default_generators', 'rosidl_default_runtime', 'python3-pytest-timeout'}


def imported(*folders):
    """Return the top-level modules that the files of these folders import, but Python's."""
    names = set()
    for path in [path for folder in folders for path in (ROOT / folder).glob('**/*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names)


def keys(*kinds):
    root = ET.parse(ROOT / 'package.xml').getroot()
    return {element.text for kind in kinds for element in root.findall(kind)}


def setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    return config


def distributions():
    """Return the names of all that the wheel requires or offers, lower case."""
    config = setup_cfg()
    lines = config['options']['install_requires'].splitlines()
    for extra in config['options.extras_require'].values():
        lines += extra.splitlines()
    return {re.match(r'[\w.-]+', line)[0].lower() for line in lines if line.strip()} - OURS


# --- dependencies ---------------------------------------------------------------------------------

def test_each_import_of_the_runtime_is_a_key_of_rosdep_or_a_requirement_of_the_wheel():
    declared = keys('depend', 'exec_depend')
    missing = {module for module in imported('rgbx_seg_ros', 'launch') - OURS
               if KEYS.get(module, module) not in declared
               and WHEELS.get(module, module).lower() not in distributions()}
    assert missing == set()


def started():
    """Return the packages whose command the launch files start: `ros2 bag` is of ros2bag."""
    texts = [path.read_text() for path in (ROOT / 'launch').iterdir() if path.suffix == '.py']
    return {f'ros2{verb}' for text in texts for verb in re.findall(r"'ros2', '(\w+)'", text)}


def test_each_command_that_a_launch_file_starts_is_a_key_of_rosdep():
    assert started() and started() <= keys('exec_depend')


def test_each_key_of_rosdep_is_imported_or_told_why_not():
    modules = imported('rgbx_seg_ros', 'launch', 'test', 'demo', 'msg')
    modules |= set(re.findall(r'^([a-z_0-9]+)/', ''.join(
        path.read_text() for path in (ROOT / 'msg').glob('*.msg')), re.MULTILINE))
    used = {KEYS.get(module, module) for module in modules} | started() | NOT_IMPORTED
    declared = keys('depend', 'exec_depend', 'buildtool_depend', 'test_depend')
    assert declared - used == set()


def test_package_xml_is_valid_and_names_nothing_twice():
    package = pytest.importorskip('catkin_pkg.package', reason='comes with colcon')
    warnings = []
    read = package.parse_package(str(ROOT), warnings=warnings)
    read.validate(warnings=warnings)
    assert (read.name, read.package_format, warnings) == ('rgbx_seg', 3, [])
    for kind in (read.exec_depends, read.build_depends, read.test_depends):
        names = [each.name for each in kind]
        assert len(names) == len(set(names))


def test_cmake_finds_what_package_xml_lets_it_build_with():
    found = re.findall(r'find_package\((\w+) REQUIRED\)', (ROOT / 'CMakeLists.txt').read_text())
    assert set(found) == keys('depend', 'buildtool_depend')


def test_each_import_of_training_is_a_requirement_of_its_wheel():
    text = (ROOT / 'rgbx_seg_train/pyproject.toml').read_text()
    listed = re.search(r'^dependencies = \[(.*?)^\]', text, re.MULTILINE | re.DOTALL)[1]
    required = {re.match(r'[\w.-]+', name)[0].lower() for name in re.findall(r"'(.+?)'", listed)}
    modules = imported('rgbx_seg_train/rgbx_seg_train') - {'rgbx_seg_train'}
    names = {WHEELS.get(module, module).lower().replace('rgbx_seg_ros', 'rgbx-seg-ros')
             for module in modules}
    assert names - required == set()


def test_each_file_of_training_that_is_no_code_goes_into_its_wheel():
    text = (ROOT / 'rgbx_seg_train/pyproject.toml').read_text()
    package, patterns = re.search(r"package-data = \{'([\w.]+)' = \[(.+)\]\}", text).groups()
    folder = ROOT / 'rgbx_seg_train' / package.replace('.', '/')
    packed = {path for pattern in re.findall(r"'(.+?)'", patterns) for path in folder.glob(pattern)}
    others = {path for path in (ROOT / 'rgbx_seg_train/rgbx_seg_train').rglob('*')
              if path.is_file() and path.suffix not in ('.py', '.pyc')}
    assert packed == others


def test_the_wheel_asks_of_all_only_extras_that_there_are():
    extras = setup_cfg()['options.extras_require']
    listed = re.search(r'\[(.+)\]', extras['all'])[1].split(',')
    assert set(listed) <= set(extras) - {'all'}


# --- images ---------------------------------------------------------------------------------------

def instructions(dockerfile):
    """Return [(instruction, rest)] of a Dockerfile, continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith('#')]
    joined = re.sub(r'\\\n', ' ', '\n'.join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def taken(dockerfile):
    """Return the paths of the repository that go into an image."""
    paths = []
    for instruction, rest in instructions(dockerfile):
        if instruction == 'COPY' and not rest.startswith('--from='):
            paths += shlex.split(rest)[:-1]
    return paths


@pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_takes_all_that_cmake_installs_and_docker_is_given_it(dockerfile):
    paths = taken(dockerfile)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    given = re.findall(r'^!(.+)$', (ROOT / '.dockerignore').read_text(), re.MULTILINE)
    assert set(paths) <= set(given)
    assert set(given) <= {path for file in DOCKERFILES for path in taken(file)}
    cmake = (ROOT / 'CMakeLists.txt').read_text()
    installed = re.search(r'install\(DIRECTORY ([\w ]+?) DESTINATION', cmake)[1].split()
    parts = re.search(r'^PACKAGE_PARTS := (.+)$', (ROOT / 'Makefile').read_text(), re.MULTILINE)[1]
    assert set(paths) >= {*installed, *parts.split(), 'rgbx_seg_ros', 'msg'}


@pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)
def test_stages_are_begun_before_they_are_copied_from(dockerfile):
    stages = []
    for instruction, rest in instructions(dockerfile):
        if instruction == 'FROM':
            base, _, name = rest.partition(' AS ')
            assert '/' in base or ':' in base or base in stages
            stages.append(name)
        source = re.match(r'--from=(\S+)', rest) if instruction == 'COPY' else None
        assert not source or source[1] in stages


@pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)
def test_an_image_starts_the_node_as_a_user_that_is_not_root(dockerfile):
    steps = dict(instructions(dockerfile))  # the last of each kind
    assert steps['USER'] == 'rgbx'
    package, launch_file = yaml.safe_load(steps['CMD'])[2:]
    assert package == ET.parse(ROOT / 'package.xml').getroot().findtext('name')
    assert (ROOT / 'launch' / launch_file).is_file()
    script = yaml.safe_load(steps['ENTRYPOINT'])[0]
    entrypoint = next(path for path in taken(dockerfile) if script.endswith(Path(path).name))
    assert (ROOT / entrypoint).stat().st_mode & 0o111 == 0o111
    subprocess.run(['bash', '-n', ROOT / entrypoint], check=True)


@pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)
def test_libraries_of_an_image_are_those_of_the_wheel(dockerfile):
    listed = [re.search(r'LIBRARIES="(.+)"', rest)[1].split() for instruction, rest
              in instructions(dockerfile) if instruction == 'ARG' and 'LIBRARIES' in rest]
    assert len(listed) == 1
    assert set(listed[0]) <= distributions()


@pytest.mark.parametrize('dockerfile', DOCKERFILES, ids=lambda path: path.stem)
def test_lines_of_an_image_are_valid_for_bash(dockerfile):
    for instruction, rest in instructions(dockerfile):
        if instruction == 'RUN':
            subprocess.run(['bash', '-n', '-c', rest], check=True)


def test_the_guide_of_the_images_names_libraries_and_commands_that_there_are():
    text = (ROOT / 'docker/README.md').read_text()
    for libraries in re.findall(r'LIBRARIES="(.+?)"', text):
        assert set(libraries.split()) <= distributions()
    commands = setup_cfg()['options.entry_points']['console_scripts']
    for command in re.findall(r'ros2 run rgbx_seg (\w+)', text):
        assert f'\n{command} = ' in commands
    for file in re.findall(r'`((?:test|\.github)/[\w./]+)`', text):
        assert (ROOT / file).is_file()


# --- workflows ------------------------------------------------------------------------------------

def steps():
    return [(name, step) for path in WORKFLOWS
            for name, job in yaml.safe_load(path.read_text())['jobs'].items()
            for step in job['steps']]


def test_workflows_run_the_whole_matrix_of_ros_and_all_pythons():
    jobs = {name: job for path in WORKFLOWS
            for name, job in yaml.safe_load(path.read_text())['jobs'].items()}
    assert jobs['colcon']['strategy']['matrix']['distro'] == ['humble', 'jazzy', 'kilted']
    told = setup_cfg()['metadata']['classifiers']
    assert jobs['test']['strategy']['matrix']['python'] == re.findall(r':: (3\.\d+)', told)


def test_workflows_hold_no_more_rights_than_they_need():
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text())
        assert workflow['permissions'] == {'contents': 'read'}
        for job in workflow['jobs'].values():
            assert job['timeout-minutes'] <= 120
        # `${{ ... }}` is pasted into the script: nothing that others write may stand in a run line.
        runs = ' '.join(step.get('run', '') for job in workflow['jobs'].values()
                        for step in job['steps'])
        assert '${{' not in runs


def test_each_action_is_pinned_by_its_major_version():
    used = [step['uses'] for *_, step in steps() if 'uses' in step]
    assert used and all(re.fullmatch(r'actions/[\w-]+@v\d+', action) for action in used)


def test_workflows_name_targets_and_files_that_there_are():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    asked = set()
    for *_, step in steps():
        script = step.get('run', '')
        for names in re.findall(r'\bmake ([\w -]+)$', script, re.MULTILINE):
            asked |= set(names.split())
        for file in re.findall(r'(?:docker|scripts|\.ci)/[\w.]+', script):
            assert (ROOT / file).is_file(), file
        for launch_file in re.findall(r'\w+\.launch\.py', script):
            assert (ROOT / 'launch' / launch_file).is_file()
        subprocess.run(['bash', '-n', '-c', script], check=True)
    assert {'wheels', 'docs'} <= asked <= targets


def test_the_matrix_installs_libraries_of_the_wheel():
    script = next(step['run'] for name, step in steps()
                  if name == 'colcon' and 'pip install' in step.get('run', ''))
    libraries = set(re.search(r"pip install 'numpy<2' (.+)", script)[1].split())
    assert libraries <= distributions() | {'onnx'}  # the tests make their bundles with onnx
