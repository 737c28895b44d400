# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Class embeddings: the text tower's own answer, what the file says of itself, and who refuses it.

The towers are tiny and random, with a tokenizer of a few words; `transformers` asked by hand tells
what must come out.
"""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_ros.manifest import ClassInfo
from rgbx_seg_train import text
from rgbx_seg_train.checkpoint import load_checkpoint
from rgbx_seg_train.config_file import parse_config
from rgbx_seg_train.convert import convert
from rgbx_seg_train.data.labels import CLASS_SETS
from rgbx_seg_train.models import find_config, find_family
from rgbx_seg_train.text import class_strings, embed_classes, load_class_embeddings
from rgbx_seg_train.text_tower import load_text_tower

WIDTH = 24
FMB = CLASS_SETS['fmb']
MERGES = ('t r', 'tr a', 'l i', 'li g', 'c a', 'ca r</w>', 'r o')
CLASSES = tuple(ClassInfo(n, name, (n, 0, 0)) for n, name in enumerate(('car', 'traffic_light')))


def tokenizer_files(folder: Path) -> None:
    """Write vocab.json and merges.txt as CLIP's are: bytes, then bytes that end a word, merges."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*letters, *(f'{c}</w>' for c in letters), *(m.replace(' ', '') for m in MERGES),
              '<|startoftext|>', '<|endoftext|>']
    (folder / 'vocab.json').write_text(json.dumps({t: n for n, t in enumerate(tokens)}))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *MERGES]))


def clip_config(folder: Path, width: int = WIDTH) -> CLIPConfig:
    """Return a tiny CLIP; as in the published files, only the outer config has the width of S."""
    vocabulary = json.loads((folder / 'vocab.json').read_text())
    end = vocabulary['<|endoftext|>']
    return CLIPConfig(
        text_config={'vocab_size': len(vocabulary), 'hidden_size': 32, 'intermediate_size': 48,
                     'num_hidden_layers': 2, 'num_attention_heads': 4,
                     'max_position_embeddings': 32, 'bos_token_id': end - 1, 'eos_token_id': end,
                     'pad_token_id': end},
        vision_config={'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1,
                       'num_attention_heads': 2, 'image_size': 32, 'patch_size': 16},
        projection_dim=width)


@pytest.fixture(scope='module')
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder as `transformers` saves a whole CLIP with its tokenizer."""
    folder = tmp_path_factory.mktemp('clip')
    tokenizer_files(folder)
    torch.manual_seed(0)
    model = CLIPModel(clip_config(folder))
    for value in model.parameters():  # as if trained: CLIP's own start would make all texts alike
        torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def languagebind(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same weights as LanguageBind publishes its own: a pickle, a model of its name."""
    folder = tmp_path_factory.mktemp('languagebind')
    tokenizer_files(folder)
    torch.save(load_file(clip / 'model.safetensors'), folder / 'pytorch_model.bin')
    config = json.loads((clip / 'config.json').read_text())
    config |= {'model_type': 'LanguageBindImage', 'architectures': ['LanguageBindImage']}
    config['vision_config'] |= {'lora_r': 0, 'add_time_attn': False}
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def asked_by_hand(folder: Path, texts: list[str]) -> Tensor:
    """Return what `transformers` makes of a padded batch of texts."""
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors='pt')
    with torch.no_grad():
        pooled = model.text_model(**tokens).pooler_output
        return functional.normalize(model.text_projection(pooled), dim=1)


def made(clip: Path, folder: Path, classes=CLASSES, **options) -> Path:
    """Return a file of embeddings."""
    out = folder / 'classes.safetensors'
    embed_classes(classes, out, str(clip), **options)
    return out


def test_rows_are_those_of_transformers_and_have_length_one(clip: Path, tmp_path: Path) -> None:
    rows = load_class_embeddings(made(clip, tmp_path, FMB), FMB)
    expected = asked_by_hand(clip, [info.name.replace('_', ' ') for info in FMB])  # case is nothing
    assert rows.shape == (len(FMB), WIDTH) and rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(FMB)))
    assert (rows @ rows.T - torch.eye(len(FMB))).max() < 0.999  # no two names are one


def test_languagebind_gives_the_same_rows_as_clip_of_the_same_weights(
        clip: Path, languagebind: Path, tmp_path: Path) -> None:
    texts = ['Traffic Light', 'car']
    found = load_text_tower(str(languagebind)).embed(texts)
    assert found.equal(load_text_tower(str(clip)).embed(texts))
    torch.testing.assert_close(found, asked_by_hand(clip, texts), atol=1e-5, rtol=1e-4)


def test_a_text_tower_alone_is_enough(clip: Path, tmp_path: Path) -> None:
    config = CLIPConfig.from_pretrained(clip).text_config
    config.projection_dim = WIDTH
    model = CLIPTextModelWithProjection(config)
    whole = load_file(clip / 'model.safetensors')
    model.load_state_dict({name: whole[name] for name in model.state_dict()})
    model.save_pretrained(tmp_path)
    CLIPTokenizer.from_pretrained(clip).save_pretrained(tmp_path)  # tokenizer.json
    assert not (tmp_path / 'vocab.json').exists()
    assert load_text_tower(str(tmp_path)).embed(['car']).equal(
        load_text_tower(str(clip)).embed(['car']))


def test_strings_are_names_with_spaces_and_capitals_in_a_template() -> None:
    assert class_strings(CLASSES) == ('Car', 'Traffic Light')
    assert class_strings(CLASSES, 'a photo of a {}.')[1] == 'a photo of a Traffic Light.'
    with pytest.raises(RgbxSegError, match='photo.*no {}'):
        class_strings(CLASSES, 'a photo')
    assert class_strings(CLASSES, '{0.__class__} {}')[0] == '{0.__class__} Car'


def test_the_header_tells_strings_template_and_the_hash_of_the_model(
        clip: Path, tmp_path: Path) -> None:
    out = made(clip, tmp_path, template='the {}')
    with safe_open(out, 'pt') as file:
        assert list(file.keys()) == ['class_embeddings']
        header = json.loads(file.metadata()['rgbx_seg_classes'])
    assert header['names'] == ['car', 'traffic_light']
    assert header['strings'] == ['the Car', 'the Traffic Light']
    assert (header['template'], header['model']) == ('the {}', str(clip))
    assert 'model.safetensors (sha256 ' in header['origin']


def test_a_file_of_the_same_is_not_made_anew_but_one_of_another_template_is(
        clip: Path, tmp_path: Path) -> None:
    out = made(clip, tmp_path)
    before = out.stat().st_ino
    made(clip, tmp_path)
    assert out.stat().st_ino == before
    rows = load_class_embeddings(out, CLASSES)
    made(clip, tmp_path, template='no {}')
    assert not load_class_embeddings(out, CLASSES).equal(rows)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.mark.parametrize('classes, complaint', [
    (CLASSES[::-1], 'another order'), (CLASSES[:1], 'made of 2 classes'),
    (FMB, "without 'road'"), ((CLASSES[0], ClassInfo(1, 'lamp', (0, 0, 0))), "without 'lamp'"),
])
def test_embeddings_of_other_classes_are_refused(clip, tmp_path, classes, complaint) -> None:
    with pytest.raises(RgbxSegError, match=complaint):
        load_class_embeddings(made(clip, tmp_path), classes)


def test_files_that_are_no_embeddings_are_refused(clip: Path, tmp_path: Path) -> None:
    foreign = tmp_path / 'x.safetensors'
    save_file({'class_embeddings': torch.ones(2, 3)}, foreign)
    for path, complaint in ((foreign, 'does not say'), (tmp_path / 'none.safetensors', 'no such'),
                            (clip / 'config.json', 'does not say')):
        with pytest.raises(RgbxSegError, match=complaint):
            load_class_embeddings(path, CLASSES)
    with pytest.raises(RgbxSegError, match='does not say'):  # and is not written over
        embed_classes(CLASSES, foreign, str(clip))
    assert load_file(foreign)['class_embeddings'].shape == (2, 3)


def test_a_damaged_model_is_refused_by_one_sentence(clip: Path, tmp_path: Path) -> None:
    state = load_file(clip / 'model.safetensors')
    config = json.loads((clip / 'config.json').read_text())

    def refused(change=None, without='', **told) -> str:
        kept = {name: value for name, value in state.items() if without not in name or not without}
        save_file(kept, tmp_path / 'model.safetensors')
        text_config = config['text_config'] | told
        (tmp_path / 'config.json').write_text(change or json.dumps({'text_config': text_config}))
        with pytest.raises(RgbxSegError) as error:
            load_text_tower(str(tmp_path))
        return str(error.value)

    assert 'no text_projection' in refused(without='text_projection')
    assert 'do not fit' in refused(without='final_layer_norm')
    assert 'do not fit' in refused(hidden_size=1 << 40)  # and asks for no memory
    assert '1000000000 layers' in refused(num_hidden_layers=10**9)
    assert 'damaged' in refused(change='[')
    assert 'no vocab.json' in refused()
    tokenizer_files(tmp_path)
    (tmp_path / 'merges.txt').write_bytes(b'\xff')
    assert 'tokenizer' in refused()


def test_a_text_longer_than_the_model_reads_is_refused(clip: Path) -> None:
    with pytest.raises(RgbxSegError, match='42 tokens; expected at most 32'):
        load_text_tower(str(clip)).embed(['q' * 40])


def test_the_converter_takes_the_file_for_its_classes_and_refuses_it_for_others(
        clip: Path, tmp_path: Path) -> None:
    path, out = made(clip, tmp_path, FMB), tmp_path / 'start.safetensors'
    options = ['data.classes=fmb', f'model.options.text_dim={WIDTH}']
    convert('shifnet', 'micro', out, {'classes': str(path)}, overrides=options)
    rows = load_class_embeddings(path, FMB)
    assert load_file(out)['model/class_embeddings'].equal(rows)
    model = find_family('shifnet').build(
        find_config('shifnet', 'micro', {'text_dim': WIDTH}), len(FMB))
    model.set_classes(rows)  # what rgbx_train does
    assert model.class_embeddings.equal(rows)
    for where in (path, path.parent):
        with pytest.raises(RgbxSegError, match="without 'glass'"):
            convert('shifnet', 'micro', out, {'classes': str(where)},
                    overrides=['data.classes=zju', *options[1:]])


@pytest.mark.parametrize('kind', ['ours', 'foreign'])
def test_the_converter_says_of_classes_what_the_user_told(kind, clip: Path, tmp_path: Path) -> None:
    path, out = made(clip, tmp_path, FMB), tmp_path / 'start.safetensors'
    rows = load_class_embeddings(path, FMB)
    if kind == 'foreign':
        path = tmp_path / 'classes.pt'
        torch.save(rows, path)
    convert('shifnet', 'micro', out, {'classes': str(path)}, overrides=[
        'data.classes=fmb', f'model.options.text_dim={WIDTH}', 'export.model_license=MIT'])
    assert load_file(out)['model/class_embeddings'].equal(rows)
    export = load_checkpoint(out).config.export
    assert export.model_license == 'MIT'
    assert export.training_data.startswith(f'weights: classes from {path.name} (sha256 ')


def test_the_command_takes_a_class_set_or_a_configuration(
        clip: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    config = tmp_path / 'mine.yaml'
    config.write_text('data: {classes: own, own_classes: {wet_paint: null, rust: null}}')
    own = parse_config({'data': {'classes': 'own', 'own_classes': {'wet_paint': None,
                                                                   'rust': None}}})
    out = tmp_path / 'made' / 'c.safetensors'
    for classes, infos in (('mfnet', CLASS_SETS['mfnet']), (str(config), own.data.class_infos)):
        monkeypatch.setattr('sys.argv', ['rgbx_embed_classes', classes, str(out), '--model',
                                         str(clip)])
        assert text.main() == 0
        assert len(load_class_embeddings(out, infos)) == len(infos)
    assert 'Wet Paint' in capsys.readouterr().out
    for words in (['roads', str(out)], ['mfnet', 'x.pt'], ['mfnet', str(out), '--model', 'no/']):
        monkeypatch.setattr('sys.argv', ['rgbx_embed_classes', *words])
        assert text.main() == 1
        assert capsys.readouterr().err.count('\n') == 1
