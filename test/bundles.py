# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Tiny bundles made by functions: a graph whose answer a test can compute by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rgbx_seg_ros.manifest import AuxEncoding, ClassInfo, Manifest, save_bundle

CLASSES = (ClassInfo(0, 'unlabeled', (0, 0, 0)), ClassInfo(1, 'car', (64, 0, 128)),
           ClassInfo(2, 'person', (64, 64, 0)))
THERMAL = AuxEncoding(channels=1, range='fixed', low=263.15, high=323.15, unit='K', scale=0.01)


def manifest(height: int = 48, width: int = 64, aux: AuxEncoding = THERMAL,
             modality: str = 'thermal') -> Manifest:
    """Return a valid manifest of three classes."""
    return Manifest(format=1, family='test', name='tiny', modality=modality, height=height,
                    width=width, aux=aux, classes=CLASSES, onnx_sha256='', training_data='none',
                    data_license='CC0-1.0', model_license='Apache-2.0', scores={'miou': 0.5})


def tiny_onnx(height: int = 48, width: int = 64, aux_channels: int = 1) -> bytes:
    """Return a model of the bundle contract: label = (red > 127) + (aux > 127), confidence = aux.

    The label of a pixel is thus 0, 1 or 2 and depends on both inputs, see `expected`.
    """
    def info(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.UINT8, list(shape))

    constants = {'zero': np.array([0], np.int64), 'axis': np.array([3], np.int64),
                 'half': np.array(127.0, np.float32)}
    nodes = [
        helper.make_node('Cast', ['rgb'], ['rgb_f'], to=TensorProto.FLOAT),
        helper.make_node('Cast', ['aux'], ['aux_f'], to=TensorProto.FLOAT),
        *[node for name in ('rgb', 'aux') for node in (
            helper.make_node('Gather', [f'{name}_f', 'zero'], [f'{name}_4'], axis=3),
            helper.make_node('Squeeze', [f'{name}_4', 'axis'], [f'{name}_1']),
            helper.make_node('Greater', [f'{name}_1', 'half'], [f'{name}_b']),
            helper.make_node('Cast', [f'{name}_b'], [f'{name}_n'], to=TensorProto.FLOAT))],
        helper.make_node('Add', ['rgb_n', 'aux_n'], ['sum']),
        helper.make_node('Cast', ['sum'], ['label'], to=TensorProto.UINT8),
        helper.make_node('Cast', ['aux_1'], ['confidence'], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes, 'tiny', [info('rgb', 1, height, width, 3), info('aux', 1, height, width,
                                                               aux_channels)],
        [info('label', 1, height, width), info('confidence', 1, height, width)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def expected(rgb: np.ndarray, aux: np.ndarray) -> np.ndarray:
    """Return the label that the tiny model gives at network size."""
    first = aux if aux.ndim == 2 else aux[..., 0]
    return (rgb[..., 0] > 127).astype(np.uint8) + (first > 127)


def write_tiny_bundle(folder: Path, height: int = 48, width: int = 64,
                      aux: AuxEncoding = THERMAL, modality: str = 'thermal') -> Path:
    """Write the tiny model as a bundle and return its folder."""
    save_bundle(folder, tiny_onnx(height, width, aux.channels),
                manifest(height, width, aux, modality))
    return folder
