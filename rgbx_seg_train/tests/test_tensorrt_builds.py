# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX builds the families in each form that a bundle can have, without a GPU.

full_size_operators.json holds what kinds of operators the models have at full size, of a real
export (docs/benchmarks/engine_builds.md); the small ones that are built here must have them all.
`pytest -s` prints the table of what was built.
"""

import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from operators import kinds
from small_runs import small_config

from rgbx_seg_ros import engine_cache
from rgbx_seg_ros.engine import Graph, Model, Options
from rgbx_seg_ros.engine_tensorrt import load_library
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE, load_bundle
from rgbx_seg_ros.tensorrt_builder import build_engines, build_plan, obtain_plans
from rgbx_seg_ros.tensorrt_target import PORTABLE, Target
from rgbx_seg_train.camera_graph import with_camera
from rgbx_seg_train.checkpoint import Progress, build_model, save_checkpoint
from rgbx_seg_train.export import export
from rgbx_seg_train.precision import lower
from rgbx_seg_train.quantize import for_tensorrt

pytest.importorskip('tensorrt_rtx', reason='tensorrt_rtx is not installed')

HEIGHT, WIDTH = 64, 96
CAMERA = (96, 160)
FULL_SIZE = json.loads((Path(__file__).parent / 'full_size_operators.json').read_text())
FAMILIES = {  # what to build, and how to export it; one layer a stage is enough
    'segrgbx': (['model.preset=tiny', 'model.options.depths=[1,1,1,1]',
                 'model.options.clip.layers=1'], ['export.scene_every=5']),
    'shifnet': (['model.preset=micro'], []),
}
TARGET = Target(capabilities=PORTABLE)


@pytest.fixture(scope='module')
def library():
    return load_library('tensorrt_rtx')


@pytest.fixture(scope='module')
def table():
    """Take (name, path of the graph, bytes of the engine, seconds); print them at the end."""
    rows = []
    yield lambda *row: rows.append(row)
    print('\n| engine | ONNX MB | engine MB | seconds |\n|---|---|---|---|')
    for name, path, size, seconds in rows:
        print(f'| {name} | {path.stat().st_size / 1e6:.1f} | {size / 1e6:.1f} | {seconds:.1f} |')


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """Export a family at its first use, with random weights; SegRGB-X in two graphs."""
    @cache
    def run(family):
        settings, overrides = FAMILIES[family]
        folder = tmp_path_factory.mktemp(family)
        config = small_config(folder, f'model.family={family}', *settings,
                              f'data.height={HEIGHT}', f'data.width={WIDTH}')
        torch.manual_seed(0)
        model = build_model(config, 9)
        save_checkpoint(folder / 'model.safetensors', config, 9, Progress(),
                        {'ema': model.state_dict()})
        export(folder / 'model.safetensors', folder / 'bundle', {}, overrides)
        return Model(folder / 'bundle', load_bundle(folder / 'bundle'))

    return run


def graph_of(model, name=MODEL_FILE):
    return onnx.load(model.path(name)), model.graphs()[name]


@pytest.fixture
def build(library, table, tmp_path):
    """Build a graph that no bundle holds."""
    def run(name, graph, tensors):
        path = tmp_path / 'model.onnx'
        onnx.save(graph, path)
        begun = time.monotonic()
        plan, timing = build_plan(library, path, TARGET, 0, b'', lambda text: None, tensors)
        assert timing == b'' and len(plan) > 100_000
        table(name, path, len(plan), time.monotonic() - begun)

    return run


@pytest.mark.parametrize('family', FAMILIES)
def test_the_family_builds_and_is_found_again(library, exported, family, table, tmp_path,
                                              monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    model = exported(family)
    built = build_engines(library, model, TARGET, 0, lambda text: None)
    assert [one.graph for one in built] == [MODEL_FILE, SCENE_FILE][:len(model.graphs())]
    for one in built:
        assert one.is_new
        table(f'{family} fp32 {one.graph}', model.path(one.graph), one.entry.size,
              one.entry.seconds)
    again = obtain_plans(library, model, Options(), None, 0)
    assert again == {one.graph: one.entry.path for one in built}
    for name, path in again.items():
        assert engine_cache.find(path)[0] is not None
        assert path.stat().st_size > 0.9 * model.path(name).stat().st_size  # weights are in it


@pytest.mark.parametrize('family', FAMILIES)
def test_the_small_model_has_all_kinds_of_operators_of_the_full_one(exported, family):
    model = exported(family)
    found = {kind for name in model.graphs() for kind in kinds(onnx.load(model.path(name)))}
    assert not set(FULL_SIZE[family]) - found


def test_segrgbx_builds_in_fp16_with_the_resizing_of_a_camera_inside(exported, build):
    graph, tensors = graph_of(exported('segrgbx'))
    camera = Graph({**tensors.inputs, 'rgb': ('uint8', (1, *CAMERA, 3))},
                   {name: ('uint8', (1, *CAMERA)) for name in tensors.outputs})
    resizing = with_camera(lower(graph, 'fp16').model, CAMERA, (HEIGHT, WIDTH))
    build('segrgbx fp16, resizing inside', resizing, camera)


@pytest.mark.parametrize('precision', ['fp16', 'bf16'])
def test_shifnet_builds_in_lower_precision(exported, precision, build):
    graph, tensors = graph_of(exported('shifnet'))
    build(f'shifnet {precision}', lower(graph, precision).model, tensors)


def test_segrgbx_builds_in_int8_and_none_of_its_products_is_left_out(exported, build):
    graph, tensors = graph_of(exported('segrgbx'))
    rng = np.random.default_rng(0)
    feeds = [{name: (rng.integers(0, 256, shape, np.uint8) if dtype == 'uint8'
                     else rng.normal(size=shape).astype(np.float32))
              for name, (dtype, shape) in tensors.inputs.items()} for _ in range(2)]
    quantized = for_tensorrt(graph, feeds)
    assert sum(node.op_type == 'QuantizeLinear' for node in quantized.graph.node) > 20
    build('segrgbx int8', quantized, tensors)
