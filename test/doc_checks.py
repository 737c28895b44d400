# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What a page says of links and parameters, held to the truth; `doc_commands` does so for commands.

Each function returns complaints, one sentence each, so that tests can also show that it complains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import yaml

from rgbx_seg_ros import RgbxSegError, parameters

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {p.name.partition('.')[0] for p in parameters.PARAMETERS if '.' in p.name}
FILES = ('.md', '.onnx', '.engine', '.yaml', '.py', '.mp4', '.safetensors', '.json', '.png')


class Block(NamedTuple):
    """A fenced block of a page: its language, and its text."""

    language: str
    text: str


def pages() -> list[Path]:
    """Return the pages that are checked."""
    alone = ('README.md', 'docker/README.md', 'rgbx_seg_train/README.md', 'sample/README.md')
    return [*(ROOT / name for name in alone), *sorted((ROOT / 'docs').rglob('*.md'))]


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(language.split()[0] if language.split() else '', body)
            for language, body in re.findall(r'^ *```([^\n]*)\n(.*?)^ *```', text, re.M | re.S)]


def prose(text: str) -> str:
    """Return a page without its fenced and indented blocks."""
    return re.sub(r'^ *```.*?^ *```|^ {4}.*?$', '', text, flags=re.M | re.S)


def link_complaints(page: Path, text: str) -> Iterator[str]:
    """Yield what is wrong with the relative links of a page."""
    for target in re.findall(r'\]\(([^()\s]+)\)', re.sub(r'`[^`\n]*`', '', prose(text))):
        if re.match(r'[a-z]+:', target):
            continue
        name, _, anchor = target.partition('#')
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield f'{page.name}: the link {target} leads nowhere.'
        elif anchor and anchor not in anchors(file.read_text()):
            yield f'{page.name}: {target} names no heading of {file.name}.'
        elif ROOT / 'docs' in page.parents and ROOT / 'docs' not in file.parents:
            yield f'{page.name}: {target} lies outside of docs/, so the site cannot have it.'


def anchors(text: str) -> set[str]:
    """Return the anchors that both mkdocs and GitHub give the headings of a page."""
    headings = re.findall(r'^#+ +(.*?) *#*$', prose(text), re.M)
    plain = [re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).replace('`', '').lower()
             for heading in headings]
    mkdocs = {re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', heading).strip()) for heading in plain}
    return mkdocs & {re.sub(r'[^\w\s-]', '', heading).replace(' ', '-') for heading in plain}


def parameter_complaints(text: str) -> Iterator[str]:
    """Yield parameters in YAML blocks and in backticks that the node does not have."""
    for block in blocks(text):
        if block.language == 'yaml' and block.text.startswith('base:'):
            yield from training_complaints(block.text)
        elif block.language == 'yaml':
            yield from yaml_complaints(block.text)
    for word in re.findall(r'`([a-z_]+\.[a-z_]+)(?:: [^`]*)?`', prose(text)):
        group = word.partition('.')[0]
        if group in GROUPS and not word.endswith(FILES) and word not in dict(known()):
            yield f'there is no parameter {word}.'


def training_complaints(text: str) -> Iterator[str]:
    """Yield what is wrong with a configuration of a training, which lies beside the others."""
    from rgbx_seg_train.config_file import load_config
    folder = ROOT / 'rgbx_seg_train' / 'configs'
    with NamedTemporaryFile('w', suffix='.yaml') as file:
        file.write(text.replace('base: ', f'base: {folder}/', 1))
        file.flush()
        try:
            load_config(Path(file.name))
        except RgbxSegError as error:
            yield str(error)


def yaml_complaints(text: str) -> Iterator[str]:
    """Yield what is wrong with parameters of the node in a block of YAML.

    A block is taken for such if a key has a dot, or if it is for the node segment.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f'this is no YAML: {error}'
        return
    if not isinstance(data, dict):
        return
    of_node = data.get('segment') or data.get('/**')
    if isinstance(of_node, dict):
        data = of_node.get('ros__parameters', {})
    elif not any('.' in str(key) for key in data):
        return
    for key, value in data.items():
        for name, leaf in flat(str(key), value):
            yield from value_complaints(name, leaf)


def flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings by their dotted names."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(f'{name}.{key}', item)
    else:
        yield name, value


def value_complaints(name: str, value: Any) -> Iterator[str]:
    """Yield why the node would refuse a parameter; words in capitals stand for any value."""
    if name == 'use_sim_time' and isinstance(value, bool):  # which every node has
        return
    try:
        if isinstance(value, str) and (value.isupper() or not value):
            parameters.check(name, dict(known())[name])
        else:
            parameters.check(name, value)
    except (RgbxSegError, KeyError) as error:
        yield f'parameter {name}: {error}'


def known() -> Iterator[tuple[str, Any]]:
    """Yield the name and default of each parameter."""
    yield from ((p.name, p.default) for p in parameters.PARAMETERS)
