# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The texts of the classes and the tower that reads them (LMSeg, arXiv 2412.00364, section 3.2).

The paper's: CLIP's text tower reads one comprehensive description per class, and its query and
value projections learn. Our reading: a class may have several sentences, each of which is encoded
and made a unit vector; their mean, made a unit vector again, is the row of the class. Sentences are
cut to the tower's 77 tokens. The positional embeddings learn too, as in CAT-Seg, if the model's
pattern names them.
Ours: the tokens are buffers, so that a checkpoint holds what its classes were called in a form
that needs no tokenizer, for any number of classes and sentences; and a tower that is trained from
scratch reads the bytes of a text, for which there is no tokenizer at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rgbx_seg_ros import RgbxSegError
from rgbx_seg_train import byte_text
from rgbx_seg_train.models.blocks.mit import recompute
from rgbx_seg_train.models.family import check_sizes

AT_ONCE = 64  # sentences; more of them are encoded in several turns, which bounds the memory


@dataclass(frozen=True)
class TextOptions:
    """Sizes of the tower; the defaults are those of openai/clip-vit-base-patch16."""

    width: int = 512  # of a token
    layers: int = 12
    heads: int = 8
    ratio: int = 4  # MLP width over token width
    longest: int = 77  # tokens of a sentence, its begin and end included
    vocabulary: int = 49408  # tokens; the last two are begin and end
    # where the tokenizer is: a folder, or OWNER/NAME[@REVISION] of the hub; empty = bytes are read
    tokenizer: str = 'openai/clip-vit-base-patch16'
    attention: str = 'sdpa'  # transformers' implementation

    def __post_init__(self) -> None:
        """Refuse what cannot be built, and a tower without words for its tokens."""
        check_sizes('lmseg', {f'text.{key}': value for key, value in vars(self).items()
                              if type(value) is int})
        if self.width % self.heads:
            raise RgbxSegError(f'lmseg: text.heads is {self.heads}, expected a divisor of '
                               f'text.width, {self.width}; choose another.')
        if not self.tokenizer and self.vocabulary != byte_text.VOCABULARY:
            raise RgbxSegError(f'text: vocabulary is {self.vocabulary} and tokenizer is empty; '
                               f'expected {byte_text.VOCABULARY}, the bytes, or the tokenizer of '
                               'the text model; name it.')

    def tower(self, embed: int) -> CLIPTextConfig:
        """Return the same sizes for `transformers`, with rows of `embed` values."""
        return CLIPTextConfig(
            vocab_size=self.vocabulary, hidden_size=self.width,
            intermediate_size=self.ratio * self.width, num_hidden_layers=self.layers,
            num_attention_heads=self.heads, max_position_embeddings=self.longest,
            projection_dim=embed, bos_token_id=self.vocabulary - 2,
            eos_token_id=self.vocabulary - 1, pad_token_id=self.vocabulary - 1,
            attn_implementation=self.attention,
        )


BYTES = TextOptions(width=64, layers=2, heads=4, ratio=2, longest=320,
                    vocabulary=byte_text.VOCABULARY, tokenizer='')


class ClassTexts(nn.Module):
    """The tower, and the sentences of the classes as tokens.

    `tokens` int64 (M, T) are the M sentences of all classes in turn, each up to its first end
    token, which fills the rest; `counts` int64 (N,) says how many of them each class has.
    """

    of_any_size = ('tokens', 'counts')  # buffers that take the sizes of a checkpoint

    def __init__(self, options: TextOptions, embed: int, n_classes: int) -> None:
        """Make the tower, whose rows have `embed` values, and classes without names."""
        super().__init__()
        self.options, self.embed_dim = options, embed
        self.tower = CLIPTextModelWithProjection(options.tower(embed))
        if not options.tokenizer:
            _let_texts_differ(self.tower)
        self.checkpointing = False
        words = torch.arange(n_classes) % (options.vocabulary - 2)  # a made-up token for each
        begin, end = (torch.full_like(words, options.vocabulary - n) for n in (2, 1))
        self.register_buffer('tokens', torch.stack([begin, words, end], dim=1))
        self.register_buffer('counts', torch.ones_like(words))

    def read(self, names: Sequence[str], texts: Sequence[Sequence[str]]) -> None:
        """Take the sentences of each class, one or more, as those that `forward` encodes.

        Raises:
            RgbxSegError: a class has none, or one is too long, or the tokenizer is not to be had.

        """
        tokens, counts = self._tokenize(names, texts)
        self.tokens, self.counts = tokens.to(self.tokens.device), counts.to(self.counts.device)

    def forward(self) -> Tensor:
        """Return the unit rows of the classes, float32 (N, embed)."""
        return self._rows(self.tokens, self.counts)

    @torch.no_grad()
    def embed(self, names: Sequence[str], texts: Sequence[Sequence[str]]) -> Tensor:
        """Return the unit rows, float32 (N, embed), of other classes, which are not kept."""
        tokens, counts = (table.to(self.tokens.device) for table in self._tokenize(names, texts))
        return self._rows(tokens, counts)

    def _rows(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Encode, unit, mean, unit."""
        learns = any(p.requires_grad for p in self.tower.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            rows = torch.cat([recompute(self._encode, self.checkpointing and self.training, part)
                              for part in tokens.split(AT_ONCE)])  # (M, embed)
            owner = torch.repeat_interleave(counts, output_size=len(rows))  # (M,)
            sums = rows.new_zeros(len(counts), self.embed_dim).index_add(0, owner, rows)
            return functional.normalize(sums, dim=1)

    def _encode(self, tokens: Tensor) -> Tensor:
        return functional.normalize(self.tower(input_ids=tokens).text_embeds.float(), dim=1)

    def _tokenize(self, names: Sequence[str], texts: Sequence[Sequence[str]]
                  ) -> tuple[Tensor, Tensor]:
        """Return `tokens` and `counts` of sentences."""
        if len(names) != len(texts) or not names:
            raise RgbxSegError(f'texts: found those of {len(texts)} classes for {len(names)} '
                               'names; expected one or more sentences for each of them.')
        empty = [name for name, own in zip(names, texts, strict=True) if not any(own)]
        if empty:
            raise RgbxSegError(f'texts: the class {empty[0]!r} has none; expected one or more '
                               'sentences; write one.')
        sentences = [sentence for own in texts for sentence in own]
        rows = self._tokens(sentences)
        length = max(map(len, rows))
        end = self.options.vocabulary - 1
        tokens = torch.tensor([row + [end] * (length - len(row)) for row in rows])
        return tokens, torch.tensor([len(own) for own in texts])

    def _tokens(self, sentences: Sequence[str]) -> list[list[int]]:
        options = self.options
        if not options.tokenizer:
            return [byte_text.encode(sentence, options.longest) for sentence in sentences]
        from rgbx_seg_train.text_tower import load_tokenizer  # of no use to a restored model

        tokenizer = load_tokenizer(options.tokenizer)
        rows = [tokenizer(sentence, truncation=True, max_length=options.longest)['input_ids']
                for sentence in sentences]
        largest = max(max(row) for row in rows)
        if largest >= options.vocabulary or any(row[-1] != options.vocabulary - 1 for row in rows):
            raise RgbxSegError(f'text.tokenizer {options.tokenizer}: it makes tokens up to '
                               f'{largest}, its sentences end with {rows[0][-1]}; expected up to '
                               f'{options.vocabulary - 1}, which ends each; name that of the text '
                               'model.')
        return rows


def _let_texts_differ(tower: CLIPTextModelWithProjection) -> None:
    """Begin with rows that tell classes apart; those of CLIP's own start have cosines of 0.97.

    A text is read at its end, which has nothing of its own then, by attention that is not even.
    """
    embeddings = tower.text_model.embeddings
    for name, value in tower.named_parameters():
        if value.ndim == 2:
            table = 'embedding' in name
            nn.init.normal_(value, std=1.0 if table else 2.0 * value.shape[1] ** -0.5)
    nn.init.zeros_(embeddings.token_embedding.weight[byte_text.END])
