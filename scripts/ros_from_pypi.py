# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Makes the ROS 2 wheels of PyPI fit to build messages with, in the environment that runs this.

The wheels' exported CMake targets name the Python headers and the NumPy headers of the machine
that built them. This rewrites both to where this environment has them, and nothing else.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

BUILD_MACHINE = r'/opt/python/cp3\d+-cp3\d+'
HEADERS = {
    BUILD_MACHINE + r'/include/python3\.\d+': sysconfig.get_paths()['include'],
    BUILD_MACHINE + r'/lib/python3\.\d+/site-packages/numpy/_?core/include': numpy.get_include(),
}


def mend(text: str) -> str:
    """Return a CMake file's text with the build machine's header folders replaced by ours."""
    for pattern, folder in HEADERS.items():
        text = re.sub(pattern, lambda _, folder=folder: folder, text)
    return text


def main() -> int:
    """Mend every CMake file under share/ of this environment; running it again changes nothing."""
    files = sorted((Path(sys.prefix) / 'share').rglob('*.cmake'))
    mended = 0
    for path in files:
        before = path.read_text(encoding='utf-8')
        after = mend(before)
        if after != before:
            path.write_text(after, encoding='utf-8')
            mended += 1
    print(f'ros_from_pypi: mended {mended} of {len(files)} CMake files')
    return 0


if __name__ == '__main__':
    sys.exit(main())
