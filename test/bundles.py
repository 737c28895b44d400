# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny bundles made by functions: a graph whose answer a test can compute by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros.manifest import (
    AuxEncoding,
    ClassInfo,
    Manifest,
    SceneGraph,
    Vocabulary,
    save_bundle,
)
from rgbx_seg_ros.vocabulary import Bank, save_bank

CLASSES = (ClassInfo(0, 'unlabeled', (0, 0, 0)), ClassInfo(1, 'car', (64, 0, 128)),
           ClassInfo(2, 'person', (64, 64, 0)))
# The names of a bank beside those of CLASSES; each is twice as much of what one of those is, in
# this order, so that the tiny model prefers it to that one.
MORE_NAMES = ('road', 'truck', 'dog')
TEXT_WIDTH = 4
THERMAL = AuxEncoding(channels=1, range='fixed', low=263.15, high=323.15, unit='K', scale=0.01)


def manifest(height: int = 48, width: int = 64, aux: AuxEncoding = THERMAL,
             modality: str = 'thermal') -> Manifest:
    """Return a valid manifest of three classes."""
    return Manifest(format=1, family='test', name='tiny', modality=modality, height=height,
                    width=width, aux=aux, classes=CLASSES, onnx_sha256='', training_data='none',
                    data_license='CC0-1.0', model_license='Apache-2.0', scores={'miou': 0.5})


def tiny_bank() -> Bank:
    """Return the bank of a tiny bundle: the names of CLASSES, then MORE_NAMES."""
    names = (*(info.name for info in CLASSES), *MORE_NAMES)
    colors = [*(info.color for info in CLASSES), (128, 64, 128), (0, 0, 70), (255, 128, 0)]
    ones = np.eye(len(CLASSES), TEXT_WIDTH, dtype=np.float32)
    return Bank(names, tuple(f'a photo of a {name}.' for name in names), np.array(colors, np.uint8),
                np.concatenate([ones, 2 * ones]))


def tiny_onnx(height: int = 48, width: int = 64, aux_channels: int = 1,
              scene_width: int = 0, text_width: int = 0) -> bytes:
    """Return a model of the bundle contract: label = (red > 127) + (aux > 127), confidence = aux.

    The label of a pixel is thus 0, 1 or 2 and depends on both inputs, see `expected`. With a
    `scene_width`, half of each image's embedding, the largest value in it, stands for 127. With a
    `text_width` it is the first row of `classes` whose element of that index is the largest.
    """
    constants = {'zero': np.array([0], np.int64), 'axis': np.array([3], np.int64),
                 'half': np.array(0.5 if scene_width else 127.0, np.float32)}
    limits = {name: f'{name}_half' if scene_width else 'half' for name in ('rgb', 'aux')}
    nodes = [
        *[node for name in ('rgb', 'aux') if scene_width for node in (
            helper.make_node('ReduceMax', [f's_{name}'], [f'{name}_most'], keepdims=0),
            helper.make_node('Mul', [f'{name}_most', 'half'], [limits[name]]))],
        helper.make_node('Cast', ['rgb'], ['rgb_f'], to=TensorProto.FLOAT),
        helper.make_node('Cast', ['aux'], ['aux_f'], to=TensorProto.FLOAT),
        *[node for name in ('rgb', 'aux') for node in (
            helper.make_node('Gather', [f'{name}_f', 'zero'], [f'{name}_4'], axis=3),
            helper.make_node('Squeeze', [f'{name}_4', 'axis'], [f'{name}_1']),
            helper.make_node('Greater', [f'{name}_1', limits[name]], [f'{name}_b']),
            helper.make_node('Cast', [f'{name}_b'], [f'{name}_n'], to=TensorProto.FLOAT))],
        helper.make_node('Add', ['rgb_n', 'aux_n'], ['sum']),
        *([helper.make_node('Cast', ['sum'], ['label'], to=TensorProto.UINT8)]
          if not text_width else [
            helper.make_node('Cast', ['sum'], ['index'], to=TensorProto.INT64),
            helper.make_node('Transpose', ['classes'], ['columns'], perm=[1, 0]),
            helper.make_node('Gather', ['columns', 'index'], ['logits'], axis=0),
            helper.make_node('ArgMax', ['logits'], ['best'], axis=3, keepdims=0),
            helper.make_node('Cast', ['best'], ['best_f'], to=TensorProto.FLOAT),
            helper.make_node('Cast', ['best_f'], ['label'], to=TensorProto.UINT8)]),
        helper.make_node('Cast', ['aux_1'], ['confidence'], to=TensorProto.UINT8),
    ]
    inputs = [info('rgb', 1, height, width, 3), info('aux', 1, height, width, aux_channels)]
    inputs += [info(f's_{name}', 1, scene_width, kind=TensorProto.FLOAT)
               for name in ('rgb', 'aux') if scene_width]
    if text_width:
        inputs.append(info('classes', 'n_classes', text_width, kind=TensorProto.FLOAT))
    return to_bytes(nodes, inputs, [info('label', 1, height, width),
                                    info('confidence', 1, height, width)], constants)


def scene_onnx(height: int = 48, width: int = 64, aux_channels: int = 1,
               scene_width: int = 4) -> bytes:
    """Return a scene graph: each image's largest value, repeated `scene_width` times."""
    constants = {'all': np.array([1, 2, 3], np.int64), 'axis': np.array([1], np.int64),
                 'shape': np.array([1, scene_width], np.int64)}
    nodes = [node for name in ('rgb', 'aux') for node in (
        helper.make_node('Cast', [name], [f'{name}_f'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMax', [f'{name}_f', 'all'], [f'{name}_most'], keepdims=0),
        helper.make_node('Unsqueeze', [f'{name}_most', 'axis'], [f'{name}_1']),
        helper.make_node('Expand', [f'{name}_1', 'shape'], [f's_{name}']))]
    return to_bytes(nodes, [info('rgb', 1, height, width, 3),
                            info('aux', 1, height, width, aux_channels)],
                    [info(f's_{name}', 1, scene_width, kind=TensorProto.FLOAT)
                     for name in ('rgb', 'aux')], constants)


def info(name: str, *shape: int | str, kind: int = TensorProto.UINT8) -> onnx.ValueInfoProto:
    """Return what a graph says of an input or output."""
    return helper.make_tensor_value_info(name, kind, list(shape))


def to_bytes(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto],
             outputs: list[onnx.ValueInfoProto], constants: dict[str, np.ndarray]) -> bytes:
    """Return a checked ONNX file."""
    graph = helper.make_graph(nodes, 'tiny', inputs, outputs, [
        numpy_helper.from_array(array, name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def expected(rgb: np.ndarray, aux: np.ndarray,
             seen: tuple[np.ndarray, np.ndarray] | None = None,
             rows: np.ndarray | None = None) -> np.ndarray:
    """Return the label that the tiny model gives at network size.

    `seen` are the embedded images, `rows` the embeddings of the classes.
    """
    first = aux if aux.ndim == 2 else aux[..., 0]
    limits = (127, 127) if seen is None else tuple(image.max() / 2 for image in seen)
    label = (rgb[..., 0] > limits[0]).astype(np.uint8) + (first > limits[1])
    return label if rows is None else rows.argmax(0).astype(np.uint8)[label]


def write_tiny_bundle(folder: Path, height: int = 48, width: int = 64,
                      aux: AuxEncoding = THERMAL, modality: str = 'thermal',
                      vocabulary: int = 0, scene_width: int = 0) -> Path:
    """Write the tiny model as a bundle and return its folder.

    With a `vocabulary` the classes may be up to so many names of `tiny_bank`, those of CLASSES at
    first; with a `scene_width` it is of two graphs.
    """
    text_width = TEXT_WIDTH if vocabulary else 0
    own = manifest(height, width, aux, modality)
    scene = scene_onnx(height, width, aux.channels, scene_width) if scene_width else None
    bank = folder.parent / f'{folder.name}.npz' if vocabulary else None
    if bank is not None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        save_bank(bank, tiny_bank())
    own = replace(own, vocabulary=Vocabulary(text_width, vocabulary, '') if vocabulary else None,
                  scene=SceneGraph('', scene_width, 3) if scene_width else None)
    save_bundle(folder, tiny_onnx(height, width, aux.channels, scene_width, text_width), own, scene,
                bank=bank)
    if bank is not None:
        bank.unlink()
    return folder


def write_scene_bundle(folder: Path, every: int = 3, scene_width: int = 4) -> Path:
    """Write the tiny model in two graphs as a bundle and return its folder."""
    save_bundle(folder, tiny_onnx(scene_width=scene_width),
                replace(manifest(), scene=SceneGraph('', scene_width, every)),
                scene_onnx(scene_width=scene_width))
    return folder
