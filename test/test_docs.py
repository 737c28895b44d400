# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation tells the truth: links, commands, parameters, topics, pages from the code."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')
pytest.importorskip('rgbx_seg_train', reason='rgbx_seg_train is not installed; run `make test`')

import doc_checks
import doc_commands
from doc_checks import ROOT, pages

import interfaces  # isort: skip  # of scripts/, which doc_commands puts on the path
import make_docs  # isort: skip

OF_EVERY_NODE = ('/rosout', '/parameter_events', '/clock', '/segment/transition_event')
PAGES = [str(page.relative_to(ROOT)) for page in pages()]


def checked(check, page):
    path = ROOT / page
    arguments = (path, path.read_text()) if check is doc_checks.link_complaints else (
        path.read_text(),)
    return list(check(*arguments))


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    assert checked(doc_checks.link_complaints, page) == []


@pytest.mark.parametrize('page', PAGES)
def test_commands_and_options_exist(page):
    assert checked(doc_commands.command_complaints, page) == []


@pytest.mark.parametrize('page', PAGES)
def test_parameters_exist_and_take_the_values(page):
    assert checked(doc_checks.parameter_complaints, page) == []


@pytest.mark.parametrize('page', PAGES)
def test_topics_exist(page):
    assert checked(doc_commands.topic_complaints, page) == []


@pytest.mark.parametrize('text', ['`~/maks`', '```\nros2 topic hz /segment/maks\n```'])
def test_a_wrong_topic_is_complained_of(text):
    assert list(doc_commands.topic_complaints(text))


@pytest.mark.parametrize('line', [
    'rgbx_make_bag DIR OUT --compresed', 'rgbx_register BAG', 'rgbx_nothing', 'make evrything',
    'rgbx_benchmark engine BUNDLE --backend openvino', 'rgbx_make_bag DIR OUT --storage rosbag',
    'make demo BUNDEL=x', 'rgbx_register sample/bags --out x.yaml',
    'ros2 launch rgbx_seg segment.launch.py bundel:=x', 'ros2 launch rgbx_seg other.launch.py',
    'ros2 launch rgbx_seg replay.launch.py loop:=yes', 'ros2 run rgbx_seg segment',
    'ros2 run rgbx_seg segment_node --ros-args -p sync.max_screw:=0.1',
    'ros2 param set /segment overlay.alpha 2.0', 'python benchmarks/nothing.py',
    'python -m benchmarks.nothing', 'source x && rgbx_register --pear x --out y',
    'rgbx_train CONFIG.yaml train.stepps=3', 'rgbx_train a.yaml data.test.0.cuont=1',
])
def test_a_wrong_command_is_complained_of(line):
    assert list(doc_commands.command_complaints(f'# A\n\n```\n{line}    # why\n```\n'))


@pytest.mark.parametrize('words', [
    'rgbx_register --pear', 'rgbx_nothing --help', 'make evrything', 'rgbx_train train.stepps=3'])
def test_a_wrong_option_in_a_sentence_is_complained_of(words):
    assert list(doc_commands.command_complaints(f'Say `{words}`.'))


@pytest.mark.parametrize('text', [
    '```yaml\nsync.max_skeww: 0.1\n```', '```yaml\nsync.max_skew: -1.0\n```',
    '```yaml\n/**:\n  ros__parameters:\n    sync: {polcy: nearest}\n```', 'See `sync.max_skeww`.',
    'See `overlay.alfa: 0.5`.', '```yaml\naux.camera: leptom\n```',
    '```yaml\nbase: segrgbx_tiny_synthetic.yaml\ntrain: {stepps: 3}\n```',
])
def test_a_wrong_parameter_is_complained_of(text):
    assert list(doc_checks.parameter_complaints(text))


@pytest.mark.parametrize('link', ['nothing.md', 'sync.md#nothing', '../README.md', '#nowhere'])
def test_a_wrong_link_is_complained_of(link):
    assert list(doc_checks.link_complaints(ROOT / 'docs' / 'index.md', f'# A\n\n[x]({link})\n'))


def test_pages_made_from_the_code_are_up_to_date():
    stale = [str(path.relative_to(ROOT)) for path, text in make_docs.files().items()
             if make_docs.out_of_date(path, text)]
    assert stale == [], f'{", ".join(stale)}: out of date; run `make docs`'


def test_every_parameter_has_a_reason_in_the_file_of_parameters():
    from reference import reasons

    from rgbx_seg_ros.parameters import PARAMETERS
    words = reasons()
    assert words.keys() == {parameter.name for parameter in PARAMETERS}
    assert [name for name, reason in words.items() if not reason] == []


def test_topics_page_tells_what_a_node_has(tmp_path):
    import rclpy
    from bundles import write_tiny_bundle
    from rclpy.parameter import Parameter
    from robot import free_domain

    from rgbx_seg_ros.node import SegmentNode
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=free_domain())
    given = {'bundle': str(write_tiny_bundle(tmp_path / 'bundle')), 'backend': 'dummy',
             'autostart': False, 'score.labels': True}
    node = SegmentNode(context=context, parameter_overrides=[
        Parameter(name, value=value) for name, value in given.items()])
    try:
        node.trigger_configure()
        node.trigger_activate()
        published, heard = ends(node.publishers), ends(node.subscriptions)
        node.trigger_deactivate()
        node.trigger_cleanup()
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
    told = {topic.name.replace('~', '/segment'): topic[1:3] for topic in interfaces.outputs()}
    if not importlib.util.find_spec('vision_msgs'):
        del told['/segment/label_info']
    assert told == published
    inputs = {'/' + topic.name.replace('<modality>', 'thermal').lstrip('/'): topic[1:3]
              for topic in interfaces.inputs()}
    assert heard and heard.items() <= inputs.items()


def ends(found):
    """Return type and QoS of a node's publishers or subscriptions, by topic."""
    return {end.topic_name: (interfaces.type_name(end.msg_type), interfaces.qos(end.qos_profile))
            for end in found if end.topic_name not in OF_EVERY_NODE}


def navigation(entry):
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in navigation(value)]


def test_each_page_is_once_in_the_navigation():
    nav = navigation(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'])
    there = [str(page.relative_to(ROOT / 'docs')) for page in (ROOT / 'docs').rglob('*.md')]
    assert sorted(nav) == sorted(there)


def test_readme_is_one_screen():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 60


def test_the_site_builds_without_a_warning_and_needs_no_other_host(tmp_path):
    if not importlib.util.find_spec('mkdocs'):
        pytest.skip('mkdocs is not installed: run make docs')
    done = subprocess.run(
        [Path(sys.executable).parent / 'mkdocs', 'build', '--strict', '--site-dir', tmp_path],
        cwd=ROOT, env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    html = [page.read_text() for page in tmp_path.rglob('*.html')]
    loaded = {tag for page in html for tag in re.findall(
        r'<(?:script|link|img|iframe)[^>]*(?:src|href)="?(?:https?:)?//[^>]*>', page)}
    assert loaded == set()
    styles = ''.join(page.read_text() for page in tmp_path.rglob('*.css'))
    assert not re.search(r'@import|url\(["\']?(?:https?:)?//', styles)
