# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How every command of this project ends: 0, or one sentence and 1."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rgbx_seg_ros import RgbxSegError


def run_command(main: Callable[[], None]) -> int:
    """Run `main` and return its exit code; an RgbxSegError becomes one line on stderr and 1."""
    try:
        main()
    except RgbxSegError as error:
        program = Path(sys.argv[0])
        name = program.parent.name if program.stem == '__main__' else program.stem
        print(f'{name}: error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rgbx_x | head` is no error of ours
        sys.stderr.close()
        return 0
    return 0


class Arguments(argparse.ArgumentParser):
    """An argument parser whose complaints are errors like all others: one sentence, exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as an RgbxSegError."""
        raise RgbxSegError(f'{message}; `{self.prog} --help` lists the arguments.')
