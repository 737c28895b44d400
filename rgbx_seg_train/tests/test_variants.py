# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""rgbx_variants: forms are measured and recorded, and a bundle is never half changed."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import yaml
from small_runs import write_folder
from tiny_graphs import HEIGHT, WIDTH, manifest, pair, write_bundle

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.bag import BagWriter
from rgbx_seg_ros.engine import Model, open_engine
from rgbx_seg_ros.machine import Machine
from rgbx_seg_ros.manifest import Variant, check_variant, load_bundle
from rgbx_seg_ros.selection import choose
from rgbx_seg_ros.thermal import to_uint8
from rgbx_seg_train import agreement, quantize, variant_maker, variants
from rgbx_seg_train.frames import Frame, record, refuse_shared
from rgbx_seg_train.pairs import Use, open_pairs
from rgbx_seg_train.precision import lower
from rgbx_seg_train.variant_maker import Pairs, add_variants


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / 'bundle')


def frames(first, count=4, target=True):
    """Return random pairs whose ground truth is random too."""
    rng = np.random.default_rng(first)
    return [Frame(*pair(seed).values(), rng.integers(0, 9, (HEIGHT, WIDTH)).astype(np.uint8)
                  if target else None) for seed in range(first, first + count)]


PAIRS = Pairs(frames(100), frames(0))


def silent(text):
    """Tell nobody."""


def digest(folder):
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob('*') if path.is_file()}


def test_forms_are_added_with_their_records(bundle):
    before = digest(bundle)
    made = add_variants(bundle, ['fp16', 'bf16', 'bf16_openvino'], PAIRS, tell=silent)
    found = load_bundle(bundle)
    assert found.variants == tuple(one.variant for one in made)
    assert digest(bundle).items() >= (before.items() - {('manifest.yaml', before['manifest.yaml'])})
    fp16, bf16, openvino = found.variants
    assert (fp16.precision, bf16.precision, openvino.precision) == ('fp16', 'bf16', 'bf16')
    assert fp16.backends == ('tensorrt', 'tensorrt_rtx', 'onnxruntime_cuda', 'torch')
    assert openvino.files == {} and openvino.backends == ('openvino',)
    assert 0.9 < bf16.labels < fp16.labels <= 1
    assert fp16.pairs == 4 and abs(fp16.miou_change) < 0.02
    assert fp16.measured.endswith('in float32, rounded as fp16')
    for variant in found.variants:
        check_variant(bundle, variant)


def test_labels_and_miou_are_counted_against_fp32(bundle):
    made, = add_variants(bundle, ['bf16'], PAIRS, tell=silent)
    engine, own = open_engine(bundle, 'onnxruntime', 'fp32')
    stand_in, _ = agreement.open_form(Model(bundle, own, made.variant, 'bf16'), bundle / 'work')
    equal = [engine(*frame[:2])[0].copy() == stand_in(*frame[:2])[0] for frame in PAIRS.evaluation]
    assert made.variant.labels == pytest.approx(np.mean(equal), abs=1e-6)


def test_int8_forms_run_in_the_libraries_they_are_for(bundle):
    pytest.importorskip('nncf')
    made = add_variants(bundle, ['int8_tensorrt', 'int8_openvino', 'int8_onnxruntime'], PAIRS,
                        tell=silent)
    own = load_bundle(bundle)
    for one in made:
        assert one.variant.precision == 'int8'
        assert 0.9 < one.variant.labels < 1
    for backend in ('openvino', 'onnxruntime'):
        engine, _ = open_engine(bundle, backend, 'int8')
        assert engine.info.precision == 'int8'
        label, _ = engine(*PAIRS.evaluation[0][:2])
        assert label.shape == (1, own.height, own.width)
    by_name = {one.variant.name: one for one in made}
    assert set(by_name['int8_openvino'].agreement.ms) == {'openvino'}
    assert by_name['int8_tensorrt'].agreement.ms == {}
    assert set(by_name['int8_openvino'].variant.files) == {'model.xml', 'model.bin'}


def test_both_graphs_of_a_bundle_are_converted_and_embeddings_stay_float32(tmp_path):
    pytest.importorskip('nncf')
    bundle = write_bundle(tmp_path / 'bundle', scene=True)
    made = add_variants(bundle, ['fp16', 'int8_openvino', 'int8_onnxruntime'], PAIRS, tell=silent)
    assert [set(one.variant.files) for one in made] == [
        {'model.onnx', 'scene.onnx'}, {'model.bin', 'model.xml', 'scene.bin', 'scene.xml'},
        {'model.onnx', 'scene.onnx'}]
    for name in ('scene.onnx', 'model.onnx'):
        graph = onnx.load(bundle / 'fp16' / name).graph
        floats = {t.name: t.type.tensor_type.elem_type for t in (*graph.input, *graph.output)
                  if t.name.startswith('s_')}
        assert floats == {'s_rgb': onnx.TensorProto.FLOAT, 's_aux': onnx.TensorProto.FLOAT}
    fine, coarse = (open_engine(bundle, 'openvino', precision)[0] for precision in
                    ('fp32', 'int8'))
    scenes = [engine.embed(*PAIRS.evaluation[0][:2]) for engine in (fine, coarse)]
    assert 0 < np.abs(scenes[0][0] - scenes[1][0]).max() < 0.3 * np.abs(scenes[0][0]).max()


def test_a_form_that_loses_too_much_is_stored_but_no_default(bundle, monkeypatch):
    def ruin(graph, precision):
        lowered = lower(graph, precision)
        for tensor in lowered.model.graph.initializer:
            if tensor.name.startswith('w5'):  # the classifier's
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), tensor.name))
        return lowered

    monkeypatch.setattr(variant_maker, 'lower', ruin)
    _, own = open_engine(bundle, 'onnxruntime', 'fp32')
    engine, _ = open_engine(bundle, 'onnxruntime', 'fp32')
    true = [frame._replace(target=engine(*frame[:2])[0][0].copy()) for frame in frames(0)]
    made, = add_variants(bundle, ['fp16'], Pairs((), true), tell=silent)
    assert made.variant.labels < 0.5 and made.variant.miou_change < -0.3
    assert 'points of mIoU against fp32; a default may lose 0.5' in made.why_not_default
    assert f'No default: {made.why_not_default}' in variants.tell_forms([made])
    model = Model(bundle, load_bundle(bundle))
    machine = Machine('x86_64', ('int8', 'bf16'), None)
    for precision, expected in (('auto', None), ('fp16', 'fp16')):
        chosen = choose(model, 'tensorrt', precision, machine)
        assert (chosen.variant.name if chosen.variant else None) == expected


def test_int8_that_loses_too_much_in_convolutions_leaves_them_out(bundle, monkeypatch):
    asked = []

    def only_products_are_good(graph, feeds, kinds):
        asked.append(tuple(kinds))
        if 'Conv' not in kinds:
            return graph
        worse = onnx.ModelProto()
        worse.CopyFrom(graph)
        weight = next(t for t in worse.graph.initializer if t.name == 'w1')
        weight.CopyFrom(onnx.numpy_helper.from_array(
            -onnx.numpy_helper.to_array(weight), 'w1'))
        return worse

    monkeypatch.setattr(quantize, 'for_onnxruntime', only_products_are_good)
    made, = add_variants(bundle, ['int8_onnxruntime'], PAIRS, tell=silent)
    assert asked == list(quantize.SCOPES)
    assert made.products_only and made.variant.labels == 1 and not made.why_not_default
    assert 'convolutions stay as they are' in variants.tell_forms([made])


def test_failure_leaves_the_bundle_as_it_was(bundle, monkeypatch):
    add_variants(bundle, ['fp16'], PAIRS, tell=silent)
    before = digest(bundle.parent)

    def fail(*arguments):
        raise RgbxSegError('found this; expected that; do so.')

    monkeypatch.setattr(quantize, 'for_onnxruntime', fail)
    with pytest.raises(RgbxSegError, match='found this'):
        add_variants(bundle, ['fp16', 'int8_onnxruntime'], PAIRS, remove=['fp16'], tell=silent)
    assert digest(bundle.parent) == before


def test_forms_are_replaced_and_removed_and_others_stay(bundle):
    add_variants(bundle, ['fp16', 'bf16'], PAIRS, tell=silent)
    kept = load_bundle(bundle).variants[1]
    add_variants(bundle, ['fp16'], Pairs((), frames(7, 2)), tell=silent)
    bf16, fp16 = load_bundle(bundle).variants
    assert bf16 == kept and fp16.pairs == 2
    add_variants(bundle, [], Pairs((), ()), remove=['fp16'], tell=silent)
    assert [own.name for own in load_bundle(bundle).variants] == ['bf16']
    assert sorted(path.name for path in bundle.iterdir()) == ['bf16', 'manifest.yaml', 'model.onnx']
    with pytest.raises(RgbxSegError, match='no such form; expected one of bf16'):
        add_variants(bundle, [], Pairs((), ()), remove=['fp16'], tell=silent)


def test_without_ground_truth_there_is_no_change_of_miou(bundle):
    made, = add_variants(bundle, ['fp16'], Pairs((), frames(0, target=False)), tell=silent)
    assert made.variant.miou_change is None and made.variant.labels > 0.99


def test_forms_for_a_camera_resize_inside(bundle):
    size = (2 * HEIGHT, 2 * WIDTH)
    large = [frame._replace(rgb=frame.rgb.repeat(2, 1).repeat(2, 2),
                            target=frame.target.repeat(2, 0).repeat(2, 1))
             for frame in PAIRS.evaluation]
    made = add_variants(bundle, ['fp32', 'fp16'], PAIRS._replace(at_camera=((), large)), size,
                        tell=silent)
    assert [one.variant.name for one in made] == ['fp32_96x64', 'fp16_96x64']
    for one in made:
        assert one.variant.rgb_size == size and one.variant.aux_size is None
        assert one.variant.labels > 0.99
    graph = onnx.load(bundle / 'fp16_96x64' / 'model.onnx').graph
    shapes = {t.name: [d.dim_value for d in t.type.tensor_type.shape.dim]
              for t in (*graph.input, *graph.output)}
    assert shapes == {'rgb': [1, 64, 96, 3], 'aux': [1, HEIGHT, WIDTH, 1], 'label': [1, 64, 96],
                      'confidence': [1, 64, 96]}


def write_bag(path, count=6):
    """Write a bag of two cameras with labels; return the raw images by stamp."""
    rng, written = np.random.default_rng(0), {}
    with BagWriter(path) as writer:
        for number in range(count):
            stamp = 10**9 + number * 10**8
            rgb = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
            aux = rng.integers(28000, 32000, (HEIGHT, WIDTH)).astype(np.uint16)
            label = np.full((HEIGHT, WIDTH), number, np.uint8)
            for topic, image, encoding in (('/rgb/image_raw', rgb, 'rgb8'),
                                           ('/thermal/image_raw', aux, 'mono16'),
                                           ('/label/image_raw', label, 'mono8')):
                writer.write_image(topic, image, encoding, stamp, stamp, 'camera')
            written[number] = rgb, aux
    return written


def read_frames(source, own, kind, count, shared=False):
    return record(open_pairs(str(source), own, Use(kind, count, shared)), own)


def test_pairs_of_a_bag_are_what_the_network_gets_on_the_robot(tmp_path):
    written = write_bag(tmp_path / 'bag')
    own = manifest()
    found = read_frames(tmp_path / 'bag', own, 'calibrate', 6)
    assert len(found) == 6
    for number, frame in enumerate(found):
        rgb, aux = written[number]
        assert (frame.target == number).all()
        assert (frame.rgb[0] == rgb).all()
        expected = to_uint8(aux, own.aux)
        assert frame.aux.shape == (1, HEIGHT, WIDTH, 1)
        # The stream's percentiles follow those of single images slowly.
        assert number or np.abs(frame.aux[0, ..., 0].astype(int) - expected).max() <= 1
    few = read_frames(tmp_path / 'bag', own, 'evaluate', 2)
    assert [int(frame.target[0, 0]) for frame in few] == [1, 4]


def test_pairs_that_were_calibrated_on_are_refused():
    with pytest.raises(RgbxSegError, match='2 of the 4 pairs of --evaluate are among those'):
        refuse_shared(frames(0), frames(2))


def config_file(tmp_path):
    """Write a training configuration whose test images are others than the training's."""
    for name, names in (('one', ('00001D', '00002N')), ('two', ('00003D',))):
        write_folder(tmp_path / name, names)
        if name == 'two':  # its generator begins as that of the first
            import cv2
            path = str(tmp_path / name / 'rgb' / '00003D.png')
            cv2.imwrite(path, 255 - cv2.imread(path))
    data = {'data': {'height': HEIGHT, 'width': WIDTH, 'cache': str(tmp_path / 'cache'),
                     'train': [{'kind': 'folder', 'root': str(tmp_path / 'one')}],
                     'test': [{'kind': 'folder', 'root': str(tmp_path / 'two')}]}}
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(data))
    return path


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, 'argv', ['rgbx_variants', *map(str, arguments)])
    code = variants.main()
    return code, capsys.readouterr()


def test_command_calibrates_measures_and_writes_json(bundle, tmp_path, monkeypatch, capsys):
    config, out = config_file(tmp_path), tmp_path / 'forms.json'
    code, said = command(monkeypatch, capsys, bundle, 'fp16', 'int8_onnxruntime', '--calibrate',
                         config, '--evaluate', config, '--json', out, 'data.test.0.part=all')
    assert code == 0, said.err
    data = json.loads(out.read_text())
    assert [form['variant']['name'] for form in data['forms']] == ['fp16', 'int8_onnxruntime']
    assert data['forms'][0]['variant']['pairs'] == 1
    assert data['forms'][0]['variant']['miou_change'] is not None
    assert 'fp16 ' in said.out and 'labels %' in said.out


def test_command_tells_which_operators_matter_and_changes_nothing(bundle, tmp_path, monkeypatch,
                                                                  capsys):
    before = digest(bundle)
    code, said = command(monkeypatch, capsys, bundle, '--ablation', '--evaluate',
                         config_file(tmp_path), '--json', tmp_path / 'a.json')
    assert code == 0, said.err
    rows = {row['kept']: row for row in json.loads((tmp_path / 'a.json').read_text())['bf16']}
    assert rows['none']['operators'] < rows['only Softmax']['operators'] < rows['all']['operators']
    assert digest(bundle) == before


@pytest.mark.parametrize(('arguments', 'sentence'), [
    ((), 'no form is named; expected some of fp32, fp16'),
    (('fp32',), 'form fp32: expected one of fp16'),
    (('fp8',), 'form fp8: expected one of'),
    (('fp16',), '--evaluate is missing; expected a source'),
    (('int8', '--evaluate', 'synthetic:1'), '--calibrate is missing'),
    (('fp16', '--evaluate', 'synthetic:none'), 'expected synthetic:COUNT'),
    (('fp16', '--evaluate', 'nowhere'), 'no such bag'),
    (('fp16', '--evaluate', 'x', '--evaluation-pairs', '0'), '--evaluation-pairs is 0'),
    (('fp16', '--evaluate', 'x', '--camera', '640'), '--camera 640: expected WIDTHxHEIGHT'),
    (('--remove', 'fp16'), 'no such form; expected one of none')])
def test_command_refuses_in_one_sentence(bundle, monkeypatch, capsys, arguments, sentence):
    before = digest(bundle)
    code, said = command(monkeypatch, capsys, bundle, *arguments)
    assert code == 1
    assert sentence in said.err and said.err.count('\n') == 1
    assert digest(bundle) == before


def test_source_of_another_modality_is_refused(tmp_path):
    depth = replace(manifest(), modality='depth')
    with pytest.raises(RgbxSegError, match='its pairs are RGB and thermal, the bundle takes RGB'):
        read_frames(config_file(tmp_path), depth, 'evaluate', 1)


def test_bf16_of_a_processor_that_lacks_it_is_emulated(bundle, tmp_path):
    own = load_bundle(bundle)
    variant = Variant('bf16_openvino', 'bf16', ('openvino',), {}, 1.0, None, 1)
    model = Model(bundle, own, variant, 'bf16')
    machine = Machine('x86_64', ('int8',), None)
    _, measured = agreement.open_form(model, tmp_path / 'work', machine)
    assert 'rounded as bf16' in measured
