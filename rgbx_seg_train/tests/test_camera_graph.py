# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs with the resizing inside, beside what the processor does outside of them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import guess_topics, read_images
from rgbx_seg_ros.engine import Model
from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine
from rgbx_seg_ros.manifest import (
    MODEL_FILE,
    SCENE_FILE,
    AuxEncoding,
    ClassInfo,
    Manifest,
    SceneGraph,
    Variant,
    load_bundle,
    sha256_of,
)
from rgbx_seg_ros.segmenter import Enlarger, Segmenter, resize_to
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train.camera_graph import area_matrix, with_camera

SAMPLE = Path(__file__).parents[2] / 'sample'
NETWORK = (240, 320)
# What TensorRT 10.3 and TensorRT-RTX build.
OPERATORS = {'Cast', 'Transpose', 'Reshape', 'AveragePool', 'Add', 'Floor', 'Resize', 'MatMul',
             'Gather'}


def info(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, list(shape))


def echo(network=NETWORK, channels=1, scene=0):
    """Return a graph that shows what it sees: label = red, confidence = the first aux channel."""
    rgb, aux = info('rgb', TensorProto.UINT8, 1, *network, 3), info(
        'aux', TensorProto.UINT8, 1, *network, channels)
    nodes = []
    for name, image in (('rgb', 'label'), ('aux', 'confidence')):
        nodes += [helper.make_node('Cast', [name], [f'{name}_float'], to=TensorProto.FLOAT),
                  helper.make_node('Transpose', [f'{name}_float'], [f'{name}_nchw'],
                                   perm=[0, 3, 1, 2]),
                  helper.make_node('Gather', [f'{name}_nchw', 'zero'], [f'{name}_first'], axis=1),
                  helper.make_node('Cast', [f'{name}_first'], [image], to=TensorProto.UINT8)]
    outputs = [info(name, TensorProto.UINT8, 1, *network) for name in ('label', 'confidence')]
    further = [info(f's_{name}', TensorProto.FLOAT, 1, scene) for name in ('rgb', 'aux') if scene]
    zero = onnx.numpy_helper.from_array(np.array(0, np.int64), 'zero')
    return wrap(helper.make_graph(nodes, 'echo', [rgb, aux, *further], outputs, [zero]))


def means(network=NETWORK, width=3):
    """Return a scene graph: the mean of each channel of rgb, and of aux, in 0..255."""
    nodes = [node for name in ('rgb', 'aux') for node in (
        helper.make_node('Cast', [name], [f'{name}_float'], to=TensorProto.FLOAT),
        helper.make_node('ReduceMean', [f'{name}_float', 'sides'], [f'{name}_mean'], keepdims=0),
        helper.make_node('Expand', [f'{name}_mean', 'shape'], [f's_{name}']))]
    constants = [onnx.numpy_helper.from_array(np.array(values, np.int64), name)
                 for name, values in (('sides', [1, 2]), ('shape', [1, width]))]
    inputs = [info('rgb', TensorProto.UINT8, 1, *network, 3),
              info('aux', TensorProto.UINT8, 1, *network, 1)]
    outputs = [info(f's_{name}', TensorProto.FLOAT, 1, width) for name in ('rgb', 'aux')]
    return wrap(helper.make_graph(nodes, 'means', inputs, outputs, constants))


def wrap(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, **inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, inputs)


def scenery(height, width, channels, seed=0):
    """Return an image like a camera's: smooth regions, edges, a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), channels))
    image = cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    image = image.reshape(height, width, channels).astype(int)
    image[height // 3:, width // 2:] = 255 - image[height // 3:, width // 2:]
    return np.clip(image + rng.integers(-9, 10, image.shape), 0, 255).astype(np.uint8)


def at_network(image, network=NETWORK):
    shape = (1, *network, image.shape[2])
    return np.ascontiguousarray(resize_to(image, *network)).reshape(shape)


@pytest.mark.parametrize(('size', 'exact'), [
    ((480, 640), 1.0),  # halved
    ((960, 1280), 1.0),  # twice, rounded in between
    ((360, 480), 0.9), ((512, 640), 0.9), ((479, 639), 0.9),  # bilinear
    ((720, 1280), 0.9), ((1080, 1920), 0.9),  # halved, then bilinear
    ((721, 1281), 0.99), ((495, 700), 0.99), ((481, 639), 0.99),  # areas
    ((120, 160), 0.9), ((100, 300), 0.9),  # enlarged
])
def test_the_network_sees_the_image_that_the_segmenter_would_show_it(size, exact):
    for channels in (1, 3):
        model = with_camera(echo(channels=channels), NETWORK, size)
        aux = scenery(*size, channels)
        rgb = scenery(*NETWORK, 3)
        _, seen = run(model, rgb=rgb[None], aux=aux[None])
        expected = at_network(aux)[..., 0]
        assert np.abs(seen.astype(int) - expected).max() <= 1
        assert (seen == expected).mean() >= exact


@pytest.mark.parametrize('size', [(480, 640), (720, 1280), (721, 1281), (120, 160), (250, 319),
                                  (1, 1), (1080, 1920)])
def test_masks_are_enlarged_to_the_bit(size):
    aux = scenery(*NETWORK, 1)
    model = with_camera(echo(), size, NETWORK)
    _, found = run(model, rgb=scenery(*size, 3)[None], aux=aux[None])
    np.testing.assert_array_equal(found[0], Enlarger(NETWORK, size)(aux[..., 0]))


def test_a_step_of_one_axis_alone_is_enlarged_too():
    model = with_camera(echo(), (240, 640), NETWORK)
    aux = scenery(*NETWORK, 1)
    _, found = run(model, rgb=scenery(240, 640, 3)[None], aux=aux[None])
    np.testing.assert_array_equal(found[0], np.repeat(aux[..., 0], 2, 1))


def test_a_graph_at_the_networks_size_is_the_bundles_own_file():
    path = SAMPLE / 'bundle' / MODEL_FILE
    same = with_camera(onnx.load(path), NETWORK, NETWORK)
    assert same.SerializeToString(deterministic=True) == path.read_bytes()


def test_the_same_sizes_give_the_same_bytes_and_leave_the_graph_as_it_was():
    model = echo()
    before = model.SerializeToString(deterministic=True)
    first, second = (with_camera(model, (721, 1281), (512, 640)) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize('graph', [echo(), echo(scene=3), means()])
@pytest.mark.parametrize('size', [(480, 640), (721, 1281), (360, 480)])
def test_a_graph_stays_valid_and_casts_first_and_last(graph, size):
    model = with_camera(graph, size, (512, 640))
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version == 18
    assert [t.name for t in model.graph.input] == [t.name for t in graph.graph.input]
    assert [t.name for t in model.graph.output] == [t.name for t in graph.graph.output]
    ours = [n for n in model.graph.node if any('camera_' in name for name in n.output)]
    assert ours and {node.op_type for node in ours} <= OPERATORS
    for node in model.graph.node:
        if {'rgb', 'aux'} & set(node.input) or {'label', 'confidence'} & set(node.output):
            assert node.op_type == 'Cast'
    assert not any(a.name == 'antialias' and a.i for node in ours for a in node.attribute)


def bundle_of(folder, sizes, scene=False):
    """Write echo's graphs for cameras of (rgb_size, aux_size) as a variant; return its Model."""
    graphs = {MODEL_FILE: echo(scene=3 if scene else 0)} | ({SCENE_FILE: means()} if scene else {})
    place = folder / 'fp32_camera'
    place.mkdir(parents=True)
    for name, graph in graphs.items():
        onnx.save(with_camera(graph, *sizes), place / name)
    files = {name: sha256_of(place / name) for name in graphs}
    variant = Variant(place.name, 'fp32', ('onnxruntime',), files, 1.0, None, 1, *sizes)
    classes = tuple(ClassInfo(n, f'{n}', (n, 0, 0)) for n in range(255))
    manifest = Manifest(1, 'echo', 'echo', 'thermal', *NETWORK, AuxEncoding(1, 'fixed', 0.0, 1.0),
                        classes, '', '', '', '', {})
    if scene:
        manifest = replace(manifest, scene=SceneGraph('', 3, 1))
    return Model(folder, manifest, variant)


def test_an_engine_opens_both_graphs_of_a_bundle_at_the_cameras_sizes(tmp_path):
    sizes = (480, 640), (512, 640)
    engine = OnnxRuntimeEngine(bundle_of(tmp_path, sizes, scene=True))  # checks the contract
    assert (engine.info.rgb_size, engine.info.aux_size) == sizes
    rgb, aux = scenery(*sizes[0], 3), scenery(*sizes[1], 1)
    scene = engine.embed(rgb[None], aux[None])
    expected = at_network(rgb).mean((1, 2))
    np.testing.assert_allclose(scene[0], expected, atol=0.05)
    np.testing.assert_allclose(scene[1][0, 0], at_network(aux).mean(), atol=0.05)
    label, confidence = engine(rgb[None], aux[None], scene)
    assert label.shape == confidence.shape == (1, 480, 640)
    other = bundle_of(tmp_path / 'other', sizes)
    with pytest.raises(RgbxSegError, match='tensor "rgb" of the model is uint8'):
        OnnxRuntimeEngine(replace(other, variant=replace(other.variant, rgb_size=NETWORK)))


def frames(number):
    """Return pairs of the sample bag: rgb (480, 640, 3) and aux uint8 (240, 320)."""
    topics = guess_topics(SAMPLE / 'bag', 'thermal')
    encoding = AuxEncoding(1, 'percentile', 5.0, 99.7, 5.0, 'K', 0.01)
    rgb, aux = (islice((m.image() for m in read_images(SAMPLE / 'bag', [topic])), 5, None, step)
                for topic, step in ((topics.rgb, 30), (topics.aux, 10)))
    return [(colors, to_uint8(raw, encoding)) for colors, raw in islice(zip(rgb, aux, strict=False),
                                                                        number)]


@pytest.mark.parametrize('size', [(480, 640), (720, 1280)])
def test_the_sample_labels_its_bag_as_it_does_with_the_resizing_outside(tmp_path, size):
    path = SAMPLE / 'bundle' / MODEL_FILE
    outside = Segmenter(OnnxRuntimeEngine(model := sample_model()), model.manifest)
    graph = with_camera(onnx.load(path), size, NETWORK)
    (tmp_path / 'camera').mkdir()
    onnx.save(graph, tmp_path / 'camera' / MODEL_FILE)
    files = {MODEL_FILE: sha256_of(tmp_path / 'camera' / MODEL_FILE)}
    variant = Variant('camera', 'fp32', ('onnxruntime',), files, 1.0, None, 1, size, NETWORK)
    inside = Segmenter(OnnxRuntimeEngine(replace(model, bundle=tmp_path, variant=variant)),
                       model.manifest)
    for rgb, aux in frames(3):
        rgb = cv2.resize(rgb, size[::-1]) if rgb.shape[:2] != size else rgb
        expected, found = outside(rgb, aux), inside(rgb, aux)
        assert found.label.shape == size
        assert (found.label == expected.label).mean() >= (1.0 if size == (480, 640) else 0.999)
        assert len(np.unique(expected.label)) >= 3


def sample_model():
    return Model(SAMPLE / 'bundle', load_bundle(SAMPLE / 'bundle'))


def test_a_mean_over_areas_counts_each_pixel_once():
    matrix = area_matrix(721, 240)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix.sum(0)[1:-1], 240 / 721, rtol=1e-4)
    np.testing.assert_array_equal(area_matrix(6, 2), np.array([[1, 1, 1, 0, 0, 0],
                                                               [0, 0, 0, 1, 1, 1]], np.float32) / 3)


@pytest.mark.parametrize(('sizes', 'words'), [
    (((0, 640), NETWORK), 'rgb_size is 640x0; expected sides of 1 to 8192'),
    ((NETWORK, (240, 9000)), 'aux_size is 9000x240; expected sides of 1'),
    (((1001, 300), NETWORK), 'rgb_size is 300x1001 and the network reads 320x240; expected no'),
])
def test_sizes_that_cannot_be_resized_are_refused(sizes, words):
    with pytest.raises(RgbxSegError, match=words):
        with_camera(echo(), *sizes)


def test_graphs_of_others_are_refused():
    model = echo()
    next(n for n in model.graph.node if n.output[0] == 'label').op_type = 'Round'
    with pytest.raises(RgbxSegError, match='output label .* made by Round; expected a Cast'):
        with_camera(model, (480, 640), NETWORK)
    model = echo()
    next(n for n in model.graph.node if 'rgb' in n.input).op_type = 'Identity'
    with pytest.raises(RgbxSegError, match='input rgb of the graph is Identity; expected one'):
        with_camera(model, (480, 640), NETWORK)


def test_tensorrt_builds_it():
    trt = pytest.importorskip('tensorrt_rtx')
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    for size in ((720, 1280), (721, 1281)):
        network = builder.create_network(
            1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        model = with_camera(echo(), size, (512, 640))
        assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
        config = builder.create_builder_config()
        assert builder.build_serialized_network(network, config) is not None
        tensors = [network.get_input(0), network.get_input(1), network.get_output(0)]
        assert [tuple(tensor.shape) for tensor in tensors] == [
            (1, *size, 3), (1, 512, 640, 1), (1, *size)]
        assert {tensor.dtype for tensor in tensors} == {trt.uint8}
