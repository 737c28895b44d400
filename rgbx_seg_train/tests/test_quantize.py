# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""INT8 is written as each library wants it, and by ranges that calibration saw."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from tiny_graphs import (
    CHANNELS,
    HEIGHT,
    N_CLASSES,
    WIDTH,
    build_with_tensorrt_rtx,
    model_graph,
    pair,
    scene_graph,
)

from rgbx_seg_train import quantize
from rgbx_seg_train.onnx_graph import serialize
from rgbx_seg_train.precision import rounded
from rgbx_seg_train.typed_graph import TypedGraph, prepare

FEEDS = [pair(seed) for seed in range(4)]
UNSEEN = pair(9)
PAIRS = ('QuantizeLinear', 'DequantizeLinear')


def labels(model, inputs):
    session = onnxruntime.InferenceSession(serialize(model), providers=['CPUExecutionProvider'])
    return session.run(['label'], inputs)[0]


@pytest.fixture(scope='module')
def for_tensorrt():
    return quantize.for_tensorrt(model_graph(), FEEDS)


@pytest.fixture(scope='module')
def for_onnxruntime():
    return quantize.for_onnxruntime(model_graph(), FEEDS)


def test_heavy_operators_are_those_inside_with_weights(monkeypatch):
    model = prepare(model_graph(), 0)
    # Between the layer that reads the images and the one that makes the logits.
    assert [node.output[0] for node in quantize.heavy_nodes(model)] == ['mixed', 'back']
    graph, pixels = TypedGraph(model), (HEIGHT // 2) * (WIDTH // 2)
    costs = {node.output[0]: quantize._cost(graph, node) for node in graph.nodes}
    assert {name: cost for name, cost in costs.items() if cost} == {
        'features': pixels * CHANNELS * 4 * 9, 'mixed': pixels * CHANNELS * 2 * CHANNELS,
        'back': pixels * 2 * CHANNELS * CHANNELS, 'small': pixels * N_CLASSES * CHANNELS}
    monkeypatch.setattr(quantize, 'HEAVY', costs['mixed'] / sum(costs.values()) + 1e-6)
    assert quantize.heavy_nodes(model) == []


def test_a_stack_of_matrices_stays_as_it_is():
    model = model_graph()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == 'w3')
    stack = numpy_helper.to_array(weight)[None]  # one for each head, of which there is one
    weight.CopyFrom(numpy_helper.from_array(stack, 'w3'))
    assert [node.output[0] for node in quantize.heavy_nodes(prepare(model, 0))] == ['mixed']


def test_tensorrt_gets_signed_symmetric_pairs_with_fp16_around(for_tensorrt):
    onnx.checker.check_model(for_tensorrt, full_check=True)
    assert for_tensorrt.opset_import[0].version == 19
    graph = TypedGraph(for_tensorrt)
    kinds = Counter(node.op_type for node in graph.nodes)
    assert kinds['QuantizeLinear'] == kinds['DequantizeLinear'] == 4  # input and weight of each
    for node in graph.nodes:
        if node.op_type in PAIRS:
            scale, zero = (numpy_helper.to_array(graph.weights[name]) for name in node.input[1:])
            assert scale.dtype == np.float16 and (scale >= np.finfo(np.float16).tiny).all()
            assert zero.dtype == np.int8 and not zero.any()
    types = {node.op_type: graph.types[node.output[0]] for node in graph.nodes}
    assert types['Conv'] == types['MatMul'] == TensorProto.FLOAT16
    assert types['LayerNormalization'] == TensorProto.FLOAT
    weights = [node for node in graph.nodes if node.op_type == 'QuantizeLinear'
               and node.input[0] in graph.weights]
    assert [graph.weights[node.input[1]].dims for node in weights] == [[2 * CHANNELS], [CHANNELS]]


def test_tensorrt_rtx_builds_it_strongly_typed(for_tensorrt):
    pytest.importorskip('tensorrt_rtx')
    _, types, data_type = build_with_tensorrt_rtx(for_tensorrt)
    assert {data_type.INT8, data_type.HALF} <= types


def test_onnxruntime_gets_unsigned_activations_and_signed_weights(for_onnxruntime):
    graph = TypedGraph(for_onnxruntime)
    zeros = {numpy_helper.to_array(graph.weights[node.input[2]]).dtype.name
             for node in graph.nodes if node.op_type == 'DequantizeLinear'}
    assert zeros == {'uint8', 'int8'}
    stored = Counter(t.data_type for t in for_onnxruntime.graph.initializer
                     if int(np.prod(t.dims)) >= CHANNELS * 2 * CHANNELS)
    assert stored[TensorProto.INT8] == 2


def test_labels_stay_near_those_of_fp32(for_tensorrt, for_onnxruntime):
    expected = labels(model_graph(), UNSEEN)
    assert len(np.unique(expected)) >= 4
    for model in (rounded(for_tensorrt), for_onnxruntime):
        found = labels(model, UNSEEN)
        assert 0.9 < (found == expected).mean() < 1


def test_ranges_are_those_of_calibration():
    dark = [{name: np.zeros_like(image) for name, image in UNSEEN.items()}]
    expected = labels(model_graph(), UNSEEN)
    seen, unseen = ((labels(quantize.for_onnxruntime(model_graph(), feeds), UNSEEN)
                     == expected).mean() for feeds in (FEEDS, dark))
    assert unseen < seen


def test_the_same_pairs_give_the_same_bytes(for_tensorrt, for_onnxruntime):
    assert serialize(quantize.for_tensorrt(model_graph(), FEEDS)) == serialize(for_tensorrt)
    assert serialize(quantize.for_onnxruntime(model_graph(), FEEDS)) == serialize(for_onnxruntime)


def test_scales_become_numbers_of_float16_from_above():
    model = quantize._quantize(scene_graph(), FEEDS, quantize.WEIGHTED, quantize.TENSORRT)
    graph = TypedGraph(model)
    scales = {node.input[1]: numpy_helper.to_array(graph.weights[node.input[1]])
              for node in graph.nodes if node.op_type in PAIRS}
    assert scales
    quantize._round_scales_up(model)
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            new, old = numpy_helper.to_array(tensor), scales[tensor.name]
            assert (new >= old).all() and (new <= np.maximum(old * 1.001, 6.2e-5)).all()
            assert (new == new.astype(np.float16)).all()


PROGRAM = '''
import pathlib, sys
sys.path.insert(0, {tests!r})
from tiny_graphs import model_graph, pair
from rgbx_seg_train.quantize import for_openvino
for name in ('one', 'two'):
    place = pathlib.Path({folder!r}, name)
    place.mkdir()
    for_openvino(model_graph(), [pair(n) for n in range(4)], place, 'model')
assert not any(name.startswith('openvino_telemetry.') for name in sys.modules)
'''


def test_openvino_gets_its_own_form_and_nobody_is_told(tmp_path):
    pytest.importorskip('nncf')
    ov = pytest.importorskip('openvino')
    home, folder = tmp_path / 'home', tmp_path / 'out'
    home.mkdir()
    folder.mkdir()
    program = PROGRAM.format(tests=os.path.dirname(__file__), folder=str(folder))
    environment = {name: value for name, value in os.environ.items() if name != 'CI'}
    run = subprocess.run([sys.executable, '-c', program], env=environment | {'HOME': str(home)},
                         capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == ''
    assert list(home.rglob('*')) == []
    for name in ('model.xml', 'model.bin'):
        assert (folder / 'one' / name).read_bytes() == (folder / 'two' / name).read_bytes()
    assert str(tmp_path) not in (folder / 'one' / 'model.xml').read_text()
    model = ov.Core().read_model(str(folder / 'one' / 'model.xml'))
    assert {port.any_name: str(port.element_type) for port in (*model.inputs, *model.outputs)} == {
        name: "<Type: 'uint8_t'>" for name in ('rgb', 'aux', 'label', 'confidence')}
    compiled = ov.Core().compile_model(model, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    expected = labels(model_graph(), UNSEEN)
    assert 0.9 < (compiled(UNSEEN)['label'] == expected).mean() < 1
    # The inputs of both heavy layers; their weights are INT8 already.
    assert sum(op.get_type_name() == 'FakeQuantize' for op in model.get_ops()) == 2
    stored = [list(op.get_output_shape(0)) for op in model.get_ops()
              if str(op.get_output_element_type(0)) == "<Type: 'int8_t'>"]
    assert sorted(map(sorted, stored)) == [[CHANNELS, 2 * CHANNELS]] * 2
