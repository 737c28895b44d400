# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The node's topics, launch arguments and messages as a page of the documentation.

Types, QoS and the fields of messages come from the code; what a topic is for stands here. A test
compares both with a node that runs. Imports ROS messages: it runs where ROS is sourced.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from reference import GENERATED, ROOT

WORDS = {
    'mask': 'class id per pixel at the size of the RGB camera; 255 = unlabeled',
    'confidence': '0..255 = probability of the chosen class',
    'camera_info': 'that of RGB, with the header of the mask',
    'overlay': 'RGB with the classes painted over it, by `overlay.alpha`',
    'color_mask': 'the mask in the colors of the bundle, for eyes only',
    'aux_preview': 'aux as the network gets it; with registration on the RGB grid, at the '
                   "network's size",
    'points': 'x, y, z, label, confidence of each pixel of the mask, in its order; needs depth and '
              '`rgb/camera_info`',
    'stats': 'state, skew, times and counts of each pair',
    'info': 'what runs: model, engine, classes; latched',
    'label_info': 'class names by id, and `confidence.threshold`; latched; only where '
                  '`vision_msgs` is installed',
}
ENCODINGS = {'mask': 'mono8', 'confidence': 'mono8', 'overlay': 'rgb8', 'color_mask': 'rgb8',
             'aux_preview': 'mono8'}


class Topic(NamedTuple):
    """A topic of the node: its name, its type as `package/Name`, its QoS, and what it is for."""

    name: str
    kind: str
    qos: str
    words: str


def inputs() -> list[Topic]:
    """Return what the node subscribes to; `<modality>` is that of the bundle."""
    from sensor_msgs.msg import CameraInfo, Image

    from rgbx_seg_ros import camera_pair, messages, static_transforms

    sensor = qos(camera_pair.SENSOR)
    found = []
    for camera, transport in (('rgb', 'rgb'), ('<modality>', 'aux')):
        for name, (kind, suffix) in messages.INPUTS.items():
            found.append(Topic(f'{camera}/image_raw{suffix}', type_name(kind), sensor,
                               f'with `{transport}.transport: {name}`'))
    for camera in ('rgb', '<modality>'):
        found.append(Topic(f'{camera}/camera_info', type_name(CameraInfo), sensor, {
            'rgb': 'for `registration.mode` `calibrated` and `depth`, for `~/points`, and passed '
                   'on as `~/camera_info`'}.get(camera, 'for `registration.mode` `calibrated` and '
                                                        '`depth`')))
    found.append(Topic(camera_pair.DEPTH_TOPIC, type_name(Image), sensor, '16UC1 (mm) or 32FC1 (m) '
                       'on the RGB grid; subscribed only for `registration.mode: depth` and while '
                       'someone listens to `~/points`'))
    for name, (kind, suffix) in messages.INPUTS.items():
        found.append(Topic(f'label/image_raw{suffix}', type_name(kind), sensor, 'true class ids, '
                           f'with `score.labels` and `score.transport: {name}`'))
    found.append(Topic(static_transforms.TOPIC, 'tf2_msgs/TFMessage', qos(static_transforms.QOS),
                       'only where `registration.mode` needs extrinsics and `registration.file` '
                       'has none'))
    return found


def outputs() -> list[Topic]:
    """Return what the node publishes, below ~/ unless the name is absolute."""
    from rgbx_seg.msg import SegmentationInfo, SegmentationStats

    from rgbx_seg_ros import camera_pair, messages

    kinds = {name: kind for name, (kind, _) in messages.OUTPUTS.items()}
    kinds |= {'stats': SegmentationStats, 'info': SegmentationInfo}
    names = {name: type_name(kind) for name, kind in kinds.items()}
    names['label_info'] = 'vision_msgs/LabelInfo'
    found = [Topic(f'~/{name}', kind, qos(camera_pair.LATCHED if name in messages.LATCHED
                                          else camera_pair.RESULT), WORDS[name])
             for name, kind in names.items()]
    return [*found, Topic('/diagnostics', 'diagnostic_msgs/DiagnosticArray',
                          'reliable, volatile, depth 10',
                          'each second: see [diagnostics](diagnostics.md)')]


def qos(profile: Any) -> str:
    """Return a profile in words."""
    return ', '.join((profile.reliability.name.lower().replace('_', ' '),
                      profile.durability.name.lower().replace('_', ' '), f'depth {profile.depth}'))


def type_name(kind: Any) -> str:
    """Return a message's type as `package/Name`."""
    return f'{kind.__module__.partition(".")[0]}/{kind.__name__}'


def launch_arguments(name: str) -> list[Any]:
    """Return the arguments that a launch file declares: name, default, description, choices.

    The `launch` of a ROS installation is not needed; a recording stand-in takes its place.
    """
    class Recorded:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.name = args[0] if args else ''
            self.__dict__ |= {'default_value': None, 'description': '', 'choices': (), **kwargs}

        def __getattr__(self, _: str) -> Any:
            return lambda *args, **kwargs: ''

    class Module(types.ModuleType):
        __path__: list[str] = []

        def __getattr__(self, name: str) -> Any:
            return Recorded

    stand_ins = {module: Module(module) for module in (
        'launch', 'launch.actions', 'launch.conditions', 'launch.event_handlers', 'launch.events',
        'launch.launch_description_sources', 'launch.substitutions', 'launch_ros',
        'launch_ros.actions', 'launch_ros.parameter_descriptions', 'ament_index_python',
        'ament_index_python.packages')}
    stand_ins['ament_index_python.packages'].get_package_share_directory = (  # type: ignore[attr-defined]
        lambda package: 'SHARE')
    spec = importlib.util.spec_from_file_location('launch_file', ROOT / 'launch' / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, stand_ins):
        spec.loader.exec_module(module)
    return [argument for argument in module.ARGUMENTS if argument.name]


def _table(heading: str, topics: list[Topic]) -> list[str]:
    return [f'## {heading}', '', '| topic | type | what for | QoS |', '|---|---|---|---|',
            *(f'| `{topic.name}` | `{topic.kind}`{_encoding(topic)} | {topic.words} | {topic.qos} |'
              for topic in topics), '']


def _encoding(topic: Topic) -> str:
    encoding = ENCODINGS.get(topic.name.removeprefix('~/'))
    return f' {encoding}' if encoding else ''


def _message(path: Path) -> list[str]:
    """Return a message's definition without the header of the file."""
    text = re.sub(r'\A(# (Copyright|SPDX).*\n)+(#\n)?', '', path.read_text())
    return [f'## rgbx_seg/{path.stem}', '', '```text', text.strip(), '```', '']


def _launch(name: str) -> list[str]:
    lines = [f'## {name}', '', '| argument | default | values | |', '|---|---|---|---|']
    for argument in launch_arguments(name):
        default = str(argument.default_value).replace('SHARE/', '')
        choices = ', '.join(f'`{choice}`' for choice in argument.choices or () if choice)
        lines.append(f'| `{argument.name}` | {f"`{default}`" if default else ""} | {choices} | '
                     f'{argument.description.replace("|", chr(92) + "|")} |')
    return [*lines, '']


def topics_page() -> str:
    """Return the page of topics, services, messages and launch arguments."""
    lines = [GENERATED.format('the code, msg/ and launch/'), '# Topics, messages, launch files', '',
             TOPICS_TEXT, *_table('Inputs', inputs()), *_table('Outputs', outputs()), SERVICES]
    for path in sorted((ROOT / 'msg').glob('*.msg')):
        lines += _message(path)
    for path in sorted((ROOT / 'launch').glob('*.launch.py'), reverse=True):
        lines += _launch(path.name)
    return '\n'.join(lines)


TOPICS_TEXT = """\
Names are relative to the namespace, `~/` is the node's own name: `/segment/mask` by default. With
`pairs: [front, rear]` two camera pairs share one engine, and each name has that of its pair in it:
`front/rgb/image_raw`, `~/front/mask`. `<modality>` is that of the bundle, such as `thermal`.

Each output carries the header of its RGB frame, bit for bit (`~/aux_preview` that of the aux frame,
unless it is registered). Nothing is computed that nobody listens to.
"""
SERVICES = """\
## Services

`~/enable` (`std_srvs/SetBool`) stops and resumes the masks with everything loaded; besides those of
every lifecycle node (`~/change_state`, `~/get_state`, …) and of parameters.
"""
