# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Banks of classes: rows of the text model of the training, from sets, files and bare names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_text import WIDTH, asked_by_hand, clip_config, tokenizer_files
from torch.nn import functional
from transformers import CLIPModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.vocabulary import Wanted, choose, load_bank
from rgbx_seg_train import text
from rgbx_seg_train.checkpoint import Progress, build_model, load_model, save_checkpoint
from rgbx_seg_train.class_bank import choose_colors, load_text_model, make_bank
from rgbx_seg_train.class_names import Named, read_classes
from rgbx_seg_train.config import TextConfig
from rgbx_seg_train.config_file import parse_config
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.data.open_sets import open_set
from rgbx_seg_train.prompts import class_texts, name_texts
from rgbx_seg_train.text import embed_classes, load_class_embeddings

FMB = CLASS_SETS['fmb']
YAML = """
classes:
  - car
  - {name: water on the road, class: puddle, color: [0, 0, 255]}
  - {name: our robot, description: 'A small blue robot with tracks.'}
"""


@pytest.fixture(scope='module')
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny random CLIP that reads long texts."""
    folder = tmp_path_factory.mktemp('clip')
    tokenizer_files(folder)
    torch.manual_seed(0)
    config = clip_config(folder)
    config.text_config.max_position_embeddings = 320
    model = CLIPModel(config)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr('sys.argv', ['rgbx_embed_classes', *map(str, words)])
    return text.main()


# --- which classes --------------------------------------------------------------------------------

def test_sets_files_and_names_are_joined_and_what_is_told_first_counts(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text(YAML)
    config = tmp_path / 'run.yaml'
    config.write_text('data: {classes: own, own_classes: {rust: [9, 8, 7], car: null}}')
    classes = read_classes([str(path), 'mfnet', 'ade847', str(config)], ['car', ' wet paint '])
    by_name = {named.name: named for named in classes}
    assert len(by_name) == len(classes)
    assert classes[:3] == (Named('car', 'car'), Named('puddle', 'puddle', (0, 0, 255)),
                           Named('our robot', 'our robot', text='A small blue robot with tracks.'))
    assert by_name['person'].color == CLASS_SETS['mfnet'][2].color
    assert by_name['building'].whole == 'building, edifice'
    assert by_name['rust'].color == (9, 8, 7)
    assert classes[-1] == Named('wet paint', 'wet paint')


@pytest.mark.parametrize('text', [
    'data:\n  classes: fmb\ntext:\n  bank: own.json\n', 'data: {classes: fmb}\n'])
def test_a_configuration_is_no_list_of_classes_however_it_is_written(tmp_path, text):
    config = tmp_path / 'run.yaml'
    config.write_text(text)
    assert [named.name for named in read_classes([str(config)])] == [info.name for info in FMB]


@pytest.mark.parametrize(('sources', 'names', 'complaint'), [
    (['mfnett'], [], "'mfnett': unknown.*--names"), ([], [], 'no class is named'),
    ([], [' '], "name ' '"), (['none.yaml'], [], 'none.yaml'),
])
def test_what_names_no_class_is_refused(sources, names, complaint):
    with pytest.raises(RgbxSegError, match=complaint):
        read_classes(sources, names)


def test_a_list_that_the_node_would_refuse_is_refused(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('classes: [{color: [1, 2, 3]}]')
    with pytest.raises(RgbxSegError, match='has no name'):
        read_classes([str(path)])


def test_colors_are_the_classes_own_else_their_names_and_never_twice():
    own = Named('a', 'a', (1, 2, 3))
    assert choose_colors([Named('b', 'b'), own])[1] == (1, 2, 3)
    assert choose_colors([own, Named('b', 'b')])[1] == choose_colors([Named('b', 'b')])[0]
    twice = choose_colors([own, Named('b', 'b', (1, 2, 3))])
    assert twice[0] == (1, 2, 3) != twice[1]
    taken = choose_colors([Named('b', 'b')])[0]
    assert choose_colors([Named('b', 'b'), Named('x', 'x', taken)])[1] == taken
    names = [Named(str(n), str(n)) for n in range(2000)]
    colors = choose_colors(names)
    assert len(set(colors)) == 2000 and min(max(color) for color in colors) > 100


# --- by CLIP's text tower, for SHIFNet ------------------------------------------------------------

def test_a_bank_has_the_rows_that_shifnet_is_trained_with(clip, tmp_path, monkeypatch, capsys):
    rows = tmp_path / 'fmb.safetensors'
    embed_classes(FMB, rows, str(clip))
    assert run(monkeypatch, 'fmb', 'voc20', '--names', 'wet paint', '--bank',
               tmp_path / 'new' / 'bank.npz', '--model', clip) == 0
    bank = load_bank(tmp_path / 'new' / 'bank.npz')
    assert bank.width == WIDTH and 'wet paint: wet paint' in capsys.readouterr().out
    classes, found = choose(bank, [info.name for info in FMB])
    assert [(info.name, info.color) for info in classes] == [
        (info.name, info.color) for info in FMB]
    np.testing.assert_allclose(found, load_class_embeddings(rows, FMB).numpy(), atol=1e-6)
    np.testing.assert_allclose(choose(bank, ['wet paint', 'tvmonitor'])[1],
                               asked_by_hand(clip, ['wet paint', 'tvmonitor']), atol=1e-5)


def test_modes_and_descriptions_tell_more_than_the_name(clip, tmp_path, monkeypatch):
    own = tmp_path / 'own.json'
    own.write_text(json.dumps({'puddle': {'full': 'shallow water'}}))
    mine = tmp_path / 'mine.yaml'
    mine.write_text(YAML)
    out = tmp_path / 'bank.npz'
    assert run(monkeypatch, mine, '--bank', out, '--model', clip, '--mode', 'full', '--template',
               'a {}', '--descriptions', own) == 0
    bank = load_bank(out)
    expected = name_texts(['car'], TextConfig(template='a {}'))[0][0]
    assert bank.texts == (expected, 'shallow water', 'A small blue robot with tracks.')
    np.testing.assert_allclose(bank.embeddings, asked_by_hand(clip, list(bank.texts)), atol=1e-5)
    # The node takes the same file: each of its entries is in the bank.
    classes, _ = choose(bank, ['car', Wanted('water on the road', 'puddle', (0, 0, 255)),
                               Wanted('our robot', description='A small blue robot with tracks.')])
    assert classes[1].color == (0, 0, 255)


def test_several_sentences_of_a_class_give_the_direction_of_their_mean(clip):
    model = load_text_model(str(clip))
    found = model.embed(['car'], [('a car', 'a road')])
    mean = asked_by_hand(clip, ['a car', 'a road']).mean(dim=0, keepdim=True)
    torch.testing.assert_close(found, functional.normalize(mean, dim=1), atol=1e-5, rtol=1e-4)


def test_hundreds_of_names_go_into_a_bank_and_any_of_them_come_out(clip):
    bank = make_bank(read_classes(['pc459']), load_text_model(str(clip)), TextConfig(
        mode='template', template='{}'))
    assert len(bank.names) == len(open_set('pc459')) > 255
    assert len({tuple(color) for color in bank.colors.tolist()}) == len(bank.names)
    assert choose(bank, ['accordion', 'wool'])[1].shape == (2, WIDTH)


# --- by an LMSeg checkpoint -----------------------------------------------------------------------

def checkpoint(path: Path, family: str, preset: str, **text_settings: str) -> Path:
    config = parse_config({'model': {'family': family, 'preset': preset},
                           'data': {'classes': 'fmb'}, 'text': text_settings})
    torch.manual_seed(3)
    model = build_model(config, len(FMB))
    if family == 'lmseg':
        model.read_classes([info.name for info in FMB], class_texts(FMB, config.text))
    save_checkpoint(path, config, len(FMB), Progress(step=12), {'model': model.state_dict()})
    return path


def test_lmsegs_own_tower_makes_the_rows_with_which_it_segments(tmp_path, monkeypatch, capsys):
    path = checkpoint(tmp_path / 'lmseg.safetensors', 'lmseg', 'tiny', mode='color')
    out = tmp_path / 'bank.npz'
    assert run(monkeypatch, 'fmb', '--names', 'puddle', 'shield', '--bank', out, '--model',
               path) == 0
    assert '16 classes by' in (told := capsys.readouterr().out) and 'lmseg at step 12' in told
    assert [line for line in told.splitlines() if line.startswith('note')] == [
        "note: shield is told as 'carapace, shell, cuticle, shield'; if it is another thing, "
        'describe it in a file of classes or by --descriptions.']
    bank = load_bank(out)
    assert bank.texts[:-2] == tuple(own for own, in class_texts(FMB, TextConfig(mode='color')))
    model, _ = load_model(path)
    with torch.no_grad():
        rows = model.text()
    np.testing.assert_allclose(choose(bank, [info.name for info in FMB])[1], rows, atol=1e-5)


# --- refusals -------------------------------------------------------------------------------------

def test_the_command_refuses_in_one_sentence_and_writes_nothing(
        clip, tmp_path, monkeypatch, capsys):
    shifnet = checkpoint(tmp_path / 'shifnet.safetensors', 'shifnet', 'micro')
    out = tmp_path / 'bank.npz'
    capsys.readouterr()
    for words, complaint in (
            (['fmb', '--bank', tmp_path / 'bank.json'], 'ends in .npz'),
            (['fmb'], '1 arguments and no --bank'),
            (['fmb', tmp_path / 'x.safetensors', '--mode', 'full'], '--mode'),
            (['--bank', out, '--model', clip], 'no class is named'),
            (['fmb', '--bank', out, '--model', shifnet], 'shifnet has no text model of its own'),
            (['fmb', '--bank', out, '--model', tmp_path / 'none'], 'no such file'),
            (['fmb', '--bank', out, '--model', '~nobody-of-that-name/x'], '~nobody-of-that-name'),
            (['--names', 'flurb', '--mode', 'full', '--bank', out, '--model', clip],
             "'flurb': nothing describes it"),
            (['--names', 'q' * 100, '--template', 'ab ' * 200 + '{}', '--bank', out, '--model',
              clip], 'tokens; expected at most 320'),
            (['--names', 'q' * 300, '--bank', out, '--model', clip], 'characters')):
        assert run(monkeypatch, *words) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert complaint in error
    assert [path.name for path in tmp_path.iterdir()] == ['shifnet.safetensors']
