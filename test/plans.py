# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of engines have in common: libraries, models, graphs that take time to build."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from bundles import info, manifest, tiny_onnx, write_tiny_bundle
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import Model
from rgbx_seg_ros.engine_tensorrt import Library, load_library
from rgbx_seg_ros.manifest import load_bundle, save_bundle

ADA = Gpu('Fake RTX 4090', (8, 9), False, 13000, 24 << 30)
GIB = 1 << 30
CAST = helper.make_node('Cast', ['rgb'], ['a'], to=TensorProto.FLOAT)
FLOATS = info('label', 1, 48, 64, 3, kind=TensorProto.FLOAT)


def real_rtx():
    """Return TensorRT-RTX itself; the test is skipped where it is not installed."""
    pytest.importorskip('tensorrt_rtx', reason='tensorrt_rtx is not installed')
    return load_library('tensorrt_rtx')


def library(gpu):
    """Return the stand-in that a fake GPU came with."""
    return Library(gpu.trt.__name__, gpu.trt, gpu.trt.__version__)


def open_model(folder, **more):
    return Model(folder, load_bundle(folder), **more)


def tiny_model(tmp_path):
    return open_model(write_tiny_bundle(tmp_path / 'bundle'))


def graph_file(tmp_path, nodes, output, opset=18, **constants):
    """Write an ONNX file that needs not be one that any library runs."""
    graph = helper.make_graph(nodes, 'graph', [info('rgb', 1, 48, 64, 3)], [output], [
        numpy_helper.from_array(array, name) for name, array in constants.items()])
    path = tmp_path / 'graph.onnx'
    path.write_bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', opset)]).SerializeToString())
    return path


def convolutions(tmp_path, layers):
    """Write a graph of convolutions: a hundred of them take TensorRT-RTX a second to build."""
    rng, width = np.random.default_rng(0), 64
    nodes, last = [helper.make_node('Cast', ['rgb'], ['x'], to=TensorProto.FLOAT),
                   helper.make_node('Transpose', ['x'], ['t'], perm=[0, 3, 1, 2])], 't'
    constants = {}
    for layer in range(layers):
        shape = (width, 3 if layer == 0 else width, 3, 3)
        constants[f'w{layer}'] = rng.normal(size=shape).astype(np.float32)
        nodes += [helper.make_node('Conv', [last, f'w{layer}'], [f'c{layer}'], pads=[1] * 4),
                  helper.make_node('Erf', [f'c{layer}'], [f'e{layer}'])]
        last = f'e{layer}'
    nodes.append(helper.make_node('Identity', [last], ['deep']))
    output = info('deep', 1, width, 48, 64, kind=TensorProto.FLOAT)
    return graph_file(tmp_path, nodes, output, **constants)


def slow_bundle(tmp_path, layers=100):
    """Write the tiny bundle with convolutions that add nothing, but take time to build."""
    model, tiny = onnx.load(convolutions(tmp_path, layers)), onnx.load_from_string(tiny_onnx())
    graph = model.graph
    graph.node.extend(tiny.graph.node)
    graph.initializer.extend([*tiny.graph.initializer,
                              numpy_helper.from_array(np.array(0, np.float32), 'nothing')])
    place = next(index for index, node in enumerate(graph.node) if node.output[0] == 'sum')
    graph.node[place].output[0] = 'plain'
    for node in (helper.make_node('Add', ['plain', 'none'], ['sum']),
                 helper.make_node('Mul', ['mean', 'nothing'], ['none']),
                 helper.make_node('ReduceMean', ['deep'], ['mean'], keepdims=0)):
        graph.node.insert(place + 1, node)
    del graph.input[:], graph.output[:]
    graph.input.extend(tiny.graph.input)
    graph.output.extend(tiny.graph.output)
    model.ir_version = 9
    onnx.checker.check_model(model)
    folder = tmp_path / 'slow'
    save_bundle(folder, model.SerializeToString(), manifest())
    return folder
