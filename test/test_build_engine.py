# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rgbx_build_engine: what it builds, tells and refuses."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from bundles import tiny_onnx, write_scene_bundle, write_tiny_bundle
from fake_gpu import fake_gpu
from plans import real_rtx, slow_bundle

from rgbx_seg_ros import build_engine, engine_cache
from rgbx_seg_ros.manifest import Variant, load_bundle, save_manifest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command with TensorRT-RTX; return exit code, output, and what it told."""
    real_rtx()

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['rgbx_build_engine', *map(str, arguments)])
        code = build_engine.main()
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def rtx(command):
    return lambda *arguments: command('--backend', 'tensorrt_rtx', *arguments)


def refused(result):
    code, out, told = result
    assert code == 1 and out == ''
    line = told.rstrip('\n').split('\n')[-1]
    assert line.startswith('rgbx_build_engine: error: ') and line.endswith('.')
    return line


def test_the_table_says_what_was_built_and_then_that_it_comes_from_the_cache(rtx, tmp_path, place):
    bundle = write_scene_bundle(tmp_path / 'bundle')
    for origin in ('built', 'cache'):
        code, out, told = rtx(bundle)
        head, *rows = (line.split() for line in out.splitlines())
        assert code == 0 and head == ['graph', 'precision', 'MB', 'seconds', 'from', 'path']
        assert [(row[0], row[1], row[4]) for row in rows] == [
            ('model.onnx', 'fp32', origin), ('scene.onnx', 'fp32', origin)]
        assert all(str(place) in row[5] for row in rows)
        assert ('is built: ' in told) == (origin == 'built')
    assert ' built ' in rtx(bundle, '--force')[1]


def test_what_is_written_out_is_what_the_node_takes_by_engine_file(rtx, tmp_path):
    bundle, out = write_tiny_bundle(tmp_path / 'bundle'), tmp_path / 'out'
    code, text, _ = rtx(bundle, '--out', out, '--capabilities', '8.9,12.0', '--json',
                        tmp_path / 'table.json')
    assert code == 0 and str(out / 'model.engine') in text
    assert sorted(path.name for path in out.iterdir()) == ['model.engine', 'model.engine.json']
    (record,) = json.loads((tmp_path / 'table.json').read_text())
    assert record['compute capabilities'] == '8.9, 12.0' and record['from'] == 'built'
    assert record['bytes'] == (out / 'model.engine').stat().st_size
    for path in (out, out / 'model.engine'):
        code, text, told = rtx(bundle, '--engine', path)
        assert code == 0 and ' given ' in text and told == ''


def test_an_engine_of_another_bundle_is_refused(rtx, tmp_path):
    rtx(write_tiny_bundle(tmp_path / 'bundle'), '--out', tmp_path / 'out')
    other = write_tiny_bundle(tmp_path / 'other', width=96)
    error = refused(rtx(other, '--engine', tmp_path / 'out'))
    assert 'ONNX SHA-256' in error and 'tensors rgb uint8 1x48x64x3' in error
    assert '1x48x96x3' in error and 'build it again' in error


def test_list_and_prune_tell_of_the_whole_cache(rtx, tmp_path, place):
    rtx(write_tiny_bundle(tmp_path / 'bundle'))
    code, out, _ = rtx('--list', '--json', tmp_path / 'list.json')
    line, total = out.splitlines()
    assert code == 0 and 'tiny/model.onnx  fp32  tensorrt_rtx' in line and '8.6, 8.9, 12.0' in line
    assert total == f'{place}: 1 engines, 0 MB'
    assert json.loads((tmp_path / 'list.json').read_text())[0]['graph'] == 'model.onnx'
    assert '1 engines' in rtx('--prune')[1]  # used today
    time.sleep(0.01)
    assert '0 engines' in rtx('--prune', '0')[1]
    assert engine_cache.entries() == []


def test_a_form_of_the_bundle_is_built_by_its_precision_and_size(rtx, tmp_path):
    bundle, variants = write_tiny_bundle(tmp_path / 'bundle'), []
    for name, size in (('fp16', None), ('fp16_128x96', (96, 128))):
        (bundle / name).mkdir()
        content = tiny_onnx(*(size or (48, 64)))
        (bundle / name / 'model.onnx').write_bytes(content)
        variants.append(Variant(name, 'fp16', ('tensorrt_rtx',),
                                {'model.onnx': sha256(content).hexdigest()}, 1.0, None, 4,
                                rgb_size=size, aux_size=size))
    save_manifest(bundle, replace(load_bundle(bundle), variants=tuple(variants)))
    assert ' fp16 ' in rtx(bundle)[1]
    out = rtx(bundle, '--precision', 'fp16', '--rgb-size', '128x96')[1]
    assert out.splitlines()[1].startswith('fp16_128x96/model.onnx  fp16')
    assert 'fp32' in rtx(bundle, '--precision', 'fp32')[1]
    assert 'has no form for images of 640x480 in fp16' in refused(rtx(bundle, '--rgb-size',
                                                                      '640x480'))
    assert 'precision bf16 for tensorrt_rtx' in refused(rtx(bundle, '--precision', 'bf16'))
    tensors = {entry.parts['tensors'] for entry in engine_cache.entries()}
    assert any('rgb uint8 1x96x128x3' in text for text in tensors)


@pytest.mark.parametrize('arguments, text', [
    ((), 'no bundle is named; expected the folder'),
    (('none',), 'no such folder'),
    (('none', '--list'), 'expected no bundle with them'),
    (('none', '--capabilities', '8.9,x'), 'found "8.9,x", expected compute capabilities as 8.6'),
    (('none', '--rgb-size', '640'), 'found "640", expected WIDTHxHEIGHT'),
    (('none', '--backend', 'openvino'), 'invalid choice'),
    (('none', '--prune', 'x'), 'invalid float'),
    (('none', '--bad'), '--bad')])
def test_wrong_arguments_are_one_sentence(command, arguments, text):
    assert text in refused(command(*arguments))


def test_a_capability_that_rtx_lacks_is_refused(rtx, tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    assert 'no compute capability 8.7' in refused(rtx(bundle, '--capabilities', '8.7'))


def test_auto_builds_what_the_node_would_run_here(command, tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'bundle')
    with fake_gpu('10.3', name='Orin', capability=(8, 7), integrated=1):
        code, out, told = command(bundle)
        assert code == 0 and 'tensorrt 10.3.0, Orin (8.7)' in told
        assert engine_cache.entries()[0].parts['GPU'] == 'Orin'
        assert 'TensorRT-RTX' in refused(command(bundle, '--backend', 'tensorrt_rtx'))
    with fake_gpu('rtx'):
        assert 'tensorrt_rtx' in command(bundle)[2]
    with fake_gpu(capability=(9, 0)):
        assert 'TensorRT cannot be imported' in refused(command(bundle))


def test_a_robot_checks_an_engine_before_it_drives(command, tmp_path):
    bundle, out = write_tiny_bundle(tmp_path / 'bundle'), tmp_path / 'out'
    command(bundle, '--backend', 'tensorrt_rtx', '--capabilities', '12.0', '--out', out)
    with fake_gpu('rtx', name='RTX 4090', capability=(8, 9)):
        error = refused(command(bundle, '--engine', out))
    assert 'compute capabilities 12.0, expected 8.9 of RTX 4090 among them' in error


def test_without_a_gpu_plain_tensorrt_is_refused(command, tmp_path):
    with fake_gpu('10.3', count=0):
        error = refused(command(write_tiny_bundle(tmp_path / 'bundle'), '--backend', 'tensorrt'))
    assert 'builds an engine only on the GPU that is to run it' in error


def test_control_c_ends_a_build_at_once_and_leaves_no_engine(tmp_path, place):
    real_rtx()
    bundle = slow_bundle(tmp_path)
    child = subprocess.Popen([sys.executable, '-m', 'rgbx_seg_ros.build_engine', bundle],
                             stderr=subprocess.PIPE, text=True, cwd=ROOT)
    while 'building' not in child.stderr.readline():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(5) == -signal.SIGINT
    assert not list(place.glob('*.engine')) and 'Traceback' not in child.stderr.read()
    child.stderr.close()
