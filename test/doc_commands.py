# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a page says of commands, options, launch arguments and files, held to the truth.

A command line in a block is parsed by the command's own parser. Words in capitals stand for what
the reader puts there. Each function yields complaints, one sentence each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml
from doc_checks import GROUPS, ROOT, blocks, prose, value_complaints

from rgbx_seg_ros import RgbxSegError

sys.path.insert(0, str(ROOT / 'scripts'))

from interfaces import launch_arguments, outputs  # noqa: E402
from reference import commands, entry_points, parser_of  # noqa: E402

PLACES = ('sample/', 'docs/', 'config/', 'launch/', 'benchmarks/', 'test/', 'scripts/', 'msg/',
          'requirements/', 'rgbx_seg_train/', 'rgbx_seg_ros/')
SERVICES = ('enable', 'change_state', 'get_state')
TRAINING = ('name', 'out', 'model', 'data', 'augment', 'loss', 'train', 'export')


def command_complaints(text: str) -> Iterator[str]:
    """Yield what is wrong with the commands in the blocks and the words in backticks of a page."""
    for block in blocks(text):
        if block.language in ('', 'bash', 'console', 'sh'):
            for line in logical_lines(block.text):
                yield from line_complaints(line)
    for line in re.findall(r'`((?:rgbx_|make |ros2 launch|ros2 run)[^`]+)`', prose(text)):
        words = line.split()
        if words[0].startswith('rgbx_'):
            yield from named_complaints(words)
        elif '…' not in line:
            yield from simple_complaints(words)


def named_complaints(words: list[str]) -> Iterator[str]:
    """Yield options that a command lacks, where a sentence names it without all it needs."""
    name = ' '.join(words[:2]) if ' '.join(words[:2]) in parsers() else words[0]
    options = [word.partition('=')[0] for word in words if word.startswith('--')]
    if name in parsers():
        parser = parsers()[name]
        there = {option for action in parser._actions for option in action.option_strings}
        yield from (f'{name} has no option {option}.' for option in options if option not in there)
    elif options or len(words) > 1 and re.fullmatch('rgbx_[a-z_]+', name):
        yield f'there is no command {name}.'
    for word in words:
        yield from training_complaints(word)


def topic_complaints(text: str) -> Iterator[str]:
    """Yield names below ~/ or /segment/ that are neither topic nor service of the node."""
    there = {topic.name.removeprefix('~/') for topic in outputs()} | set(SERVICES)
    named = re.findall(r'`~/([a-z_]+)`|/segment/([a-z_]+)(?![a-z_/])', text)
    yield from (f'the node has no ~/{name}.' for pair in named for name in pair
                if name and name not in there)


def logical_lines(text: str) -> list[str]:
    """Return the lines of a block, those that end with a backslash joined."""
    return [line.strip() for line in re.sub(r'\\\n\s*', ' ', text).splitlines() if line.strip()]


def line_complaints(line: str) -> Iterator[str]:
    """Yield what is wrong with one line of shell."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return  # output, not a command
    simple: list[str] = []
    for word in [*words, ';']:
        if word in ('&&', '||', '|', ';', '&', 'do', 'done', 'then') or word.endswith(';'):
            simple += [word.removesuffix(';')] if word not in ('&&', '||', ';') else []
            yield from simple_complaints([w for w in simple if w not in ('|', '&', 'do', 'done')])
            simple = []
        else:
            simple.append(word)


def simple_complaints(words: list[str]) -> Iterator[str]:
    """Yield what is wrong with one command of a line."""
    while words and re.fullmatch(r'[A-Za-z_]+=\S*', words[0]):
        words = words[1:]
    if not words:
        return
    for word in words:
        path = word.split('=')[-1].rstrip(',;')
        if path.startswith(PLACES) and not (ROOT / path).exists() and '*' not in path:
            yield f'"{" ".join(words)}": there is no {path}.'
    first = words[0]
    if first.startswith('rgbx_') and not first.endswith('/'):
        yield from own_complaints(words)
    elif first == 'make':
        yield from make_complaints(words[1:])
    elif words[:2] == ['ros2', 'launch'] and words[2] == 'rgbx_seg':
        yield from launch_complaints(words[3], words[4:])
    elif words[:2] == ['ros2', 'run'] and words[2] == 'rgbx_seg':
        if words[3].isupper():
            return
        if words[3] not in entry_points():
            yield f'there is no command {words[3]} to run.'
        elif words[3] != 'segment_node':
            yield from own_complaints(words[3:])
        yield from ros_argument_complaints(words)
    elif words[:3] == ['ros2', 'param', 'set']:
        yield from value_complaints(words[4], yaml.safe_load(words[5]))
    elif first == 'python' and len(words) > 1:
        yield from python_complaints(words)


@lru_cache
def parsers() -> dict[str, Any]:
    """Return the parser of each command, by its name and that of its subcommand."""
    return dict(commands())


def own_complaints(words: list[str]) -> Iterator[str]:
    """Yield why a command of this project would not take its arguments."""
    known = parsers()
    name = ' '.join(words[:2]) if ' '.join(words[:2]) in known else words[0]
    if name not in known:
        yield f'there is no command {name}.'
        return
    arguments = words[len(name.split()):]
    if '--help' in arguments or not arguments and len(words) == 1:
        return
    yield from parse_complaints(known[name], arguments)
    for word in arguments:
        yield from training_complaints(word)
        key, equals, value = word.partition('=')
        if name == 'rgbx_eval_bag' and equals and key.partition('.')[0] in GROUPS:
            yield from value_complaints(key, yaml.safe_load(value))


def parse_complaints(parser: Any, arguments: list[str]) -> Iterator[str]:
    """Yield why a parser refuses arguments; it really parses them."""
    parser.allow_abbrev = False  # what is written down should last
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parser.parse_args(arguments)
    except (RgbxSegError, SystemExit) as error:
        yield f'{parser.prog} {" ".join(arguments)}: {error}'


def training_complaints(word: str) -> Iterator[str]:
    """Yield that a word KEY=VALUE sets a key that a training configuration does not have."""
    from rgbx_seg_train.config import SOURCES, Config
    key, equals, _ = word.partition('=')
    if not equals or key.partition('.')[0] not in TRAINING:
        return
    node: Any = Config()
    for part in key.split('.'):
        if part.isdecimal():  # a source: any kind's keys
            node = {field.name: '' for kind in SOURCES.values()
                    for field in dataclasses.fields(kind)}
            continue
        names = node if isinstance(node, dict) else vars(node) if hasattr(node, '__dict__') else {}
        if part not in names:
            yield f'there is no key {key} in a training configuration.'
            return
        if key.startswith('model.options'):
            return  # fields of a preset
        node = names[part]


def make_complaints(words: list[str]) -> Iterator[str]:
    """Yield targets and variables that the Makefile lacks."""
    text = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z][a-z-]*):', text, re.M))
    for word in words:
        name, equals, _ = word.partition('=')
        if equals and not re.search(rf'^(?:[a-z]+: )?{name} *\??[:?]?=|\$[({{]{name}[)}}]|'
                                    rf'\$\(or \$\({name}\)', text, re.M):
            yield f'make has no variable {name}.'
        elif not equals and name not in targets:
            yield f'make has no target {name}.'


@lru_cache
def launch_files() -> dict[str, dict[str, Any]]:
    """Return the arguments of each launch file; those of the node's serve in all of them."""
    found = {path.name: {a.name: a for a in launch_arguments(path.name)}
             for path in (ROOT / 'launch').glob('*.launch.py')}
    common = found['segment.launch.py']
    return {name: common | own for name, own in found.items()}


def launch_complaints(file: str, words: list[str]) -> Iterator[str]:
    """Yield arguments that a launch file does not declare, and values that it refuses."""
    if file not in launch_files():
        yield f'there is no launch file {file}.'
        return
    for word in words:
        name, given, value = word.partition(':=')
        argument = launch_files()[file].get(name)
        if given and argument is None:
            yield f'{file} has no argument {name}.'
        elif given and argument.choices and value not in argument.choices:
            yield f'{file}: {name} is {value}, expected one of {", ".join(argument.choices)}.'


def ros_argument_complaints(words: list[str]) -> Iterator[str]:
    """Yield parameters of -p NAME:=VALUE that do not exist."""
    for flag, word in zip(words, words[1:], strict=False):
        if flag == '-p':
            name, _, value = word.partition(':=')
            yield from value_complaints(name, yaml.safe_load(value))


def python_complaints(words: list[str]) -> Iterator[str]:
    """Yield modules and scripts that do not exist, and arguments that they would refuse."""
    if words[1] != '-m':
        if words[1].startswith(PLACES) and not (ROOT / words[1]).is_file():
            yield f'there is no {words[1]}.'
        return
    module = words[2]
    place = ROOT / module.replace('.', '/')
    places = (place.with_suffix('.py'), place / '__main__.py', ROOT / 'rgbx_seg_train' /
              module.replace('.', '/') / '__init__.py',
              (ROOT / 'rgbx_seg_train' / module.replace('.', '/')).with_suffix('.py'))
    if module.partition('.')[0] in ('benchmarks', 'demo', 'rgbx_seg_train', 'rgbx_seg_ros'):
        if not any(p.exists() for p in places):
            yield f'there is no module {module}.'
        elif module == 'benchmarks.scene_every':
            yield from parse_complaints(parser_of(f'{module}:main', module), words[3:])
