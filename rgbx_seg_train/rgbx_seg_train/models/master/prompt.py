# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What MASTER's language model is told in words (arXiv 2503.04199), and as which token ids.

The paper shows that text is read and names no wording. Ours: a template that has the places of both
images and of a query in it, the query being the list of the classes, one sentence for any scene, a
text of the configuration, or nothing at all; these are the digest's first experiments. A template
is cut at its images and each piece becomes tokens by itself, as LLaVA does it. `system` is the
preamble that LLaVA-1.5 was tuned with (Vicuna's).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import byte_text
from rgbx_seg_train.models.family import choose
from rgbx_seg_train.prompts import plain_name

KINDS = ('class_list', 'generic', 'free', 'none')
PLACES = ('{rgb}', '{aux}', '{query}')
BYTES = 'bytes'
TOKENIZER_FILE = 'tokenizer.json'
LONGEST = 1024  # tokens of one piece
GENERIC = 'Segment the scene.'
VICUNA = ("A chat between a curious human and an artificial intelligence assistant. The assistant "
          "gives helpful, detailed, and polite answers to the human's questions.")

Ids = tuple[list[int], list[int], list[int]]  # before RGB, between the images, after aux


@dataclass(frozen=True)
class PromptOptions:
    """The words around the images."""

    kind: str = 'class_list'  # what the query is: class_list, generic, free or none
    text: str = ''  # the query of `free`
    system: str = VICUNA  # what stands before the template
    template: str = 'USER: RGB image: {rgb} Thermal image: {aux} {query} ASSISTANT:'
    # folder of a tokenizer.json, or `bytes` for a model of our own; empty = that of the weights
    tokenizer: str = ''

    def __post_init__(self) -> None:
        """Refuse what cannot be cut in three, and a text that nothing reads."""
        choose('master', 'language.prompt.kind', self.kind, KINDS)
        if re.findall(r'\{\w*\}', self.template) != list(PLACES):
            raise RgbxSegError(f'master: language.prompt.template is {self.template!r}, expected '
                               f'{", ".join(PLACES)} once each and in this order; correct it.')
        if found := [place for place in PLACES if place in self.system]:
            raise RgbxSegError(f'master: language.prompt.system holds {found[0]}, expected it in '
                               'template alone; take it out.')
        if (self.kind == 'free') != bool(self.text):
            raise RgbxSegError(f'master: language.prompt.kind is {self.kind!r} and text '
                               f'{self.text!r}; expected a text with the kind free, and with it '
                               'alone; give both or none.')


class Encoder(NamedTuple):
    """A tokenizer: the id that begins a sequence, and text to ids without it."""

    begin: int
    encode: Callable[[str], list[int]]


def pieces(options: PromptOptions, names: Sequence[str]) -> tuple[str, str, str]:
    """Return the texts before the RGB image, between both and after aux; empty if there is none."""
    if options.kind == 'none':
        return '', '', ''
    listed = ', '.join(map(plain_name, names))
    query = {'class_list': f'Segment: {listed}.', 'generic': GENERIC}.get(
        options.kind, options.text)
    before, rest = f'{options.system} {options.template}'.split(PLACES[0])
    between, after = rest.split(PLACES[1])
    return before.strip(), between.strip(), after.replace(PLACES[2], query).strip()


def encode(options: PromptOptions, names: Sequence[str], encoder: Encoder) -> Ids:
    """Return the ids of the three pieces, the first of them with the token that begins.

    Raises:
        RgbxSegError: a piece is too long.

    """
    ids = _ids(options, names, encoder)
    longest = max(map(len, ids))
    if longest > LONGEST:
        raise RgbxSegError(f'language.prompt: a piece of it takes {longest} tokens, expected at '
                           f'most {LONGEST}; shorten it, or choose the kind generic.')
    return ids


def _ids(options: PromptOptions, names: Sequence[str], encoder: Encoder) -> Ids:
    before, between, after = (encoder.encode(text) if text else []
                              for text in pieces(options, names))
    return [encoder.begin, *before], between, after


def open_tokenizer(where: str) -> Encoder:
    """Return the tokenizer of a folder, or that of bytes; nothing is asked of any network.

    Raises:
        RgbxSegError: none is named or there, or it is no tokenizer of LLaMA's kind.

    """
    if where == BYTES:
        return Encoder(byte_text.BEGIN, lambda text: list(text.encode()))
    if not where:
        raise RgbxSegError('language.prompt.tokenizer is empty, expected a folder with the '
                           f'{TOKENIZER_FILE} of LLaVA-1.5, or {BYTES} for a model of your own; '
                           'name it.')
    path = Path(os.path.expanduser(where)) / TOKENIZER_FILE
    if not path.is_file():
        raise RgbxSegError(f'language.prompt.tokenizer {where}: found no {TOKENIZER_FILE} there, '
                           'expected the folder of LLaVA-1.5; copy it there.')
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own for it
        raise RgbxSegError(f'language.prompt.tokenizer {path}: cannot be read '
                           f'({str(error)[:80]}); expected that of LLaVA-1.5; copy it '
                           'again.') from None
    begin = tokenizer.token_to_id('<s>')
    if begin is None:
        raise RgbxSegError(f'language.prompt.tokenizer {path}: has no token <s>, expected that of '
                           'LLaVA-1.5; name its folder.')
    return Encoder(begin, lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids))


def placeholder(options: PromptOptions, n_classes: int) -> Ids:
    """Return ids for classes that have no names yet.

    Without a tokenizer at hand each word and each mark counts as one unknown token (id 0), which
    is about as many as LLaMA's makes. What is too long is cut: only real names can be refused.
    """
    if options.tokenizer == BYTES:
        encoder = open_tokenizer(BYTES)
    else:
        encoder = Encoder(0, lambda text: [0] * len(re.findall(r'\w+|[^\w\s]', text)))
    ids = _ids(options, [f'class {n}' for n in range(n_classes)], encoder)
    before, between, after = (piece[:LONGEST] for piece in ids)
    return before, between, after
