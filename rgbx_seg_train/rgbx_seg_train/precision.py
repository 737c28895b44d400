# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From a float32 graph to a strongly typed one in fp16 or bf16: precision is what the graph says.

Each operator computes either in the low precision or, where the table of docs/benchmarks/
precision.md says that it matters, in fp32; a Cast stands only where two of them meet. `rounded`
makes of the result a float32 graph that rounds as it does: a processor without 16-bit arithmetic
shows by it what a GPU will answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_train.onnx_graph import strip
from rgbx_seg_train.onnx_passes import LOGITS
from rgbx_seg_train.typed_graph import FLOAT, TypedGraph, drop_unused_weights, prepare

OPSETS = {'fp16': 18, 'bf16': 22}  # at least; ONNX knows no bf16 Conv before 22
TYPES = {'fp16': TensorProto.FLOAT16, 'bf16': TensorProto.BFLOAT16}
NAMES = {'fp16': 'float16', 'bf16': 'bfloat16'}
WITHOUT_KERNEL = {'fp16': (), 'bf16': ('ConvTranspose',)}  # of TensorRT-RTX 1.7.1
STEPS = {'fp16': 2.0**-10, 'bf16': 2.0**-7}  # from 1 to the next number
NORMS = ('ReduceL1', 'ReduceL2', 'ReduceSumSquare', 'ReduceLogSumExp', 'ReduceLogSum', 'Exp', 'Log',
         'Sqrt', 'Pow', 'Reciprocal')
MOVES = ('Reshape', 'Transpose', 'Squeeze', 'Unsqueeze', 'Expand', 'Identity', 'Flatten', 'Slice',
         'Split', 'Gather', 'Concat')  # values pass through them unchanged
FIRST = (*MOVES, 'Cast', 'Sub', 'Div', 'Mul', 'Add', 'Resize', 'Pad')  # what prepares images
# What can be left in fp32. `images`: from the inputs to the first layer; `answer`: what follows the
# logits; `enlarging`: the Resize that makes them; `norms`: lengths of vectors, and division by
# them; others are types of operators.
GROUPS = ('images', 'answer', 'enlarging', 'norms', 'LayerNormalization', 'Softmax')
# Softmax showed no loss in any of them, and attention runs as one kernel only if it is in the type
# of the products around it. Lengths showed none either, but squares are soon beyond 65504.
KEPT = ('images', 'answer', 'enlarging', 'norms', 'LayerNormalization')


class Lowered(NamedTuple):
    """A graph in a lower precision, and how many operators stayed in fp32 for which reason."""

    model: onnx.ModelProto
    kept: dict[str, int]


def lower(model: onnx.ModelProto, precision: str, keep: Collection[str] = KEPT,
          opset: int = 0) -> Lowered:
    """Return a float32 graph in 'fp16' or 'bf16', with inputs and outputs as they were.

    Operators whose constants the precision cannot hold (beyond 65504, or lost below its smallest
    step) stay in fp32 too, as do those that ONNX does not define in it or TensorRT-RTX lacks.

    Raises:
        RgbxSegError: the graph has operators that this pass does not know to treat.

    """
    prepared = prepare(model, max(opset, OPSETS[precision]))
    graph = TypedGraph(prepared)
    reasons = _reasons(graph, precision, keep)
    _keep_moves_between(graph, reasons)
    _Writer(graph, precision, reasons).write()
    drop_unused_weights(prepared.graph)
    strip(prepared)
    return Lowered(prepared, dict(Counter(reasons.values()).most_common()))


def _reasons(graph: TypedGraph, precision: str, keep: Collection[str]) -> dict[int, str]:
    """Return why operators stay in fp32, by their numbers."""
    reasons: dict[int, str] = {}
    for name, find in (('images', find_images), ('answer', _answer), ('enlarging', find_enlarging),
                       ('norms', _norms)):
        if name in keep:
            reasons |= dict.fromkeys(find(graph), name)
    low = f'tensor({NAMES[precision]})'
    for n, node in enumerate(graph.nodes):
        ports = list(graph.ports(node))
        if not ports or n in reasons:
            continue
        if node.op_type in keep:
            reasons[n] = node.op_type
        elif node.op_type == 'ConstantOfShape' or not any(low in may for _, _, may in ports) or any(
                low not in may and may != ('tensor(float)',) for _, _, may in ports):
            reasons[n] = f'{node.op_type} has no {precision}'
        elif node.op_type in WITHOUT_KERNEL[precision]:
            reasons[n] = f'TensorRT-RTX has no {node.op_type} in {precision}'
        elif any(incoming and low in may and name in graph.weights and is_lossy(
                numpy_helper.to_array(graph.weights[name]), precision)
                for name, incoming, may in ports):
            reasons[n] = f'constants that {precision} cannot hold'
    return reasons


def is_lossy(values: NDArray[np.float32], precision: str) -> bool:
    """Return whether rounding moves a value by more than half a step at the largest of them.

    So it does where a value is out of range, and where all are so small that steps are coarse.
    """
    if not values.size:
        return False
    with np.errstate(over='ignore', invalid='ignore'):
        lost = np.abs(values - _round(values, TYPES[precision]).astype(np.float32)).max()
    return not lost <= STEPS[precision] / 2 * np.abs(values).max()


def _round(values: NDArray[np.float32], kind: int) -> NDArray[Any]:
    return values.astype(helper.tensor_dtype_to_np_dtype(kind))


def find_images(graph: TypedGraph) -> set[int]:
    """Return the operators between the images and the first layer."""
    found: set[int] = set()
    images = {t.name for t in graph.model.graph.input if graph.types[t.name] == TensorProto.UINT8}
    for n, node in enumerate(graph.nodes):
        sources = {name for name in node.input if name and name not in graph.weights}
        if sources and node.op_type in FIRST and all(
                name in images or graph.maker.get(name) in found for name in sources):
            found.add(n)
    return found


def find_logits(model: onnx.ModelProto) -> str:
    """Return the name of the tensor that the labels come from; '' in a graph without labels."""
    makers = {name for node in model.graph.node for name in node.output}
    return LOGITS if LOGITS in makers else next(
        (node.input[0] for node in model.graph.node if node.op_type == 'ArgMax'), '')


def _answer(graph: TypedGraph) -> set[int]:
    """Return the operators that come after the logits."""
    after, found = {find_logits(graph.model)}, set()
    for n, node in enumerate(graph.nodes):
        if after.intersection(node.input):
            found.add(n)
            after.update(node.output)
    return found


def find_enlarging(graph: TypedGraph) -> set[int]:
    """Return the Resize that makes the logits, or the products with matrices in its place."""
    maker = graph.maker.get(find_logits(graph.model))
    if maker is None:
        return set()
    products = {n for n, node in enumerate(graph.nodes) if f'{LOGITS}_wide' in node.output}
    return {maker, *products} if products or graph.nodes[maker].op_type == 'Resize' else set()


def _norms(graph: TypedGraph) -> set[int]:
    """Return what makes lengths of vectors, and the divisions by them."""
    found, lengths = set(), set()
    for n, node in enumerate(graph.nodes):
        measures = node.op_type in NORMS and graph.is_float(node.output[0])
        passes = node.op_type in (*MOVES, 'Clip', 'Max', 'Add') and node.input[0] in lengths
        if measures or passes:
            found.add(n)
            lengths.update(node.output)
        elif node.op_type == 'Div' and node.input[1] in lengths:
            found.add(n)
    return found


def _keep_moves_between(graph: TypedGraph, reasons: dict[int, str]) -> None:
    """Leave in fp32 what only moves values from fp32 operators to fp32 operators."""
    after: set[int | None] = set(reasons)
    for n, node in enumerate(graph.nodes):
        if node.op_type in MOVES and all(m in after for m in graph.made_by(node)):
            after.add(n)
    before: set[int | None] = set(reasons)
    for n, node in reversed(list(enumerate(graph.nodes))):
        if node.op_type in MOVES and all(m in before for m in graph.read_by(node)):
            before.add(n)
            if n in after:
                reasons.setdefault(n, 'between them')


class _Writer:
    """Writes the graph anew, each operator in its precision and a Cast where two differ."""

    def __init__(self, graph: TypedGraph, precision: str, kept: Collection[int]) -> None:
        self._graph, self._kept, self._precision = graph, kept, precision
        self._type = TYPES[precision]
        self._made = {t.name: FLOAT for t in graph.model.graph.input if graph.is_float(t.name)}
        self._copies: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []

    def write(self) -> None:
        graph = self._graph.model.graph
        for n, node in enumerate(self._graph.nodes):
            if n in self._kept:
                self._put(node, {name: FLOAT for name, _, _ in self._graph.ports(node)})
            else:
                low = f'tensor({NAMES[self._precision]})'
                self._put(node, {name: self._type if low in may else FLOAT
                                 for name, _, may in self._graph.ports(node)})
        for tensor in graph.output:
            if self._made.get(tensor.name) == self._type:
                self._restore(tensor.name)
        del graph.node[:]
        graph.node.extend(self._nodes)

    def _put(self, node: onnx.NodeProto, wanted: dict[str, int]) -> None:
        for place, name in enumerate(node.input):
            if name in wanted:
                node.input[place] = self._in_type(name, wanted[name])
        for name in node.output:
            if name in wanted:
                self._made[name] = wanted[name]
                if node.op_type == 'Cast':
                    node.attribute[0].i = wanted[name]
        self._nodes.append(node)

    def _in_type(self, name: str, kind: int) -> str:
        """Return the name under which a value is to be had in a type."""
        if self._made.get(name, FLOAT) == kind:
            return name
        if (name, kind) not in self._copies:
            copy = f'{name}_{"fp32" if kind == FLOAT else self._precision}'
            self._copies[name, kind] = copy
            if name in self._graph.weights:
                values = numpy_helper.to_array(self._graph.weights[name])
                self._graph.model.graph.initializer.append(
                    numpy_helper.from_array(_round(values, kind), copy))
            else:
                self._nodes.append(helper.make_node('Cast', [name], [copy], to=kind))
        return self._copies[name, kind]

    def _restore(self, output: str) -> None:
        """Give an output of the graph its float32 back."""
        low = f'{output}_low'
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, name in enumerate(names):
                    if name == output:
                        names[place] = low
        self._nodes.append(helper.make_node('Cast', [low], [output], to=FLOAT))


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph whose values are rounded wherever `model` holds fp16 or bf16.

    ONNX Runtime computes fp16 graphs on a processor in fp32 from operator to operator, which
    hides what they lose, and bf16 ones not at all.
    """
    graph = TypedGraph(model)
    low = {name: kind for name, kind in graph.types.items() if kind in TYPES.values()}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in low:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = [made for node in copy.graph.node for made in _rounding(node, low)]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _rounding(node: onnx.NodeProto, low: dict[str, int]) -> Iterable[onnx.NodeProto]:
    """Yield a node in float32, and behind it what rounds its outputs."""
    outputs = [(place, name) for place, name in enumerate(node.output) if name in low]
    if outputs and node.op_type == 'Cast':
        node.attribute[0].i = FLOAT
    for place, name in outputs:
        node.output[place] = f'{name}_exact'
    yield node
    for _, name in outputs:
        yield helper.make_node('Cast', [f'{name}_exact'], [f'{name}_low'], to=low[name])
        yield helper.make_node('Cast', [f'{name}_low'], [name], to=FLOAT)
