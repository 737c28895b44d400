# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts: every class of every set is described, and what the texts of each mode say."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

import pytest
from small_runs import Stub, small_config

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_train.config import PROMPTS, TextConfig
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.open_sets import BACKGROUND_FROM, OPEN_SETS, open_set, short_names
from rgbx_seg_train.learner import _initialize
from rgbx_seg_train.prompts import (
    ATTRIBUTES,
    MAX_TOKENS,
    class_texts,
    load_descriptions,
    most_tokens,
    name_key,
    name_texts,
    plain_name,
    read_descriptions,
)

CAR_STOP = (ClassInfo(0, 'car_stop', (0, 0, 0)),)
PUDDLE = {'color': 'brown or gray', 'shape': 'a flat oval', 'texture': 'shiny still water'}
PACKAGED = resources.files('rgbx_seg_train.data') / 'descriptions.json'


def bank(folder: Path, **entries) -> str:
    path = folder / 'bank.json'
    path.write_text(json.dumps(entries))
    return str(path)


def test_every_class_of_every_set_is_described_in_every_mode_within_what_clip_reads():
    names = [[info.name for info in classes] for classes in CLASS_SETS.values()]
    names += [open_set(name) for name in OPEN_SETS]
    for mode in PROMPTS:
        for own in names:
            texts = name_texts(own, TextConfig(mode=mode))
            assert len(texts) == len(own) and all(len(told) == 1 for told in texts)
            assert max(most_tokens(told[0]) for told in texts) <= MAX_TOKENS
            assert mode != 'full' or len(set(texts)) == len(own)  # no two classes are told alike


def test_the_bank_of_the_package_is_sorted_plain_and_one_class_a_line():
    text = PACKAGED.read_text(encoding='utf-8')
    entries = json.loads(text)
    assert list(entries) == sorted(entries) and text.count('\n') == len(entries) + 2
    assert len(set(map(name_key, entries))) == len(entries)  # else one of two is never read
    for name, entry in entries.items():
        assert tuple(entry) == ATTRIBUTES, name
        for told in entry.values():
            assert re.fullmatch(r"[a-z0-9A-Z .,'-]+", told) and 2 <= len(told.split()) <= 14, name
            assert not told.endswith('.') and '  ' not in told and '_' not in told, name
    # Our aux images are no color images: what they would show does not belong here.
    assert not re.search(r'thermal|infrared|temperature', text)


def test_modes_tell_the_attributes_that_they_name_in_the_template():
    texts = {mode: class_texts(CAR_STOP, TextConfig(mode=mode))[0][0] for mode in PROMPTS}
    told = json.loads(PACKAGED.read_text())['car stop']
    assert texts['template'] == 'A photo of a car stop in the scene'
    for mode in ATTRIBUTES:
        assert texts[mode] == f'A photo of a car stop in the scene, {told[mode]}.'
    assert texts['full'] == ('A photo of a car stop in the scene, '
                             f'{told["color"]}, {told["shape"]}, {told["texture"]}.')
    other = TextConfig(template='the {}.')
    assert class_texts(CAR_STOP, other)[0][0].startswith('the car stop, pale gray')
    with pytest.raises(RgbxSegError, match='text.template .* has no {}'):
        class_texts(CAR_STOP, TextConfig(template='a photo'))


def test_names_that_differ_in_case_and_signs_are_one_and_further_words_find_their_class():
    full = TextConfig(template='{}')
    texts = {name_texts([name], full)[0][0] for name in
             ('traffic_light', 'traffic light', 'TrafficLight', 'Traffic-Light')}
    assert len({text.replace('-', ' ') for text in texts}) == 1
    assert (plain_name('TrafficLight'), plain_name('hot_dog')) == ('traffic light', 'hot dog')
    assert plain_name('car, auto, motorcar') == 'car'
    assert name_key('Traffic_Light ') == name_key('traffic-light') == 'trafficlight'
    entries = load_descriptions()
    assert entries.find('motorcar') == entries.find('car, auto, automobile, machine, motorcar')
    assert entries.find('car') != entries.find('motorcar')  # a class of its own name has its own


def test_what_nothing_describes_is_refused_with_the_nearest_names_but_for_the_template():
    with pytest.raises(RgbxSegError, match="'trafic_ligt': nothing describes it.*'traffic light'"
                                           '.*rgbx_describe_classes.*text.mode=template'):
        name_texts(['car', 'trafic_ligt'], TextConfig())
    assert name_texts(['trafic_ligt'], TextConfig(mode='template', template='a {}')) == (
        ('a trafic ligt',),)


def test_an_own_bank_goes_over_the_packages(tmp_path):
    path = bank(tmp_path, puddle=PUDDLE, car={'full': 'My own red car.'})
    settings = TextConfig(bank=path)
    texts = name_texts(['puddle', 'car', 'bus'], settings)
    assert texts[0][0].endswith('puddle in the scene, brown or gray, a flat oval, shiny still '
                                'water.')
    assert texts[1] == ('My own red car.',)
    assert texts[2] == name_texts(['bus'], TextConfig())[0]
    for mode in ATTRIBUTES:
        with pytest.raises(RgbxSegError, match=f"'car': its description tells no {mode}; "):
            name_texts(['car'], TextConfig(bank=path, mode=mode))


@pytest.mark.parametrize(('content', 'complaint'), [
    ('[1]', 'no mapping'), ('{"a": ', 'no JSON'), ('[' * 100_000, 'no JSON'),
    ('{"a": "red"}', "'a' is 'red'"), ('{"a": {}}', "'a' is '{}'"),
    ('{"a": {"colour": "red"}}', 'expected a mapping with some of color'),
    ('{"a": {"color": 3}}', "has the color '3'"), ('{"a": {"color": " "}}', 'one line of text'),
    ('{"a": {"color": "x\\ny"}}', 'one line of text'),
    (json.dumps({'a': {'full': 'x' * 401}}), 'of 401 characters'), ('\xff', 'no JSON'),
    ('{"fire plug": {"color": "red"}, "Fireplug": {"color": "blue"}}', 'are one name'),
    ('{"a": {"color": "red", "color": "blue"}}', "'color' and 'color' are one name"),
])
def test_a_bank_that_is_none_is_refused_in_one_sentence(tmp_path, content, complaint):
    path = tmp_path / 'bank.json'
    path.write_bytes(content.encode('latin-1'))
    with pytest.raises(RgbxSegError, match=re.escape(complaint)) as error:
        read_descriptions(path)
    assert '\n' not in str(error.value)


def test_a_bank_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(RgbxSegError, match='no such file'):
        class_texts(CAR_STOP, TextConfig(bank=str(tmp_path / 'none.json')))
    monkeypatch.setattr('rgbx_seg_train.prompts.MAX_BYTES', 10)
    with pytest.raises(RgbxSegError, match='expected at most 10'):
        read_descriptions(Path(bank(tmp_path, puddle=PUDDLE)))


@pytest.mark.parametrize('reads_texts', [False, True])
def test_a_family_that_reads_names_alone_needs_no_descriptions(tmp_path, reads_texts):
    class Reader(Stub):
        def read_classes(self, names, texts):
            self.told = names, texts

    config = small_config(tmp_path, 'data.classes=own',
                          'data.own_classes={oil slick: null, car: null}')
    model = Reader(None, 2)
    if reads_texts:
        model.reads_texts = True
        with pytest.raises(RgbxSegError, match="'oil slick': nothing describes it"):
            _initialize(model, config)
    else:
        _initialize(model, config)
        assert model.told == (['oil slick', 'car'], ())


def test_the_open_sets_have_the_sizes_in_their_names_and_vocs_background_begins_at_20():
    sizes = {name: len(open_set(name)) for name in OPEN_SETS}
    assert sizes == {'ade150': 150, 'ade847': 847, 'pc59': 59, 'pc459': 459, 'voc20': 20,
                     'voc20b': 59}
    first = BACKGROUND_FROM['voc20b']
    assert open_set('voc20b')[:first] == open_set('voc20')
    assert set(open_set('voc20b')) == set(open_set('pc59'))
    assert all(len(set(open_set(name))) == size for name, size in sizes.items())
    with pytest.raises(RgbxSegError, match='ade151.*ade150'):
        open_set('ade151')


def test_short_names_are_as_short_as_they_can_be_apart():
    assert short_names(('car, auto', 'pot', 'pot, flowerpot', 'bag, purse, x', 'bag, case, y')) == (
        'car', 'pot', 'pot, flowerpot', 'bag, purse', 'bag, case')
    for name in OPEN_SETS:
        names = short_names(open_set(name))
        assert len(set(names)) == len(names)
        name_texts(names, TextConfig())  # finds a description of each
