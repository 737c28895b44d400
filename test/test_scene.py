# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Bundles of two graphs: what is kept of a scene, for how long, and what the masks then are."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from bundles import expected, manifest, scene_onnx, tiny_onnx, write_scene_bundle, write_tiny_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.engine import EngineInfo, open_engine
from rgbx_seg_ros.manifest import SceneGraph, save_bundle
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.scene import SceneMemory
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.thermal import to_uint8

S = 1_000_000_000
START = 1_700_000_000 * S
SIZE = (48, 64)


class CountingEngine:
    """The real engine, which counts its runs and overwrites what it gave, as engines may."""

    def __init__(self, bundle):
        self.real, self.manifest = open_engine(bundle)
        self.info, self.close = self.real.info, self.real.close
        self.embedded = 0
        self.given = None

    def embed(self, rgb, aux):
        self.embedded += 1
        self._overwrite()
        self.given = self.real.embed(rgb, aux)
        return self.given

    def __call__(self, rgb, aux, scene=None):
        answer = self.real(rgb, aux, scene)
        self._overwrite()
        return answer

    def _overwrite(self):
        for array in self.given or ():
            array.fill(np.nan)


@pytest.fixture
def engine(tmp_path):
    return CountingEngine(write_scene_bundle(tmp_path / 'bundle', every=3))


def scene_of(value, width=4):
    value = float(value)
    return np.full((1, width), value, np.float32), np.full((1, width), -value, np.float32)


def pair(seed, brightest=255):
    """Return RGB and thermal counts whose values reach up to about `brightest` of 255."""
    numbers = np.random.default_rng(seed)
    return (numbers.integers(0, brightest + 1, (*SIZE, 3), np.uint8),
            numbers.integers(26315, 26315 + 6000 * brightest // 255, SIZE, np.uint16))


def seen(images, encoding):
    return images[0], to_uint8(images[1], encoding)


# The memory alone


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.lists(st.sampled_from((0, 33, 100, 1000, 1001, 5000, -1, -3000)),
                                   max_size=40))
def test_a_frame_is_embedded_after_every_so_many_and_where_time_breaks(every, steps_ms):
    memory, stamp = SceneMemory(every), START
    age = every  # frames since the last embedding; none yet
    for number, step in enumerate([0, *steps_ms]):
        stamp += step * 1_000_000
        kept = memory.recall(stamp)
        if age >= every or not 0 <= step <= 1000:
            assert kept is None
            kept, age, last = memory.keep(scene_of(number)), 0, number
        age += 1
        assert (kept[0] == last).all() and (kept[1] == -last).all()


def test_what_is_kept_is_a_copy_and_no_memory_is_taken_for_the_next_one():
    memory, first = SceneMemory(2), scene_of(1)
    memory.recall(START)
    kept = memory.keep(first)
    first[0].fill(9)
    first[1].fill(9)
    assert (kept[0] == 1).all() and memory.recall(START + 1) is kept
    assert memory.recall(START + 2) is None
    again = memory.keep(scene_of(2))
    assert again[0] is kept[0] and again[1] is kept[1] and (again[0] == 2).all()


def test_a_reset_and_an_embedding_that_failed_leave_nothing():
    memory = SceneMemory(100)
    memory.recall(START)
    memory.keep(scene_of(1))
    memory.reset()
    assert memory.recall(START + 1) is None  # and the engine fails
    assert memory.recall(START + 2) is None
    memory.keep(scene_of(2))
    assert memory.recall(START + 3) is not None


def test_another_number_of_frames_holds_at_once():
    memory = SceneMemory(100)
    memory.recall(START)
    memory.keep(scene_of(1))
    assert memory.recall(START + 1) is not None
    memory.every = 2
    assert memory.recall(START + 2) is None


@pytest.mark.parametrize('every', [0, -1, 100_001])
def test_an_impossible_number_of_frames_is_refused(every):
    with pytest.raises(RgbxSegError, match=f'scene.every is {every}; expected 1..100000'):
        SceneMemory(every)


# Through the pipeline, with the real engine


def run(pipeline, frames, every=0, step_ns=S // 10):
    """Return the result of each frame, (rgb, raw aux) or None in their places."""
    return [pipeline(rgb, raw, 'mono16', START + n * step_ns, scene_every=every).result
            for n, (rgb, raw) in enumerate(frames)]


@pytest.mark.parametrize(('every', 'runs', 'source'), [
    (0, 4, [0, 0, 0, 3, 3, 3, 6, 6, 6, 9]), (1, 10, range(10)), (4, 3, [0] * 4 + [4] * 4 + [8] * 2),
    (100_000, 1, [0] * 10)])
def test_masks_are_those_of_the_scene_that_was_embedded_last(engine, every, runs, source):
    frames = [pair(n, 255 - 20 * n) for n in range(10)]
    results = run(Pipeline(Segmenter(engine, engine.manifest)), frames, every)
    assert engine.embedded == runs
    encoding = engine.manifest.aux
    for n, (frame, result) in enumerate(zip(frames, results, strict=True)):
        label = expected(*seen(frame, encoding), seen(frames[source[n]], encoding))
        np.testing.assert_array_equal(result.label, label)
        assert 0 <= result.scene_ms < result.engine_ms
        assert (result.scene_ms > 0) == (source[n] == n)


def test_a_scene_of_each_frame_is_bit_for_bit_no_memory(engine):
    frames = [pair(n, 255 - 20 * n) for n in range(5)]
    segmenter = Segmenter(engine, engine.manifest)
    for (rgb, raw), result in zip(frames, run(Pipeline(segmenter), frames, 1), strict=True):
        bare = segmenter(rgb, to_uint8(raw, engine.manifest.aux))
        joint = engine.real(rgb[None], to_uint8(raw, engine.manifest.aux)[None, ..., None])
        np.testing.assert_array_equal(result.label, bare.label)
        np.testing.assert_array_equal(result.confidence, bare.confidence)
        np.testing.assert_array_equal(result.label, joint[0][0])


def test_two_pairs_of_cameras_on_one_engine_remember_each_their_own(engine):
    segmenter = Segmenter(engine, engine.manifest)
    pipelines = Pipeline(segmenter), Pipeline(segmenter)
    frames = [[pair(n, 250) for n in range(6)], [pair(100 + n, 60) for n in range(6)]]
    mixed = [[], []]
    for n in range(6):
        for results, pipeline, own in zip(mixed, pipelines, frames, strict=True):
            results.append(pipeline(*own[n], 'mono16', START + n * S // 10).result.label)
    assert engine.embedded == 4
    for results, own in zip(mixed, frames, strict=True):
        alone = run(Pipeline(segmenter), own)
        for label, result in zip(results, alone, strict=True):
            np.testing.assert_array_equal(label, result.label)


def test_a_scene_seen_by_one_camera_serves_no_frame_of_two_nor_the_reverse(engine):
    (rgb, raw), black = pair(1), np.zeros(SIZE, np.uint8)
    frames = [(rgb, raw), (rgb, None), (rgb, None), (rgb, raw), (rgb, raw), (None, raw),
              (rgb, raw)]
    results = run(Pipeline(Segmenter(engine, engine.manifest)), frames, 100)
    assert [result.scene_ms > 0 for result in results] == [True, True, False, True, False, True,
                                                           True]
    aux = to_uint8(raw, engine.manifest.aux)
    np.testing.assert_array_equal(results[2].label, expected(rgb, black, (rgb, black)))
    np.testing.assert_array_equal(results[4].label, expected(rgb, aux, (rgb, aux)))


def test_time_that_runs_back_or_stands_still_for_long_embeds_anew(engine):
    pipeline, (rgb, raw) = Pipeline(Segmenter(engine, engine.manifest)), pair(1)
    for stamp, runs in ((START, 1), (START + S, 1), (START + 2 * S + 1, 2), (START, 3),
                        (START + 1, 3)):
        pipeline(rgb, raw, 'mono16', stamp, scene_every=100)
        assert engine.embedded == runs


def test_an_embedding_that_fails_is_tried_again_with_the_next_frame(engine):
    pipeline, (rgb, raw) = Pipeline(Segmenter(engine, engine.manifest)), pair(1)
    run(pipeline, [(rgb, raw)] * 3)
    sound, engine.real.embed = engine.real.embed, lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        pipeline(rgb, raw, 'mono16', START + S // 2)
    engine.real.embed = sound
    assert pipeline(rgb, raw, 'mono16', START + S // 2 + 1).result.scene_ms > 0


def test_a_bundle_of_one_graph_ignores_the_number_and_says_so(tmp_path):
    segmenter = Segmenter(*open_engine(write_tiny_bundle(tmp_path / 'b')))
    pipeline, (rgb, raw) = Pipeline(segmenter), pair(1)
    result = pipeline(rgb, raw, 'mono16', START).result
    assert result.scene_ms == 0 and pipeline.notes() == []
    same = pipeline(rgb, raw, 'mono16', START, scene_every=5).result
    np.testing.assert_array_equal(same.label, result.label)
    (note,) = pipeline.notes()
    assert note.startswith('scene.every has no effect')


# The engine and its contract


def save(folder, model, scene, width=4):
    save_bundle(folder, model, replace(manifest(), scene=SceneGraph('', width, 3)), scene)


@pytest.mark.parametrize(('model', 'scene', 'says'), [
    (tiny_onnx(), scene_onnx(), 'model.onnx: the model has no tensor "s_rgb"'),
    (tiny_onnx(scene_width=8), scene_onnx(),
     r'model.onnx: tensor "s_rgb" .* float32 \(1, 8\); .* expects float32 \(1, 4\)'),
    (tiny_onnx(scene_width=4), scene_onnx(scene_width=8), 'scene.onnx: tensor "s_rgb" .* 8'),
    (tiny_onnx(scene_width=4), scene_onnx(32), r'scene.onnx: tensor "rgb" .* \(1, 32, 64, 3\)'),
    (tiny_onnx(scene_width=4), tiny_onnx(), 'scene.onnx: the model has no tensor "s_rgb"'),
    (tiny_onnx(scene_width=4), b'no model', 'scene.onnx: onnxruntime .* cannot load it'),
])
def test_graphs_that_do_not_fit_are_refused_with_file_and_tensor(tmp_path, model, scene, says):
    save(tmp_path / 'b', model, scene)
    with pytest.raises(RgbxSegError, match=says):
        open_engine(tmp_path / 'b', 'onnxruntime')


def test_a_further_input_is_refused_in_either_graph(tmp_path):
    further = onnx.load_from_string(scene_onnx())
    further.graph.input.append(onnx.helper.make_tensor_value_info('gain', 1, [1]))
    save(tmp_path / 'further', tiny_onnx(scene_width=4), further.SerializeToString())
    with pytest.raises(RgbxSegError, match='scene.onnx: .* further input gain; expected rgb and'):
        open_engine(tmp_path / 'further', 'onnxruntime')
    save_bundle(tmp_path / 'one', tiny_onnx(scene_width=4), manifest())
    with pytest.raises(RgbxSegError, match='model.onnx: .* further input s_aux'):
        open_engine(tmp_path / 'one', 'onnxruntime')


def test_an_engine_embeds_by_itself_what_comes_without_a_scene_and_frees_both_graphs(tmp_path):
    engine, described = open_engine(write_scene_bundle(tmp_path / 'b'))
    rgb, aux = seen(pair(1, 100), described.aux)
    tensors = rgb[None], aux[None, ..., None]
    scene = engine.embed(*tensors)
    assert [array.tolist() for array in scene] == [[[rgb.max()] * 4], [[aux.max()] * 4]]
    assert scene[0].dtype == np.float32
    np.testing.assert_array_equal(engine(*tensors)[0], engine(*tensors, scene)[0])
    engine.close()
    for call in (engine, engine.embed):
        with pytest.raises(RgbxSegError, match='closed'):
            call(*tensors)


def test_a_bundle_of_one_graph_embeds_nothing(tmp_path):
    engine, _ = open_engine(write_tiny_bundle(tmp_path / 'b'))
    with pytest.raises(RgbxSegError, match='the bundle has no scene.onnx; .*export.scene_every'):
        engine.embed(np.zeros((1, 48, 64, 3), np.uint8), np.zeros((1, 48, 64, 1), np.uint8))


# An engine that embeds beside the pairs


class AsideEngine:
    """Answers with what it was given as scene; an embedding takes `frames` calls of the network."""

    def __init__(self, frames):
        self.info = EngineInfo('test', '1', 'gpu', 'fp32', embeds_aside=True)
        self.frames, self.started, self.waited = frames, [], []
        self._left, self._scene = 0, None

    def embed(self, rgb, aux):
        self.waited.append(int(rgb[0, 0, 0, 0]))
        return scene_of(rgb[0, 0, 0, 0])

    def embed_later(self, rgb, aux):
        assert self._scene is None, 'one at a time'
        self.started.append(int(rgb[0, 0, 0, 0]))
        self._left, self._scene = self.frames, scene_of(rgb[0, 0, 0, 0])

    def embedded(self):
        if self._scene is None or self._left > 0:
            return None
        scene, self._scene = self._scene, None
        return scene

    def __call__(self, rgb, aux, scene):
        self._left -= 1
        return np.full((1, *SIZE), scene[0][0, 0], np.uint8), np.zeros((1, *SIZE), np.uint8)


def numbered(segmenter, memory, number, stamp=None):
    """Return which pair's scene served pair `number`."""
    stamp = START + number * S // 10 if stamp is None else stamp
    result = segmenter(np.full((*SIZE, 3), number, np.uint8), np.zeros(SIZE, np.uint8),
                       stamp_ns=stamp, scene=memory)
    return int(result.label[0, 0])


SCENE_MANIFEST = replace(manifest(), scene=SceneGraph('', 4, 3))


@pytest.mark.parametrize(('frames', 'served'), [
    (1, [0, 0, 0, 0, 3, 3, 3, 6, 6, 6, 9]),  # each pair that starts one makes do with the old one
    (2, [0, 0, 0, 0, 0, 3, 3, 3, 6, 6, 6]),  # begun at 3, there for 5; begun at 6, for 8
    (99, [0] * 11)])
def test_embedding_beside_the_pairs_makes_none_of_them_wait_but_the_first(frames, served):
    engine = AsideEngine(frames)
    segmenter, memory = Segmenter(engine, SCENE_MANIFEST), SceneMemory(3)
    assert [numbered(segmenter, memory, n) for n in range(11)] == served
    assert engine.waited == [0]
    assert engine.started == ([3] if frames == 99 else [3, 6, 9])


def test_an_embedding_of_before_a_jump_serves_nobody_after_it():
    engine = AsideEngine(2)
    segmenter, memory = Segmenter(engine, SCENE_MANIFEST), SceneMemory(3)
    assert [numbered(segmenter, memory, n) for n in range(4)] == [0, 0, 0, 0]
    assert numbered(segmenter, memory, 50, stamp=START) == 50  # the bag begins anew; 3 is under way
    assert [numbered(segmenter, memory, 51, START + n) for n in (1, 2)] == [50, 50]


def test_two_camera_pairs_take_turns_and_get_their_own_scenes():
    engine = AsideEngine(3)
    segmenter, memories = Segmenter(engine, SCENE_MANIFEST), [SceneMemory(3), SceneMemory(3)]
    served = [[], []]
    for n in range(20):
        for which, memory in enumerate(memories):
            number = 100 * which + n
            served[which].append(numbered(segmenter, memory, number, START + n * S // 10))
    for which, numbers in enumerate(served):
        assert numbers == sorted(numbers) and len(set(numbers)) > 2
        assert all(100 * which <= number < 100 * which + 20 for number in numbers)
    assert engine.waited == [0, 100]


def test_scene_every_1_waits_for_each_pair_s_own_embedding():
    engine = AsideEngine(1)
    segmenter, memory = Segmenter(engine, SCENE_MANIFEST), SceneMemory(1)
    assert [numbered(segmenter, memory, n) for n in range(5)] == list(range(5))
    assert not engine.started
