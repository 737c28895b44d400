# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""How every command of this project ends: 0, or one sentence and 1."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

from rgbx_seg_ros import RgbxSegError


def run_command(main: Callable[[], None]) -> int:
    """Run `main` and return its exit code; errors of the user become one line and 1.

    They are RgbxSegError, and OSError where nothing nearer to its cause has explained it.
    """
    try:
        main()
    except RgbxSegError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `rgbx_x | head` is no error of ours
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk, a folder that is not ours, a file where a folder is due
        place = error.filename2 or error.filename or 'a file'
        return _fail(f'{place}: {error.strerror or error}, expected a place that can be read and '
                     'written; check the path, its permissions and the free space.')
    return 0


def _fail(sentence: str) -> int:
    program = Path(sys.argv[0])
    name = program.parent.name if program.stem == '__main__' else program.stem
    print(f'{name}: error: {sentence}', file=sys.stderr)
    return 1


def start_unheard(process: BaseProcess) -> None:
    """Start a process of `multiprocessing` that never hears Ctrl+C, which is for this one.

    Until it could ignore that by itself, its interpreter would print where it was.
    """
    resource_tracker.ensure_running()  # else the start does that, which lets Ctrl+C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Arguments(argparse.ArgumentParser):
    """An argument parser whose complaints are errors like all others: one sentence, exit code 1."""

    def parse_args(  # type: ignore[override]
            self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse; unlike argparse, let key=value arguments follow an option."""
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as an RgbxSegError."""
        raise RgbxSegError(f'{message}; `{self.prog} --help` lists the arguments.')
