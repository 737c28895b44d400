# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Which backend and which precision run a bundle, on machines of all kinds."""

import hashlib
import time
from dataclasses import replace

import numpy as np
import pytest
from bundles import manifest, tiny_onnx, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError, engine, selection
from rgbx_seg_ros.cuda import Gpu
from rgbx_seg_ros.engine import (
    BackendMissing,
    BackendUnavailable,
    EngineInfo,
    Model,
    Options,
    open_engine,
)
from rgbx_seg_ros.machine import Machine, fast_precisions
from rgbx_seg_ros.manifest import Variant, load_bundle, save_bundle

LAPTOP = Machine('x86_64', ('int8',), None)
ARM = Machine('aarch64', (), None)


def gpu(*capability, integrated=False):
    name = {(8, 7): 'Orin', (9, 0): 'NVIDIA H200', (8, 9): 'NVIDIA RTX 4090'}.get(capability, 'GPU')
    return Gpu(name, capability, integrated, 12060, 8 << 30)


ORIN = Machine('aarch64', (), gpu(8, 7, integrated=True))
DESKTOP = Machine('x86_64', ('int8',), gpu(8, 9))
HOPPER = Machine('x86_64', ('int8', 'bf16'), gpu(9, 0))


@pytest.mark.parametrize(('machine', 'backends'), [
    (LAPTOP, ['openvino', 'onnxruntime']),
    (ARM, ['onnxruntime']),
    (ORIN, ['tensorrt', 'onnxruntime']),  # RTX could be installed there and has no kernels for it
    (DESKTOP, ['tensorrt', 'tensorrt_rtx', 'onnxruntime_cuda', 'openvino', 'onnxruntime']),
    (Machine('x86_64', (), gpu(12, 0)),
     ['tensorrt', 'tensorrt_rtx', 'onnxruntime_cuda', 'openvino', 'onnxruntime']),
    (HOPPER, ['tensorrt', 'onnxruntime_cuda', 'torch', 'openvino', 'onnxruntime'])])
def test_auto_tries_what_fits_the_compute_capability(machine, backends):
    assert selection.order(machine) == backends


@pytest.mark.parametrize(('flags', 'precisions'), [
    (set(), ()), ({'avx2', 'fma'}, ()), ({'avx512_vnni'}, ('int8',)),
    ({'avx_vnni', 'avx2'}, ('int8',)), ({'avx512_bf16', 'avx512_vnni'}, ('int8', 'bf16')),
    ({'amx_bf16', 'amx_int8'}, ('int8', 'bf16')), ({'asimddp', 'bf16'}, ('int8', 'bf16'))])
def test_a_processor_is_fast_in_what_it_has_instructions_for(flags, precisions):
    assert fast_precisions(flags) == precisions


def variant(name, precision, *backends, labels=0.9995, miou_change=-0.001, **more):
    data = tiny_onnx()
    return Variant(name, precision, backends, {'model.onnx': hashlib.sha256(data).hexdigest()},
                   labels, miou_change, 40, **more)


@pytest.fixture
def bundle(tmp_path):
    """Return a function that writes a bundle of these variants and returns its Model."""
    def write(*variants):
        folder = tmp_path / 'bundle'
        save_bundle(folder, tiny_onnx(), replace(manifest(), variants=variants))
        for own in variants:
            (folder / own.name).mkdir()
            (folder / own.name / 'model.onnx').write_bytes(tiny_onnx())
        return Model(folder, load_bundle(folder))
    return write


def chosen(model, backend, precision='auto', machine=DESKTOP):
    found = selection.choose(model, backend, precision, machine)
    return found.precision, found.variant and found.variant.name


FORMS = (variant('fp16', 'fp16', 'tensorrt', 'tensorrt_rtx', 'torch'),
         variant('int8_openvino', 'int8', 'openvino'),
         variant('int8_tensorrt', 'int8', 'tensorrt', 'tensorrt_rtx'))


@pytest.mark.parametrize(('backend', 'precision', 'machine', 'expected'), [
    ('tensorrt', 'auto', DESKTOP, ('fp16', 'fp16')),  # int8 is for those who ask for it
    ('tensorrt', 'int8', DESKTOP, ('int8', 'int8_tensorrt')),
    ('tensorrt', 'fp32', DESKTOP, ('fp32', None)),
    ('openvino', 'auto', LAPTOP, ('int8', 'int8_openvino')),
    ('openvino', 'auto', LAPTOP._replace(precisions=()), ('fp32', None)),  # slower without VNNI
    ('openvino', 'bf16', LAPTOP, ('bf16', None)),  # OpenVINO makes it itself
    ('onnxruntime', 'auto', LAPTOP, ('fp32', None)),  # the int8 graphs of others are wrong in it
    ('torch', 'auto', HOPPER, ('fp16', 'fp16')),
    ('torch', 'auto', LAPTOP, ('fp32', None)),  # whose processor is slow in fp16
    ('dummy', 'auto', LAPTOP, ('fp32', None))])
def test_each_backend_gets_its_own_form_of_a_precision(bundle, backend, precision, machine,
                                                       expected):
    assert chosen(bundle(*FORMS), backend, precision, machine) == expected


@pytest.mark.parametrize(('labels', 'miou_change', 'says'), [
    (0.9979, 0.0, 'int8 has 99.79 % of the labels of fp32; a default has at least 99.8 %'),
    (0.9999, -0.0051, 'int8 loses 0.51 points of mIoU against fp32; a default may lose 0.5'),
    (0.998, -0.005, ''), (0.9981, None, ''), (1.0, 0.02, '')])
def test_a_form_that_loses_too_much_is_no_default_but_can_be_asked_for(bundle, labels, miou_change,
                                                                       says):
    own = variant('int8', 'int8', 'openvino', labels=labels, miou_change=miou_change)
    assert selection.why_not_default(own).startswith(says) and bool(says) == bool(
        selection.why_not_default(own))
    model = bundle(own)
    assert chosen(model, 'openvino', machine=LAPTOP)[0] == ('fp32' if says else 'int8')
    assert chosen(model, 'openvino', 'int8', LAPTOP) == ('int8', 'int8')


def test_auto_says_which_precision_it_took_and_which_it_refused(bundle, monkeypatch):
    backends(monkeypatch)
    bad = variant('int8_openvino', 'int8', 'openvino', labels=0.9)
    good = variant('bf16_openvino', 'bf16', 'openvino', labels=0.9987)
    machine = LAPTOP._replace(precisions=('int8', 'bf16'))
    opened = selection.open_first(bundle(bad, good), 'auto', 'auto', Options(), machine)
    assert opened.info.choice == (
        'openvino is the first that works here. Its bf16 has 99.87 % of the labels of fp32. No '
        'default: int8_openvino has 90.00 % of the labels of fp32; a default has at least 99.8 %.')
    opened = selection.open_first(bundle(bad, good), 'auto', 'fp32', Options(), machine)
    assert opened.info.choice == 'openvino is the first that works here.'


def test_a_precision_that_the_bundle_lacks_is_named_with_those_it_has(bundle):
    with pytest.raises(RgbxSegError, match='precision int8 for onnxruntime: the bundle tiny has '
                       'model.onnx in fp32, and fp16 for tensorrt/tensorrt_rtx/torch, int8 for '
                       'openvino.*rgbx_variants'):
        chosen(bundle(*FORMS), 'onnxruntime', 'int8')


def test_a_damaged_form_is_refused_before_it_is_run(bundle):
    model = bundle(*FORMS)
    (model.bundle / 'fp16' / 'model.onnx').write_bytes(b'another')
    with pytest.raises(RgbxSegError, match='fp16/model.onnx: SHA-256 is'):
        chosen(model, 'tensorrt')
    (model.bundle / 'fp16' / 'model.onnx').unlink()
    with pytest.raises(RgbxSegError, match='fp16/model.onnx is missing'):
        chosen(model, 'tensorrt')
    assert chosen(model, 'openvino', machine=LAPTOP)[0] == 'int8'  # the others stay usable


class Works:
    """An engine that knows only what it is."""

    def __init__(self, model, options):
        on_gpu = self.name not in ('onnxruntime', 'openvino')
        self.info = model.info(self.name, '1', 'cuda' if on_gpu else 'cpu')


def fails(error):
    def opener(model, options):
        raise error
    return opener


def backends(monkeypatch, **openers):
    for name in engine.BACKENDS:
        works = type(name, (Works,), {'name': name})
        monkeypatch.setitem(engine.BACKENDS, name, openers.get(name, works))


def test_auto_goes_on_where_the_machine_is_at_fault_and_tells_of_it(bundle, monkeypatch):
    gone = BackendUnavailable('the GPU has 10 MB free; expected 400 MB; close other programs.')
    lacks = BackendMissing('tensorrt is not installed; install it.')
    backends(monkeypatch, tensorrt=fails(lacks), onnxruntime_cuda=fails(gone), torch=fails(gone),
             openvino=fails(lacks))
    opened = selection.open_first(bundle(), 'auto', 'auto', Options(), HOPPER)
    assert opened.info.backend == 'onnxruntime'
    assert str(gone) in opened.info.choice and str(lacks) in opened.info.choice
    assert opened.info.warning.startswith('the GPU NVIDIA H200 is not used, onnxruntime runs on')
    assert str(gone) in opened.info.warning
    opened = selection.open_first(bundle(), 'auto', 'auto', Options(), LAPTOP)
    assert opened.info.warning == ''  # nobody misses a GPU that is not there
    opened = selection.open_first(bundle(), 'auto', 'auto', Options(), DESKTOP)
    assert (opened.info.backend, opened.info.warning) == ('tensorrt_rtx', '')  # nobody installed it
    broken = LAPTOP._replace(problem='the CUDA driver does not start (CUresult 803).')
    opened = selection.open_first(bundle(), 'auto', 'auto', Options(), broken)
    assert 'CUresult 803' in opened.info.warning


def test_a_gpu_s_other_library_in_place_of_one_that_failed_is_a_warning(bundle, monkeypatch):
    refused = BackendUnavailable('tensorrt 10.3 refuses Einsum in node "Einsum_3".')
    backends(monkeypatch, tensorrt=fails(refused))
    opened = selection.open_first(bundle(), 'auto', 'auto', Options(), DESKTOP)
    assert opened.info.warning == ('tensorrt_rtx runs in place of what failed. tensorrt: '
                                   f'{refused}')


def test_a_precision_asked_for_is_run_by_the_first_backend_that_has_it(bundle, monkeypatch):
    backends(monkeypatch)
    opened = selection.open_first(bundle(*FORMS[:2]), 'auto', 'int8', Options(), DESKTOP)
    assert (opened.info.backend, opened.info.precision) == ('openvino', 'int8')
    assert 'the GPU NVIDIA RTX 4090 is not used' in opened.info.warning
    assert 'precision int8 for tensorrt' in opened.info.warning


def test_auto_does_not_go_on_where_the_bundle_is_at_fault(bundle, monkeypatch):
    backends(monkeypatch, tensorrt=fails(RgbxSegError('tensor "rgb" of the model is float32.')))
    with pytest.raises(RgbxSegError, match='tensor "rgb" of the model is float32'):
        selection.open_first(bundle(), 'auto', 'auto', Options(), ORIN)


def test_a_backend_asked_for_by_name_is_not_replaced_by_another(bundle, monkeypatch):
    backends(monkeypatch, tensorrt=fails(BackendUnavailable('no GPU.')))
    with pytest.raises(BackendUnavailable, match='no GPU'):
        selection.open_first(bundle(), 'tensorrt', 'auto', Options(), DESKTOP)
    opened = selection.open_first(bundle(), 'onnxruntime', 'auto', Options(), DESKTOP)
    assert opened.info.choice == 'onnxruntime was asked for.' and opened.info.warning == ''


def test_where_nothing_works_every_reason_is_told(bundle, monkeypatch):
    backends(monkeypatch, openvino=fails(BackendUnavailable('no openvino.')),
             onnxruntime=fails(BackendUnavailable('no onnxruntime.')))
    with pytest.raises(RgbxSegError, match='no backend works on this machine: openvino: no '
                       'openvino. onnxruntime: no onnxruntime.'):
        selection.open_first(bundle(), 'auto', 'auto', Options(), LAPTOP)


SIZED = (variant('fp32_128x96', 'fp32', 'onnxruntime', rgb_size=(96, 128), aux_size=(48, 64)),
         variant('fp16_128x96', 'fp16', 'onnxruntime', rgb_size=(96, 128), aux_size=(48, 64)))


class Slow:
    """An engine that is as slow as its form's entry in `seconds`."""

    seconds: dict = {}
    closed: list = []

    def __init__(self, model, options):
        self.info, self.size = model.info('onnxruntime', '1', 'cpu'), model.rgb_size
        self.form = model.variant.name if model.variant else ''

    def __call__(self, rgb, aux):
        assert rgb.shape == (1, *self.size, 3) and aux.shape == (1, 48, 64, 1)
        time.sleep(self.seconds[self.form])
        return np.zeros((1, *self.size), np.uint8), np.zeros((1, *self.size), np.uint8)

    def close(self):
        self.closed.append(self.form)


@pytest.mark.parametrize(('plain_s', 'inside_s', 'stays'), [
    (0.02, 0.001, 'fp32_128x96'), (0.001, 0.02, '')])
def test_the_form_for_the_camera_s_size_stays_where_it_is_faster(bundle, monkeypatch, plain_s,
                                                                 inside_s, stays):
    backends(monkeypatch, onnxruntime=Slow)
    monkeypatch.setattr(Slow, 'seconds', {'': plain_s, 'fp32_128x96': inside_s})
    monkeypatch.setattr(Slow, 'closed', [])
    options = Options(rgb_size=(96, 128))
    opened = selection.open_first(bundle(*SIZED), 'onnxruntime', 'auto', options, LAPTOP)
    assert opened.form == stays and Slow.closed == ['' if stays else 'fp32_128x96']
    assert 'With resizing inside, for 128x96, it takes' in opened.info.choice


def test_a_camera_size_without_a_form_is_told_of_and_one_of_the_network_needs_none(bundle,
                                                                                   monkeypatch):
    backends(monkeypatch)
    opened = selection.open_first(bundle(*SIZED), 'onnxruntime', 'auto',
                                  Options(rgb_size=(480, 640)), LAPTOP)
    assert 'It has no form for 640x480 in fp32 and onnxruntime.' in opened.info.choice
    opened = selection.open_first(bundle(*SIZED), 'onnxruntime', 'auto',
                                  Options(rgb_size=(48, 64)), LAPTOP)
    assert opened.info.choice == 'onnxruntime was asked for.'


def test_too_little_memory_for_both_forms_leaves_the_plain_one(bundle, monkeypatch):
    def scarce(model, options):
        if model.variant is not None:
            raise BackendUnavailable('the GPU has 10 MB free.')
        return Slow(model, options)

    backends(monkeypatch, onnxruntime=scarce)
    opened = selection.open_first(bundle(*SIZED), 'onnxruntime', 'auto',
                                  Options(rgb_size=(96, 128)), LAPTOP)
    assert opened.form == '' and 'was left out: the GPU has 10 MB free.' in opened.info.choice


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    folder = write_tiny_bundle(tmp_path / 'b')
    with pytest.raises(RgbxSegError, match='precision "fp8" is unknown; expected auto, fp32, fp16'):
        open_engine(folder, precision='fp8')


def test_the_default_of_this_machine_runs_and_says_why(tmp_path):
    opened, _ = open_engine(write_tiny_bundle(tmp_path / 'b'))
    assert 'is the first that works here' in opened.info.choice
    assert replace(opened.info, choice='', warning='') == EngineInfo(
        opened.info.backend, opened.info.version, opened.info.device, 'fp32', (48, 64), (48, 64))
    label, _ = opened(np.full((1, 48, 64, 3), 255, np.uint8), np.zeros((1, 48, 64, 1), np.uint8))
    assert (label == 1).all()
