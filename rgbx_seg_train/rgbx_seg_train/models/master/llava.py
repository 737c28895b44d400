# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""The language model of LLaVA-1.5 from a folder, in float32, bfloat16 or 4 bits (nf4).

LLaVA's vision tower, its projector and the head for words are passed over. Nothing is asked of any
network. 4 bits are made by bitsandbytes through `transformers`, an optional library.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaModel
from transformers.utils import logging

from rgbx_seg_ros import RgbxSegError

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'nf4': torch.bfloat16}
# LLaVA's names, of the hub's files and of later `transformers`, to LLaMA's own
NAMES = {r'^(model\.)?language_model\.(model\.)?': '',
         r'^model\.(?!language_model\.|vision_tower\.|multi_modal_projector\.)': ''}


def load_llama(where: str, config: LlamaConfig, precision: str) -> LlamaModel:
    """Return the language model of a folder of LLaVA-1.5 (or of its LLaMA), all weights read.

    Raises:
        RgbxSegError: no such folder, weights of other sizes or none, or bitsandbytes is missing.

    """
    folder = Path(os.path.expanduser(where))
    if not folder.is_dir():
        raise RgbxSegError(f'language.weights {where}: no such folder; expected that of '
                           'LLaVA-1.5 with its safetensors files; correct the path.')
    options: dict[str, Any] = {}
    if precision == 'nf4':
        options = {'quantization_config': _four_bits(), 'device_map': {'': _device()}}
    try:
        with _quiet():
            llama, told = LlamaModel.from_pretrained(
                folder, config=config, dtype=PRECISIONS[precision], key_mapping=NAMES,
                local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True,
                **options)
    except Exception as error:  # transformers, safetensors and bitsandbytes have their own
        reason = ' '.join(str(error).split())[:120]
        raise RgbxSegError(f'language.weights {where}: cannot be read ({reason}); expected the '
                           'files of LLaVA-1.5; copy them again.') from None
    for what, names in (('missing', told['missing_keys']),
                        ('of another shape', {row[0] for row in told['mismatched_keys']})):
        if names:
            raise RgbxSegError(f'language.weights {where}: {len(names)} tensors are {what} (such '
                               f'as {min(names)}); expected LLaVA-1.5 of the sizes of the preset; '
                               'name another folder, or give its sizes by model.options.language.')
    return llama


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from listing what is passed over on purpose."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _four_bits() -> BitsAndBytesConfig:
    """Return how QLoRA packs weights: nf4, its scales packed too, products in bfloat16."""
    if importlib.util.find_spec('bitsandbytes') is None:
        raise RgbxSegError('language.precision is nf4, and bitsandbytes is not installed; '
                           'expected it for weights in 4 bits; install it, or choose bf16.')
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4',
                              bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=torch.bfloat16)


def _device() -> str:
    """Return where weights are packed: each process of a training its own GPU."""
    return f'cuda:{os.environ.get("LOCAL_RANK", "0")}' if torch.cuda.is_available() else 'cpu'
