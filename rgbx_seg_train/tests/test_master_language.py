# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER's language model: what it reads and in which order, what learns, where weights come from.

The oracles are `transformers`' own LLaMA and LLaVA, run on sequences put together by hand.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig, LlamaModel, LlavaConfig, LlavaForConditionalGeneration

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import byte_text
from rgbx_seg_train.checkpoint import build_model
from rgbx_seg_train.config import Config
from rgbx_seg_train.config_file import load_config
from rgbx_seg_train.models import find_config
from rgbx_seg_train.models.master import llava
from rgbx_seg_train.models.master.language import Language, LanguageOptions
from rgbx_seg_train.models.master.prompt import (
    GENERIC,
    LONGEST,
    PLACES,
    VICUNA,
    PromptOptions,
    encode,
    open_tokenizer,
    pieces,
)
from rgbx_seg_train.models.options import override_fields

NAMES = ('unlabeled', 'car_stop', 'bump')
PROMPT = PromptOptions(system='Look.', template='A {rgb} B {aux} {query}', tokenizer='bytes')
SMALL = LanguageOptions(width=32, layers=2, heads=2, hidden=48, vocabulary=300, lora_rank=2,
                        lora_alpha=4, lora_dropout=0.5, prompt=PROMPT)
PATCHES = 6


def build(options: LanguageOptions = SMALL, seed: int = 0, read: bool = True) -> Language:
    """Return a model in eval mode that read NAMES and whose LoRA does something."""
    torch.manual_seed(seed)
    model = Language(options, len(NAMES))
    for name, value in model.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(value, std=0.1)
    if read:
        model.read_classes(NAMES)
    return model.eval()


def images(batch: int = 2, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return projected tokens of both images."""
    random = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, PATCHES, SMALL.width, generator=random) for _ in range(2))


def sequence_by_hand(model: Language, rgb: Tensor, aux: Tensor) -> Tensor:
    """Return embeddings of text, RGB, text, aux, text and codebook, of texts written out here."""
    table = model.llm.get_input_embeddings().weight

    def words(text: str) -> Tensor:
        return table[list(text.encode())].expand(len(rgb), -1, -1)

    begin = table[byte_text.BEGIN].expand(len(rgb), 1, -1)
    query = words('Segment: unlabeled, car stop, bump.')
    return torch.cat([begin, words('Look. A'), rgb, words('B'), aux, query,
                      model.codebook.expand(len(rgb), -1, -1)], 1)


def plain_llama(model: Language) -> LlamaModel:
    """Return `transformers`' LLaMA with LoRA added to the weights by hand."""
    state = {}
    own = {name.removeprefix('base_model.model.'): value
           for name, value in model.llm.state_dict().items()}
    for name, value in own.items():
        if '.base_layer.' in name:
            a, b = (own[name.replace('base_layer', f'lora_{x}.default')] for x in 'AB')
            value = value + SMALL.lora_alpha / SMALL.lora_rank * b @ a
        if 'lora_' not in name:
            state[name.replace('.base_layer', '')] = value
    llama = LlamaModel(SMALL.llama()).eval()
    llama.load_state_dict(state)
    return llama


# ---- what is read, and in which order ----

@pytest.mark.parametrize(('change', 'expected'), [
    ({}, ('Look. A', 'B', 'Segment: unlabeled, car stop, bump.')),
    ({'kind': 'generic'}, ('Look. A', 'B', GENERIC)),
    ({'kind': 'free', 'text': 'What is warm?'}, ('Look. A', 'B', 'What is warm?')),
    ({'kind': 'none'}, ('', '', '')),
    ({'system': VICUNA, 'template': PromptOptions().template},
     (f'{VICUNA} USER: RGB image:', 'Thermal image:',
      'Segment: unlabeled, car stop, bump. ASSISTANT:')),
])
def test_each_kind_of_prompt_says_what_it_should(change: dict, expected: tuple) -> None:
    assert pieces(replace(PROMPT, **change), NAMES) == expected


def test_a_name_may_hold_the_word_of_a_place() -> None:
    assert pieces(PROMPT, ['{aux}', '{query}'])[2] == 'Segment: {aux}, {query}.'


def test_names_are_told_as_in_every_other_text() -> None:
    assert pieces(PROMPT, ['TrafficLight', 'car_stop'])[2] == 'Segment: traffic light, car stop.'


@torch.inference_mode()
def test_codes_are_the_states_at_the_end_of_text_rgb_text_aux_text_and_codebook() -> None:
    model, pair = build(), images()
    states = plain_llama(model)(inputs_embeds=sequence_by_hand(model, *pair)).last_hidden_state
    found = model(*pair)
    assert found.shape == (2, model.n_codes, SMALL.width) == (2, 9, 32)
    torch.testing.assert_close(found, states[:, -9:], atol=1e-5, rtol=1e-5)
    eager = build(replace(SMALL, attention='eager'))
    torch.testing.assert_close(eager(*pair), found, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_without_words_only_the_beginning_stands_before_the_images() -> None:
    model, pair = build(replace(SMALL, prompt=replace(PROMPT, kind='none'))), images()
    begin = model.llm.get_input_embeddings().weight[byte_text.BEGIN].expand(2, 1, -1)
    sequence = torch.cat([begin, *pair, model.codebook.expand(2, -1, -1)], 1)
    states = plain_llama(model)(inputs_embeds=sequence).last_hidden_state
    torch.testing.assert_close(model(*pair), states[:, -9:], atol=1e-5, rtol=1e-5)


def test_the_last_code_sees_everything_and_the_first_only_what_the_mask_allows() -> None:
    for mask, later in (('causal', False), ('bidirectional', True)):
        model, (rgb, aux) = build(replace(SMALL, mask=mask)), images()
        rgb.requires_grad_(), aux.requires_grad_()
        for place, seen in ((0, slice(1, None) if later else slice(0, 1)), (8, slice(None))):
            gradients = torch.autograd.grad(model(rgb, aux)[:, place].square().sum(),
                                            [rgb, aux, model.codebook])
            assert all(g.abs().sum(-1).min() > 0 for g in gradients[:2])
            reached = gradients[2].abs().sum(-1) > 0
            assert reached[seen].all() and (later or place == 8 or not reached[1:].any())


@pytest.mark.parametrize('mask', ['causal', 'bidirectional'])
@torch.inference_mode()
def test_neither_words_nor_images_see_a_code(mask: str) -> None:
    model, states = build(replace(SMALL, mask=mask)), []
    model.llm.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
    for _ in range(2):
        model(*images())
        model.codebook[0] += 1
    assert states[0][:, :-9].equal(states[1][:, :-9])
    assert not states[0][:, -9:].equal(states[1][:, -9:])


def test_codes_of_a_class_lie_in_a_row_and_begin_as_its_name_if_so_chosen() -> None:
    model = build(replace(SMALL, codebook='names'))
    table = model.llm.get_input_embeddings().weight
    expected = torch.stack([table[list(name.encode())].mean(0)
                            for name in ('unlabeled', 'car stop', 'bump')])
    torch.testing.assert_close(model.codebook.detach(), expected.repeat_interleave(3, 0))
    assert 0.015 < build().codebook.std() < 0.025
    assert [build(replace(SMALL, codes=codes)).n_codes for codes in (1, 3, 6)] == [3, 9, 18]


# ---- names of classes ----

@torch.inference_mode()
def test_a_state_knows_its_prompt_and_needs_no_tokenizer(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / 'words')
    options = replace(SMALL, prompt=replace(PROMPT, tokenizer=str(folder)))
    model, pair = build(options), images()
    before = encode(options.prompt, NAMES, open_tokenizer(str(folder)))
    assert before == ([1, 3, 4], [5], [6, 0, 7, 8, 0])
    shutil.rmtree(folder)
    other = build(options, seed=5, read=False)
    assert not other(*pair).equal(model(*pair)) and not other.named
    other.load_state_dict(model.state_dict())
    assert other(*pair).equal(model(*pair)) and other.named
    with pytest.raises(RgbxSegError, match=r'found no tokenizer\.json'):
        other.read_classes(NAMES)


def test_a_trained_codebook_outlives_new_names_and_a_new_prompt_does_not_need_it() -> None:
    options = replace(SMALL, codebook='names')
    trained, fresh = build(options), build(options, seed=3, read=False)
    trained.codebook.data += 1
    fresh.load_state_dict(trained.state_dict())
    fresh.read_classes(['sky', 'road', 'tree'])
    assert fresh.codebook.equal(trained.codebook) and not fresh.prompt.equal(trained.prompt)
    converted = build(options, seed=4, read=False)  # weights of others, and no names yet
    converted.load_state_dict(build(options, seed=5, read=False).state_dict())
    random = converted.codebook.clone()
    converted.read_classes(NAMES)
    assert not converted.codebook.equal(random)


def test_a_codebook_for_other_classes_begins_as_their_names() -> None:
    options = replace(SMALL, codebook='names')
    trained, names = build(options), ('sky', 'road', 'tree', 'water')
    more = Language(options, 4)
    fitting = {name: value for name, value in trained.state_dict().items() if name != 'codebook'}
    more.load_state_dict(fitting, strict=False)  # as train.init does
    assert trained.named and not more.named
    more.read_classes(names)
    table = more.llm.get_input_embeddings().weight
    expected = torch.stack([table[list(name.encode())].mean(0) for name in names])
    torch.testing.assert_close(more.codebook.detach(), expected.repeat_interleave(3, 0))


def test_many_classes_wait_for_their_names_which_are_what_may_be_too_long() -> None:
    with torch.device('meta'):
        assert Language(SMALL, 300).n_codes == 900
    torch.manual_seed(0)
    model = Language(replace(SMALL, layers=1, codes=1), 300)
    model.read_classes([chr(97 + n % 26) for n in range(300)])
    assert model(*images()).shape == (2, 300, SMALL.width)
    with pytest.raises(RgbxSegError, match='a piece of it takes 3308 tokens, expected at most 102'):
        model.read_classes(['name 1234'] * 300)


def test_another_number_of_names_is_refused() -> None:
    with pytest.raises(RgbxSegError, match='found 2 names of classes, expected 3'):
        build().read_classes(NAMES[:2])


# ---- tokenizers ----

def tokenizer(folder: Path, begin: str = '<s>') -> Path:
    """Write a tokenizer of whole words, in the format of LLaVA's."""
    words = ['<unk>', begin, '</s>', 'Look.', 'A', 'B', 'Segment:', 'car', 'stop,']
    ids = {word: n for n, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(ids, '<unk>'))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    made.save(str(folder / 'tokenizer.json'))
    return folder


def test_what_is_no_tokenizer_of_llama_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RgbxSegError, match='tokenizer is empty, expected a folder'):
        open_tokenizer('')
    with pytest.raises(RgbxSegError, match='has no token <s>'):
        open_tokenizer(str(tokenizer(tmp_path / 'other', begin='[CLS]')))
    (tmp_path / 'tokenizer.json').write_text('{')
    with pytest.raises(RgbxSegError, match='cannot be read'):
        open_tokenizer(str(tmp_path))


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(RgbxSegError, match=r'makes the token 256 .* knows 200'):
        build(replace(SMALL, vocabulary=200))


def test_a_prompt_that_is_too_long_is_refused() -> None:
    with pytest.raises(RgbxSegError, match=f'expected at most {LONGEST}'):
        encode(PROMPT, ['x' * 90] * 10 + ['y' * 200], open_tokenizer('bytes'))


# ---- what learns ----

def counts(**change: object) -> Counter[str]:
    """Return the parameters at full size."""
    found: Counter[str] = Counter()
    with torch.device('meta'):
        model = Language(replace(LanguageOptions(), **change), 9)
    for name, value in model.named_parameters():
        part = next((p for p in ('lora_', 'embed_tokens', 'codebook') if p in name), 'layers')
        found[part] += value.numel()
        found['trained'] += value.numel() if value.requires_grad else 0
    return found


@pytest.mark.filterwarnings('ignore:.*meta')
def test_parameters_at_full_size_are_llavas_and_those_of_the_specification() -> None:
    assert counts() == {
        'lora_': 4_194_304, 'embed_tokens': 131_334_144, 'codebook': 27 * 4096,
        # attention, MLP and two norms of 32 layers, and the last norm; there is no lm_head
        'layers': 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096,
        'trained': 4_194_304 + 27 * 4096,
    }
    few = {'layers': 2, 'frozen': True}
    assert [counts(lora_rank=r, **few)['lora_'] * 16 for r in (16, 64)] == [8_388_608, 33_554_432]
    assert [counts(codes=t, **few)['codebook'] // 4096 for t in (1, 6)] == [9, 54]


@pytest.mark.filterwarnings('ignore:.*meta')
def test_the_sequence_at_full_size_is_about_as_long_as_the_specification_says() -> None:
    with torch.device('meta'):
        model = Language(replace(LanguageOptions(), layers=1), 9).eval()
        lengths = []
        model.llm.register_forward_pre_hook(
            lambda _, args, kwargs: lengths.append(kwargs['inputs_embeds'].shape[1]),
            with_kwargs=True)
        model(torch.empty(1, 576, 4096), torch.empty(1, 576, 4096))
    assert 1230 < lengths[0] < 1290  # about 1270


def test_lora_and_codebook_learn_and_the_rest_rests() -> None:
    model = build().train()
    model(*images()).square().mean().backward()
    for name, value in model.named_parameters():
        learns = '.lora_' in name or name == 'codebook'
        assert value.requires_grad == learns, name
        assert not learns or value.grad.abs().sum() > 0, name
    awake = {name.rpartition('.')[2] for name, part in model.llm.named_modules() if part.training}
    assert 'mlp' not in awake and 'base_layer' not in awake
    assert not model(*images()).equal(model(*images()))  # LoRA's dropout
    with torch.inference_mode():
        assert model.eval()(*images()).equal(model(*images()))
    assert not any(part.training for part in model.modules())
    whole = build(replace(SMALL, frozen=False)).train()
    assert all(value.requires_grad for value in whole.parameters())


@torch.inference_mode()
def test_merging_takes_lora_in_and_peft_out() -> None:
    model, pair = build(), images()
    merged = model.merge()
    torch.testing.assert_close(merged(*pair), model(*pair), atol=1e-5, rtol=1e-5)
    assert isinstance(merged.llm, LlamaModel)
    assert not [name for name in merged.state_dict() if 'lora' in name]
    assert [name for name in model.state_dict() if 'lora' in name]


@pytest.mark.parametrize('frozen', [True, False])
def test_checkpointing_computes_each_layer_twice_and_the_same_gradients(frozen: bool) -> None:
    found = []
    for on in (False, True):
        model = build(replace(SMALL, frozen=frozen, lora_dropout=0.0)).train()
        model.set_gradient_checkpointing(on)
        calls: list[int] = []
        model.llm.get_base_model().layers[0].mlp.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(1))
        (rgb, aux) = images()
        model(rgb.requires_grad_(), aux).square().mean().backward()
        found.append({'rgb': rgb.grad, **{name: value.grad for name, value
                                          in model.named_parameters() if value.requires_grad}})
        assert len(calls) == 1 + on
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)


# ---- LLaVA from a folder ----

@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA in several files, as `transformers` writes it."""
    torch.manual_seed(7)
    place = tmp_path_factory.mktemp('llava')
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                              num_attention_heads=1, image_size=4, patch_size=2)
    config = LlavaConfig(text_config=SMALL.llama(), vision_config=vision, image_token_id=299)
    LlavaForConditionalGeneration(config).save_pretrained(place, max_shard_size='40KB')
    assert len(list(place.glob('*.safetensors'))) > 2
    return place


@torch.inference_mode()
def test_llava_comes_from_its_folder_and_stays_out_of_the_state(folder: Path) -> None:
    options = replace(SMALL, weights=str(folder))
    model, pair = build(options), images()
    theirs = LlavaForConditionalGeneration.from_pretrained(folder).model.language_model
    ours = {name.removeprefix('base_model.model.').replace('.base_layer', ''): value
            for name, value in model.llm.get_base_model().state_dict().items()
            if 'lora_' not in name}
    assert ours.keys() == theirs.state_dict().keys()
    assert all(value.equal(ours[name]) for name, value in theirs.state_dict().items())
    assert {name for name in model.state_dict() if '.lora_' not in name} == {
        'codebook', 'prompt', 'named'}
    other = build(options, seed=9)
    assert not other(*pair).equal(model(*pair))
    holder = nn.ModuleDict({'language': other})  # as a part of the network
    holder.load_state_dict({f'language.{k}': v for k, v in model.state_dict().items()})
    assert other(*pair).equal(model(*pair))
    assert len(model.merge().state_dict()) > len(theirs.state_dict())  # a bundle needs it all
    with pytest.raises(RuntimeError, match='Missing key.*codebook'):
        other.load_state_dict({k: v for k, v in model.state_dict().items() if k != 'codebook'})


def test_norms_add_what_the_options_say() -> None:
    eps = 0.3
    model, pair = build(replace(SMALL, norm_eps=eps)), images()
    llama = plain_llama(model)
    for part in llama.modules():
        if hasattr(part, 'variance_epsilon'):
            part.variance_epsilon = eps
    with torch.inference_mode():
        states = llama(inputs_embeds=sequence_by_hand(model, *pair)).last_hidden_state
        torch.testing.assert_close(model(*pair), states[:, -9:], atol=1e-5, rtol=1e-5)
        assert (build()(*pair) - model(*pair)).abs().max() > 0.1


class Largest(TorchDispatchMode):
    """Remembers the largest float32 tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        made = function(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.dtype == torch.float32:
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize('read', [False, True])
def test_half_precision_is_never_full_precision_first(folder: Path, read: bool) -> None:
    options = replace(SMALL, precision='bf16', weights=str(folder) if read else '')
    with Largest() as largest:
        Language(options, len(NAMES))
    assert 0 < largest.elements < SMALL.width ** 2  # LoRA and codebook, no weight of LLaMA


def test_half_precision_needs_no_autocast_and_leaves_what_learns_in_full(folder: Path) -> None:
    for weights in ('', str(folder)):
        model = build(replace(SMALL, precision='bf16', weights=weights)).train()
        kinds = {(value.dtype, value.requires_grad) for value in model.parameters()}
        assert kinds == {(torch.bfloat16, False), (torch.float32, True)}
        codes = model(*images())
        assert codes.dtype == torch.float32 and codes.isfinite().all()
        codes.square().mean().backward()
        assert all(value.grad.isfinite().all() for value in model.parameters()
                   if value.requires_grad)


@torch.inference_mode()
def test_merging_loses_nothing_of_what_lora_adds_to_half_precision() -> None:
    model, pair = build(replace(SMALL, precision='bf16')), images()
    for name, value in model.named_parameters():
        if 'lora_B' in name:
            value.mul_(1e-3)  # less than half of the last bit of most weights
    assert model.merge()(*pair).equal(model(*pair))


def test_four_bits_are_close_to_full_precision(folder: Path) -> None:
    pytest.importorskip('bitsandbytes')
    options = replace(SMALL, weights=str(folder), lora_dropout=0.0)
    full, packed = build(options), build(replace(options, precision='nf4'))
    packed.load_state_dict(full.state_dict())
    assert packed.llm.get_base_model().layers[0].mlp.up_proj.weight.dtype == torch.uint8
    expected, found = full(*images()), packed(*images())
    assert torch.nn.functional.cosine_similarity(found, expected, dim=-1).min() > 0.95
    assert packed.merge()(*images()).equal(found)
    packed.train()(*images()).square().mean().backward()
    assert all(value.grad is not None for value in packed.parameters() if value.requires_grad)


def test_four_bits_without_their_library_are_refused(folder: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(RgbxSegError, match='nf4, and bitsandbytes is not installed'):
        llava.load_llama(str(folder), SMALL.llama(), 'nf4')


def test_folders_without_the_right_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    def refuse(where: Path, found: str, **sizes: int) -> None:
        with pytest.raises(RgbxSegError, match=found):
            llava.load_llama(str(where), replace(SMALL, **sizes).llama(), 'fp32')

    refuse(folder / 'nowhere', 'no such folder')
    refuse(folder, 'of another shape .*embed_tokens', width=16)
    refuse(folder, r'9 tensors are missing .*layers\.2', layers=3)
    shutil.copy(folder / 'config.json', tmp_path)
    refuse(tmp_path, 'cannot be read')
    index = folder / 'model.safetensors.index.json'
    (tmp_path / index.name).write_text(json.dumps({'weight_map': {'a': 'gone.safetensors'}}))
    refuse(tmp_path, 'cannot be read')


# ---- recipes ----

def recipe(name: str) -> Config:
    """Return a shipped configuration."""
    return load_config(next((Path(__file__).parents[1] / 'configs').rglob(f'{name}.yaml')))


@pytest.mark.filterwarnings('ignore:.*meta')
def test_the_recipe_on_mfnet_trains_what_the_specification_estimates() -> None:
    config = recipe('master_mfnet')
    with torch.device('meta'):
        model = build_model(config, 9)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert abs(trained / 70e6 - 1) < 0.05
    # of the estimate's 7.04 G, what feeds nothing is not there: lm_head, CLIP's last layer
    assert abs((frozen + 131.3e6 + 12.6e6) / 7.04e9 - 1) < 1e-3
    assert {p.dtype for p in model.language.llm.parameters() if not p.requires_grad} == {
        torch.bfloat16}
    run = config.train
    assert (run.batch_size, run.epochs, run.lr, run.betas) == (2, 50, 3e-4, (0.9, 0.95))
    assert (run.weight_decay, run.clip_norm, config.loss.dice) == (0, 1, 0.5)
    assert round(run.warmup * run.epochs * 784 / run.batch_size) == 98  # steps


@pytest.mark.parametrize(('name', 'change'), [
    ('prompt_generic', {'prompt': {'kind': 'generic'}}),
    ('prompt_none', {'prompt': {'kind': 'none'}}), ('prompt_free', None),
    ('codes_1', {'codes': 1}), ('codes_6', {'codes': 6}),
    ('codebook_names', {'codebook': 'names'}), ('bidirectional', {'mask': 'bidirectional'}),
    ('nf4', {'precision': 'nf4'}), ('loss_pixellm', {}),
])
def test_an_ablation_changes_the_one_choice_of_its_name(name: str, change: dict | None) -> None:
    base, config = recipe('master_mfnet'), recipe(f'master_{name}')
    own = dict(base.model.options['language'])
    found = config.model.options['language']
    find_config('master', 'full', config.model.options)  # no unknown choice
    if change is None:
        assert found['prompt']['kind'] == 'free' and found['prompt']['text']
    else:
        assert found == own | change
    expected = replace(base.loss, criterion='binary', dice=0.25) if 'loss' in name else base.loss
    assert replace(config, name=base.name, model=base.model, loss=base.loss) == base
    assert config.loss == expected


# ---- options ----

@pytest.mark.parametrize(('change', 'found'), [
    ({'mask': 'full'}, "language.mask is 'full', expected one of causal, bidirectional"),
    ({'codebook': 'zeros'}, "language.codebook is 'zeros'"),
    ({'precision': 'int8'}, "language.precision is 'int8', expected one of fp32, bf16, nf4"),
    ({'precision': 'nf4'}, 'weights names no folder'),
    ({'frozen': False, 'precision': 'bf16'}, 'expected neither where all weights learn'),
    ({'heads': 3}, 'language.heads is 3'), ({'codes': 0}, 'language.codes is 0, expected at least'),
    ({'heads': 0}, 'language.heads is 0, expected at least 1'),
    ({'lora_dropout': 1.5}, 'lora_dropout is 1.5'), ({'norm_eps': 0.0}, 'norm_eps 0.0'),
    ({'prompt': {'kind': 'chat'}}, "prompt.kind is 'chat', expected one of class_list, generic"),
    ({'prompt': {'kind': 'free'}}, "kind is 'free' and text ''"),
    ({'prompt': {'text': 'What is warm?'}}, "kind is 'class_list' and text 'What is warm"),
    ({'prompt': {'template': 'no places'}}, f'expected {PLACES[0]}'),
    ({'prompt': {'template': '{aux} {rgb} {query}'}}, 'in this order'),
    ({'prompt': {'system': 'See {rgb}.'}}, 'system holds {rgb}, expected it in template alone'),
])
def test_choices_that_nothing_can_be_made_of_are_refused(change: dict, found: str) -> None:
    with pytest.raises(RgbxSegError, match=found):
        override_fields(SMALL, change)
