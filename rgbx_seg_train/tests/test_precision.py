# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Lower precision is written into the graph: types, borders, what stays in fp32, what it costs."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_graphs import (
    Builder,
    build_with_tensorrt_rtx,
    model_graph,
    pair,
    scene_graph,
    value,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.ablation import take_apart
from rgbx_seg_train.onnx_graph import halve_weights, serialize
from rgbx_seg_train.precision import GROUPS, TYPES, is_lossy, lower, rounded
from rgbx_seg_train.typed_graph import TypedGraph

FLOAT = TensorProto.FLOAT


def run(model, names=None, **inputs):
    session = onnxruntime.InferenceSession(serialize(model), providers=['CPUExecutionProvider'])
    return session.run(names, inputs)


def opset(model):
    return model.opset_import[0].version


def types_in(model):
    """Return type -> operators that make a value of that type."""
    graph, found = TypedGraph(model), {}
    for node in graph.nodes:
        found.setdefault(graph.types[node.output[0]], set()).add(node.op_type)
    return found


def interface(model):
    return [(t.name, t.type) for t in (*model.graph.input, *model.graph.output)]


@pytest.mark.parametrize('precision', TYPES)
def test_result_is_valid_typed_throughout_and_keeps_the_interface(precision):
    model = model_graph()
    lowered = lower(model, precision)
    onnx.checker.check_model(lowered.model, full_check=True)
    assert interface(lowered.model) == interface(model)
    assert opset(lowered.model) == {'fp16': 18, 'bf16': 22}[precision]
    found = types_in(lowered.model)
    assert {'Conv', 'MatMul', 'Relu'} <= found[TYPES[precision]]
    assert {'LayerNormalization', 'ReduceL2', 'Resize', 'ReduceLogSumExp'} <= found[FLOAT]
    assert not {'Conv', 'MatMul', 'Softmax', 'BatchNormalization'} & found[FLOAT]


def test_the_same_graph_gives_the_same_bytes_and_stays_itself():
    model = model_graph()
    before = serialize(model)
    assert serialize(lower(model, 'fp16').model) == serialize(lower(model, 'fp16').model)
    assert serialize(model) == before


def test_casts_stand_only_where_two_precisions_meet():
    lowered = lower(model_graph(), 'fp16').model
    graph = TypedGraph(lowered)
    casts = [node for node in graph.nodes if node.op_type == 'Cast']
    assert all(graph.types[node.input[0]] != graph.types[node.output[0]] for node in casts)
    assert len({node.input[0] for node in casts}) == len(casts)  # none twice
    # Four of the model's own; to fp16 for both layers beside the norms and for the classifier's
    # sum; back for LayerNormalization, the lengths and the Resize.
    assert len(casts) == 4 + 7


def test_without_anything_kept_only_the_interface_is_float32():
    found = types_in(lower(model_graph(), 'fp16', ()).model)
    assert FLOAT not in found or found[FLOAT] == {'Cast'}


def test_embeddings_stay_float32_at_the_border():
    for model in (model_graph(scene=True), scene_graph()):
        lowered = lower(model, 'fp16').model
        onnx.checker.check_model(lowered, full_check=True)
        assert interface(lowered) == interface(model)
    images = pair()
    fine = run(scene_graph(), **images)
    coarse = run(rounded(lower(scene_graph(), 'fp16').model), **images)
    for one, other in zip(fine, coarse, strict=True):
        assert other.dtype == np.float32
        assert 0 < np.abs(one - other).max() < 4e-3 * np.abs(one).max()


def test_rounded_graph_computes_what_numpy_does_step_by_step():
    build = Builder()
    build.put('Mul', ['x', build.random('w', 8)], 'product')
    build.put('Sub', ['product', 'x'], 'rest')
    build.put('Tanh', ['rest'], 'y')
    model = build.model([value('x', 4, 8, kind=FLOAT)], [value('y', 4, 8, kind=FLOAT)])
    x = np.random.default_rng(3).standard_normal((4, 8)).astype(np.float32)
    weight = numpy_helper.to_array(model.graph.initializer[0])
    for precision in ('fp16', 'bf16'):
        kind = helper.tensor_dtype_to_np_dtype(TYPES[precision])

        def low(values, kind=kind):
            return values.astype(kind).astype(np.float32)

        expected = low(np.tanh(low(low(low(x) * low(weight)) - low(x))))
        found = run(rounded(lower(model, precision).model), x=x)[0]
        step = {'fp16': 2.0**-11, 'bf16': 2.0**-8}[precision]
        assert np.abs(found - expected).max() <= step  # of tanh's last digit at most
        assert (found != np.tanh(x * weight - x)).any()


@pytest.mark.parametrize(('values', 'lossy'), [
    ([1.0, -2.5], False), ([1e5], True), ([65504.0], False), ([1e-12], True), ([1e-6], True),
    ([1.0, 1e-9], False), ([0.0, 0.0], False), ([float('inf')], True), ([], False)])
def test_constants_that_fp16_cannot_hold_are_told(values, lossy):
    assert is_lossy(np.array(values, np.float32), 'fp16') == lossy
    if np.isfinite(values).all():
        assert not is_lossy(np.array(values, np.float32), 'bf16')


def test_operator_with_such_a_constant_stays_in_fp32_and_is_told():
    build = Builder()
    build.put('Mul', ['x', build.constant('large', np.float32(1e6))], 'scaled')
    build.put('Mul', ['scaled', build.constant('small', np.float32(1e-6))], 'again')
    build.put('Tanh', ['again'], 'y')
    model = build.model([value('x', 4, kind=FLOAT)], [value('y', 4, kind=FLOAT)])
    lowered = lower(model, 'fp16')
    assert lowered.kept == {'constants that fp16 cannot hold': 2}
    x = np.array([0.5, 1, -1, 2], np.float32)
    assert np.allclose(run(rounded(lowered.model), x=x)[0], np.tanh(x), atol=1e-3)
    assert lower(model, 'bf16').kept == {}


def test_halved_weights_are_folded_and_batch_norm_is_written_out():
    model, halved = model_graph(), model_graph()
    halve_weights(halved)
    assert any(t.data_type == TensorProto.FLOAT16 for t in halved.graph.initializer)
    lowered = lower(halved, 'fp16').model
    assert not any(node.op_type == 'Cast' and not TypedGraph(lowered).maker.get(node.input[0])
                   and node.input[0] not in ('rgb', 'aux', 'unit') for node in lowered.graph.node
                   if node.input[0] in {t.name for t in lowered.graph.initializer})
    # In fp32 throughout nothing is rounded, so only the rewriting shows.
    everything = {node.op_type for node in model.graph.node} | {'Mul', 'Add', *GROUPS}
    kept = lower(model, 'fp16', everything).model
    images = pair()
    logits = [run(with_output(one, 'logits'), ['logits'], **images)[0] for one in (model, kept)]
    assert np.abs(logits[0] - logits[1]).max() < 1e-4 * np.abs(logits[0]).max()


def with_output(model, name):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, FLOAT, None))
    return copy


@pytest.mark.parametrize(('precision', 'least'), [('fp16', 0.995), ('bf16', 0.96)])
def test_labels_are_nearly_those_of_fp32(precision, least):
    model, images = model_graph(), pair()
    expected = run(model, ['label'], **images)[0]
    assert len(np.unique(expected)) >= 4
    found = run(rounded(lower(model, precision).model), ['label'], **images)[0]
    assert (found == expected).mean() >= least


def test_images_prepared_in_fp32_lose_less():
    build = Builder()
    build.put('Cast', ['rgb'], 'float', to=FLOAT)
    build.put('Sub', ['float', build.constant('mean', np.float32(123.675))], 'centered')
    build.put('Div', ['centered', build.constant('spread', np.float32(58.395))], 'unit')
    build.put('MatMul', ['unit', build.constant('w', np.eye(8, dtype=np.float32))], 'y')
    model = build.model([value('rgb', 64, 8)], [value('y', 64, 8, kind=FLOAT)])
    images = np.random.default_rng(0).integers(0, 256, (64, 8)).astype(np.uint8)
    exact = (images - 123.675) / 58.395

    def error(keep):
        found = run(rounded(lower(model, 'bf16', keep).model), rgb=images)[0]
        return np.square(found - exact).mean()

    assert error(('images',)) < 0.5 * error(())


def test_norms_taken_apart_round_inside_and_stay_what_they_are():
    low = lower(model_graph(), 'fp16', ('images', 'answer', 'enlarging')).model
    apart = take_apart(low)
    onnx.checker.check_model(apart, full_check=True)
    assert not {'LayerNormalization', 'Softmax', 'ReduceL2'} & {n.op_type for n in apart.graph.node}
    whole, steps = (run(with_output(rounded(model), 'logits'), ['logits'], **pair())[0]
                    for model in (low, apart))
    assert 0 < np.abs(whole - steps).max() < 0.02 * np.abs(whole).max()


def test_control_flow_is_refused():
    branch = helper.make_graph([helper.make_node('Identity', ['x'], ['z'])], 'branch', [],
                               [value('z', 4, kind=FLOAT)])
    build = Builder()
    build.put('If', [build.constant('yes', np.array(True))], 'y', then_branch=branch,
              else_branch=branch)
    model = build.model([value('x', 4, kind=FLOAT)], [value('y', 4, kind=FLOAT)])
    with pytest.raises(RgbxSegError, match='the graph holds If'):
        lower(model, 'fp16')


@pytest.mark.parametrize('precision', TYPES)
def test_tensorrt_rtx_builds_it_strongly_typed(precision):
    pytest.importorskip('tensorrt_rtx')
    plan, types, data_type = build_with_tensorrt_rtx(lower(model_graph(), precision).model)
    assert len(plan) > 1000
    assert {'fp16': data_type.HALF, 'bf16': data_type.BF16}[precision] in types


@pytest.mark.parametrize('precision', TYPES)
def test_tensorrt_rtx_builds_transposed_convolutions_as_they_are_lowered(precision):
    build = Builder()
    weight = np.linspace(-1, 1, 64 * 32 * 4, dtype=np.float32).reshape(64, 32, 2, 2)
    build.put('Relu', ['x'], 'positive')
    build.put('ConvTranspose', ['positive', build.constant('weight', weight)], 'wide',
              strides=[2, 2])
    build.put('Relu', ['wide'], 'y')
    lowered = lower(build.model([value('x', 9, 64, 12, 16, kind=FLOAT)],
                                [value('y', 9, 32, 24, 32, kind=FLOAT)]), precision)
    assert lowered.kept == {'fp16': {}, 'bf16': {
        'TensorRT-RTX has no ConvTranspose in bf16': 1}}[precision]
    pytest.importorskip('tensorrt_rtx')
    plan, types, data_type = build_with_tensorrt_rtx(lowered.model)
    assert len(plan) > 1000
