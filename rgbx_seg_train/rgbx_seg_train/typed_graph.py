# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An exported ONNX graph made ready for a change of its types, and what such a change must know."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.graph_editor import infer

FLOAT = TensorProto.FLOAT
# Operators whose meaning changed between opsets 18 and 22.
CHANGED = ('GroupNormalization', 'DFT', 'GridSample')


def prepare(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of an exported graph of at least an opset, its weights plain float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = next(own for own in copy.opset_import if own.domain == '')
    for node in copy.graph.node:
        inner = any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute)
        if inner or (node.op_type in CHANGED and found.version < opset):
            raise RgbxSegError(f'the graph holds {node.op_type}, which cannot be converted to '
                               f'opset {opset}; expected a graph of `rgbx_export`.')
    found.version = max(found.version, opset)
    _fold_constants(copy.graph)
    _split_batch_norms(copy.graph)
    return copy


def _fold_constants(graph: onnx.GraphProto) -> None:
    """Make initializers of Constant nodes and of halved weights that are cast back."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        value = next((a.t for a in node.attribute if a.name == 'value'), None)
        source = weights.get(node.input[0]) if node.op_type == 'Cast' else None
        if node.op_type == 'Constant' and value is not None:
            new = onnx.TensorProto()
            new.CopyFrom(value)
        elif source is not None and helper.get_node_attr_value(node, 'to') == FLOAT:
            new = numpy_helper.from_array(numpy_helper.to_array(source).astype(np.float32))
        else:
            continue
        new.name = node.output[0]
        graph.initializer.append(new)
        graph.node.remove(node)
    drop_unused_weights(graph)


def _split_batch_norms(graph: onnx.GraphProto) -> None:
    """Write BatchNormalization as Mul and Add: no library then mixes its types."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type != 'BatchNormalization' or not all(n in weights for n in node.input[1:]):
            continue
        scale, bias, mean, var = (numpy_helper.to_array(weights[name]).astype(np.float64)
                                  for name in node.input[1:])
        factor = scale / np.sqrt(var + helper.get_node_attr_value(node, 'epsilon'))
        out, shape = node.output[0], (-1, 1, 1)
        for name, values in ((f'{out}_factor', factor), (f'{out}_offset', bias - mean * factor)):
            graph.initializer.append(numpy_helper.from_array(
                values.astype(np.float32).reshape(shape), name))
        graph.node.insert(place + 1, helper.make_node('Add', [f'{out}_scaled', f'{out}_offset'],
                                                      [out]))
        node.CopyFrom(helper.make_node('Mul', [node.input[0], f'{out}_factor'], [f'{out}_scaled']))
    drop_unused_weights(graph)


class TypedGraph:
    """A graph with what the pass asks of it: types, constants, who makes and who reads a value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Look through a graph; RgbxSegError if the type of a value is not known."""
        self.model, self.nodes = model, list(model.graph.node)
        self.opset = next(own.version for own in model.opset_import if own.domain == '')
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types, self.shapes = _types(model)
        self.maker = {name: n for n, node in enumerate(self.nodes) for name in node.output}
        self.readers: dict[str, list[int]] = {}
        for n, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(n)
        self.outputs = {tensor.name for tensor in model.graph.output}

    def is_float(self, name: str) -> bool:
        """Return whether a value is float32."""
        return self.types.get(name) == FLOAT

    def made_by(self, node: onnx.NodeProto) -> Iterator[int | None]:
        """Yield the node behind each input that is no constant; None for inputs of the graph."""
        for name in node.input:
            if name and name not in self.weights:
                yield self.maker.get(name)

    def read_by(self, node: onnx.NodeProto) -> Iterator[int | None]:
        """Yield the nodes that read what a node makes, None for outputs of the graph."""
        for name in node.output:
            yield from self.readers.get(name, [])
            if name in self.outputs:
                yield None

    def ports(self, node: onnx.NodeProto) -> Iterator[tuple[str, bool, Collection[str]]]:
        """Yield name, whether it is an input, and the ONNX types it may have, of float values."""
        schema = onnx.defs.get_schema(node.op_type, self.opset, node.domain)
        allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        for names, formal, incoming in ((node.input, schema.inputs, True),
                                        (node.output, schema.outputs, False)):
            for n, name in enumerate(names):
                if self.is_float(name):
                    kind = formal[min(n, len(formal) - 1)].type_str
                    yield name, incoming, allowed.get(kind, (kind,))


def _types(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, list[int]]]:
    """Return element type and shape of each value; of the weights only the small are read."""
    graph, known = model.graph, infer(model)
    types = {info.name: info.type.tensor_type.elem_type for info in known}
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
              for info in known}
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise RgbxSegError(f'the type of {name}, made by {node.op_type}, is not known; '
                                   'expected a graph of `rgbx_export`; export the bundle again.')
    for tensor in graph.initializer:
        types[tensor.name], shapes[tensor.name] = tensor.data_type, list(tensor.dims)
    return types, shapes


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        del graph.initializer[:]
        graph.initializer.extend(kept)
