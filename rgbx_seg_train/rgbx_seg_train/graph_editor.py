# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""An ONNX graph being changed: who makes and who reads a value, its shape, and how to put nodes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PREFIX = 'quick_'  # of the names of new values
MOST_SCALES = 8  # of a Resize, from which the size of what it makes is told: two for each axis


class Editor:
    """A graph of fixed shapes; `write` puts the changes into the model, in an order that runs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Look through a model."""
        self._graph = model.graph
        self.shapes = _shapes(model)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes = list(model.graph.node)
        # A float16 weight that is cast to float32 when the graph is loaded is a weight too.
        self.stored = {node.output[0]: node.input[0] for node in self.nodes
                       if node.op_type == 'Cast' and node.input[0] in self.weights}
        self.outputs = {tensor.name for tensor in model.graph.output}
        taken = (re.match(f'{PREFIX}([0-9]+)', name) for name in (*self.weights, *self.makers))
        self._count = max((int(match[1]) for match in taken if match), default=0)

    @property
    def makers(self) -> dict[str, onnx.NodeProto]:
        """Return the node that makes each value."""
        return {name: node for node in self.nodes for name in node.output}

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a value."""
        return [node for node in self.nodes if name in node.input]

    def only(self, kind: str) -> onnx.NodeProto | None:
        """Return the one node of a type, or None if there is none or several."""
        found = [node for node in self.nodes if node.op_type == kind]
        return found[0] if len(found) == 1 else None

    def behind(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that depend on a value."""
        after, found = {name}, []
        for node in self.nodes:
            if after.intersection(node.input):
                found.append(node)
                after.update(node.output)
        return found

    def drop(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Take nodes out."""
        gone = {id(node) for node in nodes}
        self.nodes = [node for node in self.nodes if id(node) not in gone]

    def rename(self, name: str, to: str) -> None:
        """Let a value have another name, where it is made and where it is read."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for place, own in enumerate(names):
                    if own == name:
                        names[place] = to
        self.shapes[to] = self.shapes.pop(name, self.shapes.get(to, ()))

    def put(self, kind: str, inputs: Sequence[str], output: str = '', **attributes: Any) -> str:
        """Add a node of one output; return the name of what it makes."""
        output = output or self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def put_many(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any
                 ) -> list[str]:
        """Add a node of several outputs; return their names."""
        outputs = [self._name() for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs

    def constant(self, values: Any) -> str:
        """Return the name of a constant, which is kept once."""
        tensor = numpy_helper.from_array(np.asarray(values), '')
        for name, other in self.weights.items():
            if (name.startswith(PREFIX) and other.raw_data == tensor.raw_data
                    and other.dims == tensor.dims and other.data_type == tensor.data_type):
                return name
        tensor.name = self._name()
        self.weights[tensor.name] = tensor
        return tensor.name

    def weight(self, values: NDArray[Any], like: str) -> str:
        """Return the name of a float32 weight, stored in halves if `like` is."""
        if like not in self.stored:
            return self.constant(values)
        halved = self.constant(values.astype(np.float16))
        name = self.put('Cast', [halved], to=TensorProto.FLOAT)
        self.stored[name] = halved
        return name

    def integers(self, values: Sequence[int]) -> str:
        """Return the name of an int64 constant, such as a shape."""
        return self.constant(np.array(values, np.int64))

    def values(self, name: str) -> NDArray[Any] | None:
        """Return what a constant holds, a halved weight as float32; None for other values."""
        if name in self.stored:
            return numpy_helper.to_array(self.weights[self.stored[name]]).astype(np.float32)
        return numpy_helper.to_array(self.weights[name]) if name in self.weights else None

    def integers_of(self, name: str) -> list[int] | None:
        """Return a constant as a list of integers; None for other values."""
        values = self.values(name)
        return None if values is None else [int(value) for value in values.ravel()]

    def tidy(self) -> None:
        """Let readers of a copy read what it copies; take out what nothing reads."""
        for node in [node for node in self.nodes if node.op_type == 'Identity']:
            if node.output[0] not in self.outputs:
                self.drop([node])
                self.rename(node.output[0], node.input[0])
        self.nodes = self._used()

    def write(self) -> None:
        """Put nodes and weights that have a use into the model, each node behind its inputs."""
        graph = self._graph
        self.tidy()
        nodes = self.nodes
        read = {name for node in nodes for name in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(t for name, t in self.weights.items() if name in read)
        for number, node in enumerate(graph.node):
            node.name = f'{node.op_type}_{number}'

    def _used(self) -> list[onnx.NodeProto]:
        makers, done, order = self.makers, set(), []

        def visit(name: str) -> None:
            stack = [name]
            while stack:
                maker = makers.get(stack[-1])
                if maker is None or id(maker) in done:
                    stack.pop()
                    continue
                waiting = [own for own in maker.input if own in makers
                           and id(makers[own]) not in done]
                if waiting:
                    stack.extend(reversed(waiting))
                else:
                    done.add(id(maker))
                    order.append(maker)
                    stack.pop()

        for tensor in self._graph.output:
            visit(tensor.name)
        return order

    def _name(self) -> str:
        self._count += 1
        return f'{PREFIX}{self._count}'


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
            for info in infer(model)}


def infer(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return type and shape of each value; large weights are left out of what is inferred on."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = model.graph
    light.graph.name = 'inferred'
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 or math.prod(tensor.dims) <= MOST_SCALES:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)))
    found = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    return [*found.value_info, *found.input, *found.output]
