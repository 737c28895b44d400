# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Gives a release its number: `release.py 0.2.0`, or `release.py --check [--tag 0.2.0]`.

The version stands in package.xml, where the tools of ROS read and raise it. What pip reads, and the
changelog's head, cannot be derived from it: they are written here, and compared by the tests. Needs
nothing but Python, for the workflow runs it before anything is installed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

VERSION = r'\d+\.\d+\.\d+'
# File -> the text around each place that tells the version. The first file is the source.
PLACES = {
    'package.xml': r'<version>()</version>',
    'rgbx_seg_ros/__init__.py': r"^__version__ = '()'$",
    'rgbx_seg_train/rgbx_seg_train/__init__.py': r"^__version__ = '()'$",
    'rgbx_seg_train/pyproject.toml': r"^  'rgbx-seg-ros==()',$",
}
CHANGELOG = 'CHANGELOG.rst'
FORTHCOMING = 'Forthcoming'
# As catkin_pkg reads it: a version with its date, underlined.
SECTION = re.compile(rf'^({FORTHCOMING}|({VERSION}) \(\d{{4}}-\d\d-\d\d\))\n(-+)$', re.MULTILINE)


class Changes(NamedTuple):
    """What the headings of the changelog say."""

    forthcoming: bool  # there are changes of no release yet
    released: str | None  # the newest version with a date


def fail(sentence: str) -> None:
    """End with a sentence and code 1."""
    sys.exit(f'release: error: {sentence}')


def find(root: Path, name: str) -> re.Match[str]:
    """Return the one place of a file that tells the version: its group 1."""
    pattern = PLACES[name].replace('()', f'({VERSION})')
    found = list(re.finditer(pattern, (root / name).read_text(encoding='utf-8'), re.MULTILINE))
    if len(found) != 1:
        fail(f'{name} tells a version in {len(found)} places, expected one that matches {pattern}.')
    return found[0]


def changes(root: Path) -> Changes:
    """Return the state of the changelog; its sections must be in the order of their versions."""
    heads = list(SECTION.finditer((root / CHANGELOG).read_text(encoding='utf-8')))
    if not heads:
        fail(f'{CHANGELOG} has no section, expected one named {FORTHCOMING} or '
             '"1.2.3 (2026-01-31)".')
    for head in heads:
        if len(head[1]) != len(head[3]):
            fail(f'"{head[1]}" in {CHANGELOG} is underlined by {len(head[3])} characters, expected '
                 f'{len(head[1])}.')
    versions = [head[2] for head in heads if head[2]]
    if versions != sorted(set(versions), key=parts, reverse=True):
        fail(f'{CHANGELOG} has the versions {", ".join(versions)}, expected each once and the '
             'newest first.')
    return Changes(heads[0][1] == FORTHCOMING, versions[0] if versions else None)


def parts(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparisons."""
    return tuple(int(part) for part in version.split('.'))


def check(root: Path, tag: str | None = None) -> str:
    """Return the version that all places agree on; with a tag, of a release that is complete."""
    versions = {name: find(root, name)[1] for name in PLACES}
    version = versions['package.xml']
    for name, other in versions.items():
        if other != version:
            fail(f'{name} tells version {other}, expected {version} as in package.xml; '
                 'run `make release VERSION=...`.')
    state = changes(root)
    if state.released != version and (state.released or not state.forthcoming):
        fail(f'the newest release in {CHANGELOG} is {state.released}, expected {version} as in '
             'package.xml; run `make release VERSION=...`.')
    if tag is not None and (tag, state) != (version, Changes(False, version)):
        fail(f'the tag is {tag} and package.xml tells {version}, expected both equal and at the '
             f'head of {CHANGELOG}, with no section {FORTHCOMING}; run '
             f'`make release VERSION={tag}` and commit before tagging.')
    return version


def release(root: Path, version: str, date: str) -> None:
    """Write a version into all places, and give it the changes of no release yet."""
    state = changes(root)
    if not re.fullmatch(VERSION, version):
        fail(f'the version is "{version}", expected three numbers such as 0.2.0.')
    if not state.forthcoming:
        fail(f'{CHANGELOG} has no section {FORTHCOMING} at its head, expected the changes of '
             f'{version} there.')
    least = state.released or '0.0.0'
    if parts(version) <= parts(least):
        fail(f'{version} is not after {least}, the newest release in {CHANGELOG}.')
    texts = {}
    for name in PLACES:
        place = find(root, name)
        texts[name] = place.string[:place.start(1)] + version + place.string[place.end(1):]
    heading = f'{version} ({date})'
    texts[CHANGELOG] = SECTION.sub(f'{heading}\n{"-" * len(heading)}',
                                   (root / CHANGELOG).read_text(encoding='utf-8'), count=1)
    for name, text in texts.items():  # nothing was written before everything was found
        fresh = root / f'{name}.new'
        fresh.write_text(text, encoding='utf-8')
        os.replace(fresh, root / name)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0])
    parser.add_argument('version', nargs='?', help='three numbers: writes them everywhere')
    parser.add_argument('--date', type=datetime.date.fromisoformat, metavar='YYYY-MM-DD',
                        default=datetime.date.today(), help='of the release; default: today')
    parser.add_argument('--check', action='store_true', help='only compare all places')
    parser.add_argument('--tag', help='the tag that is to be released; with --check')
    parser.add_argument('--root', type=Path, default=Path(__file__).resolve().parents[1],
                        help='folder of the repository')
    args = parser.parse_args()
    if args.check == bool(args.version):
        fail('nothing to do or two things at once, expected either a version or --check.')
    if args.check:
        print(check(args.root, args.tag))
        return
    release(args.root, args.version, args.date.isoformat())
    check(args.root, args.version)
    print(f'release: all files tell {args.version}. Look at `git diff`, then:\n'
          f'  git commit -am "Release {args.version}" && git tag {args.version}')


if __name__ == '__main__':
    main()
