# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""MASTER's fusion: a language model reads both images, words and codebook tokens (2503.04199).

The paper's: LLaVA-7B with LoRA, projected RGB and thermal tokens, text and learnable codebook
tokens C_init in; the hidden states at the places of the codebook, C_out, are what is used, in one
forward pass. Recommended by the spec after PixelLM (CVPR 2024) and LISA and taken over here: LoRA
of rank 8, alpha 16, dropout 0.05 on q_proj and v_proj; the order text, RGB, aux, query, codebook,
so that the last attends to everything; n classes x 3 tokens, from N(0, 0.02) or the token
embeddings of the class names; causal, or with a mask that lets codebook tokens see one another.
Ours: the token embeddings stay frozen, no head for words is ever built, and the ids of the prompt
are buffers, so that a checkpoint needs no tokenizer. A frozen model that is read from a folder
(`weights`) is in no checkpoint; one that was converted or trained here is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModel, LlamaConfig, LlamaModel

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train.models.family import check_sizes, choose
from rgbx_seg_train.models.master.llava import PRECISIONS, load_llama
from rgbx_seg_train.models.master.prompt import (
    LONGEST,
    Ids,
    PromptOptions,
    encode,
    open_tokenizer,
    placeholder,
)

CODEBOOKS = ('normal', 'names')  # how C_init begins
MASKS = ('causal', 'bidirectional')  # among the codebook tokens
ATTENTIONS = ('sdpa', 'eager')
ABSENT = -1  # after the ids of a piece


@dataclass(frozen=True)
class LanguageOptions:
    """Sizes and choices of the language model; the defaults are LLaVA-1.5-7B's."""

    width: int = 4096  # of a token
    layers: int = 32
    heads: int = 32
    hidden: int = 11008  # width of the MLP
    vocabulary: int = 32064
    norm_eps: float = 1e-5  # added to the squares in its norms
    frozen: bool = True  # False trains all of it, for a model of our own
    lora_rank: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    codes: int = 3  # codebook tokens of each class
    codebook: str = 'normal'  # C_init: normal, or from the names of the classes
    mask: str = 'causal'  # among the codebook tokens: causal or bidirectional
    prompt: PromptOptions = field(default_factory=PromptOptions)
    attention: str = 'sdpa'  # transformers' implementation
    weights: str = ''  # folder of LLaVA-1.5 to read the frozen model from; empty = checkpoint
    precision: str = 'fp32'  # of the frozen model: fp32, bf16, or nf4 (4 bits, with `weights`)

    def __post_init__(self) -> None:
        """Refuse names that no table holds, and choices that do not go together."""
        for name, table in (('codebook', CODEBOOKS), ('mask', MASKS), ('attention', ATTENTIONS),
                            ('precision', tuple(PRECISIONS))):
            choose('master', f'language.{name}', getattr(self, name), table)
        check_sizes('master', {f'language.{name}': getattr(self, name) for name in (
            'width', 'layers', 'heads', 'hidden', 'vocabulary', 'lora_rank', 'codes')})
        if self.width % self.heads or self.width // self.heads % 2:
            raise RgbxSegError(f'master: language.heads is {self.heads}, expected a divisor of the '
                               f'width {self.width} that leaves an even one to each; choose one.')
        if not (0 <= self.lora_dropout < 1 and 0 < self.norm_eps < 1):
            raise RgbxSegError(f'master: language.lora_dropout is {self.lora_dropout} and norm_eps '
                               f'{self.norm_eps}, expected a share below 1 and a small number '
                               'above 0; correct them.')
        if not self.frozen and (self.weights or self.precision != 'fp32'):
            raise RgbxSegError('master: language.frozen is false, and weights or a precision below '
                               'fp32 are given, expected neither where all weights learn; leave '
                               'them out, or freeze it.')
        if self.precision == 'nf4' and not self.weights:
            raise RgbxSegError('master: language.precision is nf4, and weights names no folder; '
                               'expected that of LLaVA-1.5, whose weights are packed into 4 bits '
                               'while they are read; name it.')

    def llama(self) -> LlamaConfig:
        """Return the same sizes for `transformers`."""
        return LlamaConfig(
            vocab_size=self.vocabulary, hidden_size=self.width, intermediate_size=self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, use_cache=False,
            rms_norm_eps=self.norm_eps, max_position_embeddings=4096,
            attn_implementation=self.attention,
        )


class Language(nn.Module):
    """LLaMA between projected images and codebook; `forward` makes C_out."""

    def __init__(self, options: LanguageOptions, n_classes: int) -> None:
        super().__init__()
        self.options, self.width = options, options.width
        self.n_codes = n_classes * options.codes  # those of a class lie one behind the other
        lora = LoraConfig(
            r=options.lora_rank, lora_alpha=options.lora_alpha, lora_dropout=options.lora_dropout,
            target_modules=['q_proj', 'v_proj'],
        )
        with warnings.catch_warnings():  # peft asks transformers by a name that is going away
            warnings.simplefilter('ignore', FutureWarning)
            self.llm = get_peft_model(_llama(options), lora)
        if not options.frozen:
            self.llm.requires_grad_(True)
        self.codebook = nn.Parameter(torch.empty(self.n_codes, options.width))
        nn.init.normal_(self.codebook, std=0.02)
        self.register_buffer('prompt', torch.full((3, LONGEST), ABSENT))
        self.register_buffer('named', torch.zeros((), dtype=torch.bool))  # names were read
        self._set_prompt(placeholder(options.prompt, n_classes))
        self.kept_apart = bool(options.weights)  # the frozen weights are in no state
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_post_hook(_loaded)
        self.train(self.training)

    def read_classes(self, names: Sequence[str],
                     texts: Sequence[Sequence[str]] = ()) -> None:
        """Take the classes' names into the prompt and, if so chosen, into the codebook.

        A codebook that has learned under other names is left as it is.
        `texts`, sentences about each class, are not read: the prompt is a list.

        Raises:
            RgbxSegError: another number of names than classes, or no tokenizer.

        """
        prompt, n_classes = self.options.prompt, self.n_codes // self.options.codes
        if len(names) != n_classes:
            raise RgbxSegError(f'master: found {len(names)} names of classes, expected '
                               f'{n_classes}; build the model for as many.')
        encoder = open_tokenizer(prompt.tokenizer or self.options.weights)
        ids = encode(prompt, names, encoder)
        if (highest := max(map(max, filter(None, ids)))) >= self.options.vocabulary:
            raise RgbxSegError(f'master: the tokenizer makes the token {highest} of the prompt, '
                               f'the language model knows {self.options.vocabulary}; expected the '
                               'two of one model; name its tokenizer.')
        self._set_prompt(ids)
        if self.options.codebook == 'names' and not self.named:
            self._name_codebook([encoder.encode(name.replace('_', ' ')) for name in names])
        self.named.fill_(True)

    @torch.no_grad()
    def _name_codebook(self, ids: Sequence[Sequence[int]]) -> None:
        """Let all tokens of a class begin as the mean embedding of its name.

        Their places in the sequence tell them apart.
        """
        table = self._words().weight
        rows = torch.stack([table[list(row)].float().mean(0) for row in ids])
        self.codebook.copy_(rows.repeat_interleave(self.options.codes, 0))

    def _set_prompt(self, ids: Ids) -> None:
        self.prompt.fill_(ABSENT)
        for row, piece in zip(self.prompt, ids, strict=True):
            row[:len(piece)] = torch.tensor(piece, dtype=torch.int64)
        self._lengths = tuple(map(len, ids))

    def _words(self) -> nn.Embedding:
        return self.llm.get_input_embeddings()

    def forward(self, rgb: Tensor, aux: Tensor) -> Tensor:
        """Return C_out (B, n_codes, width) for projected tokens of both images (B, P, width)."""
        batch, words = rgb.shape[0], self._words()
        before, between, after = (words(row[:length]).expand(batch, -1, -1) for row, length in
                                  zip(self.prompt, self._lengths, strict=True))
        codes = self.codebook.expand(batch, -1, -1)
        dtype = words.weight.dtype
        sequence = torch.cat([part.to(dtype) for part in
                              (before, rgb, between, aux, after, codes) if part.shape[1]], dim=1)
        hidden = self.llm(inputs_embeds=sequence, attention_mask=self._mask(sequence),
                          use_cache=False).last_hidden_state
        return hidden[:, -self.n_codes:].to(rgb.dtype)

    def _mask(self, sequence: Tensor) -> Tensor:
        """Return what is added to the scores of attention (1, 1, S, S).

        Also where it is causal: `transformers`' own mask asks for values, which tensors on the meta
        device do not have.
        """
        seen = torch.arange(sequence.shape[1], device=sequence.device)
        asking = seen[:, None]
        hidden = asking < seen
        if self.options.mask == 'bidirectional':
            hidden = hidden & (asking < sequence.shape[1] - self.n_codes)
        return hidden.to(sequence.dtype)[None, None] * torch.finfo(sequence.dtype).min

    def set_gradient_checkpointing(self, on: bool) -> None:
        """Compute the activations of each layer again in the backward pass, or keep them."""
        for layer in self._layers():
            layer.gradient_checkpointing = on
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def _layers(self) -> nn.ModuleList:
        return getattr(self.llm, 'base_model', self.llm).layers

    def train(self, mode: bool = True) -> Language:
        """Set the mode of all but what is frozen, which stays in eval mode."""
        super().train(mode)
        if self.options.frozen:
            for name, part in self.llm.named_modules():
                learns = any(weight.requires_grad for weight in part.parameters())
                part.training = mode and (learns or 'lora_dropout' in name)
        return self

    def merge(self) -> Language:
        """Return a copy in eval mode, with LoRA added into weights of float32.

        Beside weights of less precision it stays: to be added they would have to be rounded again,
        and most of what LoRA adds to one in bfloat16 is less than its last bit.
        """
        merged = copy.deepcopy(self)
        if self.options.precision == 'fp32':
            merged.llm = merged.llm.merge_and_unload()
        merged.kept_apart = False
        return merged.eval()


def _llama(options: LanguageOptions) -> LlamaModel:
    """Return LLaMA, from the folder if one is named, but not where nothing is allocated."""
    config = options.llama()
    if options.weights and torch.get_default_device().type != 'meta':
        return load_llama(options.weights, config, options.precision)
    return AutoModel.from_config(config, dtype=PRECISIONS[options.precision])


def _leave_out_frozen(language: Language, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Take out of a state what the folder of the weights gives."""
    if language.kept_apart:
        for name in [name for name in state if name.startswith(f'{prefix}llm.')]:
            if '.lora_' not in name:
                del state[name]


def _loaded(language: Language, keys: Any) -> None:
    """Count the ids that came, and do not miss what the folder of the weights gave.

    A codebook that did not come, such as one for other classes, has read no names.
    """
    if any(name.endswith('codebook') for name in keys.missing_keys):
        language.named.fill_(False)
    if not language.prompt.is_meta:
        language._lengths = tuple((language.prompt != ABSENT).sum(1).tolist())
    if language.kept_apart:
        keys.missing_keys[:] = [name for name in keys.missing_keys
                                if '.llm.' not in f'.{name}' or '.lora_' in name]
