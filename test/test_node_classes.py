# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Other classes while the node runs, over real DDS: what follows, what is refused, and when."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rgbx_seg.msg', reason='the ROS package is not built; run `make ros`')

import rclpy
from bundles import CLASSES, TEXT_WIDTH, expected, tiny_bank, write_tiny_bundle
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rgbx_seg.msg import SegmentationInfo, SegmentationStats
from robot import (
    SECOND,
    STAMPS_NS,
    NodeProcess,
    SlowNodeProcess,
    free_domain,
    image,
    normalized,
    pixels,
    robot,
    scene,
)
from sensor_msgs.msg import Image

from rgbx_seg_ros.messages import stamp_ns
from rgbx_seg_ros.node import SegmentNode
from rgbx_seg_ros.vocabulary import Bank, save_bank

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SIZE = (48, 64)  # the network's: the mask can be computed by hand
FIRST = ['car', 'unlabeled', 'person']
MOST = 4
BANK = tiny_bank()
COLORS = {name: tuple(color) for name, color in zip(BANK.names, BANK.colors.tolist(), strict=True)}


@pytest.fixture(scope='module')
def running(tmp_path_factory):
    """One active node of two camera pairs, started with other classes than its bundle's."""
    folder, number = tmp_path_factory.mktemp('node'), free_domain()
    bundle = write_tiny_bundle(folder / 'bundle', vocabulary=MOST)
    with (NodeProcess(folder / 'log', number, bundle=bundle, classes=FIRST, pairs=['a', 'b'],
                      b__mask__smoothing=10.0, a__score__labels=True,
                      overlay__alpha=1.0) as node, robot(number) as peer):
        heard = {name: peer.listen(kind, f'/segment/a/{name}') for name, kind in (
            ('mask', Image), ('overlay', Image), ('stats', SegmentationStats))}
        heard['b'] = peer.listen(Image, '/segment/b/mask')
        info = peer.listen(SegmentationInfo, '/segment/a/info', LATCHED)
        peer.advertise(Image, *(f'/{pair}/{stream}/image_raw' for pair in 'ab'
                                for stream in ('rgb', 'thermal')), '/a/label/image_raw')
        yield SimpleNamespace(node=node, peer=peer, heard=heard, info=info, bundle=bundle,
                              folder=folder)
        assert node.end() == 0
        assert 'Traceback' not in node.log


def rows(names):
    return BANK.embeddings[[BANK.names.index(name) for name in names]]


def send(running, seed, pair='a', stamp=None, label=None):
    """Publish a pair; return its mask, overlay and stats (of pair b the mask alone)."""
    for heard in running.heard.values():
        heard.clear()
    rgb, thermal = scene(seed, SIZE)
    stamp = stamp or next(STAMPS_NS)
    if label is not None:
        running.peer.publish(f'/{pair}/label/image_raw', image(label, 'mono8', stamp))
    running.peer.publish(f'/{pair}/rgb/image_raw', image(rgb, 'rgb8', stamp))
    running.peer.publish(f'/{pair}/thermal/image_raw', image(thermal, 'mono16', stamp))
    wanted = [running.heard['b']] if pair == 'b' else [
        running.heard[name] for name in ('mask', 'overlay', 'stats')]
    assert running.peer.until(lambda: all(wanted)), running.node.log
    return [heard[-1] for heard in wanted]


def oracle(seed, names):
    rgb, thermal = scene(seed, SIZE)
    return expected(rgb, normalized(thermal), rows=rows(names))


def newest(running, names):
    """Return the newest info once it tells these classes."""
    assert running.peer.until(lambda: running.info
                              and list(running.info[-1].class_names) == list(names)), (
        running.info[-1:], running.node.log)
    return running.info[-1]


def check_all(running, names, colors=None, seed=1, of=None):
    """Check mask, overlay, stats and info of classes; `of` are their names in the bank."""
    mask, overlay, stats = send(running, seed)
    info = newest(running, names)
    own = oracle(seed, of or names)
    np.testing.assert_array_equal(pixels(mask), own)
    table = np.array(colors or [COLORS[name] for name in names], np.uint8)
    painted = np.where(table[own].any(2, keepdims=True), table[own], scene(seed, SIZE)[0])
    np.testing.assert_array_equal(pixels(overlay), painted)
    assert list(info.class_ids) == list(range(len(names)))
    assert list(info.class_colors) == table.ravel().tolist()
    assert stats.classes_version == info.classes_version
    np.testing.assert_allclose(stats.class_fractions,
                               [np.mean(own == n) for n in range(len(names))], rtol=1e-5)
    return info


def set_both(running, **values):
    parameters = [Parameter(name, value=value).to_parameter_msg()
                  for name, value in values.items()]
    result = running.peer.call(
        SetParametersAtomically, '/segment/set_parameters_atomically',
        SetParametersAtomically.Request(parameters=parameters)).result
    return '' if result.successful else result.reason


def test_the_node_starts_with_the_classes_that_it_was_told(running):
    info = check_all(running, FIRST)
    assert info.classes_version == 0


def test_mask_overlay_stats_and_info_follow_names_that_are_set_and_an_empty_list_goes_back(running):
    before = newest(running, FIRST).classes_version
    names = ['truck', 'dog', 'unlabeled']
    assert running.peer.set_parameter('classes', names) == ''
    assert check_all(running, names, seed=2).classes_version == before + 1
    assert 'the classes are now truck, dog, unlabeled' in running.node.log
    for empty in ([], ['']):
        assert running.peer.set_parameter('classes', ['person']) == ''
        assert check_all(running, ['person'], seed=3)
        assert running.peer.set_parameter('classes', empty) == ''
        check_all(running, [info.name for info in CLASSES], seed=4)


def test_label_info_follows_where_vision_msgs_is_installed(running):
    vision = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    heard = running.peer.listen(vision.LabelInfo, '/segment/a/label_info', LATCHED)
    for names in (['dog'], ['road', 'person']):
        assert running.peer.set_parameter('classes', names) == ''
        assert running.peer.until(lambda names=names: heard and {
            one.class_id: one.class_name for one in heard[-1].class_map} == dict(enumerate(names)))


@pytest.mark.parametrize('names, told', [
    (['car', 'Truck'], r"class 'Truck' is not among the 6 names .* the nearest is 'truck'"),
    (['lorry'], r"'lorry' is not among .*it has 'unlabeled', 'car', 'person', …"),
    (['car', 'dog', 'car'], "class 'car' was asked for twice"),
    (['car', 'dog', 'road', 'person', 'truck'], '5 classes were asked for; expected at most 4'),
    (['car', ''], 'parameter classes is .*; expected at most 255 names'),
    ([str(n) for n in range(256)], r'\(256 in all\); expected at most 255 names')])
def test_names_that_cannot_be_found_are_refused_in_a_sentence_and_nothing_changes(
        running, names, told):
    assert running.peer.set_parameter('classes', ['road', 'car']) == ''
    version = check_all(running, ['road', 'car']).classes_version
    reason = running.peer.set_parameter('classes', names)
    assert '\n' not in reason and len(reason) < 500
    assert re.search(told, reason), reason
    assert list(running.peer.get_parameter('classes').string_array_value) == ['road', 'car']
    assert check_all(running, ['road', 'car'], seed=5).classes_version == version


def test_a_file_renames_and_colors_and_its_bank_brings_names_of_its_own(running):
    bank = Bank(['drone', 'car'], ['a photo of a drone.', 'another car'],
                [[9, 8, 7], [1, 1, 1]], np.eye(TEXT_WIDTH, dtype=np.float32)[[2, 0]] * 5)
    save_bank(running.folder / 'own.npz', bank)
    file = running.folder / 'own.yaml'
    file.write_text('bank: own.npz\nclasses:\n'
                    '  - {name: pedestrian, class: person, color: [200, 0, 0]}\n'
                    '  - drone\n'
                    '  - {name: beast, description: A photo of a dog}\n')
    assert set_both(running, classes=[''], classes_file=str(file)) == ''
    mask, *_ = send(running, 6)
    info = newest(running, ['pedestrian', 'drone', 'beast'])
    own = np.stack([rows(['person'])[0], bank.embeddings[0], rows(['dog'])[0]])
    rgb, thermal = scene(6, SIZE)
    np.testing.assert_array_equal(pixels(mask), expected(rgb, normalized(thermal), rows=own))
    assert list(info.class_colors) == [200, 0, 0, 9, 8, 7, 255, 128, 0]
    # Names choose from the file, then from its bank, then from the bundle's.
    assert running.peer.set_parameter('classes', ['pedestrian', 'road']) == ''
    check_all(running, ['pedestrian', 'road'], [(200, 0, 0), COLORS['road']], 7,
              ['person', 'road'])
    # A bank alone means all that it has; the bundle's class keeps its color.
    assert set_both(running, classes=[''], classes_file=str(running.folder / 'own.npz')) == ''
    assert list(newest(running, ['drone', 'car']).class_colors) == [9, 8, 7, *COLORS['car']]


def test_two_parameters_at_once_are_set_both_or_neither(running):
    assert set_both(running, classes=['car'], classes_file='') == ''
    version = check_all(running, ['car']).classes_version
    for file, told in (
            (running.folder / 'none.yaml', 'none.yaml: it cannot be read (no such file)'),
            (running.folder / 'none.npz', 'none.npz: no such file'),
            (running.folder / 'bundle', 'bundle: its name says nothing')):
        assert told in set_both(running, classes=['dog'], classes_file=str(file))
    alpha = {'overlay.alpha': 3.0}
    assert 'out of range' in set_both(running, classes=['dog'], **alpha)
    alpha = {'overlay.alpha': 0.5}
    assert "'cat' is not among" in set_both(running, classes=['cat'], **alpha)
    assert list(running.peer.get_parameter('classes').string_array_value) == ['car']
    assert running.peer.get_parameter('classes_file').string_value == ''
    assert check_all(running, ['car'], seed=8).classes_version == version


@pytest.mark.parametrize('text, told', [
    ('classes: [{name: cat, description: a small furry animal}]',
     "the description of class 'cat' is not in the bank, and the robot has no text model"),
    ('classes: []', 'classes is 0 entries'), ('[1, 2]', r'the file is \[1, 2\]'),
    ('classes: [{name: yes}]', r'classes\[0\].name is True'),
    ('classes: [{name: x, colour: red}]', "has the key 'colour'; expected name, class, color"),
    ('classes: [{name: car, color: [1, 2, 300]}]', r'color is \[1, 2, 300\]'),
    ('classes: [{name: car, color: [1, 2, 3]}, {name: dog, color: [1, 2, 3]}]', 'same color'),
    ('classes: !!python/object/apply:os.getcwd []', 'cannot be read'), ('{', 'cannot be read')])
def test_a_file_of_no_use_is_refused_with_the_reason(running, tmp_path, text, told):
    (tmp_path / 'f.yaml').write_text(text)
    assert set_both(running, classes=[''], classes_file='') == ''
    newest(running, [info.name for info in CLASSES])
    before = len(running.info)
    reason = running.peer.set_parameter('classes_file', str(tmp_path / 'f.yaml'))
    assert re.search(told, reason), reason
    assert running.peer.get_parameter('classes_file').string_value == ''
    assert len(running.info) == before


def test_what_a_smoothed_mask_remembers_of_other_classes_is_forgotten(running):
    assert set_both(running, classes=['road', 'car', 'person'], classes_file='') == ''
    begin = next(STAMPS_NS)
    np.testing.assert_array_equal(pixels(send(running, 9, 'b', begin)[0]),
                                  oracle(9, ['road', 'car', 'person']))
    held = pixels(send(running, 10, 'b', begin + SECOND // 20)[0])
    assert (held != oracle(10, ['road', 'car', 'person'])).any()  # the time constant is 10 s
    names = ['dog', 'truck']
    assert running.peer.set_parameter('classes', names) == ''
    np.testing.assert_array_equal(pixels(send(running, 11, 'b', begin + SECOND // 10)[0]),
                                  oracle(11, names))


def test_labels_are_scored_by_the_names_of_their_ids(running):
    names = ['person', 'road', 'car']
    assert running.peer.set_parameter('classes', names) == ''
    label = np.random.default_rng(0).integers(0, 3, SIZE).astype(np.uint8)  # ids of CLASSES
    send(running, 12, label=label)
    seeds = itertools.count(13)
    while not running.heard['stats'][-1].masks_scored:
        assert send(running, next(seeds)), running.node.log
    own = {names.index(CLASSES[n].name): label == n for n in (1, 2)}  # no id for unlabeled
    mask, known = oracle(12, names), label != 0
    iou = [(own[n] & (mask == n)).sum() / ((own[n] | (mask == n)) & known).sum() for n in own]
    iou += [0.0] * bool(((mask == 1) & known).any())  # road, which is in no label
    assert running.heard['stats'][-1].miou == pytest.approx(np.mean(iou), rel=1e-5)


def test_each_mask_has_the_classes_that_its_stats_tell_while_they_change_all_the_time(running):
    lists = [['road', 'car', 'person'], ['dog', 'unlabeled'], ['person', 'truck', 'road', 'car']]
    masks, stats = {}, {}
    rgb, thermal = scene(14, SIZE)
    for step in range(30):
        stamp = next(STAMPS_NS)
        for heard in running.heard.values():
            heard.clear()
        running.peer.publish('/a/rgb/image_raw', image(rgb, 'rgb8', stamp))
        running.peer.publish('/a/thermal/image_raw', image(thermal, 'mono16', stamp))
        assert running.peer.set_parameter('classes', lists[step % 3]) == ''
        assert running.peer.until(lambda: running.heard['mask'] and running.heard['stats'])
        masks |= {stamp_ns(message.header): message for message in running.heard['mask']}
        stats |= {stamp_ns(message.header): message for message in running.heard['stats']}
    newest(running, lists[step % 3])
    names = {info.classes_version: list(info.class_names) for info in running.info}
    assert len(masks) >= 25 and masks.keys() == stats.keys()
    versions = [stats[stamp].classes_version for stamp in sorted(stats)]
    assert versions == sorted(versions) and len(set(versions)) > 10
    for stamp, mask in masks.items():
        own = names[stats[stamp].classes_version]
        np.testing.assert_array_equal(pixels(mask), oracle(14, own))
        assert len(stats[stamp].class_fractions) == len(own)


def test_an_unconfigured_node_takes_any_names_and_configure_looks_them_up(running):
    peer = running.peer
    assert peer.change('deactivate')
    assert peer.set_parameter('classes', ['dog', 'car']) == ''  # still configured: at once
    newest(running, ['dog', 'car'])
    assert "'cat' is not among" in peer.set_parameter('classes', ['cat'])
    assert peer.change('cleanup')
    assert peer.set_parameter('classes', ['cat']) == ''
    assert not peer.change('configure')
    assert "cannot configure: class 'cat' is not among the 6 names" in running.node.log
    assert peer.set_parameter('classes', ['person', 'car']) == ''
    assert peer.change('configure') and peer.change('activate')
    assert newest(running, ['person', 'car']).classes_version == 0


def test_classes_wait_for_no_engine_that_opens_and_cleanup_waits_for_a_change(tmp_path):
    number, bundle = free_domain(), write_tiny_bundle(tmp_path / 'b', vocabulary=MOST)
    (bundle / 'opening').write_text('an engine is built')
    with (SlowNodeProcess(tmp_path / 'log', number, bundle=bundle) as node, robot(number) as peer):
        assert peer.until(lambda: 'an engine is built' in node.log)
        info = peer.listen(SegmentationInfo, '/segment/info', LATCHED)
        told = 'the classes cannot change while the node changes its state; set them again'
        assert told in peer.set_parameter('classes', ['dog'])
        (bundle / 'opening').unlink()
        assert peer.until(lambda: info and peer.state() == 'active'), node.log
        assert list(info[-1].class_names) == [one.name for one in CLASSES]
        # A pair is in work, two changes wait for it, and cleanup for them.
        masks = peer.listen(Image, '/segment/mask')
        peer.advertise(Image, '/rgb/image_raw', '/thermal/image_raw')
        (bundle / 'delay').write_text('0.5')
        for stream, (picture, encoding) in zip(('rgb', 'thermal'), zip(
                scene(1, SIZE), ('rgb8', 'mono16'), strict=True), strict=True):
            peer.publish(f'/{stream}/image_raw', image(picture, encoding, SECOND))
        peer.spin(0.3)
        client = peer.node.create_client(SetParameters, '/segment/set_parameters')
        assert peer.until(client.service_is_ready)
        changes = [client.call_async(SetParameters.Request(parameters=[
            Parameter('classes', value=names).to_parameter_msg()]))
            for names in (['dog'], ['road', 'car'])]
        peer.spin(0.1)
        assert peer.change('deactivate') and peer.change('cleanup')
        assert peer.until(lambda: all(change.done() for change in changes))
        assert all(change.result().results[0].successful for change in changes) and masks
        assert peer.change('configure')
        assert peer.until(lambda: list(info[-1].class_names) == ['road', 'car']), node.log
        assert info[-1].classes_version == 0 and 'Traceback' not in node.log


def test_configure_takes_classes_that_were_accepted_and_are_not_stored_yet(tmp_path):
    bundle = write_tiny_bundle(tmp_path / 'b', vocabulary=MOST)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=free_domain())
    node = SegmentNode(context=context, parameter_overrides=[
        Parameter('bundle', value=str(bundle)), Parameter('autostart', value=False)])
    try:
        # rclpy stores a value after its callback, and another thread may configure in between.
        assert node._on_set_parameters([Parameter('classes', value=['dog', 'car'])]).successful
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert not node._on_set_parameters([Parameter('classes', value=['cat'])]).successful
        assert node._on_set_parameters([Parameter('classes', value=['road'])]).successful
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert [info.name for info in node._loaded.segmenter.manifest.classes] == ['road']
        assert node.set_parameters([Parameter('classes', value=[''])])[0].successful
        assert node._loaded.segmenter.manifest.classes == CLASSES
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_bundle_of_fixed_classes_refuses_others(tmp_path):
    number = free_domain()
    with (NodeProcess(tmp_path / 'log', number, bundle=write_tiny_bundle(tmp_path / 'b')) as node,
          robot(number) as peer):
        info = peer.listen(SegmentationInfo, '/segment/info', LATCHED)
        assert peer.until(lambda: info), node.log
        told = 'the 3 classes of tiny are fixed, for its bundle has no vocabulary'
        assert told in peer.set_parameter('classes', ['car'])
        assert told in peer.set_parameter('classes_file', str(tmp_path / 'x.yaml'))
        assert peer.set_parameter('classes', ['']) == ''
        peer.spin(0.3)
        assert len(info) == 1 and node.end() == 0
