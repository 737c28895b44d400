# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Linear layers phrased so that what they make needs no cutting, and no turning twice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from rgbx_seg_train.graph_editor import Editor

JOINT = [2, 0, 3, 1, 4]  # (B, N, 2, heads, d) to keys and values of (B, heads, N, d)


def unwrap_products(editor: Editor) -> None:
    """Write Gemm between two Reshapes as MatMul and Add, which need none."""
    for node in [node for node in editor.nodes if node.op_type == 'Gemm']:
        given = editor.makers.get(node.input[0])
        readers = editor.readers(node.output[0])
        weight = editor.values(node.input[1])
        plain = {'alpha': 1.0, 'beta': 1.0, 'transA': 0}
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if (given is None or given.op_type != 'Reshape' or weight is None or len(node.input) < 3
                or any(attributes.get(key, value) != value for key, value in plain.items())
                or not readers or any(reader.op_type != 'Reshape' for reader in readers)):
            continue
        shape = editor.shapes[given.input[0]]
        if len(shape) < 3 or shape[-1] != editor.shapes[node.input[0]][-1]:
            continue
        if attributes.get('transB'):
            weight = np.ascontiguousarray(weight.T)
        product = editor.put('MatMul', [given.input[0], editor.weight(weight, node.input[1])])
        total = editor.put('Add', [product, node.input[2]])
        editor.drop([node])
        editor.rename(node.output[0], total)
        editor.shapes[total] = (*shape[:-1], weight.shape[1])
        for reader in readers:
            if editor.shapes[reader.output[0]] == editor.shapes[total]:
                editor.drop([reader])
                editor.put('Identity', [total], reader.output[0])
    editor.tidy()


def cut_weights(editor: Editor) -> None:
    """Where the product with a weight is cut into parts, cut the weight instead."""
    for node in list(editor.nodes):
        if node.op_type == 'Split' and len(editor.shapes.get(node.input[0], ())) == 3:
            _cut_split(editor, node)
        elif (node.op_type == 'Transpose'
              and list(helper.get_node_attr_value(node, 'perm')) == JOINT):
            _cut_joint(editor, node)
    editor.tidy()


def _cut_split(editor: Editor, node: onnx.NodeProto) -> None:
    widths = [editor.shapes[name][-1] for name in node.output]
    if helper.get_node_attr_value(node, 'axis') not in (2, -1) or len(set(widths)) > 1:
        return
    parts = _cut(editor, node.input[0], len(widths))
    if parts:
        editor.drop([node])
        for name, part in zip(node.output, parts, strict=True):
            editor.put('Identity', [part], name)


def _cut_joint(editor: Editor, turn: onnx.NodeProto) -> None:
    """Make keys and values of one product each, and turn them alone."""
    view = editor.makers[turn.input[0]]
    batch, count, two, heads, width = editor.shapes[turn.input[0]]
    taken = {name: place for reader in editor.readers(turn.output[0])
             for name, place in _taken(editor, reader)}
    if view.op_type != 'Reshape' or two != 2 or sorted(taken.values()) != [0, 1]:
        return
    if editor.shapes.get(view.input[0]) != (batch, count, two * heads * width):
        return
    parts = _cut(editor, view.input[0], two)
    if not parts:
        return
    shape = editor.integers([batch, count, heads, width])
    makers = editor.makers
    for name, place in taken.items():
        editor.drop([makers[name]])
        apart = editor.put('Reshape', [parts[place], shape])
        editor.put('Transpose', [apart], name, perm=[0, 2, 1, 3])


def _taken(editor: Editor, reader: onnx.NodeProto) -> list[tuple[str, int]]:
    """Return what a node takes out of (2, ...), without that axis, and at which place."""
    if reader.op_type == 'Gather' and _axis(reader) == 0:
        place = editor.values(reader.input[1])
        if place is not None and place.shape == ():
            return [(reader.output[0], int(place))]
    if reader.op_type == 'Slice':
        numbers = [editor.integers_of(name) for name in reader.input[1:]]
        after = editor.readers(reader.output[0])
        if (numbers[0] in ([0], [1]) and numbers[2] == [0] and numbers[1] is not None
                and numbers[1][0] == numbers[0][0] + 1
                and all(own.op_type == 'Squeeze' and editor.integers_of(own.input[1]) == [0]
                        for own in after)):
            return [(own.output[0], numbers[0][0]) for own in after]
    return [('', -1)]


def join_contexts(editor: Editor) -> None:
    """Multiply a context matrix into the weight behind it, in place of a stream of tokens.

    [y, u C] [V; W] = y V + u (C W), of which C W is small: tokens need not be told apart by
    heads, nor put side by side.
    """
    for node in [node for node in editor.nodes if node.op_type == 'Concat']:
        readers = editor.readers(node.output[0])
        reader = readers[0] if len(readers) == 1 and len(readers[0].input) == 2 else None
        weight = editor.values(reader.input[1]) if reader else None
        found = _context(editor, node.input[1]) if len(node.input) == 2 else None
        if (found is None or reader is None or weight is None or weight.ndim != 2
                or reader.op_type != 'MatMul'
                or _axis(node) not in (-1, len(editor.shapes[node.output[0]]) - 1)):
            continue
        tokens, context = found
        first = weight.shape[0] - editor.shapes[tokens][-1]
        heads, width = editor.shapes[context][1:3]
        like = reader.input[1]
        below = weight[first:].reshape(1, heads, width, -1)
        joined = editor.put('Reshape', [
            editor.put('MatMul', [context, editor.weight(below, like)]),
            editor.integers([heads * width, weight.shape[1]])])
        above = editor.weight(np.ascontiguousarray(weight[:first]), like)
        parts = [editor.put('MatMul', [node.input[0], above]),
                 editor.put('MatMul', [tokens, joined])]
        editor.drop([node, reader])
        editor.put('Add', parts, reader.output[0])
    editor.tidy()


def _context(editor: Editor, name: str) -> tuple[str, str] | None:
    """Return tokens (1, N, C) and contexts (1, heads, d, d) that make (1, N, C), or None."""
    shape, path = editor.shapes.get(name, ()), []
    for kind in ('Reshape', 'Transpose', 'MatMul', 'Transpose', 'Reshape'):
        node = editor.makers.get(name)
        if node is None or len(editor.readers(name)) != 1:
            return None
        if node.op_type == kind:
            path.append(node)
            name = node.input[0]
        elif kind != 'Transpose':
            return None
    product = next(node for node in path if node.op_type == 'MatMul')
    turns = [list(helper.get_node_attr_value(node, 'perm')) for node in path
             if node.op_type == 'Transpose']
    context = editor.shapes.get(product.input[1], ())
    if (len(context) != 4 or context[0] != 1 or context[2] != context[3]
            or context[1] * context[2] != shape[-1] or editor.shapes.get(name) != shape
            or turns not in ([[0, 2, 1, 3]] * 2, [] if context[1] == 1 else None)):
        return None
    return name, product.input[1]


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == 'axis'), 0)


def _cut(editor: Editor, name: str, count: int) -> list[str]:
    """Return a product with a weight, and bias and ReLU behind it, in parts of equal width.

    None if `name` is something else, or has other readers.
    """
    behind: list[tuple[str, NDArray[np.float32] | None]] = []
    while True:
        maker = editor.makers.get(name)
        if maker is None or len(editor.readers(name)) != 1:
            return []
        bias = editor.values(maker.input[-1])
        if maker.op_type == 'MatMul' and bias is not None and bias.ndim == 2:
            return [_follow(editor, behind, maker, part, n, count)
                    for n, part in enumerate(np.split(bias, count, axis=1))]
        if maker.op_type == 'Relu':
            behind.append(('Relu', None))
        elif maker.op_type == 'Add' and bias is not None and bias.ndim == 1:
            behind.append(('Add', bias))
        else:
            return []
        name = maker.input[0]


def _follow(editor: Editor, behind: Sequence[tuple[str, NDArray[np.float32] | None]],
            product: onnx.NodeProto, weight: NDArray[np.float32], n: int, count: int) -> str:
    part = editor.weight(np.ascontiguousarray(weight), product.input[1])
    value = editor.put('MatMul', [product.input[0], part])
    for kind, bias in reversed(behind):
        own = [] if bias is None else [editor.constant(np.split(bias, count)[n])]
        value = editor.put(kind, [value, *own])
    return value
