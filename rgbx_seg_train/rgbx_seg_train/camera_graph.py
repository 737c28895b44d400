# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's graph with the resizing inside: images of the cameras in, masks of their size out.

On a GPU this leaves the processor one copy in and one out for each frame. The images are resized
as `segmenter.resize_to` does it, rounding after each step, and the masks exactly as
`segmenter.Enlarger` does it. Only operators that TensorRT 10.3 builds: a Cast is the first that
sees uint8, and the last.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import INPUTS, OUTPUTS, Size
from rgbx_seg_ros.manifest import MAX_SIDE
from rgbx_seg_ros.segmenter import nearest
from rgbx_seg_train.onnx_graph import strip

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
# Added before the rest is cut off: OpenCV's bilinear cuts off in between too, 0.11 on average.
BILINEAR_UP = 0.39


def with_camera(model: onnx.ModelProto, rgb_size: Size, aux_size: Size) -> onnx.ModelProto:
    """Return a graph of a bundle for images rgb of (H, W) and aux of (h, w), masks of (H, W).

    Names, types and opset stay; a size that is the network's changes nothing.

    Raises:
        RgbxSegError: a size is out of range, or the graph is none of a bundle at network size.

    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    writer = _Writer(copy)
    for name, size in zip(INPUTS, (rgb_size, aux_size), strict=True):
        if not all(1 <= side <= MAX_SIDE for side in size):
            raise RgbxSegError(f'{name}_size is {size[1]}x{size[0]}; expected sides of 1 to '
                               f'{MAX_SIDE} pixels.')
        writer.take_image(name, size)
    for name in OUTPUTS:
        if name in writer.outputs:
            writer.give_mask(name, rgb_size)
    if writer.finish():
        strip(copy)
    return copy


class _Writer:
    """Puts nodes before and behind those of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take a graph to change in place."""
        self._graph = model.graph
        self._first: list[onnx.NodeProto] = []
        self._last: list[onnx.NodeProto] = []
        self._inputs = {tensor.name: tensor for tensor in model.graph.input}
        self.outputs = {tensor.name: tensor for tensor in model.graph.output}

    def take_image(self, name: str, size: Size) -> None:
        """Let an input (1, H, W, C) be of another size."""
        casts = [node for node in self._graph.node if name in node.input]
        if name not in self._inputs or any(node.op_type != 'Cast' for node in casts):
            found = ', '.join(sorted({node.op_type for node in casts})) or 'missing'
            raise RgbxSegError(f'the input {name} of the graph is {found}; expected one that is '
                               'cast first: export the bundle again with `rgbx_export`.')
        shape = self._inputs[name].type.tensor_type.shape.dim
        network, channels = (shape[1].dim_value, shape[2].dim_value), shape[3].dim_value
        if size == network:
            return
        shape[1].dim_value, shape[2].dim_value = size
        image = self._put('Cast', [name], f'{name}_float', to=FLOAT)
        image = self._turn(image, TO_NCHW, (1, channels, *size), f'{name}_nchw')
        image = self._resize(image, name, size, network)
        for cast in casts:
            self._hand_on(cast, image, (1, *network, channels))

    def _hand_on(self, cast: onnx.NodeProto, image: str, shape: Iterable[int]) -> None:
        """Replace the cast of an input, and the transposes behind it, by an image (1, C, h, w)."""
        to, given = helper.get_node_attr_value(cast, 'to'), cast.output[0]
        if to != FLOAT:
            image = self._put('Cast', [image], f'{given}_resized', to=to)
        self._graph.node.remove(cast)
        readers = [node for node in self._graph.node if given in node.input]
        turns = [node for node in readers if node.op_type == 'Transpose'
                 and list(helper.get_node_attr_value(node, 'perm')) == TO_NCHW]
        for turn in turns:
            self._graph.node.remove(turn)
            self._rename(turn.output[0], image)
        if len(turns) < len(readers):
            turned = self._turn(image, TO_NHWC, shape, f'{given}_nhwc')
            self._rename(given, turned)

    def _resize(self, image: str, name: str, size: Size, to: Size) -> str:
        """Resize (1, C, H, W) of whole numbers to whole numbers, as `resize_to` does."""
        step = 0
        while all(side >= 2 * wanted and side % 2 == 0
                  for side, wanted in zip(size, to, strict=True)):
            size, step = (size[0] // 2, size[1] // 2), step + 1
            image = self._put('AveragePool', [image], f'{name}_half_{step}', kernel_shape=[2, 2],
                              strides=[2, 2])
            image = self._round(image, f'{name}_{step}')
        if size == to:
            return image
        up = 0.5
        if any(side > 2 * wanted for side, wanted in zip(size, to, strict=True)):
            if any(side < wanted for side, wanted in zip(size, to, strict=True)):
                raise RgbxSegError(f'{name}_size is {size[1]}x{size[0]} and the network reads '
                                   f'{to[1]}x{to[0]}; expected no side enlarged while the other '
                                   'is more than halved: crop the image, or resize it outside.')
            image = self._average(image, name, size, to)
        else:
            sizes = self._constant(f'{name}_size', np.array([*self._batch(name), *to], np.int64))
            image = self._put('Resize', [image, '', '', sizes], f'{name}_bilinear', mode='linear',
                              coordinate_transformation_mode='half_pixel')
            up = BILINEAR_UP
        return self._round(image, f'{name}_network', up)

    def _average(self, image: str, name: str, size: Size, to: Size) -> str:
        """Resize by area as two products with constant matrices, the cheaper one first."""
        (tall, wide), (height, width) = size, to
        rows = self._constant(f'{name}_rows', area_matrix(tall, height))
        columns = self._constant(f'{name}_columns', area_matrix(wide, width).T.copy())
        if height * wide * (tall + width) <= width * tall * (wide + height):
            image = self._put('MatMul', [rows, image], f'{name}_low')
            return self._put('MatMul', [image, columns], f'{name}_average')
        image = self._put('MatMul', [image, columns], f'{name}_narrow')
        return self._put('MatMul', [rows, image], f'{name}_average')

    def _round(self, image: str, name: str, up: float = 0.5) -> str:
        """Round to whole numbers: OpenCV's images are uint8 after each step."""
        added = self._constant(f'{name}_added', np.array(up, np.float32))
        return self._put('Floor', [self._put('Add', [image, added], f'{name}_up')], f'{name}_whole')

    def _turn(self, image: str, order: list[int], shape: Iterable[int], name: str) -> str:
        """Transpose to `shape`; an image of one channel is reshaped, which moves nothing."""
        shape = tuple(shape)
        if shape[order.index(3) if order == TO_NCHW else 3] > 1:
            return self._put('Transpose', [image], name, perm=order)
        to = self._constant(f'{name}_shape', np.array(shape, np.int64))
        return self._put('Reshape', [image, to], name)

    def give_mask(self, name: str, size: Size) -> None:
        """Let an output (1, H, W) be of another size."""
        shape = self.outputs[name].type.tensor_type.shape.dim
        network = shape[1].dim_value, shape[2].dim_value
        cast = next((node for node in self._graph.node if name in node.output), None)
        if cast is None or cast.op_type != 'Cast':
            raise RgbxSegError(f'the output {name} of the graph is made by '
                               f'{cast.op_type if cast else "nothing"}; expected a Cast: export '
                               'the bundle again with `rgbx_export`.')
        shape[1].dim_value, shape[2].dim_value = size
        mask = cast.input[0]
        # Rows last: they are copied as a whole.
        for axis in (2, 1):
            if size[axis - 1] != network[axis - 1]:
                shown = nearest(network[axis - 1], size[axis - 1]).astype(np.int64)
                indices = self._constant(f'{name}_shown_{axis}', shown)
                mask = self._put('Gather', [mask, indices], f'{name}_along_{axis}', last=True,
                                 axis=axis)
        if mask != cast.input[0]:
            cast.input[0] = mask
            self._graph.node.remove(cast)
            self._last.append(cast)

    def finish(self) -> bool:
        """Write the nodes into the graph, in the order in which they run; False if it has none."""
        nodes = [*self._first, *self._graph.node, *self._last]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        return bool(self._first or self._last)

    def _batch(self, name: str) -> tuple[int, int]:
        return 1, self._inputs[name].type.tensor_type.shape.dim[3].dim_value

    def _rename(self, name: str, to: str) -> None:
        for node in self._graph.node:
            for place, own in enumerate(node.input):
                if own == name:
                    node.input[place] = to

    def _put(self, kind: str, inputs: list[str], name: str, last: bool = False,
             **attributes: object) -> str:
        output = f'camera_{name}'
        node = helper.make_node(kind, inputs, [output], **attributes)
        (self._last if last else self._first).append(node)
        return output

    def _constant(self, name: str, values: NDArray) -> str:
        tensor = numpy_helper.from_array(values, f'camera_{name}')
        self._graph.initializer.append(tensor)
        return tensor.name


def area_matrix(length: int, to: int) -> NDArray[np.float32]:
    """Return the float32 (to, length) matrix of the means over `length / to` pixels each."""
    scale = length / to
    starts = np.arange(to)[:, None] * scale
    pixels = np.arange(length)
    shares = np.clip(np.minimum(starts + scale, pixels + 1) - np.maximum(starts, pixels), 0, 1)
    return (shares / shares.sum(1, keepdims=True)).astype(np.float32)
