# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""INT8 forms of a graph, one for each library: what suits one is slow or wrong in another.

TensorRT takes signed symmetric pairs of QuantizeLinear and DequantizeLinear, with fp16 around
them; ONNX Runtime unsigned activations with signed weights; OpenVINO its own IR, which NNCF makes.
Ranges are those of real images. Small operators stay as they are, for they would not pay for the
conversions before and behind them.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.onnx_graph import serialize, strip
from rgbx_seg_train.precision import MOVES, find_enlarging, find_images, find_logits, lower
from rgbx_seg_train.typed_graph import TypedGraph, prepare

HEAVY = 0.003  # share of all multiply-adds from which an operator is quantized
# Begin the names of what `camera_graph` and `onnx_passes` add to resize exactly.
CAMERA = ('camera_', 'logits')
WEIGHTED = ('Conv', 'Gemm', 'MatMul')
SCOPES = (WEIGHTED, ('Gemm', 'MatMul'))  # to be tried in this order: convolutions lose most
OPSET_16_BIT = 19  # QuantizeLinear takes 16-bit floats from here on, and TensorRT 10.3 reads 20
Feed = Mapping[str, NDArray[Any]]

TENSORRT: dict[str, Any] = {
    'activation_type': QuantType.QInt8, 'weight_type': QuantType.QInt8,
    'extra_options': {'ActivationSymmetric': True, 'WeightSymmetric': True, 'QuantizeBias': False,
                      'AddQDQPairToWeight': True, 'DedicatedQDQPair': True,
                      # What follows is in fp16: rounding it to INT8 first would only lose.
                      'OpTypesToExcludeOutputQuantization': list(WEIGHTED)}}
ONNXRUNTIME: dict[str, Any] = {
    'activation_type': QuantType.QUInt8, 'weight_type': QuantType.QInt8,
    'extra_options': {'WeightSymmetric': True}}


class _Reader(CalibrationDataReader):
    """Gives the calibrator its inputs."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._feeds, None)


def for_tensorrt(model: onnx.ModelProto, feeds: Sequence[Feed],
                 kinds: Sequence[str] = WEIGHTED) -> onnx.ModelProto:
    """Return a graph for TensorRT: INT8 where it pays, fp16 around it, fp32 as `precision` has it.

    `feeds` are inputs of the graph by name, `kinds` the operators that may become INT8.
    """
    quantized = _quantize(model, feeds, kinds, TENSORRT)
    _round_scales_up(quantized)
    return lower(quantized, 'fp16', opset=OPSET_16_BIT).model


def for_onnxruntime(model: onnx.ModelProto, feeds: Sequence[Feed],
                    kinds: Sequence[str] = WEIGHTED) -> onnx.ModelProto:
    """Return a graph for ONNX Runtime on processors: INT8 where it pays, fp32 around it."""
    quantized = _quantize(model, feeds, kinds, ONNXRUNTIME)
    strip(quantized)
    return quantized


def for_openvino(model: onnx.ModelProto, feeds: Sequence[Feed], folder: Path, name: str,
                 kinds: Sequence[str] = WEIGHTED) -> None:
    """Write `name`.xml and `name`.bin into a folder: the graph in OpenVINO's form, INT8 inside."""
    ov, nncf = _import_nncf()
    heavy = {node.output[0] for node in heavy_nodes(prepare(model, 0)) if node.op_type in kinds}
    named = onnx.ModelProto()
    named.CopyFrom(model)
    strip(named)  # OpenVINO calls its operators after these names
    light = {node.name for node in named.graph.node
             if node.op_type in WEIGHTED and node.output[0] not in heavy}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / 'model.onnx'
        path.write_bytes(serialize(named))
        graph = ov.Core().read_model(str(path))
        names = [op.get_friendly_name() for op in graph.get_ordered_ops()]
        left = [name for name in names if name.partition('/')[0] in light]
        with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
            quantized = nncf.quantize(
                graph, nncf.Dataset([dict(feed) for feed in feeds]), subset_size=len(feeds),
                model_type=nncf.ModelType.TRANSFORMER,
                # Smoothing would scale what feeds a weight, and with it other products of it.
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=-1)),
                ignored_scope=nncf.IgnoredScope(names=left, validate=False))
        # Names end in a count of all that this process made before.
        for number, op in enumerate(quantized.get_ordered_ops()):
            if op.get_type_name() not in ('Parameter', 'Result'):
                op.set_friendly_name(f'{op.get_type_name()}_{number}')
        ov.save_model(quantized, str(folder / f'{name}.xml'), compress_to_fp16=False)


def _import_nncf() -> tuple[Any, Any]:
    """Return OpenVINO and NNCF; without the module that would send statistics of their use."""
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise RgbxSegError(f'int8_openvino: {error.name} is not installed; run `pip install '
                           'openvino nncf`.') from None
    nncf.set_log_level(logging.ERROR)
    return openvino, nncf


def heavy_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions and products with weights that do most of the work.

    Without those that read the images or make the logits: of them INT8 shows in the labels.
    """
    graph = TypedGraph(model)
    costs = {n: _cost(graph, node) for n, node in enumerate(graph.nodes)
             if not node.output[0].startswith(CAMERA)}
    least, border = HEAVY * sum(costs.values()), _border(graph)
    return [graph.nodes[n] for n, cost in costs.items()
            if cost >= max(1, least) and _has_one_matrix(graph, graph.nodes[n])
            and not border.intersection((graph.nodes[n].input[0], graph.nodes[n].output[0]))]


def _has_one_matrix(graph: TypedGraph, node: onnx.NodeProto) -> bool:
    """Tell whether a weight is a matrix or of a convolution, and no stack of one for each head.

    Of a stack the quantizer takes the wrong axis for the channels', and ONNX Runtime refuses it.
    """
    return node.op_type == 'Conv' or all(
        len(graph.shapes[name]) <= 2 for name in node.input[:2] if name in graph.weights)


def _border(graph: TypedGraph) -> set[str]:
    """Return the images as the first layers read them, and the logits as the last one makes them.

    The logits are followed upwards through what only moves or enlarges them.
    """
    images = {name for n in find_images(graph) for name in graph.nodes[n].output}
    last, enlarging = {find_logits(graph.model)}, find_enlarging(graph)
    for n, node in reversed(list(enumerate(graph.nodes))):
        passes = n in enlarging or node.op_type in (*MOVES, 'Resize', 'Add')
        if last.intersection(node.output) and passes:
            last.update(name for name in node.input
                        if graph.is_float(name) and name not in graph.weights)
    return images | last


def _cost(graph: TypedGraph, node: onnx.NodeProto) -> int:
    """Return the multiply-adds of an operator with weights, 0 for others."""
    if node.op_type not in WEIGHTED or not set(node.input[:2]) & graph.weights.keys():
        return 0
    out = int(np.prod(graph.shapes[node.output[0]]))
    if node.op_type == 'Conv':
        return out * int(np.prod(graph.shapes[node.input[1]][1:]))
    shape = graph.shapes[node.input[0]]
    turned = any(a.name == 'transA' and a.i for a in node.attribute)
    return out * shape[-2 if turned else -1]


def _quantize(model: onnx.ModelProto, feeds: Sequence[Feed], kinds: Sequence[str],
              settings: Mapping[str, Any]) -> onnx.ModelProto:
    prepared = prepare(model, 0)
    strip(prepared)  # unique names, by which the quantizer knows the nodes
    names = [node.name for node in heavy_nodes(prepared) if node.op_type in kinds]
    # The root logger is the quantizer's; it advises a preparation that an exported graph has had.
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / 'model.onnx'
            quantize_static(prepared, path, _Reader(feeds), quant_format=QuantFormat.QDQ,
                            per_channel=True, op_types_to_quantize=list(kinds),
                            nodes_to_quantize=names, **settings)
            return onnx.load(str(path))
    finally:
        logging.root.setLevel(level)


def _round_scales_up(model: onnx.ModelProto) -> None:
    """Make the steps of quantization numbers of float16, none below its smallest normal one."""
    scales = {node.input[1] for node in model.graph.node
              if node.op_type in ('QuantizeLinear', 'DequantizeLinear')}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = np.maximum(numpy_helper.to_array(tensor), np.finfo(np.float16).tiny)
            halved = values.astype(np.float16)
            up = np.where(halved < values, np.nextafter(halved, np.float16(np.inf)), halved)
            tensor.CopyFrom(numpy_helper.from_array(up.astype(np.float32), tensor.name))
