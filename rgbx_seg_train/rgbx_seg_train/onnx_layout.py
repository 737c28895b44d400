# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Channels stay last between a transformer's tokens and the next convolution.

Traced graphs turn tokens (B, H, W, C) to (B, C, H, W) at once, and back behind the next few
operators that work pixel by pixel; runtimes then copy at both ends, and between. Here those
operators are moved to the tokens' side, and turning is left to what convolves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from rgbx_seg_train.graph_editor import Editor

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
AXES = {0: 0, 1: 3, 2: 1, 3: 2}  # where an axis of NCHW is in NHWC
AXES_BACK = {place: axis for axis, place in AXES.items()}
POINTWISE = ('Add', 'Sub', 'Mul', 'Div', 'Max', 'Min', 'Relu', 'Sigmoid')


def keep_channels_last(editor: Editor) -> None:
    """Move pixelwise operators behind a turn to NCHW before it."""
    _Mover(editor).move()


class _Mover:
    """Knows which NCHW values are to be had as NHWC, under which name."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._turned: dict[str, str] = {}
        self._known: dict[str, str] = {}  # of values that cost nothing to turn

    def move(self) -> None:
        editor = self._editor
        nodes, editor.nodes = editor.nodes, []
        for node in nodes:
            if node.op_type == 'Transpose':
                self._turn(node)
            elif not self._moved(node):
                editor.nodes.append(node)
        for name, turned in self._turned.items():
            if name not in editor.makers:
                editor.put('Transpose', [turned], name, perm=TO_NCHW)

    def _turn(self, node: onnx.NodeProto) -> None:
        """Note a turn to NCHW, which is written last; undo one back."""
        perm, source, result = (helper.get_node_attr_value(node, 'perm'), node.input[0],
                                node.output[0])
        if list(perm) == TO_NCHW:
            self._turned[result] = source
        if list(perm) == TO_NHWC and source in self._turned and not self._is_output(result):
            self._editor.put('Identity', [self._turned[source]], result)
            return
        if list(perm) != TO_NCHW:
            self._editor.nodes.append(node)

    def _moved(self, node: onnx.NodeProto) -> bool:
        if not any(name in self._turned for name in node.input) and not self._is_gate(node):
            return False
        if any(self._is_output(name) for name in node.output):
            return False
        if node.op_type in POINTWISE:
            return self._put(node, node.input)
        if node.op_type in ('Concat', 'Split') and len(self._shape(node.output[0])) == 4:
            data = node.input if node.op_type == 'Concat' else node.input[:1]
            axis = helper.get_node_attr_value(node, 'axis') % 4
            return self._put(node, data, axis=AXES[axis])
        if node.op_type in ('ReduceMean', 'ReduceMax') and not helper.get_node_attr_value(
                node, 'keepdims') and node.input[0] in self._turned:
            axes = self._editor.integers_of(node.input[1]) if len(node.input) > 1 else None
            if axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]:
                self._editor.put(node.op_type, [self._turned[node.input[0]],
                                                self._editor.integers([1, 2])],
                                 node.output[0], keepdims=0)
                return True
        if node.op_type == 'Expand' and node.input[0] in self._turned:
            # A product with ones: OpenVINO copies for Expand, and computes this on the way.
            shape = self._shape(node.output[0])
            ones = np.ones([shape[AXES_BACK[place]] if place == 3 else 1 for place in range(4)],
                           np.float32)
            return self._shape(node.input[0])[2:] == shape[2:] and self._write(
                node, [self._turned[node.input[0]], self._editor.constant(ones)], {}, 'Mul')
        return False

    def _is_gate(self, node: onnx.NodeProto) -> bool:
        """Return whether an Add or Mul makes an image of a row of channels and an image of one."""
        shapes = [self._shape(name) for name in node.input]
        return (node.op_type in ('Add', 'Mul') and len(shapes) == 2
                and all(len(shape) == 4 for shape in shapes)
                and all(self._is_thin(shape) for shape in shapes)
                and not self._is_thin(self._shape(node.output[0])))

    @staticmethod
    def _is_thin(shape: Sequence[int]) -> bool:
        return len(shape) == 4 and (shape[1] == 1 or shape[2] == shape[3] == 1)

    def _put(self, node: onnx.NodeProto, data: Sequence[str], **changes: int) -> bool:
        """Write a node on the other side if all that it reads is to be had there."""
        if any(not self._can(name) for name in data):
            return False
        inputs = [*(self._get(name) for name in data), *node.input[len(data):]]
        return self._write(node, inputs, changes)

    def _write(self, node: onnx.NodeProto, inputs: Sequence[str], changes: dict[str, int],
               kind: str = '') -> bool:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute} | changes
        outputs = self._editor.put_many(kind or node.op_type, inputs, len(node.output),
                                        **attributes)
        self._turned.update(zip(node.output, outputs, strict=True))
        return True

    def _can(self, name: str) -> bool:
        shape = self._shape(name)
        values = self._editor.values(name)
        if values is not None:
            return values.size == 1 or len(values.shape) in (3, 4)
        return name in self._turned or self._is_thin(shape)

    def _get(self, name: str) -> str:
        editor = self._editor
        if name in self._turned:
            return self._turned[name]
        if name not in self._known:
            values, shape = editor.values(name), self._shape(name)
            if values is None:
                shape = [shape[AXES_BACK[place]] for place in range(4)]
                self._known[name] = editor.put('Reshape', [name, editor.integers(shape)])
            elif values.size == 1:
                self._known[name] = editor.constant(values.reshape(()))
            else:
                self._known[name] = editor.constant(np.ascontiguousarray(
                    values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(TO_NHWC)))
        return self._known[name]

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._editor.shapes.get(name, ())

    def _is_output(self, name: str) -> bool:
        return name in self._editor.outputs

