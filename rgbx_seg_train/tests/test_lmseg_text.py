# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The rows that LMSeg's text tower makes of sentences, and the buffers that a checkpoint brings.

`transformers` asked by hand, sentence by sentence, tells what must come out.
"""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.byte_text import encode
from rgbx_seg_train.checkpoint import load_weights
from rgbx_seg_train.models.lmseg.text import BYTES, ClassTexts, TextOptions

EMBED = 24
NAMES = ('car', 'tree', 'person')
TEXTS = (('a car', 'a red car in the scene'), ('a tree',), ('someone', 'a person', 'people walk'))
SMALL = replace(BYTES, width=16, heads=2)


@pytest.fixture(scope='module')
def words(tmp_path_factory: pytest.TempPathFactory) -> TextOptions:
    """Return a tower whose tokenizer is of CLIP's kind, in a folder, with a few words."""
    folder = tmp_path_factory.mktemp('words')
    letters = string.ascii_lowercase + string.digits + string.punctuation
    merges = ('c a', 'ca r</w>', 't r', 'tr e', 'tre e</w>')
    tokens = [*letters, *(f'{c}</w>' for c in letters), *(m.replace(' ', '') for m in merges),
              '<|startoftext|>', '<|endoftext|>']
    (folder / 'vocab.json').write_text(json.dumps({t: n for n, t in enumerate(tokens)}))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]))
    return replace(SMALL, vocabulary=len(tokens), tokenizer=str(folder), longest=40)


def build(options: TextOptions, n_classes: int = 3) -> ClassTexts:
    """Return a module whose tower makes different things of different texts."""
    torch.manual_seed(0)
    texts = ClassTexts(options, EMBED, n_classes)
    for value in texts.parameters():  # as if trained: CLIP's own start would make all texts alike
        torch.nn.init.normal_(value, std=0.3)
    return texts.eval()


def by_hand(tower: CLIPTextModelWithProjection, ids: list[int]) -> Tensor:
    """Return the unit row of one sentence without padding."""
    with torch.no_grad():
        hidden = tower.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return functional.normalize(hidden @ tower.text_projection.weight.T, dim=0)


def expected(tower: CLIPTextModelWithProjection, ids: list[list[list[int]]]) -> Tensor:
    """Return the rows of classes: encode, unit, mean, unit."""
    return torch.stack([functional.normalize(
        torch.stack([by_hand(tower, one) for one in own]).mean(0), dim=0) for own in ids])


def test_a_row_is_the_unit_mean_of_the_unit_rows_of_its_sentences() -> None:
    texts = build(SMALL)
    texts.read(NAMES, TEXTS)
    rows = texts()
    ids = [[encode(sentence, 77) for sentence in own] for own in TEXTS]
    torch.testing.assert_close(rows, expected(texts.tower, ids), atol=1e-5, rtol=1e-4)
    assert rows.dtype == torch.float32 and rows.shape == (3, EMBED)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert texts.counts.tolist() == [2, 1, 3]


def test_clips_tokenizer_is_asked_and_long_sentences_are_cut_before_their_end(
    words: TextOptions
) -> None:
    texts, long = build(words), 'a ' * 60 + 'car'
    texts.read(NAMES, (*TEXTS[:2], (long,)))
    tokenizer = CLIPTokenizer.from_pretrained(words.tokenizer)
    ids = [[tokenizer(sentence)['input_ids'] for sentence in own] for own in TEXTS[:2]]
    ids.append([[*tokenizer(long)['input_ids'][:39], words.vocabulary - 1]])
    torch.testing.assert_close(texts(), expected(texts.tower, ids), atol=1e-5, rtol=1e-4)
    assert texts.tokens.shape == (4, 40)


def test_others_do_not_change_a_row_and_asking_for_rows_keeps_nothing() -> None:
    texts = build(SMALL)
    texts.read(NAMES, TEXTS)
    before = texts()
    alone = torch.cat([texts.embed((name,), (own,))
                       for name, own in zip(NAMES, TEXTS, strict=True)])
    torch.testing.assert_close(alone, before, atol=1e-6, rtol=1e-5)
    assert not alone.requires_grad and texts().equal(before)


def test_many_sentences_are_encoded_in_turns_to_the_same_rows() -> None:
    texts = build(SMALL, 300)
    rows = texts()
    assert rows.shape == (300, EMBED)
    some = torch.stack([by_hand(texts.tower, texts.tokens[n].tolist()) for n in (0, 63, 64, 255)])
    torch.testing.assert_close(rows[[0, 63, 64, 255]], some, atol=1e-5, rtol=1e-4)
    assert rows[0].equal(rows[256])  # there are 256 made-up words
    assert len({tuple(row) for row in rows[:256].tolist()}) == 256


def test_a_checkpoint_brings_its_sentences_into_a_model_that_has_no_tokenizer(
    words: TextOptions, tmp_path: Path
) -> None:
    first = build(words)
    first.read(NAMES, TEXTS)
    save_file(first.state_dict(), tmp_path / 'weights.safetensors')
    gone = replace(words, tokenizer=str(tmp_path / 'gone'))
    second = ClassTexts(gone, EMBED, 3).eval()
    load_weights(second, load_file(tmp_path / 'weights.safetensors'), tmp_path)
    assert second().equal(first())
    with pytest.raises(RgbxSegError, match='text model .*gone: no such file or folder'):
        second.read(NAMES, TEXTS)
    assert second().equal(first())  # what could not be read took nothing away


def test_weights_of_another_kind_are_still_refused() -> None:
    texts = build(SMALL)
    weights = texts.state_dict()
    for name, wrong in (('tokens', torch.zeros(3)), ('tower.text_projection.weight',
                                                     torch.zeros(5, 16))):
        with pytest.raises(RgbxSegError, match=f'1 tensors do not fit .*{name}'):
            load_weights(texts, weights | {name: wrong}, Path('x'))


def test_the_tower_learns_where_it_may_and_needs_no_memory_where_not() -> None:
    texts = build(SMALL).train()
    texts.read(NAMES, TEXTS)
    weights = torch.randn(3, EMBED)
    (texts() * weights).sum().backward()
    plain = {name: value.grad.clone() for name, value in texts.named_parameters()}
    assert all(grad.isfinite().all() for grad in plain.values())
    texts.zero_grad()
    texts.checkpointing = True
    (texts() * weights).sum().backward()
    for name, value in texts.named_parameters():
        torch.testing.assert_close(value.grad, plain[name], atol=1e-6, rtol=1e-4, msg=name)
    texts.tower.requires_grad_(False)
    assert not texts().requires_grad


def test_a_tower_of_published_size_has_the_published_parameters() -> None:
    large = replace(TextOptions(), width=768, heads=12)
    with torch.device('meta'):
        for options, embed, millions in ((TextOptions(), 512, 63.4), (large, 768, 123.7)):
            texts = ClassTexts(options, embed, 171)
            assert round(sum(p.numel() for p in texts.parameters()) / 1e6, 1) == millions
            assert texts().shape == (171, embed)


@pytest.mark.parametrize(('names', 'texts', 'found'), [
    (NAMES, TEXTS[:2], '2 classes for 3 names'), ((), (), '0 classes for 0 names'),
    (NAMES, (('a',), (), ('b',)), "'tree' has none"),
    (NAMES, (('a',), ('',), ('b',)), "'tree' has none"),
    (('car',), (('x' * 400,),), 'takes 402 tokens; expected at most 320'),
])
def test_what_is_no_text_of_a_class_is_refused(names, texts, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        build(SMALL).read(names, texts)


def test_a_tokenizer_of_another_model_is_refused(words: TextOptions) -> None:
    with pytest.raises(RgbxSegError, match='its sentences end with'):
        build(replace(words, vocabulary=words.vocabulary + 5)).read(NAMES, TEXTS)
    with pytest.raises(RgbxSegError, match='vocabulary is 49408 and tokenizer is empty'):
        replace(TextOptions(), tokenizer='')
