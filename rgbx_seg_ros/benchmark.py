# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""`rgbx_benchmark WHAT ...`: one command for all measurements, each imported at its use."""

from __future__ import annotations

import sys

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.cli import run_command


def _sync(args: list[str]) -> int:
    from rgbx_seg_ros.benchmark_sync import main
    return main(args)


def _node(args: list[str]) -> int:
    from rgbx_seg_ros.benchmark_node import main
    return main(args)


def _engine(args: list[str]) -> int:
    from rgbx_seg_ros.benchmark_engine import main
    return main(args)


BENCHMARKS = {'sync': _sync, 'node': _node, 'engine': _engine}
HELP = """usage: rgbx_benchmark {sync,node,engine} ...

  sync    replay the stamps and arrivals of two cameras through a pairing policy
  node    run the node on generated images and time it
  engine  run a bundle by every backend and precision of this machine and time them

`rgbx_benchmark WHAT --help` tells the rest."""


def _refuse(args: list[str]) -> None:
    if args and args[0] in ('-h', '--help'):
        print(HELP)
        return
    raise RgbxSegError(f'found {args[0] if args else "no benchmark"}, expected one of '
                       f'{", ".join(BENCHMARKS)}; `rgbx_benchmark --help` lists them.')


def main() -> int:
    """Entry point of `rgbx_benchmark`."""
    args = sys.argv[1:]
    if args and args[0] in BENCHMARKS:
        return BENCHMARKS[args[0]](args[1:])
    return run_command(lambda: _refuse(args))


if __name__ == '__main__':
    raise SystemExit(main())
