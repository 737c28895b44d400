# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which operators must compute in fp32? Each group alone, and all groups but one, on real pairs.

A library may compute the inside of LayerNormalization, Softmax and vector lengths in 16 bits; here
they are taken apart, and each of their steps is rounded: the worst that can happen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rgbx_seg_ros.engine import BACKENDS, CLASSES, INPUTS, Model, Options
from rgbx_seg_ros.manifest import MODEL_FILE
from rgbx_seg_train.frames import Frame
from rgbx_seg_train.onnx_graph import output_suffix, serialize
from rgbx_seg_train.precision import GROUPS, TYPES, find_logits, lower, rounded
from rgbx_seg_train.typed_graph import TypedGraph


class Row(NamedTuple):
    """One line of an ablation: what stayed in fp32, and what the rest in 16 bits did."""

    kept: str
    operators: int  # in fp32
    labels: float  # share as in fp32
    error: float  # of logits: root of the mean square, relative to their standard deviation
    worst: float  # largest error, relative to the largest logit


def ablate(model: Model, precision: str, frames: Sequence[Frame]) -> list[Row]:
    """Return what each group of operators in fp32 is worth, for the graph of a bundle."""
    loaded = onnx.load(str(model.path(MODEL_FILE)))
    scenes = _scenes(model, frames)
    if (rows := model.rows()) is not None:
        scenes = [{**scene, CLASSES: rows} for scene in scenes]
    expected = _logits(loaded, frames, scenes)
    sets = {'none': (), **{f'only {name}': (name,) for name in GROUPS},
            **{f'all but {name}': tuple(other for other in GROUPS if other != name)
               for name in GROUPS}, 'all': GROUPS}
    rows = []
    for name, keep in sets.items():
        lowered = lower(loaded, precision, keep)
        found = _logits(rounded(take_apart(lowered.model)), frames, scenes)
        rows.append(_row(name, sum(lowered.kept.values()), found, expected))
    return rows


def _row(name: str, operators: int, found: Sequence[NDArray[np.float32]],
         expected: Sequence[NDArray[np.float32]]) -> Row:
    pairs = list(zip(found, expected, strict=True))
    square = np.mean([np.square(one - other).mean() for one, other in pairs])
    spread = np.mean([other.var() for other in expected])
    return Row(name, operators,
               float(np.mean([(one.argmax(1) == other.argmax(1)).mean() for one, other in pairs])),
               float(np.sqrt(square / spread)),
               max(float(np.abs(one - other).max()) for one, other in pairs)
               / max(float(np.abs(other).max()) for other in expected))


def _scenes(model: Model, frames: Sequence[Frame]) -> list[dict[str, NDArray[np.float32]]]:
    scene = model.manifest.scene
    if scene is None:
        return [{} for _ in frames]
    engine = BACKENDS['onnxruntime'](model, Options())
    scenes = [{name: value.copy() for name, value in zip(
        scene.tensors, engine.embed(frame.rgb, frame.aux), strict=True)} for frame in frames]
    engine.close()
    return scenes


def _logits(graph: onnx.ModelProto, frames: Sequence[Frame],
            scenes: Collection[Mapping[str, NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """Return the logits (1, N, H, W) of pairs."""
    name = find_logits(graph)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(serialize(graph) + output_suffix(name), options,
                                           ['CPUExecutionProvider'])
    return [session.run([name], dict(zip(INPUTS, frame[:2], strict=True), **scene))[0]
            for frame, scene in zip(frames, scenes, strict=True)]


def take_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph whose 16-bit norms and softmaxes are written out step by step."""
    types = TypedGraph(model).types
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        steps = STEPS.get(node.op_type)
        low = types[node.output[0]] in TYPES.values()
        nodes += list(steps(node, types[node.output[0]])) if steps and low else [node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _layer_norm(node: onnx.NodeProto, kind: int) -> Iterator[onnx.NodeProto]:
    out, (x, scale, *bias) = node.output[0], node.input
    axes, floor = f'{out}_axes', f'{out}_epsilon'
    epsilon = np.array(helper.get_node_attr_value(node, 'epsilon'), np.float32)
    yield _constant(axes, np.array([-1]))
    yield _constant(floor, epsilon.astype(helper.tensor_dtype_to_np_dtype(kind)))
    yield helper.make_node('ReduceMean', [x, axes], [f'{out}_mean'])
    yield helper.make_node('Sub', [x, f'{out}_mean'], [f'{out}_rest'])
    yield helper.make_node('Mul', [f'{out}_rest', f'{out}_rest'], [f'{out}_square'])
    yield helper.make_node('ReduceMean', [f'{out}_square', axes], [f'{out}_variance'])
    yield helper.make_node('Add', [f'{out}_variance', floor], [f'{out}_sum'])
    yield helper.make_node('Sqrt', [f'{out}_sum'], [f'{out}_deviation'])
    yield helper.make_node('Div', [f'{out}_rest', f'{out}_deviation'], [f'{out}_unit'])
    scaled = f'{out}_scaled' if bias else out
    yield helper.make_node('Mul', [f'{out}_unit', scale], [scaled])
    if bias:
        yield helper.make_node('Add', [scaled, *bias], [out])


def _softmax(node: onnx.NodeProto, kind: int) -> Iterator[onnx.NodeProto]:
    out, x, axes = node.output[0], node.input[0], f'{node.output[0]}_axes'
    axis = next((a.i for a in node.attribute if a.name == 'axis'), -1)
    yield _constant(axes, np.array([axis]))
    yield helper.make_node('ReduceMax', [x, axes], [f'{out}_most'])
    yield helper.make_node('Sub', [x, f'{out}_most'], [f'{out}_below'])
    yield helper.make_node('Exp', [f'{out}_below'], [f'{out}_exp'])
    yield helper.make_node('ReduceSum', [f'{out}_exp', axes], [f'{out}_sum'])
    yield helper.make_node('Div', [f'{out}_exp', f'{out}_sum'], [out])


def _length(node: onnx.NodeProto, kind: int) -> Iterator[onnx.NodeProto]:
    out, (x, *axes) = node.output[0], node.input
    keep = next((a.i for a in node.attribute if a.name == 'keepdims'), 1)
    yield helper.make_node('Mul', [x, x], [f'{out}_square'])
    yield helper.make_node('ReduceSum', [f'{out}_square', *axes], [f'{out}_sum'], keepdims=keep)
    yield helper.make_node('Sqrt', [f'{out}_sum'], [out])


def _constant(name: str, values: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node('Constant', [], [name], value=numpy_helper.from_array(values))


STEPS = {'LayerNormalization': _layer_norm, 'Softmax': _softmax, 'ReduceL2': _length}
