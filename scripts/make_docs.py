# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`make docs`: writes the pages and pictures of the documentation that come from the code.

With --check nothing is written; the exit code is 1 if a file is not what it would be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from draw_sync import pictures
from interfaces import topics_page
from reference import ROOT, commands_page, parameters_page

PAGES: Mapping[str, Callable[[], str]] = {
    'docs/parameters.md': parameters_page,
    'docs/topics.md': topics_page,
    'docs/commands.md': commands_page,
}


def files() -> dict[Path, str]:
    """Return every file that is made, with what it should hold."""
    made = {ROOT / name: page() for name, page in PAGES.items()}
    return made | {ROOT / 'docs' / 'images' / name: text for name, text in pictures().items()}


def out_of_date(path: Path, text: str) -> bool:
    """Return whether a file holds something else; where lines break does not count.

    Versions of argparse break the lines of a help text in different places.
    """
    return not path.is_file() or path.read_text().split() != text.split()


def main() -> int:
    """Write what is out of date, or with --check only name it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--check', action='store_true', help='write nothing')
    check = parser.parse_args().check
    stale = {path: text for path, text in files().items() if out_of_date(path, text)}
    for path, text in stale.items():
        print(f'{path.relative_to(ROOT)}: {"out of date; run make docs" if check else "written"}')
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return int(check and bool(stale))


if __name__ == '__main__':
    sys.exit(main())
