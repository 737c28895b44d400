# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A release: one version in all places, a changelog that ROS's tools read, wheels that suffice.

The wheels are built and installed into an environment that has nothing but what they say they need:
links to those distributions of this environment, so nothing is downloaded.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email import message_from_string
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
from packaging.requirements import Requirement

import rgbx_seg_ros

ROOT = Path(__file__).resolve().parents[1]
WHEEL_PARTS = ['setup.cfg', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'rgbx_seg_ros',
               'rgbx_seg_train']
VERSIONED = ['package.xml', 'CHANGELOG.rst', 'rgbx_seg_ros/__init__.py',
             'rgbx_seg_train/pyproject.toml', 'rgbx_seg_train/rgbx_seg_train/__init__.py']


# --- one version ----------------------------------------------------------------------------------

def release(*args, root=ROOT):
    return subprocess.run([sys.executable, ROOT / 'scripts/release.py', '--root', root, *args],
                          capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    for name in VERSIONED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_all_places_tell_the_version_of_the_runtime():
    done = release('--check')
    assert (done.stdout.strip(), done.stderr) == (rgbx_seg_ros.__version__, '')


def test_changelog_is_read_by_the_tools_of_ros(copy):
    changelog = pytest.importorskip('catkin_pkg.changelog', reason='comes with colcon')
    head = (copy / 'CHANGELOG.rst').read_text().partition('Forthcoming\n')[2]
    if head:  # they read changes only once they have a number
        assert release('99.0.0', '--date', '2099-01-31', root=copy).returncode == 0
    read = changelog.get_changelog_from_path(str(copy), 'rgbx_seg')
    assert read.package_name == 'rgbx_seg'
    versions = list(read.foreach_version())
    assert versions
    for version, date, changes in versions:
        assert date and [type(change).__name__ for change in changes] == ['BulletList'], version
    written = (copy / 'CHANGELOG.rst').read_text().count('\n* ')
    assert sum(len(changes[0].bullets) for *_, changes in versions) == written


def test_release_gives_one_number_to_all_places_and_to_the_changes(copy):
    with_changes(copy, released='0.1.0')
    done = release('0.2.0', '--date', '2027-01-31', root=copy)
    assert done.returncode == 0, done.stderr
    assert release('--check', '--tag', '0.2.0', root=copy).stdout == '0.2.0\n'
    heads = re.findall(r'^([\w.]+ ?.*)\n-+$', (copy / 'CHANGELOG.rst').read_text(), re.MULTILINE)
    assert heads == ['0.2.0 (2027-01-31)', '0.1.0 (2026-01-01)']
    assert '0.1.0' not in ''.join((copy / name).read_text() for name in VERSIONED[2:])
    again = release('0.3.0', root=copy)
    assert (again.returncode, 'has no section Forthcoming' in again.stderr) == (1, True)


def with_changes(copy, released=None):
    """Give a copy a changelog of changes without a number, after a release or after none."""
    text = '^^^\nTop\n^^^\n\nForthcoming\n-----------\n* New.\n'
    if released:
        head = f'{released} (2026-01-01)'
        text += f'\n{head}\n{"-" * len(head)}\n* Old.\n'
    (copy / 'CHANGELOG.rst').write_text(text)


@pytest.mark.parametrize(('file', 'old', 'new', 'sentence'), [
    ('package.xml', '<version>', '<version>9', 'expected 90.1.0 as in package.xml'),
    ('rgbx_seg_train/pyproject.toml', 'ros==', 'ros>=', 'tells a version in 0 places'),
    ('rgbx_seg_train/rgbx_seg_train/__init__.py', "'0.1", "'0.9", r'tells version 0.9.0'),
    ('CHANGELOG.rst', 'Forthcoming\n-----------', '0.0.1 (2026-01-01)\n------------------',
     'the newest release in CHANGELOG.rst is 0.0.1'),
    ('CHANGELOG.rst', 'Forthcoming\n-----------', 'Forthcoming\n---------', 'underlined by 9'),
    ('CHANGELOG.rst', 'Forthcoming', 'unreleased', 'has no section'),
])
def test_a_place_that_differs_is_told(copy, file, old, new, sentence):
    for name in VERSIONED:
        text = (copy / name).read_text().replace(rgbx_seg_ros.__version__, '0.1.0')
        (copy / name).write_text(text)
    with_changes(copy)
    text = (copy / file).read_text()
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new))
    done = release('--check', root=copy)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1)
    assert sentence in done.stderr


@pytest.mark.parametrize('version', ['0.1.0', '0.0.9', 'v0.2.0', '0.2'])
def test_a_version_that_is_no_next_one_is_refused_and_nothing_written(copy, version):
    with_changes(copy, released='0.1.0')
    before = {name: (copy / name).read_bytes() for name in VERSIONED}
    done = release(version, root=copy)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    assert {name: (copy / name).read_bytes() for name in VERSIONED} == before


def test_a_tag_needs_a_dated_head(copy):
    with_changes(copy)
    assert release('--check', root=copy).returncode == 0
    done = release('--check', '--tag', rgbx_seg_ros.__version__, root=copy)
    assert (done.returncode, 'with no section Forthcoming' in done.stderr) == (1, True)


# --- wheels ---------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Return a copy of all that wheels are made from, so that building leaves nothing here."""
    source = tmp_path_factory.mktemp('source')
    skip = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build', 'runs')
    for name in WHEEL_PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope='module')
def wheels(source, tmp_path_factory):
    """Build both wheels, each from its source archive; return {package: wheel}."""
    pytest.importorskip('build', reason='build is not installed: run make test')
    dist = tmp_path_factory.mktemp('dist')
    builds = [subprocess.Popen(
        [sys.executable, '-m', 'build', '--no-isolation', '--outdir', dist, source / package],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for package in ('.', 'rgbx_seg_train')]
    for build in builds:
        output, _ = build.communicate(timeout=120)
        assert build.returncode == 0, output[-2000:]
        assert 'SetuptoolsDeprecation' not in output
    return {path.name.split('-')[0]: path for path in dist.glob('*.whl')}


def wheel_metadata(wheel):
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith('.dist-info/METADATA'))
        return message_from_string(file.read(name).decode())


def test_wheels_are_complete(source, wheels):
    for package, folder in (('rgbx_seg_ros', source / 'rgbx_seg_ros'),
                            ('rgbx_seg_train', source / 'rgbx_seg_train/rgbx_seg_train')):
        names = zipfile.ZipFile(wheels[package]).namelist()
        ours = {f'{package}/{path.relative_to(folder)}' for path in folder.rglob('*')
                if path.is_file() and path.suffix != '.pyc'}
        assert ours == {name for name in names if name.startswith(f'{package}/')}
        assert [name for name in names if name.endswith('.dist-info/licenses/LICENSE')
                or name.endswith('.dist-info/LICENSE')]
        told = wheel_metadata(wheels[package])
        assert told['Version'] == rgbx_seg_ros.__version__
        assert 'Apache-2.0' in (told['License'] or told['License-Expression'])
        assert told['Requires-Python'] == '>=3.10'
        assert told['Summary'] and told['Author'] and told.get_all('Classifier')
        assert told['Description-Content-Type'] == 'text/markdown' and told.get_payload().strip()
    configs = {path.name for path in (ROOT / 'rgbx_seg_train/configs').rglob('*.yaml')}
    names = zipfile.ZipFile(wheels['rgbx_seg_train']).namelist()
    assert {Path(name).name for name in names if '/share/rgbx_seg_train/' in name} == configs


def test_the_extras_are_those_that_the_sentences_of_the_runtime_name(wheels):
    extras = set(wheel_metadata(wheels['rgbx_seg_ros']).get_all('Provides-Extra'))
    named = set()
    for path in (ROOT / 'rgbx_seg_ros').glob('*.py'):
        for list_ in re.findall(r'rgbx_seg_ros\[([\w,-]+)\]', path.read_text()):
            named |= set(list_.split(','))
    assert named <= extras
    assert extras >= {'tensorrt', 'onnx', 'openvino', 'train', 'opencv', 'all'}


def test_each_package_asks_for_the_other_of_its_own_version(wheels):
    asked = [Requirement(text) for text in wheel_metadata(wheels['rgbx_seg_train'])
             .get_all('Requires-Dist')]
    assert [str(each.specifier) for each in asked if each.name == 'rgbx-seg-ros'] == [
        f'=={rgbx_seg_ros.__version__}']


def closure(requirements):
    """Return the names of the distributions here that these requirements need, all the way down."""
    found, open_ = set(), [(requirement, '') for requirement in requirements]
    while open_:
        requirement, extra = open_.pop()
        if requirement.marker and not requirement.marker.evaluate({'extra': extra}):
            continue
        for wanted in {'', *requirement.extras}:
            if (requirement.name, wanted) in found:
                continue
            found.add((requirement.name, wanted))
            distribution = metadata.distribution(requirement.name)  # fails where it is missing
            open_ += [(Requirement(text), wanted) for text in distribution.requires or ()]
    return {name for name, _ in found}


def install(folder, wheel_list, names):
    """Make an environment of these wheels and of links to these distributions of ours."""
    venv.create(folder, with_pip=False)
    python = folder / 'bin/python'
    site = next((folder / 'lib').glob('python3.*')) / 'site-packages'
    for name in names:
        distribution = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or ()} - {'..'}:
            source = Path(distribution.locate_file(top))
            if source.exists() and not (site / top).exists() and top != '__pycache__':
                (site / top).symlink_to(source)
    # Without PYTHONPATH, by which pip would find the package installed already, by colcon.
    alone = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    subprocess.run([sys.executable, '-m', 'pip', '--disable-pip-version-check', '--python', python,
                    'install', '-qq', '--no-index', '--no-deps', *wheel_list], env=alone,
                   check=True)
    return folder / 'bin'


def requirements_of(wheel, *extras):
    """Return what a wheel requires with these extras."""
    texts = wheel_metadata(wheel).get_all('Requires-Dist')
    return [Requirement(text.partition(';')[0]) for text in texts if not Requirement(text).marker
            or any(Requirement(text).marker.evaluate({'extra': extra}) for extra in ('', *extras))]


@pytest.fixture(scope='module')
def runtime(wheels, tmp_path_factory):
    """Return the commands of an environment of the runtime alone, without ROS."""
    wheel = wheels['rgbx_seg_ros']
    needed = closure(requirements_of(wheel, 'opencv', 'onnx', 'eval'))
    return install(tmp_path_factory.mktemp('runtime'), [wheel], needed)


def run(command, *args, cwd):
    environment = {'PATH': '/usr/bin:/bin', 'HOME': str(cwd)}
    return subprocess.run([command, *args], cwd=cwd, env=environment, capture_output=True,
                          text=True, timeout=60)


def test_commands_answer_help_without_ros(runtime, tmp_path):
    commands = sorted(path for path in runtime.iterdir() if path.name.startswith('rgbx_'))
    assert len(commands) >= 4
    for command in commands:
        done = run(command, '--help', cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ''), (command, done.stderr)
        assert command.name in done.stdout


def test_a_bag_is_made_and_evaluated_outside_of_the_checkout(runtime, tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in (('rgb', (48, 64, 3)), ('thermal', (48, 64))):
        (tmp_path / 'pictures' / name).mkdir(parents=True)
        for number in range(3):
            picture = rng.integers(0, 256, shape, np.uint8)
            cv2.imwrite(str(tmp_path / 'pictures' / name / f'{number}.png'), picture)
    done = run(runtime / 'rgbx_make_bag', 'pictures', 'bag', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.copytree(ROOT / 'sample/bundle', tmp_path / 'bundle')
    done = run(runtime / 'rgbx_eval_bag', 'bag', '--bundle', 'bundle', '--backend', 'onnxruntime',
               '--out', 'report', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'report/report.json').read_text())
    assert [bag['pairs'] for bag in report['bags']] == [3]
    assert '<html' in (tmp_path / 'report/index.html').read_text()
    assert (tmp_path / 'report/bags/bag/overlay.mp4').stat().st_size > 0


@pytest.mark.parametrize(('command', 'sentence'), [
    (['segment_node'], 'segment_node: error: rclpy is missing, expected in a sourced ROS 2;'),
    (['rgbx_benchmark', 'node'], 'rgbx_benchmark: error: ROS 2 is missing'),
    (['rgbx_play_bag', 'BAG'], 'rgbx_play_bag: error: ROS 2 is not found'),
    (['rgbx_build_engine', 'BUNDLE', '--backend', 'tensorrt'],
     'rgbx_build_engine: error: TensorRT cannot be imported'),
])
def test_a_command_that_needs_more_says_so_in_a_sentence(runtime, command, sentence, tmp_path):
    places = {'BAG': ROOT / 'sample/bag', 'BUNDLE': ROOT / 'sample/bundle'}
    done = run(runtime / command[0], *(places.get(word, word) for word in command[1:]),
               cwd=tmp_path)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    assert done.stderr.startswith(sentence)


def test_a_command_without_opencv_says_so_in_a_sentence(runtime, tmp_path):
    shutil.copytree(runtime.parent, tmp_path / 'bare', symlinks=True)
    next((tmp_path / 'bare/lib').glob('python3.*/site-packages/cv2')).unlink()
    commands = tmp_path / 'bare/bin'
    done = run(commands / 'python', commands / 'rgbx_make_bag', '--help', cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        1, "rgbx_make_bag: error: OpenCV is missing, expected from `apt install python3-opencv` "
        "or, without ROS, from `pip install 'rgbx_seg_ros[opencv]'`.\n")


def test_commands_of_training_answer_help_beside_the_runtime(wheels, tmp_path):
    pytest.importorskip('torch', reason='training is not installed: run make test')
    ours = {'rgbx-seg-ros', 'rgbx_seg_ros'}
    train = [each for each in requirements_of(wheels['rgbx_seg_train']) if each.name not in ours]
    needed = closure(train) | closure(requirements_of(wheels['rgbx_seg_ros']))
    commands = install(tmp_path / 'all', list(wheels.values()), needed)
    names = sorted(path.name for path in commands.glob('rgbx_*'))
    program = """
import importlib.metadata, sys
from contextlib import redirect_stdout
from io import StringIO
for entry in importlib.metadata.distribution('rgbx-seg-train').entry_points:
    sys.argv = [entry.name, '--help']
    told = StringIO()
    try:
        with redirect_stdout(told):
            code = entry.load()()
    except SystemExit as end:
        code = end.code
    assert not code and entry.name in told.getvalue(), (entry, code, told.getvalue())
    print(entry.name)
"""
    done = run(commands / 'python', '-c', program, cwd=tmp_path)  # in one process: torch loads once
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) < set(names)
    assert (tmp_path / 'all/share/rgbx_seg_train/configs/segrgbx_tiny_synthetic.yaml').is_file()
