# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""Captions: of files, of rendered scenes, of a model, and what a text tower makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from clip_runs import SCENES, clip_config, write_scenes
from test_text import clip_config as whole_clip
from test_text import tokenizer_files
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import caption_images as caption_images_module
from rgbx_seg_train import captions as captions_module
from rgbx_seg_train.caption_images import caption_images, image_hash, load_describer
from rgbx_seg_train.captions import (
    NOUNS,
    caption_table,
    read_captions,
    same_caption,
    sample_names,
    scene_caption,
    scene_weather,
)
from rgbx_seg_train.clip_text import load_caption_tower, random_tower, word_id
from rgbx_seg_train.config import DataConfig, SyntheticSource
from rgbx_seg_train.data.sample import Sample, time_of
from rgbx_seg_train.data.sources import open_source
from rgbx_seg_train.data.synthetic import Scene

CPU = torch.device('cpu')


def write(path: Path, *lines: str) -> Path:
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return path


def tables(config):
    sets = [open_source(source, config.data) for source in config.data.train]
    return caption_table(config.data.train, sets, config.pretrain.captions)


@pytest.mark.parametrize(('lines', 'sentence'), [
    (['{"name": "a", "caption": "x"}', 'name: b'], 'line 2 is "name: b"'),
    (['[1]'], 'line 1 is'),
    (['{"caption": "x"}'], 'expected texts for name and caption'),
    (['{"name": "a", "caption": 3}'], 'expected texts for name and caption'),
    (['{"name": "a", "caption": "  "}'], 'has 0 characters'),
    ([json.dumps({'name': 'a', 'caption': 'x' * 2001})], 'has 2001 characters'),
    (['{"name": "a", "caption": "x"}', '{"name": "a", "caption": "y"}'], 'two captions'),
])
def test_a_bad_file_of_captions_is_refused_in_one_sentence(tmp_path, lines, sentence):
    with pytest.raises(RgbxSegError, match=sentence) as error:
        read_captions(write(tmp_path / 'captions.jsonl', *lines))
    assert '\n' not in str(error.value)


def test_images_without_a_caption_are_counted_and_one_is_named(tmp_path):
    config = clip_config(tmp_path)
    path = Path(config.pretrain.captions)
    write(path, *path.read_text().splitlines()[2:])  # 000 and 001 lose theirs, in two modalities
    with pytest.raises(RgbxSegError, match=r'no caption for 4 images \(such as scenes/000\)'):
        tables(config)
    with pytest.raises(RgbxSegError, match='no such file'):
        tables(clip_config(tmp_path, 'pretrain.captions=nowhere.jsonl'))


def test_both_modalities_of_a_scene_share_its_caption(tmp_path):
    table = tables(clip_config(tmp_path))
    assert len(table.texts) == SCENES
    assert np.array_equal(table.ids[0], table.ids[1])
    assert table.texts[table.ids[0][2]] == 'a wall, gray number 2'


def test_captions_that_differ_in_case_blanks_or_the_period_count_as_one(tmp_path):
    config = clip_config(tmp_path)
    texts = ['A wall.', 'a  wall', 'a wall .', 'a tree', 'A TREE.', 'a house']
    write(Path(config.pretrain.captions), *(json.dumps({'name': f'{n:03d}', 'caption': text})
                                            for n, text in enumerate(texts)))
    table = tables(config)
    assert table.ids[0].tolist() == [0, 0, 0, 1, 1, 2]
    assert table.texts == ('A wall.', 'a tree', 'a house')
    assert same_caption(' A wall. ') == 'a wall'


def test_a_line_for_one_source_wins_there_alone(tmp_path):
    config = clip_config(tmp_path)
    path = Path(config.pretrain.captions)
    line = json.dumps({'source': 'scenes', 'name': '001', 'caption': 'here'})
    other = json.dumps({'source': 'elsewhere', 'name': '002', 'caption': 'not here'})
    write(path, *path.read_text().splitlines(), line, other)
    table = tables(config)
    assert table.texts[table.ids[0][1]] == 'here'
    assert table.texts[table.ids[0][2]] == 'a wall, gray number 2'


def test_two_folders_of_one_name_are_refused(tmp_path):
    config = clip_config(tmp_path)
    sources = [replace(config.data.train[0], root=str(tmp_path / name / 'day')) for name in 'ab']
    with pytest.raises(RgbxSegError, match='both named day'):
        caption_table(sources, [(), ()], '')


def test_the_weather_that_captions_tell_is_the_scenes():
    for seed, night in ((3, None), (4, True)):
        scene = Scene(seed, night)
        assert scene_weather(seed, scene.night) == scene.weather


def test_a_rendered_scene_is_described_by_its_label_and_weather_alone(tmp_path):
    data = DataConfig(height=32, width=64, cache=str(tmp_path))
    views = [open_source(SyntheticSource(first_seed=1, count=1, modality=modality), data)
             for modality in ('thermal', 'depth')]
    first, second = (scene_caption(view[0]) for view in views)
    assert first == second
    assert sample_names(views[0]) == [views[0][0].name]

    label = np.zeros((100, 100), np.uint8)
    label[10:14, 10:14] = label[10:14, 30:34] = 2
    label[50:90, 10:60] = 1
    image = np.zeros((100, 100, 3), np.uint8)
    seed = next(n for n in range(99) if not (scene_weather(n, True).wet
                                             or scene_weather(n, True).fog > 0.005))
    told = scene_caption(Sample(image, image, label, 'thermal', f'{seed:08d}', time_of(True)))
    assert told.startswith('a dry road') and 'night with a car nearby and two people' in told


def test_the_words_of_scenes_do_not_meet_in_the_random_tower():
    words = {word for noun in NOUNS.values() for word in noun.split()} | {
        'a', 'an', 'and', 'with', 'on', 'road', 'wet', 'dry', 'foggy', 'overcast', 'cloudy',
        'clear', 'day', 'night', 'two', 'three', 'four', 'several', 'near', 'nearby', 'far', 'away',
        'people', 'cars', 'bikes', 'curbs', 'stops', 'guardrails', 'cones', 'bumps', 'in',
        'headlights'}
    assert len({word_id(word) for word in words}) == len(words)


def test_the_random_tower_makes_the_same_of_a_text_in_any_batch_and_leaves_torch_alone():
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    tower = random_tower(8)
    assert torch.equal(torch.rand(1), expected)
    alone = tower.embed(['a car'], CPU)
    among = tower.embed(['a foggy night with several people', 'a car', 'x ' * 500], CPU)
    torch.testing.assert_close(among[1], alone[0])
    assert torch.equal(random_tower(8).embed(['a car'], CPU), alone)
    assert (among[0] - among[1]).abs().max() > 0.1


def test_a_clip_folder_embeds_captions_as_transformers_does(tmp_path):
    tokenizer_files(tmp_path)
    torch.manual_seed(0)
    model = CLIPModel(whole_clip(tmp_path, 8)).eval()
    model.save_pretrained(tmp_path)
    tower = load_caption_tower(str(tmp_path), 8)
    rows = tower.embed(['a car', 'a car on a very wet road at night'], CPU)
    for row, text in zip(rows, ('a car', 'a car on a very wet road at night'), strict=True):
        ids, mask = tower.tokenize([text])
        expected = model.get_text_features(input_ids=ids, attention_mask=mask)
        expected = getattr(expected, 'pooler_output', expected)
        torch.testing.assert_close(row, expected[0].detach(), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in tower.model.parameters())
    with pytest.raises(RgbxSegError, match='have 8 values, those of the image tower 16'):
        load_caption_tower(str(tmp_path), 16)


class Describer:
    """Counts what it is asked; fails at a call if told so."""

    def __init__(self, fails_at=0):
        self.asked, self.calls, self.fails_at = [], 0, fails_at

    def load(self, model, prompt):
        return self

    def __call__(self, images):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        self.asked += [image_hash(image) for image in images]
        return [f'gray of {int(image.mean())}' for image in images]


def test_each_image_is_described_once_even_if_two_sources_have_it(tmp_path):
    config, out, describer = clip_config(tmp_path), tmp_path / 'out.jsonl', Describer()
    made, known = caption_images(config, out, 'm', 'p', describer.load, batch=4)
    assert (made, known) == (SCENES, 3 * SCENES)  # train and test, thermal and event: one RGB
    assert len(set(describer.asked)) == len(describer.asked) == SCENES
    captions = read_captions(out)
    rgb = cv2.imread(str(tmp_path / 'scenes' / 'rgb' / '003.png'))[..., ::-1]
    assert captions['scenes', '003'] == f'gray of {int(rgb.mean())}'
    assert len(tables(clip_config(tmp_path, f'pretrain.captions={out}')).texts) == SCENES

    again = Describer()
    assert caption_images(config, out, 'm', 'p', again.load)[0] == 0 == again.calls
    assert caption_images(config, out, 'm', 'another prompt', again.load)[0] == SCENES


def test_a_captioning_that_was_cut_off_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_images_module, 'SAVE_EVERY', 1)
    config, out = clip_config(tmp_path), tmp_path / 'out.jsonl'
    with pytest.raises(KeyboardInterrupt):
        caption_images(config, out, 'm', 'p', Describer(fails_at=3).load, batch=2)
    assert len(read_captions(out)) == 4 and [p.name for p in tmp_path.glob('.out*')] == []
    rest = Describer()
    caption_images(config, out, 'm', 'p', rest.load, batch=2)
    assert len(rest.asked) == SCENES - 4 and len(read_captions(out)) == SCENES


def test_a_source_that_is_not_there_is_told_before_an_image_is_described(tmp_path):
    describer = Describer()
    config = clip_config(tmp_path, f'data.test.1.root={tmp_path}/nowhere')
    with pytest.raises(RgbxSegError, match='nowhere'):
        caption_images(config, tmp_path / 'out.jsonl', 'm', 'p', describer.load, batch=1)
    assert describer.calls == 0


def test_folders_whose_lines_would_replace_each_other_are_not_captioned(tmp_path):
    root = write_scenes(tmp_path / 'other' / 'scenes')
    config = clip_config(tmp_path, f'data.test.0.root={root}')
    with pytest.raises(RgbxSegError, match='both named scenes'):
        caption_images(config, tmp_path / 'out.jsonl', 'm', 'p', Describer().load)
    assert not (tmp_path / 'out.jsonl').exists()


def test_images_need_no_label_to_be_described(tmp_path):
    config, out = clip_config(tmp_path), tmp_path / 'out.jsonl'
    (tmp_path / 'scenes' / 'label' / '002.png').unlink()
    (tmp_path / 'scenes' / 'label' / '003.png').write_bytes(b'no image')
    assert caption_images(config, out, 'm', 'p', Describer().load)[0] == SCENES
    assert ('scenes', '002') in read_captions(out) and ('scenes', '003') in read_captions(out)


def test_rendered_scenes_alone_are_not_captioned(tmp_path):
    config = clip_config(tmp_path, 'data.test=[]', 'data.train=[{kind: synthetic, count: 2}]')
    with pytest.raises(RgbxSegError, match='name no images in files'):
        caption_images(config, tmp_path / 'out.jsonl', 'm', 'p', Describer().load)


def test_lines_of_others_stay_unless_their_image_is_described(tmp_path):
    config, out = clip_config(tmp_path), tmp_path / 'out.jsonl'
    write(out, '{"name": "elsewhere", "caption": "mine"}',
          '{"source": "scenes", "name": "000", "caption": "mine, too"}')
    caption_images(config, out, 'm', 'p', Describer().load)
    captions = read_captions(out)
    assert captions['', 'elsewhere'] == 'mine'
    assert captions['scenes', '000'].startswith('gray of')


def test_a_model_that_says_nothing_is_refused(tmp_path):
    with pytest.raises(RgbxSegError, match='says nothing about 000'):
        caption_images(clip_config(tmp_path), tmp_path / 'out.jsonl', 'm', 'p',
                       lambda model, prompt: lambda images: [''] * len(images))


def tiny_blip(folder: Path) -> Path:
    """Save a random BLIP with a processor of a few words, as `transformers` would."""
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[DEC]', 'a', 'car', 'road', 'wet', 'night']
    vocabulary = {word: n for n, word in enumerate(words)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token='[PAD]', unk_token='[UNK]',
                                        cls_token='[CLS]', sep_token='[SEP]',
                                        bos_token='[DEC]')
    image = BlipImageProcessor(size={'height': 32, 'width': 32})
    BlipProcessor(image, tokenizer).save_pretrained(folder)
    text = {'vocab_size': len(words), 'hidden_size': 16, 'intermediate_size': 16,
            'num_hidden_layers': 1, 'num_attention_heads': 2, 'max_position_embeddings': 80,
            'encoder_hidden_size': 16, 'bos_token_id': 4, 'pad_token_id': 0, 'eos_token_id': 3,
            'sep_token_id': 3}
    vision = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1,
              'num_attention_heads': 2, 'image_size': 32, 'patch_size': 16}
    torch.manual_seed(1)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    model.text_decoder.cls.predictions.bias.data[vocabulary['car']] = 9.0  # a fixed idea
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize('prompt', ['', 'a wet road'])
def test_a_local_model_describes_images_the_same_each_time(tmp_path, prompt):
    describe = load_describer(str(tiny_blip(tmp_path)), prompt)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (40, 60, 3), np.uint8) for _ in range(2)]
    first = describe(images)
    assert len(first) == 2 and first == describe(images)
    assert all(set(text.split()) == {'car'} for text in first)  # neither question nor markers


def tiny_llava(folder: Path) -> Path:
    """Save a random LLaVA, which is talked to: its template puts the image before the question."""
    words = ['[PAD]', '[UNK]', '[END]', '<image>', 'a', 'car', 'road', 'wet', 'night']
    vocabulary = {word: n for n, word in enumerate(words)}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token='[UNK]'))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token='[PAD]', unk_token='[UNK]', eos_token='[END]',
        extra_special_tokens={'image_token': '<image>'})
    size = {'height': 32, 'width': 32}
    template = ('{% for turn in messages %}night {% for part in turn.content %}'
                '{{ part.text if part.type == "text" else "<image>" }} {% endfor %}{% endfor %}'
                '{{ "road" if add_generation_prompt }}')
    LlavaProcessor(CLIPImageProcessor(size=size, crop_size=size), tokenizer, patch_size=16,
                   vision_feature_select_strategy='default', num_additional_image_tokens=1,
                   chat_template=template).save_pretrained(folder)
    small = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1,
             'num_attention_heads': 2}
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=32, patch_size=16, **small),
        text_config=LlamaConfig(vocab_size=len(words), pad_token_id=0, bos_token_id=2,
                                eos_token_id=2, **small),
        image_token_index=3, vision_feature_layer=-1))
    model.generation_config.suppress_tokens = [n for n, word in enumerate(words) if word != 'car']
    model.save_pretrained(folder)
    return folder


def test_a_model_made_for_talks_is_asked_in_its_own_words(tmp_path, monkeypatch):
    asked = []
    ask = caption_images_module._inputs
    monkeypatch.setattr(caption_images_module, '_inputs',
                        lambda *args: asked.append((args[0], ask(*args))) or asked[-1][1])
    images = [np.full((40, 60, 3), gray, np.uint8) for gray in (10, 200)]
    texts = load_describer(str(tiny_llava(tmp_path)), 'a wet car')(images)
    processor, inputs = asked[0]
    assert processor.batch_decode(inputs['input_ids']) == [
        'night <image> <image> <image> <image> a wet car road'] * 2  # one for each patch
    assert inputs['pixel_values'].shape[0] == 2
    assert all(set(text.split()) == {'car'} for text in texts)  # and the question is gone


def test_a_model_that_is_not_here_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(RgbxSegError, match='hf download nobody/nothing'):
        load_describer('nobody/nothing', 'p')
    with pytest.raises(RgbxSegError, match='cannot be loaded'):
        load_describer(str(tmp_path), 'p')
    with pytest.raises(RgbxSegError, match='no such folder'):
        load_describer('./no/such/folder', 'p')


def test_nouns_name_every_class_of_rendered_scenes():
    assert set(NOUNS) == {info.name for info in captions_module.CLASSES[1:]}
    assert len(NOUNS) == len(set(NOUNS.values()))
