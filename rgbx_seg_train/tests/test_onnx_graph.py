# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The passes over an exported graph: another phrasing, the same function, by ONNX's own oracle."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from rgbx_seg_train.graph_editor import Editor
from rgbx_seg_train.models.blocks.segformer_head import SegformerHead
from rgbx_seg_train.onnx_graph import folded, halve_weights, node_counts, strip
from rgbx_seg_train.onnx_layout import keep_channels_last
from rgbx_seg_train.onnx_passes import LOGITS, enlarging_matrix, quicken
from rgbx_seg_train.onnx_products import cut_weights, join_contexts, unwrap_products

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8


def model(nodes, inputs, outputs, constants=None):
    """Return a checked model; inputs and outputs by name: (type, shape)."""
    graph = helper.make_graph(
        nodes, 'g', *([helper.make_tensor_value_info(name, kind, shape)
                       for name, (kind, shape) in side.items()] for side in (inputs, outputs)),
        [numpy_helper.from_array(np.asarray(values), name)
         for name, values in (constants or {}).items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def answers(graph, feeds):
    onnx.checker.check_model(graph, full_check=True)
    return ReferenceEvaluator(graph).run(None, feeds)


def passed(graph, *passes):
    """Return a copy of a graph after passes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    editor = Editor(copy)
    for one in passes:
        one(editor)
    editor.write()
    return copy


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def answer_graph(classes, low=(5, 7), high=(20, 28), steps=None):
    """Return label and confidence of low logits, enlarged, as torch traces `BundleGraph`."""
    nodes = [
        helper.make_node('Neg', ['low'], ['negative']),
        helper.make_node('Neg', ['negative'], ['made']),
        helper.make_node('Resize', ['made', '', '', 'size'], [LOGITS], mode='linear',
                         coordinate_transformation_mode='half_pixel'),
        helper.make_node('ReduceMax', [LOGITS, 'axis'], ['best'], keepdims=0),
        helper.make_node('ArgMax', [LOGITS], ['id'], axis=1, keepdims=0),
        helper.make_node('ReduceLogSumExp', [LOGITS, 'axis'], ['all'], keepdims=0),
        helper.make_node('Sub', ['best', 'all'], ['less']),
        helper.make_node('Exp', ['less'], ['share']),
        helper.make_node('Mul', ['share', 'most'], ['scaled']),
        helper.make_node('Add', ['scaled', 'half'], ['rounded']),
        helper.make_node('Cast', ['rounded'], ['confidence'], to=UINT8),
        helper.make_node('Cast', ['id'], ['id_float'], to=FLOAT),
        helper.make_node('Cast', ['id_float'], ['label'], to=UINT8)]
    return model(nodes, {'low': (FLOAT, (1, classes, *low))},
                 {name: (UINT8, (1, *high)) for name in ('label', 'confidence')},
                 {'size': np.array([1, classes, *high]), 'axis': np.array([1]),
                  'most': np.float32(255), 'half': np.float32(0.5)})


@pytest.mark.parametrize('classes', [1, 2, 9, 41])
@pytest.mark.parametrize('low', [(5, 7), (70, 8)])
def test_planes_give_the_label_and_the_confidence_of_argmax_and_softmax(classes, low):
    graph = answer_graph(classes, low, (2 * low[0], 3 * low[1]))
    feeds = {'low': 4 * floats(1, classes, *low)}
    label, confidence = answers(graph, feeds)
    quicken(graph)
    ours = answers(graph, feeds)
    assert (ours[0] == label).mean() > 0.999 and len(np.unique(label)) == min(
        classes, len(np.unique(label)))
    assert np.abs(ours[1].astype(int) - confidence).max() <= 1
    counts = node_counts(graph)
    assert not counts.keys() & {'ArgMax', 'ReduceLogSumExp', 'ReduceMax'}
    assert ('Resize' in counts) == (low[0] > 64)
    assert any(LOGITS in node.output for node in graph.graph.node)
    casts = [node for node in graph.graph.node if node.op_type == 'Cast']
    assert {name for node in casts for name in node.output} == {'label', 'confidence'}


def test_of_equal_classes_the_first_wins():
    graph = answer_graph(5, (4, 4), (4, 4))
    low = np.zeros((1, 5, 4, 4), np.float32)
    low[0, [1, 3], :2] = 2.0
    low[0, [2, 4], 2:] = 3.0
    quicken(graph)
    label, confidence = answers(graph, {'low': low})
    np.testing.assert_array_equal(label[0], [[1] * 4] * 2 + [[2] * 4] * 2)
    share = np.exp(2) / (2 * np.exp(2) + 3)
    assert confidence[0, 0, 0] == int(255 * share + 0.5)


def test_logits_too_far_apart_for_exp_give_full_confidence():
    graph = answer_graph(3, (4, 4), (4, 4))
    low = np.zeros((1, 3, 4, 4), np.float32)
    low[0, 2], low[0, 1] = 1e4, -3e38
    quicken(graph)
    label, confidence = answers(graph, {'low': low})
    assert (label == 2).all() and (confidence == 255).all()


def test_a_second_pass_changes_nothing_and_the_same_graph_gives_the_same_bytes():
    graphs = [answer_graph(9) for _ in range(2)]
    for graph in graphs:
        quicken(graph)
        strip(graph)
    first, second = (graph.SerializeToString(deterministic=True) for graph in graphs)
    assert first == second
    quicken(graphs[0])
    strip(graphs[0])
    assert graphs[0].SerializeToString(deterministic=True) == first


def test_logits_of_features_that_were_enlarged_by_a_factor_are_enlarged_by_products_too():
    graph = answer_graph(9, (5, 7), (20, 28))
    graph.graph.node[1].CopyFrom(helper.make_node(
        'Resize', ['negative', '', 'scales'], ['made'], mode='linear',
        coordinate_transformation_mode='half_pixel'))
    graph.graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 2, 2]), 'scales'))
    feeds = {'low': 4 * floats(1, 9, 5, 7)}
    label, confidence = answers(graph, feeds)
    quicken(graph)
    ours = answers(graph, feeds)
    assert (ours[0] == label).mean() > 0.999
    assert np.abs(ours[1].astype(int) - confidence).max() <= 1
    assert node_counts(graph)['Resize'] == 1


def test_a_graph_without_labels_is_left_alone():
    graph = model([helper.make_node('Relu', ['x'], ['y'])], {'x': (FLOAT, (2, 3))},
                  {'y': (FLOAT, (2, 3))})
    before = node_counts(graph)
    quicken(graph)
    assert node_counts(graph) == before


@pytest.mark.parametrize(('size', 'to'), [(60, 240), (3, 4), (5, 5), (1, 6), (8, 10)])
def test_the_enlarging_matrix_is_a_bilinear_resize(size, to):
    node = helper.make_node('Resize', ['x', '', '', 'size'], ['y'], mode='linear',
                            coordinate_transformation_mode='half_pixel')
    graph = model([node], {'x': (FLOAT, (1, 1, 1, size))}, {'y': (FLOAT, (1, 1, 1, to))},
                  {'size': np.array([1, 1, 1, to])})
    x = floats(1, 1, 1, size)
    np.testing.assert_allclose(enlarging_matrix(size, to) @ x[0, 0, 0],
                               answers(graph, {'x': x})[0][0, 0, 0], atol=1e-6)


def gates():
    """Return the way of two streams through gates, as torch traces it from tokens to tokens."""
    nodes = [
        helper.make_node('Transpose', ['tokens'], ['x'], perm=[0, 3, 1, 2]),
        helper.make_node('Split', ['x'], ['a', 'b'], axis=0, num_outputs=2),
        helper.make_node('Concat', ['a', 'b'], ['ab'], axis=1),
        helper.make_node('ReduceMax', ['ab', 'axes'], ['most'], keepdims=0),
        helper.make_node('Unsqueeze', ['most', 'axes'], ['gate']),
        helper.make_node('Split', ['gate'], ['ga', 'gb'], axis=1, num_outputs=2),
        helper.make_node('Conv', ['ab', 'w'], ['space']),
        helper.make_node('Sigmoid', ['space'], ['space_1']),
        helper.make_node('Add', ['ga', 'space_1'], ['both']),
        helper.make_node('Mul', ['both', 'b'], ['part']),
        helper.make_node('Add', ['a', 'part'], ['y']),
        helper.make_node('Sub', ['y', 'shift'], ['z']),
        helper.make_node('Transpose', ['z'], ['zt'], perm=[0, 2, 3, 1]),
        helper.make_node('Relu', ['zt'], ['out']),
        helper.make_node('Conv', ['z', 'k'], ['map'], pads=[1, 1, 1, 1])]
    return model(nodes, {'tokens': (FLOAT, (2, 4, 6, 3))},
                 {'out': (FLOAT, (1, 4, 6, 3)), 'map': (FLOAT, (1, 2, 4, 6)),
                  'gb': (FLOAT, (1, 3, 1, 1))},
                 {'axes': np.array([2, 3]), 'w': floats(1, 6, 1, 1), 'k': floats(2, 3, 3, 3),
                  'shift': floats(3, 1, 1, seed=2)})


def test_channels_stay_last_between_tokens():
    graph = gates()
    feeds = {'tokens': floats(2, 4, 6, 3, seed=1)}
    moved = passed(graph, keep_channels_last)
    for ours, theirs in zip(answers(moved, feeds), answers(graph, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    turned = [name for node in moved.graph.node if node.op_type == 'Transpose'
              for name in node.output]
    readers = [node.op_type for node in moved.graph.node if set(turned) & set(node.input)]
    assert readers == ['Conv', 'Conv']  # both images that a convolution reads, and no more


def test_one_channel_repeated_is_a_product_with_ones():
    nodes = [helper.make_node('Cast', ['u'], ['f'], to=FLOAT),
             helper.make_node('Transpose', ['f'], ['t'], perm=[0, 3, 1, 2]),
             helper.make_node('Expand', ['t', 'shape'], ['e']),
             helper.make_node('Mul', ['e', 'scale'], ['s']),
             helper.make_node('Conv', ['s', 'w'], ['y'])]
    graph = model(nodes, {'u': (UINT8, (1, 4, 5, 1))}, {'y': (FLOAT, (1, 2, 3, 4))},
                  {'shape': np.array([1, 3, 4, 5]), 'scale': floats(1, 3, 1, 1),
                   'w': floats(2, 3, 2, 2)})
    feeds = {'u': np.random.default_rng(0).integers(0, 256, (1, 4, 5, 1)).astype(np.uint8)}
    moved = passed(graph, keep_channels_last)
    np.testing.assert_allclose(answers(moved, feeds)[0], answers(graph, feeds)[0], rtol=1e-5)
    assert 'Expand' not in node_counts(moved)
    assert [n.op_type for n in moved.graph.node if 'u' in n.input] == ['Cast']


@pytest.mark.parametrize('halved', [False, True])
@pytest.mark.parametrize('form', ['gather', 'slice'])
def test_keys_and_values_of_one_product_become_two(form, halved):
    weight, bias = floats(16, 32), floats(32, seed=1)
    taken = [helper.make_node('Gather', ['turned', f'i{n}'], [f'kv{n}'], axis=0) for n in (0, 1)]
    if form == 'slice':
        taken = [node for n in (0, 1) for node in (
            helper.make_node('Slice', ['turned', f's{n}', f's{n + 1}', 's0'], [f'c{n}']),
            helper.make_node('Squeeze', [f'c{n}', 's0'], [f'kv{n}']))]
    nodes = [helper.make_node('MatMul', ['x', 'w'], ['p']), helper.make_node('Add', ['p', 'b'], [
        'pb']), helper.make_node('Reshape', ['pb', 'shape'], ['view']),
        helper.make_node('Transpose', ['view'], ['turned'], perm=[2, 0, 3, 1, 4]), *taken,
        *[helper.make_node('Relu', [f'kv{n}'], [f'y{n}']) for n in (0, 1)]]
    graph = model(nodes, {'x': (FLOAT, (2, 5, 16))},
                  {f'y{n}': (FLOAT, (2, 4, 5, 4)) for n in (0, 1)},
                  {'w': weight, 'b': bias, 'shape': np.array([2, 5, 2, 4, 4]),
                   'i0': np.array(0), 'i1': np.array(1), 's0': np.array([0]),
                   's1': np.array([1]), 's2': np.array([2])})
    if halved:
        halve_weights(graph)
    cut = passed(graph, cut_weights)
    feeds = {'x': floats(2, 5, 16, seed=2)}
    for ours, theirs in zip(answers(cut, feeds), answers(graph, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    counts = node_counts(cut)
    assert counts['MatMul'] == 2 and not counts.keys() & {'Gather', 'Slice', 'Squeeze'}
    kinds = {t.data_type for t in cut.graph.initializer if len(t.dims) == 2}
    assert kinds == {TensorProto.FLOAT16 if halved else FLOAT}


def test_a_product_that_is_cut_is_left_whole_where_it_is_read_whole_too():
    nodes = [helper.make_node('MatMul', ['x', 'w'], ['p']),
             helper.make_node('Split', ['p'], ['a', 'b'], axis=2, num_outputs=2),
             helper.make_node('Relu', ['p'], ['c'])]
    graph = model(nodes, {'x': (FLOAT, (1, 5, 4))},
                  {'a': (FLOAT, (1, 5, 3)), 'b': (FLOAT, (1, 5, 3)), 'c': (FLOAT, (1, 5, 6))},
                  {'w': floats(4, 6)})
    assert node_counts(passed(graph, cut_weights)) == node_counts(graph)


def test_a_gemm_between_reshapes_is_a_product_of_tokens():
    nodes = [helper.make_node('Reshape', ['x', 'flat'], ['x2']),
             helper.make_node('Gemm', ['x2', 'w', 'b'], ['y2'], transB=1),
             helper.make_node('Reshape', ['y2', 'back'], ['y'])]
    graph = model(nodes, {'x': (FLOAT, (2, 3, 4))}, {'y': (FLOAT, (2, 3, 5))},
                  {'w': floats(5, 4), 'b': floats(5), 'flat': np.array([6, 4]),
                   'back': np.array([2, 3, 5])})
    feeds = {'x': floats(2, 3, 4, seed=3)}
    plain = passed(graph, unwrap_products)
    np.testing.assert_allclose(answers(plain, feeds)[0], answers(graph, feeds)[0], atol=1e-5)
    assert 'Gemm' not in node_counts(plain) and node_counts(plain)['MatMul'] == 1


@pytest.mark.parametrize('heads', [1, 2])
def test_a_context_is_multiplied_into_the_weight_behind_it(heads):
    n, width = 6, 4
    d = width // heads
    turn = [] if heads == 1 else [0, 2, 1, 3]
    nodes = [helper.make_node('Reshape', ['u', 'apart'], ['u4'])]
    nodes += [helper.make_node('Transpose', ['u4'], ['ut'], perm=turn)] if turn else []
    nodes += [helper.make_node('Softmax', ['scores'], ['context'], axis=-2),
              helper.make_node('MatMul', ['ut' if turn else 'u4', 'context'], ['v4'])]
    nodes += [helper.make_node('Transpose', ['v4'], ['vt'], perm=turn)] if turn else []
    nodes += [helper.make_node('Reshape', ['vt' if turn else 'v4', 'back'], ['v']),
              helper.make_node('Concat', ['y', 'v'], ['yv'], axis=-1),
              helper.make_node('MatMul', ['yv', 'w'], ['p']),
              helper.make_node('Add', ['p', 'b'], ['out'])]
    graph = model(nodes, {'u': (FLOAT, (1, n, width)), 'y': (FLOAT, (1, n, 3)),
                          'scores': (FLOAT, (1, heads, d, d))}, {'out': (FLOAT, (1, n, 5))},
                  {'w': floats(3 + width, 5), 'b': floats(5),
                   'apart': np.array([1, n, heads, d] if turn else [1, heads, n, d]),
                   'back': np.array([1, n, width])})
    feeds = {'u': floats(1, n, width, seed=1), 'y': floats(1, n, 3, seed=2),
             'scores': floats(1, heads, d, d, seed=3)}
    joined = passed(graph, join_contexts)
    np.testing.assert_allclose(answers(joined, feeds)[0], answers(graph, feeds)[0], atol=1e-5)
    assert not node_counts(joined).keys() & {'Concat', 'Transpose'}


def test_a_head_is_folded_while_it_is_traced_and_no_longer():
    torch.manual_seed(0)
    head = SegformerHead((4, 6), 8, 3, 0.0, folded=False).eval()
    maps = [torch.randn(1, 4, 8, 8), torch.randn(1, 6, 4, 4)]
    with torch.inference_mode():
        plain = head(maps)
        with folded(head):
            assert head.folded
            torch.testing.assert_close(head(maps), plain, atol=1e-5, rtol=1e-4)
    assert not head.folded
