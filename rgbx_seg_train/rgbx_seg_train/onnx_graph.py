# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""From a torch module to a clean ONNX graph: traced, slimmed, without a trace of this machine.

TensorRT 10.3 on JetPack 6 must read it: opset 18, plain operators, shapes and constants folded.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir, optimizer
from torch import nn

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import FREE, Graph
from rgbx_seg_train.export_phases import Phases
from rgbx_seg_train.onnx_passes import LOGITS, quicken

OPSET = 18  # the oldest the exporter makes, and within what TensorRT 10.3 on JetPack 6 reads
MAX_BYTES = 2**31 - 1  # of a protobuf message, and an ONNX file is one
SMALLEST_HALVED = 256  # elements; halving the many small tensors would save nothing
SMALLEST_HIDDEN = 1 << 14  # elements of a weight that slimming need not copy about
BROADCASTING = ('Add', 'Div', 'Mul', 'Sub')
DTYPES = {'uint8': torch.uint8, 'float32': torch.float32}
FREE_NAME = 'n_classes'  # of an axis whose length is free


def to_onnx(module: nn.Module, tensors: Graph, phases: Phases, fp16_weights: bool = False,
            named: Collection[str] = ()) -> onnx.ModelProto:
    """Return what a module computes as an ONNX model with the tensors of `tensors`.

    The module may return more than the outputs: tensors that keep a name, `named`, in the graph.

    Raises:
        RgbxSegError: the weights are more than an ONNX file holds, or not in float32.

    """
    weights = sum(t.nbytes for t in (*module.parameters(), *module.buffers()))
    if weights > MAX_BYTES * (2 if fp16_weights else 1):
        halves = 'set export.fp16_weights=true or ' if weights <= 2 * MAX_BYTES else ''
        raise RgbxSegError(f'the model has {weights / 1e9:.2f} GB of weights; expected at most '
                           f'{MAX_BYTES / 1e9:.2f} GB, what an ONNX file holds; {halves}choose a '
                           'smaller preset.')
    if others := {str(p.dtype) for p in module.parameters() if p.dtype != torch.float32}:
        raise RgbxSegError(f'the model has weights in {", ".join(sorted(others))}; expected '
                           'torch.float32, in which robots compute; export it with '
                           'model.options.language.precision=fp32.')
    with phases('trace'), folded(module):
        program = _trace(module, tensors, [*tensors.outputs, *named])
        hidden = _hide_weights(program.model)
        model = ir.to_proto(program.model)
        del program
    with phases('slim'):
        # The pattern puts two Reshapes around each Gemm that it makes of MatMul and Add.
        model = onnxslim.slim(model, skip_fusion_patterns=['FusionGemm'])
        _drop_copies(model)
        _show_weights(model, hidden)
        _restore_interface(model, tensors)
        quicken(model)
        strip(model)
        if fp16_weights:
            halve_weights(model)
    return model


@contextmanager
def folded(module: nn.Module) -> Iterator[None]:
    """Let parts that can multiply their linear maps first do so: the same function, cheaper."""
    parts = [part for part in module.modules() if getattr(part, 'folded', None) is False]
    for part in parts:
        part.folded = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in parts:
            part.folded = False  # type: ignore[assignment]


def _trace(module: nn.Module, tensors: Graph, outputs: list[str]) -> torch.onnx.ONNXProgram:
    inputs = example_inputs(tensors)
    for name in ('torch.onnx', 'onnxscript'):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch warns of its own exporter's internals
        program = torch.onnx.export(module.eval(), inputs, None, dynamo=True, opset_version=OPSET,
                                    input_names=list(tensors.inputs), output_names=outputs,
                                    dynamic_shapes=dynamic_shapes(tensors),
                                    verbose=False, optimize=False)
    assert program is not None
    # What of torch's own optimization has an effect here, in a hundredth of its time.
    optimizer.fold_constants(program.model, onnx_shape_inference=True, input_size_limit=MAX_BYTES,
                             output_size_limit=MAX_BYTES)
    optimizer.remove_unused_nodes(program.model)
    return program


def example_inputs(tensors: Graph) -> tuple[torch.Tensor, ...]:
    """Return inputs to trace a module by: zeros, where a length is free ones of a usual one."""
    sized = tensors.sized(max(2, tensors.usual))  # of a length 1 tracing would make a constant
    inputs = {name: torch.zeros(*shape, dtype=DTYPES[dtype])  # type: ignore[arg-type]
              for name, (dtype, shape) in sized.inputs.items()}
    for name, (_, shape) in tensors.inputs.items():
        if FREE in shape:
            inputs[name].fill_(1)
    return tuple(inputs.values())


def dynamic_shapes(tensors: Graph) -> tuple[Any, ...] | None:
    """Return what tracing is told of axes whose length is free, for `BundleGraph.forward`."""
    most = max(2, tensors.most)  # a length that is always 1 is none that is free
    shapes = [{axis: torch.export.Dim(FREE_NAME, min=1, max=most)
               for axis, length in enumerate(shape) if length == FREE} or None
              for _, shape in tensors.inputs.values()]
    return (*shapes[:2], tuple(shapes[2:])) if any(shapes) else None


def _hide_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the large weights that only matrix products with data read; return them.

    Slimming copies the model in every round: with its weights, one of 0.6 GB took 7 GB.
    """
    graph = model.graph
    varying, blocked = set(graph.inputs), set(graph.outputs)
    for node in graph:  # in topological order
        varies = any(value in varying for value in node.inputs)
        if varies:
            varying.update(node.outputs)
        if not varies or node.op_type not in ('MatMul', 'Gemm'):
            blocked.update(value for value in node.inputs if value is not None)
    hidden = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if value not in blocked and tensor is not None and tensor.size >= SMALLEST_HIDDEN:
            hidden[name] = tensor
            del graph.initializers[name]
            graph.inputs.append(value)
    return hidden


def _drop_copies(model: onnx.ModelProto) -> None:
    """Take out each Resize to its own size, and each Expand before operators that broadcast."""
    graph = model.graph
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
              for info in graph.value_info}
    kept = {tensor.name for tensor in graph.output}
    for node in [node for node in graph.node if node.op_type in ('Expand', 'Resize')]:
        source, copy = node.input[0], node.output[0]
        readers = [other for other in graph.node if copy in other.input]
        if copy not in shapes or copy in kept:
            continue
        if node.op_type == 'Expand':
            superfluous = all(other.op_type in BROADCASTING and [
                shapes.get(name) for name in other.input if name != copy] == [shapes[copy]]
                for other in readers)
        else:
            superfluous = shapes.get(source) == shapes[copy]
        if superfluous:
            for other in readers:
                other.input[list(other.input).index(copy)] = source
            graph.node.remove(node)


def _show_weights(model: onnx.ModelProto, hidden: dict[str, ir.TensorProtocol]) -> None:
    """Give the weights that were hidden back, without those that lost their use."""
    used = {name for node in model.graph.node for name in node.input}
    for name in list(hidden):
        tensor = hidden.pop(name)
        if name in used:
            model.graph.initializer.append(ir.to_proto(tensor))


def _restore_interface(model: onnx.ModelProto, tensors: Graph) -> None:
    """Leave the outputs of `tensors` alone, and all of its inputs, those without a use too."""
    outputs = [tensor for tensor in model.graph.output if tensor.name in tensors.outputs]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
                                      [FREE_NAME if n == FREE else n for n in shape])
        for name, (dtype, shape) in tensors.inputs.items())


def strip(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine or the source code: the robot's engine key is a hash."""
    model.producer_name, model.producer_version, model.doc_string = 'rgbx_export', '', ''
    del model.metadata_props[:]
    graph = model.graph
    graph.name, graph.doc_string = 'rgbx_seg', ''
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ''
        del item.metadata_props[:]
    for number, node in enumerate(graph.node):
        node.name = f'{node.op_type}_{number}'


def halve_weights(model: onnx.ModelProto) -> None:
    """Store large float weights as float16, cast back to float when the graph is loaded."""
    casts = []
    # These enlarge images: rounding them would show.
    exact = {name for node in model.graph.node for name in node.input
             if node.output[0].startswith(LOGITS)}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < SMALLEST_HALVED:
            continue
        if tensor.name in exact or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f'{name}_half'))
        casts.append(helper.make_node('Cast', [f'{name}_half'], [name], name=f'Cast_{name}',
                                      to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def serialize(model: onnx.ModelProto) -> bytes:
    """Return the model as an ONNX file, the same bytes for the same model."""
    return model.SerializeToString(deterministic=True)


def output_suffix(name: str) -> bytes:
    """Return what makes the float tensor `name` one more output, written behind an ONNX file.

    Protobuf merges messages that follow each other.
    """
    more = onnx.ModelProto()
    more.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return more.SerializePartialToString()


def node_counts(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many nodes of each type a graph has, the most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())
