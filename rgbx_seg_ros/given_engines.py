# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that the user names: they are run or refused, never built and never changed.

A folder holds `model.engine`, for a bundle of two graphs `scene.engine` too, each with its sidecar
`<engine>.json`, as `rgbx_build_engine --out` writes them. For one graph the engine file itself may
be named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rgbx_seg_ros import RgbxSegError, engine_cache
from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import BackendUnavailable
from rgbx_seg_ros.tensorrt_target import dotted, driver_text

BUILD_AGAIN = 'build it again with `rgbx_build_engine`'
FREE = ('CUDA driver', 'compute capabilities')  # held against the GPU by a rule, not by equality


def files_of(place: Path, graphs: list[str]) -> dict[str, Path]:
    """Return the engine file of each graph in a folder, or of one graph the file itself."""
    if len(graphs) == 1 and not place.is_dir():
        return {graphs[0]: place}
    if not place.is_dir():
        raise RgbxSegError(f'{place} is no folder; expected one with '
                           f'{" and ".join(engine_name(name) for name in graphs)}, since the '
                           f'bundle has {len(graphs)} graphs.')
    return {name: place / engine_name(name) for name in graphs}


def engine_name(graph: str) -> str:
    """Return the name of the engine of a graph in a folder of its own."""
    return Path(graph).stem + engine_cache.SUFFIX


def check_engine(path: Path, parts: Mapping[str, str], gpu: Gpu | None) -> engine_cache.Entry:
    """Return a given engine if it is sound and was built from these parts, for this GPU.

    The parts that tell the target are left out of `parts` where no GPU is there.

    Raises:
        BackendUnavailable: it is an engine of the other library.
        RgbxSegError: it does not fit, with the first mismatch named.

    """
    if not path.is_file():
        raise RgbxSegError(f'{path}: no such file; expected an engine that `rgbx_build_engine '
                           '--out` wrote.')
    found = engine_cache.read_sidecar(path).parts
    if found.get('library') != parts['library']:
        raise BackendUnavailable(f'{path}: it is an engine of {found.get("library")}, expected '
                                 f'{parts["library"]}; {BUILD_AGAIN}.')
    compared = {name: value for name, value in parts.items() if name not in FREE}
    if text := engine_cache.differ({name: found.get(name, 'not told') for name in compared},
                                   compared):
        _refuse(path, text)
    if gpu is not None:
        _check_gpu(path, found, gpu)
    entry, reason = engine_cache.find(path)
    if entry is None:
        raise RgbxSegError(f'{path}: {reason}; expected the file that was built; copy it again, '
                           f'or {BUILD_AGAIN}.')
    return entry


def _check_gpu(path: Path, found: Mapping[str, str], gpu: Gpu) -> None:
    """Raise if an engine was built for other compute capabilities or a newer driver."""
    capabilities = found.get('compute capabilities')
    if capabilities and dotted(gpu.capability) not in capabilities.split(', '):
        _refuse(path, f'compute capabilities {capabilities}, expected '
                      f'{dotted(gpu.capability)} of {gpu.name} among them')
    driver = found.get('CUDA driver')
    if driver and tuple(map(int, driver.split('.'))) > divmod(gpu.driver // 10, 100):
        _refuse(path, f'CUDA driver {driver}, expected at most '
                      f'{driver_text(gpu.driver)}, which is here')


def _refuse(path: Path, text: str) -> NoReturn:
    raise RgbxSegError(f'{path}: this engine does not fit: {text}; {BUILD_AGAIN}.')
