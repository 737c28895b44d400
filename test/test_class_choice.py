# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What names, a file and a bank come to, without ROS; the sentences are those of the node."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from bundles import CLASSES, TEXT_WIDTH, expected, manifest, tiny_bank, write_tiny_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.class_choice import find_classes, read_file
from rgbx_seg_ros.engine import open_engine
from rgbx_seg_ros.manifest import load_bundle
from rgbx_seg_ros.pipeline import Pipeline
from rgbx_seg_ros.segmenter import Segmenter
from rgbx_seg_ros.vocabulary import Bank, save_bank

BANK = tiny_bank()


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('made')
    bundle = write_tiny_bundle(folder / 'bundle', vocabulary=4)
    return SimpleNamespace(folder=folder, bundle=bundle, manifest=load_bundle(bundle))


def find(made, names=(), file=None):
    return find_classes(made.bundle, made.manifest, names, file)


def rows(*names):
    return BANK.embeddings[[BANK.names.index(name) for name in names]]


def test_nothing_asked_for_is_the_bundle_as_exported(made):
    choice = find(made)
    assert choice.classes == CLASSES
    np.testing.assert_array_equal(choice.rows, rows('unlabeled', 'car', 'person'))


def test_a_bundle_of_fixed_classes_takes_no_others(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b')
    own = load_bundle(bundle)
    assert find_classes(bundle, own) is None
    for names, file in ((['car'], None), ((), tmp_path / 'x.npz')):
        with pytest.raises(RgbxSegError, match='the 3 classes of tiny are fixed'):
            find_classes(bundle, own, names, file)


def test_classes_of_the_bundle_keep_its_colors_whatever_a_bank_says(made):
    save_bank(made.folder / 'gray.npz', replace(BANK, colors=np.full((6, 3), 9)))
    choice = find(made, ['car', 'dog', 'road'], made.folder / 'gray.npz')
    assert choice.classes[0].color == CLASSES[1].color and choice.classes[1].color == (9, 9, 9)
    assert len({info.color for info in choice.classes}) == 3


def test_a_bank_that_was_exchanged_under_a_running_engine_is_refused(made, tmp_path):
    moved = SimpleNamespace(bundle=shutil.copytree(made.bundle, tmp_path / 'b'),
                            manifest=made.manifest)
    assert find(moved, ['dog'])
    save_bank(moved.bundle / 'classes.npz', replace(BANK, embeddings=2 * BANK.embeddings))
    with pytest.raises(RgbxSegError, match='is not the one that its model was loaded with'):
        find(moved, ['dog'])


def bank(names, embeddings, texts=None):
    return Bank(names, texts or names, np.zeros((len(names), 3)), embeddings)


def test_a_bank_of_another_text_model_is_refused_where_that_can_be_told(made):
    file = made.folder / 'foreign.npz'
    save_bank(file, bank(['a'], np.ones((1, TEXT_WIDTH + 1))))
    with pytest.raises(RgbxSegError, match=r'have 5 numbers; expected 4, .*rgbx_embed_classes'):
        find(made, (), file)
    turned = np.roll(rows('car', 'dog'), 1, axis=1)
    save_bank(file, bank(['x', 'y'], turned, ['a photo of a car.', 'a photo of a dog.']))
    with pytest.raises(RgbxSegError, match=r"'x' is not that of the same text.*cosine 0.00"):
        find(made, (), file)
    save_bank(file, bank(['x', 'y'], turned, ['one', 'two']))  # nothing to compare
    assert [info.name for info in find(made, (), file).classes] == ['x', 'y']
    save_bank(file, bank(['x'], 3 * rows('car'), ['a photo of a car.']))
    assert find(made, (), file).rows.tolist() == (3 * rows('car')).tolist()


def test_more_classes_than_the_bundle_was_exported_for_are_refused(made):
    with pytest.raises(RgbxSegError, match='5 classes .* at most 4, what tiny was exported for'):
        find(made, BANK.names[:5])
    save_bank(made.folder / 'all.npz', BANK)
    with pytest.raises(RgbxSegError, match='6 classes were asked for'):
        find(made, (), made.folder / 'all.npz')


def written(folder, text):
    (folder / 'f.yaml').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / 'f.yaml'


def test_names_choose_from_a_file_and_then_from_the_banks(made, tmp_path):
    file = written(tmp_path, 'classes: [{name: auto, class: car, color: [7, 7, 7]}, dog]')
    assert [info.name for info in find(made, (), file).classes] == ['auto', 'dog']
    choice = find(made, ['truck', 'auto'], file)
    assert [(info.name, info.color) for info in choice.classes] == [
        ('truck', (0, 0, 70)), ('auto', (7, 7, 7))]
    np.testing.assert_array_equal(choice.rows, rows('truck', 'car'))


# Nine times as many pairs a line: 43 million at the end, if merges were merged.
MERGES = 'a0: &a0 {x: 1}\n' + ''.join(
    f'a{n}: &a{n} {{<<: [{", ".join([f"*a{n - 1}"] * 9)}]}}\n' for n in range(1, 9))


@pytest.mark.parametrize('text, told', [
    ('', 'the file is None'), ('classes: car', "classes is 'car'; expected a list"),
    ('classes: []', 'classes is 0 entries'), (f'classes: {["x"] * 256}', '256 entries'),
    ('classes: [car]\nmore: 1', "the key 'more'; expected bank, classes"),
    ('classes: [1]', r'classes\[0\] is 1; expected a name \(in quotes'),
    ('classes: [[a]]', 'expected a name .* or keys'), ('[a, b]', 'expected keys of bank, classes'),
    ('classes: [{class: car}]', r'classes\[0\] has no name'),
    ('classes: [{name: "a\\nb"}]', 'expected a text of up to'),
    (f'classes: [{"x" * 201}]', 'expected a text of up to 200'),
    ('classes: [{name: car, description: 3}]', 'description is 3'),
    ('classes: [{name: car, color: "#ff0000"}]', "color is '#ff0000'; expected"),
    ('classes: [{name: car, color: [true, 0, 0]}]', 'color is'),
    ('classes: [car]\nbank: x.pkl', "bank is 'x.pkl'"), ('classes: [car]\nbank: 3', 'bank is 3'),
    ('classes: [car]\nbank: none.npz', 'none.npz: no such file'),
    (b'\xff\xfe\x00', 'cannot be read'), ('[' * 5000, 'cannot be read'),
    ('classes: &a [{name: car, color: *a}]', 'cannot be read|color is'),
    ('x' * (1 << 18) + ': 1', 'larger than 262144 bytes'),
    ('classes:\n' + '- a\n' * 60_000, 'more than 5100 values'),
    ('- ' * 100_000, 'cannot be read'), ('#' * 200_000, 'the file is None'),
    ('classes: [2026-13-45T99:99:99]', 'cannot be read|classes'),
    ('classes: [!!timestamp x]', 'cannot be read'), ('classes: [!!bool x]', 'cannot be read'),
    ('classes: [!!int ""]', 'cannot be read'), (f'classes: [0x{"f" * 5000}]', 'classes|digits'),
    ('classes: [car]\nbank: ~nobody-of-that-name/x.npz', 'no such file'),
    (f'classes: [car]\nbank: {"x" * 5000}.npz', 'no such file'),
    ('a: &a {name: car}\nclasses: [{<<: *a}]', "cannot be read .*merge"),
    (MERGES, "cannot be read .*merge")],
    ids=range(33))
def test_a_file_that_lists_no_classes_is_refused_in_a_sentence(made, tmp_path, text, told):
    with pytest.raises(RgbxSegError, match=told) as caught:
        find(made, (), written(tmp_path, text))
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 600 or 'no such file' in told  # which has a long name


def test_a_description_that_no_bank_has_is_refused_with_the_command_that_makes_one(made, tmp_path):
    file = written(tmp_path, 'classes: [{name: dog, description: a dog with a blue collar}]')
    command = f'`rgbx_embed_classes {file} --bank {tmp_path / "f.npz"} --model MODEL`'
    with pytest.raises(RgbxSegError, match='of class \'dog\' is not in the bank') as caught:
        find(made, (), file)
    assert command in str(caught.value)
    # What that command makes, by a text model that takes it for a car, is then found.
    save_bank(tmp_path / 'f.npz', bank(['dog'], rows('car'), ['a dog with a blue collar']))
    choice = find(made, (), written(tmp_path, file.read_text() + '\nbank: f.npz'))
    np.testing.assert_array_equal(choice.rows, rows('car'))


def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path):
    with pytest.raises(RgbxSegError, match=r'expected one that ends in .yaml, .yml'):
        read_file(tmp_path / 'classes.txt')


def pictures(seed):
    numbers = np.random.default_rng(seed)
    return (numbers.integers(0, 256, (48, 64, 3), np.uint8),
            numbers.integers(0, 256, (48, 64), np.uint8))


def test_a_segmenter_finds_the_new_classes_from_the_next_call_on(made):
    engine, own = open_engine(made.bundle, 'onnxruntime')
    segmenter = Segmenter(engine, own)
    rgb, aux = pictures(0)
    for version, names in enumerate((('dog', 'car'), ('person',), ('truck', 'dog', 'road'))):
        segmenter.set_classes(find(made, names), runs=1)
        np.testing.assert_array_equal(segmenter(rgb, aux).label,
                                      expected(rgb, aux, rows=rows(*names)))
        assert tuple(info.name for info in segmenter.manifest.classes) == names
        assert segmenter.classes_version == version  # the first ones are no change
    assert segmenter.exported == own
    engine.close()


def test_classes_that_an_engine_cannot_run_leave_the_old_ones_in_force(made):
    class Failing:
        """An engine that takes any rows, and fails with more than two of them."""

        info = SimpleNamespace(embeds_aside=False, rgb_size=None, aux_size=None)

        refuses = closed = False

        def set_classes(self, rows):
            if self.refuses:
                raise ValueError('no room for the old ones')
            self.rows = rows
            self.refuses = len(rows) == 4

        def close(self):
            self.closed = True

        def __call__(self, rgb, aux, scene=None):
            if len(self.rows) > 2:
                raise MemoryError('no room')
            return np.zeros((1, 48, 64), np.uint8), np.zeros((1, 48, 64), np.uint8)

    segmenter = Segmenter(Failing(), replace(manifest(), vocabulary=made.manifest.vocabulary))
    first = find(made, ['car', 'dog'])
    segmenter.set_classes(first, runs=1)
    digest = segmenter.classes_sha256
    with pytest.raises(MemoryError):
        segmenter.set_classes(find(made), runs=1)
    assert segmenter.engine.rows is first.rows and segmenter.manifest.classes == first.classes
    assert segmenter.classes_version == 0 and segmenter.classes_sha256 == digest != ''
    # One that cannot go back makes no more masks: nobody could tell of which classes they are.
    with pytest.raises(MemoryError, match='no room$'):
        segmenter.set_classes(find(made, ['car', 'dog', 'road', 'truck']), runs=1)
    assert segmenter.engine.closed and segmenter.manifest.classes == first.classes


def test_a_pipeline_forgets_the_labels_of_other_classes(made):
    engine, own = open_engine(made.bundle, 'onnxruntime')
    segmenter = Segmenter(engine, own)
    pipeline = Pipeline(segmenter)
    labels = []
    for step, names in enumerate((('road', 'car', 'person'), ('dog', 'truck'))):
        segmenter.set_classes(find(made, names))
        pipeline.forget_labels()
        rgb, aux = pictures(step)
        done = pipeline(rgb, aux, 'mono8', step * 10_000_000, smoothing_s=10.0)
        labels.append(done.result.label)
        np.testing.assert_array_equal(done.result.label, expected(rgb, aux, rows=rows(*names)))
    assert labels[1].max() < 2
    engine.close()
