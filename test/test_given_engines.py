# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Engines that the user names: run where they fit, refused with the mismatch where not."""

from pathlib import Path

import pytest
from bundles import write_scene_bundle
from fake_gpu import fake_gpu
from plans import ADA, GIB, library, open_model, real_rtx, tiny_model

from rgbx_seg_ros import RgbxSegError, engine_cache
from rgbx_seg_ros.engine import BackendUnavailable, Options
from rgbx_seg_ros.machine import this_machine
from rgbx_seg_ros.manifest import MODEL_FILE, SCENE_FILE
from rgbx_seg_ros.tensorrt_builder import obtain_plans, runtime_cache


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'rgbx_seg' / 'engines'


@pytest.fixture(scope='module')
def rtx():
    return real_rtx()


@pytest.fixture(params=['10.3', '10.16', '11.4'])
def gpu(request):
    with fake_gpu(request.param) as fake:
        yield fake


def given(rtx, tmp_path, gpu=None, **change):
    """Build the tiny bundle, copy its engine to a place of its own, and open it there."""
    model = tiny_model(tmp_path)
    plan = obtain_plans(rtx, model, Options(), None, 0)[MODEL_FILE]
    entry = engine_cache.read_sidecar(plan)
    target = tmp_path / 'given' / 'model.engine'
    engine_cache.copy(entry._replace(parts={**entry.parts, **change}), target)
    return model, target


def test_a_given_engine_is_used_from_its_folder_or_by_its_file(rtx, tmp_path):
    model, path = given(rtx, tmp_path)
    for place in (path, path.parent):
        plans = obtain_plans(rtx, model, Options(engine_file=place), ADA, 0)
        assert plans == {MODEL_FILE: path}


@pytest.mark.parametrize('change, text', [
    ({'ONNX SHA-256': 'cd' * 32}, 'ONNX SHA-256 cdcdcdcdcdcd…, expected '),
    ({'version': '1.6.0'}, 'version 1.6.0, expected '),
    ({'tensors': 'rgb uint8 1x8x8x3'}, 'tensors rgb uint8 1x8x8x3, expected '),
    ({'compute capabilities': '8.6, 12.0'}, 'expected 8.9 of Fake RTX 4090 among them'),
    ({'system': 'Linux riscv'}, 'system Linux riscv'), ({'schema': '0'}, 'schema 0')])
def test_a_given_engine_that_does_not_fit_is_refused_and_the_mismatch_named(
        rtx, tmp_path, change, text):
    model, path = given(rtx, tmp_path, **change)
    with pytest.raises(RgbxSegError) as error:
        obtain_plans(rtx, model, Options(engine_file=path), ADA, 0)
    assert text in str(error.value)
    assert 'build it again with `rgbx_build_engine`' in str(error.value)
    assert not isinstance(error.value, BackendUnavailable)


def test_a_given_engine_of_the_other_library_lets_auto_try_that_one(rtx, tmp_path):
    model, path = given(rtx, tmp_path, library='tensorrt')
    with pytest.raises(BackendUnavailable, match='an engine of tensorrt, expected tensorrt_rtx'):
        obtain_plans(rtx, model, Options(engine_file=path), ADA, 0)


@pytest.mark.parametrize('damage, text', [
    (lambda path: path.write_bytes(path.read_bytes()[:-1]), 'damaged'),
    (lambda path: Path(f'{path}.json').unlink(), 'has no model.engine.json beside it'),
    (lambda path: path.unlink(), 'no such file')], ids=['truncated', 'no sidecar', 'none'])
def test_a_given_engine_that_is_damaged_is_refused_and_none_built(
        rtx, tmp_path, place, damage, text):
    model, path = given(rtx, tmp_path)
    damage(path)
    before = sorted(place.iterdir())
    with pytest.raises(RgbxSegError, match=text):
        obtain_plans(rtx, model, Options(engine_file=path), ADA, 0)
    assert sorted(place.iterdir()) == before


def test_two_graphs_need_a_folder_of_two_engines(rtx, tmp_path):
    model = open_model(write_scene_bundle(tmp_path / 'bundle'))
    for name, plan in obtain_plans(rtx, model, Options(), None, 0).items():
        path = tmp_path / 'given' / name.replace('.onnx', '.engine')
        engine_cache.copy(engine_cache.read_sidecar(plan), path)
    plans = obtain_plans(rtx, model, Options(engine_file=path.parent), ADA, 0)
    assert {name: plan.name for name, plan in plans.items()} == {
        MODEL_FILE: 'model.engine', SCENE_FILE: 'scene.engine'}
    with pytest.raises(RgbxSegError, match='model.engine and scene.engine'):
        obtain_plans(rtx, model, Options(engine_file=path), ADA, 0)


def test_a_given_engine_of_plain_tensorrt_must_be_of_this_gpu(gpu, tmp_path):
    here = this_machine().gpu
    model, path = tiny_model(tmp_path), tmp_path / 'given' / 'model.engine'
    plan = obtain_plans(library(gpu), model, Options(), here, GIB)[MODEL_FILE]
    engine_cache.copy(engine_cache.read_sidecar(plan), path)
    options = Options(engine_file=path)
    newer = here._replace(driver=here.driver + 20)  # a newer driver runs what an older one built
    assert obtain_plans(library(gpu), model, options, newer, GIB) == {MODEL_FILE: path}
    for other, text in ((here._replace(name='Other'), 'GPU Fake RTX A2000, expected Other'),
                        (here._replace(driver=11040), 'expected at most 11.4')):
        with pytest.raises(RgbxSegError, match=text):
            obtain_plans(library(gpu), model, options, other, GIB)
    assert gpu.world.built == 1


def test_kernels_of_rtx_are_kept_by_engine_capability_and_driver(rtx, tmp_path, place):
    model, path = given(rtx, tmp_path)
    name = runtime_cache(path, ADA)
    assert name.parent == place and name.name.endswith('-8.9-13.0.runtime')
    Path(f'{path}.json').unlink()
    assert runtime_cache(path, ADA) == name  # by the content where no sidecar tells it
    others = {runtime_cache(path, ADA._replace(**change)) for change in (
        {'capability': (8, 6)}, {'driver': 13010})}
    assert len({name, *others}) == 3
