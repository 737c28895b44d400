# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions by a language model: the form of an answer, and what a run keeps and refuses.

A stub answers what a test tells it; a tiny random LLaMA, which can say nothing sensible, shows that
a model of `transformers` is asked in its own chat form, and refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import describe
from rgbx_seg_train.config import TextConfig
from rgbx_seg_train.describe import describe_classes, load_model, parse_answer, question
from rgbx_seg_train.prompts import name_texts, read_descriptions

GOOD = 'color: brown or gray\nshape: a flat oval, one meter wide\ntexture: shiny still water'
TEMPLATE = ('{% for turn in messages %}<{{ turn.role }}> {{ turn.content }} {% endfor %}'
            '{{ "<assistant> " if add_generation_prompt }}{{ "<think>" if enable_thinking is not '
            'defined or enable_thinking }}')


class Model:
    """Answers by name and number of the try; counts what it is asked."""

    def __init__(self, answers=None):
        self.answers, self.asked, self.loaded = answers or {}, [], 0

    def load(self):
        self.loaded += 1
        return self

    def __call__(self, text, attempt):
        name = re.match('How does "(.+?)"', text)[1]
        self.asked.append((name, attempt))
        answers = self.answers.get(name, [GOOD])
        answer = answers[min(attempt, len(answers) - 1)]
        if isinstance(answer, BaseException):
            raise answer
        return answer


def test_an_answer_of_three_lines_is_taken_whatever_its_case_and_blanks():
    told = parse_answer('puddle', '\n Color: Brown or  gray.\n\nShape: a flat oval, one meter wide'
                        '\nTEXTURE: shiny still water.\n')
    assert told == ('brown or gray', 'a flat oval, one meter wide', 'shiny still water', '')


@pytest.mark.parametrize(('answer', 'reason'), [
    ('', '0 lines'), (GOOD + '\nI hope that helps!', '4 lines'), ('Sure!\n' + GOOD, '4 lines'),
    (GOOD.replace('shape', 'form'), 'instead of "shape'),
    ('\n'.join(GOOD.splitlines()[::-1]), 'instead of "color'),
    (GOOD.replace('brown or gray', 'brown'), '1 words of color'),
    (GOOD.replace('brown or gray', ''), 'instead of "color'),
    (GOOD.replace('brown or gray', 'very ' * 14 + 'brown'), '15 words'),
    (GOOD.replace('brown', '**brown**'), 'instead of "color'),
    (GOOD.replace('brown', '棕色'), 'instead of "color'),
    (GOOD.replace('brown or gray', 'shiny still water'), 'say the same'),
    ('\n'.join(f'{key}: ' + f'unbelievably{key} ' * 13 for key in ('color', 'shape', 'texture')),
     'tokens, CLIP reads 77'),
])
def test_an_answer_of_another_form_is_refused_with_the_reason(answer, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        parse_answer('puddle', answer)


def test_a_question_tells_further_words_and_asks_for_the_three_attributes():
    text = question('car, auto_mobile')
    assert text.startswith('How does "car" (also: auto mobile) usually look')
    assert [line.split(':')[0] for line in text.splitlines()[1:4]] == ['color', 'shape', 'texture']


def test_a_bank_is_written_that_training_reads_and_the_package_could_hold(tmp_path):
    out = tmp_path / 'new' / 'bank.json'
    assert describe_classes(['puddle', 'oil_slick', 'puddle'], out, Model().load) == 2
    lines = out.read_text().splitlines()
    assert lines[1].startswith('"oil_slick": {"color": "brown or gray", ') and len(lines) == 4
    text = name_texts(['Oil Slick'], TextConfig(bank=str(out)))[0][0]
    assert text == ('A photo of a oil slick in the scene, brown or gray, a flat oval, one meter '
                    'wide, shiny still water.')


def test_a_bad_answer_is_asked_again_so_often_and_classes_without_one_are_told(tmp_path):
    out = tmp_path / 'bank.json'
    model = Model({'puddle': ['Sure!', 'no', GOOD], 'fog': ['no']})
    with pytest.raises(RgbxSegError, match=r"2 of 3 classes were described.*for 1, such as 'fog' "
                                           r'\(1 lines'):
        describe_classes(['puddle', 'fog', 'oil'], out, model.load, tries=3)
    assert [name for name, _ in model.asked] == ['puddle'] * 3 + ['fog'] * 3 + ['oil']
    assert [attempt for _, attempt in model.asked] == [0, 1, 2, 0, 1, 2, 0]
    assert list(read_descriptions(out)) == ['oil', 'puddle']


def test_what_is_known_is_not_asked_again_and_a_run_that_was_cut_off_goes_on(tmp_path):
    out = tmp_path / 'bank.json'
    out.write_text(json.dumps({'mine': {'full': 'My own.'}, 'oil': {'color': 'black as night'}}))
    with pytest.raises(KeyboardInterrupt):
        describe_classes(['oil', 'puddle', 'fog'], out,
                         Model({'fog': [KeyboardInterrupt()]}).load)
    rest = Model()
    assert describe_classes(['oil', 'puddle', 'fog'], out, rest.load) == 1
    assert [name for name, _ in rest.asked] == ['fog']
    bank = read_descriptions(out)
    assert sorted(bank) == ['fog', 'mine', 'oil', 'puddle']
    assert (bank['mine'].full, bank['oil'].color) == ('My own.', 'black as night')
    nothing = Model()
    assert describe_classes(['fog'], out, nothing.load) == nothing.loaded == 0
    assert [path.name for path in tmp_path.iterdir()] == ['bank.json']


def test_spellings_of_one_name_are_asked_once(tmp_path):
    out, model = tmp_path / 'bank.json', Model()
    assert describe_classes(['Oil_Slick', 'oil slick', 'Straße', 'fog'], out, model.load) == 3
    assert [name for name, _ in model.asked] == ['oil slick', 'straße', 'fog']
    assert describe_classes(['OilSlick', 'FOG', 'STRASSE'], out, Model().load) == 0
    assert list(read_descriptions(out)) == ['Oil_Slick', 'Straße', 'fog']


def test_a_model_that_never_answers_is_given_up_early(tmp_path):
    model = Model({f'n{n}': ['bla'] for n in range(50)})
    with pytest.raises(RgbxSegError, match='0 of 50 classes'):
        describe_classes([f'n{n}' for n in range(50)], tmp_path / 'b.json', model.load, tries=1)
    assert len(model.asked) == describe.HOPELESS


def tiny_llama(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Save a random LLaMA over bytes, with the chat form of no real model."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: n for n, word in enumerate(['[PAD]', '[END]', *letters])}
    fast = Tokenizer(models.BPE(vocabulary, []))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token='[PAD]',
                                        eos_token='[END]')
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=1,
        max_position_embeddings=2048)).save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp('llama'))


def test_a_local_model_answers_the_same_to_the_same_try_and_seed(llama, monkeypatch):
    asked = []
    generate = LlamaForCausalLM.generate
    monkeypatch.setattr(LlamaForCausalLM, 'generate', lambda self, **options: asked.append(
        options) or generate(self, **options))
    ask, again = load_model(str(llama)), load_model(str(llama))
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    answers = [ask(question('puddle'), attempt) for attempt in range(3)]
    assert torch.rand(1).equal(expected)  # and draws from numbers of its own
    assert len(set(answers)) == 3
    assert answers == [again(question('puddle'), attempt) for attempt in range(3)]
    assert load_model(str(llama), seed=5)(question('puddle'), 1) != answers[1]
    assert [options['do_sample'] for options in asked[:3]] == [False, True, True]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(llama)
    told = tokenizer.decode(asked[0]['input_ids'][0])
    assert re.fullmatch('<user> How does "fire extinguisher".*<assistant> color: bright red.*'
                        '<user> How does "puddle".*<assistant> ', told, re.DOTALL)


def test_the_command_refuses_gibberish_and_leaves_no_file_half_written(
        llama, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(describe, 'ANSWER_TOKENS', 12)
    out = tmp_path / 'bank.json'
    monkeypatch.setattr('sys.argv', ['rgbx_describe_classes', 'puddle', '--classes', 'pst900',
                                     '--model', str(llama), '--out', str(out), '--tries', '2'])
    assert describe.main() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert '0 of 6 classes were described' in error and "such as 'background'" in error
    assert not out.exists()


def test_the_command_says_what_is_wrong_before_it_asks(llama, tmp_path, monkeypatch, capsys):
    bad = tiny_llama(tmp_path / 'plain', None)
    out = tmp_path / 'bank.json'
    broken = tmp_path / 'broken.json'
    broken.write_text('[')
    capsys.readouterr()
    for words, complaint in (
            (['puddle', '--model', str(bad), '--out', str(out)], 'no chat template'),
            (['puddle', '--model', str(tmp_path), '--out', str(out)], 'cannot be loaded'),
            (['puddle', '--model', './no/folder', '--out', str(out)], 'no such folder'),
            (['puddle', '--model', str(llama), '--out', str(tmp_path)], 'is a folder'),
            (['puddle', '--model', str(llama), '--out', str(broken)], 'no JSON'),
            (['puddle', '--model', str(llama), '--out', str(out), '--tries', '0'], '--tries is 0'),
            (['--model', str(llama), '--out', str(out)], 'no class is named'),
            (['--classes', 'mfnett', '--model', str(llama), '--out', str(out)], "'mfnett'")):
        monkeypatch.setattr('sys.argv', ['rgbx_describe_classes', *words])
        assert describe.main() == 1
        error = capsys.readouterr().err
        assert complaint in error and error.count('\n') == 1
    assert not out.exists() and broken.read_text() == '['
