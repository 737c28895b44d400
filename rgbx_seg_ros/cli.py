# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How every command of this project ends: 0, or one sentence and 1."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from rgbx_seg_ros import RgbxSegError


def run_command(main: Callable[[], None]) -> int:
    """Run `main` and return its exit code; an RgbxSegError becomes one line on stderr and 1."""
    try:
        main()
    except RgbxSegError as error:
        print(f'{Path(sys.argv[0]).stem}: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rgbx_x | head` is no error of ours
        sys.stderr.close()
        return 0
    return 0
