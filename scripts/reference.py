# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters, topics and commands as this project declares them, as Markdown for the documentation.

What a default, a range, a type or an option is comes from the declarations; the reason of a
parameter is the comment above it in config/segment.yaml.
"""

from __future__ import annotations

import argparse
import configparser
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ('<!-- Made by scripts/make_docs.py from {}; change that, then run `make docs`. -->\n')
KEY = re.compile(r'(?P<indent> *)(?P<name>[a-z_]+):(?P<value> .*)?$')
# Subcommands of the commands that hand their arguments on.
SUBCOMMANDS = {'rgbx_benchmark': ('sync', 'node', 'engine')}
WIDTH = 96  # columns of a help text


class Found(Exception):
    """Raised with a parser where it was about to parse."""


def reasons(path: Path = ROOT / 'config' / 'segment.yaml') -> dict[str, str]:
    """Return the comment above each parameter of a file of parameters, by the parameter's name.

    A parameter directly below another one, without a comment of its own, shares that one's.
    """
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    comment: list[str] = []
    last = ''
    for line in path.read_text().splitlines():
        text = line.strip()
        if text.startswith('#'):
            comment.append(text.lstrip('# '))
            continue
        key = KEY.match(line)
        if key is None:
            comment, last = [], ''
            continue
        indent = len(key['indent'])
        parents = [(depth, name) for depth, name in parents if depth < indent]
        if not (key['value'] or '').strip():
            parents.append((indent, key['name']))
            last = ''  # what stands above a section is not said of its first parameter
        else:
            name = '.'.join([name for _, name in parents if name != 'ros__parameters']
                            + [key['name']])
            found[name] = last = ' '.join(comment) or last
        comment = []
    return found


def parameters_page() -> str:
    """Return the page of all parameters."""
    from rgbx_seg_ros.parameters import NODE_WIDE, PARAMETERS, Parameter

    words = reasons()
    groups: dict[str, list[Parameter]] = {}
    for parameter in PARAMETERS:
        group, dot, _ = parameter.name.partition('.')
        groups.setdefault(group if dot else 'node', []).append(parameter)
    alone = [name for name, members in groups.items() if len(members) == 1]
    sections = {name: members for name, members in groups.items() if name not in alone}
    sections['others'] = [groups[name][0] for name in alone]
    lines = [GENERATED.format('rgbx_seg_ros/parameters.py and config/segment.yaml'),
             '# Parameters of the node', '', PARAMETERS_TEXT.format(
                 _list(name for name in NODE_WIDE),
                 _list(parameter.name for parameter in PARAMETERS if not parameter.read_only))]
    for section, members in sections.items():
        lines += [f'## {section}', '', '| parameter | default | values | what it is, and why |',
                  '|---|---|---|---|']
        lines += [f'| `{parameter.name}` | `{_shown(parameter.default)}` | {_values(parameter)} | '
                  f'{_cell(words.get(parameter.name) or parameter.description)} |'
                  for parameter in members]
        lines.append('')
    return '\n'.join(lines)


def _list(names: Iterable[str]) -> str:
    *most, last = (f'`{name}`' for name in names)
    return f'{", ".join(most)} and {last}'


PARAMETERS_TEXT = """\
Give a copy of `config/segment.yaml` to the launch file as `params_file:=…`; what is left out keeps
its default. `ros2 param describe /segment NAME` tells the same as this page. A name or a value that
does not exist is refused with one sentence.

While the node runs, {1} may change. All others are fixed while it is configured: deactivate and
clean it up first, or restart it.

With `pairs: [front, rear]`, a parameter may be given for one camera pair alone, its name in front:
`front.registration.file`. {0} are one for all camera pairs.
"""


def _shown(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else (
        repr(default) if isinstance(default, (str, list)) and not default else str(default))


def _values(parameter: Any) -> str:
    if parameter.choices:
        return ', '.join(f'`{choice}`' for choice in parameter.choices)
    if parameter.low is not None:
        return f'{parameter.low:g} to {parameter.high:g}'
    if pattern := parameter.pattern:
        return _cell(pattern[1])
    default = parameter.default
    return {bool: '`true`, `false`', list: 'names'}.get(type(default), 'text')


def _cell(text: str) -> str:
    """Return a text as one cell of a table, names of documentation pages as links."""
    text = re.sub(r'docs/([a-z_/]+\.md)', r'[\1](\1)', text)
    return re.sub(r'(?<![`\w])(~/[a-z_/]+)', r'`\1`', text).replace('|', '\\|').replace('<', '&lt;')


def entry_points() -> dict[str, str]:
    """Return command -> module:function of both packages."""
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    text = config['options.entry_points']['console_scripts']
    scripts = re.search(r'\[project.scripts\]\n(.*?)\n\n',
                        (ROOT / 'rgbx_seg_train' / 'pyproject.toml').read_text(), re.DOTALL)
    text += '\n' + (scripts[1].replace("'", '') if scripts else '')
    return dict(tuple(line.split(' = ')) for line in text.splitlines() if line)  # type: ignore[misc]


def parser_of(target: str, program: str,
              arguments: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """Return the parser of `module:function`, which is run up to where it parses."""
    module, _, function = target.partition(':')
    run = getattr(importlib.import_module(module), function)

    def stop(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise Found(parser)

    with mock.patch.object(argparse.ArgumentParser, 'parse_known_args', stop), \
            mock.patch.object(argparse.ArgumentParser, 'parse_known_intermixed_args', stop), \
            mock.patch.object(sys, 'argv', [program, *arguments]):
        try:
            run()
        except Found as found:
            parser: argparse.ArgumentParser = found.args[0]
            return parser
    raise LookupError(f'{target} parses nothing')


def commands() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield each command, with its subcommand if it has any, and its parser."""
    for command, target in entry_points().items():
        if command == 'segment_node':
            continue  # takes ROS arguments
        for sub in SUBCOMMANDS.get(command, ('',)):
            yield f'{command} {sub}'.strip(), parser_of(target, command, (sub,) if sub else ())


def commands_page() -> str:
    """Return the page of all commands, each as its --help."""
    training = [name for name, target in entry_points().items()
                if target.startswith('rgbx_seg_train.')]
    lines = [GENERATED.format("the commands' own parsers"), '# Commands', '',
             COMMANDS_TEXT.format(', '.join(f'`{name}`' for name in training))]
    for command, parser in commands():
        with mock.patch.dict('os.environ', {'COLUMNS': str(WIDTH), 'NO_COLOR': '1'}):
            text = parser.format_help().strip()
        lines += [f'## {command}', '', '```text', text, '```', '']
    return '\n'.join(lines)


COMMANDS_TEXT = """\
Each answers `--help` with what stands here. All end with 0, or with one sentence that says what was
found, what was expected and what to do, and 1. {} come with `rgbx_seg_train`,
the others with the robot's runtime; those are `ros2 run rgbx_seg COMMAND` as well.
"""
