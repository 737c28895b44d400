# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's graph of a few layers, with each kind of operator that precision cares about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros.manifest import FORMAT, Manifest, SceneGraph, save_bundle
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.synthetic import aux_encoding

HEIGHT, WIDTH, CHANNELS, SCENE = 32, 48, 16, 4
N_CLASSES = len(CLASS_SETS['mfnet'])


class Builder:
    """Collects nodes and constants."""

    def __init__(self, seed=0):
        self.nodes, self.weights, self.rng = [], [], np.random.default_rng(seed)

    def put(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name, values):
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, name, *shape, scale=1.0):
        return self.constant(name, (scale * self.rng.standard_normal(shape)).astype(np.float32))

    def model(self, inputs, outputs):
        graph = helper.make_graph(self.nodes, 'tiny', inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)],
                                  ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def value(name, *shape, kind=TensorProto.UINT8):
    return helper.make_tensor_value_info(name, kind, list(shape))


def images(build):
    """Put what reads both images; return the name of (1, 4, H, W) in 0..1."""
    for name in ('rgb', 'aux'):
        build.put('Cast', [name], f'{name}_float', to=TensorProto.FLOAT)
        build.put('Transpose', [f'{name}_float'], f'{name}_nchw', perm=[0, 3, 1, 2])
    build.put('Concat', ['rgb_nchw', 'aux_nchw'], 'both', axis=1)
    return build.put('Div', ['both', build.constant('range', np.float32(255))], 'unit')


def model_graph(scene=False):
    """Return model.onnx: a convolution, a normalized layer with attention to it, a classifier."""
    build, half = Builder(), (HEIGHT // 2) * (WIDTH // 2)
    unit = images(build)
    build.put('Conv', [unit, build.random('w1', CHANNELS, 4, 3, 3), build.random('b1', CHANNELS)],
              'features', pads=[1, 1, 1, 1], strides=[2, 2], kernel_shape=[3, 3])
    stats = [build.constant(f'bn_{n}', np.abs(build.rng.standard_normal(CHANNELS)
                                              ).astype(np.float32) + 0.5) for n in range(4)]
    build.put('BatchNormalization', ['features', *stats], 'batch', epsilon=1e-5)
    build.put('Relu', ['batch'], 'relu')
    shape = build.constant('flat', np.array([1, CHANNELS, half]))
    build.put('Reshape', ['relu', shape], 'rows')
    build.put('Transpose', ['rows'], 'tokens', perm=[0, 2, 1])
    ones = [build.constant(f'ln_{n}', np.full(CHANNELS, n, np.float32)) for n in (1, 0)]
    build.put('LayerNormalization', ['tokens', *ones], 'normed', axis=-1, epsilon=1e-6)
    build.put('MatMul', ['normed', build.random('w2', CHANNELS, 2 * CHANNELS, scale=0.5)], 'mixed')
    build.put('Softmax', ['mixed'], 'soft', axis=-1)
    build.put('ReduceL2', ['soft', build.constant('last', np.array([-1]))], 'length', keepdims=1)
    build.put('Div', ['soft', 'length'], 'direction')
    build.put('MatMul', ['direction', build.random('w3', 2 * CHANNELS, CHANNELS)], 'back')
    if scene:
        build.put('Concat', ['s_rgb', 's_aux'], 's_both', axis=1)
        build.put('MatMul', ['s_both', build.random('w4', 2 * SCENE, CHANNELS)], 'shift')
        build.put('Add', ['back', 'shift'], 'shifted')
    build.put('Add', ['shifted' if scene else 'back', 'normed'], 'sum')
    build.put('Transpose', ['sum'], 'columns', perm=[0, 2, 1])
    grid = build.constant('grid', np.array([1, CHANNELS, HEIGHT // 2, WIDTH // 2]))
    build.put('Reshape', ['columns', grid], 'map')
    build.put('Conv', ['map', build.random('w5', N_CLASSES, CHANNELS, 1, 1)], 'small',
              kernel_shape=[1, 1])
    size = build.constant('size', np.array([1, N_CLASSES, HEIGHT, WIDTH]))
    build.put('Resize', ['small', '', '', size], 'logits', mode='linear',
              coordinate_transformation_mode='half_pixel')
    _answer(build)
    floats = [value(name, 1, SCENE, kind=TensorProto.FLOAT) for name in ('s_rgb', 's_aux') if scene]
    return build.model([*_images_in(), *floats], [value('label', 1, HEIGHT, WIDTH),
                                                  value('confidence', 1, HEIGHT, WIDTH)])


def _answer(build):
    classes = build.constant('classes', np.array([1]))
    build.put('ArgMax', ['logits'], 'best', axis=1, keepdims=0)
    build.put('Cast', ['best'], 'best_float', to=TensorProto.FLOAT)
    build.put('Cast', ['best_float'], 'label', to=TensorProto.UINT8)
    build.put('ReduceMax', ['logits', classes], 'most', keepdims=0)
    build.put('ReduceLogSumExp', ['logits', classes], 'total', keepdims=0)
    build.put('Sub', ['most', 'total'], 'log')
    build.put('Exp', ['log'], 'probability')
    build.put('Mul', ['probability', build.constant('scale', np.float32(255))], 'scaled')
    build.put('Cast', ['scaled'], 'confidence', to=TensorProto.UINT8)


def _images_in():
    return [value('rgb', 1, HEIGHT, WIDTH, 3), value('aux', 1, HEIGHT, WIDTH, 1)]


def scene_graph():
    """Return scene.onnx: means of both images through a layer each."""
    build = Builder(1)
    images(build)
    build.put('ReduceMean', ['unit', build.constant('axes', np.array([2, 3]))], 'means', keepdims=0)
    for name in ('s_rgb', 's_aux'):
        build.put('MatMul', ['means', build.random(f'{name}_w', 4, SCENE)], name)
    return build.model(_images_in(), [value(name, 1, SCENE, kind=TensorProto.FLOAT)
                                      for name in ('s_rgb', 's_aux')])


def manifest(scene=False):
    return Manifest(FORMAT, 'test', 'tiny', 'thermal', HEIGHT, WIDTH, aux_encoding('thermal'),
                    CLASS_SETS['mfnet'], '', 'none', 'CC0-1.0', 'Apache-2.0', {},
                    scene=SceneGraph('', SCENE, 3) if scene else None)


def write_bundle(folder: Path, scene=False) -> Path:
    """Write the graphs as a bundle and return its folder."""
    save_bundle(folder, model_graph(scene).SerializeToString(), manifest(scene),
                scene_graph().SerializeToString() if scene else None)
    return folder


def pair(seed=0):
    """Return smooth random images of a bundle's size by name."""
    rng = np.random.default_rng(seed)
    coarse = [rng.integers(0, 256, (1, HEIGHT // 8, WIDTH // 8, channels)) for channels in (3, 1)]
    return {name: image.repeat(8, 1).repeat(8, 2).astype(np.uint8)
            for name, image in zip(('rgb', 'aux'), coarse, strict=True)}


def build_with_tensorrt_rtx(model):
    """Return the size of the engine that TensorRT-RTX builds of a graph, and its I/O types."""
    import tensorrt_rtx as trt

    builder = trt.Builder(logger := trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(n).desc() for n in range(parser.num_errors)]
    types = {network.get_layer(n).get_output(0).dtype for n in range(network.num_layers)}
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
    return bytes(plan), types, trt.DataType
