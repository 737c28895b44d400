# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle's checkpoint run by torch, beside the same bundle's graphs in ONNX Runtime.

The processor plays the GPU's part where there is none: `HostStream` holds `CudaEngine` to what
capture allows, and does nothing before it is waited for.
"""

import json
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from small_runs import HEIGHT, WIDTH, Stub, small_config, use_stub
from torch.overrides import TorchFunctionMode

from rgbx_seg_ros import RgbxSegError, selection
from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import BackendUnavailable, Graph, Model, Options, open_engine
from rgbx_seg_ros.machine import Machine
from rgbx_seg_ros.manifest import (
    CHECKPOINT_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    SCENE_FILE,
    load_bundle,
    sha256_of,
)
from rgbx_seg_ros.memory import resident_mb
from rgbx_seg_train import export as export_module
from rgbx_seg_train.checkpoint import Progress, build_model, load_checkpoint, save_checkpoint
from rgbx_seg_train.export import export
from rgbx_seg_train.export_graph import BundleGraph
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.torch_cuda import CudaEngine, to_device
from rgbx_seg_train.torch_engine import Lowered, TorchEngine, load_graph, open_checkpoint


class WithScene(torch.nn.Module):
    """The stub; what the scene scores is multiplied by, it reads off constants of its own."""

    scene_width = 3

    def __init__(self, stub):
        super().__init__()
        self.stub = stub
        self.only_of_the_scene = torch.nn.Linear(3, 3)
        with torch.no_grad():
            self.only_of_the_scene.weight.copy_(torch.eye(3))
            self.only_of_the_scene.bias.zero_()

    def embed(self, rgb, aux):
        weights = torch.tensor([1.0, 2.0, 1.0], device=rgb.device, dtype=rgb.dtype)
        return self.only_of_the_scene(rgb.mean((2, 3))), aux.mean((2, 3)) * weights

    def forward(self, rgb, aux, s_rgb=None, s_aux=None):
        if s_rgb is None:
            s_rgb, s_aux = self.embed(rgb, aux)
        return self.stub(rgb, aux) * (1 + s_rgb - s_aux).repeat(1, 3)[:, :, None, None]


def use_scene(monkeypatch):
    monkeypatch.setattr(Stub, 'merge', lambda self, modality: WithScene(self).eval())


@pytest.fixture(autouse=True)
def stub_family(monkeypatch):
    use_stub(monkeypatch)


@pytest.fixture
def scenes(monkeypatch):
    use_scene(monkeypatch)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Return bundles that no test may change: of one graph and of two."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_stub(monkeypatch)
        one = bundle(tmp_path_factory.mktemp('one'), 'name=lake', 'train.seed=9')
        use_scene(monkeypatch)
        two = bundle(tmp_path_factory.mktemp('two'), 'export.scene_every=3')
    return {'one': one, 'two': two}


@pytest.fixture
def own(made, tmp_path):
    """Return a copy of the bundle of one graph."""
    return Path(shutil.copytree(made['one'], tmp_path / 'bundle'))


def checkpoint(tmp_path, *overrides, name='trained.safetensors', n_classes=9):
    """Write what training would: weights, averages, the optimizer's state, places of files."""
    config = small_config(tmp_path, *overrides)
    torch.manual_seed(0)
    model = build_model(config, n_classes)
    with torch.no_grad():
        model.last.weight.mul_(8)
    state = {'ema': model.state_dict(), 'model': {}, 'optimizer': {'x': torch.zeros(10_000)}}
    save_checkpoint(tmp_path / name, config, n_classes, Progress(step=7), state)
    return tmp_path / name


def bundle(tmp_path, *overrides):
    folder = tmp_path / 'bundle'
    export(checkpoint(tmp_path), folder, {}, ['export.checkpoint=true', *overrides])
    return folder


def images(seed=0, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (1, height, width, 3)).astype(np.uint8),
            rng.integers(0, 256, (1, height, width, 1)).astype(np.uint8))


# ---- the checkpoint in the bundle ----

def test_a_bundle_holds_the_weights_and_nothing_of_the_machine_that_trained_them(made):
    folder = made['one']
    path, manifest = folder / CHECKPOINT_FILE, load_bundle(folder)
    assert manifest.checkpoint_sha256 == sha256_of(path)
    with safe_open(path, 'pt') as file:
        assert {name.split('/')[0] for name in file.keys()} == {'model'}  # noqa: SIM118
        text = json.dumps(file.metadata())
    assert str(folder.parent) not in text
    loaded = load_checkpoint(path)
    assert (loaded.config.name, loaded.n_classes, loaded.progress.step) == ('lake', 9, 7)
    assert path.stat().st_size < (folder.parent / 'trained.safetensors').stat().st_size / 2
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST_FILE, MODEL_FILE, CHECKPOINT_FILE]


def test_without_being_asked_a_bundle_holds_no_checkpoint(tmp_path):
    export(checkpoint(tmp_path), tmp_path / 'bundle', {})
    assert not (tmp_path / 'bundle' / CHECKPOINT_FILE).exists()
    assert load_bundle(tmp_path / 'bundle').checkpoint_sha256 == ''
    with pytest.raises(RgbxSegError, match='export the bundle with export.checkpoint=true'):
        open_engine(tmp_path / 'bundle', 'torch')


def test_the_same_checkpoint_gives_the_same_bytes(made, tmp_path):
    again = bundle(tmp_path, 'name=lake', 'train.seed=9')
    assert sha256_of(again / CHECKPOINT_FILE) == sha256_of(made['one'] / CHECKPOINT_FILE)


def test_an_export_that_fails_leaves_no_checkpoint_behind(tmp_path, monkeypatch):
    path = checkpoint(tmp_path)
    before = sorted(tmp_path.rglob('*'))

    def fail(*args):
        raise RgbxSegError('x is y; expected z.')

    monkeypatch.setattr(export_module, 'compare', fail)
    with pytest.raises(RgbxSegError, match='x is y'):
        export(path, tmp_path / 'bundle', {}, ['export.checkpoint=true'])
    assert sorted(tmp_path.rglob('*')) == before


# ---- on the processor ----

@pytest.mark.parametrize(('precision', 'least'), [('fp32', 0.999), ('bf16', 0.98), ('fp16', 0.998)])
def test_torch_gives_what_the_exported_graph_gives(made, precision, least):
    folder = made['one']
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    engine, _ = open_engine(folder, 'torch', precision)
    assert (engine.info.backend, engine.info.device, engine.info.precision) == (
        'torch', 'cpu', precision)
    for seed in range(3):
        pair = images(seed)
        (label, confidence), (expected, sure) = engine(*pair), reference(*pair)
        assert len(np.unique(expected)) >= 4
        assert (label == expected).mean() >= least
        assert np.abs(confidence.astype(int) - sure).max() <= (1 if precision == 'fp32' else 6)


def test_both_graphs_of_a_bundle_are_run(made, scenes):
    folder = made['two']
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    for precision in ('fp32', 'fp16'):
        engine, _ = open_engine(folder, 'torch', precision)
        scene = engine.embed(*images(1))
        for own, expected in zip(scene, reference.embed(*images(1)), strict=True):
            assert own.dtype == np.float32
            np.testing.assert_allclose(own, expected, atol=1e-5 if precision == 'fp32' else 5e-3)
        found, expected = engine(*images(2), scene)[0], reference(*images(2), scene)[0]
        assert (found == expected).mean() >= 0.995
        own = reference(*images(2), reference.embed(*images(2)))[0]
        assert (engine(*images(2))[0] == own).mean() >= 0.995


def test_norms_keep_their_precision(tmp_path):
    graph, _ = load_graph(checkpoint(tmp_path))
    with torch.no_grad():
        graph.merged.norm.running_var.fill_(1e-9)  # which 16 bits take for 0
    lowered = Lowered(graph.merged, torch.float16)
    assert lowered.merged.first.weight.dtype == torch.float16
    assert lowered.merged.norm.running_var.dtype == torch.float32
    assert float(lowered.merged.norm.running_var[0]) == pytest.approx(1e-9)


def test_a_precision_that_torch_has_not_is_refused(made):
    folder = made['one']
    model = Model(folder, load_bundle(folder), precision='int8')
    with pytest.raises(RgbxSegError, match='torch runs no int8; expected one of fp32, fp16, bf16'):
        open_checkpoint(folder / CHECKPOINT_FILE, model)


def test_another_file_than_the_manifest_names_is_refused(own):
    folder = own
    with (folder / CHECKPOINT_FILE).open('ab') as file:
        file.write(b'x')
    with pytest.raises(RgbxSegError, match='model.safetensors: SHA-256 is .* was exchanged'):
        open_engine(folder, 'torch')
    (folder / CHECKPOINT_FILE).unlink()
    with pytest.raises(RgbxSegError, match='model.safetensors is missing'):
        open_engine(folder, 'torch')


@pytest.mark.parametrize(('override', 'words'), [
    ('data.height=64', 'its height is 64, but that of the bundle is 32'),
    ('data.modality=depth', 'its modality is depth, but that of the bundle is thermal'),
    ('data.classes=pst900', 'its classes is .ClassInfo.* but that of the bundle is .ClassInfo'),
])
def test_a_checkpoint_that_is_not_the_bundles_is_refused(own, tmp_path, override, words):
    folder = own
    n_classes = 5 if 'pst900' in override else 9
    other = checkpoint(tmp_path, override, name='other.safetensors', n_classes=n_classes)
    (folder / CHECKPOINT_FILE).write_bytes(other.read_bytes())
    text = (folder / MANIFEST_FILE).read_text()
    text = text.replace(load_bundle(folder).checkpoint_sha256, sha256_of(other))
    (folder / MANIFEST_FILE).write_text(text)
    with pytest.raises(RgbxSegError, match=f'model.safetensors: {words}'):
        open_engine(folder, 'torch')


def test_auto_leaves_a_torch_without_cuda_alone(made):
    folder = made['one']
    model = Model(folder, load_bundle(folder))
    with pytest.raises(BackendUnavailable, match='torch .* finds no CUDA device; install a torch'):
        open_checkpoint(folder / CHECKPOINT_FILE, model, Options(asked_for=False))


def test_auto_takes_another_library_where_torch_has_no_cuda(made):
    folder = made['one']
    gpu = Gpu('a Hopper', (9, 0), False, 13000, 1 << 36)
    engine = selection.open_first(Model(folder, load_bundle(folder)), 'auto', 'fp32', Options(),
                                  Machine('aarch64', (), gpu))
    assert engine.info.backend == 'onnxruntime'
    assert 'torch: torch' in engine.info.choice and 'no CUDA device' in engine.info.warning


def test_a_closed_engine_holds_no_weights_and_says_so(tmp_path):
    graph, _ = load_graph(checkpoint(tmp_path))
    graph.merged.register_buffer('large', torch.ones(40_000_000))  # 160 MB
    weights = weakref.ref(graph.merged.first.weight)
    engine = TorchEngine(graph)
    del graph
    engine(*images())
    held = resident_mb()
    engine.close()
    assert weights() is None and held - resident_mb() > 150
    with pytest.raises(RgbxSegError, match='the engine is closed; open it again'):
        engine(*images())


# ---- on a GPU, whose part the processor plays ----

class NoConstants(TorchFunctionMode):
    """Fails where a tensor is made of numbers: CUDA cannot capture the copy of them."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy)
        return function(*args, **(kwargs or {}))


class HostStream:
    """A stream that does its work when somebody waits for it, or `finish` is called."""

    streams: list = []

    def __init__(self, urgent):
        self.device, self.urgent, self.captured = torch.device('cpu'), urgent, 0
        self._waiting = []
        self.streams.append(self)

    def host(self, shape, dtype):
        return torch.empty(shape, dtype=dtype)

    def record(self, work):
        with NoConstants():
            work()
        self.captured += 1
        return work

    def run(self, work):
        self._waiting.append(work)

    def is_done(self):
        return not self._waiting

    def wait(self):
        with torch.no_grad():
            while self._waiting:
                self._waiting.pop(0)()

    def device_ms(self):
        return 0.5


def uncompiled(program):
    return program


@pytest.fixture
def streams(monkeypatch):
    found = []
    monkeypatch.setattr(HostStream, 'streams', found)
    return found


def gpu_engine(folder, precision='fp32', compiler=uncompiled, stream=HostStream, tell=None):
    manifest = load_bundle(folder)
    graph, _ = load_graph(folder / CHECKPOINT_FILE)
    if precision == 'fp16':
        graph.merged = Lowered(graph.merged, torch.float16)
    options = Options(tell=tell or (lambda sentence: None))
    return CudaEngine(graph, Model(folder, manifest, precision=precision), options, stream,
                      compiler)


@pytest.mark.parametrize('precision', ['fp32', 'fp16'])
def test_a_captured_graph_gives_what_the_exported_one_gives(made, streams, precision):
    folder, told = made['one'], []
    engine = gpu_engine(folder, precision, tell=told.append)
    assert told == ['torch compiles model.onnx, which takes minutes the first time.']
    assert (engine.info.device, engine.info.embeds_aside, engine.info.warning) == (
        'cuda', False, '')
    assert [(stream.urgent, stream.captured) for stream in streams] == [(True, 1)]
    assert engine.device_ms == 0.5  # for rgbx_benchmark
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    for seed in range(3):
        (label, confidence), (expected, sure) = (e(*images(seed)) for e in (engine, reference))
        assert (label == expected).mean() >= (0.999 if precision == 'fp32' else 0.998)
        assert np.abs(confidence.astype(int) - sure).max() <= 6
    with pytest.raises(RgbxSegError, match='no scene.onnx'):
        engine.embed(*images())
    with pytest.raises(RgbxSegError, match='no scene.onnx'):
        engine.embed_later(*images())


def test_a_scene_is_embedded_beside_the_pairs_and_comes_once(made, scenes, streams):
    folder = made['two']
    engine = gpu_engine(folder)
    assert engine.info.embeds_aside and [stream.urgent for stream in streams] == [True, False]
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    first, second = (tuple(array.copy() for array in reference.embed(*images(seed)))
                     for seed in (1, 2))
    assert engine.embedded() is None
    engine.embed_later(*images(1))
    assert engine.embedded() is None  # not done yet
    label = engine(*images(3), second)[0].copy()  # does not wait for it
    assert not streams[1].is_done()
    assert (label == reference(*images(3), second)[0]).mean() >= 0.999
    streams[1].wait()
    np.testing.assert_allclose(engine.embedded()[0], first[0], atol=1e-5)
    assert engine.embedded() is None  # ever after


def test_a_scene_that_another_camera_asks_for_does_not_take_the_place_of_a_late_one(
        made, scenes, streams):
    engine = gpu_engine(made['two'])
    first, second = (engine.embed(*images(seed))[0].copy() for seed in (1, 2))
    engine.embed_later(*images(1))
    np.testing.assert_array_equal(engine.embed(*images(2))[0], second)
    np.testing.assert_array_equal(engine.embedded()[0], first)
    assert engine.embedded() is None
    engine.embed_later(*images(1))
    engine.embed_later(*images(2))  # the newer one counts
    streams[1].wait()
    np.testing.assert_array_equal(engine.embedded()[0], second)


def test_a_compiler_that_fails_costs_speed_alone(made, streams):
    folder = made['one']

    def broken(program):
        raise ValueError('no C compiler\nwas found')

    engine = gpu_engine(folder, compiler=broken)
    assert engine.info.warning == ('torch runs the model uncompiled, which is slower (no C '
                                   'compiler).')
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    assert (engine(*images())[0] == reference(*images())[0]).mean() >= 0.999


@pytest.mark.parametrize(('error', 'words'), [
    (torch.OutOfMemoryError('CUDA out of memory. Tried'), 'memory of the GPU does not suffice'),
    (RuntimeError('no kernel image is available'), r'on the GPU \(no kernel image is available\)'),
])
def test_a_gpu_that_cannot_is_left_to_others(made, streams, error, words):
    class Failing(HostStream):
        def record(self, work):
            raise error

    with pytest.raises(BackendUnavailable, match=words):
        gpu_engine(made['one'], stream=Failing)


def test_a_closed_engine_frees_its_graphs(made, scenes, streams):
    engine = gpu_engine(made['two'])
    weights = [weakref.ref(tensor) for runner in engine._runners.values()
               for tensor in runner._outputs]
    engine.embed_later(*images())
    engine.close()
    streams.clear()
    assert not any(ref() is not None for ref in weights)
    for call in (engine, engine.embed, engine.embed_later):
        with pytest.raises(RgbxSegError, match='the engine is closed'):
            call(*images())


NARROW = {'dims': [8, 16, 16, 32], 'depths': [1, 1, 1, 1], 'heads': [1, 2, 2, 4],
          'clip': {'hidden': 32, 'layers': 1, 'heads': 2, 'embed': 24}, 'dsrm': {'heads': 4}}


def test_nothing_of_a_model_that_moves_to_a_gpu_stays_behind():
    model = find_family('segrgbx').build(find_config('segrgbx', 'full', NARROW), 9).eval()
    graph = BundleGraph(Lowered(model.merge('thermal'), torch.float16))
    images = {'rgb': ('uint8', (1, 64, 96, 3)), 'aux': ('uint8', (1, 64, 96, 1))}
    masks = {name: ('uint8', (1, 64, 96)) for name in ('label', 'confidence')}
    scene = graph.merged.scene_width
    given = {f's_{name}': ('float32', (1, scene)) for name in ('rgb', 'aux')}
    program = to_device(graph, Graph({**images, **given}, masks), 'meta')
    tensors = [*program.state_dict().values(), *(value for value in vars(program).values()
                                                 if isinstance(value, torch.Tensor))]
    assert {tensor.device.type for tensor in tensors} == {'meta'}
    for node in program.graph.nodes:
        assert 'cpu' not in f'{node.args} {node.kwargs}', node
    assert not any('clip.tower' in name for name in program.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='torch finds no CUDA GPU')
def test_on_a_gpu_labels_are_those_of_the_processor_and_memory_comes_back(made, scenes):
    folder = made['two']
    reference, _ = open_engine(folder, 'onnxruntime', 'fp32')
    before = torch.cuda.memory_allocated()
    for precision, least in (('fp32', 0.999), ('fp16', 0.99), ('bf16', 0.97)):
        engine, _ = open_engine(folder, 'torch', precision)
        assert engine.info.device == 'cuda'
        scene = reference.embed(*images(1))
        for seed in range(3):
            label = engine(*images(seed), scene)[0]
            assert (label == reference(*images(seed), scene)[0]).mean() >= least
        engine.embed_later(*images(1))
        engine._runner(SCENE_FILE).wait()
        np.testing.assert_allclose(engine.embedded()[0], scene[0], atol=0.05)
        engine.close()
    assert torch.cuda.memory_allocated() == before


