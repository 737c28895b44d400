# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""OpenVINO and ONNX Runtime on a processor: the graph's own answer, one sentence for each fault."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from bundles import (
    expected,
    info,
    manifest,
    scene_onnx,
    tiny_onnx,
    to_bytes,
    write_scene_bundle,
    write_tiny_bundle,
)
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from rgbx_seg_ros import RgbxSegError, engine_onnxruntime, engine_openvino
from rgbx_seg_ros.engine import BackendUnavailable, Model, open_engine
from rgbx_seg_ros.engine_onnxruntime import OnnxRuntimeEngine
from rgbx_seg_ros.engine_openvino import OpenVinoEngine
from rgbx_seg_ros.manifest import SceneGraph, Variant, load_bundle, save_bundle, sha256_of

ENGINES = {'openvino': OpenVinoEngine, 'onnxruntime': OnnxRuntimeEngine}
both = pytest.mark.parametrize('backend', ENGINES)
HEIGHT, WIDTH = 48, 64


def pair(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(rng.integers(0, 256, (1, HEIGHT, WIDTH, channels), np.uint8)
                 for channels in (3, 1))


def network():
    """Return a convolution of both images with three classes, then label and confidence."""
    rng = np.random.default_rng(3)
    constants = {'weight': rng.normal(0, 0.02, (3, 4, 3, 3)).astype(np.float32),
                 'axis': np.array([1], np.int64), 'most': np.array(255, np.float32)}
    cast, transpose = TensorProto.FLOAT, [0, 3, 1, 2]
    nodes = [
        *[node for name in ('rgb', 'aux') for node in (
            helper.make_node('Cast', [name], [f'{name}_f'], to=cast),
            helper.make_node('Transpose', [f'{name}_f'], [f'{name}_t'], perm=transpose))],
        helper.make_node('Concat', ['rgb_t', 'aux_t'], ['both'], axis=1),
        helper.make_node('Conv', ['both', 'weight'], ['logits'], pads=[1, 1, 1, 1]),
        helper.make_node('Softmax', ['logits'], ['shares'], axis=1),
        helper.make_node('ArgMax', ['logits'], ['id'], axis=1, keepdims=0),
        helper.make_node('Cast', ['id'], ['id_f'], to=cast),
        helper.make_node('Cast', ['id_f'], ['label'], to=TensorProto.UINT8),
        helper.make_node('ReduceMax', ['shares', 'axis'], ['share'], keepdims=0),
        helper.make_node('Mul', ['share', 'most'], ['scaled']),
        helper.make_node('Cast', ['scaled'], ['confidence'], to=TensorProto.UINT8),
    ]
    return to_bytes(nodes, [info('rgb', 1, HEIGHT, WIDTH, 3), info('aux', 1, HEIGHT, WIDTH, 1)],
                    [info(name, 1, HEIGHT, WIDTH) for name in ('label', 'confidence')], constants)


def model_of(folder, **changes):
    return Model(folder, load_bundle(folder), **changes)


@both
def test_the_answer_is_that_of_the_graph(tmp_path, backend):
    save_bundle(tmp_path / 'b', network(), manifest())
    engine = ENGINES[backend](model_of(tmp_path / 'b'))
    oracle = ReferenceEvaluator(onnx.load_from_string(network()))
    for seed in range(3):
        rgb, aux = pair(seed)
        label, confidence = engine(rgb, aux)
        wanted, share = oracle.run(None, {'rgb': rgb, 'aux': aux})
        assert label.dtype == confidence.dtype == np.uint8
        assert (label == wanted).mean() > 0.999 and len(np.unique(wanted)) == 3
        assert np.abs(confidence.astype(int) - share).max() <= 1
    assert (engine.info.backend, engine.info.device, engine.info.precision) == (
        backend, 'cpu', 'fp32')
    assert (engine.info.rgb_size, engine.info.aux_size) == ((HEIGHT, WIDTH), (HEIGHT, WIDTH))


@both
def test_the_next_run_may_overwrite_an_answer_and_no_run_writes_to_an_image(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_tiny_bundle(tmp_path / 'b')))
    answers = []
    for seed in range(2):
        rgb, aux = pair(seed)
        kept = rgb.copy(), aux.copy()
        answers.append([array.copy() for array in engine(rgb, aux)])
        np.testing.assert_array_equal(rgb, kept[0])
        np.testing.assert_array_equal(aux, kept[1])
    for seed, (label, confidence) in enumerate(answers):
        np.testing.assert_array_equal(label, expected(*pair(seed)))
        np.testing.assert_array_equal(confidence, pair(seed)[1][..., 0])


@both
def test_outputs_stay_in_the_same_memory(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_tiny_bundle(tmp_path / 'b')))
    places = {tuple(array.__array_interface__['data'][0] for array in engine(*pair(seed)))
              for seed in range(4)}
    assert len(places) == 1


@both
def test_read_only_images_are_taken(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_tiny_bundle(tmp_path / 'b')))
    rgb, aux = pair()
    rgb.setflags(write=False)
    aux.setflags(write=False)
    np.testing.assert_array_equal(engine(rgb, aux)[0], expected(rgb, aux))


@both
def test_two_graphs_take_the_scene_that_is_given(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_scene_bundle(tmp_path / 'b')))
    first, second = pair(0), (pair(1)[0] // 2, pair(1)[1] // 3)
    scene = engine.embed(*second)
    assert (scene[0].dtype, scene[0].shape) == (np.float32, (1, 4))
    kept = tuple(array.copy() for array in scene)
    np.testing.assert_array_equal(engine(*first, kept)[0], expected(*first, seen=second))
    np.testing.assert_array_equal(engine(*first)[0], expected(*first, seen=first))


def renamed(content):
    return content.replace(b's_rgb', b'c_rgb').replace(b's_aux', b'c_aux')  # of the same length


@both
def test_what_a_scene_hands_over_may_be_called_anything(tmp_path, backend):
    own = replace(manifest(), scene=SceneGraph('', 4, 3, ('c_rgb', 'c_aux')))
    save_bundle(tmp_path / 'b', renamed(tiny_onnx(scene_width=4)), own, renamed(scene_onnx()))
    engine = ENGINES[backend](model_of(tmp_path / 'b'))
    first, second = pair(0), (pair(1)[0] // 2, pair(1)[1] // 3)
    kept = tuple(array.copy() for array in engine.embed(*second))
    np.testing.assert_array_equal(engine(*first, kept)[0], expected(*first, seen=second))
    np.testing.assert_array_equal(engine(*first)[0], expected(*first, seen=first))


@both
def test_a_scene_may_hand_over_one_tensor(tmp_path, backend):
    inputs = [info('rgb', 1, HEIGHT, WIDTH, 3), info('aux', 1, HEIGHT, WIDTH, 1)]
    code = info('codebook', 1, 2, kind=TensorProto.FLOAT)
    read = [helper.make_node('Cast', ['aux'], ['aux_f'], to=TensorProto.FLOAT)]
    most = [helper.make_node('ReduceMax', ['aux_f', 'all'], ['most'], keepdims=0),
            helper.make_node('Expand', ['most', 'shape'], ['codebook'])]
    scene = to_bytes([*read, *most], inputs, [code], {
        'all': np.array([1, 2, 3], np.int64), 'shape': np.array([1, 2], np.int64)})
    answer = [helper.make_node('ReduceMax', ['codebook'], ['limit'], keepdims=0),
              helper.make_node('Squeeze', ['aux_f', 'last'], ['image']),
              helper.make_node('Equal', ['image', 'limit'], ['is_most']),
              *(helper.make_node('Cast', ['is_most'], [name], to=TensorProto.UINT8)
                for name in ('label', 'confidence'))]
    network = to_bytes([*read, *answer], [*inputs, code],
                       [info(name, 1, HEIGHT, WIDTH) for name in ('label', 'confidence')],
                       {'last': np.array([3], np.int64)})
    save_bundle(tmp_path / 'b', network,
                replace(manifest(), scene=SceneGraph('', 2, 3, ('codebook',))), scene)
    engine = ENGINES[backend](model_of(tmp_path / 'b'))
    rgb, aux = pair()
    kept = np.array(engine.embed(rgb, aux // 2)[0])
    assert kept.shape == (1, 2)
    np.testing.assert_array_equal(engine(rgb, aux)[0], aux[..., 0] == aux.max())
    np.testing.assert_array_equal(engine(rgb, aux, (kept,))[0], aux[..., 0] == aux.max() // 2)


@both
def test_one_graph_embeds_no_scene(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_tiny_bundle(tmp_path / 'b')))
    with pytest.raises(RgbxSegError, match=r'no scene\.onnx; expected one of two graphs'):
        engine.embed(*pair())


@both
def test_a_closed_engine_says_so(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_scene_bundle(tmp_path / 'b')))
    engine.close()
    engine.close()
    for call in (engine, engine.embed):
        with pytest.raises(RgbxSegError, match='the engine is closed; open it again'):
            call(*pair())


@both
def test_images_of_another_size_are_refused_in_one_sentence(tmp_path, backend):
    engine = ENGINES[backend](model_of(write_tiny_bundle(tmp_path / 'b')))
    rgb, aux = pair()
    with pytest.raises(RgbxSegError, match=r'could not run model\.onnx .*; expected images') as e:
        engine(rgb[:, :-1], aux)
    assert '\n' not in str(e.value)
    np.testing.assert_array_equal(engine(rgb, aux)[0], expected(rgb, aux))  # it goes on


def unknown_operator():
    model = onnx.load_from_string(tiny_onnx())
    next(node for node in model.graph.node if node.op_type == 'Add').op_type = 'Frobnicate'
    return model.SerializeToString()


@both
@pytest.mark.parametrize('content', [
    tiny_onnx()[:-200], tiny_onnx()[:40], b'', unknown_operator(),
], ids=['half', 'start', 'empty', 'operator'])
def test_a_file_it_cannot_read_is_one_sentence_with_the_path(tmp_path, backend, content):
    save_bundle(tmp_path / 'b', content, manifest())
    with pytest.raises(BackendUnavailable, match='cannot load it .*; export the bundle') as error:
        ENGINES[backend](model_of(tmp_path / 'b'))
    assert str(tmp_path / 'b' / 'model.onnx') in str(error.value)
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


@both
@pytest.mark.parametrize(('content', 'reason'), [
    (tiny_onnx(height=40), r'tensor "rgb" .* \(1, 40, 64, 3\); the manifest expects uint8 '),
    (scene_onnx(), 'no tensor "label"'),
    (tiny_onnx(scene_width=4), 'further input s_'),
])
def test_a_graph_that_breaks_the_contract_is_refused(tmp_path, backend, content, reason):
    save_bundle(tmp_path / 'b', content, manifest())
    with pytest.raises(RgbxSegError, match=reason) as error:
        ENGINES[backend](model_of(tmp_path / 'b'))
    assert not isinstance(error.value, BackendUnavailable)  # no other library would take it


def test_two_engines_live_in_one_process(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'b')
    engines = [make(model_of(folder)) for make in (*ENGINES.values(), *ENGINES.values())]
    for seed in range(3):
        for engine in engines:
            np.testing.assert_array_equal(engine(*pair(seed))[0], expected(*pair(seed)))
    engines[0].close()
    np.testing.assert_array_equal(engines[2](*pair())[0], expected(*pair()))


def resident():
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


@both
def test_opening_and_closing_keeps_no_memory(tmp_path, backend):
    folder = write_tiny_bundle(tmp_path / 'b')
    after = []
    for _ in range(16):
        engine = ENGINES[backend](model_of(folder))
        engine(*pair())
        engine.close()
        after.append(resident())
    assert after[-1] - after[5] < 8  # MB


def test_openvino_runs_a_variant_in_its_own_format(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'b')
    (folder / 'int8_openvino').mkdir()
    ov = engine_openvino.ov
    place = folder / 'int8_openvino' / 'model.xml'
    ov.save_model(ov.Core().read_model(str(folder / 'model.onnx')), str(place))
    files = {file.name: sha256_of(file) for file in place.parent.iterdir()}
    assert files.keys() == {'model.xml', 'model.bin'}
    variant = Variant('int8_openvino', 'int8', ('openvino',), files, 0.999, None, 3)
    engine = OpenVinoEngine(model_of(folder, variant=variant, precision='int8'))
    assert engine.info.precision == 'int8'
    np.testing.assert_array_equal(engine(*pair())[0], expected(*pair()))


def test_openvino_computes_in_bf16_only_where_the_processor_does(tmp_path):
    model = model_of(write_tiny_bundle(tmp_path / 'b'), precision='bf16')
    ov = engine_openvino.ov
    if 'BF16' in ov.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        assert OpenVinoEngine(model).info.precision == 'bf16'
    else:
        with pytest.raises(BackendUnavailable, match='does not compute in bf16 .*AVX512_BF16 or'):
            OpenVinoEngine(model)
    with pytest.raises(RgbxSegError, match='openvino runs no fp16 .*expected one of fp32, int8'):
        OpenVinoEngine(replace(model, precision='fp16'))


def test_openvino_without_a_processor_for_it_is_unavailable(tmp_path, monkeypatch):
    model = model_of(write_tiny_bundle(tmp_path / 'b'))
    monkeypatch.setattr(engine_openvino, 'DEVICE', 'CPU_OF_1999')
    with pytest.raises(BackendUnavailable, match=r'with SSE4\.2: choose backend onnxruntime'):
        OpenVinoEngine(model)


def test_openvino_asks_nothing_of_the_network_and_writes_nothing_home(tmp_path):
    """In a new process, whose socket module tells, and whose home is an empty folder."""
    folder = write_tiny_bundle(tmp_path / 'b')
    home = tmp_path / 'home'
    home.mkdir()
    code = ('import socket, sys\n'
            'def refuse(*args, **more): print("NETWORK", args, flush=True); raise OSError\n'
            'socket.socket = socket.getaddrinfo = socket.create_connection = refuse\n'
            'from pathlib import Path\n'
            'from rgbx_seg_ros.engine import open_engine\n'
            f'open_engine(Path({str(folder)!r}), "openvino")[0].close()\n'
            'print([name for name in sys.modules if name.startswith("openvino_telemetry")])\n')
    environment = {**os.environ, 'HOME': str(home)}
    done = subprocess.run([sys.executable, '-c', code], env=environment, text=True, check=True,
                          capture_output=True, timeout=60)
    assert done.stdout.split() == ['[]']
    assert list(home.iterdir()) == []


def test_a_telemetry_that_others_imported_is_left_to_them():
    code = ('import sys, types\n'
            'sys.modules["openvino_telemetry"] = theirs = types.ModuleType("theirs")\n'
            'import rgbx_seg_ros.engine_openvino\n'
            'assert sys.modules["openvino_telemetry"] is theirs\n')
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)


def test_onnxruntime_without_cuda_is_unavailable(tmp_path):
    if engine_onnxruntime.CUDA in engine_onnxruntime.ort.get_available_providers():
        pytest.skip('this onnxruntime has CUDA')
    with pytest.raises(BackendUnavailable, match='has no CUDAExecutionProvider here; run `pip'):
        open_engine(write_tiny_bundle(tmp_path / 'b'), 'onnxruntime_cuda')


class OtherSession:
    """A session as onnxruntime makes it where CUDA does not start: on the processor."""

    def __init__(self, session):
        self._session = session

    def __getattr__(self, name):
        return getattr(self._session, name)

    def get_providers(self):
        return ['CPUExecutionProvider']


def use_cuda(monkeypatch, providers=('CUDAExecutionProvider', 'CPUExecutionProvider')):
    """Let sessions on the processor stand for those on a GPU."""
    ort = engine_onnxruntime.ort
    real = ort.InferenceSession

    def session(path, options, wanted):
        assert wanted[0][1]['arena_extend_strategy'] == 'kSameAsRequested'
        made = OtherSession(real(path, options, ['CPUExecutionProvider']))
        made.get_providers = lambda: list(providers)
        return made

    monkeypatch.setattr(ort, 'get_available_providers', lambda: ['CUDAExecutionProvider'])
    monkeypatch.setattr(ort, 'InferenceSession', session)


def test_onnxruntime_that_falls_back_to_the_processor_is_unavailable(tmp_path, monkeypatch):
    use_cuda(monkeypatch, providers=('CPUExecutionProvider',))
    model = model_of(write_tiny_bundle(tmp_path / 'b'))
    with pytest.raises(BackendUnavailable, match='cannot start CUDAExecutionProvider; check'):
        OnnxRuntimeEngine(model, cuda=True)


def test_the_cuda_form_of_onnxruntime_gives_the_same_answer(tmp_path, monkeypatch):
    use_cuda(monkeypatch)
    engine = OnnxRuntimeEngine(model_of(write_scene_bundle(tmp_path / 'b')), cuda=True)
    assert (engine.info.backend, engine.info.device) == ('onnxruntime_cuda', 'cuda')
    np.testing.assert_array_equal(engine(*pair())[0], expected(*pair(), seen=pair()))


def test_a_gpu_that_cannot_run_the_graph_is_found_out_when_it_is_opened(tmp_path, monkeypatch):
    use_cuda(monkeypatch)
    model = model_of(write_tiny_bundle(tmp_path / 'b'))

    def fail(self, inputs):
        raise RuntimeError('no kernel image is available for execution\nmore')

    monkeypatch.setattr(engine_onnxruntime._Bound, 'run', fail)
    with pytest.raises(BackendUnavailable, match=r'cannot run model\.onnx on this GPU \(no kernel'):
        OnnxRuntimeEngine(model, cuda=True)
